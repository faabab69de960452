//! Connections: what is stored of an adapter's configuration.

use super::name::{is_time_id, time_id};
use crate::{Error, Result};
use serde::{Deserialize, Serialize};
use std::fmt;
use std::sync::Arc;

/// The id of a connection: its creation in UTC and 32 random bits, as in `20261120T061500Z-1a2b3c4d`.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Debug, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct ConnectionId(Arc<str>);

impl ConnectionId {
    /// A new id.
    pub fn generate(now: jiff::Timestamp) -> Self {
        Self(time_id(now).into())
    }

    /// The id as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for ConnectionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::str::FromStr for ConnectionId {
    type Err = Error;
    fn from_str(s: &str) -> Result<Self> {
        if is_time_id(s) {
            Ok(Self(s.into()))
        } else {
            Err(Error::invalid("not a connection id (such as 20261120T061500Z-1a2b3c4d)").on(s.escape_default()))
        }
    }
}

impl TryFrom<String> for ConnectionId {
    type Error = Error;
    fn try_from(s: String) -> Result<Self> {
        s.parse()
    }
}

impl From<ConnectionId> for String {
    fn from(id: ConnectionId) -> Self {
        id.0.to_string()
    }
}

/// A secret as it is stored: sealed text, which opens only for one connection and kind
/// (see [`seal_connection`](crate::secrets::seal_connection)).
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct SealedSecret(pub String);

impl SealedSecret {
    /// The way of sealing and the id of the key, such as `sealed-1.0123456789abcdef`: what a key ring must know to open it
    /// (see [`KeyRing::opens`](crate::secrets::KeyRing::opens)). `None` for a text that is no sealed secret, which nobody can open.
    pub fn sealed_under(&self) -> Option<&str> {
        self.0.rsplit_once('.').map(|(under, _)| under).filter(|under| under.starts_with("sealed-"))
    }
}

impl fmt::Debug for SealedSecret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SealedSecret")
    }
}

/// A connection to be created.
#[derive(Clone, Debug, PartialEq)]
pub struct NewConnection {
    /// Its id.
    pub id: ConnectionId,
    /// The kind of its adapter: `local`, `s3`, `mongodb`, `gdrive`. It never changes: the secret is bound to it.
    pub kind: String,
    /// What may be changed.
    pub content: ConnectionContent,
}

/// The part of a connection that may be changed.
#[derive(Clone, Debug, PartialEq)]
pub struct ConnectionContent {
    /// Its name for people, which no other connection of the store has: 1 to 128 characters, none of them a control
    /// character, no space at its ends.
    pub name: String,
    /// The adapter's configuration without its secrets.
    pub settings: serde_json::Value,
    /// The secrets of the configuration, sealed.
    pub secret: Option<SealedSecret>,
}

/// A connection as the store keeps it.
#[derive(Clone, Debug, PartialEq)]
pub struct Connection {
    /// Its id.
    pub id: ConnectionId,
    /// The kind of its adapter.
    pub kind: String,
    /// What may be changed.
    pub content: ConnectionContent,
    /// 1 at first; grows by one with each change; what compare-and-set compares.
    pub version: u64,
    /// When it was created, on the store's clock.
    pub created_at: jiff::Timestamp,
    /// When it last changed, on the store's clock.
    pub updated_at: jiff::Timestamp,
    /// What the last check found, whichever version it was of.
    pub last_check: Option<ConnectionCheck>,
}

/// What a check of a connection found.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ConnectionCheck {
    /// When it was made, on the clock of who made it.
    pub at: jiff::Timestamp,
    /// Why the place cannot be used, as a chain of causes; `None` when it can.
    pub error: Option<String>,
}

/// Which connections to list, in order of their ids.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ConnectionQuery {
    /// Only of this kind.
    pub kind: Option<String>,
    /// Only of this name.
    pub name: Option<String>,
    /// Only connections with a higher id: the next page.
    pub after: Option<ConnectionId>,
    /// At most so many; `None` means 100.
    pub limit: Option<u32>,
}
