//! Blocks that come from elsewhere: fetched once for all who ask, of one version, and never torn.

use std::fs;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::sync::Barrier;

use larder::{Error, Namespace, NamespaceOptions, PutOutcome, Validate, url_key};
use tempfile::TempDir;

use crate::harness::Agent;
use crate::pattern::{Random, assert_whole, bytes, put};

/// The digests of `hello, node`, as sha256sum and b3sum print them.
const SHA256_OF_HELLO: &str = "sha256:23cbfda9315e462d027ef6b713d7ebc94b3e5d0d292cda233df39b8cd70ca597";
const BLAKE3_OF_HELLO: &str = "models/blake3:91c39e0167410b7d44fd9315245629ee14d3f9f584a37a36c53dcc9925ce7eb3";

/// A directory of files whose bytes are the pattern of their names.
struct Files(TempDir);

impl Files {
    fn new() -> Files {
        Files(tempfile::tempdir().expect("there is room for a directory"))
    }

    /// Writes a file, and returns the URL of it.
    fn write(&self, name: &str, len: usize) -> String {
        self.write_as(name, name, len)
    }

    /// The same with the bytes that another name would have.
    fn write_as(&self, name: &str, pattern: &str, len: usize) -> String {
        let path = self.path(name);
        // Another inode each time, so that no clock's coarseness makes two versions alike.
        let fresh = self.path("fresh");
        fs::write(&fresh, bytes(pattern, len)).expect("there is room for a file");
        fs::rename(&fresh, &path).expect("in one directory");
        path.to_string_lossy().into_owned()
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }
}

fn with(agent: &Agent, name: &str, validate: Validate) -> Namespace {
    let options = NamespaceOptions { validate, ..NamespaceOptions::default() };
    agent.client().create_namespace(name, &options).expect("it is not there yet")
}

#[track_caller]
fn fetched(cache: &Namespace, key: &str, url: &str, len: usize) {
    let block = cache.get_or_fetch(key, url).unwrap_or_else(|error| panic!("{url}: {error}"));
    assert_eq!((block.key(), block.len()), (key, len));
    assert!(block.verify());
    assert_whole(key, &block);
}

#[test]
fn files_of_every_size_come_whole() {
    let agent = Agent::start("--capacity 256MiB --segment-size 16MiB --staging 1MiB");
    let files = Files::new();
    let cache = agent.namespace("t");
    let mib = 1 << 20;
    let sizes = [0, 1, 4096, 65_536, 65_537, mib - 1, mib, mib + 1, 3 * mib + 17, 9 * mib, 25_000_001];
    for len in sizes {
        let name = format!("f{len}");
        let url = files.write(&name, len);
        assert!(matches!(cache.get(&name), Err(Error::NotFound)));
        fetched(&cache, &name, &url, len);
        fetched(&cache, &name, &format!("file://{url}"), len);
        assert_eq!(put(&cache, &name, len).unwrap(), PutOutcome::AlreadyHeld);
    }
    let stat = agent.stat();
    assert_eq!((stat.tenant.fetches, stat.tenant.fetch_bytes), (11, sizes.iter().sum::<usize>() as u64));
    assert_eq!((stat.tenant.puts, stat.tenant.fetch_failures), (0, 0));
}

#[test]
fn of_many_callers_one_fetches() {
    let (agent, files) = (Agent::small(), Files::new());
    let url = files.write("k", 20_000_000);
    let start = Barrier::new(64);
    std::thread::scope(|scope| {
        for _ in 0..64 {
            scope.spawn(|| {
                let cache = agent.namespace("t");
                start.wait();
                fetched(&cache, "k", &url, 20_000_000);
            });
        }
    });
    assert_eq!((agent.stat().tenant.fetches, agent.stat().tenant.fetch_bytes), (1, 20_000_000));
    // Under another key or in another namespace it is here already.
    let other = agent.namespace("other");
    let block = other.get_or_fetch("again", &url).unwrap();
    assert_eq!(*block, bytes("k", 20_000_000));
    assert!(block.verify());
    let stat = agent.stat();
    assert_eq!((stat.tenant.fetches, stat.tenant.fetch_copies), (2, 1));
}

#[test]
fn a_namespace_sees_one_version() {
    let (agent, files) = (Agent::small(), Files::new());
    let cache = agent.namespace("t");
    let url = files.write("k", 100_000);
    fetched(&cache, "k", &url, 100_000);
    files.write_as("k", "other", 50_000);
    // What is here stays, and what has to be fetched again is not mixed with it.
    fetched(&cache, "k", &url, 100_000);
    assert!(matches!(cache.get_or_fetch("second", &url), Err(Error::OriginChanged(_))));
    assert!(cache.delete("k").unwrap());
    assert!(matches!(cache.get_or_fetch("k", &url), Err(Error::OriginChanged(_))));
    assert!(matches!(cache.get("k"), Err(Error::NotFound)));
    // The next namespace, and the next life of this one, see the new version.
    assert_eq!(*agent.namespace("next").get_or_fetch("k", &url).unwrap(), bytes("other", 50_000));
    cache.clear().unwrap();
    assert_eq!(*cache.get_or_fetch("k", &url).unwrap(), bytes("other", 50_000));
}

#[test]
fn what_is_validated_always_is_what_the_origin_has_now() {
    let (agent, files) = (Agent::small(), Files::new());
    let cache = with(&agent, "t", Validate::Always);
    let url = files.write("k", 100_000);
    fetched(&cache, "k", &url, 100_000);
    let held = cache.get("k").unwrap();
    fetched(&cache, "k", &url, 100_000);
    assert_eq!(agent.stat().tenant.fetches, 1);
    files.write_as("k", "other", 50_000);
    assert_eq!(*cache.get_or_fetch("k", &url).unwrap(), bytes("other", 50_000));
    assert_whole("k", &held);
    assert_eq!(agent.stat().tenant.fetches, 2);
    fs::remove_file(files.path("k")).unwrap();
    assert!(matches!(cache.get_or_fetch("k", &url), Err(Error::NotFound)));
    assert!(matches!(cache.get("k"), Err(Error::NotFound)));
    // A key that was put is nobody's to compare.
    put(&cache, "put", 1000).unwrap();
    assert_whole("put", &cache.get_or_fetch("put", &files.write("x", 10)).unwrap());
}

#[test]
fn what_is_never_validated_is_what_the_origin_had_when_it_was_fetched() {
    let (agent, files) = (Agent::small(), Files::new());
    let cache = with(&agent, "t", Validate::Never);
    let url = files.write("k", 100_000);
    fetched(&cache, "k", &url, 100_000);
    files.write_as("k", "other", 50_000);
    fetched(&cache, "k", &url, 100_000);
    cache.delete("k").unwrap();
    assert_eq!(*cache.get_or_fetch("k", &url).unwrap(), bytes("other", 50_000));
}

#[test]
fn a_key_that_names_its_content_is_checked() {
    let (agent, files) = (Agent::small(), Files::new());
    let cache = agent.namespace("t");
    let url = files.path("hello").to_string_lossy().into_owned();
    fs::write(&url, b"hello, node").unwrap();
    for key in [
        "sha256:a1d7cc33ed5ea8abb2b1e3e5b9ef1ef0fd1b0b7a4f3a3d6bdb2d0a1f2c4bd6de",
        "models/blake3:0000000000000000000000000000000000000000000000000000000000000000",
    ] {
        let error = cache.get_or_fetch(key, &url).unwrap_err();
        assert!(matches!(&error, Error::Origin(why) if why.contains("names")), "{error}");
        assert!(matches!(cache.get(key), Err(Error::NotFound)));
    }
    for key in [SHA256_OF_HELLO, BLAKE3_OF_HELLO] {
        assert_eq!(*cache.get_or_fetch(key, &url).unwrap(), *b"hello, node");
    }
}

#[test]
fn an_object_larger_than_memory_is_read_in_place() {
    let (agent, files) = (Agent::small(), Files::new());
    let len = 150_000_003;
    let url = files.write("large", len);
    let whole = bytes("large", len);
    let cache = agent.namespace("t");
    let object = cache.open(&url).unwrap();
    assert_eq!(object.len(), len as u64);
    for _epoch in 0..2 {
        let mut at = 0;
        while let Some(chunk) = object.chunk_at(at).unwrap() {
            assert_eq!(chunk.offset(), at);
            let start = usize::try_from(at).unwrap();
            assert!(chunk[..] == whole[start..start + chunk.len()], "at {at}");
            at += chunk.len() as u64;
        }
        assert_eq!(at, len as u64);
    }
    let mut random = Random::new(3);
    let mut buffer = vec![0; 3_000_000];
    for _ in 0..50 {
        let at = random.below(len + 1000);
        let take = random.below(buffer.len());
        let got = object.read_at(&mut buffer[..take], at as u64).unwrap();
        assert_eq!(got, take.min(len.saturating_sub(at)));
        assert!(buffer[..got] == whole[at.min(len)..at.min(len) + got], "{take} bytes at {at}");
    }
    let stat = agent.stat();
    assert!(stat.tenant.evictions > 100 && stat.tenant.fetch_failures == 0, "{stat:#?}");
    agent.await_no_pins();
}

#[test]
fn an_object_is_of_one_version_whatever_becomes_of_it_and_of_the_agent() {
    let mut agent = Agent::start("--capacity 256MiB --segment-size 16MiB --staging 1MiB");
    let files = Files::new();
    let url = files.write("k", 20_000_000);
    let whole = bytes("k", 20_000_000);
    let cache = agent.namespace("t");
    let object = cache.open(&url).unwrap();
    let held = object.chunk_at(0).unwrap().unwrap();
    // Another agent, which has never heard of it.
    agent.kill();
    agent.restart();
    let mut buffer = vec![0; 1000];
    assert_eq!(object.read_at(&mut buffer, 10_000_000).unwrap(), 1000);
    assert!(buffer == whole[10_000_000..10_001_000]);
    // Changed in its place it is another version, and no byte of it is taken for one of the old.
    fs::File::options().write(true).open(files.path("k")).unwrap().write_all_at(b"changed", 0).unwrap();
    assert!(matches!(object.read_at(&mut buffer, 5_000_000), Err(Error::OriginChanged(_))));
    assert!(matches!(cache.open(&url), Err(Error::OriginChanged(_))));
    assert!(held[..] == whole[..held.len()]);
    assert_eq!(object.read_at(&mut buffer, 10_000_000).unwrap(), 1000);
    assert!(buffer == whole[10_000_000..10_001_000], "what was fetched before");
}

#[test]
fn chunks_come_before_they_are_asked_for() {
    let (agent, files) = (Agent::small(), Files::new());
    let url = files.write("k", 8_000_000);
    let cache = agent.namespace("t");
    let object = cache.open(&url).unwrap();
    let chunks = 8_000_000_u64.div_ceil(object.chunk_len());
    assert!(chunks >= 8);
    object.prefetch(&[0..1, 3 * object.chunk_len()..5 * object.chunk_len() - 1]).unwrap();
    agent.stat_until("three chunks come", |stat| stat.tenant.fetches == 3);
    // In order: others follow by themselves.
    for index in 0..3 {
        object.chunk_at(index * object.chunk_len()).unwrap().unwrap();
    }
    agent.stat_until("the next ones come", |stat| stat.tenant.fetches >= 6);
    // In another namespace they are here already.
    let other = agent.namespace("other").open(&url).unwrap();
    other.prefetch(&[0..1, other.chunk_len()..3 * other.chunk_len()]).unwrap();
    agent.stat_until("they are copied", |stat| stat.tenant.fetch_copies == 3);
}

#[test]
fn what_cannot_be_fetched_is_said_and_not_remembered() {
    let (agent, files) = (Agent::small(), Files::new());
    let cache = agent.namespace("t");
    let absent = files.path("k").to_string_lossy().into_owned();
    assert!(matches!(cache.get_or_fetch("k", &absent), Err(Error::NotFound)));
    files.write("k", 1000);
    fetched(&cache, "k", &absent, 1000);
    let directory = files.0.path().to_string_lossy().into_owned();
    assert!(matches!(cache.get_or_fetch("d", &directory), Err(Error::Invalid(why)) if why.contains("regular file")));
    let huge = files.path("huge");
    fs::File::create(&huge).unwrap().set_len(1 << 40).unwrap();
    assert!(matches!(cache.get_or_fetch("h", &huge.to_string_lossy()), Err(Error::TooLarge { .. })));
    for url in ["ftp://host/a", "nonsense", "s3:", ""] {
        let error = cache.get_or_fetch("u", url).unwrap_err();
        assert!(matches!(error, Error::Invalid(_) | Error::Denied(_)), "{url}: {error:?}");
    }
    // The URL stands for itself.
    let url = files.write("named", 500);
    assert_eq!(cache.fetch(&url).unwrap().key(), url_key(&url));
}

#[test]
fn a_fetch_that_failed_has_bound_no_version() {
    let (agent, files) = (Agent::small(), Files::new());
    let options = NamespaceOptions { quota_bytes: Some(100_000), ..NamespaceOptions::default() };
    let cache = agent.client().create_namespace("t", &options).unwrap();
    let url = files.write("k", 200_000);
    assert!(matches!(cache.get_or_fetch("k", &url), Err(Error::Quota { .. })));
    files.write_as("k", "k", 50_000);
    fetched(&cache, "k", &url, 50_000);
    // One process may wait for many at once.
    let urls: Vec<String> = (0..100).map(|n| files.write(&format!("m{n}"), 500)).collect();
    std::thread::scope(|scope| {
        for (n, url) in urls.iter().enumerate() {
            let cache = &cache;
            scope.spawn(move || fetched(cache, &format!("m{n}"), url, 500));
        }
    });
}
