//! Job logs.

use crate::db::Db;
use crate::dialect::Statement;
use crate::error::failed;
use crate::{rows, sql};
use backup_core::Result;
use backup_core::adapter::{check_log_query, no_such_operation, not_yet_added, stored_time};
use backup_core::model::{LogPage, LogPosition, LogQuery, LogRecord, OperationId, OperationQuery};
use jiff::Timestamp;
use sqlx::AnyConnection;

/// Records in one statement: a database allows a limited number of bound values (SQLite 32,766).
const ROWS_PER_INSERT: usize = 200;
/// Records that are cleared in one transaction, about.
const CLEARED_ROWS: i64 = 5_000;
/// Operations whose logs are looked for at once.
const CLEARED_AT_ONCE: i64 = 100;
const CANNOT_WRITE: &str = "cannot write the job log";
const CANNOT_CLEAR: &str = "cannot clear old logs";

impl Db {
    pub(crate) async fn append_log(&self, id: &OperationId, at: LogPosition, records: &[LogRecord]) -> Result<()> {
        let mut tx = self.begin().await?;
        // A call that is repeated may meet the one before it still at work.
        let lock = self.dialect.query(sql::LOCK_SEQUENCE).bind(id.to_string());
        let locked = lock.fetch_optional(&mut *tx).await.map_err(failed(CANNOT_WRITE))?;
        locked.ok_or_else(|| no_such_operation(id))?;
        let writer = at.writer.cast_signed();
        let added = self.dialect.query(sql::GET_LOG_WRITER).bind(id.to_string()).bind(writer);
        let added = added.fetch_optional(&mut *tx).await.map_err(failed(CANNOT_WRITE))?;
        let added = added.as_ref().map(rows::number).transpose()?;
        let has = added.and_then(|added| u64::try_from(added).ok()).unwrap_or_default();
        let new = not_yet_added(at, records, has);
        if new.is_empty() {
            return Ok(());
        }
        self.append(&mut tx, id, new).await?;
        let write = if added.is_some() { sql::UPDATE_LOG_WRITER } else { sql::INSERT_LOG_WRITER };
        let has = rows::to_integer(at.first.saturating_add(records.len() as u64));
        let write = self.dialect.query(write).bind(has).bind(id.to_string()).bind(writer);
        write.execute(&mut *tx).await.map_err(failed(CANNOT_WRITE))?;
        self.commit(tx).await
    }

    pub(crate) async fn page_log(&self, id: &OperationId, query: &LogQuery) -> Result<LogPage> {
        check_log_query(query)?;
        let LogQuery { after, min_level, limit } = *query;
        let mut conn = self.read().await?;
        // Read before the records, so that a record that is added between the two is not passed over.
        let last_known = self.last_sequence(&mut conn, id).await?.unwrap_or_default();
        let limit = limit as usize;
        let mut found = self
            .dialect
            .query(sql::PAGE_LOG)
            .bind(id.to_string())
            .bind(rows::to_integer(after))
            .bind(rows::level_number(min_level))
            .bind(rows::to_integer(limit as u64 + 1))
            .fetch_all(&mut *conn)
            .await
            .map_err(failed("cannot read the job log"))?;
        let more = found.len() > limit;
        found.truncate(limit);
        let records = found.iter().map(rows::log_record).collect::<Result<Vec<_>>>()?;
        let last = records.last().map_or(after, |last| last.sequence);
        let next_after = if more { last } else { last.max(u64::try_from(last_known).unwrap_or_default()) };
        Ok(LogPage { records, next_after, more })
    }

    pub(crate) async fn clear_logs(&self, before: Timestamp) -> Result<u64> {
        let before = stored_time(before);
        // Operations that were created later have no older records.
        let (_, to) = OperationQuery { until: Some(before), ..OperationQuery::default() }.id_range();
        let (to, mut after, mut cleared) = (to.unwrap_or_default(), String::new(), 0);
        loop {
            let list = self.dialect.query(sql::LIST_OLD_LOGS);
            let list = list.bind(after.clone()).bind(to.clone()).bind(before.as_microsecond()).bind(CLEARED_AT_ONCE);
            let found = list.fetch_all(&self.reader).await.map_err(failed(CANNOT_CLEAR))?;
            let ids = found.iter().map(rows::id).collect::<Result<Vec<OperationId>>>()?;
            let Some(last) = ids.last() else { return Ok(cleared) };
            after = last.to_string();
            let mut tx = self.begin().await?;
            let mut in_tx = 0;
            for id in &ids {
                loop {
                    let bound = self.dialect.query(sql::BOUND_OLD_LOG).bind(id.to_string());
                    let bound = bound.bind(before.as_microsecond()).bind(CLEARED_ROWS);
                    let bound = bound.fetch_optional(&mut *tx).await.map_err(failed(CANNOT_CLEAR))?;
                    let bound = bound.as_ref().map(rows::number).transpose()?;
                    let clear = self.dialect.query(sql::CLEAR_LOG).bind(id.to_string()).bind(before.as_microsecond());
                    let clear = clear.bind(bound.unwrap_or(i64::MAX)).execute(&mut *tx).await;
                    let rows = clear.map_err(failed(CANNOT_CLEAR))?.rows_affected();
                    cleared += rows;
                    in_tx += rows;
                    // Others have to write too.
                    if in_tx >= CLEARED_ROWS.unsigned_abs() {
                        self.commit(tx).await?;
                        tx = self.begin().await?;
                        in_tx = 0;
                    }
                    if bound.is_none() {
                        break;
                    }
                }
                let forget = self.dialect.query(sql::DELETE_LOG_WRITERS).bind(id.to_string()).bind(id.to_string());
                let forget = forget.bind(id.to_string()).execute(&mut *tx).await;
                forget.map_err(failed(CANNOT_CLEAR))?;
            }
            self.commit(tx).await?;
        }
    }

    /// Adds records with the next sequence numbers.
    pub(crate) async fn append(&self, conn: &mut AnyConnection, id: &OperationId, records: &[LogRecord]) -> Result<()> {
        let count = rows::to_integer(records.len() as u64);
        let reserve = self.dialect.query(sql::RESERVE_SEQUENCES).bind(count).bind(id.to_string());
        let reserved = reserve.execute(&mut *conn).await.map_err(failed(CANNOT_WRITE))?;
        // MySQL counts a row that stays as it was as not affected.
        if reserved.rows_affected() == 0 && count > 0 {
            return Err(no_such_operation(id));
        }
        let last = self.last_sequence(conn, id).await?.ok_or_else(|| no_such_operation(id))?;
        let mut sequence = last - count;
        for part in records.chunks(ROWS_PER_INSERT) {
            let mut insert = Statement::new(sql::INSERT_LOG_RECORDS);
            for (number, LogRecord { time, level, step, message, context }) in part.iter().enumerate() {
                sequence += 1;
                let context = (!context.is_null()).then(|| rows::to_json(context)).transpose()?;
                insert.push(if number == 0 { "(" } else { ", (" }).bind(id.to_string());
                insert.push(", ").bind(sequence);
                insert.push(", ").bind(stored_time(*time).as_microsecond());
                insert.push(", ").bind(rows::level_number(*level));
                insert.push(", ").bind(rows::to_text(step));
                insert.push(", ").bind(rows::to_text(message));
                insert.push(", ").bind(context).push(")");
            }
            let insert = insert.finish(self.dialect).map_err(failed(CANNOT_WRITE))?;
            // Statements of other lengths are too many to be kept prepared.
            let often = matches!(part.len(), 1 | ROWS_PER_INSERT);
            insert.persistent(often).execute(&mut *conn).await.map_err(failed(CANNOT_WRITE))?;
        }
        Ok(())
    }

    async fn last_sequence(&self, conn: &mut AnyConnection, id: &OperationId) -> Result<Option<i64>> {
        let row = self.dialect.query(sql::LAST_SEQUENCE).bind(id.to_string()).fetch_optional(conn).await;
        row.map_err(failed("cannot read the job log"))?.as_ref().map(rows::number).transpose()
    }
}
