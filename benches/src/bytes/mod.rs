//! Reading resident blocks in place: a first pass that faults, a first pass after `MADV_POPULATE_READ`, and later passes,
//! beside private memory. Every pass is of a fresh process, since only a fresh process has a first pass, and the contenders
//! take turns, since the speed of memory changes with what else the machine does.

mod child;

use std::fs;
use std::path::Path;
use std::process::Command;

use crate::agent::{self, Agent};
use crate::bytes::child::{BytesSpec, LATER_PASSES, Memory, expected_sum};
use crate::hit::{LARDER, capacity_bytes};
use crate::report::{Kind, Outcome, Section};
use crate::workload::{BlockSet, for_each_batch, for_each_block, size_words};
use crate::{BenchResult, Only, Scale};

pub(crate) use child::run_child;

pub(crate) const PRIVATE: &str = "private memory";
const FILES: &str = "tmpfs files, mapped";
const FIRST: &str = "first pass";
const POPULATED: &str = "first pass, its MADV_POPULATE_READ included";
pub(crate) const LATER: &str = "later passes";

/// How often the contenders take turns.
const ROUNDS: usize = 5;

/// Bytes that are ready to be read, and the speeds at which they were.
struct Ready {
    name: &'static str,
    spec: BytesSpec,
    first: Vec<f64>,
    populated: Vec<f64>,
    later: Vec<f64>,
    /// Keeps the agent of the row alive.
    _agent: Option<Agent>,
}

/// The table of bytes read in place.
pub(crate) fn run(scratch: &Path, scale: &Scale, only: &Only) -> Section {
    let set = BlockSet { blocks: if scale.quick { 128 } else { 1024 }, len_bytes: 1 << 20 };
    let mut section = Section::new("bytes", format!("Reading in place: {}", set.title()), Kind::Figures);
    section.notes.push(format!(
        "Every byte of {} is added up, in one thread of a fresh process. Medians of {ROUNDS} turns with {LATER_PASSES} later passes each. \
         Private memory is filled before it is read, so it has no first pass.",
        size_words(set.total_bytes())
    ));
    eprintln!("{}", section.title);
    let mut ready = Vec::new();
    for (name, memory) in [(LARDER, Memory::Larder), (FILES, Memory::Files), (PRIVATE, Memory::Private)] {
        if only.wants(name) {
            match prepare(scratch, &set, name, memory) {
                Ok(one) => ready.push(one),
                Err(error) => section.push_missing(name, "-", error),
            }
        }
    }
    let done = (0..ROUNDS).try_for_each(|_| ready.iter_mut().try_for_each(Ready::turn));
    for one in &mut ready {
        match &done {
            Ok(()) => one.push(&mut section),
            Err(error) => section.push_missing(one.name, "-", error),
        }
    }
    // The files go with the table: the next one may need their memory.
    let _ = fs::remove_dir_all(files(scratch));
    section
}

fn files(scratch: &Path) -> std::path::PathBuf {
    scratch.join("files")
}

fn prepare(scratch: &Path, set: &BlockSet, name: &'static str, memory: Memory) -> BenchResult<Ready> {
    let mut path = files(scratch);
    let mut running = None;
    match memory {
        Memory::Private => {}
        Memory::Files => {
            fs::create_dir_all(path.join("blk"))?;
            for_each_block(set, |key, block| Ok(fs::write(path.join(key), block)?))?;
        }
        Memory::Larder => {
            let agent = Agent::start(scratch, capacity_bytes(set), &[])?;
            let namespace = agent.namespace()?;
            for_each_batch(set, |items| agent::put_many(&namespace, items))?;
            agent.socket().clone_into(&mut path);
            running = Some(agent);
        }
    }
    let spec = BytesSpec {
        memory,
        path,
        blocks: set.blocks,
        len_bytes: set.len_bytes,
        populate: false,
        sum: expected_sum(set),
    };
    Ok(Ready { name, spec, first: Vec::new(), populated: Vec::new(), later: Vec::new(), _agent: running })
}

impl Ready {
    /// One process that faults, and one that populates where that means something.
    fn turn(&mut self) -> BenchResult<()> {
        let mut speeds = in_child(&self.spec)?;
        self.first.push(speeds.remove(0));
        self.later.append(&mut speeds);
        if self.spec.memory != Memory::Private {
            self.populated.extend(in_child(&BytesSpec { populate: true, ..self.spec.clone() })?.first());
        }
        Ok(())
    }

    fn push(&mut self, section: &mut Section) {
        let speeds = [(FIRST, &mut self.first), (POPULATED, &mut self.populated), (LATER, &mut self.later)];
        for (way, speeds) in speeds {
            if self.spec.memory != Memory::Private || way == LATER {
                speeds.sort_by(f64::total_cmp);
                section.push(self.name, way, Outcome::Figure { figure: speeds[speeds.len() / 2] / 1e9, unit: "GB/s" });
            }
        }
    }
}

/// Runs a child and takes its answer: bytes a second, pass by pass.
fn in_child(spec: &BytesSpec) -> BenchResult<Vec<f64>> {
    let output =
        Command::new(std::env::current_exe()?).arg("child-bytes").arg(serde_json::to_string(spec)?).output()?;
    if !output.status.success() {
        return Err(String::from_utf8_lossy(&output.stderr).trim().to_owned().into());
    }
    Ok(serde_json::from_slice(&output.stdout)?)
}
