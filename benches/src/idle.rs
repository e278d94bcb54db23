//! What servers cost while nobody asks them anything: CPU time and context switches of all their threads.

use std::path::Path;
use std::time::Duration;

use crate::agent::{self, Agent};
use crate::hit::{LARDER, capacity_bytes};
use crate::report::{Kind, Outcome, Section};
use crate::rivals::memcached::MemcachedServer;
use crate::rivals::redis::RedisServer;
use crate::server::{Usage, usage_of};
use crate::workload::{BlockSet, for_each_batch};
use crate::{BenchResult, Only, Scale};

pub(crate) const SWITCHES: &str = "context switches a minute";
pub(crate) const CPU: &str = "CPU, percent of one core";
const THREADS: &str = "threads";

/// A server at rest: its name, its pid, and whatever keeps it and its one client alive.
struct Resting {
    name: &'static str,
    pid: u32,
    _alive: Box<dyn std::any::Any>,
}

/// Starts a server, loads the set, and leaves one client connected.
type Start = fn(&Path, &BlockSet) -> BenchResult<Resting>;

/// The idle table: all servers rest through the same minute.
pub(crate) fn run(scratch: &Path, scale: &Scale, only: &Only) -> Section {
    let watched = Duration::from_secs(if scale.quick { 10 } else { 60 });
    let mut section = Section::new("idle", "Idle servers", Kind::Figures);
    section.notes.push(format!(
        "10,000 blocks of 4 KiB loaded, one client connected and silent. CPU time and voluntary and involuntary context switches of all threads over {} s, scaled to a minute.",
        watched.as_secs()
    ));
    eprintln!("{}", section.title);
    let set = BlockSet { blocks: 10_000, len_bytes: 4096 };
    let starts: [(&'static str, Start); 3] =
        [(LARDER, rest_larder), ("Redis", rest_redis), ("memcached", rest_memcached)];
    let mut resting = Vec::new();
    for (name, start) in starts {
        if only.wants(name) {
            match start(scratch, &set) {
                Ok(server) => resting.push(server),
                Err(error) => section.push_missing(name, "-", error),
            }
        }
    }
    // Work that a load leaves behind, such as filling the next segment, is not idleness.
    std::thread::sleep(Duration::from_secs(if scale.quick { 2 } else { 5 }));
    let before: Vec<BenchResult<Usage>> = resting.iter().map(|server| usage_of(server.pid)).collect();
    std::thread::sleep(watched);
    for (server, before) in resting.iter().zip(before) {
        match before.and_then(|before| Ok((before, usage_of(server.pid)?))) {
            Ok((before, after)) => push(&mut section, server.name, before, after, watched),
            Err(error) => section.push_missing(server.name, "-", error),
        }
    }
    section
}

fn push(section: &mut Section, name: &str, before: Usage, after: Usage, watched: Duration) {
    let seconds = watched.as_secs_f64();
    let switches = after.context_switches.saturating_sub(before.context_switches) as f64 * 60.0 / seconds;
    let cpu = after.cpu_ns.saturating_sub(before.cpu_ns) as f64 / 1e9 / seconds * 100.0;
    section.push(name, SWITCHES, Outcome::Figure { figure: switches, unit: "" });
    section.push(name, CPU, Outcome::Figure { figure: cpu, unit: "%" });
    section.push(name, THREADS, Outcome::Figure { figure: after.threads as f64, unit: "" });
}

fn rest_larder(scratch: &Path, set: &BlockSet) -> BenchResult<Resting> {
    let agent = Agent::start(scratch, capacity_bytes(set), &[])?;
    let namespace = agent.namespace()?;
    for_each_batch(set, |items| agent::put_many(&namespace, items))?;
    Ok(Resting { name: LARDER, pid: agent.pid(), _alive: Box::new((namespace, agent)) })
}

fn rest_redis(scratch: &Path, set: &BlockSet) -> BenchResult<Resting> {
    let server = RedisServer::start(scratch)?;
    let mut client = server.connect()?;
    for_each_batch(set, |items| client.set_many(items))?;
    Ok(Resting { name: "Redis", pid: server.pid(), _alive: Box::new((client, server)) })
}

fn rest_memcached(scratch: &Path, set: &BlockSet) -> BenchResult<Resting> {
    let server = MemcachedServer::start(scratch, set.total_bytes() * 2, set.len_bytes)?;
    let mut client = server.connect()?;
    for_each_batch(set, |items| client.set_many(items))?;
    Ok(Resting { name: "memcached", pid: server.pid(), _alive: Box::new((client, server)) })
}
