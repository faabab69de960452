//! Where a store is, as a URL tells.

#[cfg(any(feature = "postgres", feature = "mysql"))]
use crate::dialect::Dialect;
use backup_core::{Error, Result};
#[cfg(any(feature = "postgres", feature = "mysql"))]
use secrecy::SecretString;
use std::fmt;
#[cfg(feature = "sqlite")]
use std::path::{Path, PathBuf};

/// Where the database is.
#[derive(Clone)]
pub(crate) enum Place {
    /// An SQLite database in memory.
    #[cfg(feature = "sqlite")]
    Memory,
    /// An SQLite file: an absolute path in UTF-8, as SQLite wants it.
    #[cfg(feature = "sqlite")]
    File(PathBuf),
    /// A database of a server.
    #[cfg(any(feature = "postgres", feature = "mysql"))]
    Server {
        dialect: Dialect,
        url: SecretString,
        /// The URL without user, password and parameters.
        shown: String,
    },
}

impl Place {
    /// Understands the URL of a store. Errors never repeat the whole URL: there may be a password in it.
    pub(crate) fn parse(url: &str) -> Result<Self> {
        #[cfg_attr(not(feature = "sqlite"), allow(unused_variables, reason = "only files are told by it"))]
        let Some((scheme, rest)) = url.split_once(':') else {
            return Err(Error::invalid("not the URL of a store; give one such as sqlite:///var/lib/backup/store.db"));
        };
        match scheme {
            #[cfg(feature = "sqlite")]
            "sqlite" => Self::sqlite(url, rest),
            #[cfg(feature = "postgres")]
            "postgres" | "postgresql" => Self::server(Dialect::Postgres, url),
            #[cfg(feature = "mysql")]
            "mysql" | "mariadb" => Self::server(Dialect::MySql, url),
            #[allow(unreachable_patterns, reason = "with all features there are no others")]
            "sqlite" | "postgres" | "postgresql" | "mysql" | "mariadb" => {
                Err(Error::unsupported("this build has no stores of this kind").on(scheme))
            }
            _ => Err(Error::invalid("not a kind of store; the URL of one starts with sqlite:, postgres: or mysql:")
                .on(scheme.escape_default())),
        }
    }

    #[cfg(feature = "sqlite")]
    fn sqlite(url: &str, rest: &str) -> Result<Self> {
        if rest == ":memory:" || rest == "//:memory:" {
            return Ok(Self::Memory);
        }
        let path = rest.strip_prefix("//").unwrap_or(rest);
        if path.is_empty() || path.contains(['?', '#']) {
            let text = "the URL of an SQLite store is sqlite: and a path, without parameters (write ? in a path as %3F, # as %23)";
            return Err(Error::invalid(text).on(url));
        }
        let decoded = percent_encoding::percent_decode_str(path).decode_utf8();
        let decoded =
            decoded.map_err(|e| Error::invalid("the path of an SQLite file must be UTF-8").on(url).because(e))?;
        Self::file(Path::new(&*decoded))
    }

    /// An SQLite file.
    #[cfg(feature = "sqlite")]
    pub(crate) fn file(path: &Path) -> Result<Self> {
        let absolute = std::path::absolute(path).map_err(|e| Error::io(e, "not a path for a store"))?;
        if absolute.to_str().is_none() {
            return Err(Error::invalid("the path of an SQLite file must be UTF-8").on(absolute.display()));
        }
        Ok(Self::File(absolute))
    }

    #[cfg(any(feature = "postgres", feature = "mysql"))]
    fn server(dialect: Dialect, url: &str) -> Result<Self> {
        let form = "the URL of a store on a server looks like postgres://USER:PASSWORD@HOST:PORT/DATABASE, with special \
                    characters in user and password percent-encoded";
        // The parser's text may repeat parts of the URL.
        let parsed = url::Url::parse(url).map_err(|_| Error::invalid(form))?;
        let database = parsed.path().trim_matches('/');
        if database.is_empty() || database.contains('/') {
            return Err(Error::invalid(form));
        }
        let host = parsed.host_str().unwrap_or_default();
        let port = parsed.port().map(|port| format!(":{port}")).unwrap_or_default();
        let shown = format!("{}://{host}{port}/{database}", parsed.scheme());
        Ok(Self::Server { dialect, url: url.into(), shown })
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            #[cfg(feature = "sqlite")]
            Self::Memory => f.write_str("the store in memory"),
            #[cfg(feature = "sqlite")]
            Self::File(path) => write!(f, "{}", path.display()),
            #[cfg(any(feature = "postgres", feature = "mysql"))]
            Self::Server { shown, .. } => f.write_str(shown),
        }
    }
}

impl fmt::Debug for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Place({self})")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use backup_core::ErrorClass;

    #[cfg(feature = "sqlite")]
    #[test]
    fn urls_name_files_or_memory() {
        let file = |path: &str| Place::file(Path::new(path)).unwrap().to_string();
        let parsed = |url| Place::parse(url).unwrap().to_string();
        assert!(matches!(Place::parse("sqlite::memory:").unwrap(), Place::Memory));
        assert!(matches!(Place::parse("sqlite://:memory:").unwrap(), Place::Memory));
        assert_eq!(parsed("sqlite:///var/lib/store.db"), "/var/lib/store.db");
        assert_eq!(parsed("sqlite:/var/lib/store.db"), "/var/lib/store.db");
        assert_eq!(parsed("sqlite:////var/lib/store.db"), file("//var/lib/store.db"));
        assert_eq!(parsed("sqlite://store.db"), file("store.db"));
        assert_eq!(parsed("sqlite:a/store.db"), file("a/store.db"));
        assert_eq!(parsed("sqlite:///a%20b/%3F.db"), "/a b/?.db");
    }

    #[cfg(all(feature = "postgres", feature = "mysql"))]
    #[test]
    fn a_server_is_shown_without_its_secrets() {
        for (url, shown) in [
            ("postgres://me:secret@host:5433/db?sslmode=require&password=secret", "postgres://host:5433/db"),
            ("postgresql://host/db", "postgresql://host/db"),
            ("mysql://me:secret@host/db", "mysql://host/db"),
            ("mariadb://me:se%2Fcret@host/db", "mariadb://host/db"),
        ] {
            let place = Place::parse(url).unwrap();
            assert_eq!(place.to_string(), shown);
            assert!(!format!("{place:?}").contains("cret"));
        }
    }

    #[test]
    fn urls_that_cannot_be_meant_are_refused_without_their_secrets() {
        for url in [
            "store.db",
            "sqlite:",
            "sqlite://",
            "sqlite:///a.db?mode=ro",
            "postgres://me:secret@host",
            "postgres://me:secret@host/",
            "postgres://me:secret@ho st/db",
            "mysql://me:secret@host/a/b",
            "redis://me:secret@host",
        ] {
            let error = Place::parse(url).unwrap_err();
            assert_eq!(error.class(), ErrorClass::Invalid, "{url}");
            assert!(!format!("{error:?}").contains("secret"), "{error:?}");
        }
    }
}
