//! Applies the slices of the oplog, so that all collections are as of one moment.
//!
//! What was read already holds a part of the changes. Applying all of them again in their order leads to the same end: inserts
//! replace, deletes of what is gone do nothing, and an update of what is not there yet, or not any more, makes a document that the
//! insert or delete behind it replaces or removes.

mod commands;
mod deleted;
mod log;
mod reader;

pub(super) use deleted::{Deleted, Met};

use super::Shared;
use super::collection::Collection;
use super::finish::{Notes, databases};
use super::learn::{Learned, refused};
use super::marks::{Done, no_uuid};
use super::metadata::{Kind, Metadata};
use super::{is_fatal, odd_answer};
use crate::documents::Builder;
use crate::layout::BUCKETS_PREFIX;
use backup_core::Result;
use backup_core::adapter::RestorePlan;
use mongodb::bson::{Bson, Document, RawDocumentBuf};
use reader::Step;
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
    /// Collections made, also in the place of others that were dropped, which are there at the end.
    made: BTreeMap<String, Arc<Collection>>,
    /// Indexes made, by full name and name of the index; `None` for those dropped.
    indexes: BTreeMap<String, BTreeMap<String, Option<Document>>>,
}

impl Changes {
    /// The indexes that a collection has at the end.
    pub(super) fn indexes(&self, collection: &Collection) -> Vec<Document> {
        let full = collection.full_name();
        // What the archive says of one that was dropped and made anew is not of the new one.
        let metadata = self.made.get(&full).map_or(&collection.metadata, |made| &made.metadata);
        let mut wanted = metadata.wanted_indexes();
        if let Some(changes) = self.indexes.get(&full) {
            wanted.retain(|index| !changes.contains_key(index.get_str("name").unwrap_or_default()));
            let made = Metadata {
                options: metadata.options.clone(),
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

    /// Collections that the oplog makes.
    pub(super) fn made(&self) -> impl Iterator<Item = &Arc<Collection>> {
        self.made.values()
    }

    /// Whether the oplog makes a collection anew.
    pub(super) fn is_made(&self, collection: &Collection) -> bool {
        self.made.contains_key(&collection.full_name())
    }

    fn drop_collection(&mut self, full: &str) {
        self.touched.insert(full.to_owned());
        self.altered.insert(full.to_owned());
        self.dropped.insert(full.to_owned());
        self.indexes.remove(full);
        self.made.remove(full);
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
    /// Time-series, by full name.
    series: BTreeSet<String>,
    /// Views that somebody was told of.
    told: BTreeSet<String>,
    waiting: Vec<RawDocumentBuf>,
    waiting_bytes: usize,
    notes: &'a mut Notes,
}

impl Shared {
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
        let Some(database) = databases(learned).into_iter().next() else { return Ok(Changes::default()) };
        if ours.is_empty() && !self.is_replayed(plan, learned).await? {
            return Ok(Changes::default());
        }
        if self.is_marked(&plan.tag, &database, Done::Replayed, "", no_uuid()).await? {
            // Not once more, now that indexes may be there that states in between would break.
            return self.changes(plan, learned).await;
        }
        if !self.is_marked(&plan.tag, &database, Done::Replaying, "", no_uuid()).await? {
            // Afterwards the collections are not as their digests say any more.
            let looked = self.changes(plan, learned).await?;
            self.check_before_replay(plan, learned, ours, &looked, notes).await?;
            self.mark(&plan.tag, &database, Done::Replaying, "", no_uuid()).await?;
        }
        let known = ours.iter().map(|c| c.full_name()).collect();
        let changes = self.run_oplog(plan, learned, known, true, notes).await?;
        self.mark(&plan.tag, &database, Done::Replayed, "", no_uuid()).await?;
        Ok(changes)
    }

    /// Whether applying the oplog of the plan was begun.
    pub(super) async fn is_replayed(&self, plan: &RestorePlan, learned: &Learned) -> Result<bool> {
        match databases(learned).into_iter().next() {
            Some(database) => self.is_marked(&plan.tag, &database, Done::Replaying, "", no_uuid()).await,
            None => Ok(false),
        }
    }

    /// What the oplog of the plan changes, without changing it.
    pub(super) async fn changes(&self, plan: &RestorePlan, learned: &Learned) -> Result<Changes> {
        if learned.oplog.0 == 0 {
            return Ok(Changes::default());
        }
        let known = learned.collections.values().map(|c| c.full_name()).collect();
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
        let series = learned.collections.values().filter(|c| c.kind() == Kind::TimeSeries);
        let series = series.map(|c| c.full_name()).collect();
        let mut replay = Replay {
            shared: self,
            plan,
            apply,
            changes: Changes::default(),
            known,
            series,
            told: BTreeSet::new(),
            waiting: Vec::new(),
            waiting_bytes: 0,
            notes,
        };
        let mut log = self.log(plan, learned);
        while let Some(steps) = log.next().await? {
            for step in steps {
                replay.step(step).await?;
            }
        }
        replay.flush().await?;
        Ok(replay.changes)
    }
}

/// The name by which users know a collection: of a time-series, operations name that of its buckets.
fn known_as(name: &str) -> &str {
    name.strip_prefix(BUCKETS_PREFIX).unwrap_or(name)
}

fn full_known_as(full: String) -> String {
    match full.split_once('.') {
        Some((database, name)) if name.starts_with(BUCKETS_PREFIX) => format!("{database}.{}", known_as(name)),
        _ => full,
    }
}

impl Replay<'_> {
    async fn step(&mut self, step: Step) -> Result<()> {
        match step {
            Step::Write { full, operation } => {
                if let Some(database) = full.strip_suffix(".system.views") {
                    self.changes_view(database, &operation);
                    return Ok(());
                }
                let full = full_known_as(full);
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
            Step::Command { from, database, command } => {
                self.flush().await?;
                self.command(&from, &database, command).await
            }
            Step::MadeElsewhere { from, name } => {
                if refused(&from, &name).is_none() && self.selects(&from, &name) {
                    let text = "was made while the backup ran, in a database of which the archive has nothing else; \
                                it is not restored";
                    self.warn(format!("{from}.{name} {text}"), true);
                }
                Ok(())
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
}
