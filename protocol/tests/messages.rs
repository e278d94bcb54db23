//! Socket messages: their bytes are pinned by golden vectors, and whatever else arrives is refused without harm.
#![cfg(not(loom))]

#[path = "messages/golden.rs"]
mod golden;
#[path = "messages/hostile.rs"]
mod hostile;
#[path = "messages/round_trip.rs"]
mod round_trip;
#[path = "messages/samples.rs"]
mod samples;
