//! Removing objects, also from buckets that keep versions.

use crate::S3Bucket;
use crate::error::{About, from_sdk};
use crate::listing;
use aws_sdk_s3::error::ProvideErrorMetadata;
use aws_sdk_s3::types::EncodingType;
use backup_core::{Error, ErrorClass, Result};

impl S3Bucket {
    /// Removes an object; in a bucket that keeps versions it only disappears. Answers whether it has left something behind.
    pub(crate) async fn delete(&self, key: &str) -> Result<bool> {
        let request = self.client().delete_object().bucket(self.bucket()).key(key);
        match request.send().await {
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
        self.remove_versions(key).await.map_err(|e| match e.class() {
            ErrorClass::Permanent => e.context(
                "the object is hidden, but the bucket keeps versions, and one of them stays and takes room: it is locked, or the \
                 credentials lack s3:ListBucketVersions or s3:DeleteObjectVersion",
            ),
            _ => e,
        })
    }

    /// Removes the versions, and then what hides them: as long as one is left, it stays hidden.
    async fn remove_versions(&self, key: &str) -> Result<()> {
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
            let page = request.send().await.map_err(|e| from_sdk(e, About::Bucket(self.bucket())))?;
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
        match self.client().delete_object().bucket(self.bucket()).key(key).version_id(id).send().await {
            Ok(_) => Ok(()),
            Err(e) if e.code() == Some("NoSuchVersion") => Ok(()),
            Err(e) => Err(from_sdk(e, self.writing(key))),
        }
    }
}
