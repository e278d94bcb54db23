//! Memory that two processes share: how it is made, sealed, mapped and asked about.
//!
//! [`Memfd`] is one anonymous file of shared memory in the agent, [`Mapping`] one map of it in either process, and
//! [`Platform`] what this kernel can do, found out by trying. Nothing else in the project maps memory.

mod file;
mod mapping;
mod memfd;
mod platform;
mod streaming;

pub use mapping::Mapping;
pub use memfd::{HugePages, Memfd, Others, Seals, received_seals};
pub use platform::{Feature, Platform};
