//! Starting and ending agents, and waiting with a bound.

use std::ffi::OsString;
use std::fs::{self, File, Permissions};
use std::io::Read;
use std::os::fd::AsFd;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use larder_protocol::socket;
use nix::sys::signal::{Signal, kill};
use nix::sys::wait::{Id, WaitPidFlag, WaitStatus, waitid};
use nix::unistd::Pid;
use tempfile::TempDir;

use crate::roles;

/// How long anything may take that should take a moment. Generous: machines under test are shared.
pub(crate) const BOUND: Duration = Duration::from_secs(40);

/// Calls `probe` until it yields something; panics with `what` when the bound passes first.
#[track_caller]
pub(crate) fn poll<T>(what: &str, mut probe: impl FnMut() -> Option<T>) -> T {
    let until = Instant::now() + BOUND;
    loop {
        if let Some(value) = probe() {
            return value;
        }
        assert!(Instant::now() < until, "waited {BOUND:?} for {what}");
        std::thread::sleep(Duration::from_millis(2));
    }
}

/// Whether tests may become another user. Prints the reason for the skip where not.
#[expect(clippy::print_stdout, reason = "scripts/test reads from there why a test was skipped")]
pub(crate) fn may_become_others() -> bool {
    let root = nix::unistd::geteuid().is_root();
    if !root {
        println!("SKIPPED: needs root to become another user");
    }
    root
}

/// A directory that any user may pass through and only its owner may write.
pub(crate) fn open_directory() -> TempDir {
    let directory = tempfile::Builder::new().prefix("larder-hostile-").tempdir().expect("a temporary directory");
    fs::set_permissions(directory.path(), Permissions::from_mode(0o755)).expect("its mode is ours to set");
    directory
}

/// How an agent is started.
#[derive(Clone, Debug)]
pub(crate) struct Setup {
    /// `--capacity`.
    pub(crate) capacity: &'static str,
    /// More arguments.
    pub(crate) args: Vec<String>,
    /// The configuration file, when not empty.
    pub(crate) config: String,
    /// Kernel features to do without.
    pub(crate) without: String,
    /// The user it runs as, if not this one.
    pub(crate) uid: Option<u32>,
    /// Its limit on descriptors, if not this process's.
    pub(crate) descriptors_max: Option<u64>,
}

impl Default for Setup {
    fn default() -> Setup {
        Setup {
            capacity: "256MiB",
            args: Vec::new(),
            config: String::new(),
            without: String::new(),
            uid: None,
            descriptors_max: None,
        }
    }
}

/// A running agent. Killed by its process id when dropped.
#[derive(Debug)]
pub(crate) struct Agent {
    child: Child,
    directory: TempDir,
    socket: PathBuf,
}

impl Agent {
    /// With 256 MiB and nothing else said.
    pub(crate) fn start() -> Agent {
        Agent::with(&Setup::default())
    }

    /// With less memory, so that eviction comes soon.
    pub(crate) fn small() -> Agent {
        Agent::with(&Setup { capacity: "64MiB", ..Setup::default() })
    }

    pub(crate) fn with(setup: &Setup) -> Agent {
        let directory = open_directory();
        if let Some(uid) = setup.uid {
            std::os::unix::fs::chown(directory.path(), Some(uid), Some(uid)).expect("root may give a directory away");
        }
        Agent::within(directory, setup)
    }

    /// In a directory that may hold what a dead agent left.
    pub(crate) fn within(directory: TempDir, setup: &Setup) -> Agent {
        let socket = directory.path().join("larder.sock");
        let log = File::options().create(true).append(true).open(directory.path().join("log")).expect("a log file");
        let mut arguments: Vec<OsString> = vec!["--capacity".into(), setup.capacity.into(), "--socket".into()];
        arguments.push(socket.clone().into());
        arguments.extend(setup.args.iter().map(OsString::from));
        if !setup.config.is_empty() {
            let path = directory.path().join("larder.toml");
            fs::write(&path, &setup.config).expect("a configuration file");
            arguments.extend(["--config".into(), path.into()]);
        }
        let program = env!("CARGO_BIN_EXE_larderd");
        let mut command = if setup.uid.is_some() || setup.descriptors_max.is_some() {
            roles::launcher(program, &arguments, setup.uid, setup.descriptors_max)
        } else {
            let mut command = Command::new(program);
            command.args(arguments);
            command
        };
        command.env("LARDER_LOG", "info");
        if setup.without.is_empty() {
            command.env_remove("LARDER_TEST_WITHOUT");
        } else {
            command.env("LARDER_TEST_WITHOUT", &setup.without);
        }
        let child = command
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .expect("larderd was built with this test");
        let agent = Agent { child, directory, socket };
        let began = Instant::now();
        while socket::connect_to(&agent.socket).is_err() {
            assert!(
                agent.is_alive() && began.elapsed() < BOUND,
                "no agent at {} after {:?}:\n{}",
                agent.socket.display(),
                began.elapsed(),
                agent.log()
            );
            std::thread::sleep(Duration::from_millis(2));
        }
        agent
    }

    pub(crate) fn socket(&self) -> &Path {
        &self.socket
    }

    pub(crate) fn pid(&self) -> Pid {
        Pid::from_raw(i32::try_from(self.child.id()).expect("process ids are positive"))
    }

    /// Whether the very process that was started still runs.
    pub(crate) fn is_alive(&self) -> bool {
        let flags = WaitPidFlag::WEXITED | WaitPidFlag::WNOHANG | WaitPidFlag::WNOWAIT;
        matches!(waitid(Id::Pid(self.pid()), flags), Ok(WaitStatus::StillAlive))
    }

    /// Asks the agent to end, and waits until it has.
    #[track_caller]
    pub(crate) fn terminate(&self) {
        kill(self.pid(), Signal::SIGTERM).expect("the agent is a child of ours");
        poll("the agent to end", || (!self.is_alive()).then_some(()));
    }

    /// Kills the agent and waits for its end; what it left stays in its directory.
    pub(crate) fn kill(mut self) -> TempDir {
        self.end();
        std::mem::replace(&mut self.directory, open_directory())
    }

    fn end(&mut self) {
        // Through the standard library, which knows whether the number is still this child's.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }

    /// The last lines that the agent logged.
    pub(crate) fn log(&self) -> String {
        let mut text = String::new();
        let read = File::open(self.directory.path().join("log")).and_then(|mut file| file.read_to_string(&mut text));
        let lines: Vec<&str> = text.lines().collect();
        match read {
            Ok(_) => lines[lines.len().saturating_sub(30)..].join("\n"),
            Err(error) => format!("no log: {error}"),
        }
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("the agent's log:\n{}", self.log());
        }
        self.end();
    }
}

/// A process whose end is this value's: killed by its process id when dropped.
#[derive(Debug)]
pub(crate) struct Process {
    child: Child,
}

impl Process {
    pub(crate) fn new(child: Child) -> Process {
        Process { child }
    }

    pub(crate) fn pid(&self) -> Pid {
        Pid::from_raw(i32::try_from(self.child.id()).expect("process ids are positive"))
    }

    pub(crate) fn child(&mut self) -> &mut Child {
        &mut self.child
    }

    pub(crate) fn signal(&self, signal: Signal) {
        kill(self.pid(), signal).expect("the process is a child of ours");
    }

    /// Waits for its end within the bound.
    #[track_caller]
    pub(crate) fn wait(&mut self) -> std::process::ExitStatus {
        poll("a process to end", || self.child.try_wait().expect("a child can be waited for"))
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Whether `fd` has something to read, or its other end is closed, within `timeout`.
pub(crate) fn readable(fd: impl AsFd, timeout: Duration) -> bool {
    socket::wait_readable(fd, Some(timeout)).expect("a socket can be polled")
}
