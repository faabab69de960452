//! What the server keeps of an object.

use super::backend::digest;
use bytes::Bytes;
use s3s::dto::Checksum;
use std::collections::BTreeMap;
use std::time::{Duration, SystemTime};

/// One version of an object, or a delete marker.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct S3Object {
    /// The key.
    pub key: String,
    /// `null` when it was written while the bucket had no versions.
    pub version_id: String,
    /// Whether it says that the object is deleted; then it has nothing but key, version and time.
    pub delete_marker: bool,
    /// The content.
    pub body: Bytes,
    /// Without quotes.
    pub etag: String,
    /// Whole seconds.
    pub modified: SystemTime,
    /// The standard headers.
    pub headers: Headers,
    /// User metadata, names without `x-amz-meta-`.
    pub metadata: BTreeMap<String, String>,
    /// Tags.
    pub tags: BTreeMap<String, String>,
    /// `STANDARD` if the client named none.
    pub storage_class: String,
    /// Reads fail with 403 InvalidObjectState. Set for what is written as `GLACIER` or `DEEP_ARCHIVE`; clear it for a restored copy, set it
    /// beside `INTELLIGENT_TIERING` for its archive tiers.
    pub archived: bool,
    /// How it is encrypted.
    pub encryption: Encryption,
    /// The checksums that the client sent, in base64.
    pub(super) checksums: Checksum,
}

/// The headers that are stored with an object and given back as they came.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[allow(missing_docs, reason = "the names are those of the headers")]
pub struct Headers {
    pub content_type: Option<String>,
    pub content_encoding: Option<String>,
    pub content_language: Option<String>,
    pub content_disposition: Option<String>,
    pub cache_control: Option<String>,
    /// Whole seconds.
    pub expires: Option<SystemTime>,
}

/// Server-side encryption, as the client asked for it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Encryption {
    /// None was asked for.
    #[default]
    None,
    /// SSE-S3.
    Aes256,
    /// SSE-KMS with the key's id, if one was named. The ETag is not the MD5.
    Kms(Option<String>),
    /// SSE-C with the key's MD5 in base64; every read has to bring the key. The ETag is not the MD5.
    Customer {
        /// MD5 of the key, base64.
        key_md5: String,
    },
}

impl S3Object {
    /// An object as a plain PUT would make it now.
    pub fn new(key: impl Into<String>, body: impl Into<Bytes>) -> Self {
        let body = body.into();
        Self {
            key: key.into(),
            version_id: "null".to_owned(),
            delete_marker: false,
            etag: digest::hex(&digest::md5(&body)),
            body,
            modified: now(),
            headers: Headers::default(),
            metadata: BTreeMap::new(),
            tags: BTreeMap::new(),
            storage_class: "STANDARD".to_owned(),
            archived: false,
            encryption: Encryption::None,
            checksums: Checksum::default(),
        }
    }

    /// The SHA-256 that the client sent to be compared and kept, in base64.
    pub fn sha256(&self) -> Option<&str> {
        self.checksums.checksum_sha256.as_deref()
    }

    /// Replaces the content, and with it the ETag; checksums go.
    pub fn set_body(&mut self, body: impl Into<Bytes>) {
        self.body = body.into();
        self.etag = digest::hex(&digest::md5(&self.body));
        self.checksums = Checksum::default();
    }

    pub(super) fn marker(key: &str) -> Self {
        Self { delete_marker: true, ..Self::new(key, Bytes::new()) }
    }
}

/// As exact as `Last-Modified` can tell it.
pub(super) fn now() -> SystemTime {
    let since = SystemTime::UNIX_EPOCH.elapsed().unwrap_or_default();
    SystemTime::UNIX_EPOCH + Duration::from_secs(since.as_secs())
}
