//! Each fault of the proxy, before a server that remembers what it was sent.

use std::collections::HashMap;
use std::io::{BufRead, BufReader, ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use larder_testbed::http::{self, Answer};
use larder_testbed::{Fault, FaultProxy, On, Rule};

const BODY: &[u8] = b"0123456789abcdefghij";

/// A server that keeps what is put, answers gets, and tells with each answer how many requests it has had and whether this
/// one had a condition.
struct Upstream {
    address: SocketAddr,
    kept: Arc<Mutex<HashMap<String, Vec<u8>>>>,
}

impl Upstream {
    fn start() -> Upstream {
        let listener = TcpListener::bind(("127.0.0.1", 0)).unwrap();
        let (address, kept) = (listener.local_addr().unwrap(), Arc::new(Mutex::new(HashMap::new())));
        let shared = Arc::clone(&kept);
        // Ends with the test's process; a thread for each connection, since a client may keep one open.
        std::thread::spawn(move || {
            for connection in listener.incoming() {
                let shared = Arc::clone(&shared);
                std::thread::spawn(move || serve(connection.unwrap(), &shared));
            }
        });
        Upstream { address, kept }
    }

    fn kept(&self, target: &str) -> Option<Vec<u8>> {
        self.kept.lock().unwrap().get(target).cloned()
    }
}

fn serve(connection: TcpStream, kept: &Mutex<HashMap<String, Vec<u8>>>) {
    let mut source = BufReader::new(connection.try_clone().unwrap());
    let mut sink = connection;
    loop {
        let mut lines = Vec::new();
        loop {
            let mut line = String::new();
            if source.read_line(&mut line).unwrap_or(0) == 0 {
                return;
            }
            if line == "\r\n" {
                break;
            }
            lines.push(line.trim_end().to_ascii_lowercase());
        }
        let has = |name: &str| lines.iter().find_map(|line| line.strip_prefix(name)?.strip_prefix(": "));
        let mut body = vec![0; has("content-length").map_or(0, |len| len.parse().unwrap())];
        if source.read_exact(&mut body).is_err() {
            return;
        }
        let (method, target) = lines[0].split_once(' ').unwrap();
        let target = target.split(' ').next().unwrap().to_owned();
        let answer = match method {
            "put" => {
                kept.lock().unwrap().insert(target, body);
                Vec::new()
            }
            "head" => Vec::new(),
            _ => kept.lock().unwrap().get(&target).cloned().unwrap_or_default(),
        };
        let condition = has("if-match").is_some();
        let chunked = has("chunked").is_some();
        let mut text = format!("HTTP/1.1 200 OK\r\nETag: \"true\"\r\nCondition: {condition}\r\n").into_bytes();
        if chunked {
            text.extend(format!("Transfer-Encoding: chunked\r\n\r\n{:x}\r\n", answer.len()).bytes());
            text.extend(answer.iter().chain(b"\r\n0\r\n\r\n"));
        } else {
            text.extend(format!("Content-Length: {}\r\n\r\n", answer.len()).bytes());
            text.extend(answer);
        }
        if sink.write_all(&text).is_err() || has("connection") == Some("close") {
            return;
        }
    }
}

struct Test {
    upstream: Upstream,
    proxy: FaultProxy,
}

impl Test {
    fn start() -> Test {
        let upstream = Upstream::start();
        let proxy = FaultProxy::before(upstream.address);
        let test = Test { upstream, proxy };
        assert_eq!(test.put("/kept").unwrap().status, 200);
        test
    }

    fn send(&self, method: &str, target: &str, fields: &[(&str, &str)], body: &[u8]) -> Result<Answer, ErrorKind> {
        http::request(self.proxy.address(), method, target, fields, body).map_err(|error| error.kind())
    }

    fn put(&self, target: &str) -> Result<Answer, ErrorKind> {
        self.send("PUT", target, &[], BODY)
    }

    fn get(&self) -> Result<Answer, ErrorKind> {
        self.send("GET", "/kept", &[], b"")
    }

    #[track_caller]
    fn faults(&self, expected: u64) {
        assert_eq!(self.proxy.counts().faults, expected);
    }

    /// Without the fault all is as before.
    #[track_caller]
    fn heals(&self) {
        self.proxy.heal();
        let answer = self.get().unwrap();
        assert_eq!((answer.status, &answer.body[..], answer.field("etag")), (200, BODY, Some("\"true\"")));
    }
}

#[test]
fn without_a_fault_it_passes_everything_on_and_counts_it() {
    let test = Test::start();
    let whole = test.get().unwrap();
    assert_eq!((whole.status, &whole.body[..]), (200, BODY));
    let head = test.send("HEAD", "/kept", &[], b"").unwrap();
    assert_eq!((head.status, head.body), (200, Vec::new()));
    let chunked = test.send("GET", "/kept", &[("Chunked", "yes")], b"").unwrap();
    assert_eq!(chunked.body, [b"14\r\n", BODY, b"\r\n0\r\n\r\n"].concat());
    let counts = test.proxy.counts();
    assert_eq!((counts.requests, counts.reads, counts.faults), (4, 3, 0));
    assert_eq!((counts.sent_bytes, counts.answered_bytes), (20, 40));
    let large = vec![5; 3_000_000];
    assert_eq!(test.send("PUT", "/large", &[], &large).unwrap().status, 200);
    assert_eq!(test.send("GET", "/large", &[], b"").unwrap().body, large);
}

#[test]
fn one_connection_takes_many_requests() {
    let test = Test::start();
    let mut connection = TcpStream::connect(test.proxy.address()).unwrap();
    let mut answers = BufReader::new(connection.try_clone().unwrap());
    for _ in 0..5 {
        connection.write_all(b"GET /kept HTTP/1.1\r\nHost: x\r\n\r\n").unwrap();
        let mut line = String::new();
        while line != "\r\n" {
            line.clear();
            answers.read_line(&mut line).unwrap();
        }
        let mut body = [0; BODY.len()];
        answers.read_exact(&mut body).unwrap();
        assert_eq!(body, BODY);
    }
    assert_eq!(test.proxy.counts().requests, 6);
}

#[test]
fn unavailable_answers_503_and_asks_nobody() {
    let test = Test::start();
    test.proxy.inject(Rule::always(Fault::Unavailable));
    assert_eq!(test.put("/other").unwrap().status, 503);
    assert_eq!(test.upstream.kept("/other"), None);
    assert_eq!(test.get().unwrap().status, 503);
    test.faults(2);
    test.heals();
}

#[test]
fn a_reset_comes_before_the_server_is_asked_or_after_it_has_answered() {
    let test = Test::start();
    for (fault, arrives) in [(Fault::ResetBefore, false), (Fault::AnswerLost, true)] {
        test.proxy.inject(Rule::always(fault));
        assert_eq!(test.put("/other"), Err(ErrorKind::ConnectionReset), "{fault:?}");
        assert_eq!(test.upstream.kept("/other").is_some(), arrives, "{fault:?}");
        assert_eq!(test.get(), Err(ErrorKind::ConnectionReset));
        test.faults(2);
        test.heals();
    }
}

#[test]
fn a_body_is_cut_where_it_is_longer() {
    let test = Test::start();
    test.proxy.inject(Rule::always(Fault::CutAfter { sent_bytes: 7 }));
    let before = test.proxy.counts().answered_bytes;
    assert_eq!(test.get(), Err(ErrorKind::ConnectionReset));
    assert_eq!(test.proxy.counts().answered_bytes - before, 7);
    assert_eq!(test.put("/other").unwrap().status, 200, "its answer has no body");
    test.faults(1);
    test.proxy.inject(Rule::always(Fault::CutAfter { sent_bytes: 20 }));
    assert_eq!(test.get().unwrap().body, BODY, "it ends there anyway");
    test.faults(0);
    test.heals();
}

#[test]
fn a_stalled_body_goes_no_further_until_the_rule_changes() {
    let test = Test::start();
    test.proxy.inject(Rule::always(Fault::StallAfter { sent_bytes: 7 }));
    std::thread::scope(|scope| {
        let asked = scope.spawn(|| test.get());
        let began = Instant::now();
        while test.proxy.counts().faults == 0 {
            assert!(began.elapsed() < Duration::from_secs(60));
            std::thread::sleep(Duration::from_millis(3));
        }
        assert!(!asked.is_finished());
        test.proxy.heal();
        assert_eq!(asked.join().unwrap(), Err(ErrorKind::ConnectionReset));
    });
    test.heals();
}

#[test]
fn slow_bodies_take_their_time_both_ways() {
    let test = Test::start();
    test.proxy.inject(Rule::always(Fault::Slow { bytes_per_s: 100 }));
    for send in [&(|| test.put("/other")) as &dyn Fn() -> _, &|| test.get()] {
        let began = Instant::now();
        assert_eq!(send().unwrap().status, 200);
        assert!(began.elapsed() >= Duration::from_millis(200));
    }
    test.faults(2);
    test.heals();
}

#[test]
fn a_wrong_length_is_too_long_or_too_short() {
    let test = Test::start();
    test.proxy.inject(Rule::always(Fault::WrongLength { error_bytes: 5 }));
    assert_eq!(test.get(), Err(ErrorKind::UnexpectedEof));
    test.proxy.inject(Rule::always(Fault::WrongLength { error_bytes: -5 }));
    let answer = test.get().unwrap();
    assert_eq!((answer.field("content-length"), &answer.body[..]), (Some("15"), &BODY[..15]));
    test.faults(1);
    test.heals();
}

#[test]
fn one_bit_is_flipped_on_the_way_back_or_there() {
    let test = Test::start();
    test.proxy.inject(Rule::always(Fault::FlippedBit { at_byte: 3 }));
    assert_eq!(test.get().unwrap().body, b"0122456789abcdefghij");
    test.proxy.inject(Rule::always(Fault::FlippedBitSent { at_byte: 19 }));
    assert_eq!(test.put("/other").unwrap().status, 200);
    assert_eq!(test.upstream.kept("/other").unwrap(), b"0123456789abcdefghik");
    test.faults(1);
    test.proxy.inject(Rule::always(Fault::FlippedBit { at_byte: 20 }));
    assert_eq!(test.get().unwrap().body, BODY);
    test.faults(0);
    test.heals();
}

#[test]
fn etags_lie_and_conditions_are_dropped() {
    let test = Test::start();
    test.proxy.inject(Rule::always(Fault::LyingEtag));
    let etags = [(); 2].map(|()| test.get().unwrap().field("etag").unwrap().to_owned());
    assert!(etags[0] != etags[1] && !etags.contains(&"\"true\"".to_owned()), "{etags:?}");
    let condition = [("If-Match", "x")];
    assert_eq!(test.send("GET", "/kept", &condition, b"").unwrap().field("condition"), Some("true"));
    test.proxy.inject(Rule::always(Fault::NoConditions));
    assert_eq!(test.send("GET", "/kept", &condition, b"").unwrap().field("condition"), Some("false"));
    assert_eq!(test.get().unwrap().status, 200);
    test.faults(1);
    test.heals();
}

#[test]
fn while_it_is_gone_connections_are_refused_and_open_ones_reset() {
    let test = Test::start();
    let mut open = TcpStream::connect(test.proxy.address()).unwrap();
    // So that the proxy has taken the connection.
    open.write_all(b"GET /kept HTTP/1.1\r\nHost: x\r\n\r\n").unwrap();
    let mut byte = [0];
    open.read_exact(&mut byte).unwrap();
    test.proxy.inject(Rule::always(Fault::Gone));
    let began = Instant::now();
    while test.get() != Err(ErrorKind::ConnectionRefused) {
        assert!(began.elapsed() < Duration::from_secs(60));
    }
    let mut rest = Vec::new();
    assert_eq!(open.read_to_end(&mut rest).unwrap_err().kind(), ErrorKind::ConnectionReset);
    test.proxy.heal();
    while test.get().is_err() {
        assert!(began.elapsed() < Duration::from_secs(60));
    }
    test.heals();
}

#[test]
fn a_rule_says_which_requests_and_how_often() {
    let test = Test::start();
    test.proxy.inject(Rule::times(Fault::Unavailable, 2));
    let answers: Vec<u16> = (0..4).map(|_| test.get().unwrap().status).collect();
    assert_eq!(answers, [503, 503, 200, 200]);
    test.proxy.inject(Rule::always(Fault::Unavailable).on(On::Writes));
    assert_eq!((test.get().unwrap().status, test.put("/kept").unwrap().status), (200, 503));
    test.proxy.inject(Rule::always(Fault::Unavailable).on(On::Reads));
    assert_eq!((test.get().unwrap().status, test.put("/kept").unwrap().status), (503, 200));
    test.proxy.inject(Rule::one_in(Fault::Unavailable, 4));
    let share = || (0..200).filter(|_| test.get().unwrap().status == 503).count();
    let met = share();
    assert!((25..75).contains(&met), "{met} of 200");
    test.faults(met as u64);
    test.proxy.inject(Rule::one_in(Fault::Unavailable, 4));
    assert_eq!(share(), met, "the same chance each time");
    test.heals();
}

#[test]
fn a_server_that_is_not_there_is_a_reset() {
    let upstream = Upstream::start();
    let proxy = FaultProxy::before(larder_testbed::Port::free().address());
    assert_ne!(proxy.address(), upstream.address);
    let error = http::request(proxy.address(), "GET", "/", &[], b"").unwrap_err();
    assert!([ErrorKind::ConnectionReset, ErrorKind::BrokenPipe].contains(&error.kind()), "{error}");
}
