//! A server's process, which ends with the value that started it, and also with the process that has this value.

use std::fs;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

/// How long a server may take to begin to answer. Generous, since machines that run tests are shared.
const PATIENCE: Duration = Duration::from_secs(60);

/// Stands between a server and its end: see there.
const KEEP: &str = include_str!("keep.sh");

/// How to start a server.
#[derive(Clone, Debug, Default)]
pub(crate) struct Program {
    pub(crate) path: PathBuf,
    pub(crate) arguments: Vec<String>,
    pub(crate) environment: Vec<(&'static str, String)>,
    /// Where it runs and where its log is.
    pub(crate) directory: PathBuf,
    /// Tenths of a second that it has between SIGTERM and SIGKILL.
    pub(crate) grace_tenths: u32,
}

/// A running program.
#[derive(Debug)]
pub(crate) struct Process {
    keeper: Child,
    /// When this is closed, by us or by our end, the keeper ends the program.
    lifeline: Option<ChildStdin>,
    pid: Pid,
    log: PathBuf,
}

impl Process {
    pub(crate) fn start(program: &Program) -> Process {
        let log = program.directory.join("log");
        let mut keeper = Command::new("sh")
            .args(["-c", KEEP, "keep"])
            .arg(&log)
            .arg(program.grace_tenths.to_string())
            .arg(&program.path)
            .args(&program.arguments)
            .envs(program.environment.iter().map(|(name, value)| (name, value)))
            .current_dir(&program.directory)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .expect("there is a shell");
        let lifeline = keeper.stdin.take();
        let mut line = String::new();
        let told = BufReader::new(keeper.stdout.take().expect("piped")).read_line(&mut line);
        let pid = told.ok().and_then(|_| line.trim().parse().ok()).expect("the keeper tells the program's id");
        Process { keeper, lifeline, pid: Pid::from_raw(pid), log }
    }

    /// Polls until the server answers; panics with its log when it ends before that or takes too long.
    pub(crate) fn await_ready(&mut self, mut answers: impl FnMut() -> bool) {
        let began = Instant::now();
        loop {
            let ended = self.ended();
            // Looked at first: another server might answer at the address of one that has ended.
            if ended.is_none() && answers() {
                return;
            }
            if ended.is_some() || began.elapsed() > PATIENCE {
                panic!("no server after {:?}; it ended: {ended:?}; its log:\n{}", began.elapsed(), self.log());
            }
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// How it ended, if it has.
    pub(crate) fn ended(&mut self) -> Option<ExitStatus> {
        self.keeper.try_wait().expect("a child can be waited for")
    }

    /// Sends a signal, unless it has ended.
    pub(crate) fn signal(&mut self, signal: Signal) {
        if self.ended().is_none() {
            // It may end between the two calls; nothing else is given its id that soon.
            let _ = kill(self.pid, signal);
        }
    }

    /// Kills it without a chance to clean up, and waits for its end.
    pub(crate) fn kill(&mut self) {
        self.signal(Signal::SIGKILL);
        self.keeper.wait().expect("a child can be waited for");
    }

    /// The last lines that it printed.
    pub(crate) fn log(&self) -> String {
        last_lines(&self.log, 30)
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        drop(self.lifeline.take());
        // The keeper kills what does not end by itself, so this wait is bounded.
        let _ = self.keeper.wait();
    }
}

/// The last lines of a file that is being written.
fn last_lines(path: &Path, count: usize) -> String {
    let bytes = fs::read(path).unwrap_or_default();
    let text = String::from_utf8_lossy(&bytes);
    let lines: Vec<&str> = text.lines().collect();
    lines[lines.len().saturating_sub(count)..].join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shell(directory: &Path, script: &str) -> Process {
        Process::start(&Program {
            path: "sh".into(),
            arguments: vec!["-c".into(), script.into()],
            directory: directory.into(),
            grace_tenths: 3,
            ..Program::default()
        })
    }

    fn is_running(pid: Pid) -> bool {
        kill(pid, None).is_ok()
    }

    #[test]
    fn a_program_ends_with_its_value_even_if_it_does_not_want_to() {
        let directory = tempfile::tempdir().unwrap();
        let (mild, stubborn) = ("echo up; exec sleep 100", "trap '' TERM; echo up; while :; do sleep 0.05; done");
        for script in [mild, stubborn] {
            let mut process = shell(directory.path(), script);
            let log = directory.path().join("log");
            process.await_ready(|| fs::read_to_string(&log).is_ok_and(|text| text.ends_with("up\n")));
            let pid = process.pid;
            assert!(is_running(pid));
            drop(process);
            assert!(!is_running(pid), "{script}");
        }
    }

    #[test]
    fn a_program_ends_when_the_other_end_of_the_lifeline_goes() {
        let directory = tempfile::tempdir().unwrap();
        let mut process = shell(directory.path(), "exec sleep 100");
        // As when the process that holds it is killed.
        drop(process.lifeline.take());
        process.keeper.wait().unwrap();
        assert!(!is_running(process.pid));
    }

    #[test]
    fn the_end_of_a_program_is_seen_with_its_status_and_its_last_words() {
        let directory = tempfile::tempdir().unwrap();
        let mut process = shell(directory.path(), "echo no port >&2; exit 7");
        let began = Instant::now();
        while process.ended().is_none() {
            assert!(began.elapsed() < PATIENCE);
            std::thread::sleep(Duration::from_millis(3));
        }
        assert_eq!(process.ended().unwrap().code(), Some(7));
        assert_eq!(process.log(), "no port");
        process.kill();
    }
}
