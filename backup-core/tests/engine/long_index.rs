//! Indexes of many pieces: their records are put away while a backup goes on, and names are found in them.

use crate::common::*;
use backup_core::ErrorClass;
use backup_core::engine::{Archive, Selection};
use backup_core::memory::MemoryStore;
use backup_core::model::EntryKind;
use backup_testkit::Method;
use backup_testkit::doubles::{MemoryContent, MemoryDestination, MemoryEntry, MemorySource, MemoryTarget};
use backup_testkit::faulty::{Fault, FaultyDestination, Rule, Script, When};
use backup_testkit::record::{Recorder, RecordingDestination, RecordingSource};
use std::sync::Arc;

/// Names so long that few entries fill an index piece.
fn source_names(count: usize) -> Vec<String> {
    let mut state = 1u64;
    let mut name = |n: usize| {
        let mut name = format!("{n:04}");
        while name.len() < 40_000 {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            name.push_str(&format!("{:08x}/", state >> 32));
        }
        name + "x"
    };
    (0..count).map(&mut name).collect()
}

fn source() -> Arc<MemorySource> {
    let source = source_names(200).iter().fold(MemorySource::new("s"), |source, name| source.file(name, "content"));
    Arc::new(source)
}

#[tokio::test]
async fn a_backup_with_many_index_pieces_goes_on_and_has_them_all_in_its_manifest() {
    for sealed in [false, true] {
        let keys = sealed.then(key);
        let (store, destination, source) = (MemoryStore::new(), MemoryDestination::default(), source());
        let chapters = || destination.names().iter().filter(|name| name.contains(".pieces")).count();
        // Broken off in its middle, and once more before the manifest.
        let put = |about: &str, nth: u64| {
            Rule::new(Method::Put, When::Nth(nth), Fault::Fail(ErrorClass::Permanent)).about(about)
        };
        let script = Script::new().rule(put("/data/", 12)).rule(put("manifest", 1));
        let faulty = FaultyDestination::new(Arc::new(destination.clone()), script.clone());
        let mut request = request(&source, &destination);
        request.destination = faulty.clone();
        request.keys = keys.clone();
        let handle = engine(&store).backup(request).await.unwrap();
        let (id, archive) = (handle.id().clone(), handle.archive().clone());
        wait(handle).await.unwrap_err();
        assert!(chapters() > 0, "records were put away before it broke off");
        for last in [false, true] {
            let mut again = resume_request(&id, &source, faulty.clone());
            again.keys = keys.clone();
            let ended = wait(engine(&store).resume_backup(again).await.unwrap()).await;
            assert_eq!(ended.is_ok(), last, "{ended:?}");
        }
        assert_eq!(script.fired().len(), 2);
        assert_eq!(chapters(), 0, "{:?}", destination.names());
        let opened = Archive::open(Arc::new(destination.clone()), &archive, &opening(keys.clone())).await.unwrap();
        assert!(opened.manifest().pieces.len() > 3);
        assert_sound(&destination, &archive, keys).await;
    }
}

/// Pieces that each hold names from the whole range, so that names do not tell where to look.
#[tokio::test]
async fn links_whose_first_names_are_not_chosen_are_found_near_by() {
    let mut source = MemorySource::new("s");
    let long = source_names(110);
    for (n, name) in long.iter().enumerate() {
        let target = format!("{}/f{name}", n % 2);
        source = source.file(&target, &*format!("content {n}"));
        let link = EntryKind::HardLink { target: target.as_str().into() };
        source = source.entry(MemoryEntry::new(&format!("links/{}{name}", n % 7), link, MemoryContent::None));
    }
    let (destination, source) = (MemoryDestination::default(), Arc::new(source));
    let archive = back_up(request(&source, &destination)).await;
    let opened = Archive::open(Arc::new(destination.clone()), &archive, &opening(None)).await.unwrap();
    let pieces = opened.manifest().pieces.len() as u64;
    assert!(pieces >= 5, "{pieces}");
    let (target, recorder) = (MemoryTarget::default(), Recorder::new());
    let mut request = restore_request(&destination, &archive, &target, None);
    request.destination = RecordingDestination::new(Arc::new(destination.clone()), recorder.clone());
    request.options.selection = Selection { include: vec!["links".into()], ..Selection::default() };
    request.options.skip_verify = true;
    assert_eq!(complete(engine(&MemoryStore::new()).restore(request).await.unwrap()).await, 0);
    assert_eq!(target.items().len(), long.len());
    let of_index =
        |call: &&backup_testkit::record::Call| call.method == Method::Get && call.subject.contains("/index/");
    let reads = recorder.calls().iter().filter(of_index).count() as u64;
    assert!(reads <= 4 * pieces, "{reads} reads of {pieces} pieces");
}

#[tokio::test]
async fn a_volume_whose_index_lines_cannot_be_put_is_not_read_again() {
    let (store, destination, source) = (MemoryStore::new(), MemoryDestination::default(), source());
    let fault = Rule::new(Method::Put, When::Nth(1), Fault::Fail(ErrorClass::Permanent)).about("/index/");
    let script = Script::new().rule(fault);
    let mut request = request(&source, &destination);
    request.destination = FaultyDestination::new(Arc::new(destination.clone()), script.clone());
    // So large that the index lines of the first volume are worth a piece.
    request.options.volume_size = Some(1 << 20);
    let handle = engine(&store).backup(request).await.unwrap();
    let (id, archive) = (handle.id().clone(), handle.archive().clone());
    wait(handle).await.unwrap_err();
    assert_eq!(script.fired().len(), 1);
    let recorder = Recorder::new();
    let counted = RecordingSource::new(source.clone(), recorder.clone());
    let resume = resume_request(&id, &counted, Arc::new(destination.clone()));
    complete(engine(&store).resume_backup(resume).await.unwrap()).await;
    let again = recorder.entries().len();
    assert!((1..190).contains(&again), "{again} of 200 entries were read again");
    assert_good(&destination, &archive, source, None).await;
}
