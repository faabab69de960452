//! sqlx errors in the classes of `backup-core`.

use backup_core::{Error, ErrorClass};

/// What to do with an sqlx error: `map_err(failed("cannot save the checkpoint"))`.
pub(crate) fn failed(doing: &'static str) -> impl Fn(sqlx::Error) -> Error {
    move |cause| classify(cause, doing)
}

/// An error for a row that does not hold what this program writes.
pub(crate) fn unreadable(column: &str) -> Error {
    Error::new(ErrorClass::Corrupt, format!("the store's column {column} holds something that cannot be read"))
}

fn classify(cause: sqlx::Error, doing: &'static str) -> Error {
    match cause {
        sqlx::Error::Database(cause) => {
            let (class, advice) = class_of(&*cause);
            let text = if advice.is_empty() { doing.to_string() } else { format!("{doing}: {advice}") };
            Error::new(class, text).because(cause)
        }
        sqlx::Error::Io(cause) => Error::io(cause, doing),
        // The display of the others has their cause in it already.
        cause => Error::new(class_of_driver(&cause), doing).because(cause.to_string()),
    }
}

fn class_of_driver(cause: &sqlx::Error) -> ErrorClass {
    use sqlx::Error as E;
    match cause {
        E::PoolTimedOut | E::WorkerCrashed | E::BeginFailed | E::InvalidSavePointStatement => ErrorClass::Transient,
        E::Configuration(_) | E::InvalidArgument(_) => ErrorClass::Invalid,
        E::ColumnDecode { .. } | E::Decode(_) | E::ColumnNotFound(_) => ErrorClass::Corrupt,
        _ => ErrorClass::Permanent,
    }
}

/// Class and advice by SQLite's result code (<https://www.sqlite.org/rescode.html>); the low byte is the primary code.
fn class_of(cause: &dyn sqlx::error::DatabaseError) -> (ErrorClass, &'static str) {
    if cause.is_unique_violation() {
        return (ErrorClass::Conflict, "it exists already");
    }
    let code: i32 = cause.code().and_then(|code| code.parse().ok()).unwrap_or_default();
    match code & 0xff {
        // BUSY, LOCKED, NOMEM, INTERRUPT, IOERR, PROTOCOL
        5 | 6 => (ErrorClass::Transient, "another process keeps the database locked"),
        7 | 9 | 10 | 15 => (ErrorClass::Transient, ""),
        // CORRUPT
        11 => (ErrorClass::Corrupt, "the database file is damaged; restore it from a copy or start with a new one"),
        // FULL
        13 => (ErrorClass::NoSpace, "the disk is full"),
        // NOTADB
        26 => (ErrorClass::Corrupt, "the file is not an SQLite database, or is damaged"),
        // PERM, READONLY, CANTOPEN
        3 | 8 | 14 => (ErrorClass::Permanent, "check the path and its permissions"),
        _ => (ErrorClass::Permanent, ""),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cause_is_told_once() {
        let cause = sqlx::Error::Decode("no number".into());
        let error = failed("cannot read the log")(cause);
        assert_eq!(error.class(), ErrorClass::Corrupt);
        assert_eq!(error.chain(), "cannot read the log: error occurred while decoding: no number");
    }

    #[test]
    fn a_pool_that_is_too_busy_is_transient() {
        assert!(failed("x")(sqlx::Error::PoolTimedOut).is_retryable());
    }
}
