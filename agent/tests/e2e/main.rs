//! The real agent and the real client library, process against process.
//!
//! Each test starts `larderd` on a directory of its own ([`harness`]) and uses it through the crate `larder`, from this
//! process and from others: [`puppet`] is this program again, which does what a test tells it, may fork and become
//! another program, and is stopped and killed like any client. Blocks are filled by [`pattern`], so that whoever reads one
//! can tell whether each byte is the right one.

mod full_store;
mod harness;
mod pattern;
mod proc;
mod puppet;
mod roles;

mod back;
mod basics;
mod churn;
mod death;
mod disk;
mod errors;
mod fetch;
mod fork;
mod hits;
mod keys;
mod large;
mod many;
mod namespaces;
mod resize;
mod room;
mod sizes;
mod store;
mod time;
mod unreadable;
mod writers;
