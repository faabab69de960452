//! Which entries are restored, and which chunks hold them.

use crate::Result;
use crate::archive::PieceRecord;
use crate::engine::archive::Archive;
use crate::engine::fetch::{Chunk, chunks_of};
use crate::engine::index_reader::Piece;
use crate::engine::selection::Chosen;
use crate::limit::RateLimit;
use crate::model::{Entry, EntryKind, EntryName};

use futures::stream::BoxStream;
use std::collections::{HashMap, HashSet};
use std::ops::Range;
use std::sync::Arc;
use tokio::sync::mpsc;

/// The chosen entries of an archive.
#[derive(Clone, Debug)]
pub(in crate::engine) struct Plan {
    pub(in crate::engine) archive: Archive,
    pub(in crate::engine) chosen: Arc<Chosen>,
    /// For index pieces.
    pub(in crate::engine) limit: RateLimit,
}

/// An entry that is to be restored.
#[derive(Clone, Debug)]
pub(super) struct Planned {
    pub(super) entry: Entry,
    /// Its content does not lie where its ordinal says, so it is read by itself.
    pub(super) apart: bool,
}

impl Plan {
    /// Whether an entry is restored.
    fn wants(&self, entry: &Entry) -> bool {
        !entry.superseded && self.chosen.contains(entry) && !self.archive.manifest().voids(entry)
    }

    /// Pieces that can hold chosen entries from an ordinal on.
    fn pieces_from(&self, ordinal: u64) -> Vec<usize> {
        let pieces = &self.archive.manifest().pieces;
        let may_hold = |piece: &PieceRecord| {
            self.chosen.exact_names().is_none_or(|names| names.iter().any(|name| piece.may_hold(name)))
        };
        (0..pieces.len())
            .filter(|n| pieces[*n].first_entry + pieces[*n].entries > ordinal && may_hold(&pieces[*n]))
            .collect()
    }

    async fn piece(&self, number: usize) -> Result<Piece> {
        if let Some(record) = self.archive.manifest().pieces.get(number) {
            self.limit.take(record.size).await;
        }
        self.archive.piece(number).await
    }

    /// The chosen entries from an ordinal on, in the archive's order.
    pub(in crate::engine) fn from(self, ordinal: u64) -> BoxStream<'static, Result<Entry>> {
        let pieces = self.pieces_from(ordinal);
        Box::pin(async_stream::try_stream! {
            for number in pieces {
                let piece = self.piece(number).await?;
                for entry in piece.entries {
                    if entry.ordinal >= ordinal && self.wants(&entry) {
                        yield entry;
                    }
                }
            }
        })
    }

    /// The chosen entries of a piece from an ordinal on. A hard link whose first name is not chosen, so that there will be
    /// nothing to link to, becomes what that name stands for.
    async fn planned(&self, number: usize, ordinal: u64) -> Result<Vec<Planned>> {
        let piece = self.piece(number).await?;
        let mut chosen: Vec<Planned> = piece
            .entries
            .into_iter()
            .filter(|entry| entry.ordinal >= ordinal && self.wants(entry))
            .map(|entry| Planned { entry, apart: false })
            .collect();
        let lonely = |entry: &Entry| match &entry.kind {
            EntryKind::HardLink { target } if !self.chosen.contains_name(target) => Some(target.clone()),
            _ => None,
        };
        let targets: HashSet<EntryName> = chosen.iter().filter_map(|planned| lonely(&planned.entry)).collect();
        let found = self.find(targets, number).await?;
        for planned in &mut chosen {
            if let Some(first) = lonely(&planned.entry).and_then(|target| found.get(&target)) {
                let (name, ordinal) = (planned.entry.name.clone(), planned.entry.ordinal);
                planned.entry = Entry { name, ordinal, ..first.clone() };
                planned.apart = true;
            }
        }
        Ok(chosen)
    }

    /// Looks files and symbolic links up by their names, in the pieces up to this one: links come behind what they lead to, mostly
    /// not far behind.
    async fn find(&self, mut names: HashSet<EntryName>, last: usize) -> Result<HashMap<EntryName, Entry>> {
        let mut found = HashMap::new();
        for (number, record) in self.archive.manifest().pieces.iter().enumerate().take(last + 1).rev() {
            if !names.iter().any(|name| record.may_hold(name)) {
                continue;
            }
            let there = match self.archive.names_kept(number) {
                Some(there) => there,
                None => {
                    self.limit.take(record.size).await;
                    self.archive.names_in(number).await?
                }
            };
            names.retain(|name| match there.get(name) {
                Some(entry) if matches!(entry.kind, EntryKind::File | EntryKind::Symlink { .. }) => {
                    found.insert(name.clone(), entry.clone());
                    false
                }
                _ => true,
            });
        }
        Ok(found)
    }

    /// The entries as they are restored, from the start.
    pub(super) fn restored(self) -> BoxStream<'static, Result<Entry>> {
        let pieces = self.pieces_from(0);
        Box::pin(async_stream::try_stream! {
            for number in pieces {
                for planned in self.planned(number, 0).await? {
                    yield planned.entry;
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
        entries: mpsc::Sender<Vec<Planned>>,
    ) -> BoxStream<'static, Result<Chunk>> {
        let pieces = self.pieces_from(ordinal);
        Box::pin(async_stream::try_stream! {
            for number in pieces {
                let chosen = self.planned(number, ordinal).await?;
                let wanted: Vec<Range<u64>> = chosen
                    .iter()
                    .filter(|planned| !planned.apart)
                    .map(|planned| &planned.entry)
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
