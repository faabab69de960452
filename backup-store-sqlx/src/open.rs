//! Opening a database: the file, its settings, its schema.

use crate::db::Db;
use crate::error::failed;
use crate::sql;
use backup_core::{Error, Result};
use sqlx::migrate::{Migrate, MigrateError, Migrator};
use sqlx::sqlite::{SqliteConnectOptions, SqlitePoolOptions, SqliteSynchronous};
use sqlx::{ConnectOptions, Connection, Pool, Sqlite, SqliteConnection};
use std::fmt;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::time::{Duration, Instant};

/// In order of their versions; later ones are only ever added at the end.
static MIGRATIONS: Migrator = sqlx::migrate!("migrations/sqlite");
const MIGRATIONS_TABLE: &str = "_sqlx_migrations";
const CANNOT_MIGRATE: &str = "cannot bring the database's schema up to date";

/// "bckp": stands in the header of our files, so that no other program's database is taken for ours.
const APPLICATION_ID: i64 = 0x6263_6b70;
const SET_APPLICATION_ID: &str = "PRAGMA application_id = 1650682736";

/// How long to wait for a lock that another process has.
const BUSY_TIMEOUT: Duration = Duration::from_secs(10);

/// Each connection has a thread and up to 2 MB of page cache.
const READERS: u32 = 3;

/// Where the database is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Place {
    Memory,
    /// An absolute path in UTF-8, as SQLite wants it.
    File(PathBuf),
}

impl Place {
    pub(crate) fn file(path: &Path) -> Result<Self> {
        let absolute = std::path::absolute(path).map_err(|e| Error::io(e, "not a path for a store"))?;
        if absolute.to_str().is_none() {
            return Err(Error::invalid("the path of an SQLite file must be UTF-8").on(absolute.display()));
        }
        Ok(Self::File(absolute))
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Memory => f.write_str("the store in memory"),
            Self::File(path) => write!(f, "{}", path.display()),
        }
    }
}

/// Understands the URL of a store. Errors never repeat the whole URL: one of another database could hold a password.
pub(crate) fn parse(url: &str) -> Result<Place> {
    let Some((scheme, rest)) = url.split_once(':') else {
        return Err(Error::invalid("not the URL of a store; give one such as sqlite:///var/lib/backup/store.db"));
    };
    match scheme {
        "sqlite" => {}
        "postgres" | "postgresql" | "mysql" | "mariadb" => {
            return Err(Error::unsupported("this build keeps stores in SQLite only").on(scheme));
        }
        _ => {
            return Err(
                Error::invalid("not a kind of store; the URL of one starts with sqlite:").on(scheme.escape_default())
            );
        }
    }
    if rest == ":memory:" || rest == "//:memory:" {
        return Ok(Place::Memory);
    }
    let path = rest.strip_prefix("//").unwrap_or(rest);
    if path.is_empty() || path.contains(['?', '#']) {
        return Err(Error::invalid(
            "the URL of an SQLite store is sqlite: and a path, without parameters (write ? in a path as %3F, # as %23)",
        )
        .on(url));
    }
    // One slash at the start at most: sqlx cuts off every pair.
    let path = if path.starts_with('/') { format!("/{}", path.trim_start_matches('/')) } else { path.to_string() };
    let decoded = SqliteConnectOptions::from_str(&format!("sqlite:{path}"))
        .map_err(|e| failed("not the URL of an SQLite store")(e).on(url))?;
    Place::file(decoded.get_filename())
}

/// Opens the database, with its schema as this version knows it.
pub(crate) async fn open(place: &Place) -> Result<Db> {
    let db = match place {
        Place::Memory => {
            // The database lives as long as its one connection.
            let options = SqliteConnectOptions::new().in_memory(true).disable_statement_logging();
            let pool = pool(1).max_lifetime(None).idle_timeout(None);
            let pool = pool.connect_with(options).await.map_err(failed("cannot open a database in memory"))?;
            Db { reader: pool.clone(), writer: pool }
        }
        Place::File(path) => {
            let file = path.clone();
            tokio::task::spawn_blocking(move || create_file(&file))
                .await
                .map_err(|e| Error::permanent("making the database file was broken off").because(e))?
                .map_err(|e| Error::io(e, "cannot make the database file"))?;
            let options = file_options(path);
            let writer = pool(1).max_lifetime(None).idle_timeout(None).before_acquire(|conn, _| {
                // When SQLite ends a transaction by itself (a full disk), sqlx still counts it as open.
                let usable = !conn.is_in_transaction();
                Box::pin(async move { Ok(usable) })
            });
            let writer = writer.connect_with(options.clone()).await.map_err(failed("cannot open the database"))?;
            let reader = pool(READERS).connect_lazy_with(options.pragma("query_only", "ON"));
            Db { writer, reader }
        }
    };
    let deadline = Instant::now() + BUSY_TIMEOUT;
    loop {
        // Two processes that make one database at the same time can meet locks that SQLite does not wait for.
        match prepare(&db.writer).await {
            Err(e) if e.is_retryable() && Instant::now() < deadline => {
                tracing::debug!(error = %e.chain(), "the database is busy");
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
            Err(e) => {
                db.close().await;
                return Err(e);
            }
            Ok(()) => return Ok(db),
        }
    }
}

fn pool(connections: u32) -> SqlitePoolOptions {
    SqlitePoolOptions::new().max_connections(connections)
}

fn file_options(path: &Path) -> SqliteConnectOptions {
    SqliteConnectOptions::new()
        .filename(path)
        .busy_timeout(BUSY_TIMEOUT)
        .foreign_keys(true)
        .synchronous(SqliteSynchronous::Full)
        // Without it a macOS system keeps synced data in the drive's cache.
        .pragma("fullfsync", "ON")
        .disable_statement_logging()
}

/// Makes the file and the directories above it, if missing, for their owner only. SQLite gives the
/// files beside it the same permissions.
fn create_file(path: &Path) -> std::io::Result<()> {
    if path.try_exists()? {
        return Ok(());
    }
    let parent = path.parent().unwrap_or(path);
    let missing: Vec<&Path> = parent.ancestors().take_while(|dir| !dir.exists()).collect();
    let mut dirs = std::fs::DirBuilder::new();
    let mut file = std::fs::OpenOptions::new();
    #[cfg(unix)]
    {
        use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
        dirs.mode(0o700);
        file.mode(0o600);
    }
    dirs.recursive(true).create(parent)?;
    match file.write(true).create_new(true).open(path) {
        Err(e) if e.kind() != std::io::ErrorKind::AlreadyExists => return Err(e),
        _ => {}
    }
    // The new names must survive a power loss, as the data in the file does.
    for dir in std::iter::once(parent).chain(missing.iter().filter_map(|dir| dir.parent())) {
        std::fs::File::open(dir)?.sync_all()?;
    }
    Ok(())
}

/// Checks whose database it is and brings its schema up to date; nothing of a database that is not ours is changed.
async fn prepare(writer: &Pool<Sqlite>) -> Result<()> {
    let error = failed("cannot open the database");
    // Under the write lock, because the migrations know no lock of their own on SQLite.
    let mut tx = writer.begin_with(sql::BEGIN_WRITE).await.map_err(&error)?;
    let id: i64 = sqlx::query_scalar("PRAGMA application_id").fetch_one(&mut *tx).await.map_err(&error)?;
    if id != APPLICATION_ID {
        let things: i64 =
            sqlx::query_scalar("SELECT COUNT(*) FROM sqlite_master").fetch_one(&mut *tx).await.map_err(&error)?;
        if id != 0 || things != 0 {
            return Err(Error::invalid("the file is the database of another program; give another path for the store"));
        }
        sqlx::query(SET_APPLICATION_ID).execute(&mut *tx).await.map_err(&error)?;
    }
    migrate(&mut tx).await?;
    tx.commit().await.map_err(&error)?;

    // Stays in the file. Not before the check: it would change a database that is not ours.
    let mut conn = writer.acquire().await.map_err(&error)?;
    let mode: String = sqlx::query_scalar("PRAGMA journal_mode").fetch_one(&mut *conn).await.map_err(&error)?;
    if mode == "delete" {
        sqlx::query("PRAGMA journal_mode = WAL").execute(&mut *conn).await.map_err(&error)?;
    }
    Ok(())
}

/// Applies the migrations that the database lacks.
async fn migrate(conn: &mut SqliteConnection) -> Result<()> {
    conn.ensure_migrations_table(MIGRATIONS_TABLE).await.map_err(migration_failed)?;
    let applied = conn.list_applied_migrations(MIGRATIONS_TABLE).await.map_err(migration_failed)?;
    for done in &applied {
        let Some(known) = MIGRATIONS.iter().find(|migration| migration.version == done.version) else {
            return Err(Error::unsupported(
                "the store was written by a newer version of this program; use that version, or another store",
            ));
        };
        if known.checksum != done.checksum {
            return Err(Error::corrupt("the database's schema is not the one that this program has made"));
        }
    }
    for migration in MIGRATIONS.iter().skip(applied.len()) {
        tracing::debug!(version = migration.version, description = %migration.description, "migrating the store");
        conn.apply(MIGRATIONS_TABLE, migration).await.map_err(migration_failed)?;
    }
    Ok(())
}

fn migration_failed(cause: MigrateError) -> Error {
    match cause {
        MigrateError::Execute(cause) | MigrateError::ExecuteMigration(cause, _) => failed(CANNOT_MIGRATE)(cause),
        cause => Error::permanent(CANNOT_MIGRATE).because(cause.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use backup_core::ErrorClass;

    fn file(path: &str) -> Place {
        Place::file(Path::new(path)).unwrap()
    }

    #[test]
    fn urls_name_files_or_memory() {
        assert_eq!(parse("sqlite::memory:").unwrap(), Place::Memory);
        assert_eq!(parse("sqlite://:memory:").unwrap(), Place::Memory);
        assert_eq!(parse("sqlite:///var/lib/store.db").unwrap(), file("/var/lib/store.db"));
        assert_eq!(parse("sqlite:/var/lib/store.db").unwrap(), file("/var/lib/store.db"));
        assert_eq!(parse("sqlite:////var/lib/store.db").unwrap(), file("/var/lib/store.db"));
        assert_eq!(parse("sqlite://store.db").unwrap(), file("store.db"));
        assert_eq!(parse("sqlite:a/store.db").unwrap(), file("a/store.db"));
        assert_eq!(parse("sqlite:///a%20b/%3F.db").unwrap(), file("/a b/?.db"));
    }

    #[test]
    fn urls_that_cannot_be_meant_are_refused_without_their_secrets() {
        for (url, class) in [
            ("store.db", ErrorClass::Invalid),
            ("sqlite:", ErrorClass::Invalid),
            ("sqlite://", ErrorClass::Invalid),
            ("sqlite:///a.db?mode=ro", ErrorClass::Invalid),
            ("postgres://me:secret@host/db", ErrorClass::Unsupported),
            ("mysql://me:secret@host/db", ErrorClass::Unsupported),
            ("redis://me:secret@host", ErrorClass::Invalid),
        ] {
            let error = parse(url).unwrap_err();
            assert_eq!(error.class(), class, "{url}");
            assert!(!format!("{error:?}").contains("secret"), "{error:?}");
        }
    }

    #[test]
    fn the_application_id_is_written_as_it_is_read() {
        assert_eq!(SET_APPLICATION_ID, format!("PRAGMA application_id = {APPLICATION_ID}"));
    }
}
