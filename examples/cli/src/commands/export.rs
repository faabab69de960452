//! `backup export`

use crate::app::App;
use crate::args::{ArchiveAt, Codec, Export, ExportFormat};
use crate::failure::{Exit, Failure};
use crate::progress::with_progress;
use crate::run::unless_interrupted;
use crate::signals::Signals;
use crate::units;
use backup_core::archive;
use backup_core::engine::{Archive, Selection};
use backup_core::limit::RateLimit;
use backup_core::model::{Phase, Progress, STAGE_PREFIX};
use backup_core::{Error, Result};
use backup_mongo::mongodump::{Exported, export_directory};
use bytes::Bytes;
use futures::{Stream, TryStreamExt};
use serde_json::json;
use std::fs::{File, OpenOptions, TryLockError};
use std::io::{self, IsTerminal, Write};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use tokio::sync::{mpsc, watch};

/// Pieces that wait for a slow writer.
const PIECES_WAITING: usize = 4;

pub(super) async fn run(app: &App, args: Export) -> Result<Exit, Failure> {
    let Export { archive, output, format, codec, force } = args;
    if format == ExportFormat::Mongodump {
        if codec.is_some() || force {
            return Err(Failure::Usage("--codec and --force are for tar".into()));
        }
        return mongodump(app, &archive, &output).await;
    }
    let to_stdout = output == Path::new("-");
    if to_stdout && io::stdout().is_terminal() {
        return Err(Failure::Usage(
            "this would write the archive to the terminal: add --output FILE, or a pipe".into(),
        ));
    }
    if to_stdout && app.out.json {
        return Err(Failure::Usage("--json needs standard output for itself: add --output FILE".into()));
    }
    if !to_stdout && !force && output.is_file() {
        return Err(Failure::Usage(format!("{}: the file exists; --force replaces it", output.display())));
    }
    let (_destination, archive) = app.open_archive(&archive.at, &archive.archive).await?;
    let codec = codec.or_else(|| codec_of_name(&output)).map_or(archive.header().codec, Into::into);
    let stream = archive.export(codec, RateLimit::default());
    if to_stdout {
        let (sender, _) = watch::channel(Progress::default());
        pump(stream, io::stdout(), &sender).await.map(|_| Exit::Done)
    } else {
        let mut signals = Signals::install()?;
        let file = Output::create(&output, force)?;
        let handle = file.handle()?;
        let start =
            Progress { phase: Phase::Transferring, bytes_total: length(&archive, codec), ..Progress::default() };
        let (sender, progress) = watch::channel(start);
        // A signal drops the work here, so that the staged file is removed.
        let bytes = tokio::select! {
            written = with_progress(app.out, progress, pump(stream, handle, &sender)) => {
                written.map_err(|e| name(e, &output))?
            }
            _ = signals.next() => return Err(Failure::Interrupted),
        };
        file.publish()?;
        app.out
            .document(&json!({ "archive": archive.header().id, "file": output.to_string_lossy(), "bytes": bytes }))?;
        app.out.line(format!("{}: {}", output.display(), units::bytes(bytes)))?;
        Ok(Exit::Done)
    }
}

/// Writes a directory as mongodump does.
async fn mongodump(app: &App, archive: &ArchiveAt, output: &Path) -> Result<Exit, Failure> {
    if output == Path::new("-") {
        return Err(Failure::Usage("name the directory to make with --output DIR".into()));
    }
    let (_destination, archive) = app.open_archive(&archive.at, &archive.archive).await?;
    let mut signals = Signals::install()?;
    let everything = Selection::default();
    let written = export_directory(&archive, &everything, output);
    let written = unless_interrupted(&mut signals, written).await??;
    let Exported { files, bytes, left_out } = written;
    let document = json!({
        "archive": archive.header().id, "directory": output.to_string_lossy(), "files": files, "bytes": bytes,
    });
    app.out.document(&document)?;
    app.out.line(format!("{}: {}, {}", output.display(), units::count(files, "file"), units::bytes(bytes)))?;
    if left_out > 0 {
        app.out.note(format!("warning: {left_out} entries are no MongoDB data and were left out"));
        return Ok(Exit::Warnings);
    }
    Ok(Exit::Done)
}

fn name(failure: Failure, path: &Path) -> Failure {
    match failure {
        Failure::Error { error, hint } => Failure::Error { error: error.on(path.display()), hint },
        other => other,
    }
}

/// The codec that a file's name promises.
fn codec_of_name(path: &Path) -> Option<Codec> {
    let name = path.file_name()?.to_str()?.to_ascii_lowercase();
    let ends = |endings: &[&str]| endings.iter().any(|e| name.ends_with(e));
    if ends(&[".zst", ".tzst"]) {
        Some(Codec::Zstd)
    } else if ends(&[".gz", ".tgz"]) {
        Some(Codec::Gzip)
    } else if ends(&[".tar"]) {
        Some(Codec::None)
    } else {
        None
    }
}

/// How long an export will be, as far as that is known.
fn length(archive: &Archive, codec: archive::Codec) -> Option<u64> {
    let (header, totals) = (archive.header(), archive.manifest().totals);
    match codec {
        archive::Codec::None => Some(totals.raw_bytes),
        // Besides the volumes, the index is counted in this.
        codec if codec == header.codec => Some(totals.stored_bytes),
        _ => None,
    }
}

/// Writes a stream from a thread of its own, which may block; answers how many bytes there were.
async fn pump(
    mut stream: impl Stream<Item = Result<Bytes>> + Unpin,
    mut writer: impl Write + Send + 'static,
    progress: &watch::Sender<Progress>,
) -> Result<u64, Failure> {
    let (sender, mut pieces) = mpsc::channel::<Bytes>(PIECES_WAITING);
    let writing = tokio::task::spawn_blocking(move || -> io::Result<u64> {
        let mut bytes = 0;
        while let Some(piece) = pieces.blocking_recv() {
            writer.write_all(&piece)?;
            bytes += piece.len() as u64;
        }
        writer.flush()?;
        Ok(bytes)
    });
    let mut broken = None;
    loop {
        match stream.try_next().await {
            Ok(Some(piece)) => {
                progress.send_modify(|progress| progress.bytes += piece.len() as u64);
                // When the writer is gone, its own error says why.
                if sender.send(piece).await.is_err() {
                    break;
                }
            }
            Ok(None) => break,
            Err(error) => {
                broken = Some(error);
                break;
            }
        }
    }
    drop(sender);
    let written = writing.await.map_err(|e| Error::permanent("the writing thread ended").because(e))?;
    match broken {
        Some(error) => Err(error.context("the export is not complete").into()),
        // Half an archive is not what was asked for, also when it is the reader that went away.
        None => written.map_err(|error| Error::io(error, "the export is not complete: it cannot be written").into()),
    }
}

/// A file that gets its name when it is complete, readable for nobody else: an archive may be sealed, and its export is not. What is no
/// regular file (a device, a pipe) is written as it is.
///
/// Its writer keeps it locked; so one that is staged and not locked was left behind by a process that is dead.
struct Output {
    file: File,
    name: PathBuf,
    staged: Option<PathBuf>,
    replace: bool,
}

impl Output {
    fn create(name: &Path, replace: bool) -> Result<Self> {
        let failed = |e| Error::io(e, "cannot make this file").on(name.display());
        if name.exists() && !name.is_file() {
            let file = OpenOptions::new().write(true).open(name).map_err(failed)?;
            return Ok(Self { file, name: name.into(), staged: None, replace });
        }
        let last = name.file_name().ok_or_else(|| Error::invalid("not the name of a file").on(name.display()))?;
        remove_abandoned(name, last.as_bytes());
        let mut staged = std::ffi::OsString::from(format!("{STAGE_PREFIX}{}-", std::process::id()));
        staged.push(last);
        let staged = name.with_file_name(staged);
        let file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&staged).map_err(failed)?;
        // Not every file system has locks; where there are none, what is staged is never taken for abandoned.
        let taken = matches!(file.try_lock(), Err(TryLockError::WouldBlock));
        if taken || file.metadata().map_err(failed)?.nlink() == 0 {
            return Err(Error::conflict("another export to this file has just begun").on(name.display()));
        }
        Ok(Self { file, name: name.into(), staged: Some(staged), replace })
    }

    fn handle(&self) -> Result<File> {
        self.file.try_clone().map_err(|e| Error::io(e, "cannot write this file").on(self.name.display()))
    }

    /// Makes the content durable, then the name.
    fn publish(mut self) -> Result<()> {
        let failed = |e| Error::io(e, "cannot complete this file").on(self.name.display());
        let Some(staged) = &self.staged else { return Ok(()) };
        self.file.sync_all().map_err(failed)?;
        if self.replace {
            std::fs::rename(staged, &self.name).map_err(failed)?;
        } else {
            // A link fails when somebody else made the file meanwhile. Not every file system has links.
            match std::fs::hard_link(staged, &self.name) {
                Ok(()) => std::fs::remove_file(staged).map_err(failed)?,
                Err(e) if e.kind() == io::ErrorKind::AlreadyExists || self.name.exists() => return Err(failed(e)),
                Err(_) => std::fs::rename(staged, &self.name).map_err(failed)?,
            }
        }
        File::open(directory_of(&self.name)).and_then(|d| d.sync_all()).map_err(failed)?;
        self.staged = None;
        Ok(())
    }
}

/// Removes what exports to this file have staged whose processes were killed. It is not needed for anything but the space.
fn remove_abandoned(name: &Path, last: &[u8]) {
    let Ok(items) = std::fs::read_dir(directory_of(name)) else { return };
    for item in items.flatten() {
        let staged = item.file_name();
        let rest = staged.as_bytes().strip_prefix(STAGE_PREFIX.as_bytes());
        let process = rest.and_then(|rest| rest.strip_suffix(last)).and_then(|rest| rest.strip_suffix(b"-"));
        if !process.is_some_and(|process| !process.is_empty() && process.iter().all(u8::is_ascii_digit)) {
            continue;
        }
        let locked = OpenOptions::new().write(true).open(item.path()).map(|file| file.try_lock().map(|()| file));
        if let Ok(Ok(_held)) = locked {
            let _ = std::fs::remove_file(item.path());
        }
    }
}

fn directory_of(name: &Path) -> &Path {
    name.parent().filter(|d| !d.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

impl Drop for Output {
    fn drop(&mut self) {
        if let Some(staged) = &self.staged {
            let _ = std::fs::remove_file(staged);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures::stream;

    fn progress() -> watch::Sender<Progress> {
        watch::channel(Progress::default()).0
    }

    #[test]
    fn the_extension_chooses_the_codec() {
        for (name, codec) in [
            ("x.tar.zst", Some(Codec::Zstd)),
            ("x.tgz", Some(Codec::Gzip)),
            ("dir.gz/x.TAR", Some(Codec::None)),
            ("x", None),
            ("-", None),
        ] {
            assert_eq!(codec_of_name(Path::new(name)), codec, "{name}");
        }
    }

    #[tokio::test]
    async fn a_file_has_its_name_only_when_it_is_complete() {
        let directory = tempfile::tempdir().unwrap();
        let name = directory.path().join("x.tar");
        let content = || stream::iter([Ok(Bytes::from("ab")), Ok(Bytes::from("c"))]);
        let names = || std::fs::read_dir(directory.path()).unwrap().count();

        let output = Output::create(&name, false).unwrap();
        let broken = content().chain(stream::iter([Err(Error::corrupt("bad frame"))]));
        assert!(pump(broken, output.handle().unwrap(), &progress()).await.is_err());
        drop(output);
        assert_eq!(names(), 0, "nothing of a broken export stays");

        let output = Output::create(&name, false).unwrap();
        assert_eq!(pump(content(), output.handle().unwrap(), &progress()).await.unwrap(), 3);
        assert!(!name.exists());
        output.publish().unwrap();
        assert_eq!(std::fs::read(&name).unwrap(), b"abc");
        assert_eq!(names(), 1);
    }

    #[tokio::test]
    async fn a_file_that_appeared_meanwhile_is_replaced_only_on_request() {
        let directory = tempfile::tempdir().unwrap();
        let name = directory.path().join("x.tar");
        for (replace, content) in [(false, "other"), (true, "")] {
            let output = Output::create(&name, replace).unwrap();
            std::fs::write(&name, "other").unwrap();
            assert_eq!(output.publish().is_ok(), replace);
            assert_eq!(std::fs::read_to_string(&name).unwrap(), content);
        }
        assert_eq!(std::fs::read_dir(directory.path()).unwrap().count(), 1);
    }

    #[test]
    fn what_dead_processes_have_staged_for_the_same_file_is_removed() {
        let directory = tempfile::tempdir().unwrap();
        let path = |name: &str| directory.path().join(name);
        let others = [".backup-tmp-77-y.tar", ".backup-tmp-x.tar", ".backup-tmp-7a-x.tar", "77-x.tar"];
        let own = format!(".backup-tmp-{}-x.tar", std::process::id());
        // Process ids are used again: in a container it may be the same each time.
        for name in [".backup-tmp-77-x.tar", own.as_str()].iter().chain(&others) {
            std::fs::write(path(name), "left").unwrap();
        }
        let alive = File::create(path(".backup-tmp-78-x.tar")).unwrap();
        alive.lock().unwrap();
        let output = Output::create(&path("x.tar"), false).unwrap();
        assert!(!path(".backup-tmp-77-x.tar").exists());
        assert!(path(".backup-tmp-78-x.tar").exists() && others.iter().all(|name| path(name).exists()));
        assert_eq!(std::fs::metadata(path(&own)).unwrap().len(), 0);
        // Another one leaves it alone.
        remove_abandoned(&path("x.tar"), b"x.tar");
        output.publish().unwrap();
        assert!(path("x.tar").exists());
    }

    use futures::StreamExt;
}
