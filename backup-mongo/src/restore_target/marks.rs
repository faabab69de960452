//! Marks by which a restore knows again what it has made, also in another process.
//!
//! They are documents of a collection of their own in each database, `backup-tmp-` and the restore's tag, which is dropped at the
//! end. They are only ever added, so that the rights to insert and to find are enough.

use super::Shared;
use crate::driver_error;
use backup_core::Result;
use futures::TryStreamExt;
use mongodb::bson::oid::ObjectId;
use mongodb::bson::{Document, Uuid, doc};
use std::collections::{HashMap, HashSet};
use tokio::sync::Mutex;

/// How the names of collections start that a restore uses for itself. Backups leave them out.
pub const STAGE_PREFIX: &str = "backup-tmp-";

/// What a mark says of a collection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Done {
    /// This restore is about to make it; it has no UUID yet.
    Intended,
    /// This restore has made it.
    Made,
    /// All its documents are there, in their order.
    Filled,
    /// The oplog is being applied; the name is empty, as is that of the next one.
    Replaying,
    /// The oplog has been applied.
    Replayed,
}

/// Stands for no collection.
pub(super) fn no_uuid() -> Uuid {
    Uuid::from_bytes([0; 16])
}

impl Done {
    fn as_str(self) -> &'static str {
        match self {
            Self::Intended => "intended",
            Self::Made => "made",
            Self::Filled => "filled",
            Self::Replaying => "replaying",
            Self::Replayed => "replayed",
        }
    }

    fn parse(text: &str) -> Option<Self> {
        let all = [Self::Intended, Self::Made, Self::Filled, Self::Replaying, Self::Replayed];
        all.into_iter().find(|done| done.as_str() == text)
    }
}

type Mark = (Done, String, Uuid);

/// The marks of each database, as far as they were looked at; those of one restore at a time.
#[derive(Debug, Default)]
pub(super) struct Marks(Mutex<(String, HashMap<String, HashSet<Mark>>)>);

fn collection(tag: &str) -> String {
    format!("{STAGE_PREFIX}{tag}")
}

impl Shared {
    async fn load_marks(&self, tag: &str, database: &str) -> Result<HashSet<Mark>> {
        let doing = "reading the marks of this restore";
        let found = self.cluster.database(database).collection::<Document>(&collection(tag)).find(doc! {}).await;
        let documents: Vec<Document> =
            found.map_err(|e| driver_error(e, doing))?.try_collect().await.map_err(|e| driver_error(e, doing))?;
        let mark = |document: &Document| -> Option<Mark> {
            let id = document.get_document("_id").ok()?;
            let uuid = match id.get("uuid")? {
                mongodb::bson::Bson::Binary(binary) => binary.to_uuid().ok()?,
                _ => return None,
            };
            Some((Done::parse(id.get_str("done").ok()?)?, id.get_str("name").ok()?.to_owned(), uuid))
        };
        Ok(documents.iter().filter_map(mark).collect())
    }

    async fn with_marks<T>(&self, tag: &str, database: &str, look: impl FnOnce(&mut HashSet<Mark>) -> T) -> Result<T> {
        let mut all = self.marks.0.lock().await;
        if all.0 != tag {
            *all = (tag.to_owned(), HashMap::new());
        }
        if !all.1.contains_key(database) {
            let loaded = self.load_marks(tag, database).await?;
            all.1.insert(database.to_owned(), loaded);
        }
        Ok(look(all.1.entry(database.to_owned()).or_default()))
    }

    /// Whether a collection is marked.
    pub(super) async fn is_marked(
        &self,
        tag: &str,
        database: &str,
        done: Done,
        name: &str,
        uuid: Uuid,
    ) -> Result<bool> {
        let mark = (done, name.to_owned(), uuid);
        self.with_marks(tag, database, |marks| marks.contains(&mark)).await
    }

    /// Whether any collection of this name was made.
    pub(super) async fn was_made(&self, tag: &str, database: &str, name: &str) -> Result<bool> {
        self.with_marks(tag, database, |marks| marks.iter().any(|(done, n, _)| *done == Done::Made && n == name)).await
    }

    /// Marks a collection. A power failure takes it away only together with all that was written behind it.
    pub(super) async fn mark(&self, tag: &str, database: &str, done: Done, name: &str, uuid: Uuid) -> Result<()> {
        let id = doc! { "done": done.as_str(), "name": name, "uuid": uuid };
        self.add_mark(tag, database, id, doc! { "w": "majority" }).await?;
        self.with_marks(tag, database, |marks| marks.insert((done, name.to_owned(), uuid))).await?;
        Ok(())
    }

    async fn add_mark(&self, tag: &str, database: &str, id: Document, concern: Document) -> Result<()> {
        let command = doc! {
            "insert": collection(tag), "documents": [{ "_id": id }], "writeConcern": concern,
        };
        // One that is there already is as good.
        self.command(database, command, "marking what this restore has made").await.map(drop)
    }

    /// Makes everything durable that was written before.
    pub(super) async fn sync(&self) -> Result<()> {
        let (tag, database) = {
            let all = self.marks.0.lock().await;
            // A journal is one for all databases.
            let Some(database) =
                all.1.iter().find(|(_, marks)| !marks.is_empty()).map(|(database, _)| database.clone())
            else {
                return Ok(());
            };
            (all.0.clone(), database)
        };
        if self.server().await?.topology != crate::Topology::Standalone {
            // Inserts are confirmed by a majority, each after its journal was written.
            return Ok(());
        }
        self.add_mark(&tag, &database, doc! { "sync": ObjectId::new() }, doc! { "w": 1, "j": true }).await
    }

    /// Removes the marks of a database.
    pub(super) async fn drop_marks(&self, tag: &str, database: &str) -> Result<()> {
        self.drop_collection(database, &collection(tag)).await?;
        let mut all = self.marks.0.lock().await;
        all.1.remove(database);
        Ok(())
    }
}
