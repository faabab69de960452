//! What a source in memory consists of.

use super::position::Position;
use crate::doubles::Blob;
use backup_core::adapter::{Estimate, SourceWarning};
use backup_core::model::{EntryKind, EntryName, GroupName, Metadata, Timestamp};

/// An entry as it is built.
#[derive(Clone, Debug)]
pub struct MemoryEntry {
    /// Its name, unique in its source.
    pub name: EntryName,
    /// What it is.
    pub kind: EntryKind,
    /// Last modification.
    pub mtime: Option<Timestamp>,
    /// The group that it belongs to.
    pub group: Option<GroupName>,
    /// Metadata, both listed and learnt by opening.
    pub metadata: Metadata,
    /// The content.
    pub content: MemoryContent,
    /// It says that its inline content changed while it was read.
    pub inconsistent: bool,
}

impl MemoryEntry {
    /// An entry without metadata, last modified in 2026.
    pub fn new(name: &str, kind: EntryKind, content: MemoryContent) -> Self {
        Self {
            name: name.into(),
            kind,
            mtime: Some(Timestamp { seconds: 1_767_225_600, nanos: 123_456_789 }),
            group: None,
            metadata: Metadata::default(),
            content,
            inconsistent: false,
        }
    }
}

/// Content as it is built.
#[derive(Clone, Debug)]
pub enum MemoryContent {
    /// None, as of a directory.
    None,
    /// Delivered with the entry; at most [`MAX_INLINE`](backup_core::adapter::MAX_INLINE) bytes.
    Inline(Blob),
    /// Fetched by [`Source::read`](backup_core::adapter::Source::read).
    Stored(Blob),
}

/// What a group does when a run is resumed inside it.
#[derive(Clone, Debug)]
pub enum OnResume {
    /// Goes on with the next slice.
    Continue,
    /// Is superseded and comes again from its first slice.
    Supersede,
    /// Is superseded and comes again with these slices, as a database that went on meanwhile.
    SupersedeWith(Vec<Blob>),
}

/// Entries that are made while they are delivered: `d0000000/f000000000042`, a thousand in a directory.
#[derive(Clone, Copy, Debug)]
pub struct Synthetic {
    /// How many.
    pub entries: u64,
    /// Length of each, in bytes.
    pub size: u64,
    /// Whether the content is delivered with the entry or fetched by [`Source::read`](backup_core::adapter::Source::read).
    pub inline: bool,
}

impl Synthetic {
    /// The entry at a position, below [`Synthetic::entries`].
    pub fn make(&self, index: u64) -> MemoryEntry {
        let blob = Blob::pattern(index, self.size);
        let content = if self.inline { MemoryContent::Inline(blob) } else { MemoryContent::Stored(blob) };
        MemoryEntry::new(&format!("d{:07}/f{index:012}", index / 1000), EntryKind::File, content)
    }

    pub(super) fn find(&self, name: &EntryName) -> Option<MemoryEntry> {
        let index = name.as_str()?.rsplit_once('f')?.1.parse().ok().filter(|index| *index < self.entries)?;
        Some(self.make(index)).filter(|entry| entry.name == *name)
    }
}

#[derive(Debug)]
pub(super) enum Items {
    Listed(Vec<Item>),
    Synthetic(Synthetic),
}

#[derive(Debug)]
pub(super) enum Item {
    Entry(Box<MemoryEntry>),
    Group { name: GroupName, slices: Vec<Blob>, on_resume: OnResume },
    Warning(SourceWarning),
}

pub(super) enum Event {
    Entry(Box<MemoryEntry>),
    Warning(SourceWarning),
    /// A group without slices.
    Nothing,
}

impl Items {
    /// What stands at a position, and the position behind it; `None` at the end.
    pub(super) fn at(&self, at: Position) -> Option<(Event, Position)> {
        let behind = Position { item: at.item + 1, slice: 0, run: 0 };
        let items = match self {
            Self::Synthetic(synthetic) if at.item < synthetic.entries => {
                return Some((Event::Entry(Box::new(synthetic.make(at.item))), behind));
            }
            Self::Synthetic(_) => return None,
            Self::Listed(items) => items,
        };
        Some(match items.get(usize::try_from(at.item).ok()?)? {
            Item::Entry(entry) => (Event::Entry(entry.clone()), behind),
            Item::Warning(warning) => (Event::Warning(warning.clone()), behind),
            Item::Group { name, slices, on_resume } => {
                let slices = match on_resume {
                    OnResume::SupersedeWith(slices) if at.run > 0 => slices,
                    _ => slices,
                };
                let Some(slice) = slices.get(usize::try_from(at.slice).ok()?) else {
                    return Some((Event::Nothing, behind));
                };
                let next = Position { slice: at.slice + 1, ..at };
                let is_last = next.slice >= slices.len() as u64;
                (Event::Entry(Box::new(slice_entry(name, at.slice, slice))), if is_last { behind } else { next })
            }
        })
    }

    /// When a resume at this position voids a group: moves to the group's start and names it.
    pub(super) fn superseded_at(&self, at: &mut Position) -> Option<GroupName> {
        let Self::Listed(items) = self else { return None };
        match items.get(usize::try_from(at.item).ok()?)? {
            Item::Group { name, on_resume: OnResume::Supersede | OnResume::SupersedeWith(_), .. } if at.slice > 0 => {
                *at = Position { item: at.item, slice: 0, run: at.run + 1 };
                Some(name.clone())
            }
            _ => None,
        }
    }

    /// Whether a position can be one of these items.
    pub(super) fn covers(&self, at: Position) -> bool {
        match self {
            Self::Synthetic(synthetic) => at.item <= synthetic.entries && at.slice == 0,
            Self::Listed(items) => at.item <= items.len() as u64 && (at.slice == 0 || self.at(at).is_some()),
        }
    }

    pub(super) fn estimate(&self) -> Estimate {
        let size = |content: &MemoryContent| match content {
            MemoryContent::None => 0,
            MemoryContent::Inline(blob) | MemoryContent::Stored(blob) => blob.size(),
        };
        let (entries, bytes) = match self {
            Self::Synthetic(synthetic) => (synthetic.entries, synthetic.entries * synthetic.size),
            Self::Listed(items) => items.iter().fold((0, 0), |(entries, bytes), item| match item {
                Item::Entry(entry) => (entries + 1, bytes + size(&entry.content)),
                Item::Group { slices, .. } => {
                    (entries + slices.len() as u64, bytes + slices.iter().map(Blob::size).sum::<u64>())
                }
                Item::Warning(_) => (entries, bytes),
            }),
        };
        Estimate { entries: Some(entries), bytes: Some(bytes) }
    }
}

fn slice_entry(group: &GroupName, number: u64, content: &Blob) -> MemoryEntry {
    let name = format!("{}/{number:06}.bin", group.0.replace('.', "/"));
    let content = MemoryContent::Inline(content.clone());
    MemoryEntry { group: Some(group.clone()), ..MemoryEntry::new(&name, EntryKind::Slice, content) }
}
