//! The agent as a server: its socket, and what all sessions share.

use std::collections::HashMap;
use std::fs::{self, Permissions};
use std::future::Future;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use larder_protocol::life::Beacon;
use larder_protocol::message::Refusal;
use larder_protocol::socket::{self, Peer};
use nix::fcntl::{Flock, FlockArg};
use tokio::sync::{Notify, mpsc, watch};
use tracing::{info, warn};

use crate::cache::{Cache, Need, Settings, Stop, prepare};
use crate::disk::Disk;
use crate::fetch::{Fetches, Objects};
use crate::origin::Origins;
use crate::store::Store;
use crate::tier::Tier;
use crate::{keeper, session, write_back};

/// How long a put waits for room while the store takes what it is owed.
const ROOM_WAIT: Duration = Duration::from_secs(5);

/// What a server is told beyond the cache's settings.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Sessions that one user may have.
    pub sessions_per_uid: usize,
    /// Most that the capacity may be raised to.
    pub capacity_max_bytes: u64,
    /// Whether sessions may look for requests in shared memory instead of sleeping at once.
    pub spin: bool,
    /// Whether to populate the whole capacity ahead, or one segment at a time.
    pub populate_all: bool,
}

/// What is behind the memory.
#[derive(Debug)]
pub struct Backing {
    /// Where durable namespaces keep their blocks.
    pub store: Option<Store>,
    /// A disk of the node between memory and store.
    pub disk: Option<Disk>,
    /// Where bytes are fetched from.
    pub origins: Origins,
}

/// A socket that is ours to listen on, for as long as this value lives.
#[derive(Debug)]
pub struct Listener {
    fd: OwnedFd,
    path: PathBuf,
    lock: Option<Flock<fs::File>>,
}

impl Listener {
    /// Binds the socket at `path`.
    ///
    /// Its directory is made if it is not there, and refused if anybody but its owner may write it: whoever can write the
    /// directory can put another socket in the agent's place. A lock file beside the socket tells a running agent from
    /// the leftover of one that was killed.
    pub fn bind(path: &Path) -> io::Result<Listener> {
        let own_uid = nix::unistd::geteuid().as_raw();
        let directory = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
        if !directory.exists() {
            fs::create_dir_all(directory)?;
            // Others may pass through a system agent's directory, none through a user's own.
            let mode = if own_uid == 0 { 0o755 } else { 0o700 };
            fs::set_permissions(directory, Permissions::from_mode(mode))?;
        }
        let about = fs::metadata(directory)?;
        let (owner, mode) = (about.uid(), about.mode() & 0o7777);
        if (owner != own_uid && owner != 0) || mode & 0o022 != 0 {
            return Err(io::Error::new(
                io::ErrorKind::PermissionDenied,
                format!(
                    "the socket directory {} belongs to user {owner} and has mode {mode:o}: others could put a socket of their own there; use a directory of this user's that nobody else can write (chmod 755)",
                    directory.display()
                ),
            ));
        }
        let lock = take_lock(path)?;
        match fs::remove_file(path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let fd = socket::listen_at(path)?;
        // Whom the directory lets pass may connect. The agent tells users apart by the kernel's word, not by a mode.
        let open_to_all = mode & 0o001 != 0;
        fs::set_permissions(path, Permissions::from_mode(if open_to_all { 0o666 } else { 0o600 }))?;
        Ok(Listener { fd, path: path.to_owned(), lock: Some(lock) })
    }
}

fn lock_path(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".lock");
    PathBuf::from(name)
}

/// Locks the file beside the socket, which says that an agent serves it.
fn take_lock(path: &Path) -> io::Result<Flock<fs::File>> {
    let lock_path = lock_path(path);
    loop {
        // Nobody else may open it, or any user could hold the lock.
        let file = fs::File::options().create(true).truncate(false).write(true).mode(0o600).open(&lock_path)?;
        let lock = Flock::lock(file, FlockArg::LockExclusiveNonblock).map_err(|(_, errno)| {
            io::Error::new(
                io::ErrorKind::AddrInUse,
                format!(
                    "another larderd serves {} ({} is locked: {errno}); stop it first or give --socket",
                    path.display(),
                    lock_path.display()
                ),
            )
        })?;
        // An agent that was just ending may have removed the file between our opening and our locking it.
        if fs::metadata(&lock_path).is_ok_and(|now| lock.metadata().is_ok_and(|ours| ours.ino() == now.ino())) {
            return Ok(lock);
        }
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        // The socket first: once the lock is gone another agent may bind the path. The lock file goes while it is still
        // locked, so nobody can hold a lock on a file that is not there any more and believe itself alone.
        let _ = fs::remove_file(&self.path);
        let _ = fs::remove_file(lock_path(&self.path));
        self.lock.take();
    }
}

/// What all sessions share.
#[derive(Debug)]
pub(crate) struct Agent {
    cache: Mutex<Cache>,
    sessions: Mutex<HashMap<u32, usize>>,
    /// Tells the keeper that there is something to do.
    pub(crate) keeper: Notify,
    /// Tells the writer behind that there is something to write.
    pub(crate) owes: Notify,
    /// Tells whoever waits that the store has taken something.
    pub(crate) written: Notify,
    pub(crate) beacon: Beacon,
    pub(crate) snapshot_bytes: session::SnapshotBytes,
    pub(crate) settings: Settings,
    pub(crate) limits: Limits,
    pub(crate) store: Option<Arc<Store>>,
    pub(crate) tier: Option<Arc<Tier>>,
    pub(crate) origins: Origins,
    pub(crate) fetches: Fetches,
    pub(crate) objects: Objects,
    pub(crate) started: Instant,
    pub(crate) own_uid: u32,
}

impl Agent {
    /// The cache, locked. A panic while it was locked would leave it in an unknown state, so it ends the agent: clients
    /// then find a new one, and what they have pinned stays readable.
    pub(crate) fn cache(&self) -> MutexGuard<'_, Cache> {
        self.cache.lock().unwrap_or_else(|_: PoisonError<_>| {
            tracing::error!("a panic left the cache in an unknown state; ending");
            std::process::abort()
        })
    }

    /// Makes memory that the cache asked for, on a thread that may block, and gives it to the cache.
    pub(crate) async fn supply(self: &Arc<Agent>, need: Need) -> Result<(), Refusal> {
        let agent = Arc::clone(self);
        // All of it runs there, so that a request that is given up meanwhile leaves the account right.
        let made = tokio::task::spawn_blocking(move || match prepare(need, &agent.settings.material) {
            Ok(prepared) => {
                agent.cache().supply(need, prepared);
                agent.keeper.notify_one();
                Ok(())
            }
            Err(error) => {
                warn!(%error, ?need, "shared memory could not be made");
                agent.cache().supply_failed(need);
                Err(Refusal::Failed(format!("{} bytes of shared memory could not be made: {error}", need.bytes())))
            }
        });
        made.await.unwrap_or_else(|error| Err(Refusal::Failed(error.to_string())))
    }

    /// Tries something until it does not need memory any more.
    pub(crate) async fn with_memory<T>(
        self: &Arc<Agent>,
        mut attempt: impl FnMut(&mut Cache) -> Result<T, Stop>,
    ) -> Result<T, Refusal> {
        let began = Instant::now();
        // Others may take what was made for us, but somebody makes progress in each round.
        for _ in 0..64 {
            // Before the attempt, or what the store takes meanwhile would not be heard of.
            let written = self.written.notified();
            let outcome = attempt(&mut self.cache());
            match outcome {
                Ok(value) => return Ok(value),
                Err(Stop::Refused(refusal)) => return Err(refusal),
                Err(Stop::Need(need)) => self.supply(need).await?,
                Err(Stop::Dirty(refusal)) => {
                    let left = ROOM_WAIT.saturating_sub(began.elapsed());
                    if tokio::time::timeout(left, written).await.is_err() {
                        return Err(refusal);
                    }
                }
            }
        }
        Err(Refusal::TooMany("others take memory faster than it can be made; try again".into()))
    }

    pub(crate) fn session_count(&self) -> usize {
        self.sessions.lock().unwrap_or_else(PoisonError::into_inner).values().sum()
    }

    fn admit(self: &Arc<Agent>, peer: Peer) -> Option<Seat> {
        let mut sessions = self.sessions.lock().unwrap_or_else(PoisonError::into_inner);
        let count = sessions.entry(peer.uid).or_default();
        if *count >= self.limits.sessions_per_uid {
            return None;
        }
        *count += 1;
        Some(Seat { agent: Arc::clone(self), uid: peer.uid })
    }
}

/// A session's place among those that its user may have, given up when dropped.
#[derive(Debug)]
pub(crate) struct Seat {
    pub(crate) agent: Arc<Agent>,
    uid: u32,
}

impl Drop for Seat {
    fn drop(&mut self) {
        let mut sessions = self.agent.sessions.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(count) = sessions.get_mut(&self.uid) {
            *count -= 1;
            if *count == 0 {
                sessions.remove(&self.uid);
                self.agent.objects.close_all_of(self.uid);
            }
        }
    }
}

/// Serves `listener` until `shutdown` completes; takes the capacities that come meanwhile. Then the socket goes, sessions end, and with them all memory but what
/// clients still have mapped.
pub async fn run(
    listener: Listener,
    settings: Settings,
    limits: Limits,
    backing: Backing,
    mut capacities: mpsc::Receiver<u64>,
    shutdown: impl Future<Output = ()>,
) -> io::Result<()> {
    let beacon = Beacon::light(&settings.material.platform)?;
    if !beacon.is_watched() {
        warn!("no robust futex: clients learn of this agent's death at their next message only");
    }
    let capacity_bytes = settings.capacity_bytes;
    let agent = Arc::new(Agent {
        cache: Mutex::new(Cache::new(settings.clone())),
        sessions: Mutex::new(HashMap::new()),
        keeper: Notify::new(),
        owes: Notify::new(),
        written: Notify::new(),
        beacon,
        snapshot_bytes: session::SnapshotBytes::default(),
        settings,
        limits,
        store: backing.store.map(Arc::new),
        tier: backing.disk.map(|disk| Arc::new(Tier::new(disk, capacity_bytes))),
        origins: backing.origins,
        fetches: Fetches::default(),
        objects: Objects::default(),
        started: Instant::now(),
        own_uid: nix::unistd::geteuid().as_raw(),
    });
    let (ending, ended) = watch::channel(false);
    let keeper = tokio::spawn(keeper::run(Arc::clone(&agent)));
    let writer = agent.store.clone().map(|store| tokio::spawn(write_back::run(Arc::clone(&agent), store)));
    let accepting = session::watched(listener.fd.try_clone()?)?;
    info!(socket = %listener.path.display(), capacity = agent.settings.capacity_bytes, "serving");
    tokio::pin!(shutdown);
    let mut next_session = 0;
    loop {
        let mut ready = tokio::select! {
            () = &mut shutdown => break,
            Some(capacity) = capacities.recv() => {
                info!(capacity, "resized");
                agent.cache().resize(capacity);
                agent.keeper.notify_one();
                continue;
            }
            ready = accepting.readable() => ready?,
        };
        let Ok(accepted) = ready.try_io(|fd| socket::accept(fd.as_fd())) else {
            continue;
        };
        let connection = match accepted {
            Ok(connection) => connection,
            Err(error) => {
                // Out of descriptors, most likely. Connections wait in the backlog until some session ends.
                warn!(%error, "a connection could not be accepted");
                tokio::time::sleep(Duration::from_millis(100)).await;
                continue;
            }
        };
        let Ok(peer) = socket::peer(&connection) else { continue };
        next_session += 1;
        match agent.admit(peer) {
            Some(seat) => {
                tokio::spawn(session::serve(seat, connection, peer, next_session, ended.clone()));
            }
            None => session::refuse(&connection, peer, agent.limits.sessions_per_uid),
        }
    }
    info!("ending");
    drop(accepting);
    let _ = ending.send(true);
    if let Some(store) = &agent.store {
        write_back::drain(&agent, store).await;
    }
    writer.inspect(tokio::task::JoinHandle::abort);
    if let Some(tier) = &agent.tier {
        tier.disk.close().await;
    }
    keeper.abort();
    drop(listener);
    Ok(())
}
