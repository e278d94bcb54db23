//! Incarnations that have blocks here, by small numbers. One is ended by a mark, whatever the number of its blocks: what
//! they take is given back little by little.

use std::collections::HashMap;

#[derive(Debug)]
struct Group {
    hash: u64,
    blocks: usize,
    is_live: bool,
}

/// The groups of the blocks.
#[derive(Debug, Default)]
pub(super) struct Groups {
    groups: Vec<Group>,
    free: Vec<u32>,
    live: HashMap<u64, u32>,
    ended_blocks: usize,
}

impl Groups {
    /// The number of a group, with one more block.
    pub(super) fn enter(&mut self, hash: u64) -> u32 {
        let number = match self.live.get(&hash) {
            Some(number) => *number,
            None => self.make(hash),
        };
        self.groups[number as usize].blocks += 1;
        number
    }

    /// One block less. The group's hash.
    pub(super) fn leave(&mut self, number: u32) -> u64 {
        let group = &mut self.groups[number as usize];
        group.blocks -= 1;
        let (hash, is_live) = (group.hash, group.is_live);
        if !is_live {
            self.ended_blocks -= 1;
        }
        if group.blocks == 0 {
            if is_live {
                self.live.remove(&hash);
            }
            self.free.push(number);
        }
        hash
    }

    /// The hash of a group that has blocks.
    pub(super) fn hash_of(&self, number: u32) -> u64 {
        self.groups[number as usize].hash
    }

    /// The hash of a group that was not ended.
    pub(super) fn hash_of_live(&self, number: u32) -> Option<u64> {
        self.groups.get(number as usize).filter(|group| group.is_live).map(|group| group.hash)
    }

    /// Ends a group: whoever enters it from now on enters another.
    pub(super) fn end(&mut self, hash: u64) {
        if let Some(number) = self.live.remove(&hash) {
            let group = &mut self.groups[number as usize];
            group.is_live = false;
            self.ended_blocks += group.blocks;
        }
    }

    /// Blocks that are still counted in groups that were ended.
    pub(super) fn ended_blocks(&self) -> usize {
        self.ended_blocks
    }

    fn make(&mut self, hash: u64) -> u32 {
        let group = Group { hash, blocks: 0, is_live: true };
        let number = if let Some(number) = self.free.pop() {
            self.groups[number as usize] = group;
            number
        } else {
            self.groups.push(group);
            u32::try_from(self.groups.len() - 1).expect("no more groups than blocks")
        };
        self.live.insert(hash, number);
        number
    }
}
