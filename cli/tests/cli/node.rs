//! ping, stat, pins, resize, and how the command ends without an agent.

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;

use serde_json::json;

use crate::harness::{Agent, Run, check_fields, larder};

#[test]
fn without_an_agent_every_verb_says_so() {
    let directory = tempfile::tempdir().unwrap();
    let socket = directory.path().join("larder.sock");
    for args in [&["ping"][..], &["stat"], &["pins"], &["resize", "1GiB"], &["get", "t", "a"], &["ns", "ls"]] {
        for on_absent in ["error", "direct"] {
            let mut command = larder();
            command.arg("--socket").arg(&socket).args(args).env("LARDER_ON_ABSENT", on_absent);
            Run::of(command.output().unwrap()).fails(4, "no agent answers at");
        }
    }
}

#[test]
fn the_agent_says_who_it_is() {
    let Some(agent) = Agent::start("64MiB") else { return };
    let document = agent.run(["ping", "--json"]).json();
    check_fields(&document, "release pid instance capacity_bytes block_len_max_bytes uid exchange_ns");
    assert_eq!(document["pid"], agent.pid());
    assert_eq!(document["capacity_bytes"], 64 << 20);
    assert!(agent.run(["ping"]).text().starts_with("larderd "));
}

#[test]
fn figures_have_their_documented_names() {
    let Some(agent) = Agent::start("64MiB") else { return };
    agent.put("a", b"bytes");
    agent.run(["get", "t", "a"]).text();
    let document = agent.run(["stat", "--json"]).json();
    check_fields(
        &document,
        "uptime_s capacity_bytes memory_bytes retired_bytes spare_bytes index_bytes heap_bytes sessions orphans
         descriptors tenant.uid tenant.quota_bytes tenant.segment_bytes tenant.segments tenant.blocks
         tenant.payload_bytes tenant.index_capacity tenant.limbo_blocks tenant.pinned_bytes tenant.hits_mapped
         tenant.hit_bytes tenant.hits_asked tenant.misses tenant.asked.absent tenant.asked.raced
         tenant.asked.unmapped tenant.asked.expired tenant.asked.no_slot tenant.puts tenant.put_bytes
         tenant.evictions tenant.expirations store_under_way \
         tenant.loads tenant.load_bytes tenant.stored tenant.stored_bytes tenant.store_damaged tenant.store_failures \
         tenant.dirty_blocks tenant.dirty_bytes tenant.put_waits \
         tenant.disk_loads tenant.disk_load_bytes disk.capacity_bytes disk.used_bytes disk.blocks disk.writes \
         disk.write_bytes disk.not_admitted disk.evictions disk.damaged disk.failures disk.under_way \
         tenant.fetches tenant.fetch_bytes tenant.fetch_copies tenant.fetch_failures",
    );
    let tenant = &document["tenant"];
    assert_eq!((&tenant["blocks"], &tenant["payload_bytes"], &tenant["puts"]), (&json!(1), &json!(5), &json!(1)));
    let text = agent.run(["stat"]).text();
    assert!(text.contains("hits, mapped") && text.lines().all(|line| line.chars().count() <= 100), "{text}");
}

#[test]
fn the_capacity_is_changed() {
    let Some(agent) = Agent::start("64MiB") else { return };
    assert_eq!(agent.run(["resize", "96MiB", "--json"]).json(), json!({ "capacity_bytes": 96 << 20 }));
    assert_eq!(agent.run(["stat", "--json"]).json()["capacity_bytes"], 96 << 20);
    agent.run(["resize", "1MiB"]).fails(1, "too small");
}

#[test]
fn nobody_has_pins_when_nobody_reads() {
    let Some(agent) = Agent::start("64MiB") else { return };
    assert_eq!(agent.run(["pins", "--json"]).json(), json!({ "holders": [] }));
    assert_eq!(agent.run(["pins"]).text(), "no process has a block pinned\n");
}

#[test]
fn only_the_owner_of_the_agent_resizes_it() {
    if !nix::unistd::geteuid().is_root() {
        println!("SKIPPED: acting as another user needs root");
        return;
    }
    let Some(agent) = Agent::start("64MiB") else { return };
    // The other user must reach the socket and the program.
    fs::set_permissions(agent.directory(), Permissions::from_mode(0o755)).unwrap();
    let program = agent.directory().join("larder");
    fs::copy(env!("CARGO_BIN_EXE_larder"), &program).unwrap();
    let mut command = std::process::Command::new(program);
    command.env("LARDER_SOCKET", agent.socket()).args(["resize", "96MiB"]).uid(65_534).gid(65_534);
    Run::of(command.output().unwrap()).fails(7, "only root and the agent's own user");
}

#[test]
fn help_is_short_and_the_version_known() {
    let help = Run::of(larder().arg("help").output().unwrap()).text();
    assert!(help.lines().count() < 60 && help.contains("Namespaces:") && !help.contains("demo-process"), "{help}");
    let version = Run::of(larder().arg("--version").output().unwrap()).text();
    assert_eq!(version, format!("larder {}\n", env!("CARGO_PKG_VERSION")));
    assert_eq!(larder().arg("nonsense").output().unwrap().status.code(), Some(2));
    assert_eq!(larder().output().unwrap().status.code(), Some(2));
}
