//! Work that may wait for the store: begun by a session, never cancelled, answered when it is done.
//!
//! It goes on when its session ends and when its caller has waited long enough. A store that has hung may still read or
//! write the memory that it was given, so that memory, and the turn of its key, are held until it has ended.

use std::future::{Future, poll_fn};
use std::io;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use larder_protocol::message::{Refusal, Reply};
use tracing::warn;

use super::{Session, send};
use crate::server::Agent;
use crate::store::StoreError;

/// Requests of a user that may wait for the store at once.
const VISITS_MAX: usize = 4096;
/// How long a client may leave an answer unread after its session has ended.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(10);

/// Counts and logs a failure of the store, and says it.
pub(super) fn store_failed(agent: &Agent, uid: u32, error: &StoreError) -> Refusal {
    warn!(%error, uid, "the store failed");
    agent.cache().figures(uid).store_failures += 1;
    Refusal::Store(error.to_string())
}

/// Keeps a user's tenant for a task that may outlive the session that it works for.
#[derive(Debug)]
struct Visit {
    agent: Arc<Agent>,
    uid: u32,
}

impl Visit {
    /// To be made while the user has a session.
    fn new(agent: &Arc<Agent>, uid: u32) -> Visit {
        agent.cache().begin_visit(uid);
        Visit { agent: Arc::clone(agent), uid }
    }
}

impl Drop for Visit {
    fn drop(&mut self) {
        self.agent.cache().end_visit(self.uid);
        self.agent.keeper.notify_one();
    }
}

/// Work that may outlive the session that asks for it now.
pub(crate) fn visiting<F: Future>(agent: &Arc<Agent>, uid: u32, work: F) -> impl Future<Output = F::Output> + use<F> {
    let visit = Visit::new(agent, uid);
    async move {
        let outcome = work.await;
        drop(visit);
        outcome
    }
}

impl Session {
    /// Answers at once if `work` is done at once, which it is where no store is asked and no memory made; else later,
    /// while the session goes on.
    pub(super) async fn now_or_later(
        &mut self,
        id: u64,
        work: impl Future<Output = Result<Reply, Refusal>> + Send + 'static,
    ) -> io::Result<()> {
        let mut work = Box::pin(work);
        match poll_fn(|context| Poll::Ready(work.as_mut().poll(context))).await {
            Poll::Ready(outcome) => self.answer(id, outcome.unwrap_or_else(Reply::Refused)).await,
            Poll::Pending => self.later(id, work).await,
        }
    }

    /// Refuses what may have to wait for the store, while too much of this user does so already.
    pub(super) fn may_wait_for_store(&self) -> Result<(), Refusal> {
        if self.agent().store.is_none() || self.agent().cache().visits(self.peer.uid) < VISITS_MAX {
            return Ok(());
        }
        Err(Refusal::TooMany(format!("{VISITS_MAX} requests of this user wait for the store already")))
    }

    /// Answers when `work` is done, or when the store has taken too long, while the session goes on. The work goes on in
    /// any case.
    async fn later(
        &mut self,
        id: u64,
        work: impl Future<Output = Result<Reply, Refusal>> + Send + 'static,
    ) -> io::Result<()> {
        let work = visiting(self.agent(), self.peer.uid, work);
        let (agent, connection) = (Arc::clone(self.agent()), Arc::clone(&self.connection));
        tokio::spawn(async move {
            let mut work = tokio::spawn(work);
            let done = match &agent.store {
                Some(store) => tokio::time::timeout(store.timeout(), &mut work)
                    .await
                    .map_err(|_| Refusal::Store(store.no_answer().to_string())),
                None => Ok((&mut work).await),
            };
            let outcome = match done {
                Ok(Ok(outcome)) => outcome,
                Ok(Err(error)) => Err(Refusal::Failed(error.to_string())),
                Err(refusal) => Err(refusal),
            };
            let reply = outcome.unwrap_or_else(Reply::Refused);
            // A client that does not read must not keep the socket open beyond its session.
            let _ = tokio::time::timeout(ANSWER_TIMEOUT, send(&connection, id, reply, &[])).await;
        });
        Ok(())
    }
}
