//! Lists the current objects, page by page, the next page while the present one is used.

use super::cursor::Position;
use super::object::{Object, timestamp};
use super::order::Order;
use super::scope::Scope;
use super::state::bare;
use crate::S3Bucket;
use crate::error::{About, answered};
use aws_sdk_s3::types::EncodingType;
use backup_core::model::EntryName;
use backup_core::{Error, Result};
use futures::StreamExt;
use futures::stream::BoxStream;
use percent_encoding::percent_decode;
use std::borrow::Cow;
use tokio_util::task::AbortOnDropHandle;

/// What a listing gives.
#[derive(Clone, Debug)]
pub(super) enum Listed {
    Object(Object),
    /// Something that cannot be backed up, and why.
    Odd(EntryName, &'static str),
}

/// Everything in the scope behind a position, in the order in which the service lists the keys.
pub(super) fn objects(bucket: S3Bucket, scope: Scope, after: Option<Position>) -> BoxStream<'static, Result<Listed>> {
    async_stream::try_stream! {
        let after = after.map(|position| position.key);
        for prefix in &scope.prefixes {
            let start = match &after {
                // All of it comes before the position.
                Some(key) if !key.starts_with(prefix.as_str()) && key > prefix => continue,
                Some(key) if key.starts_with(prefix.as_str()) => Some(bucket.key(key)),
                _ => None,
            };
            let mut order = Order::behind(start.clone());
            let below_start = match &after {
                Some(key) if start.is_some() && leaves_out_below(&bucket, prefix, key).await? => Some(format!("{key}/")),
                _ => None,
            };
            let mut parts = below_start.map(|below| (below, None)).into_iter().chain([(prefix.clone(), start)]);
            let mut listed = parts.next().unwrap_or_default();
            let mut next = Some(fetch(&bucket, &listed.0, listed.1.take(), None));
            let mut token_before = None;
            while let Some(page) = next.take() {
                let page = joined(page.await)?;
                let decoder = Decoder::of(page.encoding_type.as_ref());
                let objects = page.contents.unwrap_or_default();
                if page.is_truncated == Some(true) {
                    let end = objects.last().and_then(|object| object.key.as_deref());
                    next = Some(match (page.next_continuation_token, end) {
                        // Behind a key, AWS goes on after any pause; others may leave out what lies below it.
                        (token, Some(end)) if bucket.is_aws() || token.is_none() => {
                            let end = decoder.text(end).map_err(|_| misbehaves("a page ends with a key that is no text"))?;
                            fetch(&bucket, &listed.0, Some(end), None)
                        }
                        (Some(token), _) if token_before.as_ref() == Some(&token) => Err(misbehaves("a page is followed by itself"))?,
                        (Some(token), _) => {
                            token_before = Some(token.clone());
                            fetch(&bucket, &listed.0, None, Some(token))
                        }
                        (None, _) => Err(misbehaves("an empty page does not tell where the next starts"))?,
                    });
                } else if let Some(part) = parts.next() {
                    listed = part;
                    next = Some(fetch(&bucket, &listed.0, listed.1.take(), None));
                }
                for object in objects {
                    let key = object.key.as_deref().ok_or_else(|| misbehaves("an object has no key"))?;
                    let full = match decoder.text(key) {
                        Ok(full) => full,
                        Err(bytes) => {
                            yield Listed::Odd(odd_name(&bucket, bytes), "its key is no UTF-8");
                            continue;
                        }
                    };
                    order.next(&full)?;
                    let key = below(&bucket, &full)?.to_owned();
                    let size = u64::try_from(object.size.unwrap_or_default()).unwrap_or_default();
                    if key.is_empty() {
                        if size > 0 {
                            yield Listed::Odd(EntryName::from(bucket.prefix()), PREFIX_ITSELF);
                        }
                        continue;
                    }
                    if scope.contains(&key) {
                        yield Listed::Object(Object {
                            key,
                            size,
                            etag: object.e_tag.as_deref().map(bare),
                            modified: object.last_modified.as_ref().map(timestamp),
                            version: None,
                        });
                    }
                }
            }
        }
    }
    .boxed()
}

/// Whether a service, asked for what comes behind a key, leaves out what lies below it. SeaweedFS does: behind `folder` it lists `folder-x`,
/// but not `folder/a`, which it lists next when it lists everything.
async fn leaves_out_below(bucket: &S3Bucket, prefix: &str, key: &str) -> Result<bool> {
    if bucket.is_aws() {
        return Ok(false);
    }
    let full = bucket.key(key);
    let below = format!("{full}/");
    let next_is_below = |page: &Page| {
        let decoder = Decoder::of(page.encoding_type.as_ref());
        let keys = page.contents.iter().flatten().filter_map(|object| decoder.text(object.key.as_deref()?).ok());
        let next = keys.into_iter().find(|found| *found != full);
        next.is_some_and(|next| next.starts_with(&below))
    };
    // In the order of bytes as well as level by level, what comes next is the same in both listings.
    let all = joined(fetch_some(bucket, key, None, None, Some(2)).await)?;
    if !next_is_below(&all) {
        return Ok(false);
    }
    let behind = joined(fetch_some(bucket, prefix, Some(full.clone()), None, Some(1)).await)?;
    Ok(!next_is_below(&behind))
}

/// Why the object whose key is the configuration's prefix is left out. An empty one only makes the "folder" show, as the root
/// directory of a file tree does, and is no item.
pub(super) const PREFIX_ITSELF: &str = "its key is the prefix itself, so that it has no name below it";

type Page = aws_sdk_s3::operation::list_objects_v2::ListObjectsV2Output;

/// The page behind a full key, or that of a token. It is on its way from this moment on.
fn fetch(
    bucket: &S3Bucket,
    prefix: &str,
    after: Option<String>,
    token: Option<String>,
) -> AbortOnDropHandle<Result<Page>> {
    fetch_some(bucket, prefix, after, token, None)
}

fn fetch_some(
    bucket: &S3Bucket,
    prefix: &str,
    after: Option<String>,
    token: Option<String>,
    at_most: Option<i32>,
) -> AbortOnDropHandle<Result<Page>> {
    let bucket = bucket.clone();
    let prefix = Some(bucket.key(prefix)).filter(|prefix| !prefix.is_empty());
    AbortOnDropHandle::new(tokio::spawn(async move {
        let request = bucket
            .client()
            .list_objects_v2()
            .bucket(bucket.bucket())
            .encoding_type(EncodingType::Url)
            .set_prefix(prefix)
            .set_start_after(after)
            .set_continuation_token(token)
            .set_max_keys(at_most);
        answered(request.send(), About::Bucket(bucket.bucket())).await
    }))
}

/// What a task of this crate gave.
pub(super) fn joined<T>(result: Result<Result<T>, tokio::task::JoinError>) -> Result<T> {
    result.map_err(|e| Error::permanent("a task of the S3 source did not end").because(e))?
}

/// How the texts of a page are written.
#[derive(Clone, Copy, Debug)]
pub(super) struct Decoder {
    encoded: bool,
}

impl Decoder {
    /// By what the answer says: some servers pass over the wish for an encoding.
    pub(super) fn of(encoding: Option<&EncodingType>) -> Self {
        Self { encoded: encoding == Some(&EncodingType::Url) }
    }

    /// The text, or the bytes when they are none.
    pub(super) fn text(self, text: &str) -> Result<String, Vec<u8>> {
        if !self.encoded {
            return Ok(text.to_owned());
        }
        // As in forms: a blank is written as `+`.
        let text: Cow<'_, str> = if text.contains('+') { text.replace('+', " ").into() } else { text.into() };
        String::from_utf8(percent_decode(text.as_bytes()).collect()).map_err(std::string::FromUtf8Error::into_bytes)
    }
}

/// The name of something whose key is no text.
pub(super) fn odd_name(bucket: &S3Bucket, mut key: Vec<u8>) -> EntryName {
    if key.starts_with(bucket.prefix().as_bytes()) {
        key.drain(..bucket.prefix().len());
    }
    EntryName::new(key)
}

/// The key below the bucket's prefix.
pub(super) fn below<'a>(bucket: &S3Bucket, key: &'a str) -> Result<&'a str> {
    key.strip_prefix(bucket.prefix()).ok_or_else(|| misbehaves("a key has another prefix than was asked for"))
}

pub(super) fn misbehaves(how: &str) -> Error {
    let text = format!("the service's listing cannot be used: {how} (directory buckets, for one, are not supported)");
    Error::unsupported(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_decoded_only_where_the_answer_says_that_they_are_encoded() {
        let encoded = Decoder::of(Some(&EncodingType::Url));
        assert_eq!(encoded.text("a+b%2Bc%20%C3%A9%0A").unwrap(), "a b+c é\n");
        assert_eq!(encoded.text("%FF").unwrap_err(), [0xff]);
        assert_eq!(Decoder::of(None).text("a+b%20").unwrap(), "a+b%20");
    }
}
