//! Local directories as the service knows them.

use super::{LocalDestination, LocalSource, LocalSourceConfig, LocalTarget, LocalTargetConfig};
use crate::adapter::{Destination, RestoreTarget, Source};
use crate::service::{Adapter, AdapterConfig, Role, parse_options};
use crate::{Error, Result};
use async_trait::async_trait;
use serde::Deserialize;
use serde_json::{Value, json};
use std::path::PathBuf;
use std::sync::Arc;

/// Connections of kind `local`: a directory of the worker's host.
#[derive(Clone, Copy, Debug, Default)]
pub struct LocalAdapter;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Config {
    path: PathBuf,
}

#[derive(Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct SourceOptions {
    exclude: Vec<String>,
    one_file_system: bool,
}

#[derive(Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct TargetOptions {
    numeric_owner: bool,
}

fn path(config: &AdapterConfig) -> Result<PathBuf> {
    let Config { path } = config.parse()?;
    // Workers have other working directories.
    if !path.is_absolute() {
        return Err(Error::invalid("the path must be absolute").on(path.display()));
    }
    Ok(path)
}

#[async_trait]
impl Adapter for LocalAdapter {
    fn kind(&self) -> &str {
        "local"
    }

    fn roles(&self) -> &[Role] {
        &[Role::Source, Role::Destination, Role::Target]
    }

    fn config_schema(&self) -> Value {
        json!({
            "$schema": "https://json-schema.org/draft/2020-12/schema",
            "title": "Directory",
            "type": "object",
            "properties": {
                "path": { "type": "string", "description": "Absolute path of a directory on the host of the worker." },
            },
            "required": ["path"],
            "additionalProperties": false,
        })
    }

    fn options_schema(&self, role: Role) -> Value {
        let properties = match role {
            Role::Source => json!({
                "exclude": {
                    "type": "array", "items": { "type": "string" },
                    "description": "Patterns of what is left out, such as *.tmp or /cache.",
                },
                "one_file_system": { "type": "boolean", "description": "Leave out what is on other file systems." },
            }),
            Role::Target => json!({
                "numeric_owner": { "type": "boolean", "description": "Owners go by their numbers, not by their names." },
            }),
            Role::Destination => json!({}),
        };
        json!({ "type": "object", "properties": properties, "additionalProperties": false })
    }

    async fn source(&self, config: &AdapterConfig, options: &Value) -> Result<Arc<dyn Source>> {
        let root = path(config)?;
        let SourceOptions { exclude, one_file_system } = parse_options(options)?;
        Ok(Arc::new(LocalSource::new(LocalSourceConfig { root, exclude, one_file_system })?))
    }

    async fn destination(&self, config: &AdapterConfig) -> Result<Arc<dyn Destination>> {
        Ok(Arc::new(LocalDestination::new(path(config)?)?))
    }

    async fn target(&self, config: &AdapterConfig, options: &Value) -> Result<Arc<dyn RestoreTarget>> {
        let TargetOptions { numeric_owner } = parse_options(options)?;
        Ok(Arc::new(LocalTarget::new(LocalTargetConfig { numeric_owner, ..LocalTargetConfig::new(path(config)?) })?))
    }
}
