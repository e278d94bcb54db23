//! Stores of every kind, and agents on them.

use std::fs::DirBuilder;
use std::os::unix::fs::DirBuilderExt;

use larder_testbed::{Absent, Server, Store};
use tempfile::TempDir;

use crate::harness::Agent;

/// Settings of an agent that holds a few blocks of any length that is tried.
pub(crate) const ROOMY: &str = "--capacity 256MiB --segment-size 4MiB --staging 1MiB";

/// Settings of an agent that soon has to evict.
pub(crate) const SMALL: &str = "--capacity 32MiB --segment-size 4MiB --staging 1MiB";

/// A store, which ends with this value.
#[derive(Debug)]
pub(crate) struct Backend {
    kind: Kind,
}

#[derive(Debug)]
enum Kind {
    Directory(TempDir),
    Memory,
    Server(Box<dyn Server>),
}

impl Backend {
    pub(crate) fn directory() -> Option<Backend> {
        let directory = tempfile::tempdir().expect("there is room for a directory");
        Some(Backend { kind: Kind::Directory(directory) })
    }

    pub(crate) fn memory() -> Option<Backend> {
        Some(Backend { kind: Kind::Memory })
    }

    /// A server, unless it is not installed: then it says so, for the test to be counted as skipped.
    #[expect(clippy::print_stdout, reason = "scripts/test reads from there why a test was skipped")]
    pub(crate) fn server<S: Server + 'static>(started: Result<S, Absent>) -> Option<Backend> {
        let server = started.inspect_err(|absent| println!("SKIPPED: {absent}")).ok()?;
        Some(Backend { kind: Kind::Server(Box::new(server)) })
    }

    /// Whether another agent, or the same one later, finds what one has put.
    pub(crate) fn lasts(&self) -> bool {
        !matches!(self.kind, Kind::Memory)
    }

    /// A part of it for a test.
    pub(crate) fn store(&self, path: &str) -> Store {
        match &self.kind {
            Kind::Directory(directory) => {
                let place = directory.path().join(path);
                DirBuilder::new().recursive(true).mode(0o700).create(&place).expect("there is room for a directory");
                Store::new(&format!("file://{}", place.display()))
            }
            Kind::Memory => Store::new("memory://"),
            Kind::Server(server) => server.store(path),
        }
    }

    /// An agent on that part.
    pub(crate) fn agent(&self, path: &str, arguments: &str) -> Agent {
        agent_on(&self.store(path), arguments)
    }
}

/// An agent on a store.
pub(crate) fn agent_on(store: &Store, arguments: &str) -> Agent {
    Agent::start_in(&store.environment, &format!("{arguments} --store {}", store.url))
}
