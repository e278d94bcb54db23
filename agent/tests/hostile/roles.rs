//! This binary again, as another process or another user.
//!
//! A child runs the one test below, which plays the role that its environment names. It is started without a fork of
//! ours (the standard library spawns it): a fork would freeze every session of this process. So the change of user
//! happens in the child, which then executes itself once more, to be an ordinary process of that user.

use std::ffi::{OsStr, OsString};
use std::io::{BufRead, Read, Write};
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use nix::sys::resource::{Resource, setrlimit};
use nix::sys::signal::Signal;
use nix::unistd::{Gid, Pid, Uid, setgid, setgroups, setuid};

use crate::harness::{BOUND, Process, readable};
use crate::{death, guests, hoard, kills, users};

const ROLE: &str = "LARDER_HOSTILE_ROLE";
const SOCKET: &str = "LARDER_HOSTILE_SOCKET";
const ARGUMENT: &str = "LARDER_HOSTILE_ARGUMENT";
const BECOME_UID: &str = "LARDER_HOSTILE_UID";
const BECOME_DESCRIPTORS: &str = "LARDER_HOSTILE_DESCRIPTORS";
const LAUNCH: &str = "LARDER_HOSTILE_LAUNCH";
const LAUNCH_ARGUMENTS: &str = "LARDER_HOSTILE_LAUNCH_ARGUMENTS";
/// What a child's own lines begin with, among those of the test runner.
const MARK: &str = "@@";
/// Between arguments that travel in one variable.
const SEPARATOR: &str = "\u{1f}";

/// A user that owns nothing here, and another.
pub(crate) const STRANGER: u32 = 65534;
pub(crate) const VICTIM: u32 = 12345;

/// What a child knows.
#[derive(Debug)]
pub(crate) struct Part {
    pub(crate) socket: PathBuf,
    pub(crate) argument: String,
}

impl Part {
    /// Tells the parent something.
    pub(crate) fn say(&self, tag: &str, text: impl std::fmt::Display) {
        writeln!(std::io::stdout(), "{MARK}{tag} {text}").expect("the parent listens");
    }

    /// The parent's next line; `None` when it has none more.
    pub(crate) fn hear(&self) -> Option<String> {
        let mut line = String::new();
        let len = std::io::stdin().lock().read_line(&mut line).expect("standard input is a pipe");
        (len > 0).then(|| line.trim_end().to_owned())
    }

    /// Stays until the parent lets go.
    pub(crate) fn stay(&self) {
        while self.hear().is_some() {}
    }
}

#[test]
fn role_of_a_child_process() {
    let Ok(role) = std::env::var(ROLE) else { return };
    become_another();
    let text = |name| std::env::var(name).unwrap_or_default();
    let part = Part { socket: text(SOCKET).into(), argument: text(ARGUMENT) };
    match role.as_str() {
        "launch" => unreachable!("a launcher has become what it launches"),
        "pinner" => death::pinner(&part),
        "forker" => death::forker(&part),
        "churner" => kills::churner(&part),
        "keeper" => users::keeper(&part),
        "stranger" => users::stranger(&part),
        "intruder" => users::intruder(&part),
        "resizer" => users::resizer(&part),
        "hoarder" => hoard::hoarder(&part),
        "guest" => guests::guest(&part),
        other => panic!("no role {other:?}"),
    }
    part.say("END", role);
}

/// Takes on the user and the limits that were asked for, and executes what is to run as that.
fn become_another() {
    let number = |name| -> Option<u64> { std::env::var(name).ok().map(|text| text.parse().expect("a number")) };
    let (uid, descriptors) = (number(BECOME_UID), number(BECOME_DESCRIPTORS));
    let launch = std::env::var_os(LAUNCH);
    if uid.is_none() && launch.is_none() {
        return;
    }
    // Opened before the user changes, who may not pass through the build directory.
    let program = std::fs::File::open(launch.as_deref().unwrap_or(OsStr::new("/proc/self/exe"))).expect("a program");
    if let Some(most) = descriptors {
        setrlimit(Resource::RLIMIT_NOFILE, most, most).expect("a limit can be lowered");
    }
    if let Some(uid) = uid {
        let uid = u32::try_from(uid).expect("a user");
        setgroups(&[]).expect("root may leave its groups");
        setgid(Gid::from_raw(uid)).expect("root may become another group");
        setuid(Uid::from_raw(uid)).expect("root may become another user");
    }
    let mut command = Command::new(format!("/proc/self/fd/{}", program.as_raw_fd()));
    if launch.is_some() {
        let arguments = std::env::var(LAUNCH_ARGUMENTS).unwrap_or_default();
        command.args(arguments.split(SEPARATOR));
        command.env_remove(ROLE);
    } else {
        command.args(runner_arguments());
    }
    for name in [BECOME_UID, BECOME_DESCRIPTORS, LAUNCH, LAUNCH_ARGUMENTS] {
        command.env_remove(name);
    }
    panic!("exec failed: {}", command.exec());
}

fn runner_arguments() -> [&'static str; 4] {
    ["roles::role_of_a_child_process", "--exact", "--nocapture", "--test-threads=1"]
}

/// A command that becomes `program` as another user or under another limit, and keeps its process id.
pub(crate) fn launcher(
    program: &str,
    arguments: &[OsString],
    uid: Option<u32>,
    descriptors_max: Option<u64>,
) -> Command {
    let mut command = Command::new("/proc/self/exe");
    command.args(runner_arguments()).env(ROLE, "launch").env(LAUNCH, program);
    command.env(LAUNCH_ARGUMENTS, arguments.join(OsStr::new(SEPARATOR)));
    if let Some(uid) = uid {
        command.env(BECOME_UID, uid.to_string());
    }
    if let Some(most) = descriptors_max {
        command.env(BECOME_DESCRIPTORS, most.to_string());
    }
    command
}

/// Starts a program that does nothing but inherit, and ends when standard input does. It outlives this process, whose
/// parent ends it.
#[expect(clippy::zombie_processes, reason = "the caller ends before it")]
pub(crate) fn spawn_cat() -> Pid {
    let cat = Command::new("cat").spawn().expect("cat is everywhere");
    Pid::from_raw(i32::try_from(cat.id()).expect("process ids are positive"))
}

/// A child that plays a role.
#[derive(Debug)]
pub(crate) struct Actor {
    role: String,
    process: Process,
    heard: Vec<u8>,
}

impl Actor {
    /// Starts a role as this user.
    pub(crate) fn start(role: &str, socket: &Path, argument: &str) -> Actor {
        Actor::start_as(None, role, socket, argument)
    }

    /// Starts a role, as another user if given.
    pub(crate) fn start_as(uid: Option<u32>, role: &str, socket: &Path, argument: &str) -> Actor {
        let mut command = Command::new("/proc/self/exe");
        command
            .args(runner_arguments())
            .env(ROLE, role)
            .env(SOCKET, socket)
            .env(ARGUMENT, argument)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped());
        if let Some(uid) = uid {
            command.env(BECOME_UID, uid.to_string());
        }
        Actor {
            role: role.to_owned(),
            process: Process::new(command.spawn().expect("this binary runs")),
            heard: Vec::new(),
        }
    }

    pub(crate) fn process(&mut self) -> &mut Process {
        &mut self.process
    }

    /// Waits for the child to say `tag`, and returns the rest of that line.
    #[track_caller]
    pub(crate) fn expect(&mut self, tag: &str) -> String {
        let wanted = format!("{MARK}{tag} ");
        loop {
            if let Some(end) = self.heard.iter().position(|byte| *byte == b'\n') {
                let line: Vec<u8> = self.heard.drain(..=end).collect();
                let line = String::from_utf8_lossy(&line);
                // The runner prints the test's name first, without ending the line.
                if let Some((_, rest)) = line.split_once(&wanted) {
                    return rest.trim_end().to_owned();
                }
                continue;
            }
            let role = &self.role;
            let stdout = self.process.child().stdout.as_mut().expect("a pipe");
            assert!(readable(stdout.as_fd(), BOUND), "the {role} said nothing about {tag} for {BOUND:?}");
            let mut piece = [0; 4096];
            let len = stdout.read(&mut piece).expect("a pipe can be read");
            assert!(len > 0, "the {role} ended before it said {tag}; what it printed is above");
            self.heard.extend_from_slice(&piece[..len]);
        }
    }

    /// Tells the child something.
    #[track_caller]
    pub(crate) fn tell(&mut self, line: &str) {
        let stdin = self.process.child().stdin.as_mut().expect("a pipe");
        writeln!(stdin, "{line}").expect("the child listens");
    }

    /// Lets the child come to its end, which must be a good one.
    #[track_caller]
    pub(crate) fn finish(mut self) {
        drop(self.process.child().stdin.take());
        self.expect("END");
        let status = self.process.wait();
        assert!(status.success(), "the {} ended with {status}", self.role);
    }

    /// Kills the child and waits for its end.
    pub(crate) fn kill(mut self) {
        self.process.signal(Signal::SIGKILL);
        self.process.wait();
    }
}
