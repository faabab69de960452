//! All SQL texts, in what SQLite, PostgreSQL and MySQL have in common.
//!
//! Each `?` is bound once, in order. What the databases say in different words stands in braces: see
//! [`Dialect::translate`](crate::dialect::Dialect::translate).

/// What [`rows::operation`](crate::rows::operation) reads.
macro_rules! operation_columns {
    () => {
        "id, kind, name, source_kind, source_location, destination_kind, destination_location, archive, spec, \
         source_connection, destination_connection, created_by, state_data, version, attempt, nonce, holder, lease_until, \
         request, progress, created_at, updated_at, finished_at, {now} AS now"
    };
}

pub(crate) const NOW: &str = "SELECT {now}";

pub(crate) const GET_OPERATION: &str = concat!("SELECT ", operation_columns!(), " FROM backup_operations WHERE id = ?");

pub(crate) const LOCK_OPERATION: &str =
    concat!("SELECT ", operation_columns!(), " FROM backup_operations WHERE id = ? {for update}");

/// As the one before; no row when another transaction has it.
pub(crate) const LOCK_FREE_OPERATION: &str =
    concat!("SELECT ", operation_columns!(), " FROM backup_operations WHERE id = ? {for update} {skip locked}");

/// Conditions follow, each with an `AND` before it.
pub(crate) const LIST_OPERATIONS: &str =
    concat!("SELECT ", operation_columns!(), " FROM backup_operations WHERE 1 = 1");

/// Conditions follow, then [`GROUP_BY_STATE`].
pub(crate) const COUNT_OPERATIONS: &str = "SELECT state, COUNT(*) AS count FROM backup_operations WHERE 1 = 1";

pub(crate) const GROUP_BY_STATE: &str = " GROUP BY state";

/// Further conditions follow, then [`ORDER_BY_DUE`].
pub(crate) const LIST_DUE: &str = "SELECT id, due_at, source_connection, destination_connection FROM backup_operations {by due} WHERE due_at <= {now}";

/// The column of an operation's connection follows, and what must not be so of that connection.
pub(crate) const AND_NO_CONNECTION: &str =
    " AND NOT EXISTS (SELECT 1 FROM backup_connections WHERE backup_connections.id = backup_operations.";

pub(crate) const ORDER_BY_DUE: &str = " ORDER BY due_at, id LIMIT ";

/// The operations that work with a connection under running leases; the connection is bound twice.
pub(crate) const COUNT_AT_WORK: &str = "SELECT COUNT(*) AS count FROM backup_operations WHERE state IN ('running', 'committing') \
    AND lease_until > {now} AND (source_connection = ? OR destination_connection = ?)";

/// The condition on the connections, with a value after each part, then [`FIND_USER_STATES`] and the states.
pub(crate) const FIND_USER: [&str; 2] =
    ["SELECT id FROM backup_operations WHERE (source_connection = ", " OR destination_connection = "];

pub(crate) const FIND_USER_STATES: &str = ") AND state IN (";

pub(crate) const INSERT_OPERATION: &str = "INSERT INTO backup_operations (id, kind, name, source_kind, source_location, \
    destination_kind, destination_location, archive, spec, source_connection, destination_connection, created_by, state, \
    state_data, version, attempt, nonce, holder, lease_until, due_at, request, progress, log_sequence, created_at, updated_at, \
    finished_at) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, 0, ?, ?, ?)";

pub(crate) const UPDATE_OPERATION: &str = "UPDATE backup_operations SET state = ?, state_data = ?, version = ?, attempt = ?, \
    nonce = ?, holder = ?, lease_until = ?, due_at = ?, request = ?, progress = ?, updated_at = ?, finished_at = ? \
    WHERE id = ? AND version = ?";

pub(crate) const LOAD_CHECKPOINT: &str = "SELECT data FROM backup_checkpoints WHERE operation_id = ?";

pub(crate) const UPDATE_CHECKPOINT: &str =
    "UPDATE backup_checkpoints SET saved_at = ?, data = ? WHERE operation_id = ?";

pub(crate) const INSERT_CHECKPOINT: &str =
    "INSERT INTO backup_checkpoints (saved_at, data, operation_id) VALUES (?, ?, ?)";

pub(crate) const DELETE_CHECKPOINT: &str = "DELETE FROM backup_checkpoints WHERE operation_id = ?";

/// Also locks the operation's row where rows can be locked, so that sequences have no gaps.
pub(crate) const RESERVE_SEQUENCES: &str = "UPDATE backup_operations SET log_sequence = log_sequence + ? WHERE id = ?";

pub(crate) const LAST_SEQUENCE: &str = "SELECT log_sequence FROM backup_operations WHERE id = ?";

pub(crate) const LOCK_SEQUENCE: &str = "SELECT log_sequence FROM backup_operations WHERE id = ? {for update}";

pub(crate) const GET_LOG_WRITER: &str = "SELECT added FROM backup_log_writers WHERE operation_id = ? AND writer = ?";

pub(crate) const UPDATE_LOG_WRITER: &str =
    "UPDATE backup_log_writers SET added = ? WHERE operation_id = ? AND writer = ?";

pub(crate) const INSERT_LOG_WRITER: &str =
    "INSERT INTO backup_log_writers (added, operation_id, writer) VALUES (?, ?, ?)";

/// Rows of values follow.
pub(crate) const INSERT_LOG_RECORDS: &str =
    "INSERT INTO backup_log_records (operation_id, sequence, time, level, step, message, context) VALUES ";

pub(crate) const PAGE_LOG: &str = "SELECT sequence, time, level, step, message, context FROM backup_log_records \
    WHERE operation_id = ? AND sequence > ? AND level >= ? ORDER BY sequence LIMIT ?";

/// The operations of before a time that have log records of before it. The operation after which to begin is bound first.
pub(crate) const LIST_OLD_LOGS: &str = "SELECT id FROM backup_operations WHERE id > ? AND id < ? AND EXISTS (SELECT 1 \
    FROM backup_log_records WHERE operation_id = backup_operations.id AND time < ?) ORDER BY id LIMIT ?";

/// The first record behind so many; what comes before it can be cleared in one transaction.
pub(crate) const BOUND_OLD_LOG: &str = "SELECT sequence FROM backup_log_records WHERE operation_id = ? AND time < ? \
    ORDER BY sequence LIMIT 1 OFFSET ?";

pub(crate) const CLEAR_LOG: &str =
    "DELETE FROM backup_log_records WHERE operation_id = ? AND time < ? AND sequence < ?";

/// Of an operation that has ended and has no log any more; its id is bound three times.
pub(crate) const DELETE_LOG_WRITERS: &str = "DELETE FROM backup_log_writers WHERE operation_id = ? AND NOT EXISTS (SELECT 1 \
    FROM backup_log_records WHERE operation_id = ?) AND EXISTS (SELECT 1 FROM backup_operations WHERE id = ? \
    AND state IN ('completed', 'cancelled'))";

/// What [`rows::archive`](crate::rows::archive) reads.
macro_rules! select_archive {
    () => {
        "SELECT archive, destination_kind, destination_location, source_kind, source_location, manifest_sha256, name, \
         stored_bytes, completed_at, protected FROM backup_archives WHERE "
    };
}

pub(crate) const LIST_ARCHIVES: &str = concat!(select_archive!(), "place = ? ORDER BY archive");

pub(crate) const LIST_PLACES: &str = concat!(select_archive!(), "archive = ?");

pub(crate) const GET_PROTECTION: &str =
    "SELECT protected FROM backup_archives WHERE place = ? AND archive = ? {for update}";

pub(crate) const PROTECT_ARCHIVE: &str = "UPDATE backup_archives SET protected = ? WHERE place = ? AND archive = ?";

pub(crate) const SUM_STORAGE: &str = "SELECT destination_kind, destination_location, COUNT(*) AS count, \
    CAST(SUM(stored_bytes) AS {integer}) AS stored_bytes FROM backup_archives GROUP BY destination_kind, destination_location";

pub(crate) const DELETE_ARCHIVE: &str = "DELETE FROM backup_archives WHERE place = ? AND archive = ?";

pub(crate) const INSERT_ARCHIVE: &str = "INSERT INTO backup_archives (place, archive, destination_kind, destination_location, \
    source_kind, source_location, manifest_sha256, name, stored_bytes, completed_at, protected) \
    VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)";

/// What [`rows::connection`](crate::rows::connection) reads; conditions follow, each with an `AND` before it.
pub(crate) const LIST_CONNECTIONS: &str = "SELECT id, kind, name, settings, secret, version, created_at, updated_at, checked_at, \
    check_error FROM backup_connections WHERE 1 = 1";

pub(crate) const LOCK_CONNECTION: &str = "SELECT id FROM backup_connections WHERE id = ? {for update}";

pub(crate) const INSERT_CONNECTION: &str = "INSERT INTO backup_connections (id, kind, name, settings, secret, sealed_under, version, \
    created_at, updated_at) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)";

pub(crate) const UPDATE_CONNECTION: &str = "UPDATE backup_connections SET name = ?, settings = ?, secret = ?, sealed_under = ?, \
    version = ?, updated_at = ? WHERE id = ? AND version = ?";

pub(crate) const RECORD_CHECK: &str = "UPDATE backup_connections SET checked_at = ?, check_error = ? WHERE id = ?";

pub(crate) const DELETE_CONNECTION: &str = "DELETE FROM backup_connections WHERE id = ?";
