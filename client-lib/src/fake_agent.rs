//! An agent for tests that says what the test wants said. It holds no blocks: what the real agent does is tested with it.

use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use larder_protocol::index::Table;
use larder_protocol::layout::{LAYOUT_MAGIC, control, stripe, table};
use larder_protocol::life::Beacon;
use larder_protocol::memory::{HugePages, Mapping, Memfd, Platform, Seals};
use larder_protocol::message::{
    AgentInfo, Answer, Envelope, PutOutcome, Refusal, Reply, Request, Staged, VERSION, Welcome, decode_request,
    encode_reply,
};
use larder_protocol::namespace::NamespaceInfo;
use larder_protocol::socket::{self, MESSAGE_LEN_MAX};
use larder_protocol::words::MappedWords;

use crate::{Client, ClientBuilder, OnAbsent};

/// Staging that a session is lent.
pub(crate) const STAGING_BYTES: usize = 2 << 20;
const TABLE_ENTRIES: usize = 64;

/// Decides about a request: `None` leaves it to [`Connection::usual`].
pub(crate) type Script = Box<dyn FnMut(&mut Connection, &Envelope) -> Option<Answers> + Send>;

/// What is said to a request.
pub(crate) enum Answers {
    /// Nothing.
    None,
    /// One reply.
    One(Reply),
    /// A reply with descriptors that make no sense.
    With(Reply, usize),
    /// The end of the connection.
    HangUp,
}

/// A running agent; it ends when dropped.
pub(crate) struct FakeAgent {
    pub(crate) socket: PathBuf,
    requests: Arc<Mutex<Vec<Request>>>,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

/// One client's connection.
pub(crate) struct Connection {
    fd: OwnedFd,
    platform: Platform,
    beacon: Arc<Beacon>,
    staging: Option<(Memfd, Mapping)>,
    /// What names stand for.
    pub(crate) incarnation: u64,
}

impl FakeAgent {
    /// Serves `directory/socket`, one connection at a time.
    pub(crate) fn start(directory: &Path, mut script: Script) -> FakeAgent {
        let socket = directory.join("socket");
        let listener = socket::listen_at(&socket).unwrap();
        let requests = Arc::new(Mutex::new(Vec::new()));
        let stop = Arc::new(AtomicBool::new(false));
        let (log, stopped) = (Arc::clone(&requests), Arc::clone(&stop));
        let thread = thread::spawn(move || {
            let platform = Platform::detect(&[]).unwrap();
            let beacon = Arc::new(Beacon::light(&platform).unwrap());
            while let Some(fd) = when_readable(&listener, &stopped, |fd| socket::accept(fd.as_fd()).unwrap()) {
                let mut connection =
                    Connection { fd, platform, beacon: Arc::clone(&beacon), staging: None, incarnation: 7 };
                connection.serve(&stopped, &log, &mut script);
            }
        });
        FakeAgent { socket, requests, stop, thread: Some(thread) }
    }

    /// Serves `directory/socket` as usual.
    pub(crate) fn usual(directory: &Path) -> FakeAgent {
        FakeAgent::start(directory, Box::new(|_, _| None))
    }

    /// A client's settings for this agent.
    pub(crate) fn builder(&self) -> ClientBuilder {
        Client::builder().socket(&self.socket).on_absent(OnAbsent::Error)
    }

    /// What was asked so far.
    pub(crate) fn requests(&self) -> MutexGuard<'_, Vec<Request>> {
        self.requests.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// How many requests so far were such.
    pub(crate) fn count(&self, such: impl Fn(&Request) -> bool) -> usize {
        self.requests().iter().filter(|request| such(request)).count()
    }
}

impl Drop for FakeAgent {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        let ended = self.thread.take().map(JoinHandle::join);
        let _ = std::fs::remove_file(&self.socket);
        if !thread::panicking() {
            ended.transpose().expect("the fake agent panicked");
        }
    }
}

/// Waits until `fd` is readable, then reads. `None` when the agent is to stop.
fn when_readable<T>(fd: &OwnedFd, stop: &AtomicBool, read: impl FnOnce(&OwnedFd) -> T) -> Option<T> {
    while !stop.load(Ordering::Relaxed) {
        if socket::wait_readable(fd, Some(Duration::from_millis(5))).unwrap() {
            return Some(read(fd));
        }
    }
    None
}

impl Connection {
    fn serve(&mut self, stop: &AtomicBool, log: &Mutex<Vec<Request>>, script: &mut Script) {
        let mut packet = vec![0; MESSAGE_LEN_MAX];
        loop {
            let Some(Ok((len, _))) = when_readable(&self.fd, stop, |fd| socket::receive(fd, &mut packet)) else {
                return;
            };
            if len == 0 {
                return;
            }
            let envelope = decode_request(&packet[..len]).unwrap();
            log.lock().unwrap_or_else(PoisonError::into_inner).push(envelope.request.clone());
            match script(self, &envelope) {
                None => self.usual(&envelope),
                Some(Answers::None) => {}
                Some(Answers::One(reply)) => self.reply(envelope.id, reply, &[]),
                Some(Answers::With(reply, count)) => {
                    let descriptors: Vec<OwnedFd> = (0..count).map(|_| self.fd.try_clone().unwrap()).collect();
                    self.reply(envelope.id, reply, &descriptors);
                }
                Some(Answers::HangUp) => return,
            }
        }
    }

    fn reply(&self, id: u64, reply: Reply, descriptors: &[OwnedFd]) {
        let descriptors: Vec<_> = descriptors.iter().map(AsFd::as_fd).collect();
        // A client that is gone is not the agent's concern.
        let _ = socket::send(&self.fd, &encode_reply(&Answer { id, reply }), &descriptors);
    }

    /// What lies in staging.
    pub(crate) fn staged(&self, staged: Staged) -> Vec<u8> {
        let mut bytes = vec![0; usize::try_from(staged.len).unwrap()];
        if let Some((_, mapping)) = &self.staging {
            mapping.copy_out(usize::try_from(staged.offset).unwrap(), &mut bytes);
        }
        bytes
    }

    fn memory(&self, len: usize) -> (Memfd, Mapping) {
        let memfd = Memfd::create(c"fake", len, HugePages::Off, &self.platform).unwrap();
        let mapping = Mapping::read_write(&memfd, len).unwrap();
        (memfd, mapping)
    }

    /// What an agent without blocks says.
    fn usual(&mut self, envelope: &Envelope) {
        let (reply, descriptors) = match &envelope.request {
            Request::Hello { .. } => return self.welcome(envelope.id),
            Request::Received { .. } | Request::PutBegin { .. } | Request::Abandon { .. } => return,
            Request::Table => {
                let len = table::bytes(TABLE_ENTRIES).next_multiple_of(4096);
                let (memfd, mapping) = self.memory(len);
                Table::create(MappedWords::new(Arc::new(mapping), 0, len / 8), 1, TABLE_ENTRIES);
                memfd.seal(Seals::Final, &self.platform).unwrap();
                (Reply::Table { len: len as u64 }, vec![memfd.description(false).unwrap()])
            }
            Request::Staging => {
                let staging = self.memory(STAGING_BYTES);
                let descriptor = staging.0.description(true).unwrap();
                self.staging = Some(staging);
                (Reply::Memory { memory: 2, len: STAGING_BYTES as u64 }, vec![descriptor])
            }
            Request::Create { len, .. } => {
                let memory_len = usize::try_from(*len).unwrap() + 4096;
                let (memfd, _) = self.memory(memory_len);
                memfd.seal(Seals::Size, &self.platform).unwrap();
                let reply = Reply::WriterMemory { len: memory_len as u64, offset: 4096 };
                (reply, vec![memfd.description(true).unwrap()])
            }
            other => (self.plain_reply(other), vec![]),
        };
        self.reply(envelope.id, reply, &descriptors);
    }

    fn plain_reply(&self, request: &Request) -> Reply {
        match request {
            Request::Mapped { .. } | Request::PutChunk { .. } => Reply::Done,
            Request::Ping => Reply::Pong(info()),
            Request::OpenNamespace { name, .. } => {
                let (name, namespace) = (name.clone(), self.incarnation);
                Reply::Namespace(NamespaceInfo { name, namespace, ..NamespaceInfo::default() })
            }
            Request::Put { .. } | Request::PutEnd { .. } | Request::Commit { .. } => Reply::Put(PutOutcome::Stored),
            Request::PutMany { items, .. } => Reply::PutMany(vec![Ok(PutOutcome::Stored); items.len()]),
            Request::Get { .. } => Reply::Refused(Refusal::NotFound),
            other => Reply::Refused(Refusal::Failed(format!("the fake agent cannot {other:?}"))),
        }
    }

    fn welcome(&self, id: u64) {
        let (memfd, mapping) = self.memory(control::BYTES);
        for (word, value) in
            [(control::MAGIC, LAYOUT_MAGIC), (control::EPOCH, 1), (control::TABLE_ID, 1), (control::SEED, 42)]
        {
            mapping.write_word(word * 8, value);
        }
        memfd.seal(Seals::Final, &self.platform).unwrap();
        let (slots, _) = self.memory(stripe::BYTES);
        let welcome = Welcome {
            version: VERSION,
            agent: info(),
            slots_memory: 1,
            stripes: 1,
            future_write: self.platform.future_write_seal,
        };
        let descriptors =
            [self.beacon.description().unwrap(), memfd.description(false).unwrap(), slots.description(true).unwrap()];
        self.reply(id, Reply::Welcome(welcome), &descriptors);
    }
}

fn info() -> AgentInfo {
    AgentInfo { release: "fake".into(), instance: 1, pid: 0, capacity: 1 << 30, block_len_max: 1 << 30, uid: 0 }
}
