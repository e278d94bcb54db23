//! The object that stands for a large one. `docs/store-format.md` has it byte by byte.
//!
//! A large object comes in parts, and no protocol has a way to put parts together only where no object is. So the bytes
//! go to a name of their own first, and then a small object that leads there is published under the right name.

use larder_protocol::checksum::crc64;

/// Names of large objects begin so; the name of the object that leads there follows, then `/` and the number.
pub(super) const LARGE: &str = "larder-1/large/";

/// Longest link, whatever it says.
pub(super) const LINK_BYTES_MAX: usize = 2048;

/// Hexadecimal digits at the end of a large object's name.
const NUMBER_DIGITS: usize = 32;

const MAGIC: [u8; 8] = *b"LARDRLNK";
const VERSION: u32 = 1;
const VERSION_AT: usize = 8;
const LINK_LEN_AT: usize = 12;
const TARGET_LEN_AT: usize = 16;
const NAME_LEN_AT: usize = 24;
const ETAG_LEN_AT: usize = 28;
const CHECKSUM_AT: usize = 32;
const NAME_AT: usize = 40;

// The longest name of all and the longest prefix still fit into a key of any provider.
const _: () = assert!(LARGE.len() + 900 + 1 + NUMBER_DIGITS + 1 + crate::config::PREFIX_BYTES_MAX <= 1024);

/// Where a large object is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Link {
    pub(super) target: String,
    /// Length of the target.
    pub(super) len_bytes: u64,
    /// The target's tag as its server gave it; empty where it gave none, or a long one.
    pub(super) etag: String,
}

/// The name for a large object.
pub(super) fn target_of(name: &str, number: u128) -> String {
    format!("{LARGE}{name}/{number:032x}")
}

/// The name of the link that leads to a large object, from that object's name.
pub(super) fn name_of(target: &str) -> Option<&str> {
    let (name, number) = target.strip_prefix(LARGE)?.rsplit_once('/')?;
    let is_number = number.len() == NUMBER_DIGITS && number.bytes().all(|digit| digit.is_ascii_hexdigit());
    (is_number && !name.is_empty()).then_some(name)
}

impl Link {
    /// The link as it is stored.
    pub(super) fn to_bytes(&self) -> Vec<u8> {
        // A server's tag has some 40 bytes. One that makes a link too long is not worth it: the name is used once.
        let room = LINK_BYTES_MAX - NAME_AT - self.target.len();
        let etag = if self.etag.len() <= room { self.etag.as_bytes() } else { b"" };
        let len = |bytes: usize| u32::try_from(bytes).expect("a link is short");
        let mut bytes = vec![0; NAME_AT];
        bytes[..VERSION_AT].copy_from_slice(&MAGIC);
        bytes[VERSION_AT..LINK_LEN_AT].copy_from_slice(&VERSION.to_le_bytes());
        bytes[LINK_LEN_AT..TARGET_LEN_AT].copy_from_slice(&len(NAME_AT + self.target.len() + etag.len()).to_le_bytes());
        bytes[TARGET_LEN_AT..NAME_LEN_AT].copy_from_slice(&self.len_bytes.to_le_bytes());
        bytes[NAME_LEN_AT..ETAG_LEN_AT].copy_from_slice(&len(self.target.len()).to_le_bytes());
        bytes[ETAG_LEN_AT..CHECKSUM_AT].copy_from_slice(&len(etag.len()).to_le_bytes());
        bytes.extend(self.target.as_bytes());
        bytes.extend(etag);
        let checksum = crc64(&bytes);
        bytes[CHECKSUM_AT..NAME_AT].copy_from_slice(&checksum.to_le_bytes());
        bytes
    }

    /// Reads an object. `None` when it is no link of this version, or damaged.
    pub(super) fn read(object: &[u8]) -> Option<Link> {
        let is_link = (NAME_AT..=LINK_BYTES_MAX).contains(&object.len())
            && object[..VERSION_AT] == MAGIC
            && u32_at(object, VERSION_AT) == VERSION
            && u32_at(object, LINK_LEN_AT) as usize == object.len();
        if !is_link {
            return None;
        }
        let (name_len, etag_len) = (u32_at(object, NAME_LEN_AT) as usize, u32_at(object, ETAG_LEN_AT) as usize);
        if name_len.checked_add(etag_len) != Some(object.len() - NAME_AT) {
            return None;
        }
        let mut unsealed = object.to_vec();
        unsealed[CHECKSUM_AT..NAME_AT].fill(0);
        if crc64(&unsealed) != u64_at(object, CHECKSUM_AT) {
            return None;
        }
        let (name, etag) = object[NAME_AT..].split_at(name_len);
        let target = String::from_utf8(name.to_vec()).ok()?;
        // Whoever follows or removes a link touches nothing but large objects.
        name_of(&target)?;
        Some(Link { target, len_bytes: u64_at(object, TARGET_LEN_AT), etag: String::from_utf8(etag.to_vec()).ok()? })
    }
}

/// The word at an offset that is known to be there.
fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(std::array::from_fn(|byte| bytes[at + byte]))
}

/// The half word at an offset that is known to be there.
fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(std::array::from_fn(|byte| bytes[at + byte]))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn example() -> Link {
        let name = "larder-1/u1000/job/1234.ns/0123456789abcdef000000000000002a/big.block";
        Link { target: target_of(name, 0x2a), len_bytes: 8_594_128_896, etag: "\"5d41402a-1025\"".to_owned() }
    }

    #[test]
    fn the_documented_example_is_what_is_written() {
        let documented = include_str!("../../../../docs/store-format.md");
        let (_, block) = documented.split_once("```link\n").expect("the page has an example");
        let (block, _) = block.split_once("```").expect("the example ends");
        let bytes: Vec<u8> = block
            .lines()
            .flat_map(|line| line.split_whitespace().skip(1))
            .map(|byte| u8::from_str_radix(byte, 16).expect("hexadecimal"))
            .collect();
        assert_eq!(bytes, example().to_bytes(), "{}", shown(&example().to_bytes()));
        assert_eq!(Link::read(&bytes), Some(example()));
    }

    fn shown(bytes: &[u8]) -> String {
        let lines = bytes.chunks(8).enumerate().map(|(line, bytes)| {
            let bytes: Vec<String> = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
            format!("{:4}  {}\n", line * 8, bytes.join(" "))
        });
        lines.collect()
    }

    #[test]
    fn a_damaged_link_is_none() {
        let good = example().to_bytes();
        for at in 0..good.len() {
            let mut bad = good.clone();
            bad[at] ^= 0x20;
            assert_eq!(Link::read(&bad), None, "byte {at}");
            assert_eq!(Link::read(&good[..at]), None, "the first {at} bytes");
        }
        assert_eq!(Link::read(&[good, vec![0]].concat()), None);
    }

    #[test]
    fn a_link_to_anything_but_a_large_object_is_none() {
        let number = "0".repeat(32);
        for target in [
            "larder-1/u1/n.ns/options".to_owned(),
            format!("{LARGE}{number}"),
            format!("{LARGE}/{number}"),
            format!("{LARGE}a/b"),
            format!("larder-1/larger/a/{number}"),
        ] {
            let link = Link { target, ..example() };
            assert_eq!(Link::read(&link.to_bytes()), None, "{link:?}");
        }
    }

    #[test]
    fn a_tag_that_is_too_long_is_left_out() {
        let link = Link { etag: "x".repeat(LINK_BYTES_MAX), ..example() };
        assert_eq!(Link::read(&link.to_bytes()), Some(Link { etag: String::new(), ..example() }));
        let longest = target_of(&"x".repeat(900), u128::MAX);
        let link = Link { target: longest, ..example() };
        assert_eq!(Link::read(&link.to_bytes()), Some(link));
    }

    proptest! {
        #[test]
        fn a_link_is_read_as_it_was_written(
            name in "[a-z0-9%./]{1,900}", number: u128, len_bytes: u64, etag in "[ -~]{0,100}"
        ) {
            let link = Link { target: target_of(&name, number), len_bytes, etag };
            prop_assert_eq!(name_of(&link.target), Some(name.as_str()));
            prop_assert_eq!(Link::read(&link.to_bytes()), Some(link));
        }

        #[test]
        fn no_bytes_make_the_reader_panic(
            mut bytes in proptest::collection::vec(any::<u8>(), 0..200), is_sealed: bool, name_len in 0_u32..300, etag_len: u32
        ) {
            if is_sealed && bytes.len() >= NAME_AT {
                let len = u32::try_from(bytes.len()).unwrap();
                bytes[..VERSION_AT].copy_from_slice(&MAGIC);
                bytes[VERSION_AT..LINK_LEN_AT].copy_from_slice(&VERSION.to_le_bytes());
                bytes[LINK_LEN_AT..TARGET_LEN_AT].copy_from_slice(&len.to_le_bytes());
                bytes[NAME_LEN_AT..ETAG_LEN_AT].copy_from_slice(&name_len.to_le_bytes());
                bytes[ETAG_LEN_AT..CHECKSUM_AT].copy_from_slice(&etag_len.to_le_bytes());
                bytes[CHECKSUM_AT..NAME_AT].fill(0);
                let checksum = crc64(&bytes);
                bytes[CHECKSUM_AT..NAME_AT].copy_from_slice(&checksum.to_le_bytes());
            }
            let _ = Link::read(&bytes);
        }
    }
}
