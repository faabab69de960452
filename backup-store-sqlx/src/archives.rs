//! What the store remembers of completed archives.

use crate::db::Db;
use crate::error::failed;
use crate::{rows, sql};
use backup_core::adapter::{stored_time, unknown_archive};
use backup_core::model::{ArchiveId, ArchiveRecord, Identity, KnownArchive, StorageUse};
use backup_core::{Digest, Result};
use sqlx::AnyConnection;

/// A destination as a key: its location may be longer than what a database takes as one.
fn place(destination: &Identity) -> String {
    Digest::of(format!("{}\n{}", destination.kind, destination.location).as_bytes()).to_string()
}

impl Db {
    pub(crate) async fn archives(&self, destination: &Identity) -> Result<Vec<KnownArchive>> {
        let list = self.dialect.query(sql::LIST_ARCHIVES).bind(place(destination));
        let found = list.fetch_all(&self.reader).await.map_err(failed("cannot list the known archives"))?;
        found.iter().map(rows::archive).collect()
    }

    pub(crate) async fn places(&self, archive: &ArchiveId) -> Result<Vec<KnownArchive>> {
        let list = self.dialect.query(sql::LIST_PLACES).bind(archive.to_string());
        let found = list.fetch_all(&self.reader).await.map_err(failed("cannot look for the archive"))?;
        let mut known = found.iter().map(rows::archive).collect::<Result<Vec<_>>>()?;
        known.sort_by(|a, b| order(&a.record.destination).cmp(&order(&b.record.destination)));
        Ok(known)
    }

    pub(crate) async fn storage(&self) -> Result<Vec<StorageUse>> {
        let found = self.dialect.query(sql::SUM_STORAGE).fetch_all(&self.reader).await;
        let found = found.map_err(failed("cannot sum the known archives"))?;
        let mut used = found.iter().map(rows::storage_use).collect::<Result<Vec<_>>>()?;
        used.sort_by(|a, b| order(&a.destination).cmp(&order(&b.destination)));
        Ok(used)
    }

    pub(crate) async fn protect(&self, destination: &Identity, archive: &ArchiveId, protected: bool) -> Result<()> {
        let mut tx = self.begin().await?;
        if self.protection(&mut tx, destination, archive).await?.is_none() {
            return Err(unknown_archive(archive));
        }
        self.dialect
            .query(sql::PROTECT_ARCHIVE)
            .bind(i64::from(protected))
            .bind(place(destination))
            .bind(archive.to_string())
            .execute(&mut *tx)
            .await
            .map_err(failed("cannot protect the archive"))?;
        self.commit(tx).await
    }

    pub(crate) async fn forget_archive(&self, destination: &Identity, archive: &ArchiveId) -> Result<()> {
        let mut tx = self.begin().await?;
        self.delete_archive(&mut tx, destination, archive).await?;
        self.commit(tx).await
    }

    /// Adds a record, in place of an older one of the same archive, whose protection stays.
    pub(crate) async fn put_archive(&self, conn: &mut AnyConnection, record: &ArchiveRecord) -> Result<()> {
        let ArchiveRecord { archive, destination, source, manifest_sha256, name, stored_bytes, completed_at } = record;
        let protected = self.protection(conn, destination, archive).await?.unwrap_or_default();
        self.delete_archive(&mut *conn, destination, archive).await?;
        self.dialect
            .query(sql::INSERT_ARCHIVE)
            .bind(place(destination))
            .bind(archive.to_string())
            .bind(destination.kind.clone())
            .bind(destination.location.clone())
            .bind(source.kind.clone())
            .bind(source.location.clone())
            .bind(manifest_sha256.to_string())
            .bind(rows::to_text(name))
            .bind(rows::to_integer(*stored_bytes))
            .bind(stored_time(*completed_at).as_microsecond())
            .bind(i64::from(protected))
            .execute(conn)
            .await
            .map_err(failed("cannot record the archive"))?;
        Ok(())
    }

    /// Whether an archive is protected; `None` when it is not known.
    async fn protection(
        &self,
        conn: &mut AnyConnection,
        destination: &Identity,
        archive: &ArchiveId,
    ) -> Result<Option<bool>> {
        let get = self.dialect.query(sql::GET_PROTECTION).bind(place(destination)).bind(archive.to_string());
        let row = get.fetch_optional(conn).await.map_err(failed("cannot look for the archive"))?;
        Ok(row.as_ref().map(rows::number).transpose()?.map(|protected| protected != 0))
    }

    async fn delete_archive(
        &self,
        conn: &mut AnyConnection,
        destination: &Identity,
        archive: &ArchiveId,
    ) -> Result<()> {
        let delete = self.dialect.query(sql::DELETE_ARCHIVE).bind(place(destination)).bind(archive.to_string());
        delete.execute(conn).await.map_err(failed("cannot forget the archive"))?;
        Ok(())
    }
}

fn order(destination: &Identity) -> (&str, &str) {
    (&destination.kind, &destination.location)
}
