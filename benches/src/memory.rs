//! What a block costs beside its payload: bytes of the shared index and of the agent's heap.

use std::path::Path;

use crate::agent::{self, Agent};
use crate::hit::{LARDER, capacity_bytes};
use crate::report::{Kind, Outcome, Section};
use crate::server::private_resident_bytes;
use crate::workload::{BlockSet, KEY_LEN_BYTES, for_each_batch, grouped};
use crate::{BenchResult, Only, Scale};

pub(crate) const INDEX: &str = "shared index, bytes a block, mean over a growth cycle";
const INDEX_END: &str = "shared index, bytes a block, at the end";
pub(crate) const HEAP: &str = "agent's heap, bytes a block";
const RESIDENT: &str = "agent's private resident memory, bytes a block";

/// A growth cycle is a doubling: the last one is sampled at so many even steps.
const STEPS: u32 = 32;

/// The memory table.
pub(crate) fn run(scratch: &Path, scale: &Scale, only: &Only) -> Section {
    let set = BlockSet { blocks: if scale.quick { 100_000 } else { 1_000_000 }, len_bytes: 4096 };
    let mut section = Section::new("memory", format!("Memory beside the payload: {}", set.title()), Kind::Figures);
    section.notes.push(format!(
        "Keys of {KEY_LEN_BYTES} bytes. The growth cycle is the doubling from {} to {} blocks. The heap is the agent's own figure and resident memory is RssAnon, both after the load less before it.",
        grouped(u64::from(set.blocks / 2)),
        grouped(u64::from(set.blocks))
    ));
    eprintln!("{}", section.title);
    if only.wants(LARDER)
        && let Err(error) = measure(scratch, &set, &mut section)
    {
        section.push_missing(LARDER, "-", error);
    }
    section
}

fn measure(scratch: &Path, set: &BlockSet, section: &mut Section) -> BenchResult<()> {
    let agent = Agent::start(scratch, capacity_bytes(set), &[])?;
    let client = agent::connect(agent.socket())?;
    let namespace = agent.namespace()?;
    let empty = agent::memory_figures(&client)?;
    let resident_before = private_resident_bytes(agent.pid())?;
    let mut loaded = 0u32;
    let mut next_sample = set.blocks / 2;
    let mut samples = Vec::new();
    for_each_batch(set, |items| {
        agent::put_many(&namespace, items)?;
        loaded += u32::try_from(items.len())?;
        if loaded > next_sample {
            samples.push(agent::memory_figures(&client)?.index_bytes as f64 / f64::from(loaded));
            next_sample += set.blocks / 2 / STEPS;
        }
        Ok(())
    })?;
    let end = agent::memory_figures(&client)?;
    let blocks = f64::from(set.blocks);
    let resident = private_resident_bytes(agent.pid())?.saturating_sub(resident_before);
    let figure = |figure: f64| Outcome::Figure { figure, unit: "bytes" };
    section.push(LARDER, INDEX, figure(samples.iter().sum::<f64>() / samples.len().max(1) as f64));
    section.push(LARDER, INDEX_END, figure(end.index_bytes as f64 / blocks));
    section.push(LARDER, HEAP, figure(end.heap_bytes.saturating_sub(empty.heap_bytes) as f64 / blocks));
    section.push(LARDER, RESIDENT, figure(resident as f64 / blocks));
    Ok(())
}
