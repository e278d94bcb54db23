//! Servers that fail, lie and stall.

use std::time::Duration;

use super::server::{Asked, Honest, Reply, Server, Then};
use super::{listed, open, options, origins, pattern, read};
use crate::config::{ListedOrigin, StoreOptions};
use crate::origin::OriginError;

const LEN: usize = 100_000;

fn object() -> Honest {
    Honest::new(pattern(LEN))
}

#[tokio::test]
async fn a_body_that_breaks_is_resumed_where_it_broke() {
    let server = Server::start(|asked, number| match number {
        1 => object().reply(asked).cut(30_000, Then::Close),
        _ => object().reply(asked),
    });
    let origins = origins(vec![listed(&server.url("/"))]);
    let source = open(&origins, &server.url("/a"), 10).await.unwrap().unwrap();
    assert!(read(&source, 10, LEN - 10).await.unwrap() == pattern(LEN)[10..]);
    let asked = server.asked();
    assert_eq!(asked[2].range(), Some((30_010, LEN)));
    assert_eq!(asked[2].header("if-match"), Some("\"one\""));
}

#[tokio::test]
async fn progress_counts_and_not_the_number_of_breaks() {
    let server = Server::start(|asked, number| match number {
        0 => object().reply(asked),
        _ => object().reply(asked).cut(5_000, Then::Close),
    });
    let options = StoreOptions { retries: 2, ..options() };
    let origins = origins(vec![ListedOrigin { options, ..listed(&server.url("/")) }]);
    let source = open(&origins, &server.url("/a"), 10).await.unwrap().unwrap();
    assert!(read(&source, 0, LEN).await.unwrap() == pattern(LEN));
    assert_eq!(server.asked().len(), 1 + LEN / 5_000);
}

#[tokio::test]
async fn a_body_that_stalls_is_asked_for_again() {
    let server = Server::start(|asked, number| match number {
        0 => object().reply(asked),
        1 => object().reply(asked).cut(40_000, Then::Stall),
        2 => object().reply(asked).cut(0, Then::Stall),
        _ => object().reply(asked),
    });
    let options = StoreOptions { read_timeout: Duration::from_millis(300), ..options() };
    let origins = origins(vec![ListedOrigin { options, ..listed(&server.url("/")) }]);
    let source = open(&origins, &server.url("/a"), 10).await.unwrap().unwrap();
    assert!(read(&source, 0, LEN).await.unwrap() == pattern(LEN));
    assert!(server.asked().iter().any(|asked| asked.range() == Some((40_000, LEN))));
}

#[tokio::test]
async fn a_stream_that_breaks_is_read_again_up_to_there() {
    let server = Server::start(|asked, number| match number {
        0 => object().whole(asked).cut(60_000, Then::Close),
        _ => object().whole(asked),
    });
    let origins = origins(vec![listed(&server.url("/"))]);
    let source = open(&origins, &server.url("/a"), 10).await.unwrap().unwrap();
    assert!(read(&source, 10, LEN - 10).await.unwrap() == pattern(LEN)[10..]);
    assert_eq!(server.asked().len(), 2);
}

#[tokio::test]
async fn a_stream_of_no_version_that_breaks_is_given_up() {
    let server = Server::start(|asked, _| {
        Honest { etag: None, modified: None, ..object() }.whole(asked).cut(60_000, Then::Close)
    });
    let origins = origins(vec![listed(&server.url("/"))]);
    let source = open(&origins, &server.url("/a"), 10).await.unwrap().unwrap();
    let error = read(&source, 10, LEN - 10).await.unwrap_err();
    assert!(matches!(&error, OriginError::Unavailable(why) if why.contains("ETag")), "{error:?}");
    assert_eq!(server.asked().len(), 1);
}

#[tokio::test]
async fn a_busy_server_is_asked_again_and_others_are_not() {
    for status in [429, 500, 502, 503, 504] {
        let server = Server::start(move |asked, number| {
            if number < 4 { Reply::new(status, b"later").with("Retry-After", "0") } else { object().reply(asked) }
        });
        let origins = origins(vec![listed(&server.url("/"))]);
        let source = open(&origins, &server.url("/a"), 10).await.unwrap().unwrap();
        assert_eq!((source.len_bytes, server.asked().len()), (LEN as u64, 5));
    }
    for status in [400, 401, 403, 405, 407, 418, 501, 505, 204, 203, 300, 304] {
        let server = Server::start(move |_, _| Reply::new(status, b""));
        let origins = origins(vec![listed(&server.url("/"))]);
        let error = open(&origins, &server.url("/a?sig=geheim"), 10).await.unwrap_err();
        let is_denied = matches!(status, 401 | 403 | 407);
        let is_right =
            if is_denied { matches!(error, OriginError::Denied(_)) } else { matches!(error, OriginError::Failed(_)) };
        assert!(is_right && !error.to_string().contains("geheim"), "{status}: {error:?}");
        assert_eq!(server.asked().len(), 1, "{status}");
    }
}

#[tokio::test]
async fn tries_end_with_their_number_or_their_time() {
    let server = Server::start(|_, _| Reply::new(503, b"").with("Retry-After", "0"));
    let few = StoreOptions { retries: 3, ..options() };
    let origins_few = origins(vec![ListedOrigin { options: few, ..listed(&server.url("/")) }]);
    let error = open(&origins_few, &server.url("/a"), 10).await.unwrap_err();
    assert!(matches!(&error, OriginError::Unavailable(why) if why.contains("503")), "{error:?}");
    assert_eq!(server.asked().len(), 4);

    let silent = Server::start(|_, _| Reply::new(200, b"").cut(0, Then::Stall).with("Content-Length", "9"));
    let short =
        StoreOptions { read_timeout: Duration::from_millis(300), retry_timeout: Duration::from_secs(1), ..options() };
    let origins_short = origins(vec![ListedOrigin { options: short, ..listed(&silent.url("/")) }]);
    let error = open(&origins_short, &silent.url("/a"), 10).await.unwrap_err();
    assert!(matches!(error, OriginError::Unavailable(_)), "{error:?}");

    // Nobody listens there any more.
    let gone = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let few = StoreOptions { retries: 1, ..options() };
    let origins_gone = origins(vec![ListedOrigin { options: few, ..listed(&format!("http://{gone}/")) }]);
    let error = open(&origins_gone, &format!("http://{gone}/a?sig=geheim"), 10).await.unwrap_err();
    assert!(matches!(&error, OriginError::Unavailable(why) if !why.contains("geheim")), "{error:?}");
}

/// The error of opening what a server answers so.
async fn refused(answer: impl Fn(&Asked) -> Reply + Send + Sync + 'static) -> OriginError {
    let server = Server::start(move |asked, _| answer(asked));
    let origins = origins(vec![listed(&server.url("/"))]);
    let error = open(&origins, &server.url("/a"), 1000).await.expect_err("refused");
    assert_eq!(server.asked().len(), 1, "{error:?}");
    error
}

#[tokio::test]
async fn an_answer_that_cannot_be_right_is_refused() {
    let errors = [
        refused(|asked| object().whole(asked).without("Content-Length").cut(5, Then::Close)).await,
        refused(|asked| {
            let mut reply = object().whole(asked).without("Content-Length").with("Transfer-Encoding", "chunked");
            reply.body = b"5\r\nhello\r\n0\r\n\r\n".to_vec();
            reply
        })
        .await,
        refused(|asked| object().reply(asked).with("Content-Encoding", "gzip")).await,
        refused(|asked| object().reply(asked).without("Content-Range")).await,
        refused(|asked| object().reply(asked).with("Content-Range", "bytes 0-999/*")).await,
        refused(|asked| object().reply(asked).with("Content-Range", "bytes 1-1000/100000")).await,
        refused(|asked| {
            object().reply(asked).with("Content-Range", "bytes 0-998/100000").with("Content-Length", "999")
        })
        .await,
        refused(|asked| {
            object().reply(asked).with("Content-Range", "bytes 0-999/1000000").with("Content-Length", "1001")
        })
        .await,
        refused(|asked| object().reply(asked).with("Content-Range", "bytes 0-999/999")).await,
        refused(|asked| {
            let mut reply = object().reply(asked).without("Content-Length").with("Transfer-Encoding", "chunked");
            let sent = pattern(1001);
            reply.body = [b"3e9\r\n", &sent[..], b"\r\n0\r\n\r\n"].concat();
            reply
        })
        .await,
    ];
    for (at, error) in errors.iter().enumerate() {
        assert!(matches!(error, OriginError::Failed(_)), "{at}: {error:?}");
    }
    assert!(errors[0].to_string().contains("Content-Length") && errors[2].to_string().contains("compressed"));
}

#[tokio::test]
async fn a_range_is_exactly_what_was_asked_for() {
    for (name, value) in [
        ("Content-Range", "bytes 11-1010/100000"),
        ("Content-Range", "bytes 0-999/100000"),
        ("Content-Range", "bytes 10-1009/*"),
    ] {
        let server = Server::start(move |asked, number| {
            let reply = object().reply(asked);
            if number == 0 { reply } else { reply.with(name, value) }
        });
        let origins = origins(vec![listed(&server.url("/"))]);
        let source = open(&origins, &server.url("/a"), 10).await.unwrap().unwrap();
        let error = read(&source, 10, 1000).await.unwrap_err();
        assert!(matches!(error, OriginError::Failed(_)), "{value}: {error:?}");
        assert_eq!(server.asked().len(), 2, "{value}");
    }
    // The same object, but all of it.
    let server = Server::start(|asked, number| if number == 0 { object().reply(asked) } else { object().whole(asked) });
    let origins = origins(vec![listed(&server.url("/"))]);
    let source = open(&origins, &server.url("/a"), 10).await.unwrap().unwrap();
    assert!(matches!(read(&source, 10, 1000).await, Err(OriginError::Failed(_))));
}

#[tokio::test]
async fn a_length_that_is_a_lie_costs_no_memory() {
    let server = Server::start(|_, _| {
        Reply::new(200, b"small")
            .with("Content-Length", "9223372036854775807")
            .with("ETag", "\"a\"")
            .cut(5, Then::Close)
    });
    let options = StoreOptions { retries: 1, ..options() };
    let origins = origins(vec![ListedOrigin { options, ..listed(&server.url("/")) }]);
    let error = open(&origins, &server.url("/a"), usize::MAX).await.unwrap_err();
    assert!(matches!(error, OriginError::Unavailable(_)), "{error:?}");
}
