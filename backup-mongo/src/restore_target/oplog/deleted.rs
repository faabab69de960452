//! Documents that the oplog deletes: one that was inserted again while its collection was read may be in the slices twice.

use super::super::Shared;
use super::super::collection::Collection;
use super::super::learn::Learned;
use super::reader::Step;
use crate::documents::{Element, id_of};
use backup_core::adapter::RestorePlan;
use backup_core::{Digest, Result};
use std::collections::HashMap;

/// The documents of one collection that are deleted, by a hash of their `_id`, and whether each was met in the slices.
#[derive(Debug, Default)]
pub(in crate::restore_target) struct Deleted(HashMap<u64, bool>);

/// How a document of a slice was met.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::restore_target) enum Met {
    /// The oplog does not delete it, so it is in the slices once.
    Once,
    /// The oplog deletes it, and it comes for the first time.
    First,
    /// Another one with its `_id` came before.
    Again,
}

impl Deleted {
    fn add(&mut self, document: &[u8]) -> Result<()> {
        if let Some(id) = id_of(document)? {
            self.0.insert(print(&id), false);
        }
        Ok(())
    }

    /// Looks a document of the slices up; each is looked up once.
    pub(in crate::restore_target) fn meet(&mut self, document: &[u8]) -> Result<Met> {
        if self.0.is_empty() {
            return Ok(Met::Once);
        }
        let Some(id) = id_of(document)? else { return Ok(Met::Once) };
        Ok(match self.0.get_mut(&print(&id)) {
            None => Met::Once,
            Some(true) => Met::Again,
            Some(met) => {
                *met = true;
                Met::First
            }
        })
    }
}

fn print(id: &Element<'_>) -> u64 {
    let digest = Digest::of(&[&[id.kind], id.value].concat()).0;
    digest.iter().take(8).fold(0, |sum, byte| (sum << 8) | u64::from(*byte))
}

impl Shared {
    /// What the oplog of the plan deletes of a collection.
    pub(in crate::restore_target) async fn deleted(
        &self,
        plan: &RestorePlan,
        learned: &Learned,
        collection: &Collection,
    ) -> Result<Deleted> {
        let holder = format!("{}.{}", collection.database, collection.holder());
        let mut deleted = Deleted::default();
        let mut log = self.log(plan, learned);
        while let Some(steps) = log.next().await? {
            for step in steps {
                if let Step::Write { full, operation } = step
                    && full == holder
                    && operation.get_str("op").is_ok_and(|op| op == "d")
                    && let Ok(document) = operation.get_document("o")
                {
                    deleted.add(document.as_bytes())?;
                }
            }
        }
        Ok(deleted)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use mongodb::bson::rawdoc;

    #[test]
    fn only_what_is_deleted_may_come_again() {
        let mut deleted = Deleted::default();
        deleted.add(rawdoc! { "_id": 1 }.as_bytes()).unwrap();
        let mut met = |document: mongodb::bson::RawDocumentBuf| deleted.meet(document.as_bytes()).unwrap();
        assert_eq!(met(rawdoc! { "_id": 2 }), Met::Once);
        assert_eq!(met(rawdoc! { "_id": 2 }), Met::Once);
        assert_eq!(met(rawdoc! { "a": 1, "_id": 1 }), Met::First);
        assert_eq!(met(rawdoc! { "_id": 1, "a": 2 }), Met::Again);
    }
}
