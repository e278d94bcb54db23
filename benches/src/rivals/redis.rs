//! Redis over a UNIX socket: a client of two commands, so that no library is a handicap.

use std::ffi::OsStr;
use std::io::IoSlice;
use std::path::{Path, PathBuf};

use crate::BenchResult;
use crate::rivals::socket::{Connection, decimal};
use crate::server::Server;

/// A Redis server of the bench's own, in memory only.
#[derive(Debug)]
pub(crate) struct RedisServer {
    server: Server,
    socket: PathBuf,
}

impl RedisServer {
    pub(crate) fn start(scratch: &Path) -> BenchResult<Self> {
        let socket = scratch.join("redis.sock");
        let arguments = ["--port", "0", "--save", "", "--appendonly", "no", "--daemonize", "no", "--unixsocket"];
        let mut arguments: Vec<&OsStr> = arguments.iter().map(OsStr::new).collect();
        arguments.extend([socket.as_os_str(), OsStr::new("--dir"), scratch.as_os_str()]);
        let server = Server::start(OsStr::new("redis-server"), &arguments, || Connection::open(&socket).is_ok())?;
        Ok(Self { server, socket })
    }

    pub(crate) fn pid(&self) -> u32 {
        self.server.pid()
    }

    pub(crate) fn connect(&self) -> BenchResult<RedisClient> {
        Ok(RedisClient { connection: Connection::open(&self.socket)? })
    }
}

/// A connection that speaks as much RESP as GET and SET need.
#[derive(Debug)]
pub(crate) struct RedisClient {
    connection: Connection,
}

impl RedisClient {
    /// Reads a value into a buffer that is long enough, and returns how long it is.
    pub(crate) fn get(&mut self, key: &str, into: &mut [u8]) -> BenchResult<usize> {
        let head = format_head(b"*2\r\n$3\r\nGET\r\n$", key.len());
        self.connection.send(&mut [IoSlice::new(&head), IoSlice::new(key.as_bytes()), IoSlice::new(b"\r\n")])?;
        let len_bytes = self.connection.line(|line| match line {
            [b'$', b'-', ..] => Err("a key is not found".into()),
            [b'$', digits @ ..] => decimal(digits),
            other => Err(format!("unexpected answer {}", other.escape_ascii()).into()),
        })?;
        let room = into.len();
        self.connection.bytes(
            into.get_mut(..len_bytes).ok_or_else(|| format!("a value of {len_bytes} bytes does not fit in {room}"))?,
        )?;
        self.connection.line(|_| Ok(()))?;
        Ok(len_bytes)
    }

    /// Sends all sets, then takes all answers.
    pub(crate) fn set_many(&mut self, items: &[(&str, &[u8])]) -> BenchResult<()> {
        let heads: Vec<(Vec<u8>, Vec<u8>)> = items
            .iter()
            .map(|(key, value)| (format_head(b"*3\r\n$3\r\nSET\r\n$", key.len()), format_head(b"\r\n$", value.len())))
            .collect();
        let mut parts = Vec::with_capacity(items.len() * 5);
        for ((key, value), (head, middle)) in items.iter().zip(&heads) {
            parts.extend([head.as_slice(), key.as_bytes(), middle.as_slice(), value, b"\r\n"].map(IoSlice::new));
        }
        self.connection.send(&mut parts)?;
        for _ in items {
            self.connection.line(|line| {
                if line == b"+OK" { Ok(()) } else { Err(format!("unexpected answer {}", line.escape_ascii()).into()) }
            })?;
        }
        Ok(())
    }
}

fn format_head(command: &[u8], len_bytes: usize) -> Vec<u8> {
    let mut head = Vec::with_capacity(40);
    head.extend_from_slice(command);
    head.extend_from_slice(len_bytes.to_string().as_bytes());
    head.extend_from_slice(b"\r\n");
    head
}
