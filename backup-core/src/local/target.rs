//! A directory as restore target.

mod discard;
mod finish;
mod large;
mod lend;
mod links;
mod names;
mod notes;
mod small;
mod stage;
mod unnamed;
mod verify;

use super::apply::Rules;
use super::beneath::Root;
use super::blocking::blocking;
use super::identity::{identity_of_resolved, resolve};
use super::publish::io_error;
use crate::adapter::{
    ContentReader, EntryProgress, Granularity, RestorePlan, RestoreTarget, SmallEntry, VerifyReport, Warning, Written,
};
use crate::model::{Entry, EntryKind, Identity, STAGE_PREFIX};
use crate::{Error, Result};
use async_trait::async_trait;
pub use names::NameRule;
use names::Names;
use notes::Notes;
use rustix::fs::{Access, AtFlags, CWD, accessat};
use rustix::io::Errno;
use stage::StageNames;
use std::io::ErrorKind;
use std::os::unix::ffi::OsStrExt as _;
use std::path::PathBuf;
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex, PoisonError};
use tokio_util::task::TaskTracker;

/// What to do about owner and group of restored files.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OwnerRule {
    /// They get their owner and group back, as far as the process may do that.
    Keep,
    /// They belong to whoever restores them. Set-user-id and set-group-id bits are dropped from files that had another owner.
    Skip,
}

impl Default for OwnerRule {
    /// [`Keep`](OwnerRule::Keep) for root, who alone may give files away; else [`Skip`](OwnerRule::Skip).
    fn default() -> Self {
        if rustix::process::geteuid().is_root() { Self::Keep } else { Self::Skip }
    }
}

/// Where and how to restore.
#[derive(Clone, Debug)]
pub struct LocalTargetConfig {
    /// The directory below which everything is put; it need not exist yet.
    pub root: PathBuf,
    /// Owners go by their numbers, also when this host knows their names.
    pub numeric_owner: bool,
    /// What to do about owners.
    pub owner: OwnerRule,
    /// Extended attributes are put back.
    pub xattrs: bool,
    /// How names of entries become paths of files.
    pub names: NameRule,
}

impl LocalTargetConfig {
    /// Restores everything that the process may restore; owners go by name, and names are what the archive says.
    pub fn new(root: impl Into<PathBuf>) -> Self {
        Self {
            root: root.into(),
            numeric_owner: false,
            owner: OwnerRule::default(),
            xattrs: true,
            names: NameRule::default(),
        }
    }
}

/// A directory into which files are restored.
///
/// Files appear under their names when they are complete, and nothing is ever written outside the directory.
/// Metadata that cannot be put back is a warning of [`finish`](RestoreTarget::finish).
#[derive(Clone, Debug)]
pub struct LocalTarget {
    shared: Arc<Shared>,
}

/// The target, for blocking threads.
#[derive(Debug)]
struct Shared {
    path: PathBuf,
    identity: Identity,
    rules: Rules,
    names: Names,
    stages: StageNames,
    unnamed: unnamed::Unnamed,
    notes: Notes,
    root: Mutex<Option<Arc<Root>>>,
    /// Staged files may lie about that no running call will publish or remove.
    leftovers: AtomicBool,
    /// Work on blocking threads, which goes on when its caller is dropped.
    work: TaskTracker,
}

impl LocalTarget {
    /// A target. Resolves the path, so it does some I/O.
    ///
    /// # Errors
    /// When the existing part of the path cannot be resolved.
    pub fn new(config: LocalTargetConfig) -> Result<Self> {
        let LocalTargetConfig { root, numeric_owner, owner, xattrs, names } = config;
        let path = resolve(&root)?;
        let shared = Shared {
            identity: identity_of_resolved(&path),
            path,
            rules: Rules::new(owner == OwnerRule::Keep, numeric_owner, xattrs),
            names: Names::new(names),
            stages: StageNames::new(),
            unnamed: unnamed::Unnamed::default(),
            notes: Notes::default(),
            root: Mutex::default(),
            leftovers: AtomicBool::new(false),
            work: TaskTracker::new(),
        };
        Ok(Self { shared: Arc::new(shared) })
    }

    async fn blocking<T: Send + 'static>(&self, work: impl FnOnce(&Shared) -> Result<T> + Send + 'static) -> Result<T> {
        let (shared, busy) = (self.shared.clone(), self.shared.work.token());
        blocking(move || {
            let _busy = busy;
            work(&shared)
        })
        .await
    }
}

#[async_trait]
impl RestoreTarget for LocalTarget {
    fn identity(&self) -> Identity {
        self.shared.identity.clone()
    }

    fn granularity(&self, _: &EntryKind) -> Granularity {
        Granularity::Slice
    }

    async fn check(&self) -> Result<()> {
        self.blocking(Shared::check).await
    }

    async fn is_empty(&self) -> Result<bool> {
        self.blocking(Shared::is_empty).await
    }

    async fn prepare(&self, plan: &RestorePlan) -> Result<()> {
        self.shared.names.learn(plan, true).await?;
        let written = plan.entries.written();
        self.blocking(move |shared| shared.prepare(written)).await
    }

    async fn write_small(&self, plan: &RestorePlan, batch: Vec<SmallEntry>) -> Result<Vec<Result<Written>>> {
        self.shared.names.learn(plan, false).await?;
        let plan = plan.clone();
        self.blocking(move |shared| shared.write_batch(&plan, batch)).await
    }

    async fn write_large(
        &self,
        plan: &RestorePlan,
        entry: &Entry,
        content: ContentReader,
        progress: &EntryProgress,
    ) -> Result<Result<Written>> {
        self.shared.names.learn(plan, false).await?;
        large::write(&self.shared, plan, entry, content, progress).await.map_err(|e| e.on(&entry.name))
    }

    async fn sync(&self) -> Result<()> {
        self.blocking(Shared::sync).await
    }

    fn take_warnings(&self) -> Vec<Warning> {
        self.shared.notes.take()
    }

    async fn finish(&self, plan: &RestorePlan) -> Result<Vec<Warning>> {
        self.shared.names.learn(plan, false).await?;
        finish::finish(&self.shared, plan).await
    }

    async fn discard(&self, plan: &RestorePlan) -> Result<()> {
        self.shared.names.learn(plan, false).await?;
        discard::discard(&self.shared, plan).await
    }

    async fn verify(&self, plan: &RestorePlan) -> Result<VerifyReport> {
        self.shared.names.learn(plan, false).await?;
        verify::verify(&self.shared, plan).await
    }
}

impl Shared {
    fn error(&self, cause: Errno, message: &'static str) -> Error {
        io_error(cause, message).on(self.path.display())
    }

    /// Looks whether the root, or the directory in which it would be made, can be written to.
    fn check(&self) -> Result<()> {
        let existing = self.path.ancestors().find(|dir| dir.symlink_metadata().is_ok()).unwrap_or(&self.path);
        let about = |e: std::io::Error, text| Error::io(e, text).on(existing.display());
        if !existing.metadata().map_err(|e| about(e, "cannot look at the directory"))?.is_dir() {
            return Err(Error::invalid("is not a directory").on(existing.display()));
        }
        accessat(CWD, existing, Access::WRITE_OK | Access::EXEC_OK, AtFlags::EACCESS)
            .map_err(|e| io_error(e, "cannot write to the directory").on(existing.display()))
    }

    fn is_empty(&self) -> Result<bool> {
        let about = |e| Error::io(e, "cannot list the directory").on(self.path.display());
        let items = match std::fs::read_dir(&self.path) {
            Ok(items) => items,
            Err(e) if e.kind() == ErrorKind::NotFound => return Ok(true),
            Err(e) => return Err(about(e)),
        };
        for item in items {
            if !item.map_err(about)?.file_name().as_bytes().starts_with(STAGE_PREFIX.as_bytes()) {
                return Ok(false);
            }
        }
        Ok(true)
    }

    fn prepare(&self, written: Option<u64>) -> Result<()> {
        // Below the path of a disk that is not mounted, the rest of the restore would go astray.
        let gone = match written {
            None => false,
            Some(0) => !self
                .path
                .try_exists()
                .map_err(|e| Error::io(e, "cannot look at the directory").on(self.path.display()))?,
            Some(_) => self.is_empty()?,
        };
        if gone {
            let text =
                "what was restored already is not there; is the disk mounted? If it was removed, begin a new restore";
            return Err(Error::not_found(text).on(self.path.display()));
        }
        std::fs::create_dir_all(&self.path)
            .map_err(|e| Error::io(e, "cannot make the directory").on(self.path.display()))?;
        let root = self.open_root()?;
        *self.root.lock().unwrap_or_else(PoisonError::into_inner) = Some(root);
        Ok(())
    }

    /// The root, opened by [`prepare`](Shared::prepare) or, if it has not run in this process, now.
    fn root(&self) -> Result<Arc<Root>> {
        let mut root = self.root.lock().unwrap_or_else(PoisonError::into_inner);
        match &*root {
            Some(root) => Ok(root.clone()),
            None => Ok(root.insert(self.open_root()?).clone()),
        }
    }

    fn open_root(&self) -> Result<Arc<Root>> {
        Root::open(&self.path).map(Arc::new).map_err(|e| self.error(e, "cannot open the directory"))
    }

    fn sync(&self) -> Result<()> {
        self.root()?.sync().map_err(|e| self.error(e, "cannot make the restored files durable"))
    }
}

/// Whether an error is about the target as a whole, so that other entries would meet it too.
fn is_fatal(error: &Error) -> bool {
    use std::error::Error as _;
    let errno = error.source().and_then(|cause| cause.downcast_ref::<std::io::Error>()).and_then(Errno::from_io_error);
    matches!(
        errno,
        Some(
            Errno::NOSPC
                | Errno::DQUOT
                | Errno::ROFS
                | Errno::IO
                | Errno::MFILE
                | Errno::NFILE
                | Errno::NOMEM
                | Errno::STALE
                | Errno::NODEV
                | Errno::NXIO
        )
    )
}

#[cfg(test)]
mod tests;
