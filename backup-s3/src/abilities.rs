//! What a service can do that not all can: tried out with small objects, once.

use crate::S3Bucket;
use crate::attributes::Attributes;
use crate::body::{Md5, Proof};
use crate::error::is_about_digest;
use crate::object::{Put, PutAnswer};
use aws_sdk_s3::error::ProvideErrorMetadata;
use backup_core::adapter::Payload;
use backup_core::model::STAGE_PREFIX;
use backup_core::{Digest, Error, ErrorClass, Result};

impl S3Bucket {
    /// Whether this is AWS itself, which honours it.
    pub(crate) fn is_aws(&self) -> bool {
        ["aws/", "aws-cn/", "aws-us-gov/"].iter().any(|service| self.identity().location.starts_with(service))
    }

    /// Writes a probe twice, the second time only if nothing is there, reads it back and removes it. Answers whether the second one
    /// was turned down. The call has to go on to its end; the probe is named `.backup-tmp-<tag>-<random>`.
    pub(crate) async fn try_out(&self, tag: &str) -> Result<bool> {
        let key = self.probe_key(tag);
        let tried = self.try_key(&key).await;
        let removed = self.delete(&key).await;
        let honours = tried?;
        // A version that stays is no harm: a probe is small, and whoever lets the bucket keep versions expects them.
        removed.map_err(|e| e.context("an object was written, but it cannot be removed again"))?;
        tracing::debug!(place = %self.identity(), honours, "whether the service honours If-None-Match");
        Ok(honours)
    }

    /// Whether the service compares an `x-amz-checksum-sha256` with what arrives: a probe with a wrong one must be refused for that
    /// reason. Any other answer is a no, since a Content-MD5 always does. The call has to go on to its end, as that of
    /// [`try_out`](Self::try_out).
    pub(crate) async fn compares_sha256(&self, tag: &str) -> bool {
        let key = self.probe_key(tag);
        let (payload, attributes) = (Payload::from(b"probe".to_vec()), Attributes::default());
        let proof = Proof::Sha256(Digest::of(b"something else"));
        let put = Put { key: &key, payload: &payload, proof, only_new: false, attributes: &attributes };
        let compares = matches!(self.try_put(&put).await, Err(e) if e.code().is_some_and(is_about_digest));
        // Otherwise it is there, or may be although there was an error.
        if !compares && let Err(error) = self.delete(&key).await {
            tracing::debug!(error = error.chain(), "a probe may be left");
        }
        tracing::debug!(place = %self.identity(), compares, "whether the service compares a SHA-256");
        compares
    }

    fn probe_key(&self, tag: &str) -> String {
        self.key(&format!("{STAGE_PREFIX}{tag}-{:016x}", rand::random::<u64>()))
    }

    async fn try_key(&self, key: &str) -> Result<bool> {
        let [first, second] = ["first", "second"].map(|text| Payload::from(text.as_bytes().to_vec()));
        if self.put_probe(key, &first, false).await? == PutAnswer::NoSuchClass {
            return Err(Error::invalid(
                "the service does not know the storage class of the configuration; choose another",
            ));
        }
        let honours = match self.put_probe(key, &second, true).await {
            Ok(PutAnswer::Exists) => true,
            Ok(_) => false,
            // The header is not known, which services say in several ways; the same without it was taken just now.
            Err(e) if matches!(e.class(), ErrorClass::Unsupported | ErrorClass::Permanent) => false,
            Err(e) => return Err(e),
        };
        let mut opened = self.open(key, None, None).await?;
        let mut found = Vec::new();
        while let Some(bytes) = opened.next().await? {
            found.extend_from_slice(&bytes);
        }
        if found == b"first" || (found == b"second" && !honours) {
            return Ok(honours);
        }
        Err(Error::corrupt("the probe does not read back as it was written").on(self.identity()))
    }

    async fn put_probe(&self, key: &str, payload: &Payload, only_new: bool) -> Result<PutAnswer> {
        let (proof, attributes) = (Proof::Md5(Md5::of(payload).await?), Attributes::default());
        self.put(Put { key, payload, proof, only_new, attributes: &attributes }).await
    }
}
