//! What is stored with an operation, so that any worker can build its adapters again. Never a secret.

use crate::engine::Limits;
use crate::limit::RateLimit;
use crate::model::Operation;
use crate::{Error, Result};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::num::NonZeroU64;

/// How a worker goes on with an operation of the service.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "service", rename_all = "kebab-case")]
pub(super) enum Spec {
    Backup {
        /// For the source's adapter.
        options: Value,
        sealed: bool,
        limits: Rates,
    },
    Restore {
        /// For the target's adapter.
        options: Value,
        allow_unsealed: bool,
        limits: Rates,
    },
}

/// Bytes a second.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Rates {
    pub(super) read: Option<NonZeroU64>,
    pub(super) write: Option<NonZeroU64>,
}

impl Rates {
    pub(super) fn limits(self) -> Limits {
        Limits { read: RateLimit::new(self.read), write: RateLimit::new(self.write) }
    }
}

impl Spec {
    pub(super) fn to_json(&self) -> Result<Value> {
        serde_json::to_value(self).map_err(|e| Error::invalid("these options cannot be stored").because(e))
    }

    /// # Errors
    /// `Unsupported` when another program, or a newer version, made the operation.
    pub(super) fn of(operation: &Operation) -> Result<Self> {
        Self::deserialize(&operation.new.spec).map_err(|e| {
            Error::unsupported("the operation was not made by this service, or by a newer version of it")
                .on(&operation.new.id)
                .because(e)
        })
    }
}
