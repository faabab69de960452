//! Putting an object: an upload, and a look for other files that stand for the same object.

use super::{GDriveDestination, Known};
use crate::api::File;
use crate::folders::oldest;
use crate::names;
use backup_core::adapter::Payload;
use backup_core::model::ObjectName;
use backup_core::{Error, ErrorClass, Result};
use serde_json::json;

/// Whether a file has just these bytes, by the digest that the service keeps: its SHA-256, or the MD5 where it has no other.
async fn holds(file: &File, payload: &Payload) -> Result<bool> {
    if file.length()? != payload.len() {
        return Ok(false);
    }
    let (sha256, md5) = (file.sha256_checksum.clone(), file.md5_checksum.clone());
    let payload = payload.clone();
    let compare = move || match (sha256, md5) {
        (Some(sha256), _) => payload.digest().to_string() == sha256,
        (None, Some(md5)) => md5_of(&payload) == md5,
        (None, None) => false,
    };
    tokio::task::spawn_blocking(compare).await.map_err(|e| Error::permanent("a thread for hashing failed").because(e))
}

/// CPU work.
fn md5_of(payload: &Payload) -> String {
    use md5::Digest as _;
    let mut md5 = md5::Md5::new();
    payload.pieces().iter().for_each(|piece| md5.update(piece));
    hex::encode(md5.finalize())
}

/// What came of a put.
enum Tried {
    Done,
    /// A folder was removed since it was found.
    Vanished(Error),
}

impl GDriveDestination {
    pub(super) async fn put_new(&self, name: &ObjectName, payload: &Payload) -> Result<()> {
        let Tried::Vanished(error) = self.try_put(name, payload).await? else { return Ok(()) };
        tracing::debug!(%name, error = error.chain(), "the folder is made anew");
        // All of them, the root too: one of them is gone, and nobody said which.
        self.drive.folders().forget_all().await;
        match self.try_put(name, payload).await? {
            Tried::Done => Ok(()),
            Tried::Vanished(error) => Err(Error::transient("the folder of the archive is gone").because(error)),
        }
    }

    async fn try_put(&self, name: &ObjectName, payload: &Payload) -> Result<Tried> {
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
        if !holds(&uploaded, payload).await? {
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
        match holds(&first, payload).await? {
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
