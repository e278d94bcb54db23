//! Why the agent refuses: one sentence each that says what is wrong and what to do, with the numbers in it.

use bincode::{Decode, Encode};
use thiserror::Error;

use crate::key::KeyError;
use crate::layout::LAYOUT_MAGIC;
use crate::message::VERSION;

/// Why the agent refused.
#[derive(Clone, Debug, Error, PartialEq, Eq, Encode, Decode)]
pub enum Refusal {
    /// The key is not there.
    #[error("not found")]
    NotFound,
    /// The key holds other bytes.
    #[error(
        "the key holds other bytes ({held} bytes, {offered} offered); blocks do not change: use another key, delete it first, or create the namespace with --overwrite"
    )]
    Exists {
        /// Length of what is held.
        held: u64,
        /// Length of what was offered.
        offered: u64,
    },
    /// The key or name is not legal.
    #[error("{0}")]
    BadKey(String),
    /// The request makes no sense.
    #[error("{0}")]
    Invalid(String),
    /// The block is longer than allowed.
    #[error("a block of {len} bytes is over the limit of {limit} bytes")]
    TooLarge {
        /// Offered.
        len: u64,
        /// Allowed.
        limit: u64,
    },
    /// No room can be made.
    #[error(
        "no room for {needed} bytes: of {quota} bytes allowed {used} are in use, {pinned} of them pinned by readers and {kept} in namespaces that keep"
    )]
    NoSpace {
        /// Bytes asked for.
        needed: u64,
        /// What the tenant may use.
        quota: u64,
        /// What it uses.
        used: u64,
        /// Of that, pinned.
        pinned: u64,
        /// Of that, not to be evicted.
        kept: u64,
    },
    /// A namespace's own quota.
    #[error("namespace {name:?} is over its quota: {needed} bytes asked, {used} of {quota} in use")]
    Quota {
        /// Name.
        name: String,
        /// Bytes asked for.
        needed: u64,
        /// Bytes in use.
        used: u64,
        /// Bytes allowed.
        quota: u64,
    },
    /// The tenant's readers pin more than they may.
    #[error("readers of this user pin {pinned} bytes, {limit} are allowed; release blocks first")]
    Pinned {
        /// Bytes pinned.
        pinned: u64,
        /// Bytes allowed.
        limit: u64,
    },
    /// Not allowed.
    #[error("{0}")]
    Denied(String),
    /// The namespace was cleared since this handle was opened; `namespace` is its new incarnation.
    #[error("the namespace was cleared meanwhile")]
    Cleared {
        /// The new incarnation, 0 when the namespace is gone.
        namespace: u64,
    },
    /// There is no such namespace.
    #[error("there is no namespace {0:?}; `larder ns ls` lists yours")]
    NoNamespace(String),
    /// The deadline passed.
    #[error("the deadline passed")]
    Deadline,
    /// Another version.
    #[error(
        "the agent speaks protocol {agent} with memory layout {agent_layout:#x}, the client {client} with {client_layout:#x}; install matching releases"
    )]
    Version {
        /// The agent's [`VERSION`].
        agent: u32,
        /// The agent's [`LAYOUT_MAGIC`].
        agent_layout: u64,
        /// The client's.
        client: u32,
        /// The client's.
        client_layout: u64,
    },
    /// A limit on sessions, slots, descriptors or requests under way.
    #[error("{0}")]
    TooMany(String),
    /// The store behind the memory did not do its part.
    #[error("the store failed: {0}")]
    Store(String),
    /// Bytes could not be fetched.
    #[error("the fetch failed: {0}")]
    Origin(String),
    /// An origin has another version than the one that this namespace has seen first.
    #[error(
        "{0} has changed since this namespace first saw it; clear the namespace, or create it with --validate always"
    )]
    Changed(String),
    /// The agent failed; its log says more.
    #[error("the agent failed: {0}")]
    Failed(String),
}

impl Refusal {
    /// The version refusal of this build to a client of another.
    pub fn version(client: u32, client_layout: u64) -> Refusal {
        Refusal::Version { agent: VERSION, agent_layout: LAYOUT_MAGIC, client, client_layout }
    }
}

impl From<KeyError> for Refusal {
    fn from(error: KeyError) -> Refusal {
        Refusal::BadKey(error.to_string())
    }
}
