//! The damage matrix: every way to damage an object, every kind of object, every way to read the archive.

use crate::common::*;
use backup_core::archive::{Codec, KeyProvider};
use backup_core::engine::{Outcome, VerifyMode};
use backup_core::memory::MemoryStore;
use backup_core::model::{ArchiveId, ObjectName};
use backup_testkit::doubles::{Blob, Damage, MemoryDestination, MemorySource, MemoryTarget};
use std::sync::Arc;

/// Two sound archives of one kind, side by side.
struct Pair {
    destination: MemoryDestination,
    archives: [ArchiveId; 2],
    keys: Option<Arc<dyn KeyProvider>>,
    expected: Items,
}

fn source(seed: u64) -> Arc<MemorySource> {
    let mut source = MemorySource::new("s").directory("d").symlink("d/link", "target");
    for n in 0..12 {
        source = source.file(&format!("d/f{n}"), Blob::pattern(seed + n, 9_000));
    }
    Arc::new(
        source
            .stored("stored", Blob::pattern(seed + 100, 300_000))
            .slices("g", vec![Blob::pattern(seed + 200, 50_000), Blob::pattern(seed + 201, 50_000)])
            .file("empty", ""),
    )
}

async fn pair(codec: Codec, sealed: bool) -> Pair {
    let destination = MemoryDestination::default();
    let keys = sealed.then(key);
    let mut archives = Vec::new();
    for seed in [1, 1000] {
        let mut request = request(&source(seed), &destination);
        request.options = small_volumes(codec);
        request.options.volume_size = Some(100 << 10);
        request.keys = keys.clone();
        archives.push(back_up(request).await);
    }
    let expected = items_of(source(1)).await;
    Pair { destination, archives: archives.try_into().unwrap(), keys, expected }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Header,
    Keys,
    Volume,
    Index,
    Manifest,
    VolumesTxt,
}

fn kind(name: &ObjectName) -> Kind {
    let name = name.as_str();
    match name.split_once('/').unwrap().1 {
        "header.json" => Kind::Header,
        "keys/0.json" => Kind::Keys,
        "volumes.txt" => Kind::VolumesTxt,
        rest if rest.starts_with("data/") => Kind::Volume,
        rest if rest.starts_with("index/") => Kind::Index,
        rest if rest.starts_with("manifest.json") => Kind::Manifest,
        other => panic!("{other}"),
    }
}

#[derive(Clone, Debug)]
enum Harm {
    Delete,
    Damage(Damage),
    Swap(ObjectName),
}

impl Pair {
    fn of_kind(&self, archive: usize, wanted: Kind) -> Vec<ObjectName> {
        objects(&self.destination, &self.archives[archive]).into_iter().filter(|name| kind(name) == wanted).collect()
    }

    fn harms(&self, name: &ObjectName) -> Vec<Harm> {
        let length = self.destination.bytes(name).unwrap().len() as u64;
        let mut harms = vec![Harm::Delete];
        harms.extend([0, length / 2, length - 1].map(|to| Harm::Damage(Damage::Truncate { to })));
        harms.push(Harm::Damage(Damage::Extend { by: 1 }));
        let middle = i64::try_from(length / 2).unwrap();
        harms.extend([0, 9, middle, -10, -1].map(|at| Harm::Damage(Damage::Flip { at, mask: 4 })));
        let others = self.of_kind(0, kind(name)).into_iter().chain(self.of_kind(1, kind(name)));
        harms.extend(others.filter(|other| other != name).take(12).map(Harm::Swap));
        harms
    }

    async fn is_found(&self, destination: &MemoryDestination, mode: VerifyMode) -> bool {
        match verify(destination, &self.archives[0], self.keys.clone(), mode).await {
            Ok(found) => !found.is_sound(),
            Err(_) => true,
        }
    }

    /// Restores; whatever is there afterwards is right. Whether it was all of it.
    async fn restores(&self, destination: &MemoryDestination) -> bool {
        let target = MemoryTarget::default();
        let request = restore_request(destination, &self.archives[0], &target, self.keys.clone());
        let outcome = match engine(&MemoryStore::new()).restore(request).await {
            Ok(handle) => wait(handle).await,
            Err(error) => Err(error),
        };
        assert_eq!(target.breaches(), Vec::<String>::new());
        let found = items_at(&target);
        for (name, item) in &found {
            assert_eq!(self.expected.get(name), Some(item), "{name}");
        }
        match outcome {
            Ok(Outcome::Completed { warnings, .. }) => {
                assert_eq!(warnings, 0);
                assert_same(&found, &self.expected);
                true
            }
            Ok(other) => panic!("{other:?}"),
            Err(_) => false,
        }
    }
}

async fn matrix(codec: Codec, sealed: bool) {
    let pair = pair(codec, sealed).await;
    assert!(!pair.is_found(&pair.destination, VerifyMode::Full).await && pair.restores(&pair.destination).await);
    let mut kinds = vec![Kind::Header, Kind::Volume, Kind::Index, Kind::Manifest];
    kinds.push(if sealed { Kind::Keys } else { Kind::VolumesTxt });
    for wanted in kinds {
        let names = pair.of_kind(0, wanted);
        assert!(!names.is_empty(), "{wanted:?}");
        for name in names {
            for harm in pair.harms(&name) {
                let destination = pair.destination.snapshot();
                let done = match &harm {
                    Harm::Delete => destination.remove(&name),
                    Harm::Damage(damage) => destination.corrupt(&name, *damage),
                    Harm::Swap(other) => destination.swap(&name, other),
                };
                assert!(done, "{harm:?} of {name}");
                let case = format!("{harm:?} of {name}");
                assert!(pair.is_found(&destination, VerifyMode::Full).await, "verify does not see {case}");
                let restored = pair.restores(&destination).await;
                match wanted {
                    // For people only.
                    Kind::VolumesTxt => assert!(restored, "{case}"),
                    // Bytes that belong to no content (tar headers, padding) are not looked at by a restore; what it gave was right.
                    Kind::Volume if matches!(harm, Harm::Damage(Damage::Flip { .. } | Damage::Extend { .. })) => {}
                    // A restore reads what the manifest names and not what hangs on to it.
                    Kind::Index if matches!(harm, Harm::Damage(Damage::Extend { .. })) => assert!(restored, "{case}"),
                    _ => assert!(!restored, "{case} was restored"),
                }
                // Quick promises to read all but the volumes, and to look at the sizes of those.
                let same_size = match &harm {
                    Harm::Damage(Damage::Flip { .. }) => true,
                    Harm::Swap(other) => {
                        destination.bytes(&name).unwrap().len() == destination.bytes(other).unwrap().len()
                    }
                    _ => false,
                };
                if !(wanted == Kind::Volume && same_size) {
                    assert!(pair.is_found(&destination, VerifyMode::Quick).await, "quick does not see {case}");
                }
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn every_damage_of_a_zstd_archive_is_detected() {
    matrix(Codec::Zstd, false).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn every_damage_of_an_uncompressed_archive_is_detected() {
    matrix(Codec::None, false).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn every_damage_of_a_gzip_archive_is_detected() {
    matrix(Codec::Gzip, false).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn every_damage_of_a_sealed_archive_is_detected() {
    matrix(Codec::Zstd, true).await;
}

/// A large entry is streamed to its target, which publishes it only when all of it was right.
#[tokio::test(flavor = "multi_thread")]
async fn damage_under_a_large_entry_fails_the_restore_and_publishes_nothing_of_it() {
    let source =
        Arc::new(MemorySource::new("s").file("a", "a").stored("large", Blob::pattern(1, 20 << 20)).file("z", "z"));
    let destination = MemoryDestination::default();
    let mut request = request(&source, &destination);
    request.options = small_volumes(Codec::None);
    request.options.volume_size = Some(2 << 20);
    let archive = back_up(request).await;
    let volumes: Vec<_> =
        objects(&destination, &archive).into_iter().filter(|name| kind(name) == Kind::Volume).collect();
    let pair = Pair { destination, archives: [archive.clone(), archive], keys: None, expected: items_of(source).await };
    let middle = &volumes[volumes.len() / 2];
    for harm in [None, Some(Damage::Truncate { to: 1 << 20 }), Some(Damage::Flip { at: 1 << 19, mask: 1 })] {
        let destination = pair.destination.snapshot();
        assert!(match harm {
            None => destination.remove(middle),
            Some(damage) => destination.corrupt(middle, damage),
        });
        assert!(pair.is_found(&destination, VerifyMode::Full).await, "{harm:?}");
        assert!(!pair.restores(&destination).await, "{harm:?}");
    }
}

/// A sample of all is as good as full for the contents.
#[tokio::test(flavor = "multi_thread")]
async fn a_sample_finds_damage_in_the_volumes_that_it_reads() {
    let pair = pair(Codec::Zstd, false).await;
    let volume = pair.of_kind(0, Kind::Volume).remove(1);
    for at in [20, 30_000, -20] {
        let destination = pair.destination.snapshot();
        assert!(destination.corrupt(&volume, Damage::Flip { at, mask: 1 }));
        assert!(pair.is_found(&destination, VerifyMode::Sample { percent: 100.0 }).await, "{at}");
    }
    for percent in [0.0, -1.0, 100.1, f64::NAN] {
        assert!(verify(&pair.destination, &pair.archives[0], None, VerifyMode::Sample { percent }).await.is_err());
    }
}
