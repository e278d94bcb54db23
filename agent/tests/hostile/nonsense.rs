//! Requests that are each legal and together make no sense, at random, from several sessions at once.

use std::os::fd::OwnedFd;

use larder_protocol::layout::stripe;
use larder_protocol::message::{PutItem, Reply, Request, Staged};
use larder_protocol::namespace::{Durability, Eviction, NamespaceOptions, Validate};
use larder_protocol::words::{MappedWords, Words};
use std::sync::atomic::Ordering;

use crate::harness::{Agent, Setup};
use crate::raw::{Raw, writable_words};
use crate::session::{Session, below, next};

/// Few of everything, so that requests meet each other.
const NAMES: [&str; 4] = ["a", "b", "quota", "keep"];
const KEYS: usize = 40;

/// A session that asks for anything.
struct Fool {
    state: u64,
    raw: Raw,
    slots: MappedWords,
    descriptors: Vec<OwnedFd>,
    numbers: Vec<u64>,
}

impl Fool {
    fn new(agent: &Agent, seed: u64) -> Fool {
        let (mut raw, greeting) = Raw::greeted(agent.socket());
        let slots = greeting.map_slots();
        assert_eq!(raw.mapped(greeting.welcome.slots_memory), Reply::Done);
        raw.staging();
        Fool { state: seed, raw, slots, descriptors: Vec::new(), numbers: vec![1] }
    }

    fn below(&mut self, bound: usize) -> usize {
        below(&mut self.state, bound)
    }

    fn name(&mut self) -> String {
        NAMES[self.below(NAMES.len())].to_owned()
    }

    fn key(&mut self) -> String {
        match self.below(20) {
            0 => "long/".to_owned() + &"k".repeat(1000),
            _ => format!("k/{}", self.below(KEYS)),
        }
    }

    fn len(&mut self) -> u64 {
        let lens = [0, 1, 63, 64, 65, 4096, 65_535, 65_536, 100_000, 1 << 20, 3 << 20, 9 << 20, 40 << 20, 1 << 30];
        lens[self.below(lens.len())]
    }

    fn staged(&mut self) -> Staged {
        let (offset, len) = (self.below(1 << 20) as u64, self.len());
        Staged { offset, len }
    }

    fn options(&mut self) -> NamespaceOptions {
        NamespaceOptions {
            eviction: if self.below(8) == 0 { Eviction::Keep } else { Eviction::Evict },
            overwrite: self.below(2) == 0,
            quota_bytes: (self.below(2) == 0).then(|| self.len()),
            ttl_ms: [None, Some(0), Some(3), Some(1000), Some(u64::MAX)][self.below(5)],
            durability: [None, Some(Durability::Scratch), Some(Durability::Through), Some(Durability::Back)]
                [self.below(4)],
            validate: [Validate::Namespace, Validate::Always, Validate::Never][self.below(3)],
        }
    }

    fn number(&mut self) -> u64 {
        let at = self.below(self.numbers.len());
        self.numbers[at]
    }

    fn request(&mut self) -> Request {
        // Incarnations count up from 1 for the whole agent, so recent ones are guessed often enough.
        let namespace = self.below(200) as u64;
        match self.below(24) {
            0 => Request::OpenNamespace { name: self.name(), options: None },
            1 => Request::SetNamespace { name: self.name(), options: self.options() },
            2 if self.below(8) == 0 => Request::RemoveNamespace { name: self.name() },
            3 if self.below(8) == 0 => Request::Clear { name: self.name() },
            4 => Request::Get { namespace, key: self.key() },
            5 => Request::Wait { namespace, key: self.key() },
            6..=9 => Request::Put { namespace, item: PutItem { key: self.key(), staged: self.staged() } },
            10 => Request::PutMany {
                namespace,
                items: (0..self.below(20)).map(|_| PutItem { key: self.key(), staged: self.staged() }).collect(),
            },
            11 | 12 => Request::PutBegin { namespace, key: self.key(), len: self.len() },
            13 | 14 => Request::PutChunk { put: self.number(), staged: self.staged() },
            15 => Request::PutEnd { put: self.number() },
            16 => Request::Abandon { put: self.number() },
            17 => Request::Create { namespace, key: self.key(), len: self.len() },
            18 => Request::Commit { writer: self.number() },
            19 => Request::Delete { namespace, key: self.key() },
            20 => Request::List {
                namespace,
                prefix: String::new(),
                children: self.below(2) == 0,
                cursor: self.below(3) as u64,
            },
            21 => Request::Segment { segment: u32::try_from(self.below(30)).expect("small") },
            22 => Request::MoreSlots,
            _ => [Request::Stat, Request::Pins, Request::Ping, Request::Table][self.below(4)].clone(),
        }
    }

    fn step(&mut self) {
        let request = self.request();
        let timeless = matches!(request, Request::Wait { .. } | Request::PutBegin { .. } | Request::Abandon { .. });
        let begins = matches!(request, Request::PutBegin { .. } | Request::Create { .. });
        let id = self.raw.send(request);
        if begins {
            self.numbers.push(id);
            if self.numbers.len() > 30 {
                self.numbers.remove(0);
            }
        }
        // A ping behind it brings an answer in any case.
        let last = if timeless { self.raw.send(Request::Ping) } else { id };
        loop {
            let (answer, descriptors) = self.raw.receive().expect("the agent keeps the connection");
            if !descriptors.is_empty() {
                self.raw.received(1);
                self.descriptors.extend(descriptors);
            }
            if let Reply::Memory { memory, len } = answer.reply {
                let fd = self.descriptors.last().expect("came with it");
                let words = writable_words(fd, usize::try_from(len).expect("fits"));
                if self.below(2) == 0 {
                    self.raw.send(Request::Mapped { memory });
                }
                drop(words);
            }
            if answer.id == last {
                break;
            }
        }
        let len = self.descriptors.len();
        self.descriptors.drain(..len.saturating_sub(8));
        if self.below(10) == 0 {
            let slot = stripe::SLOTS + self.below(stripe::SLOTS_LEN);
            let block = match self.below(3) {
                0 => 0,
                1 => next(&mut self.state),
                _ => (self.below(12) as u64) << 32 | (self.below(1 << 16) as u64),
            };
            self.slots.store(slot, block, Ordering::Release);
        }
    }
}

fn fools(agent: &Agent, seed: u64, steps: usize) {
    std::thread::scope(|scope| {
        for fool in 0..3_u64 {
            scope.spawn(move || {
                let mut fool = Fool::new(agent, seed * 7919 + fool + 1);
                for _ in 0..steps {
                    fool.step();
                }
            });
        }
        // The same user reads and writes among them: its puts may be refused, its blocks may go, but what it gets is right.
        let mut honest = Session::open(agent.socket());
        let namespace = honest.namespace("mine");
        for round in 0..steps as u64 / 20 {
            let (key, bytes) = (format!("{}", round % 50), crate::session::payload(round % 50 + 1, 20_000));
            let _ = honest.put(namespace, &key, &bytes);
            if let Ok(block) = honest.get(namespace, &key) {
                assert!(block.verify() && block.as_slice() == bytes, "block {key} of round {round}");
            }
        }
    });
}

#[test]
fn requests_at_random() {
    let agent = Agent::small();
    let baseline = agent.baseline();
    fools(&agent, 1, 1200);
    baseline.holds();
}

#[test]
fn heavy_requests_at_random() {
    for seed in 2..8 {
        eprintln!("seed {seed}");
        let agent = Agent::with(&Setup {
            capacity: if seed % 2 == 0 { "64MiB" } else { "32MiB" },
            args: ["--staging", "1MiB"].map(str::to_owned).into(),
            ..Setup::default()
        });
        let baseline = agent.baseline();
        fools(&agent, seed, 6000);
        baseline.holds();
    }
}
