//! The plain data that traits, engine and stores exchange.

mod connection;
mod entry;
mod identity;
mod log;
mod name;
mod naming;
mod operation;
mod progress;

pub use connection::{
    Connection, ConnectionCheck, ConnectionContent, ConnectionId, ConnectionQuery, NewConnection, SealedSecret,
};
pub use entry::{Entry, EntryKind, Metadata, Owner, Timestamp, Xattr};
pub use identity::Identity;
pub use log::{LogLevel, LogPage, LogPosition, LogQuery, LogRecord, StoredLogRecord};
pub use name::{ArchiveId, EntryName, GroupName, ObjectName, STAGE_PREFIX};
pub use naming::Naming;
pub use operation::{
    ArchiveRecord, Capabilities, Checkpoint, Claim, ClaimNext, ClaimOver, ClaimRequest, Fence, Guard, Holder,
    KnownArchive, NewOperation, Operation, OperationConnections, OperationId, OperationKind, OperationQuery,
    OperationTotals, Renewal, Request, StorageUse, Transition,
};
pub use progress::{Phase, Progress};
