//! Putting an object: an upload, and a look for other files that stand for the same object.

use super::{GDriveDestination, Known};
use crate::api::File;
use crate::folders::oldest;
use crate::names;
use backup_core::adapter::Payload;
use backup_core::model::ObjectName;
use backup_core::{Digest, Error, ErrorClass, Result, Sha256};
use serde_json::json;

/// What a payload must be when it has arrived.
struct Digests {
    md5: String,
    sha256: String,
}

impl Digests {
    /// CPU work, on another thread.
    async fn of(payload: &Payload) -> Result<Self> {
        let payload = payload.clone();
        let hashed = tokio::task::spawn_blocking(move || {
            use md5::Digest as _;
            let (mut md5, mut sha256) = (md5::Md5::new(), Sha256::new());
            for piece in payload.pieces() {
                md5.update(piece);
                sha256.update(piece);
            }
            let sha256: Digest = sha256.finish();
            Self { md5: hex::encode(md5.finalize()), sha256: sha256.to_string() }
        });
        hashed.await.map_err(|e| Error::permanent("a thread for hashing failed").because(e))
    }

    /// Whether a file has just these bytes, by the digests that the service keeps.
    fn fits(&self, file: &File, length: u64) -> Result<bool> {
        let same_md5 = file.md5_checksum.as_ref().is_some_and(|md5| *md5 == self.md5);
        // Mostly there.
        let same_sha256 = file.sha256_checksum.as_ref().is_none_or(|sha256| *sha256 == self.sha256);
        Ok(file.length()? == length && same_md5 && same_sha256)
    }
}

/// What came of a put.
enum Tried {
    Done,
    /// A folder was removed since it was found.
    Vanished(Error),
}

impl GDriveDestination {
    pub(super) async fn put_new(&self, name: &ObjectName, payload: &Payload) -> Result<()> {
        let digests = Digests::of(payload).await?;
        let Tried::Vanished(error) = self.try_put(name, payload, &digests).await? else { return Ok(()) };
        tracing::debug!(%name, error = error.chain(), "the folder is made anew");
        // All of them, the root too: one of them is gone, and nobody said which.
        self.drive.folders().forget_all().await;
        match self.try_put(name, payload, &digests).await? {
            Tried::Done => Ok(()),
            Tried::Vanished(error) => Err(Error::transient("the folder of the archive is gone").because(error)),
        }
    }

    async fn try_put(&self, name: &ObjectName, payload: &Payload, digests: &Digests) -> Result<Tried> {
        let folders = self.drive.folders();
        // When the root is not there, that is the error.
        let root = folders.root(&self.drive).await?;
        let folder = match name.as_str().rsplit_once('/') {
            Some((path, _)) => folders.make(&self.drive, path).await,
            None => Ok(root.clone()),
        };
        let folder = match folder {
            Err(e) if e.class() == ErrorClass::NotFound => return Ok(Tried::Vanished(e)),
            folder => folder?,
        };
        let metadata = json!({
            "name": name.file_name(),
            "parents": [folder],
            "mimeType": "application/octet-stream",
            "appProperties": names::properties(&root, name),
        });
        let uploaded = match self.drive.upload(&metadata, payload).await {
            Err(e) if e.class() == ErrorClass::NotFound => return Ok(Tried::Vanished(e)),
            uploaded => uploaded?,
        };
        if uploaded.trashed {
            self.discard(name, &uploaded).await;
            return Ok(Tried::Vanished(Error::not_found("the folder of the archive is in the bin")));
        }
        if !digests.fits(&uploaded, payload.len())? {
            self.discard(name, &uploaded).await;
            return Err(Error::transient("what arrived at the service is not what was sent"));
        }
        // Another may have been there, or have come meanwhile. The listing may not show our own yet.
        let mut files = self.files(name).await?;
        if !files.iter().any(|file| file.id == uploaded.id) {
            files.push(uploaded.clone());
        }
        let Some(first) = oldest(files).filter(|first| first.id != uploaded.id) else {
            self.learn(name, Known::of(&uploaded)?);
            return Ok(Tried::Done);
        };
        self.drive.remove(&uploaded.id).await?;
        match digests.fits(&first, payload.len())? {
            true => {
                self.learn(name, Known::of(&first)?);
                Ok(Tried::Done)
            }
            false => Err(Error::conflict("an object with other bytes is already there")),
        }
    }

    /// Removes a file that is of no use. What was wrong with it is the error that counts.
    async fn discard(&self, name: &ObjectName, file: &File) {
        if let Err(error) = self.drive.remove(&file.id).await {
            tracing::warn!(%name, error = error.chain(), "a file that is of no use could not be removed");
        }
    }
}
