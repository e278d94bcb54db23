//! A block larger than any number of 32 bits.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use larder::{Client, OnAbsent, PutOutcome};

use crate::harness::{Agent, SetOnDrop, skip};
use crate::{pattern, proc, roles};

const LEN: usize = 4 << 30;
const CAPACITY: u64 = 5 << 30;

/// Plays a reader that checks every byte of the block `large`.
pub(crate) fn verifier() {
    let client = Client::builder().socket(roles::socket()).on_absent(OnAbsent::Error).connect().expect("an agent");
    let cache = client.namespace("t").expect("a namespace");
    let block = cache.get("large").expect("the block");
    assert_eq!(block.len(), LEN);
    pattern::assert_whole("large", &block);
}

fn check_in_another_process(agent: &Agent) {
    let status = roles::command("verifier", &agent.socket()).status().expect("this program runs");
    assert!(status.success(), "the block is not right in another process");
}

#[test]
fn heavy_a_block_of_four_gibibytes() {
    // Once in the region and once here, and something for everybody else.
    let needed = (LEN as u64) * 2 + (1 << 30);
    let available = proc::available_bytes();
    if available < needed {
        skip!("needs {} GiB of memory, {} are available", needed >> 30, available >> 30);
    }
    let agent = Agent::start("--capacity 5GiB --segment-size 64MiB");
    let (stop, most) = (AtomicBool::new(false), AtomicU64::new(0));
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !stop.load(Ordering::Relaxed) {
                let used = agent.stat().memory_bytes.max(proc::shared_bytes(agent.pid()));
                most.fetch_max(used, Ordering::Relaxed);
                std::thread::sleep(std::time::Duration::from_millis(20));
            }
        });
        let _stop = SetOnDrop(&stop);
        let cache = agent.namespace("t");
        let mut writer = cache.create("large", LEN).unwrap();
        pattern::fill("large", writer.as_mut_slice());
        assert_eq!(writer.commit().unwrap(), PutOutcome::Stored);
        check_in_another_process(&agent);
        assert!(cache.delete("large").unwrap());
        let mut bytes = vec![0; LEN];
        pattern::fill("large", &mut bytes);
        assert_eq!(cache.put("large", &bytes).unwrap(), PutOutcome::Stored);
        drop(bytes);
        check_in_another_process(&agent);
        assert_eq!(agent.stat().tenant.payload_bytes, LEN as u64);
    });
    let most = most.into_inner();
    assert!(most >= LEN as u64 && most <= CAPACITY + 4096, "{most} bytes at the most");
}
