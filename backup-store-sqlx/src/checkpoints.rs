//! Checkpoints: one for each operation, in a table of their own.

use crate::db::Db;
use crate::error::failed;
use crate::{operations, sql};
use backup_core::Result;
use backup_core::model::{Checkpoint, Fence, OperationId};
use bytes::Bytes;
use jiff::Timestamp;
use sqlx::SqliteConnection;

impl Db {
    pub(crate) async fn save_checkpoint(&self, fence: &Fence, checkpoint: &Checkpoint) -> Result<()> {
        let mut tx = self.begin().await?;
        let (stored, now) = operations::load(&mut tx, &fence.operation).await?;
        stored.check_fence(fence)?;
        save(&mut tx, &fence.operation, checkpoint, now).await?;
        self.commit(tx).await
    }

    pub(crate) async fn checkpoint(&self, id: &OperationId) -> Result<Option<Checkpoint>> {
        let mut conn = self.reader.acquire().await.map_err(failed("cannot connect to the database"))?;
        load(&mut conn, id).await
    }
}

pub(crate) async fn load(conn: &mut SqliteConnection, id: &OperationId) -> Result<Option<Checkpoint>> {
    let data: Option<Vec<u8>> = sqlx::query_scalar(sql::LOAD_CHECKPOINT)
        .bind(id.as_str())
        .fetch_optional(conn)
        .await
        .map_err(failed("cannot read the checkpoint"))?;
    Ok(data.map(|data| Checkpoint(Bytes::from(data))))
}

/// Replaces the checkpoint before it.
pub(crate) async fn save(
    conn: &mut SqliteConnection,
    id: &OperationId,
    checkpoint: &Checkpoint,
    now: Timestamp,
) -> Result<()> {
    for statement in [sql::UPDATE_CHECKPOINT, sql::INSERT_CHECKPOINT] {
        let done = sqlx::query(statement)
            .bind(now.as_microsecond())
            .bind(&checkpoint.0[..])
            .bind(id.as_str())
            .execute(&mut *conn)
            .await
            .map_err(failed("cannot save the checkpoint"))?;
        if done.rows_affected() > 0 {
            break;
        }
    }
    Ok(())
}
