//! The goals of a put. Both sides of each are medians: the tables show the means beside them.

use crate::goals::{Bar, Goal};
use crate::hit::LARDER;
use crate::put::{MEMCPY, REDIS, ways};
use crate::report::{Section, Timed};

/// The goals that a section answers.
pub(crate) fn of(section: &Section) -> Vec<Goal> {
    let ours = section.timed(LARDER, ways::PUT);
    let spinning = section.timed(LARDER, ways::PUT_SPIN);
    match section.id.as_str() {
        "put-small" => small(section, ours, spinning),
        "put-many" => vec![
            Goal::new(
                "put_many of 64 x 4 KiB",
                Bar::AtLeast,
                500_000.0,
                "a second",
                section.timed(LARDER, ways::PUT_MANY).map(|timed| 1e9 / timed.p50_ns),
            ),
            Goal::new(
                "put_many of 64 x 4 KiB, spinning",
                Bar::AtLeast,
                500_000.0,
                "a second",
                section.timed(LARDER, ways::PUT_MANY_SPIN).map(|timed| 1e9 / timed.p50_ns),
            ),
        ],
        "put-medium" => vec![
            of_memcpy(section, "a put of 1 MiB, blocking waits, against memcpy", 60.0, ours),
            of_memcpy(section, "a put of 1 MiB, spinning, against memcpy", 75.0, spinning),
            of_redis(section, "a put of 1 MiB against Redis SET", ours),
        ],
        "put-large" => vec![
            of_memcpy(section, "a put of 64 MiB against memcpy", 80.0, ours),
            of_redis(section, "a put of 64 MiB against Redis SET", ours),
        ],
        _ => Vec::new(),
    }
}

fn small(section: &Section, ours: Option<&Timed>, spinning: Option<&Timed>) -> Vec<Goal> {
    let redis = rival(section, REDIS).map(|timed| timed.p50_ns / 1e3);
    let median = |timed: Option<&Timed>| timed.map(|timed| timed.p50_ns / 1e3);
    let against_redis = redis.and(median(ours));
    vec![
        Goal::new(
            "a put of 4 KiB, blocking waits, no worse than Redis SET",
            Bar::AtMost,
            redis.unwrap_or(0.0),
            "µs",
            against_redis,
        ),
        Goal::new("a put of 4 KiB, spinning", Bar::AtMost, 3.0, "µs", median(spinning)),
    ]
}

fn rival<'s>(section: &'s Section, contender: &str) -> Option<&'s Timed> {
    let row = section.rows.iter().find(|row| row.contender == contender)?;
    section.timed(contender, &row.way)
}

fn of_memcpy(section: &Section, goal: &str, wanted: f64, ours: Option<&Timed>) -> Goal {
    let measured = ours.zip(rival(section, MEMCPY)).map(|(ours, memcpy)| 100.0 * ours.bytes_per_s / memcpy.bytes_per_s);
    Goal::new(goal, Bar::AtLeast, wanted, "%", measured)
}

fn of_redis(section: &Section, goal: &str, ours: Option<&Timed>) -> Goal {
    let speed = |timed: Option<&Timed>| timed.map(|timed| timed.bytes_per_s);
    let redis = speed(rival(section, REDIS));
    let ceiling = speed(rival(section, MEMCPY)).zip(redis).map(|(memcpy, redis)| memcpy / redis);
    Goal::ratio(goal, 5.0, speed(ours), redis).with_ceiling(ceiling)
}
