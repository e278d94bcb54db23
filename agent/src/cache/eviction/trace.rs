//! Hit ratios on made-up traces: popular keys by Zipf's law, with scans in between.

use std::collections::{HashMap, VecDeque};

use super::S3Fifo;

/// Keys that are asked for by popularity. Those of scans come after them and are never asked for
/// again.
const KEYS: usize = 5000;

/// What a policy is told, and what it is asked.
trait Policy {
    fn put(&mut self, id: u32, bytes: u64, key: u64);
    fn read(&mut self, id: u32);
    fn victim(&mut self) -> Option<u32>;
}

impl Policy for S3Fifo {
    fn put(&mut self, id: u32, bytes: u64, key: u64) {
        self.insert(id, bytes, key);
    }
    fn read(&mut self, id: u32) {
        self.touch(id);
    }
    fn victim(&mut self) -> Option<u32> {
        self.next_victim(&mut |_| false)
    }
}

/// Plain FIFO: what was put first goes first, read or not.
impl Policy for VecDeque<u32> {
    fn put(&mut self, id: u32, _bytes: u64, _key: u64) {
        self.push_back(id);
    }
    fn read(&mut self, _id: u32) {}
    fn victim(&mut self) -> Option<u32> {
        self.pop_front()
    }
}

/// A generator whose numbers are the same everywhere (xorshift64*).
struct Rng(u64);

impl Rng {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    /// From 0 up to 1.
    fn unit(&mut self) -> f64 {
        f64::from(u32::try_from(self.next() >> 32).expect("32 bits")) / 4_294_967_296.0
    }
}

/// Lengths from 1 to 64 KiB, fixed for a key.
fn len_bytes(key: u64) -> u64 {
    1024 << (key.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 61).min(6)
}

/// `requests` requests of which every 1,000 are followed by a scan over 200 keys that are new.
fn trace(seed: u64, skew: f64, requests: usize) -> Vec<u64> {
    let mut sums = Vec::with_capacity(KEYS);
    let mut sum = 0.0;
    for rank in 1..=u32::try_from(KEYS).expect("few keys") {
        sum += f64::from(rank).powf(-skew);
        sums.push(sum);
    }
    let mut rng = Rng(seed);
    let mut scanned = KEYS as u64;
    let mut keys = Vec::new();
    for request in 1..=requests {
        let at = rng.unit() * sum;
        keys.push(sums.partition_point(|&upto| upto < at) as u64);
        if request.is_multiple_of(1000) {
            keys.extend(scanned..scanned + 200);
            scanned += 200;
        }
    }
    keys
}

/// The share of requests that a cache of `capacity_bytes` answers. What misses is put.
fn hit_ratio(policy: &mut dyn Policy, keys: &[u64], capacity_bytes: u64) -> f64 {
    let mut id_by_key = HashMap::new();
    let mut key_by_id: Vec<u64> = Vec::new();
    let mut vacant_ids = Vec::new();
    let mut used_bytes = 0;
    let mut hits = 0u32;
    for &key in keys {
        if let Some(&id) = id_by_key.get(&key) {
            policy.read(id);
            hits += 1;
            continue;
        }
        used_bytes += len_bytes(key);
        while used_bytes > capacity_bytes {
            let id = policy.victim().expect("a cache that is full has blocks");
            let victim_key = key_by_id[id as usize];
            id_by_key.remove(&victim_key);
            vacant_ids.push(id);
            used_bytes -= len_bytes(victim_key);
        }
        let id = vacant_ids.pop().unwrap_or_else(|| {
            key_by_id.push(key);
            u32::try_from(key_by_id.len() - 1).expect("few blocks")
        });
        key_by_id[id as usize] = key;
        id_by_key.insert(key, id);
        policy.put(id, len_bytes(key), key);
    }
    f64::from(hits) / f64::from(u32::try_from(keys.len()).expect("a short trace"))
}

#[test]
fn hits_more_often_than_plain_fifo() {
    let all_bytes: u64 = (0..KEYS as u64).map(len_bytes).sum();
    for (seed, skew) in [(1, 0.7), (2, 0.9), (3, 1.1)] {
        let keys = trace(seed, skew, 60_000);
        for share in [50, 20, 5] {
            let capacity_bytes = all_bytes / share;
            let s3 = hit_ratio(&mut S3Fifo::new(), &keys, capacity_bytes);
            let plain = hit_ratio(&mut VecDeque::new(), &keys, capacity_bytes);
            assert!(s3 >= plain, "skew {skew}, 1/{share} of the bytes: {s3:.3} against {plain:.3} of plain FIFO");
        }
    }
}
