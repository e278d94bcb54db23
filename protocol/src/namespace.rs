//! What a namespace can be told, and what it tells.

use bincode::{Decode, Encode};

/// What happens to a namespace's blocks when room is needed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default, Encode, Decode)]
pub enum Eviction {
    /// The least useful go.
    #[default]
    Evict,
    /// They stay; puts are refused instead.
    Keep,
}

/// What an acknowledged put survives.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Encode, Decode)]
pub enum Durability {
    /// Everything but the loss of the store: a put is acknowledged when the store has the block for good.
    Through,
    /// Nothing: blocks go with the agent and with the room they take.
    Scratch,
    /// The loss of the node's memory only after the store has taken the block, which is soon: a put is acknowledged when
    /// the block is whole in memory, and a sync waits until the store has all that was put before.
    Back,
}

impl Durability {
    /// Whether a store keeps the blocks.
    pub fn is_stored(self) -> bool {
        self != Durability::Scratch
    }
}

/// When the agent asks an origin again whether it still has what was fetched from it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default, Encode, Decode)]
pub enum Validate {
    /// A URL stands for the version that was first seen, for as long as the namespace lasts: what has to be fetched again
    /// and is another by then is an error.
    #[default]
    Namespace,
    /// At each fetch: what has changed is fetched anew, what is gone is not found.
    Always,
    /// Never: what has to be fetched again is what the origin has then.
    Never,
}

/// Options of a namespace.
#[derive(Clone, Debug, PartialEq, Eq, Default, Encode, Decode)]
pub struct NamespaceOptions {
    /// What happens when room is needed.
    pub eviction: Eviction,
    /// Whether a key may be put again with other bytes.
    pub overwrite: bool,
    /// Most payload bytes, if limited.
    pub quota_bytes: Option<u64>,
    /// How long a block stays after its put, in milliseconds, if limited.
    pub ttl_ms: Option<u64>,
    /// What an acknowledged put survives. Asked for as `None`: `Through` where the agent has a store, else `Scratch`.
    /// Never `None` in an answer.
    pub durability: Option<Durability>,
    /// When what was fetched is compared with its origin.
    pub validate: Validate,
}

/// A namespace.
#[derive(Clone, Debug, PartialEq, Eq, Default, Encode, Decode)]
pub struct NamespaceInfo {
    /// Name.
    pub name: String,
    /// Number of the present incarnation; a clear begins another.
    pub namespace: u64,
    /// Options.
    pub options: NamespaceOptions,
    /// Blocks.
    pub blocks: u64,
    /// Their payload in bytes.
    pub bytes: u64,
}
