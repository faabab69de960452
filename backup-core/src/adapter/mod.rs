//! The traits that adapters, stores and log sinks implement.
//!
//! Each method's "# Behavior" bullets are its contract; the conformance suites of `backup-testkit`
//! test them one by one. All futures may be dropped at any time; what a dropped call leaves behind
//! is said where it matters.

mod connection_store;
mod destination;
mod log_sink;
mod restore_target;
mod source;
mod store;
mod stored;
mod stored_connection;

pub use connection_store::ConnectionStore;
pub use destination::{ByteStream, Destination, DestinationProperties, ObjectInfo, Payload};
pub use log_sink::LogSink;
pub use restore_target::{
    ContentReader, EntryProgress, Granularity, Mismatch, MismatchKind, PlanEntries, RestorePlan, RestoreTarget,
    SavedProgress, SmallEntry, VerifyReport, Wanted, Warning, Written,
};
pub use source::{
    Content, Cursor, Estimate, MAX_CURSOR, MAX_INLINE, Opened, ReadContext, Source, SourceEntry, SourceEvent,
    SourceFacts, SourceProperties, SourceWarning, Version,
};
pub use store::Store;
pub use stored::{
    DEFAULT_QUERY_LIMIT, MAX_LOG_PAGE, StoredOperation, check_claim_next, check_log_query, no_such_operation,
    not_yet_added, operation_exists, stored_time, unknown_archive,
};
pub use stored_connection::{
    STATES_IN_USE, check_connection_name, check_connection_version, connection_exists, connection_in_use,
    connection_name_taken, create_connection, no_such_connection, update_connection,
};
