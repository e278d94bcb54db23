//! Messages through shared memory: a ring of small packets in each direction, for sides that may spin.
//!
//! A blocked wake-up across cores costs tens of microseconds, looking at a word in shared memory a tenth of one. So a
//! side that waits first looks for a while, then says that it sleeps, looks once more, and blocks on the socket. A side
//! that has put a packet into the ring looks whether the other sleeps, and only then sends a message to wake it.
//!
//! Sleep and wake are a protocol of two flags and two fences: the producer writes the packet, fences, reads the flag; the
//! consumer writes the flag, fences, looks for a packet. Whichever fence is first, one of them sees the other's write.
//!
//! A ring has one producer and one consumer at a time. Each keeps its own position privately; what the other side wrote
//! into the shared words is a claim that is checked before it is used.

use crate::sync::{Ordering, fence};
use crate::words::Words;

/// Packets that a ring holds.
pub const PACKETS: usize = 16;
/// Longest packet in bytes. Longer messages go by the socket.
pub const PACKET_LEN_MAX: usize = PACKET_BYTES - 8;
const PACKET_BYTES: usize = 4096;
const PACKET_WORDS: usize = PACKET_BYTES / 8;

/// Word of the producer's position: packets ever put in.
const TAIL: usize = 0;
/// Word of the consumer's position: packets ever taken out.
const HEAD: usize = 8;
/// Word of the consumer's flag: 1 while it sleeps or is about to.
const ASLEEP: usize = 16;
/// First word of the packets: each its length in bytes, then its bytes.
const SLOTS: usize = 24;

/// Words of a ring.
pub const WORDS: usize = SLOTS + PACKETS * PACKET_WORDS;

/// The other side broke the rules of the ring; it is not to be read any more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Broken;

/// What became of a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pushed {
    /// It is in the ring, and the consumer is looking.
    Seen,
    /// It is in the ring, and the consumer sleeps: wake it by the socket.
    Wake,
    /// There is no room, or it is too long: send it by the socket.
    No,
}

fn slot(position: u64) -> usize {
    #[expect(clippy::cast_possible_truncation, reason = "taken modulo the number of packets")]
    let place = position as usize % PACKETS;
    SLOTS + place * PACKET_WORDS
}

/// The side that puts packets in.
#[derive(Debug)]
pub struct Producer<W> {
    words: W,
    tail: u64,
}

impl<W: Words> Producer<W> {
    /// The producer of a fresh, zeroed ring.
    pub fn new(words: W) -> Producer<W> {
        Producer { words, tail: 0 }
    }

    /// Puts a packet in.
    pub fn push(&mut self, packet: &[u8]) -> Pushed {
        // Acquire pairs with the Release of the head in `pop`: the consumer has read what we are about to write over.
        let head = self.words.load(HEAD, Ordering::Acquire);
        let in_ring = self.tail.wrapping_sub(head);
        if packet.len() > PACKET_LEN_MAX || in_ring >= PACKETS as u64 {
            return Pushed::No;
        }
        let slot = slot(self.tail);
        self.words.store(slot, packet.len() as u64, Ordering::Relaxed);
        for (word, bytes) in (slot + 1..).zip(packet.chunks(8)) {
            let mut padded = [0; 8];
            padded[..bytes.len()].copy_from_slice(bytes);
            self.words.store(word, u64::from_le_bytes(padded), Ordering::Relaxed);
        }
        self.tail = self.tail.wrapping_add(1);
        // Pairs with the Acquire of the tail in `pop`.
        self.words.store(TAIL, self.tail, Ordering::Release); // mutate: ring-publish-release => self.words.store(TAIL, self.tail, Ordering::Relaxed);
        // Orders the packet before the look at the flag; pairs with the fence in `may_sleep`.
        fence(Ordering::SeqCst); // mutate: ring-push-fence
        if self.words.load(ASLEEP, Ordering::Relaxed) == 0 { Pushed::Seen } else { Pushed::Wake }
    }
}

/// The side that takes packets out.
#[derive(Debug)]
pub struct Consumer<W> {
    words: W,
    head: u64,
}

impl<W: Words> Consumer<W> {
    /// The consumer of a fresh, zeroed ring.
    pub fn new(words: W) -> Consumer<W> {
        Consumer { words, head: 0 }
    }

    /// Whether a packet may be there. Cheap: for looking again and again.
    #[inline]
    pub fn looks_filled(&self) -> bool {
        self.words.load(TAIL, Ordering::Relaxed) != self.head
    }

    /// Takes the next packet out into `packet`; false when there is none.
    pub fn pop(&mut self, packet: &mut Vec<u8>) -> Result<bool, Broken> {
        // Acquire pairs with the Release of the tail in `push`: the packet was written before.
        let tail = self.words.load(TAIL, Ordering::Acquire);
        match tail.wrapping_sub(self.head) {
            0 => return Ok(false),
            filled if filled > PACKETS as u64 => return Err(Broken),
            _ => {}
        }
        let slot = slot(self.head);
        let len = usize::try_from(self.words.load(slot, Ordering::Relaxed)).map_err(|_| Broken)?;
        if len > PACKET_LEN_MAX {
            return Err(Broken);
        }
        packet.clear();
        for word in slot + 1..slot + 1 + len.div_ceil(8) {
            packet.extend_from_slice(&self.words.load(word, Ordering::Relaxed).to_le_bytes());
        }
        packet.truncate(len);
        self.head = self.head.wrapping_add(1);
        // Pairs with the Acquire of the head in `push`.
        self.words.store(HEAD, self.head, Ordering::Release); // mutate: ring-consume-release => self.words.store(HEAD, self.head, Ordering::Relaxed);
        Ok(true)
    }

    /// Says that we are about to sleep and looks once more. True when the ring was empty: from then on whoever puts a
    /// packet in sends a message too. False when something came; we are awake again.
    pub fn may_sleep(&self) -> bool {
        self.words.store(ASLEEP, 1, Ordering::Relaxed); // mutate: ring-sleep-flag
        // Orders the flag before the last look; pairs with the fence in `push`.
        fence(Ordering::SeqCst); // mutate!: ring-sleep-fence
        let empty = !self.looks_filled(); // mutate: ring-sleep-recheck => let empty = true;
        if !empty {
            self.awake();
        }
        empty
    }

    /// Says that we are looking again.
    pub fn awake(&self) {
        self.words.store(ASLEEP, 0, Ordering::Relaxed);
    }
}
