//! Many readers at once, as threads of one process and as processes of their own.

use std::io::{BufRead, BufReader, Write};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::Barrier;

use serde::{Deserialize, Serialize};

use crate::BenchResult;
use crate::agent;
use crate::harness::{Measured, MeasuredWire, ReadPlan, measure_reader};
use crate::hit::{DEPENDENT, Scaling, larder, lmdb};
use crate::workload::{BlockSet, KeyOrder};

/// A store that a child process can open by a path.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub(crate) enum ChildKind {
    /// An LMDB environment in a folder.
    Lmdb,
    /// An agent at its socket.
    Larder,
}

/// All that a child process has to know.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct ChildSpec {
    kind: ChildKind,
    path: PathBuf,
    blocks: u32,
    len_bytes: usize,
    plan: ReadPlan,
}

/// The line by which a child says that it is warm, and the one that starts it.
const READY: &str = "ready";
const GO: &str = "go";

/// Measures `count` threads that read one store at the same time.
pub(crate) fn by_threads(
    scaling: Scaling<'_>,
    order: &KeyOrder,
    plan: ReadPlan,
    count: usize,
) -> BenchResult<Measured> {
    let gate = Barrier::new(count);
    let results: Vec<BenchResult<Measured>> = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..count)
            .map(|number| {
                let gate = &gate;
                scope.spawn(move || -> BenchResult<Measured> {
                    let reader = scaling.store.reader(scaling.way);
                    let mut waited = false;
                    let result = reader.and_then(|mut reader| {
                        measure_reader(&mut *reader, order, ReadPlan { reader: number, ..plan }, || {
                            waited = true;
                            gate.wait();
                            Ok(())
                        })
                    });
                    if !waited {
                        // A reader that failed before the gate must not leave the others waiting there.
                        gate.wait();
                    }
                    result
                })
            })
            .collect();
        threads
            .into_iter()
            .map(|thread| thread.join().unwrap_or_else(|_| Err("a reader thread panicked".into())))
            .collect()
    });
    sum(results)
}

/// Measures `count` processes that read one store at the same time.
pub(crate) fn by_processes(
    scaling: Scaling<'_>,
    set: &BlockSet,
    plan: ReadPlan,
    count: usize,
) -> BenchResult<Measured> {
    let mut children = Vec::new();
    for number in 0..count {
        let spec = ChildSpec {
            kind: scaling.kind,
            path: scaling.path.to_owned(),
            blocks: set.blocks,
            len_bytes: set.len_bytes,
            plan: ReadPlan { reader: number, ..plan },
        };
        children.push(ChildReader::start(&spec)?);
    }
    for child in &mut children {
        child.expect_ready()?;
    }
    for child in &mut children {
        child.go()?;
    }
    sum(children.into_iter().map(ChildReader::finish).collect())
}

fn sum(results: Vec<BenchResult<Measured>>) -> BenchResult<Measured> {
    let mut all: Option<Measured> = None;
    for result in results {
        let one = result?;
        match &mut all {
            Some(all) => all.add(&one)?,
            None => all = Some(one),
        }
    }
    all.ok_or_else(|| "no reader ran".into())
}

/// A child process that reads.
struct ChildReader {
    child: Child,
    answers: BufReader<std::process::ChildStdout>,
}

impl ChildReader {
    fn start(spec: &ChildSpec) -> BenchResult<Self> {
        let mut child = Command::new(std::env::current_exe()?)
            .arg("child-reader")
            .arg(serde_json::to_string(spec)?)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()?;
        let answers = BufReader::new(child.stdout.take().ok_or("a child has no standard output")?);
        Ok(Self { child, answers })
    }

    fn expect_ready(&mut self) -> BenchResult<()> {
        let mut line = String::new();
        self.answers.read_line(&mut line)?;
        if line.trim() == READY { Ok(()) } else { Err("a reader process failed before it was ready".into()) }
    }

    fn go(&mut self) -> BenchResult<()> {
        let input = self.child.stdin.as_mut().ok_or("a child has no standard input")?;
        Ok(writeln!(input, "{GO}")?)
    }

    fn finish(mut self) -> BenchResult<Measured> {
        let mut line = String::new();
        self.answers.read_line(&mut line)?;
        let wire: MeasuredWire =
            serde_json::from_str(&line).map_err(|_| "a reader process failed while it was timed")?;
        wire.into_measured()
    }
}

impl Drop for ChildReader {
    fn drop(&mut self) {
        // Closing its input ends a child that still waits for the word to go; one that is timed ends by itself.
        drop(self.child.stdin.take());
        let _ = self.child.wait();
    }
}

/// What a child process does: opens the store, warms up, says so, waits for the word, reads, answers with its figures.
pub(crate) fn run_child(spec: &str) -> BenchResult<()> {
    let spec: ChildSpec = serde_json::from_str(spec)?;
    let set = BlockSet { blocks: spec.blocks, len_bytes: spec.len_bytes };
    let order = KeyOrder::new(set.blocks);
    let measured = match spec.kind {
        ChildKind::Lmdb => {
            let lmdb = lmdb::attach(&spec.path, &set)?;
            let mut reader = lmdb::reader(&lmdb, lmdb::LONG_SNAPSHOT)?;
            measure_reader(&mut *reader, &order, spec.plan, wait_for_go)?
        }
        ChildKind::Larder => {
            let namespace = agent::namespace(&spec.path)?;
            let mut reader = larder::reader(&namespace, DEPENDENT)?;
            measure_reader(&mut *reader, &order, spec.plan, wait_for_go)?
        }
    };
    say(&serde_json::to_string(&measured.to_wire())?)
}

fn wait_for_go() -> BenchResult<()> {
    say(READY)?;
    let mut line = String::new();
    std::io::stdin().read_line(&mut line)?;
    if line.trim() == GO { Ok(()) } else { Err("the parent is gone".into()) }
}

fn say(line: &str) -> BenchResult<()> {
    let mut out = std::io::stdout().lock();
    writeln!(out, "{line}")?;
    Ok(out.flush()?)
}
