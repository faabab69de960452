//! SQLite: the file, its settings, and whose it is.

use super::{migrate, one_connection, options, with_settings};
use crate::db::Db;
use crate::dialect::Dialect;
use crate::error::failed;
use crate::rows;
use backup_core::{Error, Result};
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use sqlx::any::{AnyConnectOptions, AnyPoolOptions};
use sqlx::{Any, AnyConnection, ConnectOptions, Connection, Pool, Row};
use std::path::{Path, PathBuf};

/// "bckp": stands in the header of our files, so that no other program's database is taken for ours.
const APPLICATION_ID: i64 = 0x6263_6b70;
const SET_APPLICATION_ID: &str = "PRAGMA application_id = 1650682736";
/// Each connection has a thread and up to 2 MB of page cache.
const READERS: u32 = 3;
const SETTINGS: &[&str] = &[
    "PRAGMA busy_timeout = 10000",
    "PRAGMA foreign_keys = ON",
    "PRAGMA synchronous = FULL",
    // Without it a macOS system keeps synced data in the drive's cache.
    "PRAGMA fullfsync = ON",
];
const READER_SETTINGS: &[&str] = &[
    "PRAGMA busy_timeout = 10000",
    "PRAGMA foreign_keys = ON",
    "PRAGMA synchronous = FULL",
    "PRAGMA fullfsync = ON",
    "PRAGMA query_only = ON",
];
const IN_PATHS: &AsciiSet = &NON_ALPHANUMERIC.remove(b'/').remove(b'.').remove(b'-').remove(b'_');

/// A database that lives as long as its one connection.
pub(super) async fn memory() -> Result<Db> {
    let pool = one_connection(with_settings(AnyPoolOptions::new(), SETTINGS), options("sqlite::memory:")?).await?;
    Ok(Db { dialect: Dialect::Sqlite, reader: pool.clone(), writer: pool, told: Default::default() })
}

/// A file, made when it is missing.
pub(super) async fn file(path: &Path) -> Result<Db> {
    let file = path.to_owned();
    let path = tokio::task::spawn_blocking(move || create_file(&file))
        .await
        .map_err(|e| Error::permanent("making the database file was broken off").because(e))?
        .map_err(|e| Error::io(e, "cannot make the database file"))?;
    let path = path.to_str().ok_or_else(|| Error::invalid("the path of an SQLite file must be UTF-8"))?;
    let options = options(&format!("sqlite:{}", utf8_percent_encode(path, IN_PATHS)))?;
    look(&options).await?;
    let writer = with_settings(AnyPoolOptions::new(), SETTINGS).before_acquire(|conn, _| {
        // When SQLite ends a transaction by itself (a full disk), sqlx still counts it as open.
        let usable = !conn.is_in_transaction();
        Box::pin(async move { Ok(usable) })
    });
    let writer = one_connection(writer, options.clone()).await?;
    let reader = with_settings(AnyPoolOptions::new().max_connections(READERS), READER_SETTINGS);
    Ok(Db { dialect: Dialect::Sqlite, writer, reader: reader.connect_lazy_with(options), told: Default::default() })
}

/// Opens the file once: a pool would try a file that is no database again and again, and then speak of the time that it took.
async fn look(options: &AnyConnectOptions) -> Result<()> {
    let doing = failed("cannot open the database");
    let mut conn = options.connect().await.map_err(&doing)?;
    for setting in SETTINGS {
        sqlx::raw_sql(*setting).execute(&mut conn).await.map_err(&doing)?;
    }
    conn.close().await.map_err(&doing)
}

/// Makes the file and the directories above it, if missing, for their owner only, and gives its path without links. SQLite gives the
/// files beside it the same permissions.
fn create_file(path: &Path) -> std::io::Result<PathBuf> {
    if path.try_exists()? {
        return path.canonicalize();
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
    path.canonicalize()
}

/// Checks whose database it is and brings its tables up to date; nothing of a database that is not ours is changed.
pub(super) async fn prepare(writer: &Pool<Any>) -> Result<()> {
    let error = failed("cannot open the database");
    // Under the write lock, because the migrations know no lock of their own on SQLite.
    let mut tx = writer.begin_with(Dialect::Sqlite.begin()).await.map_err(&error)?;
    let id = number(&mut tx, "PRAGMA application_id").await?;
    if id != APPLICATION_ID {
        let things = number(&mut tx, "SELECT COUNT(*) FROM sqlite_master").await?;
        if id != 0 || things != 0 {
            return Err(Error::invalid("the file is the database of another program; give another path for the store"));
        }
        sqlx::query(SET_APPLICATION_ID).execute(&mut *tx).await.map_err(&error)?;
    }
    migrate(&mut tx, Dialect::Sqlite).await?;
    tx.commit().await.map_err(&error)?;

    // Stays in the file. Not before the check: it would change a database that is not ours.
    let mut conn = writer.acquire().await.map_err(&error)?;
    let mode: String = sqlx::query("PRAGMA journal_mode")
        .fetch_one(&mut *conn)
        .await
        .and_then(|row| row.try_get(0))
        .map_err(&error)?;
    if mode == "delete" {
        sqlx::query("PRAGMA journal_mode = WAL").execute(&mut *conn).await.map_err(&error)?;
    }
    Ok(())
}

async fn number(conn: &mut AnyConnection, query: &'static str) -> Result<i64> {
    rows::number(&sqlx::query(query).fetch_one(conn).await.map_err(failed("cannot open the database"))?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_application_id_is_written_as_it_is_read() {
        assert_eq!(SET_APPLICATION_ID, format!("PRAGMA application_id = {APPLICATION_ID}"));
    }

    #[test]
    fn readers_are_set_up_as_the_writer_is() {
        assert_eq!(READER_SETTINGS[..SETTINGS.len()], *SETTINGS);
    }
}
