//! Azurite: Azure's blob service. It checks signatures.

use std::net::SocketAddr;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;

use super::{Absent, BUCKET, Running, Server, Store, directory, process_calls};
use crate::http;
use crate::port::Port;
use crate::process::Program;

/// The account that it has, and that account's key: both are in its documentation and the same everywhere.
const ACCOUNT: &str = "devstoreaccount1";
const ACCOUNT_KEY: &str = "Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw==";

/// A running Azurite.
#[derive(Debug)]
pub struct Azurite {
    running: Running,
    port: Port,
}

impl Azurite {
    /// Starts one.
    ///
    /// # Errors
    /// Where it, or the Node that it runs in, is not installed.
    pub fn start() -> Result<Azurite, Absent> {
        let service = super::installed::program("npm/node_modules/azurite/dist/src/blob/main.js")?;
        let path = super::installed::system_program("node")?;
        let port = Port::free();
        let mut arguments =
            vec![service.to_string_lossy().into_owned(), "--blobPort".into(), port.number().to_string()];
        let fixed = "--blobHost 127.0.0.1 --location . --silent --skipApiVersionCheck --disableTelemetry";
        arguments.extend(fixed.split_whitespace().map(str::to_owned));
        let program = Program { path, arguments, grace_tenths: 5, ..Program::default() };
        let mut server = Azurite { running: Running::start(program, directory()), port };
        server.await_ready();
        Ok(server)
    }

    /// Until it has made the container, or says that it has it.
    fn await_ready(&mut self) {
        let server = self.port.address();
        self.running
            .process
            .await_ready(|| make_container(server).is_ok_and(|answer| answer.is_success() || answer.status == 409));
    }
}

fn make_container(server: SocketAddr) -> std::io::Result<http::Answer> {
    let (date, version) = ("Thu, 01 Jan 2026 00:00:00 GMT", "2021-08-06");
    let path = format!("/{ACCOUNT}/{BUCKET}");
    // The method, eleven standard fields that are empty, ours, and the resource.
    let signed =
        format!("PUT{}x-ms-date:{date}\nx-ms-version:{version}\n/{ACCOUNT}{path}\nrestype:container", "\n".repeat(12));
    let key = STANDARD.decode(ACCOUNT_KEY).expect("a well-known key");
    let mut mac = Hmac::<Sha256>::new_from_slice(&key).expect("a key of any length");
    mac.update(signed.as_bytes());
    let signature = STANDARD.encode(mac.finalize().into_bytes());
    let authorization = format!("SharedKey {ACCOUNT}:{signature}");
    let fields = [("x-ms-date", date), ("x-ms-version", version), ("Authorization", &authorization)];
    http::request(server, "PUT", &format!("{path}?restype=container"), &fields, b"")
}

impl Server for Azurite {
    fn name(&self) -> &'static str {
        "Azurite"
    }

    fn address(&self) -> SocketAddr {
        self.port.address()
    }

    fn store_at(&self, address: SocketAddr, path: &str) -> Store {
        Store::new(&format!("az://{BUCKET}/{path}"))
            .with("AZURE_STORAGE_ACCOUNT_NAME", ACCOUNT)
            .with("AZURE_STORAGE_ACCOUNT_KEY", ACCOUNT_KEY)
            .with("AZURE_STORAGE_ENDPOINT", &format!("http://{address}/{ACCOUNT}"))
            .with("AZURE_ALLOW_HTTP", "true")
    }

    process_calls!();
}
