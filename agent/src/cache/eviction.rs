//! Which block goes when a tenant is full: S3-FIFO with sizes.
//!
//! New blocks wait in a small queue. What was read more than once by the time it reaches the head
//! there moves to the main queue; the rest is evicted, and only a fingerprint stays behind in a
//! ghost queue. A block that comes back while its fingerprint is remembered goes straight to the
//! main queue, which gives every block that was read since another round. One pass over a large
//! data set therefore runs through the small queue and leaves the main queue as it was, even where
//! each block is read once after it was put.
//!
//! Shares are counted in bytes, because blocks differ in length by a factor of a million. There is
//! no capacity in here: the caller, who knows quotas and budgets, asks for victims until it has
//! room.

use ghost::Ghost;

mod ghost;
#[cfg(test)]
mod model;
#[cfg(test)]
mod tests;
#[cfg(test)]
mod trace;

/// The small queue gives the next victim while it holds at least one part in this many of all
/// bytes.
const SMALL_SHARE: u64 = 10;

/// Reads that are counted. More than a few would let a block that was hot long ago stay for long.
const FREQ_MAX: u8 = 3;

/// The end of a list, and so no valid id.
const NIL: u32 = u32::MAX;

/// Which queue a block is in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Queue {
    /// In none: never inserted, removed, or handed out as a victim.
    None,
    /// On probation since it was put.
    Small,
    /// Read repeatedly, or back soon after its eviction.
    Main,
}

/// What is known of one id. The links are ids too, so that a block leaves its queue at no more cost
/// than it takes to find it, and so that no unsafe code is needed.
#[derive(Clone, Copy, Debug)]
struct Entry {
    bytes: u64,
    fingerprint: u32,
    prev: u32,
    next: u32,
    queue: Queue,
    freq: u8,
}

const _: () = assert!(size_of::<Entry>() <= 24, "one entry per cached block: keep it small");

impl Entry {
    const VACANT: Self = Self { bytes: 0, fingerprint: 0, prev: NIL, next: NIL, queue: Queue::None, freq: 0 };
}

/// One queue: its ends, and what it holds.
#[derive(Debug)]
struct List {
    head: u32,
    tail: u32,
    len: usize,
    bytes: u64,
}

impl List {
    const EMPTY: Self = Self { head: NIL, tail: NIL, len: 0, bytes: 0 };
}

/// The eviction order of one tenant's blocks.
///
/// Ids are indices into the caller's slab: dense, and used again after `remove` or after the block
/// was handed out as a victim.
#[derive(Debug)]
pub(crate) struct S3Fifo {
    entries: Vec<Entry>,
    small: List,
    main: List,
    ghost: Ghost,
}

impl S3Fifo {
    /// No blocks, nothing remembered.
    pub(crate) fn new() -> Self {
        Self { entries: Vec::new(), small: List::EMPTY, main: List::EMPTY, ghost: Ghost::new() }
    }

    /// Queues a block that was just put. `fingerprint` is a hash of its key, the same every time
    /// that key is put; where it is remembered from an eviction the block is spared its probation.
    pub(crate) fn insert(&mut self, id: u32, bytes: u64, fingerprint: u64) {
        let fingerprint = ghost::fold(fingerprint);
        let queue = if self.ghost.take(fingerprint) { Queue::Main } else { Queue::Small };
        self.queue_new(id, bytes, fingerprint, queue);
    }

    /// Queues a victim again that could not go after all: it was pinned between the choice and the
    /// unpublishing, or was asked for and republished. Either is a use, so it goes to the tail of
    /// the main queue, and is no longer remembered as gone.
    pub(crate) fn reinsert(&mut self, id: u32, bytes: u64, fingerprint: u64) {
        let fingerprint = ghost::fold(fingerprint);
        self.ghost.take(fingerprint);
        self.queue_new(id, bytes, fingerprint, Queue::Main);
    }

    /// Counts a read. Ids come from rings that clients write, late or made up, so one that is not
    /// queued is ignored.
    pub(crate) fn touch(&mut self, id: u32) {
        if let Some(entry) = self.entries.get_mut(id as usize)
            && entry.queue != Queue::None
        {
            entry.freq = (entry.freq + 1).min(FREQ_MAX);
        }
    }

    /// Forgets a block that its owner deleted. It is not remembered: that it went says nothing
    /// about the room it needed. An id that is not queued, such as a victim's, is ignored.
    pub(crate) fn remove(&mut self, id: u32) {
        if self.contains(id) {
            self.unlink(id);
        }
    }

    /// Chooses the next block to go and takes it out of its queue; the caller evicts it or hands it
    /// to `reinsert`.
    ///
    /// `veto` says that a block cannot go now, because it is pinned. It is asked only about blocks
    /// that would be the victim, and its yes counts as a read just now: the block goes to the tail
    /// of the main queue. `None` means that every block was vetoed, or that there is none. A call
    /// looks at each block at most six times: once in the small queue, four times in the main
    /// queue, and once more in case the small queue had to be gone through to its end.
    pub(crate) fn next_victim(&mut self, veto: &mut dyn FnMut(u32) -> bool) -> Option<u32> {
        while self.small.len > 0 && self.small_is_over_share() {
            if let Some(id) = self.victim_from_small_head(veto) {
                return Some(id);
            }
        }
        if let Some(id) = self.victim_from_main(veto) {
            return Some(id);
        }
        // All of the main queue is pinned. Probation is no protection then, whatever its share.
        if self.small.len == 0 {
            return None;
        }
        while self.small.len > 0 {
            if let Some(id) = self.victim_from_small_head(veto) {
                return Some(id);
            }
        }
        // What the last loop promoted for its reads was never asked about.
        self.victim_from_main(veto)
    }

    /// Bytes of all queued blocks.
    pub(crate) fn bytes(&self) -> u64 {
        self.small.bytes + self.main.bytes
    }

    /// Bytes of a block that is queued, or was until it was handed out as a victim.
    pub(crate) fn bytes_of(&self, id: u32) -> u64 {
        self.entries.get(id as usize).map_or(0, |entry| entry.bytes)
    }

    /// All blocks with their bytes and whether they are past probation: those on probation first, each queue from its
    /// head.
    pub(crate) fn queued(&self) -> impl Iterator<Item = (u32, u64, bool)> {
        [(self.small.head, false), (self.main.head, true)].into_iter().flat_map(move |(head, is_main)| {
            let next = move |id: &u32| Some(self.entries[*id as usize].next).filter(|next| *next != NIL);
            let ids = std::iter::successors(Some(head).filter(|head| *head != NIL), next);
            ids.map(move |id| (id, self.entries[id as usize].bytes, is_main))
        })
    }

    /// Number of queued blocks.
    #[cfg(test)]
    pub(crate) fn len(&self) -> usize {
        self.small.len + self.main.len
    }

    /// Whether the block is queued.
    pub(crate) fn contains(&self, id: u32) -> bool {
        self.entries.get(id as usize).is_some_and(|entry| entry.queue != Queue::None)
    }

    fn small_is_over_share(&self) -> bool {
        self.small.bytes.saturating_mul(SMALL_SHARE) >= self.bytes()
    }

    /// Takes the head of the small queue, which must not be empty. It is the victim, and remembered
    /// as such, unless it was read more than once or is vetoed; then it is in the main queue
    /// afterwards. A single read does not count: a scan reads what it fetched.
    fn victim_from_small_head(&mut self, veto: &mut dyn FnMut(u32) -> bool) -> Option<u32> {
        let id = self.small.head;
        let stays = self.entries[id as usize].freq > 1 || veto(id);
        self.unlink(id);
        if stays {
            self.push_tail(id, Queue::Main);
            return None;
        }
        let fingerprint = self.entries[id as usize].fingerprint;
        self.ghost.remember(fingerprint, self.main.len);
        Some(id)
    }

    /// Goes around the main queue to the first block that was not read since it was last looked at
    /// and is not vetoed. Each round without a victim leaves the order as it was. There are at most
    /// four: three use up all the reads that were counted, and a round that found none has asked
    /// about every block.
    fn victim_from_main(&mut self, veto: &mut dyn FnMut(u32) -> bool) -> Option<u32> {
        let mut reads_are_left = true;
        while reads_are_left {
            reads_are_left = false;
            for _ in 0..self.main.len {
                let id = self.main.head;
                let freq = self.entries[id as usize].freq;
                let was_read = freq > 0;
                let is_victim = !was_read && !veto(id);
                self.unlink(id);
                if is_victim {
                    return Some(id);
                }
                self.push_tail(id, Queue::Main);
                self.entries[id as usize].freq = freq.saturating_sub(1);
                reads_are_left |= was_read;
            }
        }
        None
    }

    /// Fills the entry of `id` and appends it to a queue.
    fn queue_new(&mut self, id: u32, bytes: u64, fingerprint: u32, queue: Queue) {
        assert!(id != NIL, "id {id} is reserved");
        assert!(!self.contains(id), "id {id} is queued already");
        let index = id as usize;
        if index >= self.entries.len() {
            self.entries.resize(index + 1, Entry::VACANT);
        }
        self.entries[index].bytes = bytes;
        self.entries[index].fingerprint = fingerprint;
        self.push_tail(id, queue);
    }

    fn list_mut(&mut self, queue: Queue) -> &mut List {
        match queue {
            Queue::Small => &mut self.small,
            Queue::Main => &mut self.main,
            Queue::None => panic!("no list is kept of the ids that are not queued"),
        }
    }

    /// Appends an unlinked id, with no reads counted.
    fn push_tail(&mut self, id: u32, queue: Queue) {
        let bytes = self.entries[id as usize].bytes;
        let list = self.list_mut(queue);
        let prev = list.tail;
        list.tail = id;
        list.len += 1;
        list.bytes += bytes;
        if prev == NIL {
            list.head = id;
        } else {
            self.entries[prev as usize].next = id;
        }
        let entry = &mut self.entries[id as usize];
        entry.prev = prev;
        entry.next = NIL;
        entry.queue = queue;
        entry.freq = 0;
    }

    /// Takes a queued id out of its list.
    fn unlink(&mut self, id: u32) {
        let entry = &mut self.entries[id as usize];
        let Entry { bytes, prev, next, queue, .. } = *entry;
        entry.queue = Queue::None;
        if prev != NIL {
            self.entries[prev as usize].next = next;
        }
        if next != NIL {
            self.entries[next as usize].prev = prev;
        }
        let list = self.list_mut(queue);
        if prev == NIL {
            list.head = next;
        }
        if next == NIL {
            list.tail = prev;
        }
        list.len -= 1;
        list.bytes -= bytes;
    }

    /// Checks the links, counts and sums against each other, and panics where they differ.
    #[cfg(test)]
    pub(crate) fn validate(&self) {
        for (queue, list) in [(Queue::Small, &self.small), (Queue::Main, &self.main)] {
            let (mut prev, mut id, mut len, mut bytes) = (NIL, list.head, 0, 0);
            while id != NIL {
                let entry = &self.entries[id as usize];
                assert_eq!(entry.queue, queue, "queue of {id}");
                assert_eq!(entry.prev, prev, "link back of {id}");
                assert!(entry.freq <= FREQ_MAX, "reads of {id}: {}", entry.freq);
                len += 1;
                bytes += entry.bytes;
                prev = id;
                id = entry.next;
            }
            assert_eq!(list.tail, prev, "tail of {queue:?}");
            assert_eq!(list.len, len, "length of {queue:?}");
            assert_eq!(list.bytes, bytes, "bytes of {queue:?}");
        }
        let queued = self.entries.iter().filter(|entry| entry.queue != Queue::None);
        assert_eq!(self.len(), queued.count(), "entries in no list");
    }
}
