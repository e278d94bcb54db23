//! What the demo found, as one table for people and one document for programs.

use anyhow::{Result, bail};
use larder_protocol::units::{ByteSize, format_rate};
use serde_json::{Value, json};

use super::load::Loaded;
use super::measure::{Asked, HITS_PER_TIMING, Reads, Timings, Verified};
use super::memory::Held;
use super::origin::Origin;
use super::store::Saved;
use super::tree::{Limit, Tree};
use crate::output::{Align, columns, count, counted};

/// Everything that was found.
#[derive(Debug)]
pub(super) struct Report<'a> {
    pub(super) tree: &'a Tree,
    pub(super) limit: Limit,
    pub(super) capacity: ByteSize,
    pub(super) readers: u32,
    /// Where files were fetched from instead of being loaded.
    pub(super) origin: Option<&'a Origin>,
    /// `None` where they were fetched.
    pub(super) loaded: Option<Loaded>,
    pub(super) fetched: AskFigures,
    /// `None` where there are no files to compare with.
    pub(super) verified: Option<VerifyFigures>,
    pub(super) hits: ReadFigures,
    pub(super) in_place: ReadFigures,
    /// `None` where there are no files.
    pub(super) files: Option<ReadFigures>,
    pub(super) memory: Memory,
    pub(super) kept: Kept,
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

/// What all readers got who asked for the same at the same time.
#[derive(Debug)]
pub(super) struct AskFigures {
    /// Blocks that each reader got, and their payload.
    pub(super) blocks: u64,
    pub(super) bytes: u64,
    /// Keys that could not be had, and why the first could not.
    pub(super) failed: u64,
    pub(super) failure: Option<String>,
    /// Blocks that all readers got together.
    requests: u64,
    /// Blocks that the agent read for them, by its account, and their payload.
    reads: u64,
    read_bytes: u64,
    seconds: f64,
    /// Whether these are the right bytes, where this was looked at.
    pub(super) verified: Option<VerifyFigures>,
}

/// What became of blocks that a store had when its agent was killed.
#[derive(Debug)]
pub(super) struct Kept {
    pub(super) saved: Saved,
    /// Until the next agent answered.
    pub(super) restart_seconds: f64,
    pub(super) read: AskFigures,
    pub(super) verified: VerifyFigures,
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
    fn require_equal(&self) -> Result<()> {
        if self.wrong > 0 {
            let keys = self.wrong_keys.iter().map(|key| format!("{key:?}")).collect::<Vec<_>>().join(", ");
            bail!(
                "{} of {} compared blocks are not what they should be: {keys}",
                count(self.wrong),
                count(self.blocks)
            );
        }
        Ok(())
    }

    fn row(&self, with: &str) -> Row {
        let changed = match self.changed {
            0 => String::new(),
            changed => format!("; {} written since, not counted", counted(changed, "file")),
        };
        Row::new(
            "wrong blocks",
            &count(self.wrong),
            format!("of {} compared {with}, {}{changed}", count(self.blocks), ByteSize(self.bytes)),
        )
    }

    fn json(&self) -> Value {
        json!({
            "blocks": self.blocks,
            "bytes": self.bytes,
            "wrong": self.wrong,
            "changed": self.changed,
            "seconds": self.seconds,
        })
    }
}

impl AskFigures {
    /// What readers say that they got, and what the agent read for them.
    pub(super) fn new(readers: &[Asked], reads: u64, read_bytes: u64) -> AskFigures {
        let first = readers.first();
        AskFigures {
            blocks: first.map_or(0, |reader| reader.blocks),
            bytes: first.map_or(0, |reader| reader.bytes),
            failed: first.map_or(0, |reader| reader.failed),
            failure: readers.iter().find_map(|reader| reader.failure.clone()),
            requests: readers.iter().map(|reader| reader.blocks).sum(),
            reads,
            read_bytes,
            seconds: readers.iter().map(|reader| reader.seconds).fold(0.0, f64::max),
            verified: None,
        }
    }

    fn bytes_per_s(&self) -> f64 {
        self.bytes as f64 / self.seconds
    }

    /// How often what was asked for had to be read.
    fn words(&self) -> String {
        format!("{} got, {} read", counted(self.requests, "block"), count(self.reads))
    }

    fn json(&self) -> Value {
        json!({
            "requests": self.requests,
            "blocks": self.blocks,
            "bytes": self.bytes,
            "seconds": self.seconds,
            "bytes_per_s": self.bytes_per_s(),
            "blocks_per_s": self.blocks as f64 / self.seconds,
            "reads": self.reads,
            "read_bytes": self.read_bytes,
        })
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
    /// An error if any block differs from what it should be.
    pub(super) fn require_equal(&self) -> Result<()> {
        let first = self.verified.iter().chain(&self.fetched.verified);
        first.chain([&self.kept.verified]).try_for_each(VerifyFigures::require_equal)
    }

    /// The table.
    pub(super) fn text(&self) -> String {
        let (blocks, bytes) = match &self.loaded {
            Some(loaded) => (loaded.blocks, loaded.bytes),
            None => (self.fetched.blocks, self.fetched.bytes),
        };
        let files = counted(blocks, "file");
        let place = self.origin.map(|origin| origin.prefix().to_owned());
        let place = place.or_else(|| Some(self.tree.root.as_ref()?.display().to_string())).unwrap_or_default();
        let payload = ByteSize(bytes);
        let readers = counted(u64::from(self.readers), "process");
        let mut text = format!("{files} of {place} as blocks, {payload}, read by {readers}\n");
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
        let parts = match self.origin {
            None => vec![
                ("", self.memory_rows()),
                (
                    "The same files fetched by all processes at once, each file when it is first asked for",
                    self.fetch_rows(),
                ),
                ("Kept in a store: a directory here, a bucket elsewhere", self.store_rows()),
            ],
            Some(_) => vec![
                ("", [self.fetch_rows(), self.memory_rows()].into_iter().flatten().collect()),
                ("Kept in a store: a directory here, a bucket elsewhere", self.store_rows()),
            ],
        };
        let cells = |row: &Row| vec![row.what.to_owned(), row.figure.clone(), row.unit.clone(), row.meaning.clone()];
        let rows: Vec<Vec<String>> = parts.iter().flat_map(|(_, rows)| rows).map(cells).collect();
        let table = columns(&[Align::Left, Align::Right, Align::Left, Align::Left], &rows);
        let mut lines = table.lines();
        for (title, rows) in &parts {
            text.push('\n');
            if !title.is_empty() {
                text.push_str(&format!("{title}:\n"));
            }
            for line in lines.by_ref().take(rows.len()) {
                text.push_str(&format!("{line}\n"));
            }
        }
        text
    }

    /// What is fast because it is in memory.
    fn memory_rows(&self) -> Vec<Row> {
        let hits = &self.hits;
        let ns = |figures: &ReadFigures, percent| format!("{} ns", count(figures.timings.percentile(percent)));
        let mut rows = Vec::new();
        if let Some(loaded) = &self.loaded {
            rows.push(Row::new(
                "load",
                &format_rate(loaded.bytes_per_s),
                format!(
                    "by one process, {} blocks/s; {:.0} % of the time went into reading the files",
                    rounded(loaded.blocks_per_s),
                    loaded.reading_seconds / loaded.seconds * 100.0,
                ),
            ));
        }
        rows.extend(self.verified.as_ref().map(|verified| verified.row("with their files byte for byte")));
        rows.extend([
            Row::new(
                "hit, p50",
                &ns(hits, 50),
                format!(
                    "find, pin, touch, let go: {} of random keys, timed {HITS_PER_TIMING} together",
                    count(hits.reads)
                ),
            ),
            Row::new("hit, p99", &ns(hits, 99), format!("all readers together {} hits/s", rounded(hits.reads_per_s))),
        ]);
        if let Some(files) = &self.files {
            rows.extend([
                Row::new(
                    "file, p50",
                    &ns(files, 50),
                    format!(
                        "open, read, close: {} of the same files, in the page cache, timed singly",
                        count(files.reads)
                    ),
                ),
                Row::new(
                    "file, p99",
                    &ns(files, 99),
                    format!("all readers together {} reads/s", rounded(files.reads_per_s)),
                ),
            ]);
        }
        rows.push(Row::new(
            "read in place",
            &format_rate(self.in_place.bytes_per_s),
            "every word of random blocks where they lie, all readers together".to_owned(),
        ));
        if let Some(files) = &self.files {
            rows.push(Row::new("read files", &format_rate(files.bytes_per_s), "the same from files".to_owned()));
        }
        rows.extend(self.memory.rows());
        rows
    }

    /// How blocks come from an origin.
    fn fetch_rows(&self) -> Vec<Row> {
        let fetched = &self.fetched;
        let mut words = format!(
            "cold, {} blocks/s; {}: once, however many ask",
            rounded(fetched.blocks as f64 / fetched.seconds),
            fetched.words(),
        );
        if fetched.failed > 0 {
            words.push_str(&format!("; {} cannot be read", counted(fetched.failed, "file")));
        }
        let mut rows = vec![Row::new("fetch", &format_rate(fetched.bytes_per_s()), words)];
        rows.extend(fetched.verified.as_ref().map(|verified| verified.row("with their files byte for byte")));
        rows
    }

    /// How blocks outlive their agent.
    fn store_rows(&self) -> Vec<Row> {
        let Kept { saved, restart_seconds, read, verified } = &self.kept;
        let blocks = saved.known.len() as u64;
        let sample = if blocks < self.fetched.blocks { ", a sample" } else { "" };
        vec![
            Row::new(
                "put",
                &format_rate(saved.bytes as f64 / saved.seconds),
                format!(
                    "by one process, {} blocks/s, each on the disk when its put returns: {}, {}{sample}",
                    rounded(blocks as f64 / saved.seconds),
                    counted(blocks, "block"),
                    ByteSize(saved.bytes),
                ),
            ),
            Row::new(
                "restart",
                &format!("{:.0} ms", restart_seconds * 1e3),
                "the agent is killed with nothing in order, and another answers".to_owned(),
            ),
            Row::new(
                "read back",
                &format_rate(read.bytes_per_s()),
                format!(
                    "cold, by all readers, {} blocks/s; {}",
                    rounded(read.blocks as f64 / read.seconds),
                    read.words()
                ),
            ),
            verified.row("with what was put"),
        ]
    }

    /// The document.
    pub(super) fn json(&self) -> Value {
        let (memory, kept) = (&self.memory, &self.kept);
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
        let mut fetch = self.fetched.json();
        fetch["failed"] = json!(self.fetched.failed);
        fetch["wrong"] = json!(self.fetched.verified.as_ref().map(|verified| verified.wrong));
        json!({
            "directory": self.tree.root.as_ref().map(|root| root.to_string_lossy()),
            "origin": self.origin.map(Origin::prefix),
            "capacity_bytes": self.capacity.bytes(),
            "readers": self.readers,
            "cut": self.tree.cut,
            "skipped": self.tree.skipped,
            "load": self.loaded,
            "verify": self.verified.as_ref().map(VerifyFigures::json),
            "hit": timed(&self.hits, HITS_PER_TIMING),
            "in_place": volume(&self.in_place),
            "file": self.files.as_ref().map(|files| timed(files, 1)),
            "file_volume": self.files.as_ref().map(volume),
            "memory": {
                "physical_bytes": memory.physical_bytes(),
                "payload_bytes": memory.payload_bytes,
                "segment_bytes": memory.segment_bytes,
                "pss_bytes": memory.held.pss_bytes,
                "rss_bytes": memory.held.rss_bytes,
                "processes": memory.processes,
                "agent_included": memory.agent_included,
            },
            "fetch": fetch,
            "store": {
                "blocks": kept.saved.known.len(),
                "bytes": kept.saved.bytes,
                "cut": kept.saved.cut,
                "put_seconds": kept.saved.seconds,
                "put_bytes_per_s": kept.saved.bytes as f64 / kept.saved.seconds,
                "put_blocks_per_s": kept.saved.known.len() as f64 / kept.saved.seconds,
                "restart_seconds": kept.restart_seconds,
                "read": kept.read.json(),
                "verify": kept.verified.json(),
            },
        })
    }
}

/// A rate as a whole number.
fn rounded(per_s: f64) -> String {
    count(format!("{per_s:.0}").parse().unwrap_or(0))
}
