//! One client's connection: reads requests in order, answers each.
//!
//! `mod.rs` is the loop and the socket, `ring.rs` the way through shared memory, `requests.rs` what each request does, `put.rs` the puts that arrive in pieces,
//! `stored.rs` puts and deletes in durable namespaces, `load.rs` what comes back in them, `fetch.rs` requests for what
//! origins have, `namespaces.rs` namespaces by name, `later.rs` work that waits for the store, `lend.rs` memory and descriptors that a client is lent.

mod exit;
mod fetch;
mod later;
mod lend;
mod lists;
mod load;
mod namespaces;
mod put;
mod requests;
mod ring;
mod stored;

use std::collections::HashMap;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use larder_protocol::message::{
    Answer, DecodeError, NO_TIMEOUT, Refusal, Reply, decode_request, encode_reply, request_id,
};
use larder_protocol::ring::{Broken, Pushed};
use larder_protocol::socket::{self, MESSAGE_LEN_MAX, Peer};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tracing::debug;

use crate::origin::SessionCredential;
use crate::server::{Agent, Seat};
pub(crate) use later::visiting;
use lend::Staging;
use lists::Lists;
pub(crate) use lists::SnapshotBytes;
use put::OpenPut;
pub(crate) use put::retry_commit;
use ring::Rings;
pub(crate) use stored::Stored;

/// Replies with descriptors that a client may leave unacknowledged: descriptors in flight are charged to the agent.
const UNACKNOWLEDGED_MAX: u32 = 4;
/// Memory of unread replies above which no descriptors are sent: ten small messages or so.
const UNREAD_MAX_BYTES: usize = 16 * 1024;
/// Work after which others have their turn.
const LONG_WORK: Duration = Duration::from_micros(200);
/// Requests of a session that may wait at once.
const WAITS_MAX: usize = 256;

/// The connection, shared with the tasks that answer later.
pub(crate) type Connection = Arc<AsyncFd<OwnedFd>>;

/// One session.
#[derive(Debug)]
struct Session {
    id: u64,
    peer: Peer,
    agent: Arc<Agent>,
    seat: Seat,
    connection: Connection,
    greeted: bool,
    unacknowledged: u32,
    last_memory: u64,
    staging: Option<Staging>,
    rings: Option<Rings>,
    /// The request being handled came by the ring, and its answer goes there.
    by_ring: bool,
    puts: HashMap<u64, OpenPut>,
    writers: HashMap<u64, crate::cache::WriterMemory>,
    lists: Arc<Mutex<Lists>>,
    waits: JoinSet<()>,
    /// What is being brought before it is asked for.
    ahead: JoinSet<()>,
    /// Keys of the client's own.
    credentials: Arc<[SessionCredential]>,
    /// Descriptors that the client has announced, and the one beside the request being handled.
    files_announced: u32,
    file: Option<OwnedFd>,
}

/// Serves a connection until its client closes it, breaks the rules of the socket, or the agent ends.
pub(crate) async fn serve(seat: Seat, connection: OwnedFd, peer: Peer, id: u64, mut ended: watch::Receiver<bool>) {
    let Ok(connection) = watched(connection) else { return };
    let mut session = Session {
        id,
        peer,
        agent: Arc::clone(&seat.agent),
        seat,
        connection: Arc::new(connection),
        greeted: false,
        unacknowledged: 0,
        last_memory: 0,
        staging: None,
        rings: None,
        by_ring: false,
        puts: HashMap::new(),
        writers: HashMap::new(),
        lists: Arc::default(),
        waits: JoinSet::new(),
        ahead: JoinSet::new(),
        credentials: Arc::default(),
        files_announced: 0,
        file: None,
    };
    debug!(session = id, uid = peer.uid, pid = peer.pid, "session begins");
    let outcome = tokio::select! {
        outcome = session.run() => outcome,
        _ = ended.wait_for(|ended| *ended) => Ok(()),
    };
    debug!(session = id, error = ?outcome.err(), "session ends");
    session.end().await;
}

/// Tells a client that it may have no session.
pub(crate) fn refuse(connection: &OwnedFd, peer: Peer, most: usize) {
    let refusal =
        Refusal::TooMany(format!("user {} has {most} sessions, which is the most it may have; close some", peer.uid));
    let answer = encode_reply(&Answer { id: 0, reply: Reply::Refused(refusal) });
    let _ = socket::send(connection, &answer, &[]);
}

impl Session {
    fn agent(&self) -> &Arc<Agent> {
        &self.agent
    }

    async fn run(&mut self) -> io::Result<()> {
        let mut packet = vec![0; MESSAGE_LEN_MAX];
        let mut ring_packet = Vec::new();
        loop {
            while self.take_from_ring(&mut ring_packet)? {
                let began = Instant::now();
                self.by_ring = true;
                let handled = self.handle_packet(&ring_packet).await;
                self.by_ring = false;
                handled?;
                give_way(began).await;
            }
            match self.next_packet(&mut packet).await? {
                Some(0) => return Ok(()),
                Some(len) => {
                    let began = Instant::now();
                    self.handle_packet(&packet[..len]).await?;
                    self.file = None;
                    give_way(began).await;
                }
                None => {}
            }
            while self.waits.try_join_next().is_some() {}
        }
    }

    fn take_from_ring(&mut self, packet: &mut Vec<u8>) -> io::Result<bool> {
        let taken = self.rings.as_mut().map_or(Ok(false), |rings| rings.take(packet));
        taken.map_err(|Broken| io::Error::new(io::ErrorKind::InvalidData, "the ring of requests is broken"))
    }

    /// The next packet from the socket; `None` when the ring is to be looked at first.
    async fn next_packet(&mut self, packet: &mut [u8]) -> io::Result<Option<usize>> {
        // Most often the next request is there already: try before asking to be woken.
        let announced = self.files_announced > 0;
        match receive(self.connection.get_ref(), packet, announced) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            other => return other.map(|received| Some(self.take_file(received))),
        }
        if self.rings.as_ref().is_some_and(|rings| !rings.look()) {
            // Others have their turn on this thread between two looks.
            tokio::task::yield_now().await;
            return Ok(None);
        }
        let mut ready = self.connection.readable().await?;
        if let Some(rings) = &self.rings {
            rings.awake();
        }
        let received = match ready.try_io(|connection| receive(connection.get_ref(), packet, announced)) {
            Ok(received) => received?,
            Err(_would_block) => return Ok(None),
        };
        drop(ready);
        Ok(Some(self.take_file(received)))
    }

    /// Keeps the descriptor that came beside a packet, for the request in it. Returns the packet's length.
    fn take_file(&mut self, (len, file): (usize, Option<OwnedFd>)) -> usize {
        if file.is_some() {
            self.files_announced -= 1;
        }
        self.file = file;
        len
    }

    async fn handle_packet(&mut self, packet: &[u8]) -> io::Result<()> {
        match decode_request(packet) {
            Ok(envelope) => self.handle(envelope).await,
            Err(error) => {
                let refusal = match error {
                    DecodeError::Key(error) => Refusal::BadKey(error.to_string()),
                    other => Refusal::Invalid(other.to_string()),
                };
                self.answer(request_id(packet), Reply::Refused(refusal)).await
            }
        }
    }

    /// Answers the way the request came.
    async fn answer(&mut self, id: u64, reply: Reply) -> io::Result<()> {
        let packet = encode_reply(&Answer { id, reply });
        let pushed = match &mut self.rings {
            Some(rings) if self.by_ring => rings.reply(&packet),
            _ => Pushed::No,
        };
        match pushed {
            Pushed::Seen => Ok(()),
            Pushed::Wake => {
                send_packet(&self.connection, &encode_reply(&Answer { id: 0, reply: Reply::Wake }), &[]).await
            }
            Pushed::No => send_packet(&self.connection, &packet, &[]).await,
        }
    }

    /// Sends a reply with descriptors, unless the client has left too many unacknowledged.
    async fn answer_with(&mut self, id: u64, reply: Reply, descriptors: &[OwnedFd]) -> io::Result<()> {
        self.unacknowledged += 1;
        send(&self.connection, id, reply, descriptors).await
    }

    fn may_send_descriptors(&self) -> Result<(), Refusal> {
        // What the client says it has received is a claim; what it has not read, the kernel knows.
        let unread = socket::unread_bytes(self.connection.get_ref()).unwrap_or(usize::MAX);
        if self.unacknowledged < UNACKNOWLEDGED_MAX && unread < UNREAD_MAX_BYTES {
            return Ok(());
        }
        Err(Refusal::TooMany(format!(
            "{UNACKNOWLEDGED_MAX} replies with descriptors are unacknowledged; receive those first"
        )))
    }

    /// Gives back all that the session had.
    async fn end(mut self) {
        self.waits.shutdown().await;
        self.ahead.shutdown().await;
        let agent = Arc::clone(&self.agent);
        // Another session may begin in its place, whatever this one still waits for.
        drop(self.seat);
        let uid = self.peer.uid;
        {
            let mut cache = agent.cache();
            self.puts.drain().for_each(|(_, put)| put.abandon(&mut cache));
            self.writers.drain().for_each(|(_, writer)| cache.end_writer(writer));
            let staging = self.staging.take().map(Staging::into_memfd);
            let rings = self.rings.take().map(Rings::into_memfd);
            staging.into_iter().chain(rings).for_each(|memfd| cache.take_back(uid, memfd));
            if self.greeted {
                cache.prune_waiters(uid);
            }
        }
        if !self.greeted {
            return;
        }
        let platform = agent.settings.material.platform;
        // Where the kernel cannot say who has the slot page mapped, its pins count until the process is gone.
        let process_gone = platform.lease_probe || exit::wait(&self.connection, self.peer, platform.pidfd).await;
        agent.cache().end_session(uid, self.id, process_gone);
        agent.keeper.notify_one();
    }
}

/// Receives a packet without waiting, and one descriptor beside it where the client has announced some: otherwise none
/// enters this process.
fn receive(connection: &OwnedFd, packet: &mut [u8], announced: bool) -> io::Result<(usize, Option<OwnedFd>)> {
    if !announced {
        return Ok((socket::receive_bytes(connection, packet)?, None));
    }
    let (len, descriptors) = socket::receive_now(connection, packet)?;
    Ok((len, descriptors.into_iter().next()))
}

/// Hands a descriptor to tokio's event loop.
#[expect(deprecated, reason = "its unsoundness needs a type that gives its descriptor away; an OwnedFd keeps it")]
pub(crate) fn watched(fd: OwnedFd) -> io::Result<AsyncFd<OwnedFd>> {
    AsyncFd::with_interest(fd, Interest::READABLE | Interest::WRITABLE)
}

async fn send(connection: &Connection, id: u64, reply: Reply, descriptors: &[OwnedFd]) -> io::Result<()> {
    send_packet(connection, &encode_reply(&Answer { id, reply }), descriptors).await
}

/// Lets other sessions have this thread: now after long work, now and then after short. A client whose next request is
/// always there would otherwise keep it.
async fn give_way(began: Instant) {
    if began.elapsed() >= LONG_WORK {
        tokio::task::yield_now().await;
    } else {
        tokio::task::consume_budget().await;
    }
}

/// Sends a packet. A client that does not read its socket stops its own session, nobody else's.
async fn send_packet(connection: &Connection, packet: &[u8], descriptors: &[OwnedFd]) -> io::Result<()> {
    let descriptors: Vec<_> = descriptors.iter().map(AsFd::as_fd).collect();
    loop {
        match socket::send(connection.get_ref(), packet, &descriptors) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            other => return other,
        }
        let mut ready = connection.writable().await?;
        let sent = ready.try_io(|connection| socket::send(connection.get_ref(), packet, &descriptors));
        if let Ok(outcome) = sent {
            return outcome;
        }
    }
}

/// A request's deadline as a time to wait.
fn time_left(timeout_ms: u64) -> Option<Duration> {
    (timeout_ms != NO_TIMEOUT).then(|| Duration::from_millis(timeout_ms))
}
