//! The command against a real agent: what it prints, what it leaves, how it ends.

mod blocks;
mod demo;
mod harness;
mod namespaces;
mod node;
