//! Descriptors that a client sends, and what it asks to be fetched from them.

use std::fs::File;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;

use larder_protocol::message::{Envelope, NO_TIMEOUT, PrefetchItem, Refusal, Reply, Request, encode_request};
use nix::fcntl::OFlag;
use nix::sys::stat::Mode;

use crate::harness::Agent;
use crate::raw::Raw;

/// Sends a fetch with descriptors beside it, announced so many times. The number of the request.
fn send_file(raw: &mut Raw, namespace: u64, announced: usize, descriptors: &[BorrowedFd<'_>]) -> u64 {
    for _ in 0..announced {
        raw.send(Request::FileFollows);
    }
    let request = Request::FetchFile { namespace, key: "k".into(), path: "/some/file".into() };
    // A number that `Raw` does not give.
    let packet = encode_request(&Envelope { id: 1 << 40, timeout_ms: NO_TIMEOUT, request });
    raw.send_packet(&packet, descriptors).expect("the agent takes the packet");
    1 << 40
}

fn assert_refused(raw: &mut Raw, namespace: u64, url: &str) {
    let refusal = raw.refused(Request::Fetch { namespace, key: "k".into(), url: url.to_owned() });
    assert!(matches!(refusal, Refusal::Invalid(_) | Refusal::Denied(_)), "{url:?}: {refusal:?}");
}

#[test]
fn only_a_file_that_is_open_for_reading_is_read() {
    let agent = Agent::start();
    let baseline = agent.baseline();
    let mut raw = Raw::bare(agent.socket());
    let namespace = raw.namespace("files");
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("file");
    std::fs::write(&path, b"bytes of a file").unwrap();
    let open =
        |path: &std::path::Path, how: OFlag| nix::fcntl::open(path, how | OFlag::O_CLOEXEC, Mode::empty()).unwrap();
    let (pipe, _write) = nix::unistd::pipe().unwrap();
    let wrong: Vec<OwnedFd> = vec![
        open(&path, OFlag::O_WRONLY),
        open(&path, OFlag::O_PATH),
        open(directory.path(), OFlag::O_RDONLY),
        open("/dev/zero".as_ref(), OFlag::O_RDONLY),
        UnixStream::pair().unwrap().0.into(),
        pipe,
    ];
    for (n, descriptor) in wrong.iter().enumerate() {
        let id = send_file(&mut raw, namespace, 1, &[descriptor.as_fd()]);
        let reply = raw.receive_any(&[id]);
        assert!(
            matches!(reply, Reply::Refused(Refusal::Invalid(_) | Refusal::Denied(_) | Refusal::Origin(_))),
            "{n}: {reply:?}"
        );
    }
    // One that was announced twice serves once, and others beside it are closed.
    let good = File::open(&path).unwrap();
    let id = send_file(&mut raw, namespace, 2, &[good.as_fd(), good.as_fd(), good.as_fd()]);
    assert!(matches!(raw.receive_any(&[id]), Reply::Resident));
    drop(raw);
    baseline.holds();
}

#[test]
fn what_was_not_announced_never_enters() {
    let agent = Agent::start();
    let mut baseline = agent.baseline();
    let mut raw = Raw::bare(agent.socket());
    let namespace = raw.namespace("files");
    let before = baseline.monitor().stat().descriptors;
    let good = File::open("/proc/self/exe").unwrap();
    for _ in 0..200 {
        let id = send_file(&mut raw, namespace, 0, &[good.as_fd(); 4]);
        assert!(matches!(raw.receive_any(&[id]), Reply::Refused(Refusal::Invalid(_))));
    }
    assert!(baseline.monitor().stat().descriptors <= before);
    // Announced, and sent beside something else: it is closed when that is answered.
    for _ in 0..20 {
        raw.send(Request::FileFollows);
        let packet = encode_request(&Envelope { id: 7, timeout_ms: NO_TIMEOUT, request: Request::Ping });
        raw.send_packet(&packet, &[good.as_fd()]).unwrap();
        assert!(matches!(raw.receive_any(&[7]), Reply::Pong(_)));
    }
    assert!(baseline.monitor().stat().descriptors <= before);
    drop(raw);
    baseline.holds();
}

#[test]
fn too_many_descriptors_end_the_session() {
    let agent = Agent::start();
    let baseline = agent.baseline();
    let good = File::open("/proc/self/exe").unwrap();
    let mut raw = Raw::bare(agent.socket());
    let namespace = raw.namespace("files");
    send_file(&mut raw, namespace, 1, &[good.as_fd(); 5]);
    assert!(raw.receive().is_none(), "the session is over");
    let mut raw = Raw::bare(agent.socket());
    for _ in 0..65 {
        raw.send(Request::FileFollows);
    }
    assert!(raw.receive().is_none(), "the session is over");
    baseline.holds();
}

#[test]
fn a_flood_of_fetches_is_bounded() {
    let agent = Agent::start();
    let baseline = agent.baseline();
    let mut raw = Raw::bare(agent.socket());
    let namespace = raw.namespace("files");
    let items = |round: usize| {
        // Nothing answers there, and nobody but root may ask; both must be cheap.
        let url = |n: usize| Some(format!("http://127.0.0.1:1/{round}/{n}"));
        (0..128).map(|n| PrefetchItem { key: format!("{round}/{n}"), url: url(n) }).collect::<Vec<_>>()
    };
    for round in 0..50 {
        assert!(matches!(raw.ask(Request::Prefetch { namespace, items: items(round) }), Reply::Done));
    }
    for url in ["", "x", "http://", "file:///etc/passwd", "s3://", &"a".repeat(9000)] {
        assert_refused(&mut raw, namespace, url);
    }
    for (version, index) in [(0, 0), (u64::MAX, u64::MAX), (1, u64::MAX / 2)] {
        let chunk = Request::Chunk { namespace, key: "k".into(), version, index };
        assert_eq!(raw.refused(chunk), Refusal::NotFound);
        let count = u32::MAX;
        let ahead = Request::PrefetchChunks { namespace, key: "k".into(), version, index, count };
        assert!(matches!(raw.ask(ahead), Reply::Done));
    }
    drop(raw);
    baseline.holds();
}
