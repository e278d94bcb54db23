//! The store is killed, or away for a while.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use larder::{Durability, Error, NamespaceOptions, PutOutcome};
use larder_testbed::server::{Moto, SeaweedFs};
use larder_testbed::{Fault, FaultProxy, Rule, Server};

use crate::backend::{ROOMY, agent_on};
use crate::harness::{PATIENCE, SetOnDrop, eventually, skip};
use crate::pattern::{assert_whole, get_whole, put};

#[test]
fn heavy_nothing_acknowledged_is_lost_when_the_store_is_killed() {
    let mut server = match SeaweedFs::start() {
        Ok(server) => server,
        Err(absent) => skip!("{absent}"),
    };
    let agent = agent_on(&server.store("killed"), &format!("{ROOMY} --store-timeout 10"));
    let (done, count) = (AtomicBool::new(false), AtomicUsize::new(0));
    let acknowledged: Vec<(String, usize)> = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..3)
            .map(|thread| {
                let (done, count) = (&done, &count);
                let cache = agent.namespace("t");
                scope.spawn(move || {
                    let mut kept = Vec::new();
                    for n in 0.. {
                        if done.load(Ordering::Relaxed) {
                            break;
                        }
                        let len = if n % 8 == 7 { 9_000_000 + n } else { 1000 + n * 4001 };
                        let key = format!("{thread}/{n}");
                        match put(&cache, &key, len) {
                            Ok(_) => {
                                kept.push((key, len));
                                count.fetch_add(1, Ordering::Relaxed);
                            }
                            Err(Error::Store(_)) => {}
                            Err(error) => panic!("{error}"),
                        }
                    }
                    kept
                })
            })
            .collect();
        let _end = SetOnDrop(&done);
        for round in 1..=2 {
            eventually("puts go on", || (count.load(Ordering::Relaxed) >= 12 * round).then_some(()));
            server.kill();
            server.restart();
            let before = count.load(Ordering::Relaxed);
            eventually("puts go on again", || (count.load(Ordering::Relaxed) > before).then_some(()));
        }
        done.store(true, Ordering::Relaxed);
        threads.into_iter().flat_map(|thread| thread.join().expect("said above why not")).collect()
    });
    assert!(acknowledged.len() >= 24);
    let fresh = agent_on(&server.store("killed"), ROOMY);
    let cache = fresh.namespace("t");
    for (key, len) in &acknowledged {
        drop(get_whole(&cache, key, *len));
    }
    // What was not acknowledged is whole or absent.
    for key in cache.list("").unwrap() {
        assert_whole(&key, &cache.get(&key).unwrap());
    }
    assert_eq!(fresh.stat().tenant.store_damaged, 0);
}

#[test]
fn heavy_without_its_store_an_agent_serves_what_it_has_and_stops_when_told() {
    let server = match Moto::start() {
        Ok(server) => server,
        Err(absent) => skip!("{absent}"),
    };
    let proxy = FaultProxy::before(server.address());
    let mut agent = agent_on(&server.store_at(proxy.address(), "away"), &format!("{ROOMY} --store-timeout 3"));
    let cache = agent.namespace("t");
    put(&cache, "held", 1_000_000).unwrap();
    let scratch = NamespaceOptions { durability: Some(Durability::Scratch), ..NamespaceOptions::default() };
    let scratch = agent.client().create_namespace("scratch", &scratch).unwrap();
    let other = agent_on(&server.store("away"), ROOMY);
    put(&other.namespace("t"), "cold", 1_000_000).unwrap();

    proxy.inject(Rule::always(Fault::Gone));
    std::thread::scope(|scope| {
        // Calls that need the store are told after the time for that, and hinder nobody before.
        let waiting: Vec<_> = (0..4)
            .map(|n| {
                let cache = agent.namespace("t");
                scope.spawn(move || {
                    let began = Instant::now();
                    let outcome = match n {
                        0 => cache.get("cold").map(|_| ()),
                        1 => put(&cache, "new", 1000).map(|_| ()),
                        2 => cache.delete("held").map(|_| ()),
                        _ => cache.list("").map(|_| ()),
                    };
                    (n, outcome, began.elapsed())
                })
            })
            .collect();
        let mut served = 0;
        while !waiting.iter().all(std::thread::ScopedJoinHandle::is_finished) {
            let key = format!("s/{served}");
            assert_eq!(put(&scratch, &key, 10_000).unwrap(), PutOutcome::Stored);
            get_whole(&scratch, &key, 10_000);
            assert!(agent.stat().tenant.blocks > 0);
            served += 1;
        }
        assert!(served > 10, "{served} while others waited for the store");
        for thread in waiting {
            let (n, outcome, took) = thread.join().unwrap();
            assert!(matches!(outcome, Err(Error::Store(_))), "{n}: {outcome:?}");
            assert!(took < PATIENCE, "{n}: {took:?}");
        }
    });
    // A failed delete leaves open what the store has; the one block is not believed, the others are.
    proxy.heal();
    let cold = eventually("the store is used again", || cache.get("cold").ok());
    assert_whole("cold", &cold);
    // The put that nobody waited for any longer may have taken effect by now.
    assert!(matches!(put(&cache, "new", 1000), Ok(PutOutcome::Stored | PutOutcome::AlreadyHeld)));

    proxy.inject(Rule::always(Fault::Gone));
    get_whole(&cache, "cold", 1_000_000);
    let began = Instant::now();
    assert!(agent.terminate().success());
    assert!(began.elapsed() < PATIENCE);
}

#[test]
fn heavy_a_store_that_hangs_holds_up_nobody_who_does_not_need_it() {
    let mut server = match Moto::start() {
        Ok(server) => server,
        Err(absent) => skip!("{absent}"),
    };
    let mut agent = agent_on(&server.store("hung"), &format!("{ROOMY} --store-timeout 2"));
    let cache = agent.namespace("t");
    put(&cache, "held", 1_000_000).unwrap();
    server.pause();
    for _ in 0..2 {
        let began = Instant::now();
        let outcome = put(&cache, "new", 1000);
        assert!(matches!(&outcome, Err(Error::Store(why)) if why.contains("2 s")), "{outcome:?}");
        assert!((Duration::from_secs(1)..PATIENCE).contains(&began.elapsed()), "{:?}", began.elapsed());
        get_whole(&cache, "held", 1_000_000);
    }
    assert!(agent.stat().store_under_way > 0);
    server.resume();
    // What was under way may have taken effect: the same bytes.
    eventually("the store is used again", || put(&cache, "new", 1000).ok());
    get_whole(&cache, "new", 1000);
    server.pause();
    let began = Instant::now();
    assert!(agent.terminate().success());
    assert!(began.elapsed() < PATIENCE);
}
