//! Removing objects, also from buckets that keep versions.

use crate::S3Bucket;
use crate::body::Md5;
use crate::error::{About, answered, code_in_answer, from_sdk, in_time};
use crate::listing;
use aws_sdk_s3::error::ProvideErrorMetadata;
use aws_sdk_s3::types::{Delete, EncodingType, ObjectIdentifier};
use backup_core::{Error, ErrorClass, Result};
use bytes::Bytes;
use futures::{StreamExt, TryStreamExt};
use std::collections::HashSet;
use std::sync::atomic::{AtomicBool, Ordering};

/// So many objects one request deletes at most.
const BATCH: usize = 1000;

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

    /// Removes an object with all its versions.
    pub(super) async fn remove(&self, key: &str) -> Result<()> {
        if !self.delete(key).await? {
            return Ok(());
        }
        self.remove_versions(key).await
    }

    /// Removes objects with all their versions, up to a thousand with one request; one by one, `at_once` at the same time, where the
    /// service does not know that request (as Google's does not), which is kept in `no_batches`.
    pub(super) async fn remove_many(&self, keys: &[String], at_once: usize, no_batches: &AtomicBool) -> Result<()> {
        for keys in keys.chunks(BATCH) {
            let rest = match no_batches.load(Ordering::Relaxed) {
                true => None,
                false => self.delete_batch(keys).await?,
            };
            let Some(hidden) = rest else {
                no_batches.store(true, Ordering::Relaxed);
                let each = keys.iter().cloned().map(|key| async move { self.remove(&key).await });
                futures::stream::iter(each).buffer_unordered(at_once).try_collect::<()>().await?;
                continue;
            };
            let each = hidden.into_iter().map(|key| async move { self.remove_versions(&key).await });
            futures::stream::iter(each).buffer_unordered(at_once).try_collect::<()>().await?;
        }
        Ok(())
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

    async fn remove_versions(&self, key: &str) -> Result<()> {
        self.try_remove_versions(key).await.map_err(|e| match e.class() {
            ErrorClass::Permanent => e.context(
                "the object is hidden, but the bucket keeps versions, and one of them stays and takes room: it is locked, or the \
                 credentials lack s3:ListBucketVersions or s3:DeleteObjectVersion",
            ),
            _ => e,
        })
    }

    /// Removes the versions, and then what hides them: as long as one is left, it stays hidden.
    async fn try_remove_versions(&self, key: &str) -> Result<()> {
        let mut failed: Option<Error> = None;
        let mut hiding = Vec::new();
        let mut marker: Option<(String, String)> = None;
        loop {
            let request = self
                .client()
                .list_object_versions()
                .bucket(self.bucket())
                .prefix(key)
                .encoding_type(EncodingType::Url)
                .set_key_marker(marker.as_ref().map(|(key, _)| key.clone()))
                .set_version_id_marker(marker.as_ref().map(|(_, version)| version.clone()).filter(|v| !v.is_empty()));
            let page = answered(request.send(), About::Bucket(self.bucket())).await?;
            let encoded = page.encoding_type() == Some(&EncodingType::Url);
            let versions = page.versions().iter().map(|v| (v.key(), v.version_id(), false));
            let markers = page.delete_markers().iter().map(|v| (v.key(), v.version_id(), true));
            let mut beyond = false;
            for (found, id, hides) in versions.chain(markers) {
                let Some((found, id)) = found.zip(id) else { continue };
                if listing::decode(found, encoded)? != key {
                    // Keys that start with this one come behind it.
                    beyond = true;
                } else if hides {
                    hiding.push(id.to_owned());
                } else if let Err(e) = self.delete_version(key, id).await {
                    // The others go all the same; the first error counts.
                    failed.get_or_insert(e);
                }
            }
            let next = page.next_key_marker().map(|key| listing::decode(key, encoded)).transpose()?;
            match next {
                Some(next) if page.is_truncated() == Some(true) && !beyond => {
                    marker = Some((next, page.next_version_id_marker().unwrap_or_default().to_owned()));
                }
                _ => break,
            }
        }
        if let Some(error) = failed {
            return Err(error);
        }
        for id in hiding {
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
