//! SIGKILL at any point of what a client does.

use std::time::{Duration, Instant};

use larder_protocol::message::{Refusal, Reply, Request};
use larder_protocol::namespace::NamespaceOptions;

use crate::harness::Agent;
use crate::roles::{Actor, Part};
use crate::session::{Session, below, next, payload};

/// Puts, pins, evicts, creates, clears without end; its argument seeds what it does.
pub(crate) fn churner(part: &Part) {
    let mut state = part.argument.parse::<u64>().expect("a number") * 2 + 1;
    let mut session = Session::open(&part.socket);
    let namespace =
        session.namespace_with("killed", NamespaceOptions { overwrite: true, ..NamespaceOptions::default() });
    part.say("READY", "");
    let mut blocks = Vec::new();
    loop {
        let key = format!("{}", below(&mut state, 200));
        let len = [10, 5000, 70_000, 2_500_000][below(&mut state, 4)];
        match below(&mut state, 12) {
            0..=5 => {
                let bytes = payload(next(&mut state), len);
                let outcome = session.put(namespace, &key, &bytes);
                assert!(
                    matches!(
                        outcome,
                        Ok(_) | Err(Refusal::NoSpace { .. } | Refusal::Pinned { .. } | Refusal::TooMany(_))
                    ),
                    "{outcome:?}"
                );
            }
            6..=8 => {
                if let Ok(block) = session.get(namespace, &key) {
                    assert!(block.verify(), "{key}");
                    blocks.push(block);
                }
                if blocks.len() > 30 {
                    blocks.remove(below(&mut state, 30));
                }
            }
            9 => {
                let create = Request::Create { namespace, key, len: len as u64 };
                let id = session.raw.send(create);
                let (answer, _descriptors) = session.raw.receive().expect("an answer");
                if matches!(answer.reply, Reply::WriterMemory { .. }) {
                    session.raw.received(1);
                    if below(&mut state, 2) == 0 {
                        session.raw.ask(Request::Commit { writer: id });
                    } else {
                        session.raw.send(Request::Abandon { put: id });
                    }
                }
            }
            10 => {
                session.raw.ask(Request::Delete { namespace, key });
            }
            _ => {
                // Left open: the end of the session must end it.
                session.raw.send(Request::PutBegin { namespace, key, len: len as u64 });
                session.raw.send(Request::Wait { namespace, key: "never".into() });
            }
        }
    }
}

#[test]
fn heavy_killed_at_any_point_two_hundred_times() {
    let agent = Agent::small();
    let mut baseline = agent.baseline();
    let mut state = 0x4b11;
    let mut round = 0;
    while round < 200 {
        // Three at a time, so that most deaths happen in the middle of others' work.
        let mut actors: Vec<Actor> =
            (0..3).map(|n| Actor::start("churner", agent.socket(), &format!("{}", round + n))).collect();
        for actor in &mut actors {
            actor.expect("READY");
        }
        for actor in actors {
            let until = Instant::now() + Duration::from_micros(next(&mut state) % 20_000);
            while Instant::now() < until {
                baseline.monitor().stat();
            }
            actor.kill();
            round += 1;
        }
        assert!(agent.is_alive(), "round {round}");
    }
    baseline.holds();
}
