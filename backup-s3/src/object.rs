//! The calls about single objects that destination and restore target share.

use crate::S3Bucket;
use crate::attributes::Attributes;
use crate::body::{Md5, Proof, body, sha256_of};
use crate::client::{WithCustomerKey, WithEncryption};
use crate::error::{About, broken_off, from_sdk, in_time, written};
use aws_sdk_s3::config::http::HttpResponse;
use aws_sdk_s3::config::{Builder, RequestChecksumCalculation};
use aws_sdk_s3::error::{ProvideErrorMetadata, SdkError};
use aws_sdk_s3::operation::get_object::GetObjectOutput;
use aws_sdk_s3::operation::put_object::PutObjectError;
use aws_sdk_s3::types::ChecksumMode;
use backup_core::adapter::Payload;
use backup_core::retry::{Attempts, RetryPolicy, SystemBackoff};
use backup_core::{Digest, Error, ErrorClass, Result, Sha256};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use std::ops::Range;
use std::sync::Arc;

/// An object to be put whole.
#[derive(Debug)]
pub(crate) struct Put<'a> {
    pub(crate) key: &'a str,
    pub(crate) payload: &'a Payload,
    pub(crate) proof: Proof,
    /// Not when something is there already, on services that honour it.
    pub(crate) only_new: bool,
    pub(crate) attributes: &'a Attributes,
}

/// What came of a put.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum PutAnswer {
    /// It is there now.
    Stored,
    /// Something is there already; nothing was changed.
    Exists,
    /// Another put of the key was under way at the same time; nothing was changed.
    Race,
    /// The service does not know the storage class; nothing was changed.
    NoSuchClass,
}

/// What a HEAD tells of an object.
#[derive(Clone, Debug)]
pub(crate) struct Seen {
    pub(crate) size: u64,
    /// Without its quotation marks.
    pub(crate) etag: String,
    pub(crate) modified: jiff::Timestamp,
    /// All but the tags.
    pub(crate) attributes: Attributes,
    /// How many tags it has, if the service says so.
    pub(crate) tags: u32,
    /// The SHA-256 of the whole content that the service keeps, if it does.
    pub(crate) sha256: Option<Digest>,
}

/// A part of an object that was opened.
pub(crate) struct OpenObject {
    about: (String, String),
    body: aws_sdk_s3::primitives::ByteStream,
    /// Bytes that are still to come.
    left: u64,
}

/// Writes carry a [`Proof`] of their own instead of the checksums of newer AWS clients, which many services do not know.
pub(crate) fn without_checksums() -> Builder {
    Builder::new().request_checksum_calculation(RequestChecksumCalculation::WhenRequired)
}

/// An ETag as it is compared.
pub(crate) fn bare_etag(etag: Option<&str>) -> String {
    etag.unwrap_or_default().trim_start_matches("W/").trim_matches('"').to_owned()
}

pub(crate) fn timestamp(time: Option<&aws_sdk_s3::primitives::DateTime>) -> jiff::Timestamp {
    let time = time.and_then(|t| jiff::Timestamp::new(t.secs(), i32::try_from(t.subsec_nanos()).unwrap_or(0)).ok());
    time.unwrap_or(jiff::Timestamp::UNIX_EPOCH)
}

/// Whether a service does not know the storage class that was asked for.
pub(crate) fn is_about_class<E: ProvideErrorMetadata>(error: &SdkError<E, HttpResponse>) -> bool {
    error.code() == Some("InvalidStorageClass")
}

/// Whether the key of SSE-C may be what a service does not want with an object.
pub(crate) fn is_about_key<E: ProvideErrorMetadata>(error: &SdkError<E, HttpResponse>) -> bool {
    status(error) == 400 && error.code().is_none_or(|code| matches!(code, "InvalidRequest" | "InvalidArgument"))
}

pub(crate) fn status<E>(error: &SdkError<E, HttpResponse>) -> u16 {
    error.raw_response().map_or(0, |raw| raw.status().as_u16())
}

impl S3Bucket {
    pub(crate) fn writing<'a>(&'a self, key: &'a str) -> About<'a> {
        About::Write(self.bucket(), key)
    }

    pub(crate) fn reading<'a>(&'a self, key: &'a str) -> About<'a> {
        About::Read(self.bucket(), key)
    }

    /// Puts an object. After an error it may be there all the same.
    pub(crate) async fn put(&self, put: Put<'_>) -> Result<PutAnswer> {
        let Put { key, only_new, .. } = put;
        match self.try_put(&put).await {
            Ok(()) => Ok(PutAnswer::Stored),
            Err(e) if only_new && status(&e) == 412 => Ok(PutAnswer::Exists),
            Err(e) if only_new && e.code() == Some("ConditionalRequestConflict") => Ok(PutAnswer::Race),
            Err(e) if is_about_class(&e) => Ok(PutAnswer::NoSuchClass),
            Err(e) => Err(from_sdk(*e, self.writing(key))),
        }
    }

    /// Puts an object, and gives the service's own word for what went wrong.
    pub(crate) async fn try_put(&self, put: &Put<'_>) -> Result<(), Box<SdkError<PutObjectError, HttpResponse>>> {
        let Put { key, payload, proof, only_new, attributes } = *put;
        let (body, sent) = body(payload);
        let request = self
            .client()
            .put_object()
            .bucket(self.bucket())
            .key(self.request_key(key))
            .set_content_length(i64::try_from(payload.len()).ok())
            .set_content_md5(proof.md5())
            .set_checksum_sha256(proof.sha256())
            .set_if_none_match(only_new.then(|| "*".to_owned()))
            .body(body);
        let request = attributes.on_put(request).with_encryption(self, attributes.storage_class());
        let request = attributes.with_raw_expires(request.customize().config_override(without_checksums()));
        written(self.patience().written, sent, request.send()).await.map(drop).map_err(Box::new)
    }

    /// Looks at an object; `None` when there is none.
    pub(crate) async fn head(&self, key: &str) -> Result<Option<Seen>> {
        let mut with_key = self.has_customer_key();
        let seen = loop {
            let request = self.client().head_object().bucket(self.bucket()).key(self.request_key(key));
            let mut request = request.checksum_mode(ChecksumMode::Enabled);
            if with_key {
                request = request.with_customer_key(self);
            }
            match in_time(request.send()).await {
                Ok(seen) => break seen,
                Err(e) if status(&e) == 404 && e.code() != Some("NoSuchBucket") => return Ok(None),
                // With a key an object is refused that has none.
                Err(e) if with_key && status(&e) == 400 => with_key = false,
                // The answer to a HEAD has no body, which alone tells a wrong secret from a missing right, or an expired token.
                Err(e) if matches!(status(&e), 400 | 403) => {
                    return match self.open(key, Some(0..1), None).await {
                        // Empty, and may be read.
                        Err(told) if told.class() == ErrorClass::Corrupt => Err(from_sdk(e, self.reading(key))),
                        Err(told) => Err(told),
                        Ok(_) => Err(from_sdk(e, self.reading(key))),
                    };
                }
                Err(e) => return Err(from_sdk(e, self.reading(key))),
            }
        };
        // One of the parts' checksums is of no use, and looks like `…-3`.
        let sha256 = seen.checksum_sha256().and_then(|text| STANDARD.decode(text).ok()?.try_into().ok()).map(Digest);
        Ok(Some(Seen {
            size: seen.content_length().and_then(|size| u64::try_from(size).ok()).unwrap_or(0),
            etag: bare_etag(seen.e_tag()),
            modified: timestamp(seen.last_modified()),
            tags: seen.tag_count().and_then(|count| u32::try_from(count).ok()).unwrap_or(0),
            attributes: Attributes::of_head(&seen),
            sha256,
        }))
    }

    /// Opens an object or a part of it. With an ETag, another version is `Changed`.
    pub(crate) async fn open(&self, key: &str, range: Option<Range<u64>>, etag: Option<&str>) -> Result<OpenObject> {
        let about = self.reading(key);
        let mut with_key = self.has_customer_key();
        let opened = loop {
            let mut request = self
                .client()
                .get_object()
                .bucket(self.bucket())
                .key(self.request_key(key))
                .set_if_match(etag.map(|etag| format!("\"{etag}\"")))
                .set_range(
                    range.as_ref().map(|range| format!("bytes={}-{}", range.start, range.end.saturating_sub(1))),
                );
            if with_key {
                request = request.with_customer_key(self);
            }
            match in_time(request.send()).await {
                Ok(opened) => break opened,
                Err(e) if status(&e) == 416 => return Err(too_short().on(about)),
                // With a key an object is refused that has none.
                Err(e) if with_key && is_about_key(&e) => with_key = false,
                Err(e) => return Err(from_sdk(e, about)),
            }
        };
        let length = opened.content_length().and_then(|n| u64::try_from(n).ok());
        let left = match &range {
            None => length.ok_or_else(|| Error::permanent("the service does not say how long it is").on(about))?,
            Some(range) => check_range(range, length, &opened).map_err(|e| e.on(about))?,
        };
        Ok(OpenObject { about: (self.bucket().to_owned(), key.to_owned()), body: opened.body, left })
    }

    /// The SHA-256 of an object's content, read from the service; what breaks off is taken up again. Another version than the one seen is `Changed`.
    pub(crate) async fn read_digest(&self, key: &str, seen: &Seen, retry: RetryPolicy) -> Result<Digest> {
        let mut hash = Sha256::new();
        let mut attempts = Attempts::new("reading an object back", retry, Arc::new(SystemBackoff));
        while seen.size > 0 && hash.length() < seen.size {
            let before = hash.length();
            match self.hash_from(key, seen, &mut hash).await {
                Ok(()) if hash.length() == before => return Err(too_short().on(self.reading(key))),
                Ok(()) => {}
                Err(error) => {
                    if hash.length() > before {
                        attempts.progress();
                    }
                    attempts.failed(error).await?;
                }
            }
        }
        Ok(hash.finish())
    }

    async fn hash_from(&self, key: &str, seen: &Seen, hash: &mut Sha256) -> Result<()> {
        let range = (hash.length() > 0).then(|| hash.length()..seen.size);
        let mut opened = self.open(key, range, Some(&seen.etag)).await?;
        while let Some(bytes) = opened.next().await? {
            hash.update(&bytes);
        }
        Ok(())
    }

    /// Whether an object holds exactly this content; `None` when there is none.
    pub(crate) async fn holds(&self, key: &str, payload: &Payload, proof: Proof) -> Result<Option<bool>> {
        let Some(seen) = self.head(key).await? else { return Ok(None) };
        if seen.size != payload.len() {
            return Ok(Some(false));
        }
        let same = match proof {
            Proof::Md5(md5) | Proof::Both(md5, _) => md5.is(&seen.etag),
            Proof::Sha256(sha256) => seen.sha256 == Some(sha256) || Md5::of(payload).await?.is(&seen.etag),
        };
        if same {
            return Ok(Some(true));
        }
        // Encrypted and otherwise peculiar objects have ETags that are no MD5.
        let expected = sha256_of(payload).await?;
        let found = self.read_digest(key, &seen, RetryPolicy::default()).await?;
        Ok(Some(found == expected))
    }
}

fn too_short() -> Error {
    Error::corrupt("the object is shorter than it should be")
}

/// How many bytes of the range will come.
fn check_range(range: &Range<u64>, length: Option<u64>, opened: &GetObjectOutput) -> Result<u64> {
    let wanted = range.end.saturating_sub(range.start);
    match opened.content_range().map(bounds) {
        // A service that ignores ranges delivers the whole.
        None if range.start == 0 && length == Some(wanted) => Ok(wanted),
        None if length.is_some_and(|length| length < range.end) => Err(too_short()),
        Some(Some((start, last))) if start == range.start && last + 1 < range.end => Err(too_short()),
        Some(Some((start, last))) if start == range.start && last + 1 == range.end => Ok(wanted),
        _ => Err(Error::unsupported("the service does not deliver the range that was asked for")),
    }
}

/// First and last byte in `bytes 0-9/100`.
fn bounds(content_range: &str) -> Option<(u64, u64)> {
    let (range, _) = content_range.trim().strip_prefix("bytes")?.trim_start().split_once('/')?;
    let (first, last) = range.split_once('-')?;
    Some((first.trim().parse().ok()?, last.trim().parse().ok()?))
}

impl OpenObject {
    /// The next bytes; `None` only when all that was promised has come.
    pub(crate) async fn next(&mut self) -> Result<Option<Bytes>> {
        let about = || About::Read(&self.about.0, &self.about.1);
        match self.body.next().await {
            Some(Ok(bytes)) => {
                let length = bytes.len() as u64;
                if length > self.left {
                    return Err(Error::permanent("the service delivered more than was asked for").on(about()));
                }
                self.left -= length;
                Ok(Some(bytes))
            }
            Some(Err(e)) => Err(broken_off(e, about())),
            None if self.left > 0 => Err(Error::transient("the content ended too early").on(about())),
            None => Ok(None),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_range_that_is_not_the_one_asked_for_is_noticed() {
        let answer = |range: Option<&str>| GetObjectOutput::builder().set_content_range(range.map(Into::into)).build();
        let class = |wanted: Range<u64>, length, range| {
            check_range(&wanted, Some(length), &answer(range)).map_err(|e| e.class())
        };
        use backup_core::ErrorClass::{Corrupt, Unsupported};
        assert_eq!(class(10..20, 10, Some("bytes 10-19/100")), Ok(10));
        assert_eq!(class(10..20, 5, Some("bytes 10-14/15")), Err(Corrupt));
        assert_eq!(class(10..20, 10, Some("bytes 0-9/100")), Err(Unsupported));
        assert_eq!(class(10..20, 10, Some("nonsense")), Err(Unsupported));
        assert_eq!(class(10..20, 100, None), Err(Unsupported));
        assert_eq!(class(10..20, 15, None), Err(Corrupt));
        assert_eq!(class(0..20, 20, None), Ok(20));
    }

    #[test]
    fn etags_are_compared_without_their_marks() {
        assert_eq!(bare_etag(Some("\"abc-2\"")), "abc-2");
        assert_eq!(bare_etag(Some("W/\"abc\"")), "abc");
        assert_eq!(bare_etag(None), "");
    }
}
