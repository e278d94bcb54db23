//! `larder demo`: a tree of files as blocks, read by several processes, compared, measured, and cleared away.
//!
//! The demo is the parent of everything: an agent on a socket in a private directory, and readers. They end when it
//! does, whatever way it ends: in order where it can, by `SIGKILL` from the kernel where it is killed itself.

mod agent;
mod interrupt;
mod load;
mod measure;
mod memory;
mod readers;
mod report;
mod tree;

use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result, bail};
use larder::Client;
use larder_protocol::namespace::{Eviction, NamespaceOptions};
use larder_protocol::process::end_with_parent;
use larder_protocol::units::ByteSize;
use nix::unistd::getppid;

use self::agent::Agent;
use self::interrupt::Interrupt;
use self::load::load;
use self::measure::Subject;
use self::memory::Held;
use self::readers::{Order, Readers};
use self::report::{Memory, ReadFigures, Report, VerifyFigures};
use self::tree::{Limit, Tree};
use crate::args::{DemoArgs, DemoProcessArgs, DemoRole, Global};
use crate::output::Output;

/// Trees that machines have, the first that is there is the default.
const DEFAULT_DIRECTORIES: [&str; 3] = ["/usr/share", "/usr/lib", "/etc"];
/// What is loaded at most, unless a capacity is given.
const LIMIT: Limit = Limit { files: 50_000, bytes: 1 << 30 };
/// How long each measurement takes.
const MEASURE_MS: u64 = 1_000;
/// The namespace that the files are loaded into.
const NAMESPACE: &str = "demo";

/// Runs the demo.
pub(crate) fn run(args: &DemoArgs, output: Output) -> Result<()> {
    let interrupt = Interrupt::catch()?;
    let directory = match &args.directory {
        Some(directory) => directory.clone(),
        None => DEFAULT_DIRECTORIES
            .iter()
            .map(PathBuf::from)
            .find(|directory| directory.is_dir())
            .context("this machine has no /usr/share; name a directory to load")?,
    };
    let limit = limit(args.capacity)?;
    let spinner = output.spinner("finding files");
    let tree = Tree::find(&directory, limit, &interrupt);
    spinner.finish_and_clear();
    let mut tree = tree?;

    let loaded_at_ns = SystemTime::now().duration_since(UNIX_EPOCH).context("the clock is before 1970")?.as_nanos();
    let loaded_at_ns = i128::try_from(loaded_at_ns).context("the clock is far from now")?;
    let capacity = args.capacity.unwrap_or_else(|| agent::capacity_for(&tree));
    let spinner = output.spinner("starting an agent");
    let agent = Agent::start(capacity, &interrupt);
    spinner.finish_and_clear();
    let agent = agent?;
    let client = agent.connect()?;
    let options = NamespaceOptions { eviction: Eviction::Keep, ..NamespaceOptions::default() };
    let namespace = client.create_namespace(NAMESPACE, &options)?;

    let bar = output.bar("loading", tree.bytes);
    let loaded = load(&namespace, &mut tree, &interrupt, &bar);
    bar.finish_and_clear();
    let loaded = loaded?;
    if loaded.blocks == 0 {
        bail!("no file under {} can be read", tree.root.display());
    }

    let count = args.readers.unwrap_or_else(default_readers);
    let mut readers =
        Readers::start(count, &agent.socket(), NAMESPACE, &tree.root, loaded_at_ns, loaded.blocks, &interrupt)?;
    let bar = output.bar("verifying", loaded.bytes * u64::from(count));
    let verified = readers.verify(&interrupt, |bytes| bar.inc(bytes));
    bar.finish_and_clear();
    let verified = VerifyFigures::new(&verified?);
    let mut measure = |what: &str, order: Order| -> Result<ReadFigures> {
        let spinner = output.spinner(what);
        let reads = readers.read(order, &interrupt);
        spinner.finish_and_clear();
        Ok(ReadFigures::new(&reads?))
    };
    let hits = measure("measuring hits", Order::Hits { ms: MEASURE_MS })?;
    let in_place = measure("measuring reads in place", Order::InPlace { ms: MEASURE_MS })?;
    let files = measure("measuring files", Order::Files { ms: MEASURE_MS })?;
    let memory = measure_memory(&agent, &readers, &client, loaded.bytes)?;
    drop(readers);

    let report =
        Report { tree: &tree, limit, capacity, readers: count, loaded, verified, hits, in_place, files, memory };
    output.result(|| report.text(), || report.json())?;
    report.verified.require_equal()?;
    if args.keep {
        keep(&agent, &interrupt, output)?;
    }
    Ok(())
}

/// A given capacity is what the files have to fit into; half of it leaves room for everything that is no payload.
fn limit(capacity: Option<ByteSize>) -> Result<Limit> {
    if let Some(capacity) = capacity {
        return Ok(Limit { files: usize::MAX, bytes: capacity.bytes() / 2 });
    }
    // Blocks, pages of files and room for the index, all at once: a quarter leaves a small machine alive.
    let available_bytes = available_memory_bytes().context("cannot read MemAvailable from /proc/meminfo")?;
    Ok(Limit { bytes: LIMIT.bytes.min(available_bytes / 4), ..LIMIT })
}

fn available_memory_bytes() -> Option<u64> {
    let meminfo = std::fs::read_to_string("/proc/meminfo").ok()?;
    let line = meminfo.lines().find_map(|line| line.strip_prefix("MemAvailable:"))?;
    let kilobytes: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kilobytes * 1_024)
}

fn default_readers() -> u32 {
    let processors = std::thread::available_parallelism().map_or(2, usize::from);
    u32::try_from(processors.clamp(2, 4)).unwrap_or(2)
}

/// While all readers have every block mapped and touched.
fn measure_memory(agent: &Agent, readers: &Readers, client: &Client, payload_bytes: u64) -> Result<Memory> {
    let segment_bytes = client.stat()?.tenant.segment_bytes;
    let mut sum = Held::default();
    let mut processes = 0;
    for pid in readers.pids().chain([std::process::id()]) {
        sum += memory::held_by(pid).with_context(|| format!("cannot read /proc/{pid}/smaps"))?;
        processes += 1;
    }
    // The agent hides its memory from tracing, so that only root may read this of it.
    let agent_included = match memory::held_by(agent.pid()) {
        Ok(held) => {
            sum += held;
            processes += 1;
            true
        }
        Err(_) => false,
    };
    Ok(Memory { payload_bytes, segment_bytes, held: sum, processes, agent_included })
}

fn keep(agent: &Agent, interrupt: &Interrupt, output: Output) -> Result<()> {
    let socket = agent.socket();
    output.remark(&format!(
        "The agent keeps running until Ctrl-C. In another shell:\n  export LARDER_SOCKET={}\n  larder ls {NAMESPACE} | head\n  larder stat",
        socket.display()
    ));
    // An end that was asked for is a good one.
    while interrupt.wait(&[], Duration::from_secs(3_600)).is_ok() {}
    Ok(())
}

/// What a process of the demo does with itself.
pub(crate) fn process(args: DemoProcessArgs, global: &Global) -> Result<()> {
    end_with_parent().context("cannot arrange to end with the demo")?;
    // The demo may have ended before that took effect.
    if getppid().as_raw() != args.parent {
        bail!("the demo that started this process is gone");
    }
    interrupt::release()?;
    match args.role {
        DemoRole::Agent { command } => {
            let (program, arguments) = command.split_first().context("no program is given")?;
            // The arrangement outlives the exec, and the program keeps this process's number.
            let error = Command::new(program).args(arguments).exec();
            Err(error).with_context(|| format!("cannot start {}", Path::new(program).display()))
        }
        DemoRole::Reader { root, namespace, loaded_at_ns } => {
            let socket = global.socket.as_deref().context("no socket is given")?;
            let subject = agent::connect(socket)
                .and_then(|client| Subject::new(client.namespace(&namespace)?, root, loaded_at_ns));
            readers::serve(subject)
        }
    }
}
