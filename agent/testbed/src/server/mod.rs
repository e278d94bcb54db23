//! Servers: what all have in common.

mod azurite;
mod facade;
mod files;
mod installed;
mod moto;
mod nginx;
mod rclone;
mod seaweedfs;

use std::fmt::Debug;
use std::net::SocketAddr;

use nix::sys::signal::Signal;
use tempfile::TempDir;

pub use azurite::Azurite;
pub use facade::GcsFacade;
pub use files::Files;
pub use installed::Absent;
pub use moto::Moto;
pub use nginx::Access;
pub use rclone::Rclone;
pub use seaweedfs::SeaweedFs;

use crate::process::{Process, Program};

/// The bucket, or container, that every server has from its start.
pub const BUCKET: &str = "larder";

/// The key that every server knows which checks signatures, and its secret.
const ACCESS_KEY: &str = "larder";
const SECRET_KEY: &str = "larder-secret";

/// Where nobody listens. Without credentials clients of clouds ask the cloud's metadata service, which a test must never
/// reach.
const NOWHERE: &str = "127.0.0.1:1";

/// A store as an agent is told of it.
#[derive(Clone, Debug, Default)]
pub struct Store {
    /// For `--store`.
    pub url: String,
    /// For the agent's environment: credentials, the address, and no way to a cloud.
    pub environment: Vec<(String, String)>,
}

impl Store {
    /// One that needs no server, or whose variables follow.
    #[must_use]
    pub fn new(url: &str) -> Store {
        let nowhere = format!("http://{NOWHERE}/");
        Store { url: url.to_owned(), environment: Vec::new() }
            .with("AWS_METADATA_ENDPOINT", &nowhere)
            .with("GCE_METADATA_HOST", NOWHERE)
            .with("GCE_METADATA_ROOT", NOWHERE)
            .with("GCE_METADATA_IP", NOWHERE)
            .with("IDENTITY_ENDPOINT", &nowhere)
            .with("AZURE_MSI_ENDPOINT", &nowhere)
            .with("NO_PROXY", "*")
    }

    /// With another variable.
    #[must_use]
    pub fn with(mut self, name: &str, value: &str) -> Store {
        self.environment.push((name.to_owned(), value.to_owned()));
        self
    }

    /// An S3 server at an address that knows [`ACCESS_KEY`].
    fn s3(address: SocketAddr, path: &str) -> Store {
        Store::new(&format!("s3://{BUCKET}/{path}"))
            .with("AWS_ENDPOINT_URL", &format!("http://{address}"))
            .with("AWS_ALLOW_HTTP", "true")
            .with("AWS_REGION", "us-east-1")
            .with("AWS_ACCESS_KEY_ID", ACCESS_KEY)
            .with("AWS_SECRET_ACCESS_KEY", SECRET_KEY)
    }
}

/// A running server with an empty bucket. It ends when this is dropped.
pub trait Server: Debug {
    /// Its name, for messages.
    fn name(&self) -> &'static str;

    /// Where it listens.
    fn address(&self) -> SocketAddr;

    /// As an agent uses it that reaches it at `address`, its own or that of a proxy in front of it. What the agent writes is
    /// under `path`.
    fn store_at(&self, address: SocketAddr, path: &str) -> Store;

    /// As an agent uses it that reaches it directly.
    fn store(&self, path: &str) -> Store {
        self.store_at(self.address(), path)
    }

    /// Stops its process; connections are still taken, by the kernel, and nothing is answered.
    fn pause(&mut self);

    /// Lets it go on.
    fn resume(&mut self);

    /// Kills it as a crash would.
    fn kill(&mut self);

    /// Starts it again on the same port and on what it had written, and waits until it answers.
    fn restart(&mut self);
}

/// A server's process, and the directory that has its files.
#[derive(Debug)]
struct Running {
    program: Program,
    process: Process,
    _directory: TempDir,
}

impl Running {
    fn start(mut program: Program, directory: TempDir) -> Running {
        program.directory = directory.path().to_owned();
        let process = Process::start(&program);
        Running { program, process, _directory: directory }
    }

    fn pause(&mut self) {
        self.process.signal(Signal::SIGSTOP);
    }

    fn resume(&mut self) {
        self.process.signal(Signal::SIGCONT);
    }

    fn restart(&mut self) {
        self.process.kill();
        self.process = Process::start(&self.program);
    }
}

/// The four calls of [`Server`] that are the same for each server with a field `running` and a method `await_ready`.
macro_rules! process_calls {
    () => {
        fn pause(&mut self) {
            self.running.pause();
        }

        fn resume(&mut self) {
            self.running.resume();
        }

        fn kill(&mut self) {
            self.running.process.kill();
        }

        fn restart(&mut self) {
            self.running.restart();
            self.await_ready();
        }
    };
}
use process_calls;

fn directory() -> TempDir {
    tempfile::tempdir().expect("there is room for a directory")
}
