//! Processes that fork, stop and die while they hold pins, and an agent that dies.

use std::fs::File;
use std::os::fd::AsRawFd;
use std::sync::Mutex;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use larder_protocol::hit::PinnedBlock;
use larder_protocol::layout::stripe;
use larder_protocol::message::{Envelope, NO_TIMEOUT, Reply, Request, encode_request};
use larder_protocol::words::Words;
use nix::fcntl::{FcntlArg, FdFlag, OFlag, fcntl};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::harness::{Agent, Setup, poll};
use crate::raw::Raw;
use crate::raw_calls::fork_a_holder;
use crate::roles::{Actor, Part};
use crate::scribble::while_scribbling;
use crate::session::{Session, payload};

const BLOCKS: u64 = 20;
const BLOCK_LEN: usize = 100_000;
const HELD: u64 = BLOCKS * BLOCK_LEN as u64;

fn pin_some(session: &mut Session) -> Vec<PinnedBlock> {
    let namespace = session.namespace("held");
    (1..=BLOCKS)
        .map(|n| {
            session.put_and_check(namespace, &format!("{n}"), n, BLOCK_LEN);
            session.get(namespace, &format!("{n}")).expect("just put")
        })
        .collect()
}

fn assert_all_whole(blocks: &[PinnedBlock]) {
    for (block, n) in blocks.iter().zip(1..) {
        assert!(block.verify() && block.as_slice() == payload(n, BLOCK_LEN), "block {n}");
    }
}

/// Pins blocks, checks them when told to, and stays.
pub(crate) fn pinner(part: &Part) {
    let mut session = Session::open(&part.socket);
    let blocks = pin_some(&mut session);
    part.say("READY", "");
    while part.hear().is_some() {
        assert_all_whole(&blocks);
        part.say("WHOLE", "");
    }
}

/// Pins blocks, leaves them to a child, and ends.
pub(crate) fn forker(part: &Part) {
    let mut session = Session::open(&part.socket);
    let _blocks = pin_some(&mut session);
    let child = match part.argument.as_str() {
        "fork" => fork_a_holder(),
        "exec" => {
            // A page of its own, whose descriptor the next program inherits without knowing.
            let (mut raw, greeting) = Raw::greeted(&part.socket);
            let words = greeting.map_slots();
            assert_eq!(raw.mapped(greeting.welcome.slots_memory), Reply::Done);
            let namespace = session.namespace("held");
            for n in 1..=BLOCKS {
                let slot = stripe::SLOTS + usize::try_from(n).expect("small");
                let block = greeting.find(&mut raw, namespace, &format!("{n}"));
                words.store(slot, block.0, Ordering::SeqCst);
            }
            fcntl(&greeting.slots, FcntlArg::F_SETFD(FdFlag::empty())).expect("open");
            crate::roles::spawn_cat()
        }
        other => panic!("no such way to leave pins: {other:?}"),
    };
    part.say("CHILD", child);
}

/// Puts three times what the agent has room for; every put must be quick, and every block of the sitting tenants stays.
#[track_caller]
fn churn(agent: &Agent, capacity_mib: u64) {
    let mut session = Session::open(agent.socket());
    let namespace = session.namespace("churn");
    for n in 0..capacity_mib * 3 {
        let began = Instant::now();
        session.put_and_check(namespace, &format!("{n}"), n + 1, 1 << 20);
        let took = began.elapsed();
        assert!(took < Duration::from_secs(10), "a put took {took:?} while a reader did not move");
    }
}

#[test]
fn a_stopped_reader_stops_nobody() {
    let agent = Agent::small();
    let mut baseline = agent.baseline();
    let mut actor = Actor::start("pinner", agent.socket(), "");
    actor.expect("READY");
    actor.process().signal(Signal::SIGSTOP);
    churn(&agent, 64);
    assert!(baseline.monitor().stat().tenant.pinned_bytes >= HELD);
    actor.process().signal(Signal::SIGCONT);
    actor.tell("check");
    actor.expect("WHOLE");
    actor.process().signal(Signal::SIGSTOP);
    // Killed as it stands: a stopped process dies of this signal too.
    actor.kill();
    baseline.holds();
}

#[test]
fn pins_left_to_a_child_last_as_long_as_the_child() {
    for way in ["fork", "exec"] {
        eprintln!("by {way}");
        let agent = Agent::small();
        let mut baseline = agent.baseline();
        let mut actor = Actor::start("forker", agent.socket(), way);
        let child: i32 = actor.expect("CHILD").parse().expect("a process id");
        actor.expect("END");
        actor.process().wait();
        if way == "exec" {
            // The socket was closed on exec, the page was not.
            poll("the session to end", || (baseline.monitor().stat().sessions == 1).then_some(()));
        }
        churn(&agent, 64);
        let (sessions, orphans) = if way == "exec" { (1, 1) } else { (2, 0) };
        let stat = poll("the sessions that should be left", || {
            let stat = baseline.monitor().stat();
            (stat.sessions == sessions && stat.orphans == orphans).then_some(stat)
        });
        assert!(stat.tenant.pinned_bytes >= HELD, "{stat:?}");
        // Evicted meanwhile and taken back, or never gone: whatever the index says, the bytes are there.
        kill(Pid::from_raw(child), Signal::SIGKILL).expect("the child still holds what it inherited");
        baseline.holds();
    }
}

#[test]
fn a_session_that_ends_keeps_its_pins_until_they_are_let_go() {
    let agent = Agent::small();
    let mut baseline = agent.baseline();
    let mut session = Session::open(agent.socket());
    let blocks = pin_some(&mut session);
    drop(session);
    churn(&agent, 64);
    let stat = poll("only that one to be left", || {
        let stat = baseline.monitor().stat();
        (stat.sessions == 1 && stat.orphans == 1).then_some(stat)
    });
    assert!(stat.tenant.pinned_bytes >= HELD, "{stat:?}");
    assert_all_whole(&blocks);
    drop(blocks);
    baseline.holds();
}

/// The agent holds a lease for a moment at each probe; whoever opens the memory in that moment breaks it.
#[test]
fn leases_that_are_broken_all_the_time() {
    let agent = Agent::small();
    let baseline = agent.baseline();
    let page: Mutex<Option<std::os::fd::OwnedFd>> = Mutex::new(None);
    let mut rounds = 0_u64;
    let reopen = |_: &mut u64| {
        let number = match &*page.lock().expect("no panic holds it") {
            Some(fd) => fd.as_raw_fd(),
            None => return,
        };
        for flags in [(true, false), (true, true)] {
            let path = format!("/proc/self/fd/{number}");
            // Another descriptor may have the number by now; whatever it is, it is closed again at once.
            let _ = File::options().read(flags.0).write(flags.1).open(path);
        }
    };
    while_scribbling(reopen, || {
        let until = Instant::now() + Duration::from_secs(3);
        while Instant::now() < until {
            let (mut raw, greeting) = Raw::greeted(agent.socket());
            let words = greeting.map_slots();
            assert_eq!(raw.mapped(greeting.welcome.slots_memory), Reply::Done);
            words.store(stripe::SLOTS, 1 << 32, Ordering::Relaxed);
            *page.lock().expect("no panic holds it") = Some(greeting.slots);
            drop((raw, words));
            rounds += 1;
        }
        *page.lock().expect("no panic holds it") = None;
    });
    assert!(rounds > 20, "{rounds} sessions ended in three seconds");
    baseline.holds();
}

#[test]
fn an_agent_that_is_killed() {
    let agent = Agent::start();
    let mut session = Session::open(agent.socket());
    let blocks = pin_some(&mut session);
    assert!(!session.reader.is_over());
    let directory = agent.kill();
    // No system call in this loop: the kernel itself has written the word that is read here.
    let began = Instant::now();
    while !session.reader.is_over() {
        assert!(began.elapsed() < Duration::from_secs(10), "the death of the agent was not seen");
        std::hint::spin_loop();
    }
    assert_all_whole(&blocks);
    assert!(directory.path().join("larder.sock").exists() && directory.path().join("larder.sock.lock").exists());
    // What the dead agent left behind stops no other.
    let next = Agent::within(directory, &Setup::default());
    let baseline = next.baseline();
    assert!(session.reader.is_over(), "an old session belongs to the old agent");
    assert_all_whole(&blocks);
    drop((blocks, session));
    baseline.holds();
}

#[test]
fn a_second_agent_at_the_same_socket() {
    let agent = Agent::start();
    let baseline = agent.baseline();
    let output = std::process::Command::new(env!("CARGO_BIN_EXE_larderd"))
        .args(["--capacity", "64MiB", "--socket"])
        .arg(agent.socket())
        .output()
        .expect("larderd was built with this test");
    let text = String::from_utf8_lossy(&output.stderr);
    assert!(!output.status.success() && text.contains("another larderd serves"), "{text}");
    baseline.holds();
}

/// Clients that hang, wait and hold keep no agent from ending when it is told to.
#[test]
fn an_agent_that_is_told_to_end() {
    for without in ["", "lease-probe", "lease-probe,pidfd"] {
        let agent = Agent::with(&Setup { without: without.to_owned(), ..Setup::default() });
        let mut session = Session::open(agent.socket());
        let blocks = pin_some(&mut session);
        let namespace = session.namespace("waiting");
        session.raw.send(Request::Wait { namespace, key: "never".into() });
        // One that never reads its answers, one that has said nothing, and one that has left.
        let full = Raw::bare(agent.socket());
        fcntl(full.fd(), FcntlArg::F_SETFL(OFlag::O_NONBLOCK)).expect("open");
        let ping = encode_request(&Envelope { id: 1, timeout_ms: NO_TIMEOUT, request: Request::Ping });
        while full.send_packet(&ping, &[]).is_ok() {}
        let silent = Raw::connect(agent.socket());
        drop(Session::open(agent.socket()));
        let began = Instant::now();
        agent.terminate();
        assert!(began.elapsed() < Duration::from_secs(10), "it took {:?} without {without:?}", began.elapsed());
        assert!(session.reader.is_over());
        assert_all_whole(&blocks);
        for name in ["larder.sock", "larder.sock.lock"] {
            assert!(!agent.socket().with_file_name(name).exists(), "{name} was left behind");
        }
        drop((full, silent));
    }
}
