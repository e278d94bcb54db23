//! Another process that does what a test tells it, one line at a time.
//!
//! The test holds one end of a socket whose other end is the puppet's standard input, so a puppet can close every other
//! descriptor that it has. A line is a command with its words, the reply is one line too. [`Stage`] has the commands.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Write};
use std::os::fd::OwnedFd;
use std::os::unix::net::{UnixListener, UnixStream};
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus};
use std::time::Duration;

use larder::{Block, Client, Error, Namespace, OnAbsent, Writer};
use nix::sys::signal::{Signal, kill};
use nix::sys::wait::waitpid;
use nix::unistd::{ForkResult, Pid};

use crate::harness::{Agent, PATIENCE, eventually};
use crate::{pattern, roles};

mod spin;

/// The test's end of a puppet. Killed by its process id when dropped.
pub(crate) struct Puppet {
    pid: Pid,
    strings: UnixStream,
    /// `None` for one that another puppet forked.
    child: Option<Child>,
    directory: PathBuf,
}

impl Puppet {
    pub(crate) fn start(agent: &Agent) -> Puppet {
        let (ours, theirs) = UnixStream::pair().expect("two more descriptors");
        ours.set_read_timeout(Some(PATIENCE)).expect("a timeout that is not zero");
        let child =
            roles::command("puppet", &agent.socket()).stdin(OwnedFd::from(theirs)).spawn().expect("this program runs");
        Puppet {
            pid: Pid::from_raw(i32::try_from(child.id()).expect("process ids are positive")),
            strings: ours,
            child: Some(child),
            directory: agent.directory().to_owned(),
        }
    }

    pub(crate) fn pid(&self) -> Pid {
        self.pid
    }

    /// Has the puppet do something and returns what it says to that.
    #[track_caller]
    pub(crate) fn ask(&mut self, line: &str) -> String {
        self.tell(line);
        self.hear(line)
    }

    /// Has the puppet do something to which it must say `expected`.
    #[track_caller]
    pub(crate) fn does(&mut self, line: &str, expected: &str) {
        assert_eq!(self.ask(line), expected, "to {line:?}");
    }

    /// Tells the puppet something without waiting for what it says.
    #[track_caller]
    pub(crate) fn tell(&mut self, line: &str) {
        writeln!(self.strings, "{line}").expect("the puppet is there");
    }

    /// The reply to what it was told.
    #[track_caller]
    pub(crate) fn hear(&mut self, told: &str) -> String {
        let mut reply = String::new();
        match BufReader::new(&self.strings).read_line(&mut reply) {
            Ok(len) if len > 0 => reply.trim_end().to_owned(),
            other => panic!("puppet {} did not reply to {told:?}: {other:?}", self.pid),
        }
    }

    /// Has the puppet fork. The child has the same blocks, and a string of its own.
    #[track_caller]
    pub(crate) fn fork(&mut self) -> Puppet {
        // So that children of a puppet that ends become ours and their process ids stay theirs until we are done.
        nix::sys::prctl::set_child_subreaper(true).expect("Linux 3.4");
        let place = tempfile::tempdir_in(&self.directory).expect("there is room for a directory");
        let path = place.path().join("strings");
        let listener = UnixListener::bind(&path).expect("a path of our own");
        listener.set_nonblocking(true).expect("a socket");
        let reply = self.ask(&format!("fork {}", path.display()));
        let pid = reply.parse().unwrap_or_else(|error| panic!("{error} in {reply:?}"));
        let strings = eventually("the child of a fork connects", || listener.accept().ok()).0;
        strings.set_nonblocking(false).expect("a socket");
        strings.set_read_timeout(Some(PATIENCE)).expect("a timeout that is not zero");
        Puppet { pid: Pid::from_raw(pid), strings, child: None, directory: self.directory.clone() }
    }

    pub(crate) fn signal(&self, signal: Signal) {
        kill(self.pid, signal).expect("the puppet is there");
    }

    /// Waits for the end of a puppet that the test started.
    #[track_caller]
    pub(crate) fn wait(&mut self) -> ExitStatus {
        let child = self.child.as_mut().expect("not one that another puppet forked");
        eventually("a puppet ends", || child.try_wait().expect("a child can be waited for"))
    }

    /// Has a puppet that the test started end in good order.
    #[track_caller]
    pub(crate) fn end(mut self) {
        self.tell("exit");
        let status = self.wait();
        assert!(status.success(), "a puppet ended with {status}");
    }
}

impl Drop for Puppet {
    fn drop(&mut self) {
        let is_over = |child: &mut Child| child.try_wait().is_ok_and(|status| status.is_some());
        if !self.child.as_mut().is_some_and(is_over) {
            let _ = kill(self.pid, Signal::SIGKILL);
        }
        // Fails for a child of another puppet that is still there; that one's end brings it to us.
        let _ = waitpid(self.pid, None);
    }
}

/// What a puppet has.
struct Stage {
    client: Option<Client>,
    namespaces: BTreeMap<String, Namespace>,
    views: BTreeMap<String, Block>,
    writer: Option<Writer>,
    spinning: Option<spin::Spinning>,
}

/// Plays a puppet until the test's end of the string is gone.
pub(crate) fn play() {
    let mut stage =
        Stage { client: None, namespaces: BTreeMap::new(), views: BTreeMap::new(), writer: None, spinning: None };
    stage.serve();
}

/// Reads a line from standard input, with no lock and no buffer that a fork could catch in the middle.
fn read_line() -> Option<String> {
    let mut line = Vec::new();
    let mut byte = [0];
    loop {
        match nix::unistd::read(std::io::stdin(), &mut byte) {
            Ok(1) if byte == *b"\n" => return String::from_utf8(line).ok(),
            Ok(1) => line.extend(byte),
            Err(nix::errno::Errno::EINTR) => {}
            Ok(_) | Err(_) => return None,
        }
    }
}

fn say(reply: &str) {
    // The test may be gone already; the next read will tell.
    let _ = nix::unistd::write(std::io::stdin(), format!("{reply}\n").as_bytes());
}

fn outcome<T: std::fmt::Debug>(result: Result<T, Error>) -> String {
    match result {
        Ok(value) => format!("{value:?}"),
        Err(error) => format!("{error:?}"),
    }
}

impl Stage {
    fn serve(&mut self) {
        while let Some(line) = read_line() {
            let words: Vec<&str> = line.split(' ').collect();
            match words[..] {
                ["exit"] => break,
                ["fork", path] => self.fork(path),
                _ => say(&self.act(&words)),
            }
        }
        // Views and sessions go with the process, not one by one.
        std::process::exit(0);
    }

    fn cache(&mut self, name: &str) -> Result<Namespace, Error> {
        if let Some(cache) = self.namespaces.get(name) {
            return Ok(cache.clone());
        }
        if self.client.is_none() {
            let builder = Client::builder().socket(roles::socket()).on_absent(OnAbsent::Error);
            self.client = Some(builder.connect()?);
        }
        let client = self.client.as_ref().expect("made just now");
        let cache = client.namespace(name)?;
        self.namespaces.insert(name.to_owned(), cache.clone());
        Ok(cache)
    }

    fn act(&mut self, words: &[&str]) -> String {
        let number = |text: &str| text.parse::<usize>().expect("a number");
        match *words {
            // Puts the block of a key.
            ["put", cache, key, len] => {
                outcome(self.cache(cache).and_then(|cache| pattern::put(&cache, key, number(len))))
            }
            // Gets a block and holds it.
            ["get", cache, key] => {
                let got = self.cache(cache).and_then(|cache| cache.get(key));
                self.hold(key, got)
            }
            ["wait", cache, key, milliseconds] => {
                let patience = Duration::from_millis(number(milliseconds) as u64);
                let got = self.cache(cache).and_then(|cache| cache.wait(key, patience));
                self.hold(key, got)
            }
            // Gets a block, looks at it and lets it go.
            ["look", cache, key] => match self.cache(cache).and_then(|cache| cache.get(key)) {
                Ok(block) => pattern::fault(key, &block).unwrap_or_else(|| "whole".into()),
                Err(error) => format!("{error:?}"),
            },
            // Begins to write the block of a key in place; ends that; writes nonsense where it was written.
            ["create", cache, key, len] => match self.cache(cache).and_then(|cache| cache.create(key, number(len))) {
                Ok(mut writer) => {
                    pattern::fill(key, writer.as_mut_slice());
                    self.writer = Some(writer);
                    "created".into()
                }
                Err(error) => format!("{error:?}"),
            },
            ["commit"] => {
                self.writer.take().map_or_else(|| "nothing is written".into(), |writer| outcome(writer.commit()))
            }
            ["scribble"] => self.writer.as_mut().map_or_else(
                || "nothing is written".into(),
                |writer| {
                    writer.as_mut_slice().fill(0xee);
                    "scribbled".into()
                },
            ),
            ["delete", cache, key] => outcome(self.cache(cache).and_then(|cache| cache.delete(key))),
            ["clear", cache] => outcome(self.cache(cache).and_then(|cache| cache.clear())),
            // Checks every byte of all that is held.
            ["check"] => {
                let faults = self.views.iter().find_map(|(key, block)| pattern::fault(key, block));
                faults.unwrap_or_else(|| format!("{} whole", self.views.len()))
            }
            ["drop", key] => format!("{}", self.views.remove(key).is_some()),
            // Closes what closefrom(3) would.
            ["close"] => {
                let last = nix::sys::resource::getrlimit(nix::sys::resource::Resource::RLIMIT_NOFILE);
                let last = last.map_or(65_536, |(soft, _)| soft.min(65_536));
                for descriptor in 3..i32::try_from(last).expect("at most 65,536") {
                    let _ = nix::unistd::close(descriptor);
                }
                "closed".into()
            }
            // Becomes another program, which does not reply.
            ["exec", program] => format!("{}", Command::new(program).exec()),
            ["spin", cache, threads] => match self.cache(cache) {
                Ok(cache) => {
                    self.spinning = Some(spin::Spinning::start(&cache, number(threads)));
                    "spinning".into()
                }
                Err(error) => format!("{error:?}"),
            },
            ["unspin"] => self.spinning.take().map_or_else(|| "nothing spins".into(), spin::Spinning::stop),
            ["forks", cache, times] => match self.cache(cache) {
                Ok(cache) => spin::fork_often(&cache, &self.views, number(times)),
                Err(error) => format!("{error:?}"),
            },
            _ => format!("a puppet cannot {words:?}"),
        }
    }

    fn hold(&mut self, key: &str, got: Result<Block, Error>) -> String {
        match got {
            Ok(block) => {
                let len = block.len();
                self.views.insert(key.to_owned(), block);
                len.to_string()
            }
            Err(error) => format!("{error:?}"),
        }
    }

    fn fork(&mut self, path: &str) {
        match roles::fork() {
            ForkResult::Parent { child } => say(&child.to_string()),
            ForkResult::Child => {
                let string = UnixStream::connect(path).expect("the test listens");
                nix::unistd::dup2_stdin(&string).expect("standard input can be replaced");
                drop(string);
                self.serve();
            }
        }
    }
}
