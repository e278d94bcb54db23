//! A disk that does not answer.

use std::sync::mpsc;
use std::time::Instant;

use super::*;

/// A thread of the disk that hangs until it is let go.
struct Hung {
    _release: mpsc::Sender<()>,
}

/// Has `count` threads hang.
async fn hang(disk: &Disk, count: usize) -> Vec<Hung> {
    let mut all = Vec::new();
    for _ in 0..count {
        let (release, wait) = mpsc::channel::<()>();
        let worker = disk.clone();
        let before = disk.under_way();
        tokio::spawn(async move {
            let work = move |_| {
                let _ = wait.recv();
            };
            let hung = worker.inner.crew.run(&Gate::new(), Duration::from_millis(1), 0, work).await;
            assert_eq!(hung, Err(Busy::Hung));
        });
        while disk.under_way() == before {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        all.push(Hung { _release: release });
    }
    all
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn while_all_threads_hang_nobody_waits() {
    let (_dir, disk) = tier(64);
    let large = noise(2, 200_000);
    assert!(keep(&disk, 1, "small", b"1").await && keep(&disk, 1, "large", &large).await);
    let found = disk.find(&name(1, "large")).await.unwrap();
    let hung = hang(&disk, 16).await;
    assert_eq!(disk.under_way(), 16);
    // The first may wait for a while, since the threads only just went out.
    assert!(get(&disk, 1, "small").await.is_none());
    let began = Instant::now();
    for _ in 0..1000 {
        assert!(disk.find(&name(1, "small")).await.is_none());
        assert!(!keep(&disk, 1, "new", b"2").await);
        let loaded = disk.load(&found, memory(&large)).await;
        assert!(matches!(loaded, Err(StoreError::Unavailable(_))), "{loaded:?}");
    }
    let removed = disk.remove(&name(1, "small")).await;
    assert!(matches!(removed, Err(StoreError::Unavailable(_))), "{removed:?}");
    assert!(began.elapsed() < LIVENESS, "3,001 calls that each waited would take more than an hour");
    assert!(!disk.contains(&name(1, "small")), "it is removed all the same");
    let figures = disk.figures();
    assert!(figures.failures > 3000 && figures.not_admitted == 1000, "{figures:?}");
    assert_eq!(disk.under_way(), 16);
    drop(hung);
    // As soon as the disk answers, all is as before, and what could not be unlinked goes.
    let deadline = Instant::now() + LIVENESS;
    while get(&disk, 1, "large").await.is_none() {
        assert!(Instant::now() < deadline, "it never answers again");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    assert!(get(&disk, 1, "small").await.is_none());
    assert!(keep(&disk, 1, "new", b"2").await);
    swept(&disk).await;
    assert_eq!(files(&disk).len(), 2);
    disk.inner.ledger().validate(disk.inner.root.base_bytes());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn writes_leave_threads_to_reads() {
    let (_dir, disk) = tier(64);
    assert!(keep(&disk, 1, "k", b"1").await);
    let mut writing = Vec::new();
    while let Some(permit) = disk.inner.crew.may_write() {
        writing.push(permit);
    }
    assert_eq!(writing.len(), 8);
    assert!(!keep(&disk, 1, "l", b"2").await, "too many write");
    assert_eq!(get(&disk, 1, "k").await.unwrap(), b"1");
    drop(writing);
    assert!(keep(&disk, 1, "l", b"2").await);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_stops_waiting_has_the_memory_back_at_once() {
    let (_dir, disk) = tier(64);
    let payload = noise(1, 3_000_000);
    assert!(keep(&disk, 1, "k", &payload).await);
    let found = disk.find(&name(1, "k")).await.unwrap();
    let into = memory(&vec![9; payload.len()]);
    let gate = Gate::new();
    let (go, wait) = mpsc::channel::<()>();
    let (said, ended) = mpsc::channel();
    let worker = (Arc::clone(&disk.inner), Arc::clone(&gate), into.clone());
    let (place, from) = (found.seen.place, (found.version, found.head_len_bytes));
    // The disk answers after the one who asked has left.
    let work = move |_| {
        let (inner, gate, into) = worker;
        wait.recv().unwrap();
        said.send(file::load(&inner.root, place, from, &into, &gate, 0).unwrap()).unwrap();
    };
    let ended_by = disk.inner.crew.run(&gate, Duration::from_millis(5), 0, work).await;
    assert_eq!(ended_by, Err(Busy::Hung));
    go.send(()).unwrap();
    assert_eq!(ended.recv().unwrap(), Loaded::GivenUp);
    let mut bytes = vec![0; payload.len()];
    into.mapping.copy_out(4096, &mut bytes);
    assert!(bytes.iter().all(|byte| *byte == 9), "memory that was given back is written");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_block_that_nobody_waits_for_is_not_published() {
    let (_dir, disk) = tier(64);
    for len in [100, 9 << 20] {
        let payload = noise(1, len);
        let (name, entry) = (name(1, "k"), entry("k", &payload));
        let mut kept = Box::pin(disk.keep(&name, &entry, memory(&payload)));
        // Polled once, which begins it, and dropped.
        let first = tokio::time::timeout(Duration::ZERO, &mut kept).await;
        drop(kept);
        while disk.under_way() > 0 {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        // Whatever became of it, it is the block or it is none.
        match get(&disk, 1, "k").await {
            Some(bytes) => assert!(bytes == payload, "{first:?}"),
            None => assert!(files(&disk).is_empty(), "{first:?}"),
        }
        disk.remove(&name).await.unwrap();
        disk.inner.ledger().validate(disk.inner.root.base_bytes());
        assert_eq!(disk.figures().used_bytes, disk.inner.root.base_bytes());
    }
}

#[tokio::test]
async fn what_is_written_after_the_memory_was_given_back_is_not_published() {
    let (_dir, disk) = tier(64);
    for payload in [&b""[..], b"given back"] {
        let name = name(1, "k");
        let (making, block) = disk.begin(&name, &entry("k", payload), memory(payload)).unwrap().unwrap();
        let gate = Gate::new();
        gate.close();
        let kept = disk.inner.keep(making.ticket, &block, &gate, 0);
        assert!(!matches!(kept, Ok(true)), "{kept:?}");
        drop(making);
        assert!(!disk.contains(&name) && files(&disk).is_empty());
        assert_eq!(disk.figures().used_bytes, disk.inner.root.base_bytes());
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_end_does_not_wait_for_a_disk_that_hangs() {
    let (dir, disk) = tier(64);
    assert!(keep(&disk, 1, "k", b"1").await);
    let hung = hang(&disk, 1).await;
    tokio::time::timeout(LIVENESS, disk.close()).await.unwrap();
    assert!(!dir.path().join("index").exists(), "it would list what still changes");
    drop(hung);
    abandon(disk).await;
    assert_eq!(get(&open(dir.path(), mib(64)), 1, "k").await.unwrap(), b"1");
}
