//! The fork watch: a session of before a fork is frozen on both sides of it, one of after is not.

use larder_protocol::fork::{generation, is_frozen, watch};
use nix::sys::wait::{WaitStatus, waitpid};
use nix::unistd::{ForkResult, fork};

use crate::alone;

/// Runs `child` in a forked child and returns its answer.
fn in_child(child: impl FnOnce() -> bool) -> bool {
    // SAFETY: the child runs only `child`, which touches atomics, and then exits.
    match unsafe { fork() }.unwrap() {
        ForkResult::Child => {
            let code = i32::from(!child());
            // SAFETY: ends this process at once, which runs nothing that the fork left half done.
            unsafe { libc::_exit(code) }
        }
        ForkResult::Parent { child } => match waitpid(child, None).unwrap() {
            WaitStatus::Exited(_, code) => code == 0,
            other => panic!("the child ended with {other:?}"),
        },
    }
}

#[test]
fn a_fork_freezes_what_was_there_before_it_on_both_sides() {
    let _alone = alone();
    watch().unwrap();
    watch().unwrap();
    let born = generation();
    assert!(!is_frozen(born) && generation() == born, "nothing changes without a fork");
    assert!(in_child(|| is_frozen(born)));
    assert!(is_frozen(born));
    let after = generation();
    assert!(!is_frozen(after));
    assert_ne!(after, born);
}

#[test]
fn a_session_made_in_a_child_is_its_own() {
    let _alone = alone();
    watch().unwrap();
    let born = generation();
    assert!(in_child(|| {
        let mine = generation();
        mine != born && !is_frozen(mine) && is_frozen(born) && generation() == mine
    }));
}

#[test]
fn a_grandchild_inherits_no_session_of_either() {
    let _alone = alone();
    watch().unwrap();
    let born = generation();
    assert!(in_child(|| {
        let mine = generation();
        in_child(|| {
            let innermost = generation();
            is_frozen(born) && is_frozen(mine) && !is_frozen(innermost)
        }) && is_frozen(mine)
    }));
}

#[test]
fn generations_are_never_used_twice_along_a_line_of_descent() {
    let _alone = alone();
    watch().unwrap();
    let mut seen = vec![generation()];
    for _ in 0..3 {
        let before = seen.clone();
        assert!(in_child(|| !before.contains(&generation())));
        let now = generation();
        assert!(!seen.contains(&now));
        seen.push(now);
    }
}
