//! A lie in every message.

use larder_protocol::layout::LAYOUT_MAGIC;
use larder_protocol::message::{MANY_MAX, PrefetchItem, PutItem, PutOutcome, Refusal, Reply, Request, Staged, VERSION};
use larder_protocol::namespace::{Eviction, NamespaceOptions, Validate};
use larder_protocol::origin::OriginKeys;

use crate::harness::Agent;
use crate::raw::Raw;
use crate::session::Session;

const FAR: u64 = u64::MAX;

fn item(key: &str, offset: u64, len: u64) -> PutItem {
    PutItem { key: key.into(), staged: Staged { offset, len } }
}

/// One of each kind of request, legal in form.
pub(crate) fn every_kind() -> Vec<Request> {
    let (namespace, key) = (1, || "a/key".to_owned());
    let name = || "a/name".to_owned();
    let options = NamespaceOptions {
        eviction: Eviction::Keep,
        overwrite: true,
        quota_bytes: Some(1 << 20),
        ttl_ms: Some(1000),
        durability: None,
        validate: Validate::Never,
    };
    vec![
        Request::Hello { layout: LAYOUT_MAGIC, version: VERSION },
        Request::Mapped { memory: 1 },
        Request::Received { count: 1 },
        Request::MoreSlots,
        Request::Staging,
        Request::Ring,
        Request::Doorbell,
        Request::Table,
        Request::Segment { segment: 1 },
        Request::Ping,
        Request::OpenNamespace { name: name(), options: Some(options.clone()) },
        Request::OpenNamespace { name: name(), options: None },
        Request::SetNamespace { name: name(), options },
        Request::ShowNamespace { name: name() },
        Request::ListNamespaces { after: String::new() },
        Request::RemoveNamespace { name: name() },
        Request::Get { namespace, key: key() },
        Request::Wait { namespace, key: key() },
        Request::Put { namespace, item: item("a/key", 0, 100) },
        Request::PutMany { namespace, items: vec![item("a", 0, 1), item("b", 64, 100), item("c", 0, 0)] },
        Request::PutBegin { namespace, key: key(), len: 1000 },
        Request::PutChunk { put: 1, staged: Staged { offset: 0, len: 10 } },
        Request::PutEnd { put: 1 },
        Request::Abandon { put: 1 },
        Request::Create { namespace, key: key(), len: 5000 },
        Request::Commit { writer: 1 },
        Request::Delete { namespace, key: key() },
        Request::List { namespace, prefix: String::new(), children: false, cursor: 0 },
        Request::Sync { namespace },
        Request::Fetch { namespace, key: key(), url: "http://127.0.0.1:1/".into() },
        Request::Credential { prefix: "http://host/".into(), keys: OriginKeys::Bearer("t".into()) },
        Request::FileFollows,
        Request::FetchFile { namespace, key: key(), path: "/a".into() },
        Request::OpenObject { namespace, key: key(), url: "http://127.0.0.1:1/".into() },
        Request::OpenObjectFile { namespace, key: key(), path: "/a".into() },
        Request::Chunk { namespace, key: key(), version: 1, index: 0 },
        Request::PrefetchChunks { namespace, key: key(), version: 1, index: 0, count: 1 },
        Request::Prefetch { namespace, items: vec![PrefetchItem { key: key(), url: None }] },
        Request::Clear { name: name() },
        Request::Stat,
        Request::Pins,
    ]
}

#[test]
fn nothing_is_done_before_hello() {
    let agent = Agent::start();
    let baseline = agent.baseline();
    let mut raw = Raw::connect(agent.socket());
    for request in every_kind() {
        if !matches!(request, Request::Hello { .. }) {
            assert!(matches!(raw.refused(request), Refusal::Invalid(_)));
        }
    }
    drop(raw);
    baseline.holds();
}

#[test]
fn absurd_numbers_in_every_request() {
    let agent = Agent::start();
    let baseline = agent.baseline();
    let mut raw = Raw::bare(agent.socket());
    raw.staging();
    let namespace = raw.namespace("real");
    let key = || "k".to_owned();
    for segment in [0, 1 << 20, u32::MAX] {
        assert_eq!(raw.refused(Request::Segment { segment }), Refusal::NotFound);
    }
    for wrong in [0, namespace + 1000, FAR, FAR - 1, 1 << 63] {
        let namespaced = [
            Request::Get { namespace: wrong, key: key() },
            Request::Wait { namespace: wrong, key: key() },
            Request::Delete { namespace: wrong, key: key() },
            Request::Put { namespace: wrong, item: item("k", 0, 10) },
            Request::PutBegin { namespace: wrong, key: key(), len: 10 },
            Request::Create { namespace: wrong, key: key(), len: 10 },
            Request::List { namespace: wrong, prefix: String::new(), children: true, cursor: 0 },
            Request::Sync { namespace: wrong },
            Request::Fetch { namespace: wrong, key: key(), url: "http://127.0.0.1:1/".into() },
        ];
        for request in namespaced {
            assert_eq!(raw.refused(request), Refusal::Cleared { namespace: 0 });
        }
    }
    for len in [FAR, FAR - 1, 1 << 63, 1 << 40, (256 << 20) + 1] {
        let begin = Request::PutBegin { namespace, key: key(), len };
        assert!(matches!(raw.refused(begin), Refusal::TooLarge { .. }), "PutBegin of {len}");
        let create = Request::Create { namespace, key: key(), len };
        assert!(matches!(raw.refused(create), Refusal::TooLarge { .. }), "Create of {len}");
    }
    for number in [0, 1, FAR] {
        let staged = Staged { offset: 0, len: 10 };
        assert!(matches!(raw.refused(Request::PutChunk { put: number, staged }), Refusal::Invalid(_)));
        assert!(matches!(raw.refused(Request::PutEnd { put: number }), Refusal::Invalid(_)));
        assert!(matches!(raw.refused(Request::Commit { writer: number }), Refusal::Invalid(_)));
        raw.send(Request::Abandon { put: number });
        raw.send(Request::Received { count: u32::MAX });
    }
    for cursor in [1, 2, FAR] {
        let list = Request::List { namespace, prefix: String::new(), children: false, cursor };
        assert!(matches!(raw.refused(list), Refusal::Invalid(_)));
    }
    assert!(matches!(raw.refused(Request::Resize { capacity: 0 }), Refusal::Invalid(_)));
    for capacity in [1, FAR, 1 << 60] {
        assert!(matches!(raw.refused(Request::Resize { capacity }), Refusal::Invalid(_)), "resized to {capacity}");
    }
    drop(raw);
    baseline.holds();
}

#[test]
fn staging_ranges_that_are_not_there() {
    let agent = Agent::start();
    let baseline = agent.baseline();
    let mut raw = Raw::bare(agent.socket());
    let namespace = raw.namespace("staged");
    let refused = raw.refused(Request::Put { namespace, item: item("early", 0, 10) });
    assert!(matches!(refused, Refusal::Invalid(_)), "before there is staging: {refused:?}");
    // Lent, but not mapped and sealed yet.
    let (memory, len, fd) = raw.memory(Request::Staging).expect("a session may have staging");
    let early = Request::Put { namespace, item: item("early", 0, 10) };
    assert!(matches!(raw.refused(early), Refusal::Invalid(_)));
    assert_eq!(raw.mapped(memory), Reply::Done);
    assert!(matches!(raw.refused(Request::Staging), Refusal::Invalid(_)), "staging twice");
    drop(fd);
    let len = len as u64;
    let outside = [
        (0, len + 1),
        (len, 1),
        (len - 1, 2),
        (1, FAR),
        (FAR, 1),
        (FAR, FAR),
        (FAR - 10, 20),
        (1 << 63, 1 << 63),
        (len + 4096, 4096),
    ];
    let begin = Request::PutBegin { namespace, key: "chunks".into(), len: len * 2 };
    let put = raw.send(begin);
    for (offset, len) in outside {
        let whole = Request::Put { namespace, item: item("outside", offset, len) };
        assert!(matches!(raw.refused(whole), Refusal::Invalid(_)), "{offset}+{len}");
        let staged = Staged { offset, len };
        assert!(matches!(raw.refused(Request::PutChunk { put, staged }), Refusal::Invalid(_)), "{offset}+{len}");
        let items = vec![item("in/a", 0, 10), item("out", offset, len), item("in/b", 5, 10)];
        match raw.ask(Request::PutMany { namespace, items }) {
            Reply::PutMany(outcomes) => {
                assert_eq!(outcomes.len(), 3);
                assert!(outcomes[0].is_ok() && outcomes[2].is_ok(), "{outcomes:?}");
                assert!(matches!(outcomes[1], Err(Refusal::Invalid(_))), "{outcomes:?}");
            }
            other => panic!("PutMany was answered by {other:?}"),
        }
    }
    // An empty payload lies nowhere, so its offset means nothing.
    let empty = Request::Put { namespace, item: item("empty", FAR, 0) };
    assert_eq!(raw.ask(empty), Reply::Put(PutOutcome::Stored));
    // The very last byte, and all of it.
    let last = Request::Put { namespace, item: item("last", len - 1, 1) };
    assert_eq!(raw.ask(last), Reply::Put(PutOutcome::Stored));
    let all = Request::Put { namespace, item: item("all", 0, len) };
    assert_eq!(raw.ask(all), Reply::Put(PutOutcome::Stored));
    let mut honest = Session::open(agent.socket());
    for key in ["empty", "last", "all", "in/a", "in/b"] {
        assert!(honest.get(namespace, key).expect("just put").verify(), "{key}");
    }
    drop((raw, honest));
    baseline.holds();
}

#[test]
fn puts_in_chunks_that_go_wrong() {
    let agent = Agent::start();
    let baseline = agent.baseline();
    let mut raw = Raw::bare(agent.socket());
    raw.staging();
    let namespace = raw.namespace("chunks");
    let begin = |key: &str, len| Request::PutBegin { namespace, key: key.into(), len };
    let chunk = |put, len| Request::PutChunk { put, staged: Staged { offset: 0, len } };
    let put = raw.send(begin("a", 1000));
    assert_eq!(raw.ask(chunk(put, 999)), Reply::Done);
    for len in [2, 1000, 4 << 20] {
        assert!(matches!(raw.refused(chunk(put, len)), Refusal::Invalid(_)), "chunk of {len}");
    }
    assert!(matches!(raw.refused(Request::PutEnd { put }), Refusal::Invalid(_)), "ended early");
    assert!(matches!(raw.refused(Request::PutEnd { put }), Refusal::Invalid(_)), "ended twice");
    assert!(matches!(raw.refused(chunk(put, 1)), Refusal::Invalid(_)), "a chunk after the end");

    // Sixteen may be under way, and the seventeenth is refused; each of the sixteen then ends well.
    let puts: Vec<u64> = (0..16).map(|n| raw.send(begin(&format!("many/{n}"), 10))).collect();
    let refusal = raw.refused(begin("many/16", 10));
    assert!(matches!(refusal, Refusal::TooMany(_)), "{refusal:?}");
    for put in puts {
        assert_eq!(raw.ask(chunk(put, 10)), Reply::Done);
        assert_eq!(raw.ask(Request::PutEnd { put }), Reply::Put(PutOutcome::Stored));
    }
    // A namespace that goes while a put into it is under way takes the put with it.
    let put = raw.send(begin("late", 10));
    assert_eq!(raw.ask(chunk(put, 10)), Reply::Done);
    raw.ask(Request::RemoveNamespace { name: "chunks".into() });
    assert!(matches!(raw.refused(Request::PutEnd { put }), Refusal::Cleared { namespace: 0 }));
    // What was begun and never ended goes with the session.
    let namespace = raw.namespace("chunks");
    for n in 0..16 {
        raw.send(Request::PutBegin { namespace, key: format!("left/{n}"), len: 4 << 20 });
    }
    drop(raw);
    baseline.holds();
}

#[test]
fn more_than_fits_one_message() {
    let agent = Agent::start();
    let baseline = agent.baseline();
    let mut raw = Raw::bare(agent.socket());
    raw.staging();
    // The longest name there may be, so that each refusal that carries it is long too.
    let name = "n".repeat(255);
    let options = NamespaceOptions { quota_bytes: Some(0), ..NamespaceOptions::default() };
    let namespace = match raw.ask(Request::OpenNamespace { name, options: Some(options) }) {
        Reply::Namespace(info) => info.namespace,
        other => panic!("OpenNamespace was answered by {other:?}"),
    };
    let items = |count: usize| -> Vec<PutItem> { (0..count).map(|n| item(&format!("{n}"), 0, 10)).collect() };
    let too_many = Request::PutMany { namespace, items: items(MANY_MAX + 1) };
    assert!(matches!(raw.refused(too_many), Refusal::Invalid(_)));
    // As many as allowed, all refused: the answer must be one that a client can receive.
    let full = Request::PutMany { namespace, items: items(MANY_MAX) };
    match raw.ask(full) {
        Reply::PutMany(outcomes) => {
            assert_eq!(outcomes.len(), MANY_MAX);
            assert!(outcomes.iter().all(|outcome| matches!(outcome, Err(Refusal::Quota { .. }))));
        }
        other => panic!("PutMany was answered by {other:?}"),
    }
    drop(raw);
    baseline.holds();
}

#[test]
fn keys_and_names_that_are_not_legal() {
    let agent = Agent::start();
    let baseline = agent.baseline();
    let mut raw = Raw::bare(agent.socket());
    raw.staging();
    let namespace = raw.namespace("legal");
    let long = "k".repeat(1025);
    let huge = "k".repeat(50_000);
    let dots = "../".repeat(300);
    for key in ["", "/", "a/", "/a", "a//b", ".", "..", "a/../b", "a\0b", "\n", "\u{85}", &long, &huge, &dots] {
        let key = || key.to_owned();
        let requests = [
            Request::Get { namespace, key: key() },
            Request::Wait { namespace, key: key() },
            Request::Delete { namespace, key: key() },
            Request::Put { namespace, item: item(&key(), 0, 1) },
            Request::PutMany { namespace, items: vec![item("good", 0, 1), item(&key(), 0, 1)] },
            Request::PutBegin { namespace, key: key(), len: 1 },
            Request::Create { namespace, key: key(), len: 1 },
            Request::OpenNamespace { name: key(), options: None },
            Request::SetNamespace { name: key(), options: NamespaceOptions::default() },
            Request::ShowNamespace { name: key() },
            Request::RemoveNamespace { name: key() },
            Request::Clear { name: key() },
        ];
        for request in requests {
            assert!(matches!(raw.refused(request), Refusal::BadKey(_)));
        }
    }
    // Where any text may stand, any text does no harm.
    for text in [&huge, &dots, "\0", "é\u{ffff}"] {
        raw.ask(Request::ListNamespaces { after: text.into() });
        for children in [true, false] {
            let list = Request::List { namespace, prefix: text.into(), children, cursor: 0 };
            assert!(matches!(raw.ask(list), Reply::Names { cursor: 0, .. }));
        }
    }
    drop(raw);
    baseline.holds();
}
