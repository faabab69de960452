//! Gets an object, and what its headers say.

use super::object::timestamp;
use super::state::bare;
use crate::S3Bucket;
use crate::client::WithCustomerKey;
use crate::error::{About, answered, from_sdk, in_time};
use crate::object::is_about_key;
use aws_sdk_s3::error::SdkError;
use aws_sdk_s3::operation::get_object::GetObjectOutput;
use backup_core::model::{Metadata, Timestamp};
use backup_core::{Error, Result};
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};

/// An object to get.
#[derive(Clone, Copy, Debug)]
pub(super) struct Wanted<'a> {
    /// Relative to the bucket's prefix.
    pub(super) key: &'a str,
    pub(super) version_id: Option<&'a str>,
    /// First and last byte.
    pub(super) range: Option<(u64, u64)>,
    /// Another state than this is refused.
    pub(super) etag: Option<&'a str>,
}

/// Gets objects of one bucket.
#[derive(Debug)]
pub(super) struct Getter {
    pub(super) bucket: S3Bucket,
    pub(super) tags: bool,
    /// The last object was readable with the customer's key only; the next one probably is so too.
    encrypted: AtomicBool,
}

impl Getter {
    pub(super) fn new(bucket: S3Bucket, tags: bool) -> Self {
        let encrypted = AtomicBool::new(bucket.has_customer_key());
        Self { bucket, tags, encrypted }
    }

    /// Opens an object. The content has not been read.
    pub(super) async fn get(&self, wanted: Wanted<'_>) -> Result<GetObjectOutput> {
        let encrypted = self.encrypted.load(Ordering::Relaxed);
        let mut refused = match self.get_with(wanted, encrypted).await {
            Ok(got) => return Ok(got),
            Err(refused) => refused,
        };
        // With a key an object is refused that has none, and without one an object that has.
        if self.bucket.has_customer_key() && is_about_key(&refused) {
            match self.get_with(wanted, !encrypted).await {
                Ok(got) => {
                    self.encrypted.store(!encrypted, Ordering::Relaxed);
                    return Ok(got);
                }
                // It is the object's own whatever key is sent.
                Err(again) if is_about_key(&again) => {}
                // The first answer was about the key alone.
                Err(again) => refused = again,
            }
        }
        let key = self.bucket.key(wanted.key);
        let about = About::Read(self.bucket.bucket(), &key);
        match &refused {
            // The content is not part of this: headers that cannot be understood are the object's own.
            SdkError::ResponseError(answer) if answer.raw().status().is_success() => {
                Err(Error::permanent("its headers cannot be understood").on(about).because(from_sdk(refused, about)))
            }
            _ => Err(from_sdk(refused, about)),
        }
    }

    async fn get_with(
        &self,
        wanted: Wanted<'_>,
        encrypted: bool,
    ) -> Result<GetObjectOutput, SdkError<aws_sdk_s3::operation::get_object::GetObjectError>> {
        let Wanted { key, version_id, range, etag } = wanted;
        let key = self.bucket.key(key);
        let mut request = self
            .bucket
            .client()
            .get_object()
            .bucket(self.bucket.bucket())
            .key(self.bucket.request_key(&key))
            .set_version_id(version_id.map(ToOwned::to_owned))
            .set_range(range.map(|(first, last)| format!("bytes={first}-{last}")))
            .set_if_match(etag.map(|etag| format!("\"{etag}\"")));
        if encrypted {
            request = request.with_customer_key(&self.bucket);
        }
        in_time(request.send()).await
    }

    /// The tags of an object, if the source is to have them.
    pub(super) async fn tags(&self, key: &str, version_id: Option<&str>) -> Result<BTreeMap<String, String>> {
        if !self.tags {
            return Ok(BTreeMap::new());
        }
        let key = self.bucket.key(key);
        let request = self
            .bucket
            .client()
            .get_object_tagging()
            .bucket(self.bucket.bucket())
            .key(self.bucket.request_key(&key))
            .set_version_id(version_id.map(ToOwned::to_owned));
        let about = About::Read(self.bucket.bucket(), &key);
        let got = answered(request.send(), about).await?;
        Ok(got.tag_set.into_iter().map(|tag| (tag.key, tag.value)).collect())
    }
}

/// What the headers say of an object, besides its content.
#[derive(Debug)]
pub(super) struct Head {
    pub(super) metadata: Metadata,
    pub(super) mtime: Option<Timestamp>,
    /// Without its quotation marks.
    pub(super) etag: Option<String>,
    /// User metadata that the service could not put into headers.
    pub(super) missing: u32,
}

impl Head {
    pub(super) fn of(got: &GetObjectOutput) -> Self {
        let fields = [
            ("cache-control", got.cache_control()),
            ("content-disposition", got.content_disposition()),
            ("content-encoding", got.content_encoding()),
            ("content-language", got.content_language()),
            ("content-type", got.content_type()),
            ("expires", got.expires_string()),
            ("storage-class", got.storage_class().map(|class| class.as_str())),
            ("website-redirect-location", got.website_redirect_location()),
        ];
        let present = fields.into_iter().filter_map(|(name, value)| Some((name.to_owned(), value?.to_owned())));
        let user_metadata = got.metadata().into_iter().flatten();
        Self {
            metadata: Metadata {
                headers: present.collect(),
                user_metadata: user_metadata.map(|(name, value)| (name.clone(), value.clone())).collect(),
                ..Metadata::default()
            },
            mtime: got.last_modified().map(timestamp),
            etag: got.e_tag().map(bare),
            missing: got.missing_meta().and_then(|count| u32::try_from(count).ok()).unwrap_or_default(),
        }
    }
}
