//! The client's side of a pair of rings: requests and replies through shared memory, where the agent may spin.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::{Arc, Mutex, PoisonError};

use larder_protocol::memory::Mapping;
use larder_protocol::message::Request;
use larder_protocol::ring::{Broken, Consumer, Producer, Pushed, WORDS};
use larder_protocol::socket;
use larder_protocol::words::MappedWords;

/// Looks before a waiting thread sleeps: some twenty microseconds, about what a sleep and a wake-up cost.
const LOOKS: usize = 400;
/// Looks at the ring between two looks at the socket, which cost a system call each.
const LOOKS_PER_SOCKET: usize = 64;

/// A pair of rings.
#[derive(Debug)]
pub(crate) struct Rings {
    requests: Mutex<Producer<MappedWords>>,
    replies: Mutex<Replies>,
}

#[derive(Debug)]
struct Replies {
    consumer: Consumer<MappedWords>,
    packet: Vec<u8>,
}

/// What a wait for a reply found.
#[derive(Debug)]
pub(crate) enum Seen {
    /// A message of this many bytes is in the buffer, with its descriptors.
    Message(usize, Vec<OwnedFd>),
    /// Nothing yet, and the agent will send a message by the socket when there is something.
    Sleep,
}

impl Rings {
    /// The rings in memory that the agent lent.
    pub(crate) fn new(mapping: Mapping) -> io::Result<Rings> {
        if mapping.len() < 2 * WORDS * 8 {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "the agent's rings are too short"));
        }
        let mapping = Arc::new(mapping);
        let words = |half: usize| MappedWords::new(Arc::clone(&mapping), half * WORDS * 8, WORDS);
        Ok(Rings {
            requests: Mutex::new(Producer::new(words(0))),
            replies: Mutex::new(Replies { consumer: Consumer::new(words(1)), packet: Vec::new() }),
        })
    }

    /// Whether a request may go this way: those that stand alone. What belongs to a sequence stays in the socket's order.
    pub(crate) fn takes(request: &Request) -> bool {
        matches!(
            request,
            Request::Get { .. }
                | Request::Put { .. }
                | Request::PutMany { .. }
                | Request::Delete { .. }
                | Request::Ping
        )
    }

    /// Puts a request in.
    pub(crate) fn push(&self, packet: &[u8]) -> Pushed {
        self.requests.lock().unwrap_or_else(PoisonError::into_inner).push(packet)
    }

    /// Looks for a message in the ring and on the socket for a while.
    pub(crate) fn look(&self, socket: impl AsFd, buffer: &mut [u8]) -> io::Result<Seen> {
        let mut replies = self.replies.lock().unwrap_or_else(PoisonError::into_inner);
        let Replies { consumer, packet } = &mut *replies;
        loop {
            for look in 1..=LOOKS {
                let popped = consumer.pop(packet);
                if popped.map_err(|Broken| io::Error::new(io::ErrorKind::InvalidData, "the agent's ring is broken"))? {
                    buffer[..packet.len()].copy_from_slice(packet);
                    return Ok(Seen::Message(packet.len(), Vec::new()));
                }
                if look.is_multiple_of(LOOKS_PER_SOCKET) {
                    match socket::receive_now(&socket, buffer) {
                        Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                        other => return other.map(|(len, descriptors)| Seen::Message(len, descriptors)),
                    }
                }
                std::hint::spin_loop();
            }
            if consumer.may_sleep() {
                return Ok(Seen::Sleep);
            }
        }
    }

    /// The thread looks again.
    pub(crate) fn awake(&self) {
        self.replies.lock().unwrap_or_else(PoisonError::into_inner).consumer.awake();
    }
}
