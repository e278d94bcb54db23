//! `larder-benches`: Larder beside its rivals, in one run on one machine. `scripts/bench` builds and calls it.

mod agent;
mod bytes;
mod goals;
mod harness;
mod hit;
mod idle;
mod machine;
mod memory;
mod put;
mod report;
mod rivals;
mod server;
mod workload;

use std::io::Write as _;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use clap::{Args, Parser, Subcommand};

use crate::machine::Machine;
use crate::report::Report;

/// Any failure, with its one line.
type BenchResult<T> = Result<T, Box<dyn std::error::Error + Send + Sync>>;

#[derive(Debug, Parser)]
#[command(name = "larder-benches", about = "Measures Larder beside its rivals in one run on one machine", version)]
struct Arguments {
    #[command(subcommand)]
    bench: Bench,
}

#[derive(Debug, Subcommand)]
enum Bench {
    /// A local hit, reading in place, an idle agent, memory beside the payload
    Hit(Options),
    /// Puts of 4 KiB, 1 MiB and 64 MiB
    Put(Options),
    /// Prints the name of this kind of machine, which names its folder of results
    Machine,
    /// A reader process of the hit bench
    #[command(hide = true)]
    ChildReader { spec: String },
    /// A reader process of the bytes table
    #[command(hide = true)]
    ChildBytes { spec: String },
}

#[derive(Debug, Args)]
struct Options {
    /// Smaller sets and shorter rows: to see that all is well, not to quote
    #[arg(long)]
    quick: bool,
    /// Where the report goes
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
    /// A folder on tmpfs for sockets, files and databases; a temporary one otherwise
    #[arg(long, value_name = "DIR")]
    scratch: Option<PathBuf>,
    /// Measure only contenders whose names contain one of these words
    #[arg(long, value_name = "WORDS", value_delimiter = ',')]
    only: Vec<String>,
    /// Measure only the tables whose ids begin with one of these words (hit, bytes, idle, memory)
    #[arg(long, value_name = "WORDS", value_delimiter = ',')]
    tables: Vec<String>,
}

/// How large and how long a run is.
#[derive(Debug, Clone, Copy)]
struct Scale {
    quick: bool,
    /// How long one row is timed.
    row: Duration,
    /// How long a put row may populate its store before it is timed.
    longest_fill: Duration,
}

impl Scale {
    fn new(quick: bool) -> Self {
        if quick {
            Self { quick, row: Duration::from_millis(250), longest_fill: Duration::from_secs(4) }
        } else {
            Self { quick, row: Duration::from_secs(2), longest_fill: Duration::from_secs(30) }
        }
    }

    fn row_ms(&self) -> u64 {
        u64::try_from(self.row.as_millis()).unwrap_or(u64::MAX)
    }
}

/// Which contenders are wanted.
#[derive(Debug, Clone)]
struct Only(Vec<String>);

impl Only {
    fn wants(&self, contender: &str) -> bool {
        let contender = contender.to_lowercase();
        self.0.is_empty() || self.0.iter().any(|word| contender.contains(&word.to_lowercase()))
    }
}

fn main() -> ExitCode {
    let done = match Arguments::parse().bench {
        Bench::Hit(options) => run("hit", &options),
        Bench::Put(options) => run("put", &options),
        Bench::ChildReader { spec } => hit::run_child(&spec),
        Bench::Machine => print_line(&Machine::describe().folder()),
        Bench::ChildBytes { spec } => bytes::run_child(&spec).and_then(|line| print_line(&line)),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("larder-benches: {error}");
            ExitCode::FAILURE
        }
    }
}

fn print_line(line: &str) -> BenchResult<()> {
    Ok(writeln!(std::io::stdout().lock(), "{line}")?)
}

fn run(bench: &'static str, options: &Options) -> BenchResult<()> {
    let scale = Scale::new(options.quick);
    let only = Only(options.only.clone());
    let mut machine = Machine::describe();
    // Dropped at the end of the run, with everything in it.
    let temporary = match &options.scratch {
        Some(_) => None,
        None => Some(tempfile::Builder::new().prefix("larder-bench-").tempdir_in("/dev/shm")?),
    };
    let scratch = options
        .scratch
        .as_deref()
        .or(temporary.as_ref().map(tempfile::TempDir::path))
        .ok_or("there is no scratch folder")?;
    let wants = |table: &str| options.tables.is_empty() || options.tables.iter().any(|word| table == word);

    let mut sections = Vec::new();
    if bench == "hit" {
        if wants("hit") {
            sections.extend(hit::run(scratch, &scale, &only));
        }
        if wants("bytes") {
            sections.push(bytes::run(scratch, &scale, &only));
        }
        if wants("idle") {
            sections.push(idle::run(scratch, &scale, &only));
        }
        if wants("memory") {
            sections.push(memory::run(scratch, &scale, &only));
        }
    } else {
        sections = put::run(scratch, &scale, &only);
    }
    machine.end_of_run();
    let command = format!("scripts/bench {bench}{}", if options.quick { " --quick" } else { "" });
    let report =
        Report { bench, date: today()?, command, quick: options.quick, machine, goals: goals::of(&sections), sections };
    report.write(&options.out)?;
    eprintln!("larder-benches: wrote {}", options.out.display());
    Ok(())
}

/// Today's date in UTC.
fn today() -> BenchResult<String> {
    Ok(date_of(i64::try_from(SystemTime::now().duration_since(UNIX_EPOCH)?.as_secs() / 86_400)?))
}

/// The civil date of a day counted from 1970.
fn date_of(days: i64) -> String {
    // Years are counted from March, so that the leap day is the last of its year (Hinnant, "chrono-compatible low-level date algorithms").
    let shifted = days + 719_468;
    let era = shifted.div_euclid(146_097);
    let day_of_era = shifted.rem_euclid(146_097);
    let year_of_era = (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_from_march = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month_from_march + 2) / 5 + 1;
    let month = if month_from_march < 10 { month_from_march + 3 } else { month_from_march - 9 };
    let year = year_of_era + era * 400 + i64::from(month <= 2);
    format!("{year:04}-{month:02}-{day:02}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates_follow_the_calendar() {
        assert_eq!(date_of(0), "1970-01-01");
        assert_eq!(date_of(19_782), "2024-02-29");
        assert_eq!(date_of(19_783), "2024-03-01");
        assert_eq!(date_of(20_453), "2025-12-31");
    }
}
