//! Writers who go on writing.

use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::Ordering;

use larder_protocol::memory::Mapping;
use larder_protocol::message::{PutOutcome, Refusal, Reply, Request};
use larder_protocol::words::{MappedWords, Words};
use nix::fcntl::{FallocateFlags, FcntlArg, SealFlag, fallocate, fcntl};
use nix::sys::uio::pwrite;

use crate::harness::Agent;
use crate::raw::Raw;
use crate::raw_calls::Map;
use crate::scribble::while_scribbling;
use crate::session::{Session, below, next, payload};

/// Of a payload that is published where it is, without a copy.
const LARGE: usize = 3_000_000;

/// A writer that was lent its memory.
struct Writer {
    id: u64,
    len: usize,
    offset: u64,
    fd: OwnedFd,
}

impl Writer {
    #[track_caller]
    fn create(raw: &mut Raw, namespace: u64, key: &str, len: usize) -> Writer {
        let id = raw.send(Request::Create { namespace, key: key.into(), len: len as u64 });
        let (answer, mut descriptors) = raw.receive().expect("an answer");
        assert_eq!(answer.id, id);
        let Reply::WriterMemory { len, offset } = answer.reply else { panic!("Create was answered by {answer:?}") };
        raw.received(1);
        Writer { id, len: usize::try_from(len).expect("fits"), offset, fd: descriptors.remove(0) }
    }

    fn map(&self) -> MappedWords {
        let mapping = Mapping::read_write(&self.fd, self.len).expect("a writer may write");
        MappedWords::new(Arc::new(mapping), 0, self.len / 8)
    }

    fn fill(&self, bytes: &[u8]) {
        let at = i64::try_from(self.offset).expect("fits");
        assert_eq!(pwrite(&self.fd, bytes, at), Ok(bytes.len()));
    }

    fn commit(&self, raw: &mut Raw) -> Reply {
        raw.ask(Request::Commit { writer: self.id })
    }
}

#[track_caller]
fn assert_whole(session: &mut Session, namespace: u64, key: &str) -> Vec<u8> {
    let block = session.get(namespace, key).expect("just committed");
    assert!(block.verify(), "{key} does not match its checksums");
    block.as_slice().to_vec()
}

#[test]
fn memory_that_is_still_mapped_at_the_commit_is_copied() {
    let agent = Agent::start();
    let baseline = agent.baseline();
    let mut session = Session::open(agent.socket());
    let namespace = session.namespace("kept");
    for len in [0, 1, 5000, 100_000, 20 << 20] {
        let key = format!("copied/{len}");
        let bytes = payload(len as u64 + 1, len);
        let writer = Writer::create(&mut session.raw, namespace, &key, len);
        writer.fill(&bytes);
        let kept = writer.map();
        assert_eq!(writer.commit(&mut session.raw), Reply::Put(PutOutcome::Stored));
        assert!(assert_whole(&mut session, namespace, &key) == bytes);
        // The map that was kept is of other memory by now.
        for word in 0..kept.len() {
            kept.store(word, u64::MAX, Ordering::Relaxed);
        }
        assert!(assert_whole(&mut session, namespace, &key) == bytes, "{key} changed after its commit");
        assert!(matches!(session.raw.refused(Request::Commit { writer: writer.id }), Refusal::Invalid(_)));
    }
    drop(session);
    baseline.holds();
}

#[test]
fn scribbling_through_another_map_during_the_commit() {
    let agent = Agent::start();
    let baseline = agent.baseline();
    let mut session = Session::open(agent.socket());
    let namespace = session.namespace("scribbled");
    for round in 0..30 {
        let key = format!("{round}");
        let writer = Writer::create(&mut session.raw, namespace, &key, LARGE);
        let words = writer.map();
        let scribble = |state: &mut u64| {
            // Header, key, payload and checksums alike.
            words.store(below(state, words.len()), next(state), Ordering::Relaxed);
        };
        match while_scribbling(scribble, || writer.commit(&mut session.raw)) {
            Reply::Put(PutOutcome::Stored) => {
                assert_whole(&mut session, namespace, &key);
            }
            Reply::Refused(Refusal::Invalid(_)) => {}
            other => panic!("round {round}: {other:?}"),
        }
    }
    drop(session);
    baseline.holds();
}

#[test]
fn mapping_and_unmapping_during_the_commit() {
    let agent = Agent::start();
    let baseline = agent.baseline();
    let mut session = Session::open(agent.socket());
    let namespace = session.namespace("flicker");
    let (mut stored, mut changed) = (0, 0);
    for round in 0..60_u64 {
        let key = format!("{round}");
        let len = [1000, 70_000, LARGE][usize::try_from(round).expect("small") % 3];
        let writer = Writer::create(&mut session.raw, namespace, &key, len);
        writer.fill(&payload(round + 1, len));
        let fd = writer.fd.as_fd();
        let offset = i64::try_from(writer.offset).expect("fits");
        // Between two of these nobody has it mapped for writing, and the seal can come in just there.
        let flicker = |state: &mut u64| {
            if let Ok(mapping) = Mapping::read_write(fd, writer.len) {
                mapping.write_word(below(state, writer.len / 8) * 8, next(state));
            }
            let _ = pwrite(fd, &next(state).to_le_bytes(), offset);
        };
        match while_scribbling(flicker, || writer.commit(&mut session.raw)) {
            Reply::Put(PutOutcome::Stored) => {
                assert_whole(&mut session, namespace, &key);
                stored += 1;
            }
            Reply::Refused(Refusal::Invalid(_)) => changed += 1,
            other => panic!("round {round}: {other:?}"),
        }
    }
    eprintln!("{stored} stored, {changed} refused because they changed");
    drop(session);
    baseline.holds();
}

/// What is done to a writer's memory.
type Tamper<'a> = &'a dyn Fn(&Writer);

#[test]
fn writers_memory_that_was_tampered_with() {
    let agent = Agent::start();
    let baseline = agent.baseline();
    let mut session = Session::open(agent.socket());
    let namespace = session.namespace("tampered");
    let len = LARGE;
    let add = |writer: &Writer, seals| fcntl(&writer.fd, FcntlArg::F_ADD_SEALS(seals));
    let tamperings: [(&str, Tamper<'_>); 5] = [
        ("sealed against seals", &|writer| {
            add(writer, SealFlag::F_SEAL_SEAL).expect("allowed");
        }),
        ("sealed against future writing", &|writer| {
            // F_SEAL_FUTURE_WRITE, where the kernel has it.
            let _ = add(writer, SealFlag::from_bits_retain(0x10));
        }),
        ("sealed against writing", &|writer| {
            add(writer, SealFlag::F_SEAL_WRITE).expect_err("the agent has it mapped for writing");
        }),
        ("punched", &|writer| {
            let hole = FallocateFlags::FALLOC_FL_PUNCH_HOLE | FallocateFlags::FALLOC_FL_KEEP_SIZE;
            fallocate(&writer.fd, hole, 0, i64::try_from(writer.len).expect("fits")).expect("not sealed yet");
        }),
        ("resized", &|writer| {
            nix::unistd::ftruncate(&writer.fd, 0).expect_err("its size is sealed");
            nix::unistd::ftruncate(&writer.fd, 1 << 30).expect_err("its size is sealed");
        }),
    ];
    for (name, tamper) in tamperings {
        for mapped in [false, true] {
            let key = format!("{name}/{mapped}").replace(' ', "-");
            let writer = Writer::create(&mut session.raw, namespace, &key, len);
            writer.fill(&payload(3, len));
            let map = mapped.then(|| Map::new(&writer.fd, writer.len, true).expect("not sealed yet"));
            tamper(&writer);
            match writer.commit(&mut session.raw) {
                Reply::Put(PutOutcome::Stored) => {
                    let bytes = assert_whole(&mut session, namespace, &key);
                    let expected = if name == "punched" { vec![0; len] } else { payload(3, len) };
                    assert!(bytes == expected, "{name}, mapped: {mapped}");
                }
                other => panic!("{name}, mapped: {mapped}: {other:?}"),
            }
            drop(map);
        }
    }
    drop(session);
    baseline.holds();
}

#[test]
fn writers_without_end() {
    let agent = Agent::start();
    let baseline = agent.baseline();
    let mut raw = Raw::bare(agent.socket());
    let namespace = raw.namespace("endless");
    let writers: Vec<Writer> = (0..16).map(|n| Writer::create(&mut raw, namespace, &format!("{n}"), 1 << 20)).collect();
    let seventeenth = Request::Create { namespace, key: "16".into(), len: 1 };
    assert!(matches!(raw.refused(seventeenth.clone()), Refusal::TooMany(_)));
    // Abandoned through the wrong door and the right one.
    assert!(matches!(raw.refused(Request::PutEnd { put: writers[0].id }), Refusal::Invalid(_)));
    raw.send(Request::Abandon { put: writers[0].id });
    assert!(matches!(raw.refused(Request::Commit { writer: writers[0].id }), Refusal::Invalid(_)));
    let mut answered = raw.call(seventeenth);
    assert!(matches!(answered.reply, Reply::WriterMemory { .. }), "{answered:?}");
    answered.descriptors.clear();
    // Cleared under its writers: none of them may land in the next incarnation.
    raw.ask(Request::Clear { name: "endless".into() });
    assert!(matches!(raw.refused(Request::Commit { writer: writers[1].id }), Refusal::Cleared { .. }));
    drop((raw, writers));
    baseline.holds();
}
