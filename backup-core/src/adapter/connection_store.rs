//! What persists connections.

use crate::Result;
use crate::model::{Connection, ConnectionCheck, ConnectionContent, ConnectionId, ConnectionQuery, NewConnection};
use async_trait::async_trait;

/// Persists connections, whose secrets it sees only sealed.
///
/// All changes are compare-and-set. [`create_connection`](super::create_connection) and its neighbours have the rules, for every
/// store to use.
#[async_trait]
pub trait ConnectionStore: std::fmt::Debug + Send + Sync + 'static {
    /// Creates a connection.
    ///
    /// # Behavior
    /// - It is durable on return, with version 1.
    /// - An id or a name that exists already is `Conflict`; of several at once with one name, one wins.
    /// - A name that is not allowed is `Invalid`.
    async fn create_connection(&self, new: NewConnection) -> Result<Connection>;

    /// Reads a connection.
    ///
    /// # Behavior
    /// - `None` when there is none of this id.
    async fn connection(&self, id: &ConnectionId) -> Result<Option<Connection>>;

    /// Lists connections.
    ///
    /// # Behavior
    /// - Ordered by id; `after` continues a listing without gaps or doubles.
    /// - Every given filter must hold.
    async fn connections(&self, query: &ConnectionQuery) -> Result<Vec<Connection>>;

    /// Replaces what may be changed of a connection.
    ///
    /// # Behavior
    /// - Durable on return, with the version raised by one; the kind stays.
    /// - Another version than the present one is `Conflict`, and nothing changes; of several changes at once, one wins.
    /// - The name of another connection is `Conflict`, one that is not allowed is `Invalid`, and nothing changes.
    /// - A connection that does not exist is `NotFound`.
    async fn update_connection(
        &self,
        id: &ConnectionId,
        version: u64,
        content: ConnectionContent,
    ) -> Result<Connection>;

    /// Keeps what a check found.
    ///
    /// # Behavior
    /// - It stands in [`Connection::last_check`] from then on; the version and the time of the last change stay.
    /// - A connection that does not exist is `NotFound`.
    async fn record_check(&self, id: &ConnectionId, check: ConnectionCheck) -> Result<Connection>;

    /// Deletes a connection.
    ///
    /// # Behavior
    /// - Its id and its name are free again.
    /// - Another version than the present one is `Conflict`, and nothing changes.
    /// - While an operation that is pending, running, committing or paused works with it: `Conflict`, and nothing changes.
    /// - One that does not exist is `NotFound`.
    async fn delete_connection(&self, id: &ConnectionId, version: u64) -> Result<()>;
}
