//! A bare session: whatever packet the caller likes, and the answer to it.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use larder_protocol::index::{Found, Table};
use larder_protocol::layout::{BlockId, LAYOUT_MAGIC, control};
use larder_protocol::memory::Mapping;
use larder_protocol::message::{
    Answer, Envelope, NO_TIMEOUT, Refusal, Reply, Request, VERSION, Welcome, decode_reply, encode_request,
};
use larder_protocol::socket;
use larder_protocol::words::MappedWords;

use crate::harness::{BOUND, readable};

/// A reply with what came beside it.
#[derive(Debug)]
pub(crate) struct Answered {
    pub(crate) reply: Reply,
    pub(crate) descriptors: Vec<OwnedFd>,
}

/// One connection.
#[derive(Debug)]
pub(crate) struct Raw {
    fd: OwnedFd,
    last_id: u64,
}

/// What a session begins with.
#[derive(Debug)]
pub(crate) struct Greeting {
    pub(crate) welcome: Welcome,
    pub(crate) life: OwnedFd,
    pub(crate) control: OwnedFd,
    pub(crate) slots: OwnedFd,
}

impl Greeting {
    /// Length of the slot page.
    pub(crate) fn slots_len(&self) -> usize {
        self.welcome.stripes as usize * larder_protocol::layout::stripe::BYTES
    }

    /// Another writable map of the slot page, while the agent has not sealed it.
    pub(crate) fn map_slots(&self) -> MappedWords {
        writable_words(&self.slots, self.slots_len())
    }

    /// The seed of the index hash, which every client of the tenant can read.
    pub(crate) fn seed(&self) -> u64 {
        let area = Mapping::read_only(&self.control, control::BYTES).expect("readable");
        area.read_word(control::SEED * 8)
    }

    /// Where a block lies, as the index says it.
    #[track_caller]
    pub(crate) fn find(&self, raw: &mut Raw, namespace: u64, key: &str) -> BlockId {
        let answered = raw.call(Request::Table);
        let Reply::Table { len } = answered.reply else { panic!("Table was answered by {answered:?}") };
        raw.received(1);
        let len = usize::try_from(len).expect("fits");
        let mapping = Mapping::read_only(&answered.descriptors[0], len).expect("readable");
        let table = Table::attach(MappedWords::new(Arc::new(mapping), 0, len / 8)).expect("a table");
        match table.find(larder_protocol::key::hash(self.seed(), namespace, key.as_bytes())) {
            Found::Entry(_, entry) => entry.block,
            Found::Absent => panic!("{key:?} is not in the index"),
        }
    }
}

/// A writable map of all of `fd`, as words.
#[track_caller]
pub(crate) fn writable_words(fd: impl AsFd, len: usize) -> MappedWords {
    let mapping = Mapping::read_write(fd, len).expect("not sealed yet");
    MappedWords::new(Arc::new(mapping), 0, len / 8)
}

impl Raw {
    #[track_caller]
    pub(crate) fn connect(socket: &Path) -> Raw {
        let fd = socket::connect_to(socket).expect("the agent accepts connections");
        Raw { fd, last_id: 0 }
    }

    /// A connection that has said Hello and mapped nothing.
    #[track_caller]
    pub(crate) fn greeted(socket: &Path) -> (Raw, Greeting) {
        let mut raw = Raw::connect(socket);
        let greeting = raw.hello().expect("the agent takes another session");
        (raw, greeting)
    }

    /// A connection that has said Hello, and dropped all that came with it.
    #[track_caller]
    pub(crate) fn bare(socket: &Path) -> Raw {
        Raw::greeted(socket).0
    }

    #[track_caller]
    pub(crate) fn hello(&mut self) -> Result<Greeting, Refusal> {
        self.last_id += 1;
        let packet = encode_request(&Envelope {
            id: self.last_id,
            timeout_ms: NO_TIMEOUT,
            request: Request::Hello { layout: LAYOUT_MAGIC, version: VERSION },
        });
        // One connection too many is refused and closed at once: then this may fail, and the refusal is still there.
        let _ = self.send_packet(&packet, &[]);
        let (answer, descriptors) = self.receive().expect("Hello is answered");
        let welcome = match answer.reply {
            Reply::Welcome(welcome) => welcome,
            Reply::Refused(refusal) => return Err(refusal),
            other => panic!("Hello was answered by {other:?}"),
        };
        let [life, control, slots] = <[OwnedFd; 3]>::try_from(descriptors).expect("three descriptors");
        self.received(1);
        Ok(Greeting { welcome, life, control, slots })
    }

    pub(crate) fn fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }

    /// Sends one packet as it is.
    pub(crate) fn send_packet(&self, packet: &[u8], descriptors: &[BorrowedFd<'_>]) -> io::Result<()> {
        socket::send(&self.fd, packet, descriptors)
    }

    /// Sends a request and returns its number.
    #[track_caller]
    pub(crate) fn send(&mut self, request: Request) -> u64 {
        self.last_id += 1;
        let packet = encode_request(&Envelope { id: self.last_id, timeout_ms: NO_TIMEOUT, request });
        self.send_packet(&packet, &[]).expect("the agent reads its socket");
        self.last_id
    }

    /// The next answer, or `None` when the agent has closed the connection.
    #[track_caller]
    pub(crate) fn receive(&self) -> Option<(Answer, Vec<OwnedFd>)> {
        self.receive_within(BOUND)
    }

    #[track_caller]
    pub(crate) fn receive_within(&self, bound: Duration) -> Option<(Answer, Vec<OwnedFd>)> {
        // Twice what is allowed, so that an answer that is too long is seen as such.
        let mut packet = vec![0; 2 * socket::MESSAGE_LEN_MAX];
        assert!(readable(&self.fd, bound), "no answer within {bound:?}");
        let mut received = socket::receive(&self.fd, &mut packet);
        if received.as_ref().is_err_and(|error| error.kind() == io::ErrorKind::ConnectionReset) {
            // Closed with a request unread: the kernel says so once, then gives what was answered before.
            received = socket::receive(&self.fd, &mut packet);
        }
        let (len, descriptors) = match received {
            Ok((0, _)) => return None,
            Ok(received) => received,
            Err(error) if error.kind() == io::ErrorKind::ConnectionReset => return None,
            Err(error) => panic!("receiving failed: {error}"),
        };
        assert!(len <= socket::MESSAGE_LEN_MAX, "the agent sent {len} bytes, which no honest client has room for");
        let answer = decode_reply(&packet[..len]).expect("the agent speaks its own protocol");
        Some((answer, descriptors))
    }

    /// Sends a request and returns the answer to it, dropping answers to others.
    #[track_caller]
    pub(crate) fn call(&mut self, request: Request) -> Answered {
        let id = self.send(request);
        loop {
            let (answer, descriptors) = self.receive().expect("the agent keeps the connection");
            if answer.id == id {
                return Answered { reply: answer.reply, descriptors };
            }
        }
    }

    /// The next answer to one of these requests, dropping answers to others.
    #[track_caller]
    pub(crate) fn receive_any(&self, ids: &[u64]) -> Reply {
        loop {
            let (answer, _) = self.receive().expect("the agent keeps the connection");
            if ids.contains(&answer.id) {
                return answer.reply;
            }
        }
    }

    /// The reply alone.
    #[track_caller]
    pub(crate) fn ask(&mut self, request: Request) -> Reply {
        self.call(request).reply
    }

    /// The refusal that a request must meet.
    #[track_caller]
    pub(crate) fn refused(&mut self, request: Request) -> Refusal {
        let shown = format!("{request:?}");
        match self.ask(request) {
            Reply::Refused(refusal) => refusal,
            other => panic!("{} was answered by {other:?}", &shown[..shown.len().min(200)]),
        }
    }

    /// Tells the agent that `count` messages with descriptors have arrived.
    #[track_caller]
    pub(crate) fn received(&mut self, count: u32) {
        self.send(Request::Received { count });
    }

    /// Tells the agent that a memory is mapped, and returns what it says.
    #[track_caller]
    pub(crate) fn mapped(&mut self, memory: u64) -> Reply {
        self.ask(Request::Mapped { memory })
    }

    /// Opens a namespace and returns its number.
    #[track_caller]
    pub(crate) fn namespace(&mut self, name: &str) -> u64 {
        let name = name.to_owned();
        match self.ask(Request::OpenNamespace { name, options: None }) {
            Reply::Namespace(info) => info.namespace,
            other => panic!("OpenNamespace was answered by {other:?}"),
        }
    }

    /// Memory to write into: its number, its length and its descriptor.
    #[track_caller]
    pub(crate) fn memory(&mut self, request: Request) -> Result<(u64, usize, OwnedFd), Refusal> {
        let answered = self.call(request);
        match answered.reply {
            Reply::Memory { memory, len } => {
                let [fd] = <[OwnedFd; 1]>::try_from(answered.descriptors).expect("one descriptor");
                self.received(1);
                Ok((memory, usize::try_from(len).expect("fits"), fd))
            }
            Reply::Refused(refusal) => Err(refusal),
            other => panic!("memory was answered by {other:?}"),
        }
    }

    /// Staging that is mapped, sealed and ready, twice over: two maps of the same memory.
    #[track_caller]
    pub(crate) fn staging(&mut self) -> (MappedWords, MappedWords) {
        let (memory, len, fd) = self.memory(Request::Staging).expect("a session may have staging");
        let maps = (writable_words(&fd, len), writable_words(&fd, len));
        assert_eq!(self.mapped(memory), Reply::Done);
        maps
    }
}
