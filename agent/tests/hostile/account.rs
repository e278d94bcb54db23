//! Holding on to memory and descriptors: all of it stays on the account of whoever holds it.

use std::os::fd::OwnedFd;

use larder_protocol::hit::PinnedBlock;
use larder_protocol::message::{PutOutcome, Refusal, Reply, Request};

use crate::guests::Guest;
use crate::harness::{Agent, Setup, may_become_others};
use crate::raw::{Greeting, Raw};
use crate::raw_calls::Map;
use crate::roles::{Actor, Part, STRANGER, VICTIM};
use crate::session::{Session, payload};

/// Whatever a hoarder holds on to.
#[derive(Default)]
struct Hoard {
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
    fn take_all(&mut self, socket: &std::path::Path, way: &str, most: usize) -> (usize, Option<Refusal>) {
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

    fn greeted(socket: &std::path::Path) -> Result<(Raw, Greeting), Refusal> {
        let mut raw = Raw::connect(socket);
        let greeting = raw.hello()?;
        Ok((raw, greeting))
    }

    /// A session with its staging.
    fn staging(&mut self, socket: &std::path::Path) -> Result<(), Refusal> {
        let (mut raw, greeting) = Self::greeted(socket)?;
        let (_, _, fd) = raw.memory(Request::Staging)?;
        self.descriptors.push(fd);
        self.sessions.push((raw, greeting));
        Ok(())
    }

    /// A session with all the slot pages that it may have.
    fn slots(&mut self, socket: &std::path::Path) -> Result<(), Refusal> {
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
    fn kept_staging(&mut self, socket: &std::path::Path) -> Result<(), Refusal> {
        let (mut raw, _greeting) = Self::greeted(socket)?;
        let (_, len, fd) = raw.memory(Request::Staging)?;
        self.keep(&fd, len);
        Ok(())
    }

    fn create(raw: &mut Raw, namespace: u64, key: String, len: u64) -> Result<(u64, OwnedFd), Refusal> {
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

    fn writers(&mut self, socket: &std::path::Path, n: usize) -> Result<(), Refusal> {
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
    fn kept_writer(&mut self, socket: &std::path::Path, n: usize) -> Result<(), Refusal> {
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
    fn orphan(&mut self, socket: &std::path::Path) -> Result<(), Refusal> {
        let (mut raw, greeting) = Self::greeted(socket)?;
        assert_eq!(raw.mapped(greeting.welcome.slots_memory), Reply::Done);
        self.keep(&greeting.slots, greeting.slots_len());
        Ok(())
    }

    /// Puts that are begun and never ended, all at the same time.
    fn puts_begun(&mut self, socket: &std::path::Path, n: usize) -> Result<(), Refusal> {
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

    fn reader(&mut self, socket: &std::path::Path) -> &mut Session {
        if self.readers.is_empty() {
            self.readers.push(Session::open(socket));
        }
        &mut self.readers[0]
    }

    /// Everything that can be put, pinned.
    fn pin(&mut self, socket: &std::path::Path, n: usize) -> Result<(), Refusal> {
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
    fn retired(&mut self, socket: &std::path::Path, n: usize) -> Result<(), Refusal> {
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
}

const WAYS: [&str; 9] =
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
        _ => 3000,
    };
    let (count, refusal) = hoard.take_all(&part.socket, way, most);
    if way == "pins" {
        // What was put before the refusal is pinned now, beyond any quota for pins.
        for n in 0..count {
            let _ = hoard.pin(&part.socket, 1000 + n);
        }
    }
    part.say("READY", format!("{count} times, then {refusal:?}"));
    part.stay();
    drop(hoard);
}

/// What one user holds in any way is bounded by its own quota, and leaves the others theirs.
#[track_caller]
fn hoard_beside_a_guest(way: &str, setup: &Setup, mebibytes: u64) {
    let agent = Agent::with(setup);
    let mut baseline = agent.baseline();
    let mut hoarder = Actor::start_as(Some(STRANGER), "hoarder", agent.socket(), way);
    eprintln!("{way}: {}", hoarder.expect("READY"));
    let stat = baseline.monitor().stat();
    assert!(stat.memory_bytes <= stat.capacity_bytes, "{way}: {stat:?}");
    let descriptors = stat.descriptors;
    assert!(descriptors < 6000, "{way}: {descriptors} descriptors");
    let mut guest = Guest::invite(&agent);
    guest.fill(mebibytes);
    guest.finish();
    hoarder.kill();
    baseline.allow_others(40);
    baseline.holds();
}

#[test]
fn heavy_a_hoarder_with_a_quota_leaves_others_theirs() {
    if !may_become_others() {
        return;
    }
    for way in WAYS {
        let setup = Setup { args: ["--tenant-quota", "120MiB"].map(str::to_owned).into(), ..Setup::default() };
        hoard_beside_a_guest(way, &setup, 50);
    }
}

#[test]
fn heavy_what_is_guaranteed_is_not_lent() {
    if !may_become_others() {
        return;
    }
    for way in WAYS {
        let config = format!("[[tenant]]\nuid = {VICTIM}\nquota = \"200MiB\"\nguaranteed = \"120MiB\"\n");
        hoard_beside_a_guest(way, &Setup { config, ..Setup::default() }, 70);
    }
}

/// Whatever is kept after its session counts until it is let go; then all of it is there again.
#[test]
fn what_is_kept_stays_on_the_account() {
    for way in ["kept-staging", "kept-writers", "orphans", "retired"] {
        let agent = Agent::start();
        let mut baseline = agent.baseline();
        let mut hoard = Hoard::default();
        // Twice what there is, in pieces of 8 MiB: an agent that lets it all go does not take the machine with it.
        let most = if way == "orphans" { 5000 } else { 2 * 256 / 8 };
        let (count, refusal) = hoard.take_all(agent.socket(), way, most);
        let stat = baseline.monitor().stat();
        eprintln!("{way}: {count} times, then {refusal:?}; {} MiB in use", stat.memory_bytes >> 20);
        assert!(refusal.is_some(), "{way}: taken {count} times without an end");
        assert!(stat.memory_bytes <= stat.capacity_bytes);
        if way != "orphans" {
            assert!(count <= 256 / 8, "{way}: 8 MiB were had {count} times from 256 MiB");
        }
        drop(hoard);
        baseline.holds();
    }
}

#[test]
fn many_small_writers_cost_no_descriptors() {
    let agent = Agent::start();
    let mut baseline = agent.baseline();
    let before = baseline.monitor().stat().descriptors;
    let mut session = Session::open(agent.socket());
    let namespace = session.namespace("small/writers");
    for n in 0..1000 {
        let (id, fd) = Hoard::create(&mut session.raw, namespace, format!("{n}"), 100).expect("there is room");
        assert_eq!(nix::sys::uio::pwrite(&fd, &[7; 100], 128), Ok(100));
        drop(fd);
        assert_eq!(session.raw.ask(Request::Commit { writer: id }), Reply::Put(PutOutcome::Stored));
    }
    assert!(session.get(namespace, "999").expect("just put").verify());
    let after = baseline.monitor().stat().descriptors;
    assert!(after < before + 100, "{before} descriptors before, {after} after a thousand small writers");
    drop(session);
    baseline.holds();
}

#[test]
fn an_agent_without_descriptors_left() {
    let agent = Agent::with(&Setup { descriptors_max: Some(150), ..Setup::default() });
    let baseline = agent.baseline();
    for _ in 0..3 {
        let mut sessions = Vec::new();
        // More than there can be: some are refused, some not even accepted.
        for _ in 0..250 {
            let raw = Raw::connect(agent.socket());
            let hello = larder_protocol::message::encode_request(&larder_protocol::message::Envelope {
                id: 1,
                timeout_ms: 0,
                request: Request::Hello {
                    layout: larder_protocol::layout::LAYOUT_MAGIC,
                    version: larder_protocol::message::VERSION,
                },
            });
            raw.send_packet(&hello, &[]).expect("the kernel takes it");
            sessions.push(raw);
        }
        // Answered or not, the first ones are.
        for raw in &sessions[..20] {
            assert!(raw.receive().is_some());
        }
        drop(sessions);
        assert!(agent.is_alive());
    }
    baseline.holds();
}

/// Many puts at once that each see room under the quota must not all take it.
#[test]
fn puts_at_the_same_time_stay_under_the_quota() {
    let agent = Agent::with(&Setup { args: ["--tenant-quota", "64MiB"].map(str::to_owned).into(), ..Setup::default() });
    let mut baseline = agent.baseline();
    let mut hoard = Hoard::default();
    hoard.puts_begun(agent.socket(), 0).expect("the sessions are taken");
    let stat = baseline.monitor().stat();
    assert!(
        stat.tenant.segment_bytes <= stat.tenant.quota_bytes,
        "{} MiB of segments under a quota of {} MiB",
        stat.tenant.segment_bytes >> 20,
        stat.tenant.quota_bytes >> 20
    );
    drop(hoard);
    baseline.holds();
}
