//! Listing versions and delete markers.

use super::super::object::S3Object;
use super::list::{Names, common_prefix, page_size};
use super::{Backend, answer, find};
use s3s::dto::*;
use s3s::{S3Request, S3Response, S3Result, s3_error};

impl Backend {
    pub(super) async fn list_object_versions(
        &self,
        request: S3Request<ListObjectVersionsInput>,
    ) -> S3Result<S3Response<ListObjectVersionsOutput>> {
        let input = request.input;
        let names = Names::new(input.encoding_type.as_ref(), self.quirks().percent_spaces)?;
        let size = page_size(input.max_keys)?;
        let prefix = input.prefix.clone().unwrap_or_default();
        let (key_marker, id_marker) = (input.key_marker.as_deref(), input.version_id_marker.as_deref());
        if id_marker.is_some() && key_marker.is_none() {
            return Err(s3_error!(InvalidArgument, "A version-id marker cannot be specified without a key marker."));
        }
        let state = self.buckets.lock();
        let bucket = find(&state, &input.bucket)?;
        if !bucket.can_be_written() {
            return Err(s3_error!(NotImplemented, "versions of a synthetic bucket"));
        }
        let start = key_marker.unwrap_or_default().max(prefix.as_str()).to_owned();
        let mut page = Page { names, output: ListObjectVersionsOutput::default(), size, last: None };
        for (key, versions) in bucket.versions_from(&start) {
            if !key.starts_with(&prefix) {
                break;
            }
            let common = common_prefix(key, &prefix, input.delimiter.as_deref());
            // The marker is a key, or a common prefix that all keys below it belong to.
            if common.is_some_and(|common| key_marker == Some(common))
                || (key_marker == Some(key) && id_marker.is_none())
            {
                continue;
            }
            if !match common {
                Some(common) => page.sum_up(common),
                None => page.add(versions, id_marker.filter(|_| key_marker == Some(key)))?,
            } {
                break;
            }
        }
        let Page { mut output, last, .. } = page;
        if output.is_truncated == Some(true)
            && let Some((key, id)) = last
        {
            output.next_key_marker = Some(names.write(&key));
            output.next_version_id_marker = id;
        }
        output.is_truncated.get_or_insert(false);
        answer(ListObjectVersionsOutput {
            name: Some(input.bucket),
            prefix: Some(names.write(&prefix)),
            max_keys: Some(size as i32),
            delimiter: input.delimiter.map(|delimiter| names.write(&delimiter)),
            encoding_type: input.encoding_type,
            key_marker: input.key_marker.map(|key| names.write(&key)),
            version_id_marker: input.version_id_marker,
            ..output
        })
    }
}

/// A page that is being filled.
struct Page {
    names: Names,
    output: ListObjectVersionsOutput,
    size: usize,
    /// Key and version of what was added last; a common prefix has no version.
    last: Option<(String, Option<String>)>,
}

impl Page {
    fn is_full(&mut self) -> bool {
        let output = &self.output;
        let len = |list: Option<usize>| list.unwrap_or_default();
        let used = len(output.versions.as_ref().map(Vec::len))
            + len(output.delete_markers.as_ref().map(Vec::len))
            + len(output.common_prefixes.as_ref().map(Vec::len));
        if used < self.size {
            return false;
        }
        self.output.is_truncated = Some(self.size > 0);
        true
    }

    /// Adds a common prefix, if it is not there already. Whether the page goes on.
    fn sum_up(&mut self, common: &str) -> bool {
        if self.last.as_ref().is_some_and(|(last, id)| last == common && id.is_none()) {
            return true;
        }
        if self.is_full() {
            return false;
        }
        let prefix = CommonPrefix { prefix: Some(self.names.write(common)) };
        self.output.common_prefixes.get_or_insert_default().push(prefix);
        self.last = Some((common.to_owned(), None));
        true
    }

    /// Adds the versions of a key, newest first, those behind `after` if it is given. Whether the page goes on.
    fn add(&mut self, versions: &[S3Object], after: Option<&str>) -> S3Result<bool> {
        let newest = versions.last().map(|object| object.version_id.clone());
        let mut left: Vec<_> = versions.iter().rev().collect();
        if let Some(after) = after {
            let at = left.iter().position(|object| object.version_id == after);
            let at = at.ok_or_else(|| s3_error!(InvalidArgument, "Invalid version id specified"))?;
            left.drain(..=at);
        }
        for object in left {
            if self.is_full() {
                return Ok(false);
            }
            self.last = Some((object.key.clone(), Some(object.version_id.clone())));
            let is_latest = Some(newest.as_ref() == Some(&object.version_id));
            let (key, version_id) = (Some(self.names.write(&object.key)), Some(object.version_id.clone()));
            let last_modified = Some(object.modified.into());
            if object.delete_marker {
                let marker = DeleteMarkerEntry { is_latest, key, last_modified, version_id, ..Default::default() };
                self.output.delete_markers.get_or_insert_default().push(marker);
                continue;
            }
            self.output.versions.get_or_insert_default().push(ObjectVersion {
                is_latest,
                key,
                last_modified,
                version_id,
                e_tag: Some(ETag::Strong(object.etag.clone())),
                size: Some(object.body.len() as i64),
                storage_class: Some(object.storage_class.clone().into()),
                ..Default::default()
            });
        }
        Ok(true)
    }
}
