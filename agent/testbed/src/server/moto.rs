//! moto: an S3 server that starts in half a second and keeps everything in its memory. It checks no signature.

use std::net::SocketAddr;

use super::{Absent, BUCKET, Running, Server, Store, directory, process_calls};
use crate::http;
use crate::port::Port;
use crate::process::Program;

/// A running moto.
#[derive(Debug)]
pub struct Moto {
    running: Running,
    port: Port,
}

impl Moto {
    /// Starts one.
    ///
    /// # Errors
    /// Where it is not installed.
    pub fn start() -> Result<Moto, Absent> {
        let path = super::installed::program("python/bin/moto_server")?;
        let port = Port::free();
        let arguments = ["-H".into(), "127.0.0.1".into(), "-p".into(), port.number().to_string()];
        let program = Program { path, arguments: arguments.into(), grace_tenths: 5, ..Program::default() };
        let mut server = Moto { running: Running::start(program, directory()), port };
        server.await_ready();
        Ok(server)
    }

    fn await_ready(&mut self) {
        let (server, target) = (self.port.address(), format!("/{BUCKET}"));
        let made = || http::request(server, "PUT", &target, &[], b"").is_ok_and(|it| it.is_success());
        self.running.process.await_ready(made);
    }
}

impl Server for Moto {
    fn name(&self) -> &'static str {
        "moto"
    }

    fn address(&self) -> SocketAddr {
        self.port.address()
    }

    fn store_at(&self, address: SocketAddr, path: &str) -> Store {
        Store::s3(address, path)
    }

    process_calls!();
}
