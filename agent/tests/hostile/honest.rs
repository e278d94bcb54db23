//! What must still work after each attack, for somebody who did nothing wrong.

use std::path::Path;
use std::time::{Duration, Instant};

use larder_protocol::message::{Reply, Request};

use crate::session::Session;

/// A whole honest session: blocks of every kind of length, listed and deleted again.
#[track_caller]
pub(crate) fn round(socket: &Path) {
    let mut session = Session::open(socket);
    let namespace = session.namespace("honest");
    let lens = [0, 1, 100, 65_535, 65_536, 200_000, 1_500_000];
    for (seed, len) in (0_u64..).zip(lens) {
        session.put_and_check(namespace, &format!("block/{len}"), seed + 1, len);
    }
    let list = Request::List { namespace, prefix: "block/".into(), children: false, cursor: 0 };
    match session.raw.ask(list) {
        Reply::Names { names, cursor: 0 } => assert_eq!(names.len(), lens.len(), "{names:?}"),
        other => panic!("List was answered by {other:?}"),
    }
    for len in lens {
        let key = format!("block/{len}");
        assert_eq!(session.raw.ask(Request::Delete { namespace, key }), Reply::Done);
    }
}

/// A hundred honest puts, and how long they took.
#[track_caller]
pub(crate) fn hundred_puts(session: &mut Session) -> Duration {
    let namespace = session.namespace("hundred");
    let began = Instant::now();
    for seed in 1..=100 {
        session.put_and_check(namespace, &format!("block/{seed}"), seed, 4000);
    }
    began.elapsed()
}
