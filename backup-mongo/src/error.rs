//! What errors of the driver and of servers mean.

use backup_core::{Error, ErrorClass};
use mongodb::error::{ErrorKind, WriteFailure};

/// Codes of servers, by the names that the server's source gives them.
pub(crate) mod code {
    pub(crate) const BAD_VALUE: i32 = 2;
    pub(crate) const UNAUTHORIZED: i32 = 13;
    pub(crate) const AUTHENTICATION_FAILED: i32 = 18;
    pub(crate) const NAMESPACE_NOT_FOUND: i32 = 26;
    pub(crate) const CURSOR_NOT_FOUND: i32 = 43;
    pub(crate) const COMMAND_NOT_FOUND: i32 = 59;
    pub(crate) const INVALID_OPTIONS: i32 = 72;
    pub(crate) const NOT_A_REPLICA_SET: i32 = 123;
    pub(crate) const QUERY_PLAN_KILLED: i32 = 175;
    pub(crate) const KEY_NOT_FOUND: i32 = 211;
    pub(crate) const SNAPSHOT_TOO_OLD: i32 = 239;
    pub(crate) const SNAPSHOT_UNAVAILABLE: i32 = 246;
    pub(crate) const UUID_MISMATCH: i32 = 361;
}

/// The code of a server's error, if it is one.
pub fn command_code(error: &mongodb::error::Error) -> Option<i32> {
    match error.kind.as_ref() {
        ErrorKind::Command(command) => Some(command.code),
        ErrorKind::Write(WriteFailure::WriteError(write)) => Some(write.code),
        ErrorKind::Write(WriteFailure::WriteConcernError(concern)) => Some(concern.code),
        _ => None,
    }
}

pub(crate) fn class_of_code(code: i32) -> ErrorClass {
    match code {
        code::UNAUTHORIZED | code::AUTHENTICATION_FAILED | 11 | 31 | 32 | 8000 => ErrorClass::Unauthorized,
        code::NAMESPACE_NOT_FOUND => ErrorClass::NotFound,
        code::KEY_NOT_FOUND
        | code::QUERY_PLAN_KILLED
        | code::SNAPSHOT_TOO_OLD
        | code::SNAPSHOT_UNAVAILABLE
        | code::UUID_MISMATCH => ErrorClass::Changed,
        // Host unreachable or not found, time limits, not or no longer primary, shutting down, recovering, no majority
        // yet, cursor or operation killed.
        6
        | 7
        | 50
        | 63
        | 89
        | 91
        | 133
        | 134
        | 136
        | 150
        | 189
        | 202
        | 234
        | 237
        | 262
        | 290
        | 9001
        | 10107
        | 11600
        | 11602
        | 13388
        | 13435
        | 13436
        | code::CURSOR_NOT_FOUND => ErrorClass::Transient,
        // 11601 Interrupted: somebody has killed the operation, or the server is going down.
        11601 => ErrorClass::Transient,
        48 | 68 | 85 | 86 | 11000 => ErrorClass::Conflict,
        code::BAD_VALUE | 9 | 14 | 22 | 73 | 121 | 10334 | 17280 => ErrorClass::Invalid,
        14031 => ErrorClass::NoSpace,
        code::COMMAND_NOT_FOUND | code::INVALID_OPTIONS | code::NOT_A_REPLICA_SET | 115 | 166 | 238 => {
            ErrorClass::Unsupported
        }
        _ => ErrorClass::Permanent,
    }
}

fn class(error: &mongodb::error::Error) -> ErrorClass {
    if let Some(code) = command_code(error) {
        return match class_of_code(code) {
            ErrorClass::Permanent if error.contains_label("RetryableWriteError") => ErrorClass::Transient,
            class => class,
        };
    }
    match error.kind.as_ref() {
        ErrorKind::Authentication { .. } => ErrorClass::Unauthorized,
        ErrorKind::Io(_)
        | ErrorKind::ServerSelection { .. }
        | ErrorKind::ConnectionPoolCleared { .. }
        | ErrorKind::DnsResolve { .. } => ErrorClass::Transient,
        ErrorKind::InvalidArgument { .. } | ErrorKind::InvalidTlsConfig { .. } => ErrorClass::Invalid,
        ErrorKind::IncompatibleServer { .. } | ErrorKind::SessionsNotSupported => ErrorClass::Unsupported,
        ErrorKind::InvalidResponse { .. } => ErrorClass::Corrupt,
        _ => ErrorClass::Permanent,
    }
}

/// An error of the driver as one of ours: `doing` says what was tried (`reading the collection`).
pub fn driver_error(error: mongodb::error::Error, doing: &'static str) -> Error {
    let class = class(&error);
    let message = match (class, command_code(&error)) {
        (_, Some(code::UNAUTHORIZED)) => format!("{doing}: the user lacks the right; the server's text names it"),
        (ErrorClass::Unauthorized, _) => format!("{doing}: the server refuses user or password"),
        _ => doing.to_owned(),
    };
    // Of the driver's error only what it says: its text repeats the bytes of the server's whole answer.
    Error::new(class, message).because(error.kind.to_string())
}

/// An error about a connection string, whose text is not passed on, as it may repeat parts of it.
pub(crate) fn without_uri(error: &mongodb::error::Error) -> Error {
    match error.kind.as_ref() {
        ErrorKind::DnsResolve { .. } => Error::transient("the hosts cannot be looked up (DNS)"),
        _ => Error::invalid("it has an option or a value that the driver refuses"),
    }
}
