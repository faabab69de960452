//! The end of a restore. The order matters: collections whose order counts, users and roles, the oplog, indexes, views, and last
//! what lets the server delete documents.

use super::collection::{Collection, Place};
use super::learn::Learned;
use super::marks::Done;
use super::metadata::Kind;
use super::{Shared, is_fatal};
use backup_core::Result;
use backup_core::adapter::{MismatchKind, RestorePlan, Warning};
use backup_core::model::EntryName;
use mongodb::bson::Uuid;
use std::collections::BTreeSet;
use std::sync::Arc;

/// Warnings of a finish.
#[derive(Debug, Default)]
pub(super) struct Notes(pub(super) Vec<Warning>);

impl Notes {
    /// Something about a collection that is not as it was, although its documents are.
    pub(super) fn about(&mut self, collection: &Collection, message: String) {
        self.0.push(Warning { name: collection.entry().cloned(), message, left_out: false });
    }

    pub(super) fn left_out(&mut self, collection: &Collection, message: String) {
        self.0.push(Warning { name: collection.entry().cloned(), message, left_out: true });
    }

    pub(super) fn general(&mut self, message: String, left_out: bool) {
        self.0.push(Warning { name: None, message, left_out });
    }

    /// Makes a warning of an error about a collection, unless the target as a whole is in trouble.
    pub(super) fn unless_fatal(&mut self, collection: &Collection, what: &str, done: Result<()>) -> Result<()> {
        match done {
            Err(error) if is_fatal(&error) => Err(error.on(collection.full_name())),
            Err(error) => {
                self.about(collection, format!("{what}: {}", error.chain()));
                Ok(())
            }
            Ok(()) => Ok(()),
        }
    }
}

impl Shared {
    pub(super) async fn finish(&self, plan: &RestorePlan) -> Result<Vec<Warning>> {
        let learned = self.learned(plan, false).await?;
        let mut notes = Notes::default();
        let mut ours = Vec::new();
        for collection in learned.collections.values() {
            let Some(uuid) = self.stand(plan, &learned, collection, &mut notes).await? else { continue };
            ours.push(collection.clone());
            if collection.kind() == Kind::Capped {
                self.fill(plan, collection, uuid, &mut notes).await?;
            }
        }
        self.restore_users(plan, &learned, &mut notes).await?;
        let changes = self.replay(plan, &learned, &ours, &mut notes).await?;
        // Those that the oplog has made, also in the place of others.
        ours.retain(|collection| !changes.is_made(collection));
        for collection in changes.made() {
            if self.is_ours(plan, collection).await?.is_some() {
                ours.push(collection.clone());
            }
        }
        for collection in &ours {
            let done = self.make_indexes(collection, &changes, false, &mut notes).await;
            notes.unless_fatal(collection, "its indexes are not made", done)?;
        }
        self.make_views(plan, &learned, &mut notes).await?;
        for collection in &ours {
            let done = self.let_expire(collection, &changes, &mut notes).await;
            notes.unless_fatal(collection, "its documents will not expire", done)?;
        }
        // From here on nothing tells any more what this restore has made, so all of it is done before.
        self.drop_all_marks(plan, &learned).await?;
        Ok(notes.0)
    }

    pub(super) async fn discard(&self, plan: &RestorePlan) -> Result<()> {
        let learned = self.learned(plan, false).await?;
        self.forget_users().await?;
        self.drop_all_marks(plan, &learned).await
    }

    async fn drop_all_marks(&self, plan: &RestorePlan, learned: &Learned) -> Result<()> {
        // The first database goes last: it has the mark of the oplog.
        for database in databases(learned).into_iter().rev() {
            self.drop_marks(&plan.tag, &database).await?;
        }
        Ok(())
    }

    /// The UUID of what is there, if this restore has made it.
    async fn is_ours(&self, plan: &RestorePlan, collection: &Collection) -> Result<Option<Uuid>> {
        let Collection { database, name, .. } = collection;
        let Some(uuid) = self.uuid_of(collection).await? else { return Ok(None) };
        Ok(self.is_marked(&plan.tag, database, Done::Made, name, uuid).await?.then_some(uuid))
    }

    /// The UUID of a collection that this restore has made; made now, if nothing was written to it. Nothing is dropped for it:
    /// when a finish before this one was done, nothing tells any more that what is there is ours.
    async fn stand(
        &self,
        plan: &RestorePlan,
        learned: &Learned,
        collection: &Arc<Collection>,
        notes: &mut Notes,
    ) -> Result<Option<Uuid>> {
        let is_for_later = collection.kind() == Kind::View || collection.is_of_users;
        if collection.trouble.is_some() || is_for_later {
            return Ok(None);
        }
        let is_known = |(name, _): &(EntryName, u64)| plan.entries.known_to_differ(name) == Some(MismatchKind::Content);
        if collection.description.as_ref().is_some_and(is_known) {
            return Ok(None);
        }
        let Collection { database, name, .. } = &**collection;
        if self.listed(database, name).await?.is_some() {
            return self.is_ours(plan, collection).await;
        }
        if self.is_replayed(plan, learned).await? && self.was_made(&plan.tag, database, name).await? {
            // The oplog has dropped it.
            return Ok(None);
        }
        if collection.description.is_none() && collection.slices == 0 {
            return Ok(None);
        }
        match self.place(plan, collection).await {
            Ok(Place::Ours { uuid, .. }) => Ok(Some(*uuid)),
            Ok(Place::Taken) => Ok(None),
            Err(error) if is_fatal(&error) => Err(error),
            Err(error) => {
                notes.left_out(collection, format!("the collection is not made: {}", error.chain()));
                Ok(None)
            }
        }
    }
}

/// The databases that are restored to.
pub(super) fn databases(learned: &Learned) -> BTreeSet<String> {
    let restored = learned.collections.values().filter(|c| c.trouble.is_none() && !c.is_of_users);
    restored.map(|collection| collection.database.clone()).collect()
}
