use super::*;

/// The content of an entry from an offset on, in pieces of 1,000,000 bytes.
pub(super) fn reader(item: &SmallEntry, offset: usize) -> ContentReader {
    let mut hash = Sha256::new();
    hash.update(&item.content[..offset]);
    pieces(item, hash, offset, item.content.len(), None)
}

/// The content from `offset` to `end`, and then an error if there is one.
fn pieces(item: &SmallEntry, hash: Sha256, offset: usize, end: usize, error: Option<Error>) -> ContentReader {
    let content = item.content.slice(offset..end);
    let pieces: Vec<_> = content.chunks(1_000_000).map(|piece| Ok(Bytes::copy_from_slice(piece))).collect();
    let stream = stream::iter(pieces.into_iter().chain(error.map(Err))).boxed();
    ContentReader::new(stream, hash, Some(item.entry.size), item.entry.sha256)
}

fn resumed(item: &SmallEntry, saved: &SavedProgress, end: usize, error: Option<Error>) -> ContentReader {
    pieces(item, saved.hash.clone(), usize::try_from(saved.offset).unwrap(), end, error)
}

fn big(name: &'static str, size: usize) -> SmallEntry {
    let content: Vec<u8> = (0..size).map(|i| (i / 1000 + i) as u8).collect();
    item(name, EntryKind::File, content).mode(0o640).mtime(1_600_000_000, 5)
}

/// Through JSON, as a checkpoint keeps it.
fn saved(progress: &EntryProgress) -> Option<SavedProgress> {
    progress.saved().map(|saved| serde_json::from_str(&serde_json::to_string(&saved).unwrap()).unwrap())
}

async fn write(f: &Fixture, plan: &RestorePlan, item: &SmallEntry) -> Result<Written> {
    f.target.write_large(plan, &item.entry, reader(item, 0), &EntryProgress::default()).await.flatten()
}

#[tokio::test]
async fn a_large_entry_comes_back_whole_and_again_it_is_already_there() {
    let f = fixture();
    let item = big("d/big", 20_000_000);
    let plan = plan(std::slice::from_ref(&item));
    f.target.prepare(&plan).await.unwrap();
    let progress = EntryProgress::default();
    let written = f.target.write_large(&plan, &item.entry, reader(&item, 0), &progress).await.unwrap().unwrap();
    assert_eq!(written, Created);
    assert_eq!(progress.saved().unwrap().offset, 18_000_000);
    assert_eq!(write(&f, &plan, &item).await.unwrap(), AlreadyThere);
    f.target.sync().await.unwrap();
    assert_eq!(f.target.finish(&plan).await.unwrap(), []);
    f.verified(&plan).await;
    assert_eq!(f.tree(), ["d/", "d/big"]);
}

#[tokio::test]
async fn content_that_is_not_the_recorded_one_is_never_published() {
    let f = fixture();
    let mut item = big("big", 10_000_000);
    item.entry.sha256 = Some(Digest::of(b"else"));
    let plan = plan(std::slice::from_ref(&item));
    f.target.prepare(&plan).await.unwrap();
    assert_eq!(write(&f, &plan, &item).await.unwrap_err().class(), ErrorClass::Corrupt);
    let short = pieces(&big("big", 10_000_000), Sha256::new(), 0, 9_000_000, None);
    let error = f.target.write_large(&plan, &item.entry, short, &EntryProgress::default()).await.unwrap_err();
    assert_eq!(error.class(), ErrorClass::Corrupt);
    assert_eq!(f.tree(), [""; 0]);
}

#[tokio::test]
async fn an_error_of_the_reader_is_returned_as_it_is_and_nothing_is_published() {
    let f = fixture();
    let item = big("big", 10_000_000);
    let plan = plan(std::slice::from_ref(&item));
    f.target.prepare(&plan).await.unwrap();
    let error = || Some(Error::corrupt("the volume is damaged").on("data/0"));
    let content = pieces(&item, Sha256::new(), 0, 3_000_000, error());
    let got = f.target.write_large(&plan, &item.entry, content, &EntryProgress::default()).await.unwrap_err();
    assert_eq!(got.to_string(), "data/0: the volume is damaged");
    // Nothing was recorded, so nothing is worth keeping.
    assert_eq!(f.tree(), [""; 0]);
    let progress = EntryProgress::default();
    let content = pieces(&item, Sha256::new(), 0, 9_000_000, error());
    f.target.write_large(&plan, &item.entry, content, &progress).await.unwrap_err();
    assert_eq!(progress.saved().unwrap().offset, 9_000_000);
    let tree = f.tree();
    assert!(tree.len() == 1 && tree[0].starts_with(".backup-tmp-t1-l"), "{tree:?}");
    // A restore that ends without it clears it away.
    f.target.finish(&plan).await.unwrap();
    assert_eq!(f.tree(), [""; 0]);
}

#[tokio::test]
async fn a_restore_that_is_given_up_leaves_what_it_published_and_nothing_else_of_its_own() {
    let f = fixture();
    let (big, done) = (big("d/big", 10_000_000), item("d/done", EntryKind::File, "x"));
    let plan = plan(&[done.clone(), big.clone()]);
    let other = RestorePlan { tag: "t2".into(), ..plan.clone() };
    f.target.prepare(&plan).await.unwrap();
    f.target.write_small(&plan, vec![done]).await.unwrap();
    for plan in [&plan, &other] {
        let content = pieces(&big, Sha256::new(), 0, 9_000_000, Some(Error::transient("broken off")));
        f.target.write_large(plan, &big.entry, content, &EntryProgress::default()).await.unwrap_err();
    }
    std::fs::write(f.path("d/.backup-tmp-mine"), "y").unwrap();
    assert_eq!(f.tree().len(), 5, "{:?}", f.tree());
    // Another process, which has prepared nothing.
    let again = LocalTarget::new(LocalTargetConfig::new(f.path(""))).unwrap();
    again.discard(&plan).await.unwrap();
    let tree = f.tree();
    assert!(tree.len() == 4 && tree.iter().any(|name| name.contains("-t2-")), "{tree:?}");
    assert!(tree.contains(&"d/done".into()) && tree.contains(&"d/.backup-tmp-mine".into()), "{tree:?}");
    std::fs::remove_dir_all(f.path("d")).unwrap();
    again.discard(&plan).await.unwrap();
    std::fs::remove_dir_all(f.path("")).unwrap();
    let gone = LocalTarget::new(LocalTargetConfig::new(f.path(""))).unwrap();
    gone.discard(&plan).await.unwrap();
    assert!(!f.path("").exists());
}

#[tokio::test]
async fn a_restore_resumes_at_every_recorded_point_with_the_same_result() {
    for sparse in [false, true] {
        let mut item = big("d/big", 30_000_000);
        if sparse {
            let mut content = item.content.to_vec();
            content[2_000_000..20_000_000].fill(0);
            content[25_000_000..].fill(0);
            item = super::item("d/big", EntryKind::File, content).mode(0o600);
            item.entry.metadata.sparse = true;
        }
        let plan = plan(std::slice::from_ref(&item));
        let resume = RestorePlan { attempt: 2, resumed: true, ..plan.clone() };
        let mut point = 0;
        loop {
            point += 9_000_000;
            let stop = point.min(item.content.len());
            let f = fixture();
            f.target.prepare(&plan).await.unwrap();
            let progress = EntryProgress::default();
            let broken = Some(Error::transient("broken off"));
            let content = pieces(&item, Sha256::new(), 0, stop, broken);
            f.target.write_large(&plan, &item.entry, content, &progress).await.unwrap_err();
            let first = saved(&progress).unwrap();
            assert!(first.offset as usize > stop - 9_000_000 && first.offset as usize <= stop);
            assert!(!f.path("d/big").exists());
            // Another process: whatever was written behind the recorded point is of no account.
            let staged = std::fs::read_dir(f.path("d")).unwrap().next().unwrap().unwrap().path();
            use std::io::Write as _;
            std::fs::File::options().append(true).open(staged).unwrap().write_all(&[9; 5000]).unwrap();
            let other = LocalTarget::new(LocalTargetConfig::new(f.path(""))).unwrap();
            other.prepare(&resume).await.unwrap();
            let progress = EntryProgress::resumed(Some(first.clone()));
            let content = resumed(&item, &first, item.content.len(), None);
            assert_eq!(other.write_large(&resume, &item.entry, content, &progress).await.unwrap().unwrap(), Created);
            assert_eq!(other.finish(&resume).await.unwrap(), []);
            assert_eq!(other.verify(&resume).await.unwrap().mismatches, []);
            assert_eq!(f.tree(), ["d/", "d/big"]);
            if sparse {
                let occupied = f.path("d/big").metadata().unwrap().blocks() * 512;
                assert!(occupied < 10_000_000, "{occupied}");
            }
            if stop == item.content.len() {
                break;
            }
        }
    }
}

#[tokio::test]
async fn saved_progress_without_its_staged_file_is_changed_and_starting_over_works() {
    let f = fixture();
    let item = big("big", 20_000_000);
    let plan = plan(std::slice::from_ref(&item));
    f.target.prepare(&plan).await.unwrap();
    let progress = EntryProgress::default();
    let broken = Some(Error::transient("broken off"));
    let content = pieces(&item, Sha256::new(), 0, 10_000_000, broken);
    f.target.write_large(&plan, &item.entry, content, &progress).await.unwrap_err();
    let first = saved(&progress).unwrap();
    let staged = std::fs::read_dir(f.path("")).unwrap().next().unwrap().unwrap().path();
    let attempt = async |saved: SavedProgress| {
        let content = resumed(&item, &saved, item.content.len(), None);
        f.target.write_large(&plan, &item.entry, content, &EntryProgress::resumed(Some(saved))).await.flatten()
    };
    let mut foreign = first.clone();
    foreign.state = serde_json::json!({ "upload": "x" });
    assert_eq!(attempt(foreign).await.unwrap_err().class(), ErrorClass::Changed);
    let mut other = first.clone();
    other.state = serde_json::json!({ "staged": "../outside/secret" });
    assert_eq!(attempt(other).await.unwrap_err().class(), ErrorClass::Changed);
    std::fs::File::options().write(true).open(&staged).unwrap().set_len(first.offset - 1).unwrap();
    assert_eq!(attempt(first.clone()).await.unwrap_err().class(), ErrorClass::Changed);
    assert!(!staged.exists(), "it is of no use");
    assert_eq!(attempt(first.clone()).await.unwrap_err().class(), ErrorClass::Changed);
    symlink("../outside/secret", &staged).unwrap();
    assert_eq!(attempt(first).await.unwrap_err().class(), ErrorClass::Changed);
    assert_eq!(write(&f, &plan, &item).await.unwrap(), Created);
    f.target.finish(&plan).await.unwrap();
    f.verified(&plan).await;
    assert_eq!(f.tree(), ["big"]);
}

#[tokio::test]
async fn a_writer_that_wakes_after_its_successor_began_cannot_publish_what_that_one_writes() {
    for sparse in [false, true] {
        let f = fixture();
        let mut item = big("big", 30_000_000);
        item.entry.metadata.sparse = sparse;
        let plan = plan(std::slice::from_ref(&item));
        let resume = RestorePlan { attempt: 2, resumed: true, ..plan.clone() };
        f.target.prepare(&plan).await.unwrap();
        // The first attempt stands still after 18 MB.
        let progress = EntryProgress::default();
        let (wake, woken) = tokio::sync::oneshot::channel::<()>();
        let content: Vec<_> = item.content.chunks(1_000_000).map(Bytes::copy_from_slice).collect();
        let (head, tail) = (content[..19].to_vec(), content[19..].to_vec());
        let stream = stream::iter(head)
            .map(Ok)
            .chain(stream::once(async { woken.await.unwrap() }).flat_map(move |()| stream::iter(tail.clone()).map(Ok)));
        let content = ContentReader::new(stream.boxed(), Sha256::new(), Some(item.entry.size), item.entry.sha256);
        let first = f.target.write_large(&plan, &item.entry, content, &progress);
        let second = async {
            while saved(&progress).is_none_or(|saved| saved.offset < 18_000_000) {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
            let first = saved(&progress).unwrap();
            let other = LocalTarget::new(LocalTargetConfig::new(f.path(""))).unwrap();
            // It takes the file over, and breaks off before anything was saved of that ...
            let content = resumed(&item, &first, first.offset as usize, Some(Error::transient("broken off")));
            let began = EntryProgress::resumed(Some(first.clone()));
            other.write_large(&resume, &item.entry, content, &began).await.unwrap_err();
            assert_ne!(saved(&began).unwrap().state, first.state);
            wake.send(()).unwrap();
            tokio::time::sleep(Duration::from_millis(300)).await;
            assert!(!f.path("big").exists());
            // ... and so does the third, who ends it.
            let content = resumed(&item, &first, item.content.len(), None);
            let third = RestorePlan { attempt: 3, ..resume.clone() };
            let progress = EntryProgress::resumed(Some(first));
            let other = LocalTarget::new(LocalTargetConfig::new(f.path(""))).unwrap();
            assert_eq!(other.write_large(&third, &item.entry, content, &progress).await.unwrap().unwrap(), Created);
            other.finish(&third).await.unwrap();
        };
        let (first, ()) = tokio::join!(first, second);
        assert_eq!(first.unwrap().unwrap_err().class(), ErrorClass::NotFound);
        f.verified(&plan).await;
        assert_eq!(f.tree(), ["big"]);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_call_dropped_at_any_moment_can_be_resumed_from_what_it_recorded() {
    let f = fixture();
    let item = big("d/big", 40_000_000);
    let plan = plan(std::slice::from_ref(&item));
    let resume = RestorePlan { attempt: 2, resumed: true, ..plan.clone() };
    f.target.prepare(&plan).await.unwrap();
    let mut last: Option<SavedProgress> = None;
    for i in 0..30_u64 {
        let progress = EntryProgress::resumed(last.clone());
        let content = match &last {
            Some(saved) => resumed(&item, saved, item.content.len(), None),
            None => reader(&item, 0),
        };
        let call = f.target.write_large(&resume, &item.entry, content, &progress);
        match tokio::time::timeout(Duration::from_millis(i * 4), call).await {
            Ok(done) => match done.and_then(|written| written) {
                Ok(written) => {
                    assert!(matches!(written, Created | AlreadyThere));
                    break;
                }
                // The writer of the dropped call was just publishing; whoever resumes starts over then.
                Err(error) => {
                    assert!(matches!(error.class(), ErrorClass::Changed | ErrorClass::NotFound), "{error:?}");
                    last = None;
                }
            },
            Err(_) => last = saved(&progress),
        }
        if f.path("d/big").exists() {
            assert_eq!(f.path("d/big").metadata().unwrap().len(), item.entry.size);
        }
    }
    let content = reader(&item, 0);
    let again = f.target.write_large(&resume, &item.entry, content, &EntryProgress::default()).await.unwrap().unwrap();
    assert!(matches!(again, Created | AlreadyThere));
    tokio::time::sleep(Duration::from_millis(100)).await;
    f.target.finish(&resume).await.unwrap();
    f.verified(&resume).await;
    assert_eq!(f.tree(), ["d/", "d/big"]);
}

#[tokio::test]
async fn existing_items_are_treated_as_those_of_small_entries() {
    let f = fixture();
    let item = big("big", 3_000_000);
    let plan = plan(std::slice::from_ref(&item));
    let overwrite = RestorePlan { overwrite: true, ..plan.clone() };
    f.target.prepare(&plan).await.unwrap();
    for other in [vec![1; 3_000_000], b"short".to_vec()] {
        std::fs::write(f.path("big"), &other).unwrap();
        assert_eq!(write(&f, &plan, &item).await.unwrap_err().class(), ErrorClass::Conflict);
        assert!(std::fs::read(f.path("big")).unwrap() == other);
        assert_eq!(write(&f, &overwrite, &item).await.unwrap(), Replaced);
        assert_eq!(write(&f, &overwrite, &item).await.unwrap(), AlreadyThere);
    }
    std::fs::remove_file(f.path("big")).unwrap();
    std::fs::create_dir(f.path("big")).unwrap();
    assert_eq!(write(&f, &plan, &item).await.unwrap_err().class(), ErrorClass::Conflict);
    assert_eq!(write(&f, &overwrite, &item).await.unwrap(), Replaced);
    std::fs::remove_file(f.path("big")).unwrap();
    std::fs::create_dir_all(f.path("big/full")).unwrap();
    assert_eq!(write(&f, &overwrite, &item).await.unwrap_err().class(), ErrorClass::Conflict);
    assert_eq!(f.tree(), ["big/", "big/full/"]);
}

#[tokio::test]
async fn entries_without_content_may_come_this_way_too() {
    let f = fixture();
    let items = [dir("d"), link("l", "x"), hard("h", "l")];
    let plan = plan(&items);
    f.target.prepare(&plan).await.unwrap();
    for (item, expected) in items.iter().zip([Created, Created, Deferred]) {
        assert_eq!(write(&f, &plan, item).await.unwrap(), expected);
    }
}
