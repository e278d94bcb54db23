//! Blocks of every size at which something changes, however they are put.

use larder::{Error, Namespace, PutOutcome};

use crate::harness::{Agent, SEGMENT_BYTES, needs};
use crate::pattern::{self, bytes, get_whole, put};
use crate::puppet::Puppet;

/// Longest block that is put with one message, and what one checksum covers.
const UNIT_BYTES: usize = 256 * 1024;
const CHUNK_BYTES: usize = 64 * 1024;

fn sizes(segment_bytes: usize) -> Vec<usize> {
    let around = |size: usize| [size - 1, size, size + 1];
    let mut sizes = vec![0, 1, 2, 7, 8, 9];
    for size in [64, 4096, CHUNK_BYTES, 2 * CHUNK_BYTES, UNIT_BYTES, 1 << 20, segment_bytes / 4, segment_bytes] {
        sizes.extend(around(size));
    }
    // A segment of its own begins where header and checksums do not fit into a quarter segment any more.
    sizes.extend([segment_bytes / 4 - 4096, segment_bytes / 4 - 8192, segment_bytes / 3, segment_bytes / 2]);
    sizes.extend([2 * segment_bytes + 1, 3 * segment_bytes]);
    sizes
}

fn write(cache: &Namespace, key: &str, len: usize) -> Result<PutOutcome, Error> {
    let mut writer = cache.create(key, len)?;
    assert_eq!((writer.key(), writer.len(), writer.is_empty()), (key, len, len == 0));
    assert_eq!(writer.as_mut_slice().len(), len);
    pattern::fill(key, writer.as_mut_slice());
    writer.commit()
}

#[test]
fn every_size_comes_back_byte_by_byte() {
    check_sizes(SEGMENT_BYTES);
}

#[test]
fn every_size_comes_back_from_the_smallest_segments() {
    check_sizes(2 << 20);
}

fn check_sizes(segment_bytes: usize) {
    let agent = Agent::start(&format!("--capacity 256MiB --segment-size {segment_bytes} --staging 1MiB"));
    let (cache, other) = (agent.namespace("t"), agent.namespace("t"));
    let mut puppet = Puppet::start(&agent);
    for len in sizes(segment_bytes) {
        let (one, two, three) = (format!("put/{len}"), format!("written/{len}"), format!("many/{len}"));
        assert_eq!(put(&cache, &one, len).unwrap(), PutOutcome::Stored, "{one}");
        assert_eq!(write(&cache, &two, len).unwrap(), PutOutcome::Stored, "{two}");
        let payload = bytes(&three, len);
        let outcomes = cache.put_many(&[(&three, &payload), ("", b""), (&three, &payload)]);
        assert!(
            matches!(outcomes[..], [Ok(PutOutcome::Stored), Err(_), Ok(PutOutcome::AlreadyHeld)]),
            "{three}: {outcomes:?}"
        );
        for key in [&one, &two, &three] {
            get_whole(&cache, key, len);
            get_whole(&other, key, len);
            puppet.does(&format!("look t {key}"), "whole");
        }
        // The same bytes are the same block, whichever way they came.
        assert_eq!(write(&other, &one, len).unwrap(), PutOutcome::AlreadyHeld);
        assert_eq!(put(&other, &two, len).unwrap(), PutOutcome::AlreadyHeld);
        for key in [one, two, three] {
            assert!(other.delete(&key).unwrap(), "{key}");
        }
    }
    drop(puppet);
    let stat = agent.await_no_pins();
    assert_eq!((stat.tenant.blocks, stat.tenant.payload_bytes), (0, 0));
}

#[test]
fn payloads_are_aligned() {
    let agent = Agent::small();
    let cache = agent.namespace("t");
    for len in [1, 100, 4096, CHUNK_BYTES - 1, CHUNK_BYTES, CHUNK_BYTES + 1, UNIT_BYTES + 1, SEGMENT_BYTES] {
        for key in ["k".repeat(1 + len % 97), format!("{}/w", "k".repeat(1 + len % 97))] {
            if key.ends_with('w') {
                write(&cache, &key, len).unwrap();
            } else {
                put(&cache, &key, len).unwrap();
            }
            let block = get_whole(&cache, &key, len);
            let align = if len < CHUNK_BYTES { 64 } else { 4096 };
            assert_eq!(block.as_ptr().addr() % align, 0, "{len} bytes");
        }
    }
}

#[test]
fn a_block_over_the_limit_is_refused_with_the_limit() {
    let agent = Agent::small();
    let client = agent.client();
    let limit = usize::try_from(client.ping().unwrap().block_len_max).unwrap();
    assert!(limit > 48 << 20);
    let cache = client.namespace("t").unwrap();
    let before = agent.stat();
    // Never touched, so that it costs nothing to have it.
    let long = vec![0; limit + 1];
    let outcomes = [
        cache.put("k", &long).map(drop),
        cache.create("k", limit + 1).map(drop),
        cache.create("k", 1 << 50).map(drop),
        cache.put_many(&[("k", &long)]).remove(0).map(drop),
    ];
    for outcome in outcomes {
        match outcome {
            Err(error @ Error::TooLarge { limit_bytes, .. }) => {
                assert_eq!(limit_bytes, limit as u64);
                assert!(error.to_string().contains(&limit.to_string()), "{error}");
            }
            other => panic!("{other:?}"),
        }
    }
    assert!(!cache.contains("k").unwrap());
    assert_eq!(agent.stat().tenant.segment_bytes, before.tenant.segment_bytes, "nothing was made for it");
    put(&cache, "k", 1000).unwrap();
}

#[test]
fn a_block_of_the_longest_length_fits() {
    needs!(LEASES_FOR_MEMORY);
    let agent = Agent::small();
    let cache = agent.namespace("t");
    let len = usize::try_from(agent.monitor().ping().unwrap().block_len_max).unwrap();
    for n in 0..100 {
        put(&cache, &format!("before/{n}"), 500_000).unwrap();
        get_whole(&cache, &format!("before/{n}"), 500_000);
    }
    assert_eq!(put(&cache, "put", len).unwrap(), PutOutcome::Stored);
    get_whole(&cache, "put", len);
    assert!(agent.stat().memory_bytes <= 64 << 20);
    // In its place, and after it.
    assert_eq!(put(&cache, "again", len - 1).unwrap(), PutOutcome::Stored);
    get_whole(&cache, "again", len - 1);
    assert!(cache.delete("again").unwrap());
    assert_eq!(write(&cache, "written", len).unwrap(), PutOutcome::Stored);
    get_whole(&cache, "written", len);
    assert_eq!(write(&cache, "rewritten", len).unwrap(), PutOutcome::Stored);
    get_whole(&cache, "rewritten", len);
    assert!(agent.stat().memory_bytes <= 64 << 20);
}
