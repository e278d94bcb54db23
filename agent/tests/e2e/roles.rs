//! This program again, as another process.
//!
//! A child runs the one test below, which plays the role that its environment names and never returns from it.

use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use nix::unistd::{ForkResult, Gid, Uid, setgid, setgroups, setuid};

use crate::{churn, errors, hits, large, puppet};

const ROLE: &str = "LARDER_E2E_ROLE";
const SOCKET: &str = "LARDER_E2E_SOCKET";
const UID: &str = "LARDER_E2E_UID";
const ARGUMENTS: &str = "LARDER_E2E_ARGUMENTS";

/// Another process that will play `role`, told of an agent's socket.
pub(crate) fn command(role: &str, socket: &Path) -> Command {
    let mut command = Command::new("/proc/self/exe");
    for name in ["LARDER_SOCKET", "LARDER_NAMESPACE", "LARDER_ON_ABSENT", "LARDER_AGENT_UID"] {
        command.env_remove(name);
    }
    command
        .args(["roles::role_of_a_child_process", "--exact", "--nocapture", "--test-threads=1"])
        .env(ROLE, role)
        .env(SOCKET, socket)
        .stdin(Stdio::null())
        .stdout(Stdio::null());
    command
}

/// A program that runs as another user. The change is made in the child: the standard library would fork to make it, and
/// a fork freezes every session of this process.
pub(crate) fn command_as(uid: u32, program: &Path, arguments: &[&str]) -> Command {
    let mut command = command("launcher", program);
    command.env(UID, uid.to_string()).env(ARGUMENTS, arguments.join("\n"));
    command
}

/// Becomes the program that the parent wants to be run as another user.
fn launch() {
    let text = |name| std::env::var(name).expect("the parent says who is to run what");
    let uid = text(UID).parse().expect("a number");
    setgroups(&[]).expect("root may leave its groups");
    setgid(Gid::from_raw(uid)).expect("root may become another group");
    setuid(Uid::from_raw(uid)).expect("root may become another user");
    let mut command = Command::new(socket());
    command.args(text(ARGUMENTS).lines()).current_dir("/");
    panic!("exec failed: {}", command.exec());
}

/// The socket that this process was told of.
pub(crate) fn socket() -> PathBuf {
    std::env::var_os(SOCKET).expect("a role is told of a socket").into()
}

#[test]
fn role_of_a_child_process() {
    let Ok(role) = std::env::var(ROLE) else { return };
    match role.as_str() {
        "puppet" => puppet::play(),
        "absent" => errors::absent(),
        "impostor" => errors::impostor(),
        "reader" => hits::reader(),
        "verifier" => large::verifier(),
        "launcher" => launch(),
        "churner" => churn::worker::play(),
        other => panic!("there is no role {other:?}"),
    }
    std::process::exit(0);
}

/// Forks this process. The child must end by [`std::process::exit`], never by returning to the test runner.
pub(crate) fn fork() -> ForkResult {
    // SAFETY: other threads may be anywhere at this moment, so the child must not wait for a lock that one of them holds.
    // It allocates, for which glibc makes its locks usable in a child; it uses the client library, which promises to work
    // in a child and is here put to the test; and it reads and writes descriptors without the standard library's locks.
    let forked = unsafe { nix::unistd::fork() };
    forked.expect("there is room for another process")
}
