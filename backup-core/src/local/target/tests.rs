use super::*;
use crate::adapter::{PlanEntries, SavedProgress};
use crate::local::testing::SmallDisk;
use crate::model::{EntryName, Metadata, Naming, Owner, Timestamp, Xattr};
use crate::{Digest, ErrorClass, Sha256};
use bytes::Bytes;
use futures::stream::{self, BoxStream, StreamExt};
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::Path;
use std::time::Duration;

mod large;
mod links;
mod speed;

#[derive(Debug)]
pub(super) struct Listed(pub(super) Vec<Entry>);

impl PlanEntries for Listed {
    fn entries(&self) -> BoxStream<'static, Result<Entry>> {
        stream::iter(self.0.clone()).map(Ok).boxed()
    }
}

pub(super) fn item(name: impl Into<Bytes>, kind: EntryKind, content: impl Into<Bytes>) -> SmallEntry {
    let content = content.into();
    let has_content = matches!(kind, EntryKind::File | EntryKind::Slice);
    let entry = Entry {
        name: EntryName::new(name),
        kind,
        size: content.len() as u64,
        mtime: None,
        metadata: Metadata::default(),
        sha256: has_content.then(|| Digest::of(&content)),
        offset: 0,
        ordinal: 0,
        group: None,
        inconsistent: false,
        superseded: false,
    };
    SmallEntry { entry, content }
}

fn file(name: &'static str, content: &'static str) -> SmallEntry {
    item(name, EntryKind::File, content)
}

fn dir(name: &'static str) -> SmallEntry {
    item(name, EntryKind::Directory, "")
}

fn link(name: &'static str, target: &'static str) -> SmallEntry {
    item(name, EntryKind::Symlink { target: target.into() }, "")
}

fn hard(name: &'static str, target: &'static str) -> SmallEntry {
    item(name, EntryKind::HardLink { target: target.into() }, "")
}

impl SmallEntry {
    fn with(mut self, change: impl FnOnce(&mut Entry)) -> Self {
        change(&mut self.entry);
        self
    }

    fn mode(self, mode: u32) -> Self {
        self.with(|e| e.metadata.mode = Some(mode))
    }

    fn mtime(self, seconds: i64, nanos: u32) -> Self {
        self.with(|e| e.mtime = Some(Timestamp { seconds, nanos }))
    }

    fn xattr(self, name: &'static str, value: &'static [u8]) -> Self {
        self.with(|e| e.metadata.xattrs.push(Xattr { name: name.into(), value: Bytes::from_static(value) }))
    }

    fn owned(self, id: u32, name: Option<&str>) -> Self {
        let owner = Owner { id, name: name.map(Into::into) };
        self.with(|e| (e.metadata.user, e.metadata.group) = (Some(owner.clone()), Some(owner)))
    }
}

pub(super) fn plan(items: &[SmallEntry]) -> RestorePlan {
    let entries = items.iter().map(|item| item.entry.clone()).collect();
    RestorePlan {
        tag: "t1".into(),
        attempt: 1,
        resumed: false,
        overwrite: false,
        naming: Naming::Paths,
        entries: Arc::new(Listed(entries)),
    }
}

fn overwriting(items: &[SmallEntry]) -> RestorePlan {
    RestorePlan { overwrite: true, ..plan(items) }
}

pub(super) struct Fixture {
    pub(super) dir: tempfile::TempDir,
    pub(super) target: LocalTarget,
}

/// A target in a directory beside which lies something that must not be touched.
pub(super) fn fixture_with(change: impl FnOnce(&mut LocalTargetConfig)) -> Fixture {
    let dir = tempfile::tempdir().unwrap();
    std::fs::create_dir(dir.path().join("outside")).unwrap();
    std::fs::write(dir.path().join("outside/secret"), "secret").unwrap();
    let mut config = LocalTargetConfig::new(dir.path().join("root"));
    change(&mut config);
    Fixture { target: LocalTarget::new(config).unwrap(), dir }
}

pub(super) fn fixture() -> Fixture {
    fixture_with(|_| {})
}

impl Fixture {
    pub(super) fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join("root").join(name)
    }

    async fn write(&self, plan: &RestorePlan, items: Vec<SmallEntry>) -> Vec<Result<Written, ErrorClass>> {
        let answers = self.target.write_small(plan, items).await.unwrap();
        answers.into_iter().map(|answer| answer.map_err(|e| e.class())).collect()
    }

    /// Restores all of it and gives the answers.
    async fn restore(&self, plan: &RestorePlan, items: Vec<SmallEntry>) -> Vec<Result<Written, ErrorClass>> {
        self.target.prepare(plan).await.unwrap();
        let answers = self.write(plan, items).await;
        let warnings = self.target.finish(plan).await.unwrap();
        assert_eq!(warnings, [], "of a restore that should have none");
        answers
    }

    async fn verified(&self, plan: &RestorePlan) {
        let report = self.target.verify(plan).await.unwrap();
        assert_eq!(report.mismatches, []);
    }

    fn text(&self, name: &str) -> String {
        std::fs::read_to_string(self.path(name)).unwrap()
    }

    /// Everything below the root, and nothing changed outside.
    pub(super) fn tree(&self) -> Vec<String> {
        fn walk(dir: &Path, prefix: &str, found: &mut Vec<String>) {
            for item in std::fs::read_dir(dir).unwrap() {
                let item = item.unwrap();
                let name = format!("{prefix}{}", item.file_name().to_string_lossy());
                if item.file_type().unwrap().is_dir() {
                    found.push(format!("{name}/"));
                    walk(&item.path(), &format!("{name}/"), found);
                } else {
                    found.push(name);
                }
            }
        }
        let outside: Vec<_> = std::fs::read_dir(self.dir.path().join("outside")).unwrap().collect();
        assert_eq!(outside.len(), 1);
        let secret = self.dir.path().join("outside/secret");
        assert_eq!(std::fs::read_to_string(&secret).unwrap(), "secret");
        assert_eq!(secret.metadata().unwrap().nlink(), 1);
        let mut found = Vec::new();
        walk(&self.path(""), "", &mut found);
        found.sort();
        found
    }
}

fn is_root() -> bool {
    let root = rustix::process::geteuid().is_root();
    if !root {
        eprintln!("NOT TESTED: what only root may do");
    }
    root
}

use Written::{AlreadyThere, Created, Deferred, Replaced};

#[tokio::test]
async fn every_kind_of_entry_comes_back_with_its_metadata_and_verifies() {
    let f = fixture();
    let mut items = vec![
        dir("d").mode(0o750).mtime(1_600_000_000, 123_456_789),
        dir("d/empty").mode(0o1777).mtime(-5, 1),
        file("d/f", "text").mode(0o640).mtime(1_700_000_001, 1).xattr("user.a", b"\xff\0"),
        file("d/none", "").mode(0o444),
        link("d/abs", "/etc/passwd").mtime(1_500_000_000, 7),
        link("rel", "d/f"),
        hard("d/again", "d/f"),
        hard("link-again", "rel"),
        item("shop/orders/000000.bson", EntryKind::Slice, "slice"),
        item(&b"\xff\xfe name"[..], EntryKind::File, "bytes"),
    ];
    if is_root() {
        items.push(file("d/suid", "x").mode(0o4755).owned(1234, None));
        items.push(dir("theirs").mode(0o2770).owned(1234, Some("no-such-name")).xattr("user.dir", b"v"));
        items.push(link("theirs/link", "x").owned(1235, None).xattr("trusted.link", b"w"));
        items.push(file("theirs/root", "x").owned(1234, Some("root")));
    }
    let plan = plan(&items);
    let answers = f.restore(&plan, items).await;
    let deferred = answers.iter().filter(|answer| **answer == Ok(Deferred)).count();
    let created = answers.iter().filter(|answer| **answer == Ok(Created)).count();
    assert_eq!((deferred, created), (2, answers.len() - 2), "{answers:?}");
    f.verified(&plan).await;
    let of = |name: &str| f.path(name).symlink_metadata().unwrap();
    assert_eq!((of("d").mode() & 0o7777, of("d").mtime(), of("d").mtime_nsec()), (0o750, 1_600_000_000, 123_456_789));
    assert_eq!((of("d/empty").mtime(), of("d/empty").mtime_nsec()), (-5, 1));
    assert_eq!((of("d/f").mtime_nsec(), of("d/f").mode() & 0o7777, of("d/f").nlink()), (1, 0o640, 2));
    assert_eq!(of("d/abs").mtime(), 1_500_000_000);
    assert_eq!(std::fs::read_link(f.path("d/abs")).unwrap(), Path::new("/etc/passwd"));
    assert!(of("link-again").is_symlink() && of("link-again").ino() == of("rel").ino());
    assert_eq!(f.text("shop/orders/000000.bson"), "slice");
    if is_root() {
        assert_eq!((of("d/suid").uid(), of("d/suid").mode() & 0o7777), (1234, 0o4755));
        assert_eq!((of("theirs/link").uid(), of("theirs/root").uid()), (1235, 0));
    }
    assert!(f.tree().iter().all(|name| !name.contains(".backup-tmp-")));
}

#[tokio::test]
async fn entries_without_permissions_get_those_of_the_umask() {
    let f = fixture();
    let items = vec![dir("d"), file("d/f", ""), file("way/f", "")];
    f.restore(&plan(&items), items).await;
    std::fs::create_dir(f.path("like")).unwrap();
    std::fs::write(f.path("like/f"), "").unwrap();
    let mode = |name: &str| f.path(name).metadata().unwrap().mode();
    assert_eq!((mode("d"), mode("d/f"), mode("way")), (mode("like"), mode("like/f"), mode("like")));
}

#[tokio::test]
async fn a_private_directory_is_private_from_the_start() {
    let f = fixture();
    let items = vec![file("private/f", "x"), dir("private").mode(0o700)];
    let plan = plan(&items);
    f.target.prepare(&plan).await.unwrap();
    let mode = || f.path("private").metadata().unwrap().mode() & 0o777;
    // In one batch the directory comes first whatever the order.
    assert_eq!(f.write(&plan, items.clone()).await, [Ok(Created), Ok(Created)]);
    assert_eq!(mode(), 0o700);
    // In two, it is closed as soon as its own entry comes.
    std::fs::remove_dir_all(f.path("private")).unwrap();
    assert_eq!(f.write(&plan, items[..1].to_vec()).await, [Ok(Created)]);
    assert_ne!(mode(), 0o700);
    assert_eq!(f.write(&plan, items[1..].to_vec()).await, [Ok(AlreadyThere)]);
    assert_eq!(mode(), 0o700);
    // One that was there before is left alone until the end.
    std::fs::set_permissions(f.path("private"), std::fs::Permissions::from_mode(0o755)).unwrap();
    assert_eq!(f.write(&plan, items[1..].to_vec()).await, [Ok(AlreadyThere)]);
    assert_eq!(mode(), 0o755);
}

#[tokio::test]
async fn hostile_names_are_invalid_and_write_nothing() {
    let f = fixture();
    let outside = f.dir.path().join("outside/new").to_str().unwrap().to_owned();
    let names: Vec<Bytes> = vec![
        "../x".into(),
        "..".into(),
        ".".into(),
        "".into(),
        "a/../../x".into(),
        "a/../x".into(),
        "./x".into(),
        "a//b".into(),
        "/etc/x".into(),
        outside.into(),
        "a/".into(),
        "a\0b".into(),
        ".backup-tmp-t1-s00000000-0".into(),
        "a/.backup-tmp-x/b".into(),
        "x".repeat(256).into(),
    ];
    for name in names {
        for kind in [
            EntryKind::File,
            EntryKind::Slice,
            EntryKind::Directory,
            EntryKind::Symlink { target: "x".into() },
            EntryKind::HardLink { target: "x".into() },
        ] {
            let items = vec![item(name.clone(), kind.clone(), "")];
            let plan = plan(&items);
            f.target.prepare(&plan).await.unwrap();
            assert_eq!(f.write(&plan, items.clone()).await, [Err(ErrorClass::Invalid)], "{name:?} {kind:?}");
            let content = large::reader(&items[0], 0);
            if matches!(kind, EntryKind::File | EntryKind::Slice) {
                let error = f.target.write_large(&plan, &items[0].entry, content, &EntryProgress::default()).await;
                assert_eq!(error.unwrap().unwrap_err().class(), ErrorClass::Invalid);
            }
            assert_eq!(f.target.finish(&plan).await.unwrap(), []);
            assert_eq!(f.target.verify(&plan).await.unwrap().mismatch_count, 1);
        }
    }
    assert_eq!(f.tree(), [""; 0]);
}

#[tokio::test]
async fn nothing_goes_through_a_symbolic_link_of_the_archive_or_of_the_target() {
    for overwrite in [false, true] {
        for first_in_its_own_batch in [false, true] {
            let f = fixture();
            std::fs::create_dir(f.path("")).unwrap();
            symlink("../outside", f.path("theirs")).unwrap();
            let evil = vec![
                link("out", "../outside"),
                link("abs", "/tmp"),
                link("here", "."),
                file("out/new", "evil"),
                file("out/secret", "evil"),
                file("here/new", "evil"),
                dir("abs/backup-test-must-not-be-here"),
                file("theirs/secret", "evil"),
                link("theirs/link", "x"),
                hard("out/hard", "here"),
                hard("stolen", "out/secret"),
                hard("stolen-too", "theirs/secret"),
            ];
            let plan = RestorePlan { overwrite, ..plan(&evil) };
            f.target.prepare(&plan).await.unwrap();
            let answers = if first_in_its_own_batch {
                let mut answers = f.write(&plan, evil[..3].to_vec()).await;
                answers.extend(f.write(&plan, evil[3..].to_vec()).await);
                answers
            } else {
                f.write(&plan, evil.clone()).await
            };
            let invalid = answers[3..9].iter().filter(|answer| **answer == Err(ErrorClass::Invalid)).count();
            if first_in_its_own_batch {
                assert_eq!(invalid, 6, "{answers:?}");
            } else {
                // The directory came first and keeps its name.
                assert_eq!(
                    (invalid, answers[1], answers[6]),
                    (5, Err(ErrorClass::Conflict), Ok(Created)),
                    "{answers:?}"
                );
            }
            assert_eq!(answers[9..], [Ok(Deferred); 3]);
            let warnings = f.target.finish(&plan).await.unwrap();
            let about = |name: &str| warnings.iter().filter(|w| w.name == Some(name.into())).count();
            assert_eq!((about("out/hard"), about("stolen"), about("stolen-too")), (1, 1, 1), "{warnings:?}");
            assert!(f.target.verify(&plan).await.unwrap().mismatch_count >= 8);
            assert!(!Path::new("/tmp/backup-test-must-not-be-here").exists());
            let tree = f.tree();
            assert!(tree.iter().all(|name| !name.contains("new") && !name.contains("stolen")), "{tree:?}");
        }
    }
}

#[tokio::test]
async fn hostile_links_are_refused_or_warned_of() {
    let f = fixture();
    let items = vec![
        item("empty", EntryKind::Symlink { target: Bytes::new() }, ""),
        item("nul", EntryKind::Symlink { target: Bytes::from_static(b"a\0b") }, ""),
        hard("up", "../outside/secret"),
        hard("root", "/etc/passwd"),
        hard("staged", ".backup-tmp-t1-s00000000-0"),
        hard("missing", "no/such"),
        hard("of-dir", "d"),
        dir("d"),
    ];
    let plan = plan(&items);
    f.target.prepare(&plan).await.unwrap();
    let answers = f.write(&plan, items).await;
    assert_eq!(answers[..5], [Err(ErrorClass::Invalid); 5]);
    assert_eq!(answers[5..], [Ok(Deferred), Ok(Deferred), Ok(Created)]);
    let warnings = f.target.finish(&plan).await.unwrap();
    let texts: Vec<_> = warnings.iter().map(|w| w.message.as_str()).collect();
    assert!(texts.len() == 2 && texts[0].contains("`no/such`") && texts[1].contains("is a directory"), "{texts:?}");
    assert_eq!(f.tree(), ["d/"]);
}

#[tokio::test]
async fn the_same_item_is_already_there_and_another_one_is_a_conflict_that_stays() {
    let f = fixture();
    let items =
        vec![file("f", "same").mode(0o600).mtime(1, 1), link("l", "there"), dir("d"), file("d/x", "x"), hard("h", "f")];
    f.restore(&plan(&items), items.clone()).await;
    std::fs::set_permissions(f.path("f"), std::fs::Permissions::from_mode(0o777)).unwrap();
    let again = f.restore(&plan(&items), items.clone()).await;
    assert_eq!(again, [Ok(AlreadyThere), Ok(AlreadyThere), Ok(AlreadyThere), Ok(AlreadyThere), Ok(Deferred)]);
    f.verified(&plan(&items)).await;
    let before = f.tree();
    let others = [
        vec![file("f", "diff")],
        vec![file("f", "longer than it was")],
        vec![file("f", "")],
        vec![link("f", "there")],
        vec![dir("f")],
        vec![file("f/x", "below a file")],
        vec![link("l", "elsewhere")],
        vec![file("l", "there")],
        vec![dir("l")],
        vec![file("d", "")],
        vec![link("d", "x")],
    ];
    for items in others {
        let plan = plan(&items);
        assert_eq!(f.write(&plan, items.clone()).await, [Err(ErrorClass::Conflict)], "{items:?}");
        let resumed = RestorePlan { attempt: 2, resumed: true, ..plan };
        assert_eq!(f.write(&resumed, items.clone()).await, [Err(ErrorClass::Conflict)], "{items:?}");
    }
    let items = vec![file("other", "other"), hard("d/x", "other")];
    f.target.write_small(&plan(&items), items.clone()).await.unwrap();
    let warnings = f.target.finish(&plan(&items)).await.unwrap();
    assert!(warnings.len() == 1 && warnings[0].message.contains("already there"), "{warnings:?}");
    std::fs::remove_file(f.path("other")).unwrap();
    assert_eq!(f.tree(), before);
    assert_eq!((f.text("f"), f.text("d/x")), ("same".into(), "x".into()));
}

#[tokio::test]
async fn overwriting_replaces_files_and_links_but_no_directory_with_something_in_it() {
    let f = fixture();
    let old = vec![
        file("f", "old"),
        file("same", "same"),
        link("l", "old"),
        file("full/x", "x"),
        dir("bare"),
        file("way", ""),
    ];
    f.restore(&plan(&old), old).await;
    let new = vec![
        file("f", "new"),
        file("same", "same"),
        file("l", "a file now"),
        file("full", "no"),
        link("full", "no"),
        file("bare", "a file now"),
        file("way/below", "x"),
        file("fresh", "x"),
        hard("l2", "f"),
    ];
    let plan = overwriting(&new);
    f.target.prepare(&plan).await.unwrap();
    let conflict = Err(ErrorClass::Conflict);
    let expected = [Ok(Replaced), Ok(AlreadyThere), Ok(Replaced), conflict, conflict, Ok(Replaced)];
    let answers = f.write(&plan, new).await;
    assert_eq!(answers[..6], expected);
    assert_eq!(answers[6..], [Ok(Created), Ok(Created), Ok(Deferred)]);
    assert_eq!(f.target.finish(&plan).await.unwrap(), []);
    assert_eq!(f.tree(), ["bare", "f", "fresh", "full/", "full/x", "l", "l2", "same", "way/", "way/below"]);
    assert_eq!((f.text("f"), f.text("l"), f.text("bare")), ("new".into(), "a file now".into(), "a file now".into()));
    // A directory comes in place of a link or file; a hard link in place of another file.
    let items = vec![dir("l"), file("l/x", "x"), file("one", "1"), hard("fresh", "one")];
    let plan = overwriting(&items);
    assert_eq!(f.write(&plan, items).await, [Ok(Replaced), Ok(Created), Ok(Created), Ok(Deferred)]);
    assert_eq!(f.target.finish(&plan).await.unwrap(), []);
    assert_eq!(f.path("fresh").metadata().unwrap().ino(), f.path("one").metadata().unwrap().ino());
    f.verified(&plan).await;
}

#[tokio::test]
async fn finishing_again_is_harmless_also_with_directories_that_bar_their_owner() {
    let f = fixture();
    let items = vec![
        dir("ro").mode(0o500).mtime(10, 0),
        dir("ro/none").mode(0).mtime(11, 0),
        dir("ro/none/deep").mode(0o300).mtime(12, 0),
        file("ro/none/deep/f", "x"),
        hard("ro/h", "ro/none/deep/f"),
    ];
    let plan = plan(&items);
    f.restore(&plan, items).await;
    f.verified(&plan).await;
    for resumed in [false, true] {
        let plan = RestorePlan { resumed, ..plan.clone() };
        assert_eq!(f.target.finish(&plan).await.unwrap(), []);
        f.verified(&plan).await;
    }
}

/// Says something only when it runs as an ordinary user.
#[tokio::test]
async fn what_bars_its_owner_is_finished_and_verified_again_and_again_and_stays_as_it_is() {
    let f = fixture();
    let items = vec![
        dir("none").mode(0).mtime(10, 0),
        dir("none/list").mode(0o400).mtime(11, 0).xattr("user.a", b"v"),
        file("none/list/shadow", "x").mode(0).mtime(12, 0).xattr("user.a", b"v"),
        dir("none/drop").mode(0o300).mtime(13, 0),
        file("none/drop/f", "x").mode(0o200),
        hard("none/again", "none/list/shadow"),
        file("shadow", "secret").mode(0),
        hard("linked", "shadow"),
    ];
    let plan = plan(&items);
    f.restore(&plan, items.clone()).await;
    for resumed in [false, true] {
        f.verified(&plan).await;
        f.verified(&plan).await;
        let plan = RestorePlan { resumed, ..plan.clone() };
        assert_eq!(f.target.finish(&plan).await.unwrap(), []);
    }
    f.verified(&plan).await;
    let mode = |name: &str| f.path(name).symlink_metadata().unwrap().mode() & 0o7777;
    assert_eq!((mode("none"), mode("shadow")), (0, 0));
    // A resumed restore knows its own file although it cannot simply read it.
    let resumed = RestorePlan { attempt: 2, resumed: true, ..plan };
    assert_eq!(f.write(&resumed, vec![items[6].clone()]).await, [Ok(AlreadyThere)]);
    assert_eq!(mode("shadow"), 0);
    // So that it can be removed.
    for name in ["none", "none/list", "none/drop"] {
        std::fs::set_permissions(f.path(name), std::fs::Permissions::from_mode(0o700)).unwrap();
    }
}

#[tokio::test]
async fn more_directories_than_are_kept_in_memory_all_get_their_metadata() {
    let f = fixture();
    let items: Vec<_> = (0..9000)
        .map(|i| item(format!("d{}/{i}", i / 1000), EntryKind::Directory, "").mode(0o711).mtime(i, 5))
        .collect();
    let plan = plan(&items);
    f.restore(&plan, items).await;
    f.verified(&plan).await;
}

#[tokio::test]
async fn leftovers_of_this_plan_are_removed_and_those_of_others_stay() {
    let f = fixture();
    let items = vec![dir("d").mtime(1, 1), file("d/f", "x"), file("e/f", "x")];
    let plan = plan(&items);
    f.restore(&plan, items).await;
    let ours = ["d/.backup-tmp-t1-s00000000-7", "e/.backup-tmp-t1-l0123456789abcdef0123456789abcdef-1-00000000-3"];
    let theirs = ["d/.backup-tmp-t2-s00000000-7", "d/.backup-tmp-x"];
    for staged in ours.iter().chain(&theirs) {
        std::fs::write(f.path(staged), "half").unwrap();
    }
    let resumed = RestorePlan { attempt: 2, resumed: true, ..plan };
    assert_eq!(f.target.finish(&resumed).await.unwrap(), []);
    assert!(ours.iter().all(|name| !f.path(name).exists()));
    assert!(theirs.iter().all(|name| f.path(name).exists()));
    f.verified(&resumed).await;
}

/// Says something only when it runs as an ordinary user.
#[tokio::test]
async fn what_is_read_only_has_its_extended_attributes_also_when_it_was_there_already() {
    let f = fixture();
    let items = vec![
        file("f", "x").mode(0o444).xattr("user.a", b"v"),
        file("none", "x").mode(0o400).xattr("user.a", b"v").xattr("user.b", b"w"),
        dir("d").mode(0o555).xattr("user.a", b"v"),
    ];
    let plan = plan(&items);
    f.restore(&plan, items.clone()).await;
    f.verified(&plan).await;
    let names = ["f", "none", "d"];
    for name in names {
        rustix::fs::removexattr(f.path(name), "user.a")
            .or_else(|e| {
                std::fs::set_permissions(f.path(name), std::fs::Permissions::from_mode(0o700)).unwrap();
                assert_eq!(e, Errno::ACCESS);
                rustix::fs::removexattr(f.path(name), "user.a")
            })
            .unwrap();
        std::fs::set_permissions(f.path(name), std::fs::Permissions::from_mode(0o555)).unwrap();
    }
    f.restore(&plan, items).await;
    f.verified(&plan).await;
}

#[tokio::test]
async fn metadata_that_cannot_be_set_is_a_warning_of_finish() {
    let f = fixture();
    let items = vec![
        file("f", "x").xattr("no-such-namespace.a", b"v").mtime(5, 5),
        link("l", "x").xattr("user.not-on-links", b"v"),
    ];
    let plan = plan(&items);
    f.target.prepare(&plan).await.unwrap();
    assert_eq!(f.write(&plan, items).await, [Ok(Created), Ok(Created)]);
    let warnings = f.target.finish(&plan).await.unwrap();
    let names: Vec<_> = warnings.iter().map(|w| w.name.clone().unwrap().to_string()).collect();
    assert_eq!(names, ["f", "l"]);
    assert!(warnings[0].message.starts_with("extended attribute no-such-namespace.a is not set: "), "{warnings:?}");
    assert_eq!(f.path("f").metadata().unwrap().mtime(), 5);
    let report = f.target.verify(&plan).await.unwrap();
    assert_eq!((report.mismatch_count, report.metadata_count), (0, 2));
}

#[tokio::test]
async fn without_owners_set_id_bits_of_others_are_dropped() {
    if !is_root() {
        return;
    }
    let f = fixture_with(|config| (config.owner, config.xattrs) = (OwnerRule::Skip, false));
    let items = vec![
        file("theirs", "x").mode(0o6755).owned(1234, None).xattr("user.a", b"v"),
        file("ours", "x").mode(0o4755).owned(0, None),
        dir("d").mode(0o2755).owned(1234, None),
    ];
    let plan = plan(&items);
    f.restore(&plan, items).await;
    let mode = |name: &str| f.path(name).metadata().unwrap().mode() & 0o7777;
    assert_eq!((mode("theirs"), mode("ours"), mode("d")), (0o755, 0o4755, 0o2755));
    assert_eq!(f.path("theirs").metadata().unwrap().uid(), 0);
    f.verified(&plan).await;
}

#[tokio::test]
async fn in_a_set_group_id_directory_files_get_their_own_group_all_the_same() {
    if !is_root() {
        return;
    }
    let f = fixture();
    std::fs::create_dir_all(f.path("d")).unwrap();
    std::os::unix::fs::chown(f.path("d"), None, Some(777)).unwrap();
    std::fs::set_permissions(f.path("d"), std::fs::Permissions::from_mode(0o2755)).unwrap();
    let items = vec![file("d/a", "x").owned(0, None), file("d/b", "x").owned(0, None), link("d/l", "x").owned(0, None)];
    let plan = plan(&items);
    f.restore(&plan, items).await;
    f.verified(&plan).await;
}

#[tokio::test]
async fn verify_names_everything_that_differs() {
    let f = fixture();
    let items = vec![
        file("content", "text"),
        file("length", "text"),
        file("gone", "text"),
        file("kind", "text"),
        file("mode", "text").mode(0o600),
        file("mtime", "text").mtime(1_000_000_000, 123_456_789),
        file("xattr", "text").xattr("user.a", b"1"),
        link("link", "a"),
        file("first", "text"),
        hard("second", "first"),
        dir("dir").mode(0o700),
        file("fine", "text").mode(0o600).mtime(7, 7),
    ];
    let plan = plan(&items);
    let count = items.len();
    f.restore(&plan, items).await;
    f.verified(&plan).await;
    std::fs::write(f.path("content"), "TEXT").unwrap();
    std::fs::write(f.path("length"), "text and more").unwrap();
    std::fs::remove_file(f.path("gone")).unwrap();
    std::fs::remove_file(f.path("kind")).unwrap();
    std::fs::create_dir(f.path("kind")).unwrap();
    std::fs::set_permissions(f.path("mode"), std::fs::Permissions::from_mode(0o644)).unwrap();
    let time = std::time::UNIX_EPOCH + Duration::new(1_000_000_000, 123_456_790);
    std::fs::File::options().write(true).open(f.path("mtime")).unwrap().set_modified(time).unwrap();
    let xattr = std::fs::File::open(f.path("xattr")).unwrap();
    rustix::fs::fsetxattr(&xattr, "user.a", b"2", rustix::fs::XattrFlags::empty()).unwrap();
    std::fs::remove_file(f.path("link")).unwrap();
    symlink("b", f.path("link")).unwrap();
    std::fs::remove_file(f.path("second")).unwrap();
    std::fs::copy(f.path("first"), f.path("second")).unwrap();
    std::fs::set_permissions(f.path("dir"), std::fs::Permissions::from_mode(0o755)).unwrap();
    let report = f.target.verify(&plan).await.unwrap();
    let found: Vec<_> = report.mismatches.iter().map(|m| format!("{}: {}", m.name, m.message)).collect();
    assert_eq!(
        found,
        [
            "content: its content is different",
            "length: it has 13 bytes instead of 4",
            "gone: it is not there",
            "kind: it is a directory",
            "mode: its permissions are 0644 instead of 0600",
            "mtime: its modification time is 1000000000.123456790 instead of 1000000000.123456789",
            "xattr: extended attribute user.a has another value",
            "link: the symbolic link leads elsewhere",
            "second: it is not the same file as `first`",
            "dir: its permissions are 0755 instead of 0700",
        ]
    );
    assert_eq!((report.entries, report.mismatch_count, report.metadata_count), (count as u64, 5, 5));
}

#[tokio::test]
async fn object_keys_that_no_files_can_have_get_paths_as_in_the_tar_stream() {
    let f = fixture_with(|config| config.names = NameRule::Encoded);
    let keys = ["../up", "/abs", "a", "a/b", "a/b/c", "a//b", "dir/", "dir/x", "50%", "plain"];
    let items: Vec<_> = keys.iter().map(|key| file(key, key)).chain([hard("h", "a/b")]).collect();
    let plan = plan(&items);
    let answers = f.restore(&plan, items.clone()).await;
    assert!(answers.iter().all(Result::is_ok), "{answers:?}");
    f.verified(&plan).await;
    for item in &items[..keys.len()] {
        assert!(f.tree().iter().any(|path| !path.ends_with('/') && f.text(path).as_bytes() == item.content));
    }
    assert_eq!((f.text("a"), f.text("a%2Fb"), f.text("plain")), ("a".into(), "a/b".into(), "plain".into()));
    // Another process learns the same from the plan.
    let other = LocalTarget::new(LocalTargetConfig { names: NameRule::Encoded, ..LocalTargetConfig::new(f.path("")) });
    assert_eq!(other.unwrap().verify(&plan).await.unwrap().mismatch_count, 0);
}

#[tokio::test]
async fn a_root_that_is_missing_is_made_by_prepare_and_by_nothing_else() {
    let f = fixture();
    f.target.check().await.unwrap();
    assert!(f.target.is_empty().await.unwrap());
    assert!(!f.path("").exists());
    let items = vec![file("f", "x")];
    let plan = plan(&items);
    assert_eq!(f.target.write_small(&plan, items.clone()).await.unwrap_err().class(), ErrorClass::NotFound);
    f.target.prepare(&plan).await.unwrap();
    f.target.prepare(&plan).await.unwrap();
    f.target.check().await.unwrap();
    std::fs::write(f.path(".backup-tmp-x"), "").unwrap();
    assert!(f.target.is_empty().await.unwrap());
    f.write(&plan, items).await;
    assert!(!f.target.is_empty().await.unwrap());
    let blocked = LocalTarget::new(LocalTargetConfig::new(f.path("f"))).unwrap();
    assert_eq!(blocked.check().await.unwrap_err().class(), ErrorClass::Invalid);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn batches_at_once_and_dropped_calls_leave_whole_files_only() {
    let f = Arc::new(fixture());
    let items: Vec<_> = (0..2000)
        .map(|i| item(format!("d{}/sub/f{i}", i % 37), EntryKind::File, vec![i as u8; 3000]).mode(0o644))
        .collect();
    let plan = plan(&items);
    f.target.prepare(&plan).await.unwrap();
    // Dropped at various moments, each batch given twice at the same time.
    let tasks = items.chunks(100).chain(items.chunks(100)).enumerate().map(|(i, batch)| {
        let (f, plan, batch) = (f.clone(), plan.clone(), batch.to_vec());
        tokio::spawn(async move {
            let call = f.target.write_small(&plan, batch);
            let _ = tokio::time::timeout(Duration::from_micros(i as u64 * 300), call).await;
        })
    });
    for task in tasks.collect::<Vec<_>>() {
        task.await.unwrap();
    }
    let resumed = RestorePlan { attempt: 2, resumed: true, ..plan };
    for batch in items.chunks(100) {
        let answers = f.write(&resumed, batch.to_vec()).await;
        assert!(answers.iter().all(|a| matches!(a, Ok(Created | AlreadyThere))), "{answers:?}");
    }
    // The work of dropped calls goes on until it is through.
    tokio::time::sleep(Duration::from_millis(300)).await;
    f.target.finish(&resumed).await.unwrap();
    f.verified(&resumed).await;
    assert!(f.tree().iter().all(|name| !name.contains(".backup-tmp-")));
}

#[tokio::test]
async fn a_full_disk_is_no_space_of_the_whole_target_and_leaves_nothing_staged() {
    let Some(disk) = SmallDisk::mount() else { return };
    let target = LocalTarget::new(LocalTargetConfig::new(disk.path().join("root"))).unwrap();
    let items: Vec<_> = (0..40).map(|i| item(format!("f{i}"), EntryKind::File, vec![1; 50_000])).collect();
    let plan = plan(&items);
    target.prepare(&plan).await.unwrap();
    let error = target.write_small(&plan, items.clone()).await.unwrap_err();
    assert_eq!(error.class(), ErrorClass::NoSpace, "{error:?}");
    let big = item("big", EntryKind::File, vec![2; 4 << 20]);
    let error = target.write_large(&plan, &big.entry, large::reader(&big, 0), &EntryProgress::default()).await;
    assert_eq!(error.unwrap_err().class(), ErrorClass::NoSpace);
    for item in std::fs::read_dir(disk.path().join("root")).unwrap() {
        let item = item.unwrap();
        assert!(!item.file_name().to_string_lossy().starts_with('.'), "{item:?}");
        assert_eq!(item.metadata().unwrap().len(), 50_000);
    }
    target.sync().await.unwrap();
}
