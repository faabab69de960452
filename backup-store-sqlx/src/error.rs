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
        // Of a connection: files are made elsewhere.
        sqlx::Error::Io(cause) => {
            Error::new(ErrorClass::Transient, format!("{doing}: the database cannot be reached")).because(cause)
        }
        // The display of the others has their cause in it already.
        cause => Error::new(class_of_driver(&cause), doing).because(cause.to_string()),
    }
}

fn class_of_driver(cause: &sqlx::Error) -> ErrorClass {
    use sqlx::Error as E;
    match cause {
        // A server that goes down can break off in the middle of its protocol.
        E::PoolTimedOut
        | E::PoolClosed
        | E::WorkerCrashed
        | E::BeginFailed
        | E::InvalidSavePointStatement
        | E::Protocol(_) => ErrorClass::Transient,
        E::Configuration(_) | E::InvalidArgument(_) => ErrorClass::Invalid,
        E::ColumnDecode { .. } | E::Decode(_) | E::ColumnNotFound(_) => ErrorClass::Corrupt,
        _ => ErrorClass::Permanent,
    }
}

type Class = (ErrorClass, &'static str);

const BUSY: Class = (ErrorClass::Transient, "another process keeps the database locked");
#[cfg(any(feature = "postgres", feature = "mysql"))]
const UNREACHABLE: Class = (ErrorClass::Transient, "the database does not take connections now");
#[cfg(any(feature = "postgres", feature = "mysql"))]
const ENDED: Class = (ErrorClass::Transient, "the database has ended the statement");
const FULL: Class = (ErrorClass::NoSpace, "the disk is full");
#[cfg(any(feature = "postgres", feature = "mysql"))]
const REFUSED: Class = (ErrorClass::Unauthorized, "the database refuses this user; check name, password and rights");
#[cfg(any(feature = "postgres", feature = "mysql"))]
const NO_DATABASE: Class = (ErrorClass::NotFound, "there is no such database; make it first");
const OTHER: Class = (ErrorClass::Permanent, "");

fn class_of(cause: &dyn sqlx::error::DatabaseError) -> Class {
    if cause.is_unique_violation() {
        return (ErrorClass::Conflict, "it exists already");
    }
    #[cfg(feature = "sqlite")]
    if cause.try_downcast_ref::<sqlx::sqlite::SqliteError>().is_some() {
        return sqlite(cause.code().and_then(|code| code.parse().ok()).unwrap_or_default());
    }
    #[cfg(feature = "postgres")]
    if let Some(cause) = cause.try_downcast_ref::<sqlx::postgres::PgDatabaseError>() {
        return postgres(cause.code());
    }
    #[cfg(feature = "mysql")]
    if let Some(cause) = cause.try_downcast_ref::<sqlx::mysql::MySqlDatabaseError>() {
        return mysql(cause.number());
    }
    OTHER
}

/// By SQLite's result code (<https://www.sqlite.org/rescode.html>); the low byte is the primary code.
#[cfg(feature = "sqlite")]
fn sqlite(code: i32) -> Class {
    match code & 0xff {
        // BUSY, LOCKED, NOMEM, INTERRUPT, IOERR, PROTOCOL
        5 | 6 => BUSY,
        7 | 9 | 10 | 15 => (ErrorClass::Transient, ""),
        // CORRUPT
        11 => (ErrorClass::Corrupt, "the database file is damaged; restore it from a copy or start with a new one"),
        // FULL
        13 => FULL,
        // NOTADB
        26 => (ErrorClass::Corrupt, "the file is not an SQLite database, or is damaged"),
        // PERM, READONLY, CANTOPEN
        3 | 8 | 14 => (ErrorClass::Permanent, "check the path and its permissions"),
        _ => OTHER,
    }
}

/// By SQLSTATE (<https://www.postgresql.org/docs/current/errcodes-appendix.html>).
#[cfg(feature = "postgres")]
fn postgres(code: &str) -> Class {
    match code {
        // Serialization failure, deadlock, lock not available.
        "40001" | "40P01" | "55P03" => BUSY,
        // A statement that somebody or a time limit has ended.
        "57014" => ENDED,
        // Shutdown, crash, cannot connect now, database dropped, idle for too long; too many connections, out of memory.
        "57P01" | "57P02" | "57P03" | "57P04" | "57P05" | "25P03" | "53300" | "53200" => UNREACHABLE,
        // Only a standby or a server that recovers refuses all writes.
        "25006" => UNREACHABLE,
        "53100" => FULL,
        "28000" | "28P01" | "42501" => REFUSED,
        "3D000" => NO_DATABASE,
        _ if code.starts_with("08") => UNREACHABLE,
        _ => OTHER,
    }
}

/// By error number (<https://mariadb.com/kb/en/mariadb-error-code-reference/>).
#[cfg(feature = "mysql")]
fn mysql(number: u16) -> Class {
    match number {
        // Lock wait timeout, deadlock, and what changed since it was read.
        1205 | 1213 | 1020 => BUSY,
        // A statement that somebody or a time limit has ended, in MariaDB and in MySQL.
        1317 | 1969 | 3024 => ENDED,
        // Too many connections, out of memory, shutdown, connection killed or idle for too long, read-only for now, a node that is not
        // part of its cluster now.
        1040 | 1041 | 1037 | 1053 | 1927 | 4031 | 1836 | 1290 | 1047 => UNREACHABLE,
        // Disk full while writing a file, and of a table.
        1021 | 1114 | 3 => FULL,
        1044 | 1045 | 1142 | 1143 | 1698 | 1227 => REFUSED,
        1049 => NO_DATABASE,
        _ => OTHER,
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

    #[cfg(feature = "postgres")]
    #[test]
    fn classes_of_postgres() {
        assert_eq!(postgres("40P01").0, ErrorClass::Transient);
        assert_eq!(postgres("08006").0, ErrorClass::Transient);
        assert_eq!(postgres("53100").0, ErrorClass::NoSpace);
        assert_eq!(postgres("28P01").0, ErrorClass::Unauthorized);
        assert_eq!(postgres("42P01").0, ErrorClass::Permanent);
        for passing in ["57014", "57P05", "25P03", "57P04"] {
            assert_eq!(postgres(passing).0, ErrorClass::Transient, "{passing}");
        }
    }

    #[cfg(feature = "mysql")]
    #[test]
    fn classes_of_mysql() {
        assert_eq!(mysql(1213).0, ErrorClass::Transient);
        assert_eq!(mysql(1114).0, ErrorClass::NoSpace);
        assert_eq!(mysql(1064).0, ErrorClass::Permanent);
        for passing in [1317, 1969, 3024, 4031, 1047] {
            assert_eq!(mysql(passing).0, ErrorClass::Transient, "{passing}");
        }
    }

    #[test]
    fn a_pool_that_is_too_busy_is_transient() {
        assert!(failed("x")(sqlx::Error::PoolTimedOut).is_retryable());
    }
}
