//! Everything that can be wrong before the first block is read, and what is said about it.

use std::fs::{self, Permissions};
use std::io::Write;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Output, Stdio};
use std::time::{Duration, Instant};

use larder::{Client, Durability, Error, NamespaceOptions, OnAbsent, PutOutcome};
use larder_protocol::layout::LAYOUT_MAGIC;
use larder_protocol::message::{Answer, Refusal, Reply, Request, VERSION, decode_request, encode_reply};
use larder_protocol::socket::{self, MESSAGE_LEN_MAX};
use nix::sys::socket::{Backlog, listen};
use nix::unistd::{Gid, Uid, setgid, setuid};

use crate::harness::{Agent, PATIENCE, eventually, is_root, larderd, needs, skip};
use crate::pattern::{get_whole, put};
use crate::roles;

fn connect(socket: &Path) -> Result<Client, Error> {
    Client::builder().socket(socket).on_absent(OnAbsent::Error).timeout(PATIENCE).connect()
}

#[test]
fn no_agent_is_an_error_that_names_the_socket() {
    let directory = tempfile::tempdir().unwrap();
    let nobody = directory.path().join("nobody.sock");
    drop(socket::listen_at(&nobody).unwrap());
    let file = directory.path().join("file.sock");
    fs::write(&file, "no socket").unwrap();
    for path in [&directory.path().join("none.sock"), &directory.path().join("no/directory.sock"), &nobody, &file] {
        match connect(path) {
            Err(error @ Error::NoAgent { .. }) => {
                let sentence = error.to_string();
                assert!(sentence.contains(path.to_str().unwrap()) && sentence.contains("larderd"), "{sentence}");
            }
            other => panic!("{path:?}: {other:?}"),
        }
    }
}

#[test]
fn an_agent_that_comes_later_is_found() {
    needs!(ROBUST_FUTEX);
    let directory = tempfile::tempdir().unwrap();
    let socket = directory.path().join("larder.sock");
    let client = Client::builder().socket(&socket).on_absent(OnAbsent::Direct).connect().unwrap();
    let cache = client.namespace("t").unwrap();
    assert_eq!(put(&cache, "k", 5).unwrap(), PutOutcome::NotKept);
    let mut agent =
        larderd().args(["--capacity", "64MiB", "--socket"]).arg(&socket).stderr(Stdio::null()).spawn().unwrap();
    eventually("the agent is found", || (put(&cache, "k", 5).unwrap() == PutOutcome::Stored).then_some(()));
    get_whole(&cache, "k", 5);
    agent.kill().unwrap();
    agent.wait().unwrap();
    assert!(matches!(cache.get("k"), Err(Error::NotFound)), "without an agent the cache is empty");
    assert_eq!(put(&cache, "k", 5).unwrap(), PutOutcome::NotKept);
}

/// Plays a client that has only the environment to tell it what to do.
pub(crate) fn absent() {
    let tell = |what: &str, outcome: Result<String, Error>| {
        let text = outcome.unwrap_or_else(|error| format!("{error:?}"));
        // By its first word: details are for other tests.
        let word = text.split([' ', '(']).next().unwrap_or_default();
        writeln!(std::io::stderr(), "@ {what} {word}").expect("the test reads this");
    };
    let client = match Client::connect() {
        Ok(client) => client,
        Err(error) => return tell("connect", Err(error)),
    };
    tell("stat", client.stat().map(|_| "told".into()));
    tell("namespaces", client.namespaces().map(|all| all.len().to_string()));
    let cache = match client.namespace("t") {
        Ok(cache) => cache,
        Err(error) => return tell("namespace", Err(error)),
    };
    tell("get", cache.get("k").map(|_| "found".into()));
    tell("get_many", cache.get_many(&["k"]).remove(0).map(|_| "found".into()));
    tell("put", cache.put("k", b"bytes").map(|outcome| format!("{outcome:?}")));
    tell("put_long", put(&cache, "k", 3_000_000).map(|outcome| format!("{outcome:?}")));
    tell("put_many", cache.put_many(&[("k", b"bytes")]).remove(0).map(|outcome| format!("{outcome:?}")));
    let written = cache.create("k", 3_000_000).and_then(|mut writer| {
        writer.as_mut_slice().fill(1);
        writer.commit()
    });
    tell("write", written.map(|outcome| format!("{outcome:?}")));
    tell("wait", cache.wait("k", Duration::from_secs(3600)).map(|_| "found".into()));
    tell("contains", cache.contains("k").map(|found| found.to_string()));
    tell("delete", cache.delete("k").map(|found| found.to_string()));
    tell("list", cache.list("").map(|keys| keys.len().to_string()));
    tell("clear", cache.clear().map(|count| count.to_string()));
}

/// What [`absent`] says with this in its environment.
fn absent_with(variables: &[(&str, &str)]) -> Vec<String> {
    let directory = tempfile::tempdir().unwrap();
    let socket = directory.path().join("none.sock");
    let mut command = roles::command("absent", &socket);
    command.env("LARDER_SOCKET", &socket).envs(variables.iter().copied());
    let output = command.output().unwrap();
    assert!(output.status.success(), "{output:?}");
    let text = String::from_utf8(output.stderr).unwrap();
    text.lines().filter_map(|line| line.strip_prefix("@ ")).map(str::to_owned).collect()
}

#[test]
fn without_an_agent_the_environment_decides() {
    let began = Instant::now();
    assert_eq!(absent_with(&[]), ["connect NoAgent"]);
    assert_eq!(absent_with(&[("LARDER_ON_ABSENT", "error")]), ["connect NoAgent"]);
    for nonsense in ["", "Direct", "ignore", "direct "] {
        assert_eq!(absent_with(&[("LARDER_ON_ABSENT", nonsense)]), ["connect Invalid"], "{nonsense:?}");
    }
    assert_eq!(absent_with(&[("LARDER_AGENT_UID", "nobody")]), ["connect Invalid"]);
    let direct = absent_with(&[("LARDER_ON_ABSENT", "direct")]);
    let expected = [
        "stat NoAgent",
        "namespaces NoAgent",
        "get NotFound",
        "get_many NotFound",
        "put NotKept",
        "put_long NotKept",
        "put_many NotKept",
        "write NotKept",
        "wait NotFound",
        "contains false",
        "delete false",
        "list 0",
        "clear 0",
    ];
    assert_eq!(direct, expected);
    assert!(began.elapsed() < PATIENCE, "nobody waits for an agent that is not there");
}

#[test]
fn a_directory_that_others_can_write_is_refused_by_both_sides() {
    let agent = Agent::small();
    let cache = agent.namespace("t");
    put(&cache, "k", 5).unwrap();
    let set = |mode| fs::set_permissions(agent.directory(), Permissions::from_mode(mode)).unwrap();
    for mode in [0o777, 0o1777, 0o720] {
        set(mode);
        match connect(&agent.socket()) {
            Err(error @ Error::UnsafeDirectory { .. }) => {
                let sentence = error.to_string();
                assert!(sentence.contains(&format!("{mode:04o}")), "{sentence}");
            }
            other => panic!("{mode:o}: {other:?}"),
        }
    }
    get_whole(&cache, "k", 5);
    let other = agent.directory().join("other.sock");
    let output = larderd().args(["--capacity", "64MiB", "--socket"]).arg(&other).output().unwrap();
    let sentence = complaint(&output, 1);
    assert!(sentence.contains("others could put a socket of their own there"), "{sentence}");
    assert!(!other.exists());
    set(0o700);
    connect(&agent.socket()).unwrap();
}

/// The one sentence with which `larderd` ended.
#[track_caller]
fn complaint(output: &Output, status: i32) -> String {
    let text = String::from_utf8(output.stderr.clone()).unwrap();
    assert_eq!(output.status.code(), Some(status), "{text}");
    let lines: Vec<&str> = text.lines().filter(|line| line.starts_with("larderd: ")).collect();
    assert_eq!(lines.len(), 1, "{text}");
    lines[0].to_owned()
}

#[test]
fn two_agents_cannot_serve_one_socket() {
    let mut agent = Agent::small();
    let cache = agent.namespace("t");
    put(&cache, "k", 5).unwrap();
    let output = larderd().args(["--capacity", "64MiB", "--socket"]).arg(agent.socket()).output().unwrap();
    let sentence = complaint(&output, 1);
    assert!(sentence.contains("another larderd serves"), "{sentence}");
    assert!(agent.is_alive());
    get_whole(&agent.namespace("t"), "k", 5);
}

#[test]
fn capacities_that_this_machine_has_not_are_refused() {
    let directory = tempfile::tempdir().unwrap();
    let socket = directory.path().join("larder.sock");
    let try_with = |arguments: &str| {
        let mut command = larderd();
        command.args(arguments.split_whitespace()).arg("--socket").arg(&socket);
        complaint(&command.output().unwrap(), 2)
    };
    for (arguments, words) in [
        ("--capacity 1MiB", ["1 MiB", "32 MiB"]),
        ("--capacity 1000TiB", ["1000 TiB", "the machine has"]),
        ("--capacity much", ["much", "capacity"]),
        ("--capacity 64MiB --segment-size 128MiB", ["128MiB", "64 MiB"]),
        ("--capacity 64MiB --tenant-quota 65MiB", ["65MiB", "64 MiB"]),
        ("--capacity 64MiB --pinned-quota 1GiB", ["1GiB", "64 MiB"]),
        ("--capacity 64MiB --huge-pages thp --segment-size 3MiB", ["3MiB", "2 MiB"]),
        ("--capacity 64MiB --cpus 100000", ["100000", "CPU"]),
        ("--capacity 64MiB --numa 63", ["63", "node"]),
    ] {
        let sentence = try_with(arguments);
        assert!(words.iter().all(|word| sentence.contains(word)), "{arguments}: {sentence}");
    }
    assert!(!socket.exists());
}

#[test]
fn options_that_contradict_are_refused() {
    let agent = Agent::small();
    let client = agent.client();
    client.namespace("t").unwrap();
    for options in [
        NamespaceOptions { overwrite: true, ..NamespaceOptions::default() },
        NamespaceOptions { ttl_ms: Some(1), ..NamespaceOptions::default() },
    ] {
        let error = client.create_namespace("t", &options).unwrap_err();
        let sentence = error.to_string();
        assert!(matches!(error, Error::Invalid(_)) && sentence.contains("other options"), "{sentence}");
    }
    let told = NamespaceOptions { durability: Some(Durability::Scratch), ..NamespaceOptions::default() };
    assert_eq!(client.namespace_info("t").unwrap().options, told);
}

#[test]
fn an_agent_of_another_version_is_told_apart() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("larder.sock");
    let listener = socket::listen_at(&path).unwrap();
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let connection = accept(&listener);
            let mut packet = vec![0; MESSAGE_LEN_MAX];
            eventually("the client greets", || {
                let (len, _) = socket::receive(&connection, &mut packet).ok()?;
                let envelope = decode_request(&packet[..len]).unwrap();
                assert_eq!(envelope.request, Request::Hello { layout: LAYOUT_MAGIC, version: VERSION });
                let refusal =
                    Refusal::Version { agent: 41, agent_layout: 7, client: VERSION, client_layout: LAYOUT_MAGIC };
                let answer = Answer { id: envelope.id, reply: Reply::Refused(refusal) };
                socket::send(&connection, &encode_reply(&answer), &[]).ok()
            });
        });
        match connect(&path) {
            Err(error @ Error::Version { agent: 41, client, .. }) => {
                assert_eq!(client, VERSION);
                let sentence = error.to_string();
                assert!(sentence.contains("41") && sentence.contains(&VERSION.to_string()), "{sentence}");
            }
            other => panic!("{other:?}"),
        }
    });
}

fn accept(listener: &OwnedFd) -> OwnedFd {
    eventually("a client connects", || socket::accept(listener.as_fd()).ok())
}

/// Plays somebody else's server at a place that one's own agent could be at. It must not be told anything.
pub(crate) fn impostor() {
    let path = roles::socket();
    let listener = socket::listen_at(&path).expect("root may bind anywhere");
    setgid(Gid::from_raw(STRANGER)).expect("root may become anybody");
    setuid(Uid::from_raw(STRANGER)).expect("root may become anybody");
    // The kernel vouches for whoever listened last.
    listen(&listener, Backlog::new(8).expect("a small number")).expect("a socket of ours");
    nix::unistd::write(std::io::stderr(), b"@\n").expect("the test reads this");
    let mut packet = vec![0; MESSAGE_LEN_MAX];
    let connection = accept(&listener);
    let told = eventually("the client goes", || match socket::receive(&connection, &mut packet) {
        Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => None,
        Err(_) => Some(0),
        Ok((len, _)) => Some(len),
    });
    assert_eq!(told, 0, "the client spoke to an impostor");
}

/// A user that owns nothing here.
const STRANGER: u32 = 65_534;

#[test]
fn an_impostor_is_told_nothing() {
    if !is_root() {
        skip!("needs root, to have another user listen");
    }
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("larder.sock");
    let mut child = roles::command("impostor", &path).stderr(Stdio::piped()).spawn().unwrap();
    let mut heard = String::new();
    let stderr = child.stderr.take().unwrap();
    std::io::BufRead::read_line(&mut std::io::BufReader::new(stderr), &mut heard).unwrap();
    assert_eq!(heard.trim_end(), "@", "the impostor did not come to listen");
    match connect(&path) {
        Err(error @ Error::Impostor { uid: STRANGER, .. }) => {
            let sentence = error.to_string();
            assert!(sentence.contains("65534") && sentence.contains("LARDER_AGENT_UID"), "{sentence}");
        }
        other => panic!("{other:?}"),
    }
    let status = eventually("the impostor ends", || child.try_wait().unwrap());
    assert!(status.success(), "the impostor was told something");
    let trusting = Client::builder().socket(&path).agent_uid(STRANGER).on_absent(OnAbsent::Error);
    assert!(matches!(trusting.connect(), Err(Error::NoAgent { .. })), "trusted, but gone by now");
}
