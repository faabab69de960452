//! Objects that are put whole, several at once.

use super::item::Item;
use super::{Shared, is_fatal};
use crate::attributes::STORAGE_CLASS;
use crate::body::{Md5, Proof};
use crate::object::{Put, PutAnswer, Seen};
use backup_core::adapter::{Payload, RestorePlan, SmallEntry, Written};
use backup_core::model::{Entry, EntryKind};
use backup_core::{Digest, Error, ErrorClass, Result};
use bytes::Bytes;
use futures::{StreamExt, TryStreamExt};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

/// How often a put is tried again that met another of the same key.
const RACES: u32 = 10;
/// Classes whose objects cannot be read at once; for them the service keeps a SHA-256, by which they can be verified all the same.
const ARCHIVES: [&str; 2] = ["GLACIER", "DEEP_ARCHIVE"];

pub(super) async fn write(
    shared: &Arc<Shared>,
    plan: &RestorePlan,
    batch: Vec<SmallEntry>,
) -> Result<Vec<Result<Written>>> {
    // Services with a tree below make `a/` themselves once there is `a/b`, and then take it for an object: so folders go first.
    let (folders, others): (Vec<_>, Vec<_>) = batch.into_iter().enumerate().partition(|(_, small)| is_folder(small));
    let mut answers = Vec::with_capacity(folders.len() + others.len());
    for part in [folders, others] {
        let each = part.into_iter().map(|(at, SmallEntry { entry, content })| async move {
            let written = shared.write_small(plan, &entry, content).await.map_err(|e| e.on(&entry.name));
            match written {
                Err(e) if is_fatal(&e) => Err(e),
                written => Ok((at, written)),
            }
        });
        let done: Vec<_> = futures::stream::iter(each).buffered(shared.options.parallel).try_collect().await?;
        answers.extend(done);
    }
    answers.sort_by_key(|(at, _)| *at);
    Ok(answers.into_iter().map(|(_, written)| written).collect())
}

fn is_folder(small: &SmallEntry) -> bool {
    small.entry.kind == EntryKind::Directory || small.entry.name.as_bytes().ends_with(b"/")
}

/// What stands under the key of an entry.
pub(super) enum Found {
    Nothing,
    /// Its content is the entry's. Whether its attributes are, too.
    Same {
        attributes: bool,
    },
    Other,
}

pub(super) fn conflict() -> Error {
    Error::conflict("another object is already there (it stays, unless the restore may overwrite)")
}

/// An object was refused. Takes away from it what that may be about, for another try, and gives the warning that belongs to this.
///
/// # Errors
/// Why it was refused, when there is nothing that could be left out.
pub(super) fn leave_out(refused: Error, item: &mut Item) -> Result<String> {
    if !matches!(refused.class(), ErrorClass::Unsupported | ErrorClass::Permanent) {
        return Err(refused);
    }
    let what = if let Some(expires) = item.attributes.take_raw_expires() {
        format!(
            "its header Expires (`{}`) is not put back: the service refuses what is no date",
            expires.escape_debug()
        )
    } else if !item.attributes.tags.is_empty() {
        item.attributes.tags.clear();
        "its tags are not put back: the service refuses the object with them (s3:PutObjectTagging is needed)".to_owned()
    } else if let Some(class) = item.attributes.storage_class().map(str::to_owned) {
        item.attributes.headers.remove(STORAGE_CLASS);
        format!(
            "its storage class {class} is not put back, the bucket's own is used: the service refuses the object with it"
        )
    } else {
        return Err(refused);
    };
    Ok(format!("{what}: {}", refused.chain()))
}

/// Whether objects of a class must be asked to be read.
pub(super) fn is_archive(class: Option<&str>) -> bool {
    class.is_some_and(|class| ARCHIVES.contains(&class))
}

impl Shared {
    async fn write_small(&self, plan: &RestorePlan, entry: &Entry, content: Bytes) -> Result<Written> {
        let item = self.item(plan.naming, entry)?;
        if item.copy {
            return Ok(Written::Deferred);
        }
        let _turn = self.turns.acquire().await.map_err(|e| Error::cancelled("closed").because(e))?;
        self.write_whole(plan, entry, item, Payload::from(content)).await
    }

    /// Puts an object whole, unless it is there.
    pub(super) async fn write_whole(
        &self,
        plan: &RestorePlan,
        entry: &Entry,
        mut item: Item,
        payload: Payload,
    ) -> Result<Written> {
        let md5 = Md5::of(&payload).await?;
        let sha256 = entry.sha256.unwrap_or_else(|| Digest::of(b""));
        let honours = !plan.overwrite && self.honours_if_none_match(plan).await?;
        let mut written = Written::Created;
        if !honours {
            match self.look(&item, payload.len(), sha256, Some(md5)).await? {
                Found::Nothing => {}
                Found::Same { attributes } if attributes || !plan.overwrite => return Ok(Written::AlreadyThere),
                Found::Same { .. } | Found::Other if plan.overwrite => written = Written::Replaced,
                Found::Same { .. } | Found::Other => return Err(conflict()),
            }
        }
        let mut turn = 0;
        let mut left_out = Vec::new();
        loop {
            let class = item.attributes.storage_class().or(self.bucket.storage_class());
            // Where it cannot be read back, the digest that is kept is what there is to compare.
            let proof = if is_archive(class) { Proof::Both(md5, sha256) } else { Proof::Md5(md5) };
            let put = Put { key: &item.key, payload: &payload, proof, only_new: honours, attributes: &item.attributes };
            match self.bucket.put(put).await {
                Ok(PutAnswer::Stored) => {
                    left_out.into_iter().for_each(|what| self.notes.add(&entry.name, what));
                    return Ok(written);
                }
                Ok(PutAnswer::Exists) => {
                    return match self.look(&item, payload.len(), sha256, Some(md5)).await? {
                        Found::Same { .. } => Ok(Written::AlreadyThere),
                        Found::Other => Err(conflict()),
                        Found::Nothing => {
                            Err(Error::transient("something was there and is gone again; nothing was put"))
                        }
                    };
                }
                Ok(PutAnswer::Race) if turn < RACES => {
                    turn += 1;
                    tokio::time::sleep(Duration::from_millis(20 << turn.min(6))).await;
                }
                Ok(PutAnswer::Race) => return Err(Error::transient("other writes of this object are under way")),
                Ok(PutAnswer::NoSuchClass) => self.without_class(entry, &mut item)?,
                Err(e) => left_out.push(leave_out(e, &mut item)?),
            }
        }
    }

    /// The service has refused the storage class: the bucket's own has to do.
    pub(super) fn without_class(&self, entry: &Entry, item: &mut Item) -> Result<()> {
        match item.attributes.storage_class().map(str::to_owned) {
            Some(class) => {
                let first = !self.has_refused(&class);
                self.refuse(&class);
                if first {
                    let text = format!("the service does not know the storage class {class}; the bucket's own is used");
                    self.notes.add(&entry.name, text);
                }
                item.attributes.headers.remove(STORAGE_CLASS);
                Ok(())
            }
            None => Err(Error::invalid("the service does not know the storage class of the configuration")),
        }
    }

    /// Compares what stands under a key with an entry.
    pub(super) async fn look(&self, item: &Item, size: u64, sha256: Digest, md5: Option<Md5>) -> Result<Found> {
        let Some(seen) = self.head(&item.key).await? else { return Ok(Found::Nothing) };
        if seen.size != size {
            return Ok(Found::Other);
        }
        let same = match md5 {
            Some(md5) if md5.is(&seen.etag) => true,
            _ => match self.bucket.read_digest(&item.key, &seen, self.options.retry).await {
                Ok(found) => found == sha256,
                // It was replaced or removed while it was looked at; whoever did that wants something else there.
                Err(e) if matches!(e.class(), ErrorClass::Changed | ErrorClass::NotFound) => false,
                // What cannot be read cannot be told to be the same.
                Err(e) if e.class() == ErrorClass::Permanent => seen.sha256 == Some(sha256),
                Err(e) => return Err(e),
            },
        };
        if !same {
            return Ok(Found::Other);
        }
        let attributes = self.attribute_differences(item, &seen).await?.is_empty();
        Ok(Found::Same { attributes })
    }

    /// What besides its content an object has that the entry had not, or the other way round, in words.
    pub(super) async fn attribute_differences(&self, item: &Item, seen: &Seen) -> Result<Vec<String>> {
        let mut wanted = item.attributes.clone();
        if wanted.storage_class().is_none() {
            // The configuration says which one objects get that had none.
            let class = self.bucket.storage_class().map(str::to_owned);
            wanted.headers.extend(class.map(|class| (STORAGE_CLASS.to_owned(), class)));
        }
        let mut different = wanted.differences(&seen.attributes);
        if !wanted.tags.is_empty() || seen.tags > 0 {
            let found = self.patiently("reading tags", || self.bucket.tags(&item.key)).await?;
            if found.is_none() && !self.tags_unread.swap(true, Ordering::Relaxed) {
                self.notes
                    .add_general("tags were not compared: they cannot be read back (s3:GetObjectTagging is needed)");
            }
            let same = found.is_none_or(|tags| tags == wanted.tags);
            if !same {
                different.push("its tags are different".to_owned());
            }
        }
        Ok(different)
    }
}
