//! The calls of uploads in parts.

use crate::S3Bucket;
use crate::body::{Md5, body};
use crate::client::{WithCustomerKey, WithEncryption};
use crate::error::{About, answered, from_sdk, in_time, within, written};
use crate::listing::decode;
use crate::object::{bare_etag, is_about_class, status, timestamp, without_checksums};
use crate::restore_target::item::Item;
use aws_sdk_s3::config::http::HttpResponse;
use aws_sdk_s3::error::{ProvideErrorMetadata, SdkError};
use aws_sdk_s3::types::{CompletedMultipartUpload, CompletedPart, EncodingType};
use backup_core::adapter::Payload;
use backup_core::{Error, Result};
use std::collections::BTreeMap;

fn refuses_condition<E: ProvideErrorMetadata>(error: &SdkError<E, HttpResponse>) -> bool {
    let code = error.code();
    status(error) == 501 || matches!(code, Some("NotImplemented" | "InvalidArgument" | "InvalidRequest"))
}

/// What came of beginning an upload.
pub(super) enum Begun {
    /// Its id.
    Id(String),
    /// The service does not know the storage class.
    NoSuchClass,
}

/// What came of completing an upload.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Completed {
    /// The object is there.
    Done,
    /// Something was there already; the upload is still open.
    Exists,
    /// There is no such upload, or not any more: it may have been completed, and the answer was lost.
    Gone,
    /// The upload has not the parts that were named.
    OtherParts,
    /// The service does not know the condition; nothing was done.
    NoCondition,
}

/// A part that was uploaded.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Part {
    /// Without quotation marks.
    pub(super) etag: String,
    pub(super) size: u64,
}

/// An upload that is open.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct OpenUpload {
    pub(super) key: String,
    pub(super) id: String,
    pub(super) begun: jiff::Timestamp,
}

/// Where a page of open uploads ends.
pub(super) type UploadMarker = (String, String);

impl S3Bucket {
    pub(super) async fn begin_upload(&self, item: &Item) -> Result<Begun> {
        let request = self.client().create_multipart_upload().bucket(self.bucket()).key(self.request_key(&item.key));
        let request = item.attributes.on_create(request).with_encryption(self, item.attributes.storage_class());
        let about = self.writing(&item.key);
        let request = item.attributes.with_raw_expires(request.customize().config_override(without_checksums()));
        match in_time(request.send()).await {
            Ok(begun) => match begun.upload_id() {
                Some(id) if !id.is_empty() => Ok(Begun::Id(id.to_owned())),
                _ => Err(Error::permanent("the service began an upload without an id").on(about)),
            },
            Err(e) if is_about_class(&e) => Ok(Begun::NoSuchClass),
            Err(e) => Err(from_sdk(e, about)),
        }
    }

    /// Uploads a part, numbered from 1, and gives its ETag.
    pub(super) async fn upload_part(
        &self,
        key: &str,
        id: &str,
        number: i32,
        payload: &Payload,
        md5: Md5,
    ) -> Result<String> {
        let (body, sent) = body(payload);
        let length = i64::try_from(payload.len()).map_err(|e| Error::unsupported("too large").because(e))?;
        let request = self
            .client()
            .upload_part()
            .bucket(self.bucket())
            .key(self.request_key(key))
            .upload_id(id)
            .part_number(number)
            .content_length(length)
            .content_md5(md5.header())
            .body(body)
            .with_customer_key(self);
        let about = self.writing(key);
        let request = request.customize().config_override(without_checksums());
        let answer = written(self.patience().written, sent, request.send()).await;
        match bare_etag(answer.map_err(|e| from_sdk(e, about))?.e_tag()) {
            etag if etag.is_empty() => Err(Error::transient("the service gave no ETag for a part").on(about)),
            etag => Ok(etag),
        }
    }

    /// The parts that an upload has, by number; `None` when there is no such upload.
    pub(super) async fn list_parts(&self, key: &str, id: &str) -> Result<Option<BTreeMap<i32, Part>>> {
        let mut parts: BTreeMap<i32, (jiff::Timestamp, Part)> = BTreeMap::new();
        let mut marker = None;
        loop {
            let request = self.client().list_parts().bucket(self.bucket()).key(self.request_key(key)).upload_id(id);
            let request = request.set_part_number_marker(marker.clone()).with_customer_key(self);
            let page = match in_time(request.send()).await {
                Ok(page) => page,
                Err(e) if e.code() == Some("NoSuchUpload") || status(&e) == 404 && e.code() != Some("NoSuchBucket") => {
                    return Ok(None);
                }
                Err(e) => return Err(from_sdk(e, self.writing(key))),
            };
            for part in page.parts() {
                let size = part.size().and_then(|size| u64::try_from(size).ok()).unwrap_or(0);
                let (number, time) = (part.part_number().unwrap_or(0), timestamp(part.last_modified()));
                let part = Part { etag: bare_etag(part.e_tag()), size };
                // Some services list a part twice that was uploaded twice: the later one counts.
                if parts.get(&number).is_none_or(|(before, _)| *before <= time) {
                    parts.insert(number, (time, part));
                }
            }
            match page.next_part_number_marker() {
                Some(next) if page.is_truncated() == Some(true) && marker.as_deref() != Some(next) => {
                    marker = Some(next.to_owned());
                }
                _ => return Ok(Some(parts.into_iter().map(|(number, (_, part))| (number, part)).collect())),
            }
        }
    }

    /// Makes an object of parts. After an error it may be there all the same.
    pub(super) async fn complete_upload(
        &self,
        key: &str,
        id: &str,
        etags: &[String],
        only_new: bool,
    ) -> Result<Completed> {
        let part = |(number, etag): (i32, &String)| {
            CompletedPart::builder().part_number(number).e_tag(format!("\"{etag}\"")).build()
        };
        let parts = (1..).zip(etags).map(part).collect();
        let request = self
            .client()
            .complete_multipart_upload()
            .bucket(self.bucket())
            .key(self.request_key(key))
            .upload_id(id)
            .set_if_none_match(only_new.then(|| "*".to_owned()))
            .multipart_upload(CompletedMultipartUpload::builder().set_parts(Some(parts)).build())
            .with_customer_key(self);
        let about = self.writing(key);
        let request = request.customize().config_override(without_checksums());
        match within(self.patience().completed, request.send()).await {
            // An answer of success can hold an error, or break off: then there is no ETag.
            Ok(done) if done.e_tag().is_some_and(|etag| !etag.is_empty()) => Ok(Completed::Done),
            Ok(_) => {
                Err(Error::transient("the service's answer to the completion of the upload is not whole").on(about))
            }
            Err(e) if only_new && status(&e) == 412 => Ok(Completed::Exists),
            Err(e) if e.code() == Some("NoSuchUpload") => Ok(Completed::Gone),
            Err(e) if matches!(e.code(), Some("InvalidPart" | "InvalidPartOrder")) => Ok(Completed::OtherParts),
            // Services that do not know the header say so in several ways; AWS does know it.
            Err(e) if only_new && !self.is_aws() && refuses_condition(&e) => Ok(Completed::NoCondition),
            Err(e) => Err(from_sdk(e, about)),
        }
    }

    /// Gives an upload up with all its parts; one that is not there any more is fine.
    pub(super) async fn abort_upload(&self, key: &str, id: &str) -> Result<()> {
        let key_sent = self.request_key(key);
        let request = self.client().abort_multipart_upload().bucket(self.bucket()).key(key_sent).upload_id(id);
        match in_time(request.send()).await {
            Ok(_) => Ok(()),
            Err(e) if e.code() == Some("NoSuchUpload") => Ok(()),
            Err(e) => Err(from_sdk(e, self.writing(key))),
        }
    }

    /// A page of the open uploads below the prefix of the configuration, and where the next one starts.
    pub(super) async fn open_uploads(
        &self,
        after: Option<&UploadMarker>,
    ) -> Result<(Vec<OpenUpload>, Option<UploadMarker>)> {
        let request = self
            .client()
            .list_multipart_uploads()
            .bucket(self.bucket())
            .prefix(self.prefix())
            .encoding_type(EncodingType::Url)
            .set_key_marker(after.map(|(key, _)| key.clone()))
            .set_upload_id_marker(after.map(|(_, id)| id.clone()).filter(|id| !id.is_empty()));
        let page = answered(request.send(), About::Bucket(self.bucket())).await?;
        let encoded = page.encoding_type() == Some(&EncodingType::Url);
        let mut uploads = Vec::new();
        for upload in page.uploads() {
            let Some((key, id)) = upload.key().zip(upload.upload_id()) else { continue };
            let begun = timestamp(upload.initiated());
            uploads.push(OpenUpload { key: decode(key, encoded)?, id: id.to_owned(), begun });
        }
        let next = page.next_key_marker().filter(|_| page.is_truncated() == Some(true));
        let next = next.map(|key| decode(key, encoded)).transpose()?;
        let next = next.map(|key| (key, page.next_upload_id_marker().unwrap_or_default().to_owned()));
        Ok((uploads, next.filter(|next| Some(next) != after)))
    }

    /// The tags of an object; `None` when the service does not tell.
    pub(super) async fn tags(&self, key: &str) -> Result<Option<BTreeMap<String, String>>> {
        let request = self.client().get_object_tagging().bucket(self.bucket()).key(self.request_key(key));
        match in_time(request.send()).await {
            Ok(answer) => {
                Ok(Some(answer.tag_set().iter().map(|tag| (tag.key().to_owned(), tag.value().to_owned())).collect()))
            }
            Err(e) => match from_sdk(e, self.reading(key)) {
                e if e.is_retryable() || super::is_fatal(&e) => Err(e),
                e => {
                    tracing::debug!(key, error = %e.chain(), "tags cannot be read");
                    Ok(None)
                }
            },
        }
    }
}
