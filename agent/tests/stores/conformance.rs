//! What every store has to do, tried through one agent after another on one store.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::Instant;

use larder_testbed::server::{Azurite, GcsFacade, Moto, SeaweedFs};

use crate::backend::{Backend, ROOMY};
use crate::harness::Agent;
use crate::{keys, lifetimes, whole};

/// What a scenario has to work with: a store and an agent on it. Each has namespaces of its own.
pub(crate) struct Subject<'a> {
    pub(crate) backend: &'a Backend,
    pub(crate) agent: Agent,
}

impl Subject<'_> {
    /// Kills the agent and starts another on the same store. False where the store has gone with the agent: then that was
    /// all there is to see.
    pub(crate) fn lasts_over_a_kill(&mut self) -> bool {
        if self.backend.lasts() {
            self.agent.kill();
            self.agent.restart();
        }
        self.backend.lasts()
    }
}

/// What must hold, and the scenario that shows it.
type Scenario = (&'static str, fn(&mut Subject<'_>));

const SCENARIOS: [Scenario; 11] = [
    ("blocks of every size are found again", whole::blocks_of_every_size_are_found_again),
    ("writers and vectors of puts are stored too", whole::writers_and_vectors_of_puts_are_stored_too),
    ("a replaced block is the one that comes back", whole::a_replaced_block_is_the_one_that_comes_back),
    ("what was evicted comes back, what was given up leaves its room", whole::what_was_evicted_comes_back),
    ("a cold block is loaded once for all who ask", whole::a_cold_block_is_loaded_once_for_all_who_ask),
    ("nothing acknowledged is lost with the agent", whole::nothing_acknowledged_is_lost_with_the_agent),
    ("odd keys are kept apart", keys::odd_keys_are_kept_apart),
    ("a list names two thousand keys", keys::a_list_names_two_thousand_keys),
    ("deletes, clears and removals last", lifetimes::deletes_clears_and_removals_last),
    ("a time to live goes on", lifetimes::a_time_to_live_goes_on),
    ("options outlive the agent, a scratch namespace does not", lifetimes::options_outlive_the_agent),
];

/// Goes through all scenarios, and fails with the names of those that failed.
fn conforms(backend: Option<Backend>) {
    let Some(backend) = backend else { return };
    let mut failed = Vec::new();
    let mut subject = None;
    for (number, (what, scenario)) in SCENARIOS.into_iter().enumerate() {
        let began = Instant::now();
        let tried = catch_unwind(AssertUnwindSafe(|| {
            // After a failure the agent may be in any state, and so may what it has in the store.
            let subject = subject.get_or_insert_with(|| Subject {
                backend: &backend,
                agent: backend.agent(&format!("conformance/{number}"), ROOMY),
            });
            scenario(subject);
            subject.agent.await_no_pins();
        }));
        if tried.is_err() {
            subject = None;
            failed.push(what);
        }
        eprintln!("{} {what} ({:?})", if tried.is_ok() { "pass" } else { "FAIL" }, began.elapsed());
    }
    assert!(failed.is_empty(), "{failed:#?}");
}

#[test]
fn heavy_a_directory_conforms() {
    conforms(Backend::directory());
}

#[test]
fn heavy_memory_conforms() {
    conforms(Backend::memory());
}

#[test]
fn heavy_s3_on_seaweedfs_conforms() {
    conforms(Backend::server(SeaweedFs::start()));
}

#[test]
fn heavy_s3_on_moto_conforms() {
    conforms(Backend::server(Moto::start()));
}

#[test]
fn heavy_the_facade_of_gcs_conforms() {
    conforms(Backend::server(GcsFacade::start()));
}

#[test]
fn heavy_azure_on_azurite_conforms() {
    conforms(Backend::server(Azurite::start()));
}
