//! Reading from servers that do nothing wrong, but not all know the same.

use std::sync::atomic::Ordering;
use std::time::Duration;

use super::server::{Honest, Reply, Server};
use super::{listed, open, options, origins, pattern, read};
use crate::config::ListedOrigin;
use crate::origin::{OriginError, Validity};

#[tokio::test]
async fn a_small_object_costs_one_request() {
    let server = Server::of(Honest::new(pattern(100)));
    let origins = origins(vec![listed(&server.url("/"))]);
    for most in [100, 4096, 101] {
        let source = open(&origins, &server.url("/a%2Fb?sig=%2f+x&y"), most).await.unwrap().unwrap();
        assert_eq!((source.len_bytes, &source.first), (100, &pattern(100)));
        assert!(source.is_ranged && !source.is_public && source.version.is_some());
    }
    let asked = server.asked();
    assert_eq!(asked.len(), 3);
    assert_eq!(asked[0].target, "/a%2Fb?sig=%2f+x&y");
    assert_eq!(asked[0].header("accept-encoding"), Some("identity"));
    assert_eq!(asked[0].header("authorization"), None);
}

#[tokio::test]
async fn ranges_of_one_version_are_read_side_by_side() {
    let bytes = pattern(1_000_000);
    let server = Server::of(Honest::new(bytes.clone()));
    let origins = origins(vec![listed(&server.url("/"))]);
    let source = open(&origins, &server.url("/a"), 10).await.unwrap().unwrap();
    assert_eq!((source.len_bytes, &source.first[..]), (1_000_000, &bytes[..10]));
    let (one, two, three, none) = tokio::join!(
        read(&source, 0, 400_001),
        read(&source, 400_001, 599_999),
        read(&source, 999_999, 1),
        read(&source, 7, 0)
    );
    assert!(one.unwrap() == bytes[..400_001] && two.unwrap() == bytes[400_001..] && three.unwrap() == bytes[999_999..]);
    assert_eq!(none.unwrap(), b"");
    let asked = server.asked();
    assert_eq!(asked.len(), 4);
    assert!(asked[1..].iter().all(|asked| asked.header("if-match") == Some("\"one\"")), "{asked:?}");
    for (offset, len) in [(0, 1_000_001), (1_000_001, 0), (usize::MAX, 1)] {
        assert!(matches!(read(&source, offset, len).await, Err(OriginError::Invalid(_))), "{offset} {len}");
    }
}

#[tokio::test]
async fn what_is_not_there_is_none() {
    for status in [404, 410] {
        let server = Server::start(move |_, _| Reply::new(status, b"nothing"));
        let origins = origins(vec![listed(&server.url("/"))]);
        assert!(open(&origins, &server.url("/a"), 10).await.unwrap().is_none());
        assert_eq!(server.asked().len(), 1);
    }
}

#[tokio::test]
async fn an_empty_object_has_no_bytes_and_a_version() {
    // One server says so with 416, the other sends nothing.
    let empty = Honest::new(Vec::new());
    let free = empty.clone();
    for server in [Server::of(empty), Server::start(move |asked, _| free.whole(asked))] {
        let origins = origins(vec![listed(&server.url("/"))]);
        let source = open(&origins, &server.url("/a"), 10).await.unwrap().unwrap();
        assert_eq!((source.len_bytes, source.first.len()), (0, 0));
        assert_eq!(read(&source, 0, 0).await.unwrap(), b"");
        let version = source.version.unwrap();
        let checked = origins.check(&super::anybody(), &server.url("/a"), &version).await;
        assert_eq!(checked, Ok(Validity::Same));
    }
}

#[tokio::test]
async fn a_server_without_ranges_is_read_in_one_request() {
    let object = Honest::new(pattern(300_000));
    let script = object.clone();
    let server = Server::start(move |asked, _| script.whole(asked));
    let origins = origins(vec![listed(&server.url("/"))]);
    let source = open(&origins, &server.url("/a"), 1000).await.unwrap().unwrap();
    assert_eq!((source.len_bytes, source.is_ranged), (300_000, false));
    assert!(source.first == object.bytes[..1000]);
    for (from, to) in [(1000, 70_000), (70_000, 70_001), (70_001, 300_000)] {
        assert!(read(&source, from, to - from).await.unwrap() == object.bytes[from..to]);
    }
    assert_eq!(server.asked().len(), 1);
    // Out of order it costs more, and is right all the same.
    assert!(read(&source, 0, 5).await.unwrap() == object.bytes[..5]);
    assert!(read(&source, 200_000, 5).await.unwrap() == object.bytes[200_000..200_005]);
    assert_eq!(server.asked().len(), 2);
}

#[tokio::test]
async fn without_a_version_there_is_one_request_for_all_the_bytes() {
    let object = Honest { etag: None, modified: None, ..Honest::new(pattern(100_000)) };
    let server = Server::of(object.clone());
    let origins = origins(vec![listed(&server.url("/"))]);
    let source = open(&origins, &server.url("/a"), 1000).await.unwrap().unwrap();
    assert_eq!((source.version.as_deref(), source.is_ranged), (None, false));
    assert!(read(&source, 1000, 99_000).await.unwrap() == object.bytes[1000..]);
    let ranges: Vec<_> = server.asked().iter().map(super::server::Asked::range).collect();
    assert_eq!(ranges, [Some((0, 1000)), None]);
    let again = read(&source, 0, 10).await;
    assert!(matches!(again, Err(OriginError::Unavailable(_))), "{again:?}");
    // A small one is whole at once.
    let source = open(&origins, &server.url("/a"), 200_000).await.unwrap().unwrap();
    assert!(source.first == object.bytes && server.asked().len() == 3);
}

#[tokio::test]
async fn an_object_without_etag_is_told_by_its_time() {
    for etag in [None, Some("W/\"one\"")] {
        let object = Honest { etag, ..Honest::new(pattern(5000)) };
        let server = Server::of(object.clone());
        let origins = origins(vec![listed(&server.url("/"))]);
        let source = open(&origins, &server.url("/a"), 10).await.unwrap().unwrap();
        assert!(read(&source, 10, 4990).await.unwrap() == object.bytes[10..]);
        let asked = server.asked();
        assert_eq!((asked[1].header("if-match"), asked[1].header("if-unmodified-since")), (None, object.modified));
        let version = source.version.unwrap();
        let checked = origins.check(&super::anybody(), &server.url("/a"), &version).await;
        assert_eq!(checked, Ok(Validity::Same));
        assert_eq!(server.asked().len(), 3);
    }
}

#[tokio::test]
async fn no_more_requests_are_under_way_than_allowed() {
    let object = Honest::new(pattern(200_000));
    let server = Server::start(move |asked, _| {
        std::thread::sleep(Duration::from_millis(20));
        object.reply(asked)
    });
    let options = crate::config::StoreOptions { concurrency: 2, ..options() };
    let origins = origins(vec![ListedOrigin { options, ..listed(&server.url("/")) }]);
    let source = open(&origins, &server.url("/a"), 10).await.unwrap().unwrap();
    let reads = (0..12).map(|at| read(&source, at * 10_000, 10_000));
    let all = futures_util::future::join_all(reads).await;
    assert!(all.iter().all(Result::is_ok));
    assert_eq!(server.busy_max.load(Ordering::SeqCst), 2);
}

#[tokio::test]
async fn memory_outside_its_map_is_an_error_and_no_panic() {
    let server = Server::of(Honest::new(pattern(100_000)));
    let origins = origins(vec![listed(&server.url("/"))]);
    let source = open(&origins, &server.url("/a"), 10).await.unwrap().unwrap();
    let mut memory = super::memory(10);
    memory.len_bytes = 50_000;
    let error = source.read(0, memory).await.unwrap_err();
    assert!(matches!(&error, OriginError::Failed(why) if why.contains("outside")), "{error:?}");
    assert_eq!(server.asked().len(), 1);
}
