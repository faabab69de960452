//! What persists operations, checkpoints and logs.

use super::ConnectionStore;
use crate::Result;
use crate::model::{
    ArchiveId, Checkpoint, Claim, ClaimNext, ClaimRequest, Fence, Identity, KnownArchive, LogPage, LogPosition,
    LogQuery, LogRecord, NewOperation, Operation, OperationId, OperationQuery, OperationTotals, Progress, Renewal,
    Request, StorageUse, Transition,
};
use async_trait::async_trait;
use std::time::Duration;

/// Persists operations, their checkpoints and logs, which archives were completed, and [connections](ConnectionStore).
///
/// All changes of state are compare-and-set; leases are judged on the store's own clock. What is done to an operation
/// that does not exist is `NotFound`. [`StoredOperation`](super::StoredOperation) has the rules, for every store to use.
#[async_trait]
pub trait Store: ConnectionStore {
    /// Creates an operation in state `Pending`, with its first checkpoint, if it has one, in the same transaction.
    ///
    /// # Behavior
    /// - The operation is durable on return, with version 1, attempt 0 and one log record of step `created`.
    /// - The checkpoint is there as soon as the operation is.
    /// - An id that exists already is `Conflict`.
    /// - A connection that it names and that the store does not have is `NotFound`, and nothing is created.
    async fn create(&self, new: NewOperation, checkpoint: Option<&Checkpoint>) -> Result<Operation>;

    /// Reads an operation.
    ///
    /// # Behavior
    /// - `None` when there is none of this id.
    async fn get(&self, id: &OperationId) -> Result<Option<Operation>>;

    /// Lists operations, the newest first.
    ///
    /// # Behavior
    /// - Ordered by id, descending; `before` continues a listing without gaps or doubles.
    /// - Every given filter must hold.
    /// - An operation that this version of the program cannot read, as a newer one may have written it, is passed over, and is no end
    ///   of a page; in a query for an archive it is an error.
    async fn query(&self, query: &OperationQuery) -> Result<Vec<Operation>>;

    /// Counts the operations that [`query`](Self::query) would list, by state.
    ///
    /// # Behavior
    /// - `before` and `limit` do not count; all other filters do.
    async fn totals(&self, query: &OperationQuery) -> Result<OperationTotals>;

    /// Claims an operation.
    ///
    /// # Behavior
    /// - Follows [`Event::Claim`](crate::state::Event::Claim): `Committing` stays, all other claimable states become `Running`; a state that cannot be claimed is `Conflict`.
    /// - While another lease runs: `Conflict`, unless the request goes over the holder at exactly the present version.
    /// - Raises the attempt by one, draws a new nonce, clears a stored request, and writes one log record of step `claim` in the same transaction.
    /// - Of several claims at once exactly one wins.
    /// - Returns the last saved checkpoint.
    async fn claim(&self, id: &OperationId, request: ClaimRequest) -> Result<Claim>;

    /// Claims the operation that has been due for longest, of those with connections.
    ///
    /// # Behavior
    /// - Due is what is `Pending`, what is held under a lease that ran out, what is paused with a time to go on that has come, and what
    ///   is paused or failed with a [`Request::Resume`].
    /// - Operations without connections are never claimed so.
    /// - One of whose connections `per_connection` other operations work with under running leases is passed over.
    /// - One of whose connections the worker is not [able](crate::model::Capabilities) to work with is left to others, and never keeps
    ///   what is due behind it waiting. A connection that is gone asks for nothing.
    /// - Of several claims at once each gets another operation, and the limits hold.
    /// - The claim is as one by [`claim`](Self::claim), but for a stored pause of what is `Running`, which stays; `None` when nothing is due.
    async fn claim_next(&self, request: &ClaimNext) -> Result<Option<Claim>>;

    /// Extends a lease.
    ///
    /// # Behavior
    /// - It runs from now on, and progress that is given is stored.
    /// - A fence that is not the newest claim of a `Running` or `Committing` operation is `Conflict`.
    /// - Returns the stored request; the request stays until a transition or claim clears it.
    async fn renew(&self, fence: &Fence, lease: Duration, progress: Option<&Progress>) -> Result<Renewal>;

    /// Saves a checkpoint.
    ///
    /// # Behavior
    /// - Durable on return; replaces the checkpoint before it.
    /// - A fence that is not the newest claim of a `Running` or `Committing` operation is `Conflict`, and nothing changes.
    async fn save_checkpoint(&self, fence: &Fence, checkpoint: &Checkpoint) -> Result<()>;

    /// Reads the last checkpoint without claiming.
    ///
    /// # Behavior
    /// - `None` when none was saved or there is no such operation.
    async fn checkpoint(&self, id: &OperationId) -> Result<Option<Checkpoint>>;

    /// Changes the state.
    ///
    /// # Behavior
    /// - State, log record, checkpoint, progress and archive change in one transaction.
    /// - Follows the table of [`state`](crate::state): a change that is not allowed, and one that is already done, is `Conflict` and changes nothing.
    /// - A guard that does not hold is `Conflict` and changes nothing.
    /// - Raises the version; on leaving `Running` or `Committing` the lease ends. Each change clears the request: what is
    ///   `Committing` cannot pause any more.
    /// - [`Event::Cancel`](crate::state::Event::Cancel) also raises the attempt, so that the worker's fence is void.
    /// - [`Event::Complete`](crate::state::Event::Complete) removes the checkpoint, and one that comes with it is not kept; a cancelled
    ///   operation keeps its own, by which what it has staged is removed.
    /// - Exactly one log record is added.
    async fn transition(&self, transition: Transition) -> Result<Operation>;

    /// Stores a wish beside the state.
    ///
    /// # Behavior
    /// - Only a `Running` operation takes a pause, only one that is paused or failed takes a resume; any other state is `Conflict`.
    /// - Raises the version; the wish stands in [`Operation::request`] until it is cleared.
    async fn request(&self, id: &OperationId, request: Request) -> Result<Operation>;

    /// Adds log records.
    ///
    /// # Behavior
    /// - All of them or none; they get the next sequence numbers in order.
    /// - Of a writer whose records are there already, only those behind them are added: after an answer that was lost the same call, also
    ///   with more records at its end, may be repeated.
    /// - Works in every state and needs no fence; an operation that does not exist is `NotFound`.
    async fn append_log(&self, id: &OperationId, at: LogPosition, records: &[LogRecord]) -> Result<()>;

    /// Reads a page of a job log.
    ///
    /// # Behavior
    /// - Records come in order of their sequence; following `next_after` gives each once, without gaps.
    /// - No such operation: an empty page.
    async fn page_log(&self, id: &OperationId, query: &LogQuery) -> Result<LogPage>;

    /// Removes log records of before a time, by their own times, of operations that were created before it.
    ///
    /// # Behavior
    /// - Answers how many are gone; those that stay keep their sequences, and new ones go on behind the highest there ever was.
    /// - Of an operation that is completed or cancelled and whose log is gone as a whole, it also forgets who has written how many.
    async fn clear_logs(&self, before: jiff::Timestamp) -> Result<u64>;

    /// The archives that were completed at a destination, as this store knows them.
    ///
    /// # Behavior
    /// - Contains each record that a transition brought and that was not forgotten, in order of the archive's id.
    async fn archives(&self, destination: &Identity) -> Result<Vec<KnownArchive>>;

    /// The places of an archive, as this store knows them.
    ///
    /// # Behavior
    /// - Contains each record of this archive that was not forgotten, in order of the destinations.
    async fn places(&self, archive: &ArchiveId) -> Result<Vec<KnownArchive>>;

    /// Protects an archive from deletion, or gives it free again.
    ///
    /// # Behavior
    /// - It stands in [`KnownArchive::protected`] from then on, also when the archive is recorded again.
    /// - An unknown archive is `NotFound`.
    async fn protect(&self, destination: &Identity, archive: &ArchiveId, protected: bool) -> Result<()>;

    /// What archives take up, by destination.
    ///
    /// # Behavior
    /// - Sums the records that were not forgotten, in order of the destinations.
    async fn storage(&self) -> Result<Vec<StorageUse>>;

    /// Forgets an archive, after it was deleted on purpose.
    ///
    /// # Behavior
    /// - An unknown archive is success.
    async fn forget_archive(&self, destination: &Identity, archive: &ArchiveId) -> Result<()>;
}
