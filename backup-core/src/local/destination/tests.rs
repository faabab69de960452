use super::*;
use crate::ErrorClass;
use bytes::Bytes;
use futures::{StreamExt, TryStreamExt};
use std::os::unix::fs::{PermissionsExt, symlink};

struct Fixture {
    dir: tempfile::TempDir,
    destination: LocalDestination,
}

fn fixture() -> Fixture {
    let dir = tempfile::tempdir().unwrap();
    let destination = LocalDestination::new(dir.path()).unwrap();
    Fixture { dir, destination }
}

fn name(text: &str) -> ObjectName {
    ObjectName::new(text).unwrap()
}

impl Fixture {
    async fn put(&self, object: &str, text: impl Into<Vec<u8>>) -> Result<()> {
        self.destination.put(&name(object), Payload::from(text.into())).await
    }

    async fn get(&self, object: &str, range: Option<Range<u64>>) -> Result<Vec<u8>> {
        let stream = self.destination.get(&name(object), range).await?;
        Ok(stream.try_collect::<Vec<Bytes>>().await?.concat())
    }

    async fn list(&self, prefix: Option<&str>) -> Vec<String> {
        let prefix = prefix.map(name);
        let found = self.destination.list(prefix.as_ref()).map_ok(|info| format!("{} {}", info.name, info.size));
        let mut found: Vec<_> = found.try_collect().await.unwrap();
        found.sort();
        found
    }

    async fn roots(&self) -> Vec<String> {
        let mut roots: Vec<_> = self.destination.list_roots().try_collect().await.unwrap();
        roots.sort();
        roots
    }

    /// Everything below the root, links as links.
    fn files(&self) -> Vec<String> {
        fn walk(dir: &Path, prefix: &str, found: &mut Vec<String>) {
            for item in std::fs::read_dir(dir).unwrap() {
                let item = item.unwrap();
                let name = format!("{prefix}{}", item.file_name().to_string_lossy());
                if item.file_type().unwrap().is_dir() {
                    walk(&item.path(), &format!("{name}/"), found);
                    found.push(format!("{name}/"));
                } else {
                    found.push(name);
                }
            }
        }
        let mut found = Vec::new();
        walk(self.dir.path(), "", &mut found);
        found.sort();
        found
    }
}

fn class<T: std::fmt::Debug>(result: Result<T>) -> ErrorClass {
    result.unwrap_err().class()
}

#[tokio::test]
async fn what_is_put_comes_back_whole_and_by_ranges() {
    let f = fixture();
    let text: Vec<u8> = (0..3_500_000_u32).map(|i| (i / 7) as u8).collect();
    let pieces = text.chunks(1_000_003).map(Bytes::copy_from_slice).collect();
    f.destination.put(&name("a/data/0"), Payload::new(pieces)).await.unwrap();
    assert!(f.get("a/data/0", None).await.unwrap() == text);
    for (start, end) in [(0, 1), (1_048_575, 1_048_577), (10, 3_400_000), (3_499_999, 3_500_000), (5, 5)] {
        let part = f.get("a/data/0", Some(start..end)).await.unwrap();
        assert!(part == text[start as usize..end as usize], "{start}..{end}");
    }
    let info = f.destination.stat(&name("a/data/0")).await.unwrap().unwrap();
    assert_eq!((info.name.as_str(), info.size), ("a/data/0", 3_500_000));
    let steps: Vec<_> = f.destination.get(&name("a/data/0"), None).await.unwrap().collect().await;
    assert!(steps.len() == 4 && steps.iter().all(|step| step.as_ref().unwrap().len() <= 1 << 20));
}

#[tokio::test]
async fn an_empty_payload_is_an_object_of_no_bytes() {
    let f = fixture();
    f.put("empty", "").await.unwrap();
    assert_eq!(f.get("empty", None).await.unwrap(), b"");
    assert_eq!(f.get("empty", Some(0..0)).await.unwrap(), b"");
    assert_eq!(f.list(None).await, ["empty 0"]);
    f.put("empty", "").await.unwrap();
    assert_eq!(class(f.put("empty", "x").await), ErrorClass::Conflict);
}

#[tokio::test]
async fn equal_bytes_again_are_success_and_different_bytes_are_a_conflict() {
    let f = fixture();
    f.put("a/b", "one").await.unwrap();
    f.put("a/b", "one").await.unwrap();
    for other in ["two", "one and more", "on", ""] {
        assert_eq!(class(f.put("a/b", other).await), ErrorClass::Conflict, "{other}");
    }
    assert_eq!(f.get("a/b", None).await.unwrap(), b"one");
    assert_eq!(f.files(), ["a/", "a/b"]);
}

#[tokio::test]
async fn a_directory_or_link_under_the_name_is_a_conflict_and_stays() {
    let f = fixture();
    f.put("a/b", "one").await.unwrap();
    symlink("a/b", f.dir.path().join("link")).unwrap();
    assert_eq!(class(f.put("a", "one").await), ErrorClass::Conflict);
    assert_eq!(class(f.put("link", "one").await), ErrorClass::Conflict);
    assert_eq!(class(f.put("a/b/c", "one").await), ErrorClass::Conflict);
    assert_eq!(f.files(), ["a/", "a/b", "link"]);
}

#[tokio::test]
async fn ranges_beyond_the_end_are_corrupt_and_absent_objects_not_found() {
    let f = fixture();
    f.put("a/b", "0123456789").await.unwrap();
    assert_eq!(class(f.get("a/b", Some(5..11)).await), ErrorClass::Corrupt);
    assert_eq!(class(f.get("a/b", Some(11..11)).await), ErrorClass::Corrupt);
    #[allow(clippy::reversed_empty_ranges)]
    let reversed = 6..5;
    assert_eq!(class(f.get("a/b", Some(reversed)).await), ErrorClass::Invalid);
    for absent in ["a", "a/c", "c/d/e", "a/b/c"] {
        assert_eq!(class(f.get(absent, None).await), ErrorClass::NotFound, "{absent}");
        assert_eq!(f.destination.stat(&name(absent)).await.unwrap(), None, "{absent}");
    }
    let error = f.get("a/c", None).await.unwrap_err();
    assert_eq!(error.to_string(), "a/c: there is no such object");
}

#[tokio::test]
async fn an_object_that_is_cut_while_it_is_read_is_an_error_of_the_stream() {
    let f = fixture();
    f.put("big", vec![1; 5 << 20]).await.unwrap();
    let mut stream = f.destination.get(&name("big"), None).await.unwrap();
    stream.next().await.unwrap().unwrap();
    std::fs::File::options().write(true).open(f.dir.path().join("big")).unwrap().set_len(1 << 20).unwrap();
    let rest: Vec<_> = stream.collect().await;
    let (last, before) = rest.split_last().unwrap();
    assert!(before.iter().all(Result::is_ok));
    assert_eq!(class(last.as_ref().map(|_| ()).map_err(|e| Error::new(e.class(), ""))), ErrorClass::Corrupt);
}

#[tokio::test]
async fn listing_leaves_out_staged_and_foreign_names_and_links() {
    let f = fixture();
    for object in ["one/data/0", "one/data/1", "one/header.json", "two/x", "top"] {
        f.put(object, object).await.unwrap();
    }
    let root = f.dir.path();
    std::fs::write(root.join("one/.backup-tmp-1"), "").unwrap();
    std::fs::write(root.join("one/has space"), "").unwrap();
    std::fs::create_dir(root.join("lost+found")).unwrap();
    std::fs::write(root.join("lost+found/x"), "").unwrap();
    symlink("one", root.join("link")).unwrap();
    symlink("header.json", root.join("one/link")).unwrap();
    let all = ["one/data/0 10", "one/data/1 10", "one/header.json 15", "top 3", "two/x 5"];
    assert_eq!(f.list(None).await, all);
    assert_eq!(f.list(Some("one")).await, all[..3]);
    assert_eq!(f.list(Some("one/data")).await, all[..2]);
    for nothing in ["on", "three", "top", "link", "one/data/0"] {
        assert_eq!(f.list(Some(nothing)).await, [""; 0], "{nothing}");
    }
    assert_eq!(f.roots().await, ["one", "top", "two"]);
}

#[tokio::test]
async fn a_long_listing_comes_whole_and_may_be_dropped_early() {
    let f = fixture();
    for dir in 0..3 {
        std::fs::create_dir(f.dir.path().join(dir.to_string())).unwrap();
        for file in 0..700 {
            std::fs::write(f.dir.path().join(format!("{dir}/{file}")), "").unwrap();
        }
    }
    assert_eq!(f.list(None).await.len(), 2100);
    let first: Vec<_> = f.destination.list(None).take(3).collect().await;
    assert_eq!(first.len(), 3);
}

#[tokio::test]
async fn deleting_removes_the_directories_that_become_empty_but_never_the_root() {
    let f = fixture();
    f.put("a/b/c/1", "x").await.unwrap();
    f.put("a/b/c/2", "x").await.unwrap();
    f.put("a/3", "x").await.unwrap();
    let delete = async |object: &str| f.destination.delete(&name(object)).await.unwrap();
    delete("a/b/c/1").await;
    delete("a/b/c/1").await;
    delete("a/b").await;
    assert_eq!(f.files(), ["a/", "a/3", "a/b/", "a/b/c/", "a/b/c/2"]);
    delete("a/b/c/2").await;
    assert_eq!(f.files(), ["a/", "a/3"]);
    delete("a/3").await;
    delete("a/3").await;
    assert_eq!(f.files(), [""; 0]);
    f.put("a/b/c/1", "y").await.unwrap();
    assert_eq!(f.get("a/b/c/1", None).await.unwrap(), b"y");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn puts_succeed_while_deletes_remove_their_directory() {
    let f = Arc::new(fixture());
    let tasks = (0..4).map(|task| {
        let f = f.clone();
        tokio::spawn(async move {
            for round in 0..50 {
                let object = format!("a/b/{task}-{round}");
                f.put(&object, "x").await.unwrap();
                assert_eq!(f.get(&object, None).await.unwrap(), b"x");
                f.destination.delete(&name(&object)).await.unwrap();
            }
        })
    });
    for task in tasks.collect::<Vec<_>>() {
        task.await.unwrap();
    }
    assert_eq!(f.files(), [""; 0]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn of_puts_of_one_name_at_once_one_wins_whole() {
    let f = Arc::new(fixture());
    for round in 0..10 {
        let object = format!("a/{round}");
        let puts = (0..8_u8).map(|i| {
            let (f, object) = (f.clone(), object.clone());
            // Two each put the same bytes.
            tokio::spawn(async move { f.put(&object, vec![i / 2; 200_000]).await })
        });
        let mut won = 0;
        for put in puts.collect::<Vec<_>>() {
            match put.await.unwrap() {
                Ok(()) => won += 1,
                Err(e) => assert_eq!(e.class(), ErrorClass::Conflict, "{e:?}"),
            }
        }
        assert_eq!(won, 2);
        let text = f.get(&object, None).await.unwrap();
        assert!(text.len() == 200_000 && text.iter().all(|b| *b == text[0]));
    }
    assert_eq!(f.files().len(), 11);
}

#[tokio::test]
async fn a_dropped_put_leaves_the_whole_object_or_none() {
    let f = fixture();
    for i in 0..20 {
        let put = f.put("a/big", vec![i; 4 << 20]);
        let _ = tokio::time::timeout(std::time::Duration::from_micros(u64::from(i) * 200), put).await;
        if let Some(info) = f.destination.stat(&name("a/big")).await.unwrap() {
            assert_eq!(info.size, 4 << 20);
        }
    }
}

#[tokio::test]
async fn a_slow_put_that_is_dropped_soon_leaves_nothing_behind() {
    let f = fixture();
    let slow = crate::limit::RateLimit::new(std::num::NonZeroU64::new(1));
    let object = name("a/b");
    let put = f.destination.put(&object, Payload::from(vec![7; 1000]).paced(slow));
    tokio::time::timeout(std::time::Duration::from_millis(100), put).await.unwrap_err();
    for _ in 0..1000 {
        if f.files() == ["a/"] {
            return;
        }
        tokio::time::sleep(std::time::Duration::from_millis(5)).await;
    }
    panic!("{:?}", f.files());
}

#[tokio::test]
async fn staged_leftovers_are_removed_and_objects_stay() {
    let f = fixture();
    f.put("a/data/0", "x").await.unwrap();
    f.put("b/data/0", "x").await.unwrap();
    let root = f.dir.path();
    std::fs::create_dir_all(root.join("a/index/deep")).unwrap();
    for staged in ["a/.backup-tmp-1", "a/data/.backup-tmp-2", "a/index/deep/.backup-tmp-3", "b/.backup-tmp-4"] {
        std::fs::write(root.join(staged), "half").unwrap();
    }
    std::fs::write(root.join("a/foreign name"), "").unwrap();
    f.destination.remove_staged(&name("a")).await.unwrap();
    assert_eq!(
        f.files(),
        ["a/", "a/data/", "a/data/0", "a/foreign name", "b/", "b/.backup-tmp-4", "b/data/", "b/data/0"]
    );
    f.destination.remove_staged(&name("a")).await.unwrap();
    f.destination.remove_staged(&name("none")).await.unwrap();
    // An archive of which nothing but a staged file was ever written leaves nothing behind.
    std::fs::create_dir_all(root.join("c/data")).unwrap();
    std::fs::write(root.join("c/data/.backup-tmp-5"), "").unwrap();
    f.destination.remove_staged(&name("c")).await.unwrap();
    assert_eq!(f.roots().await, ["a", "b"]);
}

#[tokio::test]
async fn check_makes_the_root_and_leaves_nothing_behind() {
    let dir = tempfile::tempdir().unwrap();
    let destination = LocalDestination::new(dir.path().join("new/root")).unwrap();
    assert_eq!(destination.identity(), crate::local::local_identity(dir.path().join("new/root")).unwrap());
    // What was never made, or whose disk is not mounted, is no empty destination.
    assert_eq!(class(destination.stat(&name("a")).await), ErrorClass::NotFound);
    assert_eq!(class(destination.put(&name("a"), Payload::default()).await), ErrorClass::NotFound);
    assert_eq!(class(destination.delete(&name("a")).await), ErrorClass::NotFound);
    assert_eq!(class(destination.list(None).try_collect::<Vec<_>>().await), ErrorClass::NotFound);
    assert_eq!(class(destination.list_roots().try_collect::<Vec<_>>().await), ErrorClass::NotFound);
    destination.check().await.unwrap();
    destination.check().await.unwrap();
    assert_eq!(std::fs::read_dir(dir.path().join("new/root")).unwrap().count(), 0);
    assert_eq!(destination.stat(&name("a")).await.unwrap(), None);
    assert!(destination.free_space().await.unwrap().unwrap() > 0);
}

#[tokio::test]
async fn check_removes_what_dead_processes_left_and_what_nobody_can_tell_only_when_it_is_old() {
    let f = fixture();
    let path = |name: &str| f.dir.path().join(name);
    let (old, unknown) = (path(".backup-tmp-1"), path(".backup-tmp-2"));
    let (living, other_boot) =
        (path(&super::put::stage_name()), path(".backup-tmp-0123456789abcdef-1-1-0123456789abcdef"));
    // As if this process had started at another time: its process id has been used again.
    let name = super::put::stage_name();
    let mut parts: Vec<&str> = name.rsplit('-').collect();
    parts[1] = "1";
    parts.reverse();
    let dead = path(&parts.join("-"));
    for path in [&old, &unknown, &living, &other_boot, &dead] {
        std::fs::write(path, "").unwrap();
    }
    let yesterday = std::time::SystemTime::now() - std::time::Duration::from_secs(2 * 86400);
    std::fs::File::options().write(true).open(&old).unwrap().set_modified(yesterday).unwrap();
    f.destination.check().await.unwrap();
    assert!(!old.exists() && !dead.exists());
    assert!(unknown.exists() && living.exists() && other_boot.exists());
}

#[tokio::test]
async fn a_root_that_is_a_file_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("file"), "").unwrap();
    let destination = LocalDestination::new(dir.path().join("file")).unwrap();
    let error = destination.check().await.unwrap_err();
    assert!(error.to_string().contains("not a directory"), "{error}");
}

#[tokio::test]
async fn only_the_owner_can_read_what_is_put() {
    let f = fixture();
    f.put("a/b", "secret").await.unwrap();
    let mode = |path: &str| f.dir.path().join(path).metadata().unwrap().permissions().mode() & 0o777;
    assert_eq!((mode("a"), mode("a/b")), (0o700, 0o600));
}

#[tokio::test]
async fn the_clock_is_not_behind_what_was_put_before() {
    let f = fixture();
    for i in 0..20 {
        let object = format!("a/{i}");
        f.put(&object, "x").await.unwrap();
        let modified = f.destination.stat(&name(&object)).await.unwrap().unwrap().modified;
        let now = f.destination.now().await.unwrap();
        assert!(now >= modified, "{now} {modified}");
    }
    assert_eq!(f.files().len(), 21);
}

#[tokio::test]
async fn a_full_disk_is_no_space_and_leaves_no_staged_file() {
    let Some(disk) = crate::local::testing::SmallDisk::mount() else { return };
    let destination = LocalDestination::new(disk.path()).unwrap();
    destination.check().await.unwrap();
    destination.put(&name("a/fits"), Payload::from(vec![1; 100_000])).await.unwrap();
    let error = destination.put(&name("a/big"), Payload::from(vec![1; 4 << 20])).await.unwrap_err();
    assert_eq!(error.class(), ErrorClass::NoSpace, "{error:?}");
    assert_eq!(destination.stat(&name("a/big")).await.unwrap(), None);
    let left: Vec<_> = std::fs::read_dir(disk.path().join("a")).unwrap().map(|i| i.unwrap().file_name()).collect();
    assert_eq!(left, ["fits"]);
    destination.put(&name("a/also"), Payload::from(vec![1; 100_000])).await.unwrap();
    assert!(destination.free_space().await.unwrap().unwrap() < 1 << 20);
}
