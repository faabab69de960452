//! The plan of a restore as its target sees it.

use super::cut::contents;
use super::ledger::Ledger;
use super::plan::Plan;
use crate::Result;
use crate::adapter::{MismatchKind, PlanEntries, SavedProgress, SmallEntry, SourceFacts, Wanted};
use crate::engine::fetch::Fetcher;
use crate::model::{Entry, EntryName};
use async_trait::async_trait;
use futures::stream::BoxStream;
use std::sync::Arc;

/// The plan as the target sees it.
#[derive(Debug)]
pub(super) struct TargetPlan {
    pub(super) plan: Plan,
    pub(super) ledger: Arc<Ledger>,
    /// Bytes that contents read beside the restore may occupy.
    pub(super) memory: u64,
    /// What earlier attempts have written.
    pub(super) written: Option<u64>,
}

#[async_trait]
impl PlanEntries for TargetPlan {
    fn entries(&self) -> BoxStream<'static, Result<Entry>> {
        self.plan.clone().restored()
    }

    async fn find(&self, name: &EntryName) -> Result<Option<Entry>> {
        self.plan.find(name).await
    }

    fn contents(&self, wanted: Wanted) -> BoxStream<'static, Result<SmallEntry>> {
        let fetcher = Fetcher::new(self.plan.archive.clone(), self.memory, self.plan.limit.clone(), 2);
        contents(self.plan.clone(), fetcher, wanted)
    }

    fn selects(&self, name: &EntryName) -> bool {
        self.plan.chosen.contains_name(name)
    }

    fn facts(&self) -> SourceFacts {
        let manifest = self.plan.archive.manifest();
        SourceFacts { consistency: manifest.consistency.clone(), group_digests: manifest.group_digests.clone() }
    }

    fn known_to_differ(&self, name: &EntryName) -> Option<MismatchKind> {
        self.ledger.known_to_differ(name)
    }

    fn written(&self) -> Option<u64> {
        self.written
    }

    fn unfinished(&self) -> Vec<SavedProgress> {
        self.ledger.unfinished()
    }
}
