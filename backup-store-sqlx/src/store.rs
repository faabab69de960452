//! The store itself: names the database in every error that does not name something closer.

use crate::db::Db;
use crate::open;
use crate::place::Place;
use async_trait::async_trait;
use backup_core::adapter::{ConnectionStore, Store};
use backup_core::model::{
    ArchiveId, Checkpoint, Claim, ClaimNext, ClaimRequest, Connection, ConnectionCheck, ConnectionContent,
    ConnectionId, ConnectionQuery, Fence, Identity, KnownArchive, LogPage, LogPosition, LogQuery, LogRecord,
    NewConnection, NewOperation, Operation, OperationId, OperationQuery, OperationTotals, Progress, Renewal, Request,
    StorageUse, Transition,
};
use backup_core::{Error, Result};
use std::sync::Arc;
use std::time::Duration;

/// A [`Store`] in an SQL database. A clone is another handle on the same connections.
///
/// Times are kept to the microsecond, and progress without its values that are not finite.
#[derive(Clone, Debug)]
pub struct SqlxStore {
    place: Place,
    db: Arc<Db>,
}

impl SqlxStore {
    /// Opens the store that a URL names, and makes or upgrades its tables where needed.
    ///
    /// - `sqlite:///absolute/path`, `sqlite:relative/path`: a file. A new one, and the directories above it, can be
    ///   read by their owner only. Special characters of the path are percent-encoded.
    /// - `sqlite::memory:`: forgotten with the last handle.
    /// - `postgres://USER:PASSWORD@HOST:PORT/DATABASE`, with the parameters that sqlx knows (`sslmode`, `options`, …).
    /// - `mysql://USER:PASSWORD@HOST:PORT/DATABASE` (or `mariadb://…`): MySQL 8 or MariaDB 10.6, or later.
    ///
    /// The database of a server must be there; the tables in it start with `backup_`.
    ///
    /// # Errors
    /// - `Invalid`: the URL cannot be understood, or the file is the database of another program.
    /// - `Unsupported`: another kind of database, one that this build leaves out, or one that a newer version of this program has
    ///   written.
    /// - `Corrupt`: the file is no SQLite database, or is damaged.
    /// - `Transient`: the server cannot be reached, or another process keeps the file locked for more than ten seconds.
    /// - `Unauthorized`: the server refuses the user.
    /// - `NotFound`: the server has no such database.
    /// - as [`Error::io`] when the file or a directory cannot be made.
    pub async fn open(url: &str) -> Result<Self> {
        Self::at(Place::parse(url)?).await
    }

    /// Opens the store in an SQLite file, as [`open`](Self::open) does.
    ///
    /// # Errors
    /// As [`open`](Self::open); `Invalid` also when the path is not UTF-8.
    #[cfg(feature = "sqlite")]
    pub async fn open_file(path: impl AsRef<std::path::Path>) -> Result<Self> {
        Self::at(Place::file(path.as_ref())?).await
    }

    async fn at(place: Place) -> Result<Self> {
        match open::open(&place).await {
            Ok(db) => Ok(Self { place, db: Arc::new(db) }),
            Err(e) => Err(e.on(&place)),
        }
    }

    /// Waits for the calls that run and closes all connections, of all handles. A store that is dropped
    /// instead closes them soon after; nothing is lost either way.
    pub async fn close(&self) {
        self.db.close().await;
    }

    #[cfg(test)]
    pub(crate) fn db(&self) -> &Db {
        &self.db
    }

    fn named<T>(&self, result: Result<T, Error>) -> Result<T> {
        result.map_err(|e| e.on(&self.place))
    }
}

#[async_trait]
impl Store for SqlxStore {
    async fn create(&self, new: NewOperation, checkpoint: Option<&Checkpoint>) -> Result<Operation> {
        self.named(self.db.create(new, checkpoint).await)
    }

    async fn get(&self, id: &OperationId) -> Result<Option<Operation>> {
        self.named(self.db.get(id).await)
    }

    async fn query(&self, query: &OperationQuery) -> Result<Vec<Operation>> {
        self.named(self.db.query(query).await)
    }

    async fn totals(&self, query: &OperationQuery) -> Result<OperationTotals> {
        self.named(self.db.totals(query).await)
    }

    async fn claim(&self, id: &OperationId, request: ClaimRequest) -> Result<Claim> {
        self.named(self.db.claim(id, &request).await)
    }

    async fn claim_next(&self, request: &ClaimNext) -> Result<Option<Claim>> {
        self.named(self.db.claim_next(request).await)
    }

    async fn renew(&self, fence: &Fence, lease: Duration, progress: Option<&Progress>) -> Result<Renewal> {
        self.named(self.db.renew(fence, lease, progress).await)
    }

    async fn save_checkpoint(&self, fence: &Fence, checkpoint: &Checkpoint) -> Result<()> {
        self.named(self.db.save_checkpoint(fence, checkpoint).await)
    }

    async fn checkpoint(&self, id: &OperationId) -> Result<Option<Checkpoint>> {
        self.named(self.db.checkpoint(id).await)
    }

    async fn transition(&self, transition: Transition) -> Result<Operation> {
        self.named(self.db.transition(&transition).await)
    }

    async fn request(&self, id: &OperationId, request: Request) -> Result<Operation> {
        self.named(self.db.request(id, request).await)
    }

    async fn append_log(&self, id: &OperationId, at: LogPosition, records: &[LogRecord]) -> Result<()> {
        self.named(self.db.append_log(id, at, records).await)
    }

    async fn page_log(&self, id: &OperationId, query: &LogQuery) -> Result<LogPage> {
        self.named(self.db.page_log(id, query).await)
    }

    async fn clear_logs(&self, before: jiff::Timestamp) -> Result<u64> {
        self.named(self.db.clear_logs(before).await)
    }

    async fn archives(&self, destination: &Identity) -> Result<Vec<KnownArchive>> {
        self.named(self.db.archives(destination).await)
    }

    async fn places(&self, archive: &ArchiveId) -> Result<Vec<KnownArchive>> {
        self.named(self.db.places(archive).await)
    }

    async fn protect(&self, destination: &Identity, archive: &ArchiveId, protected: bool) -> Result<()> {
        self.named(self.db.protect(destination, archive, protected).await)
    }

    async fn storage(&self) -> Result<Vec<StorageUse>> {
        self.named(self.db.storage().await)
    }

    async fn forget_archive(&self, destination: &Identity, archive: &ArchiveId) -> Result<()> {
        self.named(self.db.forget_archive(destination, archive).await)
    }
}

#[async_trait]
impl ConnectionStore for SqlxStore {
    async fn create_connection(&self, new: NewConnection) -> Result<Connection> {
        self.named(self.db.create_connection(new).await)
    }

    async fn connection(&self, id: &ConnectionId) -> Result<Option<Connection>> {
        self.named(self.db.connection(id).await)
    }

    async fn connections(&self, query: &ConnectionQuery) -> Result<Vec<Connection>> {
        self.named(self.db.connections(query).await)
    }

    async fn update_connection(
        &self,
        id: &ConnectionId,
        version: u64,
        content: ConnectionContent,
    ) -> Result<Connection> {
        self.named(self.db.update_connection(id, version, content).await)
    }

    async fn record_check(&self, id: &ConnectionId, check: ConnectionCheck) -> Result<Connection> {
        self.named(self.db.record_check(id, check).await)
    }

    async fn delete_connection(&self, id: &ConnectionId, version: u64) -> Result<()> {
        self.named(self.db.delete_connection(id, version).await)
    }
}
