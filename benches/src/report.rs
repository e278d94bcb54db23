//! A report: sections of rows, and the goals beside what was measured. Written as Markdown, as JSON, and to the terminal.

use std::fmt::Write as _;
use std::fs;
use std::path::Path;

use serde::Serialize;

use crate::BenchResult;
use crate::goals::Goal;
use crate::harness::Measured;
use crate::machine::Machine;

/// What the columns of a section are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Kind {
    /// Nanoseconds a get.
    Hit,
    /// Many readers at once.
    Scaling,
    /// Microseconds a put and bytes a second.
    Put,
    /// Single figures.
    Figures,
}

/// One contender, one way.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Row {
    pub(crate) contender: String,
    pub(crate) way: String,
    #[serde(flatten)]
    pub(crate) outcome: Outcome,
}

/// What came of a row.
#[derive(Debug, Clone, Serialize)]
#[serde(untagged)]
pub(crate) enum Outcome {
    /// Operations were timed.
    Timed(Timed),
    /// One figure was taken.
    Figure { figure: f64, unit: &'static str },
    /// It could not be measured, and why.
    Missing { missing: String },
}

/// The figures of a timed row.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Timed {
    pub(crate) p50_ns: f64,
    pub(crate) p99_ns: f64,
    pub(crate) p999_ns: f64,
    pub(crate) mean_ns: f64,
    pub(crate) ops: u64,
    pub(crate) ops_per_sample: usize,
    pub(crate) ops_per_s: f64,
    /// Payload bytes a second by the median: a mean also counts the moments in which the machine did other work.
    pub(crate) bytes_per_s: f64,
    pub(crate) readers: u64,
}

impl Timed {
    pub(crate) fn new(measured: &Measured, len_bytes: usize) -> Self {
        Self {
            p50_ns: measured.percentile_ns(50.0),
            p99_ns: measured.percentile_ns(99.0),
            p999_ns: measured.percentile_ns(99.9),
            mean_ns: measured.mean_ns(),
            ops: measured.ops,
            ops_per_sample: measured.ops_per_sample,
            ops_per_s: measured.ops_per_s(),
            bytes_per_s: len_bytes as f64 * 1e9 / measured.percentile_ns(50.0).max(1e-3),
            readers: measured.readers,
        }
    }
}

/// A table.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Section {
    pub(crate) id: String,
    pub(crate) title: String,
    pub(crate) kind: Kind,
    pub(crate) notes: Vec<String>,
    pub(crate) rows: Vec<Row>,
}

impl Section {
    pub(crate) fn new(id: impl Into<String>, title: impl Into<String>, kind: Kind) -> Self {
        Self { id: id.into(), title: title.into(), kind, notes: Vec::new(), rows: Vec::new() }
    }

    /// Adds a row, and says on standard error what came of it, since a whole run takes minutes.
    pub(crate) fn push(&mut self, contender: impl Into<String>, way: impl Into<String>, outcome: Outcome) {
        let row = Row { contender: contender.into(), way: way.into(), outcome };
        eprintln!("  {}, {}: {}", row.contender, row.way, row.outcome.words());
        self.rows.push(row);
    }

    pub(crate) fn push_missing(
        &mut self,
        contender: impl Into<String>,
        way: impl Into<String>,
        why: impl std::fmt::Display,
    ) {
        self.push(contender, way, Outcome::Missing { missing: why.to_string() });
    }

    /// The figures of a row that was timed.
    pub(crate) fn timed(&self, contender: &str, way: &str) -> Option<&Timed> {
        self.rows.iter().find_map(|row| match &row.outcome {
            Outcome::Timed(timed) if row.contender == contender && row.way == way => Some(timed),
            _ => None,
        })
    }

    /// A single figure.
    pub(crate) fn figure(&self, contender: &str, way: &str) -> Option<f64> {
        self.rows.iter().find_map(|row| match row.outcome {
            Outcome::Figure { figure, .. } if row.contender == contender && row.way == way => Some(figure),
            _ => None,
        })
    }

    /// How many times the operations a second of one reader a scaling row reached; its way reads `threads: 4`.
    pub(crate) fn speed_up(&self, contender: &str, way: &str) -> Option<f64> {
        let (what, _) = way.split_once(": ")?;
        let one = self.timed(contender, &format!("{what}: 1"))?;
        Some(self.timed(contender, way)?.ops_per_s / one.ops_per_s)
    }

    fn markdown(&self, out: &mut String) -> std::fmt::Result {
        writeln!(out, "## {}\n", self.title)?;
        for note in &self.notes {
            writeln!(out, "{note}\n")?;
        }
        let columns: &[&str] = match self.kind {
            Kind::Hit => &[
                "contender",
                "access",
                "p50 ns",
                "p99 ns",
                "p99.9 ns",
                "mean ns",
                "gets/s by mean",
                "gets timed",
                "gets per sample",
            ],
            Kind::Scaling => &[
                "contender",
                "readers",
                "p50 ns",
                "p99 ns",
                "p99.9 ns",
                "mean ns",
                "gets/s of all by mean",
                "gets timed",
                "against 1 reader",
            ],
            Kind::Put => &[
                "contender",
                "way",
                "p50 µs",
                "p99 µs",
                "p99.9 µs",
                "mean µs",
                "GB/s by p50",
                "puts/s by mean",
                "puts timed",
                "puts per sample",
            ],
            Kind::Figures => &["what", "how", "figure"],
        };
        writeln!(out, "| {} |", columns.join(" | "))?;
        writeln!(out, "|{}", "---|".repeat(2.min(columns.len())) + &"--:|".repeat(columns.len() - 2))?;
        for row in &self.rows {
            let cells = match &row.outcome {
                Outcome::Missing { missing } => {
                    let mut cells = vec![missing.clone()];
                    cells.resize(columns.len() - 2, String::new());
                    cells
                }
                Outcome::Figure { figure, unit } => vec![format!("{} {unit}", digits(*figure))],
                Outcome::Timed(timed) => self.cells(row, timed),
            };
            writeln!(out, "| {} | {} | {} |", row.contender, row.way, cells.join(" | "))?;
        }
        writeln!(out)
    }

    fn cells(&self, row: &Row, timed: &Timed) -> Vec<String> {
        let scale = if self.kind == Kind::Put { 1e-3 } else { 1.0 };
        let mut cells: Vec<String> =
            [timed.p50_ns, timed.p99_ns, timed.p999_ns, timed.mean_ns].iter().map(|ns| digits(ns * scale)).collect();
        if self.kind == Kind::Put {
            cells.push(digits(timed.bytes_per_s / 1e9));
        }
        cells.push(digits(timed.ops_per_s));
        cells.push(digits(timed.ops as f64));
        if self.kind == Kind::Scaling {
            cells.push(
                self.speed_up(&row.contender, &row.way).map_or_else(String::new, |times| format!("{times:.2} x")),
            );
        } else {
            cells.push(timed.ops_per_sample.to_string());
        }
        cells
    }
}

impl Outcome {
    fn words(&self) -> String {
        match self {
            Self::Timed(timed) => format!("p50 {} ns, {} a second", digits(timed.p50_ns), digits(timed.ops_per_s)),
            Self::Figure { figure, unit } => format!("{} {unit}", digits(*figure)),
            Self::Missing { missing } => missing.clone(),
        }
    }
}

/// Three digits that say something, thousands grouped.
pub(crate) fn digits(figure: f64) -> String {
    if figure >= 1000.0 {
        let whole = format!("{figure:.0}");
        return whole.parse().map_or(whole, crate::workload::grouped);
    }
    match figure {
        f if f >= 100.0 => format!("{f:.0}"),
        f if f >= 10.0 => format!("{f:.1}"),
        f if f >= 0.1 || f == 0.0 => format!("{f:.2}"),
        f => format!("{f:.4}"),
    }
}

/// A whole run.
#[derive(Debug, Serialize)]
pub(crate) struct Report {
    pub(crate) bench: &'static str,
    pub(crate) date: String,
    pub(crate) command: String,
    pub(crate) quick: bool,
    pub(crate) machine: Machine,
    pub(crate) sections: Vec<Section>,
    pub(crate) goals: Vec<Goal>,
}

impl Report {
    pub(crate) fn markdown(&self) -> Result<String, std::fmt::Error> {
        let mut out = String::new();
        writeln!(
            out,
            "# {}\n",
            match self.bench {
                "hit" => "One local hit, and reading in place",
                _ => "Putting a block",
            }
        )?;
        writeln!(
            out,
            "Measured {} by `{}`. Every row of this page is of one run on one machine.\n",
            self.date, self.command
        )?;
        if self.quick {
            writeln!(
                out,
                "**A quick run**: smaller sets and shorter rows, to see that all is well; no figures to quote.\n"
            )?;
        }
        for line in self.machine.lines() {
            writeln!(out, "- {line}")?;
        }
        writeln!(out, "\n![the same figures as a plot]({}.svg)\n", self.bench)?;
        writeln!(
            out,
            "## Goals\n\nTimes and their ratios are medians; how readers scale is by the mean.\n\n| goal | wanted | measured | verdict |\n|---|--:|--:|---|"
        )?;
        for goal in &self.goals {
            writeln!(out, "{}", goal.markdown())?;
        }
        writeln!(out)?;
        for section in &self.sections {
            section.markdown(&mut out)?;
        }
        Ok(out)
    }

    /// Writes both forms into a folder, and the Markdown to standard output.
    pub(crate) fn write(&self, folder: &Path) -> BenchResult<()> {
        use std::io::Write as _;
        let markdown = self.markdown()?;
        fs::create_dir_all(folder)?;
        fs::write(folder.join(format!("{}.md", self.bench)), &markdown)?;
        fs::write(folder.join(format!("{}.json", self.bench)), serde_json::to_string_pretty(self)? + "\n")?;
        std::io::stdout().lock().write_all(markdown.as_bytes())?;
        Ok(())
    }
}
