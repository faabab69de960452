//! Operations, and what a worker and a store say to each other about them.

use super::name::{is_time_id, time_id};
use super::{ArchiveId, Identity, LogRecord, Progress};
use crate::state::{Event, State};
use crate::{Digest, Error, Result};
use bytes::Bytes;
use serde::{Deserialize, Serialize};
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
    /// Finish what is in flight, keep the state, stop.
    Pause,
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
}

/// Which operations to list; the newest come first.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct OperationQuery {
    /// Only of this kind.
    pub kind: Option<OperationKind>,
    /// Only in one of these states (see [`State::name`]); empty means all.
    pub states: Vec<&'static str>,
    /// Only ids that start so.
    pub id_prefix: Option<String>,
    /// Only operations older than this id: the next page.
    pub before: Option<OperationId>,
    /// At most so many; `None` means 100.
    pub limit: Option<u32>,
}
