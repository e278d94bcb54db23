//! An honest user who is not the attacker: another uid where this test may become one.

use crate::harness::Agent;
use crate::honest;
use crate::roles::{Actor, Part, VICTIM};
use crate::session::Session;
use std::time::Duration;

/// The guest's own process: what it is asked to do it does, and says how long it took.
pub(crate) fn guest(part: &Part) {
    let mut session = Session::open(&part.socket);
    let namespace = session.namespace("guest");
    session.put_and_check(namespace, "first", 1, 1000);
    part.say("READY", "");
    while let Some(line) = part.hear() {
        match line.split_once(' ').unwrap_or((&line, "")) {
            ("round", _) => {
                honest::round(&part.socket);
                part.say("DONE", 0);
            }
            ("hundred", _) => {
                let took = honest::hundred_puts(&mut session);
                part.say("DONE", took.as_millis());
            }
            // Puts so many blocks of a mebibyte, of which all must be there at the end.
            ("fill", count) => {
                let count: u64 = count.parse().expect("a number");
                for n in 0..count {
                    session.put_and_check(namespace, &format!("fill/{n}"), n + 1, 1 << 20);
                }
                for n in 0..count {
                    let block = session.get(namespace, &format!("fill/{n}"));
                    assert!(block.is_ok_and(|block| block.verify()), "block {n} of {count} did not stay");
                }
                part.say("DONE", count);
            }
            (other, _) => panic!("cannot {other:?}"),
        }
    }
}

/// A guest that has already put its first block.
#[derive(Debug)]
pub(crate) struct Guest {
    actor: Actor,
    is_other: bool,
}

impl Guest {
    /// Another user where possible, else another process of this one.
    pub(crate) fn invite(agent: &Agent) -> Guest {
        Guest::come(agent, nix::unistd::geteuid().is_root())
    }

    /// Another process of this user.
    pub(crate) fn invite_self(agent: &Agent) -> Guest {
        Guest::come(agent, false)
    }

    fn come(agent: &Agent, is_other: bool) -> Guest {
        let mut actor = Actor::start_as(is_other.then_some(VICTIM), "guest", agent.socket(), "");
        actor.expect("READY");
        Guest { actor, is_other }
    }

    /// A whole honest session.
    #[track_caller]
    pub(crate) fn round(&mut self) {
        self.actor.tell("round");
        self.actor.expect("DONE");
    }

    /// A hundred honest puts and gets, and how long they took.
    #[track_caller]
    pub(crate) fn hundred(&mut self) -> Duration {
        self.actor.tell("hundred");
        let took = self.actor.expect("DONE");
        Duration::from_millis(took.parse().expect("milliseconds"))
    }

    /// So many blocks of a mebibyte, all to be there at the end.
    #[track_caller]
    pub(crate) fn fill(&mut self, mebibytes: u64) {
        self.actor.tell(&format!("fill {mebibytes}"));
        self.actor.expect("DONE");
    }

    /// Goes, and leaves its cache.
    #[track_caller]
    pub(crate) fn finish(self) {
        self.actor.finish();
    }

    /// Whether it is another user than the attacker.
    pub(crate) fn is_another_user(&self) -> bool {
        self.is_other
    }
}
