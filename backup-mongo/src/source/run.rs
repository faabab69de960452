//! One run through a deployment: reads several collections at once, and delivers in one order.

mod deliver;
mod lanes;
mod trouble;

use super::consistency::{Beginning, begin, go_on, window};
use super::lane::{Lane, Trouble};
use super::listing::{Listed, list};
use super::node::Node;
use super::oplog::OplogLane;
use super::position::{Mode, Position};
use super::turns::Turns;
use super::{MongoSourceOptions, ReadConsistency};
use crate::client::MongoCluster;
use crate::layout::OPLOG_GROUP;
use backup_core::adapter::{Cursor, ReadContext, SourceEvent, SourceWarning};
use backup_core::model::{EntryName, GroupName};
use backup_core::{Error, Result};
use std::collections::{BTreeMap, VecDeque};

/// Collections that are read at once.
const LANES: usize = 4;
/// Pieces of one collection that are asked for ahead.
const AHEAD: usize = 3;
/// The oplog's place among the turns; collections' lanes count from 1.
pub(in crate::source) const OPLOG_LANE: u32 = 0;
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
        let window = window(&node).await;
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

    fn warn(&mut self, name: Option<EntryName>, message: String) {
        self.out.push_back(SourceEvent::Warning(SourceWarning { name, message }));
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
