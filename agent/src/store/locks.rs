//! Turns by name: of several tasks that change the same object, one at a time.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError, Weak};

use tokio::sync::OwnedMutexGuard;

type Turn = tokio::sync::Mutex<()>;

/// A lock for each name that somebody uses at present.
#[derive(Debug, Default)]
pub(crate) struct Locks {
    turns: Mutex<HashMap<String, Weak<Turn>>>,
}

impl Locks {
    /// Waits for the turn of a name, which lasts until the guard is dropped.
    pub(crate) async fn lock(&self, name: &str) -> OwnedMutexGuard<()> {
        let turn = {
            let mut turns = self.turns.lock().unwrap_or_else(PoisonError::into_inner);
            let present = turns.get(name).and_then(Weak::upgrade);
            present.unwrap_or_else(|| {
                // Names that nobody uses any more go when there are twice as many as are in use.
                if turns.len() == turns.capacity() {
                    turns.retain(|_, turn| turn.strong_count() > 0);
                }
                let turn = Arc::new(Turn::default());
                turns.insert(name.to_owned(), Arc::downgrade(&turn));
                turn
            })
        };
        turn.lock_owned().await
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicUsize, Ordering};

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn one_at_a_time_for_each_name() {
        let locks = Arc::new(Locks::default());
        let inside: Arc<[AtomicUsize; 3]> = Arc::default();
        let tasks = (0..300).map(|n| {
            let (locks, inside) = (Arc::clone(&locks), Arc::clone(&inside));
            tokio::spawn(async move {
                let _turn = locks.lock(&format!("name {}", n % 3)).await;
                assert_eq!(inside[n % 3].fetch_add(1, Ordering::SeqCst), 0);
                tokio::task::yield_now().await;
                inside[n % 3].fetch_sub(1, Ordering::SeqCst);
            })
        });
        for task in tasks.collect::<Vec<_>>() {
            task.await.unwrap();
        }
        for n in 0..10_000 {
            drop(locks.lock(&format!("once {n}")).await);
        }
        assert!(locks.turns.lock().unwrap().len() < 1000, "names that nobody uses are forgotten");
    }
}
