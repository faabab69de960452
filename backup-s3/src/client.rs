//! The connection to a bucket: how the SDK is set up, and what all requests have in common.

use crate::config::{ChecksumMode, Credentials, CustomerKey, Encryption, Endpoint, S3Config};
use aws_sdk_s3::Client;
use aws_sdk_s3::config::interceptors::BeforeTransmitInterceptorContextMut;
use aws_sdk_s3::config::retry::RetryConfig;
use aws_sdk_s3::config::timeout::TimeoutConfig;
use aws_sdk_s3::config::{
    Builder, ConfigBag, Intercept, Region, RequestChecksumCalculation, ResponseChecksumValidation, RuntimeComponents,
    StalledStreamProtectionConfig,
};
use aws_sdk_s3::error::BoxError;
use aws_sdk_s3::types::ServerSideEncryption;
use backup_core::model::Identity;
use backup_core::{Error, Result};
use percent_encoding::{NON_ALPHANUMERIC, percent_encode};
use secrecy::ExposeSecret;
use std::borrow::Cow;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

/// How long making a connection may take.
const CONNECT: Duration = Duration::from_secs(10);
/// How long an answer may take to begin, the sending of the body included, which a bandwidth limit may make slow. Requests that
/// change nothing get less, see `answered`, and so do those that write from when they are sent, see `written`.
const FIRST_BYTE: Duration = Duration::from_secs(3600);
/// How long no byte may come or go before a connection counts as broken.
const STALLED: Duration = Duration::from_secs(20);

/// How long a service may take to answer a request that writes, once it has all of it. Other requests have a minute.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Patience {
    /// Of an object or a part. A body of one piece counts as sent as soon as 16 KiB a second have passed.
    pub written: Duration,
    /// Of putting the parts of an object together, and of a copy.
    pub completed: Duration,
}

impl Default for Patience {
    /// Two minutes and ten.
    fn default() -> Self {
        Self { written: Duration::from_secs(120), completed: Duration::from_secs(600) }
    }
}

/// A bucket, or the keys below a prefix of it, with a client for it. A clone shares the connections.
#[derive(Clone)]
pub struct S3Bucket(Arc<Inner>, Patience);

struct Inner {
    client: Client,
    bucket: String,
    prefix: String,
    identity: Identity,
    storage_class: Option<String>,
    encryption: Encryption,
    customer_key: Option<CustomerKey>,
}

impl S3Bucket {
    /// Sets up a client. Sends no request to the bucket; environment and profiles are read where the credentials come from there.
    ///
    /// # Errors
    /// - `Invalid`, naming the field and what to write there.
    /// - `Unsupported` for credentials of the environment when the feature `aws-config` is missing.
    pub async fn connect(config: S3Config) -> Result<Self> {
        config.validate()?;
        let prefix = config.normalized_prefix();
        let customer_key = config.encryption.customer_key()?;
        let S3Config {
            bucket,
            prefix: _,
            region,
            endpoint,
            path_style,
            credentials,
            checksums,
            storage_class,
            encryption,
        } = config;
        let endpoint = endpoint.as_deref().map(Endpoint::parse).transpose()?;
        let (builder, found_region) = with_credentials(credentials, region.as_deref()).await?;
        let aws = endpoint.as_ref().is_none_or(Endpoint::is_aws);
        let region = match region.or(found_region) {
            Some(region) => region,
            None if !aws => "us-east-1".to_owned(),
            None => {
                let text = "the bucket's region is not known; set it, e.g. eu-central-1, or AWS_REGION";
                return Err(Error::invalid(text).on("S3 configuration, region"));
            }
        };
        let identity = identity(endpoint.as_ref(), &region, &bucket, &prefix);
        let checksums = checksums.unwrap_or(if aws { ChecksumMode::WhenSupported } else { ChecksumMode::WhenRequired });
        let (calculate, validate) = match checksums {
            ChecksumMode::WhenSupported => {
                (RequestChecksumCalculation::WhenSupported, ResponseChecksumValidation::WhenSupported)
            }
            ChecksumMode::WhenRequired => {
                (RequestChecksumCalculation::WhenRequired, ResponseChecksumValidation::WhenRequired)
            }
        };
        let timeouts = TimeoutConfig::builder().connect_timeout(CONNECT).read_timeout(FIRST_BYTE).build();
        let mut builder = builder
            .region(Region::new(region))
            .force_path_style(path_style.unwrap_or(!aws))
            .request_checksum_calculation(calculate)
            .response_checksum_validation(validate)
            // The engine retries, in one place and by one policy.
            .retry_config(RetryConfig::disabled())
            .timeout_config(timeouts)
            .interceptor(BlankKeys)
            .stalled_stream_protection(StalledStreamProtectionConfig::enabled().grace_period(STALLED).build());
        builder.set_endpoint_url(endpoint.map(|endpoint| endpoint.url));
        let client = Client::from_conf(builder.build());
        Ok(Self(
            Arc::new(Inner { client, bucket, prefix, identity, storage_class, encryption, customer_key }),
            Patience::default(),
        ))
    }

    /// The same bucket, with other times after which a service that does not answer is given up.
    #[must_use]
    pub fn with_patience(self, patience: Patience) -> Self {
        Self(self.0, patience)
    }

    pub(crate) fn patience(&self) -> Patience {
        self.1
    }

    /// The place that this stands for: endpoint, bucket and prefix.
    pub fn identity(&self) -> &Identity {
        &self.0.identity
    }

    /// The bucket's name.
    pub fn bucket(&self) -> &str {
        &self.0.bucket
    }

    /// What all keys start with: empty, or with a `/` at its end.
    pub fn prefix(&self) -> &str {
        &self.0.prefix
    }

    /// The key of what has this name below the prefix.
    pub fn key(&self, name: &str) -> String {
        format!("{}{name}", self.0.prefix)
    }

    /// A key as the SDK takes it, whatever it is made of.
    pub(crate) fn request_key<'a>(&self, key: &'a str) -> Cow<'a, str> {
        request_key(key)
    }

    /// The SDK's client, for what this crate does not do.
    pub fn client(&self) -> &Client {
        &self.0.client
    }

    /// The storage class that the configuration asks for.
    pub(crate) fn storage_class(&self) -> Option<&str> {
        self.0.storage_class.as_deref()
    }

    /// Whether there is a key of SSE-C.
    pub(crate) fn has_customer_key(&self) -> bool {
        self.0.customer_key.is_some()
    }
}

impl fmt::Debug for S3Bucket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Inner { client: _, bucket: _, prefix: _, identity, storage_class, encryption, customer_key: _ } = &*self.0;
        f.debug_struct("S3Bucket")
            .field("identity", identity)
            .field("storage_class", storage_class)
            .field("encryption", encryption)
            .finish_non_exhaustive()
    }
}

/// Buckets of AWS have one name in all regions of a partition; other services are told apart by host and port.
fn identity(endpoint: Option<&Endpoint>, region: &str, bucket: &str, prefix: &str) -> Identity {
    let service = match endpoint.filter(|endpoint| !endpoint.is_aws()) {
        Some(endpoint) => &*endpoint.canonical,
        None if region.starts_with("cn-") => "aws-cn",
        None if region.starts_with("us-gov-") => "aws-us-gov",
        None => "aws",
    };
    Identity::new("s3", format!("{service}/{bucket}/{prefix}"))
}

/// A builder that knows the credentials, and the region where they were found.
async fn with_credentials(credentials: Credentials, region: Option<&str>) -> Result<(Builder, Option<String>)> {
    let profile = match credentials {
        Credentials::Static { access_key, secret_key, session_token } => {
            let token = session_token.map(|token| token.expose_secret().to_owned());
            let secret = secret_key.expose_secret().to_owned();
            let credentials = aws_sdk_s3::config::Credentials::new(access_key, secret, token, None, "backup-s3");
            let builder = Builder::new().behavior_version_latest().credentials_provider(credentials);
            return Ok((builder, None));
        }
        Credentials::Profile { profile } => Some(profile),
        Credentials::Environment => None,
    };
    from_environment(profile, region).await
}

#[cfg(feature = "aws-config")]
async fn from_environment(profile: Option<String>, region: Option<&str>) -> Result<(Builder, Option<String>)> {
    let mut loader = aws_config::defaults(aws_sdk_s3::config::BehaviorVersion::latest());
    if let Some(profile) = profile {
        loader = loader.profile_name(profile);
    }
    if let Some(region) = region {
        loader = loader.region(Region::new(region.to_owned()));
    }
    // Endpoint and addressing come from the configuration alone, so that one configuration always means one place.
    let found = Box::pin(loader.load()).await;
    let region = found.region().map(ToString::to_string);
    let mut builder = Builder::from(&found);
    builder.set_endpoint_url(None);
    Ok((builder, region))
}

#[cfg(not(feature = "aws-config"))]
async fn from_environment(_: Option<String>, _: Option<&str>) -> Result<(Builder, Option<String>)> {
    let text = "this build knows access keys only (it lacks the feature aws-config); give access key and secret key";
    Err(Error::unsupported(text).on("S3 configuration, credentials"))
}

/// Keys of nothing but white space, which the SDK takes for missing ones: the request is made for another key, and this puts the right
/// one into the address before the request is signed.
#[derive(Clone, Copy, Debug)]
struct BlankKeys;

/// What a key that stands for another begins with; the other follows in hexadecimal digits.
const STAND_IN: &str = "stand-in-for-a-blank-key-";

/// The key that a request is made for.
fn request_key(key: &str) -> Cow<'_, str> {
    // One that looks like a stand-in is given one, too, so that every stand-in is ours.
    if key.trim().is_empty() || key.contains(STAND_IN) {
        return format!("{STAND_IN}{}", hex::encode(key)).into();
    }
    key.into()
}

/// The address with the key in its place that it has a stand-in for.
fn with_blank_key(address: &str) -> Option<String> {
    // Behind a `?`, where a listing goes on from, keys stand as they are.
    let path = &address[..address.find('?').unwrap_or(address.len())];
    let start = path.find(STAND_IN)?;
    let (before, rest) = (&address[..start], &address[start + STAND_IN.len()..]);
    let end = rest.find(|c: char| !c.is_ascii_hexdigit()).unwrap_or(rest.len());
    let key = hex::decode(&rest[..end]).ok()?;
    Some(format!("{before}{}{}", percent_encode(&key, NON_ALPHANUMERIC), &rest[end..]))
}

impl Intercept for BlankKeys {
    fn name(&self) -> &'static str {
        "BlankKeys"
    }

    fn modify_before_signing(
        &self,
        context: &mut BeforeTransmitInterceptorContextMut<'_>,
        _: &RuntimeComponents,
        _: &mut ConfigBag,
    ) -> Result<(), BoxError> {
        if let Some(address) = with_blank_key(context.request().uri()) {
            context.request_mut().set_uri(address)?;
        }
        Ok(())
    }
}

/// Requests to which the key of SSE-C belongs.
pub(crate) trait WithCustomerKey: Sized {
    /// Adds the key's headers if the configuration has one.
    fn with_customer_key(self, bucket: &S3Bucket) -> Self;
}

/// Requests that create objects.
pub(crate) trait WithEncryption: Sized {
    /// Adds encryption and storage class as the configuration says; `storage_class` goes before that of the configuration.
    fn with_encryption(self, bucket: &S3Bucket, storage_class: Option<&str>) -> Self;
}

macro_rules! with_customer_key {
    ($($request:ident)*) => { $(
        impl WithCustomerKey for $request {
            fn with_customer_key(self, bucket: &S3Bucket) -> Self {
                match &bucket.0.customer_key {
                    None => self,
                    Some(CustomerKey { key, md5 }) => self
                        .sse_customer_algorithm("AES256")
                        .sse_customer_key(key.expose_secret())
                        .sse_customer_key_md5(md5),
                }
            }
        }
    )* };
}

macro_rules! with_encryption {
    ($($request:ident)*) => { $(
        impl WithEncryption for $request {
            fn with_encryption(self, bucket: &S3Bucket, storage_class: Option<&str>) -> Self {
                let class = storage_class.or(bucket.storage_class()).map(|class| class.into());
                let request = self.set_storage_class(class);
                match &bucket.0.encryption {
                    Encryption::None => request,
                    Encryption::SseS3 => request.server_side_encryption(ServerSideEncryption::Aes256),
                    Encryption::SseKms { key_id } => request
                        .server_side_encryption(ServerSideEncryption::AwsKms)
                        .set_ssekms_key_id(key_id.clone()),
                    Encryption::SseC { key: _ } => request.with_customer_key(bucket),
                }
            }
        }
    )* };
}

use aws_sdk_s3::operation::complete_multipart_upload::builders::CompleteMultipartUploadFluentBuilder;
use aws_sdk_s3::operation::copy_object::builders::CopyObjectFluentBuilder;
use aws_sdk_s3::operation::create_multipart_upload::builders::CreateMultipartUploadFluentBuilder;
use aws_sdk_s3::operation::get_object::builders::GetObjectFluentBuilder;
use aws_sdk_s3::operation::head_object::builders::HeadObjectFluentBuilder;
use aws_sdk_s3::operation::list_parts::builders::ListPartsFluentBuilder;
use aws_sdk_s3::operation::put_object::builders::PutObjectFluentBuilder;
use aws_sdk_s3::operation::upload_part::builders::UploadPartFluentBuilder;

with_customer_key! {
    CompleteMultipartUploadFluentBuilder CopyObjectFluentBuilder CreateMultipartUploadFluentBuilder GetObjectFluentBuilder HeadObjectFluentBuilder
    ListPartsFluentBuilder PutObjectFluentBuilder UploadPartFluentBuilder
}
with_encryption! { CopyObjectFluentBuilder CreateMultipartUploadFluentBuilder PutObjectFluentBuilder }

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stand_in_is_taken_back_and_nothing_else() {
        for key in [" ", "\n", "", "\u{2003}", STAND_IN, "a/stand-in-for-a-blank-key-20/b"] {
            let of = request_key(key).into_owned();
            assert!(of != key && !of.trim().is_empty());
            let expected = format!("http://h/b/{}?x=1", percent_encode(key.as_bytes(), NON_ALPHANUMERIC));
            assert_eq!(with_blank_key(&format!("http://h/b/{of}?x=1")).unwrap(), expected);
        }
        assert_eq!(request_key(" a"), " a");
        assert_eq!(with_blank_key("http://h/b/key?x=1"), None);
        assert_eq!(with_blank_key("http://h/b?start-after=stand-in-for-a-blank-key-41"), None);
    }
}
