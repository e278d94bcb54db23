//! Origins against servers that do what they are told, on loopback alone.

mod address;
mod bucket;
mod changes;
mod faults;
mod file;
mod http;
mod nginx;
mod policy;
mod redirect;
mod rights;
mod server;
mod url;

use std::sync::Arc;
use std::time::Duration;

use larder_protocol::memory::{HugePages, Mapping, Memfd, Platform};

use super::{Caller, OriginError, Origins, Source};
use crate::config::{ListedOrigin, OriginsConfig, StoreOptions};
use crate::store::Memory;

/// The agent's user, and another.
const OWN: u32 = 500;
const OTHER: u32 = 1000;

/// Memory to be filled.
fn memory(len: usize) -> Memory {
    let map_len = 4096 + len.max(1);
    let memfd = Memfd::create(c"origin-test", map_len, HugePages::Off, &Platform::detect(&[]).unwrap()).unwrap();
    let mapping = Arc::new(Mapping::read_write(&memfd, map_len).unwrap());
    Memory { mapping, offset_bytes: 4096, len_bytes: len as u64 }
}

fn contents(memory: &Memory) -> Vec<u8> {
    let mut bytes = vec![0; usize::try_from(memory.len_bytes).unwrap()];
    memory.mapping.copy_out(usize::try_from(memory.offset_bytes).unwrap(), &mut bytes);
    bytes
}

/// Bytes that tell their places.
fn pattern(len: usize) -> Vec<u8> {
    (0..len).map(|at| u8::try_from((at / 251 + at) % 251).unwrap()).collect()
}

/// More patience than any of these servers needs on a busy machine, so that no request is made twice for nothing.
fn options() -> StoreOptions {
    StoreOptions { read_timeout: Duration::from_secs(60), ..StoreOptions::default() }
}

fn listed(prefix: &str) -> ListedOrigin {
    ListedOrigin { options: options(), ..ListedOrigin::everybody(prefix) }
}

fn origins(listed: Vec<ListedOrigin>) -> Origins {
    Origins::new(&OriginsConfig { listed, unlisted: options() }, OWN).unwrap()
}

fn anybody() -> Caller<'static> {
    Caller { uid: OTHER, credentials: &[] }
}

async fn open(origins: &Origins, url: &str, first_most: usize) -> Result<Option<Source>, OriginError> {
    origins.open(&anybody(), url, first_most).await
}

/// Reads a range.
async fn read(source: &Source, offset: usize, len: usize) -> Result<Vec<u8>, OriginError> {
    let memory = memory(len);
    source.read(offset as u64, memory.clone()).await?;
    Ok(contents(&memory))
}
