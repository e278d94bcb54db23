//! What no honest peer sends. No length in a packet may make the decoder allocate what it claims.

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;

use larder_protocol::key::KeyError;
use larder_protocol::message::{
    Answer, DecodeError, Envelope, MANY_MAX, PutItem, Reply, Request, Staged, decode_reply, decode_request,
    encode_reply, encode_request, request_id,
};
use larder_protocol::socket::MESSAGE_LEN_MAX;

use crate::samples::{replies, requests};

thread_local! {
    /// The largest allocation that this thread has asked for.
    static LARGEST: Cell<usize> = const { Cell::new(0) };
}

/// The system's allocator, which notes how much is asked for at once.
struct Watching;

fn note(size: usize) {
    // Fails only while the thread ends, when nobody asks any more.
    let _ = LARGEST.try_with(|largest| largest.set(largest.get().max(size)));
}

// SAFETY: every call is passed on to the system's allocator as it came.
unsafe impl GlobalAlloc for Watching {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        note(layout.size());
        // SAFETY: promised by the caller.
        unsafe { System.alloc(layout) }
    }
    unsafe fn dealloc(&self, at: *mut u8, layout: Layout) {
        // SAFETY: promised by the caller.
        unsafe { System.dealloc(at, layout) }
    }
    unsafe fn realloc(&self, at: *mut u8, layout: Layout, new_size: usize) -> *mut u8 {
        note(new_size);
        // SAFETY: promised by the caller.
        unsafe { System.realloc(at, layout, new_size) }
    }
}

#[global_allocator]
static ALLOCATOR: Watching = Watching;

/// Most that decoding may ask for at once, whatever the packet claims.
const ALLOCATION_MAX_BYTES: usize = MESSAGE_LEN_MAX * 4;

/// Decodes, and fails when an allocation was larger than any message needs.
fn bounded<T>(decode: impl FnOnce() -> T) -> T {
    LARGEST.set(0);
    let decoded = decode();
    let largest = LARGEST.get();
    assert!(largest <= ALLOCATION_MAX_BYTES, "decoding asked for {largest} bytes at once");
    decoded
}

/// Replaces every run of eight bytes by each of `claims` in turn: one of the runs is each length in the packet.
fn with_claims(packet: &[u8], mut check: impl FnMut(&[u8])) {
    for claim in [1 << 60, u64::MAX, 1 << 32, 1 << 20, 1 << 16, 10_000, 7_000] {
        for at in 0..packet.len().saturating_sub(7) {
            let mut changed = packet.to_vec();
            changed[at..at + 8].copy_from_slice(&u64::to_le_bytes(claim));
            check(&changed);
        }
    }
}

#[test]
fn no_claimed_length_is_believed() {
    for (_, envelope) in requests() {
        with_claims(&encode_request(&envelope), |packet| drop(bounded(|| decode_request(packet))));
    }
    for (_, answer) in replies() {
        with_claims(&encode_reply(&answer), |packet| drop(bounded(|| decode_reply(packet))));
    }
}

#[test]
fn a_list_of_two_to_the_sixty_items_is_refused() {
    let put_many = Envelope { id: 7, timeout_ms: 0, request: Request::PutMany { namespace: 1, items: vec![] } };
    let names = Answer { id: 7, reply: Reply::Names { names: vec![], cursor: 0 } };
    let claim = u64::to_le_bytes(1 << 60);
    let mut packet = encode_request(&put_many);
    let at = packet.len() - 8;
    packet[at..].copy_from_slice(&claim);
    assert!(matches!(bounded(|| decode_request(&packet)), Err(DecodeError::Malformed(_))));
    assert_eq!(request_id(&packet), 7, "the refusal can still name the request");
    let mut packet = encode_reply(&names);
    packet[12..20].copy_from_slice(&claim);
    assert!(matches!(bounded(|| decode_reply(&packet)), Err(DecodeError::Malformed(_))));
}

#[test]
fn a_packet_cut_short_anywhere_is_refused() {
    for (name, envelope) in requests() {
        let packet = encode_request(&envelope);
        for len in 0..packet.len() {
            assert!(bounded(|| decode_request(&packet[..len])).is_err(), "{name} cut to {len} bytes");
        }
    }
    for (name, answer) in replies() {
        let packet = encode_reply(&answer);
        for len in 0..packet.len() {
            assert!(bounded(|| decode_reply(&packet[..len])).is_err(), "{name} cut to {len} bytes");
        }
    }
    assert_eq!(request_id(&[1, 2, 3]), 0);
}

#[test]
fn bytes_behind_the_message_are_refused() {
    for (name, envelope) in requests() {
        let mut packet = encode_request(&envelope);
        packet.extend_from_slice(&[0, 0, 0]);
        assert_eq!(decode_request(&packet), Err(DecodeError::Trailing(3)), "{name}");
    }
    for (name, answer) in replies() {
        let mut packet = encode_reply(&answer);
        packet.push(0);
        assert_eq!(decode_reply(&packet), Err(DecodeError::Trailing(1)), "{name}");
    }
}

fn decoded(request: Request) -> Result<Envelope, DecodeError> {
    decode_request(&encode_request(&Envelope { id: 1, timeout_ms: 0, request }))
}

fn item(key: &str) -> PutItem {
    PutItem { key: key.into(), staged: Staged { offset: 0, len: 0 } }
}

#[test]
fn an_illegal_key_is_refused_in_every_request_that_names_one() {
    for bad in ["", "/a", "a//b", "a/../b", "a\0b", &"x".repeat(1025)] {
        let key = || bad.to_string();
        for request in [
            Request::Get { namespace: 1, key: key() },
            Request::Wait { namespace: 1, key: key() },
            Request::Put { namespace: 1, item: item(bad) },
            Request::PutMany { namespace: 1, items: vec![item("good"), item(bad)] },
            Request::PutBegin { namespace: 1, key: key(), len: 0 },
            Request::Create { namespace: 1, key: key(), len: 0 },
            Request::Delete { namespace: 1, key: key() },
        ] {
            assert!(matches!(decoded(request.clone()), Err(DecodeError::Key(_))), "{request:?}");
        }
    }
}

#[test]
fn an_illegal_name_is_refused_in_every_request_that_names_a_namespace() {
    for bad in ["", "a/", ".", "a\nb", &"x".repeat(256)] {
        let name = || bad.to_string();
        for request in [
            Request::OpenNamespace { name: name(), options: None },
            Request::SetNamespace { name: name(), options: Default::default() },
            Request::ShowNamespace { name: name() },
            Request::RemoveNamespace { name: name() },
            Request::Clear { name: name() },
        ] {
            assert!(matches!(decoded(request.clone()), Err(DecodeError::Key(_))), "{request:?}");
        }
    }
}

#[test]
fn a_key_that_is_not_utf8_is_malformed() {
    let mut packet =
        encode_request(&Envelope { id: 1, timeout_ms: 0, request: Request::Get { namespace: 1, key: "ab".into() } });
    *packet.last_mut().unwrap() = 0xff;
    assert!(matches!(decode_request(&packet), Err(DecodeError::Malformed(_))));
}

#[test]
fn more_items_than_allowed_are_refused() {
    let many = |count: usize| Request::PutMany { namespace: 1, items: vec![item("k"); count] };
    assert!(decoded(many(MANY_MAX)).is_ok());
    assert_eq!(decoded(many(MANY_MAX + 1)), Err(DecodeError::TooMany(MANY_MAX + 1)));
}

#[test]
fn errors_name_what_is_wrong() {
    assert_eq!(DecodeError::Trailing(3).to_string(), "the message has 3 bytes too many");
    assert_eq!(DecodeError::Key(KeyError::Empty).to_string(), KeyError::Empty.to_string());
}
