//! A restore target whose calls are recorded.

use super::Recorder;
use crate::Method;
use crate::content::rewrap;
use async_trait::async_trait;
use backup_core::Result;
use backup_core::adapter::{
    ContentReader, EntryProgress, Granularity, RestorePlan, RestoreTarget, SmallEntry, VerifyReport, Warning, Written,
};
use backup_core::model::{Entry, EntryKind, Identity};
use futures::StreamExt;
use std::sync::{Arc, Mutex, PoisonError};

/// Any restore target, its calls recorded.
#[derive(Debug)]
pub struct RecordingTarget {
    inner: Arc<dyn RestoreTarget>,
    recorder: Recorder,
}

impl RecordingTarget {
    /// Wraps a restore target.
    pub fn new(inner: Arc<dyn RestoreTarget>, recorder: Recorder) -> Arc<Self> {
        Arc::new(Self { inner, recorder })
    }
}

#[deny(clippy::missing_trait_methods)]
#[async_trait]
impl RestoreTarget for RecordingTarget {
    fn identity(&self) -> Identity {
        self.inner.identity()
    }

    fn granularity(&self, kind: &EntryKind) -> Granularity {
        self.inner.granularity(kind)
    }

    async fn check(&self) -> Result<()> {
        self.recorder.call(Method::Check, "", 0, self.inner.check()).await
    }

    async fn is_empty(&self) -> Result<bool> {
        self.recorder.call(Method::IsEmpty, "", 0, self.inner.is_empty()).await
    }

    async fn prepare(&self, plan: &RestorePlan) -> Result<()> {
        self.recorder.call(Method::Prepare, "", 0, self.inner.prepare(plan)).await
    }

    async fn write_small(&self, plan: &RestorePlan, batch: Vec<SmallEntry>) -> Result<Vec<Result<Written>>> {
        let names: Vec<String> = batch.iter().map(|small| small.entry.name.to_string()).collect();
        let bytes = batch.iter().map(|small| small.content.len() as u64).sum();
        self.recorder.call(Method::WriteSmall, names.join(" "), bytes, self.inner.write_small(plan, batch)).await
    }

    /// The range starts where the content does.
    async fn write_large(
        &self,
        plan: &RestorePlan,
        entry: &Entry,
        content: ContentReader,
        progress: &EntryProgress,
    ) -> Result<Result<Written>> {
        let start = content.position();
        let range = start..entry.size.max(start);
        let running = Arc::new(Mutex::new(self.recorder.begin(Method::WriteLarge, &entry.name, Some(range))));
        let counted = running.clone();
        let content = rewrap(content, progress, |stream| {
            stream
                .inspect(move |bytes| {
                    if let Ok(bytes) = bytes {
                        counted.lock().unwrap_or_else(PoisonError::into_inner).bytes(bytes.len() as u64);
                    }
                })
                .boxed()
        });
        let answer = self.inner.write_large(plan, entry, content, progress).await;
        let mut running = running.lock().unwrap_or_else(PoisonError::into_inner);
        match &answer {
            Ok(inner) => running.end(inner),
            outer => running.end(outer),
        }
        drop(running);
        answer
    }

    async fn sync(&self) -> Result<()> {
        self.recorder.call(Method::Sync, "", 0, self.inner.sync()).await
    }

    fn take_warnings(&self) -> Vec<Warning> {
        self.inner.take_warnings()
    }

    async fn finish(&self, plan: &RestorePlan) -> Result<Vec<Warning>> {
        self.recorder.call(Method::Finish, "", 0, self.inner.finish(plan)).await
    }

    async fn discard(&self, plan: &RestorePlan) -> Result<()> {
        self.recorder.call(Method::Discard, "", 0, self.inner.discard(plan)).await
    }

    async fn verify(&self, plan: &RestorePlan) -> Result<VerifyReport> {
        self.recorder.call(Method::Verify, "", 0, self.inner.verify(plan)).await
    }
}
