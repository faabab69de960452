//! What persists operations, checkpoints and logs.

use crate::Result;
use crate::model::{
    ArchiveRecord, Checkpoint, Claim, ClaimRequest, Fence, Identity, LogPage, LogQuery, LogRecord, NewOperation,
    Operation, OperationId, OperationQuery, Progress, Renewal, Request, Transition,
};
use async_trait::async_trait;
use std::time::Duration;

/// Persists operations, their checkpoints and logs, and which archives were completed.
///
/// All changes of state are compare-and-set; leases are judged on the store's own clock. What is done to an operation
/// that does not exist is `NotFound`. [`StoredOperation`](super::StoredOperation) has the rules, for every store to use.
#[async_trait]
pub trait Store: std::fmt::Debug + Send + Sync + 'static {
    /// Creates an operation in state `Pending`, with its first checkpoint, if it has one, in the same transaction.
    ///
    /// # Behavior
    /// - The operation is durable on return, with version 1, attempt 0 and one log record of step `created`.
    /// - The checkpoint is there as soon as the operation is.
    /// - An id that exists already is `Conflict`.
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
    async fn query(&self, query: &OperationQuery) -> Result<Vec<Operation>>;

    /// Claims an operation.
    ///
    /// # Behavior
    /// - Follows [`Event::Claim`](crate::state::Event::Claim): `Committing` stays, all other claimable states become `Running`; a state that cannot be claimed is `Conflict`.
    /// - While another lease runs: `Conflict`, unless the request goes over the holder at exactly the present version.
    /// - Raises the attempt by one, draws a new nonce, clears a stored request, and writes one log record of step `claim` in the same transaction.
    /// - Of several claims at once exactly one wins.
    /// - Returns the last saved checkpoint.
    async fn claim(&self, id: &OperationId, request: ClaimRequest) -> Result<Claim>;

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
    /// - Raises the version; on leaving `Running` or `Committing` the lease ends and the request is cleared.
    /// - [`Event::Cancel`](crate::state::Event::Cancel) also raises the attempt, so that the worker's fence is void.
    /// - Exactly one log record is added.
    async fn transition(&self, transition: Transition) -> Result<Operation>;

    /// Stores a wish beside the state.
    ///
    /// # Behavior
    /// - Only a `Running` operation takes one; any other state is `Conflict`.
    /// - Raises the version; the wish stands in [`Operation::request`] until it is cleared.
    async fn request(&self, id: &OperationId, request: Request) -> Result<Operation>;

    /// Adds log records.
    ///
    /// # Behavior
    /// - All of them or none; they get the next sequence numbers in order.
    /// - Works in every state and needs no fence; an operation that does not exist is `NotFound`.
    async fn append_log(&self, id: &OperationId, records: &[LogRecord]) -> Result<()>;

    /// Reads a page of a job log.
    ///
    /// # Behavior
    /// - Records come in order of their sequence; following `next_after` gives each once, without gaps.
    /// - No such operation: an empty page.
    async fn page_log(&self, id: &OperationId, query: &LogQuery) -> Result<LogPage>;

    /// The archives that were completed at a destination, as this store knows them.
    ///
    /// # Behavior
    /// - Contains each record that a transition brought and that was not forgotten, in order of the archive's id.
    async fn archives(&self, destination: &Identity) -> Result<Vec<ArchiveRecord>>;

    /// Forgets an archive, after it was deleted on purpose.
    ///
    /// # Behavior
    /// - An unknown archive is success.
    async fn forget_archive(&self, destination: &Identity, archive: &crate::model::ArchiveId) -> Result<()>;
}
