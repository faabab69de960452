//! How to reach a MongoDB deployment, and which part of it is meant.

use backup_core::{Error, Result};
use globset::{GlobBuilder, GlobSet, GlobSetBuilder};
use mongodb::options::{AuthMechanism, ClientOptions, ConnectionString, Credential, HostInfo};
use schemars::JsonSchema;
use secrecy::{ExposeSecret, SecretString};
use serde::Deserialize;
use std::collections::BTreeSet;
use std::fmt;

/// The name under which the library introduces itself to servers.
const APP_NAME: &str = "backup";

/// A MongoDB deployment, and which of its databases and collections are meant.
///
/// It is read from JSON or built in code, and never written: it holds secrets.
#[derive(Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct MongoConfig {
    /// The connection string, `mongodb://…` or `mongodb+srv://…`, with all options that the driver knows.
    #[serde(deserialize_with = "secret")]
    #[schemars(with = "String", extend("format" = "password", "writeOnly" = true))]
    pub uri: SecretString,
    /// The user's name, when the connection string has none.
    #[serde(default)]
    pub username: Option<String>,
    /// The password, when the connection string has none; it takes precedence over one there.
    #[serde(default, deserialize_with = "optional_secret")]
    #[schemars(with = "Option<String>", extend("format" = "password", "writeOnly" = true))]
    pub password: Option<SecretString>,
    /// The database that knows the user, when the connection string names none (`authSource`); usually `admin`.
    #[serde(default)]
    pub auth_database: Option<String>,
    /// The databases that are meant. When empty: the one that the connection string names behind its hosts, else all.
    #[serde(default)]
    pub databases: Vec<String>,
    /// Only collections that match one of these patterns, e.g. `shop.*` or `*.orders`; when empty, all. A pattern is compared with
    /// `database.collection`; `*` stands for any characters, `?` for one, `[ab]` for one of some, `{a,b}` for alternatives.
    #[serde(default)]
    pub include: Vec<String>,
    /// Without collections that match one of these patterns.
    #[serde(default)]
    pub exclude: Vec<String>,
}

fn secret<'de, D: serde::Deserializer<'de>>(d: D) -> Result<SecretString, D::Error> {
    String::deserialize(d).map(SecretString::from)
}

fn optional_secret<'de, D: serde::Deserializer<'de>>(d: D) -> Result<Option<SecretString>, D::Error> {
    Ok(Option::<String>::deserialize(d)?.map(SecretString::from))
}

/// Without the connection string's secrets, and without the password.
impl fmt::Debug for MongoConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { uri: _, username, password, auth_database, databases, include, exclude } = self;
        f.debug_struct("MongoConfig")
            .field("hosts", &self.hosts().unwrap_or_default())
            .field("username", username)
            .field("password", &password.as_ref().map(|_| "…"))
            .field("auth_database", auth_database)
            .field("databases", databases)
            .field("include", include)
            .field("exclude", exclude)
            .finish()
    }
}

impl MongoConfig {
    /// The deployment of a connection string, with the database that it names or all.
    pub fn new(uri: impl Into<SecretString>) -> Self {
        Self {
            uri: uri.into(),
            username: None,
            password: None,
            auth_database: None,
            databases: Vec::new(),
            include: Vec::new(),
            exclude: Vec::new(),
        }
    }

    fn parse(&self) -> Result<ConnectionString> {
        // The driver's text may repeat parts of the string, so it is not passed on.
        ConnectionString::parse(self.uri.expose_secret()).map_err(|_| {
            Error::invalid(
                "the connection string cannot be read; it looks like mongodb://USER:PASSWORD@HOST:PORT/DATABASE, with \
                 special characters in user and password percent-encoded",
            )
        })
    }

    /// The hosts as the connection string names them, in order of their names, or the name that is looked up for them.
    pub(crate) fn hosts(&self) -> Result<String> {
        Ok(match self.parse()?.host_info {
            HostInfo::DnsRecord(name) => name.to_ascii_lowercase(),
            HostInfo::HostIdentifiers(addresses) => {
                let hosts: BTreeSet<String> = addresses.iter().map(|a| a.to_string().to_ascii_lowercase()).collect();
                hosts.into_iter().collect::<Vec<_>>().join(",")
            }
            _ => return Err(Error::unsupported("this form of the connection string's hosts")),
        })
    }

    /// Which databases and collections are meant.
    ///
    /// # Errors
    /// `Invalid` when the connection string or a pattern cannot be read.
    pub fn selection(&self) -> Result<Selection> {
        let mut databases: BTreeSet<String> = self.databases.iter().cloned().collect();
        if databases.is_empty() {
            databases.extend(self.parse()?.default_database);
        }
        Ok(Selection { databases, include: globs(&self.include)?, exclude: globs(&self.exclude)? })
    }

    /// Whether the connection string says which database knows the user.
    fn names_auth_source(&self) -> bool {
        let options = self.uri.expose_secret().split_once('?').map_or("", |(_, options)| options);
        let mut names = options.split('&').filter_map(|option| Some(option.split_once('=')?.0));
        names.any(|name| name.eq_ignore_ascii_case("authSource"))
    }

    /// What the driver needs. Looks up DNS records for `mongodb+srv`.
    pub(crate) async fn client_options(&self) -> Result<ClientOptions> {
        self.parse()?;
        let mut options = ClientOptions::parse(self.uri.expose_secret())
            .await
            .map_err(|e| crate::error::without_uri(&e).on("connection string"))?;
        options.app_name.get_or_insert_with(|| APP_NAME.into());
        if self.username.is_some() || self.password.is_some() {
            let credential = options.credential.get_or_insert_with(Credential::default);
            if credential.username.is_none() {
                credential.username.clone_from(&self.username);
            }
            if let Some(password) = &self.password {
                credential.password = Some(password.expose_secret().to_owned());
            }
        }
        if let Some(credential) = &mut options.credential {
            let external = matches!(credential.mechanism, Some(AuthMechanism::MongoDbX509 | AuthMechanism::Plain));
            // Where the connection string does not say it, the driver assumes a source as soon as there is a user's name.
            if !external && !self.names_auth_source() && self.auth_database.is_some() {
                credential.source.clone_from(&self.auth_database);
            }
        }
        Ok(options)
    }
}

fn globs(patterns: &[String]) -> Result<GlobSet> {
    let mut set = GlobSetBuilder::new();
    for pattern in patterns {
        let glob = GlobBuilder::new(pattern).backslash_escape(true).build();
        set.add(glob.map_err(|e| Error::invalid("the pattern cannot be read").on(pattern).because(e))?);
    }
    set.build().map_err(|e| Error::invalid("the patterns cannot be used together").because(e))
}

/// Which databases and collections are meant.
#[derive(Clone, Debug)]
pub struct Selection {
    /// The databases by name; empty means all.
    pub databases: BTreeSet<String>,
    include: GlobSet,
    exclude: GlobSet,
}

impl Selection {
    /// Whether collections of this database can be meant.
    pub fn has_database(&self, database: &str) -> bool {
        self.databases.is_empty() || self.databases.contains(database)
    }

    /// Whether a collection is meant. System collections are not judged here.
    pub fn has_collection(&self, database: &str, collection: &str) -> bool {
        let name = format!("{database}.{collection}");
        self.has_database(database)
            && (self.include.is_empty() || self.include.is_match(&name))
            && !self.exclude.is_match(&name)
    }

    /// Whether this is everything that a deployment holds.
    pub fn is_everything(&self) -> bool {
        self.databases.is_empty() && self.include.is_empty() && self.exclude.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_secret_is_printed() {
        let mut config = MongoConfig::new("mongodb://anna:s3cret@b.example:27018,A.example/shop?appName=x".to_string());
        config.password = Some("other-s3cret".to_string().into());
        let text = format!("{config:?}");
        assert!(!text.contains("s3cret"), "{text}");
        assert!(text.contains("a.example:27017,b.example:27018"), "{text}");
        let broken = MongoConfig::new("mongodb://anna:s3cret@".to_string());
        let error = broken.selection().unwrap_err();
        assert!(!format!("{broken:?} {error:?}").contains("s3cret"));
    }

    #[test]
    fn the_schema_marks_secrets() {
        let schema = serde_json::to_value(schemars::schema_for!(MongoConfig)).unwrap();
        for name in ["uri", "password"] {
            assert_eq!(schema["properties"][name]["writeOnly"], true, "{schema}");
        }
        assert!(schema["properties"]["databases"].get("writeOnly").is_none());
    }

    #[test]
    fn collections_are_chosen_by_database_and_pattern() {
        let mut config = MongoConfig::new("mongodb://h/shop".to_string());
        let chosen = config.selection().unwrap();
        assert!(chosen.has_collection("shop", "a.b/c") && !chosen.has_collection("other", "a"));
        config.databases = vec!["shop".into(), "other".into()];
        config.include = vec!["*.order*".into()];
        config.exclude = vec!["shop.orders_?".into()];
        let chosen = config.selection().unwrap();
        let all = [("shop", "orders"), ("shop", "orders_1"), ("other", "orders_1"), ("third", "orders"), ("shop", "x")];
        let kept: Vec<_> = all.into_iter().filter(|(d, c)| chosen.has_collection(d, c)).collect();
        assert_eq!(kept, [("shop", "orders"), ("other", "orders_1")]);
        config.include = vec!["[".into()];
        assert!(config.selection().is_err());
    }

    #[tokio::test]
    async fn a_password_from_elsewhere_goes_to_the_driver() {
        let mut config = MongoConfig::new("mongodb://anna@h/shop".to_string());
        config.password = Some("p".to_string().into());
        config.auth_database = Some("admin".into());
        let credential = config.client_options().await.unwrap().credential.unwrap();
        assert_eq!(credential.username.as_deref(), Some("anna"));
        assert_eq!(credential.password.as_deref(), Some("p"));
        assert_eq!(credential.source.as_deref(), Some("admin"));
        config.uri = "mongodb://anna@h/shop?authsource=staff".to_string().into();
        let credential = config.client_options().await.unwrap().credential.unwrap();
        assert_eq!(credential.source.as_deref(), Some("staff"));
        config.auth_database = None;
        config.uri = "mongodb://anna@h/shop".to_string().into();
        let credential = config.client_options().await.unwrap().credential.unwrap();
        assert_eq!(credential.source.as_deref(), Some("shop"));
    }
}
