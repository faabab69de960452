//! Warnings that are gathered while entries are restored.

use crate::adapter::Warning;
use crate::model::EntryName;
use std::sync::{Mutex, PoisonError};

/// So many warnings are kept word for word; the others are counted.
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
    /// Adds what went wrong with an entry.
    pub(super) fn add(&self, name: &EntryName, messages: impl IntoIterator<Item = String>) {
        self.push(name, messages, false);
    }

    /// Adds why an entry is not there.
    pub(super) fn add_left_out(&self, name: &EntryName, message: String) {
        self.push(name, [message], true);
    }

    fn push(&self, name: &EntryName, messages: impl IntoIterator<Item = String>, left_out: bool) {
        let mut messages = messages.into_iter().peekable();
        if messages.peek().is_none() {
            return;
        }
        let mut notes = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        for message in messages {
            if notes.kept.len() < KEPT {
                notes.kept.push(Warning { name: Some(name.clone()), message, left_out });
            } else {
                notes.more += 1;
                notes.more_left_out |= left_out;
            }
        }
    }

    /// Takes all warnings, the last one with the number of those that were not kept.
    pub(super) fn take(&self) -> Vec<Warning> {
        let Inner { mut kept, more, more_left_out } =
            std::mem::take(&mut *self.0.lock().unwrap_or_else(PoisonError::into_inner));
        if more > 0 {
            kept.push(Warning {
                name: None,
                message: format!("{more} more warnings are not shown"),
                left_out: more_left_out,
            });
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
        for i in 0..1005 {
            notes.add(&"a".into(), [format!("warning {i}")]);
        }
        let taken = notes.take();
        assert_eq!(taken.len(), 1001);
        assert_eq!(taken[999].message, "warning 999");
        assert_eq!(taken[1000].message, "5 more warnings are not shown");
        assert!(notes.take().is_empty());
    }
}
