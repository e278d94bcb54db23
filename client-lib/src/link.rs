//! The way to whichever agent is there: the current session, and a new one when it is over.
//!
//! Nothing here may hang in a forked child, where a lock that another thread held during the fork stays locked. So what
//! readers see is swapped atomically, and the only lock belongs to one generation of the process.

use std::io;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, OnceLock, PoisonError, Weak};
use std::time::{Duration, Instant};

use larder_protocol::fork;
use larder_protocol::origin::OriginKeys;
use larder_protocol::shelf::Shelf;

use crate::binding::Binding;
use crate::deadline::Deadline;
use crate::discover::Discovery;
use crate::session::Session;
use crate::turn::Turn;
use crate::{Error, OnAbsent};

/// How long a client that goes on without an agent leaves it at one try to find one.
const LOOK_AGAIN_AFTER: Duration = Duration::from_secs(1);

/// The way to the agent.
#[derive(Debug)]
pub(crate) struct Link {
    discovery: Discovery,
    on_absent: OnAbsent,
    /// Keys of this process, which each session is told.
    credentials: Vec<(String, OriginKeys)>,
    /// Where an agent was found once: another is looked for only there.
    found: OnceLock<PathBuf>,
    current: Shelf<Option<Arc<Session>>>,
    /// The handles that hold the current session too, so that none of them keeps an old one mapped.
    bindings: Shelf<Vec<Weak<Binding>>>,
    gate: Shelf<Gate>,
}

/// Lets one thread at a time make a session.
#[derive(Debug)]
struct Gate {
    generation: u64,
    turn: Turn,
    last_absent: Mutex<Option<Instant>>,
}

impl Gate {
    fn new() -> Gate {
        Gate { generation: fork::generation(), turn: Turn::new(1), last_absent: Mutex::default() }
    }

    fn note_absent(&self, at: Option<Instant>) {
        *self.last_absent.lock().unwrap_or_else(PoisonError::into_inner) = at;
    }

    fn was_absent_just_now(&self) -> bool {
        let last_absent = *self.last_absent.lock().unwrap_or_else(PoisonError::into_inner);
        last_absent.is_some_and(|at| at.elapsed() < LOOK_AGAIN_AFTER)
    }
}

impl Link {
    /// A way that has not been gone yet.
    pub(crate) fn new(
        discovery: Discovery,
        on_absent: OnAbsent,
        credentials: Vec<(String, OriginKeys)>,
    ) -> Result<Link, Error> {
        fork::watch()?;
        Ok(Link {
            discovery,
            on_absent,
            credentials,
            found: OnceLock::new(),
            current: Shelf::new(Arc::new(None)),
            bindings: Shelf::new(Arc::default()),
            gate: Shelf::new(Arc::new(Gate::new())),
        })
    }

    pub(crate) fn on_absent(&self) -> OnAbsent {
        self.on_absent
    }

    /// What a call that cannot do without an agent says.
    pub(crate) fn no_agent(&self) -> Error {
        let source = io::Error::new(io::ErrorKind::NotFound, "there was none at the last look");
        Error::NoAgent { socket: self.socket(), source: Arc::new(source) }
    }

    fn socket(&self) -> PathBuf {
        self.found.get().cloned().unwrap_or_else(|| self.discovery.socket())
    }

    /// A session that is not over, made if need be. `None` when there is no agent and the client goes on without.
    pub(crate) fn session(&self, deadline: Deadline) -> Result<Option<Arc<Session>>, Error> {
        match self.live() {
            Some(session) => Ok(Some(session)),
            None => self.renew(deadline),
        }
    }

    fn live(&self) -> Option<Arc<Session>> {
        let current = (*self.current.enter()).clone();
        current.filter(|session| !session.is_over())
    }

    /// Whether `session` is the current one.
    pub(crate) fn is_current(&self, session: &Arc<Session>) -> bool {
        self.current.enter().as_ref().is_some_and(|current| Arc::ptr_eq(current, session))
    }

    fn renew(&self, deadline: Deadline) -> Result<Option<Arc<Session>>, Error> {
        let gate = self.gate();
        let _turn = gate.turn.take(deadline)?;
        if let Some(session) = self.live() {
            return Ok(Some(session));
        }
        if self.on_absent == OnAbsent::Direct && gate.was_absent_just_now() {
            return Ok(None);
        }
        let path = self.socket();
        match Session::open(&self.discovery, &path, &self.credentials, deadline) {
            Ok(session) => {
                let session = Arc::new(session);
                let _ = self.found.set(path);
                gate.note_absent(None);
                self.install(Some(&session));
                Ok(Some(session))
            }
            Err(error @ Error::NoAgent { .. }) => {
                gate.note_absent(Some(Instant::now()));
                self.install(None);
                match self.on_absent {
                    OnAbsent::Direct => Ok(None),
                    OnAbsent::Error => Err(error),
                }
            }
            Err(error) => Err(error),
        }
    }

    /// Makes `session` the current one everywhere, so that the one before goes as soon as its last call has ended.
    fn install(&self, session: Option<&Arc<Session>>) {
        self.current.store(Arc::new(session.cloned()));
        for binding in self.bindings.load().iter().filter_map(Weak::upgrade) {
            binding.rebind(session);
        }
    }

    /// The gate of this generation: that of an older one may be shut for ever.
    fn gate(&self) -> Arc<Gate> {
        let gate = self.gate.load();
        if gate.generation == fork::generation() {
            return gate;
        }
        self.gate.replace_if(&gate, Arc::new(Gate::new()));
        self.gate.load()
    }

    /// Notes a handle that is to follow the current session.
    pub(crate) fn register(&self, binding: &Arc<Binding>) {
        loop {
            let bindings = self.bindings.load();
            let mut live: Vec<_> = bindings.iter().filter(|weak| weak.strong_count() > 0).cloned().collect();
            live.push(Arc::downgrade(binding));
            if self.bindings.replace_if(&bindings, Arc::new(live)) {
                return;
            }
        }
    }
}
