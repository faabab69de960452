//! Between rows and the model.

use crate::due::Position;
use crate::error::{failed, unreadable};
use backup_core::adapter::StoredOperation;
use backup_core::model::{
    ArchiveRecord, Connection, ConnectionCheck, ConnectionContent, ConnectionId, Identity, KnownArchive, LogLevel,
    LogRecord, NewOperation, Operation, OperationConnections, SealedSecret, StorageUse, StoredLogRecord,
};
use backup_core::{Error, Result};
use jiff::Timestamp;
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;
use sqlx::any::AnyRow;
use sqlx::{Any, Decode, Row, Type};

/// An operation, and the database's time at which it was read.
pub(crate) fn operation(row: &AnyRow) -> Result<(StoredOperation, Timestamp)> {
    let id: String = get(row, "id")?;
    read_operation(row).map_err(|e| e.on(id))
}

fn read_operation(row: &AnyRow) -> Result<(StoredOperation, Timestamp)> {
    let new = NewOperation {
        id: parsed(row, "id")?,
        kind: word(row, "kind")?,
        name: get(row, "name")?,
        source: identity(row, "source_kind", "source_location")?,
        destination: identity(row, "destination_kind", "destination_location")?,
        archive: parsed(row, "archive")?,
        spec: json(row, "spec")?,
        connections: connections(row)?.map(|(source, destination)| OperationConnections { source, destination }),
        created_by: get(row, "created_by")?,
    };
    let operation = Operation {
        new,
        state: json(row, "state_data")?,
        version: count(row, "version")?,
        attempt: count(row, "attempt")?,
        nonce: count(row, "nonce")?,
        holder: optional_json(row, "holder")?,
        lease_running: false,
        request: optional_word(row, "request")?,
        progress: json(row, "progress")?,
        created_at: time(get(row, "created_at")?, "created_at")?,
        updated_at: time(get(row, "updated_at")?, "updated_at")?,
        finished_at: optional_time(row, "finished_at")?,
    };
    let lease_until = optional_time(row, "lease_until")?;
    Ok((StoredOperation { operation, lease_until }, time(get(row, "now")?, "now")?))
}

/// Where an operation stands among what is due.
pub(crate) fn position(row: &AnyRow) -> Result<Position> {
    Ok(Position { due_at: get(row, "due_at")?, operation: get(row, "id")? })
}

/// The connections of an operation: of its source and its destination.
pub(crate) fn connections(row: &AnyRow) -> Result<Option<(ConnectionId, ConnectionId)>> {
    let source = optional_parsed(row, "source_connection")?;
    let destination = optional_parsed(row, "destination_connection")?;
    Ok(source.zip(destination))
}

/// A log record with its sequence.
pub(crate) fn log_record(row: &AnyRow) -> Result<StoredLogRecord> {
    let record = LogRecord {
        time: time(get(row, "time")?, "time")?,
        level: match get::<i64>(row, "level")? {
            0 => LogLevel::Debug,
            1 => LogLevel::Info,
            2 => LogLevel::Warning,
            3 => LogLevel::Error,
            _ => return Err(unreadable("level")),
        },
        step: get(row, "step")?,
        message: get(row, "message")?,
        context: optional_json(row, "context")?.unwrap_or(Value::Null),
    };
    Ok(StoredLogRecord { sequence: count(row, "sequence")?, record })
}

/// A completed archive.
pub(crate) fn archive(row: &AnyRow) -> Result<KnownArchive> {
    let record = ArchiveRecord {
        archive: parsed(row, "archive")?,
        destination: identity(row, "destination_kind", "destination_location")?,
        source: identity(row, "source_kind", "source_location")?,
        manifest_sha256: parsed(row, "manifest_sha256")?,
        name: get(row, "name")?,
        stored_bytes: count(row, "stored_bytes")?,
        completed_at: time(get(row, "completed_at")?, "completed_at")?,
    };
    Ok(KnownArchive { record, protected: get::<i64>(row, "protected")? != 0 })
}

/// What archives take up at one destination.
pub(crate) fn storage_use(row: &AnyRow) -> Result<StorageUse> {
    Ok(StorageUse {
        destination: identity(row, "destination_kind", "destination_location")?,
        archives: count(row, "count")?,
        stored_bytes: count(row, "stored_bytes")?,
    })
}

/// How many operations are in a state.
pub(crate) fn state_count(row: &AnyRow) -> Result<(String, u64)> {
    Ok((get(row, "state")?, count(row, "count")?))
}

/// A connection.
pub(crate) fn connection(row: &AnyRow) -> Result<Connection> {
    let id: ConnectionId = parsed(row, "id")?;
    read_connection(row, &id).map_err(|e| e.on(&id))
}

fn read_connection(row: &AnyRow, id: &ConnectionId) -> Result<Connection> {
    let checked_at = optional_time(row, "checked_at")?;
    let error: Option<String> = get(row, "check_error")?;
    Ok(Connection {
        id: id.clone(),
        kind: get(row, "kind")?,
        content: ConnectionContent {
            name: get(row, "name")?,
            settings: json(row, "settings")?,
            secret: get::<Option<String>>(row, "secret")?.map(SealedSecret),
        },
        version: count(row, "version")?,
        created_at: time(get(row, "created_at")?, "created_at")?,
        updated_at: time(get(row, "updated_at")?, "updated_at")?,
        last_check: checked_at.map(|at| ConnectionCheck { at, error }),
    })
}

/// The id in a row.
pub(crate) fn id<T: std::str::FromStr<Err = Error>>(row: &AnyRow) -> Result<T> {
    parsed(row, "id")
}

/// The one number in a row.
pub(crate) fn number(row: &AnyRow) -> Result<i64> {
    row.try_get(0).map_err(failed("cannot read a row of the store"))
}

/// The database's time.
pub(crate) fn clock(row: &AnyRow) -> Result<Timestamp> {
    time(number(row)?, "now")
}

/// The bytes in a row.
pub(crate) fn bytes(row: &AnyRow) -> Result<Vec<u8>> {
    get(row, "data")
}

/// A level as a number, by which it can be compared in SQL.
pub(crate) fn level_number(level: LogLevel) -> i64 {
    match level {
        LogLevel::Debug => 0,
        LogLevel::Info => 1,
        LogLevel::Warning => 2,
        LogLevel::Error => 3,
    }
}

/// A plain enum as the word that serde gives it.
pub(crate) fn to_word(value: &impl Serialize) -> Result<String> {
    match serde_json::to_value(value) {
        Ok(Value::String(word)) => Ok(word),
        _ => Err(Error::permanent("the store can keep only a plain word here")),
    }
}

/// Any value as JSON.
pub(crate) fn to_json(value: &impl Serialize) -> Result<String> {
    serde_json::to_string(value)
        .map_err(|e| Error::invalid("the store cannot keep a value that has no JSON").because(e))
}

/// Text for people as every database takes it: PostgreSQL has no character of code 0.
pub(crate) fn to_text(text: &str) -> String {
    text.replace('\0', "\u{fffd}")
}

/// A count as SQL has it. Counts that grow by one at a time never come near the limit.
pub(crate) fn to_integer(count: u64) -> i64 {
    i64::try_from(count).unwrap_or(i64::MAX)
}

/// An instant from microseconds since 1970.
fn time(micros: i64, column: &'static str) -> Result<Timestamp> {
    Timestamp::from_microsecond(micros).map_err(|e| unreadable(column).because(e))
}

fn identity(row: &AnyRow, kind: &'static str, location: &'static str) -> Result<Identity> {
    Ok(Identity { kind: get(row, kind)?, location: get(row, location)? })
}

fn get<'r, T: Decode<'r, Any> + Type<Any>>(row: &'r AnyRow, column: &'static str) -> Result<T> {
    row.try_get(column).map_err(failed("cannot read a row of the store"))
}

fn parsed<T: std::str::FromStr<Err = Error>>(row: &AnyRow, column: &'static str) -> Result<T> {
    optional_parsed(row, column)?.ok_or_else(|| unreadable(column))
}

fn optional_parsed<T: std::str::FromStr<Err = Error>>(row: &AnyRow, column: &'static str) -> Result<Option<T>> {
    let text: Option<String> = get(row, column)?;
    text.map(|text| text.parse()).transpose().map_err(|e| unreadable(column).because(e))
}

fn count<T: TryFrom<i64>>(row: &AnyRow, column: &'static str) -> Result<T> {
    T::try_from(get(row, column)?).map_err(|_| unreadable(column))
}

fn word<T: DeserializeOwned>(row: &AnyRow, column: &'static str) -> Result<T> {
    optional_word(row, column)?.ok_or_else(|| unreadable(column))
}

fn optional_word<T: DeserializeOwned>(row: &AnyRow, column: &'static str) -> Result<Option<T>> {
    let text: Option<String> = get(row, column)?;
    let value = text.map(|text| serde_json::from_value(Value::String(text))).transpose();
    value.map_err(|e| unreadable(column).because(e))
}

fn json<T: DeserializeOwned>(row: &AnyRow, column: &'static str) -> Result<T> {
    optional_json(row, column)?.ok_or_else(|| unreadable(column))
}

fn optional_json<T: DeserializeOwned>(row: &AnyRow, column: &'static str) -> Result<Option<T>> {
    let text: Option<String> = get(row, column)?;
    text.map(|text| serde_json::from_str(&text)).transpose().map_err(|e| unreadable(column).because(e))
}

fn optional_time(row: &AnyRow, column: &'static str) -> Result<Option<Timestamp>> {
    get::<Option<i64>>(row, column)?.map(|micros| time(micros, column)).transpose()
}
