//! What a client holds on to stays on its user's account.

use larder_protocol::message::{PutOutcome, Reply, Request};

use crate::guests::Guest;
use crate::harness::{Agent, Setup, may_become_others};
use crate::hoard::{Hoard, WAYS};
use crate::raw::Raw;
use crate::roles::{Actor, STRANGER, VICTIM};
use crate::session::Session;

/// What one user holds in any way is bounded by its own quota, and leaves the others theirs.
#[track_caller]
fn hoard_beside_a_guest(way: &str, setup: &Setup, mebibytes: u64) {
    let agent = Agent::with(setup);
    let mut baseline = agent.baseline();
    let mut hoarder = Actor::start_as(Some(STRANGER), "hoarder", agent.socket(), way);
    eprintln!("{way}: {}", hoarder.expect("READY"));
    let stat = baseline.monitor().stat();
    assert!(stat.memory_bytes <= stat.capacity_bytes, "{way}: {stat:?}");
    let descriptors = stat.descriptors;
    assert!(descriptors < 6000, "{way}: {descriptors} descriptors");
    let mut guest = Guest::invite(&agent);
    guest.fill(mebibytes);
    guest.finish();
    hoarder.kill();
    baseline.allow_others(40);
    baseline.holds();
}

#[test]
fn heavy_a_hoarder_with_a_quota_leaves_others_theirs() {
    if !may_become_others() {
        return;
    }
    for way in WAYS {
        let setup = Setup { args: ["--tenant-quota", "120MiB"].map(str::to_owned).into(), ..Setup::default() };
        hoard_beside_a_guest(way, &setup, 50);
    }
}

#[test]
fn heavy_what_is_guaranteed_is_not_lent() {
    if !may_become_others() {
        return;
    }
    for way in WAYS {
        let config = format!("[[tenant]]\nuid = {VICTIM}\nquota = \"200MiB\"\nguaranteed = \"120MiB\"\n");
        hoard_beside_a_guest(way, &Setup { config, ..Setup::default() }, 70);
    }
}

/// Whatever is kept after its session counts until it is let go; then all of it is there again.
#[test]
fn what_is_kept_stays_on_the_account() {
    for way in ["kept-staging", "kept-writers", "orphans", "retired"] {
        let agent = Agent::start();
        let mut baseline = agent.baseline();
        let mut hoard = Hoard::default();
        // Twice what there is, in pieces of 8 MiB: an agent that lets it all go does not take the machine with it.
        let most = if way == "orphans" { 5000 } else { 2 * 256 / 8 };
        let (count, refusal) = hoard.take_all(agent.socket(), way, most);
        let stat = baseline.monitor().stat();
        eprintln!("{way}: {count} times, then {refusal:?}; {} MiB in use", stat.memory_bytes >> 20);
        assert!(refusal.is_some(), "{way}: taken {count} times without an end");
        assert!(stat.memory_bytes <= stat.capacity_bytes);
        if way != "orphans" {
            assert!(count <= 256 / 8, "{way}: 8 MiB were had {count} times from 256 MiB");
        }
        drop(hoard);
        baseline.holds();
    }
}

#[test]
fn many_small_writers_cost_no_descriptors() {
    let agent = Agent::start();
    let mut baseline = agent.baseline();
    let before = baseline.monitor().stat().descriptors;
    let mut session = Session::open(agent.socket());
    let namespace = session.namespace("small/writers");
    for n in 0..1000 {
        let (id, fd) = Hoard::create(&mut session.raw, namespace, format!("{n}"), 100).expect("there is room");
        assert_eq!(nix::sys::uio::pwrite(&fd, &[7; 100], 128), Ok(100));
        drop(fd);
        assert_eq!(session.raw.ask(Request::Commit { writer: id }), Reply::Put(PutOutcome::Stored));
    }
    assert!(session.get(namespace, "999").expect("just put").verify());
    let after = baseline.monitor().stat().descriptors;
    assert!(after < before + 100, "{before} descriptors before, {after} after a thousand small writers");
    drop(session);
    baseline.holds();
}

#[test]
fn an_agent_without_descriptors_left() {
    let agent = Agent::with(&Setup { descriptors_max: Some(150), ..Setup::default() });
    let baseline = agent.baseline();
    for _ in 0..3 {
        let mut sessions = Vec::new();
        // More than there can be: some are refused, some not even accepted.
        for _ in 0..250 {
            let raw = Raw::connect(agent.socket());
            let hello = larder_protocol::message::encode_request(&larder_protocol::message::Envelope {
                id: 1,
                timeout_ms: 0,
                request: Request::Hello {
                    layout: larder_protocol::layout::LAYOUT_MAGIC,
                    version: larder_protocol::message::VERSION,
                },
            });
            raw.send_packet(&hello, &[]).expect("the kernel takes it");
            sessions.push(raw);
        }
        // Answered or not, the first ones are.
        for raw in &sessions[..20] {
            assert!(raw.receive().is_some());
        }
        drop(sessions);
        assert!(agent.is_alive());
    }
    baseline.holds();
}

/// Many puts at once that each see room under the quota must not all take it.
#[test]
fn puts_at_the_same_time_stay_under_the_quota() {
    let agent = Agent::with(&Setup { args: ["--tenant-quota", "64MiB"].map(str::to_owned).into(), ..Setup::default() });
    let mut baseline = agent.baseline();
    let mut hoard = Hoard::default();
    hoard.puts_begun(agent.socket(), 0).expect("the sessions are taken");
    let stat = baseline.monitor().stat();
    assert!(
        stat.tenant.segment_bytes <= stat.tenant.quota_bytes,
        "{} MiB of segments under a quota of {} MiB",
        stat.tenant.segment_bytes >> 20,
        stat.tenant.quota_bytes >> 20
    );
    drop(hoard);
    baseline.holds();
}

/// A user without anything left is forgotten, but not while its processes hold what they were lent.
#[test]
fn a_user_that_comes_and_goes_stays_on_the_account() {
    if !may_become_others() {
        return;
    }
    let agent = Agent::start();
    let mut baseline = agent.baseline();
    let before = baseline.monitor().stat().memory_bytes;
    let mut hoarder = Actor::start_as(Some(STRANGER), "hoarder", agent.socket(), "tenants");
    let ready = hoarder.expect("READY");
    let held: u64 = ready.split(' ').next().and_then(|text| text.parse().ok()).expect("bytes");
    let grown = baseline.monitor().stat().memory_bytes.saturating_sub(before);
    assert!(held > 0 && grown >= held, "{held} bytes are held, {grown} are on the account");
    hoarder.kill();
    baseline.allow_others(1);
    baseline.holds();
}
