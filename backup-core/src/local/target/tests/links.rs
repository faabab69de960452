use super::*;
use crate::adapter::MismatchKind;

/// Runs the whole restore; gives the names and texts of the warnings.
async fn restored(f: &Fixture, plan: &RestorePlan, items: &[SmallEntry]) -> Vec<String> {
    f.target.prepare(plan).await.unwrap();
    f.target.write_small(plan, items.to_vec()).await.unwrap();
    let warnings = f.target.finish(plan).await.unwrap();
    warnings.iter().map(|w| format!("{}: {}", w.name.as_ref().unwrap(), w.message)).collect()
}

async fn differences(f: &Fixture, plan: &RestorePlan) -> Vec<String> {
    let report = f.target.verify(plan).await.unwrap();
    let in_metadata = report.mismatches.iter().filter(|m| m.kind == MismatchKind::Metadata);
    assert!(in_metadata.clone().all(|m| m.message.contains("not the same file")));
    assert_eq!(report.metadata_count, in_metadata.count() as u64);
    report.mismatches.iter().map(|m| format!("{}: {}", m.name, m.message)).collect()
}

fn put(f: &Fixture, name: &str, text: &str) {
    std::fs::create_dir_all(f.path("")).unwrap();
    std::fs::write(f.path(name), text).unwrap();
}

#[tokio::test]
async fn nothing_is_linked_to_a_foreign_file_that_stays_under_the_first_name() {
    for foreign in ["foreign", "its own"] {
        let f = fixture();
        put(&f, "a", foreign);
        let items = [file("a", "archive"), hard("b", "a")];
        let plan = plan(&items);
        let warnings = restored(&f, &plan, &items).await;
        assert!(warnings.len() == 1 && warnings[0].contains("b: the hard link is not made: `a`"), "{warnings:?}");
        assert!(!f.path("b").exists());
        std::fs::hard_link(f.path("a"), f.path("b")).unwrap();
        let found = differences(&f, &plan).await;
        assert!(found.len() == 2 && found[1].starts_with("b: ") && !found[1].contains("same file"), "{found:?}");
    }
}

/// A plan that restores some entries of an archive that has more.
#[derive(Debug)]
struct Chosen(Vec<Entry>, Vec<Entry>);

#[async_trait]
impl PlanEntries for Chosen {
    fn entries(&self) -> BoxStream<'static, Result<Entry>> {
        stream::iter(self.0.clone()).map(Ok).boxed()
    }

    async fn find(&self, name: &EntryName) -> Result<Option<Entry>> {
        Ok(self.1.iter().find(|entry| entry.name == *name).cloned())
    }
}

#[tokio::test]
async fn a_good_file_is_not_overwritten_by_a_link_to_something_else() {
    let f = fixture();
    put(&f, "a", "changed");
    put(&f, "b", "good");
    let (a, b) = (file("a", "archive"), hard("b", "a"));
    let entries = Arc::new(Chosen(vec![b.entry.clone()], vec![a.entry.clone(), b.entry.clone()]));
    let plan = RestorePlan { entries, ..overwriting(&[]) };
    let warnings = restored(&f, &plan, std::slice::from_ref(&b)).await;
    assert!(warnings.len() == 1 && warnings[0].contains("not as the archive has it"), "{warnings:?}");
    assert_eq!((f.text("a"), f.text("b")), ("changed".into(), "good".into()));
    // Also when both are one file.
    std::fs::remove_file(f.path("b")).unwrap();
    std::fs::hard_link(f.path("a"), f.path("b")).unwrap();
    assert_eq!(restored(&f, &plan, std::slice::from_ref(&b)).await.len(), 1);
    assert_eq!(differences(&f, &plan).await, ["b: its content is different"]);
    put(&f, "a", "archive");
    assert_eq!(restored(&f, &plan, std::slice::from_ref(&b)).await, [""; 0]);
    assert_eq!(differences(&f, &plan).await, [""; 0]);
}

#[tokio::test]
async fn what_cannot_be_linked_is_copied() {
    let Some(other) = crate::local::testing::SmallDisk::mount() else { return };
    for overwrite in [false, true] {
        let dir = other.path().join(format!("target-{overwrite}"));
        std::fs::create_dir(&dir).unwrap();
        let target = LocalTarget::new(LocalTargetConfig::new(&dir)).unwrap();
        let f = Fixture { target, dir: tempfile::tempdir_in(other.path()).unwrap() };
        let plain = vec![
            file("a", "text").mode(0o640).mtime(77, 0).xattr("user.a", b"v"),
            link("l", "a").mtime(78, 0),
            hard("there/b", "a"),
            hard("there/l", "l"),
        ];
        // Another file system below the root.
        std::fs::create_dir(dir.join("there")).unwrap();
        let mount =
            |args: &[&str]| std::process::Command::new(args[0]).args(&args[1..]).arg(dir.join("there")).status();
        assert!(mount(&["mount", "-t", "tmpfs", "none"]).unwrap().success());
        if overwrite {
            std::fs::write(dir.join("there/b"), "old").unwrap();
        }
        let plan = RestorePlan { overwrite, ..plan(&plain) };
        let first = restored(&f, &plan, &plain).await;
        let text = std::fs::read_to_string(dir.join("there/b"));
        let stat = dir.join("there/b").metadata();
        let link = std::fs::read_link(dir.join("there/l"));
        let again = restored(&f, &RestorePlan { attempt: 2, resumed: true, ..plan.clone() }, &plain).await;
        let found = differences(&f, &plan).await;
        let left = std::fs::read_dir(dir.join("there")).unwrap().count();
        drop(f); // It holds handles of directories there.
        assert!(mount(&["umount"]).unwrap().success());
        assert!(first.len() == 2 && first.iter().all(|w| w.contains("is copied")), "{first:?}");
        assert_eq!((text.unwrap(), link.unwrap(), left), ("text".into(), PathBuf::from("a"), 2));
        let stat = stat.unwrap();
        assert_eq!((stat.mode() & 0o7777, stat.mtime()), (0o640, 77));
        assert!(again.len() == 2 && again.iter().all(|w| w.contains("a file of its own")), "{again:?}");
        assert_eq!(
            found,
            ["there/b: it is not the same file as `a`", "there/l: it is not the same file as `l`"],
            "its content is right"
        );
    }
}
