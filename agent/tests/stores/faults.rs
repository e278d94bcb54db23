//! Between the agent and its store everything goes wrong: what is read is right or an error, and nothing that was
//! acknowledged is lost.

use std::fs;
use std::time::{Duration, Instant};

use larder::{Error, Namespace};
use larder_testbed::server::SeaweedFs;
use larder_testbed::{Fault, FaultProxy, On, Rule, Server};

use crate::backend::{ROOMY, agent_on};
use crate::harness::{Agent, PATIENCE, skip};
use crate::pattern::{assert_whole, get_whole, put};

/// Patience that is short enough for a test and long enough for a slow machine.
const OPTIONS: &str =
    "[store_options]\nconnect_timeout = 2\nread_timeout = 1\nwrite_timeout = 10\nretries = 4\nretry_timeout = 10\n";

/// Room for the blocks of one trial.
const ROOM: &str = "--capacity 96MiB --segment-size 4MiB --staging 1MiB";

/// How long an agent waits for its store before it tells the caller.
const STORE_TIMEOUT: &str = "--store-timeout 20";

/// A block that is read with one request, and one that takes several and is written in parts.
const SIZES: [usize; 2] = [4096, 20 << 20];

/// An agent whose store is behind a proxy.
struct Behind {
    proxy: FaultProxy,
    agent: Agent,
}

impl Behind {
    fn start(server: &dyn Server, path: &str) -> Behind {
        let directory = tempfile::tempdir().expect("there is room for a directory");
        let config = directory.path().join("larder.toml");
        fs::write(&config, OPTIONS).expect("there is room for a file");
        let proxy = FaultProxy::before(server.address());
        let store = server.store_at(proxy.address(), path);
        // It is read at the start only.
        let agent = agent_on(&store, &format!("{ROOM} {STORE_TIMEOUT} --config {}", config.display()));
        Behind { proxy, agent }
    }
}

/// A call that may fail by the store, and by nothing else, within the time that it has.
#[track_caller]
fn right_or_an_error<T>(what: &str, call: impl FnOnce() -> Result<T, Error>) -> Option<T> {
    let began = Instant::now();
    let outcome = call();
    assert!(began.elapsed() < PATIENCE, "{what}: {:?}", began.elapsed());
    match outcome {
        Ok(value) => Some(value),
        Err(Error::Store(why)) => {
            assert!(why.len() > 20 && !why.contains('\n'), "{what}: no sentence: {why:?}");
            eprintln!("{what}: {why} ({:?})", began.elapsed());
            None
        }
        Err(error) => panic!("{what}: {error}"),
    }
}

/// What one fault is tried on: an agent that meets it, and one that does not and has the same store.
struct Trial<'a> {
    behind: &'a Behind,
    through: Namespace,
    direct: Namespace,
    /// Every key that was acknowledged, with its length.
    acknowledged: Vec<(String, usize)>,
}

impl Trial<'_> {
    /// Puts one block and gets another while the rule holds, then looks at both without it.
    fn meet(&mut self, name: &str, len: usize, rule: Rule) {
        let (put_key, get_key) = (format!("{name}/{len}/put"), format!("{name}/{len}/get"));
        put(&self.direct, &get_key, len).unwrap();
        self.acknowledged.push((get_key.clone(), len));
        self.behind.proxy.inject(rule);
        let is_put = right_or_an_error(&put_key, || put(&self.through, &put_key, len)).is_some();
        if let Some(block) = right_or_an_error(&get_key, || self.through.get(&get_key)) {
            assert_eq!(block.len(), len, "{get_key}");
            assert_whole(&get_key, &block);
        }
        let faults = self.behind.proxy.counts().faults;
        // A server that is gone is not asked, so there is nothing to count.
        assert!(faults > 0 || rule.fault == Fault::Gone, "{name}/{len}: {rule:?} never happened");
        self.behind.proxy.heal();
        get_whole(&self.through, &get_key, len);
        if is_put {
            self.acknowledged.push((put_key, len));
        } else if let Some(block) = maybe(&put_key, &self.through) {
            // It took effect after all.
            assert_eq!(block.len(), len, "{put_key}");
            assert_whole(&put_key, &block);
        }
        eprintln!("{name}/{len}: put {}, {faults} faults", if is_put { "acknowledged" } else { "refused" });
    }
}

/// A block that may be there or not.
#[track_caller]
fn maybe(key: &str, cache: &Namespace) -> Option<larder::Block> {
    match cache.get(key) {
        Ok(block) => Some(block),
        Err(Error::NotFound) => None,
        Err(error) => panic!("{key}: {error}"),
    }
}

/// A name for what goes wrong, and the rule for a block of some length.
type Mishap = (&'static str, fn(usize) -> Rule);

/// Tries rules, each on blocks of both sizes, all at once but each through a proxy and an agent of its own.
fn survives(rules: &[Mishap]) {
    let server = match SeaweedFs::start() {
        Ok(server) => server,
        Err(absent) => skip!("{absent}"),
    };
    let direct = agent_on(&server.store("faults"), ROOMY);
    direct.namespace("t");
    let acknowledged: Vec<(String, usize)> = std::thread::scope(|scope| {
        let threads: Vec<_> = rules
            .iter()
            .map(|(name, rule)| {
                let (server, direct) = (&server, &direct);
                scope.spawn(move || {
                    let behind = Behind::start(server, "faults");
                    let wait = |agent: &Agent| agent.namespace("t").with_timeout(PATIENCE);
                    let (through, direct) = (wait(&behind.agent), wait(direct));
                    let mut trial = Trial { behind: &behind, through, direct, acknowledged: Vec::new() };
                    for len in SIZES {
                        trial.meet(name, len, rule(len));
                    }
                    trial.acknowledged
                })
            })
            .collect();
        threads.into_iter().flat_map(|thread| thread.join().expect("said above why not")).collect()
    });
    // What was acknowledged is in the store itself, whole.
    let fresh = agent_on(&server.store("faults"), ROOMY);
    let cache = fresh.namespace("t");
    for (key, len) in &acknowledged {
        drop(get_whole(&cache, key, *len));
    }
    for key in cache.list("").unwrap() {
        assert_whole(&key, &cache.get(&key).unwrap());
    }
    assert_eq!(fresh.stat().tenant.store_damaged, 0);
}

/// Somewhere in a body of an answer to a read, of whatever length the block is.
fn within(len: usize) -> u64 {
    if len < 65_536 { 1000 } else { 1_500_000 }
}

#[test]
fn heavy_requests_that_go_wrong_now_and_then() {
    survives(&[
        ("unavailable", |_| Rule::one_in(Fault::Unavailable, 3)),
        ("reset", |_| Rule::one_in(Fault::ResetBefore, 3)),
        ("lost", |_| Rule::one_in(Fault::AnswerLost, 3)),
        ("cut", |len| Rule::one_in(Fault::CutAfter { sent_bytes: within(len) }, 2)),
        ("stalled", |len| Rule::one_in(Fault::StallAfter { sent_bytes: within(len) }, 3)),
        ("too long", |_| Rule::one_in(Fault::WrongLength { error_bytes: 100 }, 3)),
        ("too short", |_| Rule::one_in(Fault::WrongLength { error_bytes: -100 }, 3)),
        ("etag", |_| Rule::one_in(Fault::LyingEtag, 3)),
        ("flipped", |len| Rule::times(Fault::FlippedBit { at_byte: within(len) }, 1)),
        ("flipped when written", |len| Rule::times(Fault::FlippedBitSent { at_byte: within(len) }, 1)),
    ]);
}

#[test]
fn heavy_requests_that_go_wrong_every_time() {
    survives(&[
        ("unavailable", |_| Rule::always(Fault::Unavailable)),
        ("reset", |_| Rule::always(Fault::ResetBefore)),
        ("lost", |_| Rule::always(Fault::AnswerLost)),
        ("cut", |len| Rule::always(Fault::CutAfter { sent_bytes: within(len) })),
        ("stalled", |len| Rule::always(Fault::StallAfter { sent_bytes: within(len) })),
        ("silent", |_| Rule::always(Fault::StallAfter { sent_bytes: 0 })),
        ("slow", |len| Rule::always(Fault::Slow { bytes_per_s: if len < 65_536 { 4096 } else { 8 << 20 } })),
        ("gone", |_| Rule::always(Fault::Gone)),
        ("too long", |_| Rule::always(Fault::WrongLength { error_bytes: 100 })),
        ("too short", |_| Rule::always(Fault::WrongLength { error_bytes: -100 })),
        ("etag", |_| Rule::always(Fault::LyingEtag)),
        ("flipped when written", |len| Rule::always(Fault::FlippedBitSent { at_byte: within(len) })),
    ]);
}

/// A put that arrives damaged is refused. What is read wrong is a miss where it is read, and stays for everybody else.
#[test]
fn heavy_bits_that_flip_every_time_are_noticed() {
    let server = match SeaweedFs::start() {
        Ok(server) => server,
        Err(absent) => skip!("{absent}"),
    };
    let direct = agent_on(&server.store("flips"), ROOMY);
    let behind = Behind::start(&server, "flips");
    let (direct, through) = (direct.namespace("t"), behind.agent.namespace("t").with_timeout(PATIENCE));
    // In the head, in what is read with it, in what is read later.
    for (len, at_byte) in [(4096, 30), (4096, 1000), (20 << 20, 30), (20 << 20, 1000), (20 << 20, 1_500_000)] {
        for is_read in [true, false] {
            let key = format!("{len}/{at_byte}/{is_read}");
            let (fault, on, writer, reader) = if is_read {
                (Fault::FlippedBit { at_byte }, On::Reads, &direct, &through)
            } else {
                (Fault::FlippedBitSent { at_byte }, On::Writes, &through, &direct)
            };
            behind.proxy.inject(Rule::always(fault).on(on));
            let is_put = right_or_an_error(&key, || put(writer, &key, len)).is_some();
            assert_eq!(is_put, is_read, "{key}");
            assert!(!is_found_whole(&key, reader), "{key}");
            assert!(behind.proxy.counts().faults > 0, "{key}");
            behind.proxy.heal();
            is_found_whole(&key, reader);
        }
    }
    let fresh = agent_on(&server.store("flips"), ROOMY);
    let cache = fresh.namespace("t");
    for key in cache.list("").unwrap().iter().filter(|key| key.ends_with("true")) {
        assert!(is_found_whole(key, &cache), "{key}");
    }
}

/// Whether there is a block, which must be right.
#[track_caller]
fn is_found_whole(key: &str, cache: &Namespace) -> bool {
    match cache.get(key) {
        Ok(block) => assert_whole(key, &block),
        Err(Error::NotFound | Error::Store(_)) => return false,
        Err(error) => panic!("{key}: {error}"),
    }
    true
}

#[test]
fn heavy_a_way_that_is_slow_is_no_failure() {
    let server = match SeaweedFs::start() {
        Ok(server) => server,
        Err(absent) => skip!("{absent}"),
    };
    let behind = Behind::start(&server, "slow");
    let cache = behind.agent.namespace("t").with_timeout(PATIENCE);
    // Each connection has a tenth of what would be needed to be done before a read may be silent.
    behind.proxy.inject(Rule::always(Fault::Slow { bytes_per_s: 4 << 20 }));
    put(&cache, "k", 20 << 20).unwrap();
    let reader = Behind::start(&server, "slow");
    reader.proxy.inject(Rule::always(Fault::Slow { bytes_per_s: 4 << 20 }));
    get_whole(&reader.agent.namespace("t").with_timeout(PATIENCE), "k", 20 << 20);
    assert_eq!(reader.agent.stat().tenant.store_failures + behind.agent.stat().tenant.store_failures, 0);
    assert!(reader.proxy.counts().faults > 0 && behind.proxy.counts().faults > 0);
}

/// What a single mishap is, a caller does not see.
#[test]
fn heavy_one_mishap_is_not_seen() {
    let server = match SeaweedFs::start() {
        Ok(server) => server,
        Err(absent) => skip!("{absent}"),
    };
    let (writer, reader) = (Behind::start(&server, "once"), Behind::start(&server, "once"));
    let caches = [&writer, &reader].map(|it| it.agent.namespace("t").with_timeout(Duration::from_secs(60)));
    for len in SIZES {
        for (name, fault, hits_writes) in [
            ("unavailable", Fault::Unavailable, true),
            ("reset", Fault::ResetBefore, true),
            ("lost", Fault::AnswerLost, true),
            ("cut", Fault::CutAfter { sent_bytes: within(len) }, false),
            ("stall", Fault::StallAfter { sent_bytes: within(len) }, false),
            ("flip", Fault::FlippedBit { at_byte: within(len) }, false),
        ] {
            let key = format!("{name}/{len}");
            if hits_writes {
                writer.proxy.inject(Rule::times(fault, 1).on(On::Writes));
            }
            put(&caches[0], &key, len).unwrap_or_else(|error| panic!("{key}: {error}"));
            assert_eq!(writer.proxy.counts().faults, u64::from(hits_writes), "{key}");
            writer.proxy.heal();
            reader.proxy.inject(Rule::times(fault, 1).on(On::Reads));
            get_whole(&caches[1], &key, len);
            assert_eq!(reader.proxy.counts().faults, 1, "{key}");
            reader.proxy.heal();
        }
    }
    assert_eq!(reader.agent.stat().tenant.store_damaged, 0);
}
