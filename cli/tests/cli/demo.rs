//! larder demo: what it finds, and that it leaves nothing, however it ends.

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::harness::{Agent, Run, check_fields, larder, larderd, wait_for, wait_until};

/// A tree with files of all kinds, 6 of them loadable.
fn tree() -> TempDir {
    let tree = tempfile::tempdir().unwrap();
    let root = tree.path();
    fs::create_dir_all(root.join("a/b")).unwrap();
    fs::create_dir(root.join("bad\nname")).unwrap();
    for (name, len) in
        [("empty", 0), ("a/small", 10), ("a/b/page", 4_096), ("chunks", 200_000), ("large", 3 << 20), ("a/é ß", 77)]
    {
        let bytes: Vec<u8> = (0..len).map(|at| u8::try_from((at * 7 + len) % 253).unwrap_or(0)).collect();
        fs::write(root.join(name), bytes).unwrap();
    }
    fs::write(root.join("bad\nname/below"), "x").unwrap();
    fs::write(root.join(OsStr::from_bytes(b"not-utf8-\xff")), "x").unwrap();
    symlink("chunks", root.join("link")).unwrap();
    nix::unistd::mkfifo(&root.join("pipe"), nix::sys::stat::Mode::S_IRWXU).unwrap();
    tree
}

/// The demo on a tree, with `temporary` for what it makes.
fn demo(tree: &Path, temporary: &Path) -> Command {
    let mut command = larder();
    command.args(["demo", "--readers", "2", "--capacity", "64MiB"]).arg(tree).env("TMPDIR", temporary);
    command
}

fn children(pid: u32) -> BTreeSet<u32> {
    let children = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap_or_default();
    children.split_whitespace().filter_map(|pid| pid.parse().ok()).collect()
}

/// Whether a process is there and no zombie.
fn lives(pid: u32) -> bool {
    fs::read_to_string(format!("/proc/{pid}/stat"))
        .is_ok_and(|stat| !stat.rsplit(')').next().is_some_and(|rest| rest.starts_with(" Z")))
}

#[test]
fn every_file_is_loaded_compared_and_cleared_away() {
    if larderd().is_none() {
        return;
    }
    let (tree, temporary) = (tree(), tempfile::tempdir().unwrap());
    let report = Run::of(demo(tree.path(), temporary.path()).arg("--json").output().unwrap()).json();
    check_fields(
        &report,
        "directory capacity_bytes readers cut skipped.unreadable skipped.special skipped.illegal_name
         skipped.other_file_system skipped.too_large skipped.changed load.blocks load.bytes load.seconds
         load.reading_seconds load.bytes_per_s load.blocks_per_s verify.blocks verify.bytes verify.wrong
         verify.changed verify.seconds hit.reads hit.reads_per_s hit.timed_together hit.p50_ns hit.p99_ns
         in_place.reads in_place.bytes in_place.bytes_per_s file.reads file.reads_per_s file.timed_together
         file.p50_ns file.p99_ns file_volume.reads file_volume.bytes file_volume.bytes_per_s memory.physical_bytes
         memory.payload_bytes memory.segment_bytes memory.pss_bytes memory.rss_bytes memory.processes
         memory.agent_included origin fetch.requests fetch.blocks fetch.bytes fetch.seconds fetch.bytes_per_s
         fetch.blocks_per_s fetch.reads fetch.read_bytes fetch.failed fetch.wrong store.blocks store.bytes store.cut
         store.put_seconds store.put_bytes_per_s store.put_blocks_per_s store.restart_seconds store.read.requests
         store.read.blocks store.read.bytes store.read.seconds store.read.bytes_per_s store.read.blocks_per_s
         store.read.reads store.read.read_bytes store.verify.blocks store.verify.bytes store.verify.wrong
         store.verify.changed store.verify.seconds",
    );
    let bytes = 10 + 4_096 + 200_000 + (3 << 20) + 77;
    assert_eq!(report["load"]["blocks"], 6);
    assert_eq!(report["load"]["bytes"], bytes);
    assert_eq!(report["verify"]["blocks"], 2 * 6);
    assert_eq!(report["verify"]["bytes"], 2 * bytes);
    assert_eq!(report["verify"]["wrong"], 0);
    assert_eq!(report["skipped"]["special"], 2);
    let fetch = &report["fetch"];
    assert_eq!((&fetch["requests"], &fetch["reads"], &fetch["failed"]), (&json!(12), &json!(6), &json!(0)), "{fetch}");
    assert_eq!((&fetch["bytes"], &fetch["read_bytes"], &fetch["wrong"]), (&json!(bytes), &json!(bytes), &json!(0)));
    let store = &report["store"];
    assert_eq!(
        (&store["blocks"], &store["bytes"], &store["cut"]),
        (&json!(6), &json!(bytes), &json!(false)),
        "{store}"
    );
    assert_eq!((&store["read"]["requests"], &store["read"]["reads"]), (&json!(12), &json!(6)), "{store}");
    assert_eq!((&store["verify"]["blocks"], &store["verify"]["wrong"]), (&json!(12), &json!(0)), "{store}");
    assert_eq!(report["skipped"]["illegal_name"], 2);
    for path in ["/hit/p50_ns", "/file/p50_ns", "/in_place/bytes", "/file_volume/bytes", "/memory/physical_bytes"] {
        assert!(report.pointer(path).and_then(Value::as_u64).is_some_and(|value| value > 0), "{path} in {report}");
    }
    assert_eq!(fs::read_dir(temporary.path()).unwrap().count(), 0, "nothing is left");
}

/// The demo of what is at an origin.
fn demo_of(origin: &Path, temporary: &Path) -> Command {
    let mut command = larder();
    command.args(["demo", "--readers", "2", "--capacity", "64MiB", "--json", "--origin"]).arg(origin);
    command.env("TMPDIR", temporary);
    command
}

#[test]
fn what_is_fetched_from_an_origin_is_what_its_list_names() {
    if larderd().is_none() {
        return;
    }
    let (tree, temporary) = (tree(), tempfile::tempdir().unwrap());
    fs::write(tree.path().join("manifest.txt"), "200000 chunks\n77 a/é ß\n3145728 large\n1 ../above\n").unwrap();
    let mut demo = demo_of(tree.path(), temporary.path());
    let report = Run::of(demo.output().unwrap()).json();
    let bytes = 200_000 + 77 + (3 << 20);
    assert_eq!((&report["load"], &report["verify"], &report["file"]), (&Value::Null, &Value::Null, &Value::Null));
    assert_eq!((&report["directory"], &report["origin"]), (&Value::Null, &json!(tree.path().to_str())));
    assert_eq!((&report["fetch"]["requests"], &report["fetch"]["reads"]), (&json!(6), &json!(3)));
    assert_eq!((&report["fetch"]["bytes"], &report["skipped"]["illegal_name"]), (&json!(bytes), &json!(1)));
    assert_eq!((&report["store"]["bytes"], &report["store"]["verify"]["wrong"]), (&json!(bytes), &json!(0)));

    fs::write(tree.path().join("list"), "200000 chunks\n1 none\n").unwrap();
    let list = tree.path().join("list");
    let mut demo = demo_of(tree.path(), temporary.path());
    Run::of(demo.arg("--keys").arg(list).output().unwrap()).fails(1, "cannot fetch \"none\": ");
    fs::remove_file(tree.path().join("manifest.txt")).unwrap();
    Run::of(demo_of(tree.path(), temporary.path()).output().unwrap()).fails(3, "cannot fetch the list of files");
    assert_eq!(fs::read_dir(temporary.path()).unwrap().count(), 0, "nothing is left");
}

#[test]
fn what_is_fetched_is_compared_with_the_files_of_a_directory() {
    if larderd().is_none() {
        return;
    }
    let (files, origin, temporary) = (tree(), tree(), tempfile::tempdir().unwrap());
    let run = |status| {
        let run = Run::of(demo_of(origin.path(), temporary.path()).arg(files.path()).output().unwrap());
        assert_eq!(run.status, status, "{}", run.stderr);
        (serde_json::from_slice::<Value>(&run.stdout).unwrap(), run.stderr)
    };
    // A file that was written just now might have been written since.
    let settled = Duration::from_millis(1_100);
    std::thread::sleep(settled);
    let (report, _) = run(0);
    assert_eq!((&report["verify"]["blocks"], &report["verify"]["wrong"]), (&json!(12), &json!(0)));
    fs::write(origin.path().join("a/small"), "123456789x").unwrap();
    let (report, why) = run(1);
    assert_eq!((&report["verify"]["blocks"], &report["verify"]["wrong"]), (&json!(12), &json!(2)));
    assert!(why.contains("2 of 12 compared blocks are not what they should be: \"a/small\""), "{why}");
}

/// Starts the demo and waits until its agent and its readers run.
fn started(tree: &Path, temporary: &Path) -> (Child, BTreeSet<u32>) {
    let demo = demo(tree, temporary).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    let pid = demo.id();
    wait_until("the demo has three children", || children(pid).len() == 3);
    (demo, children(pid))
}

#[test]
fn an_interrupted_demo_leaves_nothing() {
    if larderd().is_none() {
        return;
    }
    let (tree, temporary) = (tree(), tempfile::tempdir().unwrap());
    let (mut demo, children) = started(tree.path(), temporary.path());
    kill(Pid::from_raw(demo.id().cast_signed()), Signal::SIGINT).unwrap();
    assert_eq!(wait_for(&mut demo), 1);
    for child in children {
        assert!(!lives(child), "process {child} is left");
    }
    assert_eq!(fs::read_dir(temporary.path()).unwrap().count(), 0, "nothing is left");
}

#[test]
fn the_processes_of_a_killed_demo_end_with_it() {
    if larderd().is_none() {
        return;
    }
    let (tree, temporary) = (tree(), tempfile::tempdir().unwrap());
    let (mut demo, children) = started(tree.path(), temporary.path());
    demo.kill().unwrap();
    wait_for(&mut demo);
    for child in children {
        wait_until("its processes end", || !lives(child));
    }
}

#[test]
fn a_demo_without_files_or_room_says_so() {
    if larderd().is_none() {
        return;
    }
    let empty = tempfile::tempdir().unwrap();
    let temporary = tempfile::tempdir().unwrap();
    let run = |command: &mut Command| Run::of(command.output().unwrap());
    run(&mut demo(empty.path(), temporary.path())).fails(1, "there is no file to load");
    run(&mut demo(&empty.path().join("none"), temporary.path())).fails(1, "No such file");
    fs::write(empty.path().join("a"), "x").unwrap();
    let mut small = larder();
    small.args(["demo", "--capacity", "1MiB"]).arg(empty.path()).env("TMPDIR", temporary.path());
    run(&mut small).fails(1, "the agent did not start");
    assert_eq!(fs::read_dir(temporary.path()).unwrap().count(), 0, "nothing is left");
}

/// What a reader says of a block that is not what its file holds.
fn verify(agent: &Agent, root: &Path, loaded_at_ns: &str) -> Value {
    let mut reader = agent
        .command()
        .args(["demo-process", "--parent", &std::process::id().to_string(), "reader", "--namespace", "t"])
        .args(["--loaded-at-ns", loaded_at_ns, "--root"])
        .arg(root)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    reader.stdin.take().unwrap().write_all(b"\"Verify\"\n").unwrap();
    let lines: Vec<String> = BufReader::new(reader.stdout.take().unwrap()).lines().map_while(Result::ok).collect();
    assert_eq!(wait_for(&mut reader), 0, "{lines:?}");
    serde_json::from_str(lines.last().unwrap()).unwrap()
}

#[test]
fn a_wrong_byte_is_seen() {
    let Some(agent) = Agent::start("64MiB") else { return };
    let root = tempfile::tempdir().unwrap();
    for (name, in_file, in_block) in [("same", "abc", "abc"), ("byte", "abc", "abd"), ("longer", "abc", "abcd")] {
        fs::write(root.path().join(name), in_file).unwrap();
        agent.put(name, in_block.as_bytes());
    }
    agent.put("shorter", b"ab");
    fs::write(root.path().join("shorter"), "abc").unwrap();
    // Loading that began in the far future: the files have not changed since.
    let verified = &verify(&agent, root.path(), "9000000000000000000")["Verified"];
    assert_eq!((&verified["blocks"], &verified["wrong"], &verified["changed"]), (&json!(4), &json!(3), &json!(0)));
    assert_eq!(verified["wrong_keys"], json!(["byte", "longer", "shorter"]));
    // Loading that began long ago: they have.
    let verified = &verify(&agent, root.path(), "0")["Verified"];
    assert_eq!((&verified["wrong"], &verified["changed"]), (&json!(0), &json!(3)));
}
