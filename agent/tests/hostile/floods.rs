//! Too much of something.

use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use larder_protocol::layout::LAYOUT_MAGIC;
use larder_protocol::message::{
    Envelope, NO_TIMEOUT, PutItem, Refusal, Reply, Request, Staged, VERSION, encode_request,
};
use larder_protocol::socket;
use nix::fcntl::{FcntlArg, OFlag, fcntl};

use crate::guests::Guest;
use crate::harness::{Agent, poll, readable};
use crate::raw::Raw;
use crate::scribble::Ender;

/// How long a hundred puts and gets of an honest client may take beside any flood.
const HUNDRED_BOUND: Duration = Duration::from_secs(10);

fn packet(id: u64, request: Request) -> Vec<u8> {
    encode_request(&Envelope { id, timeout_ms: NO_TIMEOUT, request })
}

fn never_block(raw: &Raw) {
    fcntl(raw.fd(), FcntlArg::F_SETFL(OFlag::O_NONBLOCK)).expect("open");
}

#[track_caller]
fn assert_served(guest: &mut Guest, beside: &str) {
    let took = guest.hundred();
    eprintln!("a hundred puts and gets beside {beside}: {took:?}");
    assert!(took < HUNDRED_BOUND, "a hundred puts and gets took {took:?} beside {beside}");
}

#[test]
fn ten_thousand_requests_and_no_answer_read() {
    let agent = Agent::start();
    let mut baseline = agent.baseline();
    let mut guest = Guest::invite(&agent);
    let kinds = [Request::Ping, Request::Stat, Request::Pins, Request::ListNamespaces { after: String::new() }];
    let mut raws = Vec::new();
    for _ in 0..4 {
        let (raw, greeting) = Raw::greeted(agent.socket());
        never_block(&raw);
        raws.push((raw, greeting));
    }
    let mut sent = 0_u64;
    let mut last_progress = std::time::Instant::now();
    // As many as the sockets take; a full one is left alone for a while.
    while sent < 10_000 && last_progress.elapsed() < Duration::from_secs(1) {
        for (raw, _) in &raws {
            let request = kinds[usize::try_from(sent).expect("small") % kinds.len()].clone();
            if raw.send_packet(&packet(sent, request), &[]).is_ok() {
                sent += 1;
                last_progress = std::time::Instant::now();
            }
        }
    }
    eprintln!("{sent} requests sent before the sockets were full");
    assert!(sent > 500, "only {sent} requests were taken");
    assert_served(&mut guest, "four clients that never read");
    drop(raws);
    guest.finish();
    baseline.allow_others(2);
    baseline.holds();
}

/// Clients whose next request is always there before the last one is answered.
fn busy(agent: &Agent, clients: usize, make: impl Fn(&mut Raw) -> Vec<u8> + Sync, meanwhile: impl FnOnce()) {
    let done = AtomicBool::new(false);
    let sent = AtomicU64::new(0);
    std::thread::scope(|scope| {
        for _ in 0..clients {
            scope.spawn(|| {
                let mut raw = Raw::bare(agent.socket());
                let packet = make(&mut raw);
                never_block(&raw);
                let mut buffer = vec![0; socket::MESSAGE_LEN_MAX];
                while !done.load(Ordering::Relaxed) {
                    while raw.send_packet(&packet, &[]).is_ok() {
                        sent.fetch_add(1, Ordering::Relaxed);
                    }
                    while socket::receive(raw.fd(), &mut buffer).is_ok_and(|(len, _)| len > 0) {}
                }
            });
        }
        let _ender = Ender(&done);
        let flooding = clients as u64 * 50;
        poll("the flood to begin", || (sent.load(Ordering::Relaxed) > flooding).then_some(()));
        meanwhile();
    });
}

#[test]
fn heavy_requests_without_a_pause() {
    let agent = Agent::start();
    let mut baseline = agent.baseline();
    let mut guest = Guest::invite(&agent);
    busy(&agent, 6, |_| packet(1, Request::Ping), || assert_served(&mut guest, "six clients that ping"));
    busy(
        &agent,
        6,
        |_| packet(1, Request::Abandon { put: 7 }),
        || assert_served(&mut guest, "six clients whose requests need no answer"),
    );
    busy(&agent, 4, |_| packet(1, Request::Stat), || assert_served(&mut guest, "four clients that ask for figures"));
    let put_many = |raw: &mut Raw| {
        raw.staging();
        let namespace = raw.namespace("flood");
        let staged = Staged { offset: 0, len: 2 << 20 };
        let items = (0..64).map(|n| PutItem { key: format!("{n}"), staged }).collect();
        packet(1, Request::PutMany { namespace, items })
    };
    busy(&agent, 4, put_many, || assert_served(&mut guest, "four clients that put 128 MiB a message"));
    guest.finish();
    baseline.allow_others(2);
    baseline.holds();
}

#[test]
fn descriptors_hoarded() {
    let agent = Agent::start();
    let baseline = agent.baseline();
    let mut raw = Raw::bare(agent.socket());
    let mut hoard: Vec<OwnedFd> = Vec::new();
    for request in [Request::Table, Request::MoreSlots, Request::Staging, Request::Table] {
        let mut answered = raw.call(request);
        assert!(!answered.descriptors.is_empty());
        hoard.append(&mut answered.descriptors);
    }
    // The fifth of each kind is refused, until some are acknowledged.
    let namespace = raw.namespace("hoard");
    let create = Request::Create { namespace, key: "k".into(), len: 10 };
    for request in [Request::Table, Request::MoreSlots, Request::Segment { segment: 1 }, create] {
        let shown = format!("{request:?}");
        assert!(matches!(raw.refused(request), Refusal::TooMany(_)), "{shown}");
    }
    raw.received(4);
    assert!(matches!(raw.ask(Request::Table), Reply::Table { .. }));
    drop((raw, hoard));
    baseline.holds();
}

/// Acknowledged without having been received: what is on its way stays bounded by the socket's own buffer.
#[test]
fn descriptors_hoarded_by_a_liar() {
    let agent = Agent::start();
    let mut baseline = agent.baseline();
    let mut guest = Guest::invite(&agent);
    let before = baseline.monitor().stat().descriptors;
    let mut raws = Vec::new();
    for _ in 0..20 {
        let (raw, greeting) = Raw::greeted(agent.socket());
        never_block(&raw);
        for n in 0..2000 {
            let _ = raw.send_packet(&packet(n, Request::Received { count: u32::MAX }), &[]);
            let _ = raw.send_packet(&packet(n, Request::Table), &[]);
        }
        raws.push((raw, greeting));
    }
    assert_served(&mut guest, "twenty clients that hoard descriptors");
    let during = baseline.monitor().stat().descriptors;
    assert!(during < before + 200, "{before} descriptors before, {during} while they are hoarded");
    drop(raws);
    guest.finish();
    baseline.allow_others(2);
    baseline.holds();
}

#[test]
fn a_thousand_connections() {
    let agent = Agent::start();
    let mut baseline = agent.baseline();
    let mut guest = Guest::invite(&agent);
    let (mut sessions, mut refused) = (Vec::new(), 0);
    for _ in 0..1000 {
        let mut raw = Raw::connect(agent.socket());
        match raw.hello() {
            Ok(greeting) => sessions.push((raw, greeting)),
            Err(Refusal::TooMany(text)) => {
                assert!(text.contains("sessions"), "{text}");
                refused += 1;
            }
            Err(other) => panic!("{other:?}"),
        }
    }
    // The monitor has one of this user's 256, and the guest another where it is not another user.
    let others = if guest.is_another_user() { 1 } else { 2 };
    assert_eq!(sessions.len(), 256 - others);
    assert_eq!(sessions.len() + refused, 1000);
    if guest.is_another_user() {
        guest.round();
        assert_served(&mut guest, "a user with all the sessions it may have");
    }
    // All of them are real sessions, and all at once have staging and slots.
    for (raw, greeting) in &mut sessions {
        assert_eq!(raw.mapped(greeting.welcome.slots_memory), Reply::Done);
        assert!(matches!(raw.ask(Request::Ping), Reply::Pong(_)));
    }
    drop(sessions);
    poll("a seat to be free again", || Raw::connect(agent.socket()).hello().ok());
    guest.finish();
    baseline.allow_others(2);
    baseline.holds();
}

#[test]
fn connections_that_say_nothing() {
    let agent = Agent::start();
    let mut baseline = agent.baseline();
    let mut guest = Guest::invite(&agent);
    let silent: Vec<Raw> = (0..200).map(|_| Raw::connect(agent.socket())).collect();
    assert_served(&mut guest, "two hundred silent connections");
    for raw in &silent {
        assert!(!readable(raw.fd(), Duration::ZERO), "a silent connection was answered");
    }
    // Half a message of a kind: one word and then nothing.
    for raw in &silent {
        raw.send_packet(&[1], &[]).expect("the agent still listens");
    }
    guest.round();
    drop(silent);
    // Gone before they are accepted, or while they are.
    for _ in 0..2000 {
        drop(socket::connect_to(agent.socket()));
    }
    for _ in 0..500 {
        let raw = Raw::connect(agent.socket());
        let hello = Request::Hello { layout: LAYOUT_MAGIC, version: VERSION };
        // Too many at once are refused, and may be closed before this is sent.
        let _ = raw.send_packet(&packet(1, hello), &[]);
    }
    guest.finish();
    baseline.allow_others(2);
    baseline.holds();
}

#[test]
fn waits_and_lists_without_end() {
    let agent = Agent::start();
    let baseline = agent.baseline();
    let mut raw = Raw::bare(agent.socket());
    raw.staging();
    let namespace = raw.namespace("waits");
    for n in 0..256 {
        raw.send(Request::Wait { namespace, key: format!("never/{n}") });
    }
    let one_more = Request::Wait { namespace, key: "never/256".into() };
    assert!(matches!(raw.refused(one_more), Refusal::TooMany(_)));
    // A clear wakes and refuses them all.
    let clear = raw.send(Request::Clear { name: "waits".into() });
    for _ in 0..257 {
        let (answer, _) = raw.receive().expect("every wait is answered");
        match answer.reply {
            Reply::Count(0) => assert_eq!(answer.id, clear),
            Reply::Refused(Refusal::Cleared { .. }) => {}
            other => panic!("a wait was answered by {other:?}"),
        }
    }
    let namespace = raw.namespace("waits");
    let key = |n: u64| format!("{n}/{}", "k".repeat(900));
    for n in 0..100 {
        let item = PutItem { key: key(n), staged: Staged { offset: 0, len: 10 } };
        assert!(matches!(raw.ask(Request::Put { namespace, item }), Reply::Put(_)));
    }
    let list = |cursor| Request::List { namespace, prefix: String::new(), children: false, cursor };
    let mut cursors = Vec::new();
    for _ in 0..4 {
        match raw.ask(list(0)) {
            Reply::Names { cursor, .. } if cursor != 0 => cursors.push(cursor),
            other => panic!("a first page was {other:?}"),
        }
    }
    // One more list takes the place of the oldest.
    assert!(matches!(raw.ask(list(0)), Reply::Names { cursor: 1.., .. }));
    assert!(matches!(raw.refused(list(cursors[0])), Refusal::Invalid(_)));
    cursors.remove(0);
    // Each page is read once; the snapshot ends with its last page.
    for first in cursors {
        let mut cursor = first;
        let mut names = 0;
        while cursor != 0 {
            let Reply::Names { names: page, cursor: next } = raw.ask(list(cursor)) else { panic!("a page was lost") };
            assert!(next == 0 || next != cursor);
            assert!(matches!(raw.refused(list(cursor)), Refusal::Invalid(_)), "a page read twice");
            names += page.len();
            cursor = next;
        }
        assert!(names > 50);
    }
    assert!(matches!(raw.ask(list(0)), Reply::Names { .. }));
    drop(raw);
    baseline.holds();
}
