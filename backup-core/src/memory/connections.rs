//! Connections in memory.

use super::MemoryStore;
use crate::Result;
use crate::adapter::{
    ConnectionStore, DEFAULT_QUERY_LIMIT, STATES_IN_USE, check_connection_version, connection_exists,
    connection_in_use, connection_name_taken, create_connection, no_such_connection, stored_time, update_connection,
};
use crate::model::{
    Connection, ConnectionCheck, ConnectionContent, ConnectionId, ConnectionQuery, NewConnection, Operation,
};
use async_trait::async_trait;
use std::collections::BTreeMap;

pub(super) type Connections = BTreeMap<ConnectionId, Connection>;

fn check_free(all: &Connections, id: &ConnectionId, name: &str) -> Result<()> {
    match all.values().any(|other| other.id != *id && other.content.name == name) {
        true => Err(connection_name_taken(name)),
        false => Ok(()),
    }
}

#[async_trait]
impl ConnectionStore for MemoryStore {
    async fn create_connection(&self, new: NewConnection) -> Result<Connection> {
        let (mut data, now) = self.locked();
        let connection = create_connection(new, now)?;
        if data.connections.contains_key(&connection.id) {
            return Err(connection_exists(&connection.id));
        }
        check_free(&data.connections, &connection.id, &connection.content.name)?;
        data.connections.insert(connection.id.clone(), connection.clone());
        Ok(connection)
    }

    async fn connection(&self, id: &ConnectionId) -> Result<Option<Connection>> {
        Ok(self.lock().connections.get(id).cloned())
    }

    async fn connections(&self, query: &ConnectionQuery) -> Result<Vec<Connection>> {
        let ConnectionQuery { kind, name, after, limit } = query;
        let data = self.lock();
        let matches = |connection: &&Connection| {
            kind.as_ref().is_none_or(|kind| connection.kind == *kind)
                && name.as_ref().is_none_or(|name| connection.content.name == *name)
                && after.as_ref().is_none_or(|after| connection.id > *after)
        };
        let limit = limit.unwrap_or(DEFAULT_QUERY_LIMIT) as usize;
        Ok(data.connections.values().filter(matches).take(limit).cloned().collect())
    }

    async fn update_connection(
        &self,
        id: &ConnectionId,
        version: u64,
        content: ConnectionContent,
    ) -> Result<Connection> {
        let (mut data, now) = self.locked();
        let present = data.connections.get(id).ok_or_else(|| no_such_connection(id))?;
        let next = update_connection(present, version, content, now)?;
        check_free(&data.connections, id, &next.content.name)?;
        data.connections.insert(id.clone(), next.clone());
        Ok(next)
    }

    async fn record_check(&self, id: &ConnectionId, check: ConnectionCheck) -> Result<Connection> {
        let mut data = self.lock();
        let present = data.connections.get_mut(id).ok_or_else(|| no_such_connection(id))?;
        present.last_check = Some(ConnectionCheck { at: stored_time(check.at), ..check });
        Ok(present.clone())
    }

    async fn delete_connection(&self, id: &ConnectionId, version: u64) -> Result<()> {
        let mut data = self.lock();
        let present = data.connections.get(id).ok_or_else(|| no_such_connection(id))?;
        check_connection_version(present, version)?;
        let with_it = |operation: &&Operation| {
            STATES_IN_USE.contains(&operation.state.name())
                && operation.new.connections.as_ref().is_some_and(|c| c.source == *id || c.destination == *id)
        };
        if let Some(operation) = data.operations().find(with_it) {
            return Err(connection_in_use(id, &operation.new.id));
        }
        data.connections.remove(id);
        Ok(())
    }
}
