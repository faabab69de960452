//! What the oplog does to whole collections.

use super::super::collection::Collection;
use super::super::is_fatal;
use super::super::learn::refused;
use super::super::marks::{Done, no_uuid};
use super::super::metadata::Metadata;
use super::{Replay, known_as};
use crate::layout::{self, BUCKETS_PREFIX};
use backup_core::Result;
use mongodb::bson::{Document, RawDocument};
use std::sync::Arc;

impl Replay<'_> {
    async fn run(&mut self, database: &str, command: Document) -> Result<()> {
        if !self.apply {
            return Ok(());
        }
        let what = command.keys().next().cloned().unwrap_or_default();
        match self.shared.command(database, command, "applying a command of the oplog").await {
            Ok(_) => Ok(()),
            Err(error) if is_fatal(&error) => Err(error),
            Err(error) => {
                self.warn(format!("`{what}` in the oplog of {database} is not applied: {}", error.chain()), false);
                Ok(())
            }
        }
    }

    pub(super) fn selects(&self, from: &str, name: &str) -> bool {
        self.plan.entries.selects(&layout::metadata_name(from, name))
    }

    /// A view, or what a server keeps like one for a time-series.
    pub(super) fn changes_view(&mut self, database: &str, operation: &RawDocument) {
        let what = operation.get_document("o").ok();
        let on = operation.get_document("o2").ok().and_then(|o2| o2.get_str("_id").ok());
        let id = on.or_else(|| what.and_then(|what| what.get_str("_id").ok()));
        let Some((from, name)) = id.and_then(|id| id.split_once('.')) else { return };
        let full = format!("{database}.{name}");
        let is_series =
            what.and_then(|what| what.get_str("viewOn").ok()).is_some_and(|on| on.starts_with(BUCKETS_PREFIX));
        if is_series || self.series.contains(&full) || !self.selects(from, name) || !self.told.insert(full.clone()) {
            return;
        }
        let text =
            "was made, changed or dropped while the backup ran; views are restored as they were when they were read";
        self.warn(format!("the view {full} {text}"), false);
    }

    pub(super) async fn command(&mut self, from: &str, database: &str, mut command: Document) -> Result<()> {
        let Some((kind, argument)) = command.iter().next().map(|(k, v)| (k.clone(), v.clone())) else { return Ok(()) };
        let named = argument.as_str().unwrap_or_default();
        let name = known_as(named);
        let full = format!("{database}.{name}");
        match &*kind {
            "create" => self.create(from, database, named, &full, command).await,
            "drop" if self.known.contains(&full) => {
                self.changes.drop_collection(&full);
                if self.apply { self.shared.drop_collection(database, name).await } else { Ok(()) }
            }
            "dropDatabase" => {
                let prefix = format!("{database}.");
                for full in self.known.clone().into_iter().filter(|full| full.starts_with(&prefix)) {
                    self.changes.drop_collection(&full);
                    if self.apply {
                        self.shared.drop_collection(database, &full[prefix.len()..]).await?;
                    }
                }
                Ok(())
            }
            "createIndexes" | "commitIndexBuild" | "dropIndexes" | "deleteIndexes"
                if name != named && self.known.contains(&full) =>
            {
                self.changes.altered.insert(full.clone());
                let text = "indexes of a time-series are restored as they were when it was read";
                self.warn(format!("`{kind}` of {full} in the oplog is not applied: {text}"), false);
                Ok(())
            }
            "createIndexes" | "commitIndexBuild" if self.known.contains(&full) => {
                let mut indexes: Vec<Document> = match command.get_array("indexes") {
                    Ok(indexes) => indexes.iter().filter_map(|i| i.as_document().cloned()).collect(),
                    Err(_) => Vec::new(),
                };
                if kind == "createIndexes" {
                    let mut index = command;
                    index.remove("createIndexes");
                    indexes.push(index);
                }
                self.changes.altered.insert(full.clone());
                let known = self.changes.indexes.entry(full).or_default();
                for index in indexes {
                    known.insert(index.get_str("name").unwrap_or_default().to_owned(), Some(index));
                }
                Ok(())
            }
            "dropIndexes" | "deleteIndexes" if self.known.contains(&full) => {
                self.changes.altered.insert(full.clone());
                let index = command.get_str("index").unwrap_or_default().to_owned();
                self.changes.indexes.entry(full).or_default().insert(index, None);
                Ok(())
            }
            "collMod" if self.known.contains(&full) => {
                self.changes.altered.insert(full.clone());
                if command.contains_key("index") {
                    let text =
                        format!("an index of {full} was changed while the backup ran; it is restored as it was before");
                    self.warn(text, false);
                    return Ok(());
                }
                command.insert("collMod", name);
                self.run(database, command).await
            }
            "renameCollection" => {
                let text =
                    format!("{full} was renamed while the backup ran; what was renamed is restored as it was read");
                self.changes.altered.insert(full);
                self.warn(text, false);
                Ok(())
            }
            // Of index builds only the end counts.
            "startIndexBuild" | "abortIndexBuild" => Ok(()),
            _ if name.is_empty() || self.known.contains(&full) => {
                self.warn(format!("`{kind}` in the oplog of {database} is not applied"), false);
                Ok(())
            }
            _ => Ok(()),
        }
    }

    /// A collection that was made while the backup ran: if it was dropped before, or is not in the archive.
    async fn create(
        &mut self,
        from: &str,
        database: &str,
        name: &str,
        full: &str,
        mut command: Document,
    ) -> Result<()> {
        let is_known = self.known.contains(full);
        if is_known && !self.changes.dropped.contains(full) {
            return Ok(());
        }
        if name.starts_with(BUCKETS_PREFIX) {
            self.series.insert(full.to_owned());
            self.known.remove(full);
            if self.selects(from, known_as(name)) {
                self.warn(format!("the time-series {full} was made while the backup ran; it is not restored"), true);
            }
            return Ok(());
        }
        let is_refused = refused(from, name).is_some() || refused(database, name).is_some();
        if is_refused || (!is_known && !self.selects(from, name)) {
            return Ok(());
        }
        command.remove("create");
        let index = command.remove("idIndex").and_then(|index| index.as_document().cloned());
        let metadata = Metadata { name: None, options: command, indexes: index.into_iter().collect() };
        let command = metadata.create(name);
        self.changes.altered.insert(full.to_owned());
        self.changes.dropped.remove(full);
        self.changes.made.insert(full.to_owned(), Arc::new(Collection::late(from, database, name, metadata)));
        self.known.insert(full.to_owned());
        if !self.apply {
            return Ok(());
        }
        let (shared, tag) = (self.shared, &self.plan.tag);
        if let Some(found) = shared.listed(database, name).await? {
            // This restore may have been interrupted while it applied the oplog.
            let Some(uuid) = found.uuid else { return self.is_taken(full) };
            if shared.is_marked(tag, database, Done::Made, name, uuid).await? {
                return Ok(());
            }
            if shared.is_marked(tag, database, Done::Intended, name, no_uuid()).await?
                && shared.is_vacant(database, name).await?
            {
                return shared.mark(tag, database, Done::Made, name, uuid).await;
            }
            return self.is_taken(full);
        }
        shared.mark(tag, database, Done::Intended, name, no_uuid()).await?;
        self.run(database, command).await?;
        match shared.listed(database, name).await?.and_then(|found| found.uuid) {
            Some(uuid) => shared.mark(&self.plan.tag, database, Done::Made, name, uuid).await,
            None => Ok(()),
        }
    }

    fn is_taken(&mut self, full: &str) -> Result<()> {
        self.known.remove(full);
        self.changes.made.remove(full);
        let text = "was made while the backup ran, and is there already; it is not restored";
        self.warn(format!("{full} {text}"), true);
        Ok(())
    }
}
