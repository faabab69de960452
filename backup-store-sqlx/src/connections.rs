//! Connections.

use crate::db::Db;
use crate::dialect::Statement;
use crate::error::failed;
use crate::{rows, sql};
use backup_core::adapter::{
    DEFAULT_QUERY_LIMIT, STATES_IN_USE, check_connection_version, connection_exists, connection_in_use,
    connection_name_taken, create_connection, no_such_connection, stored_time, update_connection,
};
use backup_core::model::{
    Connection, ConnectionCheck, ConnectionContent, ConnectionId, ConnectionQuery, NewConnection, OperationId,
    SealedSecret,
};
use backup_core::{ErrorClass, Result};
use sqlx::AnyConnection;

const CANNOT_CHANGE: &str = "cannot change the connection";

impl Db {
    pub(crate) async fn create_connection(&self, new: NewConnection) -> Result<Connection> {
        let mut tx = self.begin().await?;
        let now = self.now(&mut tx).await?;
        let connection = create_connection(new, now)?;
        let Connection { id, kind, content, version, created_at, updated_at, last_check: _ } = &connection;
        let ConnectionContent { name, settings, secret } = content;
        if self.find_connection(&mut tx, id).await?.is_some() {
            return Err(connection_exists(id));
        }
        let insert = self
            .dialect
            .query(sql::INSERT_CONNECTION)
            .bind(id.to_string())
            .bind(kind.clone())
            .bind(name.clone())
            .bind(rows::to_json(settings)?)
            .bind(secret.as_ref().map(|secret| secret.0.clone()))
            .bind(secret.as_ref().and_then(SealedSecret::sealed_under).map(str::to_owned))
            .bind(rows::to_integer(*version))
            .bind(created_at.as_microsecond())
            .bind(updated_at.as_microsecond())
            .execute(&mut *tx)
            .await
            .map_err(failed("cannot create the connection"));
        // Of what else is unique, the id was looked for.
        insert.map_err(|e| if e.class() == ErrorClass::Conflict { connection_name_taken(name) } else { e })?;
        self.commit(tx).await?;
        Ok(connection)
    }

    pub(crate) async fn connection(&self, id: &ConnectionId) -> Result<Option<Connection>> {
        self.find_connection(&mut *self.read().await?, id).await
    }

    pub(crate) async fn connections(&self, query: &ConnectionQuery) -> Result<Vec<Connection>> {
        let ConnectionQuery { kind, name, after, limit } = query;
        let mut list = Statement::new(sql::LIST_CONNECTIONS);
        if let Some(kind) = kind {
            list.push(" AND kind = ").bind(kind.clone());
        }
        if let Some(name) = name {
            list.push(" AND name = ").bind(name.clone());
        }
        if let Some(after) = after {
            list.push(" AND id > ").bind(after.to_string());
        }
        list.push(" ORDER BY id LIMIT ").bind(i64::from(limit.unwrap_or(DEFAULT_QUERY_LIMIT)));
        let doing = failed("cannot list connections");
        let found = list.finish(self.dialect).map_err(&doing)?.fetch_all(&self.reader).await.map_err(&doing)?;
        found.iter().map(rows::connection).collect()
    }

    pub(crate) async fn update_connection(
        &self,
        id: &ConnectionId,
        version: u64,
        content: ConnectionContent,
    ) -> Result<Connection> {
        let mut tx = self.begin().await?;
        let now = self.now(&mut tx).await?;
        let present = self.lock_connection(&mut tx, id).await?;
        let next = update_connection(&present, version, content, now)?;
        let ConnectionContent { name, settings, secret } = &next.content;
        let update = self
            .dialect
            .query(sql::UPDATE_CONNECTION)
            .bind(name.clone())
            .bind(rows::to_json(settings)?)
            .bind(secret.as_ref().map(|secret| secret.0.clone()))
            .bind(secret.as_ref().and_then(SealedSecret::sealed_under).map(str::to_owned))
            .bind(rows::to_integer(next.version))
            .bind(next.updated_at.as_microsecond())
            .bind(id.to_string())
            .bind(rows::to_integer(present.version))
            .execute(&mut *tx)
            .await
            .map_err(failed(CANNOT_CHANGE));
        update.map_err(|e| if e.class() == ErrorClass::Conflict { connection_name_taken(name) } else { e })?;
        self.commit(tx).await?;
        Ok(next)
    }

    pub(crate) async fn record_check(&self, id: &ConnectionId, check: ConnectionCheck) -> Result<Connection> {
        let check = ConnectionCheck { at: stored_time(check.at), error: check.error.as_deref().map(rows::to_text) };
        let mut tx = self.begin().await?;
        let present = self.lock_connection(&mut tx, id).await?;
        self.dialect
            .query(sql::RECORD_CHECK)
            .bind(check.at.as_microsecond())
            .bind(check.error.clone())
            .bind(id.to_string())
            .execute(&mut *tx)
            .await
            .map_err(failed(CANNOT_CHANGE))?;
        self.commit(tx).await?;
        Ok(Connection { last_check: Some(check), ..present })
    }

    pub(crate) async fn delete_connection(&self, id: &ConnectionId, version: u64) -> Result<()> {
        let mut tx = self.begin().await?;
        // Whoever creates an operation with it locks it too.
        let present = self.lock_connection(&mut tx, id).await?;
        check_connection_version(&present, version)?;
        if let Some(operation) = self.user_of(&mut tx, id).await? {
            return Err(connection_in_use(id, &operation));
        }
        let delete = self.dialect.query(sql::DELETE_CONNECTION).bind(id.to_string());
        delete.execute(&mut *tx).await.map_err(failed("cannot delete the connection"))?;
        self.commit(tx).await
    }

    /// Keeps a connection from being deleted, and others from counting what works with it, until the transaction ends. Of several,
    /// the lower id comes first, so that no two transactions wait for each other.
    pub(crate) async fn lock_connection(&self, conn: &mut AnyConnection, id: &ConnectionId) -> Result<Connection> {
        let lock = self.dialect.query(sql::LOCK_CONNECTION).bind(id.to_string());
        lock.fetch_optional(&mut *conn).await.map_err(failed("cannot lock the connection"))?;
        self.find_connection(conn, id).await?.ok_or_else(|| no_such_connection(id))
    }

    async fn find_connection(&self, conn: &mut AnyConnection, id: &ConnectionId) -> Result<Option<Connection>> {
        let mut find = Statement::new(sql::LIST_CONNECTIONS);
        find.push(" AND id = ").bind(id.to_string());
        let doing = failed("cannot read the connection");
        let row = find.finish(self.dialect).map_err(&doing)?.fetch_optional(conn).await.map_err(&doing)?;
        row.as_ref().map(rows::connection).transpose()
    }

    /// An operation that needs the connection.
    async fn user_of(&self, conn: &mut AnyConnection, id: &ConnectionId) -> Result<Option<OperationId>> {
        let doing = failed("cannot look for operations of the connection");
        let row = find_user(id).finish(self.dialect).map_err(&doing)?.fetch_optional(conn).await.map_err(&doing)?;
        row.as_ref().map(rows::id).transpose()
    }
}

/// The statement for an operation that needs a connection.
pub(crate) fn find_user(id: &ConnectionId) -> Statement {
    let mut find = Statement::default();
    for text in sql::FIND_USER {
        find.push(text).bind(id.to_string());
    }
    find.push(sql::FIND_USER_STATES);
    for (number, state) in STATES_IN_USE.iter().enumerate() {
        find.push(if number == 0 { "" } else { ", " }).bind(*state);
    }
    find.push(") LIMIT 1");
    find
}
