//! Another process, which does with shared memory what a test asks of it.

use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, Stdio};
use std::time::Duration;
use std::{env, io};

use larder_protocol::layout::life;
use larder_protocol::life::Beacon;
use larder_protocol::memory::{Mapping, Memfd, Platform};
use larder_protocol::socket::{receive, send, wait_readable};
use nix::sys::signal::{Signal, kill};
use nix::sys::socket::{AddressFamily, SockFlag, SockType, socketpair};
use nix::unistd::{ForkResult, Pid, fork};

/// Set for the other process, which finds its socket as standard input.
const SERVE: &str = "LARDER_TEST_SERVE";

/// The test's end.
pub(crate) struct Other {
    child: Child,
    socket: OwnedFd,
}

pub(crate) fn socket_pair() -> (OwnedFd, OwnedFd) {
    socketpair(AddressFamily::Unix, SockType::SeqPacket, None, SockFlag::SOCK_CLOEXEC).unwrap()
}

impl Other {
    pub(crate) fn start() -> Other {
        let (socket, theirs) = socket_pair();
        let child = Command::new(env::current_exe().unwrap())
            .args(["--exact", "other_process::run", "--nocapture", "--test-threads=1"])
            .env(SERVE, "1")
            .stdin(Stdio::from(theirs))
            .stdout(Stdio::null())
            .spawn()
            .unwrap();
        Other { child, socket }
    }

    /// Sends a command and waits until it is done. Returns the descriptors that came back.
    pub(crate) fn ask(&self, command: &str, descriptors: &[BorrowedFd<'_>]) -> Vec<OwnedFd> {
        self.tell(command, descriptors);
        assert!(wait_readable(&self.socket, Some(Duration::from_secs(10))).unwrap(), "no answer to {command}");
        let mut buffer = [0; 64];
        let (len, descriptors) = receive(&self.socket, &mut buffer).unwrap();
        assert_eq!(&buffer[..len], b"done", "answer to {command}");
        descriptors
    }

    /// Sends a command that has no answer.
    pub(crate) fn tell(&self, command: &str, descriptors: &[BorrowedFd<'_>]) {
        send(&self.socket, command.as_bytes(), descriptors).unwrap();
    }

    /// Gives the other process a description of `memfd` and does not keep it.
    pub(crate) fn give(&self, command: &str, memfd: &Memfd) {
        let description = memfd.description(false).unwrap();
        self.ask(command, &[description.as_fd()]);
    }

    pub(crate) fn kill(&mut self) {
        let pid = Pid::from_raw(i32::try_from(self.child.id()).unwrap());
        kill(pid, Signal::SIGKILL).unwrap();
        self.child.wait().unwrap();
    }

    pub(crate) fn wait(&mut self) {
        assert!(self.child.wait().unwrap().success());
    }
}

impl Drop for Other {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// What the other process holds.
#[derive(Default)]
struct Held {
    open: Vec<OwnedFd>,
    mapped: Vec<Mapping>,
    beacon: Option<Beacon>,
}

impl Held {
    fn obey(&mut self, command: &str, mut descriptors: Vec<OwnedFd>) -> io::Result<Option<OwnedFd>> {
        match command {
            "open" => self.open.append(&mut descriptors),
            "map" => self.mapped.push(Mapping::read_only(&descriptors[0], 4096)?),
            "let go" => *self = Held::default(),
            // A child that holds what we hold until the test closes the other end of the socket that came along.
            // SAFETY: the child only reads and exits.
            "fork" => match unsafe { fork() }? {
                ForkResult::Parent { .. } => {}
                ForkResult::Child => {
                    let _ = nix::unistd::read(&descriptors[0], &mut [0]);
                    // SAFETY: ends this process at once, which runs nothing that the fork left half done.
                    unsafe { libc::_exit(0) };
                }
            },
            "beacon" => {
                let beacon = Beacon::light(&Platform::detect(&[])?)?;
                let description = beacon.description()?;
                assert_eq!(nix::sys::stat::fstat(&description)?.st_size, life::BYTES as i64);
                self.beacon = Some(beacon);
                return Ok(Some(description));
            }
            "rest" => {}
            "exit" => std::process::exit(0),
            // Ends when the test closes its end of our socket.
            "exec" => return Err(Command::new("cat").exec()),
            other => panic!("unknown command {other:?}"),
        }
        Ok(None)
    }
}

/// Not a test of its own: what the other process does. Without the variable there is nothing to serve.
#[test]
fn run() {
    if env::var_os(SERVE).is_none() {
        return;
    }
    let socket = io::stdin();
    let mut held = Held::default();
    let mut buffer = [0; 64];
    loop {
        let (len, descriptors) = receive(&socket, &mut buffer).unwrap();
        if len == 0 {
            return;
        }
        let answer = held.obey(str::from_utf8(&buffer[..len]).unwrap(), descriptors).unwrap();
        let back: Vec<BorrowedFd<'_>> = answer.iter().map(AsFd::as_fd).collect();
        assert_eq!(socket.as_raw_fd(), 0);
        send(&socket, b"done", &back).unwrap();
    }
}
