//! Views, those that others are built on first.

use super::Shared;
use super::collection::{Collection, taken};
use super::finish::Notes;
use super::is_fatal;
use super::learn::Learned;
use super::metadata::{Kind, Metadata};
use backup_core::Result;
use backup_core::adapter::RestorePlan;
use mongodb::bson::doc;
use std::collections::BTreeSet;
use std::sync::Arc;

impl Shared {
    pub(super) async fn make_views(&self, plan: &RestorePlan, learned: &Learned, notes: &mut Notes) -> Result<()> {
        let is_view = |collection: &&Arc<Collection>| collection.kind() == Kind::View && collection.trouble.is_none();
        let mut left: Vec<_> = learned.collections.values().filter(is_view).collect();
        while !left.is_empty() {
            let waiting: BTreeSet<_> = left.iter().map(|view| (view.database.clone(), view.name.clone())).collect();
            let is_ready = |view: &&Arc<Collection>| {
                let on = view.metadata.options.get_str("viewOn").unwrap_or_default();
                on == view.name || !waiting.contains(&(view.database.clone(), on.to_owned()))
            };
            let (mut ready, others): (Vec<_>, Vec<_>) = left.into_iter().partition(is_ready);
            left = others;
            if ready.is_empty() {
                // They are built on each other; the server says what it thinks of that.
                ready = std::mem::take(&mut left);
            }
            for view in ready {
                match self.make_view(plan, view).await {
                    Err(error) if is_fatal(&error) => return Err(error.on(view.full_name())),
                    Err(error) => notes.left_out(view, format!("the view is not made: {}", error.chain())),
                    Ok(()) => {}
                }
            }
        }
        Ok(())
    }

    async fn make_view(&self, plan: &RestorePlan, view: &Collection) -> Result<()> {
        let Collection { database, name, .. } = view;
        if let Some(found) = self.listed(database, name).await? {
            let there = Metadata { options: found.options, ..Metadata::default() };
            if there.comparable_options() == view.metadata.comparable_options() {
                return Ok(());
            }
            if !plan.overwrite {
                return Err(taken());
            }
            self.drop_collection(database, name).await?;
        }
        let mut command = view.metadata.create(name);
        command.insert("writeConcern", doc! { "w": "majority" });
        self.command(database, command, "making the view").await.map(drop)
    }
}
