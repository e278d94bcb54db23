//! What holds for a store of objects, over one in memory. The other files: what happens when its server fails, and lists.

mod faults;
mod listing;

use std::sync::Arc;
use std::time::Duration;

use larder_protocol::memory::{HugePages, Mapping, Memfd, Platform};
use object_store::memory::InMemory;

use super::*;
use crate::store::probe::probe;

/// A length that is written in parts, the last of them short.
const LARGE_BYTES: usize = (20 << 20) + 4097;

/// A store over another in memory, which the test can look into.
fn over(objects: Arc<dyn ObjectStore>, prefix: &str) -> Remote {
    let options = StoreOptions::default();
    let connected = connect::connect(&StoreUrl::Memory, &options).unwrap();
    let place = Place {
        reads: Arc::clone(&objects),
        writes: objects,
        prefix: prefix.to_owned(),
        retries: 3,
        ..connected.place
    };
    let runtime = Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    Remote { place: Arc::new(place), threads: Threads(Some(runtime)) }
}

fn store() -> (Arc<InMemory>, Remote) {
    let objects = Arc::new(InMemory::new());
    let remote = over(Arc::clone(&objects) as Arc<dyn ObjectStore>, "some/prefix/");
    (objects, remote)
}

/// Memory that holds `bytes`, behind a page of something else and before another.
fn memory(bytes: &[u8]) -> Memory {
    let len = 4096 + bytes.len().next_multiple_of(4096) + 4096;
    let memfd = Memfd::create(c"store-test", len, HugePages::Off, &Platform::detect(&[]).unwrap()).unwrap();
    let mapping = Arc::new(Mapping::read_write(&memfd, len).unwrap());
    mapping.copy_in(4096, bytes);
    Memory { mapping, offset_bytes: 4096, len_bytes: bytes.len() as u64 }
}

fn object(head: &[u8], payload: &[u8]) -> Object {
    Object { head: head.to_vec(), payload: Some(memory(payload)) }
}

/// Bytes that are found nowhere else.
fn noise(seed: u64, len: usize) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let step = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state
    };
    let mut bytes: Vec<u8> = std::iter::repeat_with(step).take(len.div_ceil(8)).flat_map(u64::to_le_bytes).collect();
    bytes.truncate(len);
    bytes
}

/// All bytes of an object: the first 16 from its start, the rest read into memory.
async fn whole(store: &Remote, name: &str) -> Result<Option<Vec<u8>>, StoreError> {
    let Some(start) = store.start(name, 16).await? else { return Ok(None) };
    let rest = usize::try_from(start.len_bytes).unwrap() - start.bytes.len();
    let into = memory(&vec![0; rest]);
    store.read(name, &start.version, start.bytes.len() as u64, into.clone()).await?;
    let mut bytes = start.bytes;
    let mut around = vec![0; into.mapping.len()];
    into.mapping.copy_out(0, &mut around);
    assert!(around[..4096].iter().chain(&around[4096 + rest..]).all(|byte| *byte == 0), "written beside the memory");
    bytes.extend(&around[4096..4096 + rest]);
    Ok(Some(bytes))
}

/// The keys of everything that is there.
async fn keys(objects: &dyn ObjectStore) -> Vec<String> {
    use futures_util::TryStreamExt;
    let mut keys: Vec<String> =
        objects.list(None).map_ok(|found| found.location.to_string()).try_collect().await.unwrap();
    keys.sort_unstable();
    keys
}

#[tokio::test]
async fn a_store_in_memory_passes_the_probe_and_nothing_of_it_stays() {
    let (objects, store) = store();
    assert_eq!(probe(&store).await, Ok(()));
    assert_eq!(keys(objects.as_ref()).await, [""; 0]);
    let opened = Remote::open(&StoreUrl::Memory, &StoreOptions::default()).await.unwrap();
    assert_eq!(probe(&opened).await, Ok(()));
}

#[tokio::test]
async fn an_object_comes_back_as_it_was_published() {
    let (objects, store) = store();
    let name = "larder-1/u1/n.ns/0/a/b%20c.block";
    assert_eq!(store.start(name, 100).await, Ok(None));
    for (len, mode) in [
        (0, Mode::Create),
        (5, Mode::Replace),
        (8 << 20, Mode::Replace),
        (LARGE_BYTES, Mode::Replace),
        (7, Mode::Replace),
    ] {
        let payload = noise(len as u64, len);
        assert_eq!(store.publish(name, object(b"head of 16 bytes", &payload), mode).await, Ok(Published::Done));
        let start = store.start(name, 6).await.unwrap().unwrap();
        assert_eq!((start.bytes.as_slice(), start.len_bytes), (b"head o".as_slice(), 16 + len as u64));
        assert!(whole(&store, name).await.unwrap().unwrap() == [b"head of 16 bytes", &payload[..]].concat(), "{len}");
        let large = usize::from(len > 9 << 20);
        let keys = keys(objects.as_ref()).await;
        assert_eq!(keys.len(), 1 + large, "{keys:?}");
        assert_eq!(keys.last(), Some(&format!("some/prefix/{name}")));
    }
    assert_eq!(store.under_way(), 0);
}

#[tokio::test]
async fn an_object_may_be_a_head_alone_or_empty() {
    let (_, store) = store();
    let options = Object { head: b"options".to_vec(), payload: None };
    assert_eq!(store.publish("options", options, Mode::Create).await, Ok(Published::Done));
    let start = store.start("options", 100).await.unwrap().unwrap();
    assert_eq!((start.bytes.as_slice(), start.len_bytes), (b"options".as_slice(), 7));
    let empty = Object { head: Vec::new(), payload: None };
    assert_eq!(store.publish("empty", empty.clone(), Mode::Create).await, Ok(Published::Done));
    assert_eq!(
        store.publish("empty", empty, Mode::Create).await,
        Ok(Published::Done),
        "it cannot be told from its own"
    );
    let start = store.start("empty", 100).await.unwrap().unwrap();
    assert_eq!((start.bytes.as_slice(), start.len_bytes), (b"".as_slice(), 0));
    assert_eq!(store.remove("empty").await, Ok(true));
}

#[tokio::test]
async fn a_head_may_be_longer_than_a_part() {
    let (_, store) = store();
    let head = noise(1, 9 << 20);
    assert_eq!(store.publish("k", object(&head, &noise(2, 5)), Mode::Create).await, Ok(Published::Done));
    assert!(whole(&store, "k").await.unwrap().unwrap() == [head.clone(), noise(2, 5)].concat());
    let start = store.start("k", 9 << 20).await.unwrap().unwrap();
    assert!(start.bytes == head);
}

#[tokio::test]
async fn a_create_leaves_the_object_that_is_there() {
    let (objects, store) = store();
    for len in [6, LARGE_BYTES] {
        let name = format!("n/{len}");
        let first = noise(1, len);
        assert_eq!(store.publish(&name, object(b"1", &first), Mode::Create).await, Ok(Published::Done));
        let before = keys(objects.as_ref()).await;
        for other in [6, LARGE_BYTES] {
            let object = object(b"2", &noise(2, other));
            assert_eq!(store.publish(&name, object, Mode::Create).await, Ok(Published::Exists));
        }
        assert!(whole(&store, &name).await.unwrap().unwrap() == [b"1", &first[..]].concat());
        assert_eq!(keys(objects.as_ref()).await, before, "nothing of the others stays");
    }
}

#[tokio::test]
async fn what_is_removed_is_gone_with_all_its_bytes() {
    let (objects, store) = store();
    for len in [1, LARGE_BYTES] {
        store.publish("n/k", object(b"h", &noise(3, len)), Mode::Create).await.unwrap();
        let version = store.start("n/k", 1).await.unwrap().unwrap().version;
        assert_eq!(store.remove("n/k").await, Ok(true));
        assert_eq!(store.remove("n/k").await, Ok(false));
        assert_eq!(store.start("n/k", 1).await, Ok(None));
        let read = store.read("n/k", &version, 1, memory(&vec![0; len])).await;
        assert!(matches!(read, Err(StoreError::Changed(_))), "{read:?}");
        assert_eq!(keys(objects.as_ref()).await, [""; 0]);
    }
}

#[tokio::test]
async fn a_read_of_another_object_than_begun_says_so() {
    let (_, store) = store();
    for (first, second) in [(5, 5), (LARGE_BYTES, LARGE_BYTES), (LARGE_BYTES, 5), (5, LARGE_BYTES)] {
        let name = format!("n/{first}-{second}");
        store.publish(&name, object(b"1", &noise(1, first)), Mode::Create).await.unwrap();
        let version = store.start(&name, 1).await.unwrap().unwrap().version;
        let read = async |offset, len| store.read(&name, &version, offset, memory(&vec![0; len])).await;
        assert_eq!(read(1, first).await, Ok(()));
        for (offset, len) in [(1, first + 1), (u64::MAX, 6), (first as u64 + 2, 1)] {
            assert!(matches!(read(offset, len).await, Err(StoreError::Changed(_))), "it ends before");
        }
        store.publish(&name, object(b"2", &noise(2, second)), Mode::Replace).await.unwrap();
        assert!(matches!(read(1, first).await, Err(StoreError::Changed(_))));
    }
    assert!(matches!(store.read("n/k", "nonsense", 0, memory(b"1")).await, Err(StoreError::Failed(_))));
}

#[tokio::test]
async fn memory_outside_its_map_is_an_error_and_no_panic() {
    let (objects, store) = store();
    let outside = |offset_bytes, len_bytes| Memory { offset_bytes, len_bytes, ..memory(b"1234") };
    store.publish("k", object(b"", b"1234"), Mode::Create).await.unwrap();
    let version = store.start("k", 0).await.unwrap().unwrap().version;
    for memory in [outside(4096 + 8192 - 3, 4), outside(u64::MAX, 4), outside(4, u64::MAX)] {
        let object = Object { head: Vec::new(), payload: Some(memory.clone()) };
        let published = store.publish("l", object, Mode::Create).await;
        assert!(matches!(published, Err(StoreError::Failed(_))), "{published:?}");
        let read = store.read("k", &version, 0, memory).await;
        assert!(matches!(read, Err(StoreError::Failed(_))), "{read:?}");
    }
    assert_eq!(keys(objects.as_ref()).await, ["some/prefix/k"]);
}

#[tokio::test]
async fn a_link_that_leads_nowhere_is_an_object_that_may_be_replaced() {
    let (objects, store) = store();
    let large = object(b"h", &noise(1, LARGE_BYTES));
    let key = |name: &str| Path::parse(format!("some/prefix/{name}")).unwrap();
    for damage in ["absent", "shorter", "link"] {
        store.publish("k", large.clone(), Mode::Replace).await.unwrap();
        let target = store.place.link_at("k").await.unwrap().unwrap().target;
        let before = objects.get(&key(&target)).await.unwrap().bytes().await.unwrap();
        match damage {
            "absent" => objects.delete(&key(&target)).await.unwrap(),
            "shorter" => drop(objects.put(&key(&target), before.slice(1..).into()).await.unwrap()),
            _ => {
                let link = objects.get(&key("k")).await.unwrap().bytes().await.unwrap();
                let mut link = link.to_vec();
                link[20] ^= 1;
                objects.put(&key("k"), link.into()).await.unwrap();
            }
        }
        let start = store.start("k", 1000).await.unwrap().expect("it is damaged, not absent");
        assert!(start.bytes.starts_with(b"LARDRLNK") && start.len_bytes < 2048, "{damage}");
        assert_eq!(store.publish("k", large.clone(), Mode::Create).await, Ok(Published::Exists), "{damage}");
        assert_eq!(store.publish("k", object(b"h", b"new"), Mode::Replace).await, Ok(Published::Done), "{damage}");
        assert_eq!(whole(&store, "k").await.unwrap().unwrap(), b"hnew");
    }
    // Of a damaged link nobody knows where it led.
    assert_eq!(store.place.remove_orphans_older_than(Duration::ZERO).await, Ok(1));
    assert_eq!(keys(objects.as_ref()).await, ["some/prefix/k"]);
}

#[tokio::test]
async fn a_large_object_with_another_tag_is_read_all_the_same() {
    let (objects, store) = store();
    store.publish("k", object(b"h", &noise(1, LARGE_BYTES)), Mode::Create).await.unwrap();
    let target =
        Path::parse(format!("some/prefix/{}", store.place.link_at("k").await.unwrap().unwrap().target)).unwrap();
    let written = objects.get(&target).await.unwrap();
    let tag = written.meta.e_tag.clone();
    let bytes = written.bytes().await.unwrap();
    // As in a copy of the bucket.
    let copied = objects.put(&target, bytes.clone().into()).await.unwrap();
    assert_ne!(copied.e_tag, tag);
    assert_eq!(whole(&store, "k").await.unwrap().unwrap(), bytes);
}

#[tokio::test]
async fn only_orphans_that_are_old_are_removed() {
    let (objects, store) = store();
    let orphan = "some/prefix/larder-1/large/larder-1/gone/00000000000000000000000000000001";
    let foreign = "some/prefix/larder-1/large/notes";
    assert_eq!(store.place.remove_orphans_older_than(Duration::ZERO).await, Ok(0));
    store.publish("larder-1/k", object(b"h", &noise(1, LARGE_BYTES)), Mode::Create).await.unwrap();
    for key in [orphan, foreign] {
        objects.put(&Path::parse(key).unwrap(), vec![1; 100].into()).await.unwrap();
    }
    assert_eq!(store.place.remove_orphans_older_than(Duration::from_secs(3600)).await, Ok(0));
    assert!(keys(objects.as_ref()).await.contains(&orphan.to_owned()));
    assert_eq!(store.place.remove_orphans_older_than(Duration::ZERO).await, Ok(1));
    let left = keys(objects.as_ref()).await;
    assert!(!left.contains(&orphan.to_owned()) && left.contains(&foreign.to_owned()) && left.len() == 3, "{left:?}");
    assert!(whole(&store, "larder-1/k").await.unwrap().is_some());
}

#[tokio::test]
async fn the_longest_name_under_the_longest_prefix_is_a_key_of_any_provider() {
    let objects = Arc::new(InMemory::new());
    let prefix = format!("{}/", "p".repeat(crate::config::PREFIX_BYTES_MAX));
    let store = over(Arc::clone(&objects) as Arc<dyn ObjectStore>, &prefix);
    let name = ["x".repeat(255), "x".repeat(255), "x".repeat(255), "x".repeat(132)].join("/");
    assert_eq!(name.len(), 900);
    store.publish(&name, object(b"h", &noise(1, LARGE_BYTES)), Mode::Create).await.unwrap();
    assert!(keys(objects.as_ref()).await.iter().all(|key| key.len() <= 1024));
    assert_eq!(store.list("", "", 10).await.unwrap(), std::slice::from_ref(&name));
    assert_eq!(store.remove(&name).await, Ok(true));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn of_racing_creates_one_wins_and_its_bytes_stay() {
    let (objects, first) = store();
    // Two agents.
    let stores = [Arc::new(first), Arc::new(over(Arc::clone(&objects) as Arc<dyn ObjectStore>, "some/prefix/"))];
    for (round, len) in [70_000, 70_000, 70_000, 9 << 20].into_iter().enumerate() {
        let name = format!("larder-1/round-{round}/k");
        let tasks: Vec<_> = (0..8_usize)
            .map(|number| {
                let (store, name) = (Arc::clone(&stores[number % 2]), name.clone());
                let object = object(b"head", &noise(number as u64, len));
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
        assert!(found == [b"head", &noise(winner as u64, len)[..]].concat());
    }
    assert_eq!(keys(objects.as_ref()).await.len(), 5, "four names and one large object");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn readers_find_the_old_object_or_the_new_one_whole() {
    let (_, store) = store();
    let store = Arc::new(store);
    let len = |seed: u64| if seed.is_multiple_of(3) { 9 << 20 } else { 200_000 };
    let object_of = |seed: u64| object(&[&seed.to_le_bytes()[..], &[0; 8]].concat(), &noise(seed, len(seed)));
    store.publish("n/k", object_of(0), Mode::Create).await.unwrap();
    let (done, is_done) = tokio::sync::watch::channel(false);
    let readers: Vec<_> = (0..3)
        .map(|_| {
            let (store, is_done) = (Arc::clone(&store), is_done.clone());
            tokio::spawn(async move {
                let (mut found, mut last) = (0, 0);
                while !*is_done.borrow() || found == 0 {
                    match whole(&store, "n/k").await {
                        Ok(bytes) => {
                            let bytes = bytes.expect("a replaced object is always there");
                            let seed = u64::from_le_bytes(bytes[..8].try_into().unwrap());
                            assert!(bytes[16..] == noise(seed, len(seed)), "bytes of two objects");
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
    for seed in 1..=60_u64 {
        assert_eq!(store.publish("n/k", object_of(seed), Mode::Replace).await, Ok(Published::Done));
    }
    done.send(true).unwrap();
    for reader in readers {
        assert!(reader.await.unwrap() > 0);
    }
}

#[tokio::test]
async fn a_server_that_is_not_there_is_told_soon() {
    let secret = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(secret.path(), "[default]\naws_access_key_id = I\naws_secret_access_key = geheim\n").unwrap();
    let options = StoreOptions {
        endpoint: Some("http://127.0.0.1:1".to_owned()),
        allow_http: true,
        credentials_file: Some(secret.path().to_owned()),
        ..StoreOptions::default()
    };
    let refused = Remote::open(&"s3://bucket/p".parse().unwrap(), &options).await.unwrap_err();
    let StoreError::Unavailable(why) = &refused else { panic!("{refused:?}") };
    assert!(why.starts_with("cannot look for larder-1/probe/contact in s3://bucket/p now: "), "{why}");
    assert!(!why.contains("geheim"), "{why}");
}

#[tokio::test]
async fn settings_that_do_not_fit_are_told_before_anything_is_asked() {
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), "geheim").unwrap();
    for (url, path, said) in [
        ("s3://bucket", Some(file.path()), "has no profile [default]"),
        ("gs://bucket", Some(file.path()), "is no key of a service account"),
        ("az://container", Some(file.path()), "account_key = KEY or sas_token"),
        ("s3://bucket", Some(std::path::Path::new("/nowhere/at/all")), "cannot be read"),
    ] {
        let options = StoreOptions {
            account: Some("account".to_owned()).filter(|_| url.starts_with("az")),
            credentials_file: path.map(std::path::Path::to_owned),
            ..StoreOptions::default()
        };
        let refused = Remote::open(&url.parse().unwrap(), &options).await.unwrap_err();
        let StoreError::Failed(why) = &refused else { panic!("{refused:?}") };
        assert!(why.starts_with(&format!("cannot use {url}: ")) && why.contains(said), "{why}");
        assert!(!why.contains("geheim"), "{why}");
    }
}
