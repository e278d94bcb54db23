//! Writing anything at any time into the memory that a client may write.

use std::sync::atomic::{AtomicBool, Ordering};

use larder_protocol::layout::stripe;
use larder_protocol::message::{PutItem, Refusal, Reply, Request, Staged};
use larder_protocol::namespace::NamespaceOptions;
use larder_protocol::words::{MappedWords, Words};

use crate::harness::Agent;
use crate::raw::{Raw, writable_words};
use crate::session::{Session, below, next, payload};

/// Runs `scribble` over and over on a thread of its own, as long as `work` takes.
pub(crate) fn while_scribbling<T>(mut scribble: impl FnMut(&mut u64) + Send, work: impl FnOnce() -> T) -> T {
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let mut state = 0xbad_5eed;
            while !done.load(Ordering::Relaxed) {
                scribble(&mut state);
            }
        });
        // Also when `work` panics: the scope waits for the thread.
        let end = Ender(&done);
        let result = work();
        drop(end);
        result
    })
}

/// Ends other threads' work when dropped, in a panic too: whoever waits for those threads would wait for ever.
pub(crate) struct Ender<'a>(pub(crate) &'a AtomicBool);

impl Drop for Ender<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// What a slot or a ring may be made to say.
fn lie(state: &mut u64) -> u64 {
    match next(state) % 6 {
        0 => 0,
        1 => u64::MAX,
        2 => next(state),
        // Likely numbers of segments, with offsets that are or are not those of blocks.
        3 => ((1 + next(state) % 20) << 32) | (next(state) % (1 << 16)),
        4 => (1 + next(state) % 20) << 32,
        _ => ((1 + next(state) % 20) << 32) | u64::from(u32::MAX),
    }
}

fn scribble_page(pages: &[MappedWords], state: &mut u64) {
    let page = &pages[below(state, pages.len())];
    let first = below(state, page.len() / stripe::WORDS) * stripe::WORDS;
    match next(state) % 8 {
        0 => {
            let heads = [0, 1, u64::MAX, u64::MAX - 1, 1 << 63, next(state)];
            page.store(first + stripe::TOUCH_HEAD, heads[below(state, heads.len())], Ordering::Relaxed);
        }
        1 => {
            for counter in stripe::HITS..=stripe::ASKED_NO_SLOT {
                page.store(first + counter, lie(state), Ordering::Relaxed);
            }
        }
        2 => {
            for place in 0..stripe::TOUCH_LEN {
                page.store(first + stripe::TOUCH + place, lie(state), Ordering::Relaxed);
            }
        }
        3 => page.store(first + below(state, stripe::WORDS), next(state), Ordering::Relaxed),
        _ => {
            let slot = stripe::SLOTS + below(state, stripe::SLOTS_LEN);
            page.store(first + slot, lie(state), Ordering::Release);
        }
    }
}

#[test]
fn heavy_garbage_in_slots_and_rings_while_another_evicts() {
    let agent = Agent::small();
    let baseline = agent.baseline();
    let (mut raw, greeting) = Raw::greeted(agent.socket());
    let mut pages = vec![greeting.map_slots(), greeting.map_slots()];
    assert_eq!(raw.mapped(greeting.welcome.slots_memory), Reply::Done);
    for _ in 0..3 {
        let (memory, len, fd) = raw.memory(Request::MoreSlots).expect("a session may have more slots");
        pages.extend([writable_words(&fd, len), writable_words(&fd, len)]);
        assert_eq!(raw.mapped(memory), Reply::Done);
    }
    let mut honest = Session::open(agent.socket());
    let namespace = honest.namespace("churn");
    let mut refused = 0;
    while_scribbling(
        |state| scribble_page(&pages, state),
        || {
            for round in 0..6000_u64 {
                let (key, bytes) = (format!("{round}"), payload(round + 1, 16_000));
                match honest.put(namespace, &key, &bytes) {
                    Ok(_) => {}
                    // False pins cost their own user's room, and nothing else.
                    Err(Refusal::NoSpace { .. } | Refusal::Pinned { .. }) => refused += 1,
                    Err(other) => panic!("round {round}: {other:?}"),
                }
                for back in [0, 1, 10, 300] {
                    let Some(earlier) = round.checked_sub(back) else { continue };
                    if let Ok(block) = honest.get(namespace, &format!("{earlier}")) {
                        assert!(block.verify() && block.as_slice() == payload(earlier + 1, 16_000), "{earlier}");
                    }
                }
                if round % 100 == 0 {
                    // Where the scribbler speaks, too, over its own socket.
                    for request in [Request::Stat, Request::Pins, Request::Ping] {
                        assert!(!matches!(raw.ask(request), Reply::Refused(_)));
                    }
                }
            }
        },
    );
    assert!(refused < 6000, "nothing could be put at all");
    drop((raw, greeting, pages, honest));
    baseline.holds();
}

#[test]
fn staging_that_changes_while_it_is_put() {
    let agent = Agent::start();
    let baseline = agent.baseline();
    let mut raw = Raw::bare(agent.socket());
    let (ours, other) = raw.staging();
    let mut honest = Session::open(agent.socket());
    let namespace =
        honest.namespace_with("scribbled", NamespaceOptions { overwrite: true, ..NamespaceOptions::default() });
    let words = ours.len();
    let scribble = |state: &mut u64| {
        let first = below(state, words - 512);
        for word in first..first + 512 {
            ours.store(word, next(state), Ordering::Relaxed);
            other.store(words - 1 - word, next(state), Ordering::Relaxed);
        }
    };
    while_scribbling(scribble, || {
        let lens = [1, 100, 4096, 65_536, 65_537, 300_000, 1 << 20];
        for round in 0..250_u64 {
            let len = lens[usize::try_from(round).expect("small") % lens.len()];
            let offset = round * 977 % ((words as u64 * 8) - len);
            let staged = Staged { offset, len };
            let key = format!("k/{}", round % 20);
            let put = Request::Put { namespace, item: PutItem { key: key.clone(), staged } };
            assert!(matches!(raw.ask(put), Reply::Put(_)));
            // The same bytes once more, or rather not the same any more.
            let begin = Request::PutBegin { namespace, key: format!("chunked/{}", round % 20), len: len * 2 };
            let put = raw.send(begin);
            for _ in 0..2 {
                assert_eq!(raw.ask(Request::PutChunk { put, staged }), Reply::Done);
            }
            assert!(matches!(raw.ask(Request::PutEnd { put }), Reply::Put(_)));
            // Several that overlap each other in staging.
            let items = (0..8)
                .map(|n| PutItem { key: format!("many/{n}"), staged: Staged { offset: n * 10, len: 10_000 } })
                .collect();
            assert!(matches!(raw.ask(Request::PutMany { namespace, items }), Reply::PutMany(_)));
            for key in [key, format!("chunked/{}", round % 20), format!("many/{}", round % 8)] {
                let block = honest.get(namespace, &key).expect("just put");
                assert!(block.verify(), "round {round}: {key} does not match its checksums");
            }
        }
    });
    drop((raw, ours, other, honest));
    baseline.holds();
}
