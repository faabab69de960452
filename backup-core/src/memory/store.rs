//! The store in memory.

use super::connections::Connections;
use crate::Result;
use crate::adapter::{
    DEFAULT_QUERY_LIMIT, Store, StoredOperation, check_log_query, no_such_operation, operation_exists, stored_time,
};
use crate::model::{
    ArchiveId, ArchiveRecord, Checkpoint, Claim, ClaimRequest, Fence, Identity, LogPage, LogQuery, LogRecord,
    NewOperation, Operation, OperationId, OperationQuery, Progress, Renewal, Request, StoredLogRecord, Transition,
};
use async_trait::async_trait;
use jiff::{SignedDuration, Timestamp};
use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

type Clock = Arc<dyn Fn() -> Timestamp + Send + Sync>;

/// A [`Store`] that forgets everything when its last clone is dropped.
///
/// A clone is another handle on the same data. Leases are judged on the clock that it was made
/// with; [`advance`](Self::advance) moves that clock, so that tests need not wait.
#[derive(Clone)]
pub struct MemoryStore {
    data: Arc<Mutex<Data>>,
    clock: Clock,
}

#[derive(Default)]
pub(super) struct Data {
    pub(super) connections: Connections,
    operations: BTreeMap<OperationId, Row>,
    /// The key starts with the id, so that the map is in the order in which records are listed.
    archives: BTreeMap<(ArchiveId, String, String), ArchiveRecord>,
    ahead: Duration,
}

#[derive(Clone)]
struct Row {
    stored: StoredOperation,
    checkpoint: Option<Checkpoint>,
    log: Vec<LogRecord>,
}

impl Default for MemoryStore {
    fn default() -> Self {
        Self::new()
    }
}

impl MemoryStore {
    /// An empty store on the system's clock.
    pub fn new() -> Self {
        Self::with_clock(Arc::new(Timestamp::now))
    }

    /// An empty store on a clock of the caller's.
    pub fn with_clock(clock: Arc<dyn Fn() -> Timestamp + Send + Sync>) -> Self {
        Self { data: Arc::default(), clock }
    }

    /// Moves the store's clock on, for all handles: leases run out without waiting.
    pub fn advance(&self, by: Duration) {
        let mut data = self.lock();
        data.ahead = data.ahead.saturating_add(by);
    }

    /// An independent copy of everything as it is now, as a backup of a database is one.
    pub fn snapshot(&self) -> Self {
        let data = self.lock();
        let Data { connections, operations, archives, ahead } = &*data;
        let data = Data {
            connections: connections.clone(),
            operations: operations.clone(),
            archives: archives.clone(),
            ahead: *ahead,
        };
        Self { data: Arc::new(Mutex::new(data)), clock: self.clock.clone() }
    }

    /// The lock is only ever held inside one synchronous method, and each change is made of a whole new row.
    pub(super) fn lock(&self) -> MutexGuard<'_, Data> {
        self.data.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn locked(&self) -> (MutexGuard<'_, Data>, Timestamp) {
        let data = self.lock();
        let ahead = SignedDuration::try_from(data.ahead).unwrap_or(SignedDuration::MAX);
        let now = (self.clock)().checked_add(ahead).unwrap_or(Timestamp::MAX);
        (data, stored_time(now))
    }
}

impl Data {
    fn row(&mut self, id: &OperationId) -> Result<&mut Row> {
        self.operations.get_mut(id).ok_or_else(|| no_such_operation(id))
    }

    fn archive_key(destination: &Identity, archive: &ArchiveId) -> (ArchiveId, String, String) {
        (archive.clone(), destination.kind.clone(), destination.location.clone())
    }
}

fn as_stored(record: LogRecord) -> LogRecord {
    LogRecord { time: stored_time(record.time), ..record }
}

impl fmt::Debug for MemoryStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let data = self.lock();
        write!(f, "MemoryStore({} operations, {} archives)", data.operations.len(), data.archives.len())
    }
}

#[async_trait]
impl Store for MemoryStore {
    async fn create(&self, new: NewOperation, checkpoint: Option<&Checkpoint>) -> Result<Operation> {
        let (mut data, now) = self.locked();
        if data.operations.contains_key(&new.id) {
            return Err(operation_exists(&new.id));
        }
        let (stored, log) = StoredOperation::create(new, now);
        let id = stored.operation.new.id.clone();
        data.operations.insert(id, Row { stored: stored.clone(), checkpoint: checkpoint.cloned(), log: vec![log] });
        Ok(stored.at(now))
    }

    async fn get(&self, id: &OperationId) -> Result<Option<Operation>> {
        let (data, now) = self.locked();
        Ok(data.operations.get(id).map(|row| row.stored.clone().at(now)))
    }

    async fn query(&self, query: &OperationQuery) -> Result<Vec<Operation>> {
        let OperationQuery { kind, states, id_prefix, before, limit } = query;
        let (data, now) = self.locked();
        let matches = |operation: &Operation| {
            kind.is_none_or(|kind| kind == operation.new.kind)
                && (states.is_empty() || states.contains(&operation.state.name()))
                && id_prefix.as_ref().is_none_or(|prefix| operation.new.id.as_str().starts_with(prefix.as_str()))
                && before.as_ref().is_none_or(|before| operation.new.id < *before)
        };
        Ok(data
            .operations
            .values()
            .rev()
            .filter(|row| matches(&row.stored.operation))
            .take(limit.unwrap_or(DEFAULT_QUERY_LIMIT) as usize)
            .map(|row| row.stored.clone().at(now))
            .collect())
    }

    async fn claim(&self, id: &OperationId, request: ClaimRequest) -> Result<Claim> {
        let (mut data, now) = self.locked();
        let row = data.row(id)?;
        let (stored, log) = row.stored.claim(&request, rand::random(), now)?;
        row.stored = stored.clone();
        row.log.push(log);
        Ok(Claim { fence: stored.fence(), operation: stored.at(now), checkpoint: row.checkpoint.clone() })
    }

    async fn renew(&self, fence: &Fence, lease: Duration, progress: Option<&Progress>) -> Result<Renewal> {
        let (mut data, now) = self.locked();
        let row = data.row(&fence.operation)?;
        row.stored = row.stored.renew(fence, lease, progress, now)?;
        Ok(Renewal { request: row.stored.operation.request })
    }

    async fn save_checkpoint(&self, fence: &Fence, checkpoint: &Checkpoint) -> Result<()> {
        let (mut data, _) = self.locked();
        let row = data.row(&fence.operation)?;
        row.stored.check_fence(fence)?;
        row.checkpoint = Some(checkpoint.clone());
        Ok(())
    }

    async fn checkpoint(&self, id: &OperationId) -> Result<Option<Checkpoint>> {
        Ok(self.lock().operations.get(id).and_then(|row| row.checkpoint.clone()))
    }

    async fn transition(&self, transition: Transition) -> Result<Operation> {
        let (mut data, now) = self.locked();
        let row = data.row(&transition.operation)?;
        let stored = row.stored.transition(&transition, now)?;
        let Transition { operation: _, guard: _, event: _, progress: _, log, checkpoint, archive } = transition;
        row.stored = stored.clone();
        row.log.push(as_stored(log));
        if checkpoint.is_some() {
            row.checkpoint = checkpoint;
        }
        if let Some(record) = archive {
            data.archives.insert(Data::archive_key(&record.destination, &record.archive), record);
        }
        Ok(stored.at(now))
    }

    async fn request(&self, id: &OperationId, request: Request) -> Result<Operation> {
        let (mut data, now) = self.locked();
        let row = data.row(id)?;
        row.stored = row.stored.request(request, now)?;
        Ok(row.stored.clone().at(now))
    }

    async fn append_log(&self, id: &OperationId, records: &[LogRecord]) -> Result<()> {
        self.lock().row(id)?.log.extend(records.iter().cloned().map(as_stored));
        Ok(())
    }

    async fn page_log(&self, id: &OperationId, query: &LogQuery) -> Result<LogPage> {
        check_log_query(query)?;
        let LogQuery { after, min_level, limit } = *query;
        let data = self.lock();
        let log = data.operations.get(id).map_or(&[][..], |row| &row.log);
        let mut found = (1..)
            .zip(log)
            .filter(|(sequence, record)| *sequence > after && record.level >= min_level)
            .map(|(sequence, record)| StoredLogRecord { sequence, record: record.clone() });
        let records: Vec<_> = found.by_ref().take(limit as usize).collect();
        let more = found.next().is_some();
        let next_after = match records.last() {
            Some(last) if more => last.sequence,
            _ => after.max(log.len() as u64),
        };
        Ok(LogPage { records, next_after, more })
    }

    async fn archives(&self, destination: &Identity) -> Result<Vec<ArchiveRecord>> {
        Ok(self.lock().archives.values().filter(|record| record.destination == *destination).cloned().collect())
    }

    async fn forget_archive(&self, destination: &Identity, archive: &ArchiveId) -> Result<()> {
        self.lock().archives.remove(&Data::archive_key(destination, archive));
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{ClaimOver, Holder, OperationKind};

    fn new_operation() -> NewOperation {
        NewOperation {
            id: OperationId::generate(Timestamp::now()),
            kind: OperationKind::Backup,
            name: "nightly".into(),
            source: Identity::new("memory", "a"),
            destination: Identity::new("memory", "b"),
            archive: ArchiveId::generate(Timestamp::now()),
            spec: serde_json::Value::Null,
        }
    }

    fn claim() -> ClaimRequest {
        let holder = Holder { boot: "boot".into(), host: "host".into(), pid: 1, started: 2 };
        ClaimRequest { holder, lease: Duration::from_secs(60), over: ClaimOver::Nobody }
    }

    #[tokio::test]
    async fn advancing_the_clock_ends_a_lease_for_every_handle() {
        let store = MemoryStore::new();
        let other = store.clone();
        let id = store.create(new_operation(), None).await.unwrap().new.id;
        store.claim(&id, claim()).await.unwrap();
        assert!(other.claim(&id, claim()).await.is_err());
        other.advance(Duration::from_secs(61));
        assert!(!store.get(&id).await.unwrap().unwrap().lease_running);
        assert_eq!(store.claim(&id, claim()).await.unwrap().fence.attempt, 2);
    }

    #[tokio::test]
    async fn a_clock_of_the_caller_is_the_only_clock() {
        let at = Timestamp::from_second(1_000_000_000).unwrap();
        let store = MemoryStore::with_clock(Arc::new(move || at));
        let created = store.create(new_operation(), None).await.unwrap();
        assert_eq!(created.created_at, at);
        store.advance(Duration::from_secs(5));
        let claim = store.claim(&created.new.id, claim()).await.unwrap();
        assert_eq!(claim.operation.updated_at, at + SignedDuration::from_secs(5));
    }

    #[tokio::test]
    async fn debug_shows_counts_and_no_names() {
        let store = MemoryStore::new();
        store.create(new_operation(), None).await.unwrap();
        assert_eq!(format!("{store:?}"), "MemoryStore(1 operations, 0 archives)");
    }
}
