//! What a tier has after a start.

use super::*;

const BLOCKS: usize = 40;

async fn filled(dir: &Path) -> Disk {
    let (disk, past, _) = open_in(dir, mib(32), BOOT).unwrap();
    assert_eq!(past, Past::New);
    for number in 0..BLOCKS {
        assert!(keep(&disk, 1, &format!("{number}"), &noise(number as u64, number * 3000)).await);
    }
    disk
}

async fn has_all(disk: &Disk) {
    for number in 0..BLOCKS {
        let found = disk.find(&name(1, &format!("{number}"))).await.unwrap();
        assert!(!found.is_confirmed(), "nobody knows what happened in between");
        assert!(get(disk, 1, &format!("{number}")).await.unwrap() == noise(number as u64, number * 3000));
    }
    disk.inner.ledger().validate(disk.inner.root.base_bytes());
}

#[tokio::test]
async fn a_clean_end_leaves_an_index_that_the_next_start_uses_once() {
    let dir = tempfile::tempdir().unwrap();
    let disk = filled(dir.path()).await;
    let used = disk.figures().used_bytes;
    disk.close().await;
    assert!(disk.find(&name(1, "0")).await.is_none() && !keep(&disk, 1, "0", b"").await, "it is closed");
    abandon(disk).await;
    let (disk, past, rebuilt) = open_in(dir.path(), mib(32), BOOT).unwrap();
    assert_eq!((past, rebuilt), (Past::Trusted, Rebuilt { listed: BLOCKS, ..Rebuilt::default() }));
    assert_eq!(disk.figures().used_bytes, used);
    has_all(&disk).await;
    // Killed this time.
    abandon(disk).await;
    let (disk, past, rebuilt) = open_in(dir.path(), mib(32), BOOT).unwrap();
    assert_eq!((past, rebuilt), (Past::Trusted, Rebuilt { found: BLOCKS, ..Rebuilt::default() }));
    assert_eq!(disk.figures().used_bytes, used);
    has_all(&disk).await;
}

#[tokio::test]
async fn a_machine_that_crashed_leaves_nothing_that_counts() {
    for ends_well in [false, true] {
        let dir = tempfile::tempdir().unwrap();
        let disk = filled(dir.path()).await;
        if ends_well {
            disk.close().await;
        }
        abandon(disk).await;
        let (disk, past, rebuilt) = open_in(dir.path(), mib(32), "boot-2").unwrap();
        if ends_well {
            assert_eq!((past, rebuilt.listed), (Past::Trusted, BLOCKS), "all of it had reached the disk");
            has_all(&disk).await;
            continue;
        }
        assert!(matches!(past, Past::GivenUp(_)), "{past:?}");
        assert_eq!(rebuilt, Rebuilt::default());
        for number in 0..BLOCKS {
            assert!(get(&disk, 1, &format!("{number}")).await.is_none());
        }
        // The old files go, and then it takes blocks again.
        let deadline = std::time::Instant::now() + LIVENESS;
        while !keep(&disk, 1, "k", b"new").await {
            assert!(std::time::Instant::now() < deadline, "it stays empty");
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        assert_eq!(files(&disk).len(), 1);
        let names: Vec<_> = fs::read_dir(dir.path()).unwrap().map(|name| name.unwrap().file_name()).collect();
        assert_eq!(names.len(), 2, "{names:?}");
    }
}

#[tokio::test]
async fn old_files_stay_given_up_when_their_removal_is_interrupted() {
    let dir = tempfile::tempdir().unwrap();
    abandon(filled(dir.path()).await).await;
    // As if the agent had died before it removed the first of them.
    drop(Root::open(dir.path(), "boot-2").unwrap());
    let (root, past) = Root::open(dir.path(), "boot-2").unwrap();
    assert_eq!((past, root.has_leavings), (Past::Trusted, true));
    drop(root);
    let (disk, past, rebuilt) = open_in(dir.path(), mib(32), "boot-2").unwrap();
    assert_eq!((past, rebuilt), (Past::Trusted, Rebuilt::default()));
    assert!(get(&disk, 1, "1").await.is_none());
}

#[tokio::test]
async fn a_copy_or_a_damaged_marker_is_given_up() {
    let dir = tempfile::tempdir().unwrap();
    let disk = filled(dir.path()).await;
    disk.close().await;
    abandon(disk).await;
    let copy = tempfile::tempdir().unwrap();
    let copied = std::process::Command::new("cp").arg("-a").arg(dir.path()).arg(copy.path().join("copy")).status();
    assert!(copied.unwrap().success());
    let (_, past, rebuilt) = open_in(&copy.path().join("copy"), mib(32), BOOT).unwrap();
    assert_eq!((past, rebuilt), (Past::GivenUp("it is a copy"), Rebuilt::default()));
    let marker = dir.path().join("tier");
    let text = fs::read_to_string(&marker).unwrap();
    fs::write(&marker, &text[..text.len() - 3]).unwrap();
    let (_, past, rebuilt) = open_in(dir.path(), mib(32), BOOT).unwrap();
    assert_eq!((past, rebuilt), (Past::GivenUp("its marker is damaged"), Rebuilt::default()));
}

#[tokio::test]
async fn shards_that_changed_since_the_index_are_read() {
    let dir = tempfile::tempdir().unwrap();
    let disk = filled(dir.path()).await;
    disk.close().await;
    // The index is written: what is removed now might come back.
    let removed = disk.remove(&name(1, "3")).await;
    assert!(matches!(removed, Err(StoreError::Unavailable(_))), "{removed:?}");
    let (gone, foreign) = (file_of(&disk, &name(1, "4")), file_of(&disk, &name(1, "5")).with_extension("txt"));
    abandon(disk).await;
    fs::remove_file(&gone).unwrap();
    fs::write(&foreign, "not a block").unwrap();
    fs::write(foreign.with_file_name(".99"), "not finished").unwrap();
    let (disk, _, rebuilt) = open_in(dir.path(), mib(32), BOOT).unwrap();
    assert_eq!((rebuilt.listed + rebuilt.found, rebuilt.foreign), (BLOCKS - 1, 1));
    assert!(rebuilt.listed > BLOCKS / 2 && rebuilt.found < 10, "{rebuilt:?}");
    assert!(foreign.exists() && !foreign.with_file_name(".99").exists());
    assert!(get(&disk, 1, "4").await.is_none() && get(&disk, 1, "5").await.is_some());
}

#[tokio::test]
async fn an_index_that_is_damaged_in_any_way_is_as_none() {
    let dir = tempfile::tempdir().unwrap();
    let disk = filled(dir.path()).await;
    disk.close().await;
    abandon(disk).await;
    let good = fs::read(dir.path().join("index")).unwrap();
    let other_version = |bytes: &mut Vec<u8>| {
        bytes.truncate(bytes.len() - 8);
        bytes[8] = 2;
        index::seal(bytes);
    };
    let other_instance = |bytes: &mut Vec<u8>| {
        bytes.truncate(bytes.len() - 8);
        bytes[16] ^= 1;
        index::seal(bytes);
    };
    let changes: [Damage<'_>; 8] = [
        ("empty", &|bytes| bytes.clear()),
        ("cut in the middle", &|bytes| bytes.truncate(bytes.len() / 2)),
        ("one byte short", &|bytes| bytes.truncate(bytes.len() - 1)),
        ("one byte long", &|bytes| bytes.push(0)),
        ("a flipped bit", &|bytes| bytes[7000] ^= 4),
        ("zeros", &|bytes| bytes.fill(0)),
        ("another version", &other_version),
        ("another instance", &other_instance),
    ];
    for (what, change) in changes {
        let mut bytes = good.clone();
        change(&mut bytes);
        fs::write(dir.path().join("index"), bytes).unwrap();
        let (disk, past, rebuilt) = open_in(dir.path(), mib(32), BOOT).unwrap();
        assert_eq!((past, rebuilt.listed, rebuilt.found), (Past::Trusted, 0, BLOCKS), "{what}");
        abandon(disk).await;
    }
    // What cannot be an index of ours is not removed.
    fs::create_dir(dir.path().join("index")).unwrap();
    let why = open_in(dir.path(), mib(32), BOOT).map(|_| ()).unwrap_err();
    assert!(why.contains("cannot take the index"), "{why}");
}

#[tokio::test]
async fn an_index_that_lies_about_sizes_empties_the_tier_and_no_more() {
    let dir = tempfile::tempdir().unwrap();
    let disk = filled(dir.path()).await;
    disk.close().await;
    abandon(disk).await;
    let mut index = Index::read(&fs::read(dir.path().join("index")).unwrap()).unwrap();
    let block = index.blocks[0];
    index.blocks.iter_mut().for_each(|block| block.bytes = 1 << 50);
    for number in 0..20_000 {
        let place = Place { hash: block.place.hash & !0xffff_ffff | number, ..block.place };
        index.blocks.push(index::Listed { place, bytes: 1 << 50, is_main: number % 2 == 0 });
    }
    fs::write(dir.path().join("index"), index.to_bytes()).unwrap();
    let (disk, _, rebuilt) = open_in(dir.path(), mib(32), BOOT).unwrap();
    assert!(rebuilt.listed > BLOCKS, "{rebuilt:?}");
    assert_eq!((disk.figures().used_bytes, disk.figures().blocks), (disk.inner.root.base_bytes(), 0));
    assert!(keep(&disk, 1, "k", b"new").await);
    assert_eq!(get(&disk, 1, "k").await.unwrap(), b"new");
    disk.inner.ledger().validate(disk.inner.root.base_bytes());
}

#[tokio::test]
async fn what_proved_itself_is_still_known_after_a_clean_end() {
    let dir = tempfile::tempdir().unwrap();
    let disk = open(dir.path(), mib(8));
    assert!(keep(&disk, 1, "hot", &noise(1, 100_000)).await);
    for number in 0..150 {
        get(&disk, 1, "hot").await.unwrap();
        assert!(keep(&disk, 1, &format!("{number}"), &noise(number, 100_000)).await);
    }
    assert!(disk.figures().evictions > 50);
    disk.close().await;
    abandon(disk).await;
    let disk = open(dir.path(), mib(8));
    for number in 1000..1040 {
        assert!(keep(&disk, 1, &format!("{number}"), &noise(number, 100_000)).await);
    }
    assert!(get(&disk, 1, "hot").await.is_some(), "it is past probation");
}

#[tokio::test]
async fn a_smaller_capacity_is_kept_to_from_the_start() {
    let dir = tempfile::tempdir().unwrap();
    let disk = filled(dir.path()).await;
    let used = disk.figures().used_bytes;
    abandon(disk).await;
    let less = DiskCapacity::Size(ByteSize(used - 1_000_000));
    let (disk, _, rebuilt) = open_in(dir.path(), less, BOOT).unwrap();
    let figures = disk.figures();
    assert!(figures.used_bytes <= used - 1_000_000 && figures.blocks < rebuilt.found as u64, "{figures:?}");
    assert_eq!(files(&disk).len() as u64, figures.blocks);
    disk.inner.ledger().validate(disk.inner.root.base_bytes());
}

#[tokio::test]
async fn a_block_is_confirmed_by_the_one_who_asked_the_store() {
    let dir = tempfile::tempdir().unwrap();
    let disk = filled(dir.path()).await;
    assert!(disk.find(&name(1, "2")).await.unwrap().is_confirmed(), "this agent kept it");
    abandon(disk).await;
    let disk = open(dir.path(), mib(32));
    let found = disk.find(&name(1, "2")).await.unwrap();
    assert!(!found.is_confirmed());
    disk.confirm(&found);
    assert!(disk.find(&name(1, "2")).await.unwrap().is_confirmed());
    assert!(!disk.find(&name(1, "3")).await.unwrap().is_confirmed());
    // What is kept under the name afterwards is not what was found.
    assert!(keep(&disk, 1, "2", b"new").await);
    disk.damaged(&found);
    assert_eq!(get(&disk, 1, "2").await.unwrap(), b"new");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_start_finds_thousands_of_blocks_with_an_index_and_without() {
    const MANY: usize = 2_000;
    let dir = tempfile::tempdir().unwrap();
    let disk = open(dir.path(), DiskCapacity::Percent(90));
    let payload = noise(1, 4096);
    let began = std::time::Instant::now();
    let memory = memory(&payload);
    for number in 0..MANY {
        let key = format!("{number}");
        assert_eq!(disk.keep(&name(1, &key), &entry(&key, &payload), memory.clone()).await, Ok(true));
    }
    let kept = began.elapsed();
    let began = std::time::Instant::now();
    disk.close().await;
    let closed = began.elapsed();
    abandon(disk).await;
    let mut starts = Vec::new();
    for expected in [Rebuilt { listed: MANY, ..Rebuilt::default() }, Rebuilt { found: MANY, ..Rebuilt::default() }] {
        let began = std::time::Instant::now();
        let (disk, _, rebuilt) = open_in(dir.path(), DiskCapacity::Percent(90), BOOT).unwrap();
        starts.push(began.elapsed());
        assert_eq!(rebuilt, expected);
        for number in (0..MANY).step_by(MANY / 100) {
            assert!(get(&disk, 1, &format!("{number}")).await.unwrap() == payload);
        }
        abandon(disk).await;
    }
    println!("{MANY} blocks: kept in {kept:?}, closed in {closed:?}, start with index, without: {starts:?}");
}
