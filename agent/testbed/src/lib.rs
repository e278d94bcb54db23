//! Real object stores for tests, on free loopback ports and in directories of their own.
//!
//! [`server`] starts and ends the servers that `scripts/servers` installs. Each says under which URL, and with which
//! variables in its environment, an agent uses it.
//!
//! Nothing here outlives the test: servers end with the value that started them, and also when the test's process is killed.

#![forbid(unsafe_code)]

pub mod http;
mod port;
mod process;

pub mod server;

pub use port::Port;

pub use server::{Absent, Server, Store};
