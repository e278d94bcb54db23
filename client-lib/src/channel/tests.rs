//! The channel against the other end of its socket, played by the test.

use std::os::fd::{AsFd, OwnedFd};
use std::time::Duration;

use larder_protocol::memory::{HugePages, Mapping, Memfd, Platform};
use larder_protocol::message::{Envelope, decode_request, encode_reply};
use larder_protocol::view::Staging;

use super::*;

/// The agent's end.
struct End(OwnedFd);

impl End {
    fn receive(&self) -> Envelope {
        assert!(socket::wait_readable(&self.0, Some(Duration::from_secs(10))).unwrap(), "no request came");
        let mut buffer = vec![0; MESSAGE_LEN_MAX];
        let (len, _) = socket::receive(&self.0, &mut buffer).unwrap();
        decode_request(&buffer[..len]).unwrap()
    }

    fn reply(&self, id: u64, reply: Reply, descriptors: &[&OwnedFd]) {
        let descriptors: Vec<_> = descriptors.iter().map(|fd| fd.as_fd()).collect();
        socket::send(&self.0, &encode_reply(&Answer { id, reply }), &descriptors).unwrap();
    }
}

fn pair() -> (Channel, End) {
    fork::watch().unwrap();
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("socket");
    let listener = socket::listen_at(&path).unwrap();
    let channel = Channel::new(socket::connect_to(&path).unwrap());
    (channel, End(socket::accept(listener.as_fd()).unwrap()))
}

fn staging(len: usize) -> std::sync::Arc<Staging> {
    let platform = Platform::detect(&[]).unwrap();
    let memfd = Memfd::create(c"staging", len, HugePages::Off, &platform).unwrap();
    Staging::new(Mapping::read_write(&memfd, len).unwrap())
}

fn forever() -> Deadline {
    Deadline::after(None)
}

fn soon() -> Deadline {
    Deadline::after(Some(Duration::from_millis(5)))
}

fn descriptor() -> OwnedFd {
    std::fs::File::open("/dev/null").unwrap().into()
}

#[test]
fn replies_find_their_threads_whatever_their_order() {
    let (channel, end) = pair();
    thread::scope(|scope| {
        for asked in 0..8_u32 {
            let channel = &channel;
            scope.spawn(move || {
                // Some with a deadline and some without, so that either kind gets to read for the other.
                let deadline = if asked % 2 == 0 { forever() } else { Deadline::after(Some(Duration::from_secs(60))) };
                for _ in 0..100 {
                    let response = channel.call(Request::Segment { segment: asked }, deadline).unwrap();
                    assert_eq!(response.reply, Reply::Count(u64::from(asked)));
                }
            });
        }
        for _ in 0..100 {
            let requests: Vec<Envelope> = (0..8).map(|_| end.receive()).collect();
            for envelope in requests.into_iter().rev() {
                let Request::Segment { segment } = envelope.request else { panic!("{envelope:?}") };
                end.reply(envelope.id, Reply::Count(u64::from(segment)), &[]);
            }
        }
    });
    assert!(channel.lock().requests.is_empty());
}

#[test]
fn who_gives_up_passes_reading_on() {
    let (channel, end) = pair();
    thread::scope(|scope| {
        let impatient = scope.spawn(|| channel.call(Request::Stat, Deadline::after(Some(Duration::from_millis(30)))));
        let first = end.receive();
        let patient = scope.spawn(|| channel.call(Request::Ping, forever()));
        let second = end.receive();
        let fault = impatient.join().unwrap().unwrap_err();
        assert!(matches!(fault, Fault::Final(Error::Deadline)));
        end.reply(first.id, Reply::Done, &[]);
        end.reply(second.id, Reply::Count(2), &[]);
        assert_eq!(patient.join().unwrap().unwrap().reply, Reply::Count(2));
    });
}

#[test]
fn a_late_reply_is_dropped_and_its_descriptors_are_acknowledged() {
    let (channel, end) = pair();
    assert!(matches!(channel.call(Request::Table, soon()), Err(Fault::Final(Error::Deadline))));
    let late = end.receive();
    end.reply(late.id, Reply::Table { len: 1 }, &[&descriptor()]);
    let ticket = channel.begin(Request::Ping, None, forever()).unwrap();
    let asked = end.receive();
    end.reply(asked.id, Reply::Done, &[]);
    let response = ticket.wait(forever()).unwrap();
    assert_eq!((response.reply, response.descriptors.len()), (Reply::Done, 0));
    assert_eq!(end.receive().request, Request::Received { count: 1 });
    assert!(channel.lock().requests.is_empty());
}

#[test]
fn a_payload_stays_in_staging_until_its_reply_comes() {
    let (channel, end) = pair();
    let staging = staging(4096);
    let payload = staging.take(4096).unwrap();
    let ticket = channel.begin(Request::Ping, Some(payload), forever()).unwrap();
    assert!(matches!(ticket.wait(soon()), Err(Fault::Final(Error::Deadline))));
    assert!(staging.take(1).is_none(), "given up, but the agent may still read it");
    assert!(matches!(channel.wait_for_room(soon(), || staging.take(1)), Err(Fault::Final(Error::Deadline))));
    thread::scope(|scope| {
        // One of the two reads for both. Nobody waits for the reply that frees what both wait for.
        let waiting = [0; 2].map(|_| scope.spawn(|| channel.wait_for_room(forever(), || staging.take(2048)).unwrap()));
        let given_up = end.receive();
        end.reply(given_up.id, Reply::Done, &[]);
        for thread in waiting {
            drop(thread.join().unwrap());
        }
    });
    assert!(channel.lock().requests.is_empty());
}

#[test]
fn a_payload_with_a_passed_deadline_is_sent_all_the_same() {
    let (channel, end) = pair();
    let staging = staging(4096);
    let passed = Deadline::after(Some(Duration::ZERO));
    assert!(matches!(channel.begin(Request::Ping, None, passed), Err(Fault::Final(Error::Deadline))));
    let _ticket = channel.begin(Request::Ping, staging.take(1), passed).unwrap();
    assert_eq!(end.receive().timeout_ms, 1);
}

#[test]
fn the_end_of_the_stream_ends_every_wait() {
    let (channel, end) = pair();
    thread::scope(|scope| {
        let waiting = [0; 3].map(|_| scope.spawn(|| channel.call(Request::Ping, forever())));
        (0..3).for_each(|_| drop(end.receive()));
        drop(end);
        for thread in waiting {
            assert!(matches!(thread.join().unwrap(), Err(Fault::Lost)));
        }
    });
    assert!(channel.is_over());
    assert!(matches!(channel.call(Request::Ping, forever()), Err(Fault::Lost)));
}

#[test]
fn giving_the_channel_up_ends_every_wait() {
    let (channel, end) = pair();
    thread::scope(|scope| {
        let waiting = scope.spawn(|| channel.call(Request::Ping, forever()));
        end.receive();
        channel.abandon();
        assert!(matches!(waiting.join().unwrap(), Err(Fault::Lost)));
    });
}

#[test]
fn a_session_that_is_turned_down_says_why() {
    let (channel, end) = pair();
    end.reply(0, Reply::Refused(Refusal::TooMany("256 sessions".into())), &[]);
    drop(end);
    let fault = channel.call(Request::Ping, forever()).unwrap_err();
    assert!(matches!(&fault, Fault::Final(Error::TooMany(message)) if message == "256 sessions"), "{fault:?}");
}

#[test]
fn a_broken_reply_ends_the_channel() {
    let (channel, end) = pair();
    socket::send(&end.0, b"no reply at all", &[]).unwrap();
    let fault = channel.call(Request::Ping, forever()).unwrap_err();
    assert!(matches!(&fault, Fault::Final(Error::Agent(message)) if message.contains("broken")), "{fault:?}");
    assert!(channel.is_over());
}

#[test]
fn a_refusal_can_be_looked_for_without_waiting() {
    let (channel, end) = pair();
    let begin = channel.begin(Request::PutEnd { put: 1 }, None, forever()).unwrap();
    assert_eq!(begin.refusal(), None);
    end.reply(end.receive().id, Reply::Refused(Refusal::NotFound), &[]);
    let other = channel.begin(Request::Ping, None, forever()).unwrap();
    end.reply(end.receive().id, Reply::Done, &[]);
    other.wait(forever()).unwrap();
    assert_eq!(begin.refusal(), Some(Refusal::NotFound));
}
