//! The end of a restore: copies for hard links, what a bucket cannot hold, uploads that were left behind.

use super::item::{Item, has_file_metadata};
use super::small::{Found, conflict};
use super::{Shared, is_fatal, leftovers};
use crate::client::WithEncryption;
use crate::error::{from_sdk, within};
use backup_core::adapter::{Payload, RestorePlan, Warning};
use backup_core::model::{Entry, EntryKind, EntryName, Naming};
use backup_core::{Digest, Error, ErrorClass, Result};
use futures::TryStreamExt;
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use std::sync::Arc;

/// The largest object that one request can copy, in bytes.
const MAX_COPY: u64 = 5 << 30;
/// Objects up to this length are copied through this process, which has to read them anyhow.
const COPIED_HERE: u64 = 8 << 20;
/// What of a path stays as it is in the header that names the source of a copy.
const IN_PATH: &AsciiSet = &NON_ALPHANUMERIC.remove(b'/').remove(b'-').remove(b'_').remove(b'.').remove(b'~');

pub(super) async fn finish(shared: &Arc<Shared>, plan: &RestorePlan) -> Result<Vec<Warning>> {
    if plan.naming == Naming::Paths {
        let mut plain = 0u64;
        let mut entries = plan.entries.entries();
        while let Some(entry) = entries.try_next().await? {
            plain += u64::from(has_file_metadata(&entry));
            if let EntryKind::HardLink { target } = &entry.kind {
                shared.copy(plan, &entry, target).await?;
            }
        }
        if plain > 0 {
            let text =
                format!("{plain} entries had permissions, owners or extended attributes, which objects do not have");
            shared.notes.add_general(text);
        }
    }
    if shared.may_have_leftovers(plan) {
        leftovers::remove(shared, plan).await?;
    }
    Ok(shared.notes.take())
}

fn not_there() -> Error {
    Error::changed("what it links to is not there with the archive's content")
}

impl Shared {
    /// Makes the copy that stands for a hard link; trouble with it is a warning.
    async fn copy(&self, plan: &RestorePlan, entry: &Entry, target: &EntryName) -> Result<()> {
        match self.try_copy(plan, entry, target).await {
            Err(e) if is_fatal(&e) || e.is_retryable() => Err(e.on(&entry.name)),
            Err(e) => {
                self.notes.add_left_out(&entry.name, format!("the copy for the hard link is not made: {}", e.chain()));
                Ok(())
            }
            Ok(()) => Ok(()),
        }
    }

    async fn try_copy(&self, plan: &RestorePlan, entry: &Entry, target: &EntryName) -> Result<()> {
        let Ok(item) = self.item(plan.naming, entry) else { return Ok(()) }; // That was the answer of `write_small`.
        let gone = || Error::not_found("the archive does not hold what it is a link to").on(target);
        let first = plan.entries.find(target).await?.ok_or_else(gone)?;
        let sha256 = first.sha256.ok_or_else(|| Error::invalid("it links to what has no content"))?;
        match self.look(&item, first.size, sha256, None).await? {
            Found::Same { .. } => return Ok(()),
            Found::Other if !plan.overwrite => return Err(conflict()),
            Found::Other | Found::Nothing => {}
        }
        if first.size > MAX_COPY {
            return Err(Error::unsupported("what it links to is larger than 5 GiB, more than one request can copy"));
        }
        let source = self.item(plan.naming, &first)?;
        if first.size <= COPIED_HERE {
            let read = || self.read_whole(&source.key, &first, sha256);
            let payload = self.patiently("reading what a hard link links to", read).await?;
            let item = Item { attributes: source.attributes, ..item };
            return self.write_whole(plan, &first, item, payload).await.map(|_| ());
        }
        let copy = || self.copy_object(&source, &item.key, first.size, sha256);
        self.patiently("copying an object", copy).await
    }

    async fn read_whole(&self, key: &str, first: &Entry, sha256: Digest) -> Result<Payload> {
        let mut opened = self.bucket.open(key, None, None).await?;
        let mut pieces = Vec::new();
        let mut length = 0;
        while let Some(piece) = opened.next().await? {
            length += piece.len() as u64;
            if length > first.size {
                return Err(not_there());
            }
            pieces.push(piece);
        }
        let payload = Payload::new(pieces);
        if payload.digest() == sha256 { Ok(payload) } else { Err(not_there()) }
    }

    /// Copies an object that must have this content.
    async fn copy_object(&self, from: &Item, to: &str, size: u64, sha256: Digest) -> Result<()> {
        let class = from.attributes.storage_class();
        let from = &*from.key;
        let seen = self.head(from).await?.filter(|seen| seen.size == size).ok_or_else(not_there)?;
        if self.bucket.read_digest(from, &seen, self.options.retry).await? != sha256 {
            return Err(not_there());
        }
        if self.bucket.has_customer_key() {
            return Err(Error::unsupported("objects under a customer key are not copied"));
        }
        let source = format!("{}/{}", self.bucket.bucket(), utf8_percent_encode(from, IN_PATH));
        let request = self
            .bucket
            .client()
            .copy_object()
            .bucket(self.bucket.bucket())
            .key(self.bucket.request_key(to))
            .copy_source(source)
            .copy_source_if_match(format!("\"{}\"", seen.etag))
            .with_encryption(&self.bucket, class);
        within(self.bucket.patience().completed, request.send()).await.map_err(|e| {
            match from_sdk(e, self.bucket.writing(to)) {
                e if e.class() == ErrorClass::Conflict => not_there(),
                e => e,
            }
        })?;
        Ok(())
    }
}
