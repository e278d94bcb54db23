//! Real object stores for tests, on free loopback ports and in directories of their own, and a proxy that makes them fail.
//!
//! [`server`] starts and ends the servers that `scripts/servers` installs. Each says under which URL, and with which
//! variables in its environment, an agent uses it. [`FaultProxy`] stands between an agent and a server and does to their
//! connections what networks and overloaded services do.
//!
//! Nothing here outlives the test: servers end with the value that started them, and also when the test's process is killed.

#![forbid(unsafe_code)]

pub mod http;
mod port;
mod process;
pub mod proxy;
pub mod server;

pub use port::Port;
pub use proxy::{Fault, FaultProxy, On, Rule};
pub use server::{Absent, Server, Store};
