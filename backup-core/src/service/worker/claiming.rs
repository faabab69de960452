//! The loop of a worker: looks for what is due, claims it, and says what it leaves to others.

use super::able::tell;
use super::attempt::Attempt;
use super::{LONGEST_PAUSE, WorkerOptions};
use crate::Result;
use crate::engine::{Claimed, holder_is_dead};
use crate::model::{Capabilities, OperationId, OperationQuery, Request};
use crate::service::{BackupService, Inner};
use crate::state::State;
use std::collections::{HashMap, HashSet};
use std::sync::Weak;
use std::time::Duration;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

/// How often, in looks and at the longest, what dead processes of this host left is looked for, and what this worker leaves to others. The
/// leases of the dead run out anyway; this is only faster.
const ORPHANS_EVERY: (u32, Duration) = (15, Duration::from_secs(15));
/// So many of the newest operations that wait or stand still are looked through for what this worker leaves to others.
const LOOK_THROUGH: u32 = 500;

#[derive(Debug)]
pub(super) struct Worker {
    /// The service owns its worker.
    service: Weak<Inner>,
    options: WorkerOptions,
    stop: CancellationToken,
    /// Operations that wait for a worker with other adapters or keys, and whether that was told.
    left: HashMap<OperationId, bool>,
    /// Operations that it claimed and gave back, which was told.
    declined: HashSet<OperationId>,
    /// Whether it was told that the keys cannot be got.
    keys_told: bool,
}

impl Worker {
    pub(super) fn new(service: Weak<Inner>, options: WorkerOptions, stop: CancellationToken) -> Self {
        Self { service, options, stop, left: HashMap::new(), declined: HashSet::new(), keys_told: false }
    }

    pub(super) async fn run(mut self) {
        let mut running = JoinSet::new();
        let mut pause = self.options.look_every;
        let mut orphans = tokio::time::interval(ORPHANS_EVERY.1.min(self.options.look_every * ORPHANS_EVERY.0));
        orphans.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        while !self.stop.is_cancelled() {
            let Some(service) = self.service() else { break };
            // The first tick comes at once: what a process before this one left goes on at the start.
            let look_for_orphans = futures::FutureExt::now_or_never(orphans.tick()).is_some();
            match self.claim(&service, &mut running, look_for_orphans).await {
                Ok(()) => pause = self.options.look_every,
                Err(error) => {
                    tracing::warn!(error = %error.chain(), "the worker cannot look for operations");
                    pause = (pause * 2).min(LONGEST_PAUSE);
                }
            }
            let due = service.inner.due.notified();
            tokio::select! {
                () = self.stop.cancelled() => {}
                () = due => {}
                () = tokio::time::sleep(pause) => {}
                Some(ended) = running.join_next() => told(ended),
            }
        }
        // Each job hears of the stop by itself.
        while let Some(ended) = running.join_next().await {
            told(ended);
        }
    }

    fn service(&self) -> Option<BackupService> {
        self.service.upgrade().map(|inner| BackupService { inner, _guard: None })
    }

    /// Claims as many operations as there is room for.
    async fn claim(
        &mut self,
        service: &BackupService,
        running: &mut JoinSet<()>,
        look_for_orphans: bool,
    ) -> Result<()> {
        if !self.has_room(running) {
            return Ok(());
        }
        let able = self.able(service).await;
        if look_for_orphans {
            let mut query = OperationQuery { states: vec!["running", "committing"], ..OperationQuery::default() };
            loop {
                let page = service.inner.store.query(&query).await?;
                let Some(last) = page.last() else { break };
                query.before = Some(last.new.id.clone());
                for operation in page.iter().filter(|operation| operation.new.connections.is_some()) {
                    if !self.has_room(running) {
                        return Ok(());
                    }
                    // A pause that its worker did not live to see is seen to in its place.
                    if !operation.holder.as_ref().is_some_and(holder_is_dead) {
                        continue;
                    }
                    if operation.state == State::Running && operation.request == Some(Request::Pause) {
                        // Another worker may have been faster.
                        if let Err(error) = service.pause(&operation.new.id).await {
                            tracing::warn!(operation = %operation.new.id, error = %error.chain(), "a pause could not be seen to");
                        }
                    } else if service.lacks(&able, operation).await?.is_none()
                        && let Some(claimed) = service.inner.engine.claim_orphan(operation).await?
                    {
                        self.start(service, running, claimed).await;
                    }
                }
            }
        }
        while self.has_room(running) {
            match service.inner.engine.claim_next(self.options.per_connection, Some(able.clone())).await? {
                Some(claimed) => self.start(service, running, claimed).await,
                None if look_for_orphans => return self.tell_what_is_left(service, &able).await,
                None => break,
            }
        }
        Ok(())
    }

    fn has_room(&self, running: &mut JoinSet<()>) -> bool {
        while let Some(ended) = running.try_join_next() {
            told(ended);
        }
        running.len() < self.options.parallel && !self.stop.is_cancelled()
    }

    /// What this worker can work with now. Without keys it still runs what has no secrets.
    async fn able(&mut self, service: &BackupService) -> Capabilities {
        match service.capabilities().await {
            Ok(able) => {
                self.keys_told = false;
                able
            }
            Err(error) => {
                if !std::mem::replace(&mut self.keys_told, true) {
                    tracing::warn!(error = %error.chain(), "the worker leaves operations of connections with secrets to others");
                }
                service.without_keys()
            }
        }
    }

    /// Says once of each operation that is still waiting why this worker does not take it, in its job log too: there may be no worker
    /// that does.
    async fn tell_what_is_left(&mut self, service: &BackupService, able: &Capabilities) -> Result<()> {
        let (states, limit) = (vec!["pending", "paused", "failed"], Some(LOOK_THROUGH));
        let mut waiting = HashSet::new();
        for operation in
            service.inner.store.query(&OperationQuery { states, limit, ..OperationQuery::default() }).await?
        {
            let id = operation.new.id.clone();
            let waits = operation.state == State::Pending || operation.request == Some(Request::Resume);
            if operation.new.connections.is_none() || !waits {
                continue;
            }
            let Some(lacks) = service.lacks(able, &operation).await? else { continue };
            waiting.insert(id.clone());
            match self.left.get(&id) {
                // Another worker may be about to take it.
                None => drop(self.left.insert(id, false)),
                Some(false) => {
                    tell(service, &id, &lacks).await?;
                    self.left.insert(id, true);
                }
                Some(true) => {}
            }
        }
        self.left.retain(|id, _| waiting.contains(id));
        Ok(())
    }

    /// Begins with what was claimed, unless this worker does not know how to: then it is left to others, who may.
    async fn start(&mut self, service: &BackupService, running: &mut JoinSet<()>, claimed: Claimed) {
        let Err(lacks) = service.knows_how(claimed.operation()) else {
            let attempt = Attempt { inner: service.inner.clone(), stop: self.stop.clone() };
            running.spawn(attempt.run(claimed));
            return;
        };
        let id = claimed.operation().new.id.clone();
        if self.left.get(&id) != Some(&true)
            && self.declined.insert(id.clone())
            && let Err(error) = tell(service, &id, &lacks).await
        {
            tracing::warn!(operation = %id, error = %error.chain(), "the job log does not tell yet why it is left to others");
            self.declined.remove(&id);
        }
        if let Err(error) = claimed.leave_to_others().await {
            tracing::warn!(operation = %id, error = %error.chain(), "it could not be given back; its lease runs out");
        }
    }
}

/// A job that panicked is no reason for the others to stop; its lease runs out.
fn told(ended: std::result::Result<(), tokio::task::JoinError>) {
    if let Err(error) = ended {
        tracing::error!(%error, "an operation was broken off");
    }
}
