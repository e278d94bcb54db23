//! The probe for other openers: it must say `Some` for as long as anybody else could read the memory, by whatever way
//! they came to have it, and `None` when nobody can any more.

use std::os::fd::AsFd;

use larder_protocol::memory::{HugePages, Mapping, Memfd, Others, Platform};

use crate::other_process::{Other, socket_pair};
use crate::{alone, eventually};

struct Probe {
    memfd: Memfd,
    platform: Platform,
    // The agent has its memory mapped itself, which must not count.
    _mapping: Mapping,
}

impl Probe {
    /// `None` where this kernel has no such probe.
    #[expect(clippy::print_stdout, reason = "scripts/test reads from there why a test was skipped")]
    fn new() -> Option<Probe> {
        let platform = Platform::detect(&[]).unwrap();
        if !platform.lease_probe {
            println!("SKIPPED: this kernel grants no lease on shared memory");
            return None;
        }
        let memfd = Memfd::create(c"probe", 4096, HugePages::Off, &platform).unwrap();
        let mapping = Mapping::read_write(&memfd, 4096).unwrap();
        Some(Probe { memfd, platform, _mapping: mapping })
    }

    fn others(&self) -> Others {
        self.memfd.others(&self.platform)
    }

    fn eventually_none(&self) {
        eventually("nobody else has the memory", || self.others() == Others::None);
    }
}

#[test]
fn our_own_descriptor_and_map_do_not_count() {
    let _alone = alone();
    let Some(probe) = Probe::new() else { return };
    assert_eq!(probe.others(), Others::None);
    let sent = probe.memfd.description(false).unwrap();
    assert_eq!(probe.others(), Others::Some, "a description that is still to be sent counts");
    drop(sent);
    assert_eq!(probe.others(), Others::None);
}

#[test]
fn a_process_that_has_it_open_counts() {
    let _alone = alone();
    let Some(probe) = Probe::new() else { return };
    let other = Other::start();
    other.give("open", &probe.memfd);
    for _ in 0..100 {
        assert_eq!(probe.others(), Others::Some);
    }
    other.ask("let go", &[]);
    probe.eventually_none();
}

#[test]
fn a_process_that_has_only_a_map_counts() {
    let _alone = alone();
    let Some(probe) = Probe::new() else { return };
    let other = Other::start();
    other.give("map", &probe.memfd);
    assert_eq!(probe.others(), Others::Some);
    other.ask("let go", &[]);
    probe.eventually_none();
}

#[test]
fn a_process_that_was_killed_does_not_count() {
    let _alone = alone();
    let Some(probe) = Probe::new() else { return };
    let mut other = Other::start();
    other.give("map", &probe.memfd);
    other.give("open", &probe.memfd);
    assert_eq!(probe.others(), Others::Some);
    other.kill();
    probe.eventually_none();
}

#[test]
fn a_process_that_exited_does_not_count() {
    let _alone = alone();
    let Some(probe) = Probe::new() else { return };
    let mut other = Other::start();
    other.give("map", &probe.memfd);
    other.tell("exit", &[]);
    other.wait();
    probe.eventually_none();
}

#[test]
fn a_program_started_in_its_place_does_not_count() {
    let _alone = alone();
    let Some(probe) = Probe::new() else { return };
    let other = Other::start();
    other.give("map", &probe.memfd);
    other.give("open", &probe.memfd);
    other.tell("exec", &[]);
    probe.eventually_none();
}

#[test]
fn a_forked_child_counts_after_its_parent_has_died() {
    let _alone = alone();
    let Some(probe) = Probe::new() else { return };
    for command in ["map", "open"] {
        let mut other = Other::start();
        other.give(command, &probe.memfd);
        let (release, theirs) = socket_pair();
        other.ask("fork", &[theirs.as_fd()]);
        drop(theirs);
        other.kill();
        for _ in 0..100 {
            assert_eq!(probe.others(), Others::Some, "the child inherited it by {command}");
        }
        drop(release);
        probe.eventually_none();
    }
}
