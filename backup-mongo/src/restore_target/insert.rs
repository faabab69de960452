//! Inserts documents as they are, without decoding them.

use super::Shared;
use super::present::Present;
use crate::documents::{Builder, Documents, Elements, id_of, is_empty_timestamp};
use crate::driver_error;
use backup_core::{Digest, Error, ErrorClass, Result};
use bytes::Bytes;
use mongodb::bson::{Bson, Document, doc};
use std::ops::Range;

/// A command ends at so many bytes of documents; more at once is not faster.
const COMMAND_BYTES: usize = 1 << 20;
/// A command ends at so many documents.
const COMMAND_DOCUMENTS: usize = 5000;

mod code {
    pub(super) const DUPLICATE_KEY: i32 = 11000;
    pub(super) const DOCUMENT_VALIDATION_FAILURE: i32 = 121;
    pub(super) const BUCKETS_OF_MIXED_SCHEMA: i32 = 408;
}

/// Where documents go, and how.
#[derive(Clone, Debug)]
pub(super) struct Goal<'a> {
    pub(super) database: &'a str,
    /// The collection that holds the documents.
    pub(super) holder: &'a str,
    /// The time-series, if `holder` has its buckets.
    pub(super) time_series: Option<&'a str>,
    /// One after the other.
    pub(super) ordered: bool,
    pub(super) on_other: OnOther,
}

/// What to do where another document has the same `_id`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum OnOther {
    /// It stays, and is an error.
    Fail,
    /// It stays; the oplog makes it right.
    Keep,
    Replace,
}

/// What became of documents.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Inserted {
    pub(super) made: u64,
    pub(super) there: u64,
    pub(super) replaced: u64,
}

/// The documents of one command.
#[derive(Debug, Default)]
pub(super) struct Part {
    pub(super) documents: Vec<Bytes>,
    /// Which of them have timestamps that the server would replace.
    pub(super) empty_timestamps: Vec<usize>,
    bytes: usize,
}

/// Splits a slice into commands. A document without `_id` gets one that is always the same for `seed` and its position, so that
/// it is known again when it is inserted twice. CPU work.
pub(super) fn split(content: &Bytes, seed: &str, keeps_empty_timestamps: bool) -> Result<Vec<Part>> {
    let mut parts = Vec::new();
    let mut part = Part::default();
    for (number, document) in Documents::new(content).enumerate() {
        let document = document?;
        let mut has_id = false;
        let mut has_empty = false;
        for element in Elements::new(document) {
            let element = element?;
            has_id |= element.name == b"_id";
            has_empty |= is_empty_timestamp(&element);
            if has_id && keeps_empty_timestamps {
                break;
            }
        }
        let document = if has_id { content.slice_ref(document) } else { with_id(document, seed, number)? };
        if !part.documents.is_empty()
            && (part.bytes + document.len() > COMMAND_BYTES || part.documents.len() == COMMAND_DOCUMENTS)
        {
            parts.push(std::mem::take(&mut part));
        }
        if has_empty && !keeps_empty_timestamps {
            part.empty_timestamps.push(part.documents.len());
        }
        part.bytes += document.len();
        part.documents.push(document);
    }
    if !part.documents.is_empty() {
        parts.push(part);
    }
    Ok(parts)
}

fn with_id(document: &[u8], seed: &str, number: usize) -> Result<Bytes> {
    let digest = Digest::of(format!("{seed}/{number}").as_bytes());
    let mut builder = Builder::new(document.len() + 20);
    builder.element("_id", 0x07, &digest.0[..12]);
    let mut bytes = builder.finish()?.into_bytes();
    // All but the last NUL of the one, then the elements of the other.
    bytes.pop();
    bytes.extend_from_slice(document.get(4..).unwrap_or_default());
    let length = i32::try_from(bytes.len()).map_err(|e| Error::corrupt("the document is too long").because(e))?;
    bytes[..4].copy_from_slice(&length.to_le_bytes());
    Ok(bytes.into())
}

/// What a server says of single documents.
#[derive(Debug, Default)]
struct Failures {
    /// Those that were not inserted, with what is wrong with each; without an error another one with its `_id` is there.
    refused: Vec<(usize, Option<Error>)>,
    mixed_schema: bool,
}

impl Shared {
    /// Inserts the documents of a slice. Repeating it is harmless.
    pub(super) async fn insert(&self, goal: &Goal<'_>, content: Bytes, seed: &str) -> Result<Inserted> {
        let keeps = self.server().await?.keeps_empty_timestamps;
        let seed = seed.to_owned();
        let parts = tokio::task::spawn_blocking(move || split(&content, &seed, keeps)).await;
        let parts = parts.map_err(|e| Error::permanent("a thread ended").because(e))??;
        let mut inserted = Inserted::default();
        for part in parts {
            self.insert_part(goal, &part, keeps, &mut inserted).await?;
        }
        Ok(inserted)
    }

    async fn insert_part(&self, goal: &Goal<'_>, part: &Part, keeps: bool, inserted: &mut Inserted) -> Result<()> {
        let count = part.documents.len();
        let mut failures = self.insert_range(goal, part, 0..count, keeps).await?;
        if let (true, Some(time_series)) = (failures.mixed_schema, goal.time_series) {
            let command = doc! { "collMod": time_series, "timeseriesBucketsMayHaveMixedSchemaData": true };
            self.command(goal.database, command, "allowing buckets of mixed schema").await?;
            // What was inserted the first time is found again.
            failures = self.insert_range(goal, part, 0..count, keeps).await?;
        }
        if goal.ordered
            && let Some((at, error)) = failures.refused.pop()
        {
            // Nothing behind it was tried. Whatever is there already is of an earlier call whose answer was lost.
            return Err(error.unwrap_or_else(|| other_document(part.documents.get(at).map_or(&[], |d| &**d))));
        }
        let refused: Vec<usize> = failures.refused.iter().map(|(at, _)| *at).collect();
        inserted.made += (count - refused.len()) as u64;
        for at in part.empty_timestamps.iter().filter(|at| !refused.contains(at)) {
            if let Some(document) = part.documents.get(*at) {
                self.replace(goal, document).await?;
            }
        }
        self.meet(goal, part, failures, inserted).await
    }

    /// Deals with documents that were refused: they may be there already.
    async fn meet(&self, goal: &Goal<'_>, part: &Part, failures: Failures, inserted: &mut Inserted) -> Result<()> {
        if failures.refused.is_empty() {
            return Ok(());
        }
        let documents: Vec<Bytes> =
            failures.refused.iter().filter_map(|(at, _)| part.documents.get(*at).cloned()).collect();
        // Also those with another error: a server that cannot tell the key of a duplicate may say something else.
        let present = self.present(goal.database, goal.holder, &documents).await?;
        let (mut first, mut count) = (None, 0);
        for ((document, present), (_, error)) in documents.iter().zip(present).zip(failures.refused) {
            match (present, goal.on_other) {
                (Present::Same, _) => inserted.there += 1,
                (Present::ButEmptyTimestamps, _) => {
                    self.replace(goal, document).await?;
                    inserted.there += 1;
                }
                (Present::Other, OnOther::Replace) => {
                    self.replace(goal, document).await?;
                    inserted.replaced += 1;
                }
                // Another one that is equal under the rules of comparison.
                (Present::Other | Present::Missing, OnOther::Keep) if error.is_none() => inserted.there += 1,
                (Present::Other, OnOther::Keep) => inserted.there += 1,
                (Present::Other | Present::Missing, _) => {
                    count += 1;
                    first.get_or_insert_with(|| error.unwrap_or_else(|| other_document(document)));
                }
            }
        }
        match first {
            Some(first) if count > 1 => {
                Err(first.context(format!("{count} of its documents are not restored, the first one because")))
            }
            Some(first) => Err(first.context("one of its documents is not restored")),
            None => Ok(()),
        }
    }

    async fn insert_range(&self, goal: &Goal<'_>, part: &Part, range: Range<usize>, keeps: bool) -> Result<Failures> {
        let documents = part.documents.get(range.clone()).unwrap_or_default();
        let mut builder = Builder::new(part.bytes + documents.len() * 8 + 256);
        builder.text("insert", goal.holder).boolean("ordered", goal.ordered);
        if goal.time_series.is_none() {
            // What the source held is restored, whatever its validator says of it now.
            builder.boolean("bypassDocumentValidation", true);
        }
        if keeps {
            builder.boolean("bypassEmptyTsReplacement", true);
        }
        builder.open_document("writeConcern").text("w", "majority").close().open_array("documents");
        for (number, document) in documents.iter().enumerate() {
            builder.document(&number.to_string(), document);
        }
        let command = builder.finish()?;
        let doing = "inserting documents";
        let answer = self.cluster.database(goal.database).run_raw_command(command).await;
        let answer = answer.map_err(|e| driver_error(e, doing))?;
        let failures = failures(&answer, range.start)?;
        super::check_concern(&answer, doing)?;
        let done = answer.get_i32("n").ok().and_then(|n| usize::try_from(n).ok()).unwrap_or_default();
        let named = failures.refused.len();
        if !goal.ordered && done + named != documents.len() && !failures.mixed_schema {
            let text =
                format!("the server has inserted {done} of {} documents, and names {named} errors", documents.len());
            return Err(Error::permanent(text));
        }
        Ok(failures)
    }

    /// Puts a document in the place of one with the same `_id`, timestamps of zero as they are.
    async fn replace(&self, goal: &Goal<'_>, document: &Bytes) -> Result<()> {
        let id = id_of(document)?.ok_or_else(|| Error::corrupt("a document without _id"))?;
        let mut builder = Builder::new(document.len() * 2 + 256);
        builder.text("update", goal.holder);
        if goal.time_series.is_none() {
            builder.boolean("bypassDocumentValidation", true);
        }
        builder.open_document("writeConcern").text("w", "majority").close();
        builder.open_array("updates").open_document("0");
        builder.open_document("q").open_document("_id").element("$eq", id.kind, id.value).close().close();
        builder.open_array("u").open_document("0").open_document("$replaceRoot").open_document("newRoot");
        builder.document("$literal", document);
        let command = builder.finish()?;
        let doing = "putting documents right that the server changes on insertion (this needs the right to update)";
        let answer = self.cluster.database(goal.database).run_raw_command(command).await;
        let answer = answer.map_err(|e| driver_error(e, doing))?;
        if let Some((_, error)) = failures(&answer, 0)?.refused.pop() {
            return Err(error.unwrap_or_else(|| other_document(document)));
        }
        super::check_concern(&answer, doing)
    }
}

fn other_document(document: &[u8]) -> Error {
    Error::conflict(format!("another document with the same _id is there: {}", id_text(document)))
}

/// The `_id` of a document for people.
pub(super) fn id_text(document: &[u8]) -> String {
    let text = || {
        let id = id_of(document).ok()??;
        let mut builder = Builder::new(id.value.len());
        builder.element("_id", id.kind, id.value);
        crate::canonical_json(&builder.finish().ok()?).ok()
    };
    let text = text().unwrap_or_else(|| "{…}".into());
    if text.chars().count() > 200 { text.chars().take(200).chain(['…']).collect() } else { text }
}

fn failures(answer: &Document, offset: usize) -> Result<Failures> {
    let mut failures = Failures::default();
    let Ok(errors) = answer.get_array("writeErrors") else { return Ok(failures) };
    for error in errors.iter().filter_map(Bson::as_document) {
        let index = error.get_i32("index").ok().and_then(|n| usize::try_from(n).ok()).unwrap_or_default() + offset;
        let text = error.get_str("errmsg").unwrap_or("no reason is given").to_owned();
        let class = match error.get_i32("code").unwrap_or_default() {
            code::DUPLICATE_KEY => {
                failures.refused.push((index, None));
                continue;
            }
            code::BUCKETS_OF_MIXED_SCHEMA => {
                failures.mixed_schema = true;
                ErrorClass::Invalid
            }
            code::DOCUMENT_VALIDATION_FAILURE => ErrorClass::Invalid,
            code => crate::error::class_of_code(code),
        };
        let error = Error::new(class, text);
        if super::is_fatal(&error) {
            return Err(error.context("inserting documents"));
        }
        failures.refused.push((index, Some(error)));
    }
    Ok(failures)
}

#[cfg(test)]
mod tests {
    use super::*;
    use mongodb::bson::{RawDocumentBuf, Timestamp, rawdoc};

    fn joined(documents: &[RawDocumentBuf]) -> Bytes {
        documents.iter().flat_map(|d| d.as_bytes().to_vec()).collect::<Vec<_>>().into()
    }

    #[test]
    fn slices_become_commands_of_whole_documents() {
        let documents: Vec<_> = (0..3000).map(|n| rawdoc! { "_id": n, "pad": "x".repeat(1000) }).collect();
        let all = joined(&documents);
        let parts = split(&all, "s", false).unwrap();
        assert!(parts.len() == 3 && parts.iter().all(|part| part.bytes <= COMMAND_BYTES));
        let again: Vec<u8> = parts.iter().flat_map(|part| part.documents.iter().flatten().copied()).collect();
        assert_eq!(again, all);
        let tiny = joined(&(0..COMMAND_DOCUMENTS as i32 + 1).map(|n| rawdoc! { "_id": n }).collect::<Vec<_>>());
        assert_eq!(
            split(&tiny, "s", true).unwrap().iter().map(|p| p.documents.len()).collect::<Vec<_>>(),
            [COMMAND_DOCUMENTS, 1]
        );
        assert!(split(&all.slice(..all.len() - 1), "s", true).is_err());
    }

    #[test]
    fn documents_without_an_id_get_one_that_is_always_the_same() {
        let all = joined(&[rawdoc! { "a": 1 }, rawdoc! { "a": 1 }, rawdoc! { "x": 1, "_id": 5 }]);
        let ids = |seed: &str| -> Vec<Vec<u8>> {
            let parts = split(&all, seed, true).unwrap();
            parts[0].documents.iter().map(|d| id_of(d).unwrap().unwrap().value.to_vec()).collect()
        };
        let first = ids("slice");
        assert!(first == ids("slice") && first[0] != first[1] && first[0] != ids("other")[0]);
        assert_eq!(first[2], 5_i32.to_le_bytes());
        let with = split(&all, "slice", true).unwrap().remove(0).documents.remove(0);
        let read = RawDocumentBuf::from_bytes(with.to_vec()).unwrap();
        assert_eq!(read.get_i32("a").unwrap(), 1);
    }

    #[test]
    fn timestamps_of_zero_are_found_where_the_server_would_replace_them() {
        let zero = Timestamp { time: 0, increment: 0 };
        let all = joined(&[
            rawdoc! { "_id": 1, "t": zero },
            rawdoc! { "_id": zero },
            rawdoc! { "_id": 2, "inner": { "t": zero } },
            rawdoc! { "t": zero, "_id": 3 },
        ]);
        assert_eq!(split(&all, "s", false).unwrap()[0].empty_timestamps, [0, 3]);
        assert!(split(&all, "s", true).unwrap()[0].empty_timestamps.is_empty());
    }
}
