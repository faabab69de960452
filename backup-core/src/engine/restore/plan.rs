//! Which entries are restored, and which chunks hold them.

use crate::Result;
use crate::adapter::PlanEntries;
use crate::engine::archive::Archive;
use crate::engine::fetch::{Chunk, chunks_of};
use crate::engine::selection::Chosen;
use crate::model::{Entry, EntryName};
use async_trait::async_trait;

use futures::stream::BoxStream;
use std::ops::Range;
use std::sync::Arc;
use tokio::sync::mpsc;

/// The chosen entries of an archive.
#[derive(Clone, Debug)]
pub(in crate::engine) struct Plan {
    pub(in crate::engine) archive: Archive,
    pub(in crate::engine) chosen: Arc<Chosen>,
}

#[async_trait]
impl PlanEntries for Plan {
    fn entries(&self) -> BoxStream<'static, Result<Entry>> {
        self.clone().from(0)
    }

    async fn find(&self, name: &EntryName) -> Result<Option<Entry>> {
        self.archive.entry_named(name).await
    }
}

impl Plan {
    /// Whether an entry is restored.
    fn wants(&self, entry: &Entry) -> bool {
        !entry.superseded && self.chosen.contains(entry) && !self.archive.manifest().voids(entry)
    }

    /// Pieces that can hold chosen entries from an ordinal on.
    fn pieces_from(&self, ordinal: u64) -> Vec<usize> {
        let pieces = &self.archive.manifest().pieces;
        let may_hold = |piece: &crate::archive::PieceRecord| {
            let Some(names) = self.chosen.exact_names() else { return true };
            match (&piece.first_name, &piece.last_name) {
                (Some(first), Some(last)) => names.iter().any(|name| name >= first && name <= last),
                _ => false,
            }
        };
        (0..pieces.len())
            .filter(|n| pieces[*n].first_entry + pieces[*n].entries > ordinal && may_hold(&pieces[*n]))
            .collect()
    }

    /// The chosen entries from an ordinal on, in the archive's order.
    pub(in crate::engine) fn from(self, ordinal: u64) -> BoxStream<'static, Result<Entry>> {
        let pieces = self.pieces_from(ordinal);
        Box::pin(async_stream::try_stream! {
            for number in pieces {
                let piece = self.archive.piece(number).await?;
                for entry in piece.entries {
                    if entry.ordinal >= ordinal && self.wants(&entry) {
                        yield entry;
                    }
                }
            }
        })
    }

    /// Plans the reading: entries go to `entries`, and the chunks that hold the contents of those that `reads` picks come out as
    /// a stream, both in order. The entries of a chunk have always been sent when it comes out. A chunk that holds the end of
    /// one index piece's entries and the start of the next one's comes out twice.
    pub(super) fn chunks(
        self,
        ordinal: u64,
        reads: impl Fn(&Entry) -> bool + Send + Sync + 'static,
        entries: mpsc::Sender<Vec<Entry>>,
    ) -> BoxStream<'static, Result<Chunk>> {
        let pieces = self.pieces_from(ordinal);
        Box::pin(async_stream::try_stream! {
            for number in pieces {
                let piece = self.archive.piece(number).await?;
                let chosen: Vec<Entry> =
                    piece.entries.into_iter().filter(|e| e.ordinal >= ordinal && self.wants(e)).collect();
                let wanted: Vec<Range<u64>> = chosen
                    .iter()
                    .filter(|entry| entry.size > 0 && reads(entry))
                    .map(|entry| entry.offset..entry.offset + entry.size)
                    .collect();
                if entries.send(chosen).await.is_err() {
                    return;
                }
                let (Some(first), Some(last)) = (wanted.first(), wanted.last()) else { continue };
                for volume in self.archive.volumes_in(&(first.start..last.end)).await? {
                    for chunk in chunks_of(&Arc::new(volume), &wanted) {
                        yield chunk;
                    }
                }
            }
        })
    }
}
