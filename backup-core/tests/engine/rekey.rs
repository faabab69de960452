//! Changing the keys of sealed archives, also when it is cut short anywhere.

use crate::common::*;
use backup_core::ErrorClass::{self, Conflict, Corrupt, Invalid, Permanent, Unauthorized};
use backup_core::adapter::{Destination, Payload};
use backup_core::archive::{KeyProvider, PassphraseParameters, PassphraseProvider};
use backup_core::engine::RekeyOutcome::{Already, Changed};
use backup_core::engine::{Archive, OldKey, RekeyOutcome, rekey};
use backup_core::memory::MemoryStore;
use backup_core::model::{ArchiveId, ObjectName};
use backup_core::{Error, Result};
use backup_testkit::Method;
use backup_testkit::doubles::{Blob, Damage, MemoryDestination, MemorySource, MemoryTarget};
use backup_testkit::faulty::{Fault, FaultyDestination, Rule, Script, When};
use std::sync::Arc;
use std::time::Duration;

type Keys = Arc<dyn KeyProvider>;

struct World {
    destination: MemoryDestination,
    source: Arc<MemorySource>,
    archive: ArchiveId,
    a: Keys,
    b: Keys,
    c: Keys,
}

impl World {
    async fn new() -> Self {
        let destination = MemoryDestination::default();
        let source = Arc::new(MemorySource::new("s").file("a", "a").stored("f", Blob::pattern(1, 600_000)));
        let a = key();
        let mut request = request(&source, &destination);
        request.keys = Some(a.clone());
        let archive = back_up(request).await;
        Self { destination, source, archive, a, b: key(), c: key() }
    }

    async fn rekey(&self, current: &Keys, new: &Keys, old: OldKey) -> Result<RekeyOutcome> {
        rekey(Arc::new(self.destination.clone()), &self.archive, &**current, &**new, old).await
    }

    async fn open(&self, keys: &Keys) -> Result<Archive> {
        Archive::open(Arc::new(self.destination.clone()), &self.archive, &opening(Some(keys.clone()))).await
    }

    /// Which of the three keys open the archive.
    async fn openers(&self) -> String {
        let mut openers = String::new();
        for (name, keys) in [("a", &self.a), ("b", &self.b), ("c", &self.c)] {
            match self.open(keys).await {
                Ok(_) => openers.push_str(name),
                Err(error) => assert_eq!(error.class(), Unauthorized, "{error:?}"),
            }
        }
        openers
    }

    fn key_objects(&self) -> Vec<String> {
        let names = objects(&self.destination, &self.archive).into_iter();
        names.filter_map(|name| Some(name.as_str().split_once("/keys/")?.1.to_owned())).collect()
    }

    fn key_object(&self, number: u64) -> ObjectName {
        ObjectName::new(format!("{}/keys/{number}.json", self.archive)).unwrap()
    }
}

fn class<T: std::fmt::Debug>(result: Result<T>) -> ErrorClass {
    result.unwrap_err().class()
}

#[tokio::test]
async fn the_new_key_opens_the_archive_and_the_old_one_does_not() {
    let w = World::new().await;
    assert_eq!(w.rekey(&w.a, &w.b, OldKey::Remove).await.unwrap(), Changed);
    assert_eq!((w.openers().await, w.key_objects()), ("b".into(), vec!["1.json".into()]));
    assert_good(&w.destination, &w.archive, w.source.clone(), Some(w.b.clone())).await;
    // Once more is no failure and changes nothing; another key that never opened it is one.
    let before = w.destination.objects();
    assert_eq!(w.rekey(&w.a, &w.b, OldKey::Remove).await.unwrap(), Already);
    assert_eq!(class(w.rekey(&w.a, &w.c, OldKey::Remove).await), Unauthorized);
    assert_eq!(w.destination.objects(), before);
    assert_eq!(w.rekey(&w.b, &w.a, OldKey::Remove).await.unwrap(), Changed);
    assert_eq!((w.openers().await, w.key_objects()), ("a".into(), vec!["2.json".into()]));
}

#[tokio::test]
async fn keys_that_are_kept_and_those_of_others_go_on_opening_it() {
    let w = World::new().await;
    assert_eq!(w.rekey(&w.a, &w.b, OldKey::Keep).await.unwrap(), Changed);
    assert_eq!(w.openers().await, "ab");
    assert_eq!(w.rekey(&w.b, &w.c, OldKey::Remove).await.unwrap(), Changed);
    assert_eq!(w.openers().await, "ac");
    // A key wrapped anew does not add up.
    assert_eq!(w.rekey(&w.a, &w.a, OldKey::Keep).await.unwrap(), Changed);
    assert_eq!(w.openers().await, "ac");
    let text = w.destination.bytes(&w.key_object(3)).unwrap();
    assert_eq!(String::from_utf8_lossy(&text).matches("key_id").count(), 2);
}

#[tokio::test]
async fn a_passphrase_takes_the_place_of_a_key_file_and_back() {
    let w = World::new().await;
    let cheap = PassphraseParameters { memory_kib: 64, passes: 1, lanes: 1 };
    let passphrase =
        |text: &str| -> Keys { Arc::new(PassphraseProvider::with_parameters(text.into(), cheap).unwrap()) };
    let (right, wrong) = (passphrase("right"), passphrase("wrong"));
    assert_eq!(w.rekey(&w.a, &right, OldKey::Remove).await.unwrap(), Changed);
    assert_eq!(class(w.open(&wrong).await), Unauthorized);
    assert_eq!(w.rekey(&right, &wrong, OldKey::Keep).await.unwrap(), Changed);
    assert!(w.open(&right).await.is_ok() && w.open(&wrong).await.is_ok());
    assert_eq!(w.rekey(&right, &w.b, OldKey::Remove).await.unwrap(), Changed);
    assert_eq!(class(w.open(&right).await), Unauthorized);
    assert!(w.open(&wrong).await.is_ok() && w.open(&w.b).await.is_ok());
}

/// Cut short before, during and behind each of its calls, the archive can be opened, and once more brings it to its end.
#[tokio::test]
async fn wherever_it_is_cut_short_a_key_opens_the_archive_and_once_more_ends_it() {
    for old in [OldKey::Remove, OldKey::Keep] {
        for fault in [Fault::Fail(Permanent), Fault::LostReply(Permanent), Fault::Hang] {
            let mut between = 0;
            for call in 1.. {
                let w = World::new().await;
                let when = if fault == Fault::Hang { When::From(call) } else { When::Nth(call) };
                let script = Script::new().rule(Rule::any(when, fault));
                let faulty = FaultyDestination::new(Arc::new(w.destination.clone()), script.clone());
                let change = rekey(faulty, &w.archive, &*w.a, &*w.b, old);
                let _ = tokio::time::timeout(Duration::from_millis(100), change).await;
                let openers = w.openers().await;
                assert!(["a", "ab", "b"].contains(&&*openers), "{openers} at call {call} with {fault:?}");
                between += usize::from(w.key_objects().len() == 2);
                w.rekey(&w.a, &w.b, old).await.unwrap();
                let expected = if old == OldKey::Keep { "ab" } else { "b" };
                assert_eq!(w.openers().await, expected, "at call {call} with {fault:?}");
                assert_eq!(w.key_objects().len(), 1, "at call {call} with {fault:?}");
                if script.fired().is_empty() {
                    assert!(call > 6, "the faults were met");
                    break;
                }
            }
            assert!(between > 0, "some were cut short between the put and the removal");
        }
    }
}

#[tokio::test]
async fn old_wraps_stay_when_the_new_ones_do_not_read_back() {
    let w = World::new().await;
    let script = Script::new().rule(Rule::new(Method::Get, When::Always, Fault::Flip { at: 20 }).about("keys/1"));
    let faulty = FaultyDestination::new(Arc::new(w.destination.clone()), script);
    let error = rekey(faulty, &w.archive, &*w.a, &*w.b, OldKey::Remove).await.unwrap_err();
    assert_eq!(error.class(), Corrupt, "{error:?}");
    assert_eq!(w.key_objects(), ["0.json", "1.json"]);
    // They really are damaged: whoever reads passes them over.
    assert!(w.destination.corrupt(&w.key_object(1), Damage::Truncate { to: 50 }));
    assert!(w.open(&w.a).await.is_ok());
    assert_eq!(w.rekey(&w.a, &w.b, OldKey::Remove).await.unwrap(), Changed);
    assert_eq!((w.openers().await, w.key_objects()), ("b".into(), vec!["2.json".into()]));
}

#[tokio::test]
async fn what_a_newer_version_wrote_is_not_replaced() {
    let w = World::new().await;
    let newer = backup_core::archive::KeyWraps { version: 2, wraps: Vec::new() }.encode().unwrap();
    w.destination.put(&w.key_object(1), Payload::from(newer)).await.unwrap();
    assert_eq!(class(w.rekey(&w.a, &w.b, OldKey::Remove).await), ErrorClass::Unsupported);
    assert_eq!(w.key_objects(), ["0.json", "1.json"]);
    assert!(w.open(&w.a).await.is_ok(), "what can be read opens it");
}

#[tokio::test]
async fn of_two_changes_at_once_one_wins_and_the_archive_opens_with_its_key() {
    for delay in [0, 1, 2, 3, 5, 8] {
        let w = World::new().await;
        let slow = Script::new().rule(Rule::any(When::Always, Fault::Delay(Duration::from_millis(delay))));
        let slow = FaultyDestination::new(Arc::new(w.destination.clone()), slow);
        let (b, c) =
            tokio::join!(rekey(slow, &w.archive, &*w.a, &*w.b, OldKey::Remove), w.rekey(&w.a, &w.c, OldKey::Remove));
        let openers = w.openers().await;
        match (b, c) {
            (Ok(Changed), Err(e)) => assert_eq!((&*openers, is_refusal(&e)), ("b", true), "{e:?}"),
            (Err(e), Ok(Changed)) => assert_eq!((&*openers, is_refusal(&e)), ("c", true), "{e:?}"),
            both => panic!("{both:?}, opened by {openers}"),
        }
    }
}

fn is_refusal(error: &Error) -> bool {
    [Conflict, Unauthorized].contains(&error.class())
}

/// A change that went on from what was there long ago finds that others have gone further.
#[tokio::test]
async fn a_change_that_comes_late_takes_its_wraps_back() {
    let w = World::new().await;
    let late = Script::new().rule(Rule::new(Method::Put, When::Always, Fault::Delay(Duration::from_millis(300))));
    let late = FaultyDestination::new(Arc::new(w.destination.clone()), late);
    let others = async {
        tokio::time::sleep(Duration::from_millis(50)).await;
        w.rekey(&w.a, &w.b, OldKey::Remove).await.unwrap();
        w.rekey(&w.b, &w.a, OldKey::Remove).await.unwrap();
        assert_eq!(w.key_objects(), ["2.json"]);
    };
    let (late, ()) = tokio::join!(rekey(late, &w.archive, &*w.a, &*w.c, OldKey::Remove), others);
    assert_eq!(class(late), Conflict);
    assert_eq!((w.openers().await, w.key_objects()), ("a".into(), vec!["2.json".into()]));
}

#[tokio::test]
async fn archives_that_are_not_complete_or_not_sealed_are_refused_and_stay_as_they_are() {
    let w = World::new().await;
    let plain = back_up(request(&w.source, &w.destination)).await;
    let destination: Arc<dyn Destination> = Arc::new(w.destination.clone());
    assert_eq!(class(rekey(destination.clone(), &plain, &*w.a, &*w.b, OldKey::Remove).await), Invalid);

    let store = MemoryStore::new();
    let script = Script::new().rule(Rule::new(Method::Put, When::Always, Fault::Fail(Permanent)).about("manifest"));
    let mut request = request(&w.source, &w.destination);
    request.destination = FaultyDestination::new(destination.clone(), script);
    request.keys = Some(w.a.clone());
    let handle = engine(&store).backup(request).await.unwrap();
    let (id, archive) = (handle.id().clone(), handle.archive().clone());
    wait(handle).await.unwrap_err();
    let before = w.destination.objects();
    let refused = rekey(destination.clone(), &archive, &*w.a, &*w.b, OldKey::Remove).await;
    assert_eq!(class(refused), Conflict);
    assert_eq!(w.destination.objects(), before);
    // It can be continued with its key, and then changed.
    let mut again = resume_request(&id, &w.source, destination.clone());
    again.keys = Some(w.a.clone());
    complete(engine(&store).resume_backup(again).await.unwrap()).await;
    rekey(destination, &archive, &*w.a, &*w.b, OldKey::Remove).await.unwrap();
    assert_good(&w.destination, &archive, w.source.clone(), Some(w.b.clone())).await;
}

/// Its checkpoint is sealed with the archive key, which stays.
#[tokio::test]
async fn a_restore_that_broke_off_goes_on_with_the_new_key() {
    let w = World::new().await;
    let (store, target) = (MemoryStore::new(), MemoryTarget::default());
    let script = Script::new().rule(Rule::new(Method::Get, When::Always, Fault::Fail(Permanent)).about("/data/"));
    let destination: Arc<dyn Destination> = Arc::new(w.destination.clone());
    let mut request = restore_request(&w.destination, &w.archive, &target, Some(w.a.clone()));
    request.destination = FaultyDestination::new(destination.clone(), script);
    let handle = engine(&store).restore(request).await.unwrap();
    let id = handle.id().clone();
    wait(handle).await.unwrap_err();
    w.rekey(&w.a, &w.b, OldKey::Remove).await.unwrap();
    let mut again = resume_restore_request(&id, destination, Arc::new(target.clone()));
    again.open = opening(Some(w.b.clone()));
    complete(engine(&store).resume_restore(again).await.unwrap()).await;
    assert_same(&items_at(&target), &items_of(w.source.clone()).await);
}
