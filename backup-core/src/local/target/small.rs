//! Small entries, in batches: a batch is one piece of work for a blocking thread.

use super::lend::open_own;
use super::stage::{Existing, Staged};
use super::{Shared, is_fatal};
use crate::adapter::{RestorePlan, SmallEntry, Written};
use crate::local::apply::{Troubles, look_error};
use crate::local::beneath::{DIRECTORY, Dir, Missing, Place, Root, TRIES, check_name};
use crate::local::publish::io_error;
use crate::local::rw::{STEP, holds, read_full, write_at, write_sparse};
use crate::model::{Entry, EntryKind, EntryName};
use crate::{Digest, Error, Result, Sha256};
use bytes::Bytes;
use rustix::fd::{AsFd, OwnedFd};
use rustix::fs::{
    AtFlags, FileType, Mode, OFlags, Stat, fchmod, fstat, mkdirat, openat, readlinkat, statat, symlinkat, unlinkat,
};
use rustix::io::Errno;
use std::sync::atomic::Ordering;

pub(super) const NEW_FILE: OFlags =
    OFlags::WRONLY.union(OFlags::CREATE).union(OFlags::EXCL).union(OFlags::NOFOLLOW).union(OFlags::CLOEXEC);
/// Never blocks and never becomes our terminal, whatever lies there.
pub(super) const READ: OFlags =
    OFlags::RDONLY.union(OFlags::NOFOLLOW).union(OFlags::NONBLOCK).union(OFlags::NOCTTY).union(OFlags::CLOEXEC);
/// While it is staged, a file is its owner's alone.
pub(super) const STAGE_MODE: Mode = Mode::RUSR.union(Mode::WUSR);

/// What the content of a file should be.
pub(super) enum Content<'a> {
    Bytes(&'a Bytes),
    Digest(Option<Digest>),
}

/// What lies under the name of an entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Found {
    Nothing,
    /// The same item; its metadata has been put right.
    Same,
    Other,
}

impl Shared {
    /// Writes a batch, directories first: so those that are private are never made on the way to a file with the rights of the umask.
    pub(super) fn write_batch(&self, plan: &RestorePlan, batch: Vec<SmallEntry>) -> Result<Vec<Result<Written>>> {
        let root = self.root()?;
        let mut answers: Vec<Option<Result<Written>>> = batch.iter().map(|_| None).collect();
        for directories in [true, false] {
            for (item, answer) in batch.iter().zip(&mut answers) {
                if (item.entry.kind == EntryKind::Directory) == directories {
                    let written = self.write_item(&root, plan, item).map_err(|e| e.on(&item.entry.name));
                    match written {
                        Err(e) if is_fatal(&e) => return Err(e),
                        written => *answer = Some(written),
                    }
                }
            }
        }
        Ok(answers.into_iter().flatten().collect())
    }

    fn write_item(&self, root: &Root, plan: &RestorePlan, item: &SmallEntry) -> Result<Written> {
        let path = self.names.path(&item.entry.name);
        match &item.entry.kind {
            EntryKind::File | EntryKind::Slice => self.write_file(root, plan, item, &path),
            EntryKind::Directory => self.write_directory(root, plan, &path),
            EntryKind::Symlink { target } => self.write_link(root, plan, &item.entry, &path, target),
            EntryKind::HardLink { target } => {
                check_name(path.as_bytes())?;
                check_name(self.names.path(target).as_bytes())?;
                Ok(Written::Deferred)
            }
        }
    }

    fn write_file(&self, root: &Root, plan: &RestorePlan, item: &SmallEntry, path: &EntryName) -> Result<Written> {
        let SmallEntry { entry, content } = item;
        let place = self.place(root, plan, path)?;
        let overwrite = match self.look_first(plan, &place, entry, &Content::Bytes(content))? {
            Looked::Same => return Ok(Written::AlreadyThere),
            Looked::Go(overwrite) => overwrite,
        };
        // Only a file with a name can take the place of another.
        if overwrite.is_none() {
            match self.write_unnamed(&place, entry, content)? {
                Some(true) => return Ok(Written::Created),
                Some(false) => return self.meet(&place, entry, &Content::Bytes(content)),
                None => {}
            }
        }
        let stage = self.stages.fresh(&plan.tag);
        let (place, file) = self.create(root, plan, path, place, &stage)?;
        let staged = Staged::new(self, &place, stage.as_bytes());
        self.notes.add(&entry.name, self.fill(&place.dir, &file, entry, content)?);
        drop(file);
        match staged.publish(root, overwrite)? {
            Some(written) => Ok(written),
            None => self.meet(&place, entry, &Content::Bytes(content)),
        }
    }

    /// Writes content and metadata of a new file in a directory; answers what could not be put on it.
    pub(super) fn fill(&self, dir: &Dir, file: &OwnedFd, entry: &Entry, content: &Bytes) -> Result<Troubles> {
        let written = if entry.metadata.sparse {
            write_sparse(file.as_fd(), content, 0).and_then(|()| rustix::fs::ftruncate(file, content.len() as u64))
        } else {
            write_at(file.as_fd(), content, 0)
        };
        written.map_err(|e| io_error(e, "cannot write"))?;
        let owner = self.new_owner(dir, || fstat(file))?;
        Ok(self.rules.put_on(file.as_fd(), entry, owner))
    }

    pub(super) fn write_link(
        &self,
        root: &Root,
        plan: &RestorePlan,
        entry: &Entry,
        path: &EntryName,
        target: &Bytes,
    ) -> Result<Written> {
        if target.is_empty() || target.contains(&0) {
            return Err(Error::invalid("a symbolic link cannot lead to an empty name or one with a NUL byte"));
        }
        let place = self.place(root, plan, path)?;
        let overwrite = match self.look_first(plan, &place, entry, &Content::Digest(None))? {
            Looked::Same => return Ok(Written::AlreadyThere),
            Looked::Go(overwrite) => overwrite,
        };
        let stage = self.stages.fresh(&plan.tag);
        let place = self.again(root, plan, path, place, |place| symlinkat(&target[..], &place.dir, &stage))?.0;
        let staged = Staged::new(self, &place, stage.as_bytes());
        let owner = self.new_owner(&place.dir, || statat(&place.dir, &stage, AtFlags::SYMLINK_NOFOLLOW))?;
        self.notes.add(&entry.name, self.rules.put_on_link(place.dir.as_fd(), stage.as_bytes(), entry, owner));
        match staged.publish(root, overwrite)? {
            Some(written) => Ok(written),
            None => self.meet(&place, entry, &Content::Digest(None)),
        }
    }

    /// Makes a directory; until [`finish`](super::finish) it is its owner's alone.
    fn write_directory(&self, root: &Root, plan: &RestorePlan, path: &EntryName) -> Result<Written> {
        let mut place = self.place(root, plan, path)?;
        let mut replaced = false;
        for _ in 0..TRIES {
            match mkdirat(&place.dir, place.last, Mode::RWXU) {
                Ok(()) if replaced => return Ok(Written::Replaced),
                Ok(()) => return Ok(Written::Created),
                Err(Errno::NOENT) => {
                    root.forget(place.parent);
                    place = self.place(root, plan, path)?;
                    continue;
                }
                Err(Errno::EXIST) => {}
                Err(e) => return Err(io_error(e, "cannot make the directory")),
            }
            let stat = match statat(&place.dir, place.last, AtFlags::SYMLINK_NOFOLLOW) {
                Ok(stat) => stat,
                Err(Errno::NOENT) => continue,
                Err(e) => return Err(look_error(e)),
            };
            if FileType::from_raw_mode(stat.st_mode) == FileType::Directory {
                if root.becomes_entry(path.as_bytes()) {
                    let dir = openat(&place.dir, place.last, DIRECTORY, Mode::empty());
                    dir.and_then(|dir| fchmod(dir, Mode::RWXU))
                        .map_err(|e| io_error(e, "cannot protect the directory while it is filled"))?;
                }
                return Ok(Written::AlreadyThere);
            }
            if !plan.overwrite {
                return Err(conflict());
            }
            match unlinkat(&place.dir, place.last, AtFlags::empty()) {
                Ok(()) => replaced = true,
                Err(Errno::NOENT) => {}
                Err(e) => return Err(io_error(e, "cannot remove what is in the way of the directory")),
            }
        }
        Err(Error::transient("the directory comes and goes"))
    }

    pub(super) fn place<'a>(&self, root: &Root, plan: &RestorePlan, path: &'a EntryName) -> Result<Place<'a>> {
        root.place(path.as_bytes(), if plan.overwrite { Missing::Replace } else { Missing::Make })
    }

    /// Creates the staged file.
    pub(super) fn create<'a>(
        &self,
        root: &Root,
        plan: &RestorePlan,
        path: &'a EntryName,
        place: Place<'a>,
        stage: &str,
    ) -> Result<(Place<'a>, OwnedFd)> {
        self.again(root, plan, path, place, |place| openat(&place.dir, stage, NEW_FILE, STAGE_MODE))
    }

    /// Makes something in a directory; and that directory again, if somebody removed it since it was opened.
    fn again<'a, T>(
        &self,
        root: &Root,
        plan: &RestorePlan,
        path: &'a EntryName,
        mut place: Place<'a>,
        make: impl Fn(&Place<'_>) -> rustix::io::Result<T>,
    ) -> Result<(Place<'a>, T)> {
        let mut tries = 0;
        loop {
            match make(&place) {
                Ok(made) => return Ok((place, made)),
                Err(Errno::NOENT) if tries < TRIES => {
                    tries += 1;
                    root.forget(place.parent);
                    place = self.place(root, plan, path)?;
                }
                Err(e) => return Err(io_error(e, "cannot make a file in its directory")),
            }
        }
    }

    /// Owner and group that new files in a directory get; looked at once for each directory.
    pub(super) fn new_owner(&self, dir: &Dir, stat: impl Fn() -> rustix::io::Result<Stat>) -> Result<(u32, u32)> {
        match dir.new_owner.get() {
            Some(owner) => Ok(*owner),
            None => {
                let stat = stat().map_err(look_error)?;
                Ok(*dir.new_owner.get_or_init(|| (stat.st_uid, stat.st_gid)))
            }
        }
    }

    /// Looks what is there before anything is written, where that pays: when something is likely to be there, or has to be known.
    pub(super) fn look_first(
        &self,
        plan: &RestorePlan,
        place: &Place<'_>,
        entry: &Entry,
        content: &Content<'_>,
    ) -> Result<Looked> {
        if !plan.overwrite && !plan.resumed && matches!(content, Content::Bytes(_)) {
            return Ok(Looked::Go(None));
        }
        match self.look(place, entry, content)? {
            Found::Same => Ok(Looked::Same),
            Found::Nothing => Ok(Looked::Go(plan.overwrite.then_some(Existing::Nothing))),
            Found::Other if plan.overwrite => Ok(Looked::Go(Some(Existing::Something))),
            Found::Other => Err(conflict()),
        }
    }

    /// What to say of an entry whose name turned out to be taken.
    pub(super) fn meet(&self, place: &Place<'_>, entry: &Entry, content: &Content<'_>) -> Result<Written> {
        match self.look(place, entry, content)? {
            Found::Same => Ok(Written::AlreadyThere),
            Found::Other => Err(conflict()),
            Found::Nothing => Err(Error::transient("something was there and is gone again; nothing was written")),
        }
    }

    /// Compares what lies under the name of an entry with the entry; if it is the same, puts its metadata right.
    fn look(&self, place: &Place<'_>, entry: &Entry, content: &Content<'_>) -> Result<Found> {
        let stat = match statat(&place.dir, place.last, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(stat) => stat,
            Err(Errno::NOENT) => return Ok(Found::Nothing),
            Err(e) => return Err(look_error(e)),
        };
        match (&entry.kind, FileType::from_raw_mode(stat.st_mode)) {
            (EntryKind::Symlink { target }, FileType::Symlink) => {
                match readlinkat(&place.dir, place.last, Vec::with_capacity(target.len() + 1)) {
                    Ok(there) if there.as_bytes() == &target[..] => {}
                    Ok(_) => return Ok(Found::Other),
                    Err(e) => return Err(look_error(e)),
                }
                let owner = (stat.st_uid, stat.st_gid);
                self.notes.add(&entry.name, self.rules.put_on_link(place.dir.as_fd(), place.last, entry, owner));
                Ok(Found::Same)
            }
            (EntryKind::File | EntryKind::Slice, FileType::RegularFile) => {
                if u64::try_from(stat.st_size) != Ok(entry.size) {
                    return Ok(Found::Other);
                }
                let file = match open_own(place, READ) {
                    Ok(file) => file,
                    // What cannot be read cannot be told to be the same.
                    Err(Errno::ACCESS | Errno::PERM | Errno::LOOP | Errno::NXIO) => return Ok(Found::Other),
                    Err(Errno::NOENT) => return Ok(Found::Nothing),
                    Err(e) => return Err(look_error(e)),
                };
                let same = match content {
                    Content::Bytes(bytes) => holds(file.as_fd(), std::slice::from_ref(bytes)),
                    Content::Digest(digest) => digest_of(&file).map(|found| Some(found) == *digest),
                };
                if !same.map_err(look_error)? {
                    return Ok(Found::Other);
                }
                let stat = fstat(&file).map_err(look_error)?;
                self.notes.add(&entry.name, self.rules.put_on(file.as_fd(), entry, (stat.st_uid, stat.st_gid)));
                Ok(Found::Same)
            }
            _ => Ok(Found::Other),
        }
    }

    pub(super) fn note_leftover(&self) {
        self.leftovers.store(true, Ordering::Relaxed);
    }
}

/// What to do after a look at what is there.
pub(super) enum Looked {
    /// Nothing.
    Same,
    /// Write; over what is there, if so it says.
    Go(Option<Existing>),
}

fn conflict() -> Error {
    Error::conflict("something else is already there (it stays, unless the restore may overwrite)")
}

/// SHA-256 of a whole file.
pub(super) fn digest_of(file: &OwnedFd) -> rustix::io::Result<Digest> {
    let mut hash = Sha256::new();
    let mut buffer = vec![0; STEP / 4];
    loop {
        let read = read_full(file.as_fd(), hash.length(), &mut buffer)?;
        hash.update(&buffer[..read]);
        if read < buffer.len() {
            return Ok(hash.finish());
        }
    }
}
