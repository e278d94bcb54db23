//! A namespace: what can be done with single keys and with all of them.

use std::sync::Arc;
use std::time::Duration;

use larder_protocol::hit::Lookup;
use larder_protocol::key;
use larder_protocol::message::{Refusal, Reply, Request};

use crate::binding::{Binding, Bound};
use crate::deadline::Deadline;
use crate::fault::Fault;
use crate::session::{Ask, ROUNDS, Session, done};
use crate::{Block, Error};

/// A handle on a namespace. Clones are cheap and mean the same namespace; threads may share one.
///
/// The handle follows its name: when the namespace is cleared, or the agent is another, the next call goes on with what
/// bears the name then.
#[derive(Clone, Debug)]
pub struct Namespace {
    pub(crate) binding: Arc<Binding>,
    timeout: Option<Duration>,
}

impl Namespace {
    pub(crate) fn new(binding: Arc<Binding>, timeout: Option<Duration>) -> Namespace {
        Namespace { binding, timeout }
    }

    /// The name.
    pub fn name(&self) -> &str {
        self.binding.name()
    }

    /// A handle whose calls each wait no longer than `timeout`.
    ///
    /// [`Duration::ZERO`] means mapped hits only: where the agent would have to be asked, the call is
    /// [`Error::NotResident`].
    pub fn with_timeout(&self, timeout: Duration) -> Namespace {
        Namespace { binding: Arc::clone(&self.binding), timeout: Some(timeout) }
    }

    /// The deadline of a call that has to ask the agent.
    pub(crate) fn deadline(&self) -> Result<Deadline, Error> {
        match self.timeout {
            Some(Duration::ZERO) => Err(Error::NotResident),
            timeout => Ok(Deadline::after(timeout)),
        }
    }

    /// The block under `key`, pinned where it lies. On a hit this is no system call and no message.
    #[inline]
    pub fn get(&self, key: &str) -> Result<Block, Error> {
        self.look(key, Ok, |seen| self.get_by_asking(key, seen))
    }

    /// Looks into the map only, and goes on with the block or with what was seen instead. Inlined with all of the hit
    /// path and without a result of its own: a block that is returned twice goes by way of memory, which takes as long as
    /// half a look-up.
    #[inline(always)]
    fn look<R>(
        &self,
        key: &str,
        hit: impl FnOnce(Block) -> Result<R, Error>,
        miss: impl FnOnce(Option<Seen>) -> Result<R, Error>,
    ) -> Result<R, Error> {
        let bound = self.binding.look();
        let seen = match &bound.session {
            Some(session) => match session.reader().get(bound.incarnation, key.as_bytes()) {
                Lookup::Hit(pin) => return hit(Block::new(pin)),
                lookup => Some(Seen { bound: bound.hold(), lookup }),
            },
            None => None,
        };
        drop(bound);
        miss(seen)
    }

    /// The block under `key` if it can be had without asking.
    #[inline(always)]
    pub(crate) fn get_mapped(&self, key: &str) -> Option<Block> {
        self.look(key, |block| Ok(Some(block)), |_| Ok(None)).unwrap_or(None)
    }

    #[cold]
    fn get_by_asking(&self, key: &str, seen: Option<Seen>) -> Result<Block, Error> {
        key::check_key(key)?;
        self.find(key, seen, Ask::Get, self.deadline()?)
    }

    /// The block under `key`, as soon as somebody has put it, or [`Error::Deadline`] after `timeout`. Without an agent
    /// (see [`OnAbsent::Direct`](crate::OnAbsent::Direct)) it does not wait: nobody could put it.
    pub fn wait(&self, key: &str, timeout: Duration) -> Result<Block, Error> {
        self.look(key, Ok, |seen| {
            key::check_key(key)?;
            if timeout.is_zero() {
                return Err(Error::NotResident);
            }
            self.find(key, seen, Ask::Wait, Deadline::after(Some(timeout)))
        })
    }

    fn find(&self, key: &str, mut seen: Option<Seen>, ask: Ask<'_>, deadline: Deadline) -> Result<Block, Error> {
        let found = self.with_session(deadline, ROUNDS, |session, bound| {
            // What was seen in a map counts only for that very map.
            let seen = seen.take().filter(|seen| Arc::ptr_eq(&seen.bound, bound));
            session.find(bound.incarnation, key, seen.map(|seen| seen.lookup), ask, deadline)
        })?;
        found.map(Block::new).ok_or(Error::NotFound)
    }

    /// Whether there is a block under `key`. It may be gone at the next call.
    pub fn contains(&self, key: &str) -> Result<bool, Error> {
        self.look(key, |_| Ok(true), |_| self.contains_by_asking(key))
    }

    fn contains_by_asking(&self, key: &str) -> Result<bool, Error> {
        key::check_key(key)?;
        let deadline = self.deadline()?;
        let asked = self.with_session(deadline, ROUNDS, |session, bound| {
            match session.ask(bound.incarnation, key, Ask::Get, deadline) {
                Err(Fault::Refused(Refusal::NotFound)) => Ok(false),
                other => other.map(|()| true),
            }
        })?;
        Ok(asked.unwrap_or(false))
    }

    /// Takes `key` out; whether it was there. Whoever holds its block keeps it.
    pub fn delete(&self, key: &str) -> Result<bool, Error> {
        key::check_key(key)?;
        let deadline = self.deadline()?;
        let deleted = self.with_session(deadline, ROUNDS, |session, bound| {
            let request = Request::Delete { namespace: bound.incarnation, key: key.to_owned() };
            match session.channel().call(request, deadline) {
                Err(Fault::Refused(Refusal::NotFound)) => Ok(false),
                Err(fault) => Err(fault),
                Ok(response) => match response.reply {
                    Reply::Done => Ok(true),
                    Reply::Count(count) => Ok(count > 0),
                    other => Err(Fault::unexpected(&other)),
                },
            }
        })?;
        Ok(deleted.unwrap_or(false))
    }

    /// All keys that begin with `prefix`, sorted; an empty prefix for all. A snapshot.
    pub fn list(&self, prefix: &str) -> Result<Vec<String>, Error> {
        self.names(prefix, false)
    }

    /// The direct children of the group `prefix` (empty for the top), as names relative to it, sorted. A snapshot.
    pub fn children(&self, prefix: &str) -> Result<Vec<String>, Error> {
        self.names(prefix, true)
    }

    fn names(&self, prefix: &str, children: bool) -> Result<Vec<String>, Error> {
        let deadline = self.deadline()?;
        if prefix.len() > key::KEY_LEN_MAX {
            // No key begins so, and no message could carry it.
            return Ok(Vec::new());
        }
        let names = self.with_session(deadline, ROUNDS, |session, bound| {
            let _turn = session.lists.take(deadline)?;
            let mut all = Vec::new();
            let mut cursor = 0;
            loop {
                let namespace = bound.incarnation;
                let request = Request::List { namespace, prefix: prefix.to_owned(), children, cursor };
                match session.channel().call(request, deadline)?.reply {
                    Reply::Names { names, cursor: 0 } => {
                        all.extend(names);
                        return Ok(all);
                    }
                    Reply::Names { names, cursor: next } => {
                        all.extend(names);
                        cursor = next;
                    }
                    other => return Err(Fault::unexpected(&other)),
                }
            }
        })?;
        Ok(names.unwrap_or_default())
    }

    /// Drops everything in the namespace; how many blocks that were. Puts that began before fail with
    /// [`Error::Cleared`].
    pub fn clear(&self) -> Result<u64, Error> {
        let deadline = self.deadline()?;
        let cleared = self.with_session(deadline, ROUNDS, |session, bound| {
            let response = session.channel().call(Request::Clear { name: self.name().to_owned() }, deadline)?;
            let Reply::Count(count) = response.reply else {
                return Err(Fault::unexpected(&response.reply));
            };
            // Its new number is asked for by the next call.
            self.binding.adopt(bound, 0);
            Ok(count)
        })?;
        Ok(cleared.unwrap_or(0))
    }

    /// Waits until the store has every block that anybody had put into the namespace by then. Returns at once where each
    /// put waited for the store itself (`through`); an error in a `scratch` namespace, which has no store.
    ///
    /// # Errors
    /// [`Error::Store`] as soon as one of the blocks could not be written: it stays in memory and is tried again, so a later
    /// sync may succeed. [`Error::Deadline`] when the store is still busy by then. [`Error::AgentLost`] when the agent that
    /// this handle has put into is not there any more: what it had not written is lost and must be put again.
    pub fn sync(&self) -> Result<(), Error> {
        let deadline = self.deadline()?;
        let synced = self.with_session(deadline, ROUNDS, |session, bound| {
            if !self.binding.is_all_with(Some(session)) {
                return Err(Fault::Final(Error::AgentLost));
            }
            done(session.channel().call(Request::Sync { namespace: bound.incarnation }, deadline)?)
        })?;
        match synced {
            None if !self.binding.is_all_with(None) => Err(Error::AgentLost),
            _ => Ok(()),
        }
    }

    /// Calls `act` with a live session, again when that session is lost, and up to `follow` times when the namespace
    /// proves to have been cleared since its number was learnt. `None` when there is no agent and the client goes on
    /// without.
    pub(crate) fn with_session<T>(
        &self,
        deadline: Deadline,
        follow: usize,
        mut act: impl FnMut(&Arc<Session>, &Arc<Bound>) -> Result<T, Fault>,
    ) -> Result<Option<T>, Error> {
        let mut clears = 0;
        let mut no_space = None;
        for _ in 0..ROUNDS {
            let Some((bound, session)) = self.binding.bind(deadline)? else {
                return Ok(None);
            };
            let epoch = session.reader().drop_retired();
            match act(&session, &bound) {
                Ok(value) => return Ok(Some(value)),
                Err(Fault::Lost) => {}
                // Memory was given up for this, and is room once nobody has it mapped any more: we may be the last.
                Err(Fault::Refused(refusal @ Refusal::NoSpace { .. })) if session.reader().drop_retired() != epoch => {
                    no_space = Some(refusal);
                }
                Err(Fault::Refused(Refusal::Cleared { namespace })) if clears < follow => {
                    clears += 1;
                    self.binding.adopt(&bound, namespace);
                }
                Err(fault) => return Err(fault.into()),
            }
        }
        Err(no_space.map_or(Error::Busy, Error::from))
    }
}

/// What a look into a map found, when it was not a hit.
struct Seen {
    bound: Arc<Bound>,
    lookup: Lookup,
}
