//! The sign of life: clients see the agent's death by a load, and never before it.

use larder_protocol::life::{Beacon, Watch};
use larder_protocol::memory::Platform;

use crate::other_process::Other;
use crate::{alone, eventually};

/// `None` where this kernel has no robust futexes.
#[expect(clippy::print_stdout, reason = "scripts/test reads from there why a test was skipped")]
fn watched() -> Option<(Other, Watch)> {
    if !Platform::detect(&[]).unwrap().robust_futex {
        println!("SKIPPED: this kernel has no robust futexes");
        return None;
    }
    let other = Other::start();
    let page = other.ask("beacon", &[]).pop().unwrap();
    let watch = Watch::new(page).unwrap();
    Some((other, watch))
}

#[test]
fn the_death_of_a_killed_agent_is_seen_and_not_before() {
    let _alone = alone();
    let Some((mut other, watch)) = watched() else { return };
    for _ in 0..10_000 {
        assert!(!watch.is_dead());
    }
    other.ask("rest", &[]);
    assert!(!watch.is_dead());
    other.kill();
    eventually("the death is seen", || watch.is_dead());
}

#[test]
fn the_death_of_an_agent_that_exits_is_seen() {
    let _alone = alone();
    let Some((mut other, watch)) = watched() else { return };
    assert!(!watch.is_dead());
    other.tell("exit", &[]);
    other.wait();
    eventually("the death is seen", || watch.is_dead());
}

#[test]
fn a_beacon_that_is_put_out_counts_as_death() {
    let _alone = alone();
    let platform = Platform::detect(&[]).unwrap();
    if !platform.robust_futex {
        return println!("SKIPPED: this kernel has no robust futexes");
    }
    let beacon = Beacon::light(&platform).unwrap();
    let watch = Watch::new(beacon.description().unwrap()).unwrap();
    assert!(!watch.is_dead());
    drop(beacon);
    eventually("the end is seen", || watch.is_dead());
}
