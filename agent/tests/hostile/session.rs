//! An honest session: what a library does, in few lines.

use std::path::Path;
use std::sync::Arc;

use larder_protocol::hit::{Attachment, Lookup, PinnedBlock, Reader, SlotPage};
use larder_protocol::memory::Mapping;
use larder_protocol::message::{PutItem, PutOutcome, Refusal, Reply, Request, Staged};
use larder_protocol::namespace::NamespaceOptions;
use larder_protocol::stat::AgentStat;
use larder_protocol::view::Staging;

use crate::raw::Raw;

/// Bytes that one message puts.
const CHUNK_BYTES: usize = 1 << 20;

/// One honest session.
#[derive(Debug)]
pub(crate) struct Session {
    pub(crate) raw: Raw,
    pub(crate) reader: Reader,
    staging: Option<Arc<Staging>>,
}

/// Bytes that nobody could have left there by chance, the same every time.
pub(crate) fn payload(seed: u64, len: usize) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(len + 8);
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    while bytes.len() < len {
        bytes.extend_from_slice(&next(&mut state).to_le_bytes());
    }
    bytes.truncate(len);
    bytes
}

/// The next number of a xorshift sequence, which must not start at 0.
pub(crate) fn next(state: &mut u64) -> u64 {
    *state ^= *state << 13;
    *state ^= *state >> 7;
    *state ^= *state << 17;
    *state
}

/// A number below `bound`.
pub(crate) fn below(state: &mut u64, bound: usize) -> usize {
    usize::try_from(next(state) % bound as u64).expect("below a usize")
}

impl Session {
    #[track_caller]
    pub(crate) fn open(socket: &Path) -> Session {
        let (mut raw, greeting) = Raw::greeted(socket);
        let attachment = Attachment {
            life: greeting.life,
            control: greeting.control,
            slots: greeting.slots,
            stripes: greeting.welcome.stripes as usize,
            future_write: greeting.welcome.future_write,
        };
        let reader = Reader::attach(&attachment).expect("an honest agent's descriptors pass every check");
        assert_eq!(raw.mapped(greeting.welcome.slots_memory), Reply::Done);
        Session { raw, reader, staging: None }
    }

    #[track_caller]
    pub(crate) fn namespace(&mut self, name: &str) -> u64 {
        self.raw.namespace(name)
    }

    #[track_caller]
    pub(crate) fn namespace_with(&mut self, name: &str, options: NamespaceOptions) -> u64 {
        let request = Request::OpenNamespace { name: name.to_owned(), options: Some(options) };
        match self.raw.ask(request) {
            Reply::Namespace(info) => info.namespace,
            other => panic!("OpenNamespace was answered by {other:?}"),
        }
    }

    #[track_caller]
    fn staging(&mut self) -> Result<Arc<Staging>, Refusal> {
        if let Some(staging) = &self.staging {
            return Ok(Arc::clone(staging));
        }
        let (memory, len, fd) = self.raw.memory(Request::Staging)?;
        let mapping = Mapping::read_write(&fd, len).expect("not sealed yet");
        assert_eq!(self.raw.mapped(memory), Reply::Done);
        Ok(Arc::clone(self.staging.insert(Staging::new(mapping))))
    }

    /// Puts a block, in chunks where it is long.
    #[track_caller]
    pub(crate) fn put(&mut self, namespace: u64, key: &str, bytes: &[u8]) -> Result<PutOutcome, Refusal> {
        let staging = self.staging()?;
        let key = key.to_owned();
        let mut range = staging.take(bytes.len().min(CHUNK_BYTES)).expect("one put at a time");
        let last = if bytes.len() <= CHUNK_BYTES {
            range.as_mut_slice().copy_from_slice(bytes);
            let staged = Staged { offset: range.offset(), len: bytes.len() as u64 };
            let item = PutItem { key, staged };
            self.raw.ask(Request::Put { namespace, item })
        } else {
            let len = bytes.len() as u64;
            let put = self.raw.send(Request::PutBegin { namespace, key, len });
            for chunk in bytes.chunks(CHUNK_BYTES) {
                range.as_mut_slice()[..chunk.len()].copy_from_slice(chunk);
                let staged = Staged { offset: range.offset(), len: chunk.len() as u64 };
                let chunk = self.raw.send(Request::PutChunk { put, staged });
                // The beginning is answered only if it is refused, and then before its chunks.
                match self.raw.receive_any(&[put, chunk]) {
                    Reply::Done => {}
                    Reply::Refused(refusal) => return Err(refusal),
                    other => panic!("a chunk was answered by {other:?}"),
                }
            }
            self.raw.ask(Request::PutEnd { put })
        };
        match last {
            Reply::Put(outcome) => Ok(outcome),
            Reply::Refused(refusal) => Err(refusal),
            other => panic!("a put was answered by {other:?}"),
        }
    }

    /// Pins a block.
    #[track_caller]
    pub(crate) fn get(&mut self, namespace: u64, key: &str) -> Result<PinnedBlock, Refusal> {
        for _ in 0..1000 {
            let request = match self.reader.get(namespace, key.as_bytes()) {
                Lookup::Hit(block) => return Ok(block),
                Lookup::AskAgent => Request::Get { namespace, key: key.to_owned() },
                Lookup::NeedTable => Request::Table,
                Lookup::NeedSegment(segment) => Request::Segment { segment },
                Lookup::NeedSlots => {
                    let (memory, len, fd) = self.raw.memory(Request::MoreSlots)?;
                    let page = SlotPage::map(&fd, len).expect("not sealed yet");
                    assert_eq!(self.raw.mapped(memory), Reply::Done);
                    self.reader.add_slots(page);
                    continue;
                }
                over @ (Lookup::Forked | Lookup::AgentDied) => panic!("the session is over: {over:?}"),
            };
            let segment = match request {
                Request::Segment { segment } => segment,
                _ => 0,
            };
            let answered = self.raw.call(request);
            match answered.reply {
                Reply::Resident => {}
                Reply::Table { len } => {
                    let len = usize::try_from(len).expect("fits");
                    self.reader.set_table(&answered.descriptors[0], len).expect("a sealed table");
                    self.raw.received(1);
                }
                Reply::Segment { len } => {
                    let len = usize::try_from(len).expect("fits");
                    let added = self.reader.add_segment(segment, &answered.descriptors[0], len);
                    added.expect("a sealed segment");
                    self.raw.received(1);
                }
                // Retired meanwhile: look again.
                Reply::Refused(Refusal::NotFound) if segment != 0 => {}
                Reply::Refused(refusal) => return Err(refusal),
                other => panic!("a get was answered by {other:?}"),
            }
        }
        panic!("{key:?} changed a thousand times while it was looked up");
    }

    /// Puts a block of `len` bytes made from `seed`, and reads it back, checked.
    #[track_caller]
    pub(crate) fn put_and_check(&mut self, namespace: u64, key: &str, seed: u64, len: usize) {
        let bytes = payload(seed, len);
        let outcome = self.put(namespace, key, &bytes);
        assert!(outcome.is_ok(), "an honest put of {len} bytes under {key:?} met {outcome:?}");
        let block = self.get(namespace, key).expect("just put");
        assert!(block.verify(), "{key:?} does not match its checksums");
        assert!(block.as_slice() == bytes, "{key:?} holds other bytes than were put");
    }

    #[track_caller]
    pub(crate) fn stat(&mut self) -> AgentStat {
        match self.raw.ask(Request::Stat) {
            Reply::Stat(stat) => *stat,
            other => panic!("Stat was answered by {other:?}"),
        }
    }
}
