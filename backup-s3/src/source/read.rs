//! Opens ranges of large objects.

use super::fetch::is_of_the_object;
use super::get::{Getter, Head, Wanted};
use super::state::State;
use crate::S3Bucket;
use crate::error::{About, broken_off};
use crate::version_name::VersionName;
use aws_sdk_s3::operation::get_object::GetObjectOutput;
use backup_core::adapter::{ByteStream, Opened, ReadContext};
use backup_core::{Error, ErrorClass, Result};
use futures::StreamExt;
use std::ops::Range;

/// An object as its entry's name and state tell it.
#[derive(Clone, Debug)]
pub(super) struct Wish {
    /// Relative to the bucket's prefix.
    pub(super) key: String,
    pub(super) version_id: Option<String>,
    /// Whether a header is to tell that it is the current version; `None` when that is not known.
    pub(super) latest: Option<bool>,
    /// Another state than this is `Changed`.
    pub(super) etag: Option<String>,
    /// The entry is to carry the id of the version.
    pub(super) in_history: bool,
}

/// Opens a range of an object.
pub(super) async fn open(getter: &Getter, object: &Wish, range: Range<u64>, ctx: &ReadContext) -> Result<Opened> {
    let empty = range.is_empty();
    if !empty {
        // Before the request: a connection on which nothing is read for a while is closed.
        ctx.limit.take(range.end - range.start).await;
    }
    // A range of nothing cannot be asked for.
    let asked = if empty { (0, 0) } else { (range.start, range.end - 1) };
    let wanted = Wanted {
        key: &object.key,
        version_id: object.version_id.as_deref(),
        range: Some(asked),
        etag: object.etag.as_deref(),
    };
    let (got, size, has_range) = match getter.get(wanted).await {
        Ok(got) => {
            let size = size_of_part(&got, asked)?;
            (got, size, !empty)
        }
        // The range lies behind its end, or there is nothing in it.
        Err(error) if error.class() == ErrorClass::Corrupt => {
            let got = getter.get(Wanted { range: None, ..wanted }).await?;
            let size = length(&got);
            (got, size, false)
        }
        Err(error) => return Err(error),
    };
    let Head { mut metadata, mtime, etag, missing: _ } = Head::of(&got);
    if let (Some(wanted), Some(etag)) = (&object.etag, &etag)
        && wanted != etag
    {
        // The server has not compared it.
        let key = getter.bucket.key(&object.key);
        return Err(Error::changed("it is another version by now").on(About::Read(getter.bucket.bucket(), &key)));
    }
    let mut state = State { etag, ..State::default() };
    if object.in_history {
        state.version_id = Some(got.version_id().or(object.version_id.as_deref()).unwrap_or("null").to_owned());
        state.latest = match object.latest {
            Some(latest) => latest,
            None => is_latest_by_header(getter, &object.key, state.version_id.as_deref()).await?,
        };
    }
    if range.start == 0 {
        metadata.tags = match getter.tags(&object.key, state.version_id.as_deref()).await {
            // The events have told of it.
            Err(error) if is_of_the_object(&error) => Default::default(),
            tags => tags?,
        };
        if let Some(id) = &state.version_id {
            VersionName::tell(&mut metadata, id, state.latest, false);
        }
    }
    let content = if has_range { content(&getter.bucket, object, got) } else { futures::stream::empty().boxed() };
    Ok(Opened { metadata: (range.start == 0).then_some(metadata), mtime, size, version: state.encode(), content })
}

/// Whether a version is the current one of a key that is never used as a plain name.
async fn is_latest_by_header(getter: &Getter, key: &str, id: Option<&str>) -> Result<bool> {
    if !VersionName::is_reserved(key) {
        return Ok(false);
    }
    match getter.get(Wanted { key, version_id: None, range: None, etag: None }).await {
        Ok(got) => Ok(id == Some(got.version_id().unwrap_or("null"))),
        Err(error) if is_of_the_object(&error) => Ok(false),
        Err(error) => Err(error),
    }
}

/// The bytes as they arrive.
fn content(bucket: &S3Bucket, object: &Wish, got: GetObjectOutput) -> ByteStream {
    let (bucket, key) = (bucket.bucket().to_owned(), bucket.key(&object.key));
    let pieces = futures::stream::unfold(Some(got.body), |body| async {
        let mut body = body?;
        let piece = body.next().await?;
        // After an error nothing follows.
        let rest = piece.is_ok().then_some(body);
        Some((piece, rest))
    });
    pieces.map(move |piece| piece.map_err(|e| broken_off(e, About::Read(&bucket, &key)))).boxed()
}

/// The length of the whole object, of which a part was asked for.
fn size_of_part(got: &GetObjectOutput, asked: (u64, u64)) -> Result<u64> {
    let parsed = match got.content_range() {
        Some(range) => parse_content_range(range),
        // The part is the whole.
        None if length(got) <= asked.1 - asked.0 + 1 => Some((0, length(got))),
        None => None,
    };
    match parsed {
        Some((first, size)) if first == asked.0 => Ok(size),
        _ => Err(Error::unsupported("the service does not send the part of the object that was asked for")),
    }
}

fn length(got: &GetObjectOutput) -> u64 {
    u64::try_from(got.content_length().unwrap_or_default()).unwrap_or_default()
}

/// First byte and whole length of `bytes 0-99/1000`.
fn parse_content_range(range: &str) -> Option<(u64, u64)> {
    let (part, size) = range.strip_prefix("bytes ")?.split_once('/')?;
    let (first, _) = part.split_once('-')?;
    Some((first.parse().ok()?, size.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_range_of_an_answer_tells_where_it_starts_and_how_long_the_whole_is() {
        assert_eq!(parse_content_range("bytes 5-9/1000"), Some((5, 1000)));
        assert_eq!(parse_content_range("bytes */1000"), None);
        assert_eq!(parse_content_range("bytes 0-9/*"), None);
    }
}
