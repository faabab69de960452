//! Warnings that are gathered while entries are restored.

use backup_core::adapter::Warning;
use backup_core::model::EntryName;
use std::sync::{Mutex, PoisonError};

/// So many warnings wait to be taken; more are counted.
const KEPT: usize = 1000;

/// A bounded collection of warnings.
#[derive(Debug, Default)]
pub(super) struct Notes(Mutex<Inner>);

#[derive(Debug, Default)]
struct Inner {
    kept: Vec<Warning>,
    /// How many were not kept.
    more: u64,
    /// One of those that were not kept is about an entry that is not there.
    more_left_out: bool,
}

impl Notes {
    /// Adds what is not as the archive has it, besides content.
    pub(super) fn add(&self, name: &EntryName, message: impl Into<String>) {
        self.push(Warning { name: Some(name.clone()), message: message.into(), left_out: false });
    }

    /// Adds why an entry is not there.
    pub(super) fn add_left_out(&self, name: &EntryName, message: impl Into<String>) {
        self.push(Warning { name: Some(name.clone()), message: message.into(), left_out: true });
    }

    /// Adds what is about no entry alone.
    pub(super) fn add_general(&self, message: impl Into<String>) {
        self.push(Warning { name: None, message: message.into(), left_out: false });
    }

    fn push(&self, warning: Warning) {
        let mut notes = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if notes.kept.len() < KEPT {
            notes.kept.push(warning);
        } else {
            notes.more += 1;
            notes.more_left_out |= warning.left_out;
        }
    }

    /// Takes all warnings, the last one with the number of those that were not kept.
    pub(super) fn take(&self) -> Vec<Warning> {
        let Inner { mut kept, more, more_left_out } =
            std::mem::take(&mut *self.0.lock().unwrap_or_else(PoisonError::into_inner));
        if more > 0 {
            let message = format!("{more} more warnings are not shown");
            kept.push(Warning { name: None, message, left_out: more_left_out });
        }
        kept
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_thousand_are_kept_and_the_rest_counted() {
        let notes = Notes::default();
        (0..1004).for_each(|i| notes.add(&"a".into(), format!("warning {i}")));
        notes.add_left_out(&"b".into(), "gone");
        let taken = notes.take();
        assert_eq!((taken.len(), &*taken[999].message), (1001, "warning 999"));
        assert_eq!((&*taken[1000].message, taken[1000].left_out), ("5 more warnings are not shown", true));
        assert!(notes.take().is_empty());
    }
}
