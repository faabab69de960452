//! Operations: load a row, apply a rule of `backup-core`, write the row if it has not changed.

use crate::db::{self, Db};
use crate::error::failed;
use crate::{archives, checkpoints, log, rows, sql};
use backup_core::adapter::{DEFAULT_QUERY_LIMIT, StoredOperation, no_such_operation, operation_exists};
use backup_core::model::{
    Checkpoint, Claim, ClaimRequest, Fence, NewOperation, Operation, OperationId, OperationQuery, Progress, Renewal,
    Request, Transition,
};
use backup_core::{Error, ErrorClass, Result};
use jiff::Timestamp;
use sqlx::{QueryBuilder, Sqlite, SqliteConnection};
use std::time::Duration;

impl Db {
    pub(crate) async fn create(&self, new: NewOperation, checkpoint: Option<&Checkpoint>) -> Result<Operation> {
        let mut tx = self.begin().await?;
        let now = db::now(&mut tx).await?;
        let (stored, record) = StoredOperation::create(new, now);
        let id = stored.operation.new.id.clone();
        insert(&mut tx, &stored).await.map_err(|e| match e.class() {
            ErrorClass::Conflict => operation_exists(&id),
            _ => e,
        })?;
        if let Some(checkpoint) = checkpoint {
            checkpoints::save(&mut tx, &id, checkpoint, now).await?;
        }
        log::append(&mut tx, &id, &[record]).await?;
        self.commit(tx).await?;
        Ok(stored.at(now))
    }

    pub(crate) async fn get(&self, id: &OperationId) -> Result<Option<Operation>> {
        let mut conn = self.reader.acquire().await.map_err(failed("cannot connect to the database"))?;
        Ok(find(&mut conn, id).await?.map(|(stored, now)| stored.at(now)))
    }

    pub(crate) async fn query(&self, query: &OperationQuery) -> Result<Vec<Operation>> {
        let OperationQuery { kind, states, id_prefix, before, limit } = query;
        let mut select = QueryBuilder::<Sqlite>::new(sql::LIST_OPERATIONS);
        if let Some(kind) = kind {
            select.push(" AND kind = ").push_bind(rows::to_word(kind)?);
        }
        if !states.is_empty() {
            select.push(" AND state IN (");
            let mut list = select.separated(", ");
            for state in states {
                list.push_bind(*state);
            }
            select.push(")");
        }
        if let Some(prefix) = id_prefix {
            // Ids consist of letters, digits and `-`, all of which sort before `~`.
            select.push(" AND id >= ").push_bind(prefix.as_str());
            select.push(" AND id < ").push_bind(format!("{prefix}~"));
        }
        if let Some(before) = before {
            select.push(" AND id < ").push_bind(before.as_str());
        }
        select.push(" ORDER BY id DESC LIMIT ").push_bind(i64::from(limit.unwrap_or(DEFAULT_QUERY_LIMIT)));
        let found = select.build().fetch_all(&self.reader).await.map_err(failed("cannot list operations"))?;
        found.iter().map(|row| rows::operation(row).map(|(stored, now)| stored.at(now))).collect()
    }

    pub(crate) async fn claim(&self, id: &OperationId, request: &ClaimRequest) -> Result<Claim> {
        let mut tx = self.begin().await?;
        let (before, now) = load(&mut tx, id).await?;
        let (stored, record) = before.claim(request, rand::random(), now)?;
        update(&mut tx, &before, &stored).await?;
        log::append(&mut tx, id, &[record]).await?;
        let checkpoint = checkpoints::load(&mut tx, id).await?;
        self.commit(tx).await?;
        Ok(Claim { fence: stored.fence(), operation: stored.at(now), checkpoint })
    }

    pub(crate) async fn renew(&self, fence: &Fence, lease: Duration, progress: Option<&Progress>) -> Result<Renewal> {
        let mut tx = self.begin().await?;
        let (before, now) = load(&mut tx, &fence.operation).await?;
        let stored = before.renew(fence, lease, progress, now)?;
        update(&mut tx, &before, &stored).await?;
        self.commit(tx).await?;
        Ok(Renewal { request: stored.operation.request })
    }

    pub(crate) async fn transition(&self, transition: &Transition) -> Result<Operation> {
        let Transition { operation: id, guard: _, event: _, progress: _, log: record, checkpoint, archive } =
            transition;
        let mut tx = self.begin().await?;
        let (before, now) = load(&mut tx, id).await?;
        let stored = before.transition(transition, now)?;
        update(&mut tx, &before, &stored).await?;
        log::append(&mut tx, id, std::slice::from_ref(record)).await?;
        if let Some(checkpoint) = checkpoint {
            checkpoints::save(&mut tx, id, checkpoint, now).await?;
        }
        if let Some(archive) = archive {
            archives::put(&mut tx, archive).await?;
        }
        self.commit(tx).await?;
        Ok(stored.at(now))
    }

    pub(crate) async fn request(&self, id: &OperationId, request: Request) -> Result<Operation> {
        let mut tx = self.begin().await?;
        let (before, now) = load(&mut tx, id).await?;
        let stored = before.request(request, now)?;
        update(&mut tx, &before, &stored).await?;
        self.commit(tx).await?;
        Ok(stored.at(now))
    }
}

/// The operation, and the database's time.
pub(crate) async fn load(conn: &mut SqliteConnection, id: &OperationId) -> Result<(StoredOperation, Timestamp)> {
    find(conn, id).await?.ok_or_else(|| no_such_operation(id))
}

async fn find(conn: &mut SqliteConnection, id: &OperationId) -> Result<Option<(StoredOperation, Timestamp)>> {
    let row = sqlx::query(sql::LOAD_OPERATION).bind(id.as_str()).fetch_optional(conn).await;
    row.map_err(failed("cannot read the operation"))?.as_ref().map(rows::operation).transpose()
}

async fn insert(conn: &mut SqliteConnection, stored: &StoredOperation) -> Result<()> {
    let StoredOperation { operation, lease_until } = stored;
    let NewOperation { id, kind, name, source, destination, archive, spec } = &operation.new;
    sqlx::query(sql::INSERT_OPERATION)
        .bind(id.as_str())
        .bind(rows::to_word(kind)?)
        .bind(name.as_str())
        .bind(source.kind.as_str())
        .bind(source.location.as_str())
        .bind(destination.kind.as_str())
        .bind(destination.location.as_str())
        .bind(archive.as_str())
        .bind(rows::to_json(spec)?)
        .bind(operation.state.name())
        .bind(rows::to_json(&operation.state)?)
        .bind(rows::to_integer(operation.version))
        .bind(rows::to_integer(operation.attempt))
        .bind(i64::from(operation.nonce))
        .bind(operation.holder.as_ref().map(rows::to_json).transpose()?)
        .bind(lease_until.map(Timestamp::as_microsecond))
        .bind(operation.request.as_ref().map(rows::to_word).transpose()?)
        .bind(rows::to_json(&operation.progress)?)
        .bind(operation.created_at.as_microsecond())
        .bind(operation.updated_at.as_microsecond())
        .bind(operation.finished_at.map(Timestamp::as_microsecond))
        .execute(conn)
        .await
        .map_err(failed("cannot create the operation"))?;
    Ok(())
}

/// Writes what a rule has made of `before`, if the row still is at its version.
async fn update(conn: &mut SqliteConnection, before: &StoredOperation, stored: &StoredOperation) -> Result<()> {
    let StoredOperation { operation, lease_until } = stored;
    let done = sqlx::query(sql::UPDATE_OPERATION)
        .bind(operation.state.name())
        .bind(rows::to_json(&operation.state)?)
        .bind(rows::to_integer(operation.version))
        .bind(rows::to_integer(operation.attempt))
        .bind(i64::from(operation.nonce))
        .bind(operation.holder.as_ref().map(rows::to_json).transpose()?)
        .bind(lease_until.map(Timestamp::as_microsecond))
        .bind(operation.request.as_ref().map(rows::to_word).transpose()?)
        .bind(rows::to_json(&operation.progress)?)
        .bind(operation.updated_at.as_microsecond())
        .bind(operation.finished_at.map(Timestamp::as_microsecond))
        .bind(operation.new.id.as_str())
        .bind(rows::to_integer(before.operation.version))
        .execute(conn)
        .await
        .map_err(failed("cannot change the operation"))?;
    if done.rows_affected() == 1 {
        return Ok(());
    }
    Err(Error::conflict("another process has changed the operation at the same time").on(&operation.new.id))
}
