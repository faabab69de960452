//! Operations: load a row, apply a rule of `backup-core`, write the row if it has not changed.

use crate::db::Db;
use crate::dialect::Statement;
use crate::error::failed;
use crate::{rows, sql};
use backup_core::adapter::{DEFAULT_QUERY_LIMIT, StoredOperation, no_such_operation, operation_exists};
use backup_core::model::{
    Checkpoint, Claim, ClaimRequest, Fence, LogRecord, NewOperation, Operation, OperationId, OperationQuery,
    OperationTotals, Progress, Renewal, Request, Transition,
};
use backup_core::state::Event;
use backup_core::{Error, ErrorClass, Result};
use jiff::Timestamp;
use sqlx::any::AnyRow;
use sqlx::{AnyConnection, Row};
use std::sync::PoisonError;
use std::time::Duration;

/// Of so many operations that cannot be read is warned; more are no news.
const MOST_TOLD: usize = 1000;

fn of_a_newer_version(error: Error) -> Error {
    error.context("an operation of this archive cannot be read; perhaps a newer version of the program has written it: use that one")
}

impl Db {
    pub(crate) async fn create(&self, new: NewOperation, checkpoint: Option<&Checkpoint>) -> Result<Operation> {
        let mut tx = self.begin().await?;
        let mut connections: Vec<_> = new.connections.iter().flat_map(|c| [&c.source, &c.destination]).collect();
        connections.sort_unstable();
        connections.dedup();
        for connection in connections {
            self.lock_connection(&mut tx, connection).await?;
        }
        let now = self.now(&mut tx).await?;
        let (stored, record) = StoredOperation::create(new, now);
        let id = stored.operation.new.id.clone();
        self.insert(&mut tx, &stored).await.map_err(|e| match e.class() {
            ErrorClass::Conflict => operation_exists(&id),
            _ => e,
        })?;
        if let Some(checkpoint) = checkpoint {
            self.put_checkpoint(&mut tx, &id, checkpoint, now).await?;
        }
        self.append(&mut tx, &id, &[record]).await?;
        self.commit(tx).await?;
        Ok(stored.at(now))
    }

    pub(crate) async fn get(&self, id: &OperationId) -> Result<Option<Operation>> {
        let get = self.dialect.query(sql::GET_OPERATION).bind(id.to_string());
        let row = get.fetch_optional(&self.reader).await.map_err(failed("cannot read the operation"))?;
        Ok(row.as_ref().map(rows::operation).transpose()?.map(|(stored, now)| stored.at(now)))
    }

    pub(crate) async fn query(&self, query: &OperationQuery) -> Result<Vec<Operation>> {
        let doing = failed("cannot list operations");
        let mut rest = OperationQuery { limit: Some(query.limit.unwrap_or(DEFAULT_QUERY_LIMIT)), ..query.clone() };
        let mut operations = Vec::new();
        loop {
            let list = list(&rest)?.finish(self.dialect).map_err(&doing)?;
            let found = list.fetch_all(&self.reader).await.map_err(&doing)?;
            let mut unreadable = 0;
            for row in &found {
                match rows::operation(row) {
                    Ok((stored, now)) => operations.push(stored.at(now)),
                    Err(error) if query.archive.is_some() => return Err(of_a_newer_version(error)),
                    Err(error) => {
                        unreadable += 1;
                        self.tell_unreadable(row, &error);
                    }
                }
            }
            let Some(last) = found.last().filter(|_| unreadable > 0) else { return Ok(operations) };
            // A page ends early only at the end.
            rest = OperationQuery { before: Some(rows::id(last)?), limit: Some(unreadable), ..rest };
        }
    }

    /// Warns of an operation that cannot be read, once.
    pub(crate) fn tell_unreadable(&self, row: &AnyRow, error: &Error) {
        let id: String = row.try_get("id").unwrap_or_default();
        let mut told = self.told.lock().unwrap_or_else(PoisonError::into_inner);
        if told.len() < MOST_TOLD && told.insert(id.clone()) {
            let error = error.chain();
            tracing::warn!(operation = id, error, "an operation that this version cannot read is passed over");
        }
    }

    pub(crate) async fn totals(&self, query: &OperationQuery) -> Result<OperationTotals> {
        let doing = failed("cannot count operations");
        let query = OperationQuery { before: None, ..query.clone() };
        let mut count = Statement::new(sql::COUNT_OPERATIONS);
        conditions(&mut count, &query)?;
        if !query.states.is_empty() {
            count.push(" AND state IN (");
            for (number, state) in query.states.iter().enumerate() {
                count.push(if number == 0 { "" } else { ", " }).bind(*state);
            }
            count.push(")");
        }
        count.push(sql::GROUP_BY_STATE);
        let found = count.finish(self.dialect).map_err(&doing)?.fetch_all(&self.reader).await.map_err(&doing)?;
        let mut totals = OperationTotals::default();
        for row in &found {
            let (state, count) = rows::state_count(row)?;
            totals.add(&state, count);
        }
        Ok(totals)
    }

    pub(crate) async fn claim(&self, id: &OperationId, request: &ClaimRequest) -> Result<Claim> {
        let mut tx = self.begin().await?;
        let (before, now) = self.lock_operation(&mut tx, id).await?;
        let claimed = before.claim(request, rand::random(), now)?;
        let claim = self.write_claim(&mut tx, &before, claimed, now).await?;
        self.commit(tx).await?;
        Ok(claim)
    }

    pub(crate) async fn renew(&self, fence: &Fence, lease: Duration, progress: Option<&Progress>) -> Result<Renewal> {
        let mut tx = self.begin().await?;
        let (before, now) = self.lock_operation(&mut tx, &fence.operation).await?;
        let stored = before.renew(fence, lease, progress, now)?;
        self.update(&mut tx, &before, &stored).await?;
        self.commit(tx).await?;
        Ok(Renewal { request: stored.operation.request })
    }

    pub(crate) async fn transition(&self, transition: &Transition) -> Result<Operation> {
        let Transition { operation: id, guard: _, event, progress: _, log: record, checkpoint, archive } = transition;
        let mut tx = self.begin().await?;
        let (before, now) = self.lock_operation(&mut tx, id).await?;
        let stored = before.transition(transition, now)?;
        self.update(&mut tx, &before, &stored).await?;
        self.append(&mut tx, id, std::slice::from_ref(record)).await?;
        if matches!(event, Event::Complete { .. }) {
            self.remove_checkpoint(&mut tx, id).await?;
        } else if let Some(checkpoint) = checkpoint {
            self.put_checkpoint(&mut tx, id, checkpoint, now).await?;
        }
        if let Some(archive) = archive {
            self.put_archive(&mut tx, archive).await?;
        }
        self.commit(tx).await?;
        Ok(stored.at(now))
    }

    pub(crate) async fn request(&self, id: &OperationId, request: Request) -> Result<Operation> {
        let mut tx = self.begin().await?;
        let (before, now) = self.lock_operation(&mut tx, id).await?;
        let stored = before.request(request, now)?;
        self.update(&mut tx, &before, &stored).await?;
        self.commit(tx).await?;
        Ok(stored.at(now))
    }

    /// The operation, and the database's time. Nobody else changes it until the transaction ends.
    pub(crate) async fn lock_operation(
        &self,
        conn: &mut AnyConnection,
        id: &OperationId,
    ) -> Result<(StoredOperation, Timestamp)> {
        let row = self.dialect.query(sql::LOCK_OPERATION).bind(id.to_string()).fetch_optional(conn).await;
        let row = row.map_err(failed("cannot read the operation"))?.ok_or_else(|| no_such_operation(id))?;
        rows::operation(&row)
    }

    /// Writes the claim of an operation that this transaction has locked.
    pub(crate) async fn write_claim(
        &self,
        conn: &mut AnyConnection,
        before: &StoredOperation,
        (stored, record): (StoredOperation, LogRecord),
        now: Timestamp,
    ) -> Result<Claim> {
        let id = stored.operation.new.id.clone();
        self.update(conn, before, &stored).await?;
        self.append(conn, &id, &[record]).await?;
        let checkpoint = self.load_checkpoint(conn, &id).await?;
        Ok(Claim { fence: stored.fence(), operation: stored.at(now), checkpoint })
    }

    async fn insert(&self, conn: &mut AnyConnection, stored: &StoredOperation) -> Result<()> {
        let StoredOperation { operation, lease_until } = stored;
        let NewOperation { id, kind, name, source, destination, archive, spec, connections, created_by } =
            &operation.new;
        self.dialect
            .query(sql::INSERT_OPERATION)
            .bind(id.to_string())
            .bind(rows::to_word(kind)?)
            .bind(rows::to_text(name))
            .bind(source.kind.clone())
            .bind(source.location.clone())
            .bind(destination.kind.clone())
            .bind(destination.location.clone())
            .bind(archive.to_string())
            .bind(rows::to_json(spec)?)
            .bind(connections.as_ref().map(|c| c.source.to_string()))
            .bind(connections.as_ref().map(|c| c.destination.to_string()))
            .bind(rows::to_text(created_by))
            .bind(operation.state.name())
            .bind(rows::to_json(&operation.state)?)
            .bind(rows::to_integer(operation.version))
            .bind(rows::to_integer(operation.attempt))
            .bind(i64::from(operation.nonce))
            .bind(operation.holder.as_ref().map(rows::to_json).transpose()?)
            .bind(lease_until.map(Timestamp::as_microsecond))
            .bind(stored.due_at().map(Timestamp::as_microsecond))
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
    async fn update(&self, conn: &mut AnyConnection, before: &StoredOperation, stored: &StoredOperation) -> Result<()> {
        let StoredOperation { operation, lease_until } = stored;
        let done = self
            .dialect
            .query(sql::UPDATE_OPERATION)
            .bind(operation.state.name())
            .bind(rows::to_json(&operation.state)?)
            .bind(rows::to_integer(operation.version))
            .bind(rows::to_integer(operation.attempt))
            .bind(i64::from(operation.nonce))
            .bind(operation.holder.as_ref().map(rows::to_json).transpose()?)
            .bind(lease_until.map(Timestamp::as_microsecond))
            .bind(stored.due_at().map(Timestamp::as_microsecond))
            .bind(operation.request.as_ref().map(rows::to_word).transpose()?)
            .bind(rows::to_json(&operation.progress)?)
            .bind(operation.updated_at.as_microsecond())
            .bind(operation.finished_at.map(Timestamp::as_microsecond))
            .bind(operation.new.id.to_string())
            .bind(rows::to_integer(before.operation.version))
            .execute(conn)
            .await
            .map_err(failed("cannot change the operation"))?;
        if done.rows_affected() == 1 {
            return Ok(());
        }
        Err(Error::conflict("another process has changed the operation at the same time").on(&operation.new.id))
    }
}

/// The statement for a page of operations. Each state has a part of its own, so that an index gives each in order, and no more of it
/// than the page takes.
pub(crate) fn list(query: &OperationQuery) -> Result<Statement> {
    let limit = i64::from(query.limit.unwrap_or(DEFAULT_QUERY_LIMIT));
    let part = |statement: &mut Statement, state: Option<&'static str>| {
        statement.push(sql::LIST_OPERATIONS);
        conditions(statement, query)?;
        if let Some(state) = state {
            statement.push(" AND state = ").bind(state);
        }
        statement.push(" ORDER BY id DESC LIMIT ").bind(limit);
        Result::Ok(())
    };
    let mut statement = Statement::default();
    let mut states = query.states.clone();
    states.sort_unstable();
    states.dedup();
    match &states[..] {
        [] => part(&mut statement, None)?,
        [state] => part(&mut statement, Some(*state))?,
        states => {
            for (number, state) in states.iter().enumerate() {
                statement.push(if number == 0 { "SELECT * FROM (" } else { " UNION ALL SELECT * FROM (" });
                part(&mut statement, Some(*state))?;
                statement.push(&format!(") AS part{number}"));
            }
            statement.push(" ORDER BY id DESC LIMIT ").bind(limit);
        }
    }
    Ok(statement)
}

/// All filters but the states.
fn conditions(statement: &mut Statement, query: &OperationQuery) -> Result<()> {
    if let Some(kind) = query.kind {
        statement.push(" AND kind = ").bind(rows::to_word(&kind)?);
    }
    if let Some(archive) = &query.archive {
        statement.push(" AND archive = ").bind(archive.to_string());
    }
    if let Some(connection) = &query.source_connection {
        statement.push(" AND source_connection = ").bind(connection.to_string());
    }
    if let Some(connection) = &query.destination_connection {
        statement.push(" AND destination_connection = ").bind(connection.to_string());
    }
    let (from, to) = query.id_range();
    if let Some(from) = from {
        statement.push(" AND id >= ").bind(from);
    }
    if let Some(to) = to {
        statement.push(" AND id < ").bind(to);
    }
    Ok(())
}
