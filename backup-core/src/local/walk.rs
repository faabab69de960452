//! Walking a tree in one fixed order: depth first, each directory before what is in it, names in byte order.
//!
//! Memory and open handles are bounded whatever the tree: of a directory, or of all open ones together, only so many
//! names are held (see [`Names`]), and only the innermost handles are kept; others are opened again when the walk comes back.

use super::metadata::{FileState, Inode};
use super::names::Names;
use super::open::{Base, REPLACED, open_directory, reason};
use super::scope::Scope;
use crate::Result;
use crate::adapter::SourceWarning;
use crate::model::EntryName;
use rustix::fd::{AsFd, BorrowedFd, OwnedFd};
use rustix::fs::{AtFlags, FileType};
use rustix::io::Errno;
use std::sync::Arc;

/// How much a walk may hold.
#[derive(Clone, Copy, Debug)]
pub(crate) struct WalkBounds {
    /// Bytes of names of one directory.
    pub(crate) names: usize,
    /// Bytes of names of all directories that the walk is in; twice `names` or more, so that a large directory is not listed
    /// again after each small one in it.
    pub(crate) all_names: usize,
    /// Open handles of directories that the walk is in, at least 1.
    pub(crate) handles: usize,
    /// Bytes of a path.
    pub(crate) path: usize,
}

impl Default for WalkBounds {
    fn default() -> Self {
        // A path has to fit a cursor, together with a little more.
        Self { names: 8 << 20, all_names: 16 << 20, handles: 64, path: crate::adapter::MAX_CURSOR - 256 }
    }
}

/// Something that the walk came across.
#[derive(Debug)]
pub(crate) enum Found {
    /// A file, directory or symbolic link.
    Item(Item),
    /// Something that cannot be delivered.
    Warning(SourceWarning),
}

/// A file, directory or symbolic link.
#[derive(Debug)]
pub(crate) struct Item {
    /// Path relative to the root.
    pub(crate) name: EntryName,
    /// Where its last component starts.
    pub(crate) leaf: usize,
    /// The directory itself if it is one, else the directory that it is in.
    pub(crate) directory: Arc<OwnedFd>,
    /// Its state when it was listed.
    pub(crate) state: FileState,
}

impl Item {
    /// Its name in its directory.
    pub(crate) fn leaf(&self) -> &[u8] {
        &self.name.as_bytes()[self.leaf..]
    }
}

/// A warning about something that is not delivered.
pub(crate) fn skipped(name: EntryName, reason: &str) -> SourceWarning {
    SourceWarning { name: Some(name), message: format!("skipped: {reason}") }
}

/// A directory that the walk is in.
#[derive(Debug)]
struct Level {
    /// Length of its path.
    path: usize,
    inode: Inode,
    handle: Option<Arc<OwnedFd>>,
    names: Names,
    /// `names` starts behind this one.
    after: Option<Vec<u8>>,
    /// When `names` is exhausted, the directory has to be listed (again).
    unlisted: bool,
}

/// Where a walk goes on.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Behind<'a> {
    /// Path of the item delivered last.
    pub(crate) path: &'a [u8],
    /// Whether it was a directory.
    pub(crate) directory: bool,
    /// Inode number of the root there, if that is known.
    pub(crate) root: Option<u64>,
}

/// A walk.
#[derive(Debug)]
pub(crate) struct Walk {
    base: Base,
    scope: Arc<Scope>,
    bounds: WalkBounds,
    levels: Vec<Level>,
    /// Path of what was found last; that of a level is the start of it.
    path: Vec<u8>,
    root: Inode,
    /// Bytes of memory that the names of all levels occupy.
    held: usize,
    /// How many levels have an open handle.
    open: usize,
    /// To be told before anything else, the last first.
    pending: Vec<SourceWarning>,
}

impl Walk {
    /// A walk from the start, or from behind an item.
    ///
    /// # Errors
    /// When the root cannot be read; `NotFound` when it is another one than that of the item.
    pub(crate) fn new(base: Base, scope: Arc<Scope>, bounds: WalkBounds, behind: Option<Behind<'_>>) -> Result<Self> {
        let root = base.open()?;
        let failed =
            |e: Errno| crate::Error::io(e.into(), "cannot read the source's directory").on(base.directory.display());
        let state = FileState::from(rustix::fs::fstat(&root).map_err(failed)?);
        let moved = match &behind {
            Some(behind) => other_root(&base, root.as_fd(), state.inode(), behind)?,
            None => None,
        };
        let mut components = behind.iter().flat_map(|behind| behind.path.split(|b| *b == b'/'));
        let after = components.next();
        let names = match &base.only {
            Some(only) if after.is_none() => Names::single(only),
            Some(_) => Names::default(),
            None => Names::list(root.as_fd(), after, bounds.names).map_err(failed)?,
        };
        let mut walk = Self {
            base,
            scope,
            bounds,
            levels: Vec::new(),
            path: Vec::new(),
            root: state.inode(),
            held: 0,
            open: 0,
            pending: moved.into_iter().collect(),
        };
        if walk.scope.nothing {
            return Ok(walk);
        }
        walk.push(0, state.inode(), Arc::new(root), names, after.map(<[u8]>::to_vec));
        if let (Some(behind), None) = (behind, &walk.base.only) {
            walk.descend(behind.path, behind.directory)?;
        }
        Ok(walk)
    }

    /// Inode number of the root, by which a later walk can tell that it is the same; `None` when a single file is the root.
    pub(crate) fn root(&self) -> Option<u64> {
        self.base.only.is_none().then_some(self.root.ino)
    }

    /// Enters the directories on the way to `path`, without delivering them.
    fn descend(&mut self, path: &[u8], was_directory: bool) -> Result<()> {
        let mut components = path.split(|b| *b == b'/').peekable();
        while let Some(component) = components.next() {
            let next = components.peek().copied();
            if next.is_none() && !was_directory {
                break;
            }
            self.extend_path(component);
            let opened = self.handle(self.levels.len() - 1).and_then(|at| {
                let directory = open_directory(at.as_fd(), component)?;
                let state = FileState::from(rustix::fs::fstat(&directory)?);
                Ok((directory, state))
            });
            match opened {
                Ok((directory, state)) => {
                    if !self.enters(&state) {
                        break;
                    }
                    let after = next.map(<[u8]>::to_vec);
                    self.push(self.path.len(), state.inode(), Arc::new(directory), Names::default(), after);
                    if let Some(level) = self.levels.last_mut() {
                        level.unlisted = true;
                    }
                }
                Err(e) => {
                    let text = format!("the rest of the directory: {}", reason(e)?);
                    self.pending.insert(0, skipped(EntryName::new(self.path.clone()), &text));
                    break;
                }
            }
        }
        Ok(())
    }

    /// What comes next; `None` at the end.
    ///
    /// # Errors
    /// Trouble that is not about one item; the walk cannot go on.
    pub(crate) fn next(&mut self) -> Result<Option<Found>> {
        if let Some(warning) = self.pending.pop() {
            return Ok(Some(Found::Warning(warning)));
        }
        loop {
            let Some(level) = self.levels.last_mut() else { return Ok(None) };
            let length = level.path;
            let Some((name, kind)) = level.names.next() else {
                if level.unlisted {
                    if let Err(e) = self.list_on() {
                        let text = format!("the rest of the directory: {}", reason(e)?);
                        self.path.truncate(length);
                        return Ok(Some(Found::Warning(SourceWarning {
                            name: (length > 0).then(|| EntryName::new(self.path.clone())),
                            message: format!("skipped: {text}"),
                        })));
                    }
                } else {
                    self.pop();
                }
                continue;
            };
            self.path.truncate(length);
            if length > 0 {
                self.path.push(b'/');
            }
            let leaf = self.path.len();
            self.path.extend_from_slice(name);
            if self.scope.leaves_out(&self.path) {
                continue;
            }
            if self.path.len() > self.bounds.path {
                let text = format!("its path is longer than {} bytes", self.bounds.path);
                return Ok(Some(self.warning(&text)));
            }
            if let Some(found) = self.look_at(leaf, kind)? {
                return Ok(Some(found));
            }
        }
    }

    /// Makes an item, and a level if it is a directory, of what stands at `self.path`.
    fn look_at(&mut self, leaf: usize, listed: FileType) -> Result<Option<Found>> {
        let at = match self.handle(self.levels.len() - 1) {
            Ok(at) => at,
            Err(e) => return Ok(Some(self.warning(&reason(e)?))),
        };
        let is_directory = |kind| kind == FileType::Directory;
        let mut kind = listed;
        // Twice, because the type in the listing may be unknown or out of date.
        for _ in 0..2 {
            if is_directory(kind) {
                match self.enter(at.as_fd(), leaf) {
                    Err(Errno::NOTDIR | Errno::LOOP) => {}
                    Err(e) => {
                        let text = match reason(e)? {
                            reason if e == Errno::NOENT => reason,
                            reason => format!("the directory cannot be read: {reason}"),
                        };
                        return Ok(Some(self.warning(&text)));
                    }
                    Ok(item) => return Ok(item.map(Found::Item)),
                }
            }
            let flags = AtFlags::SYMLINK_NOFOLLOW | no_automount();
            let state = match rustix::fs::statat(&at, super::identity::os(&self.path[leaf..]), flags) {
                Ok(stat) => FileState::from(stat),
                Err(e) => return Ok(Some(self.warning(&reason(e)?))),
            };
            kind = state.kind();
            match kind {
                FileType::RegularFile | FileType::Symlink => {
                    let name = EntryName::new(self.path.clone());
                    return Ok(Some(Found::Item(Item { name, leaf, directory: at, state })));
                }
                FileType::Directory => {}
                FileType::Socket => return Ok(Some(self.warning("a socket"))),
                FileType::Fifo => return Ok(Some(self.warning("a FIFO"))),
                FileType::CharacterDevice | FileType::BlockDevice => return Ok(Some(self.warning("a device"))),
                FileType::Unknown => return Ok(Some(self.warning("a file of an unknown type"))),
            }
        }
        Ok(Some(self.warning(REPLACED)))
    }

    /// Opens and lists the directory at `self.path`; `None` when it is left out.
    fn enter(&mut self, at: BorrowedFd<'_>, leaf: usize) -> Result<Option<Item>, Errno> {
        let directory = open_directory(at, &self.path[leaf..])?;
        let state = FileState::from(rustix::fs::fstat(&directory)?);
        if self.scope.leaves_out_inode(state.inode()) {
            return Ok(None);
        }
        let directory = Arc::new(directory);
        if self.enters(&state) {
            let names = Names::list(directory.as_fd(), None, self.bounds.names)?;
            self.push(self.path.len(), state.inode(), directory.clone(), names, None);
        }
        Ok(Some(Item { name: EntryName::new(self.path.clone()), leaf, directory, state }))
    }

    /// Whether the walk goes into a directory.
    fn enters(&self, state: &FileState) -> bool {
        let elsewhere = self.scope.one_file_system && state.inode().dev != self.root.dev;
        !elsewhere && !self.scope.leaves_out_inode(state.inode())
    }

    fn warning(&self, reason: &str) -> Found {
        Found::Warning(skipped(EntryName::new(self.path.clone()), reason))
    }

    fn extend_path(&mut self, component: &[u8]) {
        if !self.path.is_empty() {
            self.path.push(b'/');
        }
        self.path.extend_from_slice(component);
    }

    /// Goes into a directory; keeps the bounds by giving up what the outermost levels hold.
    fn push(&mut self, path: usize, inode: Inode, handle: Arc<OwnedFd>, names: Names, after: Option<Vec<u8>>) {
        let unlisted = names.more;
        self.held += names.memory();
        self.levels.push(Level { path, inode, handle: Some(handle), names, after, unlisted });
        self.open += 1;
        if self.open > self.bounds.handles {
            self.close_outermost();
        }
        self.forget_names();
    }

    fn pop(&mut self) {
        if let Some(level) = self.levels.pop() {
            self.held -= level.names.memory();
            self.open -= usize::from(level.handle.is_some());
        }
    }

    fn close_outermost(&mut self) {
        if let Some(level) = self.levels.iter_mut().find(|level| level.handle.is_some()) {
            level.handle = None;
            self.open -= 1;
        }
    }

    /// Gives up the names of the outermost levels while all together are too many.
    fn forget_names(&mut self) {
        let inner = self.levels.len().saturating_sub(1);
        for level in &mut self.levels[..inner] {
            if self.held <= self.bounds.all_names {
                break;
            }
            self.held -= level.names.memory();
            level.forget();
        }
    }

    /// Lists the names of the innermost level that come behind those that were given.
    fn list_on(&mut self) -> Result<(), Errno> {
        let innermost = self.levels.len() - 1;
        self.held -= self.levels[innermost].names.memory();
        self.levels[innermost].forget();
        self.levels[innermost].unlisted = false;
        let handle = self.handle(innermost)?;
        let level = &mut self.levels[innermost];
        level.names = Names::list(handle.as_fd(), level.after.as_deref(), self.bounds.names)?;
        level.unlisted = level.names.more;
        self.held += level.names.memory();
        self.forget_names();
        Ok(())
    }

    /// The handle of a level, opened again if it was given up.
    fn handle(&mut self, index: usize) -> Result<Arc<OwnedFd>, Errno> {
        if let Some(handle) = &self.levels[index].handle {
            return Ok(handle.clone());
        }
        // From the root, because a name says where a directory is, while `..` of an inner one may by now be elsewhere.
        // The handles next to it are kept: the walk will want them soon.
        let keep_from = (index + 1).saturating_sub((self.bounds.handles / 2).max(1));
        let mut at = Arc::new(self.base.open_raw()?);
        let mut start = 0;
        for i in 0..=index {
            let end = self.levels[i].path;
            if i > 0 {
                let component = self.path[start..end].strip_prefix(b"/").unwrap_or(&self.path[start..end]);
                at = Arc::new(open_directory(at.as_fd(), component)?);
            }
            start = end;
            if i < keep_from || self.levels[i].handle.is_some() {
                continue;
            }
            if FileState::from(rustix::fs::fstat(&at)?).inode() == self.levels[i].inode {
                self.levels[i].handle = Some(at.clone());
                self.open += 1;
            } else if i == index {
                // Another directory stands there now.
                return Err(Errno::NOTDIR);
            }
        }
        while self.open > self.bounds.handles.max(1) {
            self.close_outermost();
        }
        Ok(at)
    }
}

impl Level {
    /// Drops the names held; what has not been given yet will be listed again.
    fn forget(&mut self) {
        if let Some(last) = self.names.last() {
            self.after = Some(last.to_vec());
        }
        self.unlisted |= !self.names.is_exhausted();
        self.names = Names::default();
    }
}

/// Looks whether a walk goes on in the tree that it was in: below the path of a disk that is not mounted there is an empty
/// directory, or another one, and the rest of the tree would seem to be gone.
///
/// File systems without lasting inode numbers give the same directory another one when they are mounted again. There the item is
/// still at its place, which is told in a warning.
fn other_root(base: &Base, root: BorrowedFd<'_>, inode: Inode, behind: &Behind<'_>) -> Result<Option<SourceWarning>> {
    let Some(before) = behind.root else { return Ok(None) };
    if base.only.is_none() {
        if inode.ino == before {
            return Ok(None);
        }
        if stands(root, behind.path) {
            let message = "the source's root is another directory than before the backup was interrupted; the entry read \
                           last is there as well, so the backup goes on in it";
            return Ok(Some(SourceWarning { name: None, message: message.into() }));
        }
    }
    let text = "the source's root is another directory than before; is its disk mounted?";
    Err(crate::Error::not_found(text).on(base.directory.display()))
}

/// Whether there is anything at this path.
fn stands(root: BorrowedFd<'_>, path: &[u8]) -> bool {
    let mut components = path.split(|b| *b == b'/');
    let leaf = components.next_back().unwrap_or_default();
    let mut inner: Option<OwnedFd> = None;
    for component in components {
        match open_directory(inner.as_ref().map_or(root, |inner| inner.as_fd()), component) {
            Ok(directory) => inner = Some(directory),
            Err(_) => return false,
        }
    }
    let at = inner.as_ref().map_or(root, |inner| inner.as_fd());
    rustix::fs::statat(at, super::identity::os(leaf), AtFlags::SYMLINK_NOFOLLOW | no_automount()).is_ok()
}

/// Looking at a mount point should not mount it.
fn no_automount() -> AtFlags {
    #[cfg(any(target_os = "linux", target_os = "android"))]
    return AtFlags::NO_AUTOMOUNT;
    #[cfg(not(any(target_os = "linux", target_os = "android")))]
    return AtFlags::empty();
}
