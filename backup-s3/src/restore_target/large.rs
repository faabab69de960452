//! Large objects: uploaded in parts, several at once, and found again after a restart.

use super::item::Item;
use super::parts::{State, part_size};
use super::small::{Found, conflict, leave_out};
use super::upload::{Begun, Completed};
use super::{Shared, is_fatal};
use crate::body::{Md5, etag_of_parts};
use backup_core::adapter::{ContentReader, EntryProgress, Payload, RestorePlan, SavedProgress, SmallEntry, Written};
use backup_core::budget::Permit;
use backup_core::model::{Entry, EntryKind};
use backup_core::retry::{Attempts, SystemBackoff};
use backup_core::{Digest, Error, ErrorClass, Result, Sha256};
use bytes::Bytes;
use std::collections::BTreeMap;
use std::sync::Arc;
use tokio::task::JoinSet;

pub(super) async fn write(
    shared: &Arc<Shared>,
    plan: &RestorePlan,
    entry: &Entry,
    mut content: ContentReader,
    progress: &EntryProgress,
) -> Result<Result<Written>> {
    if !matches!(entry.kind, EntryKind::File | EntryKind::Slice) {
        let small = SmallEntry { entry: entry.clone(), content: Bytes::new() };
        let answers = super::small::write(shared, plan, vec![small]).await?;
        return answers.into_iter().next().ok_or_else(|| Error::permanent("no answer for the entry"));
    }
    let saved = progress.saved();
    if content.position() != saved.as_ref().map_or(0, |saved| saved.offset) {
        return Err(Error::invalid("the content does not start where the saved progress ends"));
    }
    let writer = Writer { shared, plan, entry, progress };
    match writer.write(saved, &mut content).await {
        Ok(Ended::Written(written)) => Ok(Ok(written)),
        Ok(Ended::Read(upload)) => {
            // The digest counts for both: what was read, and what is published.
            if let Err(error) = content.finish() {
                upload.give_up(shared, plan).await;
                return Err(error);
            }
            of_entry(writer.publish(*upload).await, entry)
        }
        Err(Stopped::Reader(error)) => Err(error),
        Err(Stopped::Target(error)) => of_entry(Err(error), entry),
    }
}

/// Tells the errors of the entry from those that other entries would meet too, which are the outer ones.
fn of_entry<T>(result: Result<T>, entry: &Entry) -> Result<Result<T>> {
    match result {
        Err(e) if is_fatal(&e) || e.is_retryable() => Err(e.on(&entry.name)),
        result => Ok(result.map_err(|e| e.on(&entry.name))),
    }
}

/// Why an entry did not get through.
enum Stopped {
    /// The content cannot be read.
    Reader(Error),
    Target(Error),
}

impl From<Error> for Stopped {
    fn from(error: Error) -> Self {
        Self::Target(error)
    }
}

/// How far an entry has come.
enum Ended {
    /// To its end, without its content.
    Written(Written),
    /// All content was taken over; it is published when its digest is right.
    Read(Box<Uploaded>),
}

/// Content that is not published yet.
struct Uploaded {
    item: Item,
    /// What is published over, if something is.
    written: Written,
    what: What,
}

enum What {
    /// Short enough to be put whole.
    Whole {
        payload: Payload,
        /// The memory that it takes.
        permit: Permit,
    },
    Parts {
        upload: String,
        etags: Vec<String>,
    },
}

impl Uploaded {
    /// The content is wrong, and nothing of it is worth keeping.
    async fn give_up(&self, shared: &Shared, plan: &RestorePlan) {
        if let What::Parts { upload, .. } = &self.what {
            shared.give_up(plan, &self.item.key, upload).await;
        }
    }
}

/// Writes one entry.
struct Writer<'a> {
    shared: &'a Arc<Shared>,
    plan: &'a RestorePlan,
    entry: &'a Entry,
    progress: &'a EntryProgress,
}

impl Writer<'_> {
    async fn write(&self, saved: Option<SavedProgress>, content: &mut ContentReader) -> Result<Ended, Stopped> {
        let Self { shared, plan, entry, .. } = *self;
        let mut item = shared.item(plan.naming, entry)?;
        let state = match &saved {
            None => None,
            Some(saved) => {
                let state = State::parse(&saved.state).filter(|state| state.fits(&item.key, saved.offset, entry.size));
                Some(state.ok_or_else(|| Error::changed("what was saved of the upload is of no use here"))?)
            }
        };
        let mut written = Written::Created;
        match self.look(&item).await? {
            Found::Nothing => {}
            Found::Same { attributes } if attributes || !plan.overwrite => {
                if let Some(state) = state {
                    // It was completed, and the one who did it died before that was saved; or somebody else put it there.
                    shared.give_up(plan, &item.key, &state.upload).await;
                }
                return Ok(Ended::Written(Written::AlreadyThere));
            }
            Found::Same { .. } | Found::Other if plan.overwrite => written = Written::Replaced,
            Found::Same { .. } | Found::Other => {
                if let Some(state) = state {
                    shared.give_up(plan, &item.key, &state.upload).await;
                }
                return Err(conflict().into());
            }
        }
        let (upload, part_size, etags) = match state {
            Some(state) => {
                let list = || shared.bucket.list_parts(&item.key, &state.upload);
                let listed = shared.patiently("listing the parts of an upload", list).await?;
                let Some(etags) = listed.and_then(|listed| state.confirm(&listed, entry.size)) else {
                    // Of no use; another one begins.
                    shared.give_up(plan, &item.key, &state.upload).await;
                    return Err(Error::changed("the service does not have the upload any more as it was saved").into());
                };
                shared.uploads.know(&plan.tag, &item.key, &state.upload);
                (state.upload, state.part_size, etags)
            }
            None => {
                let part_size = part_size(entry.size, &shared.options)?;
                if entry.size <= part_size {
                    let permit = shared.budget.take(entry.size).await;
                    let payload = read_part(content, part_size).await.map_err(Stopped::Reader)?;
                    return Ok(Ended::Read(Box::new(Uploaded {
                        item,
                        written,
                        what: What::Whole { payload, permit },
                    })));
                }
                let upload = self.begin(&mut item).await?;
                let state = State::new(&item.key, &upload, part_size, &[]).to_json()?;
                // Recorded at once, so that whoever discards or resumes the restore finds it.
                self.progress.save(SavedProgress { offset: 0, hash: Sha256::new(), state });
                (upload, part_size, Vec::new())
            }
        };
        let etags = self.upload(&item.key, &upload, part_size, etags, content).await?;
        Ok(Ended::Read(Box::new(Uploaded { item, written, what: What::Parts { upload, etags } })))
    }

    async fn look(&self, item: &Item) -> Result<Found> {
        let sha256 = self.entry.sha256.unwrap_or_else(|| Digest::of(b""));
        self.shared.look(item, self.entry.size, sha256, None).await
    }

    /// Begins an upload. Goes on when the call is dropped, so that its id gets known.
    async fn begin(&self, item: &mut Item) -> Result<String> {
        let mut left_out = Vec::new();
        let mut attempts = Attempts::new("beginning an upload", self.shared.options.retry, Arc::new(SystemBackoff));
        loop {
            let (shared, of, tag) = (self.shared.clone(), item.clone(), self.plan.tag.clone());
            let begun = self.shared.uploads.run(async move {
                let begun = shared.bucket.begin_upload(&of).await;
                match &begun {
                    Ok(Begun::Id(id)) => shared.uploads.know(&tag, &of.key, id),
                    Err(e) if e.is_retryable() => shared.uploads.lost_one(),
                    _ => {}
                }
                begun
            });
            match begun.await {
                Ok(Begun::Id(id)) => {
                    left_out.into_iter().for_each(|what| self.shared.notes.add(&self.entry.name, what));
                    return Ok(id);
                }
                Ok(Begun::NoSuchClass) => self.shared.without_class(self.entry, item)?,
                Err(e) if e.is_retryable() => attempts.failed(e).await?,
                Err(e) => left_out.push(leave_out(e, item)?),
            }
        }
    }

    /// Uploads the rest of the content and gives the ETags of all parts.
    async fn upload(
        &self,
        key: &str,
        upload: &str,
        part_size: u64,
        mut etags: Vec<String>,
        content: &mut ContentReader,
    ) -> Result<Vec<String>, Stopped> {
        let shared = self.shared;
        let mut sending: JoinSet<Result<(i32, String)>> = JoinSet::new();
        // Parts that are done before an earlier one is; and where in the content each ends.
        let mut done: BTreeMap<i32, String> = BTreeMap::new();
        let mut ends: BTreeMap<i32, Sha256> = BTreeMap::new();
        let mut number = next_number(&etags);
        while content.position() < self.entry.size {
            let permit = loop {
                tokio::select! {
                    biased;
                    Some(part) = sending.join_next() => self.settle(joined(part)?, key, upload, part_size, &mut etags, &mut done, &mut ends)?,
                    permit = shared.budget.take(part_size) => break permit,
                }
            };
            let payload = read_part(content, part_size).await.map_err(Stopped::Reader)?;
            if payload.len() < part_size && content.position() < self.entry.size {
                // The end came early: `finish` of the content says so.
                break;
            }
            ends.insert(number, content.hash().clone());
            let (of, key, upload) = (shared.clone(), key.to_owned(), upload.to_owned());
            sending.spawn(async move {
                let _permit = permit;
                let md5 = Md5::of(&payload).await?;
                let mut attempts = Attempts::new("uploading a part", of.options.retry, Arc::new(SystemBackoff));
                loop {
                    match of.bucket.upload_part(&key, &upload, number, &payload, md5).await {
                        Ok(etag) => return Ok((number, etag)),
                        Err(e) if e.class() == ErrorClass::NotFound => {
                            return Err(Error::changed("the upload is not there any more").because(e));
                        }
                        Err(e) => attempts.failed(e).await?,
                    }
                }
            });
            number += 1;
        }
        while let Some(part) = sending.join_next().await {
            self.settle(joined(part)?, key, upload, part_size, &mut etags, &mut done, &mut ends)?;
        }
        Ok(etags)
    }

    /// A part is there: records how far the content is without a gap.
    #[allow(clippy::too_many_arguments, reason = "the state of one loop")]
    fn settle(
        &self,
        (number, etag): (i32, String),
        key: &str,
        upload: &str,
        part_size: u64,
        etags: &mut Vec<String>,
        done: &mut BTreeMap<i32, String>,
        ends: &mut BTreeMap<i32, Sha256>,
    ) -> Result<()> {
        done.insert(number, etag);
        let mut reached = None;
        while let Some(etag) = done.remove(&next_number(etags)) {
            reached = ends.remove(&next_number(etags));
            etags.push(etag);
        }
        if let Some(hash) = reached {
            let state = State::new(key, upload, part_size, etags).to_json()?;
            self.progress.save(SavedProgress { offset: hash.length(), hash, state });
        }
        Ok(())
    }

    /// Makes the object of content whose digest is right.
    async fn publish(&self, uploaded: Uploaded) -> Result<Written> {
        let Self { shared, plan, entry, .. } = *self;
        let Uploaded { item, written, what } = uploaded;
        let (upload, etags) = match what {
            What::Whole { payload, permit } => {
                let written = shared.write_whole(plan, entry, item, payload).await;
                drop(permit);
                return written;
            }
            What::Parts { upload, etags } => (upload, etags),
        };
        let mut only_new = !plan.overwrite && shared.honours_if_none_match(plan).await?;
        if !plan.overwrite {
            // Some services honour the condition on puts, and pass it over here. As near to the end as can be.
            match self.look(&item).await? {
                Found::Nothing => {}
                found => return self.met(found, &item, &upload).await,
            }
        }
        let mut attempts = Attempts::new("completing an upload", shared.options.retry, Arc::new(SystemBackoff));
        loop {
            let completed = shared.bucket.complete_upload(&item.key, &upload, &etags, only_new).await;
            // An answer may have been lost, or be an error although it was done.
            let doubtful = !matches!(completed, Ok(Completed::Done | Completed::NoCondition));
            if doubtful && self.is_ours(&item, &etags).await? {
                shared.uploads.forget(&upload);
                return Ok(written);
            }
            match completed {
                Ok(Completed::Done) => {
                    shared.uploads.forget(&upload);
                    return Ok(written);
                }
                Ok(Completed::NoCondition) => only_new = false,
                Ok(Completed::Exists) => {
                    let found = self.look(&item).await?;
                    return self.met(found, &item, &upload).await;
                }
                Ok(Completed::OtherParts) => {
                    shared.give_up(plan, &item.key, &upload).await;
                    return Err(Error::changed("the upload has not the parts any more that were sent"));
                }
                Ok(Completed::Gone) => {
                    return match self.look(&item).await? {
                        Found::Same { .. } => Ok(written),
                        _ => Err(Error::changed("the upload is not there any more")),
                    };
                }
                Err(e) => attempts.failed(e).await?,
            }
        }
    }

    /// Whether the object is there with the ETag that these parts give.
    async fn is_ours(&self, item: &Item, etags: &[String]) -> Result<bool> {
        let Some(expected) = etag_of_parts(etags.iter().map(String::as_str)) else { return Ok(false) };
        let seen = self.shared.head(&item.key).await?;
        Ok(seen.is_some_and(|seen| seen.size == self.entry.size && seen.etag == expected))
    }

    /// Something was there when the upload was to be completed.
    async fn met(&self, found: Found, item: &Item, upload: &str) -> Result<Written> {
        match found {
            Found::Nothing => Err(Error::transient("something was there and is gone again; nothing was put")),
            found => {
                self.shared.give_up(self.plan, &item.key, upload).await;
                match found {
                    Found::Same { .. } => Ok(Written::AlreadyThere),
                    _ => Err(conflict()),
                }
            }
        }
    }
}

/// The number of the part behind these.
fn next_number(etags: &[String]) -> i32 {
    i32::try_from(etags.len()).unwrap_or(i32::MAX).saturating_add(1)
}

fn joined<T>(result: std::result::Result<Result<T>, tokio::task::JoinError>) -> Result<T> {
    result.map_err(|e| Error::cancelled("an upload was stopped").because(e))?
}

/// The next bytes of a content, so many or up to its end.
async fn read_part(content: &mut ContentReader, length: u64) -> Result<Payload> {
    let mut pieces: Vec<Bytes> = Vec::new();
    let mut left = usize::try_from(length).unwrap_or(usize::MAX);
    while left > 0 {
        let Some(piece) = content.next_up_to(left).await? else { break };
        left -= piece.len();
        pieces.push(piece);
    }
    Ok(Payload::new(pieces))
}
