//! Job logs.

use crate::db::Db;
use crate::error::failed;
use crate::{rows, sql};
use backup_core::Result;
use backup_core::adapter::{check_log_query, no_such_operation, stored_time};
use backup_core::model::{LogPage, LogQuery, LogRecord, OperationId};
use sqlx::{QueryBuilder, Sqlite, SqliteConnection};

/// Records in one statement: a database allows a limited number of bound values (SQLite 32,766).
const ROWS_PER_INSERT: usize = 200;

impl Db {
    pub(crate) async fn append_log(&self, id: &OperationId, records: &[LogRecord]) -> Result<()> {
        let mut tx = self.begin().await?;
        append(&mut tx, id, records).await?;
        self.commit(tx).await
    }

    pub(crate) async fn page_log(&self, id: &OperationId, query: &LogQuery) -> Result<LogPage> {
        check_log_query(query)?;
        let LogQuery { after, min_level, limit } = *query;
        let mut conn = self.reader.acquire().await.map_err(failed("cannot connect to the database"))?;
        // Read before the records, so that a record that is added between the two is not passed over.
        let last_known = last_sequence(&mut conn, id).await?.unwrap_or_default();
        let limit = limit as usize;
        let mut found = sqlx::query(sql::PAGE_LOG)
            .bind(id.as_str())
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
}

/// Adds records with the next sequence numbers.
pub(crate) async fn append(conn: &mut SqliteConnection, id: &OperationId, records: &[LogRecord]) -> Result<()> {
    let reserved = sqlx::query(sql::RESERVE_SEQUENCES)
        .bind(rows::to_integer(records.len() as u64))
        .bind(id.as_str())
        .execute(&mut *conn)
        .await
        .map_err(failed("cannot write the job log"))?;
    if reserved.rows_affected() == 0 {
        return Err(no_such_operation(id));
    }
    let last = last_sequence(conn, id).await?.ok_or_else(|| no_such_operation(id))?;
    let mut sequence = last - rows::to_integer(records.len() as u64);
    for part in records.chunks(ROWS_PER_INSERT) {
        let mut values = Vec::with_capacity(part.len());
        for record in part {
            sequence += 1;
            let context = (!record.context.is_null()).then(|| rows::to_json(&record.context)).transpose()?;
            values.push((sequence, record, context));
        }
        QueryBuilder::<Sqlite>::new(sql::INSERT_LOG_RECORDS)
            .push_values(values, |mut row, (sequence, record, context)| {
                let LogRecord { time, level, step, message, context: _ } = record;
                row.push_bind(id.as_str())
                    .push_bind(sequence)
                    .push_bind(stored_time(*time).as_microsecond())
                    .push_bind(rows::level_number(*level))
                    .push_bind(step.as_str())
                    .push_bind(message.as_str())
                    .push_bind(context);
            })
            .build()
            .persistent(part.len() == 1)
            .execute(&mut *conn)
            .await
            .map_err(failed("cannot write the job log"))?;
    }
    Ok(())
}

async fn last_sequence(conn: &mut SqliteConnection, id: &OperationId) -> Result<Option<i64>> {
    let last = sqlx::query_scalar(sql::LAST_SEQUENCE).bind(id.as_str()).fetch_optional(conn).await;
    last.map_err(failed("cannot read the job log"))
}
