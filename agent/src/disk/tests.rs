//! What holds for the disk tier. The other files: what is refused, restarts, damage, crashes, disks that hang or are
//! full, and comparison with a model.

mod crash;
mod damage;
mod full;
mod hang;
mod model;
mod refusal;
mod restart;

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;

use larder_protocol::checksum::Checksums;
use larder_protocol::units::ByteSize;
use tempfile::TempDir;

use super::*;
use crate::pieces::PIECE_BYTES;
use crate::store::samples::{Mounted, memory, noise};
use crate::store::{is_intact, names};

/// What is done to the bytes of a file, in words as well.
type Damage<'a> = (&'static str, &'a dyn Fn(&mut Vec<u8>));

/// How long anything may take before it counts as stuck.
const LIVENESS: Duration = Duration::from_secs(60);

/// A name of this run of the machine.
const BOOT: &str = "boot-1";

fn mib(mib: u64) -> DiskCapacity {
    DiskCapacity::Size(ByteSize::mib(mib))
}

/// A tier as it is opened in a run of the machine, and how it was found.
fn open_in(dir: &Path, capacity: DiskCapacity, boot: &str) -> Result<(Disk, Past, Rebuilt), String> {
    let (inner, past, rebuilt) = Inner::open(dir, capacity, boot, &|| ())?;
    let disk = Disk { inner: Arc::new(inner) };
    disk.remove_leavings();
    Ok((disk, past, rebuilt))
}

fn open(dir: &Path, capacity: DiskCapacity) -> Disk {
    open_in(dir, capacity, BOOT).unwrap().0
}

fn tier(capacity_mib: u64) -> (TempDir, Disk) {
    let dir = tempfile::tempdir().unwrap();
    let disk = open(dir.path(), mib(capacity_mib));
    (dir, disk)
}

/// Lets go of a tier as an agent does that is killed: nothing is written.
async fn abandon(disk: Disk) {
    let inner = Arc::downgrade(&disk.inner);
    drop(disk);
    let deadline = std::time::Instant::now() + LIVENESS;
    while inner.strong_count() > 0 {
        assert!(std::time::Instant::now() < deadline, "something holds the tier");
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}

fn name(incarnation: u128, key: &str) -> String {
    names::block(&names::incarnation(1000, "job/1", incarnation), key)
}

fn entry(key: &str, payload: &[u8]) -> Entry {
    Entry::now(key, payload.len() as u64, None, Checksums::of(payload))
}

async fn keep(disk: &Disk, incarnation: u128, key: &str, payload: &[u8]) -> bool {
    disk.keep(&name(incarnation, key), &entry(key, payload), memory(payload)).await.unwrap()
}

/// The payload of a block, which is checked.
async fn get(disk: &Disk, incarnation: u128, key: &str) -> Option<Vec<u8>> {
    let found = disk.find(&name(incarnation, key)).await?;
    assert_eq!(found.entry.key, key);
    let len = usize::try_from(found.entry.len_bytes).unwrap();
    let into = memory(&vec![0; len]);
    disk.load(&found, into.clone()).await.unwrap();
    assert!(is_intact(&found.entry, &into), "wrong bytes under {key}");
    let mut bytes = vec![0; len];
    into.mapping.copy_out(4096, &mut bytes);
    Some(bytes)
}

/// The files of the present instance, blocks and others.
fn files(disk: &Disk) -> Vec<PathBuf> {
    let base = disk.inner.root.path().join(format!("{:016x}", disk.inner.root.instance));
    let shards = fs::read_dir(base).unwrap().map(|shard| shard.unwrap().path());
    shards.flat_map(|shard| fs::read_dir(shard).unwrap().map(|file| file.unwrap().path())).collect()
}

fn file_of(disk: &Disk, name: &str) -> PathBuf {
    let place = disk.inner.place(name).unwrap();
    disk.inner.root.path().join(format!("{:016x}", disk.inner.root.instance)).join(place.path())
}

/// Waits until all that is doomed is gone.
async fn swept(disk: &Disk) {
    let deadline = std::time::Instant::now() + LIVENESS;
    while disk.inner.ledger().has_doomed() {
        assert!(std::time::Instant::now() < deadline, "what is doomed stays");
        disk.sweep();
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}

#[tokio::test]
async fn a_block_comes_back_as_it_was_kept() {
    let (dir, disk) = tier(128);
    assert!(get(&disk, 1, "k").await.is_none());
    // All in the head's piece, a head and no payload, one that is not read with its head, one moved in pieces.
    let lens = [5, 0, 60_000, 70_000, 3 * PIECE_BYTES + 4097];
    for (number, len) in lens.into_iter().enumerate() {
        let payload = noise(number as u64 + 1, len);
        assert!(!disk.contains(&name(1, "k")) || number > 0);
        assert!(keep(&disk, 1, "k", &payload).await);
        assert!(disk.contains(&name(1, "k")));
        assert!(get(&disk, 1, "k").await.unwrap() == payload, "{len} bytes");
    }
    let figures = disk.figures();
    let bytes: usize = lens.iter().sum();
    assert_eq!((figures.hits, figures.misses, figures.hit_bytes), (5, 1, bytes as u64));
    assert_eq!((figures.writes, figures.write_bytes, figures.blocks), (5, bytes as u64, 1));
    assert_eq!((figures.evictions, figures.damaged, figures.failures, figures.not_admitted), (0, 0, 0, 0));
    assert_eq!(figures.capacity_bytes, 128 << 20);
    let file = file_of(&disk, &name(1, "k"));
    assert_eq!(files(&disk), [file.as_path()]);
    assert_eq!(fs::metadata(&file).unwrap().permissions().mode() & 0o7777, 0o600);
    assert_eq!(fs::metadata(dir.path()).unwrap().permissions().mode() & 0o7777, 0o700);
    // The entry of a store, and then the name.
    let bytes = fs::read(&file).unwrap();
    let found = disk.find(&name(1, "k")).await.unwrap();
    let head = found.entry.head();
    assert!(bytes.starts_with(&head));
    let end = trailer::trailer(&name(1, "k"), crate::store::entry::head_checksum(&head));
    assert!(bytes.ends_with(&end));
    assert_eq!(bytes.len(), head.len() + lens[4] + end.len());
    disk.inner.ledger().validate(disk.inner.root.base_bytes());
}

#[tokio::test]
async fn a_removed_block_is_gone_with_its_file() {
    let (_dir, disk) = tier(32);
    assert!(keep(&disk, 1, "a", b"1").await && keep(&disk, 1, "b", b"2").await);
    disk.remove(&name(1, "a")).await.unwrap();
    assert!(get(&disk, 1, "a").await.is_none());
    assert_eq!(files(&disk), [file_of(&disk, &name(1, "b"))]);
    disk.remove(&name(1, "a")).await.unwrap();
    assert_eq!(get(&disk, 1, "b").await.unwrap(), b"2");
    assert_eq!(disk.figures().blocks, 1);
}

#[tokio::test]
async fn an_incarnation_goes_at_once_and_its_files_later() {
    let (_dir, disk) = tier(64);
    for key in 0..300 {
        assert!(keep(&disk, 1, &format!("{key}"), b"old").await);
        assert!(keep(&disk, 2, &format!("{key}"), b"other").await);
    }
    let before = disk.figures().used_bytes;
    disk.remove_all(&names::incarnation(1000, "job/1", 1));
    assert_eq!(disk.figures().blocks, 300);
    for key in 0..300 {
        assert!(!disk.contains(&name(1, &format!("{key}"))));
        assert!(get(&disk, 1, &format!("{key}")).await.is_none());
        assert_eq!(get(&disk, 2, &format!("{key}")).await.unwrap(), b"other");
    }
    swept(&disk).await;
    assert_eq!(files(&disk).len(), 300);
    let base = disk.inner.root.base_bytes();
    assert_eq!(disk.figures().used_bytes - base, (before - base) / 2);
    disk.inner.ledger().validate(base);
    // Nothing forbids that it begins again.
    assert!(keep(&disk, 1, "5", b"new").await);
    assert_eq!(get(&disk, 1, "5").await.unwrap(), b"new");
}

#[tokio::test]
async fn what_is_removed_while_it_is_kept_does_not_appear() {
    let (_dir, disk) = tier(32);
    let (name, entry) = (name(1, "k"), entry("k", b"late"));
    let begun = disk.keep(&name, &entry, memory(b"late"));
    disk.remove(&name).await.unwrap();
    assert_eq!(begun.await, Ok(false));
    assert!(!disk.contains(&name) && files(&disk).is_empty());
    let begun = disk.keep(&name, &entry, memory(b"late"));
    disk.remove_all(&names::incarnation(1000, "job/1", 1));
    assert_eq!(begun.await, Ok(false));
    // An older one does not take the place of a newer one either.
    let begun = disk.keep(&name, &entry, memory(b"late"));
    assert!(keep(&disk, 1, "k", b"newer").await);
    assert_eq!(begun.await, Ok(false));
    assert_eq!(get(&disk, 1, "k").await.unwrap(), b"newer");
    assert_eq!(disk.figures().not_admitted, 3);
    // One that nobody waits for leaves nothing behind.
    drop(disk.keep(&name, &entry, memory(b"late")));
    assert!(keep(&disk, 1, "k", b"newest").await);
    disk.inner.ledger().validate(disk.inner.root.base_bytes());
}

#[tokio::test]
async fn a_block_whose_time_is_over_is_a_miss_and_goes() {
    let (_dir, disk) = tier(32);
    let name = name(1, "k");
    let over = Entry { expires_ms: 1, ..entry("k", b"1") };
    assert_eq!(disk.keep(&name, &over, memory(b"1")).await, Ok(true));
    assert!(disk.find(&name).await.is_none());
    swept(&disk).await;
    assert!(!disk.contains(&name) && files(&disk).is_empty());
    assert_eq!(disk.figures().damaged, 0);
}

#[tokio::test]
async fn what_is_too_large_is_not_admitted_and_what_is_no_block_is_an_error() {
    let (_dir, disk) = tier(32);
    assert!(!keep(&disk, 1, "k", &vec![0; 17 << 20]).await);
    assert!(keep(&disk, 1, "k", &noise(1, 15 << 20)).await);
    let entry = entry("k", b"1234");
    let wrong_len = disk.keep(&name(1, "k"), &entry, memory(b"123")).await;
    assert!(matches!(wrong_len, Err(StoreError::Failed(_))), "{wrong_len:?}");
    for bad in ["", "k", "larder-1/u1/n.ns/options", &name(1, &"k".repeat(900)).replace("%~", &"x".repeat(900))] {
        let no_name = disk.keep(bad, &entry, memory(b"1234")).await;
        assert!(matches!(no_name, Err(StoreError::Failed(_))), "{no_name:?}");
        assert!(disk.find(bad).await.is_none());
        assert_eq!(disk.remove(bad).await, Ok(()));
    }
    let outside = Memory { offset_bytes: u64::MAX, ..memory(b"1234") };
    let refused = disk.keep(&name(1, "k"), &entry, outside.clone()).await;
    assert!(matches!(refused, Err(StoreError::Failed(_))), "{refused:?}");
    let found = disk.find(&name(1, "k")).await.unwrap();
    for wrong in [outside, memory(b"1")] {
        let refused = disk.load(&found, wrong).await;
        assert!(matches!(refused, Err(StoreError::Failed(_))), "{refused:?}");
    }
}

#[tokio::test]
async fn a_load_of_another_block_than_found_says_so() {
    let (_dir, disk) = tier(32);
    let old = noise(1, 100_000);
    assert!(keep(&disk, 1, "k", &old).await);
    let found = disk.find(&name(1, "k")).await.unwrap();
    assert!(keep(&disk, 1, "k", &noise(2, 100_000)).await);
    let changed = disk.load(&found, memory(&old)).await;
    assert!(matches!(changed, Err(StoreError::Changed(_))), "{changed:?}");
    // What is known of the old one says nothing of the new.
    disk.damaged(&found);
    assert_eq!(get(&disk, 1, "k").await.unwrap(), noise(2, 100_000));
    let found = disk.find(&name(1, "k")).await.unwrap();
    disk.remove(&name(1, "k")).await.unwrap();
    let changed = disk.load(&found, memory(&old)).await;
    assert!(matches!(changed, Err(StoreError::Changed(_))), "{changed:?}");
}

#[tokio::test]
async fn what_is_used_stays_when_room_is_made() {
    let (_dir, disk) = tier(8);
    for key in ["hot 1", "hot 2"] {
        assert!(keep(&disk, 1, key, &noise(1, 100_000)).await);
    }
    for number in 0..200 {
        for key in ["hot 1", "hot 2"] {
            assert!(get(&disk, 1, key).await.is_some(), "{key} went after {number}");
        }
        assert!(keep(&disk, 1, &format!("cold {number}"), &noise(number, 100_000)).await);
        let figures = disk.figures();
        assert!(figures.used_bytes <= figures.capacity_bytes);
    }
    let figures = disk.figures();
    assert!(figures.evictions > 100 && figures.blocks > 40, "{figures:?}");
    assert!(get(&disk, 1, "cold 199").await.is_some() && get(&disk, 1, "cold 0").await.is_none());
    disk.inner.ledger().validate(disk.inner.root.base_bytes());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn the_files_never_take_more_than_the_capacity() {
    let Some(mount) = Mounted::new("size=64m,mode=700") else { return };
    let disk = open(&mount.0.path().join("tier"), mib(12));
    let done = Arc::new(AtomicBool::new(false));
    let (is_done, path, watched) = (Arc::clone(&done), mount.0.path().to_owned(), disk.clone());
    let sampler = std::thread::spawn(move || {
        let (mut samples, mut most) = (0, 0);
        while !is_done.load(Ordering::SeqCst) {
            let now = nix::sys::statvfs::statvfs(&path).unwrap();
            let given = (now.blocks() - now.blocks_free()) * now.fragment_size();
            let figures = watched.figures();
            assert!(given <= 12 << 20, "{given} bytes are taken");
            assert!(figures.used_bytes <= figures.capacity_bytes, "{figures:?}");
            (samples, most) = (samples + 1, given.max(most));
        }
        (samples, most)
    });
    let kept = mix(&disk, false).await;
    done.store(true, Ordering::SeqCst);
    let (samples, most) = sampler.join().unwrap();
    println!("{samples} samples, at most {most} bytes, {kept} of 600 kept, {:?}", disk.figures());
    assert!(samples > 10 && kept > 300 && most > 10 << 20);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn readers_among_writers_find_whole_blocks() {
    let (_dir, disk) = tier(12);
    let kept = mix(&disk, true).await;
    swept(&disk).await;
    let figures = disk.figures();
    println!("{kept} of 600 kept, {figures:?}");
    assert!(kept > 300 && figures.hits > 50);
    assert_eq!((figures.damaged, figures.failures), (0, 0));
    assert_eq!(files(&disk).len() as u64, figures.blocks);
    disk.inner.ledger().validate(disk.inner.root.base_bytes());
}

/// Four lanes that keep and remove blocks, of keys of their own and of keys of all, and perhaps look for those of others.
/// How many were kept.
async fn mix(disk: &Disk, reads: bool) -> u32 {
    let tasks: Vec<_> = (0..4_u64)
        .map(|lane| {
            let disk = disk.clone();
            tokio::spawn(async move {
                let mut kept = 0;
                for number in 0..150_u64 {
                    let seed = lane * 1000 + number;
                    let len = usize::try_from(seed.wrapping_mul(7919) % 300_000).unwrap() + 1;
                    let len = if number % 20 == 7 { (2 << 20) + len } else { len };
                    let key = format!("{}", if number % 3 == 0 { number } else { seed });
                    let incarnation = u128::from(number % 3);
                    kept += u32::from(keep(&disk, incarnation, &key, &noise(seed, len)).await);
                    if number % 7 == 0 {
                        disk.remove(&name(incarnation, &key)).await.unwrap();
                    }
                    if number % 50 == 49 {
                        disk.remove_all(&names::incarnation(1000, "job/1", 2));
                    }
                    if reads {
                        get_unless_changed(&disk, 0, &format!("{}", number / 3 * 3)).await;
                    }
                }
                kept
            })
        })
        .collect();
    let mut kept = 0;
    for task in tasks {
        kept += task.await.unwrap();
    }
    kept
}

/// As [`get`], where others may replace the block meanwhile.
async fn get_unless_changed(disk: &Disk, incarnation: u128, key: &str) {
    let Some(found) = disk.find(&name(incarnation, key)).await else { return };
    let into = memory(&vec![0; usize::try_from(found.entry.len_bytes).unwrap()]);
    match disk.load(&found, into.clone()).await {
        Ok(()) => assert!(is_intact(&found.entry, &into), "wrong bytes under {key}"),
        Err(StoreError::Changed(_)) => {}
        Err(error) => panic!("{error}"),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_file_is_there_exactly_when_its_block_is() {
    let (_dir, disk) = tier(32);
    let (name, incarnation) = (name(1, "k"), names::incarnation(1000, "job/1", 1));
    let (mut there, mut late) = (0, 0);
    for round in 0..400_u64 {
        let payload = noise(round, 5000);
        let kept = tokio::spawn(disk.keep(&name, &entry("k", &payload), memory(&payload)));
        // Somewhere between its beginning and its end.
        std::thread::sleep(Duration::from_micros(round.wrapping_mul(7919) % 400));
        if round % 5 == 0 {
            disk.remove_all(&incarnation);
        } else {
            disk.remove(&name).await.unwrap();
        }
        assert!(!disk.contains(&name), "what was begun before the removal is there after it");
        late += u32::from(!kept.await.unwrap().unwrap());
        assert!(!disk.contains(&name));
        if round % 5 == 0 {
            swept(&disk).await;
        }
        assert!(files(&disk).is_empty(), "round {round}");
        // Two at once: one of them is there.
        let newer = noise(round + 1000, 5000);
        let both =
            [&payload, &newer].map(|payload| tokio::spawn(disk.keep(&name, &entry("k", payload), memory(payload))));
        let [older, newer_kept] = both;
        there += u32::from(older.await.unwrap().unwrap());
        assert!(newer_kept.await.unwrap().unwrap(), "nothing is newer");
        assert!(get(&disk, 1, "k").await.unwrap() == newer);
        disk.inner.ledger().validate(disk.inner.root.base_bytes());
    }
    println!("of 400, {late} were removed before they were there, {there} replaced");
    assert!(late > 0, "no removal came before the end of what it overtook");
}
