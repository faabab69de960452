//! Removing objects, also from buckets that keep versions.

use crate::S3Bucket;
use crate::body::Md5;
use crate::error::{About, answered, code_in_answer, from_sdk, in_time};
use crate::listing;
use aws_sdk_s3::error::ProvideErrorMetadata;
use aws_sdk_s3::types::{BucketVersioningStatus, Delete, EncodingType, ObjectIdentifier};
use backup_core::{Error, ErrorClass, Result};
use bytes::Bytes;
use futures::{StreamExt, TryStreamExt};
use std::collections::HashSet;
use std::sync::atomic::{AtomicBool, Ordering};
use tokio::sync::OnceCell;

/// So many objects one request deletes at most.
const BATCH: usize = 1000;

/// Removes objects of one bucket, and keeps what it finds out on the way.
///
/// In a bucket that keeps versions, a plain deletion only hides an object: a removal that broke off between hiding and removing would leave
/// what no listing shows. So there versions are removed by their ids, the current one last, and an object that is locked stays as it is.
#[derive(Debug, Default)]
pub(super) struct Removal {
    /// Whether the bucket says that it keeps versions.
    keeps_versions: OnceCell<bool>,
    /// It did not say so (it may not be asked), and was found to keep some.
    has_kept_one: AtomicBool,
    /// The service does not know a request that deletes many objects, as Google's does not.
    no_batches: AtomicBool,
}

impl Removal {
    async fn keeps_versions(&self, bucket: &S3Bucket) -> Result<bool> {
        if self.has_kept_one.load(Ordering::Relaxed) {
            return Ok(true);
        }
        self.keeps_versions.get_or_try_init(|| bucket.keeps_versions()).await.copied()
    }

    /// Removes an object with all its versions.
    pub(super) async fn one(&self, bucket: &S3Bucket, key: &str) -> Result<()> {
        if self.keeps_versions(bucket).await? {
            return bucket.remove_versions(key).await;
        }
        if bucket.delete(key).await? {
            self.has_kept_one.store(true, Ordering::Relaxed);
            bucket.remove_versions(key).await?;
        }
        Ok(())
    }

    /// Removes objects with all their versions: up to a thousand with one request, or `at_once` at the same time where versions are kept
    /// or the service does not know that request.
    pub(super) async fn many(&self, bucket: &S3Bucket, keys: &[String], at_once: usize) -> Result<()> {
        for keys in keys.chunks(BATCH) {
            let single = self.keeps_versions(bucket).await? || self.no_batches.load(Ordering::Relaxed);
            let rest = match single {
                true => keys.to_vec(),
                false => match bucket.delete_batch(keys).await? {
                    Some(hidden) => {
                        self.has_kept_one.fetch_or(!hidden.is_empty(), Ordering::Relaxed);
                        hidden
                    }
                    None => {
                        self.no_batches.store(true, Ordering::Relaxed);
                        keys.to_vec()
                    }
                },
            };
            let each = rest.into_iter().map(|key| async move { self.one(bucket, &key).await });
            futures::stream::iter(each).buffer_unordered(at_once).try_collect::<()>().await?;
        }
        Ok(())
    }

    /// Removes what is hidden below a full prefix: versions of objects that were deleted without them.
    pub(super) async fn hidden(&self, bucket: &S3Bucket, prefix: &str) -> Result<()> {
        if !self.keeps_versions(bucket).await? {
            return Ok(());
        }
        let mut pages = Versions::below(bucket, prefix);
        while let Some(page) = pages.next().await? {
            let hidden: HashSet<String> =
                page.into_iter().filter(|one| one.latest && one.marker).map(|one| one.key).collect();
            for key in hidden {
                bucket.remove_versions(&key).await?;
            }
        }
        Ok(())
    }
}

impl S3Bucket {
    /// Removes an object; in a bucket that keeps versions it only disappears. Answers whether it has left something behind.
    pub(crate) async fn delete(&self, key: &str) -> Result<bool> {
        let request = self.client().delete_object().bucket(self.bucket()).key(self.request_key(key));
        match in_time(request.send()).await {
            // A marker that hides the object, which is still there.
            Ok(done) => Ok(done.delete_marker() == Some(true)),
            Err(e) if e.code() == Some("NoSuchKey") => Ok(false),
            Err(e) => Err(from_sdk(e, self.writing(key))),
        }
    }

    /// Whether the bucket says that it keeps versions, or has kept some.
    async fn keeps_versions(&self) -> Result<bool> {
        let request = self.client().get_bucket_versioning().bucket(self.bucket());
        match answered(request.send(), About::Bucket(self.bucket())).await {
            Ok(answer) => {
                let status = answer.status();
                Ok(matches!(status, Some(BucketVersioningStatus::Enabled | BucketVersioningStatus::Suspended)))
            }
            // It may not be asked, or does not know the question: the first deletion tells.
            Err(e) if matches!(e.class(), ErrorClass::Permanent | ErrorClass::Unsupported) => Ok(false),
            Err(e) => Err(e),
        }
    }

    /// Deletes up to a thousand objects, and answers those that have left something behind; `None` when the service does not know the
    /// request. Protocol: "DeleteObjects" of the Amazon S3 API reference.
    async fn delete_batch(&self, keys: &[String]) -> Result<Option<Vec<String>>> {
        let about = About::Bucket(self.bucket());
        let mut objects = Vec::with_capacity(keys.len());
        let mut unanswered: HashSet<&str> = HashSet::with_capacity(keys.len());
        for key in keys.iter().filter(|key| unanswered.insert(key)) {
            let object = ObjectIdentifier::builder().key(key).build();
            objects.push(object.map_err(|e| Error::permanent("the request could not be made").on(about).because(e))?);
        }
        if objects.is_empty() {
            return Ok(Some(Vec::new()));
        }
        let objects = Delete::builder().set_objects(Some(objects)).build();
        let objects = objects.map_err(|e| Error::permanent("the request could not be made").on(about).because(e))?;
        let request = self.client().delete_objects().bucket(self.bucket()).delete(objects).customize();
        // The SDK adds a checksum of newer AWS clients; older services want this one.
        let request = request.mutate_request(|request| {
            let md5 = request.body().bytes().map(|body| Md5::of_pieces(&[Bytes::copy_from_slice(body)]).header());
            if let Some(md5) = md5 {
                let _ = request.headers_mut().try_insert("content-md5", md5);
            }
        });
        let answer = match in_time(request.send()).await {
            Ok(answer) => answer,
            // Each object's own request tells what is really the matter.
            Err(e) => match from_sdk(e, about) {
                e if matches!(e.class(), ErrorClass::Permanent | ErrorClass::Unsupported) => {
                    tracing::debug!(error = %e.chain(), "the service deletes no objects in batches");
                    return Ok(None);
                }
                e => return Err(e),
            },
        };
        let mut hidden = Vec::new();
        for deleted in answer.deleted() {
            if let Some(key) = deleted.key().filter(|key| unanswered.remove(key))
                && deleted.delete_marker() == Some(true)
            {
                hidden.push(key.to_owned());
            }
        }
        for error in answer.errors() {
            let Some(key) = error.key().filter(|key| unanswered.remove(key)) else { continue };
            if error.code() != Some("NoSuchKey") {
                return Err(code_in_answer(error.code(), error.message(), self.writing(key)));
            }
        }
        for key in unanswered {
            // The service says nothing of it.
            if self.delete(key).await? {
                hidden.push(key.to_owned());
            }
        }
        Ok(Some(hidden))
    }

    /// Removes all versions of an object, the current one last.
    async fn remove_versions(&self, key: &str) -> Result<()> {
        self.try_remove_versions(key).await.map_err(|e| match e.class() {
            ErrorClass::Permanent => e.context(
                "the bucket keeps versions, and one of them stays and takes room: it is locked, or the credentials lack \
                 s3:ListBucketVersions or s3:DeleteObjectVersion",
            ),
            _ => e,
        })
    }

    async fn try_remove_versions(&self, key: &str) -> Result<()> {
        let mut current = None;
        let mut failed: Option<Error> = None;
        let mut markers = Vec::new();
        let mut pages = Versions::below(self, key);
        while let Some(page) = pages.next().await? {
            // Keys that start with this one come behind it.
            let beyond = page.iter().any(|one| one.key != key);
            for one in page.into_iter().filter(|one| one.key == key) {
                if one.latest {
                    current = Some(one.id);
                } else if one.marker {
                    markers.push(one.id);
                } else if let Err(e) = self.delete_version(key, &one.id).await {
                    // The others go all the same; the first error counts.
                    failed.get_or_insert(e);
                }
            }
            if beyond {
                break;
            }
        }
        if let Some(error) = failed {
            return Err(error);
        }
        for id in markers.into_iter().chain(current) {
            self.delete_version(key, &id).await?;
        }
        Ok(())
    }

    async fn delete_version(&self, key: &str, id: &str) -> Result<()> {
        let request = self.client().delete_object().bucket(self.bucket()).key(key).version_id(id);
        match in_time(request.send()).await {
            Ok(_) => Ok(()),
            Err(e) if e.code() == Some("NoSuchVersion") => Ok(()),
            Err(e) => Err(from_sdk(e, self.writing(key))),
        }
    }
}

/// A version of an object, or a delete marker.
struct Version {
    key: String,
    id: String,
    latest: bool,
    marker: bool,
}

/// The versions of what starts so, page by page: in a page the versions come before the markers, each in the order of their keys.
struct Versions<'a> {
    bucket: &'a S3Bucket,
    prefix: &'a str,
    /// Key and version at which the next page starts; `None` behind the last one.
    next: Option<Option<(String, String)>>,
}

impl<'a> Versions<'a> {
    fn below(bucket: &'a S3Bucket, prefix: &'a str) -> Self {
        Self { bucket, prefix, next: Some(None) }
    }

    async fn next(&mut self) -> Result<Option<Vec<Version>>> {
        let Some(start) = self.next.take() else { return Ok(None) };
        let bucket = self.bucket;
        let about = About::Bucket(bucket.bucket());
        let request = bucket
            .client()
            .list_object_versions()
            .bucket(bucket.bucket())
            .prefix(self.prefix)
            .encoding_type(EncodingType::Url)
            .set_key_marker(start.as_ref().map(|(key, _)| key.clone()))
            .set_version_id_marker(start.as_ref().map(|(_, id)| id.clone()).filter(|id| !id.is_empty()));
        let page = answered(request.send(), about).await?;
        let encoded = page.encoding_type() == Some(&EncodingType::Url);
        let versions = page.versions().iter().map(|v| (v.key(), v.version_id(), v.is_latest(), false));
        let markers = page.delete_markers().iter().map(|v| (v.key(), v.version_id(), v.is_latest(), true));
        let mut found = Vec::new();
        for (key, id, latest, marker) in versions.chain(markers) {
            let Some((key, id)) = key.zip(id) else { continue };
            let (key, id) = (listing::decode(key, encoded)?, id.to_owned());
            found.push(Version { key, id, latest: latest == Some(true), marker });
        }
        if let Some(key) = page.next_key_marker().filter(|_| page.is_truncated() == Some(true)) {
            let next = (listing::decode(key, encoded)?, page.next_version_id_marker().unwrap_or_default().to_owned());
            if start.as_ref() == Some(&next) {
                return Err(Error::unsupported("the service's listing of versions does not come to an end").on(about));
            }
            self.next = Some(Some(next));
        }
        Ok(Some(found))
    }
}
