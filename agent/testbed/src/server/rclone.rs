//! `rclone serve s3`: an S3 server that ignores conditions, so that of two creates of one object both succeed. An agent must
//! refuse it.

use std::fs;
use std::net::SocketAddr;

use super::{ACCESS_KEY, Absent, BUCKET, Running, SECRET_KEY, Server, Store, directory, process_calls};
use crate::http;
use crate::port::Port;
use crate::process::Program;

/// A running rclone.
#[derive(Debug)]
pub struct Rclone {
    running: Running,
    port: Port,
}

impl Rclone {
    /// Starts one.
    ///
    /// # Errors
    /// Where it is not installed.
    pub fn start() -> Result<Rclone, Absent> {
        let path = super::installed::program("python/bin/rclone")?;
        let (port, directory) = (Port::free(), directory());
        fs::create_dir_all(directory.path().join("buckets").join(BUCKET)).expect("there is room for a directory");
        let key = format!("{ACCESS_KEY},{SECRET_KEY}");
        let address = port.address().to_string();
        // No configuration of the machine's, which may name anything.
        let arguments = ["serve", "s3", "--config=/dev/null", "--auth-key", &key, "--addr", &address, "buckets"];
        let program =
            Program { path, arguments: arguments.map(str::to_owned).into(), grace_tenths: 5, ..Program::default() };
        let mut server = Rclone { running: Running::start(program, directory), port };
        server.await_ready();
        Ok(server)
    }

    /// Until it refuses what is not signed.
    fn await_ready(&mut self) {
        let server = self.port.address();
        self.running.process.await_ready(|| http::request(server, "GET", "/", &[], b"").is_ok());
    }
}

impl Server for Rclone {
    fn name(&self) -> &'static str {
        "rclone"
    }

    fn address(&self) -> SocketAddr {
        self.port.address()
    }

    fn store_at(&self, address: SocketAddr, path: &str) -> Store {
        Store::s3(address, path)
    }

    process_calls!();
}
