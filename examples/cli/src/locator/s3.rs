//! `s3://BUCKET/PREFIX?OPTION=VALUE&…`: a bucket of AWS or of any service that speaks its language.
//!
//! Credentials come from where the AWS tools find them (environment, profile, instance), never from the locator, which is kept with
//! operations and shown in lists.

use super::{Adapter, Secret, SourceOptions, TargetOptions};
use crate::units;
use async_trait::async_trait;
use backup_core::adapter::{Destination, RestoreTarget, Source};
use backup_core::{Error, Result};
use backup_s3::{
    ChecksumMode, Credentials, Encryption, S3Bucket, S3Config, S3Destination, S3RestoreTarget, S3Source,
    S3SourceOptions, S3TargetOptions, S3Versions,
};
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, percent_decode_str, utf8_percent_encode};
use std::sync::Arc;

/// What stays readable in a locator.
const READABLE: &AsciiSet = &NON_ALPHANUMERIC
    .remove(b'/')
    .remove(b'-')
    .remove(b'_')
    .remove(b'.')
    .remove(b'~')
    .remove(b':')
    .remove(b'=')
    .remove(b'!');
const OPTIONS: &str = "endpoint=URL, region=NAME, path_style=true|false, profile=NAME, storage_class=NAME, sse=AES256|aws:kms, kms_key=ID, \
                       customer_key_env=VAR, checksums=when_supported|when_required; of sources: tags=true|false, versions=current|all; of restore targets: \
                       part_size=SIZE, max_parts=NUMBER";

#[derive(Debug)]
pub(super) struct S3;

/// A locator taken apart.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Parts {
    bucket: String,
    prefix: String,
    endpoint: Option<String>,
    region: Option<String>,
    path_style: Option<bool>,
    profile: Option<String>,
    storage_class: Option<String>,
    sse: Option<Sse>,
    kms_key: Option<String>,
    /// Name of the environment variable with the key.
    customer_key_env: Option<String>,
    checksums: Option<ChecksumMode>,
    tags: bool,
    all_versions: bool,
    /// Bytes.
    part_size: Option<u64>,
    max_parts: Option<u32>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Sse {
    S3,
    Kms,
}

impl Parts {
    fn parse(rest: &str) -> Result<Self, String> {
        let place = rest.strip_prefix("//").ok_or("a bucket is written s3://BUCKET/PREFIX")?;
        let (place, options) = place.split_once('?').unwrap_or((place, ""));
        let (bucket, prefix) = place.split_once('/').unwrap_or((place, ""));
        // A secret may have a `/` in it.
        let may_be_key = bucket.contains(':') && !bucket.starts_with("arn:") && place.contains('@');
        if bucket.contains('@') || may_be_key {
            let text = "credentials do not belong into a locator, which is kept and shown; set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or \
                        profile=NAME";
            return Err(text.into());
        }
        if bucket.is_empty() {
            return Err("the bucket's name is missing: s3://BUCKET/PREFIX".into());
        }
        let mut parts =
            Self { bucket: decode(bucket)?, prefix: decode(prefix)?.trim_matches('/').into(), ..Self::default() };
        for option in options.split('&').filter(|option| !option.is_empty()) {
            let (name, value) =
                option.split_once('=').ok_or_else(|| format!("`{option}` has no value; options are {OPTIONS}"))?;
            parts.set(name, &decode(value)?)?;
        }
        // What can be found wrong without asking the service is found now.
        let config = parts.config_without_key();
        config.validate().map_err(|e| e.chain())?;
        if parts.kms_key.is_some() && parts.sse != Some(Sse::Kms) {
            return Err("kms_key belongs to sse=aws:kms".into());
        }
        if parts.customer_key_env.is_some() && parts.sse.is_some() {
            return Err("customer_key_env and sse exclude each other".into());
        }
        Ok(parts)
    }

    fn set(&mut self, name: &str, value: &str) -> Result<(), String> {
        let wrong = || Err(format!("`{value}` is no value of {name}; options are {OPTIONS}"));
        let text = || if value.is_empty() { Err(format!("{name} has no value")) } else { Ok(Some(value.to_owned())) };
        let flag = match value {
            "true" => Ok(true),
            "false" => Ok(false),
            _ => wrong().map(|()| false),
        };
        match name {
            "endpoint" => self.endpoint = text()?,
            "region" => self.region = text()?,
            "path_style" => self.path_style = Some(flag?),
            "profile" => self.profile = text()?,
            "storage_class" => self.storage_class = text()?,
            "kms_key" => self.kms_key = text()?,
            "customer_key_env" => self.customer_key_env = text()?,
            "tags" => self.tags = flag?,
            "sse" => match value {
                "AES256" => self.sse = Some(Sse::S3),
                "aws:kms" => self.sse = Some(Sse::Kms),
                _ => return wrong(),
            },
            "checksums" => match value {
                "when_supported" => self.checksums = Some(ChecksumMode::WhenSupported),
                "when_required" => self.checksums = Some(ChecksumMode::WhenRequired),
                _ => return wrong(),
            },
            "part_size" => self.part_size = Some(units::size(value).or_else(|_| wrong().map(|()| 0))?),
            "max_parts" => self.max_parts = Some(value.parse().or_else(|_| wrong().map(|()| 0))?),
            "versions" => match value {
                "current" => self.all_versions = false,
                "all" => self.all_versions = true,
                _ => return wrong(),
            },
            "access_key" | "secret_key" | "session_token" | "password" => {
                return Err(
                    "credentials do not belong into a locator, which is kept and shown; set AWS_ACCESS_KEY_ID and \
                            AWS_SECRET_ACCESS_KEY, or profile=NAME"
                        .into(),
                );
            }
            _ => return Err(format!("there is no option `{name}`; options are {OPTIONS}")),
        }
        Ok(())
    }

    /// The rest of a locator that means the same.
    fn to_rest(&self) -> String {
        let Self {
            bucket,
            prefix,
            endpoint,
            region,
            path_style,
            profile,
            storage_class,
            sse,
            kms_key,
            customer_key_env,
            checksums,
            tags,
            all_versions,
            part_size,
            max_parts,
        } = self;
        let sse = sse.map(|sse| match sse {
            Sse::S3 => "AES256".to_owned(),
            Sse::Kms => "aws:kms".to_owned(),
        });
        let checksums = checksums.map(|mode| match mode {
            ChecksumMode::WhenSupported => "when_supported".to_owned(),
            ChecksumMode::WhenRequired => "when_required".to_owned(),
        });
        let options = [
            ("endpoint", endpoint.clone()),
            ("region", region.clone()),
            ("path_style", path_style.map(|flag| flag.to_string())),
            ("profile", profile.clone()),
            ("storage_class", storage_class.clone()),
            ("sse", sse),
            ("kms_key", kms_key.clone()),
            ("customer_key_env", customer_key_env.clone()),
            ("checksums", checksums),
            ("tags", tags.then(|| "true".to_owned())),
            ("versions", all_versions.then(|| "all".to_owned())),
            ("part_size", part_size.map(|size| size.to_string())),
            ("max_parts", max_parts.map(|parts| parts.to_string())),
        ];
        let encode = |text: &str| utf8_percent_encode(text, READABLE).to_string();
        let options: Vec<String> =
            options.into_iter().filter_map(|(name, value)| Some(format!("{name}={}", encode(&value?)))).collect();
        let mut rest = format!("//{}", encode(bucket));
        if !prefix.is_empty() {
            rest += &format!("/{}", encode(prefix));
        }
        if !options.is_empty() {
            rest += &format!("?{}", options.join("&"));
        }
        rest
    }

    fn config_without_key(&self) -> S3Config {
        let mut config = S3Config::new(&self.bucket);
        config.prefix.clone_from(&self.prefix);
        config.endpoint.clone_from(&self.endpoint);
        config.region.clone_from(&self.region);
        config.path_style = self.path_style;
        config.storage_class.clone_from(&self.storage_class);
        config.checksums = self.checksums;
        if let Some(profile) = &self.profile {
            config.credentials = Credentials::Profile { profile: profile.clone() };
        }
        config.encryption = match self.sse {
            Some(Sse::S3) => Encryption::SseS3,
            Some(Sse::Kms) => Encryption::SseKms { key_id: self.kms_key.clone() },
            None => Encryption::None,
        };
        config
    }

    async fn connect(&self) -> Result<S3Bucket> {
        let mut config = self.config_without_key();
        if let Some(variable) = &self.customer_key_env {
            // Without the cause, which shows what the variable has when that is no text.
            let missing = |_| {
                Error::unauthorized("the environment variable with the customer key is not set, or no text")
                    .on(variable)
            };
            config.encryption = Encryption::SseC { key: std::env::var(variable).map_err(missing)?.into() };
        }
        S3Bucket::connect(config).await
    }

    /// Without the options of sources.
    fn no_source(&self) -> Result<&Self> {
        if self.tags || self.all_versions {
            return Err(Error::invalid("tags and versions are options of sources").on(format!("s3:{}", self.to_rest())));
        }
        Ok(self)
    }

    /// Without the options of restore targets.
    fn no_target(&self) -> Result<&Self> {
        if self.part_size.is_some() || self.max_parts.is_some() {
            let text = "part_size and max_parts are options of restore targets";
            return Err(Error::invalid(text).on(format!("s3:{}", self.to_rest())));
        }
        Ok(self)
    }
}

fn decode(text: &str) -> Result<String, String> {
    let decoded = percent_decode_str(text).decode_utf8();
    decoded.map(|text| text.into_owned()).map_err(|_| format!("`{text}` is not UTF-8 when its `%` are decoded"))
}

fn parts(rest: &str) -> Result<Parts> {
    Parts::parse(rest).map_err(Error::invalid)
}

#[async_trait]
impl Adapter for S3 {
    fn kind(&self) -> &'static str {
        "s3"
    }

    fn syntax(&self) -> &'static str {
        "s3://BUCKET/PREFIX?endpoint=URL&region=NAME"
    }

    fn absolute(&self, rest: &str) -> Result<String, String> {
        Parts::parse(rest).map(|parts| parts.to_rest())
    }

    async fn source(&self, rest: &str, _: &Secret, options: &SourceOptions) -> Result<Arc<dyn Source>> {
        let SourceOptions { exclude, one_file_system, .. } = options.clone();
        if one_file_system {
            return Err(Error::invalid("--one-file-system has no meaning for a bucket"));
        }
        let parts = parts(rest)?;
        let versions = if parts.all_versions { S3Versions::All } else { S3Versions::Current };
        let options = S3SourceOptions { exclude, tags: parts.tags, versions, ..S3SourceOptions::default() };
        Ok(Arc::new(S3Source::new(parts.no_target()?.connect().await?, options)?))
    }

    async fn destination(&self, rest: &str) -> Result<Arc<dyn Destination>> {
        Ok(Arc::new(S3Destination::new(parts(rest)?.no_source()?.no_target()?.connect().await?)))
    }

    async fn target(&self, rest: &str, _: &Secret, _: &TargetOptions) -> Result<Arc<dyn RestoreTarget>> {
        let parts = parts(rest)?;
        let bucket = parts.no_source()?.connect().await?;
        let defaults = S3TargetOptions::default();
        let options = S3TargetOptions {
            part_size: parts.part_size.unwrap_or(defaults.part_size),
            max_parts: parts.max_parts.unwrap_or(defaults.max_parts),
            ..defaults
        };
        Ok(Arc::new(S3RestoreTarget::new(bucket, options)?))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_kept_means_the_same_again() {
        for (rest, kept) in [
            ("//bucket", "//bucket"),
            ("//bucket/", "//bucket"),
            ("//bucket/a/b/", "//bucket/a/b"),
            ("//bucket/a%20b%3F%25/c", "//bucket/a%20b%3F%25/c"),
            (
                "//b.c-d/x?region=eu-central-1&endpoint=http://127.0.0.1:9000&path_style=true",
                "//b.c-d/x?endpoint=http://127.0.0.1:9000&region=eu-central-1&path_style=true",
            ),
            ("//bucket?versions=all&tags=true&profile=my%20own", "//bucket?profile=my%20own&tags=true&versions=all"),
            ("//bucket?sse=aws:kms&kms_key=arn:aws:kms:x", "//bucket?sse=aws:kms&kms_key=arn:aws:kms:x"),
            ("//bucket?tags=false&versions=current", "//bucket"),
            ("//bucket?max_parts=1000&part_size=16MiB", "//bucket?part_size=16777216&max_parts=1000"),
        ] {
            let parts = Parts::parse(rest).unwrap();
            assert_eq!(parts.to_rest(), kept);
            assert_eq!(Parts::parse(kept).unwrap(), parts);
        }
    }

    #[test]
    fn what_cannot_be_right_is_refused_and_nothing_secret_is_repeated() {
        for (rest, why) in [
            ("bucket/x", "s3://BUCKET/PREFIX"),
            ("//", "name is missing"),
            ("///x", "name is missing"),
            ("//AKIA123:hunter2@bucket/x", "credentials do not belong"),
            ("//AKIA123:hunter2/x@bucket/x?endpoint=http://host", "credentials do not belong"),
            ("//bucket?secret_key=hunter2", "credentials do not belong"),
            ("//bucket?endpoint=http://AKIA:hunter2@host", "credentials do not belong"),
            ("//bucket?endpoint=host:9000", "https://"),
            ("//bucket?colour=red", "no option `colour`"),
            ("//bucket?path_style=yes", "no value of path_style"),
            ("//bucket?region", "has no value"),
            ("//bucket?part_size=much", "no value of part_size"),
            ("//bucket?kms_key=x", "sse=aws:kms"),
            ("//Bucket_Of_Mine", "small letters"),
        ] {
            let message = Parts::parse(rest).unwrap_err();
            assert!(message.contains(why), "{rest}: {message}");
            assert!(!message.contains("hunter2"), "{message}");
        }
    }
}
