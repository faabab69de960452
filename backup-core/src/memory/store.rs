//! The store in memory.

use super::connections::Connections;
use crate::Result;
use crate::adapter::{
    DEFAULT_QUERY_LIMIT, Store, StoredOperation, check_claim_next, check_log_query, no_such_connection,
    no_such_operation, not_yet_added, operation_exists, stored_time, unknown_archive,
};
use crate::model::{
    ArchiveId, ArchiveRecord, Checkpoint, Claim, ClaimNext, ClaimRequest, ConnectionId, Fence, Identity, KnownArchive,
    LogPage, LogPosition, LogQuery, LogRecord, NewOperation, Operation, OperationId, OperationQuery, OperationTotals,
    Progress, Renewal, Request, StorageUse, StoredLogRecord, Transition,
};
use crate::state::Event;
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
    archives: BTreeMap<(ArchiveId, String, String), KnownArchive>,
    ahead: Duration,
}

#[derive(Clone)]
struct Row {
    stored: StoredOperation,
    checkpoint: Option<Checkpoint>,
    /// Each with its sequence.
    log: Vec<(u64, LogRecord)>,
    /// The highest sequence there ever was.
    sequence: u64,
    /// How many records each writer has added.
    writers: BTreeMap<u64, u64>,
}

impl Row {
    fn append(&mut self, record: LogRecord) {
        self.sequence += 1;
        self.log.push((self.sequence, as_stored(record)));
    }
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
    pub(super) fn operations(&self) -> impl Iterator<Item = &Operation> {
        self.operations.values().map(|row| &row.stored.operation)
    }

    /// How many operations work with a connection under running leases.
    fn at_work_with(&self, connection: &ConnectionId, now: Timestamp) -> u32 {
        let with = |row: &&Row| {
            let connections = row.stored.operation.new.connections.as_ref();
            row.stored.operation.state.is_held()
                && row.stored.lease_runs(now)
                && connections.is_some_and(|c| c.source == *connection || c.destination == *connection)
        };
        u32::try_from(self.operations.values().filter(with).count()).unwrap_or(u32::MAX)
    }

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
        for connection in new.connections.iter().flat_map(|c| [&c.source, &c.destination]) {
            if !data.connections.contains_key(connection) {
                return Err(no_such_connection(connection));
            }
        }
        let (stored, log) = StoredOperation::create(new, now);
        let id = stored.operation.new.id.clone();
        let checkpoint = checkpoint.cloned();
        let mut row =
            Row { stored: stored.clone(), checkpoint, log: Vec::new(), sequence: 0, writers: BTreeMap::new() };
        row.append(log);
        data.operations.insert(id, row);
        Ok(stored.at(now))
    }

    async fn get(&self, id: &OperationId) -> Result<Option<Operation>> {
        let (data, now) = self.locked();
        Ok(data.operations.get(id).map(|row| row.stored.clone().at(now)))
    }

    async fn query(&self, query: &OperationQuery) -> Result<Vec<Operation>> {
        let (data, now) = self.locked();
        Ok(data
            .operations
            .values()
            .rev()
            .filter(|row| query.fits(&row.stored.operation))
            .take(query.limit.unwrap_or(DEFAULT_QUERY_LIMIT) as usize)
            .map(|row| row.stored.clone().at(now))
            .collect())
    }

    async fn totals(&self, query: &OperationQuery) -> Result<OperationTotals> {
        let query = OperationQuery { before: None, ..query.clone() };
        let data = self.lock();
        let mut totals = OperationTotals::default();
        for operation in data.operations().filter(|operation| query.fits(operation)) {
            totals.add(operation.state.name(), 1);
        }
        Ok(totals)
    }

    async fn claim(&self, id: &OperationId, request: ClaimRequest) -> Result<Claim> {
        let (mut data, now) = self.locked();
        let row = data.row(id)?;
        let (stored, log) = row.stored.claim(&request, rand::random(), now)?;
        row.stored = stored.clone();
        row.append(log);
        Ok(Claim { fence: stored.fence(), operation: stored.at(now), checkpoint: row.checkpoint.clone() })
    }

    async fn claim_next(&self, request: &ClaimNext) -> Result<Option<Claim>> {
        check_claim_next(request)?;
        let (mut data, now) = self.locked();
        let free = |row: &&Row| {
            let connections = row.stored.operation.new.connections.iter().flat_map(|c| [&c.source, &c.destination]);
            connections.into_iter().all(|id| {
                let able = request.able.as_ref().zip(data.connections.get(id));
                able.is_none_or(|(able, connection)| able.check(connection).is_ok())
                    && data.at_work_with(id, now) < request.per_connection
            })
        };
        let due = |row: &Row| row.stored.due_at().filter(|at| *at <= now);
        let next = data.operations.values().filter(|row| due(row).is_some()).filter(free);
        let next = next.min_by_key(|row| due(row)).map(|row| row.stored.operation.new.id.clone());
        let Some(id) = next else { return Ok(None) };
        let row = data.row(&id)?;
        let (stored, log) = row.stored.claim_due(request, rand::random(), now)?;
        row.stored = stored.clone();
        row.append(log);
        Ok(Some(Claim { fence: stored.fence(), operation: stored.at(now), checkpoint: row.checkpoint.clone() }))
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
        let Transition { operation: _, guard: _, event, progress: _, log, checkpoint, archive } = transition;
        row.stored = stored.clone();
        row.append(log);
        if matches!(event, Event::Complete { .. }) {
            row.checkpoint = None;
        } else if checkpoint.is_some() {
            row.checkpoint = checkpoint;
        }
        if let Some(record) = archive {
            let record = ArchiveRecord { completed_at: stored_time(record.completed_at), ..record };
            let key = Data::archive_key(&record.destination, &record.archive);
            let protected = data.archives.get(&key).is_some_and(|known| known.protected);
            data.archives.insert(key, KnownArchive { record, protected });
        }
        Ok(stored.at(now))
    }

    async fn request(&self, id: &OperationId, request: Request) -> Result<Operation> {
        let (mut data, now) = self.locked();
        let row = data.row(id)?;
        row.stored = row.stored.request(request, now)?;
        Ok(row.stored.clone().at(now))
    }

    async fn append_log(&self, id: &OperationId, at: LogPosition, records: &[LogRecord]) -> Result<()> {
        let mut data = self.lock();
        let row = data.row(id)?;
        let has = row.writers.get(&at.writer).copied().unwrap_or_default();
        not_yet_added(at, records, has).iter().cloned().for_each(|record| row.append(record));
        row.writers.insert(at.writer, has.max(at.first + records.len() as u64));
        Ok(())
    }

    async fn page_log(&self, id: &OperationId, query: &LogQuery) -> Result<LogPage> {
        check_log_query(query)?;
        let LogQuery { after, min_level, limit } = *query;
        let data = self.lock();
        let Some(row) = data.operations.get(id) else {
            return Ok(LogPage { records: Vec::new(), next_after: after, more: false });
        };
        let mut found = row
            .log
            .iter()
            .filter(|(sequence, record)| *sequence > after && record.level >= min_level)
            .map(|(sequence, record)| StoredLogRecord { sequence: *sequence, record: record.clone() });
        let records: Vec<_> = found.by_ref().take(limit as usize).collect();
        let more = found.next().is_some();
        let next_after = match records.last() {
            Some(last) if more => last.sequence,
            _ => after.max(row.sequence),
        };
        Ok(LogPage { records, next_after, more })
    }

    async fn clear_logs(&self, before: Timestamp) -> Result<u64> {
        let before = stored_time(before);
        let query = OperationQuery { until: Some(before), ..OperationQuery::default() };
        let mut data = self.lock();
        let mut cleared = 0;
        for row in data.operations.values_mut().filter(|row| query.fits(&row.stored.operation)) {
            let had = row.log.len();
            row.log.retain(|(_, record)| record.time >= before);
            cleared += (had - row.log.len()) as u64;
            if row.log.is_empty() && row.stored.operation.state.is_final() {
                row.writers.clear();
            }
        }
        Ok(cleared)
    }

    async fn archives(&self, destination: &Identity) -> Result<Vec<KnownArchive>> {
        let data = self.lock();
        Ok(data.archives.values().filter(|known| known.record.destination == *destination).cloned().collect())
    }

    async fn places(&self, archive: &ArchiveId) -> Result<Vec<KnownArchive>> {
        let data = self.lock();
        Ok(data.archives.values().filter(|known| known.record.archive == *archive).cloned().collect())
    }

    async fn protect(&self, destination: &Identity, archive: &ArchiveId, protected: bool) -> Result<()> {
        let mut data = self.lock();
        let known = data.archives.get_mut(&Data::archive_key(destination, archive));
        known.ok_or_else(|| unknown_archive(archive))?.protected = protected;
        Ok(())
    }

    async fn storage(&self) -> Result<Vec<StorageUse>> {
        let data = self.lock();
        let mut used: BTreeMap<(&str, &str), StorageUse> = BTreeMap::new();
        for KnownArchive { record, .. } in data.archives.values() {
            let destination = &record.destination;
            let of = used.entry((&destination.kind, &destination.location)).or_insert_with(|| StorageUse {
                destination: destination.clone(),
                archives: 0,
                stored_bytes: 0,
            });
            of.archives += 1;
            of.stored_bytes += record.stored_bytes;
        }
        Ok(used.into_values().collect())
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
            connections: None,
            created_by: String::new(),
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
