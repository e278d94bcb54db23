//! Each server starts, takes an object where it should, is stopped, killed and started again.

use std::fs;
use std::io::ErrorKind;
use std::net::TcpStream;
use std::time::{Duration, Instant};

use larder_testbed::server::{Absent, Azurite, Files, GcsFacade, Moto, Rclone, SeaweedFs};
use larder_testbed::{Server, http};

/// The server, or a line that says why the test is skipped.
#[expect(clippy::print_stdout, reason = "scripts/test reads from there why a test was skipped")]
fn installed<S>(started: Result<S, Absent>) -> Option<S> {
    started.inspect_err(|absent| println!("SKIPPED: {absent}")).ok()
}

fn is_listening(server: &dyn Server) -> bool {
    TcpStream::connect(server.address()).is_ok()
}

/// What every server does: it is alone at its address, it is killed at once, it comes back where it was.
fn is_killed_and_comes_back(mut server: Box<dyn Server>) {
    assert!(is_listening(&*server));
    server.kill();
    assert!(!is_listening(&*server));
    server.restart();
    assert!(is_listening(&*server));
    let address = server.address();
    drop(server);
    assert_eq!(TcpStream::connect(address).unwrap_err().kind(), ErrorKind::ConnectionRefused);
}

#[test]
fn heavy_seaweedfs_keeps_what_it_has_when_it_is_killed_and_wants_signatures() {
    let Some(mut server) = installed(SeaweedFs::start()) else { return };
    let body = vec![7; 100_000];
    let put = http::request(server.address(), "PUT", "/larder-open/kept", &[], &body).unwrap();
    assert!(put.is_success(), "{put:?}");
    let denied = http::request(server.address(), "PUT", "/larder/kept", &[], &body).unwrap();
    assert_eq!(denied.status, 403);
    server.kill();
    server.restart();
    let got = http::request(server.address(), "GET", "/larder-open/kept", &[], b"").unwrap();
    assert_eq!((got.status, got.body), (200, body));
    is_killed_and_comes_back(Box::new(server));
}

#[test]
fn moto_forgets_what_it_has_when_it_is_killed() {
    let Some(mut server) = installed(Moto::start()) else { return };
    // It takes any signature, but without one it hides what is not public.
    let signed = [("Authorization", "AWS4-HMAC-SHA256 Credential=larder/20260101/us-east-1/s3/aws4_request")];
    let request =
        |server: &Moto, method| http::request(server.address(), method, "/larder/object", &signed, b"x").unwrap();
    assert!(request(&server, "PUT").is_success());
    assert_eq!(request(&server, "GET").body, b"x");
    server.kill();
    server.restart();
    assert_eq!(request(&server, "GET").status, 404);
    is_killed_and_comes_back(Box::new(server));
}

#[test]
fn azurite_has_its_container_and_wants_signatures() {
    let Some(server) = installed(Azurite::start()) else { return };
    let denied =
        http::request(server.address(), "GET", "/devstoreaccount1/larder?restype=container", &[], b"").unwrap();
    assert!([401, 403].contains(&denied.status), "{denied:?}");
    is_killed_and_comes_back(Box::new(server));
}

#[test]
fn heavy_the_facade_translates_conditions_and_generations() {
    let Some(server) = installed(GcsFacade::start()) else { return };
    let put = |fields: &[(&str, &str)], body: &[u8]| {
        http::request(server.address(), "PUT", "/larder-open/object", fields, body).unwrap()
    };
    let create = [("x-goog-if-generation-match", "0")];
    let first = put(&create, b"first");
    assert!(first.is_success(), "{first:?}");
    assert_eq!(put(&create, b"second").status, 412);
    let generation = first.field("x-goog-generation").expect("an object has a generation").to_owned();
    let other = [("x-goog-if-generation-match", "\"0123456789abcdef0123456789abcdef\"")];
    assert_eq!(put(&other, b"third").status, 412);
    assert!(put(&[("x-goog-if-generation-match", &generation)], b"fourth").is_success());
    let got = http::request(server.address(), "GET", "/larder-open/object", &[("Range", "bytes=1-2")], b"").unwrap();
    assert_eq!((got.status, &got.body[..]), (206, &b"ou"[..]));
    let began = Instant::now();
    while server.accesses().len() < 6 {
        assert!(began.elapsed() < Duration::from_secs(60), "{:?}", server.accesses());
        std::thread::sleep(Duration::from_millis(3));
    }
    let last = server.accesses().pop().unwrap();
    assert_eq!((last.method.as_str(), last.target.as_str(), last.status), ("GET", "/larder-open/object", 206));
    assert_eq!((last.sent_bytes, last.range.as_str()), (2, "bytes=1-2"));
    is_killed_and_comes_back(Box::new(server));
}

#[test]
fn nginx_serves_files_and_tells_who_read_what() {
    let Some(server) = installed(Files::start()) else { return };
    fs::write(server.directory().join("file"), b"0123456789").unwrap();
    let get = |range| http::request(server.address(), "GET", "/file", &[("Range", range)], b"").unwrap();
    assert_eq!(get("bytes=2-5").body, b"2345");
    assert_eq!(get("bytes=-1").body, b"9");
    let began = Instant::now();
    let sent = || server.accesses().iter().filter(|it| it.target == "/file").map(|it| it.sent_bytes).sum::<u64>();
    while sent() != 5 {
        assert!(began.elapsed() < Duration::from_secs(60), "{:?}", server.accesses());
        std::thread::sleep(Duration::from_millis(3));
    }
    is_killed_and_comes_back(Box::new(server));
}

#[test]
fn rclone_ignores_the_condition_that_an_object_is_new() {
    let Some(server) = installed(Rclone::start()) else { return };
    // It checks signatures, so this shows no more than that it runs; that it ignores conditions is seen through an agent.
    assert!(!http::request(server.address(), "PUT", "/larder/object", &[], b"x").unwrap().is_success());
    is_killed_and_comes_back(Box::new(server));
}

#[test]
fn a_server_that_is_paused_answers_when_it_goes_on() {
    let Some(mut server) = installed(Moto::start()) else { return };
    server.pause();
    let address = server.address();
    let asked = std::thread::spawn(move || http::request(address, "GET", "/larder", &[], b""));
    // The connection is taken, by the kernel.
    assert!(is_listening(&server));
    server.resume();
    assert!(asked.join().unwrap().unwrap().is_success());
}
