//! Stores that do what they should pass, and others are told what they do wrong.

use std::time::Duration;

use super::super::backend::Pending;
use super::super::directory::Directory;
use super::*;

/// What a store does wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Lie {
    /// Looks whether there is an object, and then publishes as if there were none still.
    RacyCreate,
    CreateReplaces,
    /// A replacement is acknowledged and forgotten.
    ReplaceKeeps,
    EmptyList,
    ListIgnoresAfter,
    /// As a tree is walked.
    ListsDirectoriesFirst,
    ZeroesRead,
    /// Reads whatever has the name now.
    StaleRead,
    RemoveKeeps,
    RemoveSaysNo,
}

#[derive(Debug)]
struct Liar {
    inner: Directory,
    lie: Lie,
}

impl Backend for Liar {
    fn under_way(&self) -> usize {
        self.inner.under_way()
    }

    fn publish<'a>(&'a self, name: &'a str, object: Object, mode: Mode) -> Pending<'a, Published> {
        Box::pin(async move {
            match (self.lie, mode) {
                (Lie::RacyCreate, Mode::Create) => {
                    if self.inner.start(name, 0).await?.is_some() {
                        return Ok(Published::Exists);
                    }
                    tokio::time::sleep(Duration::from_millis(50)).await;
                    self.inner.publish(name, object, Mode::Replace).await
                }
                (Lie::CreateReplaces, Mode::Create) => {
                    let there = self.inner.start(name, 0).await?.is_some();
                    self.inner.publish(name, object, Mode::Replace).await?;
                    Ok(if there { Published::Exists } else { Published::Done })
                }
                (Lie::ReplaceKeeps, Mode::Replace) => Ok(Published::Done),
                _ => self.inner.publish(name, object, mode).await,
            }
        })
    }

    fn start<'a>(&'a self, name: &'a str, most: usize) -> Pending<'a, Option<Start>> {
        self.inner.start(name, most)
    }

    fn read<'a>(&'a self, name: &'a str, version: &'a str, offset_bytes: u64, into: Memory) -> Pending<'a, ()> {
        if self.lie == Lie::ZeroesRead {
            return Box::pin(async { Ok(()) });
        }
        if self.lie == Lie::StaleRead {
            return Box::pin(async move {
                let now = self.inner.start(name, 0).await?.map_or_else(String::new, |start| start.version);
                self.inner.read(name, &now, offset_bytes, into).await
            });
        }
        self.inner.read(name, version, offset_bytes, into)
    }

    fn remove<'a>(&'a self, name: &'a str) -> Pending<'a, bool> {
        Box::pin(async move {
            match self.lie {
                Lie::RemoveKeeps => Ok(true),
                Lie::RemoveSaysNo => self.inner.remove(name).await.map(|_| false),
                _ => self.inner.remove(name).await,
            }
        })
    }

    fn groups<'a>(&'a self, prefix: &'a str) -> Pending<'a, Vec<String>> {
        self.inner.groups(prefix)
    }

    fn list<'a>(&'a self, prefix: &'a str, after: &'a str, most: usize) -> Pending<'a, Vec<String>> {
        Box::pin(async move {
            match self.lie {
                Lie::EmptyList => Ok(Vec::new()),
                Lie::ListsDirectoriesFirst => {
                    let mut names = self.inner.list(prefix, after, most).await?;
                    names.sort_unstable_by_key(|name| name.replace('/', "\0"));
                    Ok(names)
                }
                Lie::ListIgnoresAfter => self.inner.list(prefix, "", most).await,
                _ => self.inner.list(prefix, after, most).await,
            }
        })
    }
}

#[tokio::test]
async fn a_directory_passes_and_nothing_of_the_probe_stays() {
    let dir = tempfile::tempdir().unwrap();
    let store = Directory::open(dir.path()).unwrap();
    assert_eq!(probe(&store).await, Ok(()));
    assert_eq!(store.list("", "", 10).await.unwrap(), [""; 0]);
    assert_eq!(std::fs::read_dir(dir.path().join("larder-1")).unwrap().count(), 0);
}

#[tokio::test]
async fn several_probe_one_store_at_once() {
    let dir = tempfile::tempdir().unwrap();
    let stores: Vec<_> = (0..3).map(|_| Directory::open(dir.path()).unwrap()).collect();
    let (first, second, third) = tokio::join!(probe(&stores[0]), probe(&stores[1]), probe(&stores[2]));
    assert_eq!((first, second, third), (Ok(()), Ok(()), Ok(())));
}

#[tokio::test]
async fn a_store_that_does_not_do_as_it_says_is_refused() {
    for (lie, said) in [
        (Lie::RacyCreate, "several creates of one name at once all won"),
        (Lie::CreateReplaces, "other bytes than were published"),
        (Lie::ReplaceKeeps, "other bytes than were published"),
        (Lie::EmptyList, "its list does not show"),
        (Lie::ListIgnoresAfter, "its list does not show"),
        (Lie::ListsDirectoriesFirst, "in another order"),
        (Lie::ZeroesRead, "other bytes than were published"),
        (Lie::StaleRead, "does not tell a reader that an object was replaced"),
        (Lie::RemoveKeeps, "is still there"),
        (Lie::RemoveSaysNo, "nothing to remove"),
    ] {
        let dir = tempfile::tempdir().unwrap();
        let inner = Directory::open(dir.path()).unwrap();
        let refused = probe(&Liar { inner, lie }).await;
        assert!(matches!(&refused, Err(StoreError::Failed(why)) if why.contains(said)), "{lie:?}: {refused:?}");
    }
}

#[tokio::test]
async fn an_operation_that_fails_is_named_and_its_error_keeps_its_kind() {
    let dir = tempfile::tempdir().unwrap();
    let store = Directory::open(dir.path()).unwrap();
    std::fs::write(dir.path().join("larder-1"), "no directory").unwrap();
    let refused = probe(&store).await;
    assert!(matches!(&refused, Err(StoreError::Failed(why)) if why.contains("look for an object")), "{refused:?}");
}
