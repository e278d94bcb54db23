//! A block's way to the disk: room, a file, its place.

use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::crew::{Gate, PATIENCE};
use super::file::{self, New};
use super::ledger::Ticket;
use super::trailer::NAME_BYTES_MAX;
use super::{Disk, Inner, is_full};
use crate::pieces::WRITE_LANES;
use crate::store::{Entry, Memory, StoreError};

/// How often others may take the room that was just made.
const MOST_TRIES: usize = 8;
/// A block takes at most one part in this many of the capacity: it would turn out too much else.
const LARGEST_SHARE: u64 = 2;

/// Room that is reserved, until it is dropped or a block takes it over.
struct Room<'i> {
    inner: &'i Inner,
    bytes: u64,
}

impl Drop for Room<'_> {
    fn drop(&mut self) {
        self.inner.ledger().give_back(self.bytes);
    }
}

/// A block in the making, known to removals until it is dropped.
pub(super) struct Making {
    inner: Arc<Inner>,
    pub(super) ticket: Ticket,
}

impl Drop for Making {
    fn drop(&mut self) {
        self.inner.ledger().end(self.ticket);
    }
}

/// What is written.
pub(super) struct Block {
    name: String,
    head: Vec<u8>,
    payload: Option<Memory>,
    len_bytes: u64,
}

impl Disk {
    /// Keeps a block: whole or not at all. Takes the place of an older one. `false` when it is not kept: too large, no
    /// room to be had, too much to do, or removed meanwhile. The memory is not read any more when this returns.
    ///
    /// Counts as begun when it is called, not when it is first polled: a later removal wins.
    pub(crate) fn keep(
        &self,
        name: &str,
        entry: &Entry,
        payload: Memory,
    ) -> impl Future<Output = Result<bool, StoreError>> + Send + use<> {
        let disk = self.clone();
        let begun = disk.begin(name, entry, payload);
        async move {
            let kept = match begun {
                Ok(Some((making, block))) => disk.write(making, block).await,
                Ok(None) => Ok(false),
                Err(error) => Err(error),
            };
            if !matches!(kept, Ok(true)) {
                disk.inner.ledger().counts.not_admitted += 1;
            }
            kept
        }
    }

    /// Begins a block, if there is any chance for it.
    pub(super) fn begin(
        &self,
        name: &str,
        entry: &Entry,
        payload: Memory,
    ) -> Result<Option<(Making, Block)>, StoreError> {
        let inner = &self.inner;
        payload.range()?;
        let place = inner.place(name).filter(|_| name.len() <= NAME_BYTES_MAX);
        let Some(place) = place else {
            return Err(StoreError::Failed(format!("{name:?} is no name of a block; please report it")));
        };
        if payload.len_bytes != entry.len_bytes {
            let (given, len) = (payload.len_bytes, entry.len_bytes);
            return Err(StoreError::Failed(format!("{given} bytes are no payload of {len}; please report it")));
        }
        if inner.is_closed.load(Ordering::SeqCst) || inner.is_emptying.load(Ordering::SeqCst) {
            return Ok(None);
        }
        let head = entry.head();
        let payload = (payload.len_bytes > 0).then_some(payload);
        let block = Block { name: name.to_owned(), head, payload, len_bytes: entry.len_bytes };
        let mut ledger = inner.ledger();
        if inner.charge(&block) > ledger.figures().capacity_bytes / LARGEST_SHARE {
            return Ok(None);
        }
        let ticket = ledger.begin(place);
        drop(ledger);
        Ok(ticket.map(|ticket| (Making { inner: Arc::clone(inner), ticket }, block)))
    }

    async fn write(&self, making: Making, block: Block) -> Result<bool, StoreError> {
        // A removal that could not wait for the disk, or that nobody waited for.
        self.sweep();
        let Some(may_write) = self.inner.crew.may_write() else { return Ok(false) };
        let (gate, name, len_bytes) = (Gate::new(), block.name.clone(), block.len_bytes);
        let extra = file::extra_lanes(len_bytes, WRITE_LANES);
        let work_gate = Arc::clone(&gate);
        let work = move |extra| {
            let written = making.inner.keep(making.ticket, &block, &work_gate, extra);
            drop((making, may_write));
            written
        };
        match self.inner.crew.run(&gate, PATIENCE, extra, work).await {
            Ok(Ok(kept)) => {
                let mut ledger = self.inner.ledger();
                ledger.counts.writes += u64::from(kept);
                ledger.counts.write_bytes += if kept { len_bytes } else { 0 };
                Ok(kept)
            }
            Ok(Err(error)) if is_full(&error) => {
                self.inner.failed("keep", &name, &error);
                Ok(false)
            }
            Ok(Err(error)) => {
                self.inner.failed("keep", &name, &error);
                Err(StoreError::Failed(format!("cannot keep {name} on the disk: {error}")))
            }
            Err(busy) => {
                self.inner.hung("keep", &name, busy);
                Ok(false)
            }
        }
    }
}

impl Inner {
    /// Room that a block takes, as far as that can be told before.
    fn charge(&self, block: &Block) -> u64 {
        file::charge(file::file_len(&block.head, block.len_bytes, &block.name), 0, self.root.block_bytes)
    }

    /// Writes a block and publishes it. Whether it is there. Blocks.
    pub(super) fn keep(&self, ticket: Ticket, block: &Block, gate: &Gate, extra: usize) -> io::Result<bool> {
        let mut room = Room { inner: self, bytes: 0 };
        let want = self.charge(block);
        if !self.make_room(&mut room, want, gate)? {
            return Ok(false);
        }
        let (new, bytes) = match self.write_new(ticket, block, gate, extra) {
            Err(error) if is_full(&error) => {
                // Others fill the file system. What is ours makes way for what is ours.
                let victims = self.ledger().victims(want);
                self.unlink_all(&victims, gate)?;
                self.write_new(ticket, block, gate, extra)?
            }
            written => written?,
        };
        // While the gate is open the memory was the block's: all that was written is.
        if !gate.is_open() || (bytes > want && !self.make_room(&mut room, bytes, gate)?) {
            return Ok(false);
        }
        let _stripe = self.stripe(ticket.place);
        if !self.ledger().is_current(ticket) {
            return Ok(false);
        }
        new.publish(ticket.place)?;
        let mut ledger = self.ledger();
        let is_kept = ledger.publish(ticket, std::mem::take(&mut room.bytes), bytes);
        if !is_kept {
            // Removed in this very moment: the removal waits for the stripe, and must find the file gone.
            drop(ledger);
            file::unlink(&self.root, ticket.place)?;
            self.ledger().unlinked(ticket.place);
        }
        Ok(is_kept)
    }

    fn write_new(&self, ticket: Ticket, block: &Block, gate: &Gate, extra: usize) -> io::Result<(New<'_>, u64)> {
        let new = New::create(&self.root, ticket.place)?;
        let bytes = new.write(&block.head, block.payload.as_ref(), &block.name, gate, extra)?;
        Ok((new, bytes))
    }

    /// Makes the room `want_bytes` large. Whether it is. Blocks.
    fn make_room(&self, room: &mut Room<'_>, want_bytes: u64, gate: &Gate) -> io::Result<bool> {
        for _ in 0..MOST_TRIES {
            let (got, victims) = self.ledger().reserve(want_bytes.saturating_sub(room.bytes));
            room.bytes += got;
            if victims.is_empty() {
                return Ok(room.bytes >= want_bytes);
            }
            self.unlink_all(&victims, gate)?;
        }
        Ok(false)
    }

    fn unlink_all(&self, victims: &[super::Place], gate: &Gate) -> io::Result<()> {
        for victim in victims {
            self.unlink(*victim)?;
            gate.beat();
        }
        Ok(())
    }
}
