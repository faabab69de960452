//! Writes an archive as the directory that `mongodump` would have written.

use crate::layout::{self, BUCKETS_PREFIX, Item};
use crate::restore_target::{described_name, has_documents, unescape};
use backup_core::adapter::SmallEntry;
use backup_core::engine::{Archive, Selection};
use backup_core::limit::RateLimit;
use backup_core::model::STAGE_PREFIX;
use backup_core::{Error, Result};
use futures::TryStreamExt;
use std::collections::VecDeque;
use std::fs::{File, OpenOptions};
use std::io::Write;
use std::path::{Path, PathBuf};
use tokio::sync::mpsc;

/// So many files are kept open.
const OPEN: usize = 64;

/// What was written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Exported {
    /// Files.
    pub files: u64,
    /// Bytes in them.
    pub bytes: u64,
    /// Entries that are no MongoDB data and were left out.
    pub left_out: u64,
}

/// Writes the chosen entries of an archive as a directory that `mongorestore` restores. The directory must not exist, or be empty;
/// it gets its name when it is complete.
///
/// # Errors
/// `Conflict` when there is something already, `Invalid` when the archive holds no MongoDB data, and what reading and writing meet.
pub async fn export_directory(archive: &Archive, selection: &Selection, output: &Path) -> Result<Exported> {
    let mut contents = archive.contents(selection, RateLimit::default())?;
    let (sender, receiver) = mpsc::channel::<SmallEntry>(2);
    let output = output.to_owned();
    // Dropped without `done`, it removes what it has written.
    let (done, is_done) = tokio::sync::oneshot::channel::<()>();
    let writing = tokio::task::spawn_blocking(move || write(&output, receiver, is_done));
    let mut broken = None;
    loop {
        match contents.try_next().await {
            Ok(Some(small)) => {
                // When the writer is gone, its own error says why.
                if sender.send(small).await.is_err() {
                    break;
                }
            }
            Ok(None) => {
                let _ = done.send(());
                break;
            }
            Err(error) => {
                drop(done);
                broken = Some(error);
                break;
            }
        }
    }
    drop(sender);
    let written = writing.await.map_err(|e| Error::permanent("the writing thread ended").because(e))?;
    match broken {
        Some(error) => Err(error.context("the export is not complete")),
        None => written,
    }
}

fn write(
    output: &Path,
    mut entries: mpsc::Receiver<SmallEntry>,
    is_done: tokio::sync::oneshot::Receiver<()>,
) -> Result<Exported> {
    let mut directory = Directory::create(output)?;
    while let Some(small) = entries.blocking_recv() {
        directory.add(&small)?;
    }
    if is_done.blocking_recv().is_err() {
        return Err(Error::cancelled("the export was given up"));
    }
    directory.publish()
}

/// A directory that is being written under another name.
struct Directory {
    output: PathBuf,
    staged: PathBuf,
    is_published: bool,
    open: VecDeque<(PathBuf, File)>,
    directories: std::collections::BTreeSet<PathBuf>,
    exported: Exported,
}

fn failed(path: &Path) -> impl Fn(std::io::Error) -> Error {
    move |e| Error::io(e, "cannot write").on(path.display())
}

impl Directory {
    fn create(output: &Path) -> Result<Self> {
        let output = std::path::absolute(output).map_err(failed(output))?;
        match std::fs::read_dir(&output).map(|mut items| items.next().is_none()) {
            Ok(true) => {}
            Ok(false) => return Err(Error::conflict("the directory is not empty").on(output.display())),
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => {}
            Err(e) => return Err(Error::io(e, "cannot make this directory").on(output.display())),
        }
        let mut name = std::ffi::OsString::from(format!("{STAGE_PREFIX}{}-", std::process::id()));
        name.push(
            output.file_name().ok_or_else(|| Error::invalid("not the name of a directory").on(output.display()))?,
        );
        let staged = output.with_file_name(name);
        std::fs::create_dir_all(output.parent().unwrap_or(Path::new("."))).map_err(failed(&output))?;
        std::fs::create_dir(&staged).map_err(failed(&staged))?;
        let directories = [staged.clone()].into();
        Ok(Self {
            output,
            staged,
            is_published: false,
            open: VecDeque::new(),
            directories,
            exported: Exported::default(),
        })
    }

    fn add(&mut self, small: &SmallEntry) -> Result<()> {
        let name = &small.entry.name;
        let content = &small.content;
        match Item::parse(name) {
            Some(Item::Prelude) => self.append(Path::new(layout::PRELUDE), content),
            Some(Item::Oplog { .. }) => self.append(Path::new("oplog.bson"), content),
            Some(Item::Slice { database, folder, .. }) => {
                let path = self.file(database, folder, ".bson")?;
                self.append(&path, content)
            }
            Some(Item::Metadata { database, folder }) => {
                let path = self.file(database, folder, ".metadata.json")?;
                self.append(&path, content)?;
                // An empty collection has an empty file, a view has none.
                match has_documents(content)? {
                    None => Ok(()),
                    Some(false) => {
                        let path = self.file(database, folder, ".bson")?;
                        self.append(&path, b"")
                    }
                    Some(true) => {
                        let name = described_name(content).or_else(|| unescape(folder)).ok_or_else(|| {
                            Error::unsupported("the name of a time-series that is too long").on(folder)
                        })?;
                        let path = self.file(database, &layout::escape(&format!("{BUCKETS_PREFIX}{name}")), ".bson")?;
                        self.append(&path, b"")
                    }
                }
            }
            None => {
                self.exported.left_out += 1;
                Ok(())
            }
        }
    }

    /// The path of a file of a collection. Neither part has a `/`, and the database no dot.
    fn file(&mut self, database: &str, folder: &str, ending: &str) -> Result<PathBuf> {
        let directory = self.staged.join(database);
        if self.directories.insert(directory.clone()) {
            std::fs::create_dir(&directory).map_err(failed(&directory))?;
        }
        Ok(Path::new(database).join(format!("{folder}{ending}")))
    }

    fn append(&mut self, path: &Path, content: &[u8]) -> Result<()> {
        let path = self.staged.join(path);
        if !self.open.iter().any(|(open, _)| *open == path) {
            if self.open.len() == OPEN
                && let Some((path, file)) = self.open.pop_front()
            {
                file.sync_all().map_err(failed(&path))?;
            }
            if !path.exists() {
                self.exported.files += 1;
            }
            let file = OpenOptions::new().append(true).create(true).open(&path).map_err(failed(&path))?;
            self.open.push_back((path.clone(), file));
        }
        if let Some((_, file)) = self.open.iter_mut().find(|(open, _)| *open == path) {
            file.write_all(content).map_err(failed(&path))?;
            self.exported.bytes += content.len() as u64;
        }
        Ok(())
    }

    /// Makes the content durable, then the name.
    fn publish(mut self) -> Result<Exported> {
        if self.exported.files == 0 {
            return Err(Error::invalid("the archive, or what is chosen of it, holds no MongoDB data"));
        }
        for (path, file) in std::mem::take(&mut self.open) {
            file.sync_all().map_err(failed(&path))?;
        }
        let sync = |directory: &Path| File::open(directory).and_then(|d| d.sync_all()).map_err(failed(directory));
        self.directories.iter().try_for_each(|directory| sync(directory))?;
        // Replaces an empty directory, and nothing else.
        std::fs::rename(&self.staged, &self.output).map_err(failed(&self.output))?;
        self.is_published = true;
        sync(self.output.parent().unwrap_or(Path::new(".")))?;
        Ok(self.exported)
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        if !self.is_published {
            let _ = std::fs::remove_dir_all(&self.staged);
        }
    }
}
