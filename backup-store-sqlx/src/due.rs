//! Claiming whatever is due.
//!
//! What is due is looked up without locks; then one candidate after the other is locked, in a transaction of its own, with its
//! connections, and looked at once more. Rows that another worker has locked are passed over.

use crate::db::Db;
use crate::dialect::Statement;
use crate::error::failed;
use crate::{rows, sql};
use backup_core::adapter::check_claim_next;
use backup_core::model::{Capabilities, Claim, ClaimNext, ConnectionId, OperationId};
use backup_core::{Error, Result};
use sqlx::AnyConnection;
use sqlx::any::AnyRow;
use std::collections::BTreeSet;

/// Candidates that are looked at before asking for more, without those of connections that were found busy.
const CANDIDATES: i64 = 20;
const CANNOT_LIST: &str = "cannot look for operations that are due";

struct Candidate {
    operation: OperationId,
    /// In order, each once.
    connections: Vec<ConnectionId>,
}

/// Where a candidate stands among what is due.
#[derive(Clone)]
pub(crate) struct Position {
    pub(crate) due_at: i64,
    pub(crate) operation: String,
}

/// What became of a candidate.
enum Tried {
    Claimed(Box<Claim>),
    /// One of its connections has as many operations as are allowed.
    Busy(ConnectionId),
    /// Another worker has it.
    Gone,
}

/// The statement for what is due: the longest first, from behind a position on, without the operations of connections that are busy, or that the worker is not able
/// to work with.
pub(crate) fn list(able: Option<&Capabilities>, busy: &BTreeSet<ConnectionId>, after: Option<&Position>) -> Statement {
    let mut list = Statement::new(sql::LIST_DUE);
    if let Some(Position { due_at, operation }) = after {
        list.push(" AND due_at >= ").bind(*due_at);
        list.push(" AND (due_at > ").bind(*due_at);
        list.push(" OR id > ").bind(operation.clone()).push(")");
    }
    for column in ["source_connection", "destination_connection"] {
        if !busy.is_empty() {
            list.push(&format!(" AND {column}"));
            not_in(&mut list, busy.iter().map(ConnectionId::to_string));
        }
        if let Some(Capabilities { kinds, keys }) = able {
            list.push(&format!("{}{column} AND (kind", sql::AND_NO_CONNECTION));
            not_in(&mut list, kinds.iter().cloned());
            list.push(" OR sealed_under");
            not_in(&mut list, keys.iter().cloned());
            list.push("))");
        }
    }
    list.push(sql::ORDER_BY_DUE).bind(CANDIDATES);
    list
}

/// What is none of these; null never is.
fn not_in(statement: &mut Statement, values: impl ExactSizeIterator<Item = String>) {
    if values.len() == 0 {
        statement.push(" IS NOT NULL");
        return;
    }
    for (number, value) in values.enumerate() {
        statement.push(if number == 0 { " NOT IN (" } else { ", " }).bind(value);
    }
    statement.push(")");
}

impl Db {
    pub(crate) async fn claim_next(&self, next: &ClaimNext) -> Result<Option<Claim>> {
        check_claim_next(next)?;
        let (mut busy, mut after) = (BTreeSet::new(), None);
        loop {
            let (candidates, last) = self.candidates(next, &busy, after.as_ref()).await?;
            for candidate in &candidates {
                if candidate.connections.iter().any(|connection| busy.contains(connection)) {
                    continue;
                }
                match self.try_candidate(candidate, next).await? {
                    Tried::Claimed(claim) => return Ok(Some(*claim)),
                    Tried::Busy(connection) => {
                        busy.insert(connection);
                    }
                    Tried::Gone => {}
                }
            }
            // Behind those of busy connections, of other workers, or of newer versions there may be more.
            let Some(last) = last else { return Ok(None) };
            after = Some(last);
        }
    }

    /// Some of what is due, and where it ends, when there may be more.
    async fn candidates(
        &self,
        next: &ClaimNext,
        busy: &BTreeSet<ConnectionId>,
        after: Option<&Position>,
    ) -> Result<(Vec<Candidate>, Option<Position>)> {
        let list = list(next.able.as_ref(), busy, after).finish(self.dialect).map_err(failed(CANNOT_LIST))?;
        let found = list.fetch_all(&self.reader).await.map_err(failed(CANNOT_LIST))?;
        let full = found.len() >= CANDIDATES as usize;
        let last = found.last().filter(|_| full).map(rows::position).transpose()?;
        let candidate = |row: &AnyRow| {
            let connections = rows::connections(row)?.map_or_else(BTreeSet::new, |(from, to)| [from, to].into());
            Ok(Candidate { operation: rows::id(row)?, connections: connections.into_iter().collect() })
        };
        let readable = found
            .iter()
            .filter_map(|row| candidate(row).map_err(|error: Error| self.tell_unreadable(row, &error)).ok());
        Ok((readable.collect(), last))
    }

    async fn try_candidate(&self, candidate: &Candidate, next: &ClaimNext) -> Result<Tried> {
        let mut tx = self.begin().await?;
        let lock = self.dialect.query(sql::LOCK_FREE_OPERATION).bind(candidate.operation.to_string());
        let row = lock.fetch_optional(&mut *tx).await.map_err(failed("cannot lock the operation"))?;
        let Some(row) = row else { return Ok(Tried::Gone) };
        let (before, now) = match rows::operation(&row) {
            Ok(read) => read,
            // Of a newer version perhaps; it must not keep the others waiting.
            Err(error) => {
                self.tell_unreadable(&row, &error);
                return Ok(Tried::Gone);
            }
        };
        if before.due_at().is_none_or(|due_at| due_at > now) {
            return Ok(Tried::Gone);
        }
        for connection in &candidate.connections {
            // Two workers that count at once would both find room for one more. A connection that is gone limits nothing.
            let lock = self.dialect.query(sql::LOCK_CONNECTION).bind(connection.to_string());
            lock.fetch_optional(&mut *tx).await.map_err(failed("cannot lock the connection"))?;
            if self.at_work_with(&mut tx, connection).await? >= i64::from(next.per_connection) {
                return Ok(Tried::Busy(connection.clone()));
            }
        }
        let claimed = before.claim_due(next, rand::random(), now)?;
        let claim = self.write_claim(&mut tx, &before, claimed, now).await?;
        self.commit(tx).await?;
        Ok(Tried::Claimed(Box::new(claim)))
    }

    async fn at_work_with(&self, conn: &mut AnyConnection, connection: &ConnectionId) -> Result<i64> {
        let count = self.dialect.query(sql::COUNT_AT_WORK).bind(connection.to_string()).bind(connection.to_string());
        rows::number(&count.fetch_one(conn).await.map_err(failed("cannot count the operations of a connection"))?)
    }
}
