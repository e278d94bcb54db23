//! What the agent sets about its own process, once, at its start.

use std::io;

use nix::sys::resource::{Resource, getrlimit, setrlimit};
use nix::sys::signal::{SigHandler, Signal, signal};

/// Prepares the agent's process: no core dump and no ptrace by its own user (the region of every tenant is mapped
/// here), as many descriptors as allowed, and no death by a lease that a client breaks.
pub fn harden_agent() -> io::Result<()> {
    nix::sys::prctl::set_dumpable(false)?;
    let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE)?;
    setrlimit(Resource::RLIMIT_NOFILE, hard, hard)?;
    // A lease is held for a moment at each probe; a client that opens its memory in that moment makes the kernel send
    // SIGIO, whose default action ends the process.
    // SAFETY: ignoring a signal installs no handler that could run.
    unsafe { signal(Signal::SIGIO, SigHandler::SigIgn) }?;
    Ok(())
}

/// Keeps this process and its threads on the given processors.
pub fn keep_on_cpus(cpus: &[usize]) -> io::Result<()> {
    let mut set = nix::sched::CpuSet::new();
    for cpu in cpus {
        set.set(*cpu)?;
    }
    nix::sched::sched_setaffinity(nix::unistd::Pid::from_raw(0), &set)?;
    Ok(())
}

/// Ends this process by `SIGKILL` when its parent ends.
pub fn end_with_parent() -> io::Result<()> {
    nix::sys::prctl::set_pdeathsig(Signal::SIGKILL)?;
    Ok(())
}
