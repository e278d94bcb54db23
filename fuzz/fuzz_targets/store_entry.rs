//! Arbitrary bytes as an object of a store: whatever stands there, the agent must not panic, ask for more than there is,
//! or take what it would not have written itself.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| larder_agent::fuzzing::store_entry(bytes));
