//! The rings: packets arrive whole, places are used again only when they have been read, and nobody sleeps over a packet.

use larder_protocol::ring::{Consumer, PACKETS, Producer, Pushed};
use loom::thread;

use crate::world::{LoomWords, check};

fn ring() -> (Producer<LoomWords>, Consumer<LoomWords>) {
    let words = LoomWords::ring();
    (Producer::new(words.clone()), Consumer::new(words))
}

fn pop(consumer: &mut Consumer<LoomWords>) -> Option<Vec<u8>> {
    let mut packet = Vec::new();
    consumer.pop(&mut packet).expect("an honest ring").then_some(packet)
}

#[test]
fn a_packet_that_is_seen_is_seen_whole() {
    check(|| {
        let (mut producer, mut consumer) = ring();
        let pushing = thread::spawn(move || assert_ne!(producer.push(b"packet 1"), Pushed::No));
        if let Some(packet) = pop(&mut consumer) {
            assert_eq!(packet, b"packet 1");
        }
        pushing.join().unwrap();
    });
}

#[test]
fn a_place_is_used_again_only_when_its_packet_was_read() {
    check(|| {
        let (mut producer, mut consumer) = ring();
        producer.push(b"packet 1");
        (1..PACKETS).for_each(|_| assert_eq!(producer.push(b""), Pushed::Seen));
        let pushing = thread::spawn(move || producer.push(b"packet 2"));
        assert_eq!(pop(&mut consumer).as_deref(), Some(&b"packet 1"[..]));
        let pushed = pushing.join().unwrap();
        (1..PACKETS).for_each(|_| assert_eq!(pop(&mut consumer).as_deref(), Some(&b""[..])));
        let last = (pushed != Pushed::No).then_some(&b"packet 2"[..]);
        assert_eq!(pop(&mut consumer).as_deref(), last);
    });
}

#[test]
fn nobody_sleeps_over_a_packet() {
    check(|| {
        let (mut producer, mut consumer) = ring();
        let pushing = thread::spawn(move || producer.push(b"packet 1"));
        let sleeps = consumer.may_sleep();
        if !sleeps {
            assert!(pop(&mut consumer).is_some(), "it stayed awake for a packet");
        }
        let pushed = pushing.join().unwrap();
        assert!(!sleeps || pushed == Pushed::Wake, "the packet is in the ring, nobody was woken");
    });
}

/// A consumer that wakes by itself finds what came, whether or not a message is on its way too.
#[test]
fn a_consumer_that_woke_up_sees_the_next_packet() {
    check(|| {
        let (mut producer, mut consumer) = ring();
        let pushing = thread::spawn(move || producer.push(b"packet 1"));
        let slept = consumer.may_sleep();
        consumer.awake();
        let found = consumer.looks_filled();
        let pushed = pushing.join().unwrap();
        assert!(!found || pushed != Pushed::No);
        assert!(slept || found, "it was kept awake by a packet");
        assert_eq!(pop(&mut consumer).as_deref(), Some(&b"packet 1"[..]));
        assert_eq!(pop(&mut consumer), None);
    });
}
