//! Timing: batches short enough to show a tail, long enough that reading the clock costs next to nothing.

use std::time::{Duration, Instant};

use hdrhistogram::Histogram;
use serde::{Deserialize, Serialize};

use crate::BenchResult;
use crate::workload::{Access, KeyOrder, MANY, Walk, model_digest};

/// Samples are kept in picoseconds per operation, since one operation can take a few nanoseconds.
const PS_PER_NS: u64 = 1_000;

/// A sample should last this long: a hundred times the cost of reading the clock.
const SAMPLE_NS: u64 = 2_500;

/// No sample holds more operations than this, so that tails stay visible.
const MAX_OPS_PER_SAMPLE: usize = 64;

/// What one reader or writer took.
#[derive(Debug)]
pub(crate) struct Measured {
    histogram: Histogram<u64>,
    pub(crate) ops: u64,
    pub(crate) busy_ns: u64,
    pub(crate) ops_per_sample: usize,
    /// How many readers this is the sum of.
    pub(crate) readers: u64,
}

impl Measured {
    pub(crate) fn new(ops_per_sample: usize) -> BenchResult<Self> {
        Ok(Self { histogram: Histogram::new(3)?, ops: 0, busy_ns: 0, ops_per_sample, readers: 1 })
    }

    /// Records one sample of `ops` operations.
    pub(crate) fn record(&mut self, ops: usize, took: Duration) -> BenchResult<()> {
        let took_ns = nanos(took);
        self.histogram.record(took_ns.saturating_mul(PS_PER_NS) / ops.max(1) as u64)?;
        self.ops += ops as u64;
        self.busy_ns += took_ns;
        Ok(())
    }

    /// Adds a reader that ran at the same time.
    pub(crate) fn add(&mut self, other: &Self) -> BenchResult<()> {
        self.histogram.add(&other.histogram)?;
        self.ops += other.ops;
        self.busy_ns += other.busy_ns;
        self.readers += other.readers;
        Ok(())
    }

    /// Nanoseconds per operation, as one reader sees it.
    pub(crate) fn mean_ns(&self) -> f64 {
        self.busy_ns as f64 / self.ops.max(1) as f64
    }

    pub(crate) fn percentile_ns(&self, percentile: f64) -> f64 {
        self.histogram.value_at_percentile(percentile) as f64 / PS_PER_NS as f64
    }

    /// Operations a second of all readers together.
    pub(crate) fn ops_per_s(&self) -> f64 {
        self.readers as f64 * 1e9 / self.mean_ns()
    }

    /// The form in which a child process sends its figures.
    pub(crate) fn to_wire(&self) -> MeasuredWire {
        MeasuredWire {
            counts: self.histogram.iter_recorded().map(|v| (v.value_iterated_to(), v.count_at_value())).collect(),
            ops: self.ops,
            busy_ns: self.busy_ns,
            ops_per_sample: self.ops_per_sample,
        }
    }
}

/// A child process's figures on their way to its parent.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct MeasuredWire {
    counts: Vec<(u64, u64)>,
    ops: u64,
    busy_ns: u64,
    ops_per_sample: usize,
}

impl MeasuredWire {
    pub(crate) fn into_measured(self) -> BenchResult<Measured> {
        let mut measured = Measured::new(self.ops_per_sample)?;
        for (value, count) in self.counts {
            measured.histogram.record_n(value, count)?;
        }
        measured.ops = self.ops;
        measured.busy_ns = self.busy_ns;
        Ok(measured)
    }
}

pub(crate) fn nanos(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

/// How many operations make one sample, given what one operation takes.
pub(crate) fn ops_per_sample(one_op_ns: u64) -> usize {
    let wanted = SAMPLE_NS / one_op_ns.max(1);
    usize::try_from(wanted).unwrap_or(MAX_OPS_PER_SAMPLE).clamp(1, MAX_OPS_PER_SAMPLE).next_power_of_two()
}

/// One reader of a loaded store.
pub(crate) trait Reader {
    /// Walks `ops` keys: finds each block, takes its first byte, lets the block go.
    fn batch(&mut self, walk: &mut Walk<'_>, access: Access, ops: usize) -> BenchResult<()>;
}

/// What a reader does before and while it is timed.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub(crate) struct ReadPlan {
    pub(crate) access: Access,
    pub(crate) duration_ms: u64,
    /// Blocks read in place fault on their first touch, so such readers touch every block before the clock starts.
    pub(crate) touch_all_first: bool,
    /// Which of several readers this is.
    pub(crate) reader: usize,
}

/// Gets before the clock starts where not every block has to be touched.
const WARM_UP_OPS: usize = 512;

/// How often the length of a get is tried, and over how many gets.
const CALIBRATIONS: usize = 5;
const CALIBRATION_OPS: usize = 2 * MANY;

/// Warms a reader up, checks that it reads the right blocks, waits at the gate, and times it.
pub(crate) fn measure_reader(
    reader: &mut dyn Reader,
    order: &KeyOrder,
    plan: ReadPlan,
    gate: impl FnOnce() -> BenchResult<()>,
) -> BenchResult<Measured> {
    let mut walk = Walk::new(order, plan.reader);
    let mut model = Walk::new(order, plan.reader);
    let warm_up_ops = if plan.touch_all_first { order.keys() } else { WARM_UP_OPS.min(order.keys()) };
    reader.batch(&mut walk, Access::Independent, warm_up_ops)?;
    if walk.digest() != model_digest(&mut model, Access::Independent, warm_up_ops)? {
        return Err("a block was found with other bytes than were loaded".into());
    }
    // The quickest of a few tries, since a reader that was preempted would be given samples that are too short.
    let mut one_op_ns = u64::MAX;
    for _ in 0..CALIBRATIONS {
        let started = Instant::now();
        reader.batch(&mut walk, plan.access, CALIBRATION_OPS)?;
        one_op_ns = one_op_ns.min(nanos(started.elapsed()) / CALIBRATION_OPS as u64);
    }
    if walk.digest() != model_digest(&mut model, plan.access, CALIBRATIONS * CALIBRATION_OPS)? {
        return Err("a walk went another way than the model's: some block has other bytes than were loaded".into());
    }

    let ops = if plan.access == Access::Many { MANY } else { ops_per_sample(one_op_ns) };
    let mut measured = Measured::new(ops)?;
    let duration = Duration::from_millis(plan.duration_ms);
    gate()?;
    let begun = Instant::now();
    loop {
        let before = Instant::now();
        reader.batch(&mut walk, plan.access, ops)?;
        let after = Instant::now();
        measured.record(ops, after - before)?;
        if after - begun >= duration {
            return Ok(measured);
        }
    }
}
