//! A namespace's name, bound to the session and the incarnation in which it is read at present.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use larder_protocol::message::{Refusal, Reply, Request};
use larder_protocol::namespace::{NamespaceOptions, Validate};
use larder_protocol::shelf::{Present, Shelf};

use crate::Error;
use crate::deadline::Deadline;
use crate::fault::Fault;
use crate::link::Link;
use crate::session::{ROUNDS, Session};

/// A namespace by name, with what the name stands for now.
#[derive(Debug)]
pub(crate) struct Binding {
    link: Arc<Link>,
    name: String,
    /// Given when the namespace was made, and again when a new agent has to make it anew.
    options: Option<NamespaceOptions>,
    was_open: AtomicBool,
    /// The run of the agent that has all that was put through this handle and is not synced yet; 0 for none.
    unsynced: AtomicU64,
    bound: Shelf<Bound>,
}

/// What a name stands for: valid as a pair only, since another session may be with another agent.
#[derive(Debug)]
pub(crate) struct Bound {
    /// `None` while there is no agent.
    pub(crate) session: Option<Arc<Session>>,
    /// 0, which no namespace has, until the agent has told it.
    pub(crate) incarnation: u64,
    /// What is fetched is compared with its origin each time, so a hit in the map is not enough.
    pub(crate) validates: bool,
}

impl Bound {
    fn nothing_yet(session: Option<Arc<Session>>) -> Arc<Bound> {
        Arc::new(Bound { session, incarnation: 0, validates: false })
    }
}

/// What is bound, with its session, which was not over a moment ago.
pub(crate) type Live = (Arc<Bound>, Arc<Session>);

impl Binding {
    /// A name that is followed from session to session. Not opened yet.
    pub(crate) fn new(link: &Arc<Link>, name: &str, options: Option<NamespaceOptions>) -> Arc<Binding> {
        let binding = Arc::new(Binding {
            link: Arc::clone(link),
            name: name.to_owned(),
            options,
            was_open: AtomicBool::new(false),
            unsynced: AtomicU64::new(0),
            bound: Shelf::new(Bound::nothing_yet(None)),
        });
        link.register(&binding);
        binding
    }

    pub(crate) fn link(&self) -> &Arc<Link> {
        &self.link
    }

    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    /// What is bound now, for a hit: nothing that another thread reads is written. To be let go of before anything is
    /// waited for.
    #[inline(always)]
    pub(crate) fn look(&self) -> Present<'_, Bound> {
        self.bound.enter()
    }

    /// Another session begins; the agent has yet to tell the incarnation.
    pub(crate) fn rebind(&self, session: Option<&Arc<Session>>) {
        self.bound.store(Bound::nothing_yet(session.cloned()));
    }

    /// The namespace got another incarnation, or none (0). Does nothing when `from` is no longer what is bound.
    pub(crate) fn adopt(&self, from: &Arc<Bound>, incarnation: u64) {
        let bound = Arc::new(Bound { session: from.session.clone(), incarnation, validates: from.validates });
        self.bound.replace_if(from, bound);
    }

    /// A live session with the namespace's incarnation, made and asked for if need be. `None` when there is no agent and
    /// the client goes on without.
    pub(crate) fn bind(&self, deadline: Deadline) -> Result<Option<Live>, Error> {
        for _ in 0..ROUNDS {
            let Some(session) = self.link.session(deadline)? else {
                return Ok(None);
            };
            let bound = self.bound.load();
            let same = bound.session.as_ref().is_some_and(|bound| Arc::ptr_eq(bound, &session));
            if same && bound.incarnation != 0 {
                return Ok(Some((bound, session)));
            }
            match self.open(&session, deadline) {
                Ok((incarnation, validates)) => {
                    // Relaxed: a put and the sync that is to cover it are ordered by whoever makes them.
                    let _ = self.unsynced.compare_exchange(0, session.instance, Ordering::Relaxed, Ordering::Relaxed);
                    let opened = Arc::new(Bound { session: Some(Arc::clone(&session)), incarnation, validates });
                    self.bound.replace_if(&bound, Arc::clone(&opened));
                    // The thread that installed another session meanwhile may have rebound this handle before the line
                    // above: then it must not hold on to the old one.
                    if !self.link.is_current(&session) {
                        self.bound.replace_if(&opened, Bound::nothing_yet(None));
                    }
                }
                Err(Fault::Lost) => {}
                Err(fault) => return Err(fault.into()),
            }
        }
        Err(Error::Busy)
    }

    /// Whether all that was put through this handle, and is not synced yet, went to the agent of `session`, or with no
    /// session, whether nothing was. From now on what is put counts as going there.
    pub(crate) fn is_all_with(&self, session: Option<&Session>) -> bool {
        let instance = session.map_or(0, |session| session.instance);
        let before = self.unsynced.swap(instance, Ordering::Relaxed);
        before == instance || before == 0
    }

    fn open(&self, session: &Session, deadline: Deadline) -> Result<(u64, bool), Fault> {
        let open = |options| {
            let name = self.name.clone();
            session.channel().call(Request::OpenNamespace { name, options }, deadline)
        };
        let response = match open(self.options.clone()) {
            // It is there and its options were changed since this handle was made: they are not ours to judge.
            Err(Fault::Refused(Refusal::Invalid(_))) if self.was_open.load(Ordering::Relaxed) => open(None)?,
            other => other?,
        };
        match response.reply {
            Reply::Namespace(info) => {
                // Relaxed: a thread that does not see it yet gets the agent's refusal as if it opened first.
                self.was_open.store(true, Ordering::Relaxed);
                Ok((info.namespace, info.options.validate == Validate::Always))
            }
            other => Err(Fault::unexpected(&other)),
        }
    }
}
