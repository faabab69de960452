//! Tags of objects.

use super::super::object::S3Object;
use super::{Backend, answer, find, find_mut, read};
use s3s::dto::*;
use s3s::{S3Error, S3Request, S3Response, S3Result, s3_error};
use std::collections::BTreeMap;

const MAX_TAGS: usize = 10;
const MAX_KEY: usize = 128;
const MAX_VALUE: usize = 256;

fn invalid(message: &str) -> S3Error {
    s3_error!(InvalidTag, "{message}")
}

/// Tags out of the header `x-amz-tagging`: `a=1&b=2`, in the encoding of forms.
pub(super) fn parse(header: &str) -> S3Result<BTreeMap<String, String>> {
    let pairs = header.split('&').filter(|pair| !pair.is_empty()).map(|pair| {
        let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
        Some((form_decode(key)?, form_decode(value)?))
    });
    let pairs: Option<Vec<_>> = pairs.collect();
    check(pairs.ok_or_else(|| {
        s3_error!(InvalidArgument, "The header 'x-amz-tagging' shall be encoded as UTF-8 then URLEncoded")
    })?)
}

fn check(pairs: Vec<(String, String)>) -> S3Result<BTreeMap<String, String>> {
    if pairs.len() > MAX_TAGS {
        return Err(super::coded("BadRequest", "Object tags cannot be greater than 10"));
    }
    let mut tags = BTreeMap::new();
    for (key, value) in pairs {
        if key.is_empty() || key.chars().count() > MAX_KEY {
            return Err(invalid("The TagKey you have provided is invalid"));
        }
        if value.chars().count() > MAX_VALUE {
            return Err(invalid("The TagValue you have provided is invalid"));
        }
        if tags.insert(key, value).is_some() {
            return Err(invalid("Cannot provide multiple Tags with the same key"));
        }
    }
    Ok(tags)
}

fn form_decode(text: &str) -> Option<String> {
    let mut bytes = text.bytes();
    let mut out = Vec::with_capacity(text.len());
    while let Some(byte) = bytes.next() {
        out.push(match byte {
            b'+' => b' ',
            b'%' => {
                let digits = [bytes.next()?, bytes.next()?];
                u8::from_str_radix(std::str::from_utf8(&digits).ok()?, 16).ok()?
            }
            byte => byte,
        });
    }
    String::from_utf8(out).ok()
}

impl Backend {
    fn knows_tags(&self) -> S3Result<()> {
        if self.quirks().knows_no_tags { Err(s3_error!(NotImplemented)) } else { Ok(()) }
    }

    fn change_tags(
        &self,
        bucket: &str,
        key: &str,
        version: Option<&str>,
        tags: BTreeMap<String, String>,
    ) -> S3Result<()> {
        self.knows_tags()?;
        let mut state = self.buckets.lock();
        let bucket = find_mut(&mut state, bucket)?;
        let S3Object { version_id, .. } = read::wanted(bucket, key, version)?;
        if let Some(object) = bucket.version_mut(key, &version_id) {
            object.tags = tags;
        }
        Ok(())
    }

    pub(super) async fn get_object_tagging(
        &self,
        request: S3Request<GetObjectTaggingInput>,
    ) -> S3Result<S3Response<GetObjectTaggingOutput>> {
        self.knows_tags()?;
        let input = request.input;
        let state = self.buckets.lock();
        let object = read::wanted(find(&state, &input.bucket)?, &input.key, input.version_id.as_deref())?;
        let tag_set = object.tags.into_iter().map(|(key, value)| Tag { key: Some(key), value: Some(value) }).collect();
        answer(GetObjectTaggingOutput { tag_set, version_id: None })
    }

    pub(super) async fn put_object_tagging(
        &self,
        request: S3Request<PutObjectTaggingInput>,
    ) -> S3Result<S3Response<PutObjectTaggingOutput>> {
        let input = request.input;
        let pair = |tag: Tag| (tag.key.unwrap_or_default(), tag.value.unwrap_or_default());
        let tags = check(input.tagging.tag_set.into_iter().map(pair).collect())?;
        self.change_tags(&input.bucket, &input.key, input.version_id.as_deref(), tags)?;
        answer(PutObjectTaggingOutput::default())
    }

    pub(super) async fn delete_object_tagging(
        &self,
        request: S3Request<DeleteObjectTaggingInput>,
    ) -> S3Result<S3Response<DeleteObjectTaggingOutput>> {
        let input = request.input;
        self.change_tags(&input.bucket, &input.key, input.version_id.as_deref(), BTreeMap::new())?;
        answer(DeleteObjectTaggingOutput::default())
    }
}
