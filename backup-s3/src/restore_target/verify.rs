//! Reading restored objects back.

use super::small::is_archive;
use super::{Shared, is_fatal};
use backup_core::adapter::{MismatchKind, RestorePlan, VerifyReport};
use backup_core::model::{Entry, EntryKind};
use backup_core::{Error, ErrorClass, Result};
use futures::{StreamExt, TryStreamExt};
use std::sync::Arc;
use tokio_util::task::AbortOnDropHandle;

/// What differs, in words, and how many bytes were read.
#[derive(Default)]
struct Compared {
    content: Vec<String>,
    metadata: Vec<String>,
    bytes: u64,
}

pub(super) async fn verify(shared: &Arc<Shared>, plan: &RestorePlan) -> Result<VerifyReport> {
    let compared = plan
        .entries
        .entries()
        .map(|entry| {
            let (shared, plan) = (shared.clone(), plan.clone());
            async move {
                let entry = entry?;
                // A task for each, so that several threads hash.
                let task = tokio::spawn(async move {
                    let compared = shared.compare(&plan, &entry).await;
                    (entry, compared)
                });
                let stopped = |e| Error::cancelled("reading back was stopped").because(e);
                AbortOnDropHandle::new(task).await.map_err(stopped)
            }
        })
        .buffered(shared.options.parallel);
    let mut compared = Box::pin(compared);
    let mut report = VerifyReport::default();
    while let Some((entry, compared)) = compared.try_next().await? {
        let Compared { content, metadata, bytes } = match compared {
            Err(e) if is_fatal(&e) || e.is_retryable() => return Err(e.on(&entry.name)),
            Err(e) => Compared { content: vec![e.chain()], ..Compared::default() },
            Ok(compared) => compared,
        };
        report.entries += 1;
        report.bytes += bytes;
        let kind = if content.is_empty() { MismatchKind::Metadata } else { MismatchKind::Content };
        let differences = [content, metadata].concat();
        if !differences.is_empty() {
            report.mismatch(plan, &entry.name, kind, differences.join("; "));
        }
    }
    Ok(report)
}

impl Shared {
    /// What differs; an error says why the entry could not be compared.
    async fn compare(&self, plan: &RestorePlan, entry: &Entry) -> Result<Compared> {
        let item = self.item(plan.naming, entry)?;
        // A hard link has the content of another entry, of which the archive says what it is.
        let first = match &entry.kind {
            EntryKind::HardLink { target } => plan.entries.find(target).await?,
            _ => None,
        };
        let expected = first.as_ref().unwrap_or(entry);
        let Some(seen) = self.head(&item.key).await? else {
            return Err(Error::not_found("it is not there"));
        };
        let mut compared = Compared::default();
        if seen.size != expected.size {
            compared.content.push(format!("it has {} bytes instead of {}", seen.size, expected.size));
        } else if let Some(sha256) = expected.sha256 {
            match self.bucket.read_digest(&item.key, &seen, self.options.retry).await {
                Ok(found) => {
                    compared.bytes = seen.size;
                    if found != sha256 {
                        compared.content.push("its content is different".to_owned());
                    }
                }
                Err(e) if e.class() == ErrorClass::Permanent && is_archive(seen.attributes.storage_class()) => {
                    // The service compared it when it was put, and keeps it.
                    if seen.sha256 != Some(sha256) {
                        let text = "it has the right length, but cannot be read back: it is archived";
                        compared.metadata.push(text.to_owned());
                    }
                }
                Err(e) => return Err(e),
            }
        }
        if !item.copy {
            compared.metadata.extend(self.attribute_differences(&item, &seen).await?);
        }
        Ok(compared)
    }
}
