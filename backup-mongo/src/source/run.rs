//! One run through a deployment: reads several collections at once, and delivers in one order.

use super::consistency::{Beginning, begin, go_on, switch};
use super::lane::{Lane, Piece, Trouble, Work};
use super::listing::{Listed, list, list_database};
use super::node::Node;
use super::oplog::{self, Captured, Entries, OplogLane};
use super::position::{Mode, Open, OplogPosition, Place, Position};
use super::query::{By, Concern};
use super::slices::Slice;
use super::turns::Turns;
use super::{MongoSourceOptions, ReadConsistency, ReadOrder};
use crate::client::{MongoCluster, Topology};
use crate::digest::Tally;
use crate::layout::{self, Consistency, OPLOG_GROUP};
use backup_core::adapter::{Content, Cursor, ReadContext, SourceEntry, SourceEvent, SourceFacts, SourceWarning};
use backup_core::budget::Permit;
use backup_core::model::{EntryKind, EntryName, GroupName, Metadata};
use backup_core::{Error, Result};
use bytes::Bytes;
use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

/// Collections that are read at once.
const LANES: usize = 4;
/// Pieces of one collection that are asked for ahead.
const AHEAD: usize = 3;
/// The oplog's place among the turns; collections' lanes count from 1.
pub(super) const OPLOG_LANE: u32 = 0;
/// Names of collections outside of the snapshot that are kept, in bytes.
const MAX_OUTSIDE: usize = 8 << 10;
/// Of the snapshot's time, the part after which somebody is told that it comes to its end.
const WARN_AT: f64 = 0.8;

/// A run.
#[derive(Debug)]
pub(super) struct Run {
    cluster: MongoCluster,
    options: MongoSourceOptions,
    ctx: ReadContext,
    node: Node,
    position: Position,
    /// Collections that are not begun yet, in order.
    plan: VecDeque<Listed>,
    /// What was listed of those that are being read.
    listed: BTreeMap<u32, Listed>,
    lanes: BTreeMap<u32, Lane>,
    oplog: Option<OplogLane>,
    turns: Turns,
    /// How long the server keeps old versions.
    window: u64,
    /// What is to be delivered next.
    out: VecDeque<SourceEvent>,
    ended: bool,
}

impl Run {
    /// Begins, or goes on behind a cursor.
    pub(super) async fn start(
        cluster: MongoCluster,
        options: MongoSourceOptions,
        after: Option<Cursor>,
        ctx: ReadContext,
    ) -> Result<Self> {
        let before = after.as_ref().map(Position::decode).transpose()?;
        let node = Node::choose(&cluster, before.as_ref().map(|before| &before.node)).await?;
        let mut out = VecDeque::new();
        let (position, listing) = match before {
            None => {
                let Beginning { mode, oplog_start, listing } = begin(&node, cluster.selection(), &options).await?;
                (Position::new(node.id.clone(), mode, oplog_start), listing)
            }
            Some(mut position) => {
                let was_oplog = position.oplog.is_some();
                go_on(&node, &mut position, &options).await?;
                if was_oplog && position.oplog.is_none() {
                    out.push_back(SourceEvent::Supersede { group: GroupName(OPLOG_GROUP.into()) });
                }
                (position, list(&node, cluster.selection()).await?)
            }
        };
        let turns = Turns::new(ctx.budget.clone(), ctx.stop.clone());
        let window = super::consistency::window(&node).await;
        let mut run = Self {
            cluster,
            options,
            ctx,
            node,
            position,
            plan: VecDeque::new(),
            listed: BTreeMap::new(),
            lanes: BTreeMap::new(),
            oplog: None,
            turns,
            window,
            out,
            ended: false,
        };
        run.plan(listing, after.is_some())?;
        Ok(run)
    }

    /// Decides what is still to be read.
    fn plan(&mut self, listing: Vec<Listed>, resumed: bool) -> Result<()> {
        let same_node = self.node.knows_records_of(&self.position.node);
        self.position.node = self.node.id.clone();
        let frontier = self.position.frontier.clone();
        let mut begun = BTreeMap::new();
        for listed in listing {
            let is_begun = frontier.as_ref().is_some_and(|(db, name)| listed.key() <= (db.as_str(), name.as_str()));
            if is_begun {
                begun.insert((listed.database.clone(), listed.name.clone()), listed);
            } else if !self.position.moved.contains(&uuid_text(&listed).unwrap_or_default()) {
                self.plan.push_back(listed);
            }
        }
        let pending = self.pending();
        if resumed && self.position.pending != pending {
            let (before, now) = (self.position.pending.0, pending.0);
            self.warn(None, format!(
                "the list of collections that were still to be read has changed while the backup stood still: it had {before}, \
                 now it has {now}; what was dropped or renamed in the meantime may be missing"
            ));
        }
        self.position.pending = pending;
        for mut open in std::mem::take(&mut self.position.open) {
            let key = (open.database.clone(), open.name.clone());
            let now = begun.remove(&key).or_else(|| self.take_planned(&key));
            let Some(listed) = now.filter(|now| open.uuid.is_none() || uuid_text(now) == open.uuid) else {
                self.position.open.push(open);
                continue;
            };
            if let (Place::Record { .. }, false) = (&open.at, same_node) {
                let why = "the server that it was read from is another one now, or was started again; it is read again";
                self.supersede(&mut open, &listed, why);
            }
            self.listed.insert(open.lane, listed);
            self.position.open.push(open);
        }
        self.start_lanes();
        Ok(())
    }

    /// A collection may have come to lie behind the frontier only because an earlier one was renamed to it.
    fn take_planned(&mut self, key: &(String, String)) -> Option<Listed> {
        let at = self.plan.iter().position(|listed| listed.key() == (key.0.as_str(), key.1.as_str()))?;
        self.plan.remove(at)
    }

    fn pending(&self) -> (u64, u64) {
        let sum = self.plan.iter().fold(0u64, |sum, listed| sum.wrapping_add(listed.print()));
        (self.plan.len() as u64, sum)
    }

    /// Starts to read everything that is open, from where it stands, and asks for memory in the order of turns.
    fn start_lanes(&mut self) {
        self.turns = Turns::new(self.ctx.budget.clone(), self.ctx.stop.clone());
        self.lanes.clear();
        self.oplog = None;
        let lanes: Vec<u32> = self.position.open.iter().map(|open| open.lane).collect();
        lanes.into_iter().for_each(|lane| self.start_lane(lane));
        if let Some(oplog) = &self.position.oplog {
            let selection = self.cluster.selection().clone();
            let lane = OplogLane::start(
                self.node.clone(),
                selection,
                oplog,
                self.ctx.limit.clone(),
                self.turns.closed.clone(),
            );
            self.oplog = Some(lane);
            if !self.position.turns.contains(&OPLOG_LANE) {
                self.position.turns.push(OPLOG_LANE);
            }
        }
        for lane in self.position.turns.clone() {
            self.ask(lane);
        }
    }

    fn start_lane(&mut self, lane: u32) {
        let (Some(listed), Some(open)) =
            (self.listed.get(&lane), self.position.open.iter().find(|open| open.lane == lane))
        else {
            return;
        };
        if open.at == Place::End {
            return;
        }
        let weakest = Concern::weakest(self.node.topology);
        let concern = match self.position.mode {
            Mode::Snapshot(time) if !open.outside => Concern::Snapshot(time),
            _ => weakest,
        };
        let by = match (self.options.order, &open.at, self.node.topology) {
            (_, Place::Id(_), _) => By::Id,
            (_, Place::Record { .. }, _) => By::Record,
            (ReadOrder::Id, _, _) if !listed.capped => By::Id,
            (_, _, Topology::Sharded) => By::Nothing,
            _ => By::Record,
        };
        let work = Work { node: self.node.clone(), listed: listed.clone(), concern, by, limit: self.ctx.limit.clone() };
        self.lanes.insert(lane, Lane::start(work, open, self.turns.closed.clone()));
    }

    fn ask(&self, lane: u32) {
        if lane == OPLOG_LANE {
            if let Some(oplog) = &self.oplog {
                self.turns.ask(&oplog.asked);
            }
        } else if let Some(lane) = self.lanes.get(&lane) {
            self.turns.ask(&lane.asked);
        }
    }

    /// The next event; none at the end, or when a stop cut the run short.
    pub(super) async fn next(&mut self) -> Result<Option<SourceEvent>> {
        loop {
            if let Some(event) = self.out.pop_front() {
                return Ok(Some(event));
            }
            if self.ended {
                return Ok(None);
            }
            self.step().await?;
        }
    }

    async fn step(&mut self) -> Result<()> {
        if !self.position.prelude {
            return self.prelude().await;
        }
        self.warn_in_time();
        if self.close_finished().await? {
            return Ok(());
        }
        self.open_more();
        let Some(lane) = self.position.turns.first().copied() else {
            return self.finish();
        };
        if lane == OPLOG_LANE {
            return self.oplog_turn().await;
        }
        let Some(running) = self.lanes.get_mut(&lane) else {
            // It was found gone when the run went on.
            return self.trouble(lane, Trouble::Gone).await;
        };
        let Some(coming) = running.pieces.recv().await else {
            return self.broke_off();
        };
        match coming.await.map_err(|e| Error::permanent("a reader panicked").because(e))? {
            Ok(piece) => self.deliver(lane, piece).await,
            Err(trouble) => self.trouble(lane, trouble).await,
        }
    }

    /// A reader gives nothing any more: because of a stop, or it must not be.
    fn broke_off(&mut self) -> Result<()> {
        if !self.ctx.stop.is_cancelled() {
            return Err(Error::permanent("a reader ended too early"));
        }
        self.ended = true;
        Ok(())
    }

    async fn prelude(&mut self) -> Result<()> {
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

    /// Begins collections while there are lanes for them.
    fn open_more(&mut self) {
        while self.position.open.len() < LANES {
            let Some(listed) = self.plan.pop_front() else { return };
            self.position.frontier = Some((listed.database.clone(), listed.name.clone()));
            self.position.pending.0 = self.position.pending.0.wrapping_sub(1);
            self.position.pending.1 = self.position.pending.1.wrapping_sub(listed.print());
            self.open(listed);
        }
    }

    fn open(&mut self, listed: Listed) {
        let lane = self.position.next_lane;
        self.position.next_lane += 1;
        let outside = listed.capped;
        self.position.open.push(Open {
            lane,
            database: listed.database.clone(),
            name: listed.name.clone(),
            uuid: uuid_text(&listed),
            metadata: false,
            batch: 0,
            slice: 0,
            tally: Tally::new(listed.capped),
            at: Place::Start,
            outside,
        });
        self.listed.insert(lane, listed);
        self.start_lane(lane);
        for _ in 0..AHEAD {
            self.position.turns.push(lane);
            self.ask(lane);
        }
    }

    /// Ends the turn that is being taken; its lane gets another one at the end of the queue.
    fn turn_over(&mut self, lane: u32, last: bool) {
        if last {
            self.position.turns.retain(|turn| *turn != lane);
            return;
        }
        if self.position.turns.first() == Some(&lane) {
            self.position.turns.remove(0);
        }
        self.position.turns.push(lane);
        self.ask(lane);
    }

    async fn deliver(&mut self, lane: u32, piece: Piece) -> Result<()> {
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

    async fn slice(&mut self, lane: u32, listed: &Listed, slice: Slice, permit: &Arc<Permit>) -> Result<()> {
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

    fn entry(
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

    fn warn(&mut self, name: Option<EntryName>, message: String) {
        self.out.push_back(SourceEvent::Warning(SourceWarning { name, message }));
    }

    /// Tells the digests of collections that are complete, and makes room for others.
    async fn close_finished(&mut self) -> Result<bool> {
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

    fn note_outside(&mut self, name: String) {
        const MORE: &str = "… and more";
        let outside = &mut self.position.outside;
        if outside.contains(&name) || outside.last().is_some_and(|last| last == MORE) {
            return;
        }
        let length: usize = outside.iter().map(String::len).sum();
        outside.push(if length + name.len() > MAX_OUTSIDE { MORE.into() } else { name });
    }

    /// Says that the snapshot comes to its end while there is still time.
    fn warn_in_time(&mut self) {
        let Mode::Snapshot(time) = self.position.mode else { return };
        let age = jiff::Timestamp::now().as_second().saturating_sub(i64::from(time.t)).max(0) as f64;
        if self.position.warned || age < self.window as f64 * WARN_AT {
            return;
        }
        self.position.warned = true;
        let then = if self.position.oplog_start.is_some() {
            "the backup then goes on with the oplog beside it"
        } else {
            "the backup then pauses, since the user may not read the oplog; a user with the role `backup` may"
        };
        let window = self.window;
        self.warn(
            None,
            format!(
                "the snapshot is {age} s old, and the server keeps old versions for {window} s \
             (minSnapshotHistoryWindowInSeconds); {then}"
            ),
        );
    }

    /// What has been delivered of a collection is void, and it comes again from its start.
    fn supersede(&mut self, open: &mut Open, listed: &Listed, why: &str) {
        if open.is_begun() {
            let group = listed.group();
            tracing::warn!(%group, "{why}");
            self.out.push_back(SourceEvent::Supersede { group });
        }
        open.reset(listed.capped);
    }

    async fn trouble(&mut self, lane: u32, trouble: Trouble) -> Result<()> {
        let Some(at) = self.position.open.iter().position(|open| open.lane == lane) else {
            self.position.turns.retain(|turn| *turn != lane);
            return Ok(());
        };
        if !matches!(trouble, Trouble::Failed(_) | Trouble::Denied(_)) {
            // All readers are about to go on from where they stand.
            self.node.ensure_same().await?;
        }
        match trouble {
            Trouble::Failed(error) => Err(error),
            Trouble::TooOld => {
                let old = std::mem::replace(&mut self.position.mode, Mode::Oplog);
                let switched = switch(&self.node, &old, self.position.oplog_start).await;
                let (mode, message) = match switched {
                    Ok(switched) => switched,
                    Err(error) => {
                        self.position.mode = old;
                        return Err(error);
                    }
                };
                if mode == Mode::Oplog {
                    self.position.oplog = self.position.oplog_start.map(OplogPosition::new);
                }
                self.position.mode = mode;
                self.warn(None, message);
                self.start_lanes();
                Ok(())
            }
            Trouble::NotInSnapshot if self.position.open[at].outside => {
                Err(Error::transient("the server speaks of a snapshot, where none was asked for"))
            }
            Trouble::NotInSnapshot => {
                let open = &self.position.open[at];
                let name = layout::metadata_name(&open.database, &open.name);
                let message = "was made or altered after the snapshot was chosen; kept as it is now";
                self.warn(Some(name), message.into());
                let mut open = self.position.open.remove(at);
                open.outside = true;
                self.position.open.insert(at, open);
                self.start_lanes();
                Ok(())
            }
            Trouble::PlaceLost => {
                let mut open = self.position.open.remove(at);
                if let Some(listed) = self.listed.get(&lane).cloned() {
                    self.supersede(&mut open, &listed, "the place where reading stopped is lost; it is read again");
                }
                self.position.open.insert(at, open);
                self.start_lanes();
                Ok(())
            }
            Trouble::Denied(error) => {
                let open = self.position.open.remove(at);
                self.give_up(open, format!("skipped: {}", error.chain()));
                Ok(())
            }
            Trouble::Gone => self.gone(at).await,
        }
    }

    /// A collection is left out; what has been delivered of it is void.
    fn give_up(&mut self, open: Open, message: String) {
        let group = layout::group(&open.database, &open.name);
        if open.is_begun() {
            self.out.push_back(SourceEvent::Supersede { group });
        }
        self.warn(Some(layout::metadata_name(&open.database, &open.name)), message);
        self.position.turns.retain(|turn| *turn != open.lane);
        self.lanes.remove(&open.lane);
        self.listed.remove(&open.lane);
    }

    /// A collection is not there any more under its name and identity: it was dropped, made anew or renamed.
    async fn gone(&mut self, at: usize) -> Result<()> {
        let mut open = self.position.open.remove(at);
        let now = list_database(&self.node, self.cluster.selection(), &open.database).await?;
        let name = layout::metadata_name(&open.database, &open.name);
        if let Some(again) = now.iter().find(|listed| listed.name == open.name) {
            if uuid_text(again) == open.uuid {
                // Something else stopped the reading; it goes on where it stands.
                self.position.open.insert(at, open);
                return Err(Error::transient("the server stopped reading").on(again.group()));
            }
            self.supersede(&mut open, again, "it was dropped and made anew; it is read again");
            if self.position.mode != Mode::Oplog {
                self.warn(Some(name), "was dropped and made anew while the backup ran; kept as it is now".into());
            }
            // What is new is not in the snapshot.
            open.outside = true;
            open.uuid = uuid_text(again);
            self.listed.insert(open.lane, again.clone());
            self.position.open.insert(at, open);
            self.start_lanes();
            return Ok(());
        }
        let renamed = now.into_iter().find(|listed| open.uuid.is_some() && uuid_text(listed) == open.uuid);
        match renamed {
            Some(_) if self.position.mode == Mode::Oplog => {
                Err(oplog::renamed(&format!("{}.{}", open.database, open.name)))
            }
            Some(other) => {
                let message = format!("was renamed to {} while the backup ran; kept under that name", other.name);
                self.give_up(open, message);
                if !self.plan.iter().any(|listed| listed.key() == other.key()) {
                    self.position.moved.extend(uuid_text(&other));
                    self.open(other);
                    if let Some(open) = self.position.open.last_mut() {
                        open.outside = true;
                    }
                }
                self.start_lanes();
                Ok(())
            }
            None => {
                let message = match self.position.mode {
                    Mode::Oplog => "left out: it was dropped while the backup ran",
                    _ => "skipped: it was dropped while the backup ran",
                };
                self.give_up(open, message.into());
                Ok(())
            }
        }
    }

    async fn oplog_turn(&mut self) -> Result<()> {
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
    fn finish(&mut self) -> Result<()> {
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

fn uuid_text(listed: &Listed) -> Option<String> {
    listed.uuid.map(hex::encode)
}

impl ReadConsistency {
    /// Whether it was chosen to go on without.
    pub(super) fn is_best_effort(self) -> bool {
        matches!(self, Self::BestEffort)
    }
}
