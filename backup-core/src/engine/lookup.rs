//! Finds single entries of an archive by name.

use super::archive::Archive;
use crate::Result;
use crate::model::{Entry, EntryName};
use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, PoisonError};

/// Pieces that are kept. Links and what they lead to mostly lie in the same order, so few pieces serve long runs of lookups.
const KEPT: usize = 2;

/// The entries of a piece that count.
pub(super) type ByName = Arc<HashMap<EntryName, Entry>>;

/// The pieces that were searched last, by name.
#[derive(Debug, Default)]
pub(super) struct NameCache(Mutex<VecDeque<(usize, ByName)>>);

impl NameCache {
    fn lock(&self) -> std::sync::MutexGuard<'_, VecDeque<(usize, ByName)>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn get(&self, piece: usize) -> Option<ByName> {
        self.lock().iter().find(|(number, _)| *number == piece).map(|(_, names)| names.clone())
    }

    fn put(&self, piece: usize, names: ByName) {
        let mut kept = self.lock();
        if kept.iter().all(|(number, _)| *number != piece) {
            if kept.len() == KEPT {
                kept.pop_front();
            }
            kept.push_back((piece, names));
        }
    }
}

impl Archive {
    /// The entry of a name that counts: the last one that is not superseded.
    pub(super) async fn entry_named(&self, name: &EntryName) -> Result<Option<Entry>> {
        let pieces = &self.manifest().pieces;
        let holding: Vec<usize> = (0..pieces.len()).filter(|n| pieces[*n].may_hold(name)).collect();
        let kept = |number: &usize| self.inner.names_of.get(*number);
        if let Some(entry) = holding.iter().filter_map(kept).find_map(|names| names.get(name).cloned()) {
            return Ok(Some(entry));
        }
        for number in holding.into_iter().rev() {
            if self.inner.names_of.get(number).is_some() {
                continue; // Searched above.
            }
            if let Some(entry) = self.names_in(number).await?.get(name) {
                return Ok(Some(entry.clone()));
            }
        }
        Ok(None)
    }

    /// The names in a piece, if it was searched just now.
    pub(super) fn names_kept(&self, number: usize) -> Option<ByName> {
        self.inner.names_of.get(number)
    }

    /// The names in a piece, read now and kept for a while.
    pub(super) async fn names_in(&self, number: usize) -> Result<ByName> {
        let piece = self.piece(number).await?;
        let counts = piece.entries.into_iter().filter(|entry| !entry.superseded && !self.manifest().voids(entry));
        let names: ByName = Arc::new(counts.map(|entry| (entry.name.clone(), entry)).collect());
        self.inner.names_of.put(number, names.clone());
        Ok(names)
    }
}
