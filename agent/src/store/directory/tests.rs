//! What holds for a store in a directory. The other files: crashes, lists, and whom it lets in.

mod crash;
mod listing;
mod refusal;

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::sync::mpsc;
use std::time::Duration;

use tempfile::TempDir;

use super::*;
use crate::pieces::PIECE_BYTES;
use crate::store::samples::{memory, noise};

/// How long anything may take before it counts as stuck.
const LIVENESS: Duration = Duration::from_secs(60);

fn store() -> (TempDir, Directory) {
    let dir = tempfile::tempdir().unwrap();
    let store = Directory::open(dir.path()).unwrap();
    (dir, store)
}

fn object(head: &[u8], payload: &[u8]) -> Object {
    Object { head: head.to_vec(), payload: Some(memory(payload)) }
}

/// All bytes of an object: the first 16 from its start, the rest read into memory.
async fn whole(store: &Directory, name: &str) -> Result<Option<Vec<u8>>, StoreError> {
    let Some(start) = store.start(name, 16).await? else { return Ok(None) };
    let rest = usize::try_from(start.len_bytes).unwrap() - start.bytes.len();
    let into = memory(&vec![0; rest]);
    store.read(name, &start.version, start.bytes.len() as u64, into.clone()).await?;
    let mut bytes = start.bytes;
    let mut tail = vec![0; rest];
    into.mapping.copy_out(4096, &mut tail);
    bytes.extend(tail);
    Ok(Some(bytes))
}

fn temporary_files(dir: &Path) -> Vec<String> {
    let entries = fs::read_dir(dir.join(".tmp")).unwrap();
    entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
}

#[tokio::test]
async fn an_object_comes_back_as_it_was_published() {
    let (dir, store) = store();
    let name = "larder-1/u1/n.ns/0/a/b%20c.block";
    assert_eq!(store.start(name, 100).await, Ok(None));
    // One that is moved in several pieces, the last of them short.
    for (len, mode) in [(0, Mode::Create), (5, Mode::Replace), (3 * PIECE_BYTES + 4097, Mode::Replace)] {
        let payload = noise(len as u64, len);
        assert_eq!(store.publish(name, object(b"head of 16 bytes", &payload), mode).await, Ok(Published::Done));
        let start = store.start(name, 6).await.unwrap().unwrap();
        assert_eq!((start.bytes.as_slice(), start.len_bytes), (b"head o".as_slice(), 16 + len as u64));
        assert!(whole(&store, name).await.unwrap().unwrap() == [b"head of 16 bytes", &payload[..]].concat());
    }
    let file = dir.path().join(name);
    assert_eq!(fs::metadata(&file).unwrap().permissions().mode() & 0o7777, 0o600);
    assert_eq!(fs::metadata(dir.path().join("larder-1/u1")).unwrap().permissions().mode() & 0o7777, 0o700);
    assert_eq!(fs::metadata(dir.path().join(".tmp")).unwrap().permissions().mode() & 0o7777, 0o700);
    assert_eq!(temporary_files(dir.path()), [""; 0]);
}

#[tokio::test]
async fn an_object_may_be_a_head_alone() {
    let (_dir, store) = store();
    let options = Object { head: b"options".to_vec(), payload: None };
    assert_eq!(store.publish("options", options, Mode::Create).await, Ok(Published::Done));
    let start = store.start("options", 100).await.unwrap().unwrap();
    assert_eq!((start.bytes.as_slice(), start.len_bytes), (b"options".as_slice(), 7));
    assert_eq!(store.list("", "", 10).await.unwrap(), ["options"]);
}

#[tokio::test]
async fn a_create_leaves_the_object_that_is_there() {
    let (dir, store) = store();
    assert_eq!(store.publish("n/k", object(b"1", b"first"), Mode::Create).await, Ok(Published::Done));
    assert_eq!(store.publish("n/k", object(b"2", b"second"), Mode::Create).await, Ok(Published::Exists));
    assert_eq!(whole(&store, "n/k").await.unwrap().unwrap(), b"1first");
    assert_eq!(temporary_files(dir.path()), [""; 0]);
}

#[tokio::test]
async fn what_is_removed_is_gone_with_its_empty_directories() {
    let (dir, store) = store();
    for name in ["top/a/b/1", "top/a/2"] {
        store.publish(name, object(b"", b"x"), Mode::Create).await.unwrap();
    }
    assert_eq!(store.remove("top/a/b/1").await, Ok(true));
    assert_eq!(store.remove("top/a/b/1").await, Ok(false));
    assert_eq!(store.start("top/a/b/1", 1).await, Ok(None));
    assert!(!dir.path().join("top/a/b").exists() && dir.path().join("top/a/2").exists());
    assert_eq!(store.remove("top/a/2").await, Ok(true));
    assert!(!dir.path().join("top/a").exists() && dir.path().join("top").exists());
}

#[tokio::test]
async fn a_read_of_another_object_than_begun_says_so() {
    let (dir, store) = store();
    let read = |version: String, offset, len| {
        let (store, into) = (&store, memory(&vec![0; len]));
        async move { store.read("n/k", &version, offset, into).await }
    };
    let changed = Err(StoreError::Changed(dir.path().join("n/k").display().to_string()));
    store.publish("n/k", object(b"1", b"first"), Mode::Create).await.unwrap();
    let first = store.start("n/k", 1).await.unwrap().unwrap().version;
    assert_eq!(read(first.clone(), 1, 5).await, Ok(()));
    assert_eq!(read(first.clone(), 1, 6).await, changed, "it ends before");
    assert_eq!(read(first.clone(), u64::MAX, 6).await, changed, "it ends before");
    // As when a publication ends: the object is there already when its temporary name is taken away.
    fs::hard_link(dir.path().join("n/k"), dir.path().join("n/l")).unwrap();
    fs::remove_file(dir.path().join("n/l")).unwrap();
    assert_eq!(read(first.clone(), 1, 5).await, Ok(()), "the same object as before");
    store.publish("n/k", object(b"2", b"again"), Mode::Replace).await.unwrap();
    assert_eq!(read(first, 1, 5).await, changed);
    let second = store.start("n/k", 1).await.unwrap().unwrap().version;
    store.remove("n/k").await.unwrap();
    assert_eq!(read(second, 1, 5).await, changed);
}

#[tokio::test]
async fn memory_outside_its_map_is_an_error_and_no_panic() {
    let (dir, store) = store();
    let outside = |offset_bytes, len_bytes| Memory { offset_bytes, len_bytes, ..memory(b"1234") };
    store.publish("k", object(b"", b"1234"), Mode::Create).await.unwrap();
    let version = store.start("k", 0).await.unwrap().unwrap().version;
    for memory in [outside(4096, 5), outside(u64::MAX, 4), outside(4, u64::MAX)] {
        let object = Object { head: Vec::new(), payload: Some(memory.clone()) };
        let published = store.publish("l", object, Mode::Create).await;
        assert!(matches!(published, Err(StoreError::Failed(_))), "{published:?}");
        let read = store.read("k", &version, 0, memory).await;
        assert!(matches!(read, Err(StoreError::Failed(_))), "{read:?}");
    }
    assert_eq!((temporary_files(dir.path()), store.start("l", 0).await), (Vec::new(), Ok(None)));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn of_racing_creates_one_wins_and_its_bytes_stay() {
    let (dir, store) = store();
    // Two agents: each has its own permits.
    let stores = [Arc::new(store), Arc::new(Directory::open(dir.path()).unwrap())];
    for round in 0..10 {
        let name = format!("larder-1/round-{round}/k");
        let tasks: Vec<_> = (0..32_usize)
            .map(|number| {
                let (store, name) = (Arc::clone(&stores[number % 2]), name.clone());
                let object = object(b"head", &noise(number as u64, 70_000));
                tokio::spawn(async move { (number, store.publish(&name, object, Mode::Create).await.unwrap()) })
            })
            .collect();
        let mut winners = Vec::new();
        for task in tasks {
            let (number, published) = task.await.unwrap();
            if published == Published::Done {
                winners.push(number);
            }
        }
        let [winner] = winners[..] else { panic!("winners: {winners:?}") };
        let found = whole(&stores[0], &name).await.unwrap().unwrap();
        assert!(found == [b"head", &noise(winner as u64, 70_000)[..]].concat());
    }
    assert_eq!(temporary_files(dir.path()), [""; 0]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn readers_find_the_old_object_or_the_new_one_whole() {
    const LEN: usize = 200_000;
    let (_dir, store) = store();
    let store = Arc::new(store);
    store.publish("n/k", object(&0_u64.to_le_bytes(), &noise(0, LEN)), Mode::Create).await.unwrap();
    let (done, is_done) = tokio::sync::watch::channel(false);
    let readers: Vec<_> = (0..4)
        .map(|_| {
            let (store, is_done) = (Arc::clone(&store), is_done.clone());
            tokio::spawn(async move {
                let (mut found, mut last) = (0, 0);
                while !*is_done.borrow() || found == 0 {
                    match whole(&store, "n/k").await {
                        Ok(bytes) => {
                            let bytes = bytes.expect("a replaced object is always there");
                            let seed = u64::from_le_bytes(bytes[..8].try_into().unwrap());
                            assert!(bytes[8..] == noise(seed, LEN), "bytes of two objects");
                            assert!(seed >= last, "an old object came back");
                            (found, last) = (found + 1, seed);
                        }
                        Err(StoreError::Changed(_)) => {}
                        Err(error) => panic!("{error}"),
                    }
                }
                found
            })
        })
        .collect();
    for seed in 1..=150_u64 {
        let object = object(&seed.to_le_bytes(), &noise(seed, LEN));
        assert_eq!(store.publish("n/k", object, Mode::Replace).await, Ok(Published::Done));
    }
    done.send(true).unwrap();
    for reader in readers {
        assert!(reader.await.unwrap() > 0);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn directories_that_others_remove_meanwhile_are_made_again() {
    let (dir, store) = store();
    let stores = [Arc::new(store), Arc::new(Directory::open(dir.path()).unwrap())];
    let tasks: Vec<_> = (0..8_usize)
        .map(|number| {
            let store = Arc::clone(&stores[number % 2]);
            tokio::spawn(async move {
                let name = format!("larder-1/a/b/c/{number}");
                for round in 0..60 {
                    let mode = if round % 2 == 0 { Mode::Create } else { Mode::Replace };
                    assert_eq!(store.publish(&name, object(b"h", b"p"), mode).await, Ok(Published::Done));
                    assert_eq!(whole(&store, &name).await.unwrap().unwrap(), b"hp");
                    assert_eq!(store.remove(&name).await, Ok(true));
                }
            })
        })
        .collect();
    for task in tasks {
        task.await.unwrap();
    }
    assert_eq!(stores[0].list("", "", 10).await.unwrap(), [""; 0]);
    assert!(!dir.path().join("larder-1/a").exists());
}

#[tokio::test]
async fn a_planted_link_is_never_followed() {
    let (dir, store) = store();
    let elsewhere = tempfile::tempdir().unwrap();
    fs::write(elsewhere.path().join("k"), "secret").unwrap();
    fs::create_dir(dir.path().join("n")).unwrap();
    symlink(elsewhere.path(), dir.path().join("n/linked")).unwrap();
    symlink(elsewhere.path().join("k"), dir.path().join("n/k")).unwrap();
    for name in ["n/linked/k", "n/k"] {
        let started = store.start(name, 10).await;
        assert!(matches!(&started, Err(StoreError::Failed(why)) if why.contains("link")), "{started:?}");
    }
    let published = store.publish("n/linked/new", object(b"", b"x"), Mode::Create).await;
    assert!(matches!(published, Err(StoreError::Failed(_))), "{published:?}");
    assert_eq!(store.publish("n/k", object(b"", b"x"), Mode::Create).await, Ok(Published::Exists));
    assert_eq!(store.list("", "", 10).await.unwrap(), [""; 0]);
    // A replacement takes the link's place and leaves what it points to.
    assert_eq!(store.publish("n/k", object(b"", b"x"), Mode::Replace).await, Ok(Published::Done));
    assert_eq!(fs::read(elsewhere.path().join("k")).unwrap(), b"secret");
    assert_eq!(fs::read_dir(elsewhere.path()).unwrap().count(), 1);
}

#[tokio::test]
async fn who_stops_waiting_does_not_free_a_thread_that_still_waits() {
    let (_dir, store) = store();
    let (release, wait) = mpsc::channel::<()>();
    let wait = Arc::new(std::sync::Mutex::new(wait));
    for expected in 1..=MOST_BLOCKED {
        let wait = Arc::clone(&wait);
        let hung = store.blocking(0, move |_, _| {
            let _ = wait.lock().unwrap().recv();
            Ok(())
        });
        assert!(tokio::time::timeout(Duration::from_millis(5), hung).await.is_err());
        assert_eq!(store.under_way(), expected);
    }
    let waiting = tokio::time::timeout(Duration::from_millis(20), store.start("k", 1)).await;
    assert!(waiting.is_err(), "no thread is left: {waiting:?}");
    assert_eq!(store.under_way(), MOST_BLOCKED);
    drop(release);
    let free = tokio::time::timeout(LIVENESS, store.start("k", 1)).await;
    assert_eq!(free, Ok(Ok(None)));
    let all = tokio::time::timeout(LIVENESS, async {
        while store.under_way() > 0 {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    });
    assert!(all.await.is_ok());
}

#[test]
fn an_error_of_one_piece_ends_a_transfer() {
    let begun = std::sync::atomic::AtomicUsize::new(0);
    for extra in [0, 3] {
        let failed = pieces::each(100 * PIECE_BYTES, extra, |piece| {
            begun.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
            if piece.start == 0 { Err(Errno::EDQUOT.into()) } else { Ok(()) }
        });
        assert!(matches!(failure::of_io(&failed.unwrap_err(), "write", Path::new("/x")), StoreError::Full(_)));
    }
    assert!(begun.into_inner() >= 2);
    let bytes = std::sync::Mutex::new(vec![0_u8; 2 * PIECE_BYTES + 1]);
    pieces::each(2 * PIECE_BYTES + 1, 2, |piece| {
        bytes.lock().unwrap()[piece].iter_mut().for_each(|byte| *byte += 1);
        Ok(())
    })
    .unwrap();
    assert!(bytes.into_inner().unwrap().iter().all(|byte| *byte == 1), "every byte once");
}

#[test]
fn a_link_whose_answer_was_lost_is_known_again() {
    let dir = tempfile::tempdir().unwrap();
    let root = Root::open(dir.path()).unwrap();
    let temporary = temporary::Temporary::create(&root).unwrap();
    fs::hard_link(temporary.path(), dir.path().join("ours")).unwrap();
    fs::write(dir.path().join("theirs"), "").unwrap();
    let at = root.directory("").unwrap().unwrap();
    assert!(publish::is_same(&temporary, &at, "ours"));
    assert!(!publish::is_same(&temporary, &at, "theirs") && !publish::is_same(&temporary, &at, "none"));
}
