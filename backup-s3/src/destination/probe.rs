//! What a destination can do: tried out with a small object.

use super::{S3Destination, list};
use crate::S3Bucket;
use crate::body::Md5;
use crate::error::{About, from_sdk};
use crate::object::PutAnswer;
use aws_sdk_s3::config::interceptors::BeforeDeserializationInterceptorContextRef;
use aws_sdk_s3::config::{ConfigBag, Intercept, RuntimeComponents};
use aws_sdk_s3::error::BoxError;
use aws_sdk_s3::primitives::{DateTime, DateTimeFormat};
use backup_core::adapter::Payload;
use backup_core::model::STAGE_PREFIX;
use backup_core::{Error, ErrorClass, Result};
use std::sync::{Arc, Mutex, PoisonError};

impl S3Destination {
    /// Lists, writes, reads back and removes.
    pub(super) async fn probe(&self) -> Result<()> {
        // A bucket that is not there, or may not be listed, is told by this.
        list::remove_old_leftovers(&self.bucket).await?;
        let honours = self.try_out().await?;
        self.honours.get_or_init(|| async { honours }).await;
        Ok(())
    }

    /// Whether the service honours `If-None-Match: *`; asked once.
    pub(super) async fn honours_if_none_match(&self) -> Result<bool> {
        self.honours.get_or_try_init(|| self.try_out()).await.copied()
    }

    /// Writes a probe twice, the second time only if it is not there, reads it back and removes it. Answers whether the second one was turned down.
    async fn try_out(&self) -> Result<bool> {
        let key = self.bucket.key(&format!("{STAGE_PREFIX}probe-{:016x}", rand::random::<u64>()));
        let payload = Payload::from(key.clone().into_bytes());
        let tried = self.try_key(&key, &payload).await;
        let removed = self.bucket.delete(&key).await;
        let honours = tried?;
        // A version that stays is no harm here: a probe is small, and whoever lets the bucket keep versions expects them.
        removed.map_err(|e| e.context("an object was written, but it cannot be removed again"))?;
        Ok(honours)
    }

    async fn try_key(&self, key: &str, payload: &Payload) -> Result<bool> {
        let md5 = Md5::of(payload).await?;
        self.put_key(key, payload, md5, false).await?;
        let other = Payload::from(b"another content".to_vec());
        let honours = match self.put_key(key, &other, Md5::of(&other).await?, true).await {
            Ok(PutAnswer::Exists) => true,
            Ok(PutAnswer::Stored | PutAnswer::Race) => false,
            // The header is not known, which is as good an answer.
            Err(e) if e.class() == ErrorClass::Unsupported => false,
            Err(e) => return Err(e),
        };
        let expected = if honours { payload } else { &Payload::default() };
        let mut opened = self.bucket.open(key, None, None).await?;
        let mut found = Vec::new();
        while let Some(bytes) = opened.next().await? {
            found.extend_from_slice(&bytes);
        }
        let written = [payload, &other].iter().any(|payload| payload.pieces().concat() == found);
        if !written || (honours && expected.pieces().concat() != found) {
            return Err(Error::corrupt("the probe does not read back as it was written").on(self.bucket.identity()));
        }
        tracing::debug!(place = %self.bucket.identity(), honours, "whether the service honours If-None-Match");
        Ok(honours)
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
        let request = self.client().head_bucket().bucket(self.bucket()).customize().interceptor(date.clone());
        let about = About::Bucket(self.bucket());
        request.send().await.map_err(|e| from_sdk(e, about))?;
        let date = date.0.lock().unwrap_or_else(PoisonError::into_inner).take();
        let parsed = date.and_then(|date| DateTime::from_str(&date, DateTimeFormat::HttpDate).ok());
        let time = parsed.and_then(|date| jiff::Timestamp::from_second(date.secs()).ok());
        time.ok_or_else(|| Error::unsupported("the service does not tell the time (no header `Date`)").on(about))
    }
}
