//! Stores that cannot be used are refused at the start, with a sentence that says why.

use std::net::SocketAddr;
use std::process::Output;
use std::time::Instant;

use larder_testbed::server::{Moto, Rclone};
use larder_testbed::{Fault, FaultProxy, Port, Rule, Server, Store};

use crate::harness::{PATIENCE, larderd, skip};

/// Starts an agent that is not expected to stay, and waits for its end.
fn run(store: &Store) -> Output {
    let directory = tempfile::tempdir().expect("there is room for a directory");
    let child = larderd()
        .envs(store.environment.iter().map(|(name, value)| (name, value)))
        .args(["--capacity", "64MiB", "--store-timeout", "30", "--store", &store.url, "--socket"])
        .arg(directory.path().join("larder.sock"))
        .stderr(std::process::Stdio::piped())
        .spawn()
        .expect("larderd was built together with this test");
    let mut child = Some(child);
    let began = Instant::now();
    loop {
        let running = child.as_mut().expect("taken at the end only");
        if running.try_wait().expect("a child can be waited for").is_some() {
            return child.take().expect("taken at the end only").wait_with_output().expect("its output can be read");
        }
        if began.elapsed() > PATIENCE {
            running.kill().expect("it is a child of ours");
            panic!("an agent on {} was not refused", store.url);
        }
        std::thread::sleep(std::time::Duration::from_millis(3));
    }
}

/// The agent ends with one sentence that has all of these words.
#[track_caller]
fn is_refused(store: &Store, words: &[&str]) {
    let output = run(store);
    let told = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(!output.status.success(), "{told}");
    let last = told.lines().last().unwrap_or_default();
    assert!(last.starts_with(&format!("larderd: the store {}", store.url)), "{told}");
    for word in words {
        assert!(last.contains(word), "no {word:?} in: {last}");
    }
}

#[test]
fn a_server_that_knows_no_parts_of_objects_is_refused() {
    let server = match Rclone::start() {
        Ok(server) => server,
        Err(absent) => skip!("{absent}"),
    };
    is_refused(&server.store("refused"), &["a read of a part", "cannot be used"]);
}

#[test]
fn a_server_before_which_conditions_get_lost_is_refused() {
    let server = match Moto::start() {
        Ok(server) => server,
        Err(absent) => skip!("{absent}"),
    };
    let proxy = FaultProxy::before(server.address());
    proxy.inject(Rule::always(Fault::NoConditions));
    let words = ["the store cannot be used", "second create"];
    is_refused(&server.store_at(proxy.address(), "refused"), &words);
    assert!(proxy.counts().faults > 0);
}

/// An address where nobody listens, held while the port is.
fn nowhere() -> (Port, SocketAddr) {
    let port = Port::free();
    let address = port.address();
    (port, address)
}

#[test]
fn heavy_a_wrong_address_bucket_or_key_is_told_as_what_it_is() {
    let server = match larder_testbed::server::SeaweedFs::start() {
        Ok(server) => server,
        Err(absent) => skip!("{absent}"),
    };
    let (_held, address) = nowhere();
    is_refused(&server.store_at(address, "p"), &["onnect"]);
    let good = server.store("p");
    let absent = Store { url: good.url.replace("larder/", "no-such-bucket/"), ..good.clone() };
    is_refused(&absent, &["no-such-bucket", "not there"]);
    let wrong = good.clone().with("AWS_SECRET_ACCESS_KEY", "not-the-secret");
    is_refused(&wrong, &["refuses", "credentials"]);
    let environment = good.environment.iter().filter(|(name, _)| !name.contains("KEY")).cloned().collect();
    let none = Store { environment, ..good };
    is_refused(&none, &["no credentials", "AWS_ACCESS_KEY_ID"]);
}
