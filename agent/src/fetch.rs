//! Fetches: a key that is not there is made from what an origin has, once for all who ask.
//!
//! Whoever asks [joins](Fetches::join) the flight of its key, or begins it. The flight is a task of its own, which the caller
//! only waits for: it goes on while anybody does, and begins nothing more once nobody does. What it has begun it brings to an
//! end, because a read may touch memory until then.

mod digest;
mod fill;
mod object;
mod version;

use std::collections::HashMap;
use std::os::fd::OwnedFd;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use larder_protocol::key;
use larder_protocol::message::Refusal;
use tokio::sync::watch;
use tracing::warn;

use fill::Range;
pub(crate) use object::{Objects, Opened};
use version::Looking;

use crate::origin::{OriginError, SessionCredential, Validity};
use crate::server::Agent;
use crate::session::{Stored, visiting};

/// What is to be fetched.
#[derive(Clone, Debug)]
pub(crate) enum Wanted {
    /// All that an origin has.
    Whole(Place),
    /// A part of an object that is open.
    Part { object: Arc<Opened>, from: u64, len: u64 },
}

/// Where bytes are.
#[derive(Clone, Debug)]
pub(crate) enum Place {
    /// At a URL, with what the caller's session brought to open it.
    Url { url: String, credentials: Arc<[SessionCredential]> },
    /// In a file that the caller has opened, and what it calls it.
    File { path: String, file: Arc<OwnedFd> },
}

impl Place {
    /// What it is called in messages.
    pub(crate) fn name(&self) -> &str {
        match self {
            Place::Url { url, .. } => url,
            Place::File { path, .. } => path,
        }
    }

    /// The number that its versions are remembered under.
    fn number(&self) -> u128 {
        match self {
            Place::Url { url, .. } => key::digest(url.as_bytes()),
            Place::File { path, .. } => key::digest(format!("file:{path}").as_bytes()),
        }
    }
}

/// A key of a user's namespace.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Target {
    pub(crate) uid: u32,
    pub(crate) namespace: u64,
    pub(crate) key: String,
}

type Outcome = Option<Result<(), Refusal>>;

/// Somebody's share in a flight, which lasts while somebody has one.
#[derive(Clone, Debug)]
pub(crate) struct Flight(Arc<watch::Sender<Outcome>>);

impl Flight {
    /// How it ended, when it has.
    pub(crate) async fn ended(self) -> Result<(), Refusal> {
        let mut outcome = self.0.subscribe();
        let ended = outcome.wait_for(Option::is_some).await.map(|outcome| outcome.clone());
        ended.ok().flatten().unwrap_or_else(|| Err(Refusal::Failed("the fetch ended without an outcome".into())))
    }
}

/// Flights that are under way.
#[derive(Debug, Default)]
pub(crate) struct Fetches {
    under_way: Mutex<HashMap<Target, Weak<watch::Sender<Outcome>>>>,
}

impl Fetches {
    fn lock(&self) -> MutexGuard<'_, HashMap<Target, Weak<watch::Sender<Outcome>>>> {
        self.under_way.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The flight of a key, begun now if there is none. Of several who ask at once the first one's rights count: they are of
    /// one user.
    pub(crate) fn join(agent: &Arc<Agent>, target: &Target, wanted: Wanted) -> Flight {
        let mut under_way = agent.fetches.lock();
        if let Some(flight) = under_way.get(target).and_then(Weak::upgrade) {
            return Flight(flight);
        }
        let flight = Arc::new(watch::Sender::new(None));
        under_way.insert(target.clone(), Arc::downgrade(&flight));
        let bringing = Bringing { agent: Arc::clone(agent), target: target.clone(), flight: Arc::downgrade(&flight) };
        tokio::spawn(visiting(agent, target.uid, bringing.run(wanted)));
        Flight(flight)
    }
}

/// A flight at work.
struct Bringing {
    agent: Arc<Agent>,
    target: Target,
    flight: Weak<watch::Sender<Outcome>>,
}

impl Bringing {
    async fn run(self, wanted: Wanted) {
        let outcome = match wanted {
            Wanted::Whole(place) => self.bring(place).await,
            Wanted::Part { object, from, len } => self.bring_part(&object, from, len).await,
        };
        {
            let mut under_way = self.agent.fetches.lock();
            // Another may have taken the place of one that nobody waited for.
            if under_way.get(&self.target).is_some_and(|present| Weak::ptr_eq(present, &self.flight)) {
                under_way.remove(&self.target);
            }
        }
        if let Err(refusal) = &outcome
            && !matches!(refusal, Refusal::NotFound | Refusal::Cleared { .. })
        {
            self.agent.cache().figures(self.target.uid).fetch_failures += 1;
        }
        if let Some(flight) = self.flight.upgrade() {
            flight.send_replace(Some(outcome));
        }
    }

    fn is_wanted(&self) -> bool {
        self.flight.strong_count() > 0
    }

    /// Makes the key resident.
    async fn bring(&self, place: Place) -> Result<(), Refusal> {
        let Target { uid, namespace, key } = &self.target;
        let stored = Stored::of(&self.agent, *uid, *namespace)?;
        let present = self.present(stored.as_ref()).await?;
        let place = Looking { agent: Arc::clone(&self.agent), uid: *uid, namespace: *namespace, place };
        let mut replaces = false;
        if present {
            match place.compare().await? {
                Validity::Same => return Ok(()),
                Validity::Changed => replaces = true,
                Validity::Gone => {
                    self.agent.cache().forget(*uid, *namespace, key);
                    return Err(Refusal::NotFound);
                }
            }
        }
        let source = place.open().await?;
        let range = Range { origin: place.origin(&source, 0), from: 0, len: source.len_bytes, replaces };
        self.fill(&source, place.place.name(), &range, stored.as_ref(), || place.saw(&source)).await
    }

    /// Makes a chunk resident.
    async fn bring_part(&self, object: &Opened, from: u64, len: u64) -> Result<(), Refusal> {
        let stored = Stored::of(&self.agent, self.target.uid, self.target.namespace)?;
        if self.present(stored.as_ref()).await? {
            return Ok(());
        }
        let range = Range { origin: Some(object.origin(from)), from, len, replaces: false };
        self.fill(&object.source, &object.name, &range, stored.as_ref(), || Ok(())).await
    }

    /// Whether the key is there, in memory or in the store.
    async fn present(&self, stored: Option<&Stored>) -> Result<bool, Refusal> {
        let Target { uid, namespace, key } = &self.target;
        let now_ns = larder_protocol::clock::coarse_ns();
        let mut found = self.agent.with_memory(|cache| cache.look_up(*uid, *namespace, key, now_ns)).await;
        if let (Err(Refusal::NotFound), Some(stored)) = (&found, stored) {
            found = stored.clone().load(key.clone()).await;
        }
        match found {
            Ok(()) => Ok(true),
            Err(Refusal::NotFound) => Ok(false),
            Err(refusal) => Err(refusal),
        }
    }
}

/// What a failure of an origin is to whoever asked.
fn refusal(error: OriginError, name: &str, uid: u32) -> Refusal {
    warn!(%error, uid, "a fetch failed");
    match error {
        OriginError::Denied(why) => Refusal::Denied(why),
        OriginError::Invalid(why) => Refusal::Invalid(why),
        OriginError::Changed(_) => Refusal::Changed(name.to_owned()),
        error => Refusal::Origin(error.to_string()),
    }
}
