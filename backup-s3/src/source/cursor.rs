//! Positions in a bucket.

use super::S3Versions;
use backup_core::adapter::Cursor;
use backup_core::{Error, Result};
use serde::{Deserialize, Serialize};

/// Everything up to a key has been delivered. Keys are relative to the prefix of the bucket's configuration.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Position {
    /// Version of this encoding.
    v: u32,
    /// The last key of which something was delivered.
    pub(super) key: String,
    /// The last of its versions that was delivered, if there are more.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) version: Option<VersionMark>,
}

/// A version within the history of a key.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct VersionMark {
    pub(super) id: String,
    /// When it was made, in seconds; for finding the place when the version itself has been removed.
    pub(super) modified: i64,
}

impl Position {
    pub(super) fn behind(key: String, version: Option<VersionMark>) -> Self {
        Self { v: 1, key, version }
    }

    pub(super) fn encode(&self) -> Result<Cursor> {
        let bytes = serde_json::to_vec(self).map_err(|e| Error::permanent("cannot encode a position").because(e))?;
        Ok(Cursor(bytes.into()))
    }

    pub(super) fn decode(cursor: &Cursor, versions: S3Versions) -> Result<Self> {
        let foreign = || Error::invalid("the position is not one of this source");
        let position: Self = serde_json::from_slice(&cursor.0).map_err(|e| foreign().because(e))?;
        if position.v != 1 || (position.version.is_some() && versions == S3Versions::Current) {
            return Err(foreign());
        }
        Ok(position)
    }
}
