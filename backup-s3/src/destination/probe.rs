//! Whether a destination works now, and what time it is there.

use super::{Abilities, S3Destination, list};
use crate::S3Bucket;
use crate::error::{About, answered};
use aws_sdk_s3::config::interceptors::BeforeDeserializationInterceptorContextRef;
use aws_sdk_s3::config::{ConfigBag, Intercept, RuntimeComponents};
use aws_sdk_s3::error::BoxError;
use aws_sdk_s3::primitives::{DateTime, DateTimeFormat};
use backup_core::{Error, Result};
use std::sync::{Arc, Mutex, PoisonError};

/// What the names of probes have.
const PROBE: &str = "probe";

impl S3Destination {
    /// Lists, writes, reads back and removes.
    pub(super) async fn probe(&self) -> Result<()> {
        // A bucket that is not there, or may not be listed, is told by this.
        list::remove_old_leftovers(&self.bucket).await?;
        let abilities = self.try_out().await?;
        self.abilities.get_or_init(|| async { abilities }).await;
        Ok(())
    }

    /// What the service can do; asked once.
    pub(super) async fn abilities(&self) -> Result<Abilities> {
        self.abilities.get_or_try_init(|| self.try_out()).await.copied()
    }

    /// Goes on when the call is dropped, so that the probes are removed.
    async fn try_out(&self) -> Result<Abilities> {
        let bucket = self.bucket.clone();
        let tried = tokio::spawn(async move {
            let if_none_match = bucket.try_out(PROBE).await?;
            Ok(Abilities { if_none_match, sha256: bucket.compares_sha256(PROBE).await })
        });
        tried.await.map_err(|e| Error::cancelled("the probe was stopped").because(e))?
    }
}

/// Takes the `Date` of an answer.
#[derive(Clone, Debug, Default)]
struct ReadDate(Arc<Mutex<Option<String>>>);

impl Intercept for ReadDate {
    fn name(&self) -> &'static str {
        "ReadDate"
    }

    fn read_before_deserialization(
        &self,
        context: &BeforeDeserializationInterceptorContextRef<'_>,
        _: &RuntimeComponents,
        _: &mut ConfigBag,
    ) -> Result<(), BoxError> {
        let date = context.response().headers().get("date").map(str::to_owned);
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = date;
        Ok(())
    }
}

impl S3Bucket {
    /// The service's time, to the second.
    pub(super) async fn now(&self) -> Result<jiff::Timestamp> {
        let date = ReadDate::default();
        // An answer without a body, as to HeadBucket, could not say what is wrong.
        let request = self.client().list_objects_v2().bucket(self.bucket()).prefix(self.prefix()).max_keys(1);
        let request = request.customize().interceptor(date.clone());
        let about = About::Bucket(self.bucket());
        answered(request.send(), about).await?;
        let date = date.0.lock().unwrap_or_else(PoisonError::into_inner).take();
        let parsed = date.and_then(|date| DateTime::from_str(&date, DateTimeFormat::HttpDate).ok());
        let time = parsed.and_then(|date| jiff::Timestamp::from_second(date.secs()).ok());
        time.ok_or_else(|| Error::unsupported("the service does not tell the time (no header `Date`)").on(about))
    }
}
