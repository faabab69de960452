//! Large entries: content goes to a blocking thread piece by piece, and a staged file is found again after a restart.

use super::small::{Content, Looked};
use super::stage::{Existing, LargeStage, Staged};
use super::{Shared, is_fatal};
use crate::adapter::{ContentReader, EntryProgress, RestorePlan, SavedProgress, SmallEntry, Written};
use crate::local::beneath::{Place, Root};
use crate::local::blocking::{blocking, joined};
use crate::local::publish::{io_error, remove_file};
use crate::local::rw::{write_at, write_sparse};
use crate::model::{Entry, EntryKind, EntryName};
use crate::{Error, Result};
use bytes::Bytes;
use rustix::fd::{AsFd, OwnedFd};
use rustix::fs::{AtFlags, Dir, FileType, Mode, OFlags, fstat, ftruncate, openat, renameat, statat};
use rustix::io::Errno;
use serde::{Deserialize, Serialize};
use std::sync::Arc;
use tokio::sync::mpsc::{Receiver, Sender, channel};
use tokio::sync::oneshot;

/// After so many bytes, progress is recorded.
const RECORD: u64 = 8 << 20;
/// So many pieces wait for the writer at most. They are what the archive's reader delivers, each a part of a frame.
const WAITING: usize = 4;

/// What a resumed restore needs to know of a large entry.
#[derive(Serialize, Deserialize)]
struct State {
    /// Name of the staged file, in the directory of the entry. Each writer has its own and renames what it takes over.
    staged: String,
    /// Its number in the file system, by which it is found when a writer renamed it and died before that was saved.
    inode: u64,
}

/// What the writer is told.
enum Step {
    Piece(Bytes),
    /// Everything before this has to be in the file; then answer.
    Confirm(oneshot::Sender<()>),
    /// The content is complete and right: publish it.
    Publish,
    /// The content is wrong or will not come, and nothing of it is worth keeping.
    Discard,
}

/// An entry whose staged file is open.
struct Open {
    root: Arc<Root>,
    plan: RestorePlan,
    entry: Entry,
    path: EntryName,
    stage: String,
    inode: u64,
    file: OwnedFd,
    /// Content bytes that are in the file.
    position: u64,
    overwrite: Option<Existing>,
}

pub(super) async fn write(
    shared: &Arc<Shared>,
    plan: &RestorePlan,
    entry: &Entry,
    mut content: ContentReader,
    progress: &EntryProgress,
) -> Result<Result<Written>> {
    if !matches!(entry.kind, EntryKind::File | EntryKind::Slice) {
        let (shared, plan, entry, busy) = (shared.clone(), plan.clone(), entry.clone(), shared.work.token());
        let item = SmallEntry { entry, content: Bytes::new() };
        let write = move || {
            let _busy = busy;
            shared.write_batch(&plan, vec![item])
        };
        let answers = blocking(write).await?;
        return answers.into_iter().next().ok_or_else(|| Error::permanent("no answer for the entry"));
    }
    let saved = progress.saved();
    if content.position() != saved.as_ref().map_or(0, |saved| saved.offset) {
        return Err(Error::invalid("the content does not start where the saved progress ends"));
    }
    let had_progress = saved.is_some();
    let opened = {
        let (shared, plan, of, busy) = (shared.clone(), plan.clone(), entry.clone(), shared.work.token());
        // Made here, because names count the order of the calls.
        let stage = shared.stages.large(&plan, &shared.names.path(&entry.name));
        let open = move || {
            let _busy = busy;
            Ok(shared.open_large(plan, of, stage, saved))
        };
        of_entry(blocking(open).await?, entry)?
    };
    let open = match opened {
        Ok(Some(open)) => open,
        Ok(None) => return Ok(Ok(Written::AlreadyThere)),
        Err(e) => return Ok(Err(e)),
    };
    let state = serde_json::json!({ "staged": open.stage, "inode": open.inode });
    if had_progress {
        progress.record(&content, state.clone());
    }
    let (steps, to_do) = channel(WAITING);
    let writer = {
        let (shared, busy) = (shared.clone(), shared.work.token());
        tokio::task::spawn_blocking(move || {
            let _busy = busy;
            Ok(shared.write_steps(open, to_do))
        })
    };
    let read = feed(&mut content, &steps, progress, state).await;
    let keep = had_progress || progress.saved().is_some();
    let (last, failed) = match read {
        Ok(()) => match content.finish() {
            Ok(_) => (Step::Publish, None),
            // The same bytes would be wrong again.
            Err(e) => (Step::Discard, Some(e)),
        },
        Err(Stopped::Writer) => (Step::Discard, None),
        Err(Stopped::Reader(e)) if keep => {
            drop(steps);
            // Until it has stopped, the writer and a next attempt would be in each other's way.
            let _ = writer.await;
            return Err(e);
        }
        Err(Stopped::Reader(e)) => (Step::Discard, Some(e)),
    };
    // If the writer has failed it takes no more steps; its own answer says why.
    let _ = steps.send(last).await;
    drop(steps);
    let written = joined(writer.await);
    match failed {
        Some(e) => Err(e),
        None => match of_entry(written?, entry)? {
            Ok(Some(written)) => Ok(Ok(written)),
            Ok(None) => Err(Error::permanent("writing stopped before its end")),
            Err(e) => Ok(Err(e)),
        },
    }
}

/// Tells the errors of the entry from those that other entries would meet too, which are the outer ones.
fn of_entry<T>(result: Result<T>, entry: &Entry) -> Result<Result<T>> {
    match result {
        Err(e) if is_fatal(&e) => Err(e),
        result => Ok(result.map_err(|e| e.on(&entry.name))),
    }
}

/// Why the content did not get through.
enum Stopped {
    Reader(Error),
    Writer,
}

/// Hands the content to the writer, and records progress when the writer has confirmed it.
async fn feed(
    content: &mut ContentReader,
    steps: &Sender<Step>,
    progress: &EntryProgress,
    state: serde_json::Value,
) -> Result<(), Stopped> {
    let mut recorded = content.position();
    while let Some(bytes) = content.next().await.map_err(Stopped::Reader)? {
        steps.send(Step::Piece(bytes)).await.map_err(|_| Stopped::Writer)?;
        if content.position() - recorded >= RECORD {
            let (confirm, confirmed) = oneshot::channel();
            steps.send(Step::Confirm(confirm)).await.map_err(|_| Stopped::Writer)?;
            confirmed.await.map_err(|_| Stopped::Writer)?;
            progress.record(content, state.clone());
            recorded = content.position();
        }
    }
    Ok(())
}

impl Shared {
    /// Opens the staged file of an entry, the one of an earlier attempt if there is saved progress. `None` when the entry is there already.
    fn open_large(
        &self,
        plan: RestorePlan,
        entry: Entry,
        stage: LargeStage,
        saved: Option<SavedProgress>,
    ) -> Result<Option<Open>> {
        let root = self.root()?;
        let path = self.names.path(&entry.name);
        let place = self.place(&root, &plan, &path)?;
        let overwrite = match self.look_first(&plan, &place, &entry, &Content::Digest(entry.sha256))? {
            Looked::Same => {
                return Ok(None);
            }
            Looked::Go(overwrite) => overwrite,
        };
        let (file, position) = match saved {
            Some(saved) => (resume(&place, &stage, &saved)?, saved.offset),
            None => (self.create(&root, &plan, &path, place, &stage.name())?.1, 0),
        };
        let stat = fstat(&file).map_err(|e| io_error(e, "cannot look at the staged file"))?;
        Ok(Some(Open { root, plan, entry, path, stage: stage.name(), inode: stat.st_ino, file, position, overwrite }))
    }

    /// Does what it is told, on a blocking thread. `None` when it was told to discard, or nothing any more.
    fn write_steps(&self, mut open: Open, mut to_do: Receiver<Step>) -> Result<Option<Written>> {
        let place = self.place(&open.root, &open.plan, &open.path)?;
        let staged = Staged::new(self, &place, open.stage.as_bytes());
        let mut confirmed = open.position > 0;
        while let Some(step) = to_do.blocking_recv() {
            match step {
                Step::Piece(bytes) => {
                    let write = if open.entry.metadata.sparse { write_sparse } else { write_at };
                    if let Err(e) = write(open.file.as_fd(), &bytes, open.position) {
                        if confirmed || to_do.is_closed() {
                            staged.keep();
                        }
                        return Err(io_error(e, "cannot write"));
                    }
                    open.position += bytes.len() as u64;
                }
                Step::Confirm(answer) => {
                    self.set_length(&open)?;
                    confirmed = true;
                    let _ = answer.send(());
                }
                Step::Discard => return Ok(None),
                Step::Publish => {
                    self.set_length(&open)?;
                    let owner = self.new_owner(&place.dir, || fstat(&open.file))?;
                    self.notes.add(&open.entry.name, self.rules.put_on(open.file.as_fd(), &open.entry, owner));
                    return match staged.publish(&open.root, open.overwrite)? {
                        Some(written) => Ok(Some(written)),
                        None => self.meet(&place, &open.entry, &Content::Digest(open.entry.sha256)).map(Some),
                    };
                }
            }
        }
        if confirmed {
            staged.keep();
        }
        Ok(None)
    }

    /// A hole at the end of a file is there only when its length says so. Never cuts off: whoever has taken the file over may be further.
    fn set_length(&self, open: &Open) -> Result<()> {
        if !open.entry.metadata.sparse {
            return Ok(());
        }
        let failed = |e| io_error(e, "cannot set the length");
        let length = u64::try_from(fstat(&open.file).map_err(failed)?.st_size).unwrap_or(0);
        if length < open.position { ftruncate(&open.file, open.position).map_err(failed) } else { Ok(()) }
    }
}

/// Takes over the staged file of an earlier writer, who cannot publish it any more then, and cuts off what was not recorded.
fn resume(place: &Place<'_>, stage: &LargeStage, saved: &SavedProgress) -> Result<OwnedFd> {
    let state: State = serde_json::from_value(saved.state.clone())
        .map_err(|e| Error::changed("the saved progress is not of this target").because(e))?;
    if !stage.may_take_over(state.staged.as_bytes()) {
        return Err(Error::changed("the saved progress names another staged file"));
    }
    let gone = || Error::changed("the staged file is gone");
    let failed = |e| io_error(e, "cannot go on with the staged file");
    let name = stage.name();
    let take_over = |from: &[u8]| match renameat(&place.dir, from, &place.dir, &name[..]) {
        Ok(()) => Ok(true),
        Err(Errno::NOENT) => Ok(false),
        Err(e) => Err(failed(e)),
    };
    if !take_over(state.staged.as_bytes())? {
        // Somebody took it over and died before that was saved.
        let renamed = renamed(place, stage, state.inode).map_err(failed)?.ok_or_else(gone)?;
        if !take_over(&renamed)? {
            return Err(gone());
        }
    }
    let flags = OFlags::WRONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
    let file = match openat(&place.dir, &name[..], flags, Mode::empty()) {
        Ok(file) => file,
        Err(Errno::NOENT | Errno::LOOP | Errno::NXIO | Errno::ISDIR) => return Err(gone()),
        Err(e) => return Err(io_error(e, "cannot open the staged file")),
    };
    let stat = fstat(&file).map_err(failed)?;
    let is_file = FileType::from_raw_mode(stat.st_mode) == FileType::RegularFile;
    if !is_file || u64::try_from(stat.st_size).unwrap_or(0) < saved.offset {
        let _ = remove_file(&place.dir, name.as_bytes());
        return Err(Error::changed("the staged file is shorter than what was recorded of it"));
    }
    ftruncate(&file, saved.offset).map_err(failed)?;
    Ok(file)
}

/// Looks for a file with this number among the staged ones of an entry that may be taken over.
fn renamed(place: &Place<'_>, stage: &LargeStage, inode: u64) -> rustix::io::Result<Option<Vec<u8>>> {
    for item in Dir::new(place.dir.readable()?)? {
        let item = item?;
        let name = item.file_name().to_bytes();
        if stage.may_take_over(name)
            && statat(&place.dir, name, AtFlags::SYMLINK_NOFOLLOW).is_ok_and(|stat| stat.st_ino == inode)
        {
            return Ok(Some(name.to_vec()));
        }
    }
    Ok(None)
}
