//! `larderd`, the agent: one a node, the only writer of the node's cached blocks.
//!
//! [`server::run`] takes a listener and a shutdown signal. Each connection becomes a session task (`session/`), which
//! reads requests, asks the [`cache`](self) under one lock, and does the copying outside it. A keeper task does what
//! nobody asked for: expiry, limbo, memory ahead of need. The cache is plain synchronous code that is told the time; tokio
//! stands at the edges only. All shared memory and everything unsafe is `larder_protocol`'s.
#![forbid(unsafe_code)]

mod cache;
pub mod config;
mod disk;
mod fetch;
#[cfg(any(fuzzing, test))]
pub mod fuzzing;
mod keeper;
mod origin;
mod pieces;
pub mod server;
mod session;
mod store;
mod tier;
mod write_back;

pub use cache::{Material, Settings};
pub use disk::Disk;
pub use origin::Origins;
pub use store::Store;
