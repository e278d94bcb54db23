//! Objects that are read chunk by chunk: larger than memory should hold at once, or of which only parts are wanted.

use std::fs::File;
use std::ops::{Deref, Range};
use std::os::fd::AsFd;
use std::sync::atomic::{AtomicU64, Ordering};

use larder_protocol::key;
use larder_protocol::message::{MANY_MAX, PrefetchItem, Refusal, Reply, Request};

use crate::fault::Fault;
use crate::fetch::{file_of, url_key};
use crate::session::{Ask, ROUNDS, Session};
use crate::{Block, Error, Namespace};

/// Chunks that are asked for ahead of whoever reads in order: at first, and after some.
const AHEAD_FIRST: u64 = 2;
const AHEAD_MOST: u64 = 8;
/// How often an object that the agent has closed is opened again for one chunk.
const REOPENED_MAX: usize = 3;

/// An object at a URL or in a file, of one version, read in place.
///
/// Its chunks are blocks under keys of their own ([`key::chunk`]), which are fetched when they are needed and evicted like
/// others. Threads may share one.
#[derive(Debug)]
pub struct Object {
    namespace: Namespace,
    key: String,
    url: String,
    file: Option<(String, File)>,
    len_bytes: u64,
    version: u64,
    chunk_bytes: u64,
    order: Order,
}

/// What is known of the order in which chunks are read.
#[derive(Debug, Default)]
struct Order {
    /// The chunk behind the last one.
    next: AtomicU64,
    /// Chunks that were read in order.
    run: AtomicU64,
    /// The first chunk that was not asked for ahead.
    asked: AtomicU64,
}

/// Some bytes of an object, in place. They stay while this lives.
#[derive(Clone, Debug)]
pub struct Chunk {
    block: Block,
    offset_bytes: u64,
}

impl Chunk {
    /// Where in the object its bytes begin.
    pub fn offset(&self) -> u64 {
        self.offset_bytes
    }

    /// Its bytes from an offset in the object on.
    pub fn from(&self, offset_bytes: u64) -> &[u8] {
        let skipped = offset_bytes.checked_sub(self.offset_bytes).and_then(|skipped| usize::try_from(skipped).ok());
        skipped.and_then(|skipped| self.block.get(skipped..)).unwrap_or_default()
    }
}

impl Deref for Chunk {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.block
    }
}

impl Namespace {
    /// Opens what a URL or a file has, to be read in parts. The same URLs and rights as in [`Namespace::get_or_fetch`].
    ///
    /// # Errors
    /// As [`Namespace::get_or_fetch`].
    pub fn open(&self, url: &str) -> Result<Object, Error> {
        let file = file_of(url)?;
        let mut object = Object {
            namespace: self.clone(),
            key: url_key(url),
            url: url.to_owned(),
            file,
            len_bytes: 0,
            version: 0,
            chunk_bytes: 1,
            order: Order::default(),
        };
        (object.len_bytes, object.version, object.chunk_bytes) = object.ask()?;
        Ok(object)
    }

    /// Says that keys will be asked for soon: the agent begins to read from its store those that are not in memory, a limited
    /// number at once. A hint; whatever comes of it is seen by the gets that follow.
    pub fn prefetch(&self, keys: &[&str]) -> Result<(), Error> {
        self.prefetch_items(keys.iter().map(|key| (*key, None)))
    }

    /// The same of keys that come from URLs (not files), each with its URL.
    pub fn prefetch_urls(&self, items: &[(&str, &str)]) -> Result<(), Error> {
        self.prefetch_items(items.iter().map(|(key, url)| (*key, Some(*url))))
    }

    fn prefetch_items<'a>(&self, items: impl Iterator<Item = (&'a str, Option<&'a str>)>) -> Result<(), Error> {
        let deadline = self.deadline()?;
        let mut all = Vec::new();
        for (key, url) in items {
            key::check_key(key)?;
            all.push(PrefetchItem { key: key.to_owned(), url: url.map(str::to_owned) });
        }
        for items in all.chunks(MANY_MAX) {
            self.with_session(deadline, ROUNDS, |session, bound| {
                let request = Request::Prefetch { namespace: bound.incarnation, items: items.to_vec() };
                crate::session::done(session.channel().call(request, deadline)?)
            })?;
        }
        Ok(())
    }
}

impl Object {
    /// Its length in bytes.
    pub fn len(&self) -> u64 {
        self.len_bytes
    }

    /// Whether it has no bytes.
    pub fn is_empty(&self) -> bool {
        self.len_bytes == 0
    }

    /// Length of each chunk but the last.
    pub fn chunk_len(&self) -> u64 {
        self.chunk_bytes
    }

    /// The chunk that has the byte at an offset, in place, fetched if need be. `None` from the end on. Whoever reads chunk after
    /// chunk finds the next ones on their way.
    ///
    /// # Errors
    /// [`Error::OriginChanged`] when it would be of another version. What is held already stays good.
    pub fn chunk_at(&self, offset_bytes: u64) -> Result<Option<Chunk>, Error> {
        if offset_bytes >= self.len_bytes {
            return Ok(None);
        }
        let index = offset_bytes / self.chunk_bytes;
        self.read_ahead(index);
        let block = self.block(index)?;
        Ok(Some(Chunk { block, offset_bytes: index * self.chunk_bytes }))
    }

    /// Copies bytes from an offset on, as many as `buffer` has room for or as there are. Returns how many.
    pub fn read_at(&self, buffer: &mut [u8], offset_bytes: u64) -> Result<usize, Error> {
        let mut done = 0;
        while done < buffer.len() {
            let at = offset_bytes.saturating_add(done as u64);
            let Some(chunk) = self.chunk_at(at)? else { break };
            let from = chunk.from(at);
            let take = from.len().min(buffer.len() - done);
            buffer[done..done + take].copy_from_slice(&from[..take]);
            done += take;
        }
        Ok(done)
    }

    /// Says that these ranges of bytes will be read soon. A hint.
    pub fn prefetch(&self, ranges: &[Range<u64>]) -> Result<(), Error> {
        for range in ranges.iter().filter(|range| !range.is_empty() && range.start < self.len_bytes) {
            let first = range.start / self.chunk_bytes;
            let last = (range.end.min(self.len_bytes) - 1) / self.chunk_bytes;
            self.ask_ahead(first, last - first + 1)?;
        }
        Ok(())
    }

    /// Looks whether chunks are read in order, and asks for the next ones.
    fn read_ahead(&self, index: u64) {
        // Relaxed: a guess, whatever other threads do.
        let order = &self.order;
        if order.next.swap(index + 1, Ordering::Relaxed) != index {
            order.run.store(0, Ordering::Relaxed);
            order.asked.store(index + 1, Ordering::Relaxed);
            return;
        }
        let run = order.run.fetch_add(1, Ordering::Relaxed);
        let ahead = AHEAD_FIRST.saturating_add(run).min(AHEAD_MOST);
        let chunks = self.len_bytes.div_ceil(self.chunk_bytes);
        let end = (index + 1 + ahead).min(chunks);
        let begin = order.asked.fetch_max(end, Ordering::Relaxed).max(index + 1);
        if begin < end {
            let _ = self.ask_ahead(begin, end - begin);
        }
    }

    fn ask_ahead(&self, index: u64, count: u64) -> Result<(), Error> {
        let deadline = self.namespace.deadline()?;
        self.namespace.with_session(deadline, ROUNDS, |session, bound| {
            let (namespace, key, version) = (bound.incarnation, self.key.clone(), self.version);
            let count = u32::try_from(count).unwrap_or(u32::MAX);
            let request = Request::PrefetchChunks { namespace, key, version, index, count };
            crate::session::done(session.channel().call(request, deadline)?)
        })?;
        Ok(())
    }

    fn block(&self, index: u64) -> Result<Block, Error> {
        let key = key::chunk(&self.key, self.version, index);
        if let Some(block) = self.namespace.get_mapped(&key) {
            return Ok(block);
        }
        let deadline = self.namespace.deadline()?;
        for _ in 0..REOPENED_MAX {
            let ask = Ask::Chunk { object: &self.key, version: self.version, index };
            let found = self.namespace.with_session(deadline, ROUNDS, |session, bound| {
                match session.find(bound.incarnation, &key, None, ask, deadline) {
                    Err(Fault::Refused(Refusal::NotFound)) => Ok(None),
                    other => other.map(Some),
                }
            })?;
            if let Some(pin) = found.flatten() {
                return Ok(Block::new(pin));
            }
            // The agent has closed it, or is another: open it again, and see that it is the same.
            if self.ask()?.1 != self.version {
                return Err(Error::OriginChanged(self.url.clone()));
            }
        }
        Err(Error::Busy)
    }

    /// Opens the object at the agent: length, version and length of a chunk.
    fn ask(&self) -> Result<(u64, u64, u64), Error> {
        let deadline = self.namespace.deadline()?;
        let ask = |session: &Session, namespace| {
            let key = self.key.clone();
            let response = match &self.file {
                Some((path, file)) => {
                    let request = Request::OpenObjectFile { namespace, key, path: path.clone() };
                    session.channel().call_with(request, file.as_fd(), deadline)
                }
                None => {
                    let url = self.url.clone();
                    session.channel().call(Request::OpenObject { namespace, key, url }, deadline)
                }
            };
            match response?.reply {
                Reply::Object { len, version, chunk_len } if chunk_len > 0 => Ok((len, version, chunk_len)),
                other => Err(Fault::unexpected(&other)),
            }
        };
        let told = self.namespace.with_session(deadline, ROUNDS, |session, bound| ask(session, bound.incarnation))?;
        told.ok_or(Error::NotFound)
    }
}
