//! One client's connection: reads requests in order, answers each.
//!
//! `mod.rs` is the loop and the socket, `requests.rs` what each request does, `put.rs` the puts that arrive in pieces,
//! `lend.rs` memory and descriptors that a client is lent.

mod lend;
mod put;
mod requests;

use std::collections::HashMap;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::time::Duration;

use larder_protocol::message::{Answer, NO_TIMEOUT, Refusal, Reply, decode_request, encode_reply, request_id};
use larder_protocol::socket::{self, MESSAGE_LEN_MAX, Peer};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tracing::debug;

use crate::server::{Agent, Seat};
use lend::Staging;
use put::OpenPut;

/// Replies with descriptors that a client may leave unacknowledged: descriptors in flight are charged to the agent.
const UNACKNOWLEDGED_MAX: u32 = 4;
/// Requests of a session that may wait at once.
const WAITS_MAX: usize = 64;
/// Snapshots of a session that may be read page by page at once.
const LISTS_MAX: usize = 4;

/// The connection, shared with the tasks that answer later.
pub(crate) type Connection = Arc<AsyncFd<OwnedFd>>;

/// One session.
#[derive(Debug)]
struct Session {
    id: u64,
    peer: Peer,
    seat: Seat,
    connection: Connection,
    greeted: bool,
    unacknowledged: u32,
    last_memory: u64,
    staging: Option<Staging>,
    puts: HashMap<u64, OpenPut>,
    writers: HashMap<u64, crate::cache::WriterMemory>,
    lists: HashMap<u64, std::vec::IntoIter<String>>,
    last_list: u64,
    waits: JoinSet<()>,
}

/// Serves a connection until its client closes it, breaks the rules of the socket, or the agent ends.
pub(crate) async fn serve(seat: Seat, connection: OwnedFd, peer: Peer, id: u64, mut ended: watch::Receiver<bool>) {
    let Ok(connection) = watched(connection) else { return };
    let mut session = Session {
        id,
        peer,
        seat,
        connection: Arc::new(connection),
        greeted: false,
        unacknowledged: 0,
        last_memory: 0,
        staging: None,
        puts: HashMap::new(),
        writers: HashMap::new(),
        lists: HashMap::new(),
        last_list: 0,
        waits: JoinSet::new(),
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
    let refusal = Refusal::TooMany(format!(
        "user {} has {most} sessions, which is the most it may have; close some",
        peer.uid
    ));
    let answer = encode_reply(&Answer {
        id: 0,
        reply: Reply::Refused(refusal),
    });
    let _ = socket::send(connection, &answer, &[]);
}

impl Session {
    fn agent(&self) -> &Arc<Agent> {
        &self.seat.agent
    }

    async fn run(&mut self) -> io::Result<()> {
        let mut packet = vec![0; MESSAGE_LEN_MAX];
        loop {
            let len = receive(&self.connection, &mut packet).await?;
            if len == 0 {
                return Ok(());
            }
            match decode_request(&packet[..len]) {
                Ok(envelope) => self.handle(envelope).await?,
                Err(error) => {
                    let refusal = match error {
                        larder_protocol::message::DecodeError::Key(error) => Refusal::BadKey(error.to_string()),
                        other => Refusal::Invalid(other.to_string()),
                    };
                    self.answer(request_id(&packet[..len]), Reply::Refused(refusal)).await?;
                }
            }
            while self.waits.try_join_next().is_some() {}
        }
    }

    async fn answer(&self, id: u64, reply: Reply) -> io::Result<()> {
        send(&self.connection, id, reply, &[]).await
    }

    /// Sends a reply with descriptors, unless the client has left too many unacknowledged.
    async fn answer_with(&mut self, id: u64, reply: Reply, descriptors: &[OwnedFd]) -> io::Result<()> {
        self.unacknowledged += 1;
        send(&self.connection, id, reply, descriptors).await
    }

    fn may_send_descriptors(&self) -> Result<(), Refusal> {
        if self.unacknowledged < UNACKNOWLEDGED_MAX {
            return Ok(());
        }
        Err(Refusal::TooMany(format!(
            "{UNACKNOWLEDGED_MAX} replies with descriptors are unacknowledged; receive those first"
        )))
    }

    /// Gives back all that the session had.
    async fn end(mut self) {
        self.waits.shutdown().await;
        let uid = self.peer.uid;
        let mut process_gone = true;
        if self.greeted && !self.agent().settings.material.platform.lease_probe {
            // The kernel cannot say who has the slot page mapped, so its pins count until the process is gone.
            process_gone = wait_for_exit(&self.connection).await;
        }
        let agent = Arc::clone(self.agent());
        let mut cache = agent.cache();
        for (_, put) in self.puts.drain() {
            put.abandon(&mut cache);
        }
        for (_, writer) in self.writers.drain() {
            cache.end_writer(uid, writer.bytes());
        }
        if let Some(staging) = self.staging.take() {
            cache.refund_staging(uid, staging.len());
        }
        if self.greeted {
            cache.prune_waiters(uid);
            cache.end_session(uid, self.id, process_gone);
        }
        drop(cache);
        agent.keeper.notify_one();
    }
}

/// Hands a descriptor to tokio's event loop.
#[expect(
    deprecated,
    reason = "its unsoundness needs a type that gives its descriptor away; an OwnedFd keeps it"
)]
pub(crate) fn watched(fd: OwnedFd) -> io::Result<AsyncFd<OwnedFd>> {
    AsyncFd::with_interest(fd, Interest::READABLE | Interest::WRITABLE)
}

/// Waits until the process at the other end has ended. False when that cannot be known.
async fn wait_for_exit(connection: &Connection) -> bool {
    let Ok(pidfd) = socket::peer_pidfd(connection.get_ref()) else {
        return true;
    };
    let Ok(pidfd) = watched(pidfd) else { return true };
    pidfd.readable().await.is_ok()
}

async fn receive(connection: &Connection, packet: &mut [u8]) -> io::Result<usize> {
    loop {
        // Most often the next request is there already: try before asking to be woken.
        match socket::receive(connection.get_ref(), packet) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            // Descriptors that a client sends are closed here: no request takes one.
            other => return other.map(|(len, _)| len),
        }
        let mut ready = connection.readable().await?;
        match ready.try_io(|connection| socket::receive(connection.get_ref(), packet)) {
            Ok(received) => return received.map(|(len, _)| len),
            Err(_would_block) => {}
        }
    }
}

/// Sends a reply. A client that does not read its socket stops its own session, nobody else's.
async fn send(connection: &Connection, id: u64, reply: Reply, descriptors: &[OwnedFd]) -> io::Result<()> {
    let packet = encode_reply(&Answer { id, reply });
    let descriptors: Vec<_> = descriptors.iter().map(AsFd::as_fd).collect();
    loop {
        match socket::send(connection.get_ref(), &packet, &descriptors) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            other => return other,
        }
        let mut ready = connection.writable().await?;
        let sent = ready.try_io(|connection| socket::send(connection.get_ref(), &packet, &descriptors));
        if let Ok(outcome) = sent {
            return outcome;
        }
    }
}

/// A request's deadline as a time to wait.
fn time_left(timeout_ms: u64) -> Option<Duration> {
    (timeout_ms != NO_TIMEOUT).then(|| Duration::from_millis(timeout_ms))
}
