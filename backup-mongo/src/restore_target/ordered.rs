//! Capped collections: their documents are put back one after the other, from the first, when all else has been written.

use super::Shared;
use super::collection::Collection;
use super::finish::Notes;
use super::insert::OnOther;
use super::is_fatal;
use super::learn::group_of;
use super::marks::Done;
use super::write::goal;
use crate::layout::Item;
use backup_core::Result;
use backup_core::adapter::{RestorePlan, Warning};
use backup_core::model::Entry;
use futures::TryStreamExt;
use mongodb::bson::Uuid;
use std::sync::Arc;

impl Shared {
    /// Fills a capped collection, unless that was done. What an attempt before this one has begun is dropped and begun again.
    pub(super) async fn fill(
        &self,
        plan: &RestorePlan,
        collection: &Arc<Collection>,
        mut uuid: Uuid,
        notes: &mut Notes,
    ) -> Result<()> {
        let Collection { database, name, .. } = &**collection;
        if self.is_marked(&plan.tag, database, Done::Filled, name, uuid).await? {
            return Ok(());
        }
        if !self.is_vacant(database, name).await? {
            self.drop_collection(database, name).await?;
            uuid = self.make(plan, collection).await?;
        }
        let group = collection.group.clone();
        let wanted = move |entry: &Entry| {
            matches!(Item::parse(&entry.name), Some(Item::Slice { .. })) && group_of(entry).as_ref() == Some(&group)
        };
        let mut slices = plan.entries.contents(Arc::new(wanted));
        let mut broken = false;
        while let Some(slice) = slices.try_next().await? {
            let entry = slice.entry.name;
            if broken {
                let message =
                    "not restored: documents that come before it in this capped collection are missing".into();
                notes.0.push(Warning { name: Some(entry), message, left_out: true });
                continue;
            }
            let done = self.insert(&goal(collection, name, OnOther::Fail), slice.content, &entry.to_string()).await;
            match done {
                Err(error) if is_fatal(&error) => return Err(error.on(entry)),
                Err(error) => {
                    let message = format!("not restored: {}", error.chain());
                    notes.0.push(Warning { name: Some(entry), message, left_out: true });
                    broken = true;
                }
                Ok(_) => {}
            }
        }
        self.mark(&plan.tag, database, Done::Filled, name, uuid).await
    }
}
