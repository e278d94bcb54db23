//! Many keys at once: gets that share a fence, puts that share messages.

use std::collections::VecDeque;
use std::mem::{self, ManuallyDrop};

use larder_protocol::hit::Lookup;
use larder_protocol::key;
use larder_protocol::message::{PutItem, PutOutcome, Refusal, Reply, Request, Staged};

use crate::binding::Bound;
use crate::channel::Ticket;
use crate::deadline::Deadline;
use crate::fault::Fault;
use crate::put;
use crate::session::{ROUNDS, Session};
use crate::{Block, Error, Namespace};

/// Messages of one vectored put that may be under way together: one that the agent works on, one that is being written.
const GROUPS_UNDER_WAY: usize = 2;
/// Most items in a message. Half of what the protocol allows, so that a reply that refuses each of them fits a packet.
const GROUP_ITEMS: usize = larder_protocol::message::MANY_MAX / 2;
/// Most bytes of keys and lengths in a message, well below what a packet can hold.
const GROUP_MESSAGE_BYTES: usize = 60 * 1024;
/// Where payloads start in staging.
const ALIGN_BYTES: usize = 64;

type Outcome = Result<PutOutcome, Error>;

impl Namespace {
    /// The blocks under `keys`, in their order. Look-ups in the map overlap, so that this is several times faster than
    /// one get after another where the index does not fit the processor's caches.
    pub fn get_many(&self, keys: &[&str]) -> Vec<Result<Block, Error>> {
        let mut found: Vec<Result<Block, Error>> = Vec::with_capacity(keys.len());
        found.resize_with(keys.len(), || Err(Error::NotResident));
        let mut hits = 0;
        let bound = self.binding.look();
        if let Some(session) = &bound.session {
            let mut places = found.iter_mut();
            let bytes = keys.iter().map(|key| key.as_bytes());
            session.reader().get_many(bound.incarnation, bytes, |lookup| {
                if let (Some(place), Lookup::Hit(pin)) = (places.next(), lookup) {
                    // What lies there has nothing to drop, and a list that grows would take each block by way of memory.
                    let _ = ManuallyDrop::new(mem::replace(place, Ok(Block::new(pin))));
                    hits += 1;
                }
            });
        }
        drop(bound);
        if hits == keys.len() {
            return found;
        }
        // Each is looked up again before the agent is asked: the first to ask may have mapped what all of them need.
        found.into_iter().zip(keys).map(|(block, key)| block.or_else(|_| self.get(key))).collect()
    }

    /// Puts many payloads; outcomes in the order of `items`. As [`Namespace::put`] one after another, but short payloads
    /// share messages, and the next message is written while the agent works on the one before.
    pub fn put_many(&self, items: &[(&str, &[u8])]) -> Vec<Outcome> {
        let mut batch = Batch {
            outcomes: items.iter().map(|(key, _)| key::check_key(key).err().map(|error| Err(error.into()))).collect(),
            items,
        };
        match self.deadline().and_then(|deadline| self.put_batch(&mut batch, deadline)) {
            Ok(()) => batch.finish(&Ok(PutOutcome::NotKept)),
            Err(error) => batch.finish(&Err(error)),
        }
    }

    /// Puts what has no outcome yet. Returns without an error when there is no agent and the client goes on without.
    fn put_batch(&self, batch: &mut Batch<'_>, deadline: Deadline) -> Result<(), Error> {
        let mut followed = false;
        for round in 1..=ROUNDS {
            let pending = batch.pending();
            if pending.is_empty() {
                return Ok(());
            }
            let Some((bound, session)) = self.binding.bind(deadline)? else {
                return Ok(());
            };
            let epoch = session.reader().drop_retired();
            match batch.run(&session, &bound, &pending, deadline) {
                // Memory was given up for some, and is room once nobody has it mapped any more: we may be the last.
                Ok(()) if round < ROUNDS && session.reader().drop_retired() != epoch => batch.forget_no_space(),
                Ok(()) | Err(Fault::Lost) => {}
                // Followed once, and only if nothing was stored before the clear by this call.
                Err(Fault::Refused(Refusal::Cleared { namespace })) if !followed && !batch.has_stored() => {
                    followed = true;
                    self.binding.adopt(&bound, namespace);
                }
                Err(fault) => return Err(fault.into()),
            }
        }
        Err(Error::Busy)
    }
}

/// A vectored put, with the outcomes that are known.
struct Batch<'i> {
    items: &'i [(&'i str, &'i [u8])],
    outcomes: Vec<Option<Outcome>>,
}

/// Items that went in one message.
struct Group<'c> {
    ticket: Ticket<'c>,
    members: Vec<usize>,
}

impl Batch<'_> {
    fn pending(&self) -> Vec<usize> {
        (0..self.items.len()).filter(|item| self.outcomes[*item].is_none()).collect()
    }

    fn has_stored(&self) -> bool {
        self.outcomes.iter().flatten().any(Result::is_ok)
    }

    /// Makes what there was no room for pending again.
    fn forget_no_space(&mut self) {
        let refused = |outcome: &Option<Outcome>| matches!(outcome, Some(Err(Error::NoSpace { .. })));
        self.outcomes.iter_mut().filter(|outcome| refused(outcome)).for_each(|outcome| *outcome = None);
    }

    fn finish(self, rest: &Outcome) -> Vec<Outcome> {
        self.outcomes.into_iter().map(|outcome| outcome.unwrap_or_else(|| rest.clone())).collect()
    }

    /// Sends the pending items. `Cleared` leaves those without an outcome that the old incarnation did not take.
    fn run(
        &mut self,
        session: &Session,
        bound: &Bound,
        mut pending: &[usize],
        deadline: Deadline,
    ) -> Result<(), Fault> {
        let staging = session.staging(deadline)?;
        let unit = Session::unit_bytes(staging);
        let mut under_way: VecDeque<Group<'_>> = VecDeque::with_capacity(GROUPS_UNDER_WAY);
        let mut cleared = None;
        while !(pending.is_empty() && under_way.is_empty()) {
            if let Some(&item) = pending.first()
                && under_way.len() < GROUPS_UNDER_WAY
            {
                let (key, bytes) = self.items[item];
                let (count, len) = self.next_group(pending, unit);
                if count == 0 && under_way.is_empty() {
                    // Alone, in chunks, and in its place among the others.
                    self.outcomes[item] = Some(match put::put(session, bound.incarnation, key, bytes, deadline) {
                        Err(Fault::Refused(refusal @ Refusal::Cleared { .. })) => return Err(Fault::Refused(refusal)),
                        Err(fault @ Fault::Lost) => return Err(fault),
                        other => other.map_err(Error::from),
                    });
                    pending = &pending[1..];
                    continue;
                }
                let free = if count == 0 { None } else { staging.take(len) };
                let range = match free {
                    None if under_way.is_empty() => Some(session.stage(staging, len, deadline)?),
                    other => other,
                };
                if let Some(mut range) = range {
                    let (group, rest) = pending.split_at(count);
                    let request = self.write_group(bound.incarnation, group, range.offset(), range.as_mut_slice());
                    let ticket = session.channel().begin(request, Some(range), deadline)?;
                    under_way.push_back(Group { ticket, members: group.to_vec() });
                    pending = rest;
                    continue;
                }
            }
            if let Some(oldest) = under_way.pop_front() {
                cleared = cleared.or(self.settle(oldest, deadline)?);
            }
        }
        cleared.map_or(Ok(()), |namespace| Err(Fault::Refused(Refusal::Cleared { namespace })))
    }

    /// How many of the pending items go into the next message, and how much staging they need. None when the first is
    /// too long to share.
    fn next_group(&self, pending: &[usize], unit: usize) -> (usize, usize) {
        let (mut count, mut len, mut message_len) = (0, 0, 0);
        for item in pending.iter().take(GROUP_ITEMS) {
            let (key, bytes) = self.items[*item];
            // The key and three numbers of eight bytes: its length, and where the payload lies.
            message_len += key.len() + 24;
            let longer = len + bytes.len().next_multiple_of(ALIGN_BYTES);
            if longer > unit || message_len > GROUP_MESSAGE_BYTES {
                break;
            }
            (count, len) = (count + 1, longer);
        }
        (count, len)
    }

    fn write_group(&self, namespace: u64, group: &[usize], offset: u64, staging: &mut [u8]) -> Request {
        let mut at = 0;
        let mut items = Vec::with_capacity(group.len());
        for item in group {
            let (key, bytes) = self.items[*item];
            staging[at..at + bytes.len()].copy_from_slice(bytes);
            let staged = Staged { offset: offset + at as u64, len: bytes.len() as u64 };
            items.push(PutItem { key: key.to_owned(), staged });
            at += bytes.len().next_multiple_of(ALIGN_BYTES);
        }
        Request::PutMany { namespace, items }
    }

    /// Waits for a group's outcomes. Returns the new incarnation if some of them met a clear.
    fn settle(&mut self, group: Group<'_>, deadline: Deadline) -> Result<Option<u64>, Fault> {
        let outcomes = match group.ticket.wait(deadline) {
            Ok(response) => match response.reply {
                Reply::PutMany(outcomes) if outcomes.len() == group.members.len() => outcomes,
                other => return Err(Fault::unexpected(&other)),
            },
            Err(Fault::Refused(refusal)) => vec![Err(refusal); group.members.len()],
            Err(fault) => return Err(fault),
        };
        let mut cleared = None;
        for (item, outcome) in group.members.into_iter().zip(outcomes) {
            match outcome {
                Err(Refusal::Cleared { namespace }) => cleared = Some(namespace),
                other => self.outcomes[item] = Some(other.map_err(Error::from)),
            }
        }
        Ok(cleared)
    }
}
