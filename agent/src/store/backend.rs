//! What a store must be able to do. A store of another kind is one implementation of [`Backend`] and one line in
//! [`Store::open`](super::Store::open).

use std::fmt::Debug;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;

use larder_protocol::memory::Mapping;
use thiserror::Error;

/// Why a store did not do what it was asked.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub(crate) enum StoreError {
    /// It may work later: no answer in time, no connection, overloaded.
    #[error("{0}")]
    Unavailable(String),
    /// Not allowed.
    #[error("{0}")]
    Denied(String),
    /// There is no room.
    #[error("{0}")]
    Full(String),
    /// The object changed between two reads of it, or is gone.
    #[error("{0} changed while it was read")]
    Changed(String),
    /// Anything else.
    #[error("{0}")]
    Failed(String),
}

/// What an operation of a backend returns.
pub(crate) type Pending<'a, T> = Pin<Box<dyn Future<Output = Result<T, StoreError>> + Send + 'a>>;

/// A run of a segment's memory that this process alone writes while an operation has it.
#[derive(Clone, Debug)]
pub(crate) struct Memory {
    pub(crate) mapping: Arc<Mapping>,
    pub(crate) offset_bytes: u64,
    pub(crate) len_bytes: u64,
}

impl Memory {
    /// The run as the map counts, checked: a map panics on a range outside it.
    pub(crate) fn range(&self) -> Result<(usize, usize), StoreError> {
        let Memory { mapping, offset_bytes, len_bytes } = self;
        let inside = || {
            let (at, len) = (usize::try_from(*offset_bytes).ok()?, usize::try_from(*len_bytes).ok()?);
            (at.checked_add(len)? <= mapping.len()).then_some((at, len))
        };
        inside().ok_or_else(|| {
            let len = mapping.len();
            StoreError::Failed(format!(
                "range {offset_bytes}+{len_bytes} is outside a map of {len} bytes; please report it"
            ))
        })
    }
}

/// An object to be published: some bytes, and behind them the payload where it lies in memory.
#[derive(Clone, Debug)]
pub(crate) struct Object {
    pub(crate) head: Vec<u8>,
    /// `None` when the head is all.
    pub(crate) payload: Option<Memory>,
}

/// Whether an object may take the place of another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Mode {
    /// Only where there is none. Of several at once one wins.
    Create,
    /// In any case. A reader finds the old object or the new one, whole.
    Replace,
}

/// How a publication ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Published {
    /// The object is there and will be after a crash of anything.
    Done,
    /// Another object has the name, and will after a crash of anything.
    Exists,
}

/// An object's first bytes, and what all later reads of it must match.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Start {
    /// The first bytes, as many as were asked for or as there are.
    pub(crate) bytes: Vec<u8>,
    /// Length of the whole object.
    pub(crate) len_bytes: u64,
    /// Tells one object under a name from the next.
    pub(crate) version: String,
}

/// A place for objects under names.
///
/// A name is one or more components between `/`, each at most 255 bytes of printable ASCII, none empty, `.`, `..` or
/// beginning with `.`; at most 900 bytes in all. A name is never also the beginning of another up to a `/`.
///
/// Operations are never given up half way: whoever calls waits for the end of each, because it may touch memory until then.
pub(crate) trait Backend: Debug + Send + Sync {
    /// Publishes an object: whole or not at all, and lasting before it returns.
    fn publish<'a>(&'a self, name: &'a str, object: Object, mode: Mode) -> Pending<'a, Published>;

    /// Reads up to `most` bytes from the start of an object. `None` when there is none.
    fn start<'a>(&'a self, name: &'a str, most: usize) -> Pending<'a, Option<Start>>;

    /// Fills `into` with the bytes of an object from `offset_bytes` on. [`StoreError::Changed`] when it is not the object
    /// of `version` any more, or ends too early.
    fn read<'a>(&'a self, name: &'a str, version: &'a str, offset_bytes: u64, into: Memory) -> Pending<'a, ()>;

    /// Takes an object away, lastingly. Whether it was there.
    fn remove<'a>(&'a self, name: &'a str) -> Pending<'a, bool>;

    /// Operations that are under way.
    fn under_way(&self) -> usize;

    /// The components that follow `prefix`, which is empty or ends with `/`, in some names, with a `/` behind. In no order.
    fn groups<'a>(&'a self, prefix: &'a str) -> Pending<'a, Vec<String>>;

    /// Names that begin with `prefix`, which is empty or ends with `/`, sorted by byte. With `after`, only those behind
    /// it; at most `most`.
    fn list<'a>(&'a self, prefix: &'a str, after: &'a str, most: usize) -> Pending<'a, Vec<String>>;
}
