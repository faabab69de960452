//! Looks what is at a collection's place, and makes the collection.

use super::collection::{Collection, Place};
use super::marks::{Done, no_uuid};
use super::{Shared, odd_answer};
use crate::driver_error;
use backup_core::adapter::{RestorePlan, Written};
use backup_core::{Error, ErrorClass, Result};
use futures::TryStreamExt;
use mongodb::bson::{Bson, Document, Uuid, doc};

/// The code of a drop of something that is not there.
const NAMESPACE_NOT_FOUND: i32 = 26;

/// A collection or view as the server lists it.
#[derive(Clone, Debug)]
pub(super) struct Listed {
    pub(super) name: String,
    pub(super) options: Document,
    /// Views and time-series have none.
    pub(super) uuid: Option<Uuid>,
}

impl Shared {
    pub(super) async fn list_collections(&self, database: &str, filter: Document) -> Result<Vec<Listed>> {
        let doing = "listing collections";
        let command = doc! { "listCollections": 1, "filter": filter, "cursor": {} };
        let cursor = self.cluster.database(database).run_cursor_command(command).await;
        let all: Vec<Document> =
            cursor.map_err(|e| driver_error(e, doing))?.try_collect().await.map_err(|e| driver_error(e, doing))?;
        let listed = |found: Document| {
            let uuid = match found.get_document("info").ok().and_then(|info| info.get("uuid")) {
                Some(Bson::Binary(binary)) => binary.to_uuid().ok(),
                _ => None,
            };
            let name = found.get_str("name").map_err(|e| odd_answer().because(e))?.to_owned();
            Ok(Listed { name, options: found.get_document("options").cloned().unwrap_or_default(), uuid })
        };
        all.into_iter().map(listed).collect()
    }

    /// What is there under a name.
    pub(super) async fn listed(&self, database: &str, name: &str) -> Result<Option<Listed>> {
        Ok(self.list_collections(database, doc! { "name": name }).await?.pop())
    }

    /// The UUID of the collection that holds the documents.
    pub(super) async fn uuid_of(&self, collection: &Collection) -> Result<Option<Uuid>> {
        Ok(self.listed(&collection.database, &collection.holder()).await?.and_then(|found| found.uuid))
    }

    pub(super) async fn drop_collection(&self, database: &str, name: &str) -> Result<()> {
        let command = doc! { "drop": name, "writeConcern": { "w": "majority" } };
        match self.cluster.database(database).run_command(command).await {
            Ok(answer) => super::check_concern(&answer, "dropping a collection"),
            Err(error) if crate::command_code(&error) == Some(NAMESPACE_NOT_FOUND) => Ok(()),
            Err(error) => Err(driver_error(error, "dropping a collection").on(format!("{database}.{name}"))),
        }
    }

    pub(super) async fn is_vacant(&self, database: &str, name: &str) -> Result<bool> {
        let command = doc! { "find": name, "limit": 1, "projection": { "_id": 1 }, "singleBatch": true };
        let answer = self.command(database, command, "looking whether a collection is empty").await?;
        let batch = answer.get_document("cursor").and_then(|cursor| cursor.get_array("firstBatch"));
        Ok(batch.map_err(|e| odd_answer().because(e))?.is_empty())
    }

    /// The place of a collection, which is made if nothing is in its way; looked at once.
    pub(super) async fn place<'c>(&self, plan: &RestorePlan, collection: &'c Collection) -> Result<&'c Place> {
        collection.check()?;
        collection.place.get_or_try_init(|| self.take_place(plan, collection)).await
    }

    async fn take_place(&self, plan: &RestorePlan, collection: &Collection) -> Result<Place> {
        let Collection { database, name, .. } = collection;
        let mut how = Written::Created;
        if let Some(found) = self.listed(database, name).await? {
            let uuid = match found.uuid {
                Some(uuid) => Some(uuid),
                None => self.uuid_of(collection).await?,
            };
            if let Some(uuid) = uuid
                && self.is_marked(&plan.tag, database, Done::Made, name, uuid).await?
            {
                return Ok(Place::ours(uuid, Written::AlreadyThere));
            }
            if self.was_made(&plan.tag, database, name).await? {
                let text = "somebody has dropped the collection that this restore had made, and made another one";
                return Err(Error::conflict(text).on(collection.full_name()));
            }
            // This restore may have been interrupted between making the collection and marking it.
            let is_rest = self.is_marked(&plan.tag, database, Done::Intended, name, no_uuid()).await?
                && self.is_vacant(database, &collection.holder()).await?;
            if !plan.overwrite && !is_rest {
                return Ok(Place::Taken);
            }
            if plan.overwrite {
                how = Written::Replaced;
            }
            if let Some(uuid) = uuid.filter(|_| name.starts_with("system.")) {
                // A server does not let go of its own; they are emptied.
                let command =
                    doc! { "delete": name, "deletes": [{ "q": {}, "limit": 0 }], "writeConcern": { "w": "majority" } };
                self.command(database, command, "emptying a system collection").await?;
                self.mark(&plan.tag, database, Done::Made, name, uuid).await?;
                return Ok(Place::ours(uuid, how));
            }
            self.drop_collection(database, name).await?;
        }
        Ok(Place::ours(self.make(plan, collection).await?, how))
    }

    /// Makes a collection and marks it.
    pub(super) async fn make(&self, plan: &RestorePlan, collection: &Collection) -> Result<Uuid> {
        let Collection { database, name, metadata, .. } = collection;
        let mut command = metadata.create(name);
        command.insert("writeConcern", doc! { "w": "majority" });
        self.mark(&plan.tag, database, Done::Intended, name, no_uuid()).await?;
        self.command(database, command, "making the collection").await.map_err(|e| match e.class() {
            // Whatever else a server says of a description is about this collection.
            ErrorClass::NotFound | ErrorClass::Changed => Error::permanent("the collection cannot be made").because(e),
            _ => e.on(collection.full_name()),
        })?;
        let gone = || Error::conflict("the collection that was just made is gone").on(collection.full_name());
        let uuid = self.uuid_of(collection).await?.ok_or_else(gone)?;
        self.mark(&plan.tag, database, Done::Made, name, uuid).await?;
        Ok(uuid)
    }
}
