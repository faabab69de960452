//! Indexes, and when documents expire.

use super::Shared;
use super::collection::Collection;
use super::finish::Notes;
use super::is_fatal;
use super::oplog::Changes;
use backup_core::Result;
use mongodb::bson::{Document, doc};

impl Shared {
    /// Makes those indexes of a collection that let documents expire, or all others. Those that are there stay.
    pub(super) async fn make_indexes(
        &self,
        collection: &Collection,
        changes: &Changes,
        expiring: bool,
        notes: &mut Notes,
    ) -> Result<()> {
        let mut wanted = changes.indexes(collection);
        wanted.retain(|index| index.contains_key("expireAfterSeconds") == expiring);
        if wanted.is_empty() || changes.is_dropped(collection) {
            return Ok(());
        }
        match self.create_indexes(collection, wanted.clone()).await {
            Ok(()) => return Ok(()),
            Err(error) if is_fatal(&error) => return Err(error),
            Err(_) => {}
        }
        // One by one, so that one that cannot be made does not keep the others from being made.
        for index in wanted {
            let name = index.get_str("name").unwrap_or("?").to_owned();
            match self.create_indexes(collection, vec![index]).await {
                Err(error) if is_fatal(&error) => return Err(error),
                Err(error) => notes
                    .about(collection, format!("its index `{}` is not made: {}", name.escape_debug(), error.chain())),
                Ok(()) => {}
            }
        }
        Ok(())
    }

    async fn create_indexes(&self, collection: &Collection, indexes: Vec<Document>) -> Result<()> {
        let command =
            doc! { "createIndexes": &collection.name, "indexes": indexes, "writeConcern": { "w": "majority" } };
        self.command(&collection.database, command, "making indexes").await.map(drop)
    }

    /// Last of all, lets the server delete what has expired.
    pub(super) async fn let_expire(&self, collection: &Collection, changes: &Changes, notes: &mut Notes) -> Result<()> {
        if changes.is_dropped(collection) {
            return Ok(());
        }
        if let Some(seconds) = collection.metadata.expires() {
            let command = doc! { "collMod": &collection.name, "expireAfterSeconds": seconds.clone() };
            self.command(&collection.database, command, "setting when documents expire").await?;
        }
        self.make_indexes(collection, changes, true, notes).await
    }
}
