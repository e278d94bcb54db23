//! put, get, wait, ls, rm, clear.

use std::fs;
use std::io::Read;
use std::os::unix::ffi::OsStringExt;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt, symlink};
use std::process::Stdio;

use serde_json::json;

use crate::harness::{Agent, check_fields, larder, wait_for, wait_until};

fn pattern(len: usize) -> Vec<u8> {
    (0..len).map(|at| u8::try_from(at * 31 % 251).unwrap_or(0)).collect()
}

#[test]
fn what_is_put_is_got() {
    let Some(agent) = Agent::start("64MiB") else { return };
    for len in [0, 1, 4_096, 70_000, 5 << 20] {
        let bytes = pattern(len);
        let file = agent.directory().join("in");
        fs::write(&file, &bytes).unwrap();
        let file = file.to_str().unwrap();
        let from_file = format!("file/{len}");
        agent.run(["put", "t", &from_file, file]).text();
        assert_eq!(agent.run(["get", "t", &from_file]).stdout, bytes);
        let from_stdin = format!("stdin/{len}");
        agent.put(&from_stdin, &bytes);
        let out = agent.directory().join("out");
        agent.run(["get", "t", &from_stdin, "-o", out.to_str().unwrap()]).text();
        assert_eq!(fs::read(&out).unwrap(), bytes);
    }
}

#[test]
fn outcomes_of_a_put_can_be_told_apart() {
    let Some(agent) = Agent::start("64MiB") else { return };
    let put = |namespace: &str, bytes: &[u8]| agent.run_with(["put", "--json", namespace, "a/b", "-"], bytes);
    let stored = put("t", b"one").json();
    check_fields(&stored, "key bytes outcome");
    assert_eq!(stored, json!({ "key": "a/b", "bytes": 3, "outcome": "stored" }));
    assert_eq!(put("t", b"one").json()["outcome"], "already_held");
    put("t", b"two!").fails(6, "the key holds other bytes (3 bytes, 4 offered)");
    assert_eq!(agent.run(["get", "t", "a/b"]).text(), "one");
    agent.run(["-q", "ns", "create", "o", "--overwrite"]).text();
    assert_eq!(put("o", b"one").json()["outcome"], "stored");
    assert_eq!(put("o", b"two!").json()["outcome"], "replaced");
    assert_eq!(agent.run(["get", "o", "a/b"]).text(), "two!");
}

#[test]
fn a_file_is_written_whole_or_not_at_all() {
    let Some(agent) = Agent::start("64MiB") else { return };
    agent.put("a", b"fresh");
    let directory = agent.directory().join("out");
    fs::create_dir(&directory).unwrap();
    let file = directory.join("file");
    let name = file.to_str().unwrap();
    fs::write(&file, "old").unwrap();
    fs::set_permissions(&file, fs::Permissions::from_mode(0o640)).unwrap();
    let old = fs::metadata(&file).unwrap();

    agent.run(["get", "t", "b", "-o", name]).fails(3, "key \"b\": not found");
    assert_eq!(fs::read_to_string(&file).unwrap(), "old");

    let link = directory.join("link");
    symlink("file", &link).unwrap();
    let document = agent.run(["--json", "get", "t", "a", "-o", link.to_str().unwrap()]).json();
    check_fields(&document, "key bytes file");
    assert_eq!(fs::read_to_string(&file).unwrap(), "fresh");
    assert!(fs::symlink_metadata(&link).unwrap().is_symlink());
    let new = fs::metadata(&file).unwrap();
    assert_ne!(new.ino(), old.ino(), "whoever has the old file open keeps the old bytes");
    assert_eq!(new.mode(), old.mode());

    agent.run(["get", "t", "a", "-o", directory.to_str().unwrap()]).fails(1, "is a directory");
    let nowhere = directory.join("no/file");
    agent.run(["get", "t", "a", "-o", nowhere.to_str().unwrap()]).fails(1, "cannot write in");
    assert_eq!(fs::read_dir(&directory).unwrap().count(), 2, "nothing is left beside the file and the link");
}

#[test]
fn a_pipe_is_written_not_replaced() {
    let Some(agent) = Agent::start("64MiB") else { return };
    agent.put("a", b"bytes");
    let pipe = agent.directory().join("pipe");
    nix::unistd::mkfifo(&pipe, nix::sys::stat::Mode::S_IRWXU).unwrap();
    let mut get = agent.command().args(["-q", "get", "t", "a", "-o"]).arg(&pipe).stdout(Stdio::null()).spawn().unwrap();
    let mut bytes = String::new();
    fs::File::open(&pipe).unwrap().read_to_string(&mut bytes).unwrap();
    assert_eq!((wait_for(&mut get), bytes.as_str()), (0, "bytes"));
    assert!(fs::metadata(&pipe).unwrap().file_type().is_fifo());
}

#[test]
fn keys_are_listed_sorted() {
    let Some(agent) = Agent::start("64MiB") else { return };
    for key in ["b", "a/2", "a/10", "a/1/x", "ab"] {
        agent.put(key, key.as_bytes());
    }
    assert_eq!(agent.run(["ls", "t"]).text(), "a/1/x\na/10\na/2\nab\nb\n");
    assert_eq!(agent.run(["ls", "t", "a/"]).text(), "a/1/x\na/10\na/2\n");
    assert_eq!(agent.run(["ls", "t", "a/", "--json"]).json(), json!({ "keys": ["a/1/x", "a/10", "a/2"] }));
    assert_eq!(agent.run(["ls", "t", "none", "--json"]).json(), json!({ "keys": [] }));
    for group in ["a", "a/"] {
        assert_eq!(agent.run(["ls", "-d", "t", group]).text(), "10\n2\n");
    }
    assert_eq!(agent.run(["ls", "-d", "t"]).text(), "ab\nb\n");
}

#[test]
fn what_is_removed_is_gone() {
    let Some(agent) = Agent::start("64MiB") else { return };
    for key in ["a", "b", "c"] {
        agent.put(key, b"bytes");
    }
    assert_eq!(agent.run(["rm", "t", "a", "--json"]).json(), json!({ "key": "a" }));
    agent.run(["rm", "t", "a"]).fails(3, "key \"a\": not found");
    agent.run(["get", "t", "a"]).fails(3, "key \"a\": not found");
    assert_eq!(agent.run(["clear", "t", "--json"]).json(), json!({ "blocks": 2 }));
    assert_eq!(agent.run(["ls", "t"]).text(), "");
}

#[test]
fn a_wait_ends_with_a_put_or_with_its_deadline() {
    let Some(agent) = Agent::start("64MiB") else { return };
    agent.run(["wait", "t", "a", "--timeout", "30ms"]).fails(5, "the deadline passed");
    let mut waiting =
        agent.command().args(["-q", "wait", "t", "a", "--timeout", "20s"]).stdout(Stdio::null()).spawn().unwrap();
    // Long enough for it to be waiting in most runs; the outcome is the same when it is not yet.
    wait_until("the waiter is connected", || {
        let stat = agent.run(["stat", "--json"]).json();
        stat["sessions"].as_u64().is_some_and(|sessions| sessions >= 2)
    });
    agent.put("a", b"bytes");
    assert_eq!(wait_for(&mut waiting), 0);
    assert_eq!(agent.run(["wait", "t", "a", "--json"]).json(), json!({ "key": "a", "bytes": 5 }));
}

#[test]
fn a_block_over_the_limit_is_refused_with_the_limit() {
    let Some(agent) = Agent::start("32MiB") else { return };
    let limit = agent.run(["ping", "--json"]).json()["block_len_max_bytes"].as_u64().unwrap();
    let bytes = vec![7; usize::try_from(limit).unwrap() + 1];
    agent.run_with(["put", "t", "a", "-"], &bytes).fails(1, &format!("over the limit of {limit} bytes"));
    let file = agent.directory().join("large");
    fs::write(&file, &bytes).unwrap();
    agent.run(["put", "t", "a", file.to_str().unwrap()]).fails(1, &format!("over the limit of {limit} bytes"));
    assert_eq!(agent.run(["ls", "t"]).text(), "");
}

#[test]
fn illegal_arguments_are_usage_errors_and_need_no_agent() {
    let long = "x".repeat(1_025);
    for (key, why) in [
        ("", "the key is empty"),
        (long.as_str(), "the key has 1025 bytes; the longest allowed is 1024"),
        ("/a", "empty segment"),
        ("a//b", "empty segment"),
        ("a/../b", "the segment \"..\""),
        ("a\nb", "control character U+000A"),
    ] {
        for verb in ["get", "rm", "wait"] {
            crate::harness::Run::of(larder().args([verb, "t", key]).output().unwrap()).fails(2, why);
        }
    }
    let not_utf8 = std::ffi::OsString::from_vec(b"ab\xff".to_vec());
    let run = |args: &[&std::ffi::OsStr]| crate::harness::Run::of(larder().args(args).output().unwrap());
    run(&["get".as_ref(), "t".as_ref(), &not_utf8]).fails(2, "the key is not UTF-8 (bad byte at offset 2)");
    run(&["get".as_ref(), &not_utf8, "a".as_ref()]).fails(2, "is not UTF-8");
    run(&["ls".as_ref(), "a//b".as_ref()]).fails(2, "empty segment");
    run(&["get".as_ref(), "-".as_ref(), "a".as_ref()]).fails(2, "LARDER_NAMESPACE, which is not set");
    run(&["--json".as_ref(), "get".as_ref(), "t".as_ref(), "a".as_ref()]).fails(2, "needs -o FILE");
}

#[test]
fn a_dash_stands_for_the_variable() {
    let Some(agent) = Agent::start("64MiB") else { return };
    agent.put("a", b"bytes");
    let run = agent.command().env("LARDER_NAMESPACE", "t").args(["get", "-", "a"]).output().unwrap();
    assert_eq!(run.stdout, b"bytes");
}

#[test]
fn a_reader_that_stops_reading_is_no_error() {
    let Some(agent) = Agent::start("64MiB") else { return };
    agent.put("a", &pattern(4 << 20));
    for args in [&["get", "t", "a"][..], &["ls", "t"], &["stat"], &["ls", "t", "--json"]] {
        let mut child = agent.command().args(args).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        drop(child.stdout.take());
        let mut stderr = String::new();
        child.stderr.take().unwrap().read_to_string(&mut stderr).unwrap();
        assert_eq!((wait_for(&mut child), stderr.as_str()), (0, ""), "{args:?}");
    }
}

#[test]
fn a_file_that_cannot_be_read_stores_nothing() {
    let Some(agent) = Agent::start("64MiB") else { return };
    let directory = agent.directory().to_str().unwrap().to_owned();
    agent.run(["put", "t", "a", &format!("{directory}/none")]).fails(1, "No such file");
    agent.run(["put", "t", "a", &directory]).fails(1, "is a directory");
    assert_eq!(agent.run(["ls", "t"]).text(), "");
    // A file of /proc says that it is empty and is not.
    agent.run(["-q", "put", "t", "version", "/proc/version"]).text();
    assert_eq!(agent.run(["get", "t", "version"]).stdout, fs::read("/proc/version").unwrap());
}
