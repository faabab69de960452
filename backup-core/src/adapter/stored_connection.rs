//! The rules by which every store changes a connection. `now` is always the store's own clock.

use crate::model::{Connection, ConnectionContent, ConnectionId, NewConnection, OperationId};
use crate::{Error, ErrorClass, Result};
use jiff::Timestamp;

const MAX_NAME: usize = 128;

/// A connection as it is created.
///
/// # Errors
/// `Invalid` when its name is not allowed.
pub fn create_connection(new: NewConnection, now: Timestamp) -> Result<Connection> {
    let NewConnection { id, kind, content } = new;
    check_connection_name(&content.name)?;
    Ok(Connection { id, kind, content, version: 1, created_at: now, updated_at: now, last_check: None })
}

/// A connection after a change; that its name is free is for the store to see to.
///
/// # Errors
/// `Conflict` when it has another version; `Invalid` when the name is not allowed.
pub fn update_connection(
    present: &Connection,
    version: u64,
    content: ConnectionContent,
    now: Timestamp,
) -> Result<Connection> {
    check_connection_version(present, version)?;
    check_connection_name(&content.name)?;
    Ok(Connection { content, version: present.version + 1, updated_at: now, ..present.clone() })
}

/// Whether a connection is still what the caller saw.
///
/// # Errors
/// `Conflict` when it has another version.
pub fn check_connection_version(present: &Connection, version: u64) -> Result<()> {
    if present.version == version {
        return Ok(());
    }
    let text = format!("the connection has changed: version {version} became {}; look at it again", present.version);
    Err(Error::new(ErrorClass::Conflict, text).on(&present.id))
}

/// The error for a connection that a store does not have.
pub fn no_such_connection(id: &ConnectionId) -> Error {
    Error::not_found("there is no such connection in the store").on(id)
}

/// The error for an id that a store has already.
pub fn connection_exists(id: &ConnectionId) -> Error {
    Error::conflict("the store has a connection of this id already").on(id)
}

/// The error for a name that another connection has.
pub fn connection_name_taken(name: &str) -> Error {
    Error::conflict("another connection has this name already").on(name.escape_debug())
}

/// The error for a connection that an operation works with.
pub fn connection_in_use(id: &ConnectionId, operation: &OperationId) -> Error {
    let text = format!("operation {operation} works with this connection; wait for its end or cancel it");
    Error::new(ErrorClass::Conflict, text).on(id)
}

/// The states in which an operation needs its connections: those that go on, or that a resume is meant for.
pub const STATES_IN_USE: [&str; 4] = ["pending", "running", "committing", "paused"];

/// Whether a connection may have this name.
///
/// # Errors
/// `Invalid` when it may not.
pub fn check_connection_name(name: &str) -> Result<()> {
    let length = name.chars().count();
    if length == 0 || length > MAX_NAME || name.trim() != name || name.chars().any(char::is_control) {
        let text = "the name of a connection has 1 to 128 characters, no control characters and no space at its ends";
        return Err(Error::invalid(text).on(name.chars().take(MAX_NAME).collect::<String>().escape_debug()));
    }
    Ok(())
}
