//! Rights, keys and addresses, up to the connection.

use std::io::Write;
use std::os::unix::fs::PermissionsExt;

use super::server::{Honest, Server};
use super::{OTHER, OWN, anybody, listed, open, options, origins, pattern};
use crate::config::{ListedOrigin, OriginsConfig, StoreOptions};
use crate::origin::policy::{Keys, Secret};
use crate::origin::{Caller, OriginError, Origins, SessionCredential};

fn own() -> Caller<'static> {
    Caller { uid: OWN, credentials: &[] }
}

#[tokio::test]
async fn who_is_not_listed_asks_nobody() {
    let server = Server::of(Honest::new(pattern(10)));
    let only = ListedOrigin { users: Some(vec![7]), ..listed(&server.url("/data/")) };
    let origins = origins(vec![only]);
    for (uid, path, is_allowed) in
        [(7, "/data/a", true), (8, "/data/a", false), (7, "/database", false), (7, "/", false)]
    {
        let opened = origins.open(&Caller { uid, credentials: &[] }, &server.url(path), 10).await;
        assert_eq!(matches!(opened, Ok(Some(_))), is_allowed, "{uid} {path} {opened:?}");
        assert!(is_allowed || matches!(opened, Err(OriginError::Denied(_))), "{uid} {path}");
    }
    assert_eq!(server.asked().len(), 1);
}

#[tokio::test]
async fn this_machine_is_reached_only_where_it_is_listed() {
    let server = Server::of(Honest::new(pattern(10)));
    let port = server.url("/").rsplit(':').next().unwrap().trim_end_matches('/').to_owned();
    let nothing_listed = origins(Vec::new());
    let credential = |prefix: &str| SessionCredential::new(prefix, Keys::Bearer(Secret::new("t"))).unwrap();
    for host in
        ["127.0.0.1", "localhost", "LOCALHOST.", "0x7f.1", "2130706433", "[::ffff:127.0.0.1]", "0.0.0.0", "127.0.0.1."]
    {
        let url = format!("http://{host}:{port}/a");
        // Not for the agent's user, nor with keys of one's own.
        let keys = [credential(&format!("http://{host}:{port}/"))];
        for caller in [own(), Caller { uid: OTHER, credentials: &keys }] {
            let error = nothing_listed.open(&caller, &url, 10).await.unwrap_err();
            assert!(
                matches!(&error, OriginError::Denied(why) if why.contains("this machine itself")),
                "{url}: {error:?}"
            );
        }
    }
    assert!(server.asked().is_empty());

    let by_address = origins(vec![listed(&server.url("/"))]);
    assert!(open(&by_address, &format!("http://0x7f.1:{port}/a"), 10).await.unwrap().is_some());
    assert!(matches!(open(&by_address, &server.url_by_name("/a"), 10).await, Err(OriginError::Denied(_))));
    let by_name = origins(vec![listed(&server.url_by_name("/"))]);
    assert!(open(&by_name, &server.url_by_name("/a"), 10).await.unwrap().is_some());
    assert!(matches!(open(&by_name, &server.url("/a"), 10).await, Err(OriginError::Denied(_))));
    // What is listed opens no other port to the agent's user.
    let other_port = Server::of(Honest::new(pattern(10)));
    for url in [other_port.url("/a"), other_port.url_by_name("/a")] {
        assert!(matches!(by_name.open(&own(), &url, 10).await, Err(OriginError::Denied(_))), "{url}");
    }
    assert!(other_port.asked().is_empty());
}

#[tokio::test]
async fn a_sessions_keys_are_sent_where_they_are_for() {
    let server = Server::of(Honest::new(pattern(10)));
    let keys = [
        SessionCredential::new(&server.url("/mine/"), Keys::Bearer(Secret::new("abc"))).unwrap(),
        SessionCredential::new(&server.url("/basic/"), Keys::Basic { user: "me".into(), password: Secret::new("a:b") })
            .unwrap(),
    ];
    let origins = origins(vec![listed(&server.url("/"))]);
    for path in ["/mine/x", "/basic/x", "/other"] {
        let source = origins.open(&Caller { uid: OTHER, credentials: &keys }, &server.url(path), 10).await;
        assert!(source.unwrap().is_some());
    }
    let sent: Vec<_> = server.asked().iter().map(|asked| asked.header("authorization").map(str::to_owned)).collect();
    assert_eq!(sent, [Some("Bearer abc".into()), Some("Basic bWU6YTpi".into()), None]);
    let bad = [SessionCredential::new(&server.url("/"), Keys::Bearer(Secret::new("ge\nheim"))).unwrap()];
    let error = origins.open(&Caller { uid: OTHER, credentials: &bad }, &server.url("/"), 10).await.unwrap_err();
    assert!(matches!(&error, OriginError::Invalid(why) if !why.contains("heim")), "{error:?}");
}

#[tokio::test]
async fn no_secret_is_printed_for_debugging() {
    let object = Honest::new(pattern(100_000));
    let server = Server::start(move |asked, _| object.whole(asked));
    let keys = [SessionCredential::new(&server.url("/"), Keys::Bearer(Secret::new("geheim"))).unwrap()];
    let file = file("bearer_token = geheim", 0o600);
    let options = StoreOptions { credentials_file: Some(file.path().to_owned()), ..options() };
    let origins = origins(vec![ListedOrigin { options, ..listed(&server.url("/")) }]);
    let caller = Caller { uid: OTHER, credentials: &keys };
    // With the rest of its answer still to come.
    let source = origins.open(&caller, &server.url("/a?sig=geheim"), 10).await.unwrap().unwrap();
    let bucket = [SessionCredential::new("gs://bucket/", Keys::Bearer(Secret::new("geheim"))).unwrap()];
    for text in [format!("{source:?}"), format!("{origins:?}"), format!("{caller:?}"), format!("{bucket:?}")] {
        assert!(!text.contains("geheim"), "{text}");
    }
}

fn file(text: &str, mode: u32) -> tempfile::NamedTempFile {
    let mut file = tempfile::NamedTempFile::new().unwrap();
    file.write_all(text.as_bytes()).unwrap();
    file.as_file().set_permissions(std::fs::Permissions::from_mode(mode)).unwrap();
    file
}

#[tokio::test]
async fn the_sites_keys_are_sent_for_those_it_lists() {
    let server = Server::of(Honest::new(pattern(10)));
    for (text, sent) in
        [("# site\nbearer_token = abc\n", "Bearer abc"), ("user = me\npassword = a:b\n", "Basic bWU6YTpi")]
    {
        let file = file(text, 0o600);
        let options = StoreOptions { credentials_file: Some(file.path().to_owned()), allow_http: true, ..options() };
        let origins = origins(vec![ListedOrigin { options, ..listed(&server.url("/")) }]);
        assert!(open(&origins, &server.url("/a"), 10).await.unwrap().is_some());
        assert_eq!(server.asked().last().unwrap().header("authorization"), Some(sent));
    }
    for (text, mode) in
        [("geheim", 0o600), ("bearer_token = geheim\nuser = a", 0o600), ("bearer_token = geheim", 0o644), ("", 0o600)]
    {
        let file = file(text, mode);
        let options = StoreOptions { credentials_file: Some(file.path().to_owned()), ..options() };
        let listed = vec![ListedOrigin { options, ..listed(&server.url("/")) }];
        let why = Origins::new(&OriginsConfig { listed, unlisted: StoreOptions::default() }, OWN).unwrap_err();
        assert!(!why.contains("geheim"), "{why}");
    }
}

#[tokio::test]
async fn a_proxy_is_asked_where_it_is_configured() {
    let proxy = Server::of(Honest::new(pattern(10)));
    for url in [proxy.url("/"), proxy.url_by_name("/")] {
        let url = url.trim_end_matches('/').to_owned();
        let origins = origins(vec![ListedOrigin { proxy: Some(url), ..listed("http://data.invalid/") }]);
        assert!(open(&origins, "http://data.invalid/a?b=%2f", 10).await.unwrap().is_some());
    }
    let targets: Vec<_> = proxy.asked().into_iter().map(|asked| asked.target).collect();
    assert_eq!(targets, vec!["http://data.invalid/a?b=%2f"; 2]);
}

#[tokio::test]
async fn what_is_no_url_is_said_without_repeating_it() {
    let origins = origins(Vec::new());
    for url in ["", "geheim", "http://u:geheim@h/", "/geheim", "file:///geheim", "http://h/#geheim", "s3://b/"] {
        for caller in [own(), anybody()] {
            let error = origins.open(&caller, url, 10).await.unwrap_err();
            assert!(matches!(error, OriginError::Invalid(_)), "{url}: {error:?}");
            assert!(!error.to_string().contains("geheim"), "{error}");
        }
    }
}
