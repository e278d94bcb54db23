//! memcached over a UNIX socket: a client of the text protocol's `get` and `set`, no more.

use std::ffi::OsStr;
use std::io::IoSlice;
use std::path::{Path, PathBuf};

use crate::BenchResult;
use crate::rivals::socket::{Connection, decimal};
use crate::server::Server;

/// A memcached server of the bench's own.
#[derive(Debug)]
pub(crate) struct MemcachedServer {
    server: Server,
    socket: PathBuf,
}

impl MemcachedServer {
    /// Starts a server that holds `memory_bytes` and items of up to `item_bytes`.
    pub(crate) fn start(scratch: &Path, memory_bytes: usize, item_bytes: usize) -> BenchResult<Self> {
        let socket = scratch.join("memcached.sock");
        let memory_mib = (memory_bytes >> 20).max(64).to_string();
        // An item is its value, its key and a header; below one MiB the server keeps its own default.
        let item_kib = format!("{}k", (item_bytes.next_power_of_two() * 2).max(1 << 20) >> 10);
        let user = nix::unistd::User::from_uid(nix::unistd::geteuid())
            .ok()
            .flatten()
            .map_or_else(|| "root".to_owned(), |user| user.name);
        let arguments = [
            OsStr::new("-s"),
            socket.as_os_str(),
            OsStr::new("-m"),
            OsStr::new(&memory_mib),
            OsStr::new("-I"),
            OsStr::new(&item_kib),
            OsStr::new("-u"),
            OsStr::new(&user),
        ];
        let server = Server::start(OsStr::new("memcached"), &arguments, || Connection::open(&socket).is_ok())?;
        Ok(Self { server, socket })
    }

    pub(crate) fn pid(&self) -> u32 {
        self.server.pid()
    }

    pub(crate) fn connect(&self) -> BenchResult<MemcachedClient> {
        Ok(MemcachedClient { connection: Connection::open(&self.socket)? })
    }
}

/// A connection that speaks `get` and `set`.
#[derive(Debug)]
pub(crate) struct MemcachedClient {
    connection: Connection,
}

impl MemcachedClient {
    /// Reads a value into a buffer that is long enough, and returns how long it is.
    pub(crate) fn get(&mut self, key: &str, into: &mut [u8]) -> BenchResult<usize> {
        self.connection.send(&mut [IoSlice::new(b"get "), IoSlice::new(key.as_bytes()), IoSlice::new(b"\r\n")])?;
        let len_bytes = self.connection.line(|line| {
            if line == b"END" {
                return Err("a key is not found".into());
            }
            decimal(line.rsplit(|byte| *byte == b' ').next().unwrap_or_default())
        })?;
        let room = into.len();
        self.connection.bytes(
            into.get_mut(..len_bytes).ok_or_else(|| format!("a value of {len_bytes} bytes does not fit in {room}"))?,
        )?;
        // The rest of the value's line, then `END`.
        self.connection.line(|_| Ok(()))?;
        self.connection.line(|_| Ok(()))?;
        Ok(len_bytes)
    }

    /// Sends all sets, then takes all answers.
    pub(crate) fn set_many(&mut self, items: &[(&str, &[u8])]) -> BenchResult<()> {
        let heads: Vec<String> =
            items.iter().map(|(key, value)| format!("set {key} 0 0 {}\r\n", value.len())).collect();
        let mut parts = Vec::with_capacity(items.len() * 3);
        for ((_, value), head) in items.iter().zip(&heads) {
            parts.extend([head.as_bytes(), value, b"\r\n"].map(IoSlice::new));
        }
        self.connection.send(&mut parts)?;
        for _ in items {
            self.connection.line(|line| {
                if line == b"STORED" {
                    Ok(())
                } else {
                    Err(format!("unexpected answer {}", line.escape_ascii()).into())
                }
            })?;
        }
        Ok(())
    }
}
