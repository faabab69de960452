//! Reading an object, or what is known of it.

use super::super::Quirks;
use super::super::buckets::Bucket;
use super::super::object::S3Object;
use super::encryption::{self, CustomerKey, customer_key};
use super::write::{precondition, time};
use super::{Backend, find};
use hyper::HeaderMap;
use hyper::header::{HeaderName, HeaderValue};
use s3s::dto::*;
use s3s::{S3Error, S3Request, S3Response, S3Result, s3_error};

/// What a read wants to hold.
struct Conditions {
    if_match: Option<IfMatch>,
    if_none_match: Option<IfNoneMatch>,
    if_modified_since: Option<IfModifiedSince>,
    if_unmodified_since: Option<IfUnmodifiedSince>,
}

macro_rules! conditions {
    ($input:expr) => {
        Conditions {
            if_match: $input.if_match.take(),
            if_none_match: $input.if_none_match.take(),
            if_modified_since: $input.if_modified_since.take(),
            if_unmodified_since: $input.if_unmodified_since.take(),
        }
    };
}

impl Conditions {
    fn check(self, object: &S3Object, quirks: &Quirks) -> S3Result<()> {
        let Self { if_match, if_none_match, if_modified_since, if_unmodified_since } = self;
        let is = |condition: &ETagCondition| condition.as_etag().is_none_or(|etag| etag.value() == object.etag);
        match if_match {
            Some(_) if quirks.ignores_if_match => {}
            Some(wanted) if !is(&wanted) => return Err(precondition()),
            None if if_unmodified_since.is_some_and(|since| object.modified > time(since)) => {
                return Err(precondition());
            }
            _ => {}
        }
        match if_none_match {
            Some(unwanted) if is(&unwanted) => Err(s3_error!(NotModified)),
            None if if_modified_since.is_some_and(|since| object.modified <= time(since)) => {
                Err(s3_error!(NotModified))
            }
            _ => Ok(()),
        }
    }
}

/// The version that a request means.
pub(super) fn wanted(bucket: &Bucket, key: &str, version: Option<&str>) -> S3Result<S3Object> {
    let found = match version {
        None => bucket.newest(key).ok_or_else(|| s3_error!(NoSuchKey, "The specified key does not exist."))?,
        Some(id) => {
            bucket.version(key, id).ok_or_else(|| s3_error!(NoSuchVersion, "The specified version does not exist."))?
        }
    };
    if !found.delete_marker {
        return Ok(found);
    }
    let mut error: S3Error = match version {
        None => s3_error!(NoSuchKey, "The specified key does not exist."),
        Some(_) => s3_error!(MethodNotAllowed, "The specified method is not allowed against this resource."),
    };
    let version =
        HeaderValue::try_from(&found.version_id).ok().map(|id| (HeaderName::from_static("x-amz-version-id"), id));
    let marker = (HeaderName::from_static("x-amz-delete-marker"), HeaderValue::from_static("true"));
    error.set_headers(HeaderMap::from_iter(version.into_iter().chain([marker])));
    Err(error)
}

impl Backend {
    fn readable(
        &self,
        (bucket, key, version): (&str, &str, Option<&str>),
        conditions: Conditions,
        customer: &CustomerKey,
    ) -> S3Result<(S3Object, bool)> {
        let state = self.buckets.lock();
        let bucket = find(&state, bucket)?;
        let object = wanted(bucket, key, version)?;
        encryption::check(&object, customer)?;
        conditions.check(&object, &self.quirks())?;
        Ok((object, bucket.tells_versions()))
    }

    pub(super) async fn get_object(
        &self,
        mut request: S3Request<GetObjectInput>,
    ) -> S3Result<S3Response<GetObjectOutput>> {
        let input = &mut request.input;
        if input.part_number.is_some() {
            return Err(s3_error!(NotImplemented, "reads by part number"));
        }
        let (conditions, customer) = (conditions!(input), customer_key!(input));
        let place = (input.bucket.as_str(), input.key.as_str(), input.version_id.as_deref());
        let (object, tells_versions) = self.readable(place, conditions, &customer)?;
        if object.archived {
            return Err(s3_error!(InvalidObjectState, "The operation is not valid for the object's storage class"));
        }
        let length = object.body.len() as u64;
        let (body, content_range) = match input.range {
            None => (object.body.clone(), None),
            Some(range) => {
                let range = range.check(length)?;
                let told = format!("bytes {}-{}/{length}", range.start, range.end.saturating_sub(1));
                (object.body.slice(range.start as usize..range.end as usize), Some(told))
            }
        };
        let whole = content_range.is_none();
        let checksums = if whole && input.checksum_mode.is_some() { object.checksums } else { Checksum::default() };
        let told = encryption::told(&object.encryption);
        let output = GetObjectOutput {
            accept_ranges: Some("bytes".to_owned()),
            content_length: Some(body.len() as i64),
            body: Some(s3s::Body::from(body).into()),
            content_range,
            e_tag: Some(ETag::Strong(object.etag)),
            last_modified: Some(object.modified.into()),
            version_id: tells_versions.then_some(object.version_id),
            content_type: object.headers.content_type.and_then(|text| text.parse().ok()),
            content_encoding: object.headers.content_encoding,
            content_language: object.headers.content_language,
            content_disposition: object.headers.content_disposition,
            cache_control: object.headers.cache_control,
            expires: object.headers.expires.map(Into::into),
            metadata: Some(object.metadata.into_iter().collect()),
            tag_count: Some(object.tags.len() as i32).filter(|count| *count > 0),
            storage_class: Some(object.storage_class).filter(|class| class != "STANDARD").map(Into::into),
            checksum_crc32: checksums.checksum_crc32,
            checksum_crc32c: checksums.checksum_crc32c,
            checksum_crc64nvme: checksums.checksum_crc64nvme,
            checksum_sha1: checksums.checksum_sha1,
            checksum_sha256: checksums.checksum_sha256,
            checksum_type: checksums.checksum_type,
            server_side_encryption: told.sse,
            ssekms_key_id: told.kms_key,
            sse_customer_algorithm: told.algorithm,
            sse_customer_key_md5: told.key_md5,
            ..Default::default()
        };
        super::answer(output)
    }

    pub(super) async fn head_object(
        &self,
        mut request: S3Request<HeadObjectInput>,
    ) -> S3Result<S3Response<HeadObjectOutput>> {
        let input = &mut request.input;
        if input.part_number.is_some() || input.range.is_some() {
            return Err(s3_error!(NotImplemented, "HEAD of parts and ranges"));
        }
        let (conditions, customer) = (conditions!(input), customer_key!(input));
        let place = (input.bucket.as_str(), input.key.as_str(), input.version_id.as_deref());
        let (object, tells_versions) = self.readable(place, conditions, &customer)?;
        let checksums = if input.checksum_mode.is_some() { object.checksums } else { Checksum::default() };
        let told = encryption::told(&object.encryption);
        let tiered = object.archived && object.storage_class == "INTELLIGENT_TIERING";
        let output = HeadObjectOutput {
            accept_ranges: Some("bytes".to_owned()),
            archive_status: tiered.then(|| ArchiveStatus::from_static(ArchiveStatus::ARCHIVE_ACCESS)),
            content_length: Some(object.body.len() as i64),
            e_tag: Some(ETag::Strong(object.etag)),
            last_modified: Some(object.modified.into()),
            version_id: tells_versions.then_some(object.version_id),
            content_type: object.headers.content_type.and_then(|text| text.parse().ok()),
            content_encoding: object.headers.content_encoding,
            content_language: object.headers.content_language,
            content_disposition: object.headers.content_disposition,
            cache_control: object.headers.cache_control,
            expires: object.headers.expires.map(Into::into),
            metadata: Some(object.metadata.into_iter().collect()),
            storage_class: Some(object.storage_class).filter(|class| class != "STANDARD").map(Into::into),
            checksum_crc32: checksums.checksum_crc32,
            checksum_crc32c: checksums.checksum_crc32c,
            checksum_crc64nvme: checksums.checksum_crc64nvme,
            checksum_sha1: checksums.checksum_sha1,
            checksum_sha256: checksums.checksum_sha256,
            checksum_type: checksums.checksum_type,
            server_side_encryption: told.sse,
            ssekms_key_id: told.kms_key,
            sse_customer_algorithm: told.algorithm,
            sse_customer_key_md5: told.key_md5,
            ..Default::default()
        };
        super::answer(output)
    }
}
