//! `local:PATH`: files of this machine.

use super::{Adapter, Secret, SourceOptions, TargetOptions};
use async_trait::async_trait;
use backup_core::Result;
use backup_core::adapter::{Destination, RestoreTarget, Source};
use backup_core::local::{LocalDestination, LocalSource, LocalSourceConfig, LocalTarget, LocalTargetConfig};
use std::sync::Arc;

#[derive(Debug)]
pub(super) struct Local;

#[async_trait]
impl Adapter for Local {
    fn kind(&self) -> &'static str {
        "local"
    }

    fn syntax(&self) -> &'static str {
        "local:PATH or PATH"
    }

    fn absolute(&self, rest: &str) -> Result<String, String> {
        if rest == "~" || rest.starts_with("~/") {
            return Err(format!(
                "the shell has not replaced the `~` of `{rest}`: write $HOME instead, or ./{rest} if that is its name"
            ));
        }
        let path = std::path::absolute(rest).map_err(|e| format!("`{rest}` is no path: {e}"))?;
        path.into_os_string()
            .into_string()
            .map_err(|_| "the working directory's path is not UTF-8; write the whole path".into())
    }

    async fn source(&self, rest: &str, _: &Secret, options: &SourceOptions) -> Result<Arc<dyn Source>> {
        let SourceOptions { exclude, one_file_system, mongodb: _ } = options.clone();
        let config = LocalSourceConfig { root: rest.into(), exclude, one_file_system };
        Ok(Arc::new(LocalSource::new(config)?))
    }

    async fn destination(&self, rest: &str) -> Result<Arc<dyn Destination>> {
        Ok(Arc::new(LocalDestination::new(rest)?))
    }

    async fn target(&self, rest: &str, _: &Secret, _: &TargetOptions) -> Result<Arc<dyn RestoreTarget>> {
        Ok(Arc::new(LocalTarget::new(LocalTargetConfig::new(rest))?))
    }
}
