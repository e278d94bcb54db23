//! A tenant's region as an agent makes it, small enough for one test.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use larder_protocol::checksum::{Checksums, crc64};
use larder_protocol::hit::{Attachment, Reader, SlotPage};
use larder_protocol::index::{Entry, Table};
use larder_protocol::key;
use larder_protocol::layout::{BlockId, BlockShape, LAYOUT_MAGIC, block, control, stripe, table};
use larder_protocol::life::Beacon;
use larder_protocol::memory::{HugePages, Mapping, Memfd, Platform, Seals};
use larder_protocol::slot;
use larder_protocol::touch::{self, Drained};
use larder_protocol::words::{MappedWords, Words};

pub(crate) const NAMESPACE: u64 = 3;
pub(crate) const SEGMENT: u32 = 9;
pub(crate) const STRIPES: usize = 2;
const SEED: u64 = 5;
const SEGMENT_LEN: usize = 1 << 20;
const CAPACITY: usize = 1024;

pub(crate) struct Region {
    pub(crate) platform: Platform,
    pub(crate) beacon: Option<Beacon>,
    pub(crate) control: MappedWords,
    pub(crate) table: Table<MappedWords>,
    pub(crate) segment: Memfd,
    control_memfd: Memfd,
    table_memfd: Memfd,
    slots: Memfd,
    slot_words: Vec<MappedWords>,
    segment_map: Mapping,
    next_offset: usize,
    generation: u64,
}

fn memory(len: usize, platform: &Platform) -> (Memfd, Arc<Mapping>) {
    let memfd = Memfd::create(c"region", len, HugePages::Off, platform).unwrap();
    let mapping = Mapping::read_write(&memfd, len).unwrap();
    mapping.populate_by_touch(0, len);
    (memfd, Arc::new(mapping))
}

fn make_table(id: u64, platform: &Platform) -> (Memfd, Table<MappedWords>) {
    let len = table::bytes(CAPACITY);
    let (memfd, mapping) = memory(len, platform);
    memfd.seal(Seals::Final, platform).unwrap();
    (memfd, Table::create(MappedWords::new(mapping, 0, len / 8), id, CAPACITY))
}

impl Region {
    pub(crate) fn new() -> Region {
        let platform = Platform::detect(&[]).unwrap();
        let (control_memfd, mapping) = memory(control::BYTES, &platform);
        control_memfd.seal(Seals::Final, &platform).unwrap();
        let control = MappedWords::new(mapping, 0, control::BYTES / 8);
        control.store(control::SEED, SEED, Ordering::Relaxed);
        control.store(control::DIRECTORY_USED, 1, Ordering::Relaxed);
        control.store(control::DIRECTORY, u64::from(SEGMENT), Ordering::Relaxed);
        control.store(control::MAGIC, LAYOUT_MAGIC, Ordering::Release);
        let (table_memfd, table) = make_table(1, &platform);
        slot::publish_table(&control, 1);
        let (segment, segment_map) = memory(SEGMENT_LEN, &platform);
        segment.seal(Seals::Final, &platform).unwrap();
        let (slots, mapping) = memory(STRIPES * stripe::BYTES, &platform);
        let slot_words =
            (0..STRIPES).map(|n| MappedWords::new(Arc::clone(&mapping), n * stripe::BYTES, stripe::WORDS)).collect();
        Region {
            platform,
            beacon: Some(Beacon::light(&platform).unwrap()),
            control,
            table,
            segment,
            control_memfd,
            table_memfd,
            slots,
            slot_words,
            segment_map: Arc::into_inner(segment_map).unwrap(),
            next_offset: 0,
            generation: 0,
        }
    }

    pub(crate) fn attachment(&self) -> Attachment {
        Attachment {
            life: self.beacon.as_ref().unwrap().description().unwrap(),
            control: self.control_memfd.description(false).unwrap(),
            slots: self.slots.description(true).unwrap(),
            stripes: STRIPES,
            future_write: self.platform.future_write_seal,
        }
    }

    /// A session that has mapped everything.
    pub(crate) fn reader(&self) -> Reader {
        let reader = Reader::attach(&self.attachment()).unwrap();
        self.give_table(&reader);
        self.give_segment(&reader);
        reader
    }

    pub(crate) fn give_table(&self, reader: &Reader) {
        reader.set_table(self.table_memfd.description(false).unwrap(), table::bytes(CAPACITY)).unwrap();
    }

    pub(crate) fn give_segment(&self, reader: &Reader) {
        reader.add_segment(SEGMENT, self.segment.description(false).unwrap(), SEGMENT_LEN).unwrap();
    }

    pub(crate) fn give_more_slots(&self, reader: &Reader) {
        let (memfd, _) = memory(stripe::BYTES, &self.platform);
        reader.add_slots(SlotPage::map(memfd.description(true).unwrap(), stripe::BYTES).unwrap());
    }

    /// Publishes a table that holds what the present one holds.
    pub(crate) fn grow(&mut self) {
        let id = self.table.id() + 1;
        let (memfd, larger) = make_table(id, &self.platform);
        (0..CAPACITY).filter_map(|place| self.table.entry_at(place)).for_each(|entry| larger.insert(&entry).unwrap());
        slot::publish_table(&self.control, id);
        (self.table_memfd, self.table) = (memfd, larger);
    }

    /// Writes a block of `key` and returns its entry, not published yet.
    pub(crate) fn write(&mut self, key: &str, payload: &[u8]) -> Entry {
        let shape = BlockShape::new(key.len(), payload.len() as u64);
        let start = self.next_offset.next_multiple_of(usize::try_from(shape.align).unwrap());
        let at = |offset: u64| start + usize::try_from(offset).unwrap();
        let checksums = Checksums::of(payload);
        let words = [
            block::MAGIC_VALUE,
            NAMESPACE,
            payload.len() as u64,
            (key.len() as u64) << 32 | shape.payload_offset,
            checksums.summary(),
            1_700_000_000_000,
        ];
        let covered: Vec<u8> = words.iter().flat_map(|word| word.to_le_bytes()).chain(key.bytes()).collect();
        words.iter().enumerate().for_each(|(word, value)| self.segment_map.write_word(start + word * 8, *value));
        self.segment_map.write_word(start + block::HEADER_CHECKSUM * 8, crc64(&covered));
        self.segment_map.copy_in(start + block::HEADER_BYTES, key.as_bytes());
        self.segment_map.copy_in(at(shape.payload_offset), payload);
        self.next_offset = at(shape.total_len);
        self.generation += 1;
        Entry {
            generation: self.generation,
            hash: key::hash(SEED, NAMESPACE, key.as_bytes()),
            block: BlockId::new(SEGMENT, start as u64),
            len: payload.len() as u64,
            expiry_ns: 0,
            payload_offset: u32::try_from(shape.payload_offset).unwrap(),
            key_len: u32::try_from(key.len()).unwrap(),
            namespace: NAMESPACE,
        }
    }

    pub(crate) fn put(&mut self, key: &str, payload: &[u8]) -> Entry {
        let entry = self.write(key, payload);
        self.table.insert(&entry).unwrap();
        entry
    }

    /// Publishes a block of `key` under the hash of `other`, as if the two keys had one hash.
    pub(crate) fn put_under_hash_of(&mut self, other: &str, key: &str) {
        let hash = key::hash(SEED, NAMESPACE, other.as_bytes());
        let entry = Entry { hash, ..self.write(key, b"bytes of another key") };
        self.table.insert(&entry).unwrap();
    }

    /// What the session's slots name.
    pub(crate) fn pinned(&self) -> Vec<BlockId> {
        let mut pinned = Vec::new();
        self.slot_words.iter().for_each(|words| slot::scan(words, |block| pinned.push(block)));
        pinned
    }

    /// Sum over the stripes of one counter.
    pub(crate) fn counted(&self, counter: usize) -> u64 {
        self.slot_words.iter().map(|words| words.load(counter, Ordering::Relaxed)).sum()
    }

    /// What the touch ring of the first stripe holds since `last_head`.
    pub(crate) fn drain(&self, last_head: u64) -> (Drained, Vec<BlockId>) {
        let mut touched = Vec::new();
        let drained = touch::drain(&self.slot_words[0], last_head, |block| touched.push(block));
        (drained, touched)
    }
}
