//! Namespaces by name: opened, changed, cleared and removed, in memory and, where they are durable, in the store.
//!
//! Whoever changes a namespace's record in the store has the turn of its name meanwhile. After an error that may have
//! come when the record had changed already, memory forgets the namespace, and the next use asks the store.

use std::sync::Arc;

use larder_protocol::message::{Refusal, Reply};
use larder_protocol::namespace::{Durability, NamespaceInfo, NamespaceOptions};
use tracing::{debug, warn};

use super::later::{store_failed, visiting};
use crate::cache::{self, check_options};
use crate::server::Agent;
use crate::store::{Record, Store, StoreError};

/// A user's namespaces by name, in memory and in the store.
#[derive(Clone, Debug)]
pub(super) struct Named {
    pub(super) agent: Arc<Agent>,
    pub(super) uid: u32,
    pub(super) name: String,
}

impl Named {
    fn failed(&self, error: &StoreError) -> Refusal {
        store_failed(&self.agent, self.uid, error)
    }

    /// As [`Named::failed`], after a record may or may not have been written: what memory has of the namespace goes, and
    /// whoever uses it next asks the store.
    fn failed_and_forgotten(&self, error: &StoreError) -> Refusal {
        let _ = self.agent.cache().remove_namespace(self.uid, &self.name);
        self.failed(error)
    }

    fn info(&self) -> Result<NamespaceInfo, Refusal> {
        self.agent.cache().namespace_info(self.uid, &self.name)
    }

    /// Opens a namespace, making it at its first use.
    pub(super) async fn open(self, options: Option<NamespaceOptions>) -> Result<NamespaceInfo, Refusal> {
        match self.find().await {
            Ok(info) => {
                options.map_or(Ok(()), |options| check_options(&self.name, &options, &info.options))?;
                return Ok(info);
            }
            Err(Refusal::NoNamespace(_)) => {}
            Err(refusal) => return Err(refusal),
        }
        let mut options = options.unwrap_or_default();
        let Some(store) = self.agent.store.clone() else {
            if options.durability.is_some_and(Durability::is_stored) {
                let why = "a namespace of durability `through` or `back` needs a store, and this agent has none; start larderd with --store";
                return Err(Refusal::Invalid(why.into()));
            }
            options.durability = Some(Durability::Scratch);
            return self.agent.cache().open_namespace(self.uid, &self.name, options, None);
        };
        let _turn = store.namespace_turn(self.uid, &self.name).await;
        let _lane = store.lane(self.uid).await;
        // Another session may have been quicker.
        if let Ok(info) = self.info() {
            check_options(&self.name, &options, &info.options)?;
            return Ok(info);
        }
        options.durability.get_or_insert(Durability::Through);
        if options.durability == Some(Durability::Scratch) {
            return self.agent.cache().open_namespace(self.uid, &self.name, options, None);
        }
        let made = store.create_namespace(self.uid, &self.name, &options).await;
        let (record, is_fresh) = made.map_err(|error| self.failed(&error))?;
        check_options(&self.name, &options, &record.options)?;
        self.adopt(&record, is_fresh)
    }

    /// A namespace that is there, in memory or in the store.
    pub(super) async fn find(&self) -> Result<NamespaceInfo, Refusal> {
        let absent = match self.info() {
            Ok(info) => return Ok(info),
            Err(refusal) => refusal,
        };
        let Some(store) = self.agent.store.clone() else { return Err(absent) };
        let _turn = store.namespace_turn(self.uid, &self.name).await;
        let _lane = store.lane(self.uid).await;
        if let Ok(info) = self.info() {
            return Ok(info);
        }
        match store.namespace(self.uid, &self.name).await {
            Ok(Some(record)) => self.adopt(&record, false),
            Ok(None) => Err(absent),
            Err(error) => Err(self.failed(&error)),
        }
    }

    /// Takes a namespace of the store into memory. It is fresh where nothing can lie there yet.
    fn adopt(&self, record: &Record, is_fresh: bool) -> Result<NamespaceInfo, Refusal> {
        self.sweep();
        let stored = self.stored(record, is_fresh);
        self.agent.cache().open_namespace(self.uid, &self.name, record.options.clone(), Some(stored))
    }

    /// Gives up what the disk has of the present incarnation.
    fn forget_on_disk(&self) {
        if let Some(tier) = &self.agent.tier
            && let Ok(Some(incarnation)) =
                self.info().and_then(|info| self.agent.cache().stored(self.uid, info.namespace))
        {
            tier.disk.remove_all(&incarnation);
        }
    }

    /// The store's side of a namespace.
    fn stored(&self, record: &Record, is_fresh: bool) -> cache::Stored {
        cache::Stored {
            incarnation: Store::incarnation(self.uid, &self.name, record),
            // Where each put asks the store in any case, nobody needs to know what may be there.
            is_fresh: is_fresh && record.options.durability == Some(Durability::Back),
        }
    }

    /// Removes what earlier incarnations left in the store, some time later.
    fn sweep(&self) {
        let Some(store) = self.agent.store.clone() else { return };
        let Named { uid, name, .. } = self.clone();
        let sweeping = async move {
            let _lane = store.lane(uid).await;
            match store.sweep(uid, &name).await {
                Ok(gone) => debug!(uid, namespace = name, gone, "swept"),
                Err(error) => {
                    warn!(%error, uid, namespace = name, "what was cleared could not be swept; it is tried again when the namespace is next opened")
                }
            }
        };
        tokio::spawn(visiting(&self.agent, uid, sweeping));
    }

    /// Changes the options of a namespace, but for its durability.
    pub(super) async fn set(self, mut options: NamespaceOptions) -> Result<NamespaceInfo, Refusal> {
        let present = self.find().await?.options;
        if options.durability.is_some_and(|durability| Some(durability) != present.durability) {
            let why = "the durability of a namespace cannot be changed; make another namespace and copy the blocks";
            return Err(Refusal::Invalid(why.into()));
        }
        options.durability = present.durability;
        if let Some(store) = self.agent.store.clone().filter(|_| is_stored(&options)) {
            let _turn = store.namespace_turn(self.uid, &self.name).await;
            let _lane = store.lane(self.uid).await;
            let record = store.namespace(self.uid, &self.name).await.map_err(|error| self.failed(&error))?;
            let Some(record) = record else { return Err(Refusal::NoNamespace(self.name)) };
            let record = Record { options: options.clone(), ..record };
            store
                .set_namespace(self.uid, &self.name, &record)
                .await
                .map_err(|error| self.failed_and_forgotten(&error))?;
            return self.agent.cache().set_namespace(self.uid, &self.name, options);
        }
        self.agent.cache().set_namespace(self.uid, &self.name, options)
    }

    /// Drops all that a namespace holds.
    pub(super) async fn clear(self) -> Result<Reply, Refusal> {
        let options = self.find().await?.options;
        let Some(store) = self.agent.store.clone().filter(|_| is_stored(&options)) else {
            return Ok(Reply::Count(self.agent.cache().clear(self.uid, &self.name, None)?));
        };
        let _turn = store.namespace_turn(self.uid, &self.name).await;
        let _lane = store.lane(self.uid).await;
        // Not as it was before the turn: others may have changed it.
        let options = self.info()?.options;
        let record = store
            .clear_namespace(self.uid, &self.name, &options)
            .await
            .map_err(|error| self.failed_and_forgotten(&error))?;
        self.forget_on_disk();
        let gone = self.agent.cache().clear(self.uid, &self.name, Some(self.stored(&record, true)))?;
        self.sweep();
        Ok(Reply::Count(gone))
    }

    /// Removes a namespace with all it holds.
    pub(super) async fn remove(self) -> Result<Reply, Refusal> {
        let options = self.find().await?.options;
        if let Some(store) = self.agent.store.clone().filter(|_| is_stored(&options)) {
            let _turn = store.namespace_turn(self.uid, &self.name).await;
            let _lane = store.lane(self.uid).await;
            store.remove_namespace(self.uid, &self.name).await.map_err(|error| self.failed_and_forgotten(&error))?;
            self.forget_on_disk();
            let gone = self.agent.cache().remove_namespace(self.uid, &self.name)?;
            self.sweep();
            return Ok(Reply::Count(gone));
        }
        Ok(Reply::Count(self.agent.cache().remove_namespace(self.uid, &self.name)?))
    }
}

fn is_stored(options: &NamespaceOptions) -> bool {
    options.durability.is_some_and(Durability::is_stored)
}
