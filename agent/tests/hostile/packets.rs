//! Packets that are no messages, and descriptors that nobody asked for.

use std::os::fd::{AsFd, BorrowedFd};

use larder_protocol::layout::LAYOUT_MAGIC;
use larder_protocol::message::{Envelope, Refusal, Reply, Request, VERSION, encode_request};
use larder_protocol::socket::MESSAGE_LEN_MAX;
use nix::sys::socket::{ControlMessage, MsgFlags, sendmsg};
use std::io::IoSlice;
use std::os::fd::{AsRawFd, RawFd};
use std::time::Duration;

use crate::harness::{Agent, poll, readable};
use crate::raw::Raw;
use crate::session::{below, next, payload};

/// Reads whatever the agent has answered so far, and whether it has closed the connection.
fn drain(raw: &Raw) -> bool {
    while readable(raw.fd(), Duration::ZERO) {
        if raw.receive().is_none() {
            return true;
        }
    }
    false
}

/// Sends a packet whatever becomes of it, on a fresh connection where the last one is over.
fn throw(agent: &Agent, raw: &mut Raw, packet: &[u8], greeted: bool) {
    if raw.send_packet(packet, &[]).is_err() || drain(raw) {
        *raw = if greeted { Raw::bare(agent.socket()) } else { Raw::connect(agent.socket()) };
    }
}

#[test]
fn garbage_of_every_length() {
    let agent = Agent::start();
    let baseline = agent.baseline();
    for greeted in [false, true] {
        let mut raw = Raw::connect(agent.socket());
        let lens = (0..600).chain((600..MESSAGE_LEN_MAX).step_by(997)).chain(MESSAGE_LEN_MAX - 3..=MESSAGE_LEN_MAX);
        for len in lens {
            for seed in 1..4 {
                throw(&agent, &mut raw, &payload(seed + len as u64, len), greeted);
            }
            throw(&agent, &mut raw, &vec![0; len], greeted);
            throw(&agent, &mut raw, &vec![0xff; len], greeted);
        }
    }
    baseline.holds();
}

#[test]
fn longer_than_allowed() {
    let agent = Agent::start();
    let baseline = agent.baseline();
    for len in [MESSAGE_LEN_MAX + 1, MESSAGE_LEN_MAX * 2, 150_000] {
        let raw = Raw::bare(agent.socket());
        raw.send_packet(&vec![1; len], &[]).expect("the kernel takes it");
        // Cut short by the receiver, so the packet's end is lost: such a client is not listened to any more.
        assert!(raw.receive().is_none(), "a packet of {len} bytes was answered");
    }
    baseline.holds();
}

#[test]
fn messages_with_a_few_bytes_changed() {
    let agent = Agent::start();
    let baseline = agent.baseline();
    let messages: Vec<Vec<u8>> = crate::lies::every_kind()
        .into_iter()
        .map(|request| encode_request(&Envelope { id: 1, timeout_ms: 0, request }))
        .collect();
    let mut state = 0x5eed;
    let mut raw = Raw::bare(agent.socket());
    for _ in 0..6000 {
        let mut packet = messages[below(&mut state, messages.len())].clone();
        for _ in 0..1 + below(&mut state, 4) {
            let at = below(&mut state, packet.len());
            packet[at] = u8::try_from(next(&mut state) & 0xff).expect("a byte");
        }
        match below(&mut state, 4) {
            0 => packet.truncate(below(&mut state, packet.len()) + 1),
            1 => packet.extend(payload(next(&mut state), below(&mut state, 40))),
            _ => {}
        }
        throw(&agent, &mut raw, &packet, true);
    }
    drop(raw);
    baseline.holds();
}

#[test]
fn an_empty_packet_ends_the_session_and_nothing_else() {
    let agent = Agent::start();
    let baseline = agent.baseline();
    for greeted in [false, true] {
        let raw = if greeted { Raw::bare(agent.socket()) } else { Raw::connect(agent.socket()) };
        raw.send_packet(&[], &[]).expect("the kernel takes it");
        assert!(raw.receive().is_none());
    }
    baseline.holds();
}

/// Sends a packet with so many copies of a descriptor, more than the protocol's own sender would.
fn send_with(raw: &Raw, packet: &[u8], descriptor: BorrowedFd<'_>, count: usize) -> nix::Result<usize> {
    let copies: Vec<RawFd> = vec![descriptor.as_raw_fd(); count];
    let with = [ControlMessage::ScmRights(&copies)];
    let parts = [IoSlice::new(packet)];
    sendmsg::<()>(raw.fd().as_raw_fd(), &parts, &with, MsgFlags::MSG_NOSIGNAL, None)
}

#[test]
fn descriptors_that_nobody_asked_for() {
    let agent = Agent::start();
    let mut baseline = agent.baseline();
    let before = baseline.monitor().stat().descriptors;
    let ping = encode_request(&Envelope { id: 9, timeout_ms: 0, request: Request::Ping });
    for round in 0..3 {
        for count in [1, 2, 3, 4, 5, 6, 8, 64, 252, 253] {
            let (raw, greeting) = Raw::greeted(agent.socket());
            // Of all descriptors the session's own slot page: kept by the agent it would pin for ever.
            let sent = send_with(&raw, &ping, greeting.slots.as_fd(), count);
            assert_eq!(sent, Ok(ping.len()), "the kernel takes {count} descriptors");
            // Answered or hung up on, as the agent likes.
            match raw.receive() {
                None => {}
                Some((answer, descriptors)) => {
                    assert!(matches!(answer.reply, Reply::Pong(_)), "round {round}: {answer:?}");
                    assert!(descriptors.is_empty());
                }
            }
        }
    }
    poll("the agent to close every descriptor that it was sent", || {
        (baseline.monitor().stat().descriptors <= before + 2).then_some(())
    });
    baseline.holds();
}

#[test]
fn a_socket_sent_through_itself() {
    let agent = Agent::start();
    let baseline = agent.baseline();
    for _ in 0..50 {
        let raw = Raw::bare(agent.socket());
        let other = Raw::bare(agent.socket());
        let garbage = [1_u8; 40];
        // Each end in the other's queue, and in its own: only the kernel can collect that.
        for (to, what) in [(&raw, &other), (&other, &raw), (&raw, &raw), (&other, &other)] {
            let _ = to.send_packet(&garbage, &[what.fd()]);
        }
    }
    baseline.holds();
}

#[test]
fn another_version_is_told_so() {
    let agent = Agent::start();
    let baseline = agent.baseline();
    let mut raw = Raw::connect(agent.socket());
    for (layout, version) in [(LAYOUT_MAGIC, VERSION + 1), (LAYOUT_MAGIC, 0), (0, VERSION), (u64::MAX, u32::MAX)] {
        let refusal = raw.refused(Request::Hello { layout, version });
        assert_eq!(refusal, Refusal::version(version, layout));
    }
    // Refused before is not begun: the right word still begins it.
    let greeting = raw.hello().expect("now it is right");
    assert_eq!(greeting.welcome.version, VERSION);
    let refusal = raw.refused(Request::Hello { layout: LAYOUT_MAGIC, version: VERSION });
    assert!(matches!(refusal, Refusal::Invalid(_)), "a second Hello: {refusal:?}");
    assert_eq!(raw.mapped(greeting.welcome.slots_memory), Reply::Done);
    drop((raw, greeting));
    baseline.holds();
}
