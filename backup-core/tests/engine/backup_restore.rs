//! What goes in comes out, whatever the source does meanwhile.

use crate::common::*;
use backup_core::ErrorClass;
use backup_core::adapter::{DestinationProperties, Granularity, Source, SourceFacts};
use backup_core::archive::{Codec, Compression, WARNINGS_FILE};
use backup_core::engine::{
    Archive, BackupOptions, BackupRequest, Engine, EngineOptions, OpenOptions, Outcome, Selection, VerifyMode,
};
use backup_core::memory::MemoryStore;
use backup_core::model::{ArchiveId, EntryKind, EntryName, Metadata, Owner, Xattr};
use backup_testkit::Method;
use backup_testkit::doubles::{
    Blob, MemoryContent, MemoryDestination, MemoryEntry, MemorySource, MemoryTarget, Names, OnChange, OnResume,
    Restored, Synthetic, Trouble, TroubleAt,
};
use backup_testkit::faulty::{Fault, FaultySource, Rule, Script, When};
use backup_testkit::record::{Recorder, RecordingDestination, RecordingSource};
use futures::TryStreamExt;
use std::sync::Arc;
use std::time::Duration;

const MIB: u64 = 1 << 20;

fn with_metadata(mut entry: MemoryEntry) -> MemoryEntry {
    entry.metadata = Metadata {
        mode: Some(0o6755),
        user: Some(Owner { id: 1000, name: Some("ada".into()) }),
        group: Some(Owner { id: 4_000_000_000, name: None }),
        xattrs: vec![Xattr { name: "user.x".into(), value: vec![0, 255].into() }],
        sparse: true,
        headers: [("content-type".to_owned(), "text/plain".to_owned())].into(),
        user_metadata: [("k".to_owned(), "v".to_owned())].into(),
        tags: [("t".to_owned(), "u".to_owned())].into(),
    };
    entry
}

/// `scale` is 1 where sealing and the like, slow without optimisation, are not at work.
fn everything(scale: u64) -> MemorySource {
    let link = EntryKind::HardLink { target: "docs/stored.bin".into() };
    let mut latin1 = MemoryEntry::new("x", EntryKind::File, MemoryContent::Inline("not UTF-8".into()));
    latin1.name = EntryName::new(&b"docs/caf\xe9"[..]);
    MemorySource::new("everything")
        .directory("docs")
        .directory("empty")
        .file("docs/a.txt", "inline content")
        .file("docs/empty.txt", "")
        .stored("docs/empty.bin", "")
        .entry(with_metadata(MemoryEntry::new("docs/meta.txt", EntryKind::File, MemoryContent::Inline("m".into()))))
        .entry(latin1)
        .stored("docs/stored.bin", Blob::pattern(1, 300_000))
        .entry(MemoryEntry::new("docs/link", link, MemoryContent::Stored(Blob::pattern(1, 300_000))))
        .symlink("docs/symlink", "../../etc/passwd")
        .stored("exact.bin", Blob::pattern(2, 4 * MIB / scale))
        .stored("large.bin", Blob::pattern(3, 18 * MIB / scale + 1))
        .file("inline.bin", Blob::pattern(4, 8 * MIB / scale))
        .slices("shop.orders", (0..5).map(|n| Blob::pattern(n, 100_000)).collect())
        .file(&format!("long/{}", "n".repeat(400)), "a long name")
        .file("naïve café.txt", "UTF-8")
}

#[tokio::test(flavor = "multi_thread")]
async fn everything_comes_back_in_every_format() {
    for (codec, sealed) in formats() {
        let scale = if sealed || codec == Codec::Gzip { 16 } else { 1 };
        let source = Arc::new(everything(scale));
        let destination = MemoryDestination::default();
        let keys = sealed.then(key);
        let mut request = request(&source, &destination);
        request.options.compression = Compression::new(codec, None).unwrap();
        request.options.volume_size = Some(3 * MIB / scale);
        request.options.frame_size = if scale == 1 { 1 << 20 } else { 64 << 10 };
        request.keys = keys.clone();
        let archive = back_up(request).await;
        assert_good(&destination, &archive, source, keys.clone()).await;
        for mode in [VerifyMode::Quick, VerifyMode::Sample { percent: 50.0 }, VerifyMode::Sample { percent: 100.0 }] {
            let found = verify(&destination, &archive, keys.clone(), mode).await.unwrap();
            assert!(found.is_sound(), "{codec:?} {sealed} {mode:?}: {found:?}");
        }
        let names = objects(&destination, &archive);
        assert_eq!(names.iter().any(|name| name.as_str().ends_with("volumes.txt")), !sealed);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn default_options_do_as_well() {
    let source = Arc::new(everything(1));
    let destination = MemoryDestination::default();
    let archive = back_up(BackupRequest::new(source.clone(), Arc::new(destination.clone()))).await;
    assert_good(&destination, &archive, source, None).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_source_without_entries_makes_an_archive_without_entries() {
    for keys in [None, Some(key())] {
        let source = Arc::new(MemorySource::new("empty"));
        let destination = MemoryDestination::default();
        let mut request = request(&source, &destination);
        request.keys = keys.clone();
        let archive = back_up(request).await;
        assert_good(&destination, &archive, source, keys).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn many_tiny_entries_come_back() {
    for inline in [true, false] {
        let entries = if inline { 60_000 } else { 10_000 };
        let source = Arc::new(MemorySource::synthetic("tiny", Synthetic { entries, size: 10, inline }));
        let destination = MemoryDestination::default();
        let archive = back_up(BackupRequest::new(source.clone(), Arc::new(destination.clone()))).await;
        assert_good(&destination, &archive, source, None).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_index_takes_at_most_64_stored_bytes_an_entry() {
    let source = Arc::new(MemorySource::synthetic("tiny", Synthetic { entries: 50_000, size: 100, inline: true }));
    let destination = MemoryDestination::default();
    let archive = back_up(BackupRequest::new(source, Arc::new(destination.clone()))).await;
    let index: usize = destination
        .objects()
        .iter()
        .filter(|(name, _)| name.as_str().starts_with(&format!("{archive}/index/")))
        .map(|(_, bytes)| bytes.len())
        .sum();
    assert!(index <= 64 * 50_000, "{} bytes an entry", index as f64 / 50_000.0);
}

#[tokio::test(flavor = "multi_thread")]
async fn tiny_frames_and_volumes_make_a_whole_all_the_same() {
    for volume_size in [1, 70_000] {
        let source = Arc::new(
            MemorySource::new("s")
                .stored("large.bin", Blob::pattern(1, 3 * MIB))
                .file("a", "a")
                .file("inline.bin", Blob::pattern(2, MIB))
                .stored("b", "b"),
        );
        let destination = MemoryDestination::default();
        let mut request = request(&source, &destination);
        request.options = BackupOptions { volume_size: Some(volume_size), ..small_volumes(Codec::None) };
        let archive = back_up(request).await;
        assert!(objects(&destination, &archive).len() > 40);
        assert_good(&destination, &archive, source, None).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn no_object_is_larger_than_the_destination_takes() {
    let properties = DestinationProperties { max_object_size: MIB, preferred_volume_size: 32 * MIB, parallelism: 1 };
    for keys in [None, Some(key())] {
        let size = if keys.is_some() { 2 * MIB } else { 5 * MIB };
        let source = Arc::new(MemorySource::new("s").stored("large.bin", Blob::pattern(1, size)).file("a", "a"));
        let destination = MemoryDestination::default().with_properties(properties);
        let mut request = request(&source, &destination);
        request.options = BackupOptions { volume_size: None, ..small_volumes(Codec::None) };
        request.keys = keys.clone();
        let archive = back_up(request).await;
        assert_good(&destination, &archive, source, keys).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn large_entries_are_read_in_ranges_as_long_as_the_memory_allows() {
    let source = Arc::new(
        MemorySource::new("s").stored("one", Blob::pattern(1, 4 * MIB)).stored("large", Blob::pattern(2, 20 * MIB)),
    );
    for (memory, ranges) in [(64, &[4, 4, 4, 4, 4][..]), (96, &[8, 8, 4]), (192, &[16, 4]), (1024, &[16, 4])] {
        let (destination, recorder) = (MemoryDestination::default(), Recorder::new());
        let engine = Engine::with_options(
            Arc::new(MemoryStore::new()),
            EngineOptions { memory: memory * MIB, ..options() },
            Vec::new(),
        );
        let recorded = RecordingSource::new(source.clone(), recorder.clone());
        complete(engine.backup(request(&recorded, &destination)).await.unwrap()).await;
        let reads = |name| -> Vec<u64> {
            let calls = recorder.calls_of(Method::Read);
            let mut lengths: Vec<u64> = calls
                .iter()
                .filter(|call| call.subject == name && call.bytes > 0)
                .map(|call| call.bytes / MIB)
                .collect();
            lengths.sort_unstable_by_key(|length| std::cmp::Reverse(*length));
            lengths
        };
        assert_eq!(reads("one"), [4], "{memory} MiB");
        assert_eq!(reads("large"), ranges, "{memory} MiB");
    }
}

/// 8 MiB slices take the whole share of inline contents; small entries between them must not keep it for ever.
#[tokio::test(flavor = "multi_thread")]
async fn the_least_memory_and_the_largest_slices_do_not_wait_for_each_other() {
    let mut source = MemorySource::new("s");
    for n in 0..2 {
        source = source
            .file(&format!("{n}/small"), "small")
            .file(&format!("{n}/inline"), Blob::pattern(n, 8 * MIB))
            .stored(&format!("{n}/stored"), Blob::pattern(n, 9 * MIB))
            .slices(&format!("group.{n}"), vec![Blob::pattern(n, 8 * MIB), Blob::pattern(n, 8 * MIB), "last".into()]);
    }
    let source = Arc::new(source);
    for codec in [Codec::None, Codec::Zstd] {
        let destination = MemoryDestination::default();
        let mut request = BackupRequest::new(source.clone(), Arc::new(destination.clone()));
        request.options.compression = Compression::new(codec, None).unwrap();
        let archive = back_up(request).await;
        assert_good(&destination, &archive, source.clone(), None).await;
    }
}

/// Backs up a source with trouble, and gives the warnings, what a restore makes of it, and the exported files.
async fn with_trouble(
    source: MemorySource,
) -> (u64, MemoryTarget, std::collections::BTreeMap<String, Vec<u8>>, Arc<MemorySource>) {
    let (source, destination) = (Arc::new(source), MemoryDestination::default());
    let handle = engine(&MemoryStore::new()).backup(request(&source, &destination)).await.unwrap();
    let archive = handle.archive().clone();
    let warnings = complete(handle).await;
    assert_sound(&destination, &archive, None).await;
    let opened = Archive::open(Arc::new(destination.clone()), &archive, &OpenOptions::default()).await.unwrap();
    assert_eq!(opened.manifest().totals.warnings, warnings);
    let target = restore(&destination, &archive, None).await;
    let files = untar(&destination, &archive).await;
    assert_eq!(files.contains_key(WARNINGS_FILE), warnings > 0);
    (warnings, target, files, source)
}

#[tokio::test(flavor = "multi_thread")]
async fn an_entry_that_changed_since_it_was_listed_is_stored_as_it_is_now() {
    for on_change in [OnChange::Error, OnChange::Report] {
        for size in [100, 10 * MIB] {
            let source = MemorySource::new("s")
                .with_on_change(on_change)
                .stored("before", "b")
                .stored("changes", Blob::pattern(1, size))
                .stored("after", "a");
            source.at_read("changes", TroubleAt::read(1), Trouble::Change(Blob::pattern(2, size + 5)));
            let (warnings, target, files, source) = with_trouble(source).await;
            assert_eq!(warnings, 0);
            assert_eq!(target.content("changes"), source.content("changes"));
            assert_eq!(files["changes"], source.content("changes").unwrap());
            assert_eq!(target.items().len(), 3);
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_entry_that_changes_in_its_middle_is_read_again_or_kept_with_a_warning() {
    // Where the source refuses to mix versions, what was read is superseded.
    let source = MemorySource::new("s")
        .with_parallel_reads(1)
        .stored("changes", Blob::pattern(1, 20 * MIB))
        .stored("after", "a");
    source.at_read("changes", TroubleAt::read(4), Trouble::Change(Blob::pattern(2, 15 * MIB)));
    let (warnings, target, files, source) = with_trouble(source).await;
    assert_eq!(warnings, 0);
    assert_eq!(target.content("changes"), source.content("changes"));
    assert_eq!(files["changes"], source.content("changes").unwrap());
    // Where it does not, the mixture is kept at its recorded size.
    let source = MemorySource::new("s")
        .with_parallel_reads(1)
        .with_on_change(OnChange::Report)
        .stored("changes", Blob::pattern(1, 20 * MIB));
    source.at_read("changes", TroubleAt::read(4), Trouble::Change(Blob::pattern(2, 20 * MIB)));
    let (warnings, target, files, _) = with_trouble(source).await;
    assert_eq!(warnings, 1);
    assert_eq!(target.content("changes").unwrap().len() as u64, 20 * MIB);
    assert!(String::from_utf8_lossy(&files[WARNINGS_FILE]).contains("changes: changed while it was read"));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_entry_that_keeps_changing_ends_in_a_warning() {
    let blob = Blob::pattern(1, 1000);
    let source = MemorySource::new("s").stored("changes", blob.clone()).stored("after", "a");
    source.trouble_now("changes", Trouble::KeepChanging);
    let (warnings, target, files, _) = with_trouble(source).await;
    assert_eq!(warnings, 1);
    assert!(target.content("changes").is_none() && target.content("after").is_some());
    assert!(String::from_utf8_lossy(&files[WARNINGS_FILE]).contains("changes: skipped"));

    let source = MemorySource::new("s").with_on_change(OnChange::Report).stored("changes", blob).stored("after", "a");
    source.trouble_now("changes", Trouble::KeepChanging);
    let (warnings, target, _, _) = with_trouble(source).await;
    assert_eq!(warnings, 1);
    assert_eq!(target.content("changes").unwrap().len(), 1000, "kept at its size");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_read_is_skipped_with_a_warning_that_says_why() {
    for size in [1000, 10 * MIB] {
        let source = MemorySource::new("s")
            .stored("vanished", Blob::pattern(1, size))
            .stored("denied", Blob::pattern(2, size))
            .stored("broken", Blob::pattern(3, size))
            .warning("sockets", "skipped: a socket")
            .stored("fine", "fine");
        source.at_read("vanished", TroubleAt::read(1), Trouble::Vanish);
        source.trouble_now("denied", Trouble::Deny);
        source.trouble_now("broken", Trouble::Fail(ErrorClass::Corrupt));
        let (warnings, target, files, _) = with_trouble(source).await;
        assert_eq!(warnings, 4);
        assert_eq!(target.items().keys().map(ToString::to_string).collect::<Vec<_>>(), ["fine"]);
        let text = String::from_utf8(files[WARNINGS_FILE].clone()).unwrap();
        for line in
            ["vanished: skipped: it vanished", "denied: skipped", "broken: skipped", "sockets: skipped: a socket"]
        {
            assert!(text.contains(line), "{line} is not in {text}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_breaks_off_in_its_middle_is_filled_up_and_void() {
    for trouble in [Trouble::Deny, Trouble::Vanish, Trouble::Fail(ErrorClass::Permanent)] {
        let source = MemorySource::new("s").stored("large", Blob::pattern(1, 20 * MIB)).stored("after", "a");
        source.at_read("large", TroubleAt::read(3), trouble);
        let (warnings, target, files, _) = with_trouble(source).await;
        assert_eq!(warnings, 1);
        assert!(target.content("large").is_none(), "half an entry is not restored");
        assert!(target.content("after").is_some());
        assert!(String::from_utf8_lossy(&files[WARNINGS_FILE]).contains("large: skipped"));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_entry_that_shrinks_in_its_middle_is_read_again() {
    let source = MemorySource::new("s").with_on_change(OnChange::Report).stored("log", Blob::pattern(1, 20 * MIB));
    source.at_read("log", TroubleAt { read: 3, after: 100_000 }, Trouble::Change(Blob::pattern(1, 9 * MIB)));
    let (warnings, target, files, source) = with_trouble(source).await;
    assert_eq!(warnings, 0);
    assert_eq!(target.content("log"), source.content("log"));
    assert_eq!(files["log"].len() as u64, 9 * MIB);
}

/// A log that is cut short each time that it is read is kept at the size that it had, with zeros at its end.
#[tokio::test(flavor = "multi_thread")]
async fn an_entry_that_keeps_shrinking_keeps_its_size_and_is_marked() {
    let source = MemorySource::new("s")
        .with_parallel_reads(1)
        .with_on_change(OnChange::Report)
        .stored("log", Blob::pattern(1, 20 * MIB));
    for read in [3, 20, 30] {
        let size = 20 * MIB - read * 300_000;
        source.at_read("log", TroubleAt::read(read), Trouble::Change(Blob::pattern(1, size)));
    }
    let source = Arc::new(source);
    let destination = MemoryDestination::default();
    let archive = back_up(request(&source, &destination)).await;
    let opened = Archive::open(Arc::new(destination.clone()), &archive, &OpenOptions::default()).await.unwrap();
    let entries: Vec<_> = opened.entries(&Selection::default()).unwrap().try_collect().await.unwrap();
    assert!(entries[0].inconsistent);
    let content = restore(&destination, &archive, None).await.content("log").unwrap();
    assert_eq!(content.len() as u64, entries[0].size);
    let kept = content.iter().zip(Blob::pattern(1, 20 * MIB).bytes()).take_while(|(a, b)| **a == *b).count();
    assert!(kept as u64 >= 11 * MIB && content[kept..].iter().all(|b| *b == 0), "{kept}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hard_link_whose_other_name_could_not_be_read_is_stored_with_its_content() {
    let link = |name: &str, content| MemoryEntry::new(name, EntryKind::HardLink { target: "denied".into() }, content);
    let content = Blob::pattern(1, 10 * MIB);
    let source = MemorySource::new("s")
        .stored("denied", content.clone())
        .entry(link("second", MemoryContent::Stored(content.clone())))
        .entry(link("third", MemoryContent::Inline("inline".into())));
    source.trouble_now("denied", Trouble::Deny);
    let (warnings, target, files, _) = with_trouble(source).await;
    assert_eq!(warnings, 1);
    assert_eq!(target.content("second").unwrap(), content.bytes());
    assert_eq!(target.content("third").unwrap(), "inline");
    assert!(!files.contains_key("denied"));
}

#[tokio::test(flavor = "multi_thread")]
async fn entries_that_cannot_be_named_are_skipped() {
    let mut nameless = MemoryEntry::new("x", EntryKind::File, MemoryContent::Inline("a".into()));
    nameless.name = EntryName::new(Vec::new());
    let source = MemorySource::new("s")
        .entry(nameless)
        .stored(&"n".repeat(70_000), Blob::pattern(1, 9 * MIB))
        .file("fine", "fine");
    let (warnings, target, _, _) = with_trouble(source).await;
    assert_eq!(warnings, 2);
    assert_eq!(target.items().len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_source_that_fails_as_a_whole_leaves_a_backup_that_goes_on() {
    let source = Arc::new(MemorySource::new("s").file("a", "a").stored("b", Blob::pattern(1, 9 * MIB)).file("c", "c"));
    source.trouble_now("b", Trouble::Fail(ErrorClass::Unauthorized));
    let (store, destination) = (MemoryStore::new(), MemoryDestination::default());
    let handle = engine(&store).backup(request(&source, &destination)).await.unwrap();
    let (id, archive) = (handle.id().clone(), handle.archive().clone());
    assert!(matches!(wait(handle).await.unwrap(), Outcome::Paused { message: Some(_), .. }));
    let healed = Arc::new(MemorySource::new("s").file("a", "a").stored("b", Blob::pattern(1, 9 * MIB)).file("c", "c"));
    let resumed =
        engine(&store).resume_backup(resume_request(&id, &healed, Arc::new(destination.clone()))).await.unwrap();
    assert_eq!(complete(resumed).await, 0);
    assert_good(&destination, &archive, healed, None).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn facts_of_the_source_reach_the_manifest() {
    let facts = SourceFacts { consistency: serde_json::json!({"kind": "snapshot"}), ..SourceFacts::default() };
    let source = Arc::new(MemorySource::new("s").file("a", "a").with_facts(facts));
    let destination = MemoryDestination::default();
    let archive = back_up(request(&source, &destination)).await;
    let opened = Archive::open(Arc::new(destination), &archive, &OpenOptions::default()).await.unwrap();
    assert_eq!(opened.manifest().consistency["kind"], "snapshot");
}

/// A source that is slow must not keep what it has delivered in memory for ever.
#[tokio::test(flavor = "multi_thread")]
async fn a_volume_ends_when_it_is_old() {
    let script = Script::new().rule(Rule::new(Method::Read, When::Always, Fault::Delay(Duration::from_millis(60))));
    let mut source = MemorySource::new("s").with_parallel_reads(1);
    for n in 0..8 {
        source = source.stored(&format!("f{n}"), Blob::pattern(n, 1000));
    }
    let source = Arc::new(source);
    let slow = FaultySource::new(source.clone(), script);
    let destination = MemoryDestination::default();
    let mut request = request(&slow, &destination);
    request.options.volume_age = Duration::from_millis(100);
    let archive = back_up(request).await;
    let volumes = objects(&destination, &archive).iter().filter(|name| name.as_str().contains("/data/")).count();
    assert!((3..=8).contains(&volumes), "{volumes} volumes");
    assert_good(&destination, &archive, source, None).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_group_that_comes_again_replaces_what_came_before() {
    for on_resume in [OnResume::Supersede, OnResume::SupersedeWith(vec!["new 0".into(), "new 1".into()])] {
        let expected = match &on_resume {
            OnResume::SupersedeWith(_) => vec!["new 0".to_owned(), "new 1".to_owned()],
            _ => (0..20).map(|n| format!("old {n}")).collect(),
        };
        let slices = || (0..20).map(|n| Blob::from(format!("old {n}").as_str())).collect();
        let script = Script::new().rule(Rule::new(
            Method::Events,
            When::First(2),
            Fault::Break { after: 12, class: ErrorClass::Permanent },
        ));
        let source = Arc::new(MemorySource::new("s").file("a", "a").group("g", slices(), on_resume).file("z", "z"));
        let faulty = FaultySource::new(source.clone(), script);
        let (store, destination) = (MemoryStore::new(), MemoryDestination::default());
        let handle = engine(&store).backup(request(&faulty, &destination)).await.unwrap();
        let (id, archive) = (handle.id().clone(), handle.archive().clone());
        wait(handle).await.unwrap_err();
        let resume =
            async || engine(&store).resume_backup(resume_request(&id, &faulty, Arc::new(destination.clone()))).await;
        // The second group is so short that it does not break off.
        if wait(resume().await.unwrap()).await.is_err() {
            assert_eq!(complete(resume().await.unwrap()).await, 0);
        }
        assert_sound(&destination, &archive, None).await;
        let opened = Archive::open(Arc::new(destination.clone()), &archive, &OpenOptions::default()).await.unwrap();
        assert_eq!(opened.manifest().superseded.len(), 1, "one record of a group is enough");
        // For whoever unpacks with `tar`, there are files of the first reading that nothing replaces.
        let files = untar(&destination, &archive).await;
        assert!(files.contains_key("g/000010.bin"));
        let notes = String::from_utf8_lossy(&files[WARNINGS_FILE]);
        assert!(
            notes.starts_with("group g was read again; files of it from the first reading (among the first "),
            "{notes}"
        );
        assert_eq!((opened.manifest().totals.warnings, opened.warnings().await.unwrap()), (0, None));
        let target = restore(&destination, &archive, None).await;
        let items = target.items();
        assert_eq!(items.len(), expected.len() + 2);
        for (n, text) in expected.iter().enumerate() {
            assert_eq!(target.content(&format!("g/{n:06}.bin")).unwrap(), text.as_bytes());
        }
        // A whole group is one content; what is void must not be in it.
        let whole = MemoryTarget::default().with_granularity(Granularity::Whole);
        let handle = engine(&store).restore(restore_request(&destination, &archive, &whole, None)).await.unwrap();
        assert_eq!(complete(handle).await, 0);
        assert_eq!(whole.content("g").unwrap(), expected.concat().as_bytes());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn targets_get_slices_in_the_portions_that_they_want() {
    let mut source = MemorySource::new("s").file("a", "a");
    for group in 0..6 {
        let slices = (0..30).map(|n| Blob::pattern(group * 100 + n, 100_000)).collect();
        source = source.slices(&format!("db.g{group}"), slices).file(&format!("between/{group}"), "b");
    }
    let source = Arc::new(source);
    let destination = MemoryDestination::default();
    let archive = back_up(request(&source, &destination)).await;
    let ordered = MemoryTarget::default().with_granularity(Granularity::OrderedSlices);
    let store = MemoryStore::new();
    let handle = engine(&store).restore(restore_request(&destination, &archive, &ordered, None)).await.unwrap();
    assert_eq!(complete(handle).await, 0);
    assert_clean(&ordered);
    assert_same(&items_at(&ordered), &items_of(source.clone()).await);

    let whole = MemoryTarget::default().with_granularity(Granularity::Whole);
    let handle = engine(&store).restore(restore_request(&destination, &archive, &whole, None)).await.unwrap();
    assert_eq!(complete(handle).await, 0);
    assert_clean(&whole);
    assert_eq!(whole.items().len(), 1 + 6 + 6);
    for group in 0..6 {
        let name = format!("db.g{group}");
        assert_eq!(whole.content(&name), source.group_content(&name), "{name}");
    }
}

async fn chosen(selection: Selection) -> (Vec<String>, u64) {
    let source = Arc::new(MemorySource::synthetic("tiny", Synthetic { entries: 20_000, size: 100, inline: true }));
    let destination = MemoryDestination::default();
    let archive = back_up(request(&source, &destination)).await;
    let recorder = Recorder::new();
    let counted = RecordingDestination::new(Arc::new(destination.clone()), recorder.clone());
    let target = MemoryTarget::default();
    let mut request = restore_request(&destination, &archive, &target, None);
    request.destination = counted;
    request.options.selection = selection;
    let handle = engine(&MemoryStore::new()).restore(request).await.unwrap();
    assert_eq!(complete(handle).await, 0);
    assert_clean(&target);
    let all = items_of(source).await;
    for (name, item) in items_at(&target) {
        assert_eq!(all[&name], item);
    }
    let read = recorder.calls_of(Method::Get).iter().filter(|c| c.subject.contains("/data/")).map(|c| c.bytes).sum();
    (target.items().keys().map(ToString::to_string).collect(), read)
}

#[tokio::test(flavor = "multi_thread")]
async fn only_what_is_chosen_is_read_and_restored() {
    let strings = |list: &[&str]| list.iter().map(ToString::to_string).collect::<Vec<_>>();
    let (names, read) = chosen(Selection {
        names: vec!["d0000007/f000000007001".into(), "d0000019/f000000019999".into()],
        ..Selection::default()
    })
    .await;
    assert_eq!(names, ["d0000007/f000000007001", "d0000019/f000000019999"]);
    assert!(read < 300_000, "{read} bytes were read for two small entries");

    let (names, _) = chosen(Selection {
        include: strings(&["d0000003", "**/f000000000001"]),
        exclude: strings(&["d0000003/f00000000[!3]*", "*/*[1-9]"]),
        ..Selection::default()
    })
    .await;
    assert_eq!(names.len(), 100);
    assert!(names.iter().all(|name| name.starts_with("d0000003/") && name.ends_with('0')), "{names:?}");

    let (names, read) = chosen(Selection { include: strings(&["nothing"]), ..Selection::default() }).await;
    assert_eq!((names.len(), read), (0, 0));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_there_already_stays_unless_the_caller_says_otherwise() {
    let source =
        Arc::new(MemorySource::new("s").file("a", "new").file("b", "b").stored("l", Blob::pattern(1, 17 * MIB)));
    let destination = MemoryDestination::default();
    let archive = back_up(request(&source, &destination)).await;
    let other = |content: &'static str| Restored {
        kind: EntryKind::File,
        mtime: None,
        metadata: Metadata::default(),
        content: content.into(),
    };
    for overwrite in [false, true] {
        let target = MemoryTarget::default().with_names(Names::Keys);
        target.insert("a", other("old"));
        target.insert("l", other("old"));
        let mut request = restore_request(&destination, &archive, &target, None);
        request.options.overwrite = overwrite;
        let handle = engine(&MemoryStore::new()).restore(request).await.unwrap();
        assert_eq!(complete(handle).await, if overwrite { 0 } else { 2 });
        assert_clean(&target);
        assert_eq!(target.content("a").unwrap(), if overwrite { "new" } else { "old" });
        assert_eq!(target.content("l").unwrap() == "old", !overwrite);
        assert_eq!(target.content("b").unwrap(), "b");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_backup_reads_its_source_and_nothing_else_of_it() {
    let source = Arc::new(everything(1));
    let before = items_of(source.clone() as Arc<dyn Source>).await;
    let destination = MemoryDestination::default();
    back_up(request(&source, &destination)).await;
    assert_same(&items_of(source).await, &before);
}

#[tokio::test]
async fn contents_are_read_whole_and_in_order_as_chosen() {
    for (codec, sealed) in formats() {
        let keys = sealed.then(key);
        let source = Arc::new(everything(8));
        let destination = MemoryDestination::default();
        let mut request = request(&source, &destination);
        request.options = small_volumes(codec);
        request.keys = keys.clone();
        let id = back_up(request).await;
        let archive = Archive::open(Arc::new(destination.clone()), &id, &opening(keys)).await.unwrap();
        let selection = Selection { exclude: vec!["docs/empty.bin".into()], ..Selection::default() };
        let contents: Vec<_> = archive.contents(&selection, Default::default()).unwrap().try_collect().await.unwrap();
        let mut entries: Vec<_> = archive.entries(&selection).unwrap().try_collect().await.unwrap();
        entries.retain(|entry| entry.sha256.is_some());
        assert_eq!(contents.iter().map(|small| &small.entry).collect::<Vec<_>>(), entries.iter().collect::<Vec<_>>());
        for small in &contents {
            assert_eq!(small.entry.sha256, Some(backup_core::Digest::of(&small.content)), "{}", small.entry.name);
        }
        assert!(contents.iter().any(|small| small.content.len() > 1 << 20) && contents.len() > 12);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_entry_with_more_metadata_than_an_index_piece_can_hold_is_skipped_with_a_warning() {
    let mut heavy = MemoryEntry::new("heavy", EntryKind::File, MemoryContent::Inline("x".into()));
    heavy.metadata.user_metadata.insert("note".into(), "x".repeat(5 << 20));
    let mut fits = MemoryEntry::new("fits", EntryKind::File, MemoryContent::Inline("x".into()));
    // Each of these takes six bytes in the index.
    fits.metadata.user_metadata.insert("note".into(), "\u{1}".repeat(4_000_000));
    let source = Arc::new(MemorySource::new("s").file("a", "a").entry(heavy).entry(fits).file("z", "z"));
    let (store, destination) = (MemoryStore::new(), MemoryDestination::default());
    let handle = engine(&store).backup(request(&source, &destination)).await.unwrap();
    let archive = handle.archive().clone();
    assert_eq!(complete(handle).await, 1);
    assert_sound(&destination, &archive, None).await;
    let names: Vec<_> = restore(&destination, &archive, None).await.items().into_keys().collect();
    assert_eq!(names, ["a".into(), "fits".into(), "z".into()]);
}

/// Time stands still while anything works, so that what passes is waiting.
#[tokio::test(start_paused = true)]
async fn little_in_an_open_frame_does_not_hold_up_what_needs_all_the_memory() {
    let mut source = MemorySource::new("s");
    for n in 0..6 {
        source = source.file(&format!("{n}/large"), Blob::pattern(n, 8 * MIB)).file(&format!("{n}/small"), "x");
    }
    let source = Arc::new(source);
    let (store, destination) = (MemoryStore::new(), MemoryDestination::default());
    let start = tokio::time::Instant::now();
    complete(engine(&store).backup(request(&source, &destination)).await.unwrap()).await;
    let waited = start.elapsed();
    assert!(waited < Duration::from_secs(1), "{waited:?}");
}

/// Backs up a source whose calls fail by a script.
async fn failing(
    source: &Arc<MemorySource>,
    script: Script,
) -> (backup_core::Result<Outcome>, MemoryDestination, ArchiveId) {
    let destination = MemoryDestination::default();
    let faulty = FaultySource::new(source.clone(), script);
    let handle = engine(&MemoryStore::new()).backup(request(&faulty, &destination)).await.unwrap();
    let archive = handle.archive().clone();
    (wait(handle).await, destination, archive)
}

fn transient(method: Method, when: When) -> Rule {
    Rule::new(method, when, Fault::Fail(ErrorClass::Transient))
}

#[tokio::test(flavor = "multi_thread")]
async fn an_entry_that_alone_cannot_be_read_does_not_keep_the_backup_from_its_end() {
    for (size, from) in [(1000, 1), (10 * MIB, 1), (10 * MIB, 3), (10 * MIB, 4)] {
        let source = MemorySource::new("s").stored("a", "a").stored("bad", Blob::pattern(1, size)).stored("z", "z");
        let source = Arc::new(source);
        let script = Script::new().rule(transient(Method::Read, When::From(from)).about("bad"));
        let (ended, destination, archive) = failing(&source, script).await;
        assert!(matches!(ended, Ok(Outcome::Completed { warnings: 1, .. })), "{size} from {from}: {ended:?}");
        assert_sound(&destination, &archive, None).await;
        let target = restore(&destination, &archive, None).await;
        assert!(target.content("a").is_some() && target.content("z").is_some());
        let text = String::from_utf8(untar(&destination, &archive).await[WARNINGS_FILE].clone()).unwrap();
        // All of it but the look at its end.
        let kept = from == 4;
        assert_eq!(target.content("bad").is_some(), kept, "{text}");
        assert!(kept || text.contains("bad: skipped: it cannot be read: reading it fails time and again"), "{text}");
    }
    // The trouble passes when the source is asked.
    let source = Arc::new(MemorySource::new("s").stored("a", "a").stored("bad", Blob::pattern(1, 10 * MIB)));
    let script = Script::new().rule(transient(Method::Read, When::First(6)).about("a"));
    let (ended, destination, archive) = failing(&source, script).await;
    assert!(matches!(ended, Ok(Outcome::Completed { warnings: 0, .. })), "{ended:?}");
    assert_good(&destination, &archive, source, None).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn reads_that_fail_one_after_the_other_are_trouble_of_the_source() {
    let source = (0..9).fold(MemorySource::new("s").file("first", "1"), |s, n| s.stored(&format!("s{n}"), "x"));
    let source = Arc::new(source);
    let script = Script::new().rule(transient(Method::Read, When::Always));
    let (ended, ..) = failing(&source, script.clone()).await;
    assert_eq!(ended.unwrap_err().class(), ErrorClass::Transient);
    // Nothing is skipped when the source does not answer. It is asked twice before anything is read.
    let script = Script::new().rule(transient(Method::Read, When::Always).about("s0"));
    let (ended, ..) = failing(&source, script.rule(transient(Method::Check, When::From(3)))).await;
    assert!(ended.unwrap_err().to_string().contains("checking the source"));
}
