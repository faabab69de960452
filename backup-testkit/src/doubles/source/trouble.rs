//! Entries that change, vanish or refuse to be read.

use crate::doubles::Blob;
use backup_core::adapter::{Content, Version};
use backup_core::{Error, ErrorClass, Result};
use bytes::Bytes;
use std::ops::Range;

/// What happens to an entry.
#[derive(Clone, Debug)]
pub enum Trouble {
    /// It gets other content and a new version.
    Change(Blob),
    /// Each read from now on finds another content of the same size, and another version.
    KeepChanging,
    /// It is gone; listings that come later leave it out, and who has it open can go on reading.
    Vanish,
    /// It is listed, but may not be opened.
    Deny,
    /// Each open, and each piece of what is open, fails with this class.
    Fail(ErrorClass),
}

/// When trouble comes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TroubleAt {
    /// At which call of [`Source::read`](backup_core::adapter::Source::read) for the entry; the first is 1. Counted from the planning.
    pub read: u64,
    /// After so many bytes of that call's range, at the end of a piece; 0 is before it is opened.
    pub after: u64,
}

impl TroubleAt {
    /// Before the nth read is opened; the first is 1.
    pub fn read(read: u64) -> Self {
        Self { read, after: 0 }
    }
}

/// How a source tells that an item is another version than the one asked for; the contract allows both.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OnChange {
    /// The read is an error of class `Changed`.
    Error,
    /// The read succeeds and [`Opened::version`](backup_core::adapter::Opened::version) is the new version.
    Report,
}

/// An entry that trouble was made for, as it is now.
#[derive(Debug)]
pub(super) struct Live {
    blob: Blob,
    /// The largest size it ever had, and so may have been listed with.
    largest: u64,
    generation: u64,
    keeps_changing: bool,
    gone: bool,
    denied: bool,
    failing: Option<ErrorClass>,
    reads: u64,
    planned: Vec<(TroubleAt, Trouble)>,
}

impl Live {
    pub(super) fn new(blob: Blob) -> Self {
        Self {
            largest: blob.size(),
            blob,
            generation: 1,
            keeps_changing: false,
            gone: false,
            denied: false,
            failing: None,
            reads: 0,
            planned: Vec::new(),
        }
    }

    pub(super) fn first_version() -> Version {
        version(1)
    }

    pub(super) fn blob(&self) -> Blob {
        self.blob.clone()
    }

    pub(super) fn plan(&mut self, at: TroubleAt, trouble: Trouble) {
        self.planned.push((TroubleAt { read: self.reads + at.read, ..at }, trouble));
    }

    pub(super) fn apply(&mut self, trouble: &Trouble) {
        match trouble {
            Trouble::Change(blob) => {
                self.generation += 1;
                self.largest = self.largest.max(blob.size());
                self.blob = blob.clone();
            }
            Trouble::KeepChanging => self.keeps_changing = true,
            Trouble::Vanish => self.gone = true,
            Trouble::Deny => self.denied = true,
            Trouble::Fail(class) => self.failing = Some(*class),
        }
    }

    fn apply_planned(&mut self, due: impl Fn(&TroubleAt) -> bool) {
        let (now, later) = std::mem::take(&mut self.planned).into_iter().partition(|(at, _)| due(at));
        self.planned = later;
        let now: Vec<(TroubleAt, Trouble)> = now;
        now.iter().for_each(|(_, trouble)| self.apply(trouble));
    }

    /// As a listing shows it.
    pub(super) fn listed(&self) -> Option<Content> {
        (!self.gone).then(|| Content::Stored { size: self.blob.size(), version: Some(version(self.generation)) })
    }

    /// Opens it: its size, its version, and the number of this read.
    pub(super) fn open(
        &mut self,
        range: &Range<u64>,
        asked: Option<&Version>,
        on_change: OnChange,
    ) -> Result<(u64, Version, u64)> {
        self.reads += 1;
        let read = self.reads;
        self.apply_planned(|at| at.read == read && at.after == 0);
        if self.keeps_changing {
            self.apply(&Trouble::Change(Blob::pattern(self.generation, self.blob.size())));
        }
        if self.gone {
            return Err(Error::not_found("the entry vanished"));
        }
        if self.denied {
            return Err(Error::permanent("permission denied"));
        }
        if let Some(class) = self.failing {
            return Err(Error::new(class, "the entry cannot be read"));
        }
        check_range(range, self.largest)?;
        let now = version(self.generation);
        check_version(asked, &now, on_change)?;
        Ok((self.blob.size(), now, read))
    }

    /// A piece of what the nth read opened, of whose range `delivered` bytes were delivered before.
    pub(super) fn piece(&mut self, read: u64, delivered: u64, range: Range<u64>) -> Result<Bytes> {
        self.apply_planned(|at| at.read == read && at.after > 0 && at.after <= delivered);
        match self.failing {
            Some(class) => Err(Error::new(class, "reading the entry broke off")),
            None => Ok(self.blob.slice(range)),
        }
    }
}

fn version(generation: u64) -> Version {
    Version(format!("v{generation}").into())
}

pub(super) fn check_version(asked: Option<&Version>, now: &Version, on_change: OnChange) -> Result<()> {
    match asked {
        Some(asked) if asked != now && on_change == OnChange::Error => {
            Err(Error::changed("the entry is not the version that was listed"))
        }
        _ => Ok(()),
    }
}

/// What every caller owes: a range within a size that was listed.
pub(super) fn check_range(range: &Range<u64>, listed: u64) -> Result<()> {
    if range.start > range.end || range.end > listed {
        let text = format!("bytes {}..{} are not within the listed size {listed}", range.start, range.end);
        return Err(Error::invalid(text));
    }
    Ok(())
}
