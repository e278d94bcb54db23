//! Rings: messages through memory that a client writes, to an agent that is allowed to spin.

use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use larder_protocol::message::{Envelope, NO_TIMEOUT, Refusal, Reply, Request, decode_reply, encode_request};
use larder_protocol::ring::{Consumer, PACKET_LEN_MAX, PACKETS, Producer, Pushed, WORDS};
use larder_protocol::words::{MappedWords, Words};

use crate::guests::Guest;
use crate::harness::{Agent, Setup, poll, readable};
use crate::raw::{Greeting, Raw, writable_words};
use crate::scribble::{Ender, while_scribbling};
use crate::session::{below, next};

/// Where the words of a ring lie that its two sides move: the producer's position, the consumer's, and its flag.
const TAIL: usize = 0;
const HEAD: usize = 8;
const ASLEEP: usize = 16;
const SLOTS: usize = 24;

/// An agent that is allowed to spin.
pub(crate) fn spinning() -> Agent {
    Agent::with(&Setup { capacity: "64MiB", args: vec!["--spin".to_owned()], ..Setup::default() })
}

/// A session with rings, which are the first words of `words` one after the other.
struct Ringer {
    raw: Raw,
    _greeting: Greeting,
    fd: OwnedFd,
    len: usize,
    words: MappedWords,
}

impl Ringer {
    fn new(agent: &Agent) -> Ringer {
        let (mut raw, greeting) = Raw::greeted(agent.socket());
        let (memory, len, fd) = raw.memory(Request::Ring).expect("this agent spins");
        let words = writable_words(&fd, len);
        let ringer = Ringer { raw, _greeting: greeting, words, len, fd };
        ringer.confirm(memory)
    }

    fn confirm(mut self, memory: u64) -> Ringer {
        assert_eq!(self.raw.mapped(memory), Reply::Done);
        self
    }

    /// The two rings apart, as an honest client has them.
    fn rings(&self) -> (Producer<MappedWords>, Consumer<MappedWords>) {
        let mapping = self.words.mapping();
        let half = |half: usize| MappedWords::new(mapping.clone(), half * WORDS * 8, WORDS);
        (Producer::new(half(0)), Consumer::new(half(1)))
    }
}

fn packet(id: u64, request: Request) -> Vec<u8> {
    encode_request(&Envelope { id, timeout_ms: NO_TIMEOUT, request })
}

#[test]
fn an_agent_that_may_not_spin_lends_no_rings() {
    let agent = Agent::small();
    let baseline = agent.baseline();
    let mut raw = Raw::bare(agent.socket());
    assert!(matches!(raw.refused(Request::Ring), Refusal::Denied(_)));
    for _ in 0..100 {
        raw.send(Request::Doorbell);
    }
    assert!(matches!(raw.ask(Request::Ping), Reply::Pong(_)));
    drop(raw);
    baseline.holds();
}

#[test]
fn every_lie_by_the_ring() {
    let agent = spinning();
    let baseline = agent.baseline();
    for request in crate::lies::every_kind() {
        let mut ringer = Ringer::new(&agent);
        let (mut requests, mut replies) = ringer.rings();
        let pushed = requests.push(&packet(77, request));
        assert_ne!(pushed, Pushed::No);
        requests.push(&packet(78, Request::Ping));
        ringer.raw.send(Request::Doorbell);
        // By the ring or by the socket, the ping behind it is answered.
        let mut reply = Vec::new();
        poll("the ping by the ring to be answered", || {
            while replies.pop(&mut reply).expect("the agent keeps the rules") {
                if decode_reply(&reply).expect("the agent speaks its own protocol").id == 78 {
                    return Some(());
                }
            }
            while readable(ringer.raw.fd(), Duration::ZERO) {
                let (answer, descriptors) = ringer.raw.receive().expect("the agent keeps the connection");
                if !descriptors.is_empty() {
                    ringer.raw.received(1);
                }
                if answer.id == 78 {
                    return Some(());
                }
            }
            None
        });
    }
    baseline.holds();
}

#[test]
fn positions_and_lengths_that_cannot_be() {
    let agent = spinning();
    let baseline = agent.baseline();
    let wrong = [1_u64 << 63, u64::MAX, PACKETS as u64 + 1, 1 << 32];
    for tail in wrong {
        let ringer = Ringer::new(&agent);
        ringer.words.store(TAIL, tail, Ordering::SeqCst);
        // Hung up on, with or without a word.
        let _ = ringer.raw.send_packet(&packet(1, Request::Doorbell), &[]);
        while ringer.raw.receive().is_some() {}
    }
    for len in [PACKET_LEN_MAX as u64 + 1, u64::MAX, 1 << 63] {
        let ringer = Ringer::new(&agent);
        ringer.words.store(SLOTS, len, Ordering::SeqCst);
        ringer.words.store(TAIL, 1, Ordering::SeqCst);
        let _ = ringer.raw.send_packet(&packet(1, Request::Doorbell), &[]);
        while ringer.raw.receive().is_some() {}
    }
    // Of the ring of replies, too, whose consumer is the client: the agent goes on by the socket.
    for head in wrong {
        let mut ringer = Ringer::new(&agent);
        ringer.words.store(WORDS + HEAD, head, Ordering::SeqCst);
        let (mut requests, _replies) = ringer.rings();
        for id in 0..PACKETS as u64 {
            assert_ne!(requests.push(&packet(100 + id, Request::Ping)), Pushed::No);
        }
        assert!(matches!(ringer.raw.ask(Request::Ping), Reply::Pong(_)));
    }
    baseline.holds();
}

#[test]
fn scribbling_over_rings() {
    let agent = spinning();
    let mut baseline = agent.baseline();
    let mut guest = Guest::invite(&agent);
    for round in 0..20_u64 {
        let ringer = Ringer::new(&agent);
        let scribble = |state: &mut u64| {
            let words = &ringer.words;
            let half = below(state, 2) * WORDS;
            match below(state, 6) {
                0 => words.store(
                    half + TAIL,
                    words.load(half + HEAD, Ordering::Relaxed) + next(state) % 18,
                    Ordering::Release,
                ),
                1 => words.store(half + HEAD, next(state) % 40, Ordering::Release),
                2 => words.store(half + ASLEEP, next(state) % 3, Ordering::Release),
                3 => words.store(half + SLOTS, next(state) % 5000, Ordering::Release),
                _ => words.store(below(state, words.len()), next(state), Ordering::Relaxed),
            }
        };
        while_scribbling(scribble, || {
            for _ in 0..50 {
                let sent = ringer.raw.send_packet(&packet(round, Request::Doorbell), &[]);
                if sent.is_err() {
                    break;
                }
            }
            if round % 5 == 0 {
                guest.round();
            }
        });
    }
    guest.finish();
    baseline.allow_others(2);
    baseline.holds();
}

/// Rings that are never empty: whoever is served from them must not keep others from being served.
#[test]
fn heavy_rings_that_are_never_empty() {
    let agent = spinning();
    let mut baseline = agent.baseline();
    let mut guest = Guest::invite(&agent);
    let (done, taken) = (AtomicBool::new(false), AtomicU64::new(0));
    std::thread::scope(|scope| {
        for _ in 0..6 {
            scope.spawn(|| {
                let ringer = Ringer::new(&agent);
                let (mut requests, _replies) = ringer.rings();
                // Every place holds a request that needs no answer; from now on only the position moves.
                for _ in 0..PACKETS {
                    requests.push(&packet(5, Request::Abandon { put: 9 }));
                }
                while !done.load(Ordering::Relaxed) {
                    let head = ringer.words.load(HEAD, Ordering::Acquire);
                    ringer.words.store(TAIL, head + PACKETS as u64, Ordering::Release);
                    taken.fetch_max(head, Ordering::Relaxed);
                    if ringer.words.load(ASLEEP, Ordering::Relaxed) != 0 {
                        let _ = ringer.raw.send_packet(&packet(6, Request::Doorbell), &[]);
                    }
                }
            });
        }
        let _end = Ender(&done);
        poll("the flood to begin", || (taken.load(Ordering::Relaxed) > 10_000).then_some(()));
        let took = guest.hundred();
        eprintln!("a hundred puts and gets beside six rings that are never empty: {took:?}");
        assert!(took < Duration::from_secs(10), "a hundred puts and gets took {took:?}");
    });
    guest.finish();
    baseline.allow_others(2);
    baseline.holds();
}

/// Idle sessions with rings cost no processor time.
#[test]
fn rings_that_are_left_alone_do_not_spin() {
    let agent = spinning();
    let baseline = agent.baseline();
    let ringers: Vec<Ringer> = (0..20).map(|_| Ringer::new(&agent)).collect();
    for ringer in &ringers {
        // A client that claims to sleep for ever, and one whose flag says anything.
        ringer.words.store(WORDS + ASLEEP, u64::MAX, Ordering::SeqCst);
    }
    let ticks = || -> u64 {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", agent.pid())).expect("the agent runs");
        let fields: Vec<&str> = stat.rsplit_once(')').expect("a name").1.split_whitespace().collect();
        fields[11].parse::<u64>().expect("user time") + fields[12].parse::<u64>().expect("system time")
    };
    poll("the agent to come to rest", || {
        let before = ticks();
        let until = std::time::Instant::now() + Duration::from_millis(500);
        while std::time::Instant::now() < until {
            std::thread::park_timeout(until - std::time::Instant::now());
        }
        (ticks() - before <= 5).then_some(())
    });
    assert!(ringers.iter().all(|ringer| ringer.len > 0 && nix::sys::stat::fstat(&ringer.fd).is_ok()));
    drop(ringers);
    baseline.holds();
}
