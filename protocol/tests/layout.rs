//! `docs/layout.md` against the code: every offset, every number, the worked examples, and a hash of `layout.rs`, so that
//! neither can change alone.
#![cfg(not(loom))]

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicU64, Ordering};

use larder_protocol::checksum::{Checksums, crc64};
use larder_protocol::index::{Entry, Table};
use larder_protocol::key;
use larder_protocol::layout::{
    BlockId, BlockShape, LAYOUT_MAGIC, LINE_BYTES, LINE_WORDS, PAGE_BYTES, block, control, life, stripe, table,
};
use larder_protocol::ring::{self, Consumer, Producer, Pushed};
use larder_protocol::slot;
use larder_protocol::touch;
use larder_protocol::words::Words;

const DOCUMENT: &str = include_str!("../../docs/layout.md");
const SOURCE: &str = include_str!("../src/layout.rs");

/// Words of this process.
struct PlainWords(Vec<AtomicU64>);

impl PlainWords {
    fn new(len: usize) -> PlainWords {
        PlainWords((0..len).map(|_| AtomicU64::new(0)).collect())
    }

    fn bytes(&self) -> Vec<u8> {
        self.0.iter().flat_map(|word| word.load(Ordering::Relaxed).to_le_bytes()).collect()
    }
}

impl Words for &PlainWords {
    fn load(&self, index: usize, order: Ordering) -> u64 {
        self.0[index].load(order)
    }
    fn store(&self, index: usize, value: u64, order: Ordering) {
        self.0[index].store(value, order);
    }
    fn len(&self) -> usize {
        self.0.len()
    }
}

/// Every constant of `layout.rs` by name.
macro_rules! constants {
    ($($($name:ident)::+),* $(,)?) => {
        [$((stringify!($($name)::+).replace(' ', ""), $($name)::+ as u64)),*].into_iter().collect()
    };
}

/// Those that are word offsets, documented in bytes.
fn offsets() -> BTreeMap<String, u64> {
    constants![
        control::MAGIC,
        control::EPOCH,
        control::TABLE_ID,
        control::SEED,
        control::INSTANCE,
        control::DIRECTORY_USED,
        control::DIRECTORY,
        life::FUTEX,
        table::MAGIC,
        table::TABLE_ID,
        table::CAPACITY,
        table::ENTRIES,
        table::GENERATION,
        table::HASH_LOW,
        table::HASH_HIGH,
        table::BLOCK,
        table::LEN,
        table::EXPIRY,
        table::SHAPE,
        table::NAMESPACE,
        block::MAGIC,
        block::NAMESPACE,
        block::LEN,
        block::SHAPE,
        block::CHECKSUM,
        block::CREATED_MS,
        block::HEADER_CHECKSUM,
        block::RESERVED,
        stripe::TOUCH_HEAD,
        stripe::HITS,
        stripe::HIT_BYTES,
        stripe::ASKED_ABSENT,
        stripe::ASKED_RACED,
        stripe::ASKED_UNMAPPED,
        stripe::ASKED_EXPIRED,
        stripe::ASKED_NO_SLOT,
        stripe::TOUCH,
        stripe::SLOTS,
    ]
}

fn numbers() -> BTreeMap<String, u64> {
    constants![
        LAYOUT_MAGIC,
        LINE_BYTES,
        LINE_WORDS,
        PAGE_BYTES,
        control::DIRECTORY_LEN,
        control::BYTES,
        life::BYTES,
        table::ENTRY_WORDS,
        block::HEADER_BYTES,
        block::MAGIC_VALUE,
        block::CHUNK_BYTES,
        block::PAGE_ALIGNED_FROM_BYTES,
        stripe::BYTES,
        stripe::WORDS,
        stripe::TOUCH_LEN,
        stripe::SLOTS_LEN,
        BlockId::GRANULE_BYTES,
    ]
}

/// The cells of every table row of the document.
fn rows() -> impl Iterator<Item = Vec<&'static str>> {
    DOCUMENT.lines().filter_map(|line| {
        let cells = line.strip_prefix('|')?.strip_suffix('|')?;
        Some(cells.split('|').map(str::trim).collect())
    })
}

fn number(cell: &str) -> Option<u64> {
    match cell.strip_prefix("0x") {
        Some(hex) => u64::from_str_radix(hex, 16).ok(),
        None => cell.parse().ok(),
    }
}

fn name(cell: &str) -> Option<String> {
    Some(cell.strip_prefix('`')?.strip_suffix('`')?.to_string())
}

/// Rows `offset | bytes | name | what`, in the order of the document.
fn field_rows() -> Vec<(String, u64, u64)> {
    let fields = rows().filter(|row| row.len() == 4);
    fields.filter_map(|row| Some((name(row[2])?, number(row[0])?, number(row[1])?))).collect()
}

/// Constants that the source defines, as `module::NAME`.
fn defined() -> BTreeSet<String> {
    let mut module = String::new();
    let mut defined = BTreeSet::new();
    for line in SOURCE.lines() {
        if let Some(name) = line.strip_prefix("pub mod ") {
            module = format!("{}::", name.trim_end_matches(" {"));
        } else if line.starts_with("impl BlockId {") {
            module = "BlockId::".into();
        } else if line == "}" {
            module.clear();
        }
        if let Some((name, _)) = line.trim_start().strip_prefix("pub const ").and_then(|rest| rest.split_once(':'))
            && !name.starts_with("fn ")
        {
            defined.insert(format!("{module}{name}"));
        }
    }
    defined
}

#[test]
fn the_document_carries_the_hash_of_the_source() {
    let now = format!("layout.rs: crc64 {:016x}", crc64(SOURCE.as_bytes()));
    assert!(
        DOCUMENT.lines().any(|line| line == now),
        "layout.rs has changed; bring docs/layout.md up to date and put this line into it:\n{now}"
    );
}

#[test]
fn every_constant_is_documented_with_its_value() {
    let known: BTreeSet<String> = offsets().into_keys().chain(numbers().into_keys()).collect();
    assert_eq!(defined(), known, "a constant of layout.rs is not known to this test");
    let documented: BTreeMap<String, u64> = field_rows().into_iter().map(|(name, offset, _)| (name, offset)).collect();
    let in_bytes = offsets().into_iter().map(|(name, words)| (name, words * 8)).collect();
    assert_eq!(documented, in_bytes);
    let documented: BTreeMap<String, u64> =
        rows().filter(|row| row.len() == 3).filter_map(|row| Some((name(row[0])?, number(row[1])?))).collect();
    assert_eq!(documented, numbers());
}

#[test]
fn documented_fields_do_not_overlap_and_fit() {
    for (module, bytes) in
        [("control", control::BYTES), ("life", life::BYTES), ("block", block::HEADER_BYTES), ("stripe", stripe::BYTES)]
    {
        check_run(module, bytes, &|name| name.starts_with(&format!("{module}::")));
    }
    let header = ["table::MAGIC", "table::TABLE_ID", "table::CAPACITY", "table::ENTRIES"];
    check_run("table header", table::bytes(1), &|name| header.contains(&name));
    check_run("entry", LINE_BYTES, &|name| name.starts_with("table::") && !header.contains(&name));
}

fn check_run(what: &str, bytes: usize, belongs: &dyn Fn(&str) -> bool) {
    let mut end = 0;
    for (name, offset, len) in field_rows().into_iter().filter(|(name, ..)| belongs(name)) {
        assert!(offset >= end, "{what}: {name} at {offset} overlaps what ends at {end}");
        end = offset + len;
    }
    assert!(end > 0 && end <= bytes as u64, "{what}: ends at {end} of {bytes}");
}

#[test]
fn the_lengths_of_arrays_are_documented() {
    let bytes: BTreeMap<String, u64> = field_rows().into_iter().map(|(name, _, bytes)| (name, bytes)).collect();
    assert_eq!(bytes["control::DIRECTORY"], control::DIRECTORY_LEN as u64 * 8);
    assert_eq!(bytes["stripe::TOUCH"], stripe::TOUCH_LEN as u64 * 8);
    assert_eq!(bytes["stripe::SLOTS"], stripe::SLOTS_LEN as u64 * 8);
    assert_eq!(bytes["table::ENTRIES"], table::ENTRY_WORDS as u64 * 8);
    assert_eq!(table::bytes(1024), 64 + 64 * 1024);
}

#[test]
fn the_shapes_of_blocks_are_as_documented() {
    let shapes: Vec<Vec<u64>> =
        rows().filter(|row| row.len() == 6).filter_map(|row| row.into_iter().map(number).collect()).collect();
    assert!(shapes.len() > 5);
    for row in shapes {
        let shape = BlockShape::new(usize::try_from(row[0]).unwrap(), row[1]);
        let now = [shape.align, shape.payload_offset, shape.checksums_offset, shape.total_len];
        assert_eq!(now, row[2..], "key of {} bytes, payload of {}", row[0], row[1]);
    }
}

/// Bytes as the document prints them.
fn dump(bytes: &[u8]) -> String {
    let rows = bytes.chunks(8).enumerate().map(|(row, bytes)| {
        let hex: Vec<String> = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
        format!("{:4}  {}\n", row * 8, hex.join(" "))
    });
    rows.collect()
}

fn compare_dump(what: &str, bytes: &[u8]) {
    let start = DOCUMENT.find(&format!("```{what}\n")).expect("the document has the example") + what.len() + 4;
    let documented = &DOCUMENT[start..start + DOCUMENT[start..].find("```").unwrap()];
    let now = dump(bytes);
    assert!(documented == now, "the example of docs/layout.md is\n{documented}and should be\n{now}");
}

const SEED: u64 = 5;
const NAMESPACE: u64 = 3;
const KEY: &str = "climate/t2m";
const PAYLOAD: &[u8] = b"hello, node";

#[test]
fn the_example_of_an_entry_is_what_the_index_writes() {
    let words = PlainWords::new(table::bytes(8) / 8);
    let table = Table::create(&words, 1, 8);
    let hash = key::hash(SEED, NAMESPACE, KEY.as_bytes());
    let shape = BlockShape::new(KEY.len(), PAYLOAD.len() as u64);
    let entry = Entry {
        generation: 7,
        hash,
        block: BlockId::new(1, 4096),
        len: PAYLOAD.len() as u64,
        expiry_ns: 0,
        payload_offset: u32::try_from(shape.payload_offset).unwrap(),
        key_len: u32::try_from(KEY.len()).unwrap(),
        namespace: NAMESPACE,
    };
    table.insert(&entry).unwrap();
    let place = usize::try_from(hash[0] % 8).unwrap();
    compare_dump("entry", &words.bytes()[table::bytes(place)..table::bytes(place + 1)]);
}

#[test]
fn the_example_of_a_block_is_composed_as_documented() {
    let shape = BlockShape::new(KEY.len(), PAYLOAD.len() as u64);
    let mut bytes = vec![0; usize::try_from(shape.total_len).unwrap()];
    let mut put = |word: usize, value: u64| bytes[word * 8..][..8].copy_from_slice(&value.to_le_bytes());
    put(block::MAGIC, block::MAGIC_VALUE);
    put(block::NAMESPACE, NAMESPACE);
    put(block::LEN, PAYLOAD.len() as u64);
    put(block::SHAPE, (KEY.len() as u64) << 32 | shape.payload_offset);
    put(block::CHECKSUM, Checksums::of(PAYLOAD).summary());
    put(block::CREATED_MS, 1_700_000_000_000);
    let covered = [&bytes[..block::HEADER_CHECKSUM * 8], KEY.as_bytes()].concat();
    bytes[block::HEADER_CHECKSUM * 8..][..8].copy_from_slice(&crc64(&covered).to_le_bytes());
    bytes[block::HEADER_BYTES..][..KEY.len()].copy_from_slice(KEY.as_bytes());
    bytes[usize::try_from(shape.payload_offset).unwrap()..].copy_from_slice(PAYLOAD);
    compare_dump("block", &bytes);
}

#[test]
fn the_control_area_is_written_where_it_is_documented() {
    let words = PlainWords::new(control::BYTES / 8);
    slot::publish_table(&&words, 0x21);
    let bytes = words.bytes();
    assert_eq!((bytes[8], bytes[16]), (1, 0x21), "epoch and table");
    assert_eq!(bytes.iter().filter(|byte| **byte != 0).count(), 2);
}

#[test]
fn a_stripe_is_written_where_it_is_documented() {
    let words = PlainWords::new(stripe::WORDS);
    let id = BlockId::new(1, 64);
    slot::claim(&&words, 3, id);
    touch::touch(&&words, id);
    touch::count(&&words, stripe::HITS, 9);
    let bytes = words.bytes();
    let id_bytes = [1, 0, 0, 0, 1, 0, 0, 0];
    assert_eq!(bytes[2048 + 3 * 8..][..8], id_bytes, "slot 3");
    assert_eq!(bytes[1024..][..8], id_bytes, "first touch");
    assert_eq!((bytes[0], bytes[64]), (1, 9), "touch head and hits");
    assert_eq!(bytes.iter().filter(|byte| **byte != 0).count(), 6);
}

#[test]
fn a_ring_is_written_where_it_is_documented() {
    let words = PlainWords::new(ring::WORDS);
    let (mut producer, mut consumer) = (Producer::new(&words), Consumer::new(&words));
    assert_eq!(producer.push(b"first"), Pushed::Seen);
    assert_eq!(producer.push(&[7; ring::PACKET_LEN_MAX]), Pushed::Seen);
    assert_eq!(consumer.pop(&mut Vec::new()), Ok(true));
    consumer.awake();
    assert!(!consumer.may_sleep(), "the second packet is still there");
    let bytes = words.bytes();
    assert_eq!(bytes.len(), 65728);
    assert_eq!((bytes[0], bytes[64], bytes[128]), (2, 1, 0), "tail, head and flag");
    assert_eq!((bytes[192], &bytes[200..205]), (5, &b"first"[..]));
    assert_eq!(u64::from_le_bytes(bytes[4288..4296].try_into().unwrap()), 4088);
    assert!(bytes[4296..4296 + 4088].iter().all(|byte| *byte == 7));
}
