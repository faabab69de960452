//! Very long indexes: their records are put away while the backup goes on, and are all in the manifest.

use crate::common::*;
use backup_core::ErrorClass;
use backup_core::engine::Archive;
use backup_core::memory::MemoryStore;
use backup_testkit::Method;
use backup_testkit::doubles::{MemoryDestination, MemorySource};
use backup_testkit::faulty::{Fault, FaultyDestination, Rule, Script, When};
use std::sync::Arc;

/// Names so long that few entries fill an index piece.
fn source() -> Arc<MemorySource> {
    let mut source = MemorySource::new("s");
    let mut state = 1u64;
    for n in 0..300 {
        let mut name = format!("{n:04}");
        while name.len() < 40_000 {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            name.push_str(&format!("{:08x}/", state >> 32));
        }
        source = source.file(&format!("{name}x"), "content");
    }
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
