//! Views that a forked child inherits: right in parent and child, whatever becomes of the other.

use std::sync::atomic::{AtomicBool, Ordering};

use larder::{Error, Eviction, NamespaceOptions};
use nix::sys::signal::Signal;

use crate::harness::{Agent, SetOnDrop, needs};
use crate::pattern::{self, bytes, put};
use crate::puppet::Puppet;

/// Blocks that the parent holds at its fork: short, with several checksums, and one with a segment of its own.
const HELD: [(&str, usize); 3] = [("held/1", 3_000), ("held/2", 200_000), ("held/3", 2_000_000)];

/// An agent whose memory is written over all the time: more is put than fits, round and round, until this is dropped.
struct Flood<'a> {
    agent: &'a Agent,
    _stop: SetOnDrop<'a>,
}

impl Flood<'_> {
    /// Waits until the agent has evicted about as much again as fits.
    #[track_caller]
    fn pass(&self) {
        let before = self.agent.stat().tenant.put_bytes;
        self.agent.stat_until("the agent evicts", |stat| stat.tenant.put_bytes > before + (60 << 20));
    }
}

/// Runs `test` with a puppet that holds what is to be inherited, while another client has the agent evict without pause.
fn flooded(test: impl FnOnce(&Agent, &Flood<'_>, Puppet)) {
    let agent = Agent::start("--capacity 32MiB --segment-size 2MiB --staging 1MiB --pinned-quota 32MiB");
    let stop = AtomicBool::new(false);
    let cache = agent.namespace("t");
    for (key, len) in HELD {
        put(&cache, key, len).unwrap();
    }
    let options = NamespaceOptions { eviction: Eviction::Keep, ..NamespaceOptions::default() };
    agent.client().create_namespace("kept", &options).unwrap();
    let mut parent = Puppet::start(&agent);
    for (key, len) in HELD {
        parent.does(&format!("get t {key}"), &len.to_string());
    }
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let flood = agent.namespace("flood");
            let payload = bytes("flood", 150_000);
            let mut n = 0_u64;
            while !stop.load(Ordering::Relaxed) {
                match flood.put(&format!("{n}"), &payload) {
                    Ok(_) | Err(Error::NoSpace { .. }) => n += 1,
                    Err(error) => panic!("{error:?}"),
                }
            }
        });
        let flood = Flood { agent: &agent, _stop: SetOnDrop(&stop) };
        test(&agent, &flood, parent);
    });
    agent.await_no_pins();
}

#[test]
fn a_child_reads_on_while_the_parent_lets_go() {
    needs!(LEASES_FOR_PINS);
    flooded(|agent, flood, mut parent| {
        let mut child = parent.fork();
        child.does("check", "3 whole");
        for (key, _) in HELD {
            parent.does(&format!("drop {key}"), "true");
        }
        for round in 0..3 {
            flood.pass();
            child.does("check", "3 whole");
            // New blocks in both, put by the other.
            parent.does(&format!("put kept parent/{round} 70000"), "Stored");
            child.does(&format!("look kept parent/{round}"), "whole");
            child.does(&format!("put kept child/{round} 70000"), "Stored");
            parent.does(&format!("look kept child/{round}"), "whole");
        }
        for (key, _) in HELD {
            child.does(&format!("drop {key}"), "true");
        }
        child.does("put kept done 1", "Stored");
        parent.does("look kept done", "whole");
        agent.stat_until("nothing that was inherited is pinned", |stat| {
            stat.tenant.pinned_bytes < 3_000 && stat.orphans == 0
        });
        parent.end();
    });
}

#[test]
fn a_parent_reads_on_while_the_child_lets_go() {
    flooded(|_, flood, mut parent| {
        let mut child = parent.fork();
        for (key, _) in HELD {
            child.does(&format!("drop {key}"), "true");
        }
        child.does("put kept done 1", "Stored");
        flood.pass();
        parent.does("check", "3 whole");
        drop(child);
        flood.pass();
        parent.does("check", "3 whole");
        parent.does("put kept parent 1", "Stored");
        flood.pass();
        parent.does("check", "3 whole");
        parent.end();
    });
}

#[test]
fn a_child_that_never_calls_keeps_what_it_inherited() {
    needs!(LEASES_FOR_PINS);
    flooded(|_, flood, mut parent| {
        let mut child = parent.fork();
        parent.end();
        flood.pass();
        // It only reads what it holds, as a worker does that was forked after its arrays were opened.
        child.does("check", "3 whole");
        flood.pass();
        child.does("check", "3 whole");
        drop(child);
    });
}

fn outlives(end: impl FnOnce(&Agent, Puppet)) {
    flooded(|agent, flood, mut parent| {
        let mut child = parent.fork();
        let mut grandchild = child.fork();
        end(agent, parent);
        flood.pass();
        child.does("check", "3 whole");
        grandchild.does("check", "3 whole");
        child.does("put kept child 70000", "Stored");
        child.does("look kept child", "whole");
        for (key, _) in HELD {
            child.does(&format!("drop {key}"), "true");
        }
        flood.pass();
        grandchild.does("check", "3 whole");
        grandchild.does("look t none", "NotFound");
        for (key, _) in HELD {
            grandchild.does(&format!("drop {key}"), "true");
        }
        // Its next call finds that nothing is left of what it inherited.
        grandchild.does("look t none", "NotFound");
        agent.stat_until("pins go while the children live", |stat| {
            stat.tenant.pinned_bytes < 3_000 && stat.orphans == 0
        });
    });
}

#[test]
fn a_child_outlives_a_parent_that_exits() {
    needs!(LEASES_FOR_PINS);
    outlives(|_, parent| parent.end());
}

#[test]
fn a_child_outlives_a_parent_that_becomes_another_program() {
    needs!(LEASES_FOR_PINS);
    outlives(|_, mut parent| {
        parent.tell("exec /bin/true");
        assert!(parent.wait().success());
    });
}

#[test]
fn a_child_outlives_a_parent_that_is_killed() {
    needs!(LEASES_FOR_PINS);
    outlives(|_, mut parent| {
        parent.signal(Signal::SIGKILL);
        assert!(!parent.wait().success());
    });
}

#[test]
fn heavy_threads_read_while_their_process_forks_a_hundred_times() {
    flooded(|agent, flood, mut parent| {
        let cache = agent.namespace("t");
        for n in 0..40 {
            put(&cache, &format!("spin/{n}"), 1 + n * 7_000).unwrap();
        }
        parent.does("spin t 3", "spinning");
        parent.does("forks t 100", "100 forks");
        flood.pass();
        parent.does("check", "3 whole");
        let reads = parent.ask("unspin");
        assert!(reads.parse::<u64>().is_ok_and(|reads| reads > 100), "{reads}");
        parent.does("put kept done 1", "Stored");
        parent.does("check", "3 whole");
        parent.end();
    });
}

#[test]
fn writers_belong_to_the_process_that_made_them() {
    let agent = Agent::small();
    let mut parent = Puppet::start(&agent);
    for len in [1_000, 3_000_000] {
        parent.does(&format!("create t k/{len} {len}"), "created");
        let mut child = parent.fork();
        let reply = child.ask("commit");
        assert_eq!(reply, "Forked", "{len}");
        child.does(&format!("put kept child/{len} 5"), "Stored");
        parent.does("commit", "Stored");
        parent.does(&format!("look t k/{len}"), "whole");
        child.does(&format!("look t k/{len}"), "whole");
    }
    // A child that has a long writer's memory mapped when the parent commits cannot change what is read.
    parent.does("create t late 3000000", "created");
    let mut child = parent.fork();
    parent.does("commit", "Stored");
    child.does("scribble", "scribbled");
    parent.does("look t late", "whole");
    child.does("look t late", "whole");
}

#[test]
fn a_fork_between_calls_costs_no_more_than_a_session() {
    let agent = Agent::small();
    let cache = agent.namespace("t");
    put(&cache, "k", 1_000).unwrap();
    let mut parent = Puppet::start(&agent);
    parent.does("get t k", "1000");
    for _ in 0..20 {
        let mut child = parent.fork();
        child.does("get t k", "1000");
        parent.does("look t k", "whole");
        child.does("check", "1 whole");
        parent.does("check", "1 whole");
    }
    agent.stat_until("sessions of children go with them", |stat| stat.sessions <= 4);
    parent.end();
    let fault = cache.get("k").map(|block| pattern::fault("k", &block));
    assert!(matches!(fault, Ok(None)), "{fault:?}");
    drop(cache);
    agent.await_no_pins();
}
