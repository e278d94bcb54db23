//! Hostile clients against a running agent.
//!
//! Each test is one attack over the socket and the shared memory themselves, nastier than any library would let a client
//! be. After it the same agent must be alive, an honest session must put and read back checked blocks, and descriptors,
//! memory, limbo and pins must be back to where they were ([`baseline`]). [`harness`] starts and ends agents, [`raw`] is
//! a bare session, [`session`] an honest one, and [`roles`] runs this binary again as another process or user.

mod baseline;
mod harness;
mod hoard;
mod honest;
mod raw;
mod raw_calls;
mod roles;
mod session;

mod account;
mod death;
mod fallbacks;
mod files;
mod floods;
mod growth;
mod guests;
mod kills;
mod lies;
mod nonsense;
mod packets;
mod pins;
mod rings;
mod scribble;
mod sealed;
mod unsealed;
mod users;
mod writers;
