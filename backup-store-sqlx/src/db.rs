//! The database behind the store: connections and transactions.

use crate::dialect::Dialect;
use crate::error::failed;
use crate::{rows, sql};
use backup_core::Result;
use jiff::Timestamp;
use sqlx::pool::PoolConnection;
use sqlx::{Any, AnyConnection, Pool, Transaction};
use std::collections::BTreeSet;
use std::fmt;
use std::sync::Mutex;

/// Connections to one database. The methods stand in the files of their roles.
///
/// SQLite lets one transaction write at a time. Inside this process the writers queue, in order, for the one connection of
/// `writer`; only against other processes do they wait in SQLite's busy loop, which keeps no order. With a server both are one pool.
pub(crate) struct Db {
    pub(crate) dialect: Dialect,
    pub(crate) writer: Pool<Any>,
    pub(crate) reader: Pool<Any>,
    /// The operations of which was told that they cannot be read.
    pub(crate) told: Mutex<BTreeSet<String>>,
}

/// A pool's own text may have the address in it, and with it a password.
impl fmt::Debug for Db {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Db").field("dialect", &self.dialect).finish_non_exhaustive()
    }
}

impl Db {
    /// A connection to read with.
    pub(crate) async fn read(&self) -> Result<PoolConnection<Any>> {
        self.reader.acquire().await.map_err(failed("cannot connect to the database"))
    }

    /// Starts a transaction that may write; dropped before its commit, it changes nothing.
    pub(crate) async fn begin(&self) -> Result<Transaction<'static, Any>> {
        self.writer.begin_with(self.dialect.begin()).await.map_err(failed("cannot start a transaction"))
    }

    pub(crate) async fn commit(&self, tx: Transaction<'static, Any>) -> Result<()> {
        tx.commit().await.map_err(failed("cannot commit a transaction"))
    }

    /// The time on the database's clock.
    pub(crate) async fn now(&self, conn: &mut AnyConnection) -> Result<Timestamp> {
        let row = self.dialect.query(sql::NOW).fetch_one(conn).await;
        rows::clock(&row.map_err(failed("cannot read the database's clock"))?)
    }

    pub(crate) async fn close(&self) {
        self.reader.close().await;
        self.writer.close().await;
    }
}
