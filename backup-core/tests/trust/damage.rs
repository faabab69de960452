//! Every kind of damage to every kind of object is told, and nothing wrong is ever restored.

use crate::common::*;
use backup_core::archive::{Codec, Header, Manifest};
use backup_core::engine::{ArchiveStatus, VerifyMode, list_archives};
use backup_core::memory::MemoryStore;
use backup_core::model::{ArchiveId, ObjectName};
use backup_core::{Digest, ErrorClass};
use backup_testkit::doubles::{Damage, MemoryDestination, MemoryTarget};

/// What happens to an object.
#[derive(Clone, Debug, PartialEq)]
enum Harm {
    Delete,
    Damage(Damage),
    Swap(ObjectName),
}

/// Two archives of different contents at one destination, and what the first one restores to.
struct Place {
    destination: MemoryDestination,
    id: ArchiveId,
    other: ArchiveId,
    keys: Keys,
    right: Items,
}

impl Place {
    async fn new(codec: Codec, keys: Keys) -> Self {
        let destination = MemoryDestination::new("destination");
        let id = archive_of(1, &destination, codec, &keys).await;
        let other = archive_of(2, &destination, codec, &keys).await;
        let right = restored(&destination, &id, &keys).await;
        assert!(below(&destination, &id, "data").len() >= 3, "too few volumes to swap any");
        assert!(verify(&open(&destination, &id, &keys).await.unwrap(), VerifyMode::Full).await.unwrap().is_sound());
        Self { destination, id, other, keys, right }
    }

    /// One object of each kind, each with those of its kind that it may be exchanged for.
    fn objects(&self) -> Vec<(ObjectName, Vec<ObjectName>)> {
        let named = |id: &ArchiveId, relative: &str| ObjectName::new(format!("{id}/{relative}")).unwrap();
        let pair = |relative: &str| (named(&self.id, relative), vec![named(&self.other, relative)]);
        let volumes = below(&self.destination, &self.id, "data");
        let foreign = below(&self.destination, &self.other, "data");
        let index = below(&self.destination, &self.id, "index");
        let mut objects = vec![
            pair("header.json"),
            (volumes[0].clone(), vec![volumes[1].clone(), foreign[0].clone()]),
            (volumes[1].clone(), vec![volumes[2].clone(), foreign[1].clone()]),
            (volumes[volumes.len() - 1].clone(), foreign[foreign.len() - 1..].to_vec()),
            (index[0].clone(), vec![below(&self.destination, &self.other, "index")[0].clone()]),
        ];
        if self.keys.is_some() {
            objects.extend([pair("keys/0.json"), pair("manifest.json.sealed")]);
        } else {
            objects.extend([pair("manifest.json"), pair("volumes.txt")]);
        }
        objects
    }

    fn harms(&self, object: &ObjectName, others: &[ObjectName]) -> Vec<Harm> {
        let length = self.destination.bytes(object).unwrap().len() as i64;
        let flip = |at| Harm::Damage(Damage::Flip { at, mask: 0x10 });
        let mut harms = vec![
            Harm::Delete,
            Harm::Damage(Damage::Truncate { to: 0 }),
            Harm::Damage(Damage::Truncate { to: length as u64 / 2 }),
            Harm::Damage(Damage::Truncate { to: length as u64 - 1 }),
            Harm::Damage(Damage::Extend { by: 1 }),
            flip(0),
            flip(length / 2),
            flip(-1),
        ];
        harms.extend(others.iter().cloned().map(Harm::Swap));
        harms
    }

    fn harmed(&self, object: &ObjectName, harm: &Harm) -> MemoryDestination {
        let destination = self.destination.snapshot();
        let done = match harm {
            Harm::Delete => destination.remove(object),
            Harm::Damage(damage) => destination.corrupt(object, *damage),
            Harm::Swap(other) => destination.swap(object, other),
        };
        assert!(done, "{harm:?} did nothing to {object}");
        destination
    }
}

async fn matrix(codec: Codec, keys: Keys) {
    let place = Place::new(codec, keys).await;
    for (object, others) in place.objects() {
        for harm in place.harms(&object, &others) {
            let what = format!("{codec} {harm:?} of {object}");
            let destination = place.harmed(&object, &harm);
            told_by_verify(&place, &destination, &object, &harm, &what).await;

            let target = MemoryTarget::new("target");
            let outcome = restore(&MemoryStore::new(), &destination, &place.id, target.clone(), &place.keys).await;
            assert_nothing_wrong(&target, &place.right, &what);
            match outcome {
                Ok(_) => {
                    assert!(may_go_unseen(codec, &object, &harm), "{what}: nobody noticed");
                    assert_eq!(target.items(), place.right, "{what}");
                }
                Err(error) => {
                    assert!(!object.as_str().ends_with("volumes.txt"), "{what}: {}", error.chain());
                    assert!(!error.chain().contains("panicked"), "{what}: {}", error.chain());
                }
            }
        }
    }
}

/// What a restore does not read: `volumes.txt`, bytes behind a volume or an index piece, and in volumes without frame checksums the tar headers.
fn may_go_unseen(codec: Codec, object: &ObjectName, harm: &Harm) -> bool {
    let volume = object.as_str().contains("/data/");
    let edge = |damage: &Damage| matches!(damage, Damage::Flip { at: 0 | -1, .. });
    match harm {
        _ if object.as_str().ends_with("volumes.txt") => true,
        Harm::Damage(Damage::Extend { .. }) => volume || object.as_str().contains("/index/"),
        Harm::Damage(damage) => volume && codec == Codec::None && edge(damage),
        _ => false,
    }
}

/// Opening fails, or verifying finds it, and says in which object.
async fn told_by_verify(place: &Place, destination: &MemoryDestination, object: &ObjectName, harm: &Harm, what: &str) {
    let relative = object.as_str().split_once('/').unwrap().1;
    let of_opening = relative.ends_with(".json") || relative.ends_with(".json.sealed");
    let archive = match open(destination, &place.id, &place.keys).await {
        Ok(archive) => archive,
        Err(error) => {
            assert!(of_opening, "{what}: opening fails: {}", error.chain());
            let expected = [ErrorClass::Corrupt, ErrorClass::NotFound, ErrorClass::Unauthorized];
            assert!(expected.contains(&error.class()), "{what}: {:?} {}", error.class(), error.chain());
            return;
        }
    };
    assert!(!of_opening, "{what}: it opens");
    let found = verify(&archive, VerifyMode::Full).await.expect(what);
    assert!(found.findings.iter().any(|f| f.object.as_deref() == Some(relative)), "{what}: {found:?}");
    assert!(found.findings.iter().all(|f| !f.message.contains("panicked")), "{what}: {found:?}");
    let wrongly = found.findings.iter().any(|f| f.object.as_deref().is_some_and(|other| other != relative));
    assert!(!wrongly || matches!(harm, Harm::Swap(_)), "{what}: {found:?}");
    let sampled = verify(&archive, VerifyMode::Sample { percent: 100.0 }).await.expect(what);
    assert!(sampled.findings.iter().any(|f| f.object.as_deref() == Some(relative)), "{what}: {sampled:?}");

    let quick = verify(&archive, VerifyMode::Quick).await.expect(what);
    let before = place.destination.bytes(object).unwrap().len();
    let same_size = destination.bytes(object).is_some_and(|now| now.len() == before);
    let promised = !(relative.starts_with("data/") && same_size);
    assert_eq!(!quick.is_sound(), promised, "{what}: {harm:?}: {quick:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_damage_to_a_zstd_archive_is_told_and_nothing_wrong_is_restored() {
    matrix(Codec::Zstd, None).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_damage_to_an_uncompressed_archive_is_told_and_nothing_wrong_is_restored() {
    matrix(Codec::None, None).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_damage_to_a_sealed_archive_is_told_and_nothing_wrong_is_restored() {
    matrix(Codec::Zstd, Some(key())).await;
}

#[tokio::test]
async fn exchanged_archives_of_one_key_are_told() {
    // Everything of one archive lies under the name of the other: only the ids in it say so.
    let place = Place::new(Codec::Zstd, Some(key())).await;
    let moved = MemoryDestination::new("destination");
    for (name, bytes) in place.destination.objects() {
        if let Some(rest) = name.as_str().strip_prefix(place.other.as_str()) {
            moved.insert(&format!("{}{rest}", place.id), bytes);
        }
    }
    assert_eq!(open(&moved, &place.id, &place.keys).await.unwrap_err().class(), ErrorClass::Corrupt);
}

#[tokio::test]
async fn an_archive_that_was_replaced_or_removed_is_noticed_with_the_store() {
    let store = MemoryStore::new();
    let destination = MemoryDestination::new("destination");
    let id = back_up(&store, backup_request(source(1), destination.clone())).await;
    let other = back_up(&store, backup_request(source(2), destination.clone())).await;
    let status = async |destination: &MemoryDestination, store: Option<&dyn backup_core::adapter::Store>| {
        let listed = list_archives(destination, store, None).await.unwrap();
        listed.into_iter().find(|summary| summary.id == id).map(|summary| summary.status)
    };
    assert_eq!(status(&destination, Some(&store)).await, Some(ArchiveStatus::Complete));

    let replaced = forged_in_place_of(&destination, &id, &other);
    let archive = open(&replaced, &id, &None).await.unwrap();
    assert!(
        verify(&archive, VerifyMode::Full).await.unwrap().is_sound(),
        "the forgery is not good enough for this test"
    );
    assert_eq!(status(&replaced, None).await, Some(ArchiveStatus::Complete), "without a store nobody can tell");
    assert_eq!(status(&replaced, Some(&store)).await, Some(ArchiveStatus::Replaced));
    let target = MemoryTarget::new("target");
    let error = restore(&store, &replaced, &id, target.clone(), &None).await.unwrap_err();
    assert_eq!(error.class(), ErrorClass::Corrupt, "{}", error.chain());
    assert!(error.to_string().contains(id.as_str()), "{error}");
    assert!(target.items().is_empty());

    let manifest = ObjectName::new(format!("{id}/manifest.json")).unwrap();
    let incomplete = destination.snapshot();
    assert!(incomplete.remove(&manifest));
    assert_eq!(status(&incomplete, Some(&store)).await, Some(ArchiveStatus::Missing));
    assert_eq!(status(&incomplete, None).await, Some(ArchiveStatus::Incomplete));

    for name in destination.objects().into_keys().filter(|name| name.as_str().starts_with(id.as_str())) {
        destination.remove(&name);
    }
    assert_eq!(status(&destination, Some(&store)).await, Some(ArchiveStatus::Missing));
    assert_eq!(status(&destination, None).await, None);
}

/// Another archive, made to look as if it were this one. Possible only because it is not sealed.
fn forged_in_place_of(destination: &MemoryDestination, id: &ArchiveId, other: &ArchiveId) -> MemoryDestination {
    let forged = destination.snapshot();
    let bytes = |relative: &str| {
        let name = ObjectName::new(format!("{other}/{relative}")).unwrap();
        destination.bytes(&name).unwrap()
    };
    let mut header = Header::parse(&bytes("header.json")).unwrap();
    header.id = id.clone();
    let header_bytes = header.encode().unwrap();
    let mut manifest = Manifest::parse(&bytes("manifest.json")).unwrap();
    manifest.id = id.clone();
    manifest.header_sha256 = Digest::of(&header_bytes);
    for name in destination.objects().into_keys().filter(|name| name.as_str().starts_with(id.as_str())) {
        forged.remove(&name);
    }
    for (name, bytes) in destination.objects() {
        if let Some(rest) = name.as_str().strip_prefix(other.as_str()) {
            forged.insert(&format!("{id}{rest}"), bytes);
        }
    }
    forged.insert(&format!("{id}/header.json"), header_bytes);
    forged.insert(&format!("{id}/manifest.json"), manifest.encode().unwrap());
    forged
}
