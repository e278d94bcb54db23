//! Why a call failed.

use std::io;
use std::path::PathBuf;
use std::sync::Arc;

use larder_protocol::key::KeyError;
use larder_protocol::message::Refusal;
use thiserror::Error;

/// Why a call failed. Each sentence says what to do where something can be done.
#[derive(Clone, Debug, Error)]
#[non_exhaustive]
pub enum Error {
    /// The key is not there.
    #[error("not found")]
    NotFound,
    /// The block is not mapped here and the call was told not to ask the agent (a timeout of zero).
    #[error("not mapped in this process, and a timeout of zero forbids asking the agent")]
    NotResident,
    /// The key holds other bytes.
    #[error("{}", Refusal::Exists { held: *held_bytes, offered: *offered_bytes })]
    AlreadyExists {
        /// Length of what is held.
        held_bytes: u64,
        /// Length of what was offered.
        offered_bytes: u64,
    },
    /// The key or namespace name is not legal.
    #[error(transparent)]
    InvalidKey(#[from] KeyError),
    /// The request or a setting makes no sense.
    #[error("{0}")]
    Invalid(String),
    /// The block is longer than the agent allows.
    #[error("{}", Refusal::TooLarge { len: *len_bytes, limit: *limit_bytes })]
    TooLarge {
        /// Offered.
        len_bytes: u64,
        /// Allowed.
        limit_bytes: u64,
    },
    /// No room can be made.
    #[error("{}", no_space(*needed_bytes, *quota_bytes, *used_bytes, *pinned_bytes, *kept_bytes))]
    NoSpace {
        /// Asked for.
        needed_bytes: u64,
        /// What this user may use.
        quota_bytes: u64,
        /// What this user uses.
        used_bytes: u64,
        /// Of that, pinned by readers.
        pinned_bytes: u64,
        /// Of that, in namespaces that keep.
        kept_bytes: u64,
    },
    /// The namespace's own quota does not allow it.
    #[error("{}", quota(name, *needed_bytes, *used_bytes, *quota_bytes))]
    Quota {
        /// The namespace.
        name: String,
        /// Asked for.
        needed_bytes: u64,
        /// In use.
        used_bytes: u64,
        /// Allowed.
        quota_bytes: u64,
    },
    /// This user's readers pin more than they may.
    #[error("{}", Refusal::Pinned { pinned: *pinned_bytes, limit: *limit_bytes })]
    PinnedQuota {
        /// Pinned.
        pinned_bytes: u64,
        /// Allowed.
        limit_bytes: u64,
    },
    /// This process holds as many blocks as it may.
    #[error(
        "this process holds {in_use} of {total} block slots and the agent gives no more ({message}); drop blocks that are not needed any more, `larder pins` lists the holders"
    )]
    Pins {
        /// Slots in use.
        in_use: usize,
        /// Slots there are.
        total: usize,
        /// What the agent said.
        message: String,
    },
    /// Not allowed.
    #[error("{0}")]
    Denied(String),
    /// There is no such namespace.
    #[error("{}", Refusal::NoNamespace(.0.clone()))]
    NoNamespace(String),
    /// The store behind the agent's memory did not do its part. A put that ends so may still take effect.
    #[error("{}", Refusal::Store(.0.clone()))]
    Store(String),
    /// Bytes could not be fetched from where they are.
    #[error("{}", Refusal::Origin(.0.clone()))]
    Origin(String),
    /// What was to be fetched again is another version by now than the one that the namespace saw first.
    #[error("{}", Refusal::Changed(.0.clone()))]
    OriginChanged(String),
    /// The namespace was cleared after the put began.
    #[error("the namespace was cleared after the put began; nothing was stored")]
    Cleared,
    /// The deadline passed. A put that ends so may still take effect.
    #[error("the deadline passed")]
    Deadline,
    /// There is no agent.
    #[error("no agent answers at {}: {source}; start `larderd`, or name its socket in LARDER_SOCKET", socket.display())]
    NoAgent {
        /// Where it was looked for.
        socket: PathBuf,
        /// Why it was not found.
        source: Arc<io::Error>,
    },
    /// Whoever listens on the socket is a user that the agent does not run as.
    #[error("user {uid} listens on {}, which is neither root nor this user; if the agent does run as that user, say so in LARDER_AGENT_UID", socket.display())]
    Impostor {
        /// The user that listens.
        uid: u32,
        /// The socket.
        socket: PathBuf,
    },
    /// Others could replace the socket.
    #[error("the socket's directory {} {reason}, so others could replace the socket; use a directory that only the agent's user can write", directory.display())]
    UnsafeDirectory {
        /// The directory.
        directory: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// The agent is of another version.
    #[error("{}", version(*agent, *agent_layout, *client, *client_layout))]
    Version {
        /// The agent's protocol.
        agent: u32,
        /// The agent's memory layout.
        agent_layout: u64,
        /// This library's protocol.
        client: u32,
        /// This library's memory layout.
        client_layout: u64,
    },
    /// The map kept changing under the call, or sessions kept ending.
    #[error("the cache changed too fast for this call; try again")]
    Busy,
    /// A limit of the agent on sessions, descriptors or requests under way.
    #[error("{0}")]
    TooMany(String),
    /// The writer was inherited over a fork; only the process that created it may commit it.
    #[error("this writer belongs to the process that forked this one; create another here")]
    Forked,
    /// The agent ended after the writer was created, or before the store had all that was put; that is gone.
    #[error("the agent ended before the block was published or written to the store; put it again")]
    AgentLost,
    /// The agent failed or broke the protocol; its log says more.
    #[error("{0}")]
    Agent(String),
    /// The operating system refused something.
    #[error("{0}")]
    Io(Arc<io::Error>),
}

impl From<io::Error> for Error {
    fn from(error: io::Error) -> Error {
        Error::Io(Arc::new(error))
    }
}

fn no_space(needed: u64, quota: u64, used: u64, pinned: u64, kept: u64) -> Refusal {
    Refusal::NoSpace { needed, quota, used, pinned, kept }
}

fn quota(name: &str, needed: u64, used: u64, quota: u64) -> Refusal {
    Refusal::Quota { name: name.to_owned(), needed, used, quota }
}

fn version(agent: u32, agent_layout: u64, client: u32, client_layout: u64) -> Refusal {
    Refusal::Version { agent, agent_layout, client, client_layout }
}

impl From<Refusal> for Error {
    fn from(refusal: Refusal) -> Error {
        match refusal {
            Refusal::NotFound => Error::NotFound,
            Refusal::Exists { held, offered } => Error::AlreadyExists { held_bytes: held, offered_bytes: offered },
            Refusal::BadKey(message) | Refusal::Invalid(message) => Error::Invalid(message),
            Refusal::TooLarge { len, limit } => Error::TooLarge { len_bytes: len, limit_bytes: limit },
            Refusal::NoSpace { needed, quota, used, pinned, kept } => Error::NoSpace {
                needed_bytes: needed,
                quota_bytes: quota,
                used_bytes: used,
                pinned_bytes: pinned,
                kept_bytes: kept,
            },
            Refusal::Quota { name, needed, used, quota } => {
                Error::Quota { name, needed_bytes: needed, used_bytes: used, quota_bytes: quota }
            }
            Refusal::Pinned { pinned, limit } => Error::PinnedQuota { pinned_bytes: pinned, limit_bytes: limit },
            Refusal::Denied(message) => Error::Denied(message),
            Refusal::Cleared { .. } => Error::Cleared,
            Refusal::NoNamespace(name) => Error::NoNamespace(name),
            Refusal::Deadline => Error::Deadline,
            Refusal::Version { agent, agent_layout, client, client_layout } => {
                Error::Version { agent, agent_layout, client, client_layout }
            }
            Refusal::TooMany(message) => Error::TooMany(message),
            Refusal::Store(message) => Error::Store(message),
            Refusal::Origin(message) => Error::Origin(message),
            Refusal::Changed(url) => Error::OriginChanged(url),
            refusal @ Refusal::Failed(_) => Error::Agent(refusal.to_string()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refusal_keeps_its_words() {
        let refusals = [
            Refusal::NotFound,
            Refusal::Exists { held: 1, offered: 2 },
            Refusal::TooLarge { len: 3, limit: 2 },
            Refusal::NoSpace { needed: 1, quota: 2, used: 3, pinned: 4, kept: 5 },
            Refusal::Quota { name: "a".into(), needed: 1, used: 2, quota: 3 },
            Refusal::Pinned { pinned: 1, limit: 2 },
            Refusal::Denied("no".into()),
            Refusal::NoNamespace("a".into()),
            Refusal::Deadline,
            Refusal::version(1, 2),
            Refusal::Store("full".into()),
            Refusal::Origin("no answer".into()),
            Refusal::Changed("http://a/b".into()),
            Refusal::Failed("disk".into()),
        ];
        for refusal in refusals {
            assert_eq!(Error::from(refusal.clone()).to_string(), refusal.to_string());
        }
    }
}
