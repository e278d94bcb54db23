//! Publishers that are killed, and what they leave.

use std::collections::{HashMap, HashSet};
use std::fs::File;
use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::SystemTime;

use super::super::temporary::{Owner, Temporary};
use super::*;

/// Set for another process: what it shall do, and where.
const WORK: &str = "LARDER_TEST_STORE_WORK";
const WHERE: &str = "LARDER_TEST_STORE_WHERE";
/// The first number that it uses.
const FIRST: &str = "LARDER_TEST_STORE_FIRST";

fn other_process(work: &str, dir: &Path, first: u64) -> Command {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command
        .args(["--exact", "store::directory::tests::crash::other", "--nocapture", "--test-threads=1"])
        .env(WORK, work)
        .env(WHERE, dir)
        .env(FIRST, first.to_string())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped());
    command
}

fn end(mut child: Child) {
    child.kill().unwrap();
    child.wait().unwrap();
}

/// Says something to the test, in one write.
fn say(text: &str) {
    std::io::stdout().lock().write_all(format!("\n{text}\n").as_bytes()).unwrap();
}

/// The other process. Does nothing in an ordinary run of the tests.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn other() {
    let Ok(work) = std::env::var(WORK) else { return };
    let dir = std::path::PathBuf::from(std::env::var_os(WHERE).unwrap());
    match work.as_str() {
        "open" => say(&format!("OPENED {:?}", Directory::open(&dir).map(drop))),
        "hold" => {
            let root = Root::open(&dir).unwrap();
            let _held = Temporary::create(&root).unwrap();
            say("HELD");
            let _ = std::io::stdin().read(&mut [0]);
        }
        _ => publish_until_killed(&dir).await,
    }
}

async fn publish_until_killed(dir: &Path) {
    let store = Arc::new(Directory::open(dir).unwrap());
    let first: u64 = std::env::var(FIRST).unwrap().parse().unwrap();
    let tasks: Vec<_> = (0..4_u64)
        .map(|lane| {
            let store = Arc::clone(&store);
            tokio::spawn(async move {
                for turn in 0.. {
                    let number = first + turn * 4 + lane;
                    let (name, mode) = if turn % 3 == 2 {
                        (format!("larder-1/hot/{lane}"), Mode::Replace)
                    } else {
                        (format!("larder-1/once/{}/{number}", number % 7), Mode::Create)
                    };
                    let published = store.publish(&name, numbered(number), mode).await.unwrap();
                    assert_eq!(published, Published::Done);
                    say(&format!("DONE {name} {number}"));
                }
            })
        })
        .collect();
    for task in tasks {
        task.await.unwrap();
    }
}

/// An object that says which it is and can be checked. Some are moved in several pieces.
fn numbered(number: u64) -> Object {
    object(&number.to_le_bytes(), &noise(number, numbered_len(number)))
}

fn numbered_len(number: u64) -> usize {
    let len = usize::try_from(number.wrapping_mul(7919) % 90_000).unwrap();
    if number % 23 == 5 { PIECE_BYTES + len } else { len }
}

/// The number of an object that is whole.
async fn number_of(store: &Directory, name: &str) -> Option<u64> {
    let bytes = whole(store, name).await.unwrap()?;
    let number = u64::from_le_bytes(bytes[..8].try_into().unwrap());
    assert!(bytes[8..] == noise(number, numbered_len(number)), "{name} is not whole");
    Some(number)
}

#[tokio::test]
async fn a_killed_publisher_leaves_whole_objects_and_all_that_it_acknowledged() {
    const KILLS: u64 = 60;
    let dir = tempfile::tempdir().unwrap();
    let mut acknowledged: HashMap<String, u64> = HashMap::new();
    let mut seen = HashSet::new();
    let (mut first, mut left) = (0, 0);
    for round in 0..KILLS {
        let mut child = other_process("publish", dir.path(), first).spawn().unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let reader = thread::spawn(move || lines.map_while(Result::ok).collect::<Vec<String>>());
        let wait = noise(round, 8).iter().fold(0, |sum, byte| sum * 31 + u64::from(*byte)) % 60_000;
        tokio::time::sleep(Duration::from_micros(5_000 + wait)).await;
        end(child);
        for line in reader.join().unwrap() {
            if let Some((name, number)) = line.strip_prefix("DONE ").and_then(|rest| rest.split_once(' ')) {
                acknowledged.insert(name.to_owned(), number.parse().unwrap());
            }
        }
        left += if dir.path().join(".tmp").exists() { temporary_files(dir.path()).len() } else { 0 };
        let store = Directory::open(dir.path()).unwrap();
        assert_eq!(temporary_files(dir.path()), [""; 0], "a temporary file of a process that is gone");
        let names = store.list("", "", usize::MAX).await.unwrap();
        // What is published once is looked at once more at the end, which spares most of the reading.
        for name in names.iter().filter(|name| round + 1 == KILLS || !seen.contains(*name)) {
            let number = number_of(&store, name).await.unwrap();
            first = first.max(number + 1);
            // The last publication may have come to its end without time to say so.
            assert!(acknowledged.get(name).is_none_or(|acknowledged| number >= *acknowledged), "{name} went back");
        }
        for (name, number) in &acknowledged {
            assert!(names.binary_search(name).is_ok(), "{name} with {number} was acknowledged and is not there");
        }
        seen.extend(names.into_iter().filter(|name| name.contains("/once/")));
        first = first.next_multiple_of(4);
    }
    println!("{KILLS} kills, {} acknowledged, {left} temporary files left behind", acknowledged.len());
    assert!(acknowledged.len() > 20, "the publishers did next to nothing before they were killed");
    assert!(left > 0, "no publisher was killed at work");
}

#[test]
fn a_temporary_file_goes_when_its_process_is_gone_and_not_before() {
    let dir = tempfile::tempdir().unwrap();
    let mut child = other_process("hold", dir.path(), 0).spawn().unwrap();
    let held = BufReader::new(child.stdout.take().unwrap()).lines().map_while(Result::ok).any(|line| line == "HELD");
    assert!(held);
    let theirs = temporary_files(dir.path());
    assert_eq!(theirs.len(), 1);
    let root = Root::open(dir.path()).unwrap();
    let ours = Temporary::create(&root).unwrap();
    Directory::open(dir.path()).unwrap();
    assert_eq!(temporary_files(dir.path()).len(), 2, "both processes live");
    child.kill().unwrap();
    // It may be a zombie until it is waited for, which is as good as gone.
    let deadline = std::time::Instant::now() + LIVENESS;
    while temporary_files(dir.path()) != [ours.name()] {
        assert!(std::time::Instant::now() < deadline, "the file of a killed process stays");
        thread::sleep(Duration::from_millis(2));
        Directory::open(dir.path()).unwrap();
    }
    child.wait().unwrap();
}

#[test]
fn temporary_files_of_other_hosts_stay_for_a_day() {
    let dir = tempfile::tempdir().unwrap();
    Directory::open(dir.path()).unwrap();
    let this = Owner::this();
    let host = |host: &str| Owner { host: host.to_owned(), ..this.clone() };
    let reused = Owner { started: this.started.wrapping_sub(1), ..this.clone() };
    let rebooted = Owner { boot: "another".to_owned(), ..this.clone() };
    let contained = Owner { namespace: this.namespace + 1, ..this.clone() };
    let day = Duration::from_hours(24);
    let second = Duration::from_secs(100);
    for (name, age, stays) in [
        (this.file_name(900_001), 2 * day, true),
        (reused.file_name(900_002), Duration::ZERO, false),
        (rebooted.file_name(900_003), Duration::ZERO, false),
        (contained.file_name(900_004), day - second, true),
        (contained.file_name(900_005), day + second, false),
        (host("other").file_name(900_006), day - second, true),
        (host("other").file_name(900_007), day + second, false),
        (host("").file_name(900_008), day - second, true),
        ("notes.txt".to_owned(), 2 * day, true),
        ("a+b+c+d+e+f".to_owned(), 2 * day, true),
    ] {
        let path = dir.path().join(".tmp").join(&name);
        File::create(&path).unwrap().set_modified(SystemTime::now() - age).unwrap();
        Directory::open(dir.path()).unwrap();
        assert_eq!(path.exists(), stays, "{name}, {age:?} old");
    }
}

#[test]
fn an_agent_without_rights_is_told_so() {
    let dir = tempfile::tempdir().unwrap();
    let said = if nix::unistd::geteuid().is_root() {
        // Root may write everywhere, but a child of another user may not.
        fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o755)).unwrap();
        let Ok(output) = other_process("open", dir.path(), 0).uid(65_534).gid(65_534).output() else {
            println!("SKIPPED: another user cannot run this test's program");
            return;
        };
        String::from_utf8(output.stdout).unwrap()
    } else {
        fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o500)).unwrap();
        format!("OPENED {:?}", Directory::open(dir.path()).map(drop))
    };
    assert!(said.contains("OPENED Err(Denied(") && said.contains("let the agent's user read and write"), "{said}");
}
