//! Turns what was read into entries, and says what is known when a collection or the run is complete.

use super::{OPLOG_LANE, Run};
use crate::digest::Tally;
use crate::layout::{self, Consistency, OPLOG_GROUP};
use crate::source::lane::Piece;
use crate::source::listing::Listed;
use crate::source::oplog::{Captured, Entries};
use crate::source::position::{Mode, OplogPosition, Place};
use crate::source::slices::Slice;
use backup_core::adapter::{Content, SourceEntry, SourceEvent, SourceFacts};
use backup_core::budget::Permit;
use backup_core::model::{EntryKind, EntryName, GroupName, Metadata};
use backup_core::{Error, Result};
use bytes::Bytes;
use std::collections::BTreeMap;
use std::sync::Arc;

/// Names of collections outside of the snapshot that are kept, in bytes.
const MAX_OUTSIDE: usize = 8 << 10;

impl Run {
    pub(super) async fn prelude(&mut self) -> Result<()> {
        if self.ctx.stop.is_cancelled() {
            self.ended = true;
            return Ok(());
        }
        let version = self.cluster.server_version().await?;
        let prelude = serde_json::json!({
            "ServerVersion": version,
            "ToolVersion": concat!("backup ", env!("CARGO_PKG_VERSION")),
        });
        let bytes = Bytes::from(prelude.to_string());
        let permit = Arc::new(self.ctx.budget.take(bytes.len() as u64).await);
        self.position.prelude = true;
        let event = self.entry(layout::PRELUDE.into(), EntryKind::File, None, bytes, permit, Metadata::default())?;
        self.out.push_back(event);
        // Memory is asked for only now, so that the first entry cannot wait for what later ones hold.
        Ok(())
    }

    pub(super) async fn deliver(&mut self, lane: u32, piece: Piece) -> Result<()> {
        let Some(listed) = self.listed.get(&lane).cloned() else {
            return Err(Error::permanent("a piece of a collection that is not read"));
        };
        match piece {
            Piece::Metadata { json, batch, last, permit } => {
                if let Some(open) = self.position.lane(lane) {
                    (open.metadata, open.batch) = (true, batch);
                    if last {
                        open.at = Place::End;
                    }
                }
                self.turn_over(lane, last);
                let name = layout::metadata_name(&listed.database, &listed.name);
                let group = Some(listed.group());
                let event = self.entry(name, EntryKind::File, group, json, permit, Metadata::default())?;
                self.out.push_back(event);
            }
            Piece::Batch(batch) => {
                let mut slices = batch.slices.into_iter().peekable();
                if slices.peek().is_none() {
                    self.turn_over(lane, batch.last);
                }
                while let Some(slice) = slices.next() {
                    if slices.peek().is_none() {
                        self.turn_over(lane, batch.last);
                    }
                    self.slice(lane, &listed, slice, &batch.permit).await?;
                }
                if let (true, Some(open)) = (batch.last, self.position.lane(lane)) {
                    open.at = Place::End;
                }
            }
        }
        Ok(())
    }

    pub(super) async fn slice(&mut self, lane: u32, listed: &Listed, slice: Slice, permit: &Arc<Permit>) -> Result<()> {
        let Some(open) = self.position.lane(lane) else { return Ok(()) };
        let Slice { bytes, documents, tally, behind } = slice;
        open.tally = tallied(open.tally.clone(), tally, documents, &bytes).await?;
        let number = open.slice;
        (open.slice, open.at) = (number + 1, behind);
        let name = layout::slice_name(&listed.database, &listed.data(), number);
        let group = Some(listed.group());
        let event = self.entry(name, EntryKind::Slice, group, bytes, permit.clone(), Metadata::default())?;
        self.out.push_back(event);
        Ok(())
    }

    pub(super) fn entry(
        &self,
        name: EntryName,
        kind: EntryKind,
        group: Option<GroupName>,
        bytes: Bytes,
        permit: Arc<Permit>,
        metadata: Metadata,
    ) -> Result<SourceEvent> {
        let cursor = self.position.encode()?;
        let content = Content::Inline { bytes, permit: Some(permit) };
        let entry = SourceEntry { name, kind, mtime: None, group, metadata, content, inconsistent: false, cursor };
        Ok(SourceEvent::Entry(Box::new(entry)))
    }

    /// Tells the digests of collections that are complete, and makes room for others.
    pub(super) async fn close_finished(&mut self) -> Result<bool> {
        let Some(at) = self.position.open.iter().position(|open| open.at == Place::End) else { return Ok(false) };
        let open = self.position.open.remove(at);
        self.lanes.remove(&open.lane);
        if matches!(self.position.mode, Mode::Snapshot(_)) && open.outside {
            self.note_outside(format!("{}.{}", open.database, open.name));
        }
        self.listed.remove(&open.lane);
        // A view has neither documents nor identity.
        if open.uuid.is_some() {
            let group = layout::group(&open.database, &open.name);
            let digests = BTreeMap::from([(group, open.tally.digest().to_string())]);
            let facts = SourceFacts { group_digests: digests, ..SourceFacts::default() };
            self.out.push_back(SourceEvent::Facts(facts));
        }
        Ok(true)
    }

    pub(super) fn note_outside(&mut self, name: String) {
        const MORE: &str = "… and more";
        let outside = &mut self.position.outside;
        if outside.contains(&name) || outside.last().is_some_and(|last| last == MORE) {
            return;
        }
        let length: usize = outside.iter().map(String::len).sum();
        outside.push(if length + name.len() > MAX_OUTSIDE { MORE.into() } else { name });
    }

    pub(super) async fn oplog_turn(&mut self) -> Result<()> {
        let reads_on = !self.position.open.is_empty() || !self.plan.is_empty();
        if !reads_on && self.position.oplog.as_ref().is_some_and(|oplog| oplog.end.is_none()) {
            let now = self.node.majority_time().await?;
            if let Some(oplog) = &mut self.position.oplog {
                oplog.end = Some(now);
            }
        }
        let (Some(lane), Some(oplog)) = (&mut self.oplog, &self.position.oplog) else {
            self.position.turns.retain(|turn| *turn != OPLOG_LANE);
            return Ok(());
        };
        if let Some(end) = oplog.end {
            if oplog.last >= Some(end) {
                self.position.turns.retain(|turn| *turn != OPLOG_LANE);
                return Ok(());
            }
            lane.hurry();
        }
        let Some(coming) = lane.pieces.recv().await else { return self.broke_off() };
        let coming = coming.await.map_err(|e| Error::permanent("the oplog's reader panicked").because(e))?;
        let Captured { slices, through, permit } = coming?;
        let mut slices = slices.into_iter().peekable();
        if slices.peek().is_none() {
            if let Some(oplog) = &mut self.position.oplog {
                oplog.last = through.or(oplog.last);
            }
            self.turn_over(OPLOG_LANE, false);
        }
        while let Some(Entries { bytes, count, through }) = slices.next() {
            let Some(oplog) = &mut self.position.oplog else { return Ok(()) };
            oplog.tally = tallied(oplog.tally.clone(), None, count, &bytes).await?;
            let number = oplog.slice;
            (oplog.slice, oplog.last) = (number + 1, through.or(oplog.last));
            if slices.peek().is_none() {
                self.turn_over(OPLOG_LANE, false);
            }
            let group = Some(GroupName(OPLOG_GROUP.into()));
            let name = layout::oplog_name(number);
            let event = self.entry(name, EntryKind::Slice, group, bytes, permit.clone(), Metadata::default())?;
            self.out.push_back(event);
        }
        Ok(())
    }

    /// Everything has been delivered.
    pub(super) fn finish(&mut self) -> Result<()> {
        let consistency = match (&self.position.mode, &self.position.oplog) {
            (Mode::Snapshot(cluster_time), _) => {
                Consistency::Snapshot { cluster_time: *cluster_time, outside: self.position.outside.clone() }
            }
            (Mode::BestEffort(reason), _) => Consistency::BestEffort { reason: reason.clone() },
            (Mode::Oplog, Some(OplogPosition { start, last: Some(end), .. })) => {
                Consistency::Oplog { start: *start, end: *end }
            }
            (Mode::Oplog, _) => return Err(Error::permanent("the oplog was not read")),
        };
        let mut facts = SourceFacts { consistency: consistency.to_value()?, ..SourceFacts::default() };
        if let Some(oplog) = &self.position.oplog {
            facts.group_digests.insert(GroupName(OPLOG_GROUP.into()), oplog.tally.digest().to_string());
        }
        self.out.push_back(SourceEvent::Facts(facts));
        self.ended = true;
        Ok(())
    }
}

/// Adds a slice to the digest of its group.
async fn tallied(mut tally: Tally, part: Option<Tally>, documents: u64, bytes: &Bytes) -> Result<Tally> {
    match part {
        Some(part) => {
            tally.join(&part)?;
            Ok(tally)
        }
        None => {
            let bytes = bytes.clone();
            let work = tokio::task::spawn_blocking(move || tally.append(documents, &bytes).map(|()| tally));
            work.await.map_err(|e| Error::permanent("hashing panicked").because(e))?
        }
    }
}
