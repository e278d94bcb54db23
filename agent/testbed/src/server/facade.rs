//! Google's storage, as its clients see it: nginx that translates to the S3 of a SeaweedFS behind it.

use std::net::SocketAddr;

use super::seaweedfs::OPEN_BUCKET;
use super::{Absent, Access, Running, SeaweedFs, Server, Store, directory, nginx, process_calls};
use crate::http;
use crate::port::Port;

const CONFIGURATION: &str = include_str!("../../servers/gcs-facade.nginx.conf");

/// A running façade. [`Server::kill`] and its like are about the façade, not about the server behind it.
#[derive(Debug)]
pub struct GcsFacade {
    // Ends first: fields are dropped from the top.
    running: Running,
    port: Port,
    behind: SeaweedFs,
}

impl GcsFacade {
    /// Starts one, and a SeaweedFS behind it.
    ///
    /// # Errors
    /// Where one of the two is not installed.
    pub fn start() -> Result<GcsFacade, Absent> {
        super::installed::system_program("nginx")?;
        let (behind, port) = (SeaweedFs::start()?, Port::free());
        let values = [("@LISTEN@", port.address().to_string()), ("@UPSTREAM@", behind.address().to_string())];
        let running = nginx::start(directory(), CONFIGURATION, &values)?;
        let mut server = GcsFacade { running, port, behind };
        server.await_ready();
        Ok(server)
    }

    /// The server behind it.
    pub fn behind(&mut self) -> &mut SeaweedFs {
        &mut self.behind
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

impl Server for GcsFacade {
    fn name(&self) -> &'static str {
        "the façade of Google's storage"
    }

    fn address(&self) -> SocketAddr {
        self.port.address()
    }

    fn store_at(&self, address: SocketAddr, path: &str) -> Store {
        // With `disable_oauth` the client asks nobody for a token; all that the façade would do with one is drop it.
        let account = format!(
            r#"{{"gcs_base_url":"http://{address}","disable_oauth":true,"client_email":"","private_key":"","private_key_id":""}}"#
        );
        Store::new(&format!("gs://{OPEN_BUCKET}/{path}"))
            .with("GOOGLE_SERVICE_ACCOUNT_KEY", &account)
            .with("GOOGLE_ALLOW_HTTP", "true")
    }

    process_calls!();
}
