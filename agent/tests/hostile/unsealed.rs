//! Tampering with writable memory in the moment when it is not sealed yet.

use std::os::fd::{AsFd, BorrowedFd};

use larder_protocol::layout::BlockId;
use larder_protocol::message::{PutItem, Refusal, Reply, Request, Staged};
use larder_protocol::words::Words;
use nix::fcntl::{FallocateFlags, FcntlArg, SealFlag, fallocate, fcntl};
use nix::unistd::ftruncate;

use crate::harness::Agent;
use crate::raw::{Raw, writable_words};

/// What is done to a memory of so many bytes.
type Tamper = fn(BorrowedFd<'_>, i64);

/// Each with its name and whether the agent can still use the memory.
const TAMPERINGS: [(&str, Tamper, bool); 9] = [
    ("nothing", |_, _| {}, true),
    ("truncated to nothing", |fd, _| resize(fd, 0), false),
    ("truncated by a page", |fd, len| resize(fd, len - 4096), false),
    ("grown by a page", |fd, len| resize(fd, len + 4096), false),
    ("grown to a tebibyte", |fd, _| resize(fd, 1 << 40), false),
    (
        "truncated and grown back",
        |fd, len| {
            resize(fd, 0);
            resize(fd, len);
        },
        true,
    ),
    (
        "punched",
        |fd, len| {
            let hole = FallocateFlags::FALLOC_FL_PUNCH_HOLE | FallocateFlags::FALLOC_FL_KEEP_SIZE;
            fallocate(fd, hole, 0, len).expect("not sealed yet");
        },
        true,
    ),
    ("sealed against seals", |fd, _| seal(fd, SealFlag::F_SEAL_SEAL), false),
    ("sealed against growing", |fd, _| seal(fd, SealFlag::F_SEAL_GROW), true),
];

fn resize(fd: BorrowedFd<'_>, len: i64) {
    ftruncate(fd, len).expect("not sealed yet");
}

fn seal(fd: BorrowedFd<'_>, seals: SealFlag) {
    fcntl(fd, FcntlArg::F_ADD_SEALS(seals)).expect("not sealed yet");
    // The agent has it mapped for writing, which is what forbids this one.
    assert!(fcntl(fd, FcntlArg::F_ADD_SEALS(SealFlag::F_SEAL_WRITE)).is_err());
}

/// Asks for everything that makes the agent look at the session's memory.
#[track_caller]
fn make_it_look(raw: &mut Raw) {
    let namespace = raw.namespace("looked/at");
    for request in [
        Request::Stat,
        Request::Pins,
        Request::Clear { name: "looked/at".into() },
        Request::Put { namespace, item: PutItem { key: "staged".into(), staged: Staged { offset: 0, len: 4096 } } },
    ] {
        raw.ask(request);
    }
}

#[track_caller]
fn expect_mapped(raw: &mut Raw, memory: u64, usable: bool, name: &str) {
    match raw.mapped(memory) {
        Reply::Done => assert!(usable, "memory that was {name} was taken"),
        Reply::Refused(Refusal::Denied(_)) => assert!(!usable, "memory that was {name} was refused"),
        other => panic!("memory that was {name}: {other:?}"),
    }
}

#[test]
fn a_slot_page_that_was_tampered_with() {
    let agent = Agent::small();
    let baseline = agent.baseline();
    for (name, tamper, usable) in TAMPERINGS {
        for confirm in [true, false] {
            eprintln!("slot page, {name}, confirmed: {confirm}");
            let (mut raw, greeting) = Raw::greeted(agent.socket());
            let words = greeting.map_slots();
            tamper(greeting.slots.as_fd(), i64::try_from(greeting.slots_len()).expect("fits"));
            if confirm {
                expect_mapped(&mut raw, greeting.welcome.slots_memory, usable, name);
                // A second try must not do what the first did not.
                assert!(matches!(raw.mapped(greeting.welcome.slots_memory), Reply::Done | Reply::Refused(_)));
            }
            make_it_look(&mut raw);
            drop((raw, greeting, words));
            assert!(agent.is_alive(), "a slot page that was {name} ended the agent");
        }
    }
    baseline.holds();
}

#[test]
fn a_further_slot_page_that_was_tampered_with() {
    let agent = Agent::small();
    let baseline = agent.baseline();
    for (name, tamper, usable) in TAMPERINGS {
        for confirm in [true, false] {
            eprintln!("further slot page, {name}, confirmed: {confirm}");
            let (mut raw, greeting) = Raw::greeted(agent.socket());
            assert_eq!(raw.mapped(greeting.welcome.slots_memory), Reply::Done);
            let (memory, len, fd) = raw.memory(Request::MoreSlots).expect("a session may have more slots");
            tamper(fd.as_fd(), i64::try_from(len).expect("fits"));
            if confirm {
                expect_mapped(&mut raw, memory, usable, name);
            }
            make_it_look(&mut raw);
            drop((raw, greeting, fd));
            assert!(agent.is_alive(), "a slot page that was {name} ended the agent");
        }
    }
    baseline.holds();
}

#[test]
fn staging_that_was_tampered_with() {
    tamper_with_lent(&Agent::small(), &Request::Staging);
}

#[test]
fn rings_that_were_tampered_with() {
    tamper_with_lent(&crate::rings::spinning(), &Request::Ring);
}

fn tamper_with_lent(agent: &Agent, request: &Request) {
    let baseline = agent.baseline();
    for (name, tamper, usable) in TAMPERINGS {
        for confirm in [true, false] {
            eprintln!("{request:?}, {name}, confirmed: {confirm}");
            let (mut raw, greeting) = Raw::greeted(agent.socket());
            assert_eq!(raw.mapped(greeting.welcome.slots_memory), Reply::Done);
            let (memory, len, fd) = raw.memory(request.clone()).expect("a session may have it");
            tamper(fd.as_fd(), i64::try_from(len).expect("fits"));
            if confirm {
                expect_mapped(&mut raw, memory, usable, name);
                raw.mapped(memory);
            }
            make_it_look(&mut raw);
            drop((raw, greeting, fd));
            assert!(agent.is_alive(), "memory for {request:?} that was {name} ended the agent");
        }
    }
    baseline.holds();
}

#[test]
fn a_slot_page_that_shrinks_while_others_evict() {
    let agent = Agent::small();
    let baseline = agent.baseline();
    let mut honest = crate::session::Session::open(agent.socket());
    let namespace = honest.namespace("others");
    for round in 0..50_u64 {
        let (raw, greeting) = Raw::greeted(agent.socket());
        resize(greeting.slots.as_fd(), 0);
        for block in 0..40 {
            honest.put_and_check(namespace, &format!("{round}/{block}"), round + 1, 60_000);
        }
        drop((raw, greeting));
    }
    drop(honest);
    baseline.holds();
}

#[test]
fn wrong_numbers_for_memory() {
    let agent = Agent::small();
    let baseline = agent.baseline();
    let (mut other, other_greeting) = Raw::greeted(agent.socket());
    let (other_memory, ..) = other.memory(Request::Staging).expect("a session may have staging");
    let (mut raw, greeting) = Raw::greeted(agent.socket());
    let own = greeting.welcome.slots_memory;
    for memory in [0, own + 1, other_memory, u64::MAX, u64::MAX - 1, 1 << 32 | own] {
        if memory != own {
            assert!(matches!(raw.refused(Request::Mapped { memory }), Refusal::Invalid(_)), "memory {memory}");
        }
    }
    let words = greeting.map_slots();
    assert_eq!(raw.mapped(own), Reply::Done);
    // A client that says it twice learns nothing new, and its pins count as before.
    words.store(larder_protocol::layout::stripe::SLOTS, BlockId::new(1, 0).0, std::sync::atomic::Ordering::SeqCst);
    for _ in 0..3 {
        assert_eq!(raw.mapped(own), Reply::Done, "confirmed once more");
    }
    // Nothing that it was lent before is the memory of a later number.
    let (memory, len, fd) = raw.memory(Request::MoreSlots).expect("a session may have more slots");
    assert_ne!(memory, own);
    drop(writable_words(&fd, len));
    assert_eq!(raw.mapped(memory), Reply::Done);
    assert!(matches!(other.mapped(memory), Reply::Done | Reply::Refused(_)));
    drop((raw, greeting, words, fd, other, other_greeting));
    baseline.holds();
}
