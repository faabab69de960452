//! Between rows and the model.

use crate::error::{failed, unreadable};
use backup_core::adapter::StoredOperation;
use backup_core::model::{ArchiveRecord, Identity, LogLevel, LogRecord, NewOperation, Operation, StoredLogRecord};
use backup_core::{Error, Result};
use jiff::Timestamp;
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;
use sqlx::sqlite::SqliteRow;
use sqlx::{Decode, Row, Sqlite, Type};

/// An operation, and the database's time at which it was read.
pub(crate) fn operation(row: &SqliteRow) -> Result<(StoredOperation, Timestamp)> {
    let id: String = get(row, "id")?;
    read_operation(row).map_err(|e| e.on(id))
}

fn read_operation(row: &SqliteRow) -> Result<(StoredOperation, Timestamp)> {
    let new = NewOperation {
        id: parsed(row, "id")?,
        kind: word(row, "kind")?,
        name: get(row, "name")?,
        source: identity(row, "source_kind", "source_location")?,
        destination: identity(row, "destination_kind", "destination_location")?,
        archive: parsed(row, "archive")?,
        spec: json(row, "spec")?,
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

/// A log record with its sequence.
pub(crate) fn log_record(row: &SqliteRow) -> Result<StoredLogRecord> {
    let record = LogRecord {
        time: time(get(row, "time")?, "time")?,
        level: match get::<i64>(row, "level")? {
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

/// A record of a completed archive at this destination.
pub(crate) fn archive(row: &SqliteRow, destination: &Identity) -> Result<ArchiveRecord> {
    Ok(ArchiveRecord {
        archive: parsed(row, "archive")?,
        destination: destination.clone(),
        source: identity(row, "source_kind", "source_location")?,
        manifest_sha256: parsed(row, "manifest_sha256")?,
    })
}

/// A level as a number, by which it can be compared in SQL.
pub(crate) fn level_number(level: LogLevel) -> i64 {
    match level {
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

/// A count as SQL has it. Counts that grow by one at a time never come near the limit.
pub(crate) fn to_integer(count: u64) -> i64 {
    i64::try_from(count).unwrap_or(i64::MAX)
}

/// An instant from microseconds since 1970.
pub(crate) fn time(micros: i64, column: &'static str) -> Result<Timestamp> {
    Timestamp::from_microsecond(micros).map_err(|e| unreadable(column).because(e))
}

fn identity(row: &SqliteRow, kind: &'static str, location: &'static str) -> Result<Identity> {
    Ok(Identity { kind: get(row, kind)?, location: get(row, location)? })
}

fn get<'r, T: Decode<'r, Sqlite> + Type<Sqlite>>(row: &'r SqliteRow, column: &'static str) -> Result<T> {
    row.try_get(column).map_err(failed("cannot read a row of the store"))
}

fn parsed<T: std::str::FromStr<Err = Error>>(row: &SqliteRow, column: &'static str) -> Result<T> {
    get::<&str>(row, column)?.parse().map_err(|e| unreadable(column).because(e))
}

fn count<T: TryFrom<i64>>(row: &SqliteRow, column: &'static str) -> Result<T> {
    T::try_from(get(row, column)?).map_err(|_| unreadable(column))
}

fn word<T: DeserializeOwned>(row: &SqliteRow, column: &'static str) -> Result<T> {
    optional_word(row, column)?.ok_or_else(|| unreadable(column))
}

fn optional_word<T: DeserializeOwned>(row: &SqliteRow, column: &'static str) -> Result<Option<T>> {
    let text: Option<String> = get(row, column)?;
    let value = text.map(|text| serde_json::from_value(Value::String(text))).transpose();
    value.map_err(|e| unreadable(column).because(e))
}

fn json<T: DeserializeOwned>(row: &SqliteRow, column: &'static str) -> Result<T> {
    optional_json(row, column)?.ok_or_else(|| unreadable(column))
}

fn optional_json<T: DeserializeOwned>(row: &SqliteRow, column: &'static str) -> Result<Option<T>> {
    let value = get::<Option<&str>>(row, column)?.map(serde_json::from_str).transpose();
    value.map_err(|e| unreadable(column).because(e))
}

fn optional_time(row: &SqliteRow, column: &'static str) -> Result<Option<Timestamp>> {
    get::<Option<i64>>(row, column)?.map(|micros| time(micros, column)).transpose()
}
