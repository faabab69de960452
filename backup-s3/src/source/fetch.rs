//! Turns what was listed into entries: small objects are fetched whole, with one request each.

use super::get::{Getter, Head, Wanted};
use super::object::Object;
use crate::error::{About, broken_off};
use backup_core::adapter::{Content, SourceEntry, SourceEvent, SourceWarning};
use backup_core::budget::Permit;
use backup_core::model::{EntryName, Metadata};
use backup_core::{Error, ErrorClass, Result};
use bytes::{Bytes, BytesMut};
use std::sync::Arc;

/// Objects up to this size are fetched with the listing; larger ones by `read`, in ranges.
pub(super) const INLINE: u64 = 1 << 20;

/// What becomes of an object that was listed: an entry, and perhaps a warning.
pub(super) type Events = Vec<SourceEvent>;

/// A small object with its content. `permit` is for as many bytes as the listing said.
///
/// Trouble that may pass, and an object that has become another one, are left to [`read`](backup_core::adapter::Source::read) and to
/// whoever repeats it: the entry is then one whose content is to be fetched.
pub(super) async fn inline(getter: &Getter, object: Object, permit: Permit) -> Result<Events> {
    let whole = async {
        let got = getter.get(wanted(&object)).await?;
        let head = Head::of(&got);
        let bytes = content(getter, &object, got).await?;
        let tags = tags(getter, &object).await?;
        Ok::<_, Error>((head, bytes, tags))
    };
    let (Head { mut metadata, mtime, etag, missing }, bytes, (tags, mut events)) = match whole.await {
        Ok(whole) => whole,
        Err(error) => return without_content(&object, error),
    };
    if missing > 0 {
        let text = format!("{missing} items of its user metadata are not in the archive: the service cannot send them");
        events.push(warning(object.name(), text));
    }
    metadata.tags = tags;
    object.add_version(&mut metadata);
    let mut entry = object.entry(metadata, Content::Inline { bytes, permit: Some(Arc::new(permit)) })?;
    if etag != object.etag {
        // It was replaced since it was listed.
        entry.mtime = mtime.or(entry.mtime);
    }
    events.push(boxed(entry));
    Ok(events)
}

/// An object whose content is fetched later.
pub(super) async fn stored(getter: &Getter, object: Object) -> Result<Events> {
    match tags(getter, &object).await {
        Ok((tags, mut events)) => {
            let mut metadata = Metadata { tags, ..Metadata::default() };
            object.add_version(&mut metadata);
            events.push(boxed(object.entry(metadata, object.stored())?));
            Ok(events)
        }
        Err(error) => without_content(&object, error),
    }
}

/// A delete marker: an empty entry.
pub(super) fn delete_marker(object: &Object) -> Result<Events> {
    let mut metadata = Metadata::default();
    object.add_version(&mut metadata);
    let content = Content::Inline { bytes: Bytes::new(), permit: None };
    Ok(vec![boxed(object.entry(metadata, content)?)])
}

pub(super) fn warning(name: EntryName, message: String) -> SourceEvent {
    SourceEvent::Warning(SourceWarning { name: Some(name), message })
}

fn boxed(entry: SourceEntry) -> SourceEvent {
    SourceEvent::Entry(Box::new(entry))
}

fn wanted(object: &Object) -> Wanted<'_> {
    // Without the ETag: what one answer holds is one state of the object, also when it is a newer one than was listed.
    Wanted { key: &object.key, version_id: object.version_id(), range: None, etag: None }
}

/// What becomes of an object that could not be fetched.
fn without_content(object: &Object, error: Error) -> Result<Events> {
    use ErrorClass as C;
    match error.class() {
        C::Transient | C::Throttled { .. } | C::Changed => {
            tracing::debug!(error = error.chain(), "fetching an object is put off");
            let mut metadata = Metadata::default();
            object.add_version(&mut metadata);
            Ok(vec![boxed(object.entry(metadata, object.stored())?)])
        }
        C::NotFound => Ok(vec![warning(object.name(), "skipped: it vanished before it could be read".to_owned())]),
        C::Permanent | C::Unsupported | C::Invalid | C::Corrupt => {
            Ok(vec![warning(object.name(), format!("skipped: it cannot be read: {}", error.chain()))])
        }
        // Not the object's own trouble.
        _ => Err(error),
    }
}

async fn content(
    getter: &Getter,
    object: &Object,
    mut got: aws_sdk_s3::operation::get_object::GetObjectOutput,
) -> Result<Bytes> {
    let key = getter.bucket.key(&object.key);
    let about = About::Read(getter.bucket.bucket(), &key);
    let grown = || Error::changed("it has grown since it was listed").on(about);
    let length = got.content_length().and_then(|length| u64::try_from(length).ok());
    if length.is_some_and(|length| length > object.size) {
        return Err(grown());
    }
    // Of just this size: what comes from the connection may share its memory with other answers.
    let room = usize::try_from(length.unwrap_or(object.size)).unwrap_or_default();
    let mut bytes = BytesMut::with_capacity(room);
    while let Some(piece) = got.body.next().await {
        let piece = piece.map_err(|e| broken_off(e, about))?;
        if (bytes.len() + piece.len()) as u64 > object.size {
            return Err(grown());
        }
        bytes.extend_from_slice(&piece);
    }
    if length.is_some_and(|length| length != bytes.len() as u64) {
        return Err(Error::transient("the content ended early").on(about));
    }
    Ok(bytes.freeze())
}

/// The object's tags; a warning instead when they cannot be read.
async fn tags(getter: &Getter, object: &Object) -> Result<(std::collections::BTreeMap<String, String>, Events)> {
    match getter.tags(&object.key, object.version_id()).await {
        Ok(tags) => Ok((tags, Events::new())),
        Err(error) if is_of_the_object(&error) => {
            let text = format!("kept without its tags, which cannot be read: {}", error.chain());
            Ok((Default::default(), vec![warning(object.name(), text)]))
        }
        Err(error) => Err(error),
    }
}

/// Trouble of one object that repeating does not mend.
pub(super) fn is_of_the_object(error: &Error) -> bool {
    use ErrorClass as C;
    matches!(error.class(), C::NotFound | C::Changed | C::Corrupt | C::Invalid | C::Unsupported | C::Permanent)
}
