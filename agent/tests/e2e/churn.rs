//! Everything at once: the agent evicts, grows and shrinks its index, and is resized, while its clients read, write, fork,
//! become other programs, stop and are killed. Not one byte may be wrong, and in the end nothing may be left.
//!
//! `heavy_churn_short` runs it for [`SECONDS`] (10 unless set), `scripts/churn` for minutes.

pub(crate) mod worker;

use std::fmt;
use std::fs;
use std::io::Write;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::process::{Child, ExitStatus};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use larder::AgentStat;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::harness::{Agent, eventually};
use crate::pattern::{Random, put};
use crate::{proc, roles};

/// How long, in seconds, and with which numbers.
const SECONDS: &str = "LARDER_CHURN_SECONDS";
const SEED: &str = "LARDER_CHURN_SEED";

const WORKERS: usize = 6;
const MIB: u64 = 1 << 20;
const CAPACITY_MIB: u64 = 64;
const CAPACITIES_MIB: [u64; 4] = [40, 48, 64, 96];
const SEGMENT_BYTES: u64 = 2 * MIB;
/// Private memory that an allocator may keep after a burst without there being a leak.
const HEAP_SLACK_BYTES: u64 = 32 * MIB;

fn number(name: &str) -> Option<u64> {
    let text = std::env::var(name).ok()?;
    Some(text.parse().unwrap_or_else(|error| panic!("{name} is {text:?}: {error}")))
}

#[test]
fn heavy_churn_short() {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).expect("after 1970");
    let seed = number(SEED).unwrap_or(u64::from(since.subsec_nanos()));
    let duration = Duration::from_secs(number(SECONDS).unwrap_or(10));
    println!("churn for {} s with {SEED}={seed}", duration.as_secs());
    let mut churn = Churn::begin(seed);
    let began = Instant::now();
    let mut told = 0;
    while began.elapsed() < duration {
        churn.step();
        if began.elapsed().as_secs() / 10 > told {
            told = began.elapsed().as_secs() / 10;
            println!("{:>5} s: {churn}", began.elapsed().as_secs());
        }
    }
    println!("{churn}");
    churn.end();
    println!("nothing wrong, nothing left");
}

/// One worker and what was done to it.
struct Worker {
    child: Child,
    strings: UnixStream,
    continues: Option<Instant>,
    /// It was told to become a program that ends, or killed.
    may_end: bool,
}

impl Worker {
    fn signal(&self, signal: Signal) {
        let pid = Pid::from_raw(i32::try_from(self.child.id()).expect("process ids are positive"));
        kill(pid, signal).expect("a child of ours");
    }

    fn tell(&mut self, order: u8) {
        // One that just ended does not hear it.
        let _ = self.strings.write_all(&[order]);
    }
}

struct Churn {
    agent: Agent,
    pid: Pid,
    before: AgentStat,
    descriptors_before: Option<usize>,
    random: Random,
    workers: Vec<Worker>,
    started: u64,
    faults: PathBuf,
    done: Done,
}

/// What was done to the workers so far.
#[derive(Debug, Default)]
struct Done {
    kills: usize,
    stops: usize,
    forks: usize,
    execs: usize,
    resizes: usize,
}

impl Churn {
    fn begin(seed: u64) -> Churn {
        let agent = Agent::start(&format!(
            "--capacity {CAPACITY_MIB}MiB --segment-size 2MiB --staging 1MiB --pinned-quota {CAPACITY_MIB}MiB"
        ));
        // The first client has made what every later one uses.
        put(&agent.namespace("warm"), "k", 1_000).expect("room for one block");
        agent.monitor().remove_namespace("warm").expect("it was made just now");
        let before = agent.stat_until("the agent is ready", |stat| stat.sessions == 1 && stat.spare_bytes > 0);
        let mut churn = Churn {
            pid: agent.pid(),
            descriptors_before: proc::descriptors(agent.pid()),
            faults: agent.directory().join("faults"),
            agent,
            before,
            random: Random::new(seed),
            workers: Vec::new(),
            started: 0,
            done: Done::default(),
        };
        fs::write(&churn.faults, "").expect("there is room for a file");
        worker::make_namespaces(&churn.agent.client());
        churn.workers = (0..WORKERS).map(|_| churn.start()).collect();
        churn
    }

    fn start(&mut self) -> Worker {
        let (ours, theirs) = UnixStream::pair().expect("two more descriptors");
        self.started += 1;
        let child = roles::command("churner", &self.agent.socket())
            .env(worker::SEED, (self.random.next() >> 1).to_string())
            .env(worker::FAULTS, &self.faults)
            .stdin(OwnedFd::from(theirs))
            .spawn()
            .expect("this program runs");
        Worker { child, strings: ours, continues: None, may_end: false }
    }

    /// Does something to somebody, and looks whether all is well.
    fn step(&mut self) {
        std::thread::sleep(Duration::from_millis(5 + self.random.below(40) as u64));
        let chosen = self.random.below(WORKERS);
        match self.random.below(10) {
            0 | 1 => {
                self.workers[chosen].may_end = true;
                self.workers[chosen].signal(Signal::SIGKILL);
                self.done.kills += 1;
            }
            2 | 3 => {
                let pause = Duration::from_millis(self.random.below(1_000) as u64);
                self.workers[chosen].signal(Signal::SIGSTOP);
                self.workers[chosen].continues = Some(Instant::now() + pause);
                self.done.stops += 1;
            }
            4..=6 => {
                self.workers[chosen].tell(worker::FORK);
                self.done.forks += 1;
            }
            7 | 8 => {
                let ends = self.random.once_in(2);
                self.workers[chosen].may_end |= ends;
                self.workers[chosen].tell(if ends { worker::END_BY_EXEC } else { worker::EXEC });
                self.done.execs += 1;
            }
            _ => {
                let capacity_mib = CAPACITIES_MIB[self.random.below(CAPACITIES_MIB.len())];
                self.agent.monitor().resize(capacity_mib * MIB).expect("a capacity that is allowed");
                self.done.resizes += 1;
            }
        }
        for at in 0..WORKERS {
            let worker = &mut self.workers[at];
            if worker.continues.is_some_and(|at| at <= Instant::now()) {
                worker.continues = None;
                worker.signal(Signal::SIGCONT);
            }
            if let Some(status) = worker.child.try_wait().expect("a child can be waited for") {
                let expected = worker.may_end && is_end_of_ours(status);
                self.assert_no_faults();
                assert!(expected, "a worker ended with {status}");
                self.workers[at] = self.start();
            }
        }
        let most = CAPACITIES_MIB.into_iter().max().unwrap_or(CAPACITY_MIB) * MIB;
        let stat = self.agent.stat();
        assert!(stat.memory_bytes <= most, "{stat:#?}");
        self.assert_no_faults();
    }

    /// Processes that are left of the workers: those they forked are nobody's children once they are gone.
    fn left(&self) -> Vec<Pid> {
        let ours = format!("{}={}", worker::FAULTS, self.faults.display());
        let pids = fs::read_dir("/proc").expect("the kernel lists processes").filter_map(|entry| {
            let pid = entry.ok()?.file_name().to_str()?.parse().ok()?;
            let environment = fs::read(format!("/proc/{pid}/environ")).ok()?;
            environment
                .split(|byte| *byte == 0)
                .any(|variable| variable == ours.as_bytes())
                .then_some(Pid::from_raw(pid))
        });
        pids.collect()
    }

    fn assert_no_faults(&self) {
        let faults = fs::read_to_string(&self.faults).expect("the file is ours");
        assert!(faults.is_empty(), "{faults}");
    }

    /// Ends all workers and sees that nothing of them is left.
    fn end(mut self) {
        for worker in &mut self.workers {
            if worker.continues.take().is_some() {
                worker.signal(Signal::SIGCONT);
            }
        }
        for worker in std::mem::take(&mut self.workers) {
            let Worker { mut child, strings, may_end, .. } = worker;
            drop(strings);
            let status = eventually("a worker ends", || child.try_wait().expect("a child can be waited for"));
            assert!(status.success() || (may_end && is_end_of_ours(status)), "a worker ended with {status}");
        }
        eventually("forked children end", || self.left().is_empty().then_some(()));
        self.agent.stat_until("the last session ends", |stat| stat.sessions == 1);
        self.assert_no_faults();
        let kept = self.agent.await_no_pins();
        assert!(kept.tenant.hits_mapped > 0 && kept.tenant.evictions > 0);
        for namespace in self.agent.monitor().namespaces().expect("the agent answers") {
            self.agent.monitor().remove_namespace(&namespace.name).expect("nobody else removes it");
        }
        self.agent.monitor().resize(CAPACITY_MIB * MIB).expect("the capacity it began with");
        let before = &self.before;
        let after = self.agent.stat_until("all memory comes back", |stat| {
            stat.retired_bytes == 0
                && stat.tenant.limbo_blocks == 0
                && stat.memory_bytes <= before.memory_bytes + SEGMENT_BYTES
                && stat.descriptors <= before.descriptors + 3
        });
        assert_eq!((after.tenant.pinned_bytes, after.tenant.blocks, after.orphans), (0, 0, 0));
        assert!(after.heap_bytes <= before.heap_bytes + HEAP_SLACK_BYTES, "{after:#?}");
        if let (Some(before), Some(after)) = (self.descriptors_before, proc::descriptors(self.pid)) {
            assert!(after <= before + 3, "{before} descriptors, now {after}");
        }
        assert!(self.agent.is_alive() && self.agent.pid() == self.pid);
    }
}

/// Killed by us, or ended after it became another program.
fn is_end_of_ours(status: ExitStatus) -> bool {
    use std::os::unix::process::ExitStatusExt;
    status.success() || status.signal() == Some(Signal::SIGKILL as i32)
}

impl Drop for Churn {
    fn drop(&mut self) {
        for worker in &mut self.workers {
            let _ = worker.child.kill();
            let _ = worker.child.wait();
        }
        for pid in self.left() {
            let _ = kill(pid, Signal::SIGKILL);
        }
    }
}

impl fmt::Display for Churn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (Done { kills, stops, forks, execs, resizes }, stat) = (&self.done, self.agent.stat());
        let tenant = &stat.tenant;
        write!(
            f,
            "{} hits mapped, {} by message, {} puts, {} evictions, {} expirations; {} workers: {kills} kills, {stops} stops, \
             {forks} forks, {execs} execs; {resizes} resizes; {} sessions, {} orphans, {} in limbo, {} MiB",
            tenant.hits_mapped,
            tenant.hits_asked,
            tenant.puts,
            tenant.evictions,
            tenant.expirations,
            self.started,
            stat.sessions,
            stat.orphans,
            tenant.limbo_blocks,
            stat.memory_bytes / MIB,
        )
    }
}
