//! Pinning all there is.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use larder_protocol::layout::{BlockId, stripe};
use larder_protocol::message::{Refusal, Reply, Request};
use larder_protocol::words::Words;

use crate::guests::Guest;
use crate::harness::{Agent, Setup};
use crate::raw::{Raw, writable_words};
use crate::scribble::Ender;
use crate::session::{Session, next, payload};

const MIB: usize = 1 << 20;
/// Of blocks that share a segment with others, where segments are small.
const LEN: usize = 1_000_000;

#[test]
fn over_the_pinned_quota_only_ones_own_puts_are_refused() {
    let agent = Agent::with(&Setup {
        args: ["--tenant-quota", "128MiB", "--pinned-quota", "32MiB"].map(str::to_owned).into(),
        ..Setup::default()
    });
    let mut baseline = agent.baseline();
    let mut guest = Guest::invite(&agent);
    let mut session = Session::open(agent.socket());
    let namespace = session.namespace("pinned");
    let mut blocks = Vec::new();
    for n in 0..40_u64 {
        session.put(namespace, &format!("{n}"), &payload(n + 1, MIB)).expect("nothing is pinned yet");
    }
    for n in 0..40 {
        blocks.push(session.get(namespace, &format!("{n}")).expect("there is room for all"));
    }
    let held =
        |blocks: &[larder_protocol::hit::PinnedBlock]| blocks.iter().map(|block| block.as_slice().len()).sum::<usize>();
    match session.put(namespace, "one/more", &payload(99, MIB)) {
        Err(Refusal::Pinned { pinned, limit }) => {
            assert_eq!(limit, 32 << 20);
            assert!(pinned >= held(&blocks) as u64 && pinned <= 48 << 20, "{pinned} bytes pinned");
        }
        // The agent sees pins when it scans; it has been told of these by no other way.
        Ok(_) => {
            session.raw.ask(Request::Stat);
            let refusal = session.put(namespace, "another", &payload(98, MIB));
            assert!(matches!(refusal, Err(Refusal::Pinned { .. })), "{refusal:?}");
        }
        other => panic!("{other:?}"),
    }
    // Reading goes on for them, and everything for others.
    assert!(session.get(namespace, "7").expect("still there").verify());
    if guest.is_another_user() {
        guest.round();
    }
    blocks.truncate(20);
    session.put(namespace, "again", &payload(97, MIB)).expect("20 MiB are pinned");
    guest.round();
    drop((blocks, session));
    guest.finish();
    baseline.allow_others(2);
    baseline.holds();
}

#[test]
fn everything_is_pinned_and_the_refusal_says_so() {
    let agent = Agent::with(&Setup {
        capacity: "64MiB",
        args: ["--pinned-quota", "64MiB"].map(str::to_owned).into(),
        ..Setup::default()
    });
    let baseline = agent.baseline();
    let mut session = Session::open(agent.socket());
    let namespace = session.namespace("full");
    let mut blocks = Vec::new();
    let refusal = (0..200_u64).find_map(|n| {
        let key = format!("{n}");
        match session.put(namespace, &key, &payload(n + 1, LEN)) {
            Ok(_) => {
                blocks.push(session.get(namespace, &key).expect("just put"));
                None
            }
            Err(refusal) => Some(refusal),
        }
    });
    match refusal {
        Some(Refusal::NoSpace { needed, quota, used, pinned, kept }) => {
            assert!(needed >= LEN as u64 && quota == 64 << 20 && kept == 0);
            assert!(used <= quota && pinned >= (blocks.len() * LEN) as u64, "{used} used, {pinned} pinned");
        }
        other => panic!("after {} pinned blocks: {other:?}", blocks.len()),
    }
    assert!(blocks.len() > 30, "{} blocks were all that fitted", blocks.len());
    for (block, seed) in blocks.iter().zip(1..) {
        assert!(block.verify() && block.as_slice() == payload(seed, LEN));
    }
    drop((blocks, session));
    baseline.holds();
}

#[test]
fn no_more_slots_than_allowed() {
    let agent =
        Agent::with(&Setup { args: ["--max-slots-per-session", "6000"].map(str::to_owned).into(), ..Setup::default() });
    let baseline = agent.baseline();
    let mut session = Session::open(agent.socket());
    let namespace = session.namespace("many");
    session.put(namespace, "one", &payload(1, 1000)).expect("there is room");
    let mut blocks = Vec::new();
    let refusal = loop {
        match session.get(namespace, "one") {
            Ok(block) => blocks.push(block),
            Err(refusal) => break refusal,
        }
        assert!(blocks.len() <= 6000, "more pins than allowed");
    };
    assert!(matches!(refusal, Refusal::TooMany(_)), "{refusal:?}");
    assert!(blocks.len() >= 1024, "{} pins", blocks.len());
    // Others of the same user are not concerned.
    crate::honest::round(agent.socket());
    blocks.clear();
    assert!(session.get(namespace, "one").expect("slots are free again").verify());
    drop(session);
    baseline.holds();
}

/// Slots that name every place where a block might lie cost room while they last, and nothing after.
#[test]
fn every_block_there_might_be_is_claimed() {
    let agent = Agent::with(&Setup {
        capacity: "64MiB",
        args: ["--max-slots-per-session", "1048576"].map(str::to_owned).into(),
        ..Setup::default()
    });
    let mut baseline = agent.baseline();
    let mut guest = Guest::invite(&agent);
    let (mut raw, greeting) = Raw::greeted(agent.socket());
    let mut pages = vec![greeting.map_slots()];
    assert_eq!(raw.mapped(greeting.welcome.slots_memory), Reply::Done);
    for _ in 0..30 {
        let (memory, len, fd) = raw.memory(Request::MoreSlots).expect("there is room for more slots");
        pages.push(writable_words(&fd, len));
        assert_eq!(raw.mapped(memory), Reply::Done);
    }
    // Where blocks of 4 KiB lie in the first twenty segments.
    let mut places = (1..20_u32).flat_map(|segment| (0..1000).map(move |n| BlockId::new(segment, n * 4160)));
    for page in &pages {
        for word in 0..page.len() {
            if word % stripe::WORDS >= stripe::SLOTS
                && let Some(block) = places.next()
            {
                page.store(word, block.0, Ordering::Release);
            }
        }
    }
    let mut session = Session::open(agent.socket());
    let namespace = session.namespace("claimed");
    for n in 0..3000_u64 {
        match session.put(namespace, &format!("{n}"), &payload(n + 1, 4000)) {
            Ok(_) | Err(Refusal::NoSpace { .. } | Refusal::Pinned { .. }) => {}
            Err(other) => panic!("{other:?}"),
        }
    }
    guest.round();
    drop((raw, greeting, pages, session));
    guest.finish();
    baseline.allow_others(2);
    baseline.holds();
}

/// Every look at the pins of a user reads all of its slots: full of nonsense, in many sessions, and asked for over and
/// over, they must not keep others from being served.
#[test]
fn heavy_slots_full_of_nonsense_and_looked_at_without_a_pause() {
    let agent = Agent::start();
    let mut baseline = agent.baseline();
    let mut guest = Guest::invite(&agent);
    let mut state = 0x51075;
    let mut hoard = Vec::new();
    for _ in 0..100 {
        let (mut raw, greeting) = Raw::greeted(agent.socket());
        let mut pages = vec![greeting.map_slots()];
        assert_eq!(raw.mapped(greeting.welcome.slots_memory), Reply::Done);
        while let Ok((memory, len, fd)) = raw.memory(Request::MoreSlots) {
            pages.push(writable_words(&fd, len));
            assert_eq!(raw.mapped(memory), Reply::Done);
        }
        for page in &pages {
            for word in 0..page.len() {
                if word % stripe::WORDS >= stripe::SLOTS {
                    page.store(word, next(&mut state), Ordering::Release);
                }
            }
        }
        hoard.push((raw, greeting, pages));
    }
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                let mut raw = Raw::bare(agent.socket());
                while !done.load(Ordering::Relaxed) {
                    for request in [Request::Stat, Request::Pins] {
                        assert!(!matches!(raw.ask(request), Reply::Refused(_)));
                    }
                }
            });
        }
        let _end = Ender(&done);
        let took = guest.hundred();
        eprintln!("a hundred puts and gets beside {} sessions with all slots full: {took:?}", hoard.len());
        assert!(took < Duration::from_secs(10), "a hundred puts took {took:?}");
    });
    drop(hoard);
    guest.finish();
    baseline.allow_others(2);
    baseline.allow_heap(64 << 20);
    baseline.holds();
}
