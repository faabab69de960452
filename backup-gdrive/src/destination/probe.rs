//! Whether a destination works now.

use super::GDriveDestination;
use crate::api::get;
use crate::error::no_answer;
use crate::folders::quoted;
use crate::pages;
use backup_core::adapter::Payload;
use backup_core::model::STAGE_PREFIX;
use backup_core::{Error, Result};
use jiff::SignedDuration;
use serde_json::json;

/// Age from which a probe is a leftover of a process that died.
const OLD: SignedDuration = SignedDuration::from_hours(24);

impl GDriveDestination {
    /// Writes, reads back and removes. Goes on when the call is dropped, so that the probe is removed.
    pub(super) async fn probe(&self) -> Result<()> {
        let here = self.clone();
        let tried = tokio::spawn(async move { here.try_out().await });
        tried.await.map_err(|e| Error::cancelled("the check was stopped").because(e))?
    }

    async fn try_out(&self) -> Result<()> {
        let drive = &self.drive;
        let root = drive.folders().root(drive).await?.to_owned();
        self.remove_old_probes(&root).await?;
        let content = format!("probe {:032x}", rand::random::<u128>());
        let metadata = json!({
            "name": format!("{STAGE_PREFIX}probe-{:016x}", rand::random::<u64>()),
            "parents": [root],
            "mimeType": "text/plain",
        });
        let file = drive.upload(&metadata, &Payload::from(content.clone().into_bytes())).await?;
        let url = drive.url(&format!("/drive/v3/files/{}", file.id));
        let read = async {
            let answer =
                drive.success(|http| get(http, &url, &[("alt", "media"), ("supportsAllDrives", "true")])).await?;
            answer.bytes().await.map_err(no_answer)
        };
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
