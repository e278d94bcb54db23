//! Larder puts: fresh keys, an agent that evicts, and every byte checksummed by the agent.

use std::path::Path;

use larder::Namespace;

use crate::BenchResult;
use crate::agent::{self, Agent};
use crate::put::{PutStore, Shape};

/// How much more than the live bytes of other stores the agent keeps, so that its segments have their usual size.
const CAPACITY_FACTOR: usize = 4;

struct LarderPut {
    namespace: Namespace,
    by_writer: bool,
    fill_bytes: usize,
    _agent: Agent,
}

pub(crate) fn start(scratch: &Path, shape: &Shape) -> BenchResult<Box<dyn PutStore>> {
    open(scratch, shape, &[], false)
}

pub(crate) fn start_spin(scratch: &Path, shape: &Shape) -> BenchResult<Box<dyn PutStore>> {
    open(scratch, shape, &["--spin"], false)
}

pub(crate) fn start_writer(scratch: &Path, shape: &Shape) -> BenchResult<Box<dyn PutStore>> {
    open(scratch, shape, &[], true)
}

fn open(scratch: &Path, shape: &Shape, more: &[&str], by_writer: bool) -> BenchResult<Box<dyn PutStore>> {
    let capacity_bytes = shape.live_bytes * CAPACITY_FACTOR;
    let agent = Agent::start(scratch, capacity_bytes, more)?;
    Ok(Box::new(LarderPut { namespace: agent.namespace()?, by_writer, fill_bytes: capacity_bytes, _agent: agent }))
}

impl PutStore for LarderPut {
    fn replaces(&self) -> bool {
        false
    }

    fn fill_bytes(&self, _shape: &Shape) -> usize {
        self.fill_bytes
    }

    fn put(&mut self, key: &str, block: &[u8]) -> BenchResult<()> {
        if self.by_writer {
            let mut writer = self.namespace.create(key, block.len())?;
            writer.as_mut_slice().copy_from_slice(block);
            writer.commit()?;
        } else {
            self.namespace.put(key, block)?;
        }
        Ok(())
    }

    fn put_many(&mut self, items: &[(&str, &[u8])]) -> BenchResult<()> {
        agent::put_many(&self.namespace, items)
    }
}
