//! What these tests share.

use backup_core::Result;
use backup_core::adapter::{Destination, RestoreTarget, Source};
use backup_core::archive::{Codec, Compression, KeyFileProvider, KeyProvider, generate_key_file};
use backup_core::engine::{
    Archive, BackupOptions, BackupRequest, Engine, EngineOptions, OpenOptions, OperationHandle, Outcome,
    RestoreRequest, VerifyMode, VerifyOutcome,
};
use backup_core::memory::MemoryStore;
use backup_core::model::{ArchiveId, EntryName, ObjectName};
use backup_core::retry::RetryPolicy;
use backup_testkit::doubles::{Blob, MemoryDestination, MemorySource, MemoryTarget, Restored};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

/// What takes longer hangs.
const PATIENCE: Duration = Duration::from_secs(120);

pub(crate) type Items = BTreeMap<EntryName, Restored>;
pub(crate) type Keys = Option<Arc<dyn KeyProvider>>;

pub(crate) fn engine(store: &MemoryStore) -> Engine {
    let retry =
        RetryPolicy { initial: Duration::from_millis(1), max: Duration::from_millis(4), ..RetryPolicy::default() };
    let options = EngineOptions { memory: 64 << 20, retry, threads: 2, ..EngineOptions::default() };
    Engine::with_options(Arc::new(store.clone()), options, Vec::new())
}

pub(crate) fn key() -> Arc<dyn KeyProvider> {
    Arc::new(KeyFileProvider::parse(&generate_key_file().unwrap()).unwrap())
}

/// The smallest frames, and several volumes for some 100 KiB.
pub(crate) fn options(codec: Codec) -> BackupOptions {
    BackupOptions {
        compression: Compression::new(codec, None).unwrap(),
        volume_size: Some(64 << 10),
        frame_size: 64 << 10,
        ..BackupOptions::default()
    }
}

/// Some entries of every sort; another seed gives other contents of the same lengths under the same names.
pub(crate) fn source(seed: u64) -> MemorySource {
    let content = |n, size| Blob::pattern(seed * 1000 + n, size);
    MemorySource::new(&format!("source-{seed}"))
        .directory("dir")
        .file("dir/empty", "")
        .file("dir/small", content(1, 700))
        .stored("dir/stored", content(2, 70_000))
        .symlink("dir/to-small", "small")
        .stored("large", content(3, 150_000))
        .slices("shop.orders", vec![content(4, 9000), content(5, 30_000)])
        .file("z", content(6, 40_000))
}

/// Waits for the end; a hang is a failed test.
pub(crate) async fn wait(handle: OperationHandle) -> Result<Outcome> {
    let id = handle.id().clone();
    let Ok(ended) = tokio::time::timeout(PATIENCE, handle.wait()).await else { panic!("operation {id} hangs") };
    ended
}

pub(crate) fn backup_request(source: impl Source, destination: impl Destination) -> BackupRequest {
    let mut request = BackupRequest::new(Arc::new(source), Arc::new(destination));
    request.options = options(Codec::Zstd);
    request
}

/// Makes an archive.
pub(crate) async fn back_up(store: &MemoryStore, request: BackupRequest) -> ArchiveId {
    let handle = engine(store).backup(request).await.unwrap();
    let id = handle.archive().clone();
    match wait(handle).await {
        Ok(Outcome::Completed { .. }) => id,
        other => panic!("not completed: {other:?}"),
    }
}

/// Makes an archive of [`source`], of a codec, sealed or not.
pub(crate) async fn archive_of(seed: u64, destination: &MemoryDestination, codec: Codec, keys: &Keys) -> ArchiveId {
    let mut request = backup_request(source(seed), destination.clone());
    request.options = options(codec);
    request.keys = keys.clone();
    back_up(&MemoryStore::new(), request).await
}

pub(crate) fn opening(keys: &Keys) -> OpenOptions {
    OpenOptions { keys: keys.clone(), allow_unsealed: false }
}

pub(crate) async fn open(destination: &MemoryDestination, id: &ArchiveId, keys: &Keys) -> Result<Archive> {
    Archive::open(Arc::new(destination.clone()), id, &opening(keys)).await
}

pub(crate) async fn verify(archive: &Archive, mode: VerifyMode) -> Result<VerifyOutcome> {
    let (progress, _) = tokio::sync::watch::channel(Default::default());
    let verifying = tokio::time::timeout(PATIENCE, archive.verify(mode, &progress));
    let Ok(outcome) = verifying.await else { panic!("verifying hangs") };
    outcome
}

pub(crate) async fn restore(
    store: &MemoryStore,
    destination: &MemoryDestination,
    id: &ArchiveId,
    target: impl RestoreTarget,
    keys: &Keys,
) -> Result<Outcome> {
    let mut request = RestoreRequest::new(Arc::new(destination.clone()), id.clone(), Arc::new(target));
    request.open = opening(keys);
    wait(engine(store).restore(request).await?).await
}

/// What a sound archive restores to.
pub(crate) async fn restored(destination: &MemoryDestination, id: &ArchiveId, keys: &Keys) -> Items {
    let target = MemoryTarget::new("target");
    match restore(&MemoryStore::new(), destination, id, target.clone(), keys).await {
        Ok(Outcome::Completed { warnings: 0, .. }) => target.items(),
        other => panic!("not restored: {other:?}"),
    }
}

/// Whatever was restored is right, and the target was used as it should be.
pub(crate) fn assert_nothing_wrong(target: &MemoryTarget, right: &Items, what: &str) {
    for (name, item) in target.items() {
        assert!(right.get(&name) == Some(&item), "{what}: {name} was restored, but not as it was");
    }
    assert_eq!(target.breaches(), Vec::<String>::new(), "{what}");
}

/// The objects of an archive below a folder of it, in order.
pub(crate) fn below(destination: &MemoryDestination, id: &ArchiveId, folder: &str) -> Vec<ObjectName> {
    let start = format!("{id}/{folder}/");
    destination.objects().into_keys().filter(|name| name.as_str().starts_with(&start)).collect()
}
