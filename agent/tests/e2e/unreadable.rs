//! What of Larder's memory can leak into core dumps or be read from outside: nothing.

use std::fs::{self, Permissions};
use std::os::unix::fs::{PermissionsExt, chown};
use std::path::Path;
use std::process::Stdio;

use larder::{Client, OnAbsent};

use crate::harness::{Agent, eventually, is_root};
use crate::pattern::put;
use crate::proc;
use crate::puppet::Puppet;
use crate::roles;

/// What would tell about an agent's memory, or hold it.
const FILES: [&str; 5] = ["maps", "smaps", "environ", "mem", "auxv"];

#[track_caller]
fn assert_left_out_of_dumps(pid: nix::unistd::Pid, at_least: usize) {
    let maps = proc::larder_maps(pid);
    assert!(maps.len() >= at_least, "{maps:#?}");
    for map in maps {
        assert!(map.flags.iter().any(|flag| flag == "dd"), "{map:?} would be in a core dump");
    }
}

#[test]
fn no_map_of_larder_s_memory_is_dumped() {
    let agent = Agent::small();
    let mut puppet = Puppet::start(&agent);
    puppet.does("put t short 1000", "Stored");
    puppet.does("put t long 3000000", "Stored");
    puppet.does("get t short", "1000");
    puppet.does("get t long", "3000000");
    puppet.does("create t written 3000000", "created");
    // Life, control, slots, staging, table, two segments, a writer's memory.
    assert_left_out_of_dumps(puppet.pid(), 8);
    if is_root() {
        // The same; others may not even look.
        assert_left_out_of_dumps(agent.pid(), 7);
    }
    let child = puppet.fork();
    assert_left_out_of_dumps(child.pid(), 8);
}

#[test]
fn clients_have_the_region_mapped_for_reading_only() {
    let agent = Agent::small();
    let mut puppet = Puppet::start(&agent);
    puppet.does("put t k 1000", "Stored");
    puppet.does("get t k", "1000");
    for map in proc::larder_maps(puppet.pid()) {
        let writable = map.line.split_whitespace().nth(1).is_some_and(|mode| mode.contains('w'));
        let own = ["larder-slots", "larder-staging"].iter().any(|name| map.line.contains(name));
        assert_eq!(writable, own, "{}", map.line);
        assert!(!map.flags.iter().any(|flag| flag == "mw") || own, "{map:?} can be made writable");
    }
}

#[test]
fn the_agent_s_memory_cannot_be_read_even_by_its_own_user() {
    const USER: u32 = 65_534;
    if !is_root() {
        // Agent and test are one user already.
        let agent = Agent::small();
        for file in FILES {
            assert!(fs::read(format!("/proc/{}/{file}", agent.pid())).is_err(), "{file} of the agent");
        }
        return;
    }
    let directory = tempfile::tempdir().unwrap();
    chown(directory.path(), Some(USER), Some(USER)).unwrap();
    // The build directory may be closed to that user.
    let program = directory.path().join("larderd");
    fs::copy(env!("CARGO_BIN_EXE_larderd"), &program).unwrap();
    fs::set_permissions(&program, Permissions::from_mode(0o755)).unwrap();
    let socket = directory.path().join("larder.sock");
    let arguments = ["--capacity", "64MiB", "--socket", socket.to_str().expect("a path of our own")];
    let mut agent = roles::command_as(USER, &program, &arguments).stderr(Stdio::null()).spawn().unwrap();
    let client = eventually("the agent answers", || {
        assert!(agent.try_wait().unwrap().is_none(), "the agent ended");
        Client::builder().socket(&socket).on_absent(OnAbsent::Error).agent_uid(USER).connect().ok()
    });
    put(&client.namespace("t").unwrap(), "k", 1000).unwrap();
    let as_user = |file: &str| {
        let mut cat = roles::command_as(USER, Path::new("/bin/cat"), &[file]);
        cat.stderr(Stdio::null()).status().unwrap().success()
    };
    for file in FILES {
        assert!(!as_user(&format!("/proc/{}/{file}", agent.id())), "{file} of the agent");
    }
    assert!(as_user(&format!("/proc/{}/status", agent.id())) && as_user("/proc/self/maps"), "others can be read");
    agent.kill().unwrap();
    agent.wait().unwrap();
}
