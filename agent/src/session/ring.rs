//! A session's rings: the same requests and replies through shared memory, for an agent that is allowed to spin.

use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant};

use larder_protocol::memory::Memfd;
use larder_protocol::message::{Refusal, Reply};
use larder_protocol::ring::{Broken, Consumer, Producer, Pushed, WORDS};
use larder_protocol::words::MappedWords;

use super::Session;
use super::lend::failed;
use crate::cache::{for_client, seal_for_client};

/// How long a session goes on looking after its last request before it sleeps.
const SPIN_FOR: Duration = Duration::from_micros(200);
/// Looks between two looks at the socket, which cost a system call each.
const LOOKS: usize = 256;
/// Bytes of the memory of a pair of rings.
const BYTES: u64 = ((2 * WORDS * 8) as u64).next_multiple_of(4096);

/// The rings of a session.
#[derive(Debug)]
pub(super) struct Rings {
    memory: u64,
    memfd: Memfd,
    requests: Consumer<MappedWords>,
    replies: Producer<MappedWords>,
    /// The client has mapped them and they are sealed.
    open: bool,
    last_request: Instant,
}

impl Rings {
    /// The memory, taken back.
    pub(super) fn into_memfd(self) -> Memfd {
        self.memfd
    }

    /// Takes the next request out.
    pub(super) fn take(&mut self, packet: &mut Vec<u8>) -> Result<bool, Broken> {
        if !self.open {
            return Ok(false);
        }
        let taken = self.requests.pop(packet)?;
        if taken {
            self.last_request = Instant::now();
        }
        Ok(taken)
    }

    /// Puts a reply in; `No` when it must go by the socket.
    pub(super) fn reply(&mut self, packet: &[u8]) -> Pushed {
        self.replies.push(packet)
    }

    /// Looks for the next request for a while. True when the session may sleep.
    pub(super) fn look(&self) -> bool {
        if !self.open {
            return true;
        }
        for _ in 0..LOOKS {
            if self.requests.looks_filled() {
                return false;
            }
            std::hint::spin_loop();
        }
        self.last_request.elapsed() >= SPIN_FOR && self.requests.may_sleep()
    }

    pub(super) fn awake(&self) {
        // Before they are sealed their client may have truncated them: touching them would end the agent.
        if self.open {
            self.requests.awake();
        }
    }
}

impl Session {
    /// Lends a pair of rings.
    pub(super) async fn lend_rings(&mut self, id: u64) -> io::Result<()> {
        let agent = Arc::clone(self.agent());
        let made = self.may_send_descriptors().and_then(|()| {
            if !agent.limits.spin {
                return Err(Refusal::Denied("this agent may not spin; larderd --spin allows it".into()));
            }
            if self.rings.is_some() {
                return Err(Refusal::Invalid("the session has its rings already".into()));
            }
            agent.cache().charge_staging(self.peer.uid, BYTES)?;
            let made = for_client(c"larder-rings", BYTES, false, &agent.settings.material)
                .and_then(|prepared| Ok((prepared.memfd.description(true)?, prepared)));
            made.map_err(|error| {
                agent.cache().refund_session(self.peer.uid, BYTES);
                failed(error)
            })
        });
        match made {
            Ok((descriptor, prepared)) => {
                self.last_memory += 1;
                let memory = self.last_memory;
                let words = |half: usize| MappedWords::new(Arc::clone(&prepared.mapping), half * WORDS * 8, WORDS);
                self.rings = Some(Rings {
                    memory,
                    requests: Consumer::new(words(0)),
                    replies: Producer::new(words(1)),
                    memfd: prepared.memfd,
                    open: false,
                    last_request: Instant::now(),
                });
                self.answer_with(id, Reply::Memory { memory, len: BYTES }, &[descriptor]).await
            }
            Err(refusal) => self.answer(id, Reply::Refused(refusal)).await,
        }
    }

    /// The client has mapped its rings. False when `memory` is not theirs.
    pub(super) fn open_rings(&mut self, memory: u64) -> Result<bool, Refusal> {
        let platform = self.agent().settings.material.platform;
        let Some(rings) = self.rings.as_mut().filter(|rings| rings.memory == memory) else { return Ok(false) };
        if !rings.open {
            seal_for_client(&rings.memfd, &platform)?;
            rings.open = true;
            rings.last_request = Instant::now();
        }
        Ok(true)
    }
}
