//! A restore target that fails by a script.

use super::{Fault, Script, body};
use crate::Method;
use crate::content::rewrap;
use async_trait::async_trait;
use backup_core::Result;
use backup_core::adapter::{
    ContentReader, EntryProgress, Granularity, RestorePlan, RestoreTarget, SmallEntry, VerifyReport, Warning, Written,
};
use backup_core::model::{Entry, EntryKind, Identity};
use std::sync::Arc;

/// Any restore target, failing by a [`Script`].
#[derive(Debug)]
pub struct FaultyTarget {
    inner: Arc<dyn RestoreTarget>,
    script: Script,
}

impl FaultyTarget {
    /// Wraps a restore target.
    pub fn new(inner: Arc<dyn RestoreTarget>, script: Script) -> Arc<Self> {
        Arc::new(Self { inner, script })
    }
}

#[deny(clippy::missing_trait_methods)]
#[async_trait]
impl RestoreTarget for FaultyTarget {
    fn identity(&self) -> Identity {
        self.inner.identity()
    }

    fn granularity(&self, kind: &EntryKind) -> Granularity {
        self.inner.granularity(kind)
    }

    async fn check(&self) -> Result<()> {
        self.script.call(Method::Check, "", self.inner.check()).await
    }

    async fn is_empty(&self) -> Result<bool> {
        self.script.call(Method::IsEmpty, "", self.inner.is_empty()).await
    }

    async fn prepare(&self, plan: &RestorePlan) -> Result<()> {
        self.script.call(Method::Prepare, "", self.inner.prepare(plan)).await
    }

    async fn write_small(&self, plan: &RestorePlan, batch: Vec<SmallEntry>) -> Result<Vec<Result<Written>>> {
        let subject = batch.iter().map(|small| small.entry.name.to_string()).collect::<Vec<_>>().join(" ");
        self.script.call(Method::WriteSmall, subject, self.inner.write_small(plan, batch)).await
    }

    async fn write_large(
        &self,
        plan: &RestorePlan,
        entry: &Entry,
        content: ContentReader,
        progress: &EntryProgress,
    ) -> Result<Result<Written>> {
        match self.script.decide(Method::WriteLarge, &entry.name) {
            Some(fault @ (Fault::Break { .. } | Fault::Stall { .. })) => {
                let spoiled = rewrap(content, progress, |stream| body::body(stream, Some(fault)));
                self.inner.write_large(plan, entry, spoiled, progress).await
            }
            fault => Script::apply(fault, self.inner.write_large(plan, entry, content, progress)).await,
        }
    }

    async fn sync(&self) -> Result<()> {
        self.script.call(Method::Sync, "", self.inner.sync()).await
    }

    fn take_warnings(&self) -> Vec<Warning> {
        self.inner.take_warnings()
    }

    async fn finish(&self, plan: &RestorePlan) -> Result<Vec<Warning>> {
        self.script.call(Method::Finish, "", self.inner.finish(plan)).await
    }

    async fn discard(&self, plan: &RestorePlan) -> Result<()> {
        self.script.call(Method::Discard, "", self.inner.discard(plan)).await
    }

    async fn verify(&self, plan: &RestorePlan) -> Result<VerifyReport> {
        self.script.call(Method::Verify, "", self.inner.verify(plan)).await
    }
}
