//! Deployments as the service knows them.

use crate::{KIND, MongoCluster, MongoConfig, MongoRestoreTarget, MongoSource, MongoSourceOptions, MongoTargetOptions};
use async_trait::async_trait;
use backup_core::Result;
use backup_core::adapter::{RestoreTarget, Source};
use backup_core::service::{Adapter, AdapterConfig, Role, parse_options};
use serde_json::Value;
use std::sync::Arc;

/// Connections of kind `mongodb`: the databases and collections of a deployment that a [`MongoConfig`] means.
#[derive(Clone, Copy, Debug, Default)]
pub struct MongoAdapter;

async fn cluster(config: &AdapterConfig) -> Result<MongoCluster> {
    MongoCluster::connect(config.parse::<MongoConfig>()?).await
}

#[async_trait]
impl Adapter for MongoAdapter {
    fn kind(&self) -> &str {
        KIND
    }

    fn roles(&self) -> &[Role] {
        &[Role::Source, Role::Target]
    }

    fn config_schema(&self) -> Value {
        schemars::schema_for!(MongoConfig).to_value()
    }

    fn options_schema(&self, role: Role) -> Value {
        match role {
            Role::Target => schemars::schema_for!(MongoTargetOptions).to_value(),
            Role::Source | Role::Destination => schemars::schema_for!(MongoSourceOptions).to_value(),
        }
    }

    async fn source(&self, config: &AdapterConfig, options: &Value) -> Result<Arc<dyn Source>> {
        let options: MongoSourceOptions = parse_options(options)?;
        Ok(Arc::new(MongoSource::new(cluster(config).await?, options)))
    }

    async fn target(&self, config: &AdapterConfig, options: &Value) -> Result<Arc<dyn RestoreTarget>> {
        let options: MongoTargetOptions = parse_options(options)?;
        Ok(Arc::new(MongoRestoreTarget::new(cluster(config).await?, options)?))
    }
}
