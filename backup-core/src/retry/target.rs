//! A restore target whose calls are retried.

use super::Retrying;
use crate::adapter::{
    ContentReader, EntryProgress, Granularity, RestorePlan, RestoreTarget, SmallEntry, VerifyReport, Warning, Written,
};
use crate::model::{Entry, EntryKind, Identity};
use crate::{Error, Result};
use async_trait::async_trait;

/// Every call is repeated but `write_large`, which passes through: its content is consumed, and the caller starts it again
/// with the progress that was saved.
///
/// - `write_small`: after an outer error the whole batch comes again, otherwise only the entries whose own error may pass.
///   An entry that an attempt wrote whose reply was lost is `AlreadyThere` afterwards.
#[deny(clippy::missing_trait_methods)]
#[async_trait]
impl<T: RestoreTarget + ?Sized> RestoreTarget for Retrying<T> {
    fn identity(&self) -> Identity {
        self.inner.identity()
    }

    fn granularity(&self, kind: &EntryKind) -> Granularity {
        self.inner.granularity(kind)
    }

    async fn check(&self) -> Result<()> {
        self.call("checking the restore target", || self.inner.check()).await
    }

    async fn is_empty(&self) -> Result<bool> {
        self.call("looking into the restore target", || self.inner.is_empty()).await
    }

    async fn prepare(&self, plan: &RestorePlan) -> Result<()> {
        self.call("preparing the restore target", || self.inner.prepare(plan)).await
    }

    async fn write_small(&self, plan: &RestorePlan, batch: Vec<SmallEntry>) -> Result<Vec<Result<Written>>> {
        let mut attempts = self.attempts("writing entries");
        let mut answers: Vec<Option<Result<Written>>> = batch.iter().map(|_| None).collect();
        // Which entries of the batch are still to be written.
        let mut todo: Vec<usize> = (0..batch.len()).collect();
        while !todo.is_empty() {
            let part = todo.iter().filter_map(|at| batch.get(*at).cloned()).collect();
            let written = match self.inner.write_small(plan, part).await {
                Ok(written) => written,
                Err(error) => {
                    attempts.failed(error).await?;
                    continue;
                }
            };
            if written.len() != todo.len() {
                let text = format!("{} answers for {} entries", written.len(), todo.len());
                return Err(Error::permanent(text).on(self.inner.identity()));
            }
            let tried = todo.len();
            todo.retain({
                let mut written = written.into_iter();
                let answers = &mut answers;
                move |at| {
                    let answer = written.next();
                    let again = matches!(&answer, Some(Err(error)) if error.is_retryable());
                    answers[*at] = answer;
                    again
                }
            });
            if todo.len() < tried {
                attempts.progress();
            }
            if let Some(Err(error)) = todo.first().and_then(|at| answers[*at].as_ref())
                && !attempts.wait(error).await
            {
                for at in std::mem::take(&mut todo) {
                    answers[at] = answers[at].take().map(|answer| answer.map_err(|error| attempts.give_up(error)));
                }
            }
        }
        Ok(answers.into_iter().flatten().collect())
    }

    async fn write_large(
        &self,
        plan: &RestorePlan,
        entry: &Entry,
        content: ContentReader,
        progress: &EntryProgress,
    ) -> Result<Result<Written>> {
        self.inner.write_large(plan, entry, content, progress).await
    }

    async fn sync(&self) -> Result<()> {
        self.call("making the restore durable", || self.inner.sync()).await
    }

    fn take_warnings(&self) -> Vec<Warning> {
        self.inner.take_warnings()
    }

    async fn finish(&self, plan: &RestorePlan) -> Result<Vec<Warning>> {
        self.call("finishing the restore", || self.inner.finish(plan)).await
    }

    async fn discard(&self, plan: &RestorePlan) -> Result<()> {
        self.call("removing staged leftovers", || self.inner.discard(plan)).await
    }

    async fn verify(&self, plan: &RestorePlan) -> Result<VerifyReport> {
        self.call("verifying the restore", || self.inner.verify(plan)).await
    }
}
