//! `larderd`: reads the configuration, binds the socket, serves until it is told to end.
#![forbid(unsafe_code)]

use std::path::Path;
use std::process::ExitCode;

use anyhow::{Context, bail};
use clap::Parser;
use larder_agent::config::{
    Args, Config, DiskCapacity, HugePages, MEMORY_LEFT_TO_SYSTEM, Machine, Numa, Populate, StoreUrl,
};
use larder_agent::server::{self, Backing, Limits, Listener};
use larder_agent::{Disk, Material, Origins, Settings, Store};
use larder_protocol::memory::{Feature, Platform};
use larder_protocol::{memory, process};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc;
use tracing::{info, warn};

fn main() -> ExitCode {
    let args = Args::parse();
    match start(args) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("larderd: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn start(args: Args) -> anyhow::Result<ExitCode> {
    let machine = Machine::detect()?;
    let only_check = args.check_config;
    let load = move || Config::load(args.clone(), &|name| std::env::var_os(name), &machine);
    let capacity_max_bytes = capacity_max(&Machine::detect()?);
    let config = match load() {
        Ok(config) => config,
        Err(error) => {
            for problem in error.problems() {
                eprintln!("larderd: {problem}");
            }
            return Ok(ExitCode::from(2));
        }
    };
    if only_check {
        for (key, value, source) in config.describe() {
            eprintln!("{key} = {value}  ({source})");
        }
        origins(&config)?;
        if let Some(url) = &config.store {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
            let tried = runtime.block_on(open_store(url, &config));
            runtime.shutdown_background();
            tried?;
        }
        if let Some((path, capacity)) = &config.disk {
            let tried = Disk::check(path, *capacity);
            tried.map_err(|why| anyhow::anyhow!("the disk tier cannot be used: {why}"))?;
        }
        return Ok(ExitCode::SUCCESS);
    }
    let filter = tracing_subscriber::EnvFilter::try_new(&config.log)
        .with_context(|| format!("the log filter {:?} cannot be read", config.log))?;
    tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).init();
    process::harden_agent().context("cannot prepare the process")?;
    if !config.cpus.is_empty() {
        process::keep_on_cpus(&config.cpus).context("cannot stay on the processors of --cpus")?;
    }
    let settings = settings(&config)?;
    let limits = Limits {
        capacity_max_bytes,
        sessions_per_uid: config.max_sessions_per_uid as usize,
        spin: config.spin,
        populate_all: config.populate == Populate::All,
    };
    let origins = origins(&config)?;
    let workers = std::thread::available_parallelism().map_or(2, usize::from).clamp(2, 4);
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(workers).enable_all().build()?;
    runtime.block_on(async {
        let listener =
            Listener::bind(&config.socket).with_context(|| format!("cannot listen at {}", config.socket.display()))?;
        let store = match &config.store {
            Some(url) => Some(open_store(url, &config).await?),
            None => None,
        };
        let disk = match &config.disk {
            Some((path, capacity)) => Some(open_disk(path, *capacity).await?),
            None => None,
        };
        let (mut term, mut int) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
        let shutdown = async move {
            tokio::select! { _ = term.recv() => {}, _ = int.recv() => {} }
        };
        let (send_capacity, capacities) = mpsc::channel(1);
        let mut hangup = signal(SignalKind::hangup())?;
        tokio::spawn(async move {
            while hangup.recv().await.is_some() {
                match load() {
                    // Everything else needs a new agent.
                    Ok(config) => drop(send_capacity.send(config.capacity.bytes()).await),
                    Err(error) => warn!(%error, "the configuration is wrong; the old one stays"),
                }
            }
        });
        server::run(listener, settings, limits, Backing { store, disk, origins }, capacities, shutdown)
            .await
            .context("cannot go on serving")
    })?;
    // Tasks that still wait for a client or a kernel are not waited for: the region's memory is the kernel's to free.
    runtime.shutdown_background();
    Ok(ExitCode::SUCCESS)
}

/// What may be fetched, from where and for whom.
fn origins(config: &Config) -> anyhow::Result<Origins> {
    Origins::new(&config.origins, nix::unistd::geteuid().as_raw()).map_err(anyhow::Error::msg)
}

/// Opens the disk tier, and says what is wrong with it in one sentence.
async fn open_disk(path: &Path, capacity: DiskCapacity) -> anyhow::Result<Disk> {
    let opened = Disk::open(path, capacity).await;
    opened.map_err(|why| anyhow::anyhow!("the disk tier in {} cannot be used: {why}", path.display()))
}

/// Opens the store, and says what is wrong with it in one sentence.
async fn open_store(url: &StoreUrl, config: &Config) -> anyhow::Result<Store> {
    let opened = Store::open(url, &config.store_options, config.store_timeout).await;
    opened.map_err(|why| anyhow::anyhow!("the store {url} cannot be used: {why}"))
}

fn settings(config: &Config) -> anyhow::Result<Settings> {
    let platform = Platform::detect(&switched_off()?).context("cannot make shared memory")?;
    let missing = platform.missing();
    if !missing.is_empty() {
        warn!(
            missing = missing.join(","),
            "this kernel lacks features; docs/platforms.md says what stands in for each"
        );
    }
    info!(?config, "configuration");
    Ok(Settings {
        capacity_bytes: config.capacity.bytes(),
        segment_bytes: config.segment_size.bytes(),
        tenant_quota_bytes: config.quota_bytes(config.tenant_quota),
        tenants: config.tenants.iter().map(|t| (t.uid, config.quota_bytes(t.quota), t.guaranteed.bytes())).collect(),
        pinned_bytes: config.pinned_quota.bytes(),
        session_slots_max: config.max_slots_per_session as usize,
        staging_bytes: config.staging.bytes(),
        material: Material {
            platform,
            huge_pages: match config.huge_pages {
                HugePages::Off => memory::HugePages::Off,
                HugePages::Thp => memory::HugePages::Transparent,
                HugePages::Hugetlb => memory::HugePages::Hugetlb,
            },
            numa: match config.numa {
                Numa::None => None,
                Numa::Interleave => Some((numa_mask(&Machine::detect()?.numa_nodes), true)),
                Numa::Node(node) => Some((numa_mask(&[node]), false)),
            },
        },
        instance: random()?,
    })
}

fn numa_mask(nodes: &[usize]) -> u64 {
    nodes.iter().filter(|node| **node < 64).fold(0, |mask, node| mask | 1 << node)
}

fn capacity_max(machine: &Machine) -> u64 {
    machine.mem_total_bytes.saturating_sub(MEMORY_LEFT_TO_SYSTEM.bytes())
}

fn random() -> anyhow::Result<u64> {
    let mut bytes = [0; 8];
    getrandom::fill(&mut bytes).map_err(|error| anyhow::anyhow!("the kernel gave no random bytes: {error}"))?;
    Ok(u64::from_le_bytes(bytes))
}

/// Kernel features that a test wants to do without, from `LARDER_TEST_WITHOUT`.
fn switched_off() -> anyhow::Result<Vec<Feature>> {
    let Ok(names) = std::env::var("LARDER_TEST_WITHOUT") else {
        return Ok(Vec::new());
    };
    let mut features = Vec::new();
    for name in names.split(',').filter(|name| !name.is_empty()) {
        let Some(feature) = Feature::from_name(name) else {
            let known: Vec<&str> = Feature::ALL.iter().map(|(_, name)| *name).collect();
            bail!("LARDER_TEST_WITHOUT names {name:?}; it knows {}", known.join(", "));
        };
        features.push(feature);
    }
    Ok(features)
}
