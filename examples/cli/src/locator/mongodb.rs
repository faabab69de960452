//! `mongodb://HOST/DATABASE`: databases of a MongoDB deployment.

use super::{Adapter, Secret, SourceOptions as AllSourceOptions, TargetOptions as AllTargetOptions};
use crate::args::{Consistency, MongodbRestore, MongodbSource, Order, Password};
use async_trait::async_trait;
use backup_core::adapter::{Destination, RestoreTarget, Source};
use backup_core::{Error, Result};
use backup_mongo::{
    MongoCluster, MongoConfig, MongoRestoreTarget, MongoSource, MongoSourceOptions, MongoTargetOptions,
    ReadConsistency, ReadOrder, entry_patterns,
};
use secrecy::{ExposeSecret, SecretString};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// A password file is never longer, in bytes.
const MAX_PASSWORD: u64 = 4096;

/// Where a password is: never the password itself.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum PasswordSource {
    /// In an environment variable.
    Env(String),
    /// In a file.
    File(PathBuf),
}

/// How databases are read.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct SourceOptions {
    password: Option<PasswordSource>,
    collections: Vec<String>,
    read: MongoSourceOptions,
}

/// How databases are written.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct TargetOptions {
    password: Option<PasswordSource>,
    rename: BTreeMap<String, String>,
    users_and_roles: bool,
}

impl From<Password> for Option<PasswordSource> {
    fn from(password: Password) -> Self {
        let Password { mongodb_password_env, mongodb_password_file } = password;
        let file = |path: PathBuf| PasswordSource::File(std::path::absolute(&path).unwrap_or(path));
        mongodb_password_env.map(PasswordSource::Env).or_else(|| mongodb_password_file.map(file))
    }
}

impl From<MongodbSource> for SourceOptions {
    fn from(args: MongodbSource) -> Self {
        let MongodbSource { password, collection, order, consistency } = args;
        let order = match order {
            Order::Natural => ReadOrder::Natural,
            Order::Id => ReadOrder::Id,
        };
        let consistency = match consistency {
            Consistency::Automatic => ReadConsistency::Automatic,
            Consistency::Oplog => ReadConsistency::Oplog,
            Consistency::BestEffort => ReadConsistency::BestEffort,
        };
        Self { password: password.into(), collections: collection, read: MongoSourceOptions { order, consistency } }
    }
}

impl From<MongodbRestore> for TargetOptions {
    fn from(args: MongodbRestore) -> Self {
        let MongodbRestore { password, rename, users_and_roles } = args;
        Self { password: password.into(), rename: rename.into_iter().collect(), users_and_roles }
    }
}

impl TargetOptions {
    /// The entries that are chosen: patterns of collections (`shop.order*`) become patterns of entries, and what belongs to the whole
    /// comes along.
    pub(crate) fn selection(&self, include: Vec<String>, exclude: Vec<String>) -> (Vec<String>, Vec<String>) {
        let pattern = |pattern: &String| {
            if pattern.contains('/') { vec![pattern.clone()] } else { entry_patterns(pattern) }
        };
        // A database stands at the start of a name; a collection of the same name is another thing.
        let pattern = |text: &String| pattern(text).into_iter().map(at_the_start);
        let mut include: Vec<String> = include.iter().flat_map(pattern).collect();
        let mut exclude: Vec<String> = exclude.iter().flat_map(pattern).collect();
        if !include.is_empty() {
            // Without the log, what is restored would be of different moments.
            include.push("/oplog.bson".into());
        }
        if !self.users_and_roles {
            exclude.extend(["users", "roles", "version"].map(|name| format!("admin/system.{name}")));
        }
        // What describes a cluster's shards is not another cluster's.
        exclude.push("/config".into());
        (include, exclude)
    }
}

/// Options of an earlier command line, with what a later one says.
pub(crate) fn with_password(kept: &Option<PasswordSource>, now: Password) -> Option<PasswordSource> {
    Option::<PasswordSource>::from(now).or_else(|| kept.clone())
}

impl SourceOptions {
    /// With a password from another place.
    pub(crate) fn overridden_by(&mut self, now: Password) {
        self.password = with_password(&self.password, now);
    }
}

impl TargetOptions {
    /// With a password from another place.
    pub(crate) fn overridden_by(&mut self, now: Password) {
        self.password = with_password(&self.password, now);
    }
}

fn at_the_start(pattern: String) -> String {
    if pattern.contains('/') { pattern } else { format!("/{pattern}") }
}

fn read_password(source: &PasswordSource) -> Result<SecretString> {
    let text = match source {
        PasswordSource::Env(name) => std::env::var(name)
            .map_err(|_| Error::unauthorized("the environment variable with the password is not set").on(name))?,
        PasswordSource::File(path) => read_file(path)?,
    };
    Ok(text.into())
}

fn read_file(path: &Path) -> Result<String> {
    use std::io::Read;
    let mut text = String::new();
    let failed = |e| Error::io(e, "cannot read the file with the password").on(path.display());
    std::fs::File::open(path).map_err(failed)?.take(MAX_PASSWORD).read_to_string(&mut text).map_err(failed)?;
    // Editors end a file with a line feed.
    Ok(text.trim_end_matches(['\r', '\n']).to_owned())
}

/// User, password and the rest of what stands behind `mongodb:`.
fn split_password(rest: &str) -> Option<(String, String)> {
    let after = rest.strip_prefix("//")?;
    let end = after.find(['/', '?']).unwrap_or(after.len());
    let (user, _) = after[..end].rsplit_once('@')?;
    let (name, password) = user.split_once(':')?;
    Some((format!("//{name}{}", &after[user.len()..]), password.to_owned()))
}

async fn cluster(
    kind: &str,
    rest: &str,
    secret: &Secret,
    password: Option<&PasswordSource>,
    choose: impl FnOnce(&mut MongoConfig),
) -> Result<MongoCluster> {
    let mut config = MongoConfig::new(format!("{kind}:{rest}"));
    config.password = match (password, secret) {
        (Some(source), _) => Some(read_password(source)?),
        (None, Some(secret)) => Some(SecretString::from(secret.expose_secret().to_owned())),
        (None, None) => None,
    };
    choose(&mut config);
    MongoCluster::connect(config).await
}

async fn source(kind: &str, rest: &str, secret: &Secret, options: &AllSourceOptions) -> Result<Arc<dyn Source>> {
    let AllSourceOptions { exclude, one_file_system: _, mongodb: SourceOptions { password, collections, read } } =
        options;
    let choose = |config: &mut MongoConfig| {
        config.include.clone_from(collections);
        config.exclude.clone_from(exclude);
    };
    let cluster = cluster(kind, rest, secret, password.as_ref(), choose).await?;
    Ok(Arc::new(MongoSource::new(cluster, *read)))
}

async fn target(kind: &str, rest: &str, secret: &Secret, options: &AllTargetOptions) -> Result<Arc<dyn RestoreTarget>> {
    let AllTargetOptions { mongodb: TargetOptions { password, rename, users_and_roles } } = options;
    let cluster = cluster(kind, rest, secret, password.as_ref(), |_| {}).await?;
    let options = MongoTargetOptions { database: None, rename: rename.clone(), users_and_roles: *users_and_roles };
    Ok(Arc::new(MongoRestoreTarget::new(cluster, options)?))
}

/// Checks the locator, and takes the password out of it.
fn without_secret(kind: &str, rest: &str) -> Result<(String, Secret), String> {
    let (rest, password) = match split_password(rest) {
        Some((rest, password)) => (rest, Some(password)),
        None => (rest.to_owned(), None),
    };
    MongoConfig::new(format!("{kind}:{rest}")).selection().map_err(|e| e.chain())?;
    let password = password.map(|p| decoded(&p)).transpose()?;
    Ok((rest, password.map(SecretString::from)))
}

/// Percent-decoded, as in a URI.
fn decoded(text: &str) -> Result<String, String> {
    let wrong = || "the password in the locator is not percent-encoded as it should be".to_owned();
    let mut bytes = Vec::new();
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        if byte == b'%' {
            let digit = |b: Option<u8>| b.and_then(|b| char::from(b).to_digit(16)).ok_or_else(wrong);
            let (high, low) = (digit(rest.next())?, digit(rest.next())?);
            bytes.push(u8::try_from(high * 16 + low).map_err(|_| wrong())?);
        } else {
            bytes.push(byte);
        }
    }
    String::from_utf8(bytes).map_err(|_| wrong())
}

macro_rules! adapter {
    ($name:ident, $kind:literal, $syntax:literal) => {
        #[derive(Debug)]
        pub(super) struct $name;

        #[async_trait]
        impl Adapter for $name {
            fn kind(&self) -> &'static str {
                $kind
            }

            fn syntax(&self) -> &'static str {
                $syntax
            }

            fn absolute(&self, rest: &str) -> Result<String, String> {
                Ok(rest.to_owned())
            }

            fn without_secret(&self, rest: &str) -> Result<(String, Secret), String> {
                without_secret($kind, rest)
            }

            async fn source(&self, rest: &str, secret: &Secret, options: &AllSourceOptions) -> Result<Arc<dyn Source>> {
                source($kind, rest, secret, options).await
            }

            async fn destination(&self, _: &str) -> Result<Arc<dyn Destination>> {
                Err(Error::unsupported("archives cannot be kept in a MongoDB database; name another place"))
            }

            async fn target(
                &self,
                rest: &str,
                secret: &Secret,
                options: &AllTargetOptions,
            ) -> Result<Arc<dyn RestoreTarget>> {
                target($kind, rest, secret, options).await
            }
        }
    };
}

adapter!(Mongodb, "mongodb", "mongodb://HOST/DATABASE");
adapter!(MongodbSrv, "mongodb+srv", "mongodb+srv://HOST/DATABASE");

#[cfg(test)]
mod tests {
    use super::*;
    use crate::locator::Locator;

    #[test]
    fn a_password_in_a_locator_is_used_and_never_shown_or_kept() {
        let locator: Locator = "mongodb://anna:s3%40cret@h1:27017,h2/shop?replicaSet=rs0".parse().unwrap();
        assert_eq!(locator.to_string(), "mongodb://anna@h1:27017,h2/shop?replicaSet=rs0");
        assert_eq!(locator.secret.as_ref().unwrap().expose_secret(), "s3@cret");
        for shown in [format!("{locator:?}"), serde_json::to_string(&locator).unwrap()] {
            assert!(!shown.contains("cret"), "{shown}");
        }
        let srv: Locator = "mongodb+srv://anna:p@cluster.example".parse().unwrap();
        assert_eq!(srv.to_string(), "mongodb+srv://anna@cluster.example");
        let none: Locator = "mongodb://h/db".parse().unwrap();
        assert!(none.secret.is_none() && none.is_mongodb());
        for bad in
            ["mongodb://anna:s3cret@", "mongodb:s3cret", "mongodb://a:s3cret%zz@h/", "mongodb://a:s3cret@h:port/"]
        {
            let error = bad.parse::<Locator>().unwrap_err();
            assert!(!error.contains("s3cret"), "{error}");
        }
    }

    #[test]
    fn passwords_come_from_variables_and_files() {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), "p w\n").unwrap();
        let read = read_password(&PasswordSource::File(file.path().into())).unwrap();
        assert_eq!(read.expose_secret(), "p w");
        let error = read_password(&PasswordSource::Env("BACKUP_NO_SUCH_VARIABLE".into())).unwrap_err();
        assert!(error.to_string().contains("BACKUP_NO_SUCH_VARIABLE"));
    }

    #[test]
    fn patterns_of_collections_choose_entries_and_what_belongs_to_all() {
        let options = TargetOptions::default();
        let (include, exclude) =
            options.selection(vec!["shop.a*".into(), "shop/x/*".into(), "crm".into()], vec!["shop.b c".into()]);
        assert_eq!(include, ["shop/a*", "shop/system.buckets.a*", "shop/x/*", "/crm", "/oplog.bson"]);
        assert!(exclude.contains(&"shop/b+c".to_owned()) && exclude.contains(&"admin/system.users".to_owned()));
        assert!(options.selection(vec![], vec![]).0.is_empty());
        let all = TargetOptions { users_and_roles: true, ..options };
        assert!(!all.selection(vec![], vec![]).1.iter().any(|pattern| pattern.contains("users")));
    }
}
