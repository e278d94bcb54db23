//! The keeper: the one task that works without being asked. When there is nothing to do it sleeps without a timer.

use std::sync::Arc;
use std::time::Duration;

use larder_protocol::clock;

use crate::server::Agent;

/// Least time between two passes, however often it is woken.
const PASS_GAP: Duration = Duration::from_millis(20);
/// And between two passes of which the second goes on with what the first left unfinished.
const UNFINISHED_GAP: Duration = Duration::from_millis(1);
/// How soon to look again at what waits for a client, at first and at most.
const WAIT_FIRST: Duration = Duration::from_millis(50);
const WAIT_MOST: Duration = Duration::from_secs(30);

pub(crate) async fn run(agent: Arc<Agent>) {
    let mut wait = WAIT_FIRST;
    loop {
        let now_ns = clock::coarse_ns();
        let upkeep = agent.cache().upkeep(now_ns, agent.limits.populate_all);
        if let Some(need) = upkeep.need {
            // A failure was logged and is tried again at the next pass.
            if agent.supply(need).await.is_ok() {
                continue;
            }
        }
        if upkeep.unfinished {
            tokio::time::sleep(UNFINISHED_GAP).await;
            continue;
        }
        let until_due = upkeep.next_due_ns.map(|at| Duration::from_nanos(at.saturating_sub(now_ns)));
        let until_look = upkeep.waits_for_clients.then_some(wait);
        let sleep = [until_due, until_look].into_iter().flatten().min();
        let woken = match sleep {
            None => {
                agent.keeper.notified().await;
                true
            }
            Some(time) => tokio::time::timeout(time.max(PASS_GAP), agent.keeper.notified()).await.is_ok(),
        };
        wait = if woken { WAIT_FIRST } else { (wait * 2).min(WAIT_MOST) };
        if woken {
            tokio::time::sleep(PASS_GAP).await;
        }
    }
}
