//! Which entries are restored, and which chunks hold them.

use crate::archive::{PieceRecord, VolumeRecord};
use crate::engine::archive::Archive;
use crate::engine::fetch::{Chunk, chunks_of};
use crate::engine::index_reader::Piece;
use crate::engine::selection::Chosen;
use crate::limit::RateLimit;
use crate::model::{Entry, EntryKind, EntryName};
use crate::{Error, Result};
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
    /// Goes on where the archive is damaged, and tells here what cannot be read.
    pub(in crate::engine) losses: Option<Arc<dyn Losses>>,
}

/// Hears of index pieces that are damaged; nobody knows the names of their entries.
pub(in crate::engine) trait Losses: std::fmt::Debug + Send + Sync {
    /// May be called several times for one piece.
    fn lost_piece(&self, number: usize, record: &PieceRecord, error: &Error);
}

/// An entry that is to be restored.
#[derive(Clone, Debug)]
pub(super) struct Planned {
    pub(super) entry: Entry,
    /// Its content does not lie where its ordinal says, so it is read by itself.
    pub(super) apart: bool,
    /// Nobody knows any more in which volume its content is.
    pub(super) lost: bool,
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

    /// What was read of a piece, or nothing where that is damaged and the plan goes on without it.
    async fn intact<T>(&self, number: usize, read: Result<T>) -> Result<Option<T>> {
        match (read, &self.losses) {
            (Ok(read), _) => Ok(Some(read)),
            (Err(e), Some(losses)) if self.archive.is_damaged_by(&e).await => {
                if let Some(record) = self.archive.manifest().pieces.get(number) {
                    losses.lost_piece(number, record, &e);
                }
                Ok(None)
            }
            (Err(e), _) => Err(e),
        }
    }

    /// The chosen entries from an ordinal on, in the archive's order.
    pub(in crate::engine) fn from(self, ordinal: u64) -> BoxStream<'static, Result<Entry>> {
        let pieces = self.pieces_from(ordinal);
        Box::pin(async_stream::try_stream! {
            for number in pieces {
                let Some(piece) = self.intact(number, self.piece(number).await).await? else { continue };
                for entry in piece.entries {
                    if entry.ordinal >= ordinal && self.wants(&entry) {
                        yield entry;
                    }
                }
            }
        })
    }

    /// The archive's entry of a name; none where the index that would have it is damaged and the plan goes on without.
    pub(super) async fn find(&self, name: &EntryName) -> Result<Option<Entry>> {
        match self.archive.entry_named(name).await {
            Err(e) if self.losses.is_some() && self.archive.is_damaged_by(&e).await => Ok(None),
            found => found,
        }
    }

    /// The chosen entries of a piece from an ordinal on; none of one that is damaged, where the plan goes on without it. A hard
    /// link whose first name is not chosen, so that there will be nothing to link to, becomes what that name stands for.
    async fn planned(&self, number: usize, ordinal: u64) -> Result<Vec<Planned>> {
        let Some(piece) = self.intact(number, self.piece(number).await).await? else { return Ok(Vec::new()) };
        let mut chosen: Vec<Planned> = piece
            .entries
            .into_iter()
            .filter(|entry| entry.ordinal >= ordinal && self.wants(entry))
            .map(|entry| Planned { entry, apart: false, lost: false })
            .collect();
        let lonely = |entry: &Entry| match &entry.kind {
            EntryKind::HardLink { target } if !self.chosen.contains_name(target) => Some(target.clone()),
            _ => None,
        };
        let targets: HashSet<EntryName> = chosen.iter().filter_map(|planned| lonely(&planned.entry)).collect();
        let found = self.first_names(targets, number).await?;
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
    async fn first_names(&self, mut names: HashSet<EntryName>, last: usize) -> Result<HashMap<EntryName, Entry>> {
        let mut found = HashMap::new();
        for (number, record) in self.archive.manifest().pieces.iter().enumerate().take(last + 1).rev() {
            if !names.iter().any(|name| record.may_hold(name)) {
                continue;
            }
            let there = match self.archive.names_kept(number) {
                Some(there) => there,
                None => {
                    self.limit.take(record.size).await;
                    let Some(there) = self.intact(number, self.archive.names_in(number).await).await? else { continue };
                    there
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
                let mut chosen = self.planned(number, ordinal).await?;
                let content = |planned: &Planned| {
                    let entry = &planned.entry;
                    let is_read = !planned.apart && entry.size > 0 && reads(entry);
                    is_read.then(|| entry.offset..entry.offset + entry.size)
                };
                let wanted: Vec<Range<u64>> = chosen.iter().filter_map(content).collect();
                let mut volumes = Vec::new();
                if let (Some(first), Some(last)) = (wanted.first(), wanted.last()) {
                    let raw = first.start..last.end;
                    if self.losses.is_some() {
                        volumes = self.archive.intact_volumes_in(&raw).await?;
                        for planned in &mut chosen {
                            planned.lost = content(planned).is_some_and(|content| !covers(&volumes, &content));
                        }
                    } else {
                        volumes = self.archive.volumes_in(&raw).await?;
                    }
                }
                if entries.send(chosen).await.is_err() {
                    return;
                }
                for volume in volumes {
                    for chunk in chunks_of(&Arc::new(volume), &wanted) {
                        yield chunk;
                    }
                }
            }
        })
    }
}

/// Whether volumes, in order, hold a part of the raw stream without a gap.
fn covers(volumes: &[VolumeRecord], content: &Range<u64>) -> bool {
    let first = volumes.partition_point(|volume| volume.raw_range().end <= content.start);
    let mut covered = content.start;
    for range in volumes.iter().skip(first).map(VolumeRecord::raw_range) {
        if covered >= content.end || range.start > covered {
            break;
        }
        covered = range.end;
    }
    covered >= content.end
}
