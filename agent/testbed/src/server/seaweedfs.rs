//! SeaweedFS: an S3 server that checks signatures and keeps what it has acknowledged when it is killed.

use std::fs;
use std::net::SocketAddr;

use super::{ACCESS_KEY, Absent, BUCKET, Running, SECRET_KEY, Server, Store, directory, process_calls};
use crate::http;
use crate::port::Port;
use crate::process::Program;

/// Each part of it also listens this far above its port, for the other parts.
const DISTANCE: u16 = 10_000;

/// A bucket that anybody may use without a signature.
pub(super) const OPEN_BUCKET: &str = "larder-open";

/// A running SeaweedFS: master, volume server, filer and S3 gateway in one process.
#[derive(Debug)]
pub struct SeaweedFs {
    running: Running,
    master: (Port, Port),
    volume: (Port, Port),
    filer: (Port, Port),
    gateway: (Port, Port),
}

impl SeaweedFs {
    /// Starts one.
    ///
    /// # Errors
    /// Where it is not installed.
    pub fn start() -> Result<SeaweedFs, Absent> {
        let path = super::installed::program("python/bin/weed")?;
        let directory = directory();
        let identities = format!(
            r#"{{"identities":[{{"name":"larder","credentials":[{{"accessKey":"{ACCESS_KEY}","secretKey":"{SECRET_KEY}"}}],"actions":["Admin","Read","List","Tagging","Write"]}},{{"name":"anonymous","actions":["Read:{OPEN_BUCKET}","Write:{OPEN_BUCKET}","List:{OPEN_BUCKET}"]}}]}}"#
        );
        fs::write(directory.path().join("s3.json"), identities).expect("there is room for a file");
        let [master, volume, filer, gateway] = [(); 4].map(|()| Port::pair(DISTANCE));
        let numbers = [("master", &master), ("volume", &volume), ("filer", &filer), ("s3", &gateway)];
        let mut arguments = vec!["server".to_owned()];
        arguments.extend(numbers.map(|(part, (port, _))| format!("-{part}.port={}", port.number())));
        // It would report statistics to its makers; the two other ports are for protocols that nobody uses here.
        let fixed = "-dir=. -ip=127.0.0.1 -ip.bind=127.0.0.1 -filer -s3 -s3.config=s3.json -s3.port.iceberg=0 -s3.port.lance=0 \
                     -master.telemetry=false -master.electionTimeout=1s -master.heartbeatInterval=100ms -master.volumeSizeLimitMB=1024 -volume.max=40";
        arguments.extend(fixed.split_whitespace().map(str::to_owned));
        let program = Program {
            path,
            arguments,
            // Without the first two it takes gigabytes for what it will collect later; without the last its logs stay.
            environment: vec![
                ("GOMEMLIMIT", "500MiB".into()),
                ("GOGC", "50".into()),
                ("TMPDIR", directory.path().to_string_lossy().into_owned()),
            ],
            // It would take 25 s to end by itself, and nothing that it has is wanted.
            grace_tenths: 1,
            ..Program::default()
        };
        let mut server = SeaweedFs { running: Running::start(program, directory), master, volume, filer, gateway };
        server.await_ready();
        Ok(server)
    }

    /// Until its buckets are there and an object can be written, which is long after it takes connections.
    fn await_ready(&mut self) {
        let (filer, gateway) = (self.filer.0.address(), self.gateway.0.address());
        // A directory of the filer is a bucket, and to make one takes no signature there. 409: it is there.
        let made = |name: &str| {
            http::request(filer, "POST", &format!("/buckets/{name}/"), &[], b"")
                .is_ok_and(|answer| answer.is_success() || answer.status == 409)
        };
        self.running.process.await_ready(|| made(BUCKET) && made(OPEN_BUCKET));
        let object = format!("/{OPEN_BUCKET}/ready");
        let asked = |method| http::request(gateway, method, &object, &[], b"x").is_ok_and(|it| it.is_success());
        self.running.process.await_ready(|| asked("PUT") && asked("DELETE"));
    }
}

impl Server for SeaweedFs {
    fn name(&self) -> &'static str {
        "SeaweedFS"
    }

    fn address(&self) -> SocketAddr {
        self.gateway.0.address()
    }

    fn store_at(&self, address: SocketAddr, path: &str) -> Store {
        Store::s3(address, path)
    }

    process_calls!();
}

impl Drop for SeaweedFs {
    fn drop(&mut self) {
        self.running.process.kill();
        // It leaves sockets outside its directory, named by its ports.
        for (part, ports) in
            [("filer", &self.filer), ("s3", &self.gateway), ("master", &self.master), ("volume", &self.volume)]
        {
            let _ = fs::remove_file(format!("/tmp/seaweedfs-{part}-{}.sock", ports.0.number()));
            let _ = fs::remove_file(format!("/tmp/seaweedfs-{part}-grpc-{}.sock", ports.1.number()));
        }
    }
}
