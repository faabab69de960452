//! Whether a destination works now.

use super::GDriveDestination;
use crate::error::not_understood;
use crate::folders::quoted;
use crate::pages;
use crate::send::{SMALL, get};
use backup_core::adapter::Payload;
use backup_core::model::STAGE_PREFIX;
use backup_core::{Error, ErrorClass, Result};
use jiff::SignedDuration;
use serde_json::json;

/// Age from which a probe is a leftover of a process that died.
const OLD: SignedDuration = SignedDuration::from_hours(24);

impl GDriveDestination {
    /// Writes, reads back and removes. Goes on when the call is dropped, so that the probe is removed.
    pub(super) async fn probe(&self) -> Result<()> {
        let here = self.clone();
        let tried = tokio::spawn(async move {
            match here.try_out().await {
                Err(e) if e.class() == ErrorClass::NotFound => {
                    // The folder was removed since it was found.
                    here.drive.folders().forget_all().await;
                    here.try_out().await
                }
                tried => tried,
            }
        });
        tried.await.map_err(|e| Error::cancelled("the check was stopped").because(e))?
    }

    async fn try_out(&self) -> Result<()> {
        let drive = &self.drive;
        let root = drive.folders().root(drive).await?;
        self.remove_old_probes(&root).await?;
        let content = &format!("probe {:032x}", rand::random::<u128>());
        let metadata = json!({
            "name": format!("{STAGE_PREFIX}probe-{:016x}", rand::random::<u64>()),
            "parents": [root],
            "mimeType": "text/plain",
        });
        let file = drive.upload(&metadata, &Payload::from(content.as_bytes().to_vec())).await?;
        if file.trashed {
            drive.remove(&file.id).await?;
            return Err(Error::not_found("the folder is in the bin"));
        }
        let url = drive.url(&format!("/drive/v3/files/{}", file.id));
        let url = &url;
        let read = drive.persist(|| async move {
            let build = |http: &_| get(http, url, &[("alt", "media"), ("supportsAllDrives", "true")]);
            let answer = drive.success(build).await?;
            if answer.headers().get("content-length").is_none_or(|length| *length != content.len().to_string()) {
                return Err(not_understood());
            }
            drive.small(answer, SMALL).await
        });
        let read = read.await;
        // Removed in any case; the first error counts.
        let removed = drive.remove(&file.id).await;
        if read? != content.as_bytes() {
            return Err(Error::corrupt("what was written into the folder reads back as something else"));
        }
        removed
    }

    async fn remove_old_probes(&self, root: &str) -> Result<()> {
        let now = self.drive.now().await?;
        let query = format!("'{}' in parents and mimeType = 'text/plain' and trashed = false", quoted(root));
        for file in pages::all(&self.drive, query).await? {
            let is_old = file.created_time.is_some_and(|created| now.duration_since(created) > OLD);
            if is_old && file.name.starts_with(&format!("{STAGE_PREFIX}probe-")) {
                self.drive.remove(&file.id).await?;
            }
        }
        Ok(())
    }
}
