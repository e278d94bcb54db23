//! What the demo found, as one table for people and one document for programs.

use anyhow::{Result, bail};
use larder_protocol::units::{ByteSize, format_rate};
use serde_json::{Value, json};

use super::load::Loaded;
use super::measure::{HITS_PER_TIMING, Reads, Timings, Verified};
use super::memory::Held;
use super::tree::{Limit, Tree};
use crate::output::{Align, columns, count, counted};

/// Everything that was found.
#[derive(Debug)]
pub(super) struct Report<'a> {
    pub(super) tree: &'a Tree,
    pub(super) limit: Limit,
    pub(super) capacity: ByteSize,
    pub(super) readers: u32,
    pub(super) loaded: Loaded,
    pub(super) verified: VerifyFigures,
    pub(super) hits: ReadFigures,
    pub(super) in_place: ReadFigures,
    pub(super) files: ReadFigures,
    pub(super) memory: Memory,
}

/// What all readers found when they compared blocks with files.
#[derive(Debug)]
pub(super) struct VerifyFigures {
    blocks: u64,
    bytes: u64,
    wrong: u64,
    wrong_keys: Vec<String>,
    changed: u64,
    seconds: f64,
}

/// The reads of all readers together.
#[derive(Debug)]
pub(super) struct ReadFigures {
    timings: Timings,
    reads: u64,
    bytes: u64,
    /// All readers read at the same time, so their rates add up.
    reads_per_s: f64,
    bytes_per_s: f64,
}

/// How much memory the blocks take.
#[derive(Debug)]
pub(super) struct Memory {
    pub(super) payload_bytes: u64,
    pub(super) segment_bytes: u64,
    pub(super) held: Held,
    pub(super) processes: u64,
    pub(super) agent_included: bool,
}

impl VerifyFigures {
    pub(super) fn new(readers: &[Verified]) -> VerifyFigures {
        VerifyFigures {
            blocks: readers.iter().map(|reader| reader.blocks).sum(),
            bytes: readers.iter().map(|reader| reader.bytes).sum(),
            wrong: readers.iter().map(|reader| reader.wrong).sum(),
            wrong_keys: readers.first().map(|reader| reader.wrong_keys.clone()).unwrap_or_default(),
            changed: readers.iter().map(|reader| reader.changed).max().unwrap_or(0),
            seconds: readers.iter().map(|reader| reader.seconds).fold(0.0, f64::max),
        }
    }

    /// An error if any block differs.
    pub(super) fn require_equal(&self) -> Result<()> {
        if self.wrong > 0 {
            let keys = self.wrong_keys.iter().map(|key| format!("{key:?}")).collect::<Vec<_>>().join(", ");
            bail!("{} of {} compared blocks differ from their files: {keys}", count(self.wrong), count(self.blocks));
        }
        Ok(())
    }
}

impl ReadFigures {
    pub(super) fn new(readers: &[Reads]) -> ReadFigures {
        let mut timings = Timings::default();
        for reader in readers {
            timings.merge(&reader.timings);
        }
        ReadFigures {
            timings,
            reads: readers.iter().map(|reader| reader.reads).sum(),
            bytes: readers.iter().map(|reader| reader.bytes).sum(),
            reads_per_s: readers.iter().map(|reader| reader.reads as f64 / reader.seconds).sum(),
            bytes_per_s: readers.iter().map(|reader| reader.bytes as f64 / reader.seconds).sum(),
        }
    }
}

impl Memory {
    /// What is really there: the sum of the processes' shares, or without the agent's the segments that it made, each
    /// of whose pages it populated.
    fn physical_bytes(&self) -> u64 {
        if self.agent_included { self.held.pss_bytes } else { self.segment_bytes }
    }

    fn rows(&self) -> Vec<Row> {
        let physical = ByteSize(self.physical_bytes()).to_string();
        let shown = ByteSize(self.held.rss_bytes).to_string();
        let segments = ByteSize(self.segment_bytes);
        let processes = counted(self.processes, "process");
        if !self.agent_included {
            let readers = ByteSize(self.held.pss_bytes);
            let meaning = format!("the agent's segments, once for all; {readers} of it is the readers' share (Pss)");
            return vec![Row::new("memory held", &physical, meaning)];
        }
        vec![
            Row::new(
                "memory held",
                &physical,
                format!("once for all {processes} (sum of Pss): segments of {segments}, and spare ones"),
            ),
            Row::new("as Rss", &shown, "the same memory, counted again in each process that maps it".to_owned()),
        ]
    }
}

/// A line of the table: what was measured, the figure with its unit, and what it means.
struct Row {
    what: &'static str,
    figure: String,
    unit: String,
    meaning: String,
}

impl Row {
    fn new(what: &'static str, figure: &str, meaning: String) -> Row {
        let (figure, unit) = figure.split_once(' ').unwrap_or((figure, ""));
        Row { what, figure: figure.to_owned(), unit: unit.to_owned(), meaning }
    }
}

impl Report<'_> {
    /// The table.
    pub(super) fn text(&self) -> String {
        let files = counted(self.loaded.blocks, "file");
        let root = self.tree.root.display();
        let payload = ByteSize(self.loaded.bytes);
        let readers = counted(u64::from(self.readers), "process");
        let mut text = format!("{files} of {root} as blocks, {payload}, read by {readers}\n");
        if self.tree.cut {
            let files = match self.limit.files {
                usize::MAX => String::new(),
                files => format!(" or {} files", count(files as u64)),
            };
            text.push_str(&format!("Cut: there are more; at most {}{files} are loaded\n", ByteSize(self.limit.bytes)));
        }
        let skipped = self.tree.skipped.words();
        if !skipped.is_empty() {
            text.push_str(&format!("Left out: {}\n", skipped.join(", ")));
        }
        text.push('\n');
        let rows: Vec<Vec<String>> =
            self.rows().into_iter().map(|row| vec![row.what.to_owned(), row.figure, row.unit, row.meaning]).collect();
        text.push_str(&columns(&[Align::Left, Align::Right, Align::Left, Align::Left], &rows));
        text
    }

    fn rows(&self) -> Vec<Row> {
        let (loaded, verified, hits, files) = (&self.loaded, &self.verified, &self.hits, &self.files);
        let ns = |figures: &ReadFigures, percent| format!("{} ns", count(figures.timings.percentile(percent)));
        let changed = match verified.changed {
            0 => String::new(),
            changed => format!("; {} written since, not counted", counted(changed, "file")),
        };
        let mut rows = vec![
            Row::new(
                "load",
                &format_rate(loaded.bytes_per_s),
                format!(
                    "by one process, {} blocks/s; {:.0} % of the time went into reading the files",
                    rounded(loaded.blocks_per_s),
                    loaded.reading_seconds / loaded.seconds * 100.0,
                ),
            ),
            Row::new(
                "wrong blocks",
                &count(verified.wrong),
                format!(
                    "of {} compared with their files byte for byte, {}{changed}",
                    count(verified.blocks),
                    ByteSize(verified.bytes)
                ),
            ),
            Row::new(
                "hit, p50",
                &ns(hits, 50),
                format!(
                    "find, pin, touch, let go: {} of random keys, timed {HITS_PER_TIMING} together",
                    count(hits.reads)
                ),
            ),
            Row::new("hit, p99", &ns(hits, 99), format!("all readers together {} hits/s", rounded(hits.reads_per_s))),
            Row::new(
                "file, p50",
                &ns(files, 50),
                format!("open, read, close: {} of the same files, in the page cache, timed singly", count(files.reads)),
            ),
            Row::new(
                "file, p99",
                &ns(files, 99),
                format!("all readers together {} reads/s", rounded(files.reads_per_s)),
            ),
            Row::new(
                "read in place",
                &format_rate(self.in_place.bytes_per_s),
                "every word of random blocks where they lie, all readers together".to_owned(),
            ),
            Row::new("read files", &format_rate(files.bytes_per_s), "the same from files".to_owned()),
        ];
        rows.extend(self.memory.rows());
        rows
    }

    /// The document.
    pub(super) fn json(&self) -> Value {
        let (verified, memory) = (&self.verified, &self.memory);
        let timed = |figures: &ReadFigures, timed_together: usize| {
            json!({
                "reads": figures.reads,
                "reads_per_s": figures.reads_per_s,
                "timed_together": timed_together,
                "p50_ns": figures.timings.percentile(50),
                "p99_ns": figures.timings.percentile(99),
            })
        };
        let volume = |figures: &ReadFigures| json!({ "reads": figures.reads, "bytes": figures.bytes, "bytes_per_s": figures.bytes_per_s });
        json!({
            "directory": self.tree.root.to_string_lossy(),
            "capacity_bytes": self.capacity.bytes(),
            "readers": self.readers,
            "cut": self.tree.cut,
            "skipped": self.tree.skipped,
            "load": self.loaded,
            "verify": {
                "blocks": verified.blocks,
                "bytes": verified.bytes,
                "wrong": verified.wrong,
                "changed": verified.changed,
                "seconds": verified.seconds,
            },
            "hit": timed(&self.hits, HITS_PER_TIMING),
            "in_place": volume(&self.in_place),
            "file": timed(&self.files, 1),
            "file_volume": volume(&self.files),
            "memory": {
                "physical_bytes": memory.physical_bytes(),
                "payload_bytes": memory.payload_bytes,
                "segment_bytes": memory.segment_bytes,
                "pss_bytes": memory.held.pss_bytes,
                "rss_bytes": memory.held.rss_bytes,
                "processes": memory.processes,
                "agent_included": memory.agent_included,
            },
        })
    }
}

/// A rate as a whole number.
fn rounded(per_s: f64) -> String {
    count(format!("{per_s:.0}").parse().unwrap_or(0))
}
