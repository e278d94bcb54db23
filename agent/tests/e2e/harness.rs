//! Starting and ending agents, and waiting with a bound.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use larder::{AgentStat, Client, ClientBuilder, Error, Namespace, OnAbsent};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tempfile::TempDir;

/// How long anything may take that a test waits for. Generous, since machines that run tests are shared.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

/// Size of the segments of [`Agent::small`].
pub(crate) const SEGMENT_BYTES: usize = 4 << 20;

/// Polls until `probe` has something; panics when that takes too long.
#[track_caller]
pub(crate) fn eventually<T>(what: &str, mut probe: impl FnMut() -> Option<T>) -> T {
    let began = Instant::now();
    loop {
        if let Some(found) = probe() {
            return found;
        }
        assert!(began.elapsed() < PATIENCE, "{what}: not within {PATIENCE:?}");
        std::thread::sleep(Duration::from_millis(3));
    }
}

/// Says on standard output that the test cannot run here, and why, and returns from it.
macro_rules! skip {
    ($($reason:tt)*) => {{
        println!("SKIPPED: {}", format_args!($($reason)*));
        return;
    }};
}
pub(crate) use skip;

/// A kernel feature that some guarantees need, as `LARDER_TEST_WITHOUT` names it and with what is not sure without it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Feature(&'static str, pub(crate) &'static str);

impl Feature {
    pub(crate) const LEASES_FOR_PINS: Feature =
        Feature("lease-probe", "without the lease probe pins count by processes, not by what is mapped");
    pub(crate) const LEASES_FOR_MEMORY: Feature =
        Feature("lease-probe", "without the lease probe memory comes back only with the end of the last session");
    pub(crate) const ROBUST_FUTEX: Feature =
        Feature("robust-futex", "without robust futexes a client learns of the agent's death by its next message");

    /// Whether the suite runs with this feature switched off.
    pub(crate) fn is_off(self) -> bool {
        std::env::var("LARDER_TEST_WITHOUT").is_ok_and(|names| names.split(',').any(|name| name == self.0))
    }
}

/// Skips a test for which a kernel feature is switched off.
macro_rules! needs {
    ($feature:ident) => {
        if $crate::harness::Feature::$feature.is_off() {
            $crate::harness::skip!("{}", $crate::harness::Feature::$feature.1);
        }
    };
}
pub(crate) use needs;

/// Whether this process may become other users.
pub(crate) fn is_root() -> bool {
    nix::unistd::geteuid().is_root()
}

/// So that a thread that watches it ends when the test fails, too.
pub(crate) struct SetOnDrop<'a>(pub(crate) &'a AtomicBool);

impl Drop for SetOnDrop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// A running agent with a directory of its own, killed by its process id when dropped.
pub(crate) struct Agent {
    child: Child,
    directory: TempDir,
    arguments: String,
    environment: Vec<(String, String)>,
    monitor: Option<Client>,
}

impl Agent {
    /// With 64 MiB, in segments of [`SEGMENT_BYTES`].
    pub(crate) fn small() -> Agent {
        Agent::start("--capacity 64MiB --segment-size 4MiB --staging 1MiB")
    }

    /// With these arguments, separated by spaces, and a socket.
    pub(crate) fn start(arguments: &str) -> Agent {
        Agent::start_in(&[], arguments)
    }

    /// With these variables in its environment too.
    pub(crate) fn start_in(environment: &[(String, String)], arguments: &str) -> Agent {
        let directory = tempfile::tempdir().expect("there is room for a directory");
        let child = launch(environment, arguments, directory.path());
        let (environment, arguments) = (environment.to_vec(), arguments.to_owned());
        let mut agent = Agent { child, directory, arguments, environment, monitor: None };
        agent.await_answer();
        agent
    }

    fn await_answer(&mut self) {
        let began = Instant::now();
        let client = loop {
            let ended = self.child.try_wait().expect("a child can be waited for");
            match self.connect() {
                Ok(client) => break client,
                Err(error) => assert!(
                    ended.is_none() && began.elapsed() < PATIENCE,
                    "no agent after {:?} ({error}); it ended: {ended:?}; its log:\n{}",
                    began.elapsed(),
                    self.log()
                ),
            }
            std::thread::sleep(Duration::from_millis(3));
        };
        self.monitor.get_or_insert(client);
    }

    pub(crate) fn socket(&self) -> PathBuf {
        self.directory.path().join("larder.sock")
    }

    /// The directory of the socket, where a test may put its files too.
    pub(crate) fn directory(&self) -> &Path {
        self.directory.path()
    }

    pub(crate) fn pid(&self) -> Pid {
        Pid::from_raw(i32::try_from(self.child.id()).expect("process ids are positive"))
    }

    /// Whether the very process that was started last still runs.
    pub(crate) fn is_alive(&mut self) -> bool {
        self.child.try_wait().expect("a child can be waited for").is_none()
    }

    /// Settings of a client of this agent, whatever the environment says.
    pub(crate) fn builder(&self) -> ClientBuilder {
        Client::builder().socket(self.socket()).on_absent(OnAbsent::Error)
    }

    fn connect(&self) -> Result<Client, Error> {
        self.builder().connect()
    }

    /// A client with a session of its own.
    #[track_caller]
    pub(crate) fn client(&self) -> Client {
        self.connect().expect("the agent takes another client")
    }

    /// A namespace with default options, in a session of its own.
    #[track_caller]
    pub(crate) fn namespace(&self, name: &str) -> Namespace {
        self.client().namespace(name).expect("a namespace is made at its first use")
    }

    /// The client that this value looks at the agent with, and that holds nothing.
    pub(crate) fn monitor(&self) -> &Client {
        self.monitor.as_ref().expect("made when the agent answered")
    }

    #[track_caller]
    pub(crate) fn stat(&self) -> AgentStat {
        self.monitor().stat().expect("the agent tells its figures")
    }

    /// Polls the figures until they are as wanted.
    #[track_caller]
    pub(crate) fn stat_until(&self, what: &str, is_so: impl Fn(&AgentStat) -> bool) -> AgentStat {
        let began = Instant::now();
        loop {
            let stat = self.stat();
            if is_so(&stat) {
                return stat;
            }
            assert!(began.elapsed() < PATIENCE, "{what}: not within {PATIENCE:?}; {stat:#?}");
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// Polls until no reader holds anything and nothing waits for one.
    #[track_caller]
    pub(crate) fn await_no_pins(&self) -> AgentStat {
        self.stat_until("pins and limbo go", |stat| {
            stat.tenant.pinned_bytes == 0 && stat.tenant.limbo_blocks == 0 && stat.orphans == 0
        })
    }

    /// Kills the agent. Its socket stays behind.
    pub(crate) fn kill(&mut self) {
        self.child.kill().expect("the agent is a child of ours");
        self.child.wait().expect("a child can be waited for");
    }

    /// Asks the agent to end and waits for it.
    pub(crate) fn terminate(&mut self) -> ExitStatus {
        kill(self.pid(), Signal::SIGTERM).expect("the agent is a child of ours");
        let child = &mut self.child;
        eventually("the agent ends", || child.try_wait().expect("a child can be waited for"))
    }

    /// Starts another agent where this one was.
    pub(crate) fn restart(&mut self) {
        assert!(!self.is_alive(), "end the agent before another takes its place");
        self.child = launch(&self.environment, &self.arguments, self.directory.path());
        self.await_answer();
    }

    /// What the agent logged last.
    pub(crate) fn log(&self) -> String {
        let text = fs::read_to_string(self.directory.path().join("log")).unwrap_or_default();
        let lines: Vec<&str> = text.lines().collect();
        lines[lines.len().saturating_sub(20)..].join("\n")
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("the agent's log:\n{}", self.log());
        }
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn launch(environment: &[(String, String)], arguments: &str, directory: &Path) -> Child {
    let log = File::options().create(true).append(true).open(directory.join("log"));
    larderd()
        .envs(environment.iter().map(|(name, value)| (name, value)))
        .args(arguments.split_whitespace())
        .arg("--socket")
        .arg(directory.join("larder.sock"))
        .stderr(log.expect("there is room for a log"))
        .spawn()
        .expect("larderd was built together with this test")
}

/// The agent's program, away from the settings that this machine may have for another, and from its credentials.
/// `LARDER_TEST_WITHOUT` stays, so that the suite can be run without a feature of the kernel.
pub(crate) fn larderd() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_larderd"));
    for (name, _) in std::env::vars_os() {
        let text = name.to_string_lossy();
        let is_ours = ["LARDER_", "AWS_", "AZURE_", "GOOGLE_"].iter().any(|begin| text.starts_with(begin));
        if is_ours && text != "LARDER_TEST_WITHOUT" {
            command.env_remove(&name);
        }
    }
    command.env("LARDER_LOG", "info").stdin(Stdio::null()).stdout(Stdio::null());
    command
}
