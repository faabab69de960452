//! What becomes of a collection that cannot be read on.

use super::{Run, uuid_text};
use crate::layout;
use crate::source::consistency::switch;
use crate::source::lane::Trouble;
use crate::source::listing::{Listed, list_database};
use crate::source::oplog;
use crate::source::position::{Mode, Open, OplogPosition};
use backup_core::adapter::SourceEvent;
use backup_core::{Error, Result};

impl Run {
    /// What has been delivered of a collection is void, and it comes again from its start.
    pub(super) fn supersede(&mut self, open: &mut Open, listed: &Listed, why: &str) {
        if open.is_begun() {
            let group = listed.group();
            tracing::warn!(%group, "{why}");
            self.out.push_back(SourceEvent::Supersede { group });
        }
        open.reset(listed.capped);
    }

    pub(super) async fn trouble(&mut self, lane: u32, trouble: Trouble) -> Result<()> {
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
    pub(super) fn give_up(&mut self, open: Open, message: String) {
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
    pub(super) async fn gone(&mut self, at: usize) -> Result<()> {
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
                if !self.is_still_to_be_read(&other) {
                    self.make_way(&other);
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

    /// Whether a collection that was found under another name will be read under that name all the same, or is being read so.
    fn is_still_to_be_read(&self, other: &Listed) -> bool {
        let is_read = |open: &Open| open.key() == other.key() && open.uuid == uuid_text(other);
        self.plan.iter().any(|listed| listed.key() == other.key()) || self.position.open.iter().any(is_read)
    }

    /// Voids what was delivered under a name that another collection has taken.
    fn make_way(&mut self, other: &Listed) {
        let replaced = self.position.open.iter().position(|open| open.key() == other.key());
        let is_begun = match replaced.map(|at| self.position.open.remove(at)) {
            Some(open) => {
                self.position.turns.retain(|turn| *turn != open.lane);
                self.lanes.remove(&open.lane);
                self.listed.remove(&open.lane);
                open.is_begun()
            }
            None => {
                let frontier = self.position.frontier.as_ref();
                let moved = !self.position.moved.is_empty();
                moved || frontier.is_some_and(|(database, name)| other.key() <= (database.as_str(), name.as_str()))
            }
        };
        if is_begun {
            let group = other.group();
            tracing::warn!(%group, "another collection has taken its name; it is read again");
            self.out.push_back(SourceEvent::Supersede { group });
        }
    }
}
