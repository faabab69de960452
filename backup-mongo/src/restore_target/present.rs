//! Compares documents with those that a collection holds under the same `_id`.

use super::Shared;
use crate::documents::{Builder, Elements, id_of, is_empty_timestamp};
use crate::driver_error;
use backup_core::Result;
use bytes::Bytes;
use futures::TryStreamExt;
use std::collections::HashMap;

/// Ids that are looked up at once.
const AT_ONCE: usize = 1000;

/// What a collection holds under the `_id` of a document.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Present {
    Missing,
    Same,
    /// The same but for timestamps of zero, in whose place the server has put the time.
    ButEmptyTimestamps,
    Other,
}

impl Shared {
    /// Looks each document up, and answers in their order.
    pub(super) async fn present(&self, database: &str, holder: &str, documents: &[Bytes]) -> Result<Vec<Present>> {
        let mut answers = Vec::with_capacity(documents.len());
        let mut rest = documents;
        while !rest.is_empty() {
            // Together they must fit into a command.
            let mut bytes = 0;
            let count = rest.iter().take(AT_ONCE).take_while(|d| {
                bytes += d.len();
                bytes <= 8 << 20
            });
            let (some, others) = rest.split_at(count.count().max(1));
            rest = others;
            answers.extend(self.present_some(database, holder, some).await?);
        }
        Ok(answers)
    }

    async fn present_some(&self, database: &str, holder: &str, documents: &[Bytes]) -> Result<Vec<Present>> {
        let doing = "comparing documents that are there already";
        let mut builder = Builder::new(documents.len() * 32);
        builder.text("find", holder).open_document("filter").open_document("_id").open_array("$in");
        let mut wanted: HashMap<(u8, Bytes), Vec<usize>> = HashMap::new();
        for (number, document) in documents.iter().enumerate() {
            if let Some(id) = id_of(document)? {
                builder.element(&number.to_string(), id.kind, id.value);
                wanted.entry((id.kind, document.slice_ref(id.value))).or_default().push(number);
            }
        }
        builder.close().close().close();
        builder.number("batchSize", documents.len() as i32 + 1);
        let cursor = self.cluster.database(database).run_raw_cursor_command(builder.finish()?).batch().await;
        let mut batches = cursor.map_err(|e| driver_error(e, doing))?;
        let mut answers = vec![Present::Missing; documents.len()];
        while let Some(batch) = batches.try_next().await.map_err(|e| driver_error(e, doing))? {
            for found in batch.doc_slices().map_err(|e| driver_error(e, doing))?.into_iter().flatten() {
                let Some(found) = found.as_document() else { continue };
                let Some(id) = id_of(found.as_bytes())? else { continue };
                for number in wanted.get(&(id.kind, Bytes::copy_from_slice(id.value))).into_iter().flatten() {
                    if let Some(document) = documents.get(*number) {
                        answers[*number] = compare(document, found.as_bytes());
                    }
                }
            }
        }
        Ok(answers)
    }
}

fn compare(document: &[u8], found: &[u8]) -> Present {
    if document == found {
        return Present::Same;
    }
    let mut ours = Elements::new(document);
    let mut theirs = Elements::new(found);
    loop {
        match (ours.next(), theirs.next()) {
            (None, None) => return Present::ButEmptyTimestamps,
            (Some(Ok(ours)), Some(Ok(theirs))) if ours == theirs => {}
            (Some(Ok(ours)), Some(Ok(theirs)))
                if is_empty_timestamp(&ours) && (ours.kind, ours.name) == (theirs.kind, theirs.name) => {}
            _ => return Present::Other,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use mongodb::bson::{Timestamp, rawdoc};

    #[test]
    fn only_timestamps_of_zero_may_differ() {
        let (zero, now) = (Timestamp { time: 0, increment: 0 }, Timestamp { time: 9, increment: 1 });
        let of =
            |a: mongodb::bson::RawDocumentBuf, b: mongodb::bson::RawDocumentBuf| compare(a.as_bytes(), b.as_bytes());
        assert_eq!(of(rawdoc! { "_id": 1, "t": zero }, rawdoc! { "_id": 1, "t": zero }), Present::Same);
        assert_eq!(of(rawdoc! { "_id": 1, "t": zero }, rawdoc! { "_id": 1, "t": now }), Present::ButEmptyTimestamps);
        assert_eq!(of(rawdoc! { "_id": 1, "t": now }, rawdoc! { "_id": 1, "t": zero }), Present::Other);
        assert_eq!(of(rawdoc! { "_id": 1, "t": zero }, rawdoc! { "_id": 1, "t": now, "u": 1 }), Present::Other);
        assert_eq!(of(rawdoc! { "_id": 1, "t": zero }, rawdoc! { "_id": 1, "u": now }), Present::Other);
    }
}
