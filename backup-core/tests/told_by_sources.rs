//! What a source tells besides its entries: void groups, digests, and that consistency is lost.
#![allow(clippy::unwrap_used, reason = "a test")]

use async_trait::async_trait;
use backup_core::adapter::{
    Content, Cursor, Estimate, Opened, ReadContext, Source, SourceEntry, SourceEvent, SourceFacts, SourceProperties,
    Version,
};
use backup_core::engine::{Archive, BackupRequest, Engine, OpenOptions, Outcome, ResumeBackup, Selection};
use backup_core::memory::MemoryStore;
use backup_core::model::{EntryKind, EntryName, GroupName, Identity};
use backup_core::state::PauseReason;
use backup_core::{Error, ErrorClass, Result};
use backup_testkit::doubles::MemoryDestination;
use futures::StreamExt;
use futures::TryStreamExt;
use futures::stream::BoxStream;
use std::ops::Range;
use std::sync::{Arc, Mutex};

/// What one run through the source gives.
#[derive(Clone, Debug)]
enum Told {
    /// A slice of the group `g`.
    Slice(&'static str),
    Void,
    Digest(&'static str, &'static str),
    Fail(ErrorClass),
}

/// Gives in each run what the test says.
#[derive(Debug)]
struct Scripted(Mutex<Vec<Vec<Told>>>);

fn group(name: &str) -> GroupName {
    GroupName(name.into())
}

fn event(told: Told) -> Result<SourceEvent> {
    Ok(match told {
        Told::Slice(name) => SourceEvent::Entry(Box::new(SourceEntry {
            name: name.into(),
            kind: EntryKind::Slice,
            mtime: None,
            group: Some(group("g")),
            metadata: Default::default(),
            content: Content::Inline { bytes: name.into(), permit: None },
            inconsistent: false,
            cursor: Cursor(name.into()),
        })),
        Told::Void => SourceEvent::Supersede { group: group("g") },
        Told::Digest(name, digest) => SourceEvent::Facts(SourceFacts {
            consistency: if name == "last" { "snapshot".into() } else { serde_json::Value::Null },
            group_digests: [(group(name), digest.to_owned())].into(),
        }),
        Told::Fail(class) => return Err(Error::new(class, "as the test says")),
    })
}

#[async_trait]
impl Source for Scripted {
    fn identity(&self) -> Identity {
        Identity::new("scripted", "s")
    }

    fn properties(&self) -> SourceProperties {
        SourceProperties { parallel_reads: 1, pins_version: true, naming: backup_core::model::Naming::Paths }
    }

    async fn check(&self) -> Result<()> {
        Ok(())
    }

    async fn estimate(&self) -> Result<Estimate> {
        Ok(Estimate::default())
    }

    fn events(self: Arc<Self>, _after: Option<Cursor>, _ctx: ReadContext) -> BoxStream<'static, Result<SourceEvent>> {
        let run = self.0.lock().unwrap().remove(0);
        futures::stream::iter(run.into_iter().map(event)).boxed()
    }

    async fn read(&self, entry: &EntryName, _: Option<&Version>, _: Range<u64>, _: &ReadContext) -> Result<Opened> {
        Err(Error::not_found("everything is inline").on(entry))
    }
}

/// Backs up in as many attempts as there are runs: what the attempts ended with, the manifest, and the names that count.
async fn back_up(runs: Vec<Vec<Told>>) -> (Vec<Result<Outcome>>, backup_core::archive::Manifest, Vec<String>) {
    let count = runs.len();
    let source = Arc::new(Scripted(Mutex::new(runs)));
    let destination = Arc::new(MemoryDestination::default());
    let engine = Engine::new(Arc::new(MemoryStore::new()));
    let handle = engine.backup(BackupRequest::new(source.clone(), destination.clone())).await.unwrap();
    let (operation, id) = (handle.id().clone(), handle.archive().clone());
    let mut outcomes = vec![handle.wait().await];
    for _ in 1..count {
        let resume = ResumeBackup {
            operation: operation.clone(),
            source: source.clone(),
            destination: destination.clone(),
            keys: None,
            limits: Default::default(),
            take_over: Default::default(),
        };
        outcomes.push(engine.resume_backup(resume).await.unwrap().wait().await);
    }
    let archive = Archive::open(destination, &id, &OpenOptions::default()).await.unwrap();
    let entries: Vec<_> = archive.entries(&Selection::default()).unwrap().try_collect().await.unwrap();
    let manifest = archive.manifest().clone();
    let counts = entries.iter().filter(|entry| !entry.superseded && !manifest.voids(entry));
    let names = counts.map(|entry| entry.name.to_string()).collect();
    (outcomes, manifest, names)
}

#[tokio::test]
async fn a_group_is_void_only_together_with_what_comes_next() {
    use Told::*;
    // After a cursor from before it was void, a source may find that it can go on after all.
    let runs = vec![vec![Slice("g/0"), Void, Fail(ErrorClass::Permanent)], vec![Slice("g/1")]];
    let (_, manifest, names) = back_up(runs).await;
    assert_eq!(names, ["g/0", "g/1"]);
    assert!(manifest.superseded.is_empty());
    // Behind the next entry it is void for good.
    let runs = vec![vec![Slice("g/0"), Void, Slice("g/0"), Fail(ErrorClass::Permanent)], vec![Slice("g/1")]];
    assert_eq!(back_up(runs).await.2, ["g/0", "g/1"]);
    // And at the end, when nothing comes next.
    let (_, manifest, names) = back_up(vec![vec![Slice("g/0"), Digest("g", "of g/0"), Void]]).await;
    assert!(names.is_empty(), "{names:?}");
    assert!(manifest.group_digests.is_empty(), "the digest of what is void is gone too");
}

#[tokio::test]
async fn digests_are_told_one_by_one_also_across_attempts() {
    use Told::*;
    let runs = vec![
        vec![Digest("a", "1"), Digest("b", "old"), Slice("g/0"), Fail(ErrorClass::Permanent)],
        vec![Digest("b", "2"), Slice("g/1"), Digest("last", "3")],
    ];
    let (_, manifest, _) = back_up(runs).await;
    let digests: Vec<_> = manifest.group_digests.iter().map(|(g, d)| (g.0.to_string(), d.as_str())).collect();
    assert_eq!(digests, [("a".into(), "1"), ("b".into(), "2"), ("last".into(), "3")]);
    assert_eq!(manifest.consistency, "snapshot");
}

#[tokio::test]
async fn lost_consistency_pauses_until_somebody_chooses() {
    use Told::*;
    let runs = vec![vec![Slice("g/0"), Fail(ErrorClass::ConsistencyLost)], vec![Slice("g/1")]];
    let (outcomes, _, names) = back_up(runs).await;
    let Ok(Outcome::Paused { reason, message, .. }) = &outcomes[0] else { unreachable!("{outcomes:?}") };
    assert_eq!(*reason, PauseReason::ConsistencyLost);
    assert!(message.as_deref().is_some_and(|text| text.contains("as the test says")));
    assert_eq!(names, ["g/0", "g/1"]);
}
