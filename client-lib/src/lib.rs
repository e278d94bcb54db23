//! The Rust client of Larder, a per-node cache of immutable blocks in shared memory.
//!
//! ```no_run
//! use larder::{Client, Error};
//!
//! fn main() -> Result<(), Error> {
//!     let client = Client::connect()?;
//!     let cache = client.namespace("proj/climate")?;
//!     let block = match cache.get("2026/t2m") {
//!         Ok(block) => block,
//!         Err(Error::NotFound) => {
//!             let field = vec![0_u8; 1_000_000]; // whatever it takes to make it
//!             cache.put("2026/t2m", &field)?;
//!             cache.get("2026/t2m")?
//!         }
//!         Err(error) => return Err(error),
//!     };
//!     let mean = block.iter().map(|byte| f64::from(*byte)).sum::<f64>() / block.len() as f64;
//!     println!("{} bytes read in place, mean {mean}", block.len());
//!     Ok(())
//! }
//! ```
//!
//! # How data flows
//!
//! A [`Client`] has one session with the agent: a socket, read-only maps of the index and the blocks, a page of slots in
//! which it says what it reads, and staging memory for what it puts. [`Namespace::get`] looks a key up in the mapped
//! index, notes in a slot that the block is in use, and hands out its bytes where they lie, as a [`Block`]: no system
//! call, no message, no copy. Only what is not in the map is asked for over the socket.
//!
//! [`Namespace::put`] writes the bytes into staging, from which the agent copies them to where everybody can read them;
//! long payloads go in chunks, so that both copies overlap. With a [`Writer`] a block is written in place and not copied
//! at all.
//!
//! When the agent ends, or the process forks, the next call begins another session. A [`Block`] that is held stays
//! readable throughout. [`OnAbsent`] says what happens where there is no agent.
//!
//! The crate starts no thread and installs no signal handler. It installs one fork handler at the first connection.

#![forbid(unsafe_code)]

mod absent;
mod binding;
mod block;
mod channel;
mod client;
mod deadline;
mod discover;
mod error;
#[cfg(test)]
mod fake_agent;
mod fault;
mod fetch;
mod link;
mod namespace;
mod object;
mod put;
mod rings;
mod session;
#[cfg(test)]
mod tests;
mod turn;
mod vector;
mod writer;

pub use absent::OnAbsent;
pub use block::Block;
pub use client::{Client, ClientBuilder};
pub use error::Error;
pub use fetch::url_key;
pub use larder_protocol::key::KeyError;
pub use larder_protocol::message::{AgentInfo, PutOutcome};
pub use larder_protocol::namespace::{Durability, Eviction, NamespaceInfo, NamespaceOptions, Validate};
pub use larder_protocol::origin::OriginKeys;
pub use larder_protocol::stat::{AgentStat, PinHolder, TenantStat};
pub use namespace::Namespace;
pub use object::{Chunk, Object};
pub use writer::Writer;
