//! What a service is made of.

use super::adapter::{Adapter, Registry};
use super::events::EventSink;
use super::worker::WorkerOptions;
use super::{BackupService, Clock, Guard, Inner};
use crate::adapter::{LogSink, Store};
use crate::archive::KeyProvider;
use crate::engine::{Engine, EngineOptions};
use crate::secrets::KeyRingProvider;
use crate::{Error, Result};
use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, Mutex};
use tokio::sync::{Notify, broadcast};
use tokio_util::sync::CancellationToken;

/// Events that may wait for a slow listener; what comes on top is left out, and the listener told how many.
const EVENTS_WAITING: usize = 4096;

/// Builds a [`BackupService`].
pub struct BackupServiceBuilder {
    store: Arc<dyn Store>,
    adapters: Vec<Arc<dyn Adapter>>,
    keys: Option<Arc<dyn KeyRingProvider>>,
    archive_keys: Option<Arc<dyn KeyProvider>>,
    sinks: Vec<Arc<dyn LogSink>>,
    clock: Clock,
    engine: EngineOptions,
    worker: Option<WorkerOptions>,
}

impl fmt::Debug for BackupServiceBuilder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("BackupServiceBuilder")
            .field("store", &self.store)
            .field("adapters", &self.adapters)
            .finish_non_exhaustive()
    }
}

impl BackupServiceBuilder {
    pub(super) fn new(store: Arc<dyn Store>) -> Self {
        Self {
            store,
            adapters: Vec::new(),
            keys: None,
            archive_keys: None,
            sinks: Vec::new(),
            clock: Arc::new(jiff::Timestamp::now),
            engine: EngineOptions::default(),
            worker: Some(WorkerOptions::default()),
        }
    }

    /// An adapter, for connections of its kind.
    #[must_use]
    pub fn adapter(mut self, adapter: impl Adapter) -> Self {
        self.adapters.push(Arc::new(adapter));
        self
    }

    /// The keys under which secrets of connections are sealed: a [`KeyRing`](crate::secrets::KeyRing) in an `Arc`,
    /// [`EnvKeys`](crate::secrets::EnvKeys), [`FileKeys`](crate::secrets::FileKeys), or a provider of one's own.
    #[must_use]
    pub fn keys(mut self, keys: impl KeyRingProvider) -> Self {
        self.keys = Some(Arc::new(keys));
        self
    }

    /// What seals archives, and opens sealed ones. Without it archives are not sealed.
    #[must_use]
    pub fn archive_keys(mut self, keys: Arc<dyn KeyProvider>) -> Self {
        self.archive_keys = Some(keys);
        self
    }

    /// A sink for job log records, besides the store.
    #[must_use]
    pub fn log_sink(mut self, sink: Arc<dyn LogSink>) -> Self {
        self.sinks.push(sink);
        self
    }

    /// The clock for the ids of connections, the times of checks and the age of logs; leases are judged on the store's. By default that of
    /// the system.
    #[must_use]
    pub fn clock(mut self, clock: Arc<dyn Fn() -> jiff::Timestamp + Send + Sync>) -> Self {
        self.clock = clock;
        self
    }

    /// How operations work in this process. The memory is that of all operations of its worker together.
    #[must_use]
    pub fn engine(mut self, options: EngineOptions) -> Self {
        self.engine = options;
        self
    }

    /// How the worker in this process works; one with the default options runs otherwise.
    #[must_use]
    pub fn worker(mut self, options: WorkerOptions) -> Self {
        self.worker = Some(options);
        self
    }

    /// No worker in this process: operations wait for one elsewhere.
    #[must_use]
    pub fn without_worker(mut self) -> Self {
        self.worker = None;
        self
    }

    /// The service; its worker begins at once. To be called inside of a Tokio runtime.
    ///
    /// # Errors
    /// `Invalid` when no keys or no adapter were given, or options cannot work; `Conflict` when two adapters have one kind.
    pub fn build(self) -> Result<BackupService> {
        let Self { store, adapters, keys, archive_keys, mut sinks, clock, mut engine, worker } = self;
        let keys = keys.ok_or_else(|| Error::invalid("a service needs keys for the secrets of its connections"))?;
        if adapters.is_empty() {
            return Err(Error::invalid("a service needs at least one adapter"));
        }
        let mut registry = Registry::default();
        for adapter in adapters {
            registry.add(adapter)?;
        }
        if let Some(worker) = &worker {
            worker.check()?;
            engine.memory = worker.memory_of_one(engine.memory)?;
        }
        let (events, _) = broadcast::channel(EVENTS_WAITING);
        sinks.push(Arc::new(EventSink(events.clone())));
        let stop = CancellationToken::new();
        let service = BackupService {
            _guard: Some(Arc::new(Guard(stop.clone()))),
            inner: Arc::new(Inner {
                engine: Engine::with_options(store.clone(), engine, sinks),
                store,
                adapters: registry,
                keys,
                archive_keys,
                clock,
                events,
                due: Notify::new(),
                limits: Mutex::new(HashMap::new()),
                worker: Mutex::new(None),
            }),
        };
        if let Some(options) = worker {
            service.start_worker(options, stop);
        }
        Ok(service)
    }
}
