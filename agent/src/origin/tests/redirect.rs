//! Answers that lead elsewhere.

use super::server::{Honest, Reply, Server};
use super::{OTHER, OWN, anybody, listed, open, origins, pattern, read};
use crate::config::ListedOrigin;
use crate::origin::policy::{Keys, Secret};
use crate::origin::{Caller, OriginError, SessionCredential, Validity};

fn public(prefix: &str) -> ListedOrigin {
    ListedOrigin { is_public: true, ..listed(prefix) }
}

fn token(prefix: &str) -> SessionCredential {
    SessionCredential::new(prefix, Keys::Bearer(Secret::new("geheim"))).unwrap()
}

/// A server that sends everybody elsewhere.
fn leads_to(target: String) -> Server {
    Server::start(move |_, _| Reply::redirect(302, &target))
}

#[tokio::test]
async fn every_kind_of_redirect_is_followed_and_reads_go_to_its_end() {
    let object = Honest::new(pattern(10_000));
    for status in [301, 302, 303, 307, 308] {
        let target = Server::of(object.clone());
        let to = target.url("/there?sig=%2f#part");
        let server = Server::start(move |_, _| Reply::redirect(status, &to));
        let origins = origins(vec![listed(&server.url("/")), listed(&target.url("/"))]);
        let source = open(&origins, &server.url("/a"), 10).await.unwrap().unwrap();
        assert!(read(&source, 10, 9990).await.unwrap() == object.bytes[10..]);
        assert_eq!((server.asked().len(), target.asked().len()), (1, 2), "{status}");
        assert_eq!(target.asked()[0].target, "/there?sig=%2f");
        let version = source.version.unwrap();
        assert_eq!(origins.check(&anybody(), &server.url("/a"), &version).await, Ok(Validity::Same));
    }
}

#[tokio::test]
async fn five_redirects_are_followed_and_six_are_not() {
    for (count, is_followed) in [(5, true), (6, false)] {
        let object = Honest::new(pattern(10));
        let server = Server::start(move |asked, number| {
            if number < count { Reply::redirect(302, &format!("step{number}")) } else { object.reply(asked) }
        });
        let origins = origins(vec![listed(&server.url("/"))]);
        let opened = open(&origins, &server.url("/a"), 10).await;
        assert_eq!(matches!(opened, Ok(Some(_))), is_followed, "{opened:?}");
        assert!(
            is_followed || matches!(&opened, Err(OriginError::Failed(why)) if why.contains("5 times")),
            "{opened:?}"
        );
    }
}

#[tokio::test]
async fn a_redirect_to_what_the_caller_may_not_is_refused() {
    let target = Server::of(Honest::new(pattern(10)));
    let server = leads_to(target.url("/there?sig=geheim"));
    let only_own = ListedOrigin { users: Some(vec![OWN]), ..listed(&target.url("/")) };
    for listed_too in [vec![], vec![listed(&target.url("/elsewhere/"))], vec![only_own]] {
        let mut all = listed_too;
        all.push(listed(&server.url("/")));
        let origins = origins(all);
        let error = open(&origins, &server.url("/a"), 10).await.unwrap_err();
        let OriginError::Denied(why) = &error else { panic!("{error:?}") };
        assert!(why.contains(&target.url("/there")) && !why.contains("geheim"), "{why}");
    }
    assert!(target.asked().is_empty());
    // Whoever may fetch everything may not be led to this machine's own services either.
    let origins = origins(vec![listed(&server.url("/"))]);
    let own = Caller { uid: OWN, credentials: &[] };
    let error = origins.open(&own, &server.url("/a"), 10).await.unwrap_err();
    assert!(matches!(&error, OriginError::Denied(why) if why.contains("this machine itself")), "{error:?}");
    assert!(target.asked().is_empty());
}

#[tokio::test]
async fn a_redirect_to_this_machine_to_files_or_to_nonsense_is_refused() {
    for to in [
        // Of all special addresses only those that a test may reach, should it ever fail.
        "http://127.0.0.2:9/",
        "http://0x7f.2:9/",
        "http://[::1]:9/",
        "http://[::ffff:127.0.0.1]:9/",
        "http://0.0.0.0:9/",
        "http://user:pass@127.0.0.1/",
        "file:///etc/passwd",
        "s3://bucket/key",
        "http://h/..%2fx",
        "http:///",
        "\\\\h\\x",
        "",
    ] {
        let server = leads_to(to.to_owned());
        let origins = origins(vec![listed(&server.url("/"))]);
        for uid in [OWN, OTHER] {
            let error = origins.open(&Caller { uid, credentials: &[] }, &server.url("/a"), 10).await.unwrap_err();
            assert!(matches!(error, OriginError::Denied(_) | OriginError::Failed(_)), "{to}: {error:?}");
        }
    }
}

#[tokio::test]
async fn keys_stay_where_they_are_for() {
    let target = Server::of(Honest::new(pattern(10)));
    let there = target.url("/there");
    let server = Server::start(move |asked, _| match asked.target.as_str() {
        "/same" => Reply::redirect(302, "/end"),
        "/away" => Reply::redirect(302, &there),
        _ => Honest::new(pattern(10)).reply(asked),
    });
    let origins = origins(vec![listed(&server.url("/")), listed(&target.url("/"))]);
    // Keys for the target, too: they are for what is asked for, not for where that leads.
    let keys = [token(&server.url("/")), token(&target.url("/"))];
    let caller = Caller { uid: OTHER, credentials: &keys };
    for path in ["/same", "/away"] {
        let source = origins.open(&caller, &server.url(path), 10).await.unwrap().unwrap();
        assert!(!source.is_public);
    }
    let sent: Vec<_> = server.asked().iter().map(|asked| asked.header("authorization").map(str::to_owned)).collect();
    assert_eq!(sent, vec![Some("Bearer geheim".to_owned()); 3]);
    assert_eq!(target.asked().len(), 1);
    assert_eq!(target.asked()[0].header("authorization"), None);
}

#[tokio::test]
async fn keys_do_not_come_back_after_another_place() {
    let object = Honest::new(pattern(10));
    let first = Server::start(move |asked, _| match asked.header("x").is_none() && asked.target.starts_with("/go?") {
        true => Reply::redirect(302, asked.target.trim_start_matches("/go?")),
        false => object.reply(asked),
    });
    let second = leads_to(first.url("/end"));
    let origins = origins(vec![listed(&first.url("/")), listed(&second.url("/"))]);
    let keys = [token(&first.url("/"))];
    let url = first.url(&format!("/go?{}", second.url("/")));
    let source = origins.open(&Caller { uid: OTHER, credentials: &keys }, &url, 10).await.unwrap();
    assert!(source.is_some());
    let sent: Vec<_> = first.asked().iter().map(|asked| asked.header("authorization").is_some()).collect();
    assert_eq!(sent, [true, false]);
    assert_eq!(second.asked()[0].header("authorization"), None);
}

#[tokio::test]
async fn what_came_over_a_way_that_is_not_public_is_not() {
    let target = Server::of(Honest::new(pattern(10)));
    let server = leads_to(target.url("/"));
    let (from, to) = (server.url("/"), target.url("/"));
    for (all, is_public) in [
        (vec![public(&from), public(&to)], true),
        (vec![public(&from), listed(&to)], false),
        (vec![listed(&from), public(&to)], false),
    ] {
        let source = open(&origins(all), &server.url("/a"), 10).await.unwrap().unwrap();
        assert_eq!(source.is_public, is_public);
    }
    // Nor is what came with somebody's own keys.
    let keys = [token(&to)];
    let own = origins(vec![public(&to)]);
    let source = own.open(&Caller { uid: OTHER, credentials: &keys }, &target.url("/a"), 10).await.unwrap().unwrap();
    assert!(!source.is_public);
}

#[tokio::test]
async fn a_signed_target_that_has_run_out_is_asked_for_anew() {
    let object = Honest::new(pattern(10_000));
    let script = object.clone();
    let target = Server::start(move |asked, number| match (asked.target.as_str(), number) {
        ("/signed0", 1..) => Reply::new(403, b""),
        _ => script.reply(asked),
    });
    let base = target.url("/signed");
    let server = Server::start(move |_, number| Reply::redirect(307, &format!("{base}{number}")));
    let origins = origins(vec![listed(&server.url("/")), listed(&target.url("/"))]);
    let source = open(&origins, &server.url("/a"), 10).await.unwrap().unwrap();
    assert!(read(&source, 10, 5000).await.unwrap() == object.bytes[10..5010]);
    assert!(read(&source, 5010, 10).await.unwrap() == object.bytes[5010..5020]);
    let targets: Vec<_> = target.asked().into_iter().map(|asked| asked.target).collect();
    assert_eq!(targets, ["/signed0", "/signed0", "/signed1", "/signed1"]);
}
