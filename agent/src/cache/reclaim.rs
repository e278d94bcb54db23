//! Taking memory back within a tenant: what readers pin stays, what left the index waits in limbo until no slot names it.

use std::collections::HashSet;
use std::time::Instant;

use larder_protocol::layout::BlockId;
use larder_protocol::namespace::Eviction;

use super::blocks::State;
use super::tenant::Tenant;

impl Tenant {
    /// Frees what is in limbo and no longer pinned; returns the bytes freed.
    pub(crate) fn sweep(&mut self) -> u64 {
        if self.limbo.is_empty() {
            return 0;
        }
        // Everything in limbo is out of the index; the scan brings the fence that must come between.
        let pinned = self.pins.scan(|id| self.blocks.with_id(id).is_some());
        self.note_pinned(&pinned);
        let mut freed = 0;
        for at in std::mem::take(&mut self.limbo) {
            let id = self.blocks.get(at).id;
            let free = !pinned.contains(&id) && !self.lent.contains_key(&id); // mutate[tests=a_replaced_block_stays_whole]: sweep-pinned => let free = true;
            if free {
                let block = self.blocks.remove(at);
                self.segments.free(id, block.extent_len);
                freed += block.extent_len;
            } else {
                self.limbo.push(at);
            }
        }
        freed
    }

    pub(crate) fn limbo_len(&self) -> usize {
        self.limbo.len()
    }

    /// Looks again at what readers pin, for figures alone, unless the last such look was too short a while ago.
    pub(crate) fn look_for_figures(&mut self) {
        if self.pins.begin_look(Instant::now()) {
            if self.limbo.is_empty() {
                self.look_at_pins();
            } else {
                self.sweep();
            }
        }
    }

    /// Looks again at what readers pin.
    pub(crate) fn look_at_pins(&mut self) -> HashSet<BlockId> {
        let pinned = self.pins.scan(|id| self.blocks.with_id(id).is_some());
        self.note_pinned(&pinned);
        pinned
    }

    fn note_pinned(&mut self, pinned: &HashSet<BlockId>) {
        let bytes = pinned.iter().filter_map(|id| self.blocks.with_id(*id)).map(|at| self.blocks.get(at).extent_len);
        self.pinned_bytes = bytes.sum();
    }

    fn drain_touches(&mut self) {
        let (blocks, fifo, namespaces) = (&self.blocks, &mut self.fifo, &mut self.namespaces);
        self.pins.drain(|id| {
            let Some(at) = blocks.with_id(id) else { return };
            let own = namespaces.get_mut(blocks.get(at).namespace).and_then(|namespace| namespace.fifo.as_mut());
            own.unwrap_or(fifo).touch(at);
        });
    }

    /// Evicts unpinned blocks of at least `bytes` (of namespace `only`, if given), as far as there are any, and frees
    /// those that were not pinned meanwhile. Returns the bytes taken out of the index.
    pub(crate) fn evict(&mut self, bytes: u64, only: Option<u64>) -> u64 {
        self.drain_touches();
        let pinned = self.look_at_pins();
        let mut taken = 0;
        while taken < bytes {
            let Some(at) = self.next_victim(&pinned, only) else {
                break;
            };
            taken += self.blocks.get(at).extent_len;
            self.unpublish(at, State::Evicted);
            self.figures.evictions += 1;
        }
        self.sweep();
        taken
    }

    /// The next victim of the fullest queue.
    fn next_victim(&mut self, pinned: &HashSet<BlockId>, only: Option<u64>) -> Option<u32> {
        let blocks = &self.blocks;
        let mut veto = |at: u32| pinned.contains(&blocks.get(at).id);
        if let Some(only) = only {
            return self.namespaces.get_mut(only)?.fifo.as_mut()?.next_victim(&mut veto);
        }
        let own_bytes = self.fifo.bytes();
        let fullest = self.namespaces.iter_mut().filter_map(|(_, namespace)| namespace.fifo.as_mut());
        match fullest.max_by_key(|fifo| fifo.bytes()) {
            Some(fifo) if fifo.bytes() > own_bytes => {
                fifo.next_victim(&mut veto).or_else(|| self.fifo.next_victim(&mut veto))
            }
            _ => self.fifo.next_victim(&mut veto),
        }
    }

    /// Segments all of whose blocks may go now, those with the least in them first. One look at the blocks and the pins
    /// for all of them, since it is the full node that asks, over and over.
    pub(crate) fn emptiable(&mut self) -> Vec<u32> {
        let pinned = self.look_at_pins();
        let mut stuck = HashSet::new();
        for (_, block) in self.blocks.iter() {
            let keeps = || {
                let namespace = self.namespaces.get(block.namespace);
                namespace.is_some_and(|namespace| namespace.options.eviction == Eviction::Keep)
            };
            if pinned.contains(&block.id) || block.dirty || (block.state == State::Published && keeps()) {
                stuck.insert(block.id.segment());
            }
        }
        let segments = self.segments.iter().filter(|(id, _)| !stuck.contains(id));
        let mut order: Vec<(u64, u32)> = segments.map(|(id, segment)| (segment.extents.used_bytes(), id)).collect();
        order.sort_unstable();
        order.into_iter().map(|(_, id)| id).collect()
    }

    /// Empties a segment as far as its blocks may go. Returns whether it is unused now.
    pub(crate) fn clean(&mut self, segment: u32) -> bool {
        let there: Vec<u32> = self
            .blocks
            .iter()
            .filter(|(_, block)| block.id.segment() == segment && block.state == State::Published)
            .map(|(at, _)| at)
            .collect();
        let pinned = self.look_at_pins();
        let stays = |at: &u32| {
            let block = self.blocks.get(*at);
            let namespace = self.namespaces.get(block.namespace);
            namespace.is_some_and(|namespace| namespace.options.eviction == Eviction::Keep)
                || block.dirty
                || pinned.contains(&block.id)
        };
        if there.iter().any(stays) {
            return false;
        }
        for at in there {
            self.unpublish(at, State::Evicted);
            self.figures.evictions += 1;
        }
        self.sweep();
        self.segments.get(segment).is_some_and(|segment| segment.extents.is_unused())
    }

    /// Bytes that may not be evicted.
    pub(crate) fn kept_bytes(&self) -> u64 {
        let keeping = self.namespaces.iter().filter(|(_, namespace)| namespace.options.eviction == Eviction::Keep);
        keeping.map(|(_, namespace)| namespace.bytes).sum()
    }
}
