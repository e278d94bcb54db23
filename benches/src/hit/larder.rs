//! Larder as a store of blocks: read in place, no call to anybody.

use std::path::Path;

use larder::Namespace;

use crate::BenchResult;
use crate::agent::{self, Agent};
use crate::harness::Reader;
use crate::hit::{ChildKind, DEPENDENT, HitStore, INDEPENDENT, MANY_WORDS, Scaling, Way};
use crate::workload::{Access, BlockSet, MANY, Walk, for_each_batch, walk_each};

struct LarderStore {
    agent: Agent,
    namespace: Namespace,
}

pub(crate) fn load(scratch: &Path, set: &BlockSet) -> BenchResult<Box<dyn HitStore>> {
    start(scratch, set, &[])
}

pub(crate) fn load_huge(scratch: &Path, set: &BlockSet) -> BenchResult<Box<dyn HitStore>> {
    start(scratch, set, &agent::huge_pages()?)
}

fn start(scratch: &Path, set: &BlockSet, more: &[&str]) -> BenchResult<Box<dyn HitStore>> {
    let agent = Agent::start(scratch, capacity_bytes(set), more)?;
    let namespace = agent.namespace()?;
    for_each_batch(set, |items| agent::put_many(&namespace, items))?;
    Ok(Box::new(LarderStore { agent, namespace }))
}

/// Room for a set, its headers and its index, so that nothing is evicted.
pub(crate) fn capacity_bytes(set: &BlockSet) -> usize {
    let per_block = set.len_bytes.next_multiple_of(64) + 512;
    set.blocks as usize * per_block * 5 / 4 + (512 << 20)
}

impl HitStore for LarderStore {
    fn ways(&self) -> &'static [Way] {
        &[DEPENDENT, INDEPENDENT, Way { words: MANY_WORDS, access: Access::Many }]
    }

    fn reader(&self, way: Way) -> BenchResult<Box<dyn Reader + '_>> {
        reader(&self.namespace, way)
    }

    fn scaling(&self) -> Option<Scaling<'_>> {
        Some(Scaling { store: self, way: DEPENDENT, kind: ChildKind::Larder, path: self.agent.socket() })
    }
}

/// A reader over a namespace, for this process's threads and for children alike.
pub(crate) fn reader(namespace: &Namespace, way: Way) -> BenchResult<Box<dyn Reader + 'static>> {
    let namespace = namespace.clone();
    if way.access == Access::Many { Ok(Box::new(Vectored { namespace })) } else { Ok(Box::new(OneByOne { namespace })) }
}

struct OneByOne {
    namespace: Namespace,
}

impl Reader for OneByOne {
    fn batch(&mut self, walk: &mut Walk<'_>, access: Access, ops: usize) -> BenchResult<()> {
        walk_each(walk, access, ops, |key| Ok(self.namespace.get(key)?[0]))
    }
}

struct Vectored {
    namespace: Namespace,
}

impl Reader for Vectored {
    fn batch(&mut self, walk: &mut Walk<'_>, access: Access, ops: usize) -> BenchResult<()> {
        if access != Access::Many {
            return walk_each(walk, access, ops, |key| Ok(self.namespace.get(key)?[0]));
        }
        for _ in 0..ops / MANY {
            let blocks = self.namespace.get_many(&walk.many_keys());
            let mut bytes = [0; MANY];
            for (byte, block) in bytes.iter_mut().zip(blocks) {
                *byte = block?[0];
            }
            walk.took_many(bytes.into_iter());
        }
        Ok(())
    }
}
