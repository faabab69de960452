//! What a restore needs to go on.

use crate::adapter::SavedProgress;
use crate::engine::RestoreOptions;
use crate::model::{ArchiveId, Checkpoint, EntryName, GroupName};
use crate::{Digest, Error, Result};
use serde::{Deserialize, Serialize};

/// Checkpoint of a restore. Holds names and hash states, no content: also that of a sealed archive is not sealed but for the
/// names in the selection, which the caller gave in the clear.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct RestoreCheckpoint {
    pub(super) version: u32,
    pub(super) archive: ArchiveId,
    /// The archive must be the same on a resume.
    pub(super) manifest_sha256: Digest,
    pub(super) options: RestoreOptions,
    /// Entries before this ordinal are done.
    pub(super) done: u64,
    /// Progress of large entries, by ordinal.
    pub(super) large: Vec<(u64, SavedProgress)>,
    /// Groups that were taken as a whole and are done, though later slices of them may come behind `done`.
    #[serde(default)]
    pub(super) groups: Vec<GroupName>,
    /// Warnings so far.
    pub(super) warnings: u64,
    /// Entries that were not restored, each with a warning: verifying must not count them as damage. The first 1,000.
    pub(super) left: Vec<EntryName>,
}

impl RestoreCheckpoint {
    pub(super) fn encode(&self) -> Result<Checkpoint> {
        let json =
            serde_json::to_vec(self).map_err(|e| Error::permanent("the checkpoint could not be encoded").because(e))?;
        Ok(Checkpoint(json.into()))
    }

    pub(super) fn decode(checkpoint: &Checkpoint) -> Result<Self> {
        let read: Self = serde_json::from_slice(&checkpoint.0)
            .map_err(|e| Error::corrupt("it cannot be read").on("checkpoint").because(e))?;
        if read.version != 1 {
            return Err(Error::unsupported(format!(
                "it is of version {}, written by another program version",
                read.version
            ))
            .on("checkpoint"));
        }
        Ok(read)
    }
}
