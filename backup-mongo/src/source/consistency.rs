//! In what sense a backup is of one moment: how it is begun, and what it falls back to.

use super::listing::{Listed, list};
use super::node::Node;
use super::oplog;
use super::position::{Mode, Position};
use super::{MongoSourceOptions, ReadConsistency};
use crate::client::Topology;
use crate::config::Selection;
use crate::error::{code, command_code, driver_error};
use crate::layout::OplogTime;
use backup_core::{Error, Result};
use mongodb::bson::{Document, doc};

/// How often the collections are listed until nothing changes in between.
const LISTINGS: u32 = 5;
/// How long a server keeps old versions unless it was told otherwise, in seconds.
const USUAL_WINDOW: u64 = 300;

/// How a backup begins.
#[derive(Debug)]
pub(super) struct Beginning {
    pub(super) mode: Mode,
    pub(super) oplog_start: Option<OplogTime>,
    pub(super) listing: Vec<Listed>,
}

pub(super) async fn begin(node: &Node, selection: &Selection, options: &MongoSourceOptions) -> Result<Beginning> {
    let best_effort = |reason: &str| Mode::BestEffort(reason.to_owned());
    let without = match (node.topology, options.consistency) {
        (_, ReadConsistency::BestEffort) => Some(best_effort("it was asked for")),
        (Topology::Standalone, _) => Some(best_effort(
            "a standalone server keeps neither old versions nor an oplog; make it a replica set of one member",
        )),
        (Topology::Sharded, _) => Some(best_effort("a sharded cluster is not read as of one moment")),
        (Topology::ReplicaSet, _) => None,
    };
    if let Some(mode) = without {
        let listing = list(node, selection).await?;
        return Ok(Beginning { mode, oplog_start: None, listing });
    }
    // Asked before the snapshot is chosen: a transaction that is under way at the snapshot was so already, or began later than this.
    let oplog_start = oplog_start(node).await?;
    if options.consistency == ReadConsistency::Oplog {
        if oplog_start.is_none() {
            return Err(Error::unauthorized("the user may not read the oplog; a user with the role `backup` may"));
        }
        let listing = list(node, selection).await?;
        return Ok(Beginning { mode: Mode::Oplog, oplog_start, listing });
    }
    let mut listing = list(node, selection).await?;
    for _ in 0..LISTINGS {
        let time = node.majority_time().await?;
        let again = list(node, selection).await?;
        let same = listing.iter().map(|l| (l.key(), l.uuid)).eq(again.iter().map(|l| (l.key(), l.uuid)));
        if same {
            return Ok(Beginning { mode: Mode::Snapshot(time), oplog_start, listing: again });
        }
        listing = again;
    }
    Err(Error::transient(
        "collections are made and dropped all the time; no moment was found at which their list holds",
    ))
}

/// From where on the oplog is needed to bring what is read from now on to a later moment; none when it may not be read.
async fn oplog_start(node: &Node) -> Result<Option<OplogTime>> {
    let now = node.majority_time().await?;
    let under_way = doc! {
        "find": "transactions",
        "filter": { "state": { "$in": ["prepared", "inProgress"] } },
        "sort": { "startOpTime.ts": 1 }, "limit": 1, "singleBatch": true,
    };
    let oldest = match first(node, "config", under_way).await {
        Ok(oldest) => oldest,
        Err(e) if command_code(&e) == Some(code::UNAUTHORIZED) => return Ok(None),
        Err(e) => return Err(driver_error(e, "looking for transactions that are under way")),
    };
    let oldest = oldest.and_then(|t| t.get_document("startOpTime").and_then(|time| time.get_timestamp("ts")).ok());
    match oplog::oldest(node).await {
        Ok(_) => {}
        Err(e) if command_code(&e) == Some(code::UNAUTHORIZED) => return Ok(None),
        Err(e) => return Err(driver_error(e, "reading the oplog")),
    }
    Ok(Some(oldest.map_or(now, |oldest| now.min(oldest.into()))))
}

/// The first document that a find with `singleBatch` gives.
pub(super) async fn first(
    node: &Node,
    database: &str,
    find: Document,
) -> Result<Option<Document>, mongodb::error::Error> {
    let mut found = node.command(database, find).await?;
    let batch = found.get_document_mut("cursor").ok().and_then(|cursor| cursor.get_array_mut("firstBatch").ok());
    let first = batch.filter(|batch| !batch.is_empty()).map(|batch| batch.swap_remove(0));
    Ok(first.and_then(|first| match first {
        mongodb::bson::Bson::Document(document) => Some(document),
        _ => None,
    }))
}

/// What changes for a run that goes on.
pub(super) async fn go_on(node: &Node, position: &mut Position, options: &MongoSourceOptions) -> Result<()> {
    if matches!(position.mode, Mode::BestEffort(_)) {
        return Ok(());
    }
    if options.consistency.is_best_effort() {
        position.mode = Mode::BestEffort("it was asked for when the backup was resumed".into());
        position.oplog = None;
        position.turns.retain(|turn| *turn != super::run::OPLOG_LANE);
    } else if node.topology != Topology::ReplicaSet {
        return Err(lost("the server is not a member of a replica set any more"));
    }
    Ok(())
}

/// What comes when the server does not know the snapshot any more, and what to say of it.
pub(super) async fn switch(node: &Node, old: &Mode, oplog_start: Option<OplogTime>) -> Result<(Mode, String)> {
    let Mode::Snapshot(time) = old else {
        return Err(Error::transient("the server speaks of a snapshot, where none was asked for"));
    };
    let Some(start) = oplog_start else {
        return Err(lost(
            "the server does not keep the snapshot any more, and the user may not read the oplog (the role `backup` may)",
        ));
    };
    let first = oplog::oldest(node).await.map_err(|e| driver_error(e, "reading the oplog"))?;
    if first.is_none_or(|first| first > start) {
        return Err(lost("the server keeps neither the snapshot nor the oplog since then any more"));
    }
    let message = format!(
        "the server does not keep the snapshot of {time} any more; what is still to be read is read as it is now, and the oplog \
         from {start} on is kept beside it for a restore to apply"
    );
    Ok((Mode::Oplog, message))
}

/// Consistency cannot be had any more.
pub(super) fn lost(what: impl std::fmt::Display) -> Error {
    Error::consistency_lost(format!("{what}; start the backup again, or go on with best effort"))
}

/// For how many seconds the server keeps old versions.
pub(super) async fn window(node: &Node) -> u64 {
    const NAME: &str = "minSnapshotHistoryWindowInSeconds";
    let answer = node.command("admin", doc! { "getParameter": 1, NAME: 1 }).await;
    let number = |d: &Document| d.get_i32(NAME).map(i64::from).or_else(|_| d.get_i64(NAME)).ok();
    answer.ok().and_then(|d| number(&d)).and_then(|n| u64::try_from(n).ok()).unwrap_or(USUAL_WINDOW)
}
