//! Storing an object with one request.

use super::super::Quirks;
use super::super::buckets::Bucket;
use super::super::object::{Headers, S3Object};
use super::encryption;
use super::upload::incoming;
use super::{Backend, answer, find_mut, tags};
use bytes::Bytes;
use s3s::dto::*;
use s3s::{S3Request, S3Response, S3Result, s3_error};
use std::time::{Duration, SystemTime};

/// User metadata may have so many bytes in all.
const MAX_METADATA: usize = 2048;
const STORAGE_CLASSES: [&str; 9] = [
    "STANDARD",
    "REDUCED_REDUNDANCY",
    "STANDARD_IA",
    "ONEZONE_IA",
    "INTELLIGENT_TIERING",
    "GLACIER",
    "GLACIER_IR",
    "DEEP_ARCHIVE",
    "EXPRESS_ONEZONE",
];

/// Makes the object that a write asks for, without its content: out of the input of PutObject or CreateMultipartUpload.
macro_rules! draft {
    ($input:expr) => {{
        let headers = crate::s3::Headers {
            content_type: $input.content_type.take().map(|content_type| content_type.to_string()),
            content_encoding: $input.content_encoding.take(),
            content_language: $input.content_language.take(),
            content_disposition: $input.content_disposition.take(),
            cache_control: $input.cache_control.take(),
            expires: $input.expires.take().map(crate::s3::backend::write::time),
        };
        let customer = crate::s3::backend::encryption::customer_key!($input);
        let encryption = crate::s3::backend::encryption::wanted(
            $input.server_side_encryption.take(),
            $input.ssekms_key_id.take(),
            &customer,
        )?;
        let mut object = crate::s3::backend::write::draft_of(
            &$input.key,
            headers,
            $input.metadata.take(),
            $input.storage_class.take(),
            $input.tagging.take(),
        )?;
        object.encryption = encryption;
        object
    }};
}
pub(super) use draft;

/// Whole seconds.
pub(super) fn time(timestamp: Timestamp) -> SystemTime {
    let mut text = Vec::new();
    let written = timestamp.format(TimestampFormat::EpochSeconds, &mut text).ok();
    let seconds = written.and_then(|()| std::str::from_utf8(&text).ok()?.split('.').next()?.parse().ok());
    SystemTime::UNIX_EPOCH + Duration::from_secs(seconds.unwrap_or_default())
}

/// What [`draft!`] does with the parts of the input.
pub(super) fn draft_of(
    key: &str,
    mut headers: Headers,
    metadata: Option<Metadata>,
    storage_class: Option<StorageClass>,
    tagging: Option<String>,
) -> S3Result<S3Object> {
    // How the body came is nothing that is stored.
    headers.content_encoding = headers.content_encoding.and_then(|encoding| {
        let kept: Vec<_> = encoding.split(',').map(str::trim).filter(|one| *one != "aws-chunked").collect();
        (!kept.is_empty()).then(|| kept.join(","))
    });
    let mut object = S3Object::new(key, Bytes::new());
    object.headers = headers;
    object.metadata = metadata.into_iter().flatten().collect();
    if object.metadata.iter().map(|(name, value)| name.len() + value.len()).sum::<usize>() > MAX_METADATA {
        return Err(s3_error!(MetadataTooLarge, "Your metadata headers exceed the maximum allowed metadata size"));
    }
    if let Some(class) = storage_class {
        let class = class.as_str();
        if !STORAGE_CLASSES.contains(&class) {
            return Err(s3_error!(InvalidStorageClass, "The storage class you specified is not valid"));
        }
        object.archived = matches!(class, "GLACIER" | "DEEP_ARCHIVE");
        object.storage_class = class.to_owned();
    }
    object.tags = tags::parse(&tagging.unwrap_or_default())?;
    Ok(object)
}

/// Checks the conditions of a write.
pub(super) fn check_conditions(
    bucket: &Bucket,
    key: &str,
    if_match: Option<IfMatch>,
    if_none_match: Option<IfNoneMatch>,
    quirks: &Quirks,
) -> S3Result<()> {
    let there = bucket.current(key);
    match if_none_match {
        Some(_) if quirks.refuses_if_none_match => return Err(s3_error!(NotImplemented)),
        Some(_) if quirks.ignores_if_none_match => {}
        Some(ETagCondition::Any) if there.is_some() => return Err(precondition()),
        Some(ETagCondition::ETag(_)) => {
            return Err(s3_error!(NotImplemented, "If-None-Match of a write can only be *"));
        }
        _ => {}
    }
    match (if_match, there) {
        (None, _) | (Some(ETagCondition::Any), Some(_)) => Ok(()),
        (Some(_), None) => Err(s3_error!(NoSuchKey, "The specified key does not exist.")),
        (Some(ETagCondition::ETag(wanted)), Some(there)) if wanted.value() == there.etag => Ok(()),
        _ => Err(precondition()),
    }
}

/// Whether tags may come with a write.
pub(super) fn check_tagging(tagging: Option<&str>, quirks: &Quirks) -> S3Result<()> {
    match tagging {
        Some(_) if quirks.knows_no_tags => Err(s3_error!(NotImplemented)),
        Some(_) if quirks.denies_tags => Err(s3_error!(AccessDenied)),
        _ => Ok(()),
    }
}

pub(super) fn precondition() -> s3s::S3Error {
    s3_error!(PreconditionFailed, "At least one of the pre-conditions you specified did not hold")
}

impl Backend {
    pub(super) async fn put_object(
        &self,
        mut request: S3Request<PutObjectInput>,
    ) -> S3Result<S3Response<PutObjectOutput>> {
        let quirks = self.quirks();
        let received = incoming!(request).receive(&quirks).await?;
        let mut input = request.input;
        check_tagging(input.tagging.as_deref(), &quirks)?;
        let mut object: S3Object = draft!(input);
        object.etag = encryption::etag(&received.md5, &object.encryption);
        object.body = received.body;
        object.checksums = received.checksums.clone();

        let mut state = self.buckets.lock();
        let id = state.next_id();
        let bucket = find_mut(&mut state, &input.bucket)?;
        if bucket.object_lock && !received.protected {
            let message = "Content-MD5 OR x-amz-checksum- HTTP header is required for Put Object requests with Object Lock parameters";
            return Err(s3_error!(InvalidRequest, "{message}"));
        }
        check_conditions(bucket, &input.key, input.if_match, input.if_none_match, &quirks)?;
        let told = encryption::told(&object.encryption);
        let etag = object.etag.clone();
        let version = bucket.store(object, id);
        answer(PutObjectOutput {
            e_tag: Some(ETag::Strong(etag)),
            version_id: bucket.tells_versions().then_some(version),
            checksum_crc32: received.checksums.checksum_crc32,
            checksum_crc32c: received.checksums.checksum_crc32c,
            checksum_crc64nvme: received.checksums.checksum_crc64nvme,
            checksum_sha1: received.checksums.checksum_sha1,
            checksum_sha256: received.checksums.checksum_sha256,
            server_side_encryption: told.sse,
            ssekms_key_id: told.kms_key,
            sse_customer_algorithm: told.algorithm,
            sse_customer_key_md5: told.key_md5,
            ..Default::default()
        })
    }
}
