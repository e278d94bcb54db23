//! Verbs about blocks: put, get, wait, ls, rm, clear.

use std::ffi::OsStr;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result};
use larder::{Client, Namespace, PutOutcome};
use larder_protocol::units::ByteSize;
use serde_json::json;

use super::{legal_key, open, sink, source, text};
use crate::args::{BlockArgs, Global};
use crate::exit::{Missing, Usage};
use crate::output::{Output, counted};

/// Opens what a verb on one block needs: the connection, the namespace and the key.
fn open_at(at: &BlockArgs, global: &Global) -> Result<(Client, Namespace, String)> {
    let key = legal_key(&at.key)?;
    let (client, namespace) = open(&at.namespace, global)?;
    Ok((client, namespace, key))
}

pub(crate) fn put(at: &BlockArgs, file: &Path, global: &Global, output: Output) -> Result<()> {
    let (client, namespace, key) = open_at(at, global)?;
    let (outcome, len_bytes) = source::put(&client, &namespace, &key, file, output)?;
    let (word, outcome) = match outcome {
        PutOutcome::Stored => ("stored", "stored"),
        PutOutcome::AlreadyHeld => ("already held, the same bytes", "already_held"),
        PutOutcome::Replaced => ("replaced", "replaced"),
        PutOutcome::NotKept => ("not kept", "not_kept"),
    };
    output.done(
        || format!("{key}: {}, {word}", ByteSize(len_bytes)),
        || json!({ "key": key, "bytes": len_bytes, "outcome": outcome }),
    )
}

pub(crate) fn get(at: &BlockArgs, file: Option<&Path>, global: &Global, output: Output) -> Result<()> {
    let file = file.filter(|file| file.as_os_str() != "-");
    if output.is_json() && file.is_none() {
        let why = "`get --json` needs -o FILE: without it standard output carries the block";
        return Err(Usage(why.to_owned()).into());
    }
    let (_client, namespace, key) = open_at(at, global)?;
    let block = namespace.get(&key).with_context(|| format!("key {key:?}"))?;
    let Some(file) = file else {
        return sink::to_stdout(&block);
    };
    sink::to_file(&block, file, output)?;
    output.done(
        || format!("{}: {}, written", file.display(), ByteSize(block.len() as u64)),
        || json!({ "key": key, "bytes": block.len(), "file": file.to_string_lossy() }),
    )
}

pub(crate) fn fetch(at: &BlockArgs, url: &OsStr, file: Option<&Path>, global: &Global, output: Output) -> Result<()> {
    let url = text(url, "the URL")?;
    // A path is of this process; the URL of a key that others use must not depend on where it runs.
    let url = if url.contains("://") { url } else { text(std::path::absolute(url)?.as_os_str(), "the path")? };
    let (_client, namespace) = open(&at.namespace, global)?;
    let key = if at.key == "-" { larder::url_key(&url) } else { text(&at.key, "the key")? };
    let to_stdout = file.is_some_and(|file| file.as_os_str() == "-");
    if output.is_json() && to_stdout {
        let why = "`fetch --json` needs another -o: there standard output carries the block";
        return Err(Usage(why.to_owned()).into());
    }
    let block = namespace.get_or_fetch(&key, &url).with_context(|| format!("key {key:?}"))?;
    match file {
        Some(_) if to_stdout => return sink::to_stdout(&block),
        Some(file) => sink::to_file(&block, file, output)?,
        None => {}
    }
    output.done(
        || format!("{key}: {}, there", ByteSize(block.len() as u64)),
        || json!({ "key": key, "bytes": block.len(), "file": file.map(Path::to_string_lossy) }),
    )
}

pub(crate) fn wait(at: &BlockArgs, global: &Global, output: Output) -> Result<()> {
    let (_client, namespace, key) = open_at(at, global)?;
    let timeout = global.timeout.unwrap_or(Duration::MAX);
    let block = namespace.wait(&key, timeout).with_context(|| format!("key {key:?}"))?;
    output.done(
        || format!("{key}: {}, there", ByteSize(block.len() as u64)),
        || json!({ "key": key, "bytes": block.len() }),
    )
}

pub(crate) fn list(
    namespace: &OsStr,
    prefix: Option<&OsStr>,
    direct: bool,
    global: &Global,
    output: Output,
) -> Result<()> {
    let prefix = text(prefix.unwrap_or_default(), "the prefix")?;
    let (_client, namespace) = open(namespace, global)?;
    // A group may be written as it looks at the front of a key: `a/` for `a`.
    let group = prefix.strip_suffix('/').unwrap_or(&prefix);
    let keys = if direct { namespace.children(group) } else { namespace.list(&prefix) }
        .with_context(|| format!("prefix {prefix:?}"))?;
    output.result(|| keys.iter().map(|key| format!("{key}\n")).collect(), || json!({ "keys": keys }))
}

pub(crate) fn remove(at: &BlockArgs, global: &Global, output: Output) -> Result<()> {
    let (_client, namespace, key) = open_at(at, global)?;
    if !namespace.delete(&key).with_context(|| format!("key {key:?}"))? {
        return Err(Missing(format!("key {key:?}: not found")).into());
    }
    output.done(|| format!("{key}: deleted"), || json!({ "key": key }))
}

pub(crate) fn sync(namespace: &OsStr, global: &Global, output: Output) -> Result<()> {
    let (_client, namespace) = open(namespace, global)?;
    namespace.sync()?;
    let name = namespace.name();
    output.done(|| format!("{name}: all that was put is in the store"), || json!({ "name": name }))
}

pub(crate) fn clear(namespace: &OsStr, global: &Global, output: Output) -> Result<()> {
    let (_client, namespace) = open(namespace, global)?;
    let blocks = namespace.clear()?;
    output.done(|| format!("{} deleted", counted(blocks, "block")), || json!({ "blocks": blocks }))
}
