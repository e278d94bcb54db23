//! Messages of the control socket: one request or reply a packet, in bincode with a limit.
//!
//! Whatever arrives is a claim: decoding allocates at most four times the longest packet, refuses trailing bytes, and
//! checks keys and names, so that the rest of the code sees only legal ones. The bytes are pinned by golden vectors in
//! `tests/messages.rs`; changing them means a new [`VERSION`].

use bincode::config::{Configuration, Fixint, Limit, LittleEndian};
use bincode::{Decode, Encode};
use thiserror::Error;

use crate::key::{self, KeyError};
use crate::namespace::{NamespaceInfo, NamespaceOptions};
use crate::origin::OriginKeys;
pub use crate::refusal::Refusal;
use crate::socket::MESSAGE_LEN_MAX;
use crate::stat::{AgentStat, PinHolder};

/// Version of these messages. Agent and client must agree.
pub const VERSION: u32 = 3;

/// No deadline, as a request's `timeout_ms`.
pub const NO_TIMEOUT: u64 = u64::MAX;

/// Most keys in one vectored request.
pub const MANY_MAX: usize = 128;

/// A request with its number, by which the reply is matched, and its deadline.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct Envelope {
    /// Chosen by the client; the reply carries it back.
    pub id: u64,
    /// How long the client will wait, in milliseconds.
    pub timeout_ms: u64,
    /// What is asked.
    pub request: Request,
}

/// Bytes that lie in the session's staging memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Encode, Decode)]
pub struct Staged {
    /// Offset in the staging memory in bytes.
    pub offset: u64,
    /// Length in bytes.
    pub len: u64,
}

/// One put of a vectored put.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct PutItem {
    /// The key.
    pub key: String,
    /// The payload.
    pub staged: Staged,
}

/// What a client asks of the agent.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub enum Request {
    /// Begins the session: first and once. Answered by `Welcome` with three descriptors: life, control, slots.
    Hello {
        /// [`LAYOUT_MAGIC`](crate::layout::LAYOUT_MAGIC) of the client.
        layout: u64,
        /// [`VERSION`] of the client.
        version: u32,
    },
    /// The client has mapped the writable memory that came with number `memory`; the agent may seal and use it.
    Mapped {
        /// As given with the descriptor.
        memory: u64,
    },
    /// The client has received `count` messages with descriptors. Not answered.
    Received {
        /// Messages.
        count: u32,
    },
    /// Asks for another slot page.
    MoreSlots,
    /// Asks for staging memory.
    Staging,
    /// Asks for the current index table.
    Table,
    /// Asks for a segment.
    Segment {
        /// The segment's number.
        segment: u32,
    },
    /// Is the agent there.
    Ping,
    /// Opens a namespace, creating it when it is not there.
    OpenNamespace {
        /// Name.
        name: String,
        /// Options for a new one. Given for an existing one they must not contradict it.
        options: Option<NamespaceOptions>,
    },
    /// Changes a namespace's options.
    SetNamespace {
        /// Name.
        name: String,
        /// The new options.
        options: NamespaceOptions,
    },
    /// Describes one namespace.
    ShowNamespace {
        /// Name.
        name: String,
    },
    /// Names of the caller's namespaces after `after`, sorted, as many as fit.
    ListNamespaces {
        /// The last name already had, or empty.
        after: String,
    },
    /// Removes a namespace with all it holds.
    RemoveNamespace {
        /// Name.
        name: String,
    },
    /// Asks for a key that was not found in the map.
    Get {
        /// Incarnation.
        namespace: u64,
        /// Key.
        key: String,
    },
    /// Waits until a key is put.
    Wait {
        /// Incarnation.
        namespace: u64,
        /// Key.
        key: String,
    },
    /// Puts a payload that lies in staging.
    Put {
        /// Incarnation.
        namespace: u64,
        /// Key and payload.
        item: PutItem,
    },
    /// Puts several payloads that lie in staging.
    PutMany {
        /// Incarnation.
        namespace: u64,
        /// Keys and payloads.
        items: Vec<PutItem>,
    },
    /// Begins a put that arrives in chunks. Answered only if refused; the chunks may follow at once.
    PutBegin {
        /// Incarnation.
        namespace: u64,
        /// Key.
        key: String,
        /// Length of the whole payload.
        len: u64,
    },
    /// The next chunk of the put that request `put` began. Answered by `Done` when its staging is free again.
    PutChunk {
        /// Number of the `PutBegin`.
        put: u64,
        /// Where the chunk lies.
        staged: Staged,
    },
    /// Ends the put that request `put` began; answered with its outcome.
    PutEnd {
        /// Number of the `PutBegin`.
        put: u64,
    },
    /// Gives up the put that request `put` began, or the writer with that number.
    Abandon {
        /// Number of the `PutBegin` or `Create`.
        put: u64,
    },
    /// Asks for memory of one's own to fill with a payload. Answered by `WriterMemory` with a descriptor.
    Create {
        /// Incarnation.
        namespace: u64,
        /// Key.
        key: String,
        /// Length of the payload.
        len: u64,
    },
    /// Publishes what the client wrote into a writer's memory, which it has unmapped.
    Commit {
        /// Number of the `Create`.
        writer: u64,
    },
    /// Takes a key out.
    Delete {
        /// Incarnation.
        namespace: u64,
        /// Key.
        key: String,
    },
    /// Keys under a prefix, sorted. The first request takes a snapshot, which is then read page by page.
    List {
        /// Incarnation.
        namespace: u64,
        /// Prefix; empty for all.
        prefix: String,
        /// Only direct children of the group `prefix`, as names relative to it.
        children: bool,
        /// 0 to take the snapshot, then the number that the last page gave.
        cursor: u64,
    },
    /// Makes a key resident: what is there, or else what an origin has. Waits for as long as it takes.
    Fetch {
        /// Incarnation.
        namespace: u64,
        /// Key.
        key: String,
        /// Where the bytes are.
        url: String,
    },
    /// Keys of the client's own for URLs that begin with a prefix, by whole segments of the path: for this session, and for
    /// nobody else's fetches than this user's.
    Credential {
        /// Prefix of URLs.
        prefix: String,
        /// Keys.
        keys: OriginKeys,
    },
    /// The next message that brings a descriptor may do so. Not answered. Descriptors beside any other message never
    /// enter the agent.
    FileFollows,
    /// As `Fetch`, from the file whose descriptor is beside this message.
    FetchFile {
        /// Incarnation.
        namespace: u64,
        /// Key.
        key: String,
        /// What the client calls the file.
        path: String,
    },
    /// Asks how long an object is, to read it chunk by chunk.
    OpenObject {
        /// Incarnation.
        namespace: u64,
        /// The key that its chunks' keys are made of.
        key: String,
        /// Where it is.
        url: String,
    },
    /// As `OpenObject`, of the file whose descriptor is beside this message.
    OpenObjectFile {
        /// Incarnation.
        namespace: u64,
        /// The key that its chunks' keys are made of.
        key: String,
        /// What the client calls the file.
        path: String,
    },
    /// Makes a chunk of an open object resident, under [`crate::key::chunk`]. `NotFound` when the object is not open any
    /// more: open it again.
    Chunk {
        /// Incarnation.
        namespace: u64,
        /// The object's key.
        key: String,
        /// Its version, as `Object` told it.
        version: u64,
        /// Which chunk.
        index: u64,
    },
    /// Says that chunks of an open object will be asked for soon. Answered at once.
    PrefetchChunks {
        /// Incarnation.
        namespace: u64,
        /// The object's key.
        key: String,
        /// Its version.
        version: u64,
        /// The first of them.
        index: u64,
        /// How many.
        count: u32,
    },
    /// Says that keys will be asked for soon, which the store or origins have. Answered at once.
    Prefetch {
        /// Incarnation.
        namespace: u64,
        /// The keys, each with where its bytes are if not in the store.
        items: Vec<PrefetchItem>,
    },
    /// Drops everything in a namespace and begins a new incarnation.
    Clear {
        /// Name.
        name: String,
    },
    /// Answered when the store has every block that was put into the namespace before, or has refused one of them.
    Sync {
        /// Incarnation.
        namespace: u64,
    },
    /// The agent's figures.
    Stat,
    /// Who holds pins.
    Pins,
    /// Changes the node's capacity. For the agent's own user and root.
    Resize {
        /// New capacity in bytes.
        capacity: u64,
    },
    /// Asks for the memory of a pair of [`crate::ring`]s: requests, then replies. Refused by an agent that does not spin.
    Ring,
    /// There is a packet in the ring of requests. Not answered.
    Doorbell,
}

/// A key that will be asked for soon.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct PrefetchItem {
    /// Key.
    pub key: String,
    /// Where its bytes are, if not in the store.
    pub url: Option<String>,
}

/// An answer with the number of its request.
#[derive(Clone, Debug, PartialEq, Encode, Decode)]
pub struct Answer {
    /// Number of the request.
    pub id: u64,
    /// The answer.
    pub reply: Reply,
}

/// What the agent answers.
#[derive(Clone, Debug, PartialEq, Encode, Decode)]
pub enum Reply {
    /// The session begins.
    Welcome(Welcome),
    /// Done, with nothing to tell.
    Done,
    /// Memory that the client may write; to be mapped, then confirmed with `Mapped`.
    Memory {
        /// Number for `Mapped`.
        memory: u64,
        /// Length in bytes.
        len: u64,
    },
    /// The current index table.
    Table {
        /// Length in bytes.
        len: u64,
    },
    /// A segment.
    Segment {
        /// Length in bytes.
        len: u64,
    },
    /// The agent is there.
    Pong(AgentInfo),
    /// A namespace.
    Namespace(NamespaceInfo),
    /// Names or keys, sorted; `cursor` is 0 when there are no more.
    Names {
        /// The names.
        names: Vec<String>,
        /// For the next page.
        cursor: u64,
    },
    /// The key is there: look in the map again.
    Resident,
    /// How a put ended.
    Put(PutOutcome),
    /// How each put of a vectored put ended.
    PutMany(Vec<Result<PutOutcome, Refusal>>),
    /// Memory for a writer: map `len` bytes, write the payload from `offset` on, unmap, `Commit`.
    WriterMemory {
        /// Length of the memory in bytes.
        len: u64,
        /// Where the payload starts.
        offset: u64,
    },
    /// An object that can be read chunk by chunk.
    Object {
        /// Its length in bytes.
        len: u64,
        /// Stands for its version.
        version: u64,
        /// Length of each chunk but the last.
        chunk_len: u64,
    },
    /// How many entries went.
    Count(u64),
    /// The agent's figures.
    Stat(Box<AgentStat>),
    /// Who holds pins.
    Pins(Vec<PinHolder>),
    /// No.
    Refused(Refusal),
    /// There is a packet in the ring of replies. Carries the number 0.
    Wake,
}

/// What a client learns at the start.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct Welcome {
    /// [`VERSION`] of the agent.
    pub version: u32,
    /// The agent.
    pub agent: AgentInfo,
    /// Number of the first slot page, for `Mapped`.
    pub slots_memory: u64,
    /// Stripes in a slot page.
    pub stripes: u32,
    /// Whether the agent's kernel has `F_SEAL_FUTURE_WRITE`.
    pub future_write: bool,
}

/// Who the agent is.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct AgentInfo {
    /// Release of `larderd`.
    pub release: String,
    /// Number of this run.
    pub instance: u64,
    /// Process id, for people.
    pub pid: u32,
    /// The node's capacity in bytes.
    pub capacity: u64,
    /// Longest block in bytes.
    pub block_len_max: u64,
    /// The user that the agent takes the caller for.
    pub uid: u32,
}

/// How a put ended well.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Encode, Decode)]
pub enum PutOutcome {
    /// The block is new.
    Stored,
    /// The key already held these very bytes.
    AlreadyHeld,
    /// The key held other bytes and its namespace allows overwriting.
    Replaced,
    /// There is no agent and the client goes on without one: nothing was kept. Never sent.
    NotKept,
}

/// Why a packet is not a message.
#[derive(Debug, Error, PartialEq, Eq)]
pub enum DecodeError {
    /// Not of the form.
    #[error("the message is malformed: {0}")]
    Malformed(String),
    /// More bytes than the message has.
    #[error("the message has {0} bytes too many")]
    Trailing(usize),
    /// A key or name in it is not legal.
    #[error("{0}")]
    Key(#[from] KeyError),
    /// A list in it is longer than allowed.
    #[error("the message names {0} items, at most {MANY_MAX} are allowed")]
    TooMany(usize),
}

type Wire = Configuration<LittleEndian, Fixint, Limit<{ MESSAGE_LEN_MAX * 4 }>>;

fn wire() -> Wire {
    bincode::config::legacy().with_limit()
}

fn decode<T: Decode<()>>(packet: &[u8]) -> Result<T, DecodeError> {
    let (value, used) =
        bincode::decode_from_slice(packet, wire()).map_err(|error| DecodeError::Malformed(error.to_string()))?;
    match packet.len() - used {
        0 => Ok(value),
        more => Err(DecodeError::Trailing(more)),
    }
}

fn encode<T: Encode>(value: &T) -> Vec<u8> {
    // Encoding into memory does not fail. A message that is too long for a packet fails when it is sent.
    bincode::encode_to_vec(value, wire()).unwrap_or_default()
}

/// Reads a request, keys checked.
pub fn decode_request(packet: &[u8]) -> Result<Envelope, DecodeError> {
    let envelope: Envelope = decode(packet)?;
    match &envelope.request {
        Request::Get { key, .. }
        | Request::Wait { key, .. }
        | Request::PutBegin { key, .. }
        | Request::FetchFile { key, .. }
        | Request::OpenObject { key, .. }
        | Request::OpenObjectFile { key, .. }
        | Request::Chunk { key, .. }
        | Request::PrefetchChunks { key, .. }
        | Request::Fetch { key, .. }
        | Request::Create { key, .. }
        | Request::Delete { key, .. } => key::check_key(key)?,
        Request::Put { item, .. } => key::check_key(&item.key)?,
        Request::Prefetch { items, .. } => {
            if items.len() > MANY_MAX {
                return Err(DecodeError::TooMany(items.len()));
            }
            items.iter().try_for_each(|item| key::check_key(&item.key))?;
        }
        Request::PutMany { items, .. } => {
            if items.len() > MANY_MAX {
                return Err(DecodeError::TooMany(items.len()));
            }
            items.iter().try_for_each(|item| key::check_key(&item.key))?;
        }
        Request::OpenNamespace { name, .. }
        | Request::SetNamespace { name, .. }
        | Request::ShowNamespace { name }
        | Request::RemoveNamespace { name }
        | Request::Clear { name } => key::check_namespace(name)?,
        _ => {}
    }
    Ok(envelope)
}

/// The number of a request that could not be read whole, for the refusal to carry.
pub fn request_id(packet: &[u8]) -> u64 {
    packet.first_chunk::<8>().map_or(0, |bytes| u64::from_le_bytes(*bytes))
}

/// Writes a request.
pub fn encode_request(envelope: &Envelope) -> Vec<u8> {
    encode(envelope)
}

/// Reads an answer.
pub fn decode_reply(packet: &[u8]) -> Result<Answer, DecodeError> {
    decode(packet)
}

/// Writes an answer.
pub fn encode_reply(answer: &Answer) -> Vec<u8> {
    encode(answer)
}
