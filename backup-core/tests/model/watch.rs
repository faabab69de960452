//! A store that watches what it grants: each change must follow the table of states, and come from the newest claim.

use async_trait::async_trait;
use backup_core::Result;
use backup_core::adapter::{ConnectionStore, Store};
use backup_core::memory::MemoryStore;
use backup_core::model::{
    ArchiveId, Checkpoint, Claim, ClaimNext, ClaimRequest, Connection, ConnectionCheck, ConnectionContent,
    ConnectionId, ConnectionQuery, Fence, Guard, Identity, KnownArchive, LogPage, LogPosition, LogQuery, LogRecord,
    NewConnection, NewOperation, Operation, OperationId, OperationQuery, OperationTotals, Progress, Renewal, Request,
    StorageUse, Transition,
};
use backup_core::state::{Event, State};
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// The store in memory, and an account of its own of every operation.
#[derive(Clone, Debug, Default)]
pub(crate) struct WatchedStore {
    pub(crate) inner: MemoryStore,
    account: Arc<Mutex<Account>>,
}

#[derive(Debug, Default)]
struct Account {
    operations: BTreeMap<OperationId, Followed>,
    breaches: Vec<String>,
    /// Step and message of the log line that came with each change that was granted.
    changes: BTreeMap<OperationId, Vec<(String, String)>>,
}

#[derive(Clone, Debug)]
struct Followed {
    state: State,
    /// The newest claim; `None` while nobody may change anything.
    fence: Option<Fence>,
}

impl WatchedStore {
    /// What was granted and should not have been.
    pub(crate) fn breaches(&self) -> Vec<String> {
        self.account.lock().unwrap().breaches.clone()
    }

    /// The log lines that came with the changes of an operation.
    #[allow(dead_code, reason = "not every test that watches looks at them")]
    pub(crate) fn changes(&self, id: &OperationId) -> Vec<(String, String)> {
        self.account.lock().unwrap().changes.get(id).cloned().unwrap_or_default()
    }

    fn follow<T>(&self, id: &OperationId, act: impl FnOnce(&mut Followed) -> std::result::Result<T, String>) {
        let mut account = self.account.lock().unwrap();
        let broken = match account.operations.get_mut(id) {
            Some(followed) => act(followed).err(),
            None => Some("nobody created it".into()),
        };
        account.breaches.extend(broken.map(|text| format!("operation {id}: {text}")));
    }

    fn by_newest(followed: &Followed, fence: &Fence, what: &str) -> std::result::Result<(), String> {
        if followed.fence.as_ref() == Some(fence) {
            return Ok(());
        }
        Err(format!("{what} by {fence:?}, but the newest claim is {:?}", followed.fence))
    }
}

#[deny(clippy::missing_trait_methods)]
#[async_trait]
impl Store for WatchedStore {
    async fn create(&self, new: NewOperation, checkpoint: Option<&Checkpoint>) -> Result<Operation> {
        let created = self.inner.create(new, checkpoint).await?;
        let followed = Followed { state: created.state.clone(), fence: None };
        self.account.lock().unwrap().operations.insert(created.new.id.clone(), followed);
        Ok(created)
    }

    async fn get(&self, id: &OperationId) -> Result<Option<Operation>> {
        tokio::task::yield_now().await;
        self.inner.get(id).await
    }

    async fn query(&self, query: &OperationQuery) -> Result<Vec<Operation>> {
        tokio::task::yield_now().await;
        self.inner.query(query).await
    }

    async fn claim(&self, id: &OperationId, request: ClaimRequest) -> Result<Claim> {
        tokio::task::yield_now().await;
        let claim = self.inner.claim(id, request).await?;
        self.follow(id, |followed| {
            let next = followed.state.after(&Event::Claim).map_err(|e| e.chain())?;
            followed.fence = Some(claim.fence.clone());
            followed.state = next;
            Ok(())
        });
        tokio::task::yield_now().await;
        Ok(claim)
    }

    async fn renew(&self, fence: &Fence, lease: Duration, progress: Option<&Progress>) -> Result<Renewal> {
        tokio::task::yield_now().await;
        let renewal = self.inner.renew(fence, lease, progress).await?;
        self.follow(&fence.operation, |followed| Self::by_newest(followed, fence, "renewed"));
        Ok(renewal)
    }

    async fn save_checkpoint(&self, fence: &Fence, checkpoint: &Checkpoint) -> Result<()> {
        tokio::task::yield_now().await;
        self.inner.save_checkpoint(fence, checkpoint).await?;
        self.follow(&fence.operation, |followed| Self::by_newest(followed, fence, "a checkpoint was saved"));
        tokio::task::yield_now().await;
        Ok(())
    }

    async fn checkpoint(&self, id: &OperationId) -> Result<Option<Checkpoint>> {
        self.inner.checkpoint(id).await
    }

    async fn transition(&self, transition: Transition) -> Result<Operation> {
        tokio::task::yield_now().await;
        let (id, event, guard) = (transition.operation.clone(), transition.event.clone(), transition.guard.clone());
        let line = (transition.log.step.clone(), transition.log.message.clone());
        let after = self.inner.transition(transition).await?;
        self.account.lock().unwrap().changes.entry(id.clone()).or_default().push(line);
        self.follow(&id, |followed| {
            let next = followed.state.after(&event).map_err(|e| e.chain())?;
            if let Guard::Fence(fence) = &guard {
                Self::by_newest(followed, fence, event.name())?;
            }
            if next != after.state {
                return Err(format!("{} became {} by {event:?}", followed.state, after.state));
            }
            if !next.is_held() {
                followed.fence = None;
            }
            followed.state = next;
            Ok(())
        });
        tokio::task::yield_now().await;
        Ok(after)
    }

    async fn request(&self, id: &OperationId, request: Request) -> Result<Operation> {
        self.inner.request(id, request).await
    }

    async fn append_log(&self, id: &OperationId, at: LogPosition, records: &[LogRecord]) -> Result<()> {
        tokio::task::yield_now().await;
        self.inner.append_log(id, at, records).await
    }

    async fn page_log(&self, id: &OperationId, query: &LogQuery) -> Result<LogPage> {
        self.inner.page_log(id, query).await
    }

    async fn archives(&self, destination: &Identity) -> Result<Vec<KnownArchive>> {
        self.inner.archives(destination).await
    }

    async fn totals(&self, query: &OperationQuery) -> Result<OperationTotals> {
        self.inner.totals(query).await
    }

    async fn claim_next(&self, request: &ClaimNext) -> Result<Option<Claim>> {
        let Some(claim) = self.inner.claim_next(request).await? else { return Ok(None) };
        self.follow(&claim.fence.operation, |followed| {
            followed.state = followed.state.after(&Event::Claim).map_err(|e| e.chain())?;
            followed.fence = Some(claim.fence.clone());
            Ok(())
        });
        tokio::task::yield_now().await;
        Ok(Some(claim))
    }

    async fn clear_logs(&self, before: jiff::Timestamp) -> Result<u64> {
        self.inner.clear_logs(before).await
    }

    async fn places(&self, archive: &ArchiveId) -> Result<Vec<KnownArchive>> {
        self.inner.places(archive).await
    }

    async fn protect(&self, destination: &Identity, archive: &ArchiveId, protected: bool) -> Result<()> {
        self.inner.protect(destination, archive, protected).await
    }

    async fn storage(&self) -> Result<Vec<StorageUse>> {
        self.inner.storage().await
    }

    async fn forget_archive(&self, destination: &Identity, archive: &ArchiveId) -> Result<()> {
        self.inner.forget_archive(destination, archive).await
    }
}

#[deny(clippy::missing_trait_methods)]
#[async_trait]
impl ConnectionStore for WatchedStore {
    async fn create_connection(&self, new: NewConnection) -> Result<Connection> {
        self.inner.create_connection(new).await
    }

    async fn connection(&self, id: &ConnectionId) -> Result<Option<Connection>> {
        self.inner.connection(id).await
    }

    async fn connections(&self, query: &ConnectionQuery) -> Result<Vec<Connection>> {
        self.inner.connections(query).await
    }

    async fn update_connection(
        &self,
        id: &ConnectionId,
        version: u64,
        content: ConnectionContent,
    ) -> Result<Connection> {
        self.inner.update_connection(id, version, content).await
    }

    async fn record_check(&self, id: &ConnectionId, check: ConnectionCheck) -> Result<Connection> {
        self.inner.record_check(id, check).await
    }

    async fn delete_connection(&self, id: &ConnectionId, version: u64) -> Result<()> {
        self.inner.delete_connection(id, version).await
    }
}
