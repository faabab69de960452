//! Job logs: page by page, live, and cleared.

use super::BackupService;
use super::operations::LOOK_EVERY;
use crate::model::{LogPage, LogQuery, OperationId, Request, StoredLogRecord};
use crate::state::State;
use crate::{Error, Result};
use futures::Stream;
use jiff::SignedDuration;
use std::time::Duration;

impl BackupService {
    /// A page of an operation's job log, behind a cursor.
    ///
    /// # Errors
    /// `Invalid` when the page is to have no records or more than 10,000; what the store met.
    pub async fn log(&self, id: &OperationId, query: &LogQuery) -> Result<LogPage> {
        self.inner.store.page_log(id, query).await
    }

    /// Follows the job log of an operation, wherever it runs: what is there behind the query's cursor, then what is added, until the
    /// operation is completed, failed, paused or cancelled, is not asked to go on, and all of it was given.
    pub fn follow_log(
        &self,
        id: &OperationId,
        query: LogQuery,
    ) -> impl Stream<Item = Result<StoredLogRecord>> + Send + use<> {
        let (service, id, mut query) = (self.clone(), id.clone(), query);
        async_stream::try_stream! {
            loop {
                // Looked at before the page: what is added between the two is on the page.
                let operation = match service.operation(&id).await {
                    Err(error) if error.is_retryable() => {
                        tracing::warn!(error = %error.chain(), "the store does not answer as it should");
                        tokio::time::sleep(LOOK_EVERY).await;
                        continue;
                    }
                    operation => operation?,
                };
                let goes_on = operation.request == Some(Request::Resume);
                let ended = !goes_on && !matches!(operation.state, State::Pending | State::Running | State::Committing);
                loop {
                    let page = match service.log(&id, &query).await {
                        Err(error) if error.is_retryable() => {
                            tracing::warn!(error = %error.chain(), "the store does not answer as it should");
                            tokio::time::sleep(LOOK_EVERY).await;
                            continue;
                        }
                        page => page?,
                    };
                    query.after = page.next_after;
                    for record in page.records {
                        yield record;
                    }
                    if !page.more {
                        break;
                    }
                }
                if ended {
                    break;
                }
                tokio::time::sleep(LOOK_EVERY).await;
            }
        }
    }

    /// Clears log records that are older than this; how many that were.
    ///
    /// # Errors
    /// `Invalid` when that is longer than time is counted; what the store met.
    pub async fn clear_logs(&self, older_than: Duration) -> Result<u64> {
        let age = SignedDuration::try_from(older_than).ok();
        let before = age.and_then(|age| self.now().checked_sub(age).ok());
        let before = before.ok_or_else(|| Error::invalid("no log can be as old as that"))?;
        self.inner.store.clear_logs(before).await
    }
}
