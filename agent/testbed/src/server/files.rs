//! Plain files over HTTP: an origin to read from, whose log tells who read what.

use std::fs;
use std::net::SocketAddr;
use std::path::PathBuf;

use super::{Absent, Access, Running, Server, Store, directory, nginx, process_calls};
use crate::http;
use crate::port::Port;

const CONFIGURATION: &str = include_str!("../../servers/files.nginx.conf");

/// A running nginx that serves one directory. No agent keeps blocks in it: it is read only.
#[derive(Debug)]
pub struct Files {
    running: Running,
    port: Port,
}

impl Files {
    /// Starts one, with an empty directory.
    ///
    /// # Errors
    /// Where nginx is not installed.
    pub fn start() -> Result<Files, Absent> {
        let (directory, port) = (directory(), Port::free());
        fs::create_dir(directory.path().join("files")).expect("there is room for a directory");
        let running = nginx::start(directory, CONFIGURATION, &[("@LISTEN@", port.address().to_string())])?;
        let mut server = Files { running, port };
        server.await_ready();
        Ok(server)
    }

    /// The directory that it serves.
    #[must_use]
    pub fn directory(&self) -> PathBuf {
        self.running.program.directory.join("files")
    }

    /// The requests that it answered.
    #[must_use]
    pub fn accesses(&self) -> Vec<Access> {
        nginx::accesses(&self.running)
    }

    fn await_ready(&mut self) {
        let server = self.port.address();
        self.running.process.await_ready(|| http::request(server, "GET", "/", &[], b"").is_ok());
    }
}

impl Server for Files {
    fn name(&self) -> &'static str {
        "nginx"
    }

    fn address(&self) -> SocketAddr {
        self.port.address()
    }

    fn store_at(&self, address: SocketAddr, path: &str) -> Store {
        Store::new(&format!("http://{address}/{path}"))
    }

    process_calls!();
}
