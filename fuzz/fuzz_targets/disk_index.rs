//! Arbitrary bytes as the index of a disk tier: whatever stands there, the agent must not panic, ask for more memory than
//! the file has, or take what it would not have written itself.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| larder_agent::fuzzing::disk_index(bytes));
