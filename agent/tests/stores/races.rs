//! Two agents on one store that put one key at once: one wins, and nobody ever reads anything else.

use std::sync::Barrier;

use larder::{Error, PutOutcome};
use larder_testbed::server::{Azurite, GcsFacade, Moto, SeaweedFs};

use crate::backend::{Backend, ROOMY};
use crate::pattern::{assert_whole, put};

const ROUNDS: usize = 20;

/// Puts at once, half of them at each agent.
const CONTENDERS: usize = 4;

fn one_wins_each_round(backend: Option<Backend>) {
    let Some(backend) = backend else { return };
    let agents = [(); 2].map(|()| backend.agent("races", ROOMY));
    let start = Barrier::new(CONTENDERS);
    let mut winners = Vec::new();
    for round in 0..ROUNDS {
        let key = format!("k/{round}");
        // Now and then one that takes many requests. Lengths tell the contenders apart, and no two have the same bytes.
        let len_bytes = if round % 5 == 4 { 9_000_000 } else { 5000 };
        let ended: Vec<(usize, Result<PutOutcome, Error>)> = std::thread::scope(|scope| {
            let threads: Vec<_> = (0..CONTENDERS)
                .map(|contender| {
                    // The first round also races for the namespace.
                    let (cache, start, key) = (&agents[contender % 2], &start, &key);
                    scope.spawn(move || {
                        start.wait();
                        let len = len_bytes + contender;
                        (len, put(&cache.namespace("t"), key, len))
                    })
                })
                .collect();
            threads.into_iter().map(|thread| thread.join().unwrap()).collect()
        });
        let won: Vec<usize> = ended
            .iter()
            .filter(|(_, outcome)| matches!(outcome, Ok(PutOutcome::Stored)))
            .map(|(len, _)| *len)
            .collect();
        let [winner] = won[..] else { panic!("{key}: {ended:?}") };
        for (len, outcome) in &ended {
            let is_told =
                matches!(outcome, Err(Error::AlreadyExists { held_bytes, .. }) if *held_bytes == winner as u64);
            assert!(*len == winner || is_told, "{key}, won by {winner}: {ended:?}");
        }
        winners.push((key, winner));
    }
    let fresh = backend.agent("races", ROOMY);
    for agent in agents.iter().chain([&fresh]) {
        let cache = agent.namespace("t");
        for (key, len) in &winners {
            let block = cache.get(key).unwrap_or_else(|error| panic!("{key}: {error}"));
            assert_eq!(block.len(), *len, "{key}");
            assert_whole(key, &block);
        }
        assert_eq!(cache.list("").unwrap().len(), ROUNDS);
    }
}

#[test]
fn heavy_one_of_two_agents_wins_in_a_directory() {
    one_wins_each_round(Backend::directory());
}

#[test]
fn heavy_one_of_two_agents_wins_on_seaweedfs() {
    one_wins_each_round(Backend::server(SeaweedFs::start()));
}

#[test]
fn heavy_one_of_two_agents_wins_on_moto() {
    one_wins_each_round(Backend::server(Moto::start()));
}

#[test]
fn heavy_one_of_two_agents_wins_on_the_facade_of_gcs() {
    one_wins_each_round(Backend::server(GcsFacade::start()));
}

#[test]
fn heavy_one_of_two_agents_wins_on_azurite() {
    one_wins_each_round(Backend::server(Azurite::start()));
}
