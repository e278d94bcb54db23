//! Clients and agents that end, or stop, at the worst moment.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use larder::{Error, OnAbsent, PutOutcome};
use nix::sys::signal::Signal;

use crate::harness::{Agent, eventually, needs};
use crate::pattern::{self, assert_whole, get_whole, put};
use crate::proc;
use crate::puppet::Puppet;

/// Puts more than fits, so that the agent writes over all that nobody holds.
#[track_caller]
fn flood(agent: &Agent, round: usize) {
    let cache = agent.namespace("flood");
    for n in 0..500 {
        put(&cache, &format!("{round}/{n}"), 200_000).unwrap();
    }
}

#[test]
fn views_outlive_the_agent_and_the_next_one_is_found() {
    needs!(ROBUST_FUTEX);
    let mut agent = Agent::small();
    let cache = agent.namespace("t");
    let mut puppets = [Puppet::start(&agent), Puppet::start(&agent)];
    for (n, len) in [1_000, 200_000, 3_000_000].into_iter().enumerate() {
        put(&cache, &format!("k/{n}"), len).unwrap();
    }
    for puppet in &mut puppets {
        puppet.does("get t k/0", "1000");
        puppet.does("get t k/2", "3000000");
    }
    let held = get_whole(&cache, "k/1", 200_000);
    agent.kill();
    for puppet in &mut puppets {
        puppet.does("check", "2 whole");
        assert!(puppet.ask("get t k/0").starts_with("NoAgent"));
        assert!(puppet.ask("put t other 5").starts_with("NoAgent"));
    }
    assert!(matches!(cache.get("k/1"), Err(Error::NoAgent { .. })), "what is not known to be current is not served");
    assert!(matches!(cache.contains("k/1"), Err(Error::NoAgent { .. })));
    agent.restart();
    // The new agent knows nothing, and nothing of the old one's is found.
    assert!(matches!(cache.get("k/1"), Err(Error::NotFound)));
    for puppet in &mut puppets {
        puppet.does("look t k/0", "NotFound");
        puppet.does("check", "2 whole");
    }
    puppets[0].does("put t k/0 77", "Stored");
    puppets[1].does("look t k/0", "whole");
    puppets[1].does("put t k/1 88", "Stored");
    get_whole(&cache, "k/1", 88);
    get_whole(&cache, "k/0", 77);
    for round in 0..2 {
        flood(&agent, round);
        assert_whole("k/1", &held);
        puppets.iter_mut().for_each(|puppet| puppet.does("check", "2 whole"));
    }
    // Pins in the dead agent's memory are no concern of the new one.
    assert_eq!(agent.stat().tenant.pinned_bytes, 0);
}

#[test]
fn readers_in_full_run_find_the_next_agent() {
    needs!(ROBUST_FUTEX);
    let mut agent = Agent::small();
    let cache = agent.namespace("t");
    let keys: Vec<String> = (0..50).map(|n| format!("k/{n}")).collect();
    // Each agent gets blocks of lengths of its own, so that one of an earlier agent would be known.
    let fill = |generation: usize| {
        for key in &keys {
            assert_eq!(put(&cache, key, 1_000 * generation + 7).unwrap(), PutOutcome::Stored);
        }
    };
    fill(1);
    let stop = AtomicBool::new(false);
    let oldest = std::sync::atomic::AtomicUsize::new(1);
    std::thread::scope(|scope| {
        let readers: Vec<_> = (0..3)
            .map(|n| {
                let (cache, keys, stop, oldest) = (agent.namespace("t"), &keys, &stop, &oldest);
                scope.spawn(move || {
                    let mut random = pattern::Random::new(n);
                    let mut reads = [0_u64; 2];
                    while !stop.load(Ordering::Relaxed) {
                        let key = &keys[random.below(keys.len())];
                        let at_least = oldest.load(Ordering::SeqCst);
                        match cache.get(key) {
                            Ok(block) => {
                                assert_whole(key, &block);
                                assert!(block.len() >= 1_000 * at_least, "{key} is of an agent that was gone");
                                reads[0] += 1;
                            }
                            Err(Error::NotFound | Error::NoAgent { .. } | Error::Busy) => reads[1] += 1,
                            Err(error) => panic!("{error:?}"),
                        }
                    }
                    reads
                })
            })
            .collect();
        for generation in 2..6 {
            agent.kill();
            oldest.store(generation, Ordering::SeqCst);
            agent.restart();
            fill(generation);
            let before = agent.stat().tenant.hits_mapped;
            agent.stat_until("readers read on", |stat| stat.tenant.hits_mapped > before + 10_000);
        }
        stop.store(true, Ordering::Relaxed);
        for reader in readers {
            let [found, missed] = reader.join().unwrap();
            assert!(found > 1_000 && missed > 0, "{found} reads, {missed} without an agent");
        }
    });
}

#[test]
fn a_call_in_the_middle_of_the_agent_s_death_ends() {
    let mut agent = Agent::small();
    let cache = agent.namespace("t");
    let direct = agent.builder().on_absent(OnAbsent::Direct).connect().unwrap().namespace("t").unwrap();
    let mut writers = [cache.create("w/1", 1_000).unwrap(), cache.create("w/2", 3_000_000).unwrap()];
    let mut direct_writer = direct.create("w/3", 3_000_000).unwrap();
    writers.iter_mut().for_each(|writer| writer.as_mut_slice().fill(1));
    direct_writer.as_mut_slice().fill(1);
    std::thread::scope(|scope| {
        let waits = [
            scope.spawn(|| cache.wait("never", Duration::from_secs(3_600)).map(drop)),
            scope.spawn(|| direct.wait("never", Duration::from_secs(3_600)).map(drop)),
        ];
        // Only that both are waiting, or about to.
        eventually("the waits begin", || (agent.stat().sessions >= 3).then_some(()));
        agent.kill();
        let [one, two] = waits.map(|wait| wait.join().unwrap());
        assert!(matches!(one, Err(Error::NoAgent { .. })), "{one:?}");
        assert!(matches!(two, Err(Error::NotFound)), "{two:?}");
    });
    let outcomes = writers.map(larder::Writer::commit);
    for outcome in outcomes {
        assert!(matches!(outcome, Err(Error::AgentLost | Error::NoAgent { .. })), "{outcome:?}");
    }
    assert_eq!(direct_writer.commit().unwrap(), PutOutcome::NotKept);
    agent.restart();
    assert_eq!(put(&cache, "w/2", 3_000_000).unwrap(), PutOutcome::Stored);
    get_whole(&cache, "w/2", 3_000_000);
}

#[test]
fn an_agent_that_is_told_to_end_leaves_nothing() {
    needs!(ROBUST_FUTEX);
    let mut agent = Agent::small();
    let cache = agent.namespace("t");
    let mut puppet = Puppet::start(&agent);
    put(&cache, "k", 100_000).unwrap();
    let held = get_whole(&cache, "k", 100_000);
    puppet.does("get t k", "100000");
    assert!(agent.terminate().success());
    let left: Vec<_> = std::fs::read_dir(agent.directory()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert_eq!(left, ["log"], "neither the socket nor its lock");
    assert_whole("k", &held);
    puppet.does("check", "1 whole");
    assert!(matches!(cache.get("k"), Err(Error::NoAgent { .. })));
    agent.restart();
    assert!(matches!(cache.get("k"), Err(Error::NotFound)));
    puppet.does("put t k 5", "Stored");
    get_whole(&cache, "k", 5);
    assert_whole("k", &held);
}

#[test]
fn a_program_that_becomes_another_holds_nothing() {
    needs!(LEASES_FOR_PINS);
    let agent = Agent::small();
    let cache = agent.namespace("t");
    put(&cache, "k", 100_000).unwrap();
    let mut puppet = Puppet::start(&agent);
    puppet.does("get t k", "100000");
    puppet.does("create t long 3000000", "created");
    assert_eq!(agent.monitor().pins().unwrap().len(), 1);
    // `cat` goes on for as long as the puppet's string is there.
    puppet.tell("exec /bin/cat");
    agent.stat_until("the session ends", |stat| stat.sessions == 2);
    agent.await_no_pins();
    assert!(agent.monitor().pins().unwrap().is_empty());
    assert!(std::fs::read_link(format!("/proc/{}/exe", puppet.pid())).unwrap().ends_with("cat"), "it still runs");
    assert!(cache.delete("k").unwrap());
}

#[test]
fn a_stopped_client_keeps_its_pins_and_stops_nobody() {
    let agent = Agent::small();
    let cache = agent.namespace("t");
    let mut puppet = Puppet::start(&agent);
    puppet.does("put t k/1 3000", "Stored");
    puppet.does("put t k/2 2000000", "Stored");
    puppet.does("get t k/1", "3000");
    puppet.does("get t k/2", "2000000");
    puppet.signal(Signal::SIGSTOP);
    assert!(cache.delete("k/1").unwrap() && cache.delete("k/2").unwrap());
    for round in 0..2 {
        flood(&agent, round);
        let stat = agent.stat();
        assert_eq!(stat.tenant.limbo_blocks, 2);
        assert!(stat.tenant.pinned_bytes >= 2_003_000, "{stat:#?}");
    }
    let holders = agent.monitor().pins().unwrap();
    assert!(
        matches!(&holders[..], [holder] if holder.pid == puppet.pid().as_raw() && holder.slots == 2),
        "{holders:?}"
    );
    puppet.signal(Signal::SIGCONT);
    puppet.does("check", "2 whole");
    puppet.does("drop k/1", "true");
    puppet.does("drop k/2", "true");
    agent.await_no_pins();
    puppet.does("put t k/1 5", "Stored");
}

#[test]
fn a_stopped_client_that_is_killed_lets_go() {
    let agent = Agent::small();
    let mut puppet = Puppet::start(&agent);
    puppet.does("put t k 3000", "Stored");
    puppet.does("get t k", "3000");
    puppet.signal(Signal::SIGSTOP);
    assert!(agent.stat().tenant.pinned_bytes > 0);
    puppet.signal(Signal::SIGKILL);
    puppet.wait();
    agent.stat_until("the session ends", |stat| stat.sessions == 1);
    agent.await_no_pins();
}

#[test]
fn a_client_that_closes_its_descriptors_keeps_what_it_mapped() {
    needs!(LEASES_FOR_PINS);
    let agent = Agent::small();
    let cache = agent.namespace("t");
    let mut puppet = Puppet::start(&agent);
    puppet.does("put t k/1 3000", "Stored");
    puppet.does("put t k/2 2000000", "Stored");
    puppet.does("get t k/1", "3000");
    puppet.does("get t k/2", "2000000");
    puppet.does("close", "closed");
    agent.stat_until("its session ends", |stat| stat.sessions == 2);
    assert!(cache.delete("k/1").unwrap() && cache.delete("k/2").unwrap());
    for round in 0..2 {
        flood(&agent, round);
        agent.stat_until("only the puppet's page is left", |stat| stat.tenant.limbo_blocks == 2 && stat.orphans == 1);
        puppet.does("check", "2 whole");
    }
    let holders = agent.monitor().pins().unwrap();
    assert!(matches!(&holders[..], [holder] if holder.orphan && holder.slots == 2), "{holders:?}");
    puppet.end();
    agent.await_no_pins();
    assert!(agent.monitor().pins().unwrap().is_empty());
}

#[test]
fn killed_clients_leave_nothing_behind() {
    needs!(LEASES_FOR_MEMORY);
    let agent = Agent::small();
    let cache = agent.namespace("t");
    for n in 0..20 {
        put(&cache, &format!("k/{n}"), 30_000).unwrap();
    }
    // The first client of all has made what every later one uses.
    let warm = |agent: &Agent| {
        let mut puppet = Puppet::start(agent);
        puppet.does("put t warm 300000", if agent.stat().tenant.puts > 20 { "AlreadyHeld" } else { "Stored" });
        puppet.end();
        agent.stat_until("the session ends", |stat| stat.sessions == 2 && stat.orphans == 0 && stat.spare_bytes > 0)
    };
    let before = warm(&agent);
    let open_before = proc::descriptors(agent.pid());
    for round in 0..6 {
        let mut puppets: Vec<Puppet> = (0..4).map(|_| Puppet::start(&agent)).collect();
        for (n, puppet) in puppets.iter_mut().enumerate() {
            puppet.does(&format!("get t k/{}", round + n), "30000");
            puppet.does("create t never 3000000", "created");
            // In the middle of something that takes long, or waits.
            puppet.tell(if n % 2 == 0 { "put t long 20000000" } else { "wait t never 3600000" });
        }
        for puppet in &mut puppets {
            puppet.signal(Signal::SIGKILL);
            assert!(!puppet.wait().success());
        }
        let _ = cache.delete("long").unwrap();
    }
    let stat = agent.stat_until("all of it comes back", |stat| {
        let lent = |stat: &larder::AgentStat| {
            stat.memory_bytes - stat.tenant.segment_bytes - stat.spare_bytes - stat.index_bytes - stat.retired_bytes
        };
        stat.sessions == 2 && stat.orphans == 0 && stat.retired_bytes == 0 && lent(stat) == lent(&before)
    });
    assert_eq!((stat.tenant.pinned_bytes, stat.tenant.limbo_blocks), (0, 0));
    assert!(!cache.contains("never").unwrap());
    let allowed = before.descriptors + stat.tenant.segments;
    assert!(stat.descriptors <= allowed, "{} descriptors, {} before", stat.descriptors, before.descriptors);
    if let (Some(before), Some(after)) = (open_before, proc::descriptors(agent.pid())) {
        assert!(after <= before + usize::try_from(stat.tenant.segments).unwrap());
    }
    (0..20).for_each(|n| drop(get_whole(&cache, &format!("k/{n}"), 30_000)));
}
