//! Threads that read without pause while their process forks.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;

use larder::{Block, Error, Namespace};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::{ForkResult, Pid};

use crate::harness::eventually;
use crate::pattern::{self, Random};
use crate::roles;

/// Keys that threads and forked children read: `spin/0` and so on, some of which may be evicted.
pub(crate) const KEYS: usize = 40;
/// Children of [`fork_often`] at a time.
const CHILDREN: usize = 4;

/// Threads at work.
pub(crate) struct Spinning {
    stop: Arc<AtomicBool>,
    reads: Arc<AtomicU64>,
    threads: Vec<JoinHandle<Result<(), String>>>,
}

impl Spinning {
    pub(crate) fn start(cache: &Namespace, threads: usize) -> Spinning {
        let (stop, reads) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let threads = (0..threads).map(|thread| {
            let (cache, stop, reads) = (cache.clone(), Arc::clone(&stop), Arc::clone(&reads));
            std::thread::spawn(move || read_until(&cache, &stop, &reads, thread as u64))
        });
        Spinning { threads: threads.collect(), stop, reads }
    }

    /// Ends the threads; how many reads they made, or the first fault.
    pub(crate) fn stop(self) -> String {
        self.stop.store(true, Ordering::Relaxed);
        for thread in self.threads {
            match thread.join() {
                Ok(Ok(())) => {}
                Ok(Err(fault)) => return fault,
                Err(_) => return "a reading thread panicked".into(),
            }
        }
        self.reads.load(Ordering::Relaxed).to_string()
    }
}

fn read_until(cache: &Namespace, stop: &AtomicBool, reads: &AtomicU64, seed: u64) -> Result<(), String> {
    let mut random = Random::new(seed);
    let mut held: Vec<(String, Block)> = Vec::new();
    while !stop.load(Ordering::Relaxed) {
        let key = format!("spin/{}", random.below(KEYS));
        match cache.get(&key) {
            Ok(block) => held.push((key, block)),
            Err(Error::NotFound) => {}
            Err(error) => return Err(format!("{key}: {error:?}")),
        }
        if held.len() > 8 {
            let (key, block) = held.swap_remove(random.below(held.len()));
            pattern::fault(&key, &block).map_or(Ok(()), Err)?;
        }
        reads.fetch_add(1, Ordering::Relaxed);
    }
    Ok(())
}

/// Forks so many times. Each child reads what it inherited and gets blocks of its own; all must find every byte right.
pub(crate) fn fork_often(cache: &Namespace, views: &BTreeMap<String, Block>, times: usize) -> String {
    let mut children: Vec<Pid> = Vec::new();
    for round in 0..times {
        if children.len() == CHILDREN
            && let Err(fault) = reap(children.remove(0))
        {
            return fault;
        }
        match roles::fork() {
            ForkResult::Parent { child } => children.push(child),
            ForkResult::Child => std::process::exit(match child_of_many(cache, views, round) {
                Ok(()) => 0,
                Err(fault) => {
                    let _ = nix::unistd::write(std::io::stderr(), format!("{fault}\n").as_bytes());
                    1
                }
            }),
        }
    }
    match children.into_iter().try_for_each(reap) {
        Ok(()) => format!("{times} forks"),
        Err(fault) => fault,
    }
}

fn child_of_many(cache: &Namespace, views: &BTreeMap<String, Block>, round: usize) -> Result<(), String> {
    let check = |key: &str, block: &Block| pattern::fault(key, block).map_or(Ok(()), Err);
    views.iter().try_for_each(|(key, block)| check(key, block))?;
    for step in 0..4 {
        let key = format!("spin/{}", (round + step) % KEYS);
        match cache.get(&key) {
            Ok(block) => check(&key, &block)?,
            Err(Error::NotFound) => {}
            Err(error) => return Err(format!("{key} in a child: {error:?}")),
        }
    }
    views.iter().try_for_each(|(key, block)| check(key, block))
}

fn reap(child: Pid) -> Result<(), String> {
    let ended = eventually("a forked child ends", || {
        match waitpid(child, Some(WaitPidFlag::WNOHANG)).expect("a child of ours") {
            WaitStatus::StillAlive => None,
            ended => Some(ended),
        }
    });
    match ended {
        WaitStatus::Exited(_, 0) => Ok(()),
        other => Err(format!("a forked child ended with {other:?}; standard error says why")),
    }
}
