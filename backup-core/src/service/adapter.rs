//! Adapters as the service knows them: by kind, made from stored configuration.

use super::config::AdapterConfig;
use crate::adapter::{Destination, RestoreTarget, Source};
use crate::{Error, ErrorClass, Result};
use async_trait::async_trait;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

/// What a place is used as.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Role {
    /// Data is read there.
    Source,
    /// Archives are kept there.
    Destination,
    /// Archives are restored there.
    Target,
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Source => "source",
            Self::Destination => "destination",
            Self::Target => "restore target",
        })
    }
}

/// Makes sources, destinations and restore targets of one kind from stored configuration.
///
/// A kind of one's own is one type that implements this, given to [`BackupServiceBuilder::adapter`](super::BackupServiceBuilder::adapter).
#[async_trait]
pub trait Adapter: fmt::Debug + Send + Sync + 'static {
    /// The kind: 1 to 32 small letters, digits and `-`. Stored with each connection, and never changed.
    fn kind(&self) -> &str;

    /// What places of this kind can be used as. The first one is what a connection is checked as when nobody says otherwise; for a kind
    /// that can be read, that is the source, so that a check writes nothing.
    fn roles(&self) -> &[Role];

    /// A JSON Schema (draft 2020-12) of the configuration, from which any frontend can draw a form.
    ///
    /// # Behavior
    /// - Secrets are strings with `"writeOnly": true`, each a property of its own (not an item of a list, nor under a name that the schema
    ///   does not tell); they are stored sealed and never shown. No other value is a secret.
    fn config_schema(&self) -> Value;

    /// A JSON Schema of what can be chosen anew for each operation, in a role; none of it secret.
    fn options_schema(&self, role: Role) -> Value {
        let _ = role;
        serde_json::json!({ "type": "object", "properties": {}, "additionalProperties": false })
    }

    /// A place to read from. `options` fits [`options_schema`](Self::options_schema), or is null.
    ///
    /// # Behavior
    /// - `Invalid` when configuration or options cannot be right; no text of an error has a secret in it.
    async fn source(&self, config: &AdapterConfig, options: &Value) -> Result<Arc<dyn Source>> {
        let _ = (config, options);
        Err(unsupported(self.kind(), Role::Source))
    }

    /// A place that keeps archives.
    ///
    /// # Behavior
    /// - As for [`source`](Self::source).
    async fn destination(&self, config: &AdapterConfig) -> Result<Arc<dyn Destination>> {
        let _ = config;
        Err(unsupported(self.kind(), Role::Destination))
    }

    /// A place to restore to. `options` fits [`options_schema`](Self::options_schema), or is null.
    ///
    /// # Behavior
    /// - As for [`source`](Self::source).
    async fn target(&self, config: &AdapterConfig, options: &Value) -> Result<Arc<dyn RestoreTarget>> {
        let _ = (config, options);
        Err(unsupported(self.kind(), Role::Target))
    }
}

fn unsupported(kind: &str, role: Role) -> Error {
    Error::unsupported(format!("a place of kind {kind} cannot be used as {role}"))
}

/// The adapters of a service, by kind.
#[derive(Clone, Debug, Default)]
pub(super) struct Registry(BTreeMap<String, Arc<dyn Adapter>>);

impl Registry {
    /// # Errors
    /// `Invalid` when the kind is not allowed; `Conflict` when there is one of it already.
    pub(super) fn add(&mut self, adapter: Arc<dyn Adapter>) -> Result<()> {
        let kind = adapter.kind().to_owned();
        let allowed = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-';
        if kind.is_empty() || kind.len() > 32 || !kind.bytes().all(allowed) {
            let text = "the kind of an adapter has 1 to 32 small letters, digits and `-`";
            return Err(Error::invalid(text).on(kind.escape_default()));
        }
        if adapter.roles().is_empty() {
            return Err(Error::invalid("an adapter must say what its places can be used as").on(kind));
        }
        super::config::check_schema(&adapter.config_schema()).map_err(|e| e.on(&kind))?;
        match self.0.insert(kind.clone(), adapter) {
            None => Ok(()),
            Some(_) => Err(Error::conflict("two adapters of one kind were given").on(kind)),
        }
    }

    /// # Errors
    /// `Unsupported` when there is none of this kind.
    pub(super) fn get(&self, kind: &str) -> Result<&Arc<dyn Adapter>> {
        self.0.get(kind).ok_or_else(|| {
            let known: Vec<&str> = self.0.keys().map(String::as_str).collect();
            let text = format!("this program has no adapter of this kind; it has {}", known.join(", "));
            Error::new(ErrorClass::Unsupported, text).on(kind.escape_default())
        })
    }

    pub(super) fn all(&self) -> impl Iterator<Item = &Arc<dyn Adapter>> {
        self.0.values()
    }
}
