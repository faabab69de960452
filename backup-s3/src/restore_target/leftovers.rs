//! Uploads that were begun and never completed.

use super::Shared;
use super::parts::State;
use super::upload::{OpenUpload, UploadMarker};
use crate::listing::Pages;
use backup_core::adapter::RestorePlan;
use backup_core::model::STAGE_PREFIX;
use backup_core::{Error, ErrorClass, Result};
use futures::TryStreamExt;
use jiff::{SignedDuration, Timestamp};
use std::collections::{HashMap, HashSet};
use std::future::Future;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};
use tokio_util::task::TaskTracker;

/// By so much the clocks of a client and a service may differ, or the service refuses the client.
const SKEW: SignedDuration = SignedDuration::from_mins(15);
/// An upload is given up again while parts of it may still come in.
const TRIES: u32 = 3;

/// An upload of this target.
#[derive(Clone, Debug)]
struct Known {
    /// Of the restore.
    tag: String,
    key: String,
}

/// The uploads that this target has begun or gone on with and not ended.
#[derive(Debug, Default)]
pub(super) struct Uploads {
    /// By id.
    open: Mutex<HashMap<String, Known>>,
    /// The answer to the beginning of one got lost, so one may be there whose id nobody knows.
    unknown: AtomicBool,
    /// Calls that go on when whoever made them does not wait any more.
    running: TaskTracker,
}

impl Uploads {
    fn open(&self) -> std::sync::MutexGuard<'_, HashMap<String, Known>> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn know(&self, tag: &str, key: &str, id: &str) {
        self.open().insert(id.to_owned(), Known { tag: tag.to_owned(), key: key.to_owned() });
    }

    /// One may have been begun without this target having heard of it.
    pub(super) fn lost_one(&self) {
        self.unknown.store(true, Ordering::Relaxed);
    }

    /// Ids and keys of those of a restore.
    fn of(&self, tag: &str) -> HashMap<String, String> {
        let of_tag = |(id, known): (&String, &Known)| (known.tag == tag).then(|| (id.clone(), known.key.clone()));
        self.open().iter().filter_map(of_tag).collect()
    }

    pub(super) fn forget(&self, id: &str) {
        self.open().remove(id);
    }

    /// Runs something to its end, also when the call is dropped.
    pub(super) async fn run<T: Send + 'static>(
        &self,
        work: impl Future<Output = Result<T>> + Send + 'static,
    ) -> Result<T> {
        let done = self.running.spawn(work).await;
        done.map_err(|e| Error::cancelled("the call was stopped").because(e))?
    }

    /// Waits for what runs now.
    async fn settle(&self) {
        self.running.close();
        self.running.wait().await;
        self.running.reopen();
    }
}

impl Shared {
    /// Gives an upload up that is of no use; what goes wrong with that is told, and the end of the restore tries again.
    pub(super) async fn give_up(&self, plan: &RestorePlan, key: &str, id: &str) {
        match self.bucket.abort_upload(key, id).await {
            Ok(()) => self.uploads.forget(id),
            Err(error) => {
                self.uploads.know(&plan.tag, key, id);
                tracing::warn!(key, error = %error.chain(), "an upload could not be given up");
            }
        }
    }

    /// Whether something may have been left behind.
    pub(super) fn may_have_leftovers(&self, plan: &RestorePlan) -> bool {
        plan.resumed || self.uploads.unknown.load(Ordering::Relaxed) || !self.uploads.of(&plan.tag).is_empty()
    }
}

/// Gives up the uploads that attempts at a plan left behind: those that this target or the plan knows by their ids, and those of a
/// key of the plan that were begun since the restore was, by processes that died before they could tell.
pub(super) async fn remove(shared: &Shared, plan: &RestorePlan) -> Result<()> {
    shared.uploads.settle().await;
    let mut known = shared.uploads.of(&plan.tag);
    let unfinished = plan.entries.unfinished();
    for state in unfinished.iter().filter_map(|saved| State::parse(&saved.state)) {
        // What an archive's checkpoint says must not lead out of the target.
        if state.key.starts_with(shared.bucket.prefix()) {
            known.insert(state.upload, state.key);
        }
    }
    for (id, key) in known {
        abort(shared, &key, &id).await?;
        shared.uploads.forget(&id);
    }
    for upload in listed(shared, plan).await? {
        abort(shared, &upload.key, &upload.id).await?;
    }
    remove_probes(shared, plan).await
}

/// Removes the probe of a process that died.
async fn remove_probes(shared: &Shared, plan: &RestorePlan) -> Result<()> {
    let mut pages = Pages::new(shared.bucket.clone(), &format!("{STAGE_PREFIX}{}-", plan.tag), None);
    while let Some(page) = pages.next().await? {
        for object in page.objects {
            shared.bucket.delete(&shared.bucket.key(&object.name)).await?;
        }
    }
    Ok(())
}

/// Gives an upload up, again while the service still shows it: a part that was on its way may have come in behind.
async fn abort(shared: &Shared, key: &str, id: &str) -> Result<()> {
    for _ in 0..TRIES {
        shared.bucket.abort_upload(key, id).await?;
        if shared.bucket.list_parts(key, id).await?.is_none_or(|parts| parts.is_empty()) {
            return Ok(());
        }
    }
    Err(Error::transient("the upload was given up and is still there").on(shared.bucket.writing(key)))
}

/// The open uploads of keys that the plan writes, as far as they are not older than the restore.
async fn listed(shared: &Shared, plan: &RestorePlan) -> Result<Vec<OpenUpload>> {
    let since = begun(&plan.tag).and_then(|begun| begun.checked_sub(SKEW).ok());
    let mut uploads = Vec::new();
    let mut marker: Option<UploadMarker> = None;
    loop {
        let (page, next) = match shared.bucket.open_uploads(marker.as_ref()).await {
            Ok(page) => page,
            // Those whose ids are known are given up all the same.
            Err(e) if matches!(e.class(), ErrorClass::Permanent | ErrorClass::Unsupported) => {
                let text = "open uploads cannot be listed (s3:ListBucketMultipartUploads): parts of objects may be left behind";
                shared.notes.add_general(format!("{text}: {}", e.chain()));
                return Ok(Vec::new());
            }
            Err(e) => return Err(e),
        };
        // Page by page: others may have very many open.
        let page = page.into_iter().filter(|upload| since.is_none_or(|since| upload.begun >= since)).collect();
        uploads.extend(of_plan(shared, plan, page).await?);
        match next {
            Some(next) => marker = Some(next),
            None => return Ok(uploads),
        }
    }
}

/// Those of keys that the plan writes.
async fn of_plan(shared: &Shared, plan: &RestorePlan, mut uploads: Vec<OpenUpload>) -> Result<Vec<OpenUpload>> {
    if uploads.is_empty() {
        return Ok(uploads);
    }
    let mut keys: HashSet<String> = uploads.iter().map(|upload| upload.key.clone()).collect();
    let mut written = HashSet::new();
    let mut entries = plan.entries.entries();
    while let Some(entry) = entries.try_next().await? {
        if let Ok(item) = shared.item(plan.naming, &entry)
            && keys.remove(&item.key)
        {
            written.insert(item.key);
            if keys.is_empty() {
                break;
            }
        }
    }
    uploads.retain(|upload| written.contains(&upload.key));
    Ok(uploads)
}

/// When a restore was begun: ids of operations start with that, as `20261120T061500Z-…`.
fn begun(tag: &str) -> Option<Timestamp> {
    let (time, _) = tag.split_once('-')?;
    let digits = time.strip_suffix('Z')?;
    let time = jiff::civil::DateTime::strptime("%Y%m%dT%H%M%S", digits).ok()?;
    time.to_zoned(jiff::tz::TimeZone::UTC).ok().map(|time| time.timestamp())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_restore_tells_when_it_was_begun() {
        assert_eq!(begun("20261120T061500Z-1a2b3c4d").unwrap().to_string(), "2026-11-20T06:15:00Z");
        for other in ["t", "", "20261120-x", "20269920T061500Z-x"] {
            assert_eq!(begun(other), None, "{other}");
        }
    }

    #[tokio::test]
    async fn a_call_that_is_dropped_goes_on_and_is_waited_for() {
        let uploads = std::sync::Arc::new(Uploads::default());
        let of = uploads.clone();
        let work = async move {
            tokio::task::yield_now().await;
            tokio::time::sleep(std::time::Duration::from_millis(5)).await;
            of.know("t", "k", "id");
            Ok(())
        };
        let mut call = Box::pin(uploads.run(work));
        assert!(futures::poll!(&mut call).is_pending());
        drop(call);
        uploads.settle().await;
        assert_eq!((uploads.of("t").len(), uploads.of("other").len()), (1, 0));
        assert!(uploads.run(async { Ok(1) }).await.is_ok());
    }
}
