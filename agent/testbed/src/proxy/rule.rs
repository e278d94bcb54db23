//! What the proxy is to do, to which requests, how often; and what it did.

use std::sync::{Mutex, MutexGuard, PoisonError};

use tokio::sync::watch;

/// Something that goes wrong with a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// The answer is 503. The server is not asked.
    Unavailable,
    /// The connection is reset when the head of the request was read. The server is not asked.
    ResetBefore,
    /// The server gets the whole request and answers; the client sees a reset.
    AnswerLost,
    /// The connection is reset when this much of an answer's body has been sent. A shorter body is left alone.
    CutAfter {
        /// Bytes of the body that are sent.
        sent_bytes: u64,
    },
    /// Nothing is sent any more when this much of an answer's body has been, until the rule changes or the client goes away.
    StallAfter {
        /// Bytes of the body that are sent.
        sent_bytes: u64,
    },
    /// Bodies, both ways, go no faster than this.
    Slow {
        /// Of each connection.
        bytes_per_s: u32,
    },
    /// The head of an answer says that the body is this much longer than it is, or shorter.
    WrongLength {
        /// Added to the length.
        error_bytes: i64,
    },
    /// One bit of an answer's body is flipped. A body that ends before that is left alone.
    FlippedBit {
        /// The byte whose lowest bit is flipped.
        at_byte: u64,
    },
    /// One bit of a request's body is flipped. A body that ends before that is left alone.
    FlippedBitSent {
        /// The byte whose lowest bit is flipped.
        at_byte: u64,
    },
    /// Answers name an ETag that no object has, another one each time.
    LyingEtag,
    /// Answers are of a server that knows no conditions: `If-Match` and the like do not reach the server.
    NoConditions,
    /// Connections are refused, and those that there were are reset.
    Gone,
}

/// The requests that a rule is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum On {
    /// All.
    All,
    /// `GET` and `HEAD`.
    Reads,
    /// All others.
    Writes,
}

/// A fault, and the requests that it happens to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rule {
    /// What goes wrong.
    pub fault: Fault,
    /// With which requests.
    pub on: On,
    /// With one of how many of those that it can happen to: the first, and then as chance has it, the same each time.
    pub one_in: u32,
    /// How often at most.
    pub at_most: u32,
}

impl Rule {
    /// A fault that happens to every request.
    #[must_use]
    pub fn always(fault: Fault) -> Rule {
        Rule { fault, on: On::All, one_in: 1, at_most: u32::MAX }
    }

    /// A fault that happens this often and then no more.
    #[must_use]
    pub fn times(fault: Fault, at_most: u32) -> Rule {
        Rule { at_most, ..Rule::always(fault) }
    }

    /// A fault that happens to about one in so many requests.
    #[must_use]
    pub fn one_in(fault: Fault, one_in: u32) -> Rule {
        Rule { one_in, ..Rule::always(fault) }
    }

    /// With these requests only.
    #[must_use]
    pub fn on(self, on: On) -> Rule {
        Rule { on, ..self }
    }
}

/// What went through the proxy, and what it did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Requests whose heads were read.
    pub requests: u64,
    /// Of these, `GET` and `HEAD`.
    pub reads: u64,
    /// Faults that happened since the rule was set: not those that found no body to happen to.
    pub faults: u64,
    /// Bytes of bodies that were sent to the server.
    pub sent_bytes: u64,
    /// Bytes of bodies that were sent to clients.
    pub answered_bytes: u64,
}

/// What the connections share.
#[derive(Debug)]
pub(super) struct Shared {
    state: Mutex<State>,
    gone: watch::Sender<bool>,
    /// Moves when the rule does.
    changes: watch::Sender<u64>,
}

#[derive(Debug)]
struct State {
    rule: Option<Rule>,
    left: u32,
    /// Where chance has got to; `None` before the first time.
    chance: Option<u64>,
    counts: Counts,
}

impl Default for Shared {
    fn default() -> Shared {
        let state = State { rule: None, left: 0, chance: None, counts: Counts::default() };
        Shared { state: Mutex::new(state), gone: watch::Sender::new(false), changes: watch::Sender::new(0) }
    }
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        // Each change is whole by itself, so the state of a thread that panicked is as good as any.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn set(&self, rule: Option<Rule>) {
        let mut state = self.state();
        state.rule = rule;
        state.left = rule.map_or(0, |rule| rule.at_most);
        state.chance = None;
        state.counts.faults = 0;
        drop(state);
        self.gone.send_replace(rule.is_some_and(|rule| rule.fault == Fault::Gone));
        self.changes.send_modify(|changes| *changes += 1);
    }

    pub(super) fn counts(&self) -> Counts {
        self.state().counts
    }

    pub(super) fn count(&self, add: impl FnOnce(&mut Counts)) {
        add(&mut self.state().counts);
    }

    pub(super) fn gone(&self) -> watch::Receiver<bool> {
        self.gone.subscribe()
    }

    pub(super) fn changes(&self) -> watch::Receiver<u64> {
        self.changes.subscribe()
    }

    /// The fault that a request of this method may meet. It has happened only when [`Shared::happens`] says so.
    pub(super) fn fault(&self, method: &str) -> Option<Fault> {
        let is_read = matches!(method, "GET" | "HEAD");
        let mut state = self.state();
        state.counts.requests += 1;
        state.counts.reads += u64::from(is_read);
        let rule = state.rule?;
        let is_meant = match rule.on {
            On::All => true,
            On::Reads => is_read,
            On::Writes => !is_read,
        };
        (is_meant && state.left > 0).then_some(rule.fault)
    }

    /// Whether a fault that could happen now does; it is counted then.
    pub(super) fn happens(&self) -> bool {
        let mut state = self.state();
        let one_in = state.rule.map_or(1, |rule| rule.one_in.max(1));
        let happens = state.left > 0 && state.draw(one_in);
        if happens {
            state.left -= 1;
            state.counts.faults += 1;
        }
        happens
    }
}

impl State {
    /// True the first time, and then one time in so many, as looks random (`SplitMix64`).
    fn draw(&mut self, one_in: u32) -> bool {
        let Some(chance) = self.chance.as_mut() else {
            self.chance = Some(1);
            return true;
        };
        *chance = chance.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (*chance ^ (*chance >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (mixed ^ (mixed >> 31)).is_multiple_of(u64::from(one_in))
    }
}
