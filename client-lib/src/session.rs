//! One session with one agent: the socket, the maps, and staging.
//!
//! A session never comes back: when its agent is gone or the process forked, [`crate::link`] makes another.

use std::io;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::path::Path;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use larder_protocol::fork;
use larder_protocol::hit::{Attachment, Lookup, PinnedBlock, Reader, SlotPage};
use larder_protocol::layout::LAYOUT_MAGIC;
use larder_protocol::memory::Mapping;
use larder_protocol::message::{Refusal, Reply, Request, VERSION};
use larder_protocol::origin::OriginKeys;
use larder_protocol::view::{Staging, StagingRange};

use crate::Error;
use crate::channel::{Channel, Response};
use crate::deadline::Deadline;
use crate::discover::Discovery;
use crate::fault::Fault;
use crate::rings::Rings;
use crate::turn::Turn;

/// How often a call goes round when the cache changes under it, before it gives up.
pub(crate) const ROUNDS: usize = 16;

/// Most bytes that one message puts into staging.
pub(crate) const CHUNK_BYTES: usize = 256 * 1024;

/// Puts in chunks under way at a time.
const LONG_PUTS: usize = 8;
/// Writers being created at a time. With the one thread that is `asking` these are the four replies with descriptors
/// that the agent lets a session leave unacknowledged.
const CREATES: usize = 3;
/// Lists read at a time.
const LISTS: usize = 2;

/// One session.
#[derive(Debug)]
pub(crate) struct Session {
    channel: Channel,
    /// Number of the agent's run.
    pub(crate) instance: u64,
    reader: Reader,
    /// Whoever asks the agent for memory: one at a time, so that threads that miss the same map ask once, and so that
    /// the agent's limit on descriptors under way is never met.
    asking: Turn,
    /// Requests for a writer's memory, whose replies bring descriptors too.
    pub(crate) creates: Turn,
    /// Puts in chunks: the agent works on them in turn, and bounds how many a session has begun.
    pub(crate) long_puts: Turn,
    /// Lists being read: the agent keeps a snapshot of each, and few of them.
    pub(crate) lists: Turn,
    staging: OnceLock<Arc<Staging>>,
    writers: Mutex<Writers>,
}

/// What writers hold of staging.
#[derive(Clone, Copy, Debug, Default)]
struct Writers {
    count: usize,
    bytes: usize,
}

/// How a key that is not mapped is asked for.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Ask<'a> {
    /// Is it there.
    Get,
    /// Tell me when it is there.
    Wait,
    /// If it is not there, fetch it.
    Fetch {
        /// From here.
        url: &'a str,
    },
    /// The same from a file that this process has opened.
    FetchFile {
        /// Its name, for messages.
        path: &'a str,
        /// The file.
        file: BorrowedFd<'a>,
    },
    /// If it is not there, fetch it as a part of an object.
    Chunk {
        /// The object's key.
        object: &'a str,
        /// Its version.
        version: u64,
        /// Which chunk.
        index: u64,
    },
}

impl Session {
    /// Connects to the agent at `path` and maps what it sends.
    pub(crate) fn open(
        discovery: &Discovery,
        path: &Path,
        credentials: &[(String, OriginKeys)],
        deadline: Deadline,
    ) -> Result<Session, Error> {
        fork::watch()?;
        let channel = Channel::new(discovery.connect(path)?);
        Self::greet(channel, credentials, deadline).map_err(|fault| match fault {
            // An agent that ends while we greet it is an agent that is not there.
            Fault::Lost => Error::NoAgent {
                socket: path.to_owned(),
                source: Arc::new(io::Error::new(io::ErrorKind::UnexpectedEof, "the agent closed the connection")),
            },
            fault => fault.into(),
        })
    }

    fn greet(channel: Channel, credentials: &[(String, OriginKeys)], deadline: Deadline) -> Result<Session, Fault> {
        let response = channel.call(Request::Hello { layout: LAYOUT_MAGIC, version: VERSION }, deadline)?;
        let Reply::Welcome(welcome) = response.reply else {
            return Err(Fault::unexpected(&response.reply));
        };
        let [life, control, slots] = <[OwnedFd; 3]>::try_from(response.descriptors).map_err(|descriptors| {
            Error::Agent(format!("the agent's welcome brought {} descriptors, not 3", descriptors.len()))
        })?;
        let attachment =
            Attachment { life, control, slots, stripes: welcome.stripes as usize, future_write: welcome.future_write };
        let reader = Reader::attach(&attachment).map_err(Error::from)?;
        drop(attachment);
        mapped(&channel, welcome.slots_memory, deadline)?;
        for (prefix, keys) in credentials {
            done(channel.call(Request::Credential { prefix: prefix.clone(), keys: keys.clone() }, deadline)?)?;
        }
        Ok(Session {
            channel,
            instance: welcome.agent.instance,
            reader,
            asking: Turn::new(1),
            creates: Turn::new(CREATES),
            long_puts: Turn::new(LONG_PUTS),
            lists: Turn::new(LISTS),
            staging: OnceLock::new(),
            writers: Mutex::default(),
        })
    }

    pub(crate) fn channel(&self) -> &Channel {
        &self.channel
    }

    #[inline]
    pub(crate) fn reader(&self) -> &Reader {
        &self.reader
    }

    /// Whether a new session is needed.
    pub(crate) fn is_over(&self) -> bool {
        self.reader.is_over() || self.channel.is_over()
    }

    /// Finds and pins a block: in the map, or by asking and looking again. `first` is what a look has found already.
    pub(crate) fn find(
        &self,
        incarnation: u64,
        key: &str,
        mut first: Option<Lookup>,
        ask: Ask<'_>,
        deadline: Deadline,
    ) -> Result<PinnedBlock, Fault> {
        let mut turn = None;
        for _ in 0..ROUNDS {
            let lookup = first.take().unwrap_or_else(|| self.reader.get(incarnation, key.as_bytes()));
            match lookup {
                Lookup::Hit(pin) => return Ok(pin),
                Lookup::Forked | Lookup::AgentDied => return Err(Fault::Lost),
                Lookup::AskAgent => {
                    turn = None;
                    self.ask(incarnation, key, ask, deadline)?;
                }
                // Look again once the turn is ours: another thread may just have mapped it.
                _ if turn.is_none() => turn = Some(self.asking.take(deadline)?),
                Lookup::NeedTable => self.map_table(deadline)?,
                Lookup::NeedSegment(segment) => self.map_segment(segment, deadline)?,
                Lookup::NeedSlots => self.map_slots(deadline)?,
            }
        }
        Err(Fault::Final(Error::Busy))
    }

    /// Asks the agent for a key. `Ok` means that it is there now.
    pub(crate) fn ask(&self, namespace: u64, key: &str, ask: Ask<'_>, deadline: Deadline) -> Result<(), Fault> {
        let key = key.to_owned();
        let response = match ask {
            Ask::Get => self.channel.call(Request::Get { namespace, key }, deadline),
            Ask::Wait => self.channel.call(Request::Wait { namespace, key }, deadline),
            Ask::Fetch { url } => self.channel.call(Request::Fetch { namespace, key, url: url.to_owned() }, deadline),
            Ask::Chunk { object, version, index } => {
                let request = Request::Chunk { namespace, key: object.to_owned(), version, index };
                self.channel.call(request, deadline)
            }
            Ask::FetchFile { path, file } => {
                let request = Request::FetchFile { namespace, key, path: path.to_owned() };
                self.channel.call_with(request, file, deadline)
            }
        };
        match response?.reply {
            Reply::Resident => Ok(()),
            other => Err(Fault::unexpected(&other)),
        }
    }

    fn map_table(&self, deadline: Deadline) -> Result<(), Fault> {
        let response = self.ask_for_memory(&Request::Table, deadline)?;
        let Reply::Table { len } = response.reply else {
            return Err(Fault::unexpected(&response.reply));
        };
        self.reader.set_table(only(response.descriptors)?, to_len(len)?).map_err(Error::from)?;
        Ok(())
    }

    fn map_segment(&self, segment: u32, deadline: Deadline) -> Result<(), Fault> {
        let response = match self.ask_for_memory(&Request::Segment { segment }, deadline) {
            // Retired meanwhile: the next look finds where the block is now.
            Err(Fault::Refused(Refusal::NotFound)) => return Ok(()),
            other => other?,
        };
        let Reply::Segment { len } = response.reply else {
            return Err(Fault::unexpected(&response.reply));
        };
        self.reader.add_segment(segment, only(response.descriptors)?, to_len(len)?).map_err(Error::from)?;
        Ok(())
    }

    fn map_slots(&self, deadline: Deadline) -> Result<(), Fault> {
        let exchange = self.receive_memory(Request::MoreSlots, deadline, SlotPage::map);
        exchange.map(|page| self.reader.add_slots(page)).map_err(|fault| match fault {
            Fault::Refused(Refusal::TooMany(message)) => {
                let (in_use, total) = self.reader.slots();
                Fault::Final(Error::Pins { in_use, total, message })
            }
            fault => fault,
        })
    }

    /// Asks for something that comes with descriptors.
    ///
    /// Calls that gave up at their deadline have left such replies unread, and the agent sends only so many before they are
    /// acknowledged. They came before a refusal for that reason, so by now they are; a second refusal has another.
    fn ask_for_memory(&self, request: &Request, deadline: Deadline) -> Result<Response, Fault> {
        match self.channel.call(request.clone(), deadline) {
            Err(Fault::Refused(Refusal::TooMany(_))) => self.channel.call(request.clone(), deadline),
            other => other,
        }
    }

    /// Asks for memory to write into, maps it with `map`, and waits until the agent has sealed it.
    fn receive_memory<T>(
        &self,
        request: Request,
        deadline: Deadline,
        map: impl FnOnce(OwnedFd, usize) -> io::Result<T>,
    ) -> Result<T, Fault> {
        let exchange = || {
            let response = self.ask_for_memory(&request, deadline)?;
            let Reply::Memory { memory, len } = response.reply else {
                return Err(Fault::unexpected(&response.reply));
            };
            let made = map(only(response.descriptors)?, to_len(len)?).map_err(Error::from)?;
            mapped(&self.channel, memory, deadline)?;
            Ok(made)
        };
        let outcome = exchange();
        if matches!(outcome, Err(Fault::Final(_))) {
            // Cut short, the exchange has left the agent waiting for the other half: only a new session can mend that.
            self.channel.abandon();
        }
        outcome
    }

    /// The session's staging memory, made at the first call.
    pub(crate) fn staging(&self, deadline: Deadline) -> Result<&Arc<Staging>, Fault> {
        if let Some(staging) = self.staging.get() {
            return Ok(staging);
        }
        let _turn = self.asking.take(deadline)?;
        if let Some(staging) = self.staging.get() {
            return Ok(staging);
        }
        match self.receive_memory(Request::Ring, deadline, |fd, len| Rings::new(Mapping::read_write(fd, len)?)) {
            Ok(rings) => self.channel.use_rings(rings),
            // An agent that may not spin: all goes by the socket.
            Err(Fault::Refused(_)) => {}
            Err(fault) => return Err(fault),
        }
        let mapping = self.receive_memory(Request::Staging, deadline, Mapping::read_write)?;
        Ok(self.staging.get_or_init(|| Staging::new(mapping)))
    }

    /// Most bytes that one message may put into this staging: four such messages fit beside each other.
    pub(crate) fn unit_bytes(staging: &Staging) -> usize {
        CHUNK_BYTES.min(staging.len() / 4)
    }

    /// Takes `len` bytes of staging, at most [`Session::unit_bytes`], when they are free. What is taken is to be sent or
    /// given to a writer: others may be waiting for the reply that frees it.
    pub(crate) fn stage(&self, staging: &Arc<Staging>, len: usize, deadline: Deadline) -> Result<StagingRange, Fault> {
        match staging.take(len) {
            Some(range) => Ok(range),
            None => self.channel.wait_for_room(deadline, || staging.take(len)),
        }
    }

    /// Takes staging for a writer, if that leaves enough.
    ///
    /// A writer keeps its range for as long as its owner likes. So that puts go on meanwhile, writers get so little that
    /// a gap of one unit remains wherever their ranges lie.
    pub(crate) fn stage_for_writer(self: &Arc<Session>, staging: &Arc<Staging>, len: usize) -> Option<WriterRange> {
        let mut writers = self.writers.lock().unwrap_or_else(PoisonError::into_inner);
        let bytes = len.max(1).next_multiple_of(64);
        let gaps = writers.count + 2;
        if staging.len().checked_sub(writers.bytes + bytes)? / gaps < Self::unit_bytes(staging) {
            return None;
        }
        let range = staging.take(len)?;
        writers.count += 1;
        writers.bytes += bytes;
        Some(WriterRange { range: Some(range), session: Arc::clone(self), bytes })
    }
}

/// A range of staging that a writer holds.
#[derive(Debug)]
pub(crate) struct WriterRange {
    range: Option<StagingRange>,
    session: Arc<Session>,
    bytes: usize,
}

impl WriterRange {
    /// The bytes.
    pub(crate) fn as_mut_slice(&mut self) -> &mut [u8] {
        self.range.as_mut().map_or(&mut [], StagingRange::as_mut_slice)
    }

    /// The session whose staging it is.
    pub(crate) fn session(&self) -> Arc<Session> {
        Arc::clone(&self.session)
    }

    /// The range, to be sent.
    pub(crate) fn into_range(mut self) -> Option<StagingRange> {
        self.range.take()
    }
}

impl Drop for WriterRange {
    fn drop(&mut self) {
        if self.session.channel.is_inherited() {
            // The range is the parent's, and so are the locks around it, which may have been held during the fork.
            std::mem::forget(self.range.take());
            return;
        }
        {
            let mut writers = self.session.writers.lock().unwrap_or_else(PoisonError::into_inner);
            writers.count -= 1;
            writers.bytes -= self.bytes;
        }
        if self.range.take().is_some() {
            self.session.channel.tell_of_room();
        }
    }
}

/// Tells the agent that its memory is mapped, and waits until it is sealed.
fn mapped(channel: &Channel, memory: u64, deadline: Deadline) -> Result<(), Fault> {
    done(channel.call(Request::Mapped { memory }, deadline)?)
}

/// Expects `Done`.
pub(crate) fn done(response: Response) -> Result<(), Fault> {
    match response.reply {
        Reply::Done => Ok(()),
        other => Err(Fault::unexpected(&other)),
    }
}

/// The one descriptor that a reply must bring.
pub(crate) fn only(descriptors: Vec<OwnedFd>) -> Result<OwnedFd, Error> {
    let [fd] = <[OwnedFd; 1]>::try_from(descriptors)
        .map_err(|descriptors| Error::Agent(format!("the agent sent {} descriptors, not 1", descriptors.len())))?;
    Ok(fd)
}

/// A length as the agent told it.
pub(crate) fn to_len(len: u64) -> Result<usize, Error> {
    usize::try_from(len).map_err(|_| Error::Agent(format!("the agent sent a length of {len} bytes")))
}
