//! Objects out of parts.

use super::super::Quirks;
use super::super::buckets::{Part, State, Upload};
use super::super::object::{S3Object, now};
use super::encryption::{self, customer_key};
use super::upload::incoming;
use super::write::{check_conditions, check_tagging, draft};
use super::{Backend, answer, coded, digest, find_mut};
use bytes::BytesMut;
use s3s::dto::*;
use s3s::{S3Error, S3Request, S3Response, S3Result, s3_error};
use std::collections::BTreeMap;

/// Bytes of each part but the last, at least.
const MIN_PART: usize = 5 << 20;
const MAX_PARTS: i32 = 10_000;

fn no_such_upload() -> S3Error {
    s3_error!(
        NoSuchUpload,
        "The specified upload does not exist. The upload ID may be invalid, or the upload may have been aborted or completed."
    )
}

/// The upload of a request.
pub(super) fn find_upload<'a>(state: &'a mut State, bucket: &str, key: &str, id: &str) -> S3Result<&'a mut Upload> {
    let uploads = &mut find_mut(state, bucket)?.uploads;
    uploads.get_mut(&(key.to_owned(), id.to_owned())).ok_or_else(no_such_upload)
}

fn invalid_part() -> S3Error {
    s3_error!(
        InvalidPart,
        "One or more of the specified parts could not be found. The part may not have been uploaded, or the specified entity tag may \
         not match the part's entity tag."
    )
}

impl Backend {
    pub(super) async fn create_multipart_upload(
        &self,
        request: S3Request<CreateMultipartUploadInput>,
    ) -> S3Result<S3Response<CreateMultipartUploadOutput>> {
        let mut input = request.input;
        let quirks = self.quirks();
        check_tagging(input.tagging.as_deref(), &quirks)?;
        if quirks.refuses_checksums && input.checksum_algorithm.is_some() {
            return Err(s3_error!(InvalidRequest, "This server knows no checksums"));
        }
        let object: S3Object = draft!(input);
        let told = encryption::told(&object.encryption);
        let mut state = self.buckets.lock();
        let id = state.next_id();
        let bucket = find_mut(&mut state, &input.bucket)?;
        let upload = Upload { initiated: now(), object, parts: BTreeMap::new() };
        bucket.uploads.insert((input.key.clone(), id.clone()), upload);
        answer(CreateMultipartUploadOutput {
            bucket: Some(input.bucket),
            key: Some(input.key),
            upload_id: Some(id),
            checksum_algorithm: input.checksum_algorithm,
            checksum_type: input.checksum_type,
            server_side_encryption: told.sse,
            ssekms_key_id: told.kms_key,
            sse_customer_algorithm: told.algorithm,
            sse_customer_key_md5: told.key_md5,
            ..Default::default()
        })
    }

    pub(super) async fn upload_part(
        &self,
        mut request: S3Request<UploadPartInput>,
    ) -> S3Result<S3Response<UploadPartOutput>> {
        let quirks = self.quirks();
        let received = incoming!(request).receive(&quirks).await?;
        let mut input = request.input;
        if !(1..=MAX_PARTS).contains(&input.part_number) {
            return Err(s3_error!(InvalidArgument, "Part number must be an integer between 1 and 10000, inclusive"));
        }
        let customer = customer_key!(input);
        let mut state = self.buckets.lock();
        let locked = find_mut(&mut state, &input.bucket)?.object_lock;
        if locked && !received.protected {
            return Err(s3_error!(
                InvalidRequest,
                "Content-MD5 OR x-amz-checksum- HTTP header is required for Upload Part requests"
            ));
        }
        let upload = find_upload(&mut state, &input.bucket, &input.key, &input.upload_id)?;
        encryption::check(&upload.object, &customer)?;
        let etag = encryption::etag(&received.md5, &upload.object.encryption);
        let told = encryption::told(&upload.object.encryption);
        let part = Part { body: received.body, md5: received.md5, etag: etag.clone(), modified: now() };
        upload.parts.entry(input.part_number).or_default().push(part);
        answer(UploadPartOutput {
            e_tag: Some(ETag::Strong(etag)),
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

    pub(super) async fn complete_multipart_upload(
        &self,
        request: S3Request<CompleteMultipartUploadInput>,
    ) -> S3Result<S3Response<CompleteMultipartUploadOutput>> {
        let quirks = self.quirks();
        let input = request.input;
        let named = input.multipart_upload.and_then(|upload| upload.parts).unwrap_or_default();
        let mut state = self.buckets.lock();
        let id = state.next_id();
        let upload = find_upload(&mut state, &input.bucket, &input.key, &input.upload_id)?;
        let mut object = upload.object.clone();
        let parts = chosen(upload, &named, &quirks)?;
        let mut body = BytesMut::with_capacity(parts.iter().map(|part| part.body.len()).sum());
        parts.iter().for_each(|part| body.extend_from_slice(&part.body));
        object.body = body.freeze();
        if input.mpu_object_size.is_some_and(|size| u64::try_from(size) != Ok(object.body.len() as u64)) {
            return Err(s3_error!(InvalidRequest, "The object is not as long as x-amz-mp-object-size says"));
        }
        if input.checksum_type.as_ref().is_some_and(|kind| kind.as_str() == ChecksumType::FULL_OBJECT) {
            object.checksums = Checksum {
                checksum_crc32: input.checksum_crc32,
                checksum_crc32c: input.checksum_crc32c,
                checksum_crc64nvme: input.checksum_crc64nvme,
                checksum_type: input.checksum_type,
                ..Default::default()
            };
            let message = "A checksum you specified did not match the object.";
            digest::check_checksums(&object.checksums, &object.body).map_err(|code| coded(code, message))?;
        }
        let digests: Vec<u8> = parts.iter().flat_map(|part| part.md5).collect();
        object.etag = format!("{}-{}", encryption::etag(&digest::md5(&digests), &object.encryption), parts.len());
        object.modified = now();

        let bucket = find_mut(&mut state, &input.bucket)?;
        let if_none_match = input.if_none_match.filter(|_| !quirks.completes_over_anything);
        check_conditions(bucket, &input.key, input.if_match, if_none_match, &quirks)?;
        bucket.uploads.remove(&(input.key.clone(), input.upload_id));
        let told = encryption::told(&object.encryption);
        let (etag, checksums) = (object.etag.clone(), object.checksums.clone());
        let version = bucket.store(object, id);
        answer(CompleteMultipartUploadOutput {
            e_tag: Some(ETag::Strong(etag)),
            location: Some(format!("/{}/{}", input.bucket, input.key)),
            bucket: Some(input.bucket),
            key: Some(input.key),
            version_id: bucket.tells_versions().then_some(version),
            checksum_crc32: checksums.checksum_crc32,
            checksum_crc32c: checksums.checksum_crc32c,
            checksum_crc64nvme: checksums.checksum_crc64nvme,
            checksum_type: checksums.checksum_type,
            server_side_encryption: told.sse,
            ssekms_key_id: told.kms_key,
            ..Default::default()
        })
    }

    pub(super) async fn abort_multipart_upload(
        &self,
        request: S3Request<AbortMultipartUploadInput>,
    ) -> S3Result<S3Response<AbortMultipartUploadOutput>> {
        let input = request.input;
        let mut state = self.buckets.lock();
        let uploads = &mut find_mut(&mut state, &input.bucket)?.uploads;
        uploads.remove(&(input.key, input.upload_id)).ok_or_else(no_such_upload)?;
        answer(AbortMultipartUploadOutput::default())
    }
}

/// The parts that a completion names, in its order.
fn chosen(upload: &Upload, named: &[CompletedPart], quirks: &Quirks) -> S3Result<Vec<Part>> {
    if named.is_empty() {
        return Err(s3_error!(MalformedXML, "You must specify at least one part"));
    }
    let numbers: Option<Vec<i32>> = named.iter().map(|part| part.part_number).collect();
    let numbers = numbers.ok_or_else(|| s3_error!(MalformedXML, "A part without its number"))?;
    if !numbers.is_sorted_by(|one, next| one < next) {
        return Err(s3_error!(
            InvalidPartOrder,
            "The list of parts was not in ascending order. Parts must be ordered by part number."
        ));
    }
    let mut parts = Vec::with_capacity(named.len());
    for (part, number) in named.iter().zip(&numbers) {
        let stored = upload.parts.get(number).and_then(|versions| versions.last()).ok_or_else(invalid_part)?;
        if part.e_tag.as_ref().map(ETag::value) != Some(stored.etag.as_str()) {
            return Err(invalid_part());
        }
        parts.push(stored.clone());
    }
    let full = &parts[..parts.len() - 1];
    if full.iter().any(|part| part.body.len() < MIN_PART) {
        return Err(s3_error!(EntityTooSmall, "Your proposed upload is smaller than the minimum allowed size"));
    }
    let unequal = full.windows(2).any(|pair| pair[0].body.len() != pair[1].body.len());
    if quirks.wants_equal_parts && unequal
        || quirks.most_parts.is_some_and(|most| numbers.iter().any(|number| *number > most))
    {
        return Err(invalid_part());
    }
    Ok(parts)
}
