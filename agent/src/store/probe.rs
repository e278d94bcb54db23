//! Whether a store does what the agent counts on, found out before anything is trusted to it.

use std::sync::Arc;

use larder_protocol::memory::{HugePages, Mapping, Memfd, Platform};

use super::backend::{Backend, Memory, Mode, Object, Published, Start, StoreError};

/// Names under which several creates are raced. A tree is walked in another order than that of their bytes.
const RACED: [&str; 4] = ["race/a", "race/b", "race-a", "race.b"];

/// Payload of the probe's objects.
const PAYLOAD_BYTES: usize = 4096;

/// Length of the probe's memory: a payload to publish, and room to read it back to.
const MEMORY_BYTES: usize = 2 * PAYLOAD_BYTES;

/// Head of the probe's objects.
const HEAD_BYTES: usize = 64;

/// Tries every operation on small objects under a name of its own, which are gone afterwards. The error says what did
/// not work.
pub(crate) async fn probe(backend: &dyn Backend) -> Result<(), StoreError> {
    let mut number = [0; 16];
    getrandom::fill(&mut number)
        .map_err(|error| StoreError::Failed(format!("the system has no random numbers: {error}")))?;
    let prefix = format!("larder-1/probe/{:032x}/", u128::from_ne_bytes(number));
    let memory = memory().map_err(|error| StoreError::Failed(format!("no memory to try the store with: {error}")))?;
    let tried = try_all(backend, &prefix, &memory).await;
    // Also after a failure: nothing of the probe stays where it can be removed.
    let left = clean(backend, &prefix).await;
    tried.and(left)
}

fn memory() -> std::io::Result<Arc<Mapping>> {
    let memfd = Memfd::create(c"larder-probe", MEMORY_BYTES, HugePages::Off, &Platform::detect(&[])?)?;
    let map = Mapping::read_write(&memfd, MEMORY_BYTES)?;
    let mut pattern = [0; PAYLOAD_BYTES];
    for (at, byte) in pattern.iter_mut().enumerate() {
        *byte = u8::try_from(at % 251).unwrap_or(0);
    }
    map.copy_in(0, &pattern);
    Ok(Arc::new(map))
}

async fn try_all(backend: &dyn Backend, prefix: &str, memory: &Arc<Mapping>) -> Result<(), StoreError> {
    let name = format!("{prefix}object");
    if start(backend, &name).await?.is_some() {
        return refused("it has an object under a name that was never used");
    }
    let mut versions = Vec::new();
    for (fill, mode, want, lie) in [
        (b'a', Mode::Create, Published::Done, "it says that a name is taken which was never used"),
        (b'b', Mode::Create, Published::Exists, "it let a second create take the place of the first"),
        (b'c', Mode::Replace, Published::Done, "it did not replace an object"),
    ] {
        if publish(backend, &name, fill, mode, memory).await? != want {
            return refused(lie);
        }
        let expected = if want == Published::Done { fill } else { b'a' };
        versions.push(check(backend, &name, expected, memory).await?);
    }
    let stale = backend.read(&name, &versions[0], HEAD_BYTES as u64, half(memory, 1)).await;
    if !matches!(stale, Err(StoreError::Changed(_))) {
        stale.map_err(|error| because("read an object that was replaced", error))?;
        return refused("it does not tell a reader that an object was replaced");
    }
    for (after, expected) in [("", vec![name.clone()]), (&name, Vec::new())] {
        if list(backend, prefix, after).await? != expected {
            return refused("its list does not show what is there");
        }
    }
    for raced in RACED {
        race(backend, &format!("{prefix}{raced}"), memory).await?;
    }
    // Not every store lists in the order of bytes, or goes on in that order: the backend has to see to it.
    let mut names: Vec<String> = RACED.iter().map(|raced| format!("{prefix}{raced}")).collect();
    names.push(name.clone());
    names.sort_unstable();
    for (after, expected) in [("", &names[..]), (&names[1], &names[2..])] {
        if list(backend, prefix, after).await? != expected {
            return refused("its list leaves out names or has them in another order");
        }
    }
    if !remove(backend, &name).await? {
        return refused("it says that there was nothing to remove where an object was");
    }
    if remove(backend, &name).await? || start(backend, &name).await?.is_some() {
        return refused("an object that was removed is still there");
    }
    Ok(())
}

/// Has four creates of one name race.
async fn race(backend: &dyn Backend, name: &str, memory: &Arc<Mapping>) -> Result<(), StoreError> {
    let create = |fill| publish(backend, name, fill, Mode::Create, memory);
    let (first, second, third, fourth) = tokio::join!(create(b'0'), create(b'1'), create(b'2'), create(b'3'));
    let mut winners = Vec::new();
    for (fill, ended) in [(b'0', first), (b'1', second), (b'2', third), (b'3', fourth)] {
        if ended? == Published::Done {
            winners.push(fill);
        }
    }
    match winners[..] {
        [winner] => check(backend, name, winner, memory).await.map(|_| ()),
        [] => refused("of four creates of one name at once none won"),
        _ => refused("several creates of one name at once all won, so that nodes would overwrite each other's blocks"),
    }
}

/// Publishes an object with a head of `fill`s.
async fn publish(
    backend: &dyn Backend,
    name: &str,
    fill: u8,
    mode: Mode,
    memory: &Arc<Mapping>,
) -> Result<Published, StoreError> {
    // Objects that race differ in their heads only, so that one payload does for all.
    let payload = half(memory, 0);
    let object = Object { head: vec![fill; HEAD_BYTES], payload: Some(payload) };
    let what = if mode == Mode::Create { "create an object" } else { "replace an object" };
    backend.publish(name, object, mode).await.map_err(|error| because(what, error))
}

/// Whether an object is the one that was published with `fill`. Returns its version.
async fn check(backend: &dyn Backend, name: &str, fill: u8, memory: &Arc<Mapping>) -> Result<String, StoreError> {
    const OTHER: &str = "an object has other bytes than were published";
    let Some(start) = start(backend, name).await? else {
        return refused("an object that was published is not there");
    };
    if start.bytes != [fill; HEAD_BYTES] || start.len_bytes != (HEAD_BYTES + PAYLOAD_BYTES) as u64 {
        return refused(OTHER);
    }
    memory.copy_in(PAYLOAD_BYTES, &[0; PAYLOAD_BYTES]);
    let read = backend.read(name, &start.version, HEAD_BYTES as u64, half(memory, 1)).await;
    read.map_err(|error| because("read an object", error))?;
    let (mut sent, mut found) = ([0; PAYLOAD_BYTES], [0; PAYLOAD_BYTES]);
    memory.copy_out(0, &mut sent);
    memory.copy_out(PAYLOAD_BYTES, &mut found);
    if sent == found { Ok(start.version) } else { refused(OTHER) }
}

fn half(memory: &Arc<Mapping>, index: usize) -> Memory {
    let offset_bytes = (index * PAYLOAD_BYTES) as u64;
    Memory { mapping: Arc::clone(memory), offset_bytes, len_bytes: PAYLOAD_BYTES as u64 }
}

async fn start(backend: &dyn Backend, name: &str) -> Result<Option<Start>, StoreError> {
    backend.start(name, HEAD_BYTES).await.map_err(|error| because("look for an object", error))
}

async fn list(backend: &dyn Backend, prefix: &str, after: &str) -> Result<Vec<String>, StoreError> {
    backend.list(prefix, after, 100).await.map_err(|error| because("list objects", error))
}

async fn remove(backend: &dyn Backend, name: &str) -> Result<bool, StoreError> {
    backend.remove(name).await.map_err(|error| because("remove an object", error))
}

/// Removes what the probe made.
async fn clean(backend: &dyn Backend, prefix: &str) -> Result<(), StoreError> {
    for name in list(backend, prefix, "").await? {
        remove(backend, &name).await?;
    }
    Ok(())
}

fn refused<T>(why: &str) -> Result<T, StoreError> {
    Err(StoreError::Failed(format!("the store cannot be used: {why}")))
}

/// The error of an operation, with what it was for. It stays of its kind.
fn because(what: &str, error: StoreError) -> StoreError {
    let say = |why: &str| format!("the store failed its test, which was to {what}: {why}");
    match error {
        StoreError::Unavailable(why) => StoreError::Unavailable(say(&why)),
        StoreError::Denied(why) => StoreError::Denied(say(&why)),
        StoreError::Full(why) => StoreError::Full(say(&why)),
        StoreError::Failed(why) => StoreError::Failed(say(&why)),
        changed @ StoreError::Changed(_) => StoreError::Failed(say(&changed.to_string())),
    }
}

#[cfg(test)]
mod tests;
