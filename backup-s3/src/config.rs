//! What a user tells about a bucket, and what can be wrong with it.

use backup_core::{Error, Result};
use schemars::JsonSchema;
use secrecy::{ExposeSecret, SecretString};
use serde::{Deserialize, Deserializer};
use std::ffi::OsString;
use std::fmt;

/// A bucket, or the keys below a prefix of it, and how to reach it.
///
/// It is read from JSON (see [`JsonSchema`]; secrets are marked `writeOnly`) and never written back: nothing serialises a secret.
///
/// ```
/// let config: backup_s3::S3Config = serde_json::from_value(serde_json::json!({
///     "bucket": "photos",
///     "prefix": "2026/",
///     "endpoint": "https://s3.example.org",
///     "credentials": { "kind": "static", "access_key": "AK…", "secret_key": "…" },
/// }))?;
/// assert!(config.validate().is_ok());
/// # Ok::<(), serde_json::Error>(())
/// ```
#[derive(Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct S3Config {
    /// Name of the bucket, or the ARN of an access point.
    pub bucket: String,
    /// Only keys below this prefix; entries and objects are named relative to it. A `/` at its start or end makes no difference.
    #[serde(default)]
    pub prefix: String,
    /// Region of the bucket, e.g. `eu-central-1`; `auto` for Cloudflare R2. Without one: that of the environment or profile, else
    /// `us-east-1` for services other than AWS.
    #[serde(default)]
    pub region: Option<String>,
    /// Address of a service other than AWS, e.g. `https://s3.example.org:9000`.
    #[serde(default)]
    pub endpoint: Option<String>,
    /// Whether the bucket stands in the path of addresses (`https://host/bucket`) instead of the host name. Without a word: for
    /// services other than AWS it does.
    #[serde(default)]
    pub path_style: Option<bool>,
    /// Who we are.
    #[serde(default)]
    pub credentials: Credentials,
    /// Whether what is read is compared with the checksums that the service keeps, beyond what the archive itself holds. Without a word:
    /// with AWS it is, with others only where required. What is written always has a digest of ours.
    #[serde(default)]
    pub checksums: Option<ChecksumMode>,
    /// Storage class of the objects that are written, e.g. `STANDARD_IA`; without one the bucket's own default. Objects that are
    /// restored keep theirs.
    #[serde(default)]
    pub storage_class: Option<String>,
    /// How objects that are written are encrypted by the server; a customer key also opens objects that are read.
    #[serde(default)]
    pub encryption: Encryption,
}

/// Who signs the requests.
#[derive(Clone, Default, Deserialize, JsonSchema)]
#[serde(tag = "kind", rename_all = "kebab-case", deny_unknown_fields)]
pub enum Credentials {
    /// An access key.
    Static {
        /// Id of the access key.
        access_key: String,
        /// Its secret.
        #[serde(deserialize_with = "secret")]
        #[schemars(with = "String", extend("writeOnly" = true, "format" = "password"))]
        secret_key: SecretString,
        /// The token that belongs to a temporary access key.
        #[serde(default, deserialize_with = "optional_secret")]
        #[schemars(with = "Option<String>", extend("writeOnly" = true, "format" = "password"))]
        session_token: Option<SecretString>,
    },
    /// As the AWS tools find them: environment, a profile, the instance. Needs the feature `aws-config`.
    Profile {
        /// Name of a profile in `~/.aws/config`; without one `AWS_PROFILE`, else `default`.
        profile: String,
    },
    /// As the AWS tools find them: environment variables, the default profile, the role of the instance or container.
    /// Needs the feature `aws-config`.
    #[default]
    Environment,
}

/// When checksums of newer AWS clients are asked for and compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum ChecksumMode {
    /// Wherever the operation knows them. Some services other than AWS refuse such requests.
    WhenSupported,
    /// Only where the operation requires them.
    WhenRequired,
}

/// How the server encrypts what is written.
#[derive(Clone, Default, Deserialize, JsonSchema)]
#[serde(tag = "kind", rename_all = "kebab-case", deny_unknown_fields)]
pub enum Encryption {
    /// As the bucket is set up.
    #[default]
    None,
    /// With keys that S3 manages (SSE-S3).
    SseS3,
    /// With a key of the key management service (SSE-KMS).
    SseKms {
        /// Id or ARN of the key; without one the account's default key.
        #[serde(default)]
        key_id: Option<String>,
    },
    /// With a key that goes along with each request (SSE-C); who loses it loses the objects.
    SseC {
        /// 32 bytes in base64.
        #[serde(deserialize_with = "secret")]
        #[schemars(with = "String", extend("writeOnly" = true, "format" = "password"))]
        key: SecretString,
    },
}

fn secret<'de, D: Deserializer<'de>>(d: D) -> Result<SecretString, D::Error> {
    String::deserialize(d).map(SecretString::from)
}

fn optional_secret<'de, D: Deserializer<'de>>(d: D) -> Result<Option<SecretString>, D::Error> {
    Option::<String>::deserialize(d).map(|secret| secret.map(SecretString::from))
}

impl S3Config {
    /// A bucket of AWS with credentials of the environment; everything else can be set afterwards.
    pub fn new(bucket: impl Into<String>) -> Self {
        Self {
            bucket: bucket.into(),
            prefix: String::new(),
            region: None,
            endpoint: None,
            path_style: None,
            credentials: Credentials::Environment,
            checksums: None,
            storage_class: None,
            encryption: Encryption::None,
        }
    }

    /// Looks for what cannot be right, without asking the service.
    ///
    /// # Errors
    /// `Invalid`, naming the field and what to write there.
    pub fn validate(&self) -> Result<()> {
        let Self {
            bucket,
            prefix,
            region,
            endpoint,
            path_style: _,
            credentials,
            checksums: _,
            storage_class,
            encryption,
        } = self;
        check_bucket(bucket, endpoint.is_none())?;
        if prefix.len() > MAX_PREFIX {
            return Err(invalid(
                "prefix",
                format!("it is longer than {MAX_PREFIX} bytes, which leaves no room for keys"),
            ));
        }
        if let Some(region) = region
            && (region.is_empty() || !region.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_'))
        {
            return Err(invalid("region", "write it as in eu-central-1, or leave it out".to_owned()));
        }
        if let Some(endpoint) = endpoint {
            Endpoint::parse(endpoint)?;
        }
        if let Some(class) = storage_class
            && (class.is_empty() || !class.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_'))
        {
            return Err(invalid("storage_class", "write it as in STANDARD_IA, or leave it out".to_owned()));
        }
        credentials.validate()?;
        encryption.customer_key().map(|_| ())
    }

    /// The prefix as keys have it: without `/` at the start, with one at the end unless it is empty.
    pub fn normalized_prefix(&self) -> String {
        match self.prefix.trim_matches('/') {
            "" => String::new(),
            inner => format!("{inner}/"),
        }
    }
}

/// Longest prefix in bytes. The longest key is 1,024 bytes.
const MAX_PREFIX: usize = 800;

fn invalid(field: &str, text: String) -> Error {
    Error::invalid(text).on(format!("S3 configuration, {field}"))
}

fn check_bucket(bucket: &str, aws: bool) -> Result<()> {
    if bucket.is_empty() {
        return Err(invalid("bucket", "name the bucket".to_owned()));
    }
    if bucket.starts_with("arn:") {
        return Ok(());
    }
    let safe = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'-' | b'_' | b':');
    if bucket.len() > 255 || !bucket.bytes().all(safe) {
        let text = "a name of a bucket has letters, digits, '.' and '-' only; a path in it belongs into the prefix";
        return Err(invalid("bucket", text.to_owned()));
    }
    let small = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || matches!(b, b'.' | b'-');
    if aws && (!(3..=63).contains(&bucket.len()) || !bucket.bytes().all(small)) {
        let text = "buckets of AWS have names of 3 to 63 small letters, digits, '.' and '-'; for another service give its endpoint";
        return Err(invalid("bucket", text.to_owned()));
    }
    Ok(())
}

impl Credentials {
    fn validate(&self) -> Result<()> {
        match self {
            Self::Static { access_key, secret_key, session_token } => {
                let blank = |s: &str| s.trim() != s || s.is_empty();
                if blank(access_key) {
                    return Err(invalid("credentials", "the access key is empty or has blanks around it".to_owned()));
                }
                if blank(secret_key.expose_secret()) {
                    return Err(invalid("credentials", "the secret key is empty or has blanks around it".to_owned()));
                }
                if session_token.as_ref().is_some_and(|token| blank(token.expose_secret())) {
                    let text = "the session token is empty or has blanks around it; leave it out if there is none";
                    return Err(invalid("credentials", text.to_owned()));
                }
                Ok(())
            }
            Self::Profile { profile } if profile.is_empty() => {
                Err(invalid("credentials", "the profile's name is empty".to_owned()))
            }
            Self::Profile { .. } | Self::Environment => check_environment(|name| std::env::var_os(name)),
        }
    }
}

/// The SDK would log the value of such a variable.
fn check_environment(variable: impl Fn(&str) -> Option<OsString>) -> Result<()> {
    let names = ["AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN"];
    match names.into_iter().find(|name| variable(name).is_some_and(|value| value.to_str().is_none())) {
        Some(name) => Err(invalid(
            "credentials",
            format!("the environment variable {name} is not UTF-8, so it is no key; set it anew"),
        )),
        None => Ok(()),
    }
}

impl Encryption {
    /// The key of SSE-C, as the requests carry it.
    pub(crate) fn customer_key(&self) -> Result<Option<CustomerKey>> {
        use base64::Engine as _;
        use md5::Digest as _;
        let Self::SseC { key } = self else { return Ok(None) };
        let base64 = base64::engine::general_purpose::STANDARD;
        let bad = || invalid("encryption", "the customer key must be 32 bytes in base64".to_owned());
        let bytes = zeroize::Zeroizing::new(base64.decode(key.expose_secret().trim()).map_err(|_| bad())?);
        if bytes.len() != 32 {
            return Err(bad());
        }
        let md5 = base64.encode(md5::Md5::digest(bytes.as_slice()));
        Ok(Some(CustomerKey { key: base64.encode(bytes.as_slice()).into(), md5 }))
    }
}

/// A key of SSE-C in the form of its headers.
#[derive(Clone)]
pub(crate) struct CustomerKey {
    pub(crate) key: SecretString,
    pub(crate) md5: String,
}

/// An endpoint taken apart.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Endpoint {
    /// For the client: scheme, host and port.
    pub(crate) url: String,
    /// For comparing: host in small letters, and the port unless the scheme implies it.
    pub(crate) canonical: String,
}

impl Endpoint {
    pub(crate) fn parse(text: &str) -> Result<Self> {
        let bad = |text: &str| invalid("endpoint", text.to_owned());
        let (scheme, rest) = text
            .split_once("://")
            .filter(|(scheme, _)| matches!(*scheme, "http" | "https"))
            .ok_or_else(|| bad("write it as in https://s3.example.org or http://127.0.0.1:9000"))?;
        let authority = rest.trim_end_matches('/');
        if authority.contains('@') {
            return Err(bad("credentials do not belong into it"));
        }
        if authority.is_empty() || authority.contains(['/', '?', '#']) || authority.contains(char::is_whitespace) {
            return Err(bad("it is a host with a port at most; bucket and prefix have fields of their own"));
        }
        // The colons of an IPv6 address stand in brackets.
        let (host, port) = match authority.rsplit_once(':') {
            Some((host, port)) if !port.contains(']') => {
                let port: u16 = port.parse().map_err(|_| bad("its port is not a number up to 65535"))?;
                (host, Some(port))
            }
            _ => (authority, None),
        };
        if host.is_empty() {
            return Err(bad("it names no host"));
        }
        let host = host.to_ascii_lowercase();
        let implied = if scheme == "https" { 443 } else { 80 };
        let canonical = match port.filter(|port| *port != implied) {
            Some(port) => format!("{host}:{port}"),
            None => host,
        };
        Ok(Self { url: format!("{scheme}://{authority}"), canonical })
    }

    /// Whether this is AWS after all.
    pub(crate) fn is_aws(&self) -> bool {
        self.canonical.ends_with(".amazonaws.com") || self.canonical.ends_with(".amazonaws.com.cn")
    }
}

impl fmt::Debug for S3Config {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { bucket, prefix, region, endpoint, path_style, credentials, checksums, storage_class, encryption } =
            self;
        // Somebody may have put credentials there before anything was validated.
        let endpoint = endpoint.as_deref().map(|e| Endpoint::parse(e).map_or("(not valid)".to_owned(), |e| e.url));
        f.debug_struct("S3Config")
            .field("bucket", bucket)
            .field("prefix", prefix)
            .field("region", region)
            .field("endpoint", &endpoint)
            .field("path_style", path_style)
            .field("credentials", credentials)
            .field("checksums", checksums)
            .field("storage_class", storage_class)
            .field("encryption", encryption)
            .finish()
    }
}

impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Static { access_key: _, secret_key: _, session_token } => {
                f.debug_struct("Static").field("temporary", &session_token.is_some()).finish_non_exhaustive()
            }
            Self::Profile { profile } => f.debug_struct("Profile").field("profile", profile).finish(),
            Self::Environment => f.write_str("Environment"),
        }
    }
}

impl fmt::Debug for Encryption {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::None => f.write_str("None"),
            Self::SseS3 => f.write_str("SseS3"),
            Self::SseKms { key_id } => f.debug_struct("SseKms").field("key_id", key_id).finish(),
            Self::SseC { key: _ } => f.debug_struct("SseC").finish_non_exhaustive(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use backup_core::ErrorClass;
    use serde_json::json;

    fn config(json: serde_json::Value) -> S3Config {
        serde_json::from_value(json).unwrap()
    }

    /// Why it is refused.
    fn refused(change: impl FnOnce(&mut S3Config)) -> String {
        let mut config = S3Config::new("bucket");
        change(&mut config);
        let error = config.validate().unwrap_err();
        assert_eq!(error.class(), ErrorClass::Invalid);
        error.to_string()
    }

    #[test]
    fn a_configuration_needs_no_more_than_a_bucket() {
        let config = config(json!({ "bucket": "photos" }));
        config.validate().unwrap();
        assert!(matches!(config.credentials, Credentials::Environment));
        assert!(matches!(config.encryption, Encryption::None));
    }

    #[test]
    fn what_cannot_be_right_is_named_with_its_field_and_a_hint() {
        let set = |target: &mut Option<String>, text: &str| *target = Some(text.to_owned());
        for (text, words) in [
            (refused(|c| c.bucket.clear()), "bucket: name the bucket"),
            (refused(|c| c.bucket = "a/b".to_owned()), "belongs into the prefix"),
            (refused(|c| c.bucket = "Upper".to_owned()), "give its endpoint"),
            (refused(|c| c.prefix = "p".repeat(801)), "prefix"),
            (refused(|c| set(&mut c.region, "eu central")), "as in eu-central-1"),
            (refused(|c| set(&mut c.endpoint, "s3.example.org")), "as in https://"),
            (refused(|c| set(&mut c.endpoint, "https://user:pass@host")), "credentials do not belong"),
            (refused(|c| set(&mut c.endpoint, "https://host/bucket")), "fields of their own"),
            (refused(|c| set(&mut c.endpoint, "https://host:99999")), "port"),
            (refused(|c| set(&mut c.storage_class, "")), "STANDARD_IA"),
            (refused(|c| c.encryption = Encryption::SseC { key: "c2hvcnQ=".into() }), "32 bytes in base64"),
            (refused(|c| c.credentials = keys("", "secret")), "access key is empty"),
            (refused(|c| c.credentials = keys("key", "secret\n")), "blanks around"),
        ] {
            assert!(text.contains(words), "{words:?} is not in: {text}");
            assert!(text.starts_with("S3 configuration, "), "{text}");
        }
        let mut garage = S3Config::new("With_Underscores");
        garage.endpoint = Some("http://localhost:3900".to_owned());
        garage.validate().unwrap();
    }

    #[test]
    fn a_key_in_the_environment_that_is_no_text_is_refused_and_not_shown() {
        use std::os::unix::ffi::OsStringExt;
        let value = |text: &[u8]| Some(OsString::from_vec(text.to_vec()));
        let with = |name: &'static str, text: &'static [u8]| {
            check_environment(move |asked| value(text).filter(|_| asked == name))
        };
        with("AWS_SECRET_ACCESS_KEY", b"s3cr3t").unwrap();
        with("HOME", b"\xff").unwrap();
        for name in ["AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN"] {
            let text = with(name, b"s3cr3t\xff").unwrap_err().chain();
            assert!(text.contains(name) && !text.contains("s3cr3t"), "{text}");
        }
    }

    fn keys(access_key: &str, secret_key: &str) -> Credentials {
        Credentials::Static {
            access_key: access_key.to_owned(),
            secret_key: secret_key.into(),
            session_token: Some("token-3f9a".into()),
        }
    }

    #[test]
    fn slashes_around_a_prefix_make_no_difference() {
        for prefix in ["a/b", "/a/b", "a/b/", "//a/b//"] {
            assert_eq!(config(json!({ "bucket": "x", "prefix": prefix })).normalized_prefix(), "a/b/");
        }
        assert_eq!(config(json!({ "bucket": "x", "prefix": "/" })).normalized_prefix(), "");
    }

    #[test]
    fn debug_shows_no_secret() {
        let mut config = S3Config::new("bucket");
        config.credentials = keys("AKIA-9c1d", "secret-77e2");
        config.encryption = Encryption::SseC { key: "a2V5LWI0YTgta2V5LWI0YTgta2V5LWI0YTgta2U=".into() };
        config.endpoint = Some("https://user:pass-51c0@host".to_owned());
        let text = format!("{config:?} {config:#?}");
        for secret in ["9c1d", "77e2", "3f9a", "a2V5", "51c0"] {
            assert!(!text.contains(secret), "{text}");
        }
    }

    #[test]
    fn the_schema_marks_every_secret() {
        let schema = serde_json::to_value(schemars::schema_for!(S3Config)).unwrap();
        let mut secrets = Vec::new();
        collect(&schema, "", &mut secrets);
        secrets.sort_unstable();
        assert_eq!(secrets, ["key", "secret_key", "session_token"]);
    }

    /// Names of the members that are write-only passwords.
    fn collect(schema: &serde_json::Value, name: &str, found: &mut Vec<String>) {
        match schema {
            serde_json::Value::Object(members) => {
                if members.get("writeOnly") == Some(&json!(true)) && members.get("format") == Some(&json!("password")) {
                    found.push(name.to_owned());
                }
                members.iter().for_each(|(name, value)| collect(value, name, found));
            }
            serde_json::Value::Array(values) => values.iter().for_each(|value| collect(value, name, found)),
            _ => {}
        }
    }

    #[test]
    fn unknown_fields_are_refused() {
        let unknown = serde_json::from_value::<S3Config>(json!({ "bucket": "x", "buckett": "y" }));
        assert!(unknown.is_err());
    }

    #[test]
    fn endpoints_are_compared_by_host_and_port() {
        let canonical = |text: &str| Endpoint::parse(text).unwrap().canonical;
        assert_eq!(canonical("https://S3.Example.org/"), "s3.example.org");
        assert_eq!(canonical("https://s3.example.org:443"), "s3.example.org");
        assert_eq!(canonical("http://s3.example.org:443"), "s3.example.org:443");
        assert_eq!(canonical("http://[::1]:9000"), "[::1]:9000");
        assert_eq!(canonical("http://[::1]"), "[::1]");
        assert!(Endpoint::parse("https://s3.eu-west-1.amazonaws.com").unwrap().is_aws());
        assert!(!Endpoint::parse("https://amazonaws.com.example.org").unwrap().is_aws());
    }

    #[test]
    fn the_customer_key_goes_along_with_its_md5() {
        let key = "MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWY=";
        let made = Encryption::SseC { key: key.into() }.customer_key().unwrap().unwrap();
        assert_eq!(made.key.expose_secret(), key);
        assert_eq!(made.md5, "hRasmdxgYDKV3nvbahU1MA==");
    }
}
