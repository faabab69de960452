//! The kind of connection.

use crate::TableSource;
use async_trait::async_trait;
use backup_core::adapter::Source;
use backup_core::service::{Adapter, AdapterConfig, Role};
use backup_core::{Error, Result};
use serde::Deserialize;
use serde_json::{Value, json};
use std::sync::Arc;

/// Connections of kind `table`: the tables that the program gives, by their names.
#[derive(Clone, Debug)]
pub struct TableAdapter {
    tables: Vec<TableSource>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Config {
    table: String,
}

impl TableAdapter {
    /// An adapter for these tables.
    pub fn new(tables: impl IntoIterator<Item = TableSource>) -> Self {
        Self { tables: tables.into_iter().collect() }
    }
}

#[async_trait]
impl Adapter for TableAdapter {
    fn kind(&self) -> &str {
        "table"
    }

    fn roles(&self) -> &[Role] {
        &[Role::Source]
    }

    fn config_schema(&self) -> Value {
        json!({
            "type": "object",
            "properties": { "table": { "type": "string", "description": "Name of the table." } },
            "required": ["table"],
            "additionalProperties": false,
        })
    }

    async fn source(&self, config: &AdapterConfig, _: &Value) -> Result<Arc<dyn Source>> {
        let Config { table } = config.parse()?;
        let found = self.tables.iter().find(|source| source.name() == table);
        match found {
            Some(source) => Ok(Arc::new(source.clone())),
            None => Err(Error::not_found("the program has no such table").on(table.escape_debug())),
        }
    }
}
