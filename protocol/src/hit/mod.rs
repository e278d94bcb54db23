//! The hit path of a client: from a key to pinned bytes without a system call.
//!
//! A [`Reader`] belongs to one session. It owns the maps of the tenant's control area, index and segments and the
//! session's slot pages. Each thread that reads takes a stripe of a slot page for itself, so no two threads write the
//! same cache line. [`Reader::get`] either pins the block or says what is missing; what needs the agent is asked for by
//! the caller, who then tries again.

mod block;
mod segments;
mod stripe;
mod vector;

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::atomic::{AtomicU64, Ordering as Std};
use std::sync::{Arc, Mutex, PoisonError};

pub use block::PinnedBlock;
use block::Place;
use segments::{SegmentRef, Segments};
use stripe::{Local, Stripe, Stripes};

use crate::clock;
use crate::fork;
use crate::index::{Entry, Table};
use crate::key;
use crate::layout::{LAYOUT_MAGIC, block as block_layout, control, stripe as stripe_layout};
use crate::life::Watch;
use crate::memory::{Mapping, received_seals};
use crate::prefetch::prefetch;
use crate::slot::{self, Pinned};
use crate::sync::Ordering;
use crate::touch;
use crate::words::{MappedWords, Words};

/// How often a look-up is tried again when the index changes under it, before the agent is asked.
const RETRIES: usize = 4;

/// How a look-up in the map ended.
#[derive(Debug)]
pub enum Lookup {
    /// The block, pinned.
    Hit(PinnedBlock),
    /// Not in the index, expired, or changing too fast: the agent knows.
    AskAgent,
    /// The current table is not mapped: [`Reader::set_table`], then try again.
    NeedTable,
    /// A segment is not mapped: [`Reader::add_segment`], then try again.
    NeedSegment(u32),
    /// All slots are in use: [`Reader::add_slots`], then try again.
    NeedSlots,
    /// The process forked since the session began: a new session is needed.
    Forked,
    /// The agent has died: a new session is needed.
    AgentDied,
}

/// Why a pinned entry is not a hit.
#[derive(Clone, Copy)]
enum Unfit {
    AskAgent,
    NotMapped(u32),
}

impl From<Unfit> for Lookup {
    fn from(unfit: Unfit) -> Lookup {
        match unfit {
            Unfit::AskAgent => Lookup::AskAgent,
            Unfit::NotMapped(segment) => Lookup::NeedSegment(segment),
        }
    }
}

/// The descriptors that begin a session, as the agent sent them.
#[derive(Debug)]
pub struct Attachment {
    /// The page of [`crate::life`].
    pub life: OwnedFd,
    /// The tenant's control area.
    pub control: OwnedFd,
    /// The first slot page, not sealed yet.
    pub slots: OwnedFd,
    /// Stripes in it.
    pub stripes: usize,
    /// Whether the agent's kernel has `F_SEAL_FUTURE_WRITE`, so that its absence is an impostor's sign.
    pub future_write: bool,
}

/// A slot page that is mapped and not in use yet.
#[derive(Debug)]
pub struct SlotPage {
    mapping: Mapping,
}

impl SlotPage {
    /// Maps `len` bytes that the agent lent as a slot page.
    pub fn map(fd: impl AsFd, len: usize) -> io::Result<SlotPage> {
        Ok(SlotPage { mapping: Mapping::read_write(fd, len)? })
    }
}

/// The client's side of a session's shared memory.
#[derive(Debug)]
pub struct Reader {
    /// Unique in this process for ever, so that a thread's note of "my stripe of reader 7" can never be taken for
    /// another reader's.
    id: u64,
    born: u64,
    watch: Watch,
    control: MappedWords,
    seed: u64,
    future_write: bool,
    table: Mutex<Option<Arc<Table<MappedWords>>>>,
    segments: Arc<Segments>,
    stripes: Stripes,
}

static READERS: AtomicU64 = AtomicU64::new(1);

/// Starts bringing a block's key and first bytes into the cache.
#[inline(always)]
fn fetch_block(segment: Option<SegmentRef>, entry: &Entry) {
    let Some(segment) = segment else { return };
    // Only addresses for a prefetch, which may be any: the entry is not pinned or checked yet.
    let start = segment.start.wrapping_add(usize::try_from(entry.block.offset_bytes()).unwrap_or(0));
    prefetch(start.wrapping_add(block_layout::HEADER_BYTES));
    prefetch(start.wrapping_add(entry.payload_offset as usize));
}

impl Reader {
    /// Maps what the agent sent, after checking its seals. The caller then tells the agent that the slots are mapped and
    /// waits for its word before the first [`Reader::get`].
    pub fn attach(attachment: &Attachment) -> io::Result<Reader> {
        fork::watch()?;
        let future_write = attachment.future_write;
        received_seals(&attachment.control, control::BYTES, future_write)?;
        received_seals(&attachment.life, crate::layout::life::BYTES, future_write)?;
        let control_map = Arc::new(Mapping::read_only(&attachment.control, control::BYTES)?);
        let control_words = MappedWords::new(control_map, 0, control::BYTES / 8);
        let magic = control_words.load(control::MAGIC, Ordering::Acquire);
        if magic != LAYOUT_MAGIC {
            return Err(io::Error::new(
                io::ErrorKind::InvalidData,
                format!("the agent's memory layout is {magic:#x}, this library's is {LAYOUT_MAGIC:#x}"),
            ));
        }
        let seed = control_words.load(control::SEED, Ordering::Relaxed);
        let reader = Reader {
            id: READERS.fetch_add(1, Std::Relaxed),
            born: fork::generation(),
            watch: Watch::new(&attachment.life)?,
            control: control_words,
            seed,
            future_write,
            table: Mutex::new(None),
            segments: Arc::new(Segments::default()),
            stripes: Stripes::default(),
        };
        reader.add_slots(SlotPage::map(&attachment.slots, attachment.stripes * stripe_layout::BYTES)?);
        Ok(reader)
    }

    /// Whether the agent has died or this process has forked: the session is over.
    pub fn is_over(&self) -> bool {
        fork::is_frozen(self.born) || self.watch.is_dead()
    }

    /// Whether this process has forked since the session began.
    pub fn is_frozen(&self) -> bool {
        fork::is_frozen(self.born)
    }

    /// Adds a slot page. Only after the agent has said that it counts the page's pins: a block pinned in it before that
    /// could be written over.
    pub fn add_slots(&self, page: SlotPage) {
        let stripes = page.mapping.len() / stripe_layout::BYTES;
        self.stripes.add(&Arc::new(page.mapping), stripes, (self.id, self.born), &self.segments);
    }

    /// Installs the current index table.
    pub fn set_table(&self, fd: impl AsFd, len: usize) -> io::Result<()> {
        received_seals(&fd, len, self.future_write)?;
        let mapping = Arc::new(Mapping::read_only(fd, len)?);
        let words = MappedWords::new(mapping, 0, len / 8);
        let table = Table::attach(words)
            .ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, "the agent's index has an unknown layout"))?;
        *self.table.lock().unwrap_or_else(PoisonError::into_inner) = Some(Arc::new(table));
        Ok(())
    }

    /// Maps a segment.
    pub fn add_segment(&self, segment: u32, fd: impl AsFd, len: usize) -> io::Result<()> {
        received_seals(&fd, len, self.future_write)?;
        self.segments.add(segment, Arc::new(Mapping::read_only(fd, len)?));
        Ok(())
    }

    /// Slots that this process holds, and slots there are.
    pub fn slots(&self) -> (usize, usize) {
        self.stripes.in_use()
    }

    /// Lets go of the maps of segments that the agent has retired. Cheap when there is nothing to do; also part of the
    /// first look-up after a retirement. Returns the epoch, which moves with each retirement.
    pub fn drop_retired(&self) -> u64 {
        let epoch = self.control.load(control::EPOCH, Ordering::Acquire);
        self.segments.drop_retired(epoch, &self.control);
        epoch
    }

    /// Looks up `key` in incarnation `namespace` and pins its block.
    #[inline(always)]
    pub fn get(&self, namespace: u64, key: &[u8]) -> Lookup {
        if let Some(over) = self.over() {
            return over;
        }
        let hash = key::hash(self.seed, namespace, key);
        let Some(mut stripe) = self.last_stripe().or_else(|| self.find_stripe(1)) else {
            return Lookup::NeedSlots;
        };
        for _ in 0..RETRIES {
            // SAFETY: `last_stripe` and `find_stripe` return stripes that this thread owns, and the reference made in the
            // last round is not used any more.
            let local = unsafe { stripe.local() };
            let epoch = self.control.load(control::EPOCH, Ordering::Acquire);
            if epoch != local.epoch && !self.refresh(local, epoch) {
                touch::count(stripe.words(), stripe_layout::ASKED_UNMAPPED, 1);
                return Lookup::NeedTable;
            }
            let Some(slot) = stripe.take_slot(local) else {
                match self.find_stripe(1) {
                    Some(other) => stripe = other,
                    None => {
                        touch::count(stripe.words(), stripe_layout::ASKED_NO_SLOT, 1);
                        return Lookup::NeedSlots;
                    }
                }
                continue;
            };
            let Some(table) = local.table.as_deref() else {
                stripe.release(slot);
                return Lookup::NeedTable;
            };
            let remembered = &local.remembered;
            let fetch = |entry: &Entry| fetch_block(remembered.find(entry.block.segment()), entry);
            match slot::pin_with(table, &self.control, epoch, stripe.words(), slot, hash, fetch) {
                Pinned::Yes(entry) => {
                    return match self.accept(stripe, local, slot, &entry, namespace, key) {
                        Ok(place) => Lookup::Hit(PinnedBlock::new(stripe, slot, place)),
                        Err(unfit) => unfit.into(),
                    };
                }
                Pinned::Absent => {
                    stripe.release(slot);
                    touch::count(stripe.words(), stripe_layout::ASKED_ABSENT, 1);
                    return Lookup::AskAgent;
                }
                Pinned::Raced | Pinned::Stale => stripe.release(slot),
            }
        }
        touch::count(stripe.words(), stripe_layout::ASKED_RACED, 1);
        Lookup::AskAgent
    }

    /// Whether the session is over, and why.
    #[inline(always)]
    fn over(&self) -> Option<Lookup> {
        if fork::is_frozen(self.born) {
            return Some(Lookup::Forked);
        }
        self.watch.is_dead().then_some(Lookup::AgentDied)
    }

    /// Where a pinned entry's block is, or lets the pin go when it is not what was asked for.
    #[inline(always)]
    fn accept(
        &self,
        stripe: &Stripe,
        local: &mut Local,
        slot: usize,
        entry: &Entry,
        namespace: u64,
        key: &[u8],
    ) -> Result<Place, Unfit> {
        if entry.expiry_ns != 0 && clock::coarse_ns() >= entry.expiry_ns {
            stripe.release(slot);
            touch::count(stripe.words(), stripe_layout::ASKED_EXPIRED, 1);
            return Err(Unfit::AskAgent);
        }
        let Some(segment) = local.segment(entry.block.segment(), &self.segments) else {
            stripe.release(slot);
            touch::count(stripe.words(), stripe_layout::ASKED_UNMAPPED, 1);
            return Err(Unfit::NotMapped(entry.block.segment()));
        };
        let Some(place) = Place::of(segment, entry) else {
            // The entry names bytes outside its segment, which an honest agent never writes.
            stripe.release(slot);
            return Err(Unfit::AskAgent);
        };
        // SAFETY: the slot names the block, and this thread does not let it go before the comparison.
        let same = entry.namespace == namespace && unsafe { place.key() } == key; // mutate[tests]: hit-compare-key => let same = true;
        if !same {
            stripe.release(slot);
            touch::count(stripe.words(), stripe_layout::ASKED_ABSENT, 1);
            return Err(Unfit::AskAgent);
        }
        touch::count(stripe.words(), stripe_layout::HITS, 1);
        touch::count(stripe.words(), stripe_layout::HIT_BYTES, entry.len);
        touch::touch(stripe.words(), entry.block);
        Ok(place)
    }

    /// Catches up with a new epoch: the table, and what was retired. Returns false when the current table is not mapped.
    #[cold]
    fn refresh(&self, local: &mut Local, epoch: u64) -> bool {
        let wanted = self.control.load(control::TABLE_ID, Ordering::Relaxed);
        let current = self.table.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let Some(table) = current.filter(|table| table.id() == wanted) else {
            return false;
        };
        self.segments.drop_retired(epoch, &self.control);
        local.renew(epoch, table);
        true
    }
}
