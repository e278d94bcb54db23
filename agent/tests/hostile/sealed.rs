//! Writing what was lent for reading, by every door there is.

use std::fs::File;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};

use larder_protocol::layout::{control, life};
use larder_protocol::message::{Refusal, Reply, Request};
use nix::fcntl::{FallocateFlags, FcntlArg, SealFlag, fallocate, fcntl};
use nix::sys::stat::fstat;
use nix::sys::uio::pwrite;
use nix::unistd::ftruncate;

use crate::harness::Agent;
use crate::raw::Raw;
use crate::raw_calls::Map;
use crate::session::{Session, payload};

/// All that one descriptor might be used for against its memory, which must all be refused.
#[track_caller]
fn assert_descriptor_is_harmless(fd: impl AsFd, len: usize, what: &str) {
    let fd = fd.as_fd();
    let len_signed = i64::try_from(len).expect("fits");
    assert!(Map::new(fd, len, true).is_err(), "{what} can be mapped for writing");
    if let Ok(map) = Map::new(fd, len, false) {
        assert!(map.make_writable().is_err(), "a map of {what} can be made writable");
        assert!(map.remove_pages().is_err(), "pages of {what} can be removed");
    }
    assert!(pwrite(fd, &[0xff; 64], 0).is_err(), "{what} can be written");
    for other in [0, 4096, len_signed - 4096, len_signed + 4096, 1 << 40] {
        let resized = other != len_signed && ftruncate(fd, other).is_ok();
        assert!(!resized, "{what} can be given {other} bytes");
    }
    let hole = FallocateFlags::FALLOC_FL_PUNCH_HOLE | FallocateFlags::FALLOC_FL_KEEP_SIZE;
    let modes = [
        hole,
        FallocateFlags::FALLOC_FL_ZERO_RANGE,
        FallocateFlags::FALLOC_FL_COLLAPSE_RANGE,
        FallocateFlags::FALLOC_FL_INSERT_RANGE,
    ];
    for mode in modes {
        assert!(fallocate(fd, mode, 0, len_signed).is_err(), "{what} allows {mode:?}");
    }
    let beyond = fallocate(fd, FallocateFlags::empty(), 0, len_signed + 4096);
    assert!(beyond.is_err(), "{what} can be extended");
    let seals = SealFlag::F_SEAL_WRITE | SealFlag::F_SEAL_SEAL;
    let sealed = fcntl(fd, FcntlArg::F_ADD_SEALS(seals));
    assert!(sealed.is_err(), "{what} takes more seals, which would stop the agent's own writes");
    let size = fstat(fd).expect("open").st_size;
    assert_eq!(size, len_signed, "{what} changed its size");
}

/// The same, and through every way of opening the descriptor once more.
#[track_caller]
fn assert_read_only(fd: &OwnedFd, len: usize, what: &str) {
    assert_descriptor_is_harmless(fd, len, what);
    let pid = std::process::id();
    for directory in ["/proc/self/fd".to_owned(), "/proc/thread-self/fd".into(), format!("/proc/{pid}/fd")] {
        let path = format!("{directory}/{}", fd.as_raw_fd());
        let ways = [
            File::options().read(true).write(true).open(&path),
            File::options().write(true).open(&path),
            File::options().append(true).open(&path),
            File::options().read(true).open(&path),
            // The truncation belongs to the open, which must fail as a whole.
            File::options().write(true).truncate(true).open(&path),
        ];
        // The kernel lets the owner and root open it again; the seals must hold then.
        for reopened in ways.into_iter().flatten() {
            assert_descriptor_is_harmless(&reopened, len, &format!("{what}, re-opened by {directory},"));
        }
    }
    assert_descriptor_is_harmless(fd, len, what);
}

fn lent(raw: &mut Raw, request: Request) -> Option<(OwnedFd, usize)> {
    let mut answered = raw.call(request);
    match answered.reply {
        Reply::Table { len } | Reply::Segment { len } => {
            raw.received(1);
            Some((answered.descriptors.remove(0), usize::try_from(len).expect("fits")))
        }
        Reply::Refused(Refusal::NotFound) => None,
        other => panic!("a request for memory was answered by {other:?}"),
    }
}

#[test]
fn what_is_lent_for_reading_cannot_be_written() {
    let agent = Agent::start();
    let baseline = agent.baseline();
    let mut honest = Session::open(agent.socket());
    let namespace = honest.namespace("treasure");
    let bytes = payload(11, 100_000);
    honest.put(namespace, "gold", &bytes).expect("there is room");
    let pinned = honest.get(namespace, "gold").expect("just put");

    // Twice: what was tried the first time must not open a door for the second.
    for _ in 0..2 {
        let (mut raw, greeting) = Raw::greeted(agent.socket());
        if !greeting.welcome.future_write {
            println!(
                "SKIPPED: this kernel has no F_SEAL_FUTURE_WRITE, which is what makes the owner's re-open harmless"
            );
            return;
        }
        assert_read_only(&greeting.life, life::BYTES, "the page of life");
        assert_read_only(&greeting.control, control::BYTES, "the control area");
        let (table, len) = lent(&mut raw, Request::Table).expect("there is a table");
        assert_read_only(&table, len, "the table");
        let mut segments = 0;
        for segment in 0..64 {
            if let Some((fd, len)) = lent(&mut raw, Request::Segment { segment }) {
                assert_read_only(&fd, len, "a segment");
                segments += 1;
            }
        }
        assert!(segments > 0, "there is a segment");
    }
    assert!(pinned.verify() && pinned.as_slice() == bytes);
    drop(pinned);
    drop(honest);
    baseline.holds();
}

#[test]
fn ones_own_memory_cannot_be_taken_from_under_the_agent() {
    let agent = Agent::start();
    let baseline = agent.baseline();
    let (mut raw, greeting) = Raw::greeted(agent.socket());
    if !greeting.welcome.future_write {
        println!("SKIPPED: this kernel has no F_SEAL_FUTURE_WRITE");
        return;
    }
    let slots_len = greeting.slots_len();
    let slots_map = Map::new(&greeting.slots, slots_len, true).expect("not sealed yet");
    assert_eq!(raw.mapped(greeting.welcome.slots_memory), Reply::Done);
    let (memory, staging_len, staging) = raw.memory(Request::Staging).expect("a session may have staging");
    let staging_map = Map::new(&staging, staging_len, true).expect("not sealed yet");
    assert_eq!(raw.mapped(memory), Reply::Done);
    // The maps stay writable: that is their use. But no page of them may go.
    assert!(slots_map.remove_pages().is_err(), "a hole in a sealed slot page");
    assert!(staging_map.remove_pages().is_err(), "a hole in sealed staging");
    assert_read_only(&greeting.slots, slots_len, "a sealed slot page");
    assert_read_only(&staging, staging_len, "sealed staging");
    drop((raw, slots_map, staging_map, greeting, staging));
    baseline.holds();
}

#[test]
fn committed_memory_cannot_be_written_by_its_writer() {
    let agent = Agent::start();
    let baseline = agent.baseline();
    let mut session = Session::open(agent.socket());
    let namespace = session.namespace("writers");
    // Large enough to become a segment of its own.
    let bytes = payload(5, 3_000_000);
    let id = session.raw.send(Request::Create { namespace, key: "mine".into(), len: bytes.len() as u64 });
    let (answer, descriptors) = session.raw.receive().expect("an answer");
    let Reply::WriterMemory { len, offset } = answer.reply else { panic!("Create was answered by {answer:?}") };
    session.raw.received(1);
    let offset = i64::try_from(offset).expect("fits");
    assert_eq!(pwrite(&descriptors[0], &bytes, offset), Ok(bytes.len()));
    // Through a descriptor that cannot write: any other map stops the seal, and the commit copies.
    let path = format!("/proc/self/fd/{}", descriptors[0].as_raw_fd());
    let readable = File::open(path).expect("one's own");
    let kept = Map::new(&readable, usize::try_from(len).expect("fits"), false).expect("readable");
    assert!(matches!(session.raw.ask(Request::Commit { writer: id }), Reply::Put(_)));
    let block = session.get(namespace, "mine").expect("just put");
    assert!(block.verify() && block.as_slice() == bytes);
    assert!(kept.make_writable().is_err(), "a committed map can be made writable");
    assert_read_only(&descriptors[0], usize::try_from(len).expect("fits"), "committed memory");
    assert!(block.verify() && block.as_slice() == bytes);
    drop((block, kept, readable, descriptors, session));
    baseline.holds();
}
