//! The parts of the demo: each has an agent, makes a namespace in it, and lets all readers at it.

use std::path::Path;
use std::time::Instant;

use anyhow::{Context, Result, bail};
use larder::Client;
use larder_protocol::namespace::{Durability, Eviction, NamespaceOptions};
use nix::sys::statvfs::statvfs;

use super::agent::{Agent, Setup};
use super::interrupt::Interrupt;
use super::load::{Loaded, load};
use super::measure::{Known, Told};
use super::origin::Origin;
use super::readers::Readers;
use super::report::{AskFigures, Kept, VerifyFigures};
use super::tree::Tree;
use super::{FETCHED, KEPT, LOADED, store};
use crate::output::Output;

/// What all parts have in common.
#[derive(Debug)]
pub(super) struct Stage<'a> {
    pub(super) setup: Setup<'a>,
    pub(super) count: u32,
    pub(super) loaded_at_ns: i128,
    pub(super) interrupt: &'a Interrupt,
    pub(super) output: Output,
}

impl Stage<'_> {
    /// An agent.
    pub(super) fn start_agent(&self) -> Result<Agent> {
        let spinner = self.output.spinner("starting an agent");
        let agent = Agent::start(&self.setup, self.interrupt);
        spinner.finish_and_clear();
        agent
    }

    /// Loads the files of a directory by puts, and starts readers of them.
    pub(super) fn load(&self, agent: &Agent, client: &Client, tree: &mut Tree) -> Result<(Loaded, Readers)> {
        let root = tree.root.clone().context("there is no directory to load")?;
        let options = NamespaceOptions { eviction: Eviction::Keep, ..scratch() };
        let namespace = client.create_namespace(LOADED, &options)?;
        let bar = self.output.bar("loading", tree.bytes);
        let loaded = load(&namespace, &root, tree, self.interrupt, &bar);
        bar.finish_and_clear();
        let loaded = loaded?;
        if loaded.blocks == 0 {
            bail!("no file under {} can be read", root.display());
        }
        let told = Told { root: Some(root), loaded_at_ns: self.loaded_at_ns, ..Told::default() };
        let readers = Readers::start(self.count, agent, LOADED, &told, loaded.blocks, self.interrupt)?;
        Ok((loaded, readers))
    }

    /// Lets readers compare everything.
    pub(super) fn verify(&self, readers: &mut Readers, bytes: u64) -> Result<VerifyFigures> {
        let bar = self.output.bar("verifying", bytes * u64::from(self.count));
        let verified = readers.verify(self.interrupt, |bytes| bar.inc(bytes));
        bar.finish_and_clear();
        Ok(VerifyFigures::new(&verified?))
    }

    /// Starts readers that all fetch everything from an origin, at the same time and in the same order.
    pub(super) fn fetch(
        &self,
        agent: &Agent,
        client: &Client,
        tree: &Tree,
        origin: &Origin,
    ) -> Result<(AskFigures, Readers)> {
        client.create_namespace(FETCHED, &scratch())?;
        let known = tree.entries.iter().map(|entry| Known { key: entry.key.clone(), digest: None }).collect();
        let told =
            Told { root: tree.root.clone(), origin: Some(origin.clone()), known, loaded_at_ns: self.loaded_at_ns };
        let blocks = tree.entries.len() as u64;
        let mut readers = Readers::start(self.count, agent, FETCHED, &told, blocks, self.interrupt)?;
        let bar = self.output.bar("fetching", tree.bytes * u64::from(self.count));
        let asked = readers.ask_all(self.interrupt, |bytes| bar.inc(bytes));
        bar.finish_and_clear();
        let tenant = client.stat()?.tenant;
        let fetched = AskFigures::new(&asked?, tenant.fetches, tenant.fetch_bytes);
        if let Some(why) = fetched.failure.as_ref().filter(|_| self.setup.origin.is_some() || fetched.blocks == 0) {
            bail!("cannot fetch {why}");
        }
        Ok((fetched, readers))
    }

    /// Puts what was fetched into the store, kills the agent, starts another, and lets readers find everything there.
    pub(super) fn keep_in_store(
        &self,
        agent: Agent,
        client: Client,
        tree: &Tree,
        origin: &Origin,
        store: &Path,
    ) -> Result<(Agent, Kept)> {
        let room = statvfs(store).with_context(|| format!("cannot look at {}", store.display()))?;
        let free_bytes = room.blocks_available() as u64 * room.fragment_size() as u64;
        let (entries, bytes) = tree.sample(store::limit(self.setup.capacity, free_bytes));
        let options = NamespaceOptions { durability: Some(Durability::Through), ..NamespaceOptions::default() };
        let (from, to) = (client.namespace(FETCHED)?, client.create_namespace(KEPT, &options)?);
        let bar = self.output.bar("storing", bytes);
        let saved = store::save(&entries, &from, origin, &to, self.interrupt, &bar);
        bar.finish_and_clear();
        let saved = saved?;
        if saved.known.is_empty() {
            bail!("there is no room for a store in {}", store.display());
        }
        drop((from, to, client));
        agent.kill()?;
        let start = Instant::now();
        let agent = self.start_agent()?;
        let restart_seconds = start.elapsed().as_secs_f64();

        let blocks = saved.known.len() as u64;
        let told = Told { known: saved.known.clone(), ..Told::default() };
        let mut readers = Readers::start(self.count, &agent, KEPT, &told, blocks, self.interrupt)?;
        let bar = self.output.bar("reading", saved.bytes * u64::from(self.count));
        let asked = readers.ask_all(self.interrupt, |bytes| bar.inc(bytes));
        bar.finish_and_clear();
        let tenant = agent.connect()?.stat()?.tenant;
        let read = AskFigures::new(&asked?, tenant.loads, tenant.load_bytes);
        if let Some(why) = &read.failure {
            bail!("{} of {blocks} blocks cannot be read from the store: {why}", read.failed);
        }
        let verified = self.verify(&mut readers, saved.bytes)?;
        Ok((agent, Kept { saved, restart_seconds, read, verified }))
    }
}

/// Options of a namespace that no store has.
fn scratch() -> NamespaceOptions {
    NamespaceOptions { durability: Some(Durability::Scratch), ..NamespaceOptions::default() }
}
