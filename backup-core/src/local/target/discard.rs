//! A restore that is given up: its staged files go, what was published stays.

use super::Shared;
use super::finish::BATCH;
use crate::adapter::RestorePlan;
use crate::local::blocking::blocking;
use crate::model::Entry;
use crate::{Error, Result};
use futures::TryStreamExt;
use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::Ordering;

/// Removes the staged files of a plan. Trouble in one directory does not keep the others from being cleaned; the first error is told.
pub(super) async fn discard(shared: &Arc<Shared>, plan: &RestorePlan) -> Result<()> {
    // A dropped call goes on on its blocking thread, and may be about to stage something.
    shared.work.close();
    shared.work.wait().await;
    shared.work.reopen();
    let there = shared.clone();
    if !blocking(move || Ok(there.path.symlink_metadata().is_ok())).await? {
        return Ok(());
    }
    let mut looked_through = VecDeque::new();
    let mut first = None;
    let mut batches = plan.entries.entries().try_chunks(BATCH).map_err(|e| e.1);
    while let Some(batch) = batches.try_next().await? {
        let (shared, plan) = (shared.clone(), plan.clone());
        let failed;
        (looked_through, failed) = blocking(move || shared.clean_beside(&plan, &batch, looked_through)).await?;
        first = first.or(failed);
    }
    match first {
        None => {
            shared.leftovers.store(false, Ordering::Relaxed);
            Ok(())
        }
        Some(error) => Err(error.context("not all staged files could be removed")),
    }
}

impl Shared {
    /// Removes the staged files beside some entries. Gives the first error that is about one directory.
    fn clean_beside(
        &self,
        plan: &RestorePlan,
        batch: &[Entry],
        mut looked_through: VecDeque<Vec<u8>>,
    ) -> Result<(VecDeque<Vec<u8>>, Option<Error>)> {
        let root = self.root()?;
        let mut first = None;
        for entry in batch {
            match self.clean_directory_of(&root, plan, &self.names.path(&entry.name), &mut looked_through) {
                Err(e) if super::is_fatal(&e) => return Err(e.on(&entry.name)),
                Err(e) => first = first.or(Some(e)),
                Ok(()) => {}
            }
        }
        Ok((looked_through, first))
    }
}
