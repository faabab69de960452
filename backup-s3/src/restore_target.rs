//! A bucket as restore target: each entry becomes an object.

mod finish;
mod item;
mod large;
mod leftovers;
mod notes;
mod parts;
mod small;
mod upload;
mod verify;

use crate::S3Bucket;
use crate::client::WithEncryption;
use crate::error::{from_sdk, in_time};
use crate::listing::Pages;
use crate::object::{Seen, status};
use async_trait::async_trait;
use backup_core::adapter::{
    ContentReader, EntryProgress, Granularity, RestorePlan, RestoreTarget, SmallEntry, VerifyReport, Warning, Written,
};
use backup_core::budget::ByteBudget;
use backup_core::model::{Entry, EntryKind, Identity, STAGE_PREFIX};
use backup_core::retry::{Attempts, RetryPolicy, SystemBackoff, retry};
use backup_core::{Error, ErrorClass, Result};
use leftovers::Uploads;
use notes::Notes;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::collections::HashSet;
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex, PoisonError};
use tokio::sync::{OnceCell, Semaphore};

/// The smallest part that services take, but for the last one of an upload, in bytes.
const SMALLEST_PART: u64 = 5 << 20;
/// The largest.
const LARGEST_PART: u64 = 5 << 30;

/// How objects are put back.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct S3TargetOptions {
    /// Requests for small objects at once, at least 1.
    pub parallel: usize,
    /// Bytes that parts of large objects on their way may take. A part that is larger goes alone.
    pub memory: u64,
    /// Length of a part in bytes, at least 5 MiB; of objects that would have too many parts it is larger.
    pub part_size: u64,
    /// How many parts an object may have: 10,000 on AWS and most others, 1,000 on Scaleway.
    pub max_parts: u32,
    /// How the calls of a large object are tried again, and a read that breaks off.
    #[serde(skip)]
    pub retry: RetryPolicy,
}

impl Default for S3TargetOptions {
    fn default() -> Self {
        Self { parallel: 32, memory: 40 << 20, part_size: 8 << 20, max_parts: 10_000, retry: RetryPolicy::default() }
    }
}

/// A bucket, or a prefix of one, into which archives are restored.
///
/// - An entry becomes the object of its name, below the prefix, with the headers, user metadata, tags and storage class that the archive has.
/// - Small objects are put whole. Large ones are uploaded in parts, several at once; the upload's id and how far it has come stand in
///   the restore's checkpoint, so that a restore that was killed goes on inside the object.
/// - Of an archive of files: a directory becomes an empty object `name/`, as the consoles of S3 make them; the time of last
///   modification goes into the user metadata `mtime`, as rclone has it; a hard link becomes a copy. Symbolic links are left out with a
///   warning, and so are, in one warning for all, permissions, owners and extended attributes.
/// - Of an archive of all versions of objects, the current ones are restored; the others are left out with a warning each.
#[derive(Clone, Debug)]
pub struct S3RestoreTarget {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    bucket: S3Bucket,
    options: S3TargetOptions,
    /// Whether the service honours `If-None-Match: *`.
    honours: OnceCell<bool>,
    /// Requests for small objects.
    turns: Semaphore,
    budget: ByteBudget,
    notes: Notes,
    uploads: Uploads,
    /// Storage classes that the service has refused.
    refused_classes: Mutex<HashSet<String>>,
    /// Whether it was told that tags cannot be read back.
    tags_unread: AtomicBool,
}

impl S3RestoreTarget {
    /// A target. Sends no request.
    ///
    /// # Errors
    /// `Invalid` when an option cannot be right.
    pub fn new(bucket: S3Bucket, options: S3TargetOptions) -> Result<Self> {
        let S3TargetOptions { parallel, memory, part_size, max_parts, retry: _ } = options;
        let bad = |what, text| Err(Error::invalid(text).on(format!("restore target, {what}")));
        if parallel == 0 || parallel > Semaphore::MAX_PERMITS {
            return bad("parallel", "at least 1 request at once");
        }
        if part_size < SMALLEST_PART {
            return bad("part_size", "parts have at least 5 MiB");
        }
        if part_size > LARGEST_PART {
            return bad("part_size", "parts have at most 5 GiB");
        }
        if max_parts == 0 || max_parts > 10_000 {
            return bad("max_parts", "an object has 1 to 10,000 parts");
        }
        let shared = Shared {
            bucket,
            honours: OnceCell::new(),
            turns: Semaphore::new(parallel),
            budget: ByteBudget::new(memory),
            notes: Notes::default(),
            uploads: Uploads::default(),
            refused_classes: Mutex::default(),
            tags_unread: AtomicBool::new(false),
            options,
        };
        Ok(Self { shared: Arc::new(shared) })
    }
}

#[async_trait]
impl RestoreTarget for S3RestoreTarget {
    fn identity(&self) -> Identity {
        self.shared.bucket.identity().clone()
    }

    fn granularity(&self, _: &EntryKind) -> Granularity {
        Granularity::Slice
    }

    async fn check(&self) -> Result<()> {
        self.shared.check().await
    }

    async fn is_empty(&self) -> Result<bool> {
        self.shared.is_empty().await
    }

    async fn prepare(&self, _: &RestorePlan) -> Result<()> {
        // A prefix needs no making, and a bucket is made by its owner.
        self.shared.is_empty().await.map(|_| ())
    }

    async fn write_small(&self, plan: &RestorePlan, batch: Vec<SmallEntry>) -> Result<Vec<Result<Written>>> {
        small::write(&self.shared, plan, batch).await
    }

    async fn write_large(
        &self,
        plan: &RestorePlan,
        entry: &Entry,
        content: ContentReader,
        progress: &EntryProgress,
    ) -> Result<Result<Written>> {
        large::write(&self.shared, plan, entry, content, progress).await
    }

    async fn sync(&self) -> Result<()> {
        // What a service has acknowledged is durable.
        Ok(())
    }

    fn take_warnings(&self) -> Vec<Warning> {
        self.shared.notes.take()
    }

    async fn finish(&self, plan: &RestorePlan) -> Result<Vec<Warning>> {
        finish::finish(&self.shared, plan).await
    }

    async fn discard(&self, plan: &RestorePlan) -> Result<()> {
        leftovers::remove(&self.shared, plan).await
    }

    async fn verify(&self, plan: &RestorePlan) -> Result<VerifyReport> {
        verify::verify(&self.shared, plan).await
    }
}

impl Shared {
    /// Lists, then begins an upload and gives it up: that needs the right to write and leaves nothing, also when the call is dropped.
    async fn check(&self) -> Result<()> {
        self.is_empty().await?;
        let bucket = self.bucket.clone();
        self.uploads.run(async move { bucket.try_upload().await }).await
    }

    /// What the service says of an object; asked for again when it does not answer.
    async fn head(&self, key: &str) -> Result<Option<Seen>> {
        self.patiently("looking for an object", || self.bucket.head(key)).await
    }

    /// Repeats a call that may be made again.
    async fn patiently<T, F: Future<Output = Result<T>> + Send>(
        &self,
        what: &'static str,
        call: impl Fn() -> F + Send,
    ) -> Result<T> {
        retry(&mut Attempts::new(what, self.options.retry, Arc::new(SystemBackoff)), call).await
    }

    async fn is_empty(&self) -> Result<bool> {
        let mut pages = Pages::new(self.bucket.clone(), "", None).of(100);
        while let Some(page) = pages.next().await? {
            // The object of the prefix itself is what consoles show as a folder.
            if page.objects.iter().any(|object| !object.name.is_empty() && !object.name.starts_with(STAGE_PREFIX)) {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Whether the service keeps a write from replacing what is there; asked once. Where it cannot be tried out, it is not relied on.
    async fn honours_if_none_match(&self, plan: &RestorePlan) -> Result<bool> {
        let answer = self.honours.get_or_try_init(|| async {
            if self.bucket.is_aws() {
                return Ok(true);
            }
            let (bucket, tag) = (self.bucket.clone(), plan.tag.clone());
            match self.uploads.run(async move { bucket.try_out(&tag).await }).await {
                Err(e) if e.class() == ErrorClass::Permanent => {
                    tracing::warn!(error = %e.chain(), "If-None-Match cannot be tried out; each object is looked for first");
                    Ok(false)
                }
                answer => answer,
            }
        });
        answer.await.copied()
    }

    fn has_refused(&self, class: &str) -> bool {
        self.refused_classes.lock().unwrap_or_else(PoisonError::into_inner).contains(class)
    }

    fn refuse(&self, class: &str) {
        self.refused_classes.lock().unwrap_or_else(PoisonError::into_inner).insert(class.to_owned());
    }
}

impl S3Bucket {
    /// Begins an upload and gives it up.
    async fn try_upload(&self) -> Result<()> {
        let key = self.key(&format!("{STAGE_PREFIX}check-{:016x}", rand::random::<u64>()));
        let about = self.writing(&key);
        let request = self.client().create_multipart_upload().bucket(self.bucket()).key(&key);
        // As what is written will be, in case the bucket wants it so.
        let request = request.with_encryption(self, None);
        let upload = in_time(request.send()).await.map_err(|e| {
            let denied = status(&e) == 403;
            let error = from_sdk(e, about);
            match error.class() {
                ErrorClass::Permanent if denied => error.context("the credentials may not write to the bucket"),
                _ => error,
            }
        })?;
        let id = upload.upload_id().unwrap_or_default();
        self.abort_upload(&key, id).await.map_err(|e| match e.class() {
            ErrorClass::Permanent => {
                e.context("an upload was begun and cannot be given up (s3:AbortMultipartUpload is needed)")
            }
            _ => e,
        })
    }
}

/// Whether an error is about the target as a whole, so that other entries would meet it too.
fn is_fatal(error: &Error) -> bool {
    matches!(error.class(), ErrorClass::Unauthorized | ErrorClass::NoSpace)
}
