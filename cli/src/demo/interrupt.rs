//! Ctrl-C as something to ask for, not something that strikes: the demo stops its processes and removes its directory
//! on the way out, so the signals that would end it on the spot are blocked and read from a descriptor instead.
//!
//! A process that is started inherits the blocked signals, and so lets them through again first thing; see
//! [`release`]. Should the demo itself be killed, its processes end with it (`end_with_parent`).

use std::os::fd::{AsFd, BorrowedFd};
use std::time::Duration;

use anyhow::{Context, Result};
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};

/// The signals that ask a program to end.
fn signals() -> SigSet {
    [Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP].into_iter().collect()
}

/// Whether the demo was asked to end.
#[derive(Debug)]
pub(super) struct Interrupt {
    asked: SignalFd,
}

impl Interrupt {
    /// From here on the signals wait to be read. Before any other thread is started, which would inherit the old mask.
    pub(super) fn catch() -> Result<Interrupt> {
        let signals = signals();
        signals.thread_block().context("cannot block signals")?;
        let asked = SignalFd::with_flags(&signals, SfdFlags::SFD_NONBLOCK | SfdFlags::SFD_CLOEXEC)
            .context("cannot read signals")?;
        Ok(Interrupt { asked })
    }

    /// An error if the demo was asked to end.
    pub(super) fn check(&self) -> Result<()> {
        match self.asked.read_signal() {
            Ok(None) => Ok(()),
            Ok(Some(_)) => anyhow::bail!("interrupted; everything that was started is ended"),
            Err(error) => Err(error).context("cannot read signals"),
        }
    }

    /// Waits until one of `sources` can be read or has ended, at most `timeout`; tells which. An error if the demo was
    /// asked to end.
    pub(super) fn wait(&self, sources: &[BorrowedFd<'_>], timeout: Duration) -> Result<Vec<bool>> {
        let mut waiting: Vec<PollFd<'_>> = sources
            .iter()
            .map(|source| PollFd::new(*source, PollFlags::POLLIN))
            .chain([PollFd::new(self.asked.as_fd(), PollFlags::POLLIN)])
            .collect();
        let timeout = PollTimeout::try_from(timeout).unwrap_or(PollTimeout::MAX);
        match poll(&mut waiting, timeout) {
            Ok(_) | Err(Errno::EINTR) => {}
            Err(error) => return Err(error).context("cannot wait for the demo's processes"),
        }
        self.check()?;
        let ready = |source: &PollFd<'_>| source.revents().is_some_and(|events| !events.is_empty());
        Ok(waiting.iter().take(sources.len()).map(ready).collect())
    }
}

/// Lets the signals through again, in a process that the demo started.
pub(super) fn release() -> Result<()> {
    signals().thread_unblock().context("cannot let signals through")
}
