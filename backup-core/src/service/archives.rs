//! Archives: list, open, verify, export, protect, delete.

use super::BackupService;
use crate::adapter::ByteStream;
use crate::archive::Codec;
use crate::engine::{Archive, ArchiveSummary, VerifyMode, VerifyOutcome, delete_archive, find_archive, list_archives};
use crate::limit::RateLimit;
use crate::model::{ArchiveId, ConnectionId, Identity, Progress};
use crate::{Error, ErrorClass, Result};
use tokio::sync::watch;

/// What deleting an archive everywhere did.
#[derive(Debug, Default)]
pub struct DeletedEverywhere {
    /// Where it was deleted.
    pub deleted: Vec<Identity>,
    /// Where it was not, and why.
    pub failed: Vec<(Identity, Error)>,
}

impl BackupService {
    /// Lists the archives of a connection, in order of their times, compared with what the store remembers.
    ///
    /// # Errors
    /// `NotFound` when the connection is not there; what destination or store met.
    pub async fn archives(&self, at: &ConnectionId) -> Result<Vec<ArchiveSummary>> {
        let destination = self.destination(at).await?;
        list_archives(&destination, Some(&*self.inner.store), self.inner.archive_keys.as_deref()).await
    }

    /// The archive that a name, an id or its beginning, or `latest` calls for.
    ///
    /// # Errors
    /// `NotFound` when there is none; `Invalid` when the word calls for several; what the destination met.
    pub async fn find_archive(&self, at: &ConnectionId, word: &str) -> Result<ArchiveId> {
        find_archive(&self.destination(at).await?, word).await
    }

    /// Opens an archive: its header and manifest tell what is in it, and its entries and contents can be read.
    ///
    /// # Errors
    /// As [`Archive::open`]; `Corrupt` also when it is not the one that the store remembers.
    pub async fn archive(&self, at: &ConnectionId, id: &ArchiveId) -> Result<Archive> {
        let destination = self.destination(at).await?;
        let place = destination.identity();
        let known = self.inner.store.places(id).await?.into_iter().find(|known| known.record.destination == place);
        let archive = Archive::open(destination, id, &self.open_options(known.is_some())).await?;
        match known {
            Some(known) if known.record.manifest_sha256 != archive.manifest_sha256() => {
                let text =
                    "its manifest is not the one that was written: somebody has put another archive in its place";
                Err(Error::corrupt(text).on(id))
            }
            _ => Ok(archive),
        }
    }

    /// Verifies an archive; `progress` tells how far it has come.
    ///
    /// # Errors
    /// As [`archive`](Self::archive); what the destination met. That something is wrong with the archive is no error: it stands in the
    /// outcome.
    pub async fn verify(
        &self,
        at: &ConnectionId,
        id: &ArchiveId,
        mode: VerifyMode,
        progress: &watch::Sender<Progress>,
    ) -> Result<VerifyOutcome> {
        self.archive(at, id).await?.verify(mode, progress).await
    }

    /// The whole archive as one tar stream, compressed with a codec; sealed archives too. Damage ends the stream with an error.
    ///
    /// # Errors
    /// As [`archive`](Self::archive).
    pub async fn export(&self, at: &ConnectionId, id: &ArchiveId, codec: Codec) -> Result<ByteStream> {
        Ok(self.archive(at, id).await?.export(codec, RateLimit::default()))
    }

    /// Protects an archive from deletion by this store's programs, or gives it free again.
    ///
    /// # Errors
    /// `NotFound` when the store does not know it at this connection; what the store met.
    pub async fn protect(&self, at: &ConnectionId, id: &ArchiveId, protected: bool) -> Result<()> {
        let place = self.destination(at).await?.identity();
        self.inner.store.protect(&place, id, protected).await
    }

    /// Deletes an archive at one connection. Returns how many objects were removed.
    ///
    /// # Errors
    /// `NotFound` when nothing of it is there; `Conflict` when it is protected, another archive refers to it or an operation is at
    /// work on it; otherwise what destination or store met, and deleting again goes on.
    pub async fn delete_archive(&self, at: &ConnectionId, id: &ArchiveId) -> Result<u64> {
        delete_archive(&self.destination(at).await?, Some(&*self.inner.store), id).await
    }

    async fn is_known(&self, id: &ArchiveId, place: &Identity) -> Result<bool> {
        Ok(self.inner.store.places(id).await?.iter().any(|known| known.record.destination == *place))
    }

    /// Deletes an archive at every place where the store knows it, by whatever connections lead there.
    ///
    /// # Errors
    /// `NotFound` when the store knows it nowhere; `Conflict` when it is protected at one of the places: nothing is deleted then. What
    /// goes wrong at a place stands in the answer, and the other places are seen to all the same.
    pub async fn delete_archive_everywhere(&self, id: &ArchiveId) -> Result<DeletedEverywhere> {
        let places = self.inner.store.places(id).await?;
        if places.is_empty() {
            return Err(Error::not_found("the store does not know this archive").on(id));
        }
        if let Some(known) = places.iter().find(|known| known.protected) {
            let text = format!("it is protected at {}; take the protection away first", known.record.destination);
            return Err(Error::new(ErrorClass::Conflict, text).on(id));
        }
        let mut answer = DeletedEverywhere::default();
        for known in places {
            let place = known.record.destination;
            match self.delete_archive_at(&place, id).await {
                Ok(()) => answer.deleted.push(place),
                Err(error) => answer.failed.push((place, error)),
            }
        }
        Ok(answer)
    }

    /// Deletes an archive at a place, by the first connection that can.
    async fn delete_archive_at(&self, place: &Identity, id: &ArchiveId) -> Result<()> {
        let (destinations, unusable) = self.destinations_at(place).await?;
        let mut first_error = None;
        for destination in destinations {
            match delete_archive(&destination, Some(&*self.inner.store), id).await {
                Ok(_) => return Ok(()),
                Err(error) => first_error = first_error.or(Some(error)),
            }
        }
        // Its objects were gone already; now the store has forgotten it too.
        if first_error.is_some() && !self.is_known(id, place).await? {
            return Ok(());
        }
        Err(first_error
            .or_else(|| unusable.into_iter().next().map(|e| e.context("no connection that can be used leads there")))
            .unwrap_or_else(|| Error::not_found("no connection leads there")))
    }
}
