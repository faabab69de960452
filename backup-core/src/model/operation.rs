//! Operations, and what a worker and a store say to each other about them.

use super::name::{is_time_id, time_id};
use super::{ArchiveId, Connection, ConnectionId, Identity, LogRecord, Progress, SealedSecret};
use crate::state::{Event, State};
use crate::{Digest, Error, Result};
use bytes::Bytes;
use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

/// The id of an operation: its creation in UTC and 32 random bits, as in `20261120T061500Z-1a2b3c4d`.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Debug, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct OperationId(Arc<str>);

impl OperationId {
    /// A new id.
    pub fn generate(now: jiff::Timestamp) -> Self {
        Self(time_id(now).into())
    }

    /// The id as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for OperationId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::str::FromStr for OperationId {
    type Err = Error;
    fn from_str(s: &str) -> Result<Self> {
        if is_time_id(s) {
            Ok(Self(s.into()))
        } else {
            Err(Error::invalid("not an operation id (such as 20261120T061500Z-1a2b3c4d)").on(s.escape_default()))
        }
    }
}

impl TryFrom<String> for OperationId {
    type Error = Error;
    fn try_from(s: String) -> Result<Self> {
        s.parse()
    }
}

impl From<OperationId> for String {
    fn from(id: OperationId) -> Self {
        id.0.to_string()
    }
}

impl OperationId {
    /// What ids of this second and later start with or come after: ids are in the order of their seconds.
    pub(crate) fn first_of(second: jiff::Timestamp) -> String {
        let id = time_id(second);
        id.split_once('-').map_or_else(|| id.clone(), |(second, _)| second.to_owned())
    }
}

/// What an operation does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum OperationKind {
    /// Source to archive.
    Backup,
    /// Archive to restore target.
    Restore,
    /// Reads an archive and compares every digest.
    Verify,
}

/// An operation to be created.
#[derive(Clone, Debug, PartialEq)]
pub struct NewOperation {
    /// Its id.
    pub id: OperationId,
    /// What it does.
    pub kind: OperationKind,
    /// A name for people; may be empty.
    pub name: String,
    /// Where the data comes from.
    pub source: Identity,
    /// Where it goes.
    pub destination: Identity,
    /// The archive that is written or read.
    pub archive: ArchiveId,
    /// Whatever the frontend needs to build the adapters again; without secrets.
    pub spec: serde_json::Value,
    /// The stored connections that it works with. An operation with connections is for every worker of the store: see
    /// [`Store::claim_next`](crate::adapter::Store::claim_next).
    pub connections: Option<OperationConnections>,
    /// Who asked for it, as the frontend names people; may be empty.
    pub created_by: String,
}

/// The stored connections that an operation works with.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct OperationConnections {
    /// Of what is read: a backup's source, the place of a restore's archive.
    pub source: ConnectionId,
    /// Of what is written: a backup's destination, a restore's target.
    pub destination: ConnectionId,
}

/// An operation as the store keeps it.
#[derive(Clone, Debug, PartialEq)]
pub struct Operation {
    /// What was created.
    pub new: NewOperation,
    /// Its state.
    pub state: State,
    /// Grows with each change of state, claim and request; what compare-and-set compares.
    pub version: u64,
    /// The fencing number of the newest claim; 0 before the first.
    pub attempt: u64,
    /// The random bits of the newest claim.
    pub nonce: u32,
    /// Who holds it; stays after the lease has run out.
    pub holder: Option<Holder>,
    /// Whether the lease still runs, on the store's clock.
    pub lease_running: bool,
    /// A wish that its worker has not yet seen to.
    pub request: Option<Request>,
    /// How far it has come.
    pub progress: Progress,
    /// When it was created, on the store's clock.
    pub created_at: jiff::Timestamp,
    /// When it last changed, on the store's clock.
    pub updated_at: jiff::Timestamp,
    /// When it was completed, failed or cancelled, on the store's clock.
    pub finished_at: Option<jiff::Timestamp>,
}

/// A wish that reaches the worker of an operation through the store.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum Request {
    /// To a worker: finish what is in flight, keep the state, stop.
    Pause,
    /// To any worker: go on with what is paused or has failed.
    Resume,
}

/// Who works on an operation.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Holder {
    /// The running system: an id that is new at each boot of a host, so that process ids of another boot or host are not mistaken.
    pub boot: String,
    /// The host's name, for people.
    pub host: String,
    /// Process id.
    pub pid: u32,
    /// When the process started, in clock ticks since boot: tells a reused process id apart.
    pub started: u64,
}

/// The right to work on an operation; void as soon as somebody else claims it or it leaves the worker's hands.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Fence {
    /// The operation.
    pub operation: OperationId,
    /// Number of the claim.
    pub attempt: u64,
    /// Random bits of the claim: tell apart two claims of one number (a store restored from a copy).
    pub nonce: u32,
}

/// Over whom a claim may go.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ClaimOver {
    /// Nobody: only when no lease runs.
    Nobody,
    /// The holder as it was at this version: the caller knows that it is dead, or was told to take over.
    Holder {
        /// The version of the operation at which the caller decided.
        version: u64,
    },
}

/// A claim to be made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClaimRequest {
    /// Who claims.
    pub holder: Holder,
    /// For how long, unless renewed.
    pub lease: Duration,
    /// Over whom.
    pub over: ClaimOver,
}

/// A claim on whatever is due.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClaimNext {
    /// Who claims.
    pub holder: Holder,
    /// For how long, unless renewed.
    pub lease: Duration,
    /// So many operations at most work with one connection at once, over all workers; at least 1.
    pub per_connection: u32,
    /// With which connections the worker can work; `None`: with all.
    pub able: Option<Capabilities>,
}

/// With which connections a worker can work.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Capabilities {
    /// The kinds that it has adapters for.
    pub kinds: BTreeSet<String>,
    /// What the secrets that it can open are sealed under, as in [`SealedSecret::sealed_under`].
    pub keys: BTreeSet<String>,
}

impl Capabilities {
    /// Whether the worker can work with a connection.
    ///
    /// # Errors
    /// What it lacks: `Unsupported` for the adapter, `Unauthorized` for the key.
    pub fn check(&self, connection: &Connection) -> Result<()> {
        let Self { kinds, keys } = self;
        if !kinds.contains(&connection.kind) {
            let known: Vec<&str> = kinds.iter().map(String::as_str).collect();
            let text = format!("it is of kind {}; this program has adapters for {}", connection.kind, known.join(", "));
            return Err(Error::unsupported(text).on(format!("connection {}", connection.id)));
        }
        match connection.content.secret.as_ref().and_then(SealedSecret::sealed_under) {
            Some(key) if !keys.contains(key) => {
                let key = key.escape_debug();
                let text = format!("its secrets are sealed under a key that is not among those given ({key})");
                Err(Error::unauthorized(text).on(format!("connection {}", connection.id)))
            }
            _ => Ok(()),
        }
    }
}

/// An opaque checkpoint; the engine knows what is in it.
#[derive(Clone, PartialEq, Eq)]
pub struct Checkpoint(pub Bytes);

impl fmt::Debug for Checkpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Checkpoint({} bytes)", self.0.len())
    }
}

/// A claim that was granted.
#[derive(Clone, Debug, PartialEq)]
pub struct Claim {
    /// The operation after the claim: `Running`, or `Committing` if it was.
    pub operation: Operation,
    /// The right to work on it.
    pub fence: Fence,
    /// Its last checkpoint.
    pub checkpoint: Option<Checkpoint>,
}

/// What a worker learns when it renews its lease.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Renewal {
    /// A wish to see to.
    pub request: Option<Request>,
}

/// Against what a change of state compares.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Guard {
    /// The caller works on the operation, and its claim must be the newest.
    Fence(Fence),
    /// The caller looked at the operation when it had this version.
    Version(u64),
}

/// A change of state.
#[derive(Clone, Debug, PartialEq)]
pub struct Transition {
    /// The operation.
    pub operation: OperationId,
    /// What must still hold.
    pub guard: Guard,
    /// What happened.
    pub event: Event,
    /// The log line that goes into the same transaction.
    pub log: LogRecord,
    /// A checkpoint that goes into the same transaction.
    pub checkpoint: Option<Checkpoint>,
    /// Progress at this moment, if the caller knows it.
    pub progress: Option<Progress>,
    /// The archive that this change completes; goes into the same transaction.
    pub archive: Option<ArchiveRecord>,
}

impl Transition {
    /// A transition with nothing but the essentials.
    pub fn new(operation: OperationId, guard: Guard, event: Event, log: LogRecord) -> Self {
        Self { operation, guard, event, log, checkpoint: None, progress: None, archive: None }
    }
}

/// What the store remembers of an archive, to notice later that a destination offers another.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ArchiveRecord {
    /// The archive.
    pub archive: ArchiveId,
    /// Where it is.
    pub destination: Identity,
    /// What it is of.
    pub source: Identity,
    /// SHA-256 of its manifest object as stored.
    pub manifest_sha256: Digest,
    /// Its name for people; may be empty.
    pub name: String,
    /// Bytes of its volumes as stored.
    pub stored_bytes: u64,
    /// When it was completed, on the clock of the worker.
    pub completed_at: jiff::Timestamp,
}

/// An archive that the store remembers, and what is only known there.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct KnownArchive {
    /// What the backup left.
    pub record: ArchiveRecord,
    /// Whether it must not be deleted.
    pub protected: bool,
}

/// What archives take up at one destination, as far as the store remembers them.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StorageUse {
    /// The destination.
    pub destination: Identity,
    /// How many archives.
    pub archives: u64,
    /// Bytes of their volumes as stored.
    pub stored_bytes: u64,
}

/// How many operations there are, by state.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct OperationTotals {
    /// Wait for a worker.
    pub pending: u64,
    /// Are worked on, or were when their worker died.
    pub running: u64,
    /// Have all data stored and are being completed.
    pub committing: u64,
    /// Stand still.
    pub paused: u64,
    /// Are done.
    pub completed: u64,
    /// Broke off.
    pub failed: u64,
    /// Were given up.
    pub cancelled: u64,
}

impl OperationTotals {
    /// Counts operations of a state, by its [name](State::name); one that is unknown counts nowhere.
    pub fn add(&mut self, state: &str, count: u64) {
        let of = match state {
            "pending" => &mut self.pending,
            "running" => &mut self.running,
            "committing" => &mut self.committing,
            "paused" => &mut self.paused,
            "completed" => &mut self.completed,
            "failed" => &mut self.failed,
            "cancelled" => &mut self.cancelled,
            _ => return,
        };
        *of += count;
    }

    /// All of them.
    pub fn all(&self) -> u64 {
        let Self { pending, running, committing, paused, completed, failed, cancelled } = self;
        pending + running + committing + paused + completed + failed + cancelled
    }

    /// The share of the completed among those that completed or failed, 0 to 1; `None` when there are none.
    pub fn success_rate(&self) -> Option<f64> {
        let ended = self.completed + self.failed;
        (ended > 0).then(|| self.completed as f64 / ended as f64)
    }
}

/// Which operations to list; the newest come first.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct OperationQuery {
    /// Only of this kind.
    pub kind: Option<OperationKind>,
    /// Only of this archive. An operation of it that this version of the program cannot read is an error then: who asks must know of all.
    pub archive: Option<ArchiveId>,
    /// Only in one of these states (see [`State::name`]); empty means all.
    pub states: Vec<&'static str>,
    /// Only ids that start so.
    pub id_prefix: Option<String>,
    /// Only operations that read from this connection.
    pub source_connection: Option<ConnectionId>,
    /// Only operations that write to this connection.
    pub destination_connection: Option<ConnectionId>,
    /// Only operations that were created in this second or later, as their ids tell.
    pub since: Option<jiff::Timestamp>,
    /// Only operations that were created before this second, as their ids tell.
    pub until: Option<jiff::Timestamp>,
    /// Only operations older than this id: the next page.
    pub before: Option<OperationId>,
    /// At most so many; `None` means 100.
    pub limit: Option<u32>,
}

impl OperationQuery {
    /// The range that the ids of the operations are in, as far as filters tell: from this text on, and before that.
    pub fn id_range(&self) -> (Option<String>, Option<String>) {
        // Ids consist of letters, digits and `-`, all of which sort before `~`.
        let from = [self.id_prefix.clone(), self.since.map(OperationId::first_of)];
        let to = [
            self.id_prefix.as_ref().map(|prefix| format!("{prefix}~")),
            self.until.map(OperationId::first_of),
            self.before.as_ref().map(|id| id.as_str().to_owned()),
        ];
        (from.into_iter().flatten().max(), to.into_iter().flatten().min())
    }

    /// Whether an operation fits all filters.
    pub fn fits(&self, operation: &Operation) -> bool {
        let Self {
            kind,
            archive,
            states,
            id_prefix: _,
            source_connection,
            destination_connection,
            since: _,
            until: _,
            before: _,
            limit: _,
        } = self;
        let (from, to) = self.id_range();
        let id = operation.new.id.as_str();
        let connections = operation.new.connections.as_ref();
        let with =
            |wanted: &Option<ConnectionId>, has: Option<&ConnectionId>| wanted.is_none() || wanted.as_ref() == has;
        kind.is_none_or(|kind| kind == operation.new.kind)
            && archive.as_ref().is_none_or(|archive| *archive == operation.new.archive)
            && (states.is_empty() || states.contains(&operation.state.name()))
            && from.is_none_or(|from| id >= from.as_str())
            && to.is_none_or(|to| id < to.as_str())
            && with(source_connection, connections.map(|c| &c.source))
            && with(destination_connection, connections.map(|c| &c.destination))
    }
}
