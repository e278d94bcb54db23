//! Runs every contender over every set.

use std::path::Path;

use crate::BenchResult;
use crate::harness::{ReadPlan, measure_reader};
use crate::hit::{Contender, HitStore, Scaling, contenders, scale};
use crate::machine::{cores, meminfo_bytes};
use crate::report::{Kind, Outcome, Section, Timed};
use crate::workload::{BlockSet, KeyOrder, grouped};
use crate::{Only, Scale};

/// A set of the hit tables.
struct Table {
    id: &'static str,
    set: BlockSet,
    /// The section that shows many readers at once over this set.
    scaling: Option<&'static str>,
    note: Option<String>,
}

/// The hit tables and their scaling tables.
pub(crate) fn run(scratch: &Path, scale: &Scale, only: &Only) -> Vec<Section> {
    tables(scale).iter().flat_map(|table| sections(scratch, scale, only, table)).collect()
}

fn tables(scale: &Scale) -> Vec<Table> {
    let available = meminfo_bytes("MemAvailable");
    let fewer = |wanted: u32, len_bytes: usize, share: u64| {
        let fit = available / share / len_bytes as u64;
        if fit >= u64::from(wanted) { wanted } else { u32::try_from(fit / 500 * 500).unwrap_or(wanted).max(500) }
    };
    let small = BlockSet { blocks: 10_000, len_bytes: 4096 };
    // A third of memory for one copy of the large set: servers need some more than the payload.
    let wanted_large = if scale.quick { 200 } else { 10_000 };
    let large = BlockSet {
        blocks: if scale.quick { 200 } else { large_blocks(fewer(wanted_large, 1_000_000, 3)) },
        len_bytes: 1_000_000,
    };
    // LMDB takes two pages for a value of one page, so a set needs twice its size and the rest of the machine some.
    let wanted_random = if scale.quick { 100_000 } else { 1_000_000 };
    let random = BlockSet { blocks: fewer(wanted_random, 4096, 3), len_bytes: 4096 };
    let why = |wanted: u32, set: &BlockSet| {
        (set.blocks < wanted).then(|| {
            format!(
                "{} blocks instead of {}: this is what {} MiB of available memory allow.",
                grouped(u64::from(set.blocks)),
                grouped(u64::from(wanted)),
                available >> 20
            )
        })
    };
    vec![
        Table { id: "hit-small", set: small, scaling: Some("hit-scaling"), note: None },
        Table { id: "hit-large", set: large, scaling: None, note: why(wanted_large, &large) },
        Table { id: "hit-random", set: random, scaling: Some("hit-scaling-random"), note: why(wanted_random, &random) },
    ]
}

/// 10,000 blocks, or a round 2,000 where memory does not allow them.
fn large_blocks(fit: u32) -> u32 {
    match fit {
        10_000.. => 10_000,
        2_000..10_000 => 2_000,
        fewer => fewer,
    }
}

fn sections(scratch: &Path, scale: &Scale, only: &Only, table: &Table) -> Vec<Section> {
    let title = table.set.title();
    let mut hits = Section::new(table.id, format!("Hit: {title}"), Kind::Hit);
    hits.notes.extend(table.note.clone());
    hits.notes.push(
        "Find the block, touch its first byte, let it go. Dependent: the byte just read chooses the next key. Each sample is the mean of so many gets as its row says; \
         percentiles are over samples, so single slow gets weigh less in rows with many gets a sample."
            .to_owned(),
    );
    let mut scaling = table.scaling.map(|id| Section::new(id, format!("Many readers: {title}"), Kind::Scaling));
    eprintln!("{}", hits.title);
    let order = KeyOrder::new(table.set.blocks);
    for contender in contenders() {
        if !only.wants(contender.name) {
            continue;
        }
        match load(scratch, &table.set, &contender) {
            Ok(store) => {
                measure(scale, &table.set, &order, &contender, &*store, &mut hits);
                if let (Some(section), Some(how)) = (&mut scaling, store.scaling()) {
                    measure_scaling(scale, &table.set, &order, &contender, how, section);
                }
            }
            Err(error) => hits.push_missing(contender.name, "-", error),
        }
    }
    [Some(hits), scaling.filter(|section| !section.rows.is_empty())].into_iter().flatten().collect()
}

fn load(scratch: &Path, set: &BlockSet, contender: &Contender) -> BenchResult<Box<dyn HitStore>> {
    /// Above this size what a store adds to each block no longer counts.
    const LARGE_BYTES: usize = 64 << 10;
    let factor = if set.len_bytes >= LARGE_BYTES { contender.memory_factor.min(1.4) } else { contender.memory_factor };
    let needed = (set.total_bytes() as f64 * factor / f64::from(1 << 20)).ceil();
    let available = (meminfo_bytes("MemAvailable") >> 20) as f64;
    if available < needed {
        return Err(format!("needs {needed} MiB of memory, {available} MiB are available").into());
    }
    (contender.load)(scratch, set)
}

fn plan(scale: &Scale, contender: &Contender) -> ReadPlan {
    ReadPlan {
        access: crate::workload::Access::Dependent,
        duration_ms: scale.row_ms(),
        touch_all_first: contender.in_place,
        reader: 0,
    }
}

fn measure(
    scale: &Scale,
    set: &BlockSet,
    order: &KeyOrder,
    contender: &Contender,
    store: &dyn HitStore,
    section: &mut Section,
) {
    for way in store.ways() {
        let plan = ReadPlan { access: way.access, ..plan(scale, contender) };
        let measured = store.reader(*way).and_then(|mut reader| measure_reader(&mut *reader, order, plan, || Ok(())));
        match measured {
            Ok(measured) => {
                section.push(contender.name, way.words, Outcome::Timed(Timed::new(&measured, set.len_bytes)))
            }
            Err(error) => section.push_missing(contender.name, way.words, error),
        }
    }
}

fn measure_scaling(
    scale: &Scale,
    set: &BlockSet,
    order: &KeyOrder,
    contender: &Contender,
    how: Scaling<'_>,
    section: &mut Section,
) {
    let plan = ReadPlan { access: how.way.access, ..plan(scale, contender) };
    for count in reader_counts() {
        let measured = scale::by_threads(how, order, plan, count);
        push_readers(set, contender, format!("threads: {count}"), measured, section);
    }
    for count in reader_counts() {
        let measured = scale::by_processes(how, set, plan, count);
        push_readers(set, contender, format!("processes: {count}"), measured, section);
    }
}

fn push_readers(
    set: &BlockSet,
    contender: &Contender,
    way: String,
    measured: BenchResult<crate::harness::Measured>,
    section: &mut Section,
) {
    match measured {
        Ok(measured) => section.push(contender.name, way, Outcome::Timed(Timed::new(&measured, set.len_bytes))),
        Err(error) => section.push_missing(contender.name, way, error),
    }
}

/// 1, 2, 4 and so on up to the cores, which are always among them.
fn reader_counts() -> Vec<usize> {
    let cores = cores();
    let mut counts: Vec<usize> =
        std::iter::successors(Some(1), |count| Some(count * 2)).take_while(|count| *count < cores).collect();
    counts.push(cores);
    counts
}
