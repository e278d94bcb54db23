//! What the tier knows of its files, in memory: which there are, what they take, which goes next. No input or output in
//! here; whoever holds the lock only counts.
//!
//! A block costs about 60 bytes: 24 for its record, 24 in the eviction's order, 5 to 10 in the table by hash; after
//! the vectors have just doubled up to twice that, and up to 16 more for the memory of what went. Names are not kept: a
//! file says its own.
//!
//! *Room* is counted from before a file is begun until after it is unlinked: `used` is what files take, those included
//! that are doomed and not unlinked yet; `reserved` what is being written. Their sum never exceeds the capacity.
//!
//! Every change has a ticket. A removal that meets a block in the making leaves its ticket as the *floor* of that place:
//! nothing that was begun before may be published there afterwards.

mod groups;

use std::collections::HashMap;

use hashbrown::HashTable;

use super::DiskFigures;
use super::place::Place;
use crate::cache::eviction::S3Fifo;
use groups::Groups;

/// Blocks at most: the index file that lists them stays below 2 GiB.
pub(super) const BLOCKS_MAX: usize = 1 << 26;
/// Records that one step of a sweep looks at.
const SWEEP_STEP: usize = 4096;
/// A record that is none.
const VACANT: u32 = u32::MAX;

/// A block that is there.
#[derive(Clone, Copy, Debug)]
struct Record {
    /// Two words, since a `u128` would be aligned to sixteen bytes.
    hash: [u64; 2],
    group: u32,
    /// Tells a block of a place from the next, shifted; the lowest bit says that this agent kept it.
    stamp: u32,
}

const _: () = assert!(size_of::<Record>() == 24, "one record per block: keep it small");

impl Record {
    fn hash(&self) -> u128 {
        u128::from(self.hash[0]) << 64 | u128::from(self.hash[1])
    }
}

/// A file to be unlinked.
#[derive(Clone, Copy, Debug)]
struct Doomed {
    group: u64,
    bytes: u64,
}

/// Blocks in the making at one place.
#[derive(Debug)]
struct Making {
    count: usize,
    group: u64,
    floor: u64,
}

/// A block in the making.
#[derive(Clone, Copy, Debug)]
pub(super) struct Ticket {
    pub(super) place: Place,
    number: u64,
}

/// Which block a place had when somebody looked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Seen {
    pub(super) place: Place,
    stamp: u32,
}

impl Seen {
    /// Whether this agent kept the block, or was told since that it is still right.
    pub(super) fn is_confirmed(self) -> bool {
        self.stamp & 1 == 1
    }

    /// Whether both are of one block.
    pub(super) fn is_same(self, other: Seen) -> bool {
        self.place == other.place && self.stamp >> 1 == other.stamp >> 1
    }
}

/// All that is known.
#[derive(Debug)]
pub(super) struct Ledger {
    capacity_bytes: u64,
    used_bytes: u64,
    reserved_bytes: u64,
    records: Vec<Record>,
    free: Vec<u32>,
    by_hash: HashTable<u32>,
    order: S3Fifo,
    groups: Groups,
    doomed: HashMap<u128, Doomed>,
    making: HashMap<u128, Making>,
    next_ticket: u64,
    next_stamp: u32,
    /// Where the sweep of ended groups goes on.
    sweep_at: usize,
    pub(super) counts: DiskFigures,
}

impl Ledger {
    /// Nothing in it but `base_bytes`, which the directories take.
    pub(super) fn new(capacity_bytes: u64, base_bytes: u64) -> Ledger {
        Ledger {
            capacity_bytes,
            used_bytes: base_bytes,
            reserved_bytes: 0,
            records: Vec::new(),
            free: Vec::new(),
            by_hash: HashTable::new(),
            order: S3Fifo::new(),
            groups: Groups::default(),
            doomed: HashMap::new(),
            making: HashMap::new(),
            next_ticket: 1,
            next_stamp: 0,
            sweep_at: 0,
            counts: DiskFigures::default(),
        }
    }

    /// The figures at this moment.
    pub(super) fn figures(&self) -> DiskFigures {
        DiskFigures {
            capacity_bytes: self.capacity_bytes,
            used_bytes: self.used_bytes + self.reserved_bytes,
            blocks: (self.by_hash.len() - self.groups.ended_blocks()) as u64,
            ..self.counts
        }
    }

    /// The block at a place, which counts as read if `touch`.
    pub(super) fn look(&mut self, place: Place, touch: bool) -> Option<Seen> {
        let id = self.id_of(place.hash)?;
        let record = self.records[id as usize];
        // Of two names with one hash the groups may differ.
        if self.groups.hash_of_live(record.group)? != place.group {
            return None;
        }
        if touch {
            self.order.touch(id);
        }
        Some(Seen { place, stamp: record.stamp })
    }

    /// Remembers that the block is right, if it is still there.
    pub(super) fn confirm(&mut self, seen: Seen) {
        if self.look(seen.place, false).is_some_and(|now| now.is_same(seen))
            && let Some(id) = self.id_of(seen.place.hash)
        {
            self.records[id as usize].stamp |= 1;
        }
    }

    /// Adds a block that was found at the start, oldest first. It is not confirmed. Whether there was place for it.
    pub(super) fn adopt(&mut self, place: Place, bytes: u64, was_main: bool) -> bool {
        // No sum of what files take passes this one.
        let Some(used_bytes) = self.used_bytes.checked_add(bytes) else { return false };
        if self.id_of(place.hash).is_some() || self.by_hash.len() >= BLOCKS_MAX {
            return false;
        }
        self.used_bytes = used_bytes;
        self.insert(place, bytes, was_main, false);
        true
    }

    /// Begins a block. To be ended by [`Ledger::end`]. `None` where something of another group has the hash: its file has
    /// another name, and would not be replaced.
    pub(super) fn begin(&mut self, place: Place) -> Option<Ticket> {
        let hash = place.hash;
        let record = self.id_of(hash).map(|id| self.groups.hash_of(self.records[id as usize].group));
        let doomed = self.doomed.get(&hash).map(|doomed| doomed.group);
        let making = self.making.get(&hash).map(|making| making.group);
        if [record, doomed, making].into_iter().flatten().any(|group| group != place.group) {
            return None;
        }
        let number = self.ticket();
        self.making.entry(hash).or_insert(Making { count: 0, group: place.group, floor: 0 }).count += 1;
        Some(Ticket { place, number })
    }

    /// Ends the making of a block, published or not.
    pub(super) fn end(&mut self, ticket: Ticket) {
        if let Some(making) = self.making.get_mut(&ticket.place.hash) {
            making.count -= 1;
            if making.count == 0 {
                self.making.remove(&ticket.place.hash);
            }
        }
    }

    /// Whether the block may still be published: nothing was published or removed there since it was begun.
    pub(super) fn is_current(&self, ticket: Ticket) -> bool {
        self.making.get(&ticket.place.hash).is_some_and(|making| making.floor < ticket.number)
    }

    /// Publishes a block whose file has just taken its place, with the room that was reserved for it. `false` when
    /// it may not be: then the file is doomed.
    pub(super) fn publish(&mut self, ticket: Ticket, reserved_bytes: u64, bytes: u64) -> bool {
        let hash = ticket.place.hash;
        // Whatever file was there before, this one took its name.
        if let Some(old) = self.doomed.remove(&hash) {
            self.used_bytes -= old.bytes;
        }
        if let Some(id) = self.id_of(hash) {
            self.used_bytes -= self.take(id).1;
        }
        self.reserved_bytes -= reserved_bytes;
        self.used_bytes += bytes;
        if !self.is_current(ticket) || self.by_hash.len() >= BLOCKS_MAX {
            self.doomed.insert(hash, Doomed { group: ticket.place.group, bytes });
            return false;
        }
        if let Some(making) = self.making.get_mut(&hash) {
            making.floor = ticket.number;
        }
        self.insert(ticket.place, bytes, false, true);
        true
    }

    /// Reserves what there is of `want_bytes`, and names files whose end would give the rest.
    pub(super) fn reserve(&mut self, want_bytes: u64) -> (u64, Vec<Place>) {
        let taken = self.used_bytes + self.reserved_bytes;
        let got = self.capacity_bytes.saturating_sub(taken).min(want_bytes);
        self.reserved_bytes += got;
        let missing = want_bytes - got + taken.saturating_sub(self.capacity_bytes);
        if missing == 0 {
            return (got, Vec::new());
        }
        let victims = self.victims(missing);
        (got, victims)
    }

    /// Files whose end gives `want_bytes`: doomed ones first, then blocks in the order of the eviction.
    pub(super) fn victims(&mut self, want_bytes: u64) -> Vec<Place> {
        let mut victims = Vec::new();
        let mut freed = 0;
        for (&hash, doomed) in &self.doomed {
            if freed >= want_bytes {
                return victims;
            }
            freed += doomed.bytes;
            victims.push(Place { hash, group: doomed.group });
        }
        while freed < want_bytes {
            let Some(id) = self.order.next_victim(&mut |_| false) else { break };
            let (place, bytes) = self.take(id);
            self.doomed.insert(place.hash, Doomed { group: place.group, bytes });
            self.counts.evictions += 1;
            freed += bytes;
            victims.push(place);
        }
        victims
    }

    /// How much more is taken than may be.
    pub(super) fn excess_bytes(&self) -> u64 {
        (self.used_bytes + self.reserved_bytes).saturating_sub(self.capacity_bytes)
    }

    /// Gives reserved room back.
    pub(super) fn give_back(&mut self, bytes: u64) {
        self.reserved_bytes -= bytes;
    }

    /// Takes a block away: no look finds it from now on, and nothing that was begun before will be. Whether there is, or
    /// may be, a file to unlink.
    pub(super) fn remove(&mut self, place: Place) -> bool {
        let number = self.ticket();
        let making = self.making.get_mut(&place.hash);
        let is_making = making.map(|making| making.floor = number).is_some();
        if let Some(id) = self.id_of(place.hash) {
            self.doom(id);
        }
        is_making || self.doomed.contains_key(&place.hash)
    }

    /// Takes a block away if it is still the one that was seen. Whether it was.
    pub(super) fn remove_seen(&mut self, seen: Seen) -> bool {
        let is_same = self.look(seen.place, false).is_some_and(|now| now.is_same(seen));
        is_same && self.remove(seen.place)
    }

    /// Takes all blocks of an incarnation away, in a time that does not depend on how many there are. Whether there
    /// is anything to sweep.
    pub(super) fn remove_group(&mut self, group: u64) -> bool {
        let number = self.ticket();
        for making in self.making.values_mut().filter(|making| making.group == group) {
            making.floor = number;
        }
        self.groups.end(group);
        self.has_doomed()
    }

    /// Whether files are left to unlink.
    pub(super) fn has_doomed(&self) -> bool {
        !self.doomed.is_empty() || self.groups.ended_blocks() > 0
    }

    /// Some of the files that are to be unlinked.
    pub(super) fn doomed(&mut self, most: usize) -> Vec<Place> {
        let mut looked = 0;
        while self.groups.ended_blocks() > 0 && self.doomed.len() < most && looked < SWEEP_STEP {
            looked += 1;
            self.sweep_at = if self.sweep_at + 1 < self.records.len() { self.sweep_at + 1 } else { 0 };
            let record = self.records[self.sweep_at];
            if record.group != VACANT && self.groups.hash_of_live(record.group).is_none() {
                #[expect(clippy::cast_possible_truncation, reason = "ids are below BLOCKS_MAX")]
                self.doom(self.sweep_at as u32);
            }
        }
        let doomed = self.doomed.iter().take(most);
        doomed.map(|(&hash, doomed)| Place { hash, group: doomed.group }).collect()
    }

    /// The name of the file at a place that is to be unlinked, if one is: another block may have taken it over.
    pub(super) fn is_doomed(&self, place: Place) -> Option<Place> {
        self.doomed.get(&place.hash).map(|doomed| Place { group: doomed.group, ..place })
    }

    /// The doomed file at a place is gone.
    pub(super) fn unlinked(&mut self, place: Place) {
        if let Some(doomed) = self.doomed.remove(&place.hash) {
            self.used_bytes -= doomed.bytes;
        }
    }

    /// All blocks in the order of the eviction, with what each takes and whether it proved itself.
    pub(super) fn blocks(&self) -> impl Iterator<Item = (Place, u64, bool)> {
        self.order.queued().filter_map(|(id, bytes, is_main)| {
            let record = self.records[id as usize];
            let group = self.groups.hash_of_live(record.group)?;
            Some((Place { hash: record.hash(), group }, bytes, is_main))
        })
    }

    fn ticket(&mut self) -> u64 {
        self.next_ticket += 1;
        self.next_ticket
    }

    fn id_of(&self, hash: u128) -> Option<u32> {
        let is_it = |id: &u32| self.records[*id as usize].hash() == hash;
        self.by_hash.find(short(hash), is_it).copied()
    }

    fn insert(&mut self, place: Place, bytes: u64, was_main: bool, is_confirmed: bool) {
        self.next_stamp = self.next_stamp.wrapping_add(2) & !1;
        let words = [short(place.hash >> 64), short(place.hash)];
        let group = self.groups.enter(place.group);
        let record = Record { hash: words, group, stamp: self.next_stamp | u32::from(is_confirmed) };
        let id = if let Some(id) = self.free.pop() {
            self.records[id as usize] = record;
            id
        } else {
            self.records.push(record);
            u32::try_from(self.records.len() - 1).expect("fewer blocks than BLOCKS_MAX")
        };
        let records = &self.records;
        self.by_hash.insert_unique(short(place.hash), id, |id| short(records[*id as usize].hash()));
        let fingerprint = short(place.hash >> 64);
        if was_main {
            self.order.reinsert(id, bytes, fingerprint);
        } else {
            self.order.insert(id, bytes, fingerprint);
        }
    }

    /// Takes a record out: where the block's file is and what it takes.
    fn take(&mut self, id: u32) -> (Place, u64) {
        let record = self.records[id as usize];
        let hash = record.hash();
        if let Ok(found) = self.by_hash.find_entry(short(hash), |other| *other == id) {
            found.remove();
        }
        let bytes = self.order.bytes_of(id);
        self.order.remove(id);
        let group = self.groups.leave(record.group);
        self.records[id as usize].group = VACANT;
        self.free.push(id);
        (Place { hash, group }, bytes)
    }

    fn doom(&mut self, id: u32) {
        let (place, bytes) = self.take(id);
        self.doomed.insert(place.hash, Doomed { group: place.group, bytes });
    }

    /// Counts everything again, and panics where the sums differ.
    #[cfg(test)]
    pub(super) fn validate(&self, base_bytes: u64) {
        self.order.validate();
        assert_eq!(self.order.len(), self.by_hash.len());
        assert_eq!(self.records.len(), self.by_hash.len() + self.free.len());
        let doomed: u64 = self.doomed.values().map(|doomed| doomed.bytes).sum();
        assert_eq!(self.used_bytes, base_bytes + self.order.bytes() + doomed);
        for (id, record) in self.records.iter().enumerate().filter(|(_, record)| record.group != VACANT) {
            assert_eq!(self.id_of(record.hash()), Some(u32::try_from(id).unwrap()));
            assert!(!self.doomed.contains_key(&record.hash()), "a block and a doomed file under one name");
        }
    }
}

/// Half of a hash, which is as good as a hash.
#[expect(clippy::cast_possible_truncation, reason = "the lower half is what is wanted")]
fn short(hash: u128) -> u64 {
    hash as u64
}
