//! A file tree as a source.

use super::blocking::blocking;
use super::events::{Bounds, events};
use super::identity::{identity_of_resolved, resolve};
use super::open::Base;
use super::scope::Scope;
use super::walk::{Found, Walk};
use crate::Result;
use crate::adapter::{Cursor, Estimate, Opened, ReadContext, Source, SourceEvent, SourceProperties, Version};
use crate::model::{EntryName, Identity, Naming};
use crate::pattern::compile;
use crate::pool::BufferPool;
use async_trait::async_trait;
use futures::stream::BoxStream;
use globset::GlobSet;
use rustix::fs::FileType;
use std::ops::Range;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// An estimate gives up after this time, or so many entries.
const ESTIMATE_TIME: Duration = Duration::from_secs(2);
const ESTIMATE_ENTRIES: u64 = 200_000;

/// Which files a [`LocalSource`] reads.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LocalSourceConfig {
    /// A directory, or a single file. Symbolic links in this path are followed.
    pub root: PathBuf,
    /// Patterns of what is left out: `*` and `?` stand for anything but `/`, `**` for any number of directories, `[ab]` for one
    /// of the characters; `\` takes the next character literally. A pattern without `/` is compared with the name alone,
    /// at any depth; one with `/`, with the whole path relative to the root. Below a directory that matches everything is left out.
    pub exclude: Vec<String>,
    /// Leave out what is on other file systems than the root; a directory on which one is mounted is kept, without content.
    pub one_file_system: bool,
}

/// A file tree as a source.
///
/// Entries are named by their path relative to the root, with any bytes that the file system allows. They come depth first,
/// the names of each directory in byte order, a directory before what is in it. The root directory itself is not an
/// entry, so its own owner, permissions and times are not kept; a root that is a single file is the entry of its own name.
///
/// Regular files, directories and symbolic links (never followed) are delivered with owner, permissions, times,
/// extended attributes, which include ACLs and capabilities, and holes. Those of symbolic links need `/proc`. Further names
/// of a file become hard links to the first. Sockets, FIFOs and devices are skipped with a warning, as is all that vanishes or
/// cannot be read. What is created while the tree is read may or may not be seen. A run that goes on behind a cursor is refused
/// when the root is another directory by then, because its disk is not mounted: `NotFound`.
///
/// Files up to 1 MiB are read inline. One that changes meanwhile is read again twice, and then flagged inconsistent. For larger ones,
/// [`read`](Source::read) reports the state at the moment of opening: an empty range behind the last byte tells whether the
/// file is still the same.
#[derive(Debug)]
pub struct LocalSource {
    root: PathBuf,
    identity: Identity,
    globs: GlobSet,
    one_file_system: bool,
    bounds: Bounds,
    buffers: Arc<BufferPool>,
}

impl LocalSource {
    /// A source of these files. The root need not exist yet. Resolves the path, which may block for a moment.
    ///
    /// # Errors
    /// `Invalid` for a pattern that cannot be understood; what resolving the root met.
    pub fn new(config: LocalSourceConfig) -> Result<Self> {
        let LocalSourceConfig { root, exclude, one_file_system } = config;
        let root = resolve(&root)?;
        let identity = identity_of_resolved(&root);
        Ok(Self {
            root,
            identity,
            globs: compile(&exclude)?,
            one_file_system,
            bounds: Bounds::default(),
            buffers: super::content::buffers(),
        })
    }

    fn scope(&self, excluded: &[Identity]) -> Scope {
        Scope::new(self.globs.clone(), self.one_file_system, &self.identity, excluded)
    }
}

#[async_trait]
impl Source for LocalSource {
    fn identity(&self) -> Identity {
        self.identity.clone()
    }

    fn properties(&self) -> SourceProperties {
        SourceProperties { parallel_reads: 4, pins_version: false, naming: Naming::Paths }
    }

    async fn check(&self) -> Result<()> {
        let root = self.root.clone();
        blocking(move || {
            let base = Base::find(&root)?;
            match &base.only {
                Some(file) => drop(base.open_below(file).map_err(|e| e.on(root.display()))?),
                None => {
                    let directory = base.open()?;
                    let first = rustix::fs::Dir::read_from(&directory).and_then(|mut names| names.next().transpose());
                    first.map_err(|e| {
                        crate::Error::io(e.into(), "cannot list the source's directory").on(root.display())
                    })?;
                }
            }
            Ok(())
        })
        .await
    }

    async fn estimate(&self) -> Result<Estimate> {
        let (root, scope, bounds) = (self.root.clone(), self.scope(&[]), self.bounds);
        blocking(move || {
            let mut walk = Walk::new(Base::find(&root)?, Arc::new(scope), bounds.walk, None)?;
            let start = Instant::now();
            let (mut entries, mut bytes) = (0_u64, 0_u64);
            while let Some(found) = walk.next()? {
                let Found::Item(item) = found else { continue };
                entries += 1;
                if item.state.kind() == FileType::RegularFile {
                    bytes += item.state.size();
                }
                if entries > ESTIMATE_ENTRIES || (entries % 256 == 0 && start.elapsed() > ESTIMATE_TIME) {
                    return Ok(Estimate::default());
                }
            }
            Ok(Estimate { entries: Some(entries), bytes: Some(bytes) })
        })
        .await
    }

    fn events(self: Arc<Self>, after: Option<Cursor>, ctx: ReadContext) -> BoxStream<'static, Result<SourceEvent>> {
        let excluded = ctx.excluded.clone();
        let bounds = self.bounds;
        events(move || Ok((Base::find(&self.root)?, self.scope(&excluded))), bounds, after, ctx)
    }

    async fn read(
        &self,
        entry: &EntryName,
        _: Option<&Version>,
        range: Range<u64>,
        ctx: &ReadContext,
    ) -> Result<Opened> {
        let root = self.root.clone();
        let (limit, buffers) = (ctx.limit.clone(), self.buffers.clone());
        super::content::open(root, entry.to_bytes(), range, limit, buffers).await.map_err(|e| e.on(entry))
    }
}

#[cfg(test)]
mod tests;
