//! Clients against an agent that misbehaves, or that is looked at closely.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use larder_protocol::message::{PutItem, Refusal, Reply, Request};
use tempfile::{TempDir, tempdir};

use crate::fake_agent::{Answers, FakeAgent, STAGING_BYTES};
use crate::{Block, Client, Error, Namespace, OnAbsent, PutOutcome, Writer};

const KIB: usize = 1024;

/// An agent that follows `script`, and a namespace of a client of it.
fn with_script(
    script: impl FnMut(&mut crate::fake_agent::Connection, &Request) -> Option<Answers> + Send + 'static,
) -> (TempDir, FakeAgent, Namespace) {
    let mut script = script;
    let directory = tempdir().unwrap();
    let agent =
        FakeAgent::start(directory.path(), Box::new(move |connection, envelope| script(connection, &envelope.request)));
    let namespace = agent.builder().connect().unwrap().namespace("a/b").unwrap();
    (directory, agent, namespace)
}

fn refuse(refusal: Refusal) -> Option<Answers> {
    Some(Answers::One(Reply::Refused(refusal)))
}

fn payload(len: usize) -> Vec<u8> {
    (0..len).map(|at| u8::try_from(at * 31 % 251).unwrap()).collect()
}

fn poll(what: &str, mut condition: impl FnMut() -> bool) {
    let begun = Instant::now();
    while !condition() {
        assert!(begun.elapsed() < Duration::from_secs(10), "{what} did not come about");
        std::thread::yield_now();
    }
}

#[test]
fn handles_may_be_shared_and_sent() {
    fn shared<T: Clone + Send + Sync>() {}
    fn sent<T: Send>() {}
    shared::<Client>();
    shared::<Namespace>();
    shared::<Block>();
    shared::<Error>();
    sent::<Writer>();
}

#[test]
fn another_version_is_named_as_such() {
    let directory = tempdir().unwrap();
    let agent = FakeAgent::start(
        directory.path(),
        Box::new(|_, envelope| match envelope.request {
            Request::Hello { layout, version } => {
                refuse(Refusal::Version { agent: 9, agent_layout: 8, client: version, client_layout: layout })
            }
            _ => None,
        }),
    );
    let error = agent.builder().connect().unwrap_err();
    assert!(matches!(error, Error::Version { agent: 9, agent_layout: 8, .. }), "{error}");
}

#[test]
fn a_welcome_without_memory_is_refused() {
    let directory = tempdir().unwrap();
    let agent = FakeAgent::start(
        directory.path(),
        Box::new(|_, envelope| match envelope.request {
            Request::Hello { .. } => Some(Answers::With(Reply::Done, 2)),
            _ => None,
        }),
    );
    assert!(matches!(agent.builder().connect(), Err(Error::Agent(_))));
}

#[test]
fn an_agent_that_hangs_up_is_no_agent() {
    let directory = tempdir().unwrap();
    let agent = FakeAgent::start(directory.path(), Box::new(|_, _| Some(Answers::HangUp)));
    assert!(matches!(agent.builder().connect(), Err(Error::NoAgent { .. })));
    let direct = agent.builder().on_absent(OnAbsent::Direct).connect().unwrap();
    assert_eq!(direct.namespace("a").unwrap().put("k", b"v").unwrap(), PutOutcome::NotKept);
}

#[test]
fn an_agent_that_says_nothing_is_given_up_in_time() {
    let directory = tempdir().unwrap();
    let agent = FakeAgent::start(directory.path(), Box::new(|_, _| Some(Answers::None)));
    let error = agent.builder().timeout(Duration::from_millis(20)).connect().unwrap_err();
    assert!(matches!(error, Error::Deadline));
}

#[test]
fn a_timeout_of_zero_asks_nothing() {
    let (_directory, agent, namespace) = with_script(|_, _| None);
    let asked = agent.requests().len();
    let mapped_only = namespace.with_timeout(Duration::ZERO);
    assert!(matches!(mapped_only.get("k"), Err(Error::NotResident)));
    assert!(matches!(mapped_only.put("k", b"v"), Err(Error::NotResident)));
    assert!(matches!(mapped_only.get_many(&["k"])[..], [Err(Error::NotResident)]));
    assert!(matches!(mapped_only.wait("k", Duration::ZERO), Err(Error::NotResident)));
    assert_eq!(agent.requests().len(), asked);
}

#[test]
fn illegal_keys_reach_nobody() {
    let (_directory, agent, namespace) = with_script(|_, _| None);
    let asked = agent.requests().len();
    for key in ["", "/a", "a//b", "a/../b", "a\nb"] {
        assert!(matches!(namespace.get(key), Err(Error::InvalidKey(_))), "{key:?}");
        assert!(matches!(namespace.put(key, b""), Err(Error::InvalidKey(_))), "{key:?}");
        assert!(matches!(namespace.create(key, 1), Err(Error::InvalidKey(_))), "{key:?}");
        assert!(matches!(namespace.put_many(&[(key, b"")])[..], [Err(Error::InvalidKey(_))]), "{key:?}");
    }
    assert_eq!(agent.requests().len(), asked);
}

#[test]
fn a_long_put_arrives_whole_and_in_order() {
    let arrived = Arc::new(Mutex::new(Vec::new()));
    let sink = Arc::clone(&arrived);
    let (_directory, agent, namespace) = with_script(move |connection, request| {
        if let Request::PutChunk { staged, .. } = request {
            sink.lock().unwrap().extend(connection.staged(*staged));
        }
        None
    });
    // Longer than staging, and not a multiple of a chunk.
    let bytes = payload(STAGING_BYTES + 300 * KIB + 1);
    assert_eq!(namespace.put("k", &bytes).unwrap(), PutOutcome::Stored);
    assert!(*arrived.lock().unwrap() == bytes);
    assert_eq!(agent.count(|request| matches!(request, Request::PutChunk { .. })), 10);
    assert_eq!(agent.count(|request| matches!(request, Request::Abandon { .. })), 0);
}

#[test]
fn a_long_put_that_is_refused_is_given_up() {
    let full = Refusal::NoSpace { needed: 1, quota: 2, used: 3, pinned: 4, kept: 5 };
    let (_directory, agent, namespace) = with_script(move |_, request| match request {
        Request::PutBegin { .. } => refuse(full.clone()),
        Request::PutChunk { .. } | Request::PutEnd { .. } => refuse(Refusal::Invalid("no such put".into())),
        _ => None,
    });
    let error = namespace.put("k", &payload(STAGING_BYTES)).unwrap_err();
    assert!(matches!(error, Error::NoSpace { needed_bytes: 1, kept_bytes: 5, .. }), "{error}");
    poll("giving up", || agent.count(|request| matches!(request, Request::Abandon { .. })) == 1);
    // All of staging is free again.
    assert_eq!(namespace.put("short", &payload(200 * KIB)).unwrap(), PutOutcome::Stored);
}

/// An agent whose namespace is at incarnation 8, which the client does not know yet.
fn cleared_before(request: &Request) -> Option<Answers> {
    match request {
        Request::Put { namespace: 7, .. }
        | Request::PutMany { namespace: 7, .. }
        | Request::PutBegin { namespace: 7, .. }
        | Request::Get { namespace: 7, .. } => refuse(Refusal::Cleared { namespace: 8 }),
        _ => None,
    }
}

#[test]
fn a_clear_before_the_call_is_followed() {
    let (_directory, _agent, namespace) = with_script(|_, request| cleared_before(request));
    assert_eq!(namespace.put("k", b"v").unwrap(), PutOutcome::Stored);
    for call in 0..3 {
        let (_directory, agent, namespace) = with_script(|_, request| cleared_before(request));
        match call {
            0 => assert_eq!(namespace.put("k", &payload(300 * KIB)).unwrap(), PutOutcome::Stored),
            1 => assert!(matches!(namespace.get("k"), Err(Error::NotFound))),
            _ => {
                let outcomes = namespace.put_many(&[("a", b"1"), ("b", b"2")]);
                assert!(outcomes.iter().all(|outcome| matches!(outcome, Ok(PutOutcome::Stored))));
            }
        }
        assert!(agent.count(|request| cleared_before(request).is_some()) <= 1, "the new number is kept");
    }
}

#[test]
fn clears_without_end_are_followed_once_by_a_put() {
    let mut incarnation = 7;
    let (_directory, agent, namespace) = with_script(move |_, request| match request {
        Request::Put { .. } => {
            incarnation += 1;
            refuse(Refusal::Cleared { namespace: incarnation })
        }
        _ => None,
    });
    assert!(matches!(namespace.put("k", b"v"), Err(Error::Cleared)));
    assert_eq!(agent.count(|request| matches!(request, Request::Put { .. })), 2);
}

#[test]
fn a_clear_during_a_long_put_fails_it() {
    let (_directory, agent, namespace) = with_script(|_, request| match request {
        Request::PutEnd { .. } => refuse(Refusal::Cleared { namespace: 8 }),
        _ => None,
    });
    assert!(matches!(namespace.put("k", &payload(300 * KIB)), Err(Error::Cleared)));
    assert_eq!(agent.count(|request| matches!(request, Request::PutBegin { .. })), 1);
}

#[test]
fn a_clear_during_a_vectored_put_fails_the_rest() {
    let mut groups = 0;
    let (_directory, _agent, namespace) = with_script(move |_, request| match request {
        Request::PutMany { items, .. } => {
            groups += 1;
            let outcome = if groups == 1 { Ok(PutOutcome::Stored) } else { Err(Refusal::Cleared { namespace: 8 }) };
            Some(Answers::One(Reply::PutMany(vec![outcome; items.len()])))
        }
        _ => None,
    });
    let bytes = payload(100 * KIB);
    let items: Vec<(&str, &[u8])> = vec![("a", &bytes), ("b", &bytes), ("c", &bytes)];
    let outcomes = namespace.put_many(&items);
    assert!(matches!(outcomes[..], [Ok(PutOutcome::Stored), Ok(PutOutcome::Stored), Err(Error::Cleared)]));
}

#[test]
fn a_vectored_put_keeps_order_and_limits() {
    let arrived = Arc::new(Mutex::new(Vec::new()));
    let sink = Arc::clone(&arrived);
    let mut long = Vec::new();
    let mut begun = HashMap::new();
    let (_directory, agent, namespace) = with_script(move |connection, request| {
        match request {
            Request::PutMany { items, .. } => {
                assert!(items.len() <= 128);
                let bytes: u64 = items.iter().map(|item| item.staged.len).sum();
                assert!(bytes <= 256 * KIB as u64);
                let take = |item: &PutItem| (item.key.clone(), connection.staged(item.staged));
                sink.lock().unwrap().extend(items.iter().map(take));
            }
            Request::PutBegin { key, .. } => drop(begun.insert(0, key.clone())),
            Request::PutChunk { staged, .. } => long.extend(connection.staged(*staged)),
            Request::PutEnd { .. } => {
                sink.lock().unwrap().push((begun[&0].clone(), std::mem::take(&mut long)));
            }
            _ => {}
        }
        None
    });
    let items: Vec<(String, Vec<u8>)> = (0..700)
        .map(|n| {
            let len = match n {
                50 | 51 => 300 * KIB,
                100..110 => 256 * KIB,
                _ => n * 7,
            };
            (format!("{}{n}", "k".repeat(n)), payload(len))
        })
        .collect();
    let given: Vec<(&str, &[u8])> = items.iter().map(|(key, bytes)| (key.as_str(), bytes.as_slice())).collect();
    assert!(namespace.put_many(&given).iter().all(|outcome| matches!(outcome, Ok(PutOutcome::Stored))));
    assert!(*arrived.lock().unwrap() == items);
    assert_eq!(agent.count(|request| matches!(request, Request::PutBegin { .. })), 2);
    assert!(namespace.put_many(&[]).is_empty());
}

#[test]
fn one_refused_item_does_not_fail_the_others() {
    let (_directory, _agent, namespace) = with_script(|_, request| match request {
        Request::PutMany { items, .. } => {
            let outcome = |item: &PutItem| match item.key.as_str() {
                "b" => Err(Refusal::Exists { held: 1, offered: 2 }),
                _ => Ok(PutOutcome::Stored),
            };
            Some(Answers::One(Reply::PutMany(items.iter().map(outcome).collect())))
        }
        _ => None,
    });
    let outcomes = namespace.put_many(&[("a", b"1"), ("b", b"22"), ("", b""), ("c", b"3")]);
    assert!(matches!(
        outcomes[..],
        [
            Ok(PutOutcome::Stored),
            Err(Error::AlreadyExists { held_bytes: 1, offered_bytes: 2 }),
            Err(Error::InvalidKey(_)),
            Ok(PutOutcome::Stored),
        ]
    ));
}

#[test]
fn a_key_that_is_always_elsewhere_ends_the_search() {
    let (_directory, agent, namespace) = with_script(|_, request| match request {
        Request::Get { .. } => Some(Answers::One(Reply::Resident)),
        _ => None,
    });
    assert!(matches!(namespace.get("k"), Err(Error::Busy)));
    assert!(agent.count(|request| matches!(request, Request::Get { .. })) <= 16);
    assert_eq!(agent.count(|request| matches!(request, Request::Table)), 1);
    assert!(namespace.contains("k").unwrap());
}

#[test]
fn writers_leave_room_for_puts() {
    let (_directory, agent, namespace) = with_script(|_, _| None);
    let mut writers: Vec<Writer> = (0..40).map(|n| namespace.create(&format!("w/{n}"), 200 * KIB).unwrap()).collect();
    writers.iter_mut().for_each(|writer| writer.as_mut_slice().fill(1));
    assert_eq!(agent.count(|request| matches!(request, Request::Create { .. })), 0, "short ones need no memory");
    // With every writer still open the longest single message still finds staging.
    assert_eq!(namespace.put("k", &payload(256 * KIB)).unwrap(), PutOutcome::Stored);
    assert_eq!(namespace.put("k", &payload(2_000 * KIB)).unwrap(), PutOutcome::Stored);
    for writer in writers {
        assert_eq!(writer.commit().unwrap(), PutOutcome::Stored);
    }
    assert_eq!(agent.count(|request| matches!(request, Request::Put { .. })), 41);
}

#[test]
fn a_long_writer_is_committed_or_given_up() {
    let (_directory, agent, namespace) = with_script(|_, _| None);
    let mut writer = namespace.create("k", 300 * KIB).unwrap();
    assert_eq!((writer.len(), writer.key()), (300 * KIB, "k"));
    assert_eq!(writer.as_mut_slice().len(), 300 * KIB);
    writer.as_mut_slice().fill(1);
    assert_eq!(writer.commit().unwrap(), PutOutcome::Stored);
    drop(namespace.create("k", 300 * KIB).unwrap());
    poll("giving up", || agent.count(|request| matches!(request, Request::Abandon { .. })) == 1);
    assert_eq!(agent.count(|request| matches!(request, Request::Commit { .. })), 1);
}

#[test]
fn a_writer_does_not_follow_a_clear_nor_survive_its_agent() {
    let (directory, agent, namespace) = with_script(|_, request| cleared_before(request));
    let short = namespace.create("k", 1).unwrap();
    assert!(matches!(short.commit(), Err(Error::Cleared)));
    let short = namespace.create("k", 1).unwrap();
    let long = namespace.create("k", 300 * KIB).unwrap();
    drop(agent);
    let _agent = FakeAgent::usual(directory.path());
    assert!(matches!(short.commit(), Err(Error::AgentLost)));
    assert!(matches!(long.commit(), Err(Error::AgentLost)));
    assert_eq!(namespace.put("k", b"v").unwrap(), PutOutcome::Stored);
}

#[test]
fn another_agent_is_found_and_the_namespace_opened_anew() {
    let directory = tempdir().unwrap();
    let agent = FakeAgent::usual(directory.path());
    let client = agent.builder().connect().unwrap();
    let namespace = client.namespace("a/b").unwrap();
    assert!(matches!(namespace.get("k"), Err(Error::NotFound)));
    drop(agent);
    assert!(matches!(namespace.get("k"), Err(Error::NoAgent { .. })));
    assert!(matches!(client.ping(), Err(Error::NoAgent { .. })));
    let other = FakeAgent::start(
        directory.path(),
        Box::new(|connection, _| {
            connection.incarnation = 99;
            None
        }),
    );
    assert!(matches!(namespace.get("k"), Err(Error::NotFound)));
    assert_eq!(other.count(|request| matches!(request, Request::Get { namespace: 99, .. })), 1);
    client.ping().unwrap();
}

#[test]
fn an_operation_under_way_goes_on_with_the_next_session() {
    let mut hung_up = false;
    let (_directory, agent, namespace) = with_script(move |_, request| match request {
        Request::PutEnd { .. } if !hung_up => {
            hung_up = true;
            Some(Answers::HangUp)
        }
        _ => None,
    });
    assert_eq!(namespace.put("k", &payload(600 * KIB)).unwrap(), PutOutcome::Stored);
    assert_eq!(agent.count(|request| matches!(request, Request::Hello { .. })), 2);
    assert_eq!(agent.count(|request| matches!(request, Request::OpenNamespace { .. })), 2);
}

#[test]
fn without_an_agent_direct_calls_find_nothing_until_there_is_one() {
    let directory = tempdir().unwrap();
    let socket = directory.path().join("socket");
    let client = Client::builder().socket(&socket).on_absent(OnAbsent::Direct).connect().unwrap();
    let namespace = client.namespace("a/b").unwrap();
    assert!(matches!(namespace.get("k"), Err(Error::NotFound)));
    assert!(matches!(namespace.wait("k", Duration::from_secs(60)), Err(Error::NotFound)));
    assert!(matches!(namespace.get_many(&["k", "l"])[..], [Err(Error::NotFound), Err(Error::NotFound)]));
    assert_eq!(namespace.put("k", b"v").unwrap(), PutOutcome::NotKept);
    assert!(matches!(namespace.put_many(&[("k", b"v")])[..], [Ok(PutOutcome::NotKept)]));
    assert!(!namespace.contains("k").unwrap() && !namespace.delete("k").unwrap());
    assert!(namespace.list("").unwrap().is_empty() && namespace.clear().unwrap() == 0);
    let mut writer = namespace.create("k", 10_000_000).unwrap();
    writer.as_mut_slice().fill(1);
    assert_eq!(writer.commit().unwrap(), PutOutcome::NotKept);
    assert!(matches!(client.ping(), Err(Error::NoAgent { .. })));
    let agent = FakeAgent::usual(directory.path());
    poll("the agent", || namespace.put("k", b"v").unwrap() == PutOutcome::Stored);
    assert_eq!(agent.count(|request| matches!(request, Request::Hello { .. })), 1);
    drop(agent);
    assert_eq!(namespace.put("k", b"v").unwrap(), PutOutcome::NotKept);
}

#[test]
fn the_session_ends_with_the_last_handle() {
    let ended = Arc::new(Mutex::new(0));
    let directory = tempdir().unwrap();
    // One connection at a time: a second client is served only once the first one's socket is closed.
    let agent = FakeAgent::usual(directory.path());
    let client = agent.builder().connect().unwrap();
    let namespace = client.namespace("a").unwrap();
    let writer = namespace.create("k", 1).unwrap();
    let count = Arc::clone(&ended);
    let waiting = std::thread::spawn({
        let builder = agent.builder();
        move || {
            builder.connect().unwrap().ping().unwrap();
            *count.lock().unwrap() += 1;
        }
    });
    drop((client, namespace));
    assert_eq!(*ended.lock().unwrap(), 0, "the writer still holds the session");
    drop(writer);
    waiting.join().unwrap();
}

#[test]
fn a_list_is_read_to_its_last_page() {
    let (_directory, _agent, namespace) = with_script(|_, request| match request {
        Request::List { cursor, .. } => {
            let names = vec![format!("k/{cursor}")];
            Some(Answers::One(Reply::Names { names, cursor: if *cursor < 3 { cursor + 1 } else { 0 } }))
        }
        _ => None,
    });
    assert_eq!(namespace.list("k").unwrap(), ["k/0", "k/1", "k/2", "k/3"]);
}
