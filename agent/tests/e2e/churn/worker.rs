//! A client that does everything a client can do, in an order that its seed decides, and checks every byte it reads.

use std::collections::VecDeque;
use std::io::Write;
use std::os::unix::process::CommandExt;
use std::process::Command;
use std::time::{Duration, Instant};

use larder::{Block, Client, Error, Namespace, NamespaceOptions, OnAbsent, PutOutcome};
use nix::errno::Errno;
use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::{ForkResult, Pid};

use crate::pattern::{self, Random};
use crate::roles;

pub(crate) const SEED: &str = "LARDER_E2E_SEED";
pub(crate) const FAULTS: &str = "LARDER_E2E_FAULTS";

/// Orders that a worker hears: fork, become this program anew, become one that ends at once.
pub(crate) const FORK: u8 = b'f';
pub(crate) const EXEC: u8 = b'e';
pub(crate) const END_BY_EXEC: u8 = b't';

const KEYS: usize = 1_500;
const HELD_MAX: usize = 40;
/// Tiny blocks that make an index grow.
const TINY: usize = 5_000;
/// How long a forked child lives at most.
const CHILD_MS: usize = 1_500;

/// Namespaces of every kind, by name.
const ONCE: &str = "churn/once";
const OVER: &str = "churn/over";
const BRIEF: &str = "churn/brief";
const BOUNDED: &str = "churn/bounded";
const TINIES: &str = "churn/tiny";

/// Makes the namespaces before the first worker opens one.
pub(crate) fn make_namespaces(client: &Client) {
    let default = NamespaceOptions::default;
    let kinds = [
        (ONCE, default()),
        (OVER, NamespaceOptions { overwrite: true, ..default() }),
        (BRIEF, NamespaceOptions { ttl_ms: Some(60), ..default() }),
        (BOUNDED, NamespaceOptions { quota_bytes: Some(2 << 20), ..default() }),
        (TINIES, default()),
    ];
    for (name, options) in kinds {
        client.create_namespace(name, &options).expect("a new namespace");
    }
}

/// Something is wrong: notes it where the test looks, and ends.
fn fail(what: &str) -> ! {
    let path = std::env::var_os(FAULTS).expect("a place for faults");
    let file = std::fs::File::options().append(true).open(path);
    let _ = file.and_then(|mut file| writeln!(file, "process {}: {what}", std::process::id()));
    std::process::exit(3);
}

fn check(key: &str, block: &Block) {
    if let Some(fault) = pattern::fault(key, block) {
        fail(&fault);
    }
}

/// How long the block of a key is, where each key has one length.
fn len_of(n: usize) -> usize {
    let mut random = Random::new(n as u64);
    match random.below(50) {
        0 => 0,
        1 => 600_000 + random.below(1_000_000),
        2..=9 => random.below(200_000),
        _ => random.below(20_000),
    }
}

struct Worker {
    random: Random,
    once: Namespace,
    over: Namespace,
    brief: Namespace,
    bounded: Namespace,
    tinies: Namespace,
    held: VecDeque<(String, Block)>,
    children: Vec<Pid>,
    /// For a forked child: when it ends.
    until: Option<Instant>,
}

/// Plays a worker until the test's end of its standard input is closed.
pub(crate) fn play() {
    let seed = std::env::var(SEED).ok().and_then(|seed| seed.parse().ok()).expect("a number");
    fcntl(std::io::stdin(), FcntlArg::F_SETFL(OFlag::O_NONBLOCK)).expect("a socket");
    let client = connect();
    let [once, over, brief, bounded, tinies] = [ONCE, OVER, BRIEF, BOUNDED, TINIES]
        .map(|name| client.namespace(name).unwrap_or_else(|error| fail(&format!("{name}: {error:?}"))));
    // One thread more, so that forks find another anywhere in the library.
    let (also, mut random) = (once.clone(), Random::new(seed + 1));
    std::thread::spawn(move || {
        let mut held = VecDeque::new();
        loop {
            read(&also, random.below(KEYS), &mut held);
            if held.len() > 5
                && let Some((key, block)) = held.pop_front()
            {
                check(&key, &block);
            }
        }
    });
    let mut worker = Worker {
        random: Random::new(seed),
        once,
        over,
        brief,
        bounded,
        tinies,
        held: VecDeque::new(),
        children: Vec::new(),
        until: None,
    };
    worker.run();
}

/// Connects as soon as there is room for another session: where readers hold something of each segment there may be none.
fn connect() -> Client {
    loop {
        match Client::builder().socket(roles::socket()).on_absent(OnAbsent::Error).connect() {
            Ok(client) => return client,
            Err(Error::NoSpace { .. }) => std::thread::sleep(Duration::from_millis(5)),
            Err(error) => fail(&format!("connect: {error:?}")),
        }
        // Orders are for later, but the end is the end.
        if nix::unistd::read(std::io::stdin(), &mut [0]) == Ok(0) {
            std::process::exit(0);
        }
    }
}

/// Gets a block of the namespace whose keys have one length each, checks it and holds it.
fn read(cache: &Namespace, n: usize, held: &mut VecDeque<(String, Block)>) {
    let key = format!("k/{n}");
    match cache.get(&key) {
        Ok(block) => {
            check(&key, &block);
            held.push_back((key, block));
        }
        Err(error) => expect(&error, "get"),
    }
}

/// Lets pass what may happen to anybody who shares a small cache with others.
fn expect(error: &Error, what: &str) {
    match error {
        Error::NotFound
        | Error::NoSpace { .. }
        | Error::Quota { .. }
        | Error::PinnedQuota { .. }
        | Error::Cleared
        | Error::Busy
        | Error::Deadline => {}
        error => fail(&format!("{what}: {error:?}")),
    }
}

fn expect_put(outcome: Result<PutOutcome, Error>, what: &str) {
    match outcome {
        Ok(PutOutcome::NotKept) => fail(&format!("{what}: there is an agent")),
        Ok(_) => {}
        Err(error) => expect(&error, what),
    }
}

impl Worker {
    fn run(&mut self) {
        while !self.is_over() {
            self.act();
            if self.held.len() > HELD_MAX
                && let Some((key, block)) = self.held.remove(self.random.below(HELD_MAX))
            {
                check(&key, &block);
            }
            if self.random.once_in(500) {
                self.held.iter().for_each(|(key, block)| check(key, block));
                self.held.clear();
            }
            self.reap();
        }
        self.held.iter().for_each(|(key, block)| check(key, block));
    }

    /// Whether the test has let go of this process; obeys it where it has not.
    fn is_over(&mut self) -> bool {
        if let Some(until) = self.until {
            // Orders are for the parent.
            let stdin = std::io::stdin();
            let mut polled = [PollFd::new(std::os::fd::AsFd::as_fd(&stdin), PollFlags::empty())];
            let _ = poll(&mut polled, PollTimeout::ZERO);
            let gone = polled[0].revents().is_some_and(|events| events.contains(PollFlags::POLLHUP));
            return gone || Instant::now() >= until;
        }
        let mut order = [0];
        match nix::unistd::read(std::io::stdin(), &mut order) {
            Err(Errno::EAGAIN | Errno::EINTR) => {}
            Ok(0) | Err(_) => return true,
            Ok(_) => match order[0] {
                FORK => self.fork(),
                EXEC => {
                    let arguments: Vec<_> = std::env::args_os().skip(1).collect();
                    let seed = (self.random.next() >> 1).to_string();
                    let error = Command::new("/proc/self/exe").args(arguments).env(SEED, seed).exec();
                    fail(&format!("exec: {error}"));
                }
                END_BY_EXEC => {
                    let error = Command::new("/bin/true").exec();
                    fail(&format!("exec: {error}"));
                }
                other => fail(&format!("an order {other}")),
            },
        }
        false
    }

    fn fork(&mut self) {
        let life = Duration::from_millis(self.random.below(CHILD_MS) as u64);
        match roles::fork() {
            ForkResult::Parent { child } => {
                self.children.push(child);
                self.random.next();
            }
            ForkResult::Child => {
                self.children.clear();
                self.random = Random::new(self.random.next() ^ u64::from(std::process::id()));
                self.until = Some(Instant::now() + life);
                self.run();
                std::process::exit(0);
            }
        }
    }

    fn reap(&mut self) {
        self.children.retain(|child| match waitpid(*child, Some(WaitPidFlag::WNOHANG)) {
            Ok(WaitStatus::StillAlive) => true,
            Ok(WaitStatus::Exited(_, 0)) => false,
            other => fail(&format!("a forked child ended with {other:?}")),
        });
    }

    fn act(&mut self) {
        let n = self.random.below(KEYS);
        match self.random.below(1_000) {
            0..400 => read(&self.once, n, &mut self.held),
            400..450 => self.read_any(&self.over.clone(), n % 40),
            450..480 => self.read_any(&self.brief.clone(), n % 40),
            480..500 => self.read_any(&self.bounded.clone(), n % 200),
            500..660 => expect_put(pattern::put(&self.once, &format!("k/{n}"), len_of(n)), "put"),
            660..720 => {
                let len = self.random.below(100_000);
                expect_put(pattern::put(&self.over, &format!("k/{}", n % 40), len), "overwrite");
            }
            720..750 => self.put_fixed(&self.brief.clone(), n % 40),
            750..780 => self.put_fixed(&self.bounded.clone(), n % 200),
            780..820 => self.get_many(),
            820..850 => self.put_many(),
            850..890 => self.write(n),
            890..910 => match self.once.wait(&format!("k/{n}"), Duration::from_millis(2)) {
                Ok(block) => check(&format!("k/{n}"), &block),
                Err(error) => expect(&error, "wait"),
            },
            910..940 => match self.once.delete(&format!("k/{n}")) {
                Ok(_) => {}
                Err(error) => expect(&error, "delete"),
            },
            940..944 => self.tiny(),
            944..946 => match self.over.clear() {
                Ok(_) => {}
                Err(error) => expect(&error, "clear"),
            },
            946..950 => match self.once.list("k/1") {
                Ok(keys) if keys.is_sorted() && keys.iter().all(|key| key.starts_with("k/1")) => {}
                Ok(keys) => fail(&format!("a list of {keys:?}")),
                Err(error) => expect(&error, "list"),
            },
            _ => {
                if let Some((key, block)) = self.held.get(self.random.below(HELD_MAX)) {
                    check(key, block);
                }
            }
        }
    }

    /// Gets a block of any length.
    fn read_any(&mut self, cache: &Namespace, n: usize) {
        read(cache, n, &mut self.held);
    }

    /// Puts the one block that a key has.
    fn put_fixed(&self, cache: &Namespace, n: usize) {
        let key = format!("k/{n}");
        expect_put(pattern::put(cache, &key, len_of(n)), cache.name());
    }

    fn get_many(&mut self) {
        let keys: Vec<String> = (0..30).map(|_| format!("k/{}", self.random.below(KEYS))).collect();
        let refs: Vec<&str> = keys.iter().map(String::as_str).collect();
        for (key, block) in keys.iter().zip(self.once.get_many(&refs)) {
            match block {
                Ok(block) => {
                    check(key, &block);
                    if self.random.once_in(10) {
                        self.held.push_back((key.clone(), block.clone()));
                    }
                }
                Err(error) => expect(&error, "get_many"),
            }
        }
    }

    fn put_many(&mut self) {
        let keys: Vec<usize> = (0..30).map(|_| self.random.below(KEYS)).collect();
        let named: Vec<(String, Vec<u8>)> =
            keys.into_iter().map(|n| (format!("k/{n}"), pattern::bytes(&format!("k/{n}"), len_of(n)))).collect();
        let items: Vec<(&str, &[u8])> = named.iter().map(|(key, bytes)| (key.as_str(), &bytes[..])).collect();
        for outcome in self.once.put_many(&items) {
            expect_put(outcome, "put_many");
        }
    }

    fn write(&mut self, n: usize) {
        let key = format!("k/{n}");
        match self.once.create(&key, len_of(n)) {
            Ok(mut writer) => {
                pattern::fill(&key, writer.as_mut_slice());
                if !self.random.once_in(4) {
                    expect_put(writer.commit(), "commit");
                }
            }
            Err(error) => expect(&error, "create"),
        }
    }

    /// Makes the index grow, and shrink again.
    fn tiny(&mut self) {
        let prefix = self.random.next();
        let keys: Vec<String> = (0..TINY).map(|n| format!("{prefix}/{n}")).collect();
        let items: Vec<(&str, &[u8])> = keys.iter().map(|key| (key.as_str(), b"".as_slice())).collect();
        for outcome in self.tinies.put_many(&items) {
            expect_put(outcome, "tiny put_many");
        }
        if self.random.once_in(2) {
            if let Err(error) = self.tinies.clear() {
                expect(&error, "clear of tiny blocks");
            }
            return;
        }
        for key in keys.iter().step_by(3) {
            if let Err(error) = self.tinies.delete(key) {
                expect(&error, "delete of a tiny block");
            }
        }
    }
}
