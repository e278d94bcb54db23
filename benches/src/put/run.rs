//! Runs every contender over every shape.

use std::path::Path;
use std::time::{Duration, Instant};

use crate::BenchResult;
use crate::harness::{Measured, nanos, ops_per_sample};
use crate::machine::meminfo_bytes;
use crate::put::{Contender, PutStore, Shape, contenders};
use crate::report::{Kind, Outcome, Section, Timed};
use crate::workload::{MANY, noise, size_words};
use crate::{Only, Scale};

/// Puts that are timed at least, however long they take.
const FEWEST_SAMPLES: u64 = 16;

/// Blocks are cut from so much noise in turn, so that no cache holds what is put next.
const SOURCE_BYTES: usize = 512 << 20;

/// The put tables.
pub(crate) fn run(scratch: &Path, scale: &Scale, only: &Only) -> Vec<Section> {
    let source = noise(if scale.quick { SOURCE_BYTES / 4 } else { SOURCE_BYTES });
    shapes(scale).iter().map(|shape| section(scratch, scale, only, shape, &source)).collect()
}

fn shapes(scale: &Scale) -> Vec<Shape> {
    let live_bytes = if scale.quick { 256 << 20 } else { 1 << 30 };
    vec![
        Shape { id: "put-small", title: "4 KiB, one at a time", len_bytes: 4 << 10, many: false, live_bytes },
        Shape { id: "put-many", title: "4 KiB, 64 at a time", len_bytes: 4 << 10, many: true, live_bytes },
        Shape { id: "put-medium", title: "1 MiB, one at a time", len_bytes: 1 << 20, many: false, live_bytes },
        Shape { id: "put-large", title: "64 MiB, one at a time", len_bytes: 64 << 20, many: false, live_bytes },
    ]
}

fn section(scratch: &Path, scale: &Scale, only: &Only, shape: &Shape, source: &[u8]) -> Section {
    let mut section = Section::new(shape.id, format!("Put: {}", shape.title), Kind::Put);
    section.notes.push(format!(
        "Each contender first takes {} of blocks, so that its memory is populated; stores that replace go round over {} keys, Larder is given fresh keys and evicts. \
         Blocks are cut in turn from {} of private memory.",
        size_words(shape.live_bytes), shape.window(), size_words(source.len())
    ));
    eprintln!("{}", section.title);
    for contender in contenders() {
        if !only.wants(contender.name) || !(contender.fits)(shape) {
            continue;
        }
        let outcome = measure(scratch, scale, shape, source, &contender);
        section.push(
            contender.name,
            contender.way,
            outcome.unwrap_or_else(|error| Outcome::Missing { missing: error.to_string() }),
        );
    }
    section
}

fn measure(scratch: &Path, scale: &Scale, shape: &Shape, source: &[u8], contender: &Contender) -> BenchResult<Outcome> {
    let needed = shape.live_bytes as u64 * 3;
    let available = meminfo_bytes("MemAvailable");
    if available < needed {
        return Err(format!("needs {} MiB of memory, {} MiB are available", needed >> 20, available >> 20).into());
    }
    let mut store = (contender.start)(scratch, shape)?;
    let window = if store.replaces() { Some(shape.window()) } else { None };
    let mut feed = Feed { source, len_bytes: shape.len_bytes, window, next: 0 };
    let many = if shape.many { MANY } else { 1 };

    let filling = Instant::now();
    let fill_bytes = store.fill_bytes(shape);
    while feed.next * shape.len_bytes < fill_bytes && filling.elapsed() < scale.longest_fill {
        put(&mut *store, &mut feed, many)?;
    }
    const CALIBRATION_PUTS: usize = 4;
    let mut one_op_ns = u64::MAX;
    for _ in 0..CALIBRATION_PUTS {
        one_op_ns = one_op_ns.min(nanos(put(&mut *store, &mut feed, many)?) / many as u64);
    }
    let ops = if shape.many { MANY } else { ops_per_sample(one_op_ns) };
    let mut measured = Measured::new(ops)?;
    let begun = Instant::now();
    let mut samples = 0;
    while samples < FEWEST_SAMPLES || begun.elapsed() < scale.row {
        let took =
            if shape.many { put(&mut *store, &mut feed, MANY)? } else { put_singly(&mut *store, &mut feed, ops)? };
        measured.record(ops, took)?;
        samples += 1;
    }
    Ok(Outcome::Timed(Timed::new(&measured, shape.len_bytes)))
}

/// Hands out keys and blocks.
struct Feed<'s> {
    source: &'s [u8],
    len_bytes: usize,
    window: Option<usize>,
    next: usize,
}

impl<'s> Feed<'s> {
    /// The next `count` keys with their blocks, made before the clock starts.
    fn take(&mut self, count: usize) -> Vec<(String, &'s [u8])> {
        let places = self.source.len() / self.len_bytes;
        (0..count)
            .map(|_| {
                let number = self.window.map_or(self.next, |window| self.next % window);
                let at = self.next % places * self.len_bytes;
                self.next += 1;
                (format!("put/{number:012}"), &self.source[at..at + self.len_bytes])
            })
            .collect()
    }
}

/// One call: one put, or one of many.
fn put(store: &mut dyn PutStore, feed: &mut Feed<'_>, count: usize) -> BenchResult<Duration> {
    let owned = feed.take(count);
    let items: Vec<(&str, &[u8])> = owned.iter().map(|(key, block)| (key.as_str(), *block)).collect();
    let started = Instant::now();
    if let [(key, block)] = items[..] {
        store.put(key, block)?;
    } else {
        store.put_many(&items)?;
    }
    Ok(started.elapsed())
}

/// `count` calls of one put each, timed together where one is too short to time.
fn put_singly(store: &mut dyn PutStore, feed: &mut Feed<'_>, count: usize) -> BenchResult<Duration> {
    let items = feed.take(count);
    let started = Instant::now();
    for (key, block) in &items {
        store.put(key, block)?;
    }
    Ok(started.elapsed())
}
