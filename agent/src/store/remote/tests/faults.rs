//! What a server, or the way to it, does wrong.

use std::fmt;
use std::ops::Range;
use std::sync::atomic::{AtomicUsize, Ordering};

use async_trait::async_trait;
use futures_util::StreamExt;
use futures_util::stream::{self, BoxStream};
use object_store::client::{HttpError, HttpErrorKind};
use object_store::{
    CopyOptions, Error, GetOptions, GetResult, GetResultPayload, ListResult, MultipartUpload, ObjectMeta,
    PutMultipartOptions, PutOptions, PutPayload, PutResult, Result,
};

use super::*;

/// One fault of a server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fault {
    None,
    /// Writes are done, and every answer to them is lost.
    LostAnswers,
    /// The first so many writes are refused as if somebody else wrote too, and nothing is there.
    Conflicts(usize),
    /// Deletes are done, and every other answer to them is lost.
    LostDeletes,
    /// A write is answered with a server's error, and nothing is there.
    Unavailable,
    /// Each answer to a read of a part ends after so many bytes.
    CutOff(usize),
    /// Nothing comes at all but the first bytes of an object.
    NothingComes,
    /// The tag that a reader gives is not looked at.
    IgnoresIfMatch,
    /// A part is answered with another part of the same length.
    OtherPart,
    /// More bytes come than were asked for.
    TooMuch,
    /// Whoever asks for another object than the first gets it without a tag, as some gateways do.
    NoTags,
    /// As a tree is walked: what is below `a/` before `a-`.
    ListsTree,
    /// A list begins at its beginning wherever one asks.
    ListsFromStart,
}

/// Objects in memory behind a server with a fault.
#[derive(Debug)]
pub(super) struct Faulty {
    pub(super) inner: InMemory,
    pub(super) fault: Fault,
    pub(super) writes: AtomicUsize,
    pub(super) lists: AtomicUsize,
}

impl Faulty {
    pub(super) fn new(fault: Fault) -> Arc<Faulty> {
        let (writes, lists) = (AtomicUsize::new(0), AtomicUsize::new(0));
        Arc::new(Faulty { inner: InMemory::new(), fault, writes, lists })
    }

    /// Everything under a prefix, in the order of this server.
    fn in_order(&self, prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        self.lists.fetch_add(1, Ordering::Relaxed);
        if self.fault != Fault::ListsTree {
            return self.inner.list(prefix);
        }
        let listed = self.inner.list(prefix);
        let sorted = async {
            let mut found: Vec<_> = listed.map(Result::unwrap).collect().await;
            found.sort_unstable_by_key(|found| found.location.as_ref().replace('/', "\0"));
            stream::iter(found.into_iter().map(Ok))
        };
        stream::once(sorted).flatten().boxed()
    }
}

impl fmt::Display for Faulty {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "a server with the fault {:?}", self.fault)
    }
}

fn lost() -> Error {
    let source = HttpError::new(HttpErrorKind::Timeout, std::io::Error::other("operation timed out"));
    Error::Generic { store: "test", source: Box::new(source) }
}

#[async_trait]
impl ObjectStore for Faulty {
    async fn put_opts(&self, location: &Path, payload: PutPayload, options: PutOptions) -> Result<PutResult> {
        let number = self.writes.fetch_add(1, Ordering::Relaxed);
        match self.fault {
            Fault::LostAnswers => {
                self.inner.put_opts(location, payload, options).await?;
                Err(lost())
            }
            Fault::Conflicts(count) if number < count => {
                Err(Error::AlreadyExists { path: location.to_string(), source: "status code: 409".into() })
            }
            Fault::Unavailable => {
                Err(Error::Generic { store: "test", source: "status code: 503: <Code>SlowDown</Code>".into() })
            }
            _ => self.inner.put_opts(location, payload, options).await,
        }
    }

    async fn put_multipart_opts(
        &self,
        location: &Path,
        options: PutMultipartOptions,
    ) -> Result<Box<dyn MultipartUpload>> {
        let inner = self.inner.put_multipart_opts(location, options).await?;
        let loses = self.fault == Fault::LostAnswers;
        Ok(if loses { Box::new(Losing(inner)) } else { inner })
    }

    async fn get_opts(&self, location: &Path, mut options: GetOptions) -> Result<GetResult> {
        let is_read = options.if_match.is_some() || self.fault == Fault::NoTags;
        let is_start = matches!(&options.range, Some(object_store::GetRange::Bounded(range)) if range.start == 0);
        match self.fault {
            Fault::IgnoresIfMatch => options.if_match = None,
            Fault::OtherPart if is_read => {
                if let Some(object_store::GetRange::Bounded(Range { start, end })) = &mut options.range {
                    (*start, *end) = (*start - 1, *end - 1);
                }
            }
            _ => {}
        }
        let mut found = self.inner.get_opts(location, options).await?;
        if self.fault == Fault::NoTags {
            found.meta.e_tag = None;
        }
        let (range, meta) = (found.range.clone(), found.meta.clone());
        let (attributes, extensions) = (found.attributes.clone(), found.extensions.clone());
        let cut = match self.fault {
            Fault::CutOff(bytes) if is_read => Some(bytes),
            Fault::NothingComes if is_read && !is_start => Some(0),
            _ => None,
        };
        let too_much = self.fault == Fault::TooMuch && is_read;
        let body = found.bytes().await?;
        let chunks = match cut {
            Some(bytes) if bytes < body.len() => vec![Ok(body.slice(..bytes)), Err(lost())],
            _ if too_much => vec![Ok(body), Ok(b"more".as_slice().into())],
            _ => vec![Ok(body)],
        };
        Ok(GetResult {
            payload: GetResultPayload::Stream(stream::iter(chunks).boxed()),
            meta,
            range,
            attributes,
            extensions,
        })
    }

    fn delete_stream(&self, locations: BoxStream<'static, Result<Path>>) -> BoxStream<'static, Result<Path>> {
        let deleted = self.inner.delete_stream(locations);
        let number = self.writes.fetch_add(1, Ordering::Relaxed);
        match self.fault {
            Fault::LostDeletes if number.is_multiple_of(2) => {
                stream::once(deleted.for_each(|_| std::future::ready(()))).map(|()| Err(lost())).boxed()
            }
            _ => deleted,
        }
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        self.in_order(prefix)
    }

    fn list_with_offset(&self, prefix: Option<&Path>, offset: &Path) -> BoxStream<'static, Result<ObjectMeta>> {
        let (offset, fault) = (offset.as_ref().replace('/', "\0"), self.fault);
        let plain_offset = offset.replace('\0', "/");
        let behind = move |found: &Result<ObjectMeta>| {
            let name = found.as_ref().unwrap().location.as_ref();
            match fault {
                Fault::ListsFromStart => true,
                Fault::ListsTree => name.replace('/', "\0") > offset,
                _ => name > plain_offset.as_str(),
            }
        };
        self.in_order(prefix).filter(move |found| std::future::ready(behind(found))).boxed()
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> Result<ListResult> {
        self.inner.list_with_delimiter(prefix).await
    }

    async fn copy_opts(&self, from: &Path, to: &Path, options: CopyOptions) -> Result<()> {
        self.inner.copy_opts(from, to, options).await
    }
}

/// An upload whose end is never confirmed.
#[derive(Debug)]
struct Losing(Box<dyn MultipartUpload>);

#[async_trait]
impl MultipartUpload for Losing {
    fn put_part(&mut self, data: PutPayload) -> object_store::UploadPart {
        self.0.put_part(data)
    }

    async fn complete(&mut self) -> Result<PutResult> {
        self.0.complete().await?;
        Err(lost())
    }

    async fn abort(&mut self) -> Result<()> {
        self.0.abort().await
    }
}

fn faulty(fault: Fault) -> (Arc<Faulty>, Remote) {
    let objects = Faulty::new(fault);
    let store = over(Arc::clone(&objects) as Arc<dyn ObjectStore>, "p/");
    (objects, store)
}

#[tokio::test]
async fn a_create_whose_answer_was_lost_is_known_again() {
    let (objects, store) = faulty(Fault::LostAnswers);
    for (name, len) in [("small", 100), ("large", LARGE_BYTES)] {
        assert_eq!(store.publish(name, object(b"ours", &noise(1, len)), Mode::Create).await, Ok(Published::Done));
        let writes = objects.writes.load(Ordering::Relaxed);
        for other in [len, len + 1] {
            let theirs = object(b"them", &noise(1, other));
            assert_eq!(store.publish(name, theirs, Mode::Create).await, Ok(Published::Exists));
        }
        // A large one is not even begun.
        assert_eq!(objects.writes.load(Ordering::Relaxed) - writes, if len > 100 { 0 } else { 2 });
        assert!(whole(&store, name).await.unwrap().unwrap() == [b"ours", &noise(1, len)[..]].concat());
    }
    let replaced = store.publish("small", object(b"ours", b"new"), Mode::Replace).await;
    assert!(matches!(replaced, Err(StoreError::Unavailable(_))), "{replaced:?}");
}

#[tokio::test]
async fn a_delete_whose_answer_was_lost_is_tried_again() {
    let (objects, store) = faulty(Fault::LostDeletes);
    for len in [1, LARGE_BYTES] {
        store.publish("k", object(b"h", &noise(1, len)), Mode::Create).await.unwrap();
        objects.writes.store(0, Ordering::Relaxed);
        assert_eq!(store.remove("k").await, Ok(true));
        assert_eq!(keys(&objects.inner).await, [""; 0]);
    }
    assert_eq!(store.remove("k").await, Ok(false));
}

#[tokio::test]
async fn a_conflict_that_nobody_won_is_tried_again() {
    let (_, store) = faulty(Fault::Conflicts(2));
    assert_eq!(store.publish("k", object(b"h", b"p"), Mode::Create).await, Ok(Published::Done));
    assert_eq!(whole(&store, "k").await.unwrap().unwrap(), b"hp");
    let (objects, store) = faulty(Fault::Conflicts(usize::MAX));
    let published = store.publish("k", object(b"h", b"p"), Mode::Create).await;
    assert!(matches!(published, Err(StoreError::Unavailable(_))), "{published:?}");
    assert_eq!(objects.writes.load(Ordering::Relaxed), 4);
}

#[tokio::test]
async fn a_server_that_cannot_now_is_said_to_be_unavailable_and_nothing_is_left() {
    let (objects, store) = faulty(Fault::Unavailable);
    for len in [1, LARGE_BYTES] {
        let published = store.publish("k", object(b"h", &noise(1, len)), Mode::Create).await;
        assert!(matches!(&published, Err(StoreError::Unavailable(why)) if why.contains("SlowDown")), "{published:?}");
        assert_eq!(store.start("k", 1).await, Ok(None));
    }
    // Nobody knows whether the link came to be, so what it would lead to stays until it is old.
    assert_eq!(keys(&objects.inner).await.len(), 1);
    assert_eq!(store.under_way(), 0);
}

#[tokio::test]
async fn a_read_goes_on_where_an_answer_was_cut_off() {
    let (_, store) = faulty(Fault::CutOff(1 << 20));
    for len in [100, 3 << 20, LARGE_BYTES] {
        let payload = noise(7, len);
        store.publish("k", object(b"head of 16 bytes", &payload), Mode::Replace).await.unwrap();
        assert!(whole(&store, "k").await.unwrap().unwrap() == [b"head of 16 bytes", &payload[..]].concat());
    }
    // As long as each answer brings something, and no longer.
    for fault in [Fault::CutOff(1000), Fault::NothingComes] {
        let (_, store) = faulty(fault);
        store.publish("k", object(b"head of 16 bytes", &noise(1, 100_000)), Mode::Create).await.unwrap();
        let read = whole(&store, "k").await;
        assert!(matches!(read, Err(StoreError::Unavailable(_))), "{read:?}");
    }
}

#[tokio::test]
async fn a_server_that_answers_something_else_is_found_out() {
    let (_, store) = faulty(Fault::IgnoresIfMatch);
    store.publish("k", object(b"1", &noise(1, 50)), Mode::Create).await.unwrap();
    let version = store.start("k", 1).await.unwrap().unwrap().version;
    store.publish("k", object(b"2", &noise(2, 50)), Mode::Replace).await.unwrap();
    let into = memory(&[0; 50]);
    assert!(matches!(store.read("k", &version, 1, into.clone()).await, Err(StoreError::Changed(_))));
    let mut bytes = [0; 50];
    into.mapping.copy_out(4096, &mut bytes);
    assert_eq!(bytes, [0; 50], "nothing of the other object");
    assert_eq!(probe(&store).await, Ok(()), "the agent looks itself");

    for fault in [Fault::OtherPart, Fault::TooMuch] {
        let (_, store) = faulty(fault);
        store.publish("k", object(b"head of 16 bytes", &noise(1, 50_000)), Mode::Create).await.unwrap();
        let read = whole(&store, "k").await;
        assert!(matches!(&read, Err(StoreError::Failed(why)) if why.contains("cannot be used")), "{read:?}");
        let probed = probe(&store).await;
        assert!(matches!(&probed, Err(StoreError::Failed(why)) if why.contains("read an object")), "{probed:?}");
    }
}

#[tokio::test]
async fn without_tags_the_time_and_the_length_tell_objects_apart() {
    let (_, store) = faulty(Fault::NoTags);
    for len in [50, LARGE_BYTES] {
        store.publish("k", object(b"1", &noise(1, len)), Mode::Replace).await.unwrap();
        assert!(whole(&store, "k").await.unwrap().unwrap() == [b"1", &noise(1, len)[..]].concat());
        let version = store.start("k", 1).await.unwrap().unwrap().version;
        store.publish("k", object(b"2", &noise(2, len + 1)), Mode::Replace).await.unwrap();
        let read = store.read("k", &version, 1, memory(&vec![0; len])).await;
        assert!(matches!(read, Err(StoreError::Changed(_))), "{read:?}");
    }
}
