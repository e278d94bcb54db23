//! Holding on to memory and descriptors, in every way there is.

use std::collections::HashMap;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::time::{Duration, Instant};

use larder_protocol::hit::PinnedBlock;
use larder_protocol::message::{PutOutcome, Refusal, Reply, Request};
use nix::sys::stat::fstat;

use crate::raw::{Greeting, Raw};
use crate::raw_calls::Map;
use crate::roles::Part;
use crate::session::{Session, payload};

/// Whatever a hoarder holds on to.
#[derive(Default)]
pub(crate) struct Hoard {
    sessions: Vec<(Raw, Greeting)>,
    maps: Vec<Map>,
    descriptors: Vec<OwnedFd>,
    blocks: Vec<PinnedBlock>,
    readers: Vec<Session>,
}

impl Hoard {
    /// Memory of a session that is gone, as a map without a descriptor.
    fn keep(&mut self, fd: &OwnedFd, len: usize) {
        self.maps.push(Map::new(fd, len, false).expect("readable"));
    }

    /// Takes as much as there is to be had in one way. Returns how often, and the refusal at the end.
    pub(crate) fn take_all(&mut self, socket: &Path, way: &str, most: usize) -> (usize, Option<Refusal>) {
        for n in 0..most {
            let taken = match way {
                "staging" => self.staging(socket),
                "slots" => self.slots(socket),
                "kept-staging" => self.kept_staging(socket),
                "writers" => self.writers(socket, n),
                "kept-writers" => self.kept_writer(socket, n),
                "orphans" => self.orphan(socket),
                "puts-begun" => self.puts_begun(socket, n),
                "pins" => self.pin(socket, n),
                "retired" => self.retired(socket, n),
                "tenants" => self.tenant(socket),
                other => panic!("no way {other:?}"),
            };
            if let Err(refusal) = taken {
                return (n, Some(refusal));
            }
        }
        (most, None)
    }

    fn greeted(socket: &Path) -> Result<(Raw, Greeting), Refusal> {
        let mut raw = Raw::connect(socket);
        let greeting = raw.hello()?;
        Ok((raw, greeting))
    }

    /// A session with its staging.
    fn staging(&mut self, socket: &Path) -> Result<(), Refusal> {
        let (mut raw, greeting) = Self::greeted(socket)?;
        let (_, _, fd) = raw.memory(Request::Staging)?;
        self.descriptors.push(fd);
        self.sessions.push((raw, greeting));
        Ok(())
    }

    /// A session with all the slot pages that it may have.
    fn slots(&mut self, socket: &Path) -> Result<(), Refusal> {
        let (mut raw, greeting) = Self::greeted(socket)?;
        loop {
            match raw.memory(Request::MoreSlots) {
                Ok(_) => {}
                Err(Refusal::TooMany(_)) => break,
                Err(other) => return Err(other),
            }
        }
        self.sessions.push((raw, greeting));
        Ok(())
    }

    /// Staging whose session has ended while its memory is still mapped.
    fn kept_staging(&mut self, socket: &Path) -> Result<(), Refusal> {
        let (mut raw, _greeting) = Self::greeted(socket)?;
        let (_, len, fd) = raw.memory(Request::Staging)?;
        self.keep(&fd, len);
        Ok(())
    }

    pub(crate) fn create(raw: &mut Raw, namespace: u64, key: String, len: u64) -> Result<(u64, OwnedFd), Refusal> {
        let id = raw.send(Request::Create { namespace, key, len });
        let (answer, mut descriptors) = raw.receive().expect("an answer");
        match answer.reply {
            Reply::WriterMemory { .. } => {
                raw.received(1);
                Ok((id, descriptors.remove(0)))
            }
            Reply::Refused(refusal) => Err(refusal),
            other => panic!("Create was answered by {other:?}"),
        }
    }

    fn writers(&mut self, socket: &Path, n: usize) -> Result<(), Refusal> {
        let (mut raw, greeting) = Self::greeted(socket)?;
        let namespace = raw.namespace("hoard");
        let mut outcome = Ok(());
        for writer in 0..16 {
            match Self::create(&mut raw, namespace, format!("{n}/{writer}"), 4 << 20) {
                Ok((_, fd)) => self.descriptors.push(fd),
                Err(refusal) => {
                    outcome = Err(refusal);
                    break;
                }
            }
        }
        self.sessions.push((raw, greeting));
        outcome
    }

    /// A writer's memory that was given up, or committed by copy, while it is still mapped.
    fn kept_writer(&mut self, socket: &Path, n: usize) -> Result<(), Refusal> {
        let (mut raw, _greeting) = Self::greeted(socket)?;
        let namespace = raw.namespace("hoard");
        let (id, fd) = Self::create(&mut raw, namespace, format!("{n}"), 8 << 20)?;
        self.maps.push(Map::new(&fd, 8 << 20, true).expect("a writer may write"));
        if n.is_multiple_of(2) {
            raw.send(Request::Abandon { put: id });
        } else {
            // Copied, because it is still mapped; a refusal for want of room will do as well.
            let _ = raw.ask(Request::Commit { writer: id });
        }
        assert!(matches!(raw.ask(Request::Ping), Reply::Pong(_)));
        Ok(())
    }

    /// A slot page whose session has ended while it is still mapped.
    fn orphan(&mut self, socket: &Path) -> Result<(), Refusal> {
        let (mut raw, greeting) = Self::greeted(socket)?;
        assert_eq!(raw.mapped(greeting.welcome.slots_memory), Reply::Done);
        self.keep(&greeting.slots, greeting.slots_len());
        Ok(())
    }

    /// Puts that are begun and never ended, all at the same time.
    pub(crate) fn puts_begun(&mut self, socket: &Path, n: usize) -> Result<(), Refusal> {
        if n > 0 {
            return Err(Refusal::Deadline);
        }
        let mut raws = Vec::new();
        for _ in 0..48 {
            let (mut raw, greeting) = Self::greeted(socket)?;
            let namespace = raw.namespace("hoard");
            raws.push((raw, greeting, namespace));
        }
        for round in 0..8 {
            for (session, (raw, _, namespace)) in raws.iter_mut().enumerate() {
                raw.send(Request::PutBegin { namespace: *namespace, key: format!("{session}/{round}"), len: 7 << 20 });
            }
        }
        for (mut raw, greeting, _) in raws {
            let id = raw.send(Request::Ping);
            while raw.receive().expect("the agent answers").0.id != id {}
            self.sessions.push((raw, greeting));
        }
        Ok(())
    }

    fn reader(&mut self, socket: &Path) -> &mut Session {
        if self.readers.is_empty() {
            self.readers.push(Session::open(socket));
        }
        &mut self.readers[0]
    }

    /// Everything that can be put, pinned.
    fn pin(&mut self, socket: &Path, n: usize) -> Result<(), Refusal> {
        let reader = self.reader(socket);
        let namespace = reader.namespace("hoard");
        let block = if n < 1000 {
            // First all that fits is put, for a refusal would come too early if each were pinned at once.
            reader.put(namespace, &format!("{n}"), &payload(n as u64 + 1, 1 << 20))?;
            None
        } else {
            reader.get(namespace, &format!("{}", n - 1000)).ok()
        };
        self.blocks.extend(block);
        Ok(())
    }

    /// Segments that are retired while they are still mapped.
    fn retired(&mut self, socket: &Path, n: usize) -> Result<(), Refusal> {
        let (mut raw, _greeting) = Self::greeted(socket)?;
        let namespace = raw.namespace("hoard");
        // A block too large for a shared segment gets one of its own, which goes when the block does.
        let (id, fd) = Self::create(&mut raw, namespace, format!("{n}"), 8 << 20)?;
        assert_eq!(nix::sys::uio::pwrite(&fd, &[1], 1 << 20), Ok(1));
        self.keep(&fd, 8 << 20);
        drop(fd);
        match raw.ask(Request::Commit { writer: id }) {
            Reply::Put(PutOutcome::Stored) => {}
            Reply::Refused(refusal) => return Err(refusal),
            other => panic!("{other:?}"),
        }
        let key = format!("{n}");
        assert_eq!(raw.ask(Request::Delete { namespace, key }), Reply::Done);
        Ok(())
    }

    /// The control area and table of a tenant that may be forgotten by the time of the next one.
    fn tenant(&mut self, socket: &Path) -> Result<(), Refusal> {
        let (mut raw, Greeting { control, slots, .. }) = Self::greeted(socket)?;
        let mut answered = raw.call(Request::Table);
        self.descriptors.append(&mut answered.descriptors);
        self.descriptors.push(control);
        drop((raw, slots));
        // The next session waits until the agent has looked at what this one left.
        let until = Instant::now() + Duration::from_millis(60);
        while Instant::now() < until {
            std::thread::park_timeout(until - Instant::now());
        }
        Ok(())
    }

    /// Bytes of all the memories that are held, each counted once.
    fn held_bytes(&self) -> u64 {
        let about = self.descriptors.iter().map(|fd| fstat(fd).expect("open"));
        let memories: HashMap<u64, i64> = about.map(|about| (about.st_ino, about.st_size)).collect();
        memories.values().map(|len| u64::try_from(*len).expect("not negative")).sum()
    }
}

pub(crate) const WAYS: [&str; 9] =
    ["staging", "slots", "kept-staging", "writers", "kept-writers", "orphans", "puts-begun", "pins", "retired"];

/// Hoards in the way of its argument, and stays.
pub(crate) fn hoarder(part: &Part) {
    let mut hoard = Hoard::default();
    let way = part.argument.as_str();
    // Each way would take twice the capacity by then: an agent that lets it go does not take the machine with it.
    let most = match way {
        "staging" | "slots" => 256,
        "kept-staging" | "kept-writers" | "retired" => 2 * 256 / 8,
        "writers" => 2 * 256 / 64,
        "tenants" => 40,
        _ => 3000,
    };
    let (count, refusal) = hoard.take_all(&part.socket, way, most);
    if way == "pins" {
        // What was put before the refusal is pinned now, beyond any quota for pins.
        for n in 0..count {
            let _ = hoard.pin(&part.socket, 1000 + n);
        }
    }
    part.say("READY", format!("{} bytes, {count} times, then {refusal:?}", hoard.held_bytes()));
    part.stay();
    drop(hoard);
}
