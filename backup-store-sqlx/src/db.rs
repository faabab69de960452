//! The database behind the store: connections and transactions.

use crate::{error::failed, rows, sql};
use backup_core::Result;
use jiff::Timestamp;
use sqlx::{Pool, Sqlite, SqliteConnection, Transaction};

/// Connections to one database. The methods stand in the files of their roles.
///
/// SQLite lets one transaction write at a time. Inside this process the writers queue, in order, for
/// the one connection of `writer`; only against other processes do they wait in SQLite's busy loop,
/// which keeps no order.
#[derive(Debug)]
pub(crate) struct Db {
    pub(crate) writer: Pool<Sqlite>,
    pub(crate) reader: Pool<Sqlite>,
}

impl Db {
    /// Starts a transaction that may write; dropped before its commit, it changes nothing.
    pub(crate) async fn begin(&self) -> Result<Transaction<'static, Sqlite>> {
        self.writer.begin_with(sql::BEGIN_WRITE).await.map_err(failed("cannot start a transaction"))
    }

    pub(crate) async fn commit(&self, tx: Transaction<'static, Sqlite>) -> Result<()> {
        tx.commit().await.map_err(failed("cannot commit a transaction"))
    }

    pub(crate) async fn close(&self) {
        self.reader.close().await;
        self.writer.close().await;
    }
}

/// The time on the database's clock.
pub(crate) async fn now(conn: &mut SqliteConnection) -> Result<Timestamp> {
    let micros: i64 =
        sqlx::query_scalar(sql::NOW).fetch_one(conn).await.map_err(failed("cannot read the database's clock"))?;
    rows::time(micros, "now")
}
