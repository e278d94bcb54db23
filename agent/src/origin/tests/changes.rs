//! Objects that become others while they are read.

use super::server::{Honest, Reply, Server};
use super::{anybody, listed, open, origins, pattern, read};
use crate::origin::{OriginError, Validity};

const LEN: usize = 50_000;

fn one() -> Honest {
    Honest::new(pattern(LEN))
}

/// Opens an object that is `first` then and `second` from then on, and reads a part.
async fn read_after(
    first: Honest,
    second: impl Fn(&super::server::Asked) -> Reply + Send + Sync + 'static,
) -> OriginError {
    let server = Server::start(move |asked, number| if number == 0 { first.reply(asked) } else { second(asked) });
    let origins = origins(vec![listed(&server.url("/"))]);
    let source = open(&origins, &server.url("/a?sig=geheim"), 10).await.unwrap().unwrap();
    let error = read(&source, 10, 1000).await.expect_err("another object");
    assert!(!error.to_string().contains("geheim"), "{error}");
    error
}

#[tokio::test]
async fn another_object_is_never_read_as_the_one_that_was_opened() {
    let two = || Honest { etag: Some("\"two\""), ..one() };
    let longer = || Honest { bytes: pattern(LEN + 1), ..one() };
    let errors = [
        // A server that compares (412), one that does not, one that forgets its tags.
        read_after(one(), move |asked| two().reply(asked)).await,
        read_after(one(), move |asked| one().reply(asked).with("ETag", "\"two\"")).await,
        read_after(one(), move |asked| one().reply(asked).without("ETag")).await,
        read_after(one(), move |asked| longer().reply(asked)).await,
        read_after(one(), move |asked| one().whole(asked).with("ETag", "\"two\"")).await,
        read_after(one(), move |asked| Honest { bytes: pattern(5), ..one() }.reply(asked)).await,
        read_after(one(), |_| Reply::new(404, b"")).await,
        // Told apart by the time alone.
        read_after(Honest { etag: None, ..one() }, |asked| {
            Honest { etag: None, modified: Some("Wed, 16 Nov 1994 12:45:26 GMT"), ..one() }.reply(asked)
        })
        .await,
        read_after(Honest { etag: None, ..one() }, |asked| {
            Honest { etag: None, ..one() }.reply(asked).with("Last-Modified", "Wed, 16 Nov 1994 12:45:26 GMT")
        })
        .await,
        // Told apart by a weak tag alone.
        read_after(Honest { etag: Some("W/\"a\""), modified: None, ..one() }, |asked| {
            Honest { etag: Some("W/\"b\""), modified: None, ..one() }.reply(asked)
        })
        .await,
    ];
    for (at, error) in errors.iter().enumerate() {
        assert!(matches!(error, OriginError::Changed(_)), "{at}: {error:?}");
    }
}

#[tokio::test]
async fn a_stream_is_not_continued_with_another_object() {
    let script = move |asked: &super::server::Asked, number| {
        let object = if number == 0 { one() } else { Honest { etag: Some("\"two\""), ..one() } };
        let reply = object.whole(asked);
        if number == 0 { reply.cut(20_000, super::server::Then::Close) } else { reply }
    };
    let server = Server::start(script);
    let origins = origins(vec![listed(&server.url("/"))]);
    let source = open(&origins, &server.url("/a"), 10).await.unwrap().unwrap();
    let error = read(&source, 10, LEN - 10).await.unwrap_err();
    assert!(matches!(error, OriginError::Changed(_)), "{error:?}");
}

#[tokio::test]
async fn one_request_tells_whether_an_object_is_still_the_same() {
    let version = {
        let server = Server::of(one());
        let origins = origins(vec![listed(&server.url("/"))]);
        let source = open(&origins, &server.url("/a"), 10).await.unwrap().unwrap();
        source.version.unwrap()
    };
    let two = Honest { etag: Some("\"two\""), ..one() };
    let free = one();
    let cases: Vec<(Server, Validity)> = vec![
        (Server::of(one()), Validity::Same),
        (Server::of(two), Validity::Changed),
        (Server::of(Honest::new(Vec::new())), Validity::Same),
        (Server::start(|_, _| Reply::new(404, b"")), Validity::Gone),
        (Server::start(|_, _| Reply::new(416, b"")), Validity::Changed),
        // Servers that ignore the condition, and ranges too.
        (Server::start(move |_, _| free.reply(&plain()).with("ETag", "\"one\"")), Validity::Same),
        (Server::start(move |_, _| one().reply(&plain()).with("ETag", "\"two\"")), Validity::Changed),
        (Server::start(move |_, _| one().reply(&plain()).without("ETag")), Validity::Changed),
    ];
    for (at, (server, expected)) in cases.into_iter().enumerate() {
        let origins = origins(vec![listed(&server.url("/"))]);
        let found = origins.check(&anybody(), &server.url("/a"), &version).await;
        assert_eq!((found, server.asked().len()), (Ok(expected), 1), "{at}");
    }
    let origins = origins(Vec::new());
    assert!(matches!(origins.check(&anybody(), "https://h/", &version).await, Err(OriginError::Denied(_))));
    assert!(matches!(origins.check(&anybody(), "https://h/", "nonsense").await, Err(OriginError::Failed(_))));
}

fn plain() -> super::server::Asked {
    super::server::Asked::plain()
}
