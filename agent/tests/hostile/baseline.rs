//! What the agent used before an attack, and the check that it uses no more after it.

use larder_protocol::message::Request;
use larder_protocol::stat::AgentStat;

use crate::harness::{Agent, BOUND, poll};
use crate::honest;
use crate::raw::Raw;
use crate::session::Session;
use nix::unistd::Pid;
use std::time::{Duration, Instant};

/// Private memory that an allocator may keep after a burst without there being a leak.
const HEAP_SLACK_BYTES: u64 = 24 << 20;
/// Descriptors that come and go with the agent's own work: a segment being made, a file of /proc being read.
const DESCRIPTORS_SLACK: u64 = 3;

/// An agent before an attack.
#[derive(Debug)]
pub(crate) struct Baseline<'a> {
    agent: &'a Agent,
    pid: Pid,
    monitor: Session,
    namespace: u64,
    start: Figures,
    heap_slack_bytes: u64,
    segment_bytes: u64,
}

/// What must come back, apart from the cache's own contents.
#[derive(Clone, Copy, Debug)]
struct Figures {
    descriptors: u64,
    lent_bytes: u64,
    heap_bytes: u64,
}

impl Figures {
    /// Segments, spares and tables are the cache itself, and may grow with its use.
    fn of(stat: &AgentStat) -> Figures {
        let cache_bytes = stat.spare_bytes + stat.tenant.segment_bytes + stat.index_bytes;
        Figures {
            descriptors: stat.descriptors.saturating_sub(stat.tenant.segments),
            lent_bytes: stat.memory_bytes.saturating_sub(cache_bytes),
            heap_bytes: stat.heap_bytes,
        }
    }
}

impl Agent {
    /// Takes the figures, after a first honest round has made what every later one uses.
    pub(crate) fn baseline(&self) -> Baseline<'_> {
        honest::round(self.socket());
        let mut monitor = Session::open(self.socket());
        let namespace = monitor.namespace("monitor");
        monitor.put_and_check(namespace, "always/there", 7, 1000);
        // Refused, and the threads that ask origins have started, which stay.
        monitor.raw.refused(Request::Fetch { namespace, key: "fetched".into(), url: "http://127.0.0.1:1/".into() });
        let mut baseline = Baseline {
            agent: self,
            pid: self.pid(),
            monitor,
            namespace,
            start: Figures { descriptors: 0, lent_bytes: 0, heap_bytes: 0 },
            heap_slack_bytes: HEAP_SLACK_BYTES,
            segment_bytes: 0,
        };
        let settled = baseline.settled();
        baseline.start = Figures::of(&settled);
        baseline.segment_bytes = settled.spare_bytes;
        baseline
    }
}

impl Baseline<'_> {
    pub(crate) fn monitor(&mut self) -> &mut Session {
        &mut self.monitor
    }

    /// For another user, whose cache stays: its control area and so many segments.
    pub(crate) fn allow_others(&mut self, segments: u64) {
        self.start.descriptors += 2 + segments;
        self.start.lent_bytes += (1 << 20) + segments * self.segment_bytes;
    }

    /// For attacks after which an allocator may keep more than usual.
    pub(crate) fn allow_heap(&mut self, bytes: u64) {
        self.heap_slack_bytes += bytes;
    }

    /// The figures once nothing is under way any more.
    fn settled(&mut self) -> AgentStat {
        let mut last = None;
        poll("the agent to settle", || {
            let stat = self.monitor.stat();
            let quiet = stat.sessions == 1 && stat.orphans == 0 && stat.tenant.limbo_blocks == 0;
            let now = (stat.memory_bytes, stat.descriptors, stat.spare_bytes);
            let same = last.replace(now) == Some(now);
            let settled = quiet && same && stat.retired_bytes == 0 && stat.spare_bytes > 0;
            settled.then_some(stat)
        })
    }

    /// The agent lives, serves an honest session, and comes back to what it used.
    #[track_caller]
    pub(crate) fn holds(mut self) {
        assert_eq!(self.agent.pid(), self.pid);
        assert!(self.agent.is_alive(), "the attack ended the agent");
        // Answered, by a welcome or a refusal, when all that connected before it have been accepted.
        let _ = Raw::connect(self.agent.socket()).hello();
        poll("the attacker's sessions to end", || (self.monitor.stat().sessions == 1).then_some(()));
        honest::round(self.agent.socket());
        let until = Instant::now() + BOUND;
        loop {
            let stat = self.monitor.stat();
            let now = Figures::of(&stat);
            // A look-up also lets go of retired segments and old tables that the monitor itself has mapped.
            drop(self.monitor.get(self.namespace, "always/there"));
            let quiet = stat.sessions == 1
                && stat.orphans == 0
                && stat.retired_bytes == 0
                && stat.tenant.limbo_blocks == 0
                && stat.tenant.pinned_bytes == 0;
            let back = now.descriptors <= self.start.descriptors + DESCRIPTORS_SLACK
                && now.lent_bytes <= self.start.lent_bytes
                && now.heap_bytes <= self.start.heap_bytes + self.heap_slack_bytes;
            if quiet && back {
                break;
            }
            assert!(Instant::now() < until, "not back to {:?}\nbut at {now:?}\n{stat:?}", self.start);
            std::thread::sleep(Duration::from_millis(10));
        }
        assert!(self.agent.is_alive(), "the agent ended after the attack");
    }
}
