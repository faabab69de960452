//! What a caller can choose, and how one memory figure is divided.

use crate::adapter::{Destination, RestoreTarget, Source};
use crate::archive::{Compression, KeyProvider};
use crate::limit::RateLimit;
use crate::model::{ArchiveId, Holder, OperationConnections, OperationId};
use crate::retry::RetryPolicy;
use crate::{Error, Result};
use serde::{Deserialize, Serialize};
use std::ops::RangeInclusive;
use std::sync::Arc;
use std::time::Duration;

/// How an [`Engine`](super::Engine) works; the defaults fit a server with some hundred MiB to spare.
#[derive(Clone, Debug)]
pub struct EngineOptions {
    /// Bytes that data in flight may occupy: read-ahead, frames and volumes together. At least 64 MiB; the process needs about as
    /// much besides.
    pub memory: u64,
    /// How long a claim holds without being renewed, 10 ms to a day; it is renewed three times as often.
    pub lease: Duration,
    /// Who works; by default this process.
    pub holder: Holder,
    /// How failed calls of adapters are repeated.
    pub retry: RetryPolicy,
    /// CPU-bound jobs at once, 1 to 1024; by default as many as there are cores.
    pub threads: usize,
}

impl Default for EngineOptions {
    fn default() -> Self {
        Self {
            memory: 192 << 20,
            lease: Duration::from_secs(60),
            holder: super::process::this_process(),
            retry: RetryPolicy::default(),
            threads: std::thread::available_parallelism().map_or(2, usize::from),
        }
    }
}

impl EngineOptions {
    /// # Errors
    /// `Invalid`, and what is wrong, when no operation could work like this.
    pub(super) fn check(&self) -> Result<()> {
        within("the memory budget", self.memory, MEMORY, "64 MiB to 1 TiB")?;
        within("the lease", self.lease, LEASE, "10 ms to a day")?;
        within("the number of threads", self.threads, THREADS, "1 to 1024")?;
        self.retry.check()
    }
}

/// The least memory with which the stages cannot stand in each other's way; the most that any host has.
const MEMORY: RangeInclusive<u64> = 64 << 20..=1 << 40;
/// A shorter lease is over before a store has answered; a longer one keeps everybody out after a crash.
const LEASE: RangeInclusive<Duration> = Duration::from_millis(10)..=DAY;
const THREADS: RangeInclusive<usize> = 1..=1024;
const FRAME_SIZE: RangeInclusive<u32> = 64 << 10..=8 << 20;
/// The smallest makes a volume of each frame.
const VOLUME_SIZE: RangeInclusive<u64> = 1..=1 << 40;
const VOLUME_AGE: RangeInclusive<Duration> = Duration::from_millis(10)..=DAY;
const DAY: Duration = Duration::from_secs(24 * 3600);

/// Whether a choice can work.
fn within<T: PartialOrd>(what: &str, value: T, range: RangeInclusive<T>, text: &str) -> Result<()> {
    if range.contains(&value) { Ok(()) } else { Err(Error::invalid(format!("{what} must be {text}"))) }
}

/// How a backup writes its archive. Kept in the checkpoint, so that a resume goes on in the same way.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BackupOptions {
    /// Codec and level.
    pub compression: Compression,
    /// Stored bytes at which a volume ends, up to 1 TiB; `None` asks the destination. Never more than a sixth of the memory.
    pub volume_size: Option<u64>,
    /// Raw bytes of a frame, 64 KiB to 8 MiB; frames may be a quarter longer, and shorter.
    pub frame_size: u32,
    /// Age at which a volume ends even when it is small, 10 ms to a day, so that a slow source loses little in a crash.
    pub volume_age: Duration,
}

impl Default for BackupOptions {
    fn default() -> Self {
        Self {
            compression: Compression::default(),
            volume_size: None,
            frame_size: 4 << 20,
            volume_age: Duration::from_secs(60),
        }
    }
}

impl BackupOptions {
    /// # Errors
    /// `Invalid`, and what is wrong, when no backup could work like this.
    pub(super) fn check(&self) -> Result<()> {
        within("the frame size", self.frame_size, FRAME_SIZE, "64 KiB to 8 MiB")?;
        within("the age of a volume", self.volume_age, VOLUME_AGE, "10 ms to a day")?;
        match self.volume_size {
            Some(size) => within("the volume size", size, VOLUME_SIZE, "1 byte to 1 TiB"),
            None => Ok(()),
        }
    }
}

/// Bandwidth limits of one operation; may be changed at any time through any clone.
#[derive(Clone, Debug, Default)]
pub struct Limits {
    /// Bytes a second that are read from the source, or from the destination when restoring.
    pub read: RateLimit,
    /// Bytes a second that are written to the destination, or to the target when restoring.
    pub write: RateLimit,
}

/// A backup to be made.
#[derive(Clone, Debug)]
pub struct BackupRequest {
    /// What is read.
    pub source: Arc<dyn Source>,
    /// Where the archive goes.
    pub destination: Arc<dyn Destination>,
    /// A name for people, by which the archive can be found again; may be empty, but not `latest`.
    pub name: String,
    /// How the archive is written.
    pub options: BackupOptions,
    /// Seals the archive when given.
    pub keys: Option<Arc<dyn KeyProvider>>,
    /// Bandwidth.
    pub limits: Limits,
    /// Kept in the store with the operation: what the frontend needs to build the adapters again. No secrets.
    pub spec: serde_json::Value,
    /// The stored connections behind source and destination, if there are any.
    pub connections: Option<OperationConnections>,
    /// Who asks for it, as the frontend names people; may be empty.
    pub created_by: String,
}

/// What a claimed backup is continued with.
#[derive(Clone, Debug)]
pub struct BackupWork {
    /// The same source as at the start.
    pub source: Arc<dyn Source>,
    /// The same destination as at the start.
    pub destination: Arc<dyn Destination>,
    /// Needed when the archive is sealed.
    pub keys: Option<Arc<dyn KeyProvider>>,
    /// Bandwidth.
    pub limits: Limits,
}

/// What a claimed restore is continued with.
#[derive(Clone, Debug)]
pub struct RestoreWork {
    /// The same place of the archive as at the start.
    pub destination: Arc<dyn Destination>,
    /// The same target as at the start.
    pub target: Arc<dyn RestoreTarget>,
    /// Needed when the archive is sealed.
    pub open: OpenOptions,
    /// Bandwidth.
    pub limits: Limits,
    /// From now on as [`RestoreOptions::keep_going`], which may have been chosen at the start, too.
    pub keep_going: bool,
}

impl BackupRequest {
    /// A backup with default options.
    pub fn new(source: Arc<dyn Source>, destination: Arc<dyn Destination>) -> Self {
        Self {
            source,
            destination,
            name: String::new(),
            options: BackupOptions::default(),
            keys: None,
            limits: Limits::default(),
            spec: serde_json::Value::Null,
            connections: None,
            created_by: String::new(),
        }
    }
}

/// Over whom a resume may go.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum TakeOver {
    /// Wait until no lease runs; at once when the holder is a process of this host and boot that is dead.
    #[default]
    WhenFree,
    /// At once, whoever holds it: the caller knows better.
    Now,
}

/// A backup to be continued.
#[derive(Clone, Debug)]
pub struct ResumeBackup {
    /// The operation.
    pub operation: OperationId,
    /// The same source as at the start.
    pub source: Arc<dyn Source>,
    /// The same destination as at the start.
    pub destination: Arc<dyn Destination>,
    /// Needed when the archive is sealed.
    pub keys: Option<Arc<dyn KeyProvider>>,
    /// Bandwidth.
    pub limits: Limits,
    /// Over whom.
    pub take_over: TakeOver,
}

/// Which entries of an archive are meant.
///
/// Patterns are those of [`LocalSourceConfig::exclude`](crate::local::LocalSourceConfig::exclude): `*.txt` and `docs` are compared
/// with the last part of a name, at any depth; `/docs` and `docs/*.txt` with the whole name. One that fits a directory includes or
/// excludes everything below it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Selection {
    /// Only entries that match one of these; empty means all.
    pub include: Vec<String>,
    /// But none that matches one of these.
    pub exclude: Vec<String>,
    /// Only these exact names (and what `include` adds).
    pub names: Vec<crate::model::EntryName>,
}

/// How a restore writes.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct RestoreOptions {
    /// Which entries.
    pub selection: Selection,
    /// Existing items are replaced.
    pub overwrite: bool,
    /// Leave out reading the target back at the end.
    pub skip_verify: bool,
    /// Go on where the archive is damaged: what is intact is restored, and what is lost is left out, each entry with a warning
    /// that names it. Otherwise the first damage ends the restore.
    pub keep_going: bool,
}

/// With which keys an archive is opened.
#[derive(Clone, Debug, Default)]
pub struct OpenOptions {
    /// Opens sealed archives; with keys given, an archive that is not sealed is refused.
    pub keys: Option<Arc<dyn KeyProvider>>,
    /// Accept an archive that is not sealed although keys were given.
    pub allow_unsealed: bool,
}

/// A restore to be made.
#[derive(Clone, Debug)]
pub struct RestoreRequest {
    /// Where the archive is.
    pub destination: Arc<dyn Destination>,
    /// The archive.
    pub archive: ArchiveId,
    /// Where the data is put back.
    pub target: Arc<dyn RestoreTarget>,
    /// Keys.
    pub open: OpenOptions,
    /// What and how.
    pub options: RestoreOptions,
    /// Bandwidth.
    pub limits: Limits,
    /// A name for people; may be empty.
    pub name: String,
    /// Kept in the store with the operation: what the frontend needs to build the adapters again. No secrets.
    pub spec: serde_json::Value,
    /// The stored connections behind the archive's place and the target, if there are any.
    pub connections: Option<OperationConnections>,
    /// Who asks for it, as the frontend names people; may be empty.
    pub created_by: String,
}

impl RestoreRequest {
    /// A restore of a whole archive that is not sealed, with default options.
    pub fn new(destination: Arc<dyn Destination>, archive: ArchiveId, target: Arc<dyn RestoreTarget>) -> Self {
        Self {
            destination,
            archive,
            target,
            open: OpenOptions::default(),
            options: RestoreOptions::default(),
            limits: Limits::default(),
            name: String::new(),
            spec: serde_json::Value::Null,
            connections: None,
            created_by: String::new(),
        }
    }
}

/// A restore to be continued.
#[derive(Clone, Debug)]
pub struct ResumeRestore {
    /// The operation.
    pub operation: OperationId,
    /// The same destination as at the start.
    pub destination: Arc<dyn Destination>,
    /// The same target as at the start.
    pub target: Arc<dyn RestoreTarget>,
    /// Keys.
    pub open: OpenOptions,
    /// Bandwidth.
    pub limits: Limits,
    /// Over whom.
    pub take_over: TakeOver,
    /// From now on go on where the archive is damaged, as [`RestoreOptions::keep_going`] says.
    pub keep_going: bool,
}

/// A restore to be given up.
#[derive(Clone, Debug)]
pub struct CancelRestore {
    /// The operation.
    pub operation: OperationId,
    /// The same destination as at the start.
    pub destination: Arc<dyn Destination>,
    /// The same target as at the start.
    pub target: Arc<dyn RestoreTarget>,
    /// Keys: without them nobody knows where a restore of a sealed archive has left something.
    pub open: OpenOptions,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_that_cannot_work_are_told_by_name() {
        let engine = |change: fn(&mut EngineOptions)| {
            let mut options = EngineOptions::default();
            change(&mut options);
            options.check().map_err(|e| e.to_string())
        };
        let backup = |change: fn(&mut BackupOptions)| {
            let mut options = BackupOptions::default();
            change(&mut options);
            options.check().map_err(|e| e.to_string())
        };
        assert_eq!((engine(|_| {}), backup(|_| {})), (Ok(()), Ok(())));
        for (wrong, named) in [
            (engine(|o| o.memory = 0), "memory"),
            (engine(|o| o.memory = u64::MAX), "memory"),
            (engine(|o| o.lease = Duration::ZERO), "lease"),
            (engine(|o| o.lease = Duration::MAX), "lease"),
            (engine(|o| o.threads = 0), "threads"),
            (engine(|o| o.threads = usize::MAX), "threads"),
            (engine(|o| o.retry.initial = Duration::MAX), "pauses"),
            (engine(|o| o.retry.max = Duration::MAX), "pauses"),
            (engine(|o| o.retry.max_throttle = Duration::MAX), "wait"),
            (engine(|o| o.retry.factor = f64::NAN), "factor"),
            (engine(|o| o.retry.factor = 0.5), "factor"),
            (engine(|o| o.retry.jitter = f64::NAN), "random part"),
            (backup(|o| o.frame_size = 0), "frame"),
            (backup(|o| o.frame_size = u32::MAX), "frame"),
            (backup(|o| o.volume_size = Some(0)), "volume size"),
            (backup(|o| o.volume_size = Some(u64::MAX)), "volume size"),
            (backup(|o| o.volume_age = Duration::ZERO), "age"),
            (backup(|o| o.volume_age = Duration::MAX), "age"),
        ] {
            let text = wrong.unwrap_err();
            assert!(text.contains(named) && text.contains("must be"), "{named}: {text}");
        }
    }
}
