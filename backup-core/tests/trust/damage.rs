//! Every kind of damage to every kind of object is told, and nothing wrong is ever restored.

use crate::common::*;
use backup_core::adapter::{Granularity, Store};
use backup_core::archive::{Codec, Header, Manifest};
use backup_core::engine::{
    ArchiveStatus, BackupOptions, Limits, OpenOptions, Outcome, RestoreRequest, ResumeRestore, TakeOver, VerifyMode,
    delete_archive, list_archives,
};
use backup_core::memory::MemoryStore;
use backup_core::model::{ArchiveId, LogLevel, LogQuery, ObjectName};
use backup_core::{Digest, ErrorClass};
use backup_testkit::Method;
use backup_testkit::doubles::{Blob, Damage, MemoryDestination, MemorySource, MemoryTarget};
use backup_testkit::faulty::{Fault, FaultyDestination, Rule, Script, When};
use std::sync::Arc;

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
        let listed = list_archives(&Arc::new(destination.clone()), store, None).await.unwrap();
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

async fn restore_what_is_intact(
    place: &Place,
    destination: &MemoryDestination,
    target: &MemoryTarget,
) -> (backup_core::Result<Outcome>, Vec<String>) {
    let store = MemoryStore::new();
    let mut request = RestoreRequest::new(Arc::new(destination.clone()), place.id.clone(), Arc::new(target.clone()));
    request.open = opening(&place.keys);
    request.options.keep_going = true;
    let handle = match engine(&store).restore(request).await {
        Ok(handle) => handle,
        Err(error) => return (Err(error), Vec::new()),
    };
    let id = handle.id().clone();
    let outcome = wait(handle).await;
    let page = store.page_log(&id, &LogQuery { limit: 10_000, ..LogQuery::default() }).await.unwrap();
    let warnings = page.records.into_iter().filter(|r| r.record.level == LogLevel::Warning);
    (outcome, warnings.map(|r| r.record.message).collect())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_a_damaged_archive_all_that_is_intact_can_be_restored_and_what_is_lost_is_named() {
    for (codec, keys) in [(Codec::Zstd, None), (Codec::None, None), (Codec::Zstd, Some(key()))] {
        let place = Place::new(codec, keys).await;
        let mut losses = 0;
        for (object, others) in place.objects() {
            let relative = object.as_str().split_once('/').unwrap().1.to_owned();
            if !relative.starts_with("data/") && !relative.starts_with("index/") {
                continue;
            }
            for harm in place.harms(&object, &others) {
                let what = format!("{codec} {harm:?} of {object}");
                let destination = place.harmed(&object, &harm);
                let target = MemoryTarget::new("target");
                let (outcome, warnings) = restore_what_is_intact(&place, &destination, &target).await;
                assert_nothing_wrong(&target, &place.right, &what);
                let Ok(Outcome::Completed { warnings: count, progress }) = outcome else {
                    panic!("{what}: {outcome:?}")
                };
                assert_eq!(target.staged(), Vec::<String>::new(), "{what}");
                let there = target.items();
                let lost: Vec<_> = place.right.keys().filter(|name| !there.contains_key(*name)).collect();
                assert_eq!((count, count), (warnings.len() as u64, progress.warnings), "{what}: {warnings:?}");
                if relative.starts_with("index/") {
                    // Nobody knows the names any more.
                    assert!(lost.is_empty() || warnings[0].contains("index"), "{what}: {warnings:?}");
                    continue;
                }
                assert_eq!(progress.entries as usize, there.len(), "{what}");
                // What has no content is in the index.
                assert!(lost.len() < place.right.len() && there.contains_key(&"dir".into()), "{what}: {lost:?}");
                for name in &lost {
                    let named =
                        warnings.iter().filter(|text| text.starts_with(&format!("{name}: not restored"))).count();
                    assert_eq!(named, 1, "{what}: {name} in {warnings:?}");
                }
                assert_eq!(lost.len(), warnings.len(), "{what}: {warnings:?}");
                losses += lost.len();
            }
        }
        assert!(losses > 20, "{codec}: only {losses} entries were lost in all");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_bad_frame_costs_only_the_entries_in_it_and_a_strict_restore_says_how_to_go_on() {
    let store = MemoryStore::new();
    let destination = MemoryDestination::new("destination");
    let mut source = MemorySource::new("many");
    for n in 0..200 {
        source = source.file(&format!("f{n:03}"), Blob::pattern(n, 5000));
    }
    let mut request = backup_request(source.stored("large", Blob::pattern(999, 17 << 20)), destination.clone());
    request.options = BackupOptions { volume_size: Some(32 << 20), ..options(Codec::None) };
    let id = back_up(&store, request).await;
    let right = restored(&destination, &id, &None).await;
    let place = Place { destination, id: id.clone(), other: id, keys: None, right };
    let volume = below(&place.destination, &place.id, "data")[0].clone();
    // In the middle of the small files, and in the large one.
    for (at, expected) in [(500_000, "f"), (9 << 20, "large")] {
        let destination = place.harmed(&volume, &Harm::Damage(Damage::Flip { at, mask: 1 }));
        let error = restore(&MemoryStore::new(), &destination, &place.id, MemoryTarget::new("strict"), &None)
            .await
            .unwrap_err();
        assert_eq!(error.class(), ErrorClass::Corrupt);
        assert!(error.to_string().contains("keep going"), "{error}");
        let target = MemoryTarget::new("target");
        let (outcome, warnings) = restore_what_is_intact(&place, &destination, &target).await;
        assert!(matches!(outcome, Ok(Outcome::Completed { warnings: 1, .. })), "{outcome:?} {warnings:?}");
        assert!(warnings[0].starts_with(expected), "{warnings:?}");
        assert_eq!(target.items().len(), 200);
        assert_nothing_wrong(&target, &place.right, "a flipped bit");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_group_that_is_taken_as_a_whole_is_restored_whole_or_left_out() {
    let whole = || MemoryTarget::new("target").with_granularity(Granularity::Whole);
    let mut place = Place::new(Codec::Zstd, None).await;
    let (target, entries) = (whole(), place.right.len() as u64);
    match restore(&MemoryStore::new(), &place.destination, &place.id, target.clone(), &None).await {
        // Each slice counts.
        Ok(Outcome::Completed { warnings: 0, progress }) => assert_eq!(progress.entries, entries),
        other => panic!("{other:?}"),
    }
    place.right = target.items();
    let mut lost_whole = 0;
    for volume in below(&place.destination, &place.id, "data") {
        let destination = place.harmed(&volume, &Harm::Delete);
        let target = whole();
        let (outcome, warnings) = restore_what_is_intact(&place, &destination, &target).await;
        let Ok(Outcome::Completed { progress, .. }) = outcome else { panic!("{volume}: {outcome:?}") };
        assert_nothing_wrong(&target, &place.right, volume.as_str());
        let there = target.items();
        let is_there = there.contains_key(&"shop.orders".into());
        let slices = if is_there { 2 } else { 0 };
        assert_eq!(progress.entries, there.len() as u64 + slices - slices / 2, "{volume}: {warnings:?}");
        assert_eq!(warnings.len(), place.right.len() - there.len(), "{volume}: {warnings:?}");
        lost_whole += u64::from(!is_there);
    }
    assert!(lost_whole > 0, "no volume holds the group");
}

/// The destination is gone, and not just one object: nothing must count as lost.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_destination_that_vanishes_is_no_damage() {
    let place = Place::new(Codec::Zstd, None).await;
    let script =
        Script::new().rule(Rule::new(Method::Get, When::Always, Fault::Fail(ErrorClass::NotFound)).about("/data/"));
    let script = script.rule(Rule::new(Method::Stat, When::From(2), Fault::Fail(ErrorClass::NotFound)));
    let mut request = RestoreRequest::new(
        FaultyDestination::new(Arc::new(place.destination.clone()), script),
        place.id.clone(),
        Arc::new(MemoryTarget::new("target")),
    );
    request.options.keep_going = true;
    let ended = wait(engine(&MemoryStore::new()).restore(request).await.unwrap()).await;
    assert_eq!(ended.unwrap_err().class(), ErrorClass::Corrupt);
}

/// A restore that met damage goes on, from where it was, once it is told to keep going.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_restore_that_failed_of_damage_can_be_resumed_over_it() {
    let place = Place::new(Codec::Zstd, None).await;
    let volume = below(&place.destination, &place.id, "data")[1].clone();
    let destination = place.harmed(&volume, &Harm::Delete);
    let (store, target) = (MemoryStore::new(), MemoryTarget::new("target"));
    let request = RestoreRequest::new(Arc::new(destination.clone()), place.id.clone(), Arc::new(target.clone()));
    let handle = engine(&store).restore(request).await.unwrap();
    let id = handle.id().clone();
    wait(handle).await.unwrap_err();
    for keep_going in [false, true] {
        let resume = ResumeRestore {
            operation: id.clone(),
            destination: Arc::new(destination.clone()),
            target: Arc::new(target.clone()),
            open: OpenOptions::default(),
            limits: Limits::default(),
            take_over: TakeOver::WhenFree,
            keep_going,
        };
        let ended = wait(engine(&store).resume_restore(resume).await.unwrap()).await;
        assert_eq!(matches!(ended, Ok(Outcome::Completed { warnings: 1.., .. })), keep_going, "{ended:?}");
    }
    assert_nothing_wrong(&target, &place.right, "resumed");
    assert!(target.items().len() > 3 && target.items().len() < place.right.len());
}

/// Longer than what a listing holds in memory.
fn padded(bytes: &[u8]) -> Vec<u8> {
    let mut padded = bytes.to_vec();
    padded.resize(bytes.len() + (65 << 20), b' ');
    padded
}

#[tokio::test]
async fn a_manifest_of_any_length_is_compared_and_asked_for_references() {
    let store = MemoryStore::new();
    let destination = MemoryDestination::new("destination");
    let id = back_up(&store, backup_request(source(1), destination.clone())).await;
    let user = back_up(&store, backup_request(source(2), destination.clone())).await;
    let name = format!("{user}/manifest.json");
    let mut manifest = Manifest::parse(&destination.bytes(&ObjectName::new(&name).unwrap()).unwrap()).unwrap();
    manifest.references = vec![id.clone()];
    let long = destination.snapshot();
    long.remove(&ObjectName::new(&name).unwrap());
    long.insert(&name, padded(&manifest.encode().unwrap()));
    let listed = list_archives(&Arc::new(long.clone()), Some(&store), None).await.unwrap();
    let status = |id: &ArchiveId| listed.iter().find(|summary| summary.id == *id).map(|summary| &summary.status);
    assert_eq!(status(&id), Some(&ArchiveStatus::Complete));
    assert_eq!(status(&user), Some(&ArchiveStatus::Replaced));
    let error = delete_archive(&Arc::new(long.clone()), None, &id).await.unwrap_err();
    assert!(error.class() == ErrorClass::Conflict && error.to_string().contains(user.as_str()), "{error}");
}
