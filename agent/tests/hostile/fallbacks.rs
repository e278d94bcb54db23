//! The same agent without one kernel feature after the other.
//!
//! A session's memory may only come back when its process has ended where the kernel cannot say who has it mapped. So
//! whatever opens sessions here does it in a process of its own.

use larder_protocol::memory::Feature;
use larder_protocol::message::Refusal;

use crate::guests::Guest;
use crate::harness::{Agent, Setup, poll};
use crate::raw::Raw;
use crate::roles::Actor;
use crate::session::Session;

fn cycle(without: &str) {
    eprintln!("without {without}");
    let agent = Agent::with(&Setup {
        capacity: "64MiB",
        args: ["--staging", "1MiB"].map(str::to_owned).into(),
        without: without.to_owned(),
        ..Setup::default()
    });
    let mut monitor = Session::open(agent.socket());
    let namespace = monitor.namespace("monitor");
    // Another process of the same user, for what another user may have depends on when this one unmaps.
    let mut guest = Guest::invite_self(&agent);
    guest.round();
    let mut pinner = Actor::start("pinner", agent.socket(), "");
    pinner.expect("READY");
    // More than there is room for, read back, while the pinner's blocks stay.
    for n in 0..150_u64 {
        monitor.put_and_check(namespace, &format!("{n}"), n + 1, 1 << 20);
    }
    let stat = monitor.stat();
    assert!(stat.tenant.evictions > 0 && stat.tenant.pinned_bytes > 0, "{stat:?}");
    pinner.tell("check");
    pinner.expect("WHOLE");
    guest.round();
    guest.finish();
    pinner.kill();
    poll("everything that the dead held to come back", || {
        let stat = monitor.stat();
        let back = stat.sessions == 1
            && stat.orphans == 0
            && stat.tenant.pinned_bytes == 0
            && stat.tenant.limbo_blocks == 0
            && stat.memory_bytes <= stat.capacity_bytes;
        back.then_some(())
    });
    monitor.put_and_check(namespace, "last", 5, 1 << 20);
    assert!(agent.is_alive());
}

#[test]
fn without_the_seal_against_future_writing() {
    cycle("future-write-seal");
}

#[test]
fn without_populating_by_advice() {
    cycle("populate-write");
}

#[test]
fn without_the_seal_against_execution() {
    cycle("noexec-seal");
}

#[test]
fn without_the_lease_probe() {
    cycle("lease-probe");
}

#[test]
fn without_pidfds() {
    cycle("pidfd");
}

#[test]
fn without_robust_futexes() {
    cycle("robust-futex");
}

#[test]
fn without_lease_probe_and_pidfds() {
    cycle("lease-probe,pidfd");
}

#[test]
fn without_any_of_them() {
    let all: Vec<&str> = Feature::ALL.iter().map(|(_, name)| *name).collect();
    cycle(&all.join(","));
}

/// A process may open and close many sessions, one after the other, on any kernel; but not so many that the agent runs
/// out of descriptors for what it cannot know to be unused.
#[test]
fn sessions_one_after_the_other_without_the_lease_probe() {
    let agent = Agent::with(&Setup { without: "lease-probe".into(), ..Setup::default() });
    for n in 0..300_u64 {
        let mut session = Session::open(agent.socket());
        let namespace = session.namespace("one/after/the/other");
        if n % 50 == 0 {
            session.put_and_check(namespace, &format!("{n}"), n + 1, 1000);
        }
    }
    let mut more = 0;
    let refusal = loop {
        match Raw::connect(agent.socket()).hello() {
            Ok(_) => more += 1,
            Err(refusal) => break refusal,
        }
        assert!(more < 5000, "five thousand sessions, each with descriptors in the agent, and no end");
    };
    assert!(matches!(refusal, Refusal::TooMany(_)), "{refusal:?}");
    let names = std::fs::read_dir(format!("/proc/{}/fd", agent.pid())).map(Iterator::count);
    // Only root may look into the agent, whoever runs it.
    assert!(names.is_err() || names.is_ok_and(|count| count < 6000));
    // Another process is another matter: what it leaves can be known.
    if nix::unistd::geteuid().is_root() {
        let mut guest = Guest::invite(&agent);
        guest.round();
        guest.finish();
    }
    assert!(agent.is_alive());
}
