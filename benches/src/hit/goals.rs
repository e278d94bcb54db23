//! The goals of a local hit, of reading in place, of an idle agent and of memory.
//!
//! Where a goal is a ratio, both sides are the medians of this run. The sections of a quick run have smaller sets, so their
//! goals are only a hint.

use crate::goals::{Bar, Goal};
use crate::hit::{LARDER, LARDER_HUGE, MANY_WORDS, names};
use crate::report::Section;

/// The goals that a section answers.
pub(crate) fn of(section: &Section) -> Vec<Goal> {
    match section.id.as_str() {
        "hit-small" | "hit-large" => resident(section),
        "hit-random" => random(section),
        "hit-scaling" | "hit-scaling-random" => scaling(section),
        "bytes" => vec![Goal::new(
            "reading resident blocks in place, later passes, against private memory",
            Bar::AtLeast,
            95.0,
            "%",
            section
                .figure(LARDER, crate::bytes::LATER)
                .zip(section.figure(crate::bytes::PRIVATE, crate::bytes::LATER))
                .map(|(ours, private)| 100.0 * ours / private),
        )],
        "idle" => vec![
            Goal::new(
                "idle agent: context switches",
                Bar::Below,
                10.0,
                "a minute",
                section.figure(LARDER, crate::idle::SWITCHES),
            ),
            Goal::new(
                "idle agent: CPU (about 0: below 0.1 %)",
                Bar::Below,
                0.1,
                "%",
                section.figure(LARDER, crate::idle::CPU),
            ),
        ],
        "memory" => vec![
            Goal::new(
                "shared index",
                Bar::AtMost,
                128.0,
                "bytes a block",
                section.figure(LARDER, crate::memory::INDEX),
            ),
            Goal::new(
                "agent's heap (and the key)",
                Bar::AtMost,
                256.0 + crate::workload::KEY_LEN_BYTES as f64,
                "bytes a block",
                section.figure(LARDER, crate::memory::HEAP),
            ),
        ],
        _ => Vec::new(),
    }
}

fn median(section: &Section, contender: &str, way: &str) -> Option<f64> {
    section.timed(contender, way).map(|timed| timed.p50_ns)
}

fn resident(section: &Section) -> Vec<Goal> {
    let ours = median(section, LARDER, names::DEPENDENT);
    let mut goals = vec![Goal::new(format!("{}: a get", section.title), Bar::AtMost, 80.0, "ns", ours)];
    for (contender, way, wanted) in [
        (names::LMDB, names::LONG_SNAPSHOT, 4.0),
        (names::LMDB, names::SNAPSHOT_PER_GET, 4.0),
        (names::REDIS, names::DEPENDENT, 100.0),
        (names::MEMCACHED, names::DEPENDENT, 100.0),
    ] {
        goals.push(Goal::ratio(
            format!("{}: faster than {contender} ({way})", section.title),
            wanted,
            median(section, contender, way),
            ours,
        ));
    }
    goals
}

fn random(section: &Section) -> Vec<Goal> {
    let title = &section.title;
    let ours = median(section, LARDER, names::DEPENDENT);
    let huge = median(section, LARDER_HUGE, names::DEPENDENT);
    let many = median(section, LARDER, MANY_WORDS);
    let mut goals = Vec::new();
    for way in [names::LONG_SNAPSHOT, names::SNAPSHOT_PER_GET] {
        let lmdb = median(section, names::LMDB, way);
        goals.push(Goal::ratio(format!("{title}: faster than LMDB ({way}), 4 KiB pages"), 2.0, lmdb, ours));
        goals.push(Goal::ratio(format!("{title}: faster than LMDB ({way}), 2 MiB pages"), 2.5, lmdb, huge));
        goals.push(Goal::ratio(format!("{title}: get_many of 64 faster than LMDB ({way})"), 14.0, lmdb, many));
    }
    goals
}

/// Linear growth is the goal: n readers, n times the gets.
fn scaling(section: &Section) -> Vec<Goal> {
    let mut goals = Vec::new();
    for what in ["threads", "processes"] {
        let most = section
            .rows
            .iter()
            .filter(|row| row.contender == LARDER)
            .filter_map(|row| row.way.strip_prefix(what)?.strip_prefix(": ")?.parse::<u32>().ok())
            .max();
        if let Some(most) = most.filter(|most| *most > 1) {
            let measured = section.speed_up(LARDER, &format!("{what}: {most}"));
            goals.push(Goal::new(
                format!("{}: {most} {what} against one", section.title),
                Bar::AtLeast,
                f64::from(most),
                "x",
                measured,
            ));
        }
    }
    goals
}
