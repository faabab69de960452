//! Which collections are read at once, and whose turn it is.

use super::{AHEAD, LANES, OPLOG_LANE, Run, uuid_text};
use crate::client::Topology;
use crate::digest::Tally;
use crate::source::ReadOrder;
use crate::source::lane::{Lane, Work};
use crate::source::listing::Listed;
use crate::source::oplog::OplogLane;
use crate::source::position::{Mode, Open, Place};
use crate::source::query::{By, Concern};
use crate::source::turns::Turns;
use backup_core::Result;
use std::collections::BTreeMap;

impl Run {
    /// Decides what is still to be read.
    pub(super) fn plan(&mut self, listing: Vec<Listed>, resumed: bool) -> Result<()> {
        let same_node = self.node.knows_records_of(&self.position.node);
        self.position.node = self.node.id.clone();
        let frontier = self.position.frontier.clone();
        let mut begun = BTreeMap::new();
        for listed in listing {
            let before = frontier.as_ref().is_some_and(|(db, name)| listed.key() <= (db.as_str(), name.as_str()));
            // One that was renamed is read out of order.
            let moved = uuid_text(&listed).is_some_and(|uuid| self.position.moved.contains(&uuid));
            if before || moved {
                begun.insert((listed.database.clone(), listed.name.clone()), listed);
            } else {
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
            let now = begun.remove(&key);
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

    pub(super) fn pending(&self) -> (u64, u64) {
        let sum = self.plan.iter().fold(0u64, |sum, listed| sum.wrapping_add(listed.print()));
        (self.plan.len() as u64, sum)
    }

    /// Starts to read everything that is open, from where it stands, and asks for memory in the order of turns.
    pub(super) fn start_lanes(&mut self) {
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

    pub(super) fn start_lane(&mut self, lane: u32) {
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

    pub(super) fn ask(&self, lane: u32) {
        if lane == OPLOG_LANE {
            if let Some(oplog) = &self.oplog {
                self.turns.ask(&oplog.asked);
            }
        } else if let Some(lane) = self.lanes.get(&lane) {
            self.turns.ask(&lane.asked);
        }
    }

    /// Begins collections while there are lanes for them.
    pub(super) fn open_more(&mut self) {
        while self.position.open.len() < LANES {
            let Some(listed) = self.plan.pop_front() else { return };
            self.position.frontier = Some((listed.database.clone(), listed.name.clone()));
            self.position.pending.0 = self.position.pending.0.wrapping_sub(1);
            self.position.pending.1 = self.position.pending.1.wrapping_sub(listed.print());
            self.open(listed);
        }
    }

    pub(super) fn open(&mut self, listed: Listed) {
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
    pub(super) fn turn_over(&mut self, lane: u32, last: bool) {
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
}
