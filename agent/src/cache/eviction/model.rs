//! `S3Fifo` beside the same policy written with plain queues that are searched from end to end.

use std::collections::VecDeque;

use proptest::prelude::*;

use super::S3Fifo;

/// Ids and fingerprints come from ranges so small that both are met again and again.
const IDS: u32 = 200;
const FINGERPRINTS: u64 = 300;

#[derive(Clone, Copy)]
struct Block {
    id: u32,
    bytes: u64,
    fingerprint: u64,
    freq: u8,
}

#[derive(Default)]
struct Model {
    small: VecDeque<Block>,
    main: VecDeque<Block>,
    /// A fingerprint that came back leaves its place behind.
    ghost: VecDeque<Option<u64>>,
}

impl Model {
    fn take_ghost(&mut self, fingerprint: u64) -> bool {
        let place = self.ghost.iter().rposition(|&ghost| ghost == Some(fingerprint));
        if place.is_some() {
            // Two blocks of one fingerprint may have been evicted; they are taken as one.
            for ghost in &mut self.ghost {
                if *ghost == Some(fingerprint) {
                    *ghost = None;
                }
            }
        }
        place.is_some()
    }

    fn find(&mut self, id: u32) -> Option<&mut Block> {
        self.small.iter_mut().chain(&mut self.main).find(|block| block.id == id)
    }

    fn bytes(&self) -> u64 {
        self.small.iter().chain(&self.main).map(|block| block.bytes).sum()
    }

    fn small_is_over_share(&self) -> bool {
        !self.small.is_empty() && self.small.iter().map(|block| block.bytes).sum::<u64>() * 10 >= self.bytes()
    }

    fn look_at_small(&mut self, pinned: impl Fn(u32) -> bool) -> Option<u32> {
        let block = self.small.pop_front()?;
        if block.freq > 1 || pinned(block.id) {
            self.main.push_back(Block { freq: 0, ..block });
            return None;
        }
        while self.ghost.len() >= self.main.len().max(64) {
            self.ghost.pop_front();
        }
        self.ghost.push_back(Some(block.fingerprint));
        Some(block.id)
    }

    fn look_at_main(&mut self, pinned: impl Fn(u32) -> bool) -> Option<u32> {
        // Three rounds use up every read that was counted, the fourth finds what is not pinned.
        for _ in 0..4 * self.main.len() {
            let block = self.main.pop_front()?;
            if block.freq == 0 && !pinned(block.id) {
                return Some(block.id);
            }
            self.main.push_back(Block { freq: block.freq.saturating_sub(1), ..block });
        }
        None
    }

    fn next_victim(&mut self, pinned: impl Fn(u32) -> bool + Copy) -> Option<u32> {
        while self.small_is_over_share() {
            if let Some(id) = self.look_at_small(pinned) {
                return Some(id);
            }
        }
        if let Some(id) = self.look_at_main(pinned) {
            return Some(id);
        }
        while !self.small.is_empty() {
            if let Some(id) = self.look_at_small(pinned) {
                return Some(id);
            }
        }
        self.look_at_main(pinned)
    }
}

#[derive(Clone, Debug)]
enum Step {
    Insert {
        id: u32,
        bytes: u64,
        fingerprint: u64,
    },
    Touch(u32),
    Remove(u32),
    /// Ask for so many victims while every id with one of these remainders modulo 8 is pinned.
    Victims {
        count: usize,
        pinned: Vec<u32>,
    },
    /// Ask for one victim and put it back.
    Spare,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let insert = (0..IDS, prop_oneof![0..=200u64, Just(5000)], 0..FINGERPRINTS)
        .prop_map(|(id, bytes, fingerprint)| Step::Insert { id, bytes, fingerprint });
    let victims =
        (1..6usize, prop::collection::vec(0..8u32, 0..4)).prop_map(|(count, pinned)| Step::Victims { count, pinned });
    let everything_pinned = Just(Step::Victims { count: 1, pinned: (0..8).collect() });
    let step = prop_oneof![
        40 => insert,
        40 => (0..IDS + 2).prop_map(Step::Touch),
        5 => (0..IDS + 2).prop_map(Step::Remove),
        10 => victims,
        1 => everything_pinned,
        4 => Just(Step::Spare),
    ];
    prop::collection::vec(step, 1..1500)
}

fn run(steps: Vec<Step>) {
    let mut fifo = S3Fifo::new();
    let mut model = Model::default();
    for step in steps {
        match step {
            Step::Insert { id, .. } if fifo.contains(id) => {}
            Step::Insert { id, bytes, fingerprint } => {
                fifo.insert(id, bytes, fingerprint);
                let block = Block { id, bytes, fingerprint, freq: 0 };
                if model.take_ghost(fingerprint) {
                    model.main.push_back(block);
                } else {
                    model.small.push_back(block);
                }
            }
            Step::Touch(id) => {
                fifo.touch(id);
                if let Some(block) = model.find(id) {
                    block.freq = (block.freq + 1).min(3);
                }
            }
            Step::Remove(id) => {
                fifo.remove(id);
                model.small.retain(|block| block.id != id);
                model.main.retain(|block| block.id != id);
            }
            Step::Victims { count, pinned } => {
                let is_pinned = |id: u32| pinned.contains(&(id % 8));
                for _ in 0..count {
                    let victim = fifo.next_victim(&mut { is_pinned });
                    assert_eq!(victim, model.next_victim(is_pinned));
                    assert!(victim.is_none_or(|id| !is_pinned(id) && !fifo.contains(id)));
                }
            }
            Step::Spare => {
                let before: Vec<_> = model.small.iter().chain(&model.main).copied().collect();
                let victim = fifo.next_victim(&mut |_| false);
                assert_eq!(victim, model.next_victim(|_| false));
                if let Some(block) = before.into_iter().find(|block| Some(block.id) == victim) {
                    fifo.reinsert(block.id, block.bytes, block.fingerprint);
                    model.take_ghost(block.fingerprint);
                    model.main.push_back(Block { freq: 0, ..block });
                }
            }
        }
        fifo.validate();
        assert_eq!(fifo.bytes(), model.bytes());
        assert_eq!(fifo.len(), model.small.len() + model.main.len());
    }
    // What is left leaves in the same order, too.
    while let Some(id) = model.next_victim(|_| false) {
        assert_eq!(fifo.next_victim(&mut |_| false), Some(id));
    }
    assert_eq!(fifo.next_victim(&mut |_| false), None);
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn agrees_with_plain_queues(steps in steps()) {
        run(steps);
    }
}
