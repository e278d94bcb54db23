//! An agent of the bench's own, and all that the benches ask of Larder outside the timed calls.

use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};

use larder::{Client, Namespace};

use crate::BenchResult;
use crate::server::Server;

/// The namespace that holds every block of a bench.
const NAMESPACE: &str = "bench";

/// A running `larderd`, ended when this is dropped.
#[derive(Debug)]
pub(crate) struct Agent {
    server: Server,
    socket: PathBuf,
}

impl Agent {
    /// Starts an agent with a socket in the scratch folder.
    pub(crate) fn start(scratch: &Path, capacity_bytes: usize, more: &[&str]) -> BenchResult<Self> {
        let socket = scratch.join("larder.sock");
        let program = program()?;
        let capacity = capacity_bytes.to_string();
        let mut arguments =
            vec![OsStr::new("--capacity"), OsStr::new(&capacity), OsStr::new("--socket"), socket.as_os_str()];
        arguments.extend(more.iter().map(OsStr::new));
        let server = Server::start(program.as_os_str(), &arguments, || connect(&socket).is_ok())?;
        Ok(Self { server, socket })
    }

    pub(crate) fn pid(&self) -> u32 {
        self.server.pid()
    }

    pub(crate) fn socket(&self) -> &Path {
        &self.socket
    }

    pub(crate) fn namespace(&self) -> BenchResult<Namespace> {
        namespace(&self.socket)
    }
}

/// A session with the agent on `socket`.
pub(crate) fn connect(socket: &Path) -> BenchResult<Client> {
    Ok(Client::builder().socket(socket).connect()?)
}

/// The bench's namespace, over a session of its own.
pub(crate) fn namespace(socket: &Path) -> BenchResult<Namespace> {
    Ok(connect(socket)?.namespace(NAMESPACE)?)
}

/// Puts all items, and fails where one of them failed.
pub(crate) fn put_many(namespace: &Namespace, items: &[(&str, &[u8])]) -> BenchResult<()> {
    for outcome in namespace.put_many(items) {
        outcome?;
    }
    Ok(())
}

/// `larderd`: named by LARDERD, else beside this program.
fn program() -> BenchResult<PathBuf> {
    if let Some(named) = std::env::var_os("LARDERD") {
        return Ok(PathBuf::from(named));
    }
    let beside = std::env::current_exe()?.with_file_name("larderd");
    if beside.exists() {
        Ok(beside)
    } else {
        Err("larderd is not built: set LARDERD, or build it beside this program".into())
    }
}

/// The agent's argument for 2 MiB pages, where this machine has any to give.
pub(crate) fn huge_pages() -> BenchResult<[&'static str; 2]> {
    let shmem = fs::read_to_string("/sys/kernel/mm/transparent_hugepage/shmem_enabled").unwrap_or_default();
    let spare = fs::read_to_string("/proc/sys/vm/nr_hugepages").unwrap_or_default();
    if !shmem.is_empty() && !shmem.contains("[never]") && !shmem.contains("[deny]") {
        return Ok(["--huge-pages", "thp"]);
    }
    if spare.trim().parse().unwrap_or(0u64) > 0 {
        return Ok(["--huge-pages", "hugetlb"]);
    }
    Err("this machine gives shared memory no 2 MiB pages (shmem_enabled is never, nr_hugepages is 0)".into())
}

/// Memory as the agent accounts for it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct MemoryFigures {
    pub(crate) index_bytes: u64,
    pub(crate) heap_bytes: u64,
}

/// The agent's own account of its shared index and of its heap.
pub(crate) fn memory_figures(client: &Client) -> BenchResult<MemoryFigures> {
    let stat = client.stat()?;
    Ok(MemoryFigures { index_bytes: stat.index_bytes, heap_bytes: stat.heap_bytes })
}
