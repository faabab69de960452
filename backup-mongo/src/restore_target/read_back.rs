//! Reads a collection of the target and adds its documents up.

use super::Shared;
use crate::documents::Elements;
use crate::{Tally, driver_error};
use backup_core::{Error, Result};
use futures::{StreamExt, TryStreamExt};
use mongodb::bson::rawdoc;
use mongodb::raw_batch_cursor::RawBatch;
use tokio::sync::mpsc;

/// Bytes that are asked for at once.
const BATCH: u64 = 4 << 20;
/// Batches that are added up at once, when the order of documents does not count.
const AT_ONCE: usize = 2;

impl Shared {
    /// The tally of a collection as it is now. `average` is about the length of a document.
    pub(super) async fn tally(&self, database: &str, holder: &str, ordered: bool, average: u64) -> Result<Tally> {
        let doing = "reading back (this needs the right to find, as in the roles read or backup)";
        let count = i32::try_from((BATCH / average.max(1)).clamp(101, 100_000)).unwrap_or(101);
        let command = rawdoc! { "find": holder, "hint": { "$natural": 1 }, "batchSize": count };
        let cursor =
            self.cluster.database(database).run_raw_cursor_command(command).batch_size(count as u32).batch().await;
        let mut batches = cursor.map_err(|e| driver_error(e, doing))?;
        let (sender, mut received) = mpsc::channel::<RawBatch>(1);
        // One batch is read while another one is added up.
        let read = async move {
            while let Some(batch) = batches.try_next().await.map_err(|e| driver_error(e, doing))? {
                if sender.send(batch).await.is_err() {
                    break;
                }
            }
            Ok::<_, Error>(())
        };
        let add = async move {
            let ended = |e| Error::permanent("a thread ended").because(e);
            let mut tally = Tally::new(ordered);
            if ordered {
                while let Some(batch) = received.recv().await {
                    tally = tokio::task::spawn_blocking(move || add(tally, &batch)).await.map_err(ended)??;
                }
                return Ok(tally);
            }
            let batches = futures::stream::poll_fn(move |cx| received.poll_recv(cx));
            let mut parts = batches
                .map(|batch| tokio::task::spawn_blocking(move || add(Tally::unordered(), &batch)))
                .buffer_unordered(AT_ONCE);
            while let Some(part) = parts.next().await {
                tally.join(&part.map_err(ended)??)?;
            }
            Ok(tally)
        };
        // Both end when one fails.
        let ((), tally) = tokio::try_join!(read, add)?;
        Ok(tally)
    }
}

fn add(mut tally: Tally, batch: &RawBatch) -> Result<Tally> {
    let documents = batch.doc_slices().map_err(|e| driver_error(e, "reading back"))?;
    for document in Elements::new(documents.as_bytes()) {
        tally.add(document?.value);
    }
    Ok(tally)
}
