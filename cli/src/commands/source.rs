//! Where `put` takes the bytes of a block from: a file of known length, or a stream that ends when it ends.

use std::fs::File;
use std::io::{self, Read};
use std::path::Path;

use anyhow::{Context, Result, bail};
use larder::{Client, Namespace, PutOutcome};
use larder_protocol::units::ByteSize;

use crate::output::Output;

/// How much is read at a time: enough to need few system calls, little enough for a smooth bar.
const CHUNK_BYTES: usize = 4 << 20;

/// Puts what is in `file`, or on standard input for `-`. Returns how it ended and how many bytes it was.
pub(crate) fn put(
    client: &Client,
    namespace: &Namespace,
    key: &str,
    file: &Path,
    output: Output,
) -> Result<(PutOutcome, u64)> {
    if file.as_os_str() == "-" {
        return put_stream(client, namespace, key, &mut io::stdin().lock(), "standard input");
    }
    let name = file.display().to_string();
    let mut opened = File::open(file).with_context(|| format!("cannot open {name}"))?;
    let metadata = opened.metadata().with_context(|| format!("cannot look at {name}"))?;
    if metadata.is_dir() {
        bail!("{name} is a directory");
    }
    // A pipe or a device, such as <(command), says nothing about its length; so do the files of /proc, which say 0.
    if !metadata.is_file() || metadata.len() == 0 {
        return put_stream(client, namespace, key, &mut opened, &name);
    }
    put_file(namespace, key, &mut opened, metadata.len(), &name, output)
}

fn put_file(
    namespace: &Namespace,
    key: &str,
    file: &mut File,
    len_bytes: u64,
    name: &str,
    output: Output,
) -> Result<(PutOutcome, u64)> {
    let len = usize::try_from(len_bytes).with_context(|| format!("{name} has {len_bytes} bytes"))?;
    let mut writer = namespace.create(key, len).with_context(|| format!("key {key:?}"))?;
    let bar = output.transfer("put", len_bytes);
    for chunk in writer.as_mut_slice().chunks_mut(CHUNK_BYTES) {
        file.read_exact(chunk).map_err(|error| match error.kind() {
            io::ErrorKind::UnexpectedEof => anyhow::anyhow!("{name} became shorter while it was read"),
            _ => anyhow::Error::new(error).context(format!("cannot read {name}")),
        })?;
        bar.inc(chunk.len() as u64);
    }
    if file.read(&mut [0]).with_context(|| format!("cannot read {name}"))? > 0 {
        bail!("{name} became longer while it was read");
    }
    let outcome = writer.commit().with_context(|| format!("key {key:?}"))?;
    bar.finish_and_clear();
    Ok((outcome, len_bytes))
}

fn put_stream(
    client: &Client,
    namespace: &Namespace,
    key: &str,
    stream: &mut dyn Read,
    name: &str,
) -> Result<(PutOutcome, u64)> {
    let limit_bytes = client.ping()?.block_len_max;
    let mut bytes = Vec::new();
    stream
        .take(limit_bytes.saturating_add(1))
        .read_to_end(&mut bytes)
        .with_context(|| format!("cannot read {name}"))?;
    if bytes.len() as u64 > limit_bytes {
        bail!("{name} is over the limit of {limit_bytes} bytes ({}) for a block", ByteSize(limit_bytes));
    }
    let outcome = namespace.put(key, &bytes).with_context(|| format!("key {key:?}"))?;
    Ok((outcome, bytes.len() as u64))
}
