//! What the store remembers of completed archives.

use crate::db::Db;
use crate::error::failed;
use crate::{rows, sql};
use backup_core::Result;
use backup_core::model::{ArchiveId, ArchiveRecord, Identity};
use sqlx::SqliteConnection;

impl Db {
    pub(crate) async fn archives(&self, destination: &Identity) -> Result<Vec<ArchiveRecord>> {
        let found = sqlx::query(sql::LIST_ARCHIVES)
            .bind(destination.kind.as_str())
            .bind(destination.location.as_str())
            .fetch_all(&self.reader)
            .await
            .map_err(failed("cannot list the known archives"))?;
        found.iter().map(|row| rows::archive(row, destination)).collect()
    }

    pub(crate) async fn forget_archive(&self, destination: &Identity, archive: &ArchiveId) -> Result<()> {
        let mut tx = self.begin().await?;
        delete(&mut tx, destination, archive).await?;
        self.commit(tx).await
    }
}

/// Adds a record, in place of an older one of the same archive.
pub(crate) async fn put(conn: &mut SqliteConnection, record: &ArchiveRecord) -> Result<()> {
    let ArchiveRecord { archive, destination, source, manifest_sha256 } = record;
    delete(&mut *conn, destination, archive).await?;
    sqlx::query(sql::INSERT_ARCHIVE)
        .bind(destination.kind.as_str())
        .bind(destination.location.as_str())
        .bind(archive.as_str())
        .bind(source.kind.as_str())
        .bind(source.location.as_str())
        .bind(manifest_sha256.to_string())
        .execute(conn)
        .await
        .map_err(failed("cannot record the archive"))?;
    Ok(())
}

async fn delete(conn: &mut SqliteConnection, destination: &Identity, archive: &ArchiveId) -> Result<()> {
    sqlx::query(sql::DELETE_ARCHIVE)
        .bind(destination.kind.as_str())
        .bind(destination.location.as_str())
        .bind(archive.as_str())
        .execute(conn)
        .await
        .map_err(failed("cannot forget the archive"))?;
    Ok(())
}
