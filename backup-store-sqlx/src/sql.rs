//! All SQL texts, in what SQLite, PostgreSQL and MySQL have in common, but for the clock.
//!
//! Each `?` is bound once, in order, so that the texts can be rewritten for `$1, $2, …` by counting.

/// Now, in microseconds since 1970 (SQLite's clock has milliseconds).
macro_rules! now {
    () => {
        "CAST(ROUND(unixepoch('subsec') * 1000) AS INTEGER) * 1000"
    };
}

/// What [`rows::operation`](crate::rows::operation) reads.
macro_rules! select_operation {
    () => {
        concat!(
            "SELECT id, kind, name, source_kind, source_location, destination_kind, destination_location, archive, ",
            "spec, state_data, version, attempt, nonce, holder, lease_until, request, progress, created_at, ",
            "updated_at, finished_at, ",
            now!(),
            " AS now FROM operations WHERE "
        )
    };
}

/// Starts a transaction that writes: the lock is taken, and waited for, at once. A transaction that
/// first reads and then writes would fail when another has written between.
pub(crate) const BEGIN_WRITE: &str = "BEGIN IMMEDIATE";

pub(crate) const NOW: &str = concat!("SELECT ", now!());

pub(crate) const LOAD_OPERATION: &str = concat!(select_operation!(), "id = ?");

/// Conditions follow, each with an `AND` before it.
pub(crate) const LIST_OPERATIONS: &str = concat!(select_operation!(), "1 = 1");

pub(crate) const INSERT_OPERATION: &str = "INSERT INTO operations (id, kind, name, source_kind, source_location, \
    destination_kind, destination_location, archive, spec, state, state_data, version, attempt, nonce, holder, \
    lease_until, request, progress, log_sequence, created_at, updated_at, finished_at) \
    VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, 0, ?, ?, ?)";

pub(crate) const UPDATE_OPERATION: &str = "UPDATE operations SET state = ?, state_data = ?, version = ?, attempt = ?, \
    nonce = ?, holder = ?, lease_until = ?, request = ?, progress = ?, updated_at = ?, finished_at = ? \
    WHERE id = ? AND version = ?";

pub(crate) const LOAD_CHECKPOINT: &str = "SELECT data FROM checkpoints WHERE operation_id = ?";

pub(crate) const UPDATE_CHECKPOINT: &str = "UPDATE checkpoints SET saved_at = ?, data = ? WHERE operation_id = ?";

pub(crate) const INSERT_CHECKPOINT: &str = "INSERT INTO checkpoints (saved_at, data, operation_id) VALUES (?, ?, ?)";

/// Also locks the operation's row where rows can be locked, so that sequences have no gaps.
pub(crate) const RESERVE_SEQUENCES: &str = "UPDATE operations SET log_sequence = log_sequence + ? WHERE id = ?";

pub(crate) const LAST_SEQUENCE: &str = "SELECT log_sequence FROM operations WHERE id = ?";

/// Rows of values follow.
pub(crate) const INSERT_LOG_RECORDS: &str =
    "INSERT INTO log_records (operation_id, sequence, time, level, step, message, context) ";

pub(crate) const PAGE_LOG: &str = "SELECT sequence, time, level, step, message, context FROM log_records \
    WHERE operation_id = ? AND sequence > ? AND level >= ? ORDER BY sequence LIMIT ?";

pub(crate) const LIST_ARCHIVES: &str = "SELECT archive, source_kind, source_location, manifest_sha256 FROM archives \
    WHERE destination_kind = ? AND destination_location = ? ORDER BY archive";

pub(crate) const DELETE_ARCHIVE: &str =
    "DELETE FROM archives WHERE destination_kind = ? AND destination_location = ? AND archive = ?";

pub(crate) const INSERT_ARCHIVE: &str = "INSERT INTO archives (destination_kind, destination_location, archive, \
    source_kind, source_location, manifest_sha256) VALUES (?, ?, ?, ?, ?, ?)";
