//! A tenant's slot pages: which blocks its readers pin, what they touched, what they counted.
//!
//! The kernel decides whether a page still matters: as long as any process has it open or mapped, its pins count, however
//! the session that it was made for ended.

use std::cmp::Reverse;
use std::collections::{BTreeMap, HashSet};
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use larder_protocol::layout::{BlockId, stripe};
use larder_protocol::memory::{Memfd, Others, Platform};
use larder_protocol::slot;
use larder_protocol::touch;
use larder_protocol::words::{MappedWords, Words};

use super::memory::Prepared;

/// Counters that clients keep in their stripes, summed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Claimed {
    pub(crate) hits: u64,
    pub(crate) hit_bytes: u64,
    pub(crate) asked_absent: u64,
    pub(crate) asked_raced: u64,
    pub(crate) asked_unmapped: u64,
    pub(crate) asked_expired: u64,
    pub(crate) asked_no_slot: u64,
}

impl Claimed {
    fn add(&mut self, words: &MappedWords) {
        let take = |sum: &mut u64, word| *sum = sum.wrapping_add(words.load(word, Ordering::Relaxed));
        take(&mut self.hits, stripe::HITS);
        take(&mut self.hit_bytes, stripe::HIT_BYTES);
        take(&mut self.asked_absent, stripe::ASKED_ABSENT);
        take(&mut self.asked_raced, stripe::ASKED_RACED);
        take(&mut self.asked_unmapped, stripe::ASKED_UNMAPPED);
        take(&mut self.asked_expired, stripe::ASKED_EXPIRED);
        take(&mut self.asked_no_slot, stripe::ASKED_NO_SLOT);
    }
}

#[derive(Debug)]
struct Page {
    session: u64,
    memory: u64,
    pid: i32,
    memfd: Memfd,
    stripes: Vec<(MappedWords, u64)>,
    /// Only a sealed page is read: before that its client could truncate it under us. It pins nothing before, because
    /// the client is told to begin only afterwards.
    sealed: bool,
    ended: bool,
}

/// Who pins how much.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Holder {
    pub(crate) pid: i32,
    pub(crate) orphan: bool,
    pub(crate) slots: u64,
    pub(crate) bytes: u64,
}

/// Holders that are named, those with the most: as many as surely fit a message.
const HOLDERS_MAX: usize = 1000;
/// Slots that may be read for figures as often as anybody asks.
const SLOTS_FREE: usize = 1 << 16;
/// Beyond that, a look for figures takes at most a part in twenty of the time in which everybody else could be served:
/// a slot takes about 20 ns to look up.
const REST_PER_SLOT: Duration = Duration::from_nanos(400);

/// All slot pages of a tenant.
#[derive(Debug, Default)]
pub(crate) struct Pins {
    pages: Vec<Page>,
    gone: Claimed,
    next_look: Option<Instant>,
    /// Until when `holders` may be said again.
    holders_until: Option<Instant>,
    holders: Vec<Holder>,
}

impl Pins {
    /// Puts a page on the list, before its descriptor is sent.
    pub(crate) fn add(&mut self, session: u64, memory: u64, pid: i32, prepared: Prepared) {
        let stripes = prepared.mapping.len() / stripe::BYTES;
        let stripes = (0..stripes)
            .map(|n| (MappedWords::new(prepared.mapping.clone(), n * stripe::BYTES, stripe::WORDS), 0))
            .collect();
        self.pages.push(Page { session, memory, pid, memfd: prepared.memfd, stripes, sealed: false, ended: false });
    }

    /// The page's memory, to be sent or sealed.
    pub(crate) fn memfd(&self, session: u64, memory: u64) -> Option<&Memfd> {
        self.pages.iter().find(|page| page.session == session && page.memory == memory).map(|page| &page.memfd)
    }

    /// From now on the page is read.
    pub(crate) fn sealed(&mut self, session: u64, memory: u64) {
        if let Some(page) = self.pages.iter_mut().find(|page| page.session == session && page.memory == memory) {
            page.sealed = true;
        }
    }

    /// Whether the page is read already.
    pub(crate) fn is_sealed(&self, session: u64, memory: u64) -> bool {
        self.pages.iter().any(|page| page.session == session && page.memory == memory && page.sealed)
    }

    /// Slots of a session.
    pub(crate) fn slots(&self, session: u64) -> usize {
        let pages = self.pages.iter().filter(|page| page.session == session);
        pages.map(|page| page.stripes.len() * stripe::SLOTS_LEN).sum()
    }

    /// Slots of all sessions.
    pub(crate) fn all_slots(&self) -> usize {
        self.pages.iter().map(|page| page.stripes.len() * stripe::SLOTS_LEN).sum()
    }

    /// Whether the slots may be read for figures now. If so, they are, and the next time is later the more there are: all
    /// users wait meanwhile.
    pub(crate) fn begin_look(&mut self, now: Instant) -> bool {
        let may = self.next_look.is_none_or(|next| now >= next);
        if may {
            self.next_look = self.rest(now);
        }
        may
    }

    fn rest(&self, now: Instant) -> Option<Instant> {
        let slots = self.all_slots();
        (slots > SLOTS_FREE).then(|| now + REST_PER_SLOT * u32::try_from(slots).unwrap_or(u32::MAX))
    }

    /// Every id of a block that exists and that some slot names now. To be called after the victims are out of the
    /// index: the fence is here.
    pub(crate) fn scan(&self, exists: impl Fn(BlockId) -> bool) -> HashSet<BlockId> {
        slot::before_scan();
        let mut pinned = HashSet::new();
        for (words, _) in self.pages.iter().filter(|page| page.sealed).flat_map(|page| &page.stripes) {
            slot::scan(words, |id| {
                if exists(id) {
                    pinned.insert(id);
                }
            });
        }
        pinned
    }

    /// Takes the touches noted since the last drain.
    pub(crate) fn drain(&mut self, mut touched: impl FnMut(BlockId)) {
        for (words, head) in self.pages.iter_mut().filter(|page| page.sealed).flat_map(|page| &mut page.stripes) {
            *head = touch::drain(words, *head, &mut touched).head;
        }
    }

    /// The session has ended. `process_gone` says that its process has too, for kernels that cannot answer who else has
    /// a page mapped.
    pub(crate) fn end_session(&mut self, session: u64, process_gone: bool, platform: &Platform) -> u64 {
        self.pages.iter_mut().filter(|page| page.session == session).for_each(|page| page.ended = true);
        self.drop_ended(platform, |page_session| page_session == session && process_gone)
    }

    /// Drops the pages of ended sessions that nobody has any more; returns their bytes.
    pub(crate) fn drop_orphans(&mut self, platform: &Platform) -> u64 {
        self.drop_ended(platform, |_| false)
    }

    fn drop_ended(&mut self, platform: &Platform, gone_if_unknown: impl Fn(u64) -> bool) -> u64 {
        let mut freed = 0;
        let gone = &mut self.gone;
        self.pages.retain(|page| {
            let drop = page.ended
                && match page.memfd.others(platform) {
                    Others::None => true,
                    Others::Some => false,
                    Others::Unknown => gone_if_unknown(page.session),
                };
            if drop {
                // Its client may have truncated a page that was never sealed: reading it would end the agent.
                if page.sealed {
                    page.stripes.iter().for_each(|(words, _)| gone.add(words));
                }
                freed += page.memfd.len() as u64;
            }
            !drop
        });
        freed
    }

    pub(crate) fn orphans(&self) -> usize {
        self.pages.iter().filter(|page| page.ended).count()
    }

    /// Sums of what clients counted, of sessions past and present.
    pub(crate) fn claimed(&self) -> Claimed {
        let mut sum = self.gone;
        for (words, _) in self.pages.iter().filter(|page| page.sealed).flat_map(|page| &page.stripes) {
            sum.add(words);
        }
        sum
    }

    /// Which processes pin how much, the most first, as of a short while ago if there are many slots; `bytes_of` gives the size of a block.
    pub(crate) fn holders(&mut self, now: Instant, bytes_of: impl Fn(BlockId) -> u64) -> &[Holder] {
        if self.holders_until.is_none_or(|until| now >= until) {
            self.holders_until = self.rest(now);
            let mut holders: BTreeMap<(i32, bool), Holder> = BTreeMap::new();
            for page in self.pages.iter().filter(|page| page.sealed) {
                let new = Holder { pid: page.pid, orphan: page.ended, slots: 0, bytes: 0 };
                let holder = holders.entry((page.pid, page.ended)).or_insert(new);
                for (words, _) in &page.stripes {
                    slot::scan(words, |id| {
                        holder.slots += 1;
                        holder.bytes += bytes_of(id);
                    });
                }
            }
            self.holders = holders.into_values().filter(|holder| holder.slots > 0).collect();
            self.holders.sort_by_key(|holder| Reverse((holder.bytes, holder.slots)));
            self.holders.truncate(HOLDERS_MAX);
        }
        &self.holders
    }
}
