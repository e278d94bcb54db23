//! Arbitrary bytes as the memory that a client may write: slot pages, touch rings and staging. Whatever stands there,
//! the agent's half must not panic, loop without bound, or take a claim for a fact.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| larder_protocol::fuzzing::client_memory(bytes));
