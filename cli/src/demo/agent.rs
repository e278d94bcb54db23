//! The demo's own agent: started on a socket in a private directory, ended and removed with the demo.

use std::ffi::OsString;
use std::fs::{self, File};
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use larder::{Client, OnAbsent};
use larder_protocol::units::ByteSize;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tempfile::TempDir;

use super::interrupt::Interrupt;
use super::origin::Origin;
use super::tree::Tree;

/// How long an agent may take to answer. Populating its first segment takes a second a gigabyte.
const START_MAX: Duration = Duration::from_secs(60);
/// How long a process may take to end when it is asked to.
const END_MAX: Duration = Duration::from_secs(5);
/// How long one call to the agent may take: an agent that hangs must not hang the demo, which cannot hear Ctrl-C while
/// it is inside a call.
const CALL_MAX: Duration = Duration::from_secs(30);
/// How often something that sends no message is looked at.
const LOOK_AGAIN: Duration = Duration::from_millis(10);
/// Segments, and blocks in segments of their own, come in this unit.
const SEGMENT_UNIT_BYTES: u64 = 2 << 20;

/// How an agent is started.
#[derive(Clone, Copy, Debug)]
pub(super) struct Setup<'a> {
    pub(super) capacity: ByteSize,
    /// The directory in which durable blocks are kept, if any.
    pub(super) store: Option<&'a Path>,
    /// Where blocks are fetched from, if from a URL.
    pub(super) origin: Option<&'a Origin>,
}

impl Setup<'_> {
    fn arguments(&self) -> Vec<OsString> {
        let mut arguments = Vec::new();
        if let Some(store) = self.store {
            let mut url = OsString::from("file://");
            url.push(store);
            arguments.extend(["--store".into(), url]);
        }
        if let Some(prefix) = self.origin.and_then(Origin::to_allow) {
            arguments.extend(["--allow-origin".into(), prefix.into()]);
        }
        arguments
    }
}

/// A running agent.
#[derive(Debug)]
pub(super) struct Agent {
    child: Child,
    /// Removed when this is dropped, after the child has ended.
    directory: TempDir,
}

/// The capacity with which every file of the tree fits, with room to spare for what is allocated in larger units: the
/// index, segments of large blocks, the ends of segments. And `more_bytes`.
pub(super) fn capacity_for(tree: &Tree, more_bytes: u64) -> ByteSize {
    let large = tree.entries.iter().filter(|entry| entry.len_bytes >= SEGMENT_UNIT_BYTES).count() as u64;
    let index_bytes = 512 * tree.entries.len() as u64;
    let bytes = tree.block_bytes() / 4 * 5 + large * SEGMENT_UNIT_BYTES + index_bytes + more_bytes + (256 << 20);
    ByteSize(bytes.next_multiple_of(SEGMENT_UNIT_BYTES))
}

impl Agent {
    /// Starts an agent and waits until it answers.
    pub(super) fn start(setup: &Setup<'_>, interrupt: &Interrupt) -> Result<Agent> {
        let larderd = find_larderd()?;
        let directory = tempfile::Builder::new()
            .prefix("larder-demo-")
            .permissions(fs::Permissions::from_mode(0o700))
            .tempdir()
            .context("cannot make a directory for the demo's socket")?;
        let log = File::create(directory.path().join("agent.log")).context("cannot make the agent's log")?;
        let child = demo_process()?
            .args(["agent", "--"])
            .arg(&larderd)
            .arg("--capacity")
            .arg(setup.capacity.bytes().to_string())
            .args(setup.arguments())
            .arg("--socket")
            .arg(directory.path().join("larder.sock"))
            .args(["--log", "warn"])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .with_context(|| format!("cannot start {}", larderd.display()))?;
        let mut agent = Agent { child, directory };
        agent.wait_until_ready(interrupt)?;
        Ok(agent)
    }

    fn wait_until_ready(&mut self, interrupt: &Interrupt) -> Result<()> {
        let start = Instant::now();
        loop {
            if let Some(status) = self.child.try_wait().context("cannot look after the agent")? {
                bail!("the agent did not start ({status}): {}", self.log());
            }
            // The socket's file is there before anybody listens on it; only an answer says that the agent is up.
            let is_socket = fs::metadata(self.socket()).is_ok_and(|metadata| metadata.file_type().is_socket());
            if is_socket && self.connect().and_then(|client| Ok(client.ping()?)).is_ok() {
                return Ok(());
            }
            if start.elapsed() > START_MAX {
                bail!("the agent did not answer within {} s: {}", START_MAX.as_secs(), self.log());
            }
            interrupt.wait(&[], LOOK_AGAIN)?;
        }
    }

    /// A connection to it.
    pub(super) fn connect(&self) -> Result<Client> {
        connect(&self.socket(), CALL_MAX)
    }

    /// Kills it as a crash would.
    pub(super) fn kill(mut self) -> Result<()> {
        self.child.kill().context("cannot kill the agent")?;
        self.child.wait().context("cannot look after the agent")?;
        Ok(())
    }

    /// Where files for the demo's processes may be put.
    pub(super) fn directory(&self) -> &Path {
        self.directory.path()
    }

    pub(super) fn socket(&self) -> PathBuf {
        self.directory.path().join("larder.sock")
    }

    pub(super) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// What it said last, on one line.
    fn log(&self) -> String {
        let log = fs::read_to_string(self.directory.path().join("agent.log")).unwrap_or_default();
        match log.lines().map(str::trim).rfind(|line| !line.is_empty()) {
            Some(line) => line.to_owned(),
            None => "it said nothing".to_owned(),
        }
    }
}

/// A connection to the demo's agent, for whichever process of the demo.
pub(super) fn connect(socket: &Path, timeout: Duration) -> Result<Client> {
    let builder = Client::builder().socket(socket).on_absent(OnAbsent::Error).timeout(timeout);
    Ok(builder.connect()?)
}

impl Drop for Agent {
    fn drop(&mut self) {
        end(&mut self.child, Signal::SIGTERM);
    }
}

/// Ends a child of the demo: asks, waits a while, then kills.
pub(super) fn end(child: &mut Child, ask: Signal) {
    let running = |child: &mut Child| matches!(child.try_wait(), Ok(None));
    if !running(child) {
        return;
    }
    // The child is not waited for yet, so its number cannot be another's.
    let _ = kill(Pid::from_raw(child.id().cast_signed()), ask);
    let start = Instant::now();
    while running(child) {
        if start.elapsed() > END_MAX {
            let _ = child.kill();
            let _ = child.wait();
            return;
        }
        std::thread::sleep(LOOK_AGAIN);
    }
}

/// This program again, as a process of the demo: in a group of its own, so that Ctrl-C reaches the demo alone, which
/// then ends the others in order; and without the settings of somebody else's agent.
pub(super) fn demo_process() -> Result<Command> {
    let own = std::env::current_exe().context("cannot find the program `larder` itself")?;
    let mut command = Command::new(own);
    for (name, _) in std::env::vars_os() {
        if name.to_string_lossy().starts_with("LARDER_") {
            command.env_remove(name);
        }
    }
    command.process_group(0).arg("demo-process").arg("--parent").arg(std::process::id().to_string());
    Ok(command)
}

/// `larderd` beside this program, else in PATH.
fn find_larderd() -> Result<PathBuf> {
    let own = std::env::current_exe().context("cannot find the program `larder` itself")?;
    let beside = own.parent().map(|directory| directory.join("larderd"));
    let path = std::env::var_os("PATH").unwrap_or_default();
    let in_path = std::env::split_paths(&path).map(|directory| directory.join("larderd"));
    beside.into_iter().chain(in_path).find(|candidate| is_program(candidate)).with_context(|| {
        let directory = own.parent().unwrap_or(Path::new("/"));
        format!("there is no `larderd` in {} or in PATH", directory.display())
    })
}

fn is_program(path: &Path) -> bool {
    fs::metadata(path).is_ok_and(|metadata| metadata.is_file() && metadata.mode() & 0o111 != 0)
}
