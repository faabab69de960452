//! Listing a bucket page by page.

use crate::S3Bucket;
use crate::error::{About, answered};
use crate::object::timestamp;
use aws_sdk_s3::types::EncodingType;
use backup_core::retry::{Attempts, RetryPolicy, SystemBackoff};
use backup_core::{Error, Result};
use percent_encoding::percent_decode_str;
use std::sync::Arc;

/// An object as a listing shows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Listed {
    /// Its key below the prefix of the configuration.
    pub(crate) name: String,
    pub(crate) size: u64,
    pub(crate) modified: jiff::Timestamp,
}

/// Up to a thousand objects.
#[derive(Clone, Debug, Default)]
pub(crate) struct Page {
    pub(crate) objects: Vec<Listed>,
    /// With a delimiter: what lies below the same next level, once, as `level/`.
    pub(crate) prefixes: Vec<String>,
}

/// The pages of a listing, in the order of the keys.
#[derive(Debug)]
pub(crate) struct Pages {
    bucket: S3Bucket,
    prefix: String,
    delimiter: Option<&'static str>,
    most: Option<i32>,
    next: Next,
}

#[derive(Debug)]
enum Next {
    First,
    Token(String),
    End,
}

impl Pages {
    /// The objects whose keys below the configuration's prefix start so.
    pub(crate) fn new(bucket: S3Bucket, prefix: &str, delimiter: Option<&'static str>) -> Self {
        let prefix = bucket.key(prefix);
        Self { bucket, prefix, delimiter, most: None, next: Next::First }
    }

    /// With at most so many objects in a page.
    pub(crate) fn of(self, most: i32) -> Self {
        Self { most: Some(most), ..self }
    }

    /// The next page; `None` at the end. What fails for a while is asked for again: whoever repeats a listing can do so only from its
    /// start.
    pub(crate) async fn next(&mut self) -> Result<Option<Page>> {
        let mut attempts = Attempts::new("listing the bucket", RetryPolicy::default(), Arc::new(SystemBackoff));
        loop {
            let token = match &self.next {
                Next::First => None,
                Next::Token(token) => Some(token.clone()),
                Next::End => return Ok(None),
            };
            let first = token.is_none();
            match self.page(token).await {
                Ok((page, next)) => {
                    self.next = next;
                    return Ok(Some(page));
                }
                // The first one is repeated by the caller.
                Err(error) if first => return Err(error),
                Err(error) => attempts.failed(error).await?,
            }
        }
    }

    async fn page(&self, token: Option<String>) -> Result<(Page, Next)> {
        let about = About::Bucket(self.bucket.bucket());
        let asked = token.clone();
        let request = self
            .bucket
            .client()
            .list_objects_v2()
            .bucket(self.bucket.bucket())
            .prefix(&self.prefix)
            .set_delimiter(self.delimiter.map(str::to_owned))
            .set_max_keys(self.most)
            .set_continuation_token(token)
            .encoding_type(EncodingType::Url);
        let answer = answered(request.send(), about).await?;
        let encoded = answer.encoding_type() == Some(&EncodingType::Url);
        let name = |key: Option<&str>| {
            let key = decode(key.unwrap_or_default(), encoded)?;
            let below = key.strip_prefix(self.bucket.prefix()).map(str::to_owned);
            below.ok_or_else(|| Error::permanent("the service listed what does not lie below the prefix").on(about))
        };
        let mut page = Page::default();
        for object in answer.contents() {
            page.objects.push(Listed {
                name: name(object.key())?,
                size: object.size().and_then(|size| u64::try_from(size).ok()).unwrap_or(0),
                modified: timestamp(object.last_modified()),
            });
        }
        for prefix in answer.common_prefixes() {
            page.prefixes.push(name(prefix.prefix())?);
        }
        let next = match answer.next_continuation_token() {
            Some(next) if answer.is_truncated() == Some(true) && Some(next) != asked.as_deref() => {
                Next::Token(next.to_owned())
            }
            _ if answer.is_truncated() == Some(true) => {
                return Err(Error::transient("the service's listing breaks off").on(about));
            }
            _ => Next::End,
        };
        Ok((page, next))
    }
}

/// A key as it is, from a listing with `encoding-type=url`.
pub(crate) fn decode(key: &str, encoded: bool) -> Result<String> {
    if !encoded {
        return Ok(key.to_owned());
    }
    let key = key.replace('+', " ");
    let decoded = percent_decode_str(&key).decode_utf8();
    decoded
        .map(|key| key.into_owned())
        .map_err(|e| Error::permanent("the service listed a key that is no text").because(e))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_decoded_only_when_the_service_says_that_they_are_encoded() {
        assert_eq!(decode("a+b%2Bc%0A%C3%A4%25", true).unwrap(), "a b+c\nä%");
        assert_eq!(decode("a%20b", true).unwrap(), "a b");
        assert_eq!(decode("a+b%2B", false).unwrap(), "a+b%2B");
        assert!(decode("%FF", true).is_err());
    }
}
