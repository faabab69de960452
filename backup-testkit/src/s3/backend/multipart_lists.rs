//! Listing parts and uploads.

use super::list::{Names, page_size};
use super::multipart::find_upload;
use super::{Backend, answer, find};
use s3s::dto::*;
use s3s::{S3Request, S3Response, S3Result, s3_error};

impl Backend {
    pub(super) async fn list_parts(&self, request: S3Request<ListPartsInput>) -> S3Result<S3Response<ListPartsOutput>> {
        let input = request.input;
        let size = page_size(input.max_parts)?;
        let marker = input.part_number_marker.unwrap_or_default();
        let twice = self.quirks().lists_parts_twice;
        let mut state = self.buckets.lock();
        let upload = find_upload(&mut state, &input.bucket, &input.key, &input.upload_id)?;
        let numbers = upload.parts.range(marker.saturating_add(1)..);
        let mut all = numbers.flat_map(|(number, versions)| {
            let listed = if twice { versions.as_slice() } else { &versions[versions.len() - 1..] };
            listed.iter().map(|part| Part {
                part_number: Some(*number),
                e_tag: Some(ETag::Strong(part.etag.clone())),
                size: Some(part.body.len() as i64),
                last_modified: Some(part.modified.into()),
                ..Default::default()
            })
        });
        let parts: Vec<_> = all.by_ref().take(size).collect();
        let truncated = size > 0 && all.next().is_some();
        answer(ListPartsOutput {
            next_part_number_marker: parts.last().and_then(|part| part.part_number).filter(|_| truncated),
            bucket: Some(input.bucket),
            key: Some(input.key),
            upload_id: Some(input.upload_id),
            max_parts: Some(size as i32),
            part_number_marker: Some(marker),
            is_truncated: Some(truncated),
            parts: Some(parts),
            storage_class: Some(upload.object.storage_class.clone().into()),
            ..Default::default()
        })
    }

    pub(super) async fn list_multipart_uploads(
        &self,
        request: S3Request<ListMultipartUploadsInput>,
    ) -> S3Result<S3Response<ListMultipartUploadsOutput>> {
        let input = request.input;
        if input.delimiter.is_some() {
            return Err(s3_error!(NotImplemented, "uploads with a delimiter"));
        }
        let names = Names::new(input.encoding_type.as_ref(), self.quirks().percent_spaces)?;
        let size = page_size(input.max_uploads)?;
        let prefix = input.prefix.clone().unwrap_or_default();
        let state = self.buckets.lock();
        let uploads = &find(&state, &input.bucket)?.uploads;
        let is_behind = |key: &str, id: &str| match (&input.key_marker, &input.upload_id_marker) {
            (None, _) => true,
            (Some(last), None) => key > last.as_str(),
            (Some(last), Some(last_id)) => (key, id) > (last.as_str(), last_id.as_str()),
        };
        let mut all = uploads.iter().filter(|((key, id), _)| key.starts_with(&prefix) && is_behind(key, id));
        let page: Vec<_> = all.by_ref().take(size).collect();
        let truncated = size > 0 && all.next().is_some();
        let last = page.last().filter(|_| truncated).map(|((key, id), _)| (names.write(key), id.clone()));
        let listed = page.iter().map(|((key, id), upload)| MultipartUpload {
            key: Some(names.write(key)),
            upload_id: Some(id.clone()),
            initiated: Some(upload.initiated.into()),
            storage_class: Some(upload.object.storage_class.clone().into()),
            ..Default::default()
        });
        let uploads = listed.collect();
        let (next_key_marker, next_upload_id_marker) = last.unzip();
        answer(ListMultipartUploadsOutput {
            bucket: Some(input.bucket.clone()),
            prefix: Some(names.write(&prefix)),
            max_uploads: Some(size as i32),
            key_marker: input.key_marker.as_deref().map(|key| names.write(key)),
            upload_id_marker: input.upload_id_marker.clone(),
            next_key_marker,
            next_upload_id_marker,
            is_truncated: Some(truncated),
            encoding_type: input.encoding_type.clone(),
            uploads: Some(uploads),
            ..Default::default()
        })
    }
}
