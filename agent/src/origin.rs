//! Where bytes come from when a task asks for a URL: HTTP servers, buckets, and files that the task has opened.
//!
//! [`Origins`] looks at who asks for what (`policy`), finds the way there (`route`), and gives a [`Source`] of one version
//! of an object, which fills memory in ranges. Nothing is fetched with rights that the caller was not given. Of what
//! comes from outside everything is a claim: statuses, lengths, ranges, versions, where a redirect leads and which address
//! a name has.
//!
//! Requests are made by threads that do nothing else, so that no session waits while something is decrypted or copied;
//! they begin with the first request.

mod address;
mod answer;
mod bucket;
mod failure;
mod files;
mod http;
pub(crate) mod policy;
mod retry;
mod route;
#[cfg(test)]
mod tests;
mod url;
mod version;

use std::future::Future;
use std::os::fd::OwnedFd;
use std::sync::{Arc, OnceLock};

use tokio::runtime::{Builder, Handle, Runtime};
use tokio::task::JoinHandle;

use crate::config::OriginsConfig;
use crate::store::Memory;
use address::Reach;
pub(crate) use failure::OriginError;
use files::{Files, OpenFile};
pub(crate) use policy::{Caller, Keys, SessionCredential};
use policy::{Policy, Right, Rule};
use route::Route;
pub(crate) use url::Scheme as Kind;
use url::{OriginUrl, Prefix, Scheme};
use version::Version;

/// Threads for all requests: they copy and decrypt, and never block.
const THREADS: usize = 2;

/// All origins, and who may fetch from which.
#[derive(Debug)]
pub struct Origins {
    inner: Arc<Inner>,
    threads: Threads,
}

/// What requests need.
#[derive(Debug)]
struct Inner {
    policy: Policy,
    /// The way to what each rule of the policy lists.
    routes: Vec<Arc<Route>>,
    /// The way to servers that nobody listed.
    anywhere: Arc<Route>,
    /// The way to buckets that nobody listed, at the servers that the environment names.
    buckets: Arc<Route>,
    files: Files,
}

/// Who asks, for as long as a request lasts.
#[derive(Clone, Debug)]
struct Asker {
    uid: u32,
    credentials: Arc<[SessionCredential]>,
}

/// What it takes to ask a server.
#[derive(Debug)]
struct HttpAccess {
    route: Arc<Route>,
    keys: Option<Keys>,
    is_public: bool,
}

/// One version of an object, to be read in ranges.
#[derive(Debug)]
pub(crate) struct Source {
    /// Length of the whole object.
    pub(crate) len_bytes: u64,
    /// Tells this version from all others of the URL; `None` where the origin does not say. Such an object can only be
    /// read once, from the first byte to the last, and never be checked.
    pub(crate) version: Option<String>,
    /// The first bytes, as many as were asked for or as there are.
    pub(crate) first: Vec<u8>,
    /// Whether the site says that what is named by its digest may be shared by all tenants.
    #[cfg_attr(not(test), expect(dead_code, reason = "there is no tenant for all yet"))]
    pub(crate) is_public: bool,
    /// Whether several reads may run at once. If not they should follow each other, each where the last ended, the first
    /// behind `first`: then all of it is one request, which counts among those of its origin until it has been read or
    /// this is dropped.
    pub(crate) is_ranged: bool,
    object: Arc<Object>,
    threads: Handle,
}

#[derive(Debug)]
enum Object {
    Http(Box<http::Object>),
    Bucket(Box<bucket::Object>),
    File(Arc<Inner>, OpenFile),
}

/// Whether an object is still what it was.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Validity {
    Same,
    Changed,
    Gone,
}

impl Origins {
    /// Reads what a site lists. `own_uid` is the user that the agent runs as, who may fetch whatever that user may. Blocks:
    /// reads files.
    ///
    /// # Errors
    /// One sentence that says what is wrong and what to do.
    pub fn new(config: &OriginsConfig, own_uid: u32) -> Result<Origins, String> {
        let (mut rules, mut routes) = (Vec::new(), Vec::new());
        for listed in &config.listed {
            let prefix =
                Prefix::parse(&listed.prefix).map_err(|why| format!("the origin {:?}: {why}", listed.prefix))?;
            let scheme = prefix.place().scheme;
            let mut named = vec![prefix.place().host.clone()];
            named.extend(bucket::endpoint_host(scheme, &listed.options));
            let proxy = listed.proxy.as_deref().map(OriginUrl::parse).transpose();
            let proxy = proxy.map_err(|why| format!("the proxy of the origin {prefix}: {why}"))?;
            named.extend(proxy.map(|proxy| proxy.place().host.clone()));
            let route = Route::new(Reach::of(named), listed.options.clone(), listed.proxy.clone());
            let route = if listed.is_anonymous { route.anonymous() } else { route };
            let unusable = |why| format!("the origin {prefix} cannot be used: {why}");
            let route = if scheme.is_bucket() {
                bucket::check_keys(&listed.options).map_err(unusable)?;
                route
            } else {
                route.with_keys().map_err(unusable)?
            };
            routes.push(Arc::new(route));
            rules.push(Rule { prefix, users: listed.users.clone(), is_public: listed.is_public });
        }
        let of_environment =
            [Scheme::S3, Scheme::Gcs, Scheme::Azure].map(|scheme| bucket::endpoint_host(scheme, &config.unlisted));
        let buckets = Reach::of(of_environment.into_iter().flatten().collect());
        let inner = Inner {
            policy: Policy::new(own_uid, rules),
            routes,
            anywhere: Arc::new(Route::new(Reach::default(), config.unlisted.clone(), None)),
            buckets: Arc::new(Route::new(buckets, config.unlisted.clone(), None)),
            files: Files::default(),
        };
        Ok(Origins { inner: Arc::new(inner), threads: Threads::default() })
    }

    /// Looks an object up and reads its first bytes, in one request where the server allows it. `None` when the origin
    /// says that it is not there.
    pub(crate) async fn open(
        &self,
        caller: &Caller<'_>,
        url: &str,
        first_most: usize,
    ) -> Result<Option<Source>, OriginError> {
        let (asker, url) = (Asker::of(caller), parse(url)?);
        let inner = Arc::clone(&self.inner);
        let threads = self.threads.handle()?;
        let opened = if url.place().scheme.is_bucket() {
            run(&threads, async move {
                let opened = bucket::open(&inner, &asker, url, first_most).await?;
                Ok(opened.map(|(object, first)| (Object::Bucket(Box::new(object)), first)))
            })
            .await?
        } else {
            run(&threads, async move {
                let opened = http::open(&inner, asker, url, first_most).await?;
                Ok(opened.map(|(object, first)| (Object::Http(Box::new(object)), first)))
            })
            .await?
        };
        Ok(opened.map(|(object, first)| Source::of(object, first, threads)))
    }

    /// Looks at a file that a client has opened for reading and passed.
    pub(crate) async fn open_file(
        &self,
        uid: u32,
        descriptor: OwnedFd,
        first_most: usize,
    ) -> Result<Source, OriginError> {
        let inner = Arc::clone(&self.inner);
        let threads = self.threads.handle()?;
        let (file, first) = run(&threads, async move {
            let (file, first) = inner.files.open(uid, descriptor, first_most).await?;
            Ok((Object::File(inner, file), first))
        })
        .await?;
        Ok(Source::of(file, first, threads))
    }

    /// Asks an origin whether an object is still of a version, in one request.
    pub(crate) async fn check(&self, caller: &Caller<'_>, url: &str, version: &str) -> Result<Validity, OriginError> {
        let (asker, url) = (Asker::of(caller), parse(url)?);
        let version = Version::from_text(version)
            .ok_or_else(|| OriginError::Failed(format!("{version:?} is no version of {url}; please report it")))?;
        let inner = Arc::clone(&self.inner);
        run(&self.threads.handle()?, async move {
            if url.place().scheme.is_bucket() {
                bucket::check(&inner, &asker, url, &version).await
            } else {
                http::check(&inner, &asker, &url, &version).await
            }
        })
        .await
    }
}

fn parse(url: &str) -> Result<OriginUrl, OriginError> {
    // The URL itself may be a secret, and is not repeated.
    OriginUrl::parse(url).map_err(|why| OriginError::Invalid(format!("this cannot be fetched: {why}")))
}

impl Asker {
    fn of(caller: &Caller<'_>) -> Asker {
        Asker { uid: caller.uid, credentials: caller.credentials.into() }
    }

    fn caller(&self) -> Caller<'_> {
        Caller { uid: self.uid, credentials: &self.credentials }
    }
}

impl Inner {
    /// What it takes to ask for a URL, if the caller may.
    async fn http_access(&self, asker: &Asker, url: &OriginUrl) -> Result<HttpAccess, OriginError> {
        match self.policy.right(asker.caller(), url)? {
            Right::Listed(rule) => {
                let route = Arc::clone(&self.routes[rule]);
                let keys = route.keys().await?;
                Ok(HttpAccess { route, keys, is_public: self.policy.is_public(rule) })
            }
            Right::Session(own, rule) => {
                let route = rule.map_or(&self.anywhere, |rule| &self.routes[rule]);
                Ok(HttpAccess { route: Arc::clone(route), keys: Some(own.keys.clone()), is_public: false })
            }
            Right::Own => Ok(HttpAccess { route: Arc::clone(&self.anywhere), keys: None, is_public: false }),
        }
    }
}

impl Source {
    fn of(object: Object, first: Vec<u8>, threads: Handle) -> Source {
        let text = |version: &Version| version.to_text();
        let (len_bytes, version, is_public, is_ranged) = match &object {
            Object::Http(object) => {
                (object.len_bytes, object.version.as_ref().map(text), object.is_public, object.is_ranged)
            }
            Object::Bucket(object) => (object.len_bytes(), Some(text(&object.version)), object.is_public, true),
            Object::File(_, file) => (file.len_bytes, Some(file.version.clone()), false, true),
        };
        Source { len_bytes, version, first, is_public, is_ranged, object: Arc::new(object), threads }
    }

    /// Fills memory with the bytes of exactly this version from `offset_bytes` on.
    ///
    /// Whoever stops waiting must not use the memory for anything else: a thread may still be filling it.
    pub(crate) async fn read(&self, offset_bytes: u64, into: Memory) -> Result<(), OriginError> {
        let object = Arc::clone(&self.object);
        run(&self.threads, async move {
            match &*object {
                Object::Http(object) => object.read(offset_bytes, &into).await,
                Object::Bucket(object) => object.read(offset_bytes, &into).await,
                Object::File(inner, file) => inner.files.read(file, offset_bytes, into).await,
            }
        })
        .await
    }
}

/// The threads. They end with the origins, and nobody waits for what they are in the middle of.
#[derive(Debug, Default)]
struct Threads(OnceLock<Option<Runtime>>);

impl Threads {
    fn handle(&self) -> Result<Handle, OriginError> {
        let start = || {
            Builder::new_multi_thread()
                .worker_threads(THREADS)
                .thread_name("larder-origin")
                .enable_all()
                .build()
                .inspect_err(|error| tracing::warn!(%error, "the threads for origins cannot be started"))
                .ok()
        };
        let runtime = self.0.get_or_init(start).as_ref();
        let refused = || OriginError::Failed("the agent could not start threads to fetch with".to_owned());
        runtime.map(|runtime| runtime.handle().clone()).ok_or_else(refused)
    }
}

impl Drop for Threads {
    fn drop(&mut self) {
        if let Some(Some(runtime)) = self.0.take() {
            runtime.shutdown_background();
        }
    }
}

/// Work on the threads, which ends when nobody waits for it any more.
struct Work<T>(JoinHandle<Result<T, OriginError>>);

impl<T> Drop for Work<T> {
    fn drop(&mut self) {
        self.0.abort();
    }
}

async fn run<T: Send + 'static>(
    threads: &Handle,
    work: impl Future<Output = Result<T, OriginError>> + Send + 'static,
) -> Result<T, OriginError> {
    let mut work = Work(threads.spawn(work));
    (&mut work.0).await.unwrap_or_else(|error| {
        Err(if error.is_panic() {
            OriginError::Failed("a fetch panicked; please report it".to_owned())
        } else {
            OriginError::Unavailable("the agent stops and fetches nothing more".to_owned())
        })
    })
}

/// How the URLs that a prefix covers are spoken to.
pub(crate) fn kind_of_prefix(text: &str) -> Result<Kind, String> {
    Prefix::parse(text).map(|prefix| prefix.place().scheme).map_err(|why| why.to_string())
}
