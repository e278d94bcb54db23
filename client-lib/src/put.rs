//! Puts through staging: a short payload with one message, a long one in chunks that overlap with the agent's copying.

use std::collections::VecDeque;
use std::sync::Arc;

use larder_protocol::key;
use larder_protocol::message::{PutItem, PutOutcome, Refusal, Reply, Request, Staged};
use larder_protocol::view::{Staging, StagingRange};

use crate::channel::{Response, Ticket};
use crate::deadline::Deadline;
use crate::fault::Fault;
use crate::session::{Session, done};
use crate::{Error, Namespace};

/// Chunks of one put that may be under way together: enough that agent and client never wait for each other's copying.
const CHUNKS_UNDER_WAY: usize = 4;

impl Namespace {
    /// Puts `bytes` under `key`. When it returns, every process of this user on the node finds them.
    ///
    /// Blocks do not change: a key that holds other bytes is [`Error::AlreadyExists`], unless the namespace allows
    /// overwriting. A call that ends with [`Error::Deadline`] may still take effect.
    pub fn put(&self, key: &str, bytes: &[u8]) -> Result<PutOutcome, Error> {
        key::check_key(key)?;
        let deadline = self.deadline()?;
        // Followed once, and only when nothing was sent but the number of an incarnation that is no more: then the put
        // begins now, after the clear.
        let outcome =
            self.with_session(deadline, 1, |session, bound| put(session, bound.incarnation, key, bytes, deadline))?;
        Ok(outcome.unwrap_or(PutOutcome::NotKept))
    }
}

/// Puts one payload of any length. `Cleared` as a refusal means that the put had not begun.
pub(crate) fn put(
    session: &Session,
    namespace: u64,
    key: &str,
    bytes: &[u8],
    deadline: Deadline,
) -> Result<PutOutcome, Fault> {
    if bytes.is_empty() {
        return put_staged(session, namespace, key, None, deadline);
    }
    let staging = session.staging(deadline)?;
    let unit = Session::unit_bytes(staging);
    if bytes.len() > unit {
        return put_long(session, staging, namespace, key, bytes, unit, deadline);
    }
    let mut range = session.stage(staging, bytes.len(), deadline)?;
    range.as_mut_slice().copy_from_slice(bytes);
    put_staged(session, namespace, key, Some(range), deadline)
}

/// Puts what lies in staging already.
pub(crate) fn put_staged(
    session: &Session,
    namespace: u64,
    key: &str,
    range: Option<StagingRange>,
    deadline: Deadline,
) -> Result<PutOutcome, Fault> {
    let staged = range.as_ref().map_or(Staged { offset: 0, len: 0 }, staged);
    let item = PutItem { key: key.to_owned(), staged };
    outcome(session.channel().begin(Request::Put { namespace, item }, range, deadline)?.wait(deadline)?)
}

/// Expects the outcome of a put.
pub(crate) fn outcome(response: Response) -> Result<PutOutcome, Fault> {
    match response.reply {
        Reply::Put(outcome) => Ok(outcome),
        other => Err(Fault::unexpected(&other)),
    }
}

fn staged(range: &StagingRange) -> Staged {
    Staged { offset: range.offset(), len: range.len() as u64 }
}

fn put_long(
    session: &Session,
    staging: &Arc<Staging>,
    namespace: u64,
    key: &str,
    bytes: &[u8],
    unit: usize,
    deadline: Deadline,
) -> Result<PutOutcome, Fault> {
    let _turn = session.long_puts.take(deadline)?;
    let request = Request::PutBegin { namespace, key: key.to_owned(), len: bytes.len() as u64 };
    let begin = session.channel().begin(request, None, deadline)?;
    send_chunks(session, staging, &begin, bytes, unit, deadline).map_err(|fault| {
        if matches!(fault, Fault::Lost) {
            return fault;
        }
        session.channel().tell(Request::Abandon { put: begin.number() });
        match (begin.refusal(), fault) {
            // The put was never begun, and the refusals of its chunks only say so.
            (Some(refusal), _) => Fault::Refused(refusal),
            // It was begun, and what it was begun in is gone.
            (None, Fault::Refused(Refusal::Cleared { .. })) => Fault::Final(Error::Cleared),
            (None, fault) => fault,
        }
    })
}

fn send_chunks(
    session: &Session,
    staging: &Arc<Staging>,
    begin: &Ticket<'_>,
    bytes: &[u8],
    unit: usize,
    deadline: Deadline,
) -> Result<PutOutcome, Fault> {
    let channel = session.channel();
    let put = begin.number();
    let mut under_way: VecDeque<Ticket<'_>> = VecDeque::with_capacity(CHUNKS_UNDER_WAY);
    for chunk in bytes.chunks(unit) {
        let mut range = loop {
            if under_way.len() < CHUNKS_UNDER_WAY
                && let Some(range) = staging.take(chunk.len())
            {
                break range;
            }
            match under_way.pop_front() {
                Some(oldest) => done(oldest.wait(deadline)?)?,
                // Nothing of ours is under way that could free staging: the replies to others will.
                None => break session.stage(staging, chunk.len(), deadline)?,
            }
        };
        range.as_mut_slice().copy_from_slice(chunk);
        let request = Request::PutChunk { put, staged: staged(&range) };
        under_way.push_back(channel.begin(request, Some(range), deadline)?);
    }
    let end = channel.begin(Request::PutEnd { put }, None, deadline)?;
    for chunk in under_way {
        done(chunk.wait(deadline)?)?;
    }
    outcome(end.wait(deadline)?)
}
