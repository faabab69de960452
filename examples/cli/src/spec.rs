//! What is kept with an operation, so that another process can build its adapters again. Never a secret.

use crate::args::Resources;
use crate::keys::KeySource;
use crate::locator::{Locator, SourceOptions, TargetOptions};
use backup_core::engine::{EngineOptions, Limits};
use backup_core::limit::RateLimit;
use backup_core::model::Operation;
use backup_core::{Error, Result};
use serde::{Deserialize, Serialize};
use std::num::NonZeroU64;

/// The command behind an operation.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(tag = "command", rename_all = "kebab-case")]
pub(crate) enum Spec {
    /// `backup create`
    Create(CreateSpec),
    /// `backup restore`
    Restore(RestoreSpec),
}

/// What continues a backup.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct CreateSpec {
    /// The source.
    pub(crate) from: Locator,
    /// How it is read.
    pub(crate) source: SourceOptions,
    /// The destination.
    pub(crate) to: Locator,
    /// Where the key is.
    pub(crate) key: Option<KeySource>,
    /// What it may use.
    #[serde(default)]
    pub(crate) resources: ResourcesSpec,
}

/// What continues a restore.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct RestoreSpec {
    /// Where the archive is.
    pub(crate) at: Locator,
    /// The target.
    pub(crate) to: Locator,
    /// How it is written.
    #[serde(default)]
    pub(crate) target: TargetOptions,
    /// Where the key is.
    pub(crate) key: Option<KeySource>,
    /// Whether an archive that is not sealed is fine although there is a key.
    #[serde(default)]
    pub(crate) allow_unsealed: bool,
    /// What it may use.
    #[serde(default)]
    pub(crate) resources: ResourcesSpec,
}

/// [`Resources`] as they are kept.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct ResourcesSpec {
    /// Bytes for data in flight.
    pub(crate) memory: Option<u64>,
    /// Bytes read a second.
    pub(crate) limit_read: Option<NonZeroU64>,
    /// Bytes written a second.
    pub(crate) limit_write: Option<NonZeroU64>,
}

impl ResourcesSpec {
    /// What the command line says now goes before what was kept.
    pub(crate) fn overridden_by(self, now: Resources) -> Self {
        let Resources { memory, limit_read, limit_write } = now;
        Self {
            memory: memory.or(self.memory),
            limit_read: limit_read.or(self.limit_read),
            limit_write: limit_write.or(self.limit_write),
        }
    }

    /// The bandwidth limits.
    pub(crate) fn limits(&self) -> Limits {
        Limits { read: RateLimit::new(self.limit_read), write: RateLimit::new(self.limit_write) }
    }

    /// The engine's options.
    pub(crate) fn engine_options(&self) -> EngineOptions {
        let defaults = EngineOptions::default();
        EngineOptions { memory: self.memory.unwrap_or(defaults.memory), ..defaults }
    }
}

impl From<Resources> for ResourcesSpec {
    fn from(resources: Resources) -> Self {
        Self::default().overridden_by(resources)
    }
}

impl Spec {
    /// As the store keeps it.
    ///
    /// # Errors
    /// When it cannot be written as JSON.
    pub(crate) fn to_json(&self) -> Result<serde_json::Value> {
        serde_json::to_value(self).map_err(|e| Error::invalid("cannot keep these options").because(e))
    }

    /// What was kept with an operation.
    ///
    /// # Errors
    /// When another program made the operation.
    pub(crate) fn of(operation: &Operation) -> Result<Self> {
        serde_json::from_value(operation.new.spec.clone()).map_err(|e| {
            Error::unsupported("this operation was not started by this program; go on with it where it was started")
                .on(&operation.new.id)
                .because(e)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_kept_is_read_back() {
        let spec = Spec::Create(CreateSpec {
            from: "/a".parse().unwrap(),
            source: SourceOptions { exclude: vec!["*.o".into()], one_file_system: true, ..SourceOptions::default() },
            to: "/b".parse().unwrap(),
            key: Some(KeySource::File("/k".into())),
            resources: ResourcesSpec { limit_read: NonZeroU64::new(5), ..ResourcesSpec::default() },
        });
        let json = spec.to_json().unwrap();
        assert_eq!(json["command"], "create");
        assert_eq!(json["from"], "local:/a");
        let Spec::Create(back) = serde_json::from_value(json).unwrap() else { panic!("another command") };
        assert_eq!(back.from.to_string(), "local:/a");
        assert_eq!(back.source.exclude, ["*.o"]);
        assert_eq!(back.resources.limit_read, NonZeroU64::new(5));
    }

    #[test]
    fn what_the_command_line_says_now_goes_first() {
        let kept = ResourcesSpec { memory: Some(1), limit_read: NonZeroU64::new(2), limit_write: None };
        let now = Resources { memory: None, limit_read: NonZeroU64::new(3), limit_write: NonZeroU64::new(4) };
        let both = kept.overridden_by(now);
        assert_eq!((both.memory, both.limit_read, both.limit_write), (Some(1), NonZeroU64::new(3), NonZeroU64::new(4)));
    }
}
