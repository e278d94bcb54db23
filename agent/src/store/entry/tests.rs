use proptest::collection::vec;
use proptest::prelude::*;

use super::*;
use larder_protocol::key::check_key;

const DOCUMENT: &str = include_str!("../../../../docs/store-format.md");

fn entry(key: &str, payload: &[u8]) -> Entry {
    Entry {
        key: key.to_owned(),
        len_bytes: payload.len() as u64,
        created_ms: 1_700_000_000_000,
        expires_ms: 0,
        checksums: Checksums::of(payload),
    }
}

/// The object as a store has it.
fn object(entry: &Entry, payload: &[u8]) -> Vec<u8> {
    [entry.head().as_slice(), payload].concat()
}

/// A payload that no run of zeros or repetition makes right by accident.
fn payload(len_bytes: usize) -> Vec<u8> {
    (0..251).cycle().take(len_bytes).collect()
}

/// Some legal entry with a payload of up to four chunks. Payloads around a chunk's end come up often.
fn any_entry() -> impl Strategy<Value = (Entry, Vec<u8>)> {
    let len = prop_oneof![0_usize..200, 65_530_usize..65_545, 131_070_usize..131_075, 0_usize..260_000];
    let key = "[^/\\p{Cc}]{1,40}(/[a-z0-9]{1,30}){0,3}".prop_filter("legal", |key| check_key(key).is_ok());
    (key, len, any::<u64>(), any::<u64>()).prop_map(|(key, len, created_ms, expires_ms)| {
        let payload = payload(len);
        (Entry { created_ms, expires_ms, ..entry(&key, &payload) }, payload)
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    #[test]
    fn what_was_written_is_read((entry, payload) in any_entry()) {
        let object = object(&entry, &payload);
        let head_len_bytes = (object.len() - payload.len()) as u64;
        let alignment = if payload.len() < 65_536 { 64 } else { 4_096 };
        prop_assert_eq!(head_len_bytes % alignment, 0);
        let whole = Read::Whole { entry, head_len_bytes };
        for given in [object.len(), object.len().min(START_BYTES), object.len() - payload.len()] {
            prop_assert_eq!(&read(&object[..given], object.len() as u64), &whole);
        }
    }

    #[test]
    fn too_few_bytes_ask_for_the_head_and_no_more((entry, payload) in any_entry(), cut: prop::sample::Index) {
        let object = object(&entry, &payload);
        let head_len_bytes = (object.len() - payload.len()) as u64;
        let given = cut.index(object.len() - payload.len());
        let asked = if given < KEY_AT { KEY_AT as u64 } else { head_len_bytes };
        prop_assert_eq!(read(&object[..given], object.len() as u64), Read::NeedMore { head_len_bytes: asked });
    }

    #[test]
    fn a_flipped_bit_in_the_head_is_seen((entry, payload) in any_entry(), bit: prop::sample::Index) {
        let head = entry.head();
        let bit = bit.index(head.len() * 8);
        let mut flipped = head.clone();
        flipped[bit / 8] ^= 1 << (bit % 8);
        let read = read(&flipped, (head.len() + payload.len()) as u64);
        prop_assert!(matches!(read, Read::Damaged(_) | Read::OtherVersion(_)), "bit {}: {:?}", bit, read);
    }

    #[test]
    fn an_object_of_another_length_is_damaged((entry, payload) in any_entry(), other in 0_u64..1 << 40) {
        let head = entry.head();
        prop_assume!(other != (head.len() + payload.len()) as u64);
        let read = read(&head, other);
        prop_assert!(matches!(read, Read::Damaged(_)), "{:?}", read);
    }

    #[test]
    fn a_false_field_under_a_right_checksum_is_seen((entry, payload) in any_entry(), at in 0_usize..48, by in 1_u8..) {
        let mut head = entry.head();
        let len = (head.len() + payload.len()) as u64;
        head[at] ^= by;
        seal(&mut head);
        match read(&head, len) {
            Read::Damaged(_) => {}
            Read::OtherVersion(version) => prop_assert!(at / 4 == 2 && version != VERSION),
            // Times can be anything, and another length of the key can still leave a legal one.
            Read::Whole { entry, .. } => {
                prop_assert!((24..44).contains(&at));
                prop_assert_eq!(entry.head(), head);
            }
            need_more @ Read::NeedMore { .. } => prop_assert!(false, "{:?} at {}", need_more, at),
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(5_000))]

    #[test]
    fn any_bytes_are_judged(bytes in vec(any::<u8>(), 0..300), more in prop_oneof![Just(0), any::<u64>()]) {
        crate::fuzzing::store_entry(&bytes);
        let len = (bytes.len() as u64).saturating_add(more);
        if let Read::NeedMore { head_len_bytes } = read(&bytes, len) {
            prop_assert!(head_len_bytes <= len && head_len_bytes > bytes.len() as u64);
        }
    }

    #[test]
    fn any_fields_behind_the_magic_are_judged(
        fields in vec(prop_oneof![Just(0_u64), Just(1 << 16), 0_u64..5_000, any::<u64>()], 6),
        object_len in prop_oneof![0_u64..100_000, any::<u64>()],
        head_len in prop_oneof![Just(None), any::<u32>().prop_map(Some)],
    ) {
        let mut head = [0; 128];
        head[..8].copy_from_slice(&MAGIC);
        for (place, field) in fields.iter().enumerate() {
            head[16 + place * 8..24 + place * 8].copy_from_slice(&field.to_le_bytes());
        }
        head[VERSION_AT] = 1;
        head[CHUNK_LEN_AT..CHECKSUM_AT].copy_from_slice(&CHUNK_LEN.to_le_bytes());
        let fitting = object_len - fields[0].min(object_len);
        let fitting = u32::try_from(fitting).unwrap_or(u32::MAX);
        head[HEAD_LEN_AT..LEN_AT].copy_from_slice(&head_len.unwrap_or(fitting).to_le_bytes());
        let given = head.len().min(usize::try_from(object_len).unwrap_or(usize::MAX));
        match read(&head[..given], object_len) {
            Read::NeedMore { head_len_bytes } => prop_assert!(head_len_bytes <= object_len && head_len_bytes > given as u64),
            Read::Whole { .. } => prop_assert!(false, "a checksum by chance"),
            Read::OtherVersion(_) | Read::Damaged(_) => {}
        }
    }
}

#[test]
fn each_kind_of_damage_is_named() {
    let payload = payload(70_000);
    let entry = entry("a/b", &payload);
    let len = (entry.head().len() + payload.len()) as u64;
    let damaged = |change: &dyn Fn(&mut [u8])| {
        let mut head = entry.head();
        change(&mut head);
        seal(&mut head);
        match read(&head, len) {
            Read::Damaged(what) => what,
            other => panic!("{other:?}"),
        }
    };
    assert_eq!(damaged(&|head| head[0] = b'l'), "not an entry: it begins with other bytes");
    assert_eq!(damaged(&|head| head[CHUNK_LEN_AT] = 1), "a checksum is not of 64 KiB");
    assert_eq!(damaged(&|head| head[KEY_LEN_AT] = 0), "the key has an impossible length");
    assert_eq!(damaged(&|head| head[KEY_LEN_AT + 1] = 8), "the key has an impossible length");
    assert_eq!(damaged(&|head| head[LEN_AT + 7] = 255), "the payload is longer than the object");
    assert_eq!(
        damaged(&|head| head[HEAD_LEN_AT + 1] += 16),
        "the head has not the length that its key and payload need"
    );
    assert_eq!(damaged(&|head| head[LEN_AT] += 1), "head and payload are not as long as the object");
    for illegal in [0xff, b'/', 0] {
        assert_eq!(damaged(&|head| head[KEY_AT] = illegal), "the key is not a legal one");
    }
    assert_eq!(damaged(&|head| head[KEY_AT + 3] = 1), "what should be zero is not");
    assert_eq!(damaged(&|head| head[4_095] = 1), "what should be zero is not");
    assert_eq!(damaged(&|head| head[72] ^= 1), "the payload's checksum is not that of its chunks");
    assert_eq!(damaged(&|head| head[CHECKSUM_AT] ^= 1), "the payload's checksum is not that of its chunks");

    let mut unsealed = entry.head();
    unsealed[CREATED_MS_AT] ^= 1;
    assert_eq!(read(&unsealed, len), Read::Damaged("the head's checksum is another"));
    assert_eq!(read(&[], 0), Read::Damaged("shorter than the fields of a head"));
    assert_eq!(read(&entry.head()[..63], 63), Read::Damaged("shorter than the fields of a head"));
    assert_eq!(read(&entry.head(), 100), Read::Damaged("more bytes than the object has"));
}

#[test]
fn another_version_is_told_whatever_follows_it() {
    let mut bytes = b"LARDRENT".to_vec();
    bytes.extend(2_u32.to_le_bytes());
    assert_eq!(read(&bytes, 12), Read::OtherVersion(2));
    bytes.extend([0xff; 100]);
    assert_eq!(read(&bytes, 112), Read::OtherVersion(2));
    assert_eq!(read(&bytes, u64::MAX), Read::OtherVersion(2));
}

#[test]
fn the_start_has_the_head_of_payloads_up_to_500_mb() {
    assert!(head_len_bytes(KEY_LEN_MAX, 500_000_000) <= START_BYTES as u64);
    assert!(head_len_bytes(KEY_LEN_MAX, 530_000_000) > START_BYTES as u64);
}

/// Entries whose bytes are kept in the repository. What a store holds outlives the code that wrote it, so these files may
/// only be joined by those of another version, never change.
fn golden() -> Vec<(&'static str, &'static [u8], Entry, Vec<u8>)> {
    let short = b"hello, node".to_vec();
    let two_chunks = payload(65_537);
    let unusual_key = format!("é 漢/{}", "k".repeat(1_024 - 7));
    vec![
        ("v1-empty", include_bytes!("../golden/v1-empty.entry"), entry("a", &[]), vec![]),
        ("v1-short", include_bytes!("../golden/v1-short.entry"), entry("climate/t2m", &short), short),
        (
            "v1-two-chunks-head",
            include_bytes!("../golden/v1-two-chunks-head.entry"),
            entry("climate/2026/u10", &two_chunks),
            vec![],
        ),
        (
            "v1-longest-key",
            include_bytes!("../golden/v1-longest-key.entry"),
            Entry { expires_ms: 1_700_000_060_000, ..entry(&unusual_key, b"x") },
            b"x".to_vec(),
        ),
    ]
}

#[test]
fn entries_of_version_1_are_written_and_read_as_ever() {
    for (name, bytes, entry, payload) in golden() {
        assert_eq!(object(&entry, &payload), bytes, "{name}");
        let head_len_bytes = (bytes.len() - payload.len()) as u64;
        let len = head_len_bytes + entry.len_bytes;
        assert_eq!(read(bytes, len), Read::Whole { entry, head_len_bytes }, "{name}");
    }
}

/// The fenced block of the document that is marked so, as bytes.
fn documented(mark: &str) -> Vec<u8> {
    let (_, block) = DOCUMENT.split_once(&format!("```{mark}\n")).expect("the document has the example");
    let (block, _) = block.split_once("```").expect("the example ends");
    let mut bytes = Vec::new();
    for line in block.lines() {
        let mut words = line.split_whitespace();
        let offset: usize = words.next().and_then(|offset| offset.parse().ok()).expect("a line begins with its offset");
        assert_eq!(offset, bytes.len(), "{line}");
        bytes.extend(words.map(|byte| u8::from_str_radix(byte, 16).expect("a byte is two digits")));
    }
    bytes
}

#[test]
fn the_document_shows_what_is_written() {
    assert_eq!(documented("entry"), include_bytes!("../golden/v1-short.entry"));
    let fields = [
        (0, 8),
        (VERSION_AT, 4),
        (HEAD_LEN_AT, 4),
        (LEN_AT, 8),
        (CREATED_MS_AT, 8),
        (EXPIRES_MS_AT, 8),
        (KEY_LEN_AT, 4),
        (CHUNK_LEN_AT, 4),
        (CHECKSUM_AT, 8),
        (HEAD_CHECKSUM_AT, 8),
        (KEY_AT, 0),
    ];
    for ((at, len), (next, _)) in fields.iter().zip(&fields[1..]) {
        assert_eq!(at + len, *next);
        assert!(DOCUMENT.contains(&format!("\n| {at} | {len} | ")), "the document has no field at {at}");
    }
    for (key_len, payload_len) in [
        (1, 0),
        (1, 1),
        (56, 1),
        (57, 1),
        (11, 11),
        (1_024, 1),
        (11, 65_535),
        (11, 65_536),
        (16, 65_537),
        (11, 1 << 30),
    ] {
        let (table, head) = (table_at(key_len), head_len_bytes(key_len, payload_len));
        let row = format!("\n| {key_len} | {payload_len} | {table} | {head} | {} |", head + payload_len);
        assert!(DOCUMENT.contains(&row), "the document has not the row {row}");
    }
}
