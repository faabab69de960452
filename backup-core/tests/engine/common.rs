//! What the tests of the engine share.

use backup_core::adapter::{Content, Destination, ReadContext, Source, SourceEvent};
use backup_core::archive::{Codec, Compression, KeyFileProvider, KeyProvider, TarEvent, TarReader, generate_key_file};
use backup_core::budget::ByteBudget;
use backup_core::engine::{
    Archive, BackupOptions, BackupRequest, Engine, EngineOptions, Limits, OpenOptions, OperationHandle, Outcome,
    RestoreRequest, ResumeBackup, ResumeRestore, TakeOver, VerifyMode, VerifyOutcome,
};
use backup_core::limit::RateLimit;
use backup_core::memory::MemoryStore;
use backup_core::model::{ArchiveId, EntryKind, EntryName, Metadata, ObjectName, Operation, OperationId, Timestamp};
use backup_core::retry::RetryPolicy;
use backup_core::{Digest, Result};
use backup_testkit::doubles::{MemoryDestination, MemoryTarget};
use bytes::Bytes;
use futures::StreamExt;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;
use tokio_util::sync::CancellationToken;

/// A test that takes longer than this hangs.
const PATIENCE: Duration = Duration::from_secs(120);

/// Retries without waiting.
pub(crate) fn quick() -> RetryPolicy {
    RetryPolicy { initial: Duration::from_millis(1), max: Duration::from_millis(4), ..RetryPolicy::default() }
}

/// The least memory, so that the limits are met.
pub(crate) fn options() -> EngineOptions {
    EngineOptions { memory: 64 << 20, retry: quick(), threads: 2, ..EngineOptions::default() }
}

pub(crate) fn engine(store: &MemoryStore) -> Engine {
    Engine::with_options(Arc::new(store.clone()), options(), Vec::new())
}

/// Codecs, and whether sealed: each combination once.
pub(crate) fn formats() -> Vec<(Codec, bool)> {
    [Codec::Zstd, Codec::Gzip, Codec::None].into_iter().flat_map(|codec| [(codec, false), (codec, true)]).collect()
}

pub(crate) fn key() -> Arc<dyn KeyProvider> {
    Arc::new(KeyFileProvider::parse(&generate_key_file().unwrap()).unwrap())
}

/// Small frames and volumes, so that a few MiB are many of them.
pub(crate) fn small_volumes(codec: Codec) -> BackupOptions {
    BackupOptions {
        compression: Compression::new(codec, None).unwrap(),
        volume_size: Some(256 << 10),
        frame_size: 64 << 10,
        ..BackupOptions::default()
    }
}

pub(crate) fn request(source: &Arc<impl Source>, destination: &MemoryDestination) -> BackupRequest {
    let mut request = BackupRequest::new(source.clone(), Arc::new(destination.clone()));
    request.options = small_volumes(Codec::Zstd);
    request
}

pub(crate) fn resume_request(
    id: &OperationId,
    source: &Arc<impl Source>,
    destination: Arc<dyn Destination>,
) -> ResumeBackup {
    ResumeBackup {
        operation: id.clone(),
        source: source.clone(),
        destination,
        keys: None,
        limits: Limits::default(),
        take_over: TakeOver::Now,
    }
}

pub(crate) fn resume_restore_request(
    id: &OperationId,
    destination: Arc<dyn Destination>,
    target: Arc<dyn backup_core::adapter::RestoreTarget>,
) -> ResumeRestore {
    ResumeRestore {
        operation: id.clone(),
        destination,
        target,
        open: OpenOptions::default(),
        limits: Limits::default(),
        take_over: TakeOver::Now,
        keep_going: false,
    }
}

pub(crate) fn opening(keys: Option<Arc<dyn KeyProvider>>) -> OpenOptions {
    OpenOptions { keys, allow_unsealed: false }
}

/// Waits for the end; a hang is a failed test.
pub(crate) async fn wait(handle: OperationHandle) -> Result<Outcome> {
    let id = handle.id().clone();
    match tokio::time::timeout(PATIENCE, handle.wait()).await {
        Ok(outcome) => outcome,
        Err(_) => panic!("operation {id} hangs"),
    }
}

/// Waits for the completion and gives the number of warnings.
pub(crate) async fn complete(handle: OperationHandle) -> u64 {
    match wait(handle).await {
        Ok(Outcome::Completed { warnings, .. }) => warnings,
        other => panic!("not completed: {other:?}"),
    }
}

pub(crate) async fn back_up(request: BackupRequest) -> ArchiveId {
    let handle = engine(&MemoryStore::new()).backup(request).await.unwrap();
    let archive = handle.archive().clone();
    complete(handle).await;
    archive
}

pub(crate) async fn operation(store: &MemoryStore, id: &OperationId) -> Operation {
    use backup_core::adapter::Store;
    store.get(id).await.unwrap().unwrap()
}

/// Waits until something holds.
pub(crate) async fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let start = std::time::Instant::now();
    while !holds() {
        assert!(start.elapsed() < PATIENCE, "waited in vain until {what}");
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}

pub(crate) async fn verify(
    destination: &MemoryDestination,
    archive: &ArchiveId,
    keys: Option<Arc<dyn KeyProvider>>,
    mode: VerifyMode,
) -> Result<VerifyOutcome> {
    let archive = Archive::open(Arc::new(destination.clone()), archive, &opening(keys)).await?;
    archive.verify(mode, &tokio::sync::watch::Sender::default()).await
}

/// The archive can be opened and every digest in it is right.
pub(crate) async fn assert_sound(
    destination: &MemoryDestination,
    archive: &ArchiveId,
    keys: Option<Arc<dyn KeyProvider>>,
) {
    let found = verify(destination, archive, keys, VerifyMode::Full).await.unwrap();
    assert!(found.is_sound(), "{found:?}");
}

/// An item as source and target have it.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct Item {
    pub(crate) kind: EntryKind,
    pub(crate) mtime: Option<Timestamp>,
    pub(crate) metadata: Metadata,
    pub(crate) size: usize,
    pub(crate) digest: Digest,
}

impl std::fmt::Debug for Item {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:?} of {} bytes {}", self.kind, self.size, &self.digest.to_string()[..8])
    }
}

pub(crate) type Items = BTreeMap<EntryName, Item>;

pub(crate) fn item(kind: EntryKind, mtime: Option<Timestamp>, metadata: Metadata, content: &[u8]) -> Item {
    Item { kind, mtime, metadata, size: content.len(), digest: Digest::of(content) }
}

pub(crate) fn read_context() -> ReadContext {
    ReadContext {
        budget: ByteBudget::new(64 << 20),
        limit: RateLimit::default(),
        stop: CancellationToken::new(),
        excluded: Arc::new([]),
    }
}

/// What a source holds.
pub(crate) async fn items_of(source: Arc<dyn Source>) -> Items {
    let mut contents: BTreeMap<EntryName, Bytes> = BTreeMap::new();
    let mut items = Items::new();
    let mut events = source.clone().events(None, read_context());
    while let Some(event) = events.next().await {
        let SourceEvent::Entry(entry) = event.unwrap() else { continue };
        let content = match (&entry.kind, &entry.content) {
            (EntryKind::HardLink { target }, _) => contents[target].clone(),
            (_, Content::None) => Bytes::new(),
            (_, Content::Inline { bytes, .. }) => bytes.clone(),
            (_, Content::Stored { size, version }) => {
                let opened = source.read(&entry.name, version.as_ref(), 0..*size, &read_context()).await.unwrap();
                let pieces: Vec<_> = opened.content.map(Result::unwrap).collect().await;
                pieces.concat().into()
            }
        };
        items.insert(entry.name.clone(), item(entry.kind, entry.mtime, entry.metadata, &content));
        contents.insert(entry.name, content);
    }
    items
}

pub(crate) fn items_at(target: &MemoryTarget) -> Items {
    let item = |r: backup_testkit::doubles::Restored| item(r.kind, r.mtime, r.metadata, &r.content);
    target.items().into_iter().map(|(name, restored)| (name, item(restored))).collect()
}

/// Compares without printing everything.
pub(crate) fn assert_same(found: &Items, expected: &Items) {
    for (name, item) in expected {
        assert_eq!(found.get(name), Some(item), "{name}");
    }
    for name in found.keys() {
        assert!(expected.contains_key(name), "{name} is too much");
    }
}

pub(crate) fn restore_request(
    destination: &MemoryDestination,
    archive: &ArchiveId,
    target: &MemoryTarget,
    keys: Option<Arc<dyn KeyProvider>>,
) -> RestoreRequest {
    let mut request = RestoreRequest::new(Arc::new(destination.clone()), archive.clone(), Arc::new(target.clone()));
    request.open = opening(keys);
    request
}

/// Restores everything into a fresh target.
pub(crate) async fn restore(
    destination: &MemoryDestination,
    archive: &ArchiveId,
    keys: Option<Arc<dyn KeyProvider>>,
) -> MemoryTarget {
    let target = MemoryTarget::default();
    let handle =
        engine(&MemoryStore::new()).restore(restore_request(destination, archive, &target, keys)).await.unwrap();
    assert_eq!(complete(handle).await, 0);
    assert_clean(&target);
    target
}

/// The caller of the target kept to its contract, and nothing lies about.
pub(crate) fn assert_clean(target: &MemoryTarget) {
    assert_eq!(target.breaches(), Vec::<String>::new());
    assert_eq!(target.staged(), Vec::<String>::new());
}

/// The archive is sound, and restored it is what the source holds.
pub(crate) async fn assert_good(
    destination: &MemoryDestination,
    archive: &ArchiveId,
    source: Arc<dyn Source>,
    keys: Option<Arc<dyn KeyProvider>>,
) {
    assert_holds(destination, archive, source, keys).await;
    assert_eq!(destination.staged(), Vec::<String>::new());
}

/// As [`assert_good`], where a worker that lost its hold may have left what it was putting.
pub(crate) async fn assert_holds(
    destination: &MemoryDestination,
    archive: &ArchiveId,
    source: Arc<dyn Source>,
    keys: Option<Arc<dyn KeyProvider>>,
) {
    assert_sound(destination, archive, keys.clone()).await;
    let target = restore(destination, archive, keys).await;
    assert_same(&items_at(&target), &items_of(source).await);
}

/// The files of an exported archive, as `tar` would leave them: the later one wins.
pub(crate) async fn untar(destination: &MemoryDestination, archive: &ArchiveId) -> BTreeMap<String, Vec<u8>> {
    let archive = Archive::open(Arc::new(destination.clone()), archive, &OpenOptions::default()).await.unwrap();
    let mut stream = archive.export(Codec::None, RateLimit::default());
    let mut tar = TarReader::default();
    let mut files = BTreeMap::new();
    let mut present = String::new();
    while let Some(bytes) = stream.next().await {
        let bytes = bytes.unwrap();
        let mut rest = &bytes[..];
        while let Some(event) = tar.next(&mut rest).unwrap() {
            match event {
                TarEvent::Entry(header) => {
                    present = String::from_utf8(header.path).unwrap();
                    files.insert(present.clone(), Vec::new());
                }
                TarEvent::Content(content) => files.get_mut(&present).unwrap().extend_from_slice(content),
                TarEvent::End => {}
            }
        }
    }
    files
}

/// The names of an archive's objects at the destination.
pub(crate) fn objects(destination: &MemoryDestination, archive: &ArchiveId) -> Vec<ObjectName> {
    let root = format!("{archive}/");
    destination.objects().into_keys().filter(|name| name.as_str().starts_with(&root)).collect()
}
