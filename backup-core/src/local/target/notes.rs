//! Warnings that are gathered while entries are restored.

use crate::adapter::Warning;
use crate::model::EntryName;
use std::sync::{Mutex, PoisonError};

/// So many warnings are kept word for word; the others are counted.
const KEPT: usize = 1000;

/// A bounded collection of warnings.
#[derive(Debug, Default)]
pub(super) struct Notes(Mutex<(Vec<Warning>, u64)>);

impl Notes {
    /// Adds what went wrong with an entry.
    pub(super) fn add(&self, name: &EntryName, messages: impl IntoIterator<Item = String>) {
        let mut messages = messages.into_iter().peekable();
        if messages.peek().is_none() {
            return;
        }
        let mut notes = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        for message in messages {
            if notes.0.len() < KEPT {
                notes.0.push(Warning { name: Some(name.clone()), message });
            } else {
                notes.1 += 1;
            }
        }
    }

    /// Takes all warnings, the last one with the number of those that were not kept.
    pub(super) fn take(&self) -> Vec<Warning> {
        let (mut kept, more) = std::mem::take(&mut *self.0.lock().unwrap_or_else(PoisonError::into_inner));
        if more > 0 {
            kept.push(Warning { name: None, message: format!("{more} more warnings are not shown") });
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
