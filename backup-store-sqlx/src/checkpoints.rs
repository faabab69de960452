//! Checkpoints: one for each operation, in a table of their own.

use crate::db::Db;
use crate::error::failed;
use crate::{rows, sql};
use backup_core::Result;
use backup_core::model::{Checkpoint, Fence, OperationId};
use bytes::Bytes;
use jiff::Timestamp;
use sqlx::AnyConnection;

impl Db {
    pub(crate) async fn save_checkpoint(&self, fence: &Fence, checkpoint: &Checkpoint) -> Result<()> {
        let mut tx = self.begin().await?;
        let (stored, now) = self.lock_operation(&mut tx, &fence.operation).await?;
        stored.check_fence(fence)?;
        self.put_checkpoint(&mut tx, &fence.operation, checkpoint, now).await?;
        self.commit(tx).await
    }

    pub(crate) async fn checkpoint(&self, id: &OperationId) -> Result<Option<Checkpoint>> {
        self.load_checkpoint(&mut *self.read().await?, id).await
    }

    pub(crate) async fn load_checkpoint(
        &self,
        conn: &mut AnyConnection,
        id: &OperationId,
    ) -> Result<Option<Checkpoint>> {
        let row = self.dialect.query(sql::LOAD_CHECKPOINT).bind(id.to_string()).fetch_optional(conn).await;
        let row = row.map_err(failed("cannot read the checkpoint"))?;
        Ok(row.as_ref().map(rows::bytes).transpose()?.map(|data| Checkpoint(Bytes::from(data))))
    }

    /// Nobody needs that of an operation that is completed.
    pub(crate) async fn remove_checkpoint(&self, conn: &mut AnyConnection, id: &OperationId) -> Result<()> {
        let remove = self.dialect.query(sql::DELETE_CHECKPOINT).bind(id.to_string());
        remove.execute(conn).await.map_err(failed("cannot remove the checkpoint"))?;
        Ok(())
    }

    /// Replaces the checkpoint before it. The operation is locked, so that nobody else puts one at the same time.
    pub(crate) async fn put_checkpoint(
        &self,
        conn: &mut AnyConnection,
        id: &OperationId,
        checkpoint: &Checkpoint,
        now: Timestamp,
    ) -> Result<()> {
        for statement in [sql::UPDATE_CHECKPOINT, sql::INSERT_CHECKPOINT] {
            let done = self
                .dialect
                .query(statement)
                .bind(now.as_microsecond())
                .bind(checkpoint.0.to_vec())
                .bind(id.to_string())
                .execute(&mut *conn)
                .await
                .map_err(failed("cannot save the checkpoint"))?;
            if done.rows_affected() > 0 {
                break;
            }
        }
        Ok(())
    }
}
