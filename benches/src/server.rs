//! Server processes that the bench starts: found by their pid, ended by their pid, never left behind.

use std::ffi::OsStr;
use std::fs;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::BenchResult;

/// How long a server may take to answer after it was started, and to end after it was told to.
const PATIENCE: Duration = Duration::from_secs(20);

/// A running server, ended when this is dropped.
#[derive(Debug)]
pub(crate) struct Server {
    child: Child,
    program: String,
}

impl Server {
    /// Starts a program and waits until `answers` says that it serves.
    pub(crate) fn start(program: &OsStr, arguments: &[&OsStr], mut answers: impl FnMut() -> bool) -> BenchResult<Self> {
        let name = Path::new(program).file_name().unwrap_or(program).to_string_lossy().into_owned();
        let child = Command::new(program)
            .args(arguments)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .map_err(|error| {
                if error.kind() == std::io::ErrorKind::NotFound {
                    "not installed".to_owned()
                } else {
                    format!("{name} does not start: {error}")
                }
            })?;
        let mut server = Self { child, program: name };
        let started = Instant::now();
        while !answers() {
            if let Some(status) = server.child.try_wait()? {
                return Err(format!("{} ended at once: {status}", server.program).into());
            }
            if started.elapsed() > PATIENCE {
                return Err(format!("{} does not answer after {} s", server.program, PATIENCE.as_secs()).into());
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        Ok(server)
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if let Ok(pid) = i32::try_from(self.child.id()) {
            // The child is not yet waited for, so its pid cannot belong to another process.
            let _ = kill(Pid::from_raw(pid), Signal::SIGTERM);
        }
        let asked = Instant::now();
        while asked.elapsed() < PATIENCE {
            if !matches!(self.child.try_wait(), Ok(None)) {
                return;
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// What a process has used since it began.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Usage {
    pub(crate) cpu_ns: u64,
    pub(crate) context_switches: u64,
    pub(crate) threads: u64,
}

/// Sums CPU time and context switches over all threads of a process.
pub(crate) fn usage_of(pid: u32) -> BenchResult<Usage> {
    let mut usage = Usage { cpu_ns: 0, context_switches: 0, threads: 0 };
    for task in fs::read_dir(format!("/proc/{pid}/task"))? {
        let task = task?.path();
        let status = fs::read_to_string(task.join("status"))?;
        let schedstat = fs::read_to_string(task.join("schedstat"))?;
        usage.cpu_ns += schedstat.split(' ').next().and_then(|text| text.parse::<u64>().ok()).unwrap_or(0);
        usage.context_switches +=
            status_number(&status, "voluntary_ctxt_switches:") + status_number(&status, "nonvoluntary_ctxt_switches:");
        usage.threads += 1;
    }
    Ok(usage)
}

/// Private memory of a process that is in RAM: its heap and stacks, no shared memory.
pub(crate) fn private_resident_bytes(pid: u32) -> BenchResult<u64> {
    Ok(status_number(&fs::read_to_string(format!("/proc/{pid}/status"))?, "RssAnon:") * 1024)
}

fn status_number(status: &str, name: &str) -> u64 {
    let line = status.lines().find_map(|line| line.strip_prefix(name));
    line.and_then(|rest| rest.split_whitespace().next()).and_then(|text| text.parse().ok()).unwrap_or(0)
}
