//! The writer behind: the one task that gives the store what memory owes it, in the order of the puts.
//!
//! Each block is written under the turn of its key, so that a delete or a put of the same key comes before or after, never
//! in the middle. Nothing in here is given up half way: a store that has hung may still read the memory it was given.

use std::sync::Arc;
use std::time::{Duration, Instant};

use larder_protocol::clock;
use tokio::task::JoinSet;
use tracing::{info, warn};

use crate::cache::{Due, Line, Written};
use crate::server::Agent;
use crate::store::{Kept, Store};
use crate::tier::OnDisk;

/// Writes what is owed, until the agent ends.
pub(crate) async fn run(agent: Arc<Agent>, store: Arc<Store>) {
    let mut under_way = JoinSet::new();
    loop {
        let later = loop {
            // Not in the condition, or the cache would stay locked in the body.
            let line = agent.cache().take_dirty(Instant::now());
            match line {
                Line::Due(due) => drop(under_way.spawn(write(Arc::clone(&agent), Arc::clone(&store), *due))),
                Line::Later(later) => break later,
            }
        };
        let pause = async {
            match later {
                Some(later) => tokio::time::sleep_until(later.into()).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            () = agent.owes.notified() => {}
            () = pause => {}
            Some(_) = under_way.join_next() => {}
        }
    }
}

/// Writes one block.
async fn write(agent: Arc<Agent>, store: Arc<Store>, due: Due) {
    let turn = store.turn(&due.incarnation, &due.key).await;
    let lane = store.lane(due.uid).await;
    let borrowed = agent.cache().borrow_dirty(&due, clock::coarse_ns());
    let Some(borrowed) = borrowed else {
        agent.cache().settle_dirty(&due, None, Instant::now());
        return;
    };
    if let Some(on_disk) = OnDisk::of(&agent, due.uid, || Store::block_name(&due.incarnation, &due.key)) {
        on_disk.remove().await;
    }
    let kept = store.put(&due.incarnation, &borrowed.entry, borrowed.payload.clone(), borrowed.replace).await;
    let written = match kept {
        Ok(Kept::Stored) => Written::Done,
        Ok(Kept::Held(there))
            if there.len_bytes == borrowed.entry.len_bytes && there.checksums == borrowed.entry.checksums =>
        {
            Written::Done
        }
        Ok(Kept::Held(there)) => {
            let (key, held) = (&due.key, there.len_bytes);
            warn!(key, uid = due.uid, "the store holds another block under the key; the one that was put here goes");
            Written::Refused(format!(
                "{key:?} holds another block of {held} bytes in the store, put by another agent; the one that was put here is dropped"
            ))
        }
        Err(error) => {
            warn!(%error, uid = due.uid, "a block could not be written; it is tried again");
            agent.cache().figures(due.uid).store_failures += 1;
            Written::Failed(error.to_string())
        }
    };
    let is_done = written == Written::Done;
    agent.cache().settle_dirty(&due, Some((&borrowed, written)), Instant::now());
    let name = || Store::block_name(&due.incarnation, &due.key);
    if let Some(on_disk) = OnDisk::of(&agent, due.uid, name).filter(|_| is_done) {
        let lent = agent.cache().borrow(due.uid, due.namespace, &due.key);
        on_disk.keep(lent, &borrowed.entry);
    }
    drop((lane, turn));
    agent.written.notify_waiters();
    // Memory that waited for this may be free now.
    agent.keeper.notify_one();
}

/// Waits until nothing is owed any more, or nothing was taken for as long as a request may take.
pub(crate) async fn drain(agent: &Agent, store: &Store) {
    const LOOK_EVERY: Duration = Duration::from_millis(50);
    let (mut left, mut since) = (agent.cache().dirty(), Instant::now());
    if left.0 > 0 {
        info!(blocks = left.0, bytes = left.1, "writing what the store has not got yet");
    }
    while left.0 > 0 && since.elapsed() < store.timeout() {
        let _ = tokio::time::timeout(LOOK_EVERY, agent.written.notified()).await;
        let now = agent.cache().dirty();
        if now != left {
            (left, since) = (now, Instant::now());
        }
    }
    if left.0 > 0 {
        warn!(blocks = left.0, bytes = left.1, "the store has not taken these; they are lost");
    }
}
