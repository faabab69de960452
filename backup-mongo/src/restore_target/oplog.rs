//! Applies the slices of the oplog, so that all collections are as of one moment.
//!
//! What was read already holds a part of the changes. Applying all of them again in their order leads to the same end: inserts
//! replace, deletes of what is gone do nothing, and an update of what is not there yet, or not any more, makes a document that the
//! insert or delete behind it replaces or removes.

mod reader;

use super::Shared;
use super::collection::Collection;
use super::finish::{Notes, databases};
use super::learn::Learned;
use super::marks::{Done, no_uuid};
use super::metadata::Metadata;
use super::{is_fatal, odd_answer};
use crate::documents::{Builder, Documents};
use crate::layout::Item;
use backup_core::adapter::RestorePlan;
use backup_core::model::Entry;
use backup_core::{Error, Result};
use bytes::Bytes;
use futures::TryStreamExt;
use mongodb::bson::{Bson, Document, RawDocument, RawDocumentBuf};
use reader::{Reader, Step};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// Operations of one command at most.
const COMMAND_OPERATIONS: usize = 1000;
/// Bytes of operations of one command at most, unless a single one is longer.
const COMMAND_BYTES: usize = 4 << 20;
/// Warnings about single operations at most.
const WARNINGS: usize = 100;

/// What the oplog does to collections besides their documents.
#[derive(Debug, Default)]
pub(super) struct Changes {
    /// Collections of the plan with documents that were changed, by their full names at the target.
    pub(super) touched: BTreeSet<String>,
    /// Collections whose options or indexes were changed.
    pub(super) altered: BTreeSet<String>,
    /// Collections that are gone at the end.
    dropped: BTreeSet<String>,
    /// Indexes made, by full name and name of the index; `None` for those dropped.
    indexes: BTreeMap<String, BTreeMap<String, Option<Document>>>,
}

impl Changes {
    /// The indexes that a collection has at the end.
    pub(super) fn indexes(&self, collection: &Collection) -> Vec<Document> {
        let mut wanted = collection.metadata.wanted_indexes();
        if let Some(changes) = self.indexes.get(&collection.full_name()) {
            wanted.retain(|index| !changes.contains_key(index.get_str("name").unwrap_or_default()));
            let made = Metadata {
                options: collection.metadata.options.clone(),
                indexes: changes.values().flatten().cloned().collect(),
                ..Metadata::default()
            };
            wanted.extend(made.wanted_indexes());
        }
        wanted
    }

    pub(super) fn is_dropped(&self, collection: &Collection) -> bool {
        self.dropped.contains(&collection.full_name())
    }

    fn drop_collection(&mut self, full: &str) {
        self.altered.insert(full.to_owned());
        self.dropped.insert(full.to_owned());
        self.indexes.remove(full);
    }
}

/// Everything that a plan's oplog does, in order.
struct Replay<'a> {
    shared: &'a Shared,
    plan: &'a RestorePlan,
    apply: bool,
    changes: Changes,
    /// Collections that operations may change, by full name.
    known: BTreeSet<String>,
    waiting: Vec<RawDocumentBuf>,
    waiting_bytes: usize,
    notes: &'a mut Notes,
}

impl Shared {
    fn oplog(
        &self,
        plan: &RestorePlan,
    ) -> futures::stream::BoxStream<'static, Result<backup_core::adapter::SmallEntry>> {
        plan.entries.contents(Arc::new(|entry: &Entry| matches!(Item::parse(&entry.name), Some(Item::Oplog { .. }))))
    }

    /// Applies the oplog of the plan.
    pub(super) async fn replay(
        &self,
        plan: &RestorePlan,
        learned: &Learned,
        ours: &[Arc<Collection>],
        notes: &mut Notes,
    ) -> Result<Changes> {
        let is_log = plan.entries.facts().consistency.get("kind").and_then(|kind| kind.as_str()) == Some("oplog");
        if learned.oplog.0 == 0 {
            if is_log {
                let text = "the oplog of the archive is not among what is restored: the collections are as of different moments";
                notes.general(text.into(), false);
            }
            return Ok(Changes::default());
        }
        let Some(database) = databases(learned).into_iter().next().filter(|_| !ours.is_empty()) else {
            return Ok(Changes::default());
        };
        if self.is_marked(&plan.tag, &database, Done::Replayed, "", no_uuid()).await? {
            // Not once more, now that indexes may be there that states in between would break.
            return self.changes(plan, learned).await;
        }
        if !self.is_marked(&plan.tag, &database, Done::Replaying, "", no_uuid()).await? {
            // Afterwards the collections are not as their digests say any more.
            let looked = self.changes(plan, learned).await?;
            self.check_before_replay(plan, ours, &looked, notes).await?;
            self.mark(&plan.tag, &database, Done::Replaying, "", no_uuid()).await?;
        }
        let known = ours.iter().map(|c| known_names(c)).collect();
        let changes = self.run_oplog(plan, learned, known, true, notes).await?;
        self.mark(&plan.tag, &database, Done::Replayed, "", no_uuid()).await?;
        Ok(changes)
    }

    /// What the oplog of the plan changes, without changing it.
    pub(super) async fn changes(&self, plan: &RestorePlan, learned: &Learned) -> Result<Changes> {
        if learned.oplog.0 == 0 {
            return Ok(Changes::default());
        }
        let known = learned.collections.values().map(|c| known_names(c)).collect();
        self.run_oplog(plan, learned, known, false, &mut Notes::default()).await
    }

    async fn run_oplog(
        &self,
        plan: &RestorePlan,
        learned: &Learned,
        known: BTreeSet<String>,
        apply: bool,
        notes: &mut Notes,
    ) -> Result<Changes> {
        let databases: BTreeMap<String, String> = learned
            .collections
            .values()
            .filter(|c| c.trouble.is_none() && !c.is_of_users)
            .filter_map(|c| Some((c.group.split_once('.')?.0.to_owned(), c.database.clone())))
            .collect();
        let target = move |database: &str| databases.get(database).cloned();
        let mut replay = Replay {
            shared: self,
            plan,
            apply,
            changes: Changes::default(),
            known,
            waiting: Vec::new(),
            waiting_bytes: 0,
            notes,
        };
        let mut reader = Reader::default();
        let mut slices = self.oplog(plan);
        while let Some(slice) = slices.try_next().await? {
            let entries: Bytes = slice.content;
            for entry in Documents::new(&entries) {
                let mut steps = Vec::new();
                let entry = RawDocument::from_bytes(entry?)
                    .map_err(|e| Error::corrupt("an entry of the oplog is damaged").because(e))?;
                reader.entry(entry, &target, &mut steps).map_err(|e| e.on(&slice.entry.name))?;
                for step in steps {
                    replay.step(step).await?;
                }
            }
        }
        replay.flush().await?;
        Ok(replay.changes)
    }
}

/// The collection whose name operations carry.
fn known_names(collection: &Collection) -> String {
    format!("{}.{}", collection.database, collection.holder())
}

impl Replay<'_> {
    async fn step(&mut self, step: Step) -> Result<()> {
        match step {
            Step::Write { full, operation } => {
                if !self.known.contains(&full) {
                    return Ok(());
                }
                self.changes.touched.insert(full);
                if self.apply {
                    let bytes = operation.as_bytes().len();
                    if self.waiting.len() == COMMAND_OPERATIONS || self.waiting_bytes + bytes > COMMAND_BYTES {
                        self.flush().await?;
                    }
                    self.waiting_bytes += bytes;
                    self.waiting.push(operation);
                }
                Ok(())
            }
            Step::Command { database, command } => {
                self.flush().await?;
                self.command(&database, command).await
            }
        }
    }

    async fn flush(&mut self) -> Result<()> {
        let operations = std::mem::take(&mut self.waiting);
        self.waiting_bytes = 0;
        if operations.is_empty() {
            return Ok(());
        }
        match self.apply_operations(&operations).await {
            Ok(()) => return Ok(()),
            Err(error) if is_fatal(&error) => return Err(error),
            Err(_) => {}
        }
        // One by one; those that were applied already may be applied again.
        for operation in &operations {
            match self.apply_operations(std::slice::from_ref(operation)).await {
                Ok(()) => {}
                Err(error) if is_fatal(&error) => return Err(error),
                Err(error) => {
                    let on = operation.get_str("ns").unwrap_or_default();
                    self.warn(format!("a change of {on} in the oplog is not applied: {}", error.chain()), true);
                }
            }
        }
        Ok(())
    }

    fn warn(&mut self, text: String, left_out: bool) {
        match self.notes.0.len() {
            ..WARNINGS => self.notes.general(text, left_out),
            WARNINGS => {
                self.notes.general("there are more operations in the oplog that are not applied".into(), left_out)
            }
            _ => {}
        }
    }

    async fn apply_operations(&self, operations: &[RawDocumentBuf]) -> Result<()> {
        let bytes: usize = operations.iter().map(|o| o.as_bytes().len() + 8).sum();
        let mut builder = Builder::new(bytes);
        builder.open_array("applyOps");
        for (number, operation) in operations.iter().enumerate() {
            builder.document(&number.to_string(), operation.as_bytes());
        }
        builder.close().open_document("writeConcern").text("w", "majority");
        let doing = "applying the oplog (this needs the right to applyOps, as in a role with anyAction on anyResource)";
        let answer = self.shared.cluster.database("admin").run_raw_command(builder.finish()?).await;
        let answer = answer.map_err(|e| crate::driver_error(e, doing))?;
        let all = answer.get_array("results").is_ok_and(|r| r.iter().all(|ok| ok == &Bson::Boolean(true)));
        if all { super::check_concern(&answer, doing) } else { Err(odd_answer()) }
    }

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

    async fn command(&mut self, database: &str, command: Document) -> Result<()> {
        let Some((kind, argument)) = command.iter().next().map(|(k, v)| (k.clone(), v.clone())) else { return Ok(()) };
        let name = argument.as_str().unwrap_or_default();
        let full = format!("{database}.{name}");
        match &*kind {
            "create" => self.create(database, name, &full, command).await,
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
    async fn create(&mut self, database: &str, name: &str, full: &str, mut command: Document) -> Result<()> {
        if self.known.contains(full) && !self.changes.dropped.contains(full) {
            return Ok(());
        }
        if name.starts_with("system.") {
            return Ok(());
        }
        self.changes.altered.insert(full.to_owned());
        self.changes.dropped.remove(full);
        self.known.insert(full.to_owned());
        if !self.apply {
            return Ok(());
        }
        command.remove("create");
        let index = command.remove("idIndex").and_then(|index| index.as_document().cloned());
        let metadata = Metadata { name: None, options: command, indexes: index.into_iter().collect() };
        let shared = self.shared;
        if shared.listed(database, name).await?.is_some() {
            let text = format!("{full} was made while the backup ran, and is there already; it is not restored");
            self.known.remove(full);
            self.warn(text, true);
            return Ok(());
        }
        self.run(database, metadata.create(name)).await?;
        match shared.listed(database, name).await?.and_then(|found| found.uuid) {
            Some(uuid) => shared.mark(&self.plan.tag, database, Done::Made, name, uuid).await,
            None => Ok(()),
        }
    }
}
