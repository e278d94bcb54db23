//! `larder demo`: a tree of files as blocks, read by several processes, compared, measured, and cleared away.
//!
//! First the files are put, or fetched where they are far away, and reads are measured. Then those of a directory are fetched
//! from it by all readers at once. Then some are put into a store, the agent is killed, and another finds them there.
//!
//! The demo is the parent of everything: an agent on a socket in a private directory, and readers. They end when it
//! does, whatever way it ends: in order where it can, by `SIGKILL` from the kernel where it is killed itself.

mod agent;
mod interrupt;
mod load;
mod measure;
mod memory;
mod origin;
mod readers;
mod report;
mod stage;
mod store;
mod tree;

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result, bail};
use larder::Client;
use larder_protocol::process::end_with_parent;
use larder_protocol::units::ByteSize;
use nix::unistd::getppid;

use self::agent::{Agent, Setup};
use self::interrupt::Interrupt;
use self::measure::{Subject, Told};
use self::memory::Held;
use self::origin::Origin;
use self::readers::{Order, Readers};
use self::report::{Memory, ReadFigures, Report};
use self::stage::Stage;
use self::tree::{Limit, Tree};
use crate::args::{DemoArgs, DemoProcessArgs, DemoRole, Global};
use crate::output::Output;

/// Trees that machines have, the first that is there is the default.
const DEFAULT_DIRECTORIES: [&str; 3] = ["/usr/share", "/usr/lib", "/etc"];
/// What is loaded at most, unless a capacity is given.
const LIMIT: Limit = Limit { files: 50_000, bytes: 1 << 30 };
/// How long each measurement takes.
const MEASURE_MS: u64 = 1_000;
/// The namespace that files are loaded into by puts, that which they are fetched into, and that which the store has.
const LOADED: &str = "loaded";
const FETCHED: &str = "fetched";
const KEPT: &str = "kept";
/// What the list of all files is called, beside them.
const LIST_NAME: &str = "manifest.txt";
/// For an agent that fetches nothing but the list.
const LIST_CAPACITY_BYTES: u64 = 256 << 20;
/// How long a reader waits for a file: an origin far away takes its time. Readers end when they are told to, whatever they wait
/// for.
const FETCH_MAX: Duration = Duration::from_secs(600);

/// Runs the demo.
pub(crate) fn run(args: &DemoArgs, output: Output) -> Result<()> {
    let interrupt = Interrupt::catch()?;
    let limit = limit(args.capacity)?;
    let remote = args.origin.as_deref().map(Origin::of_text);
    let mut tree = find(args, remote.as_ref(), limit, &interrupt, output)?;
    let origin = match (&remote, &tree.root) {
        (Some(origin), _) => origin.clone(),
        (None, Some(root)) => Origin::of_directory(root)
            .with_context(|| format!("{} is no UTF-8, so nothing can be fetched from there", root.display()))?,
        (None, None) => bail!("there is nothing to load"),
    };

    let loaded_at_ns = SystemTime::now().duration_since(UNIX_EPOCH).context("the clock is before 1970")?.as_nanos();
    let loaded_at_ns = i128::try_from(loaded_at_ns).context("the clock is far from now")?;
    let capacity = args.capacity.unwrap_or_else(|| agent::capacity_for(&tree, store::LIMIT.bytes));
    let store = tempfile::Builder::new()
        .prefix("larder-demo-store-")
        .permissions(Permissions::from_mode(0o700))
        .tempdir()
        .context("cannot make a directory for the demo's store")?;
    let setup = Setup { capacity, store: Some(store.path()), origin: remote.as_ref() };
    let count = args.readers.unwrap_or_else(default_readers);
    let stage = Stage { setup, count, loaded_at_ns, interrupt: &interrupt, output };

    let agent = stage.start_agent()?;
    let client = agent.connect()?;
    let (loaded, fetched, mut readers) = match &remote {
        None => {
            let (loaded, readers) = stage.load(&agent, &client, &mut tree)?;
            (Some(loaded), None, readers)
        }
        Some(origin) => {
            let (fetched, readers) = stage.fetch(&agent, &client, &tree, origin)?;
            (None, Some(fetched), readers)
        }
    };
    let payload_bytes = loaded.as_ref().map_or_else(|| fetched.as_ref().map_or(0, |it| it.bytes), |it| it.bytes);
    let verified = match &tree.root {
        Some(_) => Some(stage.verify(&mut readers, payload_bytes)?),
        None => None,
    };
    let mut measure = |what: &str, order: Order| -> Result<ReadFigures> {
        let spinner = output.spinner(what);
        let reads = readers.read(order, &interrupt);
        spinner.finish_and_clear();
        Ok(ReadFigures::new(&reads?))
    };
    let hits = measure("measuring hits", Order::Hits { ms: MEASURE_MS })?;
    let in_place = measure("measuring reads in place", Order::InPlace { ms: MEASURE_MS })?;
    let files = match &tree.root {
        Some(_) => Some(measure("measuring files", Order::Files { ms: MEASURE_MS })?),
        None => None,
    };
    let memory = measure_memory(&agent, &readers, &client, payload_bytes)?;
    drop(readers);

    // What was loaded has made its point, and goes with its agent; what was fetched from far away stays.
    let (agent, client, fetched) = match fetched {
        Some(fetched) => (agent, client, fetched),
        None => {
            drop(client);
            drop(agent);
            let agent = stage.start_agent()?;
            let client = agent.connect()?;
            let (mut fetched, mut readers) = stage.fetch(&agent, &client, &tree, &origin)?;
            fetched.verified = Some(stage.verify(&mut readers, fetched.bytes)?);
            (agent, client, fetched)
        }
    };
    let (agent, kept) = stage.keep_in_store(agent, client, &tree, &origin, store.path())?;

    let report = Report {
        tree: &tree,
        origin: remote.as_ref(),
        limit,
        capacity,
        readers: count,
        loaded,
        fetched,
        verified,
        hits,
        in_place,
        files,
        memory,
        kept,
    };
    output.result(|| report.text(), || report.json())?;
    report.require_equal()?;
    if args.keep {
        keep(&agent, &interrupt, output)?;
    }
    Ok(())
}

/// What there is to load or to fetch.
fn find(args: &DemoArgs, remote: Option<&Origin>, limit: Limit, interrupt: &Interrupt, output: Output) -> Result<Tree> {
    if let Some(keys) = &args.keys {
        let list = fs::read_to_string(keys).with_context(|| format!("cannot read {}", keys.display()))?;
        return Tree::listed(&list, args.directory.as_deref(), limit);
    }
    let directory = match (&args.directory, remote) {
        (Some(directory), _) => directory.clone(),
        (None, Some(origin)) => return Tree::listed(&fetch_list(origin, interrupt, output)?, None, limit),
        (None, None) => DEFAULT_DIRECTORIES
            .iter()
            .map(PathBuf::from)
            .find(|directory| directory.is_dir())
            .context("this machine has no /usr/share; name a directory to load")?,
    };
    let spinner = output.spinner("finding files");
    let tree = Tree::find(&directory, limit, interrupt);
    spinner.finish_and_clear();
    tree
}

/// The list of what is below a URL, by an agent of its own: how large the agent of the demo has to be is not known before.
fn fetch_list(origin: &Origin, interrupt: &Interrupt, output: Output) -> Result<String> {
    let spinner = output.spinner("fetching the list");
    let fetched = || -> Result<String> {
        let setup = Setup { capacity: ByteSize(LIST_CAPACITY_BYTES), store: None, origin: Some(origin) };
        let agent = Agent::start(&setup, interrupt)?;
        let url = origin.url(LIST_NAME);
        let list = agent.connect()?.namespace(FETCHED)?.get_or_fetch(LIST_NAME, &url).with_context(|| {
            format!(
                "cannot fetch the list of files, {url}; --keys FILE names another, DIR a directory with the same files"
            )
        })?;
        String::from_utf8(list.to_vec()).context("the list of files is no UTF-8")
    };
    let list = fetched();
    spinner.finish_and_clear();
    list
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
        "The agent keeps running until Ctrl-C. In another shell:\n  export LARDER_SOCKET={}\n  larder ls {KEPT} | head\n  larder stat",
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
        DemoRole::Reader { root, origin, known, namespace, loaded_at_ns } => {
            let socket = global.socket.as_deref().context("no socket is given")?;
            let subject = || -> Result<Subject> {
                let known = match known {
                    Some(known) => serde_json::from_slice(&fs::read(known)?)?,
                    None => Vec::new(),
                };
                let told = Told { root, origin: origin.as_deref().map(Origin::of_text), known, loaded_at_ns };
                Subject::new(agent::connect(socket, FETCH_MAX)?.namespace(&namespace)?, told)
            };
            readers::serve(subject())
        }
    }
}
