//! Buckets as the service knows them.

use crate::{S3Bucket, S3Config, S3Destination, S3RestoreTarget, S3Source, S3SourceOptions, S3TargetOptions};
use async_trait::async_trait;
use backup_core::Result;
use backup_core::adapter::{Destination, RestoreTarget, Source};
use backup_core::service::{Adapter, AdapterConfig, Role, parse_options};
use serde_json::Value;
use std::sync::Arc;

/// Connections of kind `s3`: a bucket, or the keys below a prefix of it, configured by an [`S3Config`].
#[derive(Clone, Copy, Debug, Default)]
pub struct S3Adapter;

async fn bucket(config: &AdapterConfig) -> Result<S3Bucket> {
    S3Bucket::connect(config.parse::<S3Config>()?).await
}

#[async_trait]
impl Adapter for S3Adapter {
    fn kind(&self) -> &str {
        "s3"
    }

    fn roles(&self) -> &[Role] {
        &[Role::Source, Role::Destination, Role::Target]
    }

    fn config_schema(&self) -> Value {
        schemars::schema_for!(S3Config).to_value()
    }

    fn options_schema(&self, role: Role) -> Value {
        match role {
            Role::Source => schemars::schema_for!(S3SourceOptions).to_value(),
            Role::Target => schemars::schema_for!(S3TargetOptions).to_value(),
            Role::Destination => {
                serde_json::json!({ "type": "object", "properties": {}, "additionalProperties": false })
            }
        }
    }

    async fn source(&self, config: &AdapterConfig, options: &Value) -> Result<Arc<dyn Source>> {
        let options: S3SourceOptions = parse_options(options)?;
        Ok(Arc::new(S3Source::new(bucket(config).await?, options)?))
    }

    async fn destination(&self, config: &AdapterConfig) -> Result<Arc<dyn Destination>> {
        Ok(Arc::new(S3Destination::new(bucket(config).await?)))
    }

    async fn target(&self, config: &AdapterConfig, options: &Value) -> Result<Arc<dyn RestoreTarget>> {
        let options: S3TargetOptions = parse_options(options)?;
        Ok(Arc::new(S3RestoreTarget::new(bucket(config).await?, options)?))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_schema_marks_every_secret() {
        let schema = S3Adapter.config_schema().to_string();
        // The access key's secret, its token, the customer key.
        assert_eq!(schema.matches("\"writeOnly\":true").count(), 3, "{schema}");
    }
}
