//! The cursor of a source in memory: `mem1 IDENTITY ITEM SLICE RUN`.

use super::items::Items;
use backup_core::adapter::Cursor;
use backup_core::model::Identity;
use backup_core::{Digest, Error, Result};

/// What comes next.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Position {
    /// Which item.
    pub(super) item: u64,
    /// Which slice of it, if it is a group.
    pub(super) slice: u64,
    /// How often the group was superseded before.
    pub(super) run: u64,
}

impl Position {
    pub(super) fn cursor(self, source: &Identity) -> Cursor {
        let Self { item, slice, run } = self;
        Cursor(format!("mem1 {} {item} {slice} {run}", tag(source)).into())
    }

    /// # Errors
    /// `Invalid` when the source did not make the cursor.
    pub(super) fn parse(cursor: &Cursor, source: &Identity, items: &Items) -> Result<Self> {
        let parse = || {
            let text = std::str::from_utf8(&cursor.0).ok()?;
            let mut words = text.split(' ');
            if words.next() != Some("mem1") || words.next() != Some(&tag(source)) {
                return None;
            }
            let mut number = || words.next().and_then(|word| word.parse().ok());
            let at = Self { item: number()?, slice: number()?, run: number()? };
            (words.next().is_none() && items.covers(at)).then_some(at)
        };
        parse().ok_or_else(|| Error::invalid("not a cursor of this source").on(source))
    }
}

fn tag(source: &Identity) -> String {
    Digest::of(source.to_string().as_bytes()).to_string().split_off(56)
}
