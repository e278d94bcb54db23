//! The bytes of every message, as they stand in `golden.txt`. A change there means a new `VERSION`.

use std::collections::BTreeSet;
use std::fmt::Write;

use larder_protocol::message::{decode_reply, decode_request, encode_reply, encode_request, request_id};

use crate::samples::{replies, requests};

const GOLDEN: &str = include_str!("golden.txt");

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut text, byte| {
        write!(text, "{byte:02x}").unwrap();
        text
    })
}

fn bytes(hex: &str) -> Vec<u8> {
    (0..hex.len()).step_by(2).map(|at| u8::from_str_radix(&hex[at..at + 2], 16).unwrap()).collect()
}

fn golden(direction: &str) -> Vec<(&'static str, &'static str)> {
    GOLDEN
        .lines()
        .filter(|line| !line.starts_with('#'))
        .filter_map(|line| line.strip_prefix(direction)?.strip_prefix(' ')?.split_once(' '))
        .collect()
}

/// Compares the lines that `samples` give now with those of `golden.txt`.
fn compare(direction: &str, now: &[(&'static str, String)]) {
    let now: Vec<String> = now.iter().map(|(name, hex)| format!("{direction} {name} {hex}")).collect();
    let golden: Vec<String> = golden(direction).iter().map(|(name, hex)| format!("{direction} {name} {hex}")).collect();
    let differs: Vec<&String> = now.iter().filter(|line| !golden.contains(line)).collect();
    assert!(
        now == golden,
        "messages differ from tests/messages/golden.txt; if that is meant, raise VERSION and replace these lines:\n{}",
        differs.iter().map(|line| format!("{line}\n")).collect::<String>()
    );
}

#[test]
fn requests_have_the_bytes_they_always_had() {
    let now: Vec<_> = requests().iter().map(|(name, envelope)| (*name, hex(&encode_request(envelope)))).collect();
    compare("request", &now);
}

#[test]
fn replies_have_the_bytes_they_always_had() {
    let now: Vec<_> = replies().iter().map(|(name, answer)| (*name, hex(&encode_reply(answer)))).collect();
    compare("reply", &now);
}

#[test]
fn golden_bytes_are_read_as_what_they_were_written_from() {
    for ((name, envelope), (golden_name, hex)) in requests().into_iter().zip(golden("request")) {
        assert_eq!(name, golden_name);
        assert_eq!(decode_request(&bytes(hex)).as_ref(), Ok(&envelope), "{name}");
        assert_eq!(request_id(&bytes(hex)), envelope.id);
    }
    for ((name, answer), (golden_name, hex)) in replies().into_iter().zip(golden("reply")) {
        assert_eq!(name, golden_name);
        assert_eq!(decode_reply(&bytes(hex)).as_ref(), Ok(&answer), "{name}");
    }
}

/// Whether a decoding failed because it met a kind that does not exist, and not for want of more bytes.
fn is_unknown_kind<T, E: ToString>(decoded: Result<T, E>) -> bool {
    decoded.is_err_and(|error| error.to_string().contains("UnexpectedVariant"))
}

/// The kinds that the samples contain, by the number at `offset`, must be all that there are.
fn check_all_kinds(packets: &[Vec<u8>], offset: usize, is_unknown: impl Fn(&[u8]) -> bool) {
    let kind = |packet: &Vec<u8>| u32::from_le_bytes(packet[offset..offset + 4].try_into().unwrap());
    let kinds: BTreeSet<u32> = packets.iter().map(kind).collect();
    let known: BTreeSet<u32> = (0..)
        .take_while(|kind| {
            let mut packet = packets[0][..offset].to_vec();
            packet.extend_from_slice(&u32::to_le_bytes(*kind));
            !is_unknown(&packet)
        })
        .collect();
    assert_eq!(kinds, known, "the samples lack a kind of message");
}

#[test]
fn every_kind_of_message_has_a_sample() {
    let packets: Vec<_> = requests().iter().map(|(_, envelope)| encode_request(envelope)).collect();
    check_all_kinds(&packets, 16, |packet| is_unknown_kind(decode_request(packet)));
    let packets: Vec<_> = replies().iter().map(|(_, answer)| encode_reply(answer)).collect();
    check_all_kinds(&packets, 8, |packet| is_unknown_kind(decode_reply(packet)));
    let of_name = |prefix: &str| -> Vec<Vec<u8>> {
        let named = replies().into_iter().filter(|(name, _)| name.starts_with(prefix) && *name != "put-many");
        named.map(|(_, answer)| encode_reply(&answer)).collect()
    };
    for prefix in ["refused-", "put-"] {
        check_all_kinds(&of_name(prefix), 12, |packet| is_unknown_kind(decode_reply(packet)));
    }
}
