//! Agents that are killed at work, and what they leave.

use std::collections::HashMap;
use std::io::{BufRead, BufReader, Write};
use std::process::{Command, Stdio};
use std::thread;

use super::*;

/// Set for another process: where it shall work, and with what number it begins.
const WHERE: &str = "LARDER_TEST_DISK_WHERE";
const FIRST: &str = "LARDER_TEST_DISK_FIRST";
const LANES: u64 = 4;
const KEYS: u64 = 6;

/// Says something to the test, in one write.
fn say(text: &str) {
    std::io::stdout().lock().write_all(format!("\n{text}\n").as_bytes()).unwrap();
}

fn payload(number: u64) -> Vec<u8> {
    let len = usize::try_from(number.wrapping_mul(7919) % 90_000).unwrap();
    noise(number, if number % 23 == 5 { (2 << 20) + len } else { len } + 8)
}

/// The other process: keeps and removes until it is killed, and says before and after each what it does. Does nothing in
/// an ordinary run of the tests.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn other() {
    let Some(dir) = std::env::var_os(WHERE) else { return };
    let first: u64 = std::env::var(FIRST).unwrap().parse().unwrap();
    let disk = open(Path::new(&dir), mib(16));
    let tasks: Vec<_> = (0..LANES)
        .map(|lane| {
            let disk = disk.clone();
            tokio::spawn(async move {
                for number in first.. {
                    // Lanes share no keys: what is acknowledged last counts.
                    let key = format!("{lane}-{}", number % KEYS);
                    let number = number * LANES + lane;
                    if number.wrapping_mul(0x9e37_79b9) >> 7 & 3 == 0 {
                        say(&format!("REMOVE {key} {number}"));
                        disk.remove(&name(1, &key)).await.unwrap();
                        say(&format!("REMOVED {key} {number}"));
                    } else {
                        say(&format!("KEEP {key} {number}"));
                        if keep(&disk, 1, &key, &payload(number)).await {
                            say(&format!("KEPT {key} {number}"));
                        }
                    }
                }
            })
        })
        .collect();
    for task in tasks {
        task.await.unwrap();
    }
}

/// What may be under a key.
#[derive(Debug, Default)]
struct Known {
    /// The number of the block that was kept last and acknowledged; `None` after a removal.
    acknowledged: Option<u64>,
    /// What was begun since, and perhaps done.
    begun: Vec<Option<u64>>,
}

#[tokio::test]
async fn a_killed_agent_leaves_whole_blocks_and_none_that_it_removed() {
    const KILLS: u64 = 50;
    let dir = tempfile::tempdir().unwrap();
    let mut known: HashMap<String, Known> = HashMap::new();
    let (mut first, mut removed, mut found_again, mut lost) = (0, 0, 0, 0);
    for round in 0..KILLS {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "disk::tests::crash::other", "--nocapture", "--test-threads=1"])
            .env(WHERE, dir.path())
            .env(FIRST, first.to_string())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let reader = thread::spawn(move || lines.map_while(Result::ok).collect::<Vec<String>>());
        let wait = noise(round + 1, 8).iter().fold(0, |sum, byte| sum * 31 + u64::from(*byte)) % 60_000;
        tokio::time::sleep(Duration::from_micros(10_000 + wait)).await;
        child.kill().unwrap();
        child.wait().unwrap();
        for line in reader.join().unwrap() {
            let words: Vec<&str> = line.split(' ').collect();
            let [what, key, number] = words[..] else { continue };
            let Ok(number) = number.parse::<u64>() else { continue };
            first = first.max(number / LANES + 1);
            let known = known.entry(key.to_owned()).or_default();
            match what {
                "KEEP" => known.begun.push(Some(number)),
                "REMOVE" => known.begun.push(None),
                "KEPT" => *known = Known { acknowledged: Some(number), begun: Vec::new() },
                "REMOVED" => {
                    *known = Known::default();
                    removed += 1;
                }
                _ => {}
            }
        }
        let (disk, past, rebuilt) = open_in(dir.path(), mib(16), BOOT).unwrap();
        assert!(matches!(past, Past::Trusted | Past::New) && rebuilt.listed == 0, "{past:?}");
        assert_eq!(files(&disk).len() as u64, disk.figures().blocks, "something that was not finished");
        for (key, known) in &mut known {
            let possible: Vec<Option<u64>> = known.begun.iter().copied().chain([known.acknowledged]).collect();
            let found = get(&disk, 1, key).await;
            let number = possible.iter().flatten().find(|number| found.as_ref() == Some(&payload(**number)));
            match found {
                // It is a cache: what was evicted is not there.
                None => lost += u32::from(possible.iter().all(Option::is_some)),
                Some(_) => {
                    assert!(
                        number.is_some(),
                        "{key} holds a block that was removed or replaced; possible: {possible:?}"
                    );
                    found_again += 1;
                }
            }
            *known = Known { acknowledged: number.copied(), begun: Vec::new() };
        }
        let figures = disk.figures();
        assert_eq!((figures.damaged, figures.failures), (0, 0));
        abandon(disk).await;
    }
    println!("{KILLS} kills, {first} turns, {removed} removed, {found_again} found again, {lost} evicted");
    assert!(found_again > 50 && removed > 20, "the agents did next to nothing before they were killed");
}
