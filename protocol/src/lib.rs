//! All that an agent and a client of Larder must agree on.
//!
//! Data flows through it like this. The agent makes shared memory ([`memory`]) in the shapes of [`layout`]: a control
//! area, an [`index`] table and segments full of blocks, which clients map read-only, and slot pages and staging
//! ([`view`]), which clients write. A client turns a key ([`key`]) into pinned bytes on the [`hit`] path, whose lock-free
//! protocol has both its halves in [`slot`] and its feedback in [`touch`]. [`fork`] and [`life`] tell a client at the
//! price of a load that it forked or that the agent died. Everything else goes as [`message`]s over the [`socket`].
//!
//! The lock-free parts are generic over [`words::Words`] and are model-checked as they stand (`tests/loom.rs`). All
//! unsafe code of agent, client and command line is in this crate.

#![cfg_attr(loom, expect(dead_code, reason = "the models leave out what needs a kernel: the hit path and its parts"))]

mod asymmetric;
pub mod checksum;
pub mod clock;
pub mod file;
pub mod fork;
#[cfg(any(fuzzing, test))]
pub mod fuzzing;
pub mod handover;
#[cfg(not(loom))]
pub mod hit;
pub mod index;
pub mod inside;
pub mod key;
pub mod layout;
pub mod life;
pub mod memory;
pub mod message;
pub mod namespace;
pub mod origin;
mod prefetch;
pub mod process;
mod refusal;
pub mod ring;
#[cfg(not(loom))]
pub mod shelf;
pub mod slot;
pub mod socket;
pub mod stat;
mod sync;
pub mod touch;
pub mod units;
pub mod view;
pub mod words;
