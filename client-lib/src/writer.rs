//! A block that its owner writes in place before anybody can read it.

use std::fmt;
use std::mem;
use std::sync::Arc;

use larder_protocol::key;
use larder_protocol::memory::{Mapping, received_seals};
use larder_protocol::message::{PutOutcome, Refusal, Reply, Request};
use larder_protocol::view::WritableView;

use crate::deadline::Deadline;
use crate::fault::Fault;
use crate::put;
use crate::session::{ROUNDS, Session, WriterRange, only, to_len};
use crate::{Error, Namespace, OnAbsent};

/// Memory for one block. What is written becomes a block with [`Writer::commit`]; dropping the writer leaves no trace.
///
/// At first the memory holds zeros or what this process put before. A writer belongs to the process that created it: a
/// forked child can neither commit it nor may it write into it.
pub struct Writer {
    namespace: Namespace,
    key: String,
    len: usize,
    place: Place,
}

/// Where the bytes are.
enum Place {
    /// In the session's staging: short ones, to be put from there.
    Staged { incarnation: u64, range: WriterRange },
    /// In this process's own memory: short ones that staging has no room for.
    Private { origin: Option<Origin>, bytes: Vec<u8> },
    /// In memory that becomes the block itself.
    Shared { origin: Origin, number: u64, view: WritableView },
    /// Committed or given up.
    Nowhere,
}

/// What a writer was created in.
struct Origin {
    session: Arc<Session>,
    incarnation: u64,
}

impl Namespace {
    /// Memory of `len` bytes for a block under `key`, to be written in place. A long block becomes readable without being
    /// copied.
    pub fn create(&self, key: &str, len: usize) -> Result<Writer, Error> {
        key::check_key(key)?;
        let deadline = self.deadline()?;
        let place = self.with_session(deadline, ROUNDS, |session, bound| {
            let origin = Origin { session: Arc::clone(session), incarnation: bound.incarnation };
            let staging = session.staging(deadline)?;
            if len > Session::unit_bytes(staging) {
                return create_shared(origin, key, len, deadline);
            }
            Ok(match session.stage_for_writer(staging, len) {
                Some(range) => Place::Staged { incarnation: bound.incarnation, range },
                None => Place::Private { origin: Some(origin), bytes: vec![0; len] },
            })
        })?;
        let place = place.unwrap_or_else(|| Place::Private { origin: None, bytes: vec![0; len] });
        Ok(Writer { namespace: self.clone(), key: key.to_owned(), len, place })
    }
}

fn create_shared(origin: Origin, key: &str, len: usize, deadline: Deadline) -> Result<Place, Fault> {
    let session = Arc::clone(&origin.session);
    let channel = session.channel();
    let request = Request::Create { namespace: origin.incarnation, key: key.to_owned(), len: len as u64 };
    let turn = session.creates.take(deadline)?;
    let ask = || {
        let ticket = channel.begin(request.clone(), None, deadline)?;
        Ok::<_, Fault>((ticket.number(), ticket.wait(deadline)))
    };
    let (mut number, mut response) = ask()?;
    if matches!(response, Err(Fault::Refused(Refusal::TooMany(_)))) {
        // For replies that nobody read, perhaps, as in `Session::ask_for_memory`.
        (number, response) = ask()?;
    }
    let map = || {
        let response = response?;
        let Reply::WriterMemory { len: memory_len, offset } = response.reply else {
            return Err(Fault::unexpected(&response.reply));
        };
        let (fd, memory_len, offset) = (only(response.descriptors)?, to_len(memory_len)?, to_len(offset)?);
        if offset.checked_add(len).is_none_or(|end| end > memory_len) {
            return Err(
                Error::Agent(format!("the agent gave {memory_len} bytes for a block of {len} at {offset}")).into()
            );
        }
        // Memory that somebody else could shorten would end this process at the next write.
        received_seals(&fd, memory_len, false).map_err(Error::from)?;
        let mapping = Mapping::read_write(fd, memory_len).map_err(Error::from)?;
        Ok(WritableView::new(mapping, offset, len))
    };
    let mapped = map();
    drop(turn);
    match mapped {
        Ok(view) => Ok(Place::Shared { origin, number, view }),
        Err(fault) => {
            if matches!(fault, Fault::Final(_)) {
                channel.tell(Request::Abandon { put: number });
            }
            Err(fault)
        }
    }
}

impl Writer {
    /// The key.
    pub fn key(&self) -> &str {
        &self.key
    }

    /// Length of the block in bytes.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether the block has no bytes.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The bytes, to be written.
    pub fn as_mut_slice(&mut self) -> &mut [u8] {
        match &mut self.place {
            Place::Staged { range, .. } => range.as_mut_slice(),
            Place::Private { bytes, .. } => bytes,
            Place::Shared { view, .. } => view.as_mut_slice(),
            Place::Nowhere => &mut [],
        }
    }

    /// Makes the block readable, whole. The same outcomes as [`Namespace::put`]; a clear since the writer was created is
    /// [`Error::Cleared`], an agent that ended since is [`Error::AgentLost`].
    pub fn commit(mut self) -> Result<PutOutcome, Error> {
        let deadline = self.namespace.deadline()?;
        let outcome = match mem::replace(&mut self.place, Place::Nowhere) {
            Place::Staged { incarnation, range } => {
                let session = range.session();
                not_inherited(&session)?;
                put::put_staged(&session, incarnation, &self.key, range.into_range(), deadline)
            }
            Place::Private { origin: Some(origin), bytes } => {
                not_inherited(&origin.session)?;
                put::put(&origin.session, origin.incarnation, &self.key, &bytes, deadline)
            }
            Place::Private { origin: None, bytes } => return self.namespace.put(&self.key, &bytes),
            Place::Shared { origin, number, view } => {
                not_inherited(&origin.session)?;
                // The agent can seal the memory only when no writable map of it is left.
                drop(view);
                commit_shared(&origin.session, number, deadline)
            }
            Place::Nowhere => return Ok(PutOutcome::NotKept),
        };
        outcome.or_else(|fault| match fault {
            Fault::Lost if self.namespace.binding.link().on_absent() == OnAbsent::Direct => Ok(PutOutcome::NotKept),
            Fault::Lost => Err(Error::AgentLost),
            fault => Err(fault.into()),
        })
    }
}

fn commit_shared(session: &Session, number: u64, deadline: Deadline) -> Result<PutOutcome, Fault> {
    let channel = session.channel();
    let outcome = channel.call(Request::Commit { writer: number }, deadline).and_then(put::outcome);
    if matches!(outcome, Err(Fault::Final(_))) {
        channel.tell(Request::Abandon { put: number });
    }
    outcome
}

fn not_inherited(session: &Session) -> Result<(), Error> {
    if session.channel().is_inherited() { Err(Error::Forked) } else { Ok(()) }
}

impl Drop for Writer {
    fn drop(&mut self) {
        if let Place::Shared { origin, number, view } = mem::replace(&mut self.place, Place::Nowhere) {
            drop(view);
            origin.session.channel().tell(Request::Abandon { put: number });
        }
    }
}

impl fmt::Debug for Writer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let place = match &self.place {
            Place::Staged { .. } => "staged",
            Place::Private { .. } => "private",
            Place::Shared { .. } => "shared",
            Place::Nowhere => "nowhere",
        };
        f.debug_struct("Writer").field("key", &self.key).field("len", &self.len).field("place", &place).finish()
    }
}
