//! The real agent on every kind of store: what holds for one holds for all.
//!
//! [`backend`] starts the stores, [`conformance`] is one suite that each has to pass, [`races`] lets two agents have one
//! store. [`faults`] puts a proxy that does harm between an agent and its store, [`outages`] takes the store away. Servers
//! that are not installed are skipped with a word; `scripts/servers` installs them.

// Shared with the other suites, which use the rest of it.
#[path = "../e2e/harness.rs"]
#[expect(dead_code, unused_imports, unused_macros, reason = "the suite e2e uses the rest")]
mod harness;
#[path = "../e2e/pattern.rs"]
#[expect(dead_code, reason = "the suite e2e uses the rest")]
mod pattern;

mod backend;
mod conformance;
mod faults;
mod keys;
mod lifetimes;
mod outages;
mod races;
mod refused;
mod whole;
