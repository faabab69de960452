//! What a restore needs to go on.

use super::left::SavedNames;
use crate::adapter::SavedProgress;
use crate::archive::{ArchiveKey, seal_checkpoint, unseal_checkpoint};
use crate::engine::RestoreOptions;
use crate::model::{ArchiveId, Checkpoint, GroupName};
use crate::{Digest, Error, Result};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD_NO_PAD;
use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;

/// Checkpoint of a restore.
#[derive(Clone, Debug)]
pub(super) struct RestoreCheckpoint {
    pub(super) head: Head,
    pub(super) body: Body,
}

/// What a resume has to know to open the archive; always in the clear.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Head {
    version: u32,
    pub(super) archive: ArchiveId,
    /// The archive must be the same on a resume.
    pub(super) manifest_sha256: Digest,
}

/// The rest. Names and the states of hashes, which hold some bytes of content, so that of a sealed archive is sealed too.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Body {
    pub(super) options: RestoreOptions,
    pub(super) account: Account,
    /// An attempt has prepared the target.
    #[serde(default)]
    pub(super) prepared: bool,
}

/// What is done.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(super) struct Account {
    /// Entries before this ordinal are done.
    pub(super) done: u64,
    /// Progress of large entries, by ordinal.
    pub(super) large: Vec<(u64, SavedProgress)>,
    /// Groups that were taken as a whole and are done, though later slices of them may come behind `done`.
    pub(super) groups: Vec<GroupName>,
    /// The figures of what is before `done`.
    pub(super) tally: Tally,
    /// Entries that were left out, each with a warning: reading back must not count them as damage.
    pub(super) left: SavedNames,
    /// Entries with a warning of the target about how they were written.
    #[serde(default)]
    pub(super) noted: SavedNames,
    /// How many such warnings there were.
    #[serde(default)]
    pub(super) notes: u64,
    /// Index pieces that are damaged, each with a warning.
    #[serde(default)]
    pub(super) lost_pieces: BTreeSet<usize>,
}

/// Figures of a part of a restore.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Tally {
    /// Entries that were restored.
    pub(super) entries: u64,
    /// Their content in bytes.
    pub(super) bytes: u64,
    /// Warnings.
    pub(super) warnings: u64,
}

impl std::ops::AddAssign for Tally {
    fn add_assign(&mut self, other: Self) {
        self.entries += other.entries;
        self.bytes += other.bytes;
        self.warnings += other.warnings;
    }
}

/// How it is stored.
#[derive(Serialize, Deserialize)]
struct Stored {
    #[serde(flatten)]
    head: Head,
    /// Of an archive that is not sealed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    body: Option<Body>,
    /// Of a sealed archive, in base64.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    sealed: Option<String>,
}

impl Body {
    /// How many entries have been written at the target; `None` when it may never have been prepared.
    pub(super) fn written(&self) -> Option<u64> {
        // Earlier versions did not say whether it was prepared.
        (self.prepared || self.account.done > 0).then_some(self.account.tally.entries)
    }
}

impl RestoreCheckpoint {
    /// At the start of a restore.
    pub(super) fn first(archive: ArchiveId, manifest_sha256: Digest, options: RestoreOptions) -> Self {
        let head = Head { version: 1, archive, manifest_sha256 };
        Self { head, body: Body { options, account: Account::default(), prepared: false } }
    }

    /// Sealed with the archive's key if it has one.
    pub(super) fn encode(&self, key: Option<&ArchiveKey>) -> Result<Checkpoint> {
        let failed = |e| Error::permanent("the checkpoint could not be encoded").because(e);
        let head = self.head.clone();
        let stored = match key {
            None => Stored { head, body: Some(self.body.clone()), sealed: None },
            Some(key) => {
                let body = serde_json::to_vec(&self.body).map_err(failed)?;
                let sealed = STANDARD_NO_PAD.encode(seal_checkpoint(key, &head.archive, &body)?);
                Stored { head, body: None, sealed: Some(sealed) }
            }
        };
        Ok(Checkpoint(serde_json::to_vec(&stored).map_err(failed)?.into()))
    }

    /// What can be read without a key.
    pub(super) fn decode_head(checkpoint: &Checkpoint) -> Result<Head> {
        let head: Head = serde_json::from_slice(&checkpoint.0).map_err(|e| damaged().because(e))?;
        if head.version != 1 {
            let text = format!("it is of version {}, written by another program version", head.version);
            return Err(Error::unsupported(text).on("checkpoint"));
        }
        Ok(head)
    }

    /// All of it, with the key of the archive that the head names.
    pub(super) fn decode(checkpoint: &Checkpoint, key: Option<&ArchiveKey>) -> Result<Self> {
        let Stored { head, body, sealed } = serde_json::from_slice(&checkpoint.0).map_err(|e| damaged().because(e))?;
        let body = match (body, sealed, key) {
            (Some(body), None, None) => body,
            (None, Some(sealed), Some(key)) => {
                let sealed = STANDARD_NO_PAD.decode(sealed).map_err(|e| damaged().because(e))?;
                let body = unseal_checkpoint(key, &head.archive, &sealed).map_err(|e| e.on("checkpoint"))?;
                serde_json::from_slice(&body).map_err(|e| damaged().because(e))?
            }
            _ => return Err(damaged()),
        };
        Ok(Self { head, body })
    }
}

fn damaged() -> Error {
    Error::corrupt("it cannot be read").on("checkpoint")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::Selection;

    #[test]
    fn that_of_a_sealed_archive_shows_no_names_and_opens_with_its_key_alone() {
        let id: ArchiveId = "20261120T061500Z-1a2b3c4d".parse().unwrap();
        let selection = Selection { include: vec!["secret".into()], ..Selection::default() };
        let options = RestoreOptions { selection, ..RestoreOptions::default() };
        let mut saved = RestoreCheckpoint::first(id, Digest::of(b"m"), options);
        saved.body.account.done = 7;
        let key = ArchiveKey::from_bytes([7; 32]);
        let sealed = saved.encode(Some(&key)).unwrap();
        assert!(!String::from_utf8_lossy(&sealed.0).contains("secret"));
        assert_eq!(RestoreCheckpoint::decode_head(&sealed).unwrap().manifest_sha256, Digest::of(b"m"));
        assert_eq!(RestoreCheckpoint::decode(&sealed, Some(&key)).unwrap().body.account.done, 7);
        let other = ArchiveKey::from_bytes([8; 32]);
        assert!(RestoreCheckpoint::decode(&sealed, Some(&other)).is_err());
        assert!(RestoreCheckpoint::decode(&sealed, None).is_err());
        let open = saved.encode(None).unwrap();
        assert_eq!(RestoreCheckpoint::decode(&open, None).unwrap().body.account.done, 7);
        // Nobody can put an open one in the place of a sealed one.
        assert!(RestoreCheckpoint::decode(&open, Some(&key)).is_err());
    }
}
