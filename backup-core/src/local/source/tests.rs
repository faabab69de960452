//! Trees on disk, and what the source makes of them.

use super::*;
use crate::ErrorClass;
use crate::adapter::{Content, SourceEntry};
use crate::budget::ByteBudget;
use crate::limit::RateLimit;
use crate::local::batch::{Batch, Batches, Task};
use crate::local::identity::os;
use crate::local::metadata::OwnerNames;
use crate::local::read::{BatchReader, Outcome};
use crate::model::EntryKind;
use bytes::Bytes;
use futures::StreamExt;
use proptest::prelude::*;
use rustix::fs::{CWD, FileType as Type, Mode, XattrFlags};
use std::collections::{BTreeMap, HashSet};
use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;
use tokio_util::sync::CancellationToken;

fn context() -> ReadContext {
    ReadContext {
        budget: ByteBudget::new(64 << 20),
        limit: RateLimit::default(),
        stop: CancellationToken::new(),
        excluded: Arc::default(),
    }
}

fn source(root: &Path) -> LocalSource {
    LocalSource::new(LocalSourceConfig { root: root.into(), ..LocalSourceConfig::default() }).unwrap()
}

fn excluding(root: &Path, patterns: &[&str]) -> LocalSource {
    let exclude = patterns.iter().map(|p| (*p).to_owned()).collect();
    LocalSource::new(LocalSourceConfig { root: root.into(), exclude, one_file_system: false }).unwrap()
}

/// All entries and all warnings (`name: message`).
async fn run(source: &Arc<LocalSource>, after: Option<Cursor>, ctx: ReadContext) -> (Vec<SourceEntry>, Vec<String>) {
    let mut events = source.clone().events(after, ctx);
    let (mut entries, mut warnings) = (Vec::new(), Vec::new());
    while let Some(event) = events.next().await {
        match event.unwrap() {
            SourceEvent::Entry(entry) => entries.push(*entry),
            SourceEvent::Warning(w) => {
                warnings.push(format!("{}: {}", w.name.map(|n| n.to_string()).unwrap_or_default(), w.message));
            }
            other => panic!("{other:?}"),
        }
    }
    (entries, warnings)
}

async fn all(source: LocalSource) -> (Vec<SourceEntry>, Vec<String>) {
    run(&Arc::new(source), None, context()).await
}

fn names(entries: &[SourceEntry]) -> Vec<String> {
    entries.iter().map(|e| e.name.to_string()).collect()
}

fn inline(entry: &SourceEntry) -> &[u8] {
    match &entry.content {
        Content::Inline { bytes, .. } => bytes,
        other => panic!("{}: {other:?}", entry.name),
    }
}

fn entry<'a>(entries: &'a [SourceEntry], name: &str) -> &'a SourceEntry {
    entries.iter().find(|e| e.name.as_str() == Some(name)).unwrap_or_else(|| panic!("no {name}"))
}

/// Content, permissions and kind: what has to be the same on a second run.
fn essence(entry: &SourceEntry) -> String {
    let content = match &entry.content {
        Content::Inline { bytes, .. } => format!("{bytes:?}"),
        other => format!("{other:?}"),
    };
    format!("{} {:?} {:?} {:?} {content}", entry.name, entry.kind, entry.mtime, entry.metadata)
}

#[tokio::test]
async fn everything_of_a_tree_comes_in_order_with_its_metadata() {
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path();
    fs::create_dir_all(root.join("b/empty")).unwrap();
    fs::create_dir(root.join("b-")).unwrap();
    fs::write(root.join("b/file"), "content").unwrap();
    fs::write(root.join("a"), "").unwrap();
    fs::write(root.join(os(b"\xff\n")), "odd").unwrap();
    symlink("no/such", root.join("b/link")).unwrap();
    symlink(os(b"\xfe"), root.join("link")).unwrap();
    fs::set_permissions(root.join("b/file"), fs::Permissions::from_mode(0o4751)).unwrap();
    fs::set_permissions(root.join("b/empty"), fs::Permissions::from_mode(0o1700)).unwrap();
    let is_root = rustix::process::geteuid().is_root();
    if is_root {
        std::os::unix::fs::lchown(root.join("b/file"), Some(1), Some(3_999_999_999)).unwrap();
        fs::set_permissions(root.join("b/file"), fs::Permissions::from_mode(0o4751)).unwrap();
    }
    rustix::fs::setxattr(root.join("b/file"), "user.note", b"\0x", XattrFlags::empty()).unwrap();
    rustix::fs::setxattr(root.join("b/empty"), "user.dir", b"d", XattrFlags::empty()).unwrap();
    // A default ACL (version 2; user::rwx, group::r-x, other::---), which the kernel checks.
    let acl = [
        &[2, 0, 0, 0][..],
        &[1, 0, 7, 0, 255, 255, 255, 255],
        &[4, 0, 5, 0, 255, 255, 255, 255],
        &[32, 0, 0, 0, 255, 255, 255, 255],
    ]
    .concat();
    let has_acls = rustix::fs::setxattr(root.join("b"), "system.posix_acl_default", &acl, XattrFlags::empty()).is_ok();
    let time = std::time::UNIX_EPOCH + Duration::new(1_700_000_000, 123_456_789);
    fs::File::open(root.join("b/file")).unwrap().set_modified(time).unwrap();
    let old = std::time::UNIX_EPOCH - Duration::new(0, 1);
    fs::File::open(root.join("b")).unwrap().set_modified(old).unwrap();

    let (entries, warnings) = all(source(root)).await;
    assert_eq!(warnings, Vec::<String>::new());
    assert_eq!(names(&entries), ["a", "b", "b/empty", "b/file", "b/link", "b-", "link", "\\xff\\n"]);
    let kinds: Vec<_> = entries.iter().map(|e| &e.kind).collect();
    let link = |target: &'static [u8]| EntryKind::Symlink { target: Bytes::from_static(target) };
    use EntryKind::{Directory, File};
    assert_eq!(kinds, [&File, &Directory, &Directory, &File, &link(b"no/such"), &Directory, &link(b"\xfe"), &File]);
    assert_eq!(entries[7].name.as_bytes(), b"\xff\n");
    assert_eq!(inline(&entries[7]), b"odd");
    assert_eq!(inline(&entries[0]), b"");
    let file = entry(&entries, "b/file");
    assert_eq!(inline(file), b"content");
    assert_eq!(file.metadata.mode, Some(0o4751));
    assert_eq!(file.mtime.unwrap().to_string(), "1700000000.123456789");
    assert_eq!(entry(&entries, "b").mtime.unwrap().to_string(), "-1.999999999");
    let xattrs =
        |name| entry(&entries, name).metadata.xattrs.iter().map(|x| (&x.name[..], &x.value[..])).collect::<Vec<_>>();
    assert_eq!(xattrs("b/file"), [(&b"user.note"[..], &b"\0x"[..])]);
    assert_eq!(entry(&entries, "b/empty").metadata.mode, Some(0o1700));
    assert!(xattrs("b/empty").contains(&(&b"user.dir"[..], &b"d"[..])));
    if has_acls {
        assert_eq!(xattrs("b"), [(&b"system.posix_acl_default"[..], &acl[..])]);
    }
    if is_root {
        let (user, group) = (file.metadata.user.clone().unwrap(), file.metadata.group.clone().unwrap());
        assert_eq!((user.id, user.name.is_some()), (1, true));
        assert_eq!((group.id, group.name), (3_999_999_999, None));
        assert_eq!(entry(&entries, "link").metadata.user.as_ref().unwrap().name.as_deref(), Some("root"));
    }
    assert!(entries.iter().all(|e| !e.inconsistent && !e.metadata.sparse && e.group.is_none()));
}

#[tokio::test]
async fn reading_leaves_no_trace() {
    let dir = tempfile::tempdir().unwrap();
    fs::create_dir(dir.path().join("d")).unwrap();
    fs::write(dir.path().join("d/f"), "x").unwrap();
    let times = || {
        ["d", "d/f"].map(|name| {
            let stat = rustix::fs::stat(dir.path().join(name)).unwrap();
            (stat.st_atime, stat.st_atime_nsec, stat.st_ctime, stat.st_ctime_nsec)
        })
    };
    let before = times();
    assert_eq!(all(source(dir.path())).await.0.len(), 2);
    assert_eq!(times(), before);
}

#[tokio::test]
async fn further_names_of_a_file_are_links_to_the_first() {
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path();
    let large = vec![7_u8; (1 << 20) + 1];
    fs::create_dir(root.join("d")).unwrap();
    for (file, content) in [("b", &b"small"[..]), ("large", &large), ("outside", b"one name only here")] {
        fs::write(root.join(file), content).unwrap();
    }
    let elsewhere = tempfile::tempdir().unwrap();
    fs::hard_link(root.join("outside"), elsewhere.path().join("x")).unwrap();
    for (from, to) in [("b", "a"), ("b", "d/c"), ("large", "d/large"), ("large", "large2")] {
        fs::hard_link(root.join(from), root.join(to)).unwrap();
    }
    let (entries, warnings) = all(source(root)).await;
    assert_eq!(warnings, Vec::<String>::new());
    let link = |target: &str| EntryKind::HardLink { target: target.into() };
    let kinds: Vec<_> = entries.iter().map(|e| (e.name.as_str().unwrap(), e.kind.clone())).collect();
    assert_eq!(
        kinds,
        [
            ("a", EntryKind::File),
            ("b", link("a")),
            ("d", EntryKind::Directory),
            ("d/c", link("a")),
            ("d/large", EntryKind::File),
            ("large", link("d/large")),
            ("large2", link("d/large")),
            ("outside", EntryKind::File),
        ]
    );
    assert_eq!(inline(&entries[0]), b"small");
    for (index, expected) in [(1, 5), (3, 5), (4, large.len()), (5, large.len())] {
        let Content::Stored { size, version } = &entries[index].content else { panic!("{index}") };
        assert_eq!(*size, expected as u64);
        assert!(version.is_some());
    }
    // The content is there for the asking, also by a further name.
    let opened = source(root).read(&"d/c".into(), None, 1..4, &context()).await.unwrap();
    assert_eq!(collect(opened).await, b"mal");
}

#[tokio::test]
async fn links_that_are_not_remembered_are_files_of_their_own() {
    let dir = tempfile::tempdir().unwrap();
    for i in 0..20 {
        fs::write(dir.path().join(format!("a{i:02}")), format!("{i}")).unwrap();
        fs::hard_link(dir.path().join(format!("a{i:02}")), dir.path().join(format!("b{i:02}"))).unwrap();
    }
    let mut small = source(dir.path());
    small.bounds.links = 5 * 300;
    let (entries, warnings) = all(small).await;
    let links = entries.iter().filter(|e| matches!(e.kind, EntryKind::HardLink { .. })).count();
    assert!((4..=7).contains(&links), "{links}");
    assert_eq!(warnings.len(), 1);
    assert!(warnings[0].contains("stored as files of their own"));
    let mut delivered = HashSet::new();
    for entry in &entries {
        if let EntryKind::HardLink { target } = &entry.kind {
            assert!(delivered.contains(target));
        } else {
            delivered.insert(entry.name.clone());
        }
    }

    // The cursor carries only a few: those before it that it dropped are not recognised after a resume.
    let mut small = source(dir.path());
    small.bounds.cursor_links = 200;
    small.bounds.batch.items = 5;
    let small = Arc::new(small);
    let (entries, warnings) = run(&small, None, context()).await;
    assert!(warnings.is_empty());
    let (rest, warnings) = run(&small, Some(entries[19].cursor.clone()), context()).await;
    assert_eq!(names(&rest), names(&entries[20..]));
    assert_eq!(warnings.len(), 1);
    let files = rest.iter().filter(|e| e.kind == EntryKind::File).count();
    assert!((1..20).contains(&files), "{files}");
}

#[tokio::test]
async fn a_link_whose_file_changed_is_a_file_again() {
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path();
    fs::write(root.join("a"), "one").unwrap();
    fs::hard_link(root.join("a"), root.join("b")).unwrap();
    fs::hard_link(root.join("a"), root.join("c")).unwrap();
    let source = Arc::new(source(root));
    let (entries, _) = run(&source, None, context()).await;
    fs::write(root.join("b"), "two").unwrap();
    let (rest, warnings) = run(&source, Some(entries[0].cursor.clone()), context()).await;
    assert_eq!(rest[0].kind, EntryKind::File);
    assert_eq!(rest[1].kind, EntryKind::HardLink { target: "b".into() });
    // Known from the cursor, so it was not read inline; its content comes by `read`.
    assert!(matches!(rest[0].content, Content::Stored { size: 3, .. }));
    assert_eq!(warnings, ["b: stored as a file of its own: a hard link to an earlier file that has changed since"]);
}

#[tokio::test]
async fn holes_are_noticed_and_read_as_zeros() {
    let dir = tempfile::tempdir().unwrap();
    let file = |name: &str, size: u64, data: &[(u64, &[u8])]| {
        let file = fs::File::create(dir.path().join(name)).unwrap();
        for (offset, bytes) in data {
            std::os::unix::fs::FileExt::write_all_at(&file, bytes, *offset).unwrap();
        }
        file.set_len(size).unwrap();
        let mut whole = vec![0; size as usize];
        for (offset, bytes) in data {
            whole[*offset as usize..][..bytes.len()].copy_from_slice(bytes);
        }
        whole
    };
    let block = [9_u8; 4096];
    let large = file("large", 40 << 20, &[(0, &block), (5 << 20, b"x"), ((20 << 20) - 4096, &block)]);
    let small = file("small", 200_000, &[(100_000, b"x")]);
    let dense = file("dense", 8192, &[(0, &block), (4096, &block)]);
    let hole = file("hole", 9 << 20, &[]);
    let source = Arc::new(source(dir.path()));
    let (entries, _) = run(&source, None, context()).await;
    assert!(!entry(&entries, "dense").metadata.sparse);
    assert_eq!(inline(entry(&entries, "dense")), dense);
    assert!(entry(&entries, "small").metadata.sparse);
    assert_eq!(inline(entry(&entries, "small")), small);
    for (name, whole) in [("large", large), ("hole", hole)] {
        let entry = entry(&entries, name);
        assert!(entry.metadata.sparse);
        let Content::Stored { size, version } = &entry.content else { panic!() };
        let ranges = [0..*size, 0..0, *size..*size, 4095..4098, (5 << 20) - 1..(5 << 20) + 2, (1 << 20) + 1..*size - 1];
        for range in ranges {
            let opened = source.read(&entry.name, version.as_ref(), range.clone(), &context()).await.unwrap();
            assert_eq!(opened.version, *version);
            assert_eq!(opened.size, *size);
            let expected = &whole[range.start as usize..range.end.min(*size) as usize];
            assert!(collect(opened).await == expected, "{name} {range:?}");
        }
    }
    let ctx = context();
    ctx.limit.set(std::num::NonZeroU64::new(1));
    let opened = source.read(&"hole".into(), None, 0..9 << 20, &ctx).await.unwrap();
    assert_eq!(collect(opened).await.len(), 9 << 20, "a hole is not limited by the bandwidth");
}

async fn collect(opened: Opened) -> Vec<u8> {
    let mut content = opened.content;
    let mut bytes = Vec::new();
    while let Some(piece) = content.next().await {
        let piece = piece.unwrap();
        assert!(!piece.is_empty());
        bytes.extend_from_slice(&piece);
    }
    bytes
}

#[tokio::test]
async fn a_large_file_that_changes_shows_it_in_its_version() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("d/f");
    fs::create_dir(dir.path().join("d")).unwrap();
    fs::write(&path, vec![1; 3 << 20]).unwrap();
    let source = Arc::new(source(dir.path()));
    let (entries, _) = run(&source, None, context()).await;
    let Content::Stored { size, version } = &entries[1].content else { panic!() };
    let name = &entries[1].name;
    let opened = source.read(name, version.as_ref(), 0..*size, &context()).await.unwrap();
    // It becomes shorter: fewer bytes, no error. What was read ahead may come.
    fs::File::options().write(true).open(&path).unwrap().set_len(100).unwrap();
    assert!(collect(opened).await.len() <= 2 << 20);
    let after = source.read(name, version.as_ref(), *size..*size, &context()).await.unwrap();
    assert_ne!(after.version, *version);
    assert_eq!(after.size, 100);
    assert_eq!(collect(source.read(name, None, 0..*size, &context()).await.unwrap()).await, [1; 100]);

    fs::remove_file(&path).unwrap();
    let class = |result: Result<Opened>| result.unwrap_err().class();
    assert_eq!(class(source.read(name, None, 0..1, &context()).await), ErrorClass::NotFound);
    symlink("/etc/passwd", &path).unwrap();
    assert_eq!(class(source.read(name, None, 0..1, &context()).await), ErrorClass::NotFound);
    fs::remove_file(&path).unwrap();
    rustix::fs::mknodat(CWD, &path, Type::Fifo, Mode::RUSR, 0).unwrap();
    assert_eq!(class(source.read(name, None, 0..1, &context()).await), ErrorClass::NotFound);
}

#[tokio::test]
async fn sockets_and_fifos_are_named_and_skipped() {
    let dir = tempfile::tempdir().unwrap();
    rustix::fs::mknodat(CWD, dir.path().join("fifo"), Type::Fifo, Mode::RUSR, 0).unwrap();
    let _socket = std::os::unix::net::UnixListener::bind(dir.path().join("socket")).unwrap();
    fs::write(dir.path().join("g"), "").unwrap();
    let (entries, warnings) = all(source(dir.path())).await;
    assert_eq!(names(&entries), ["g"]);
    assert_eq!(warnings, ["fifo: skipped: a FIFO", "socket: skipped: a socket"]);
}

/// The first batch of a tree.
fn first_batch(source: &LocalSource) -> (Batches, Batch) {
    let base = Base::find(&source.root).unwrap();
    let walk = Walk::new(base, Arc::new(source.scope(&[])), source.bounds.walk, None).unwrap();
    let mut batches = Batches::new(walk, HashSet::new());
    let batch = batches.next(&source.bounds.batch).unwrap().unwrap();
    (batches, batch)
}

fn reader() -> BatchReader {
    BatchReader::new(Arc::<OwnerNames>::default())
}

fn told(outcome: &Outcome) -> String {
    match outcome {
        Outcome::Entry(entry) => {
            let content = match &entry.content {
                Content::Inline { bytes, .. } => String::from_utf8_lossy(bytes).into_owned(),
                Content::Stored { size, .. } => format!("{size} stored"),
                Content::None => "-".to_owned(),
            };
            format!("{} {content}{}", entry.name, if entry.inconsistent { " inconsistent" } else { "" })
        }
        Outcome::Warning(w) => format!("{}: {}", w.name.as_ref().unwrap(), w.message),
    }
}

#[test]
fn what_vanishes_or_is_replaced_after_listing_is_skipped_and_never_followed() {
    let dir = tempfile::tempdir().unwrap();
    let path = |name: &str| dir.path().join(name);
    for name in ["a-gone", "b-fifo", "c-link", "d-dir", "e-new", "f-same"] {
        fs::write(path(name), name).unwrap();
    }
    symlink("x", path("g-was-link")).unwrap();
    let source = source(dir.path());
    let (_, batch) = first_batch(&source);
    for name in ["a-gone", "b-fifo", "c-link", "d-dir", "e-new", "g-was-link"] {
        fs::remove_file(path(name)).unwrap();
    }
    rustix::fs::mknodat(CWD, path("b-fifo"), Type::Fifo, Mode::RUSR | Mode::WUSR, 0).unwrap();
    let mut writer = fs::File::options().read(true).write(true).open(path("b-fifo")).unwrap();
    std::io::Write::write_all(&mut writer, b"not for the backup").unwrap();
    symlink("/etc/passwd", path("c-link")).unwrap();
    fs::create_dir(path("d-dir")).unwrap();
    fs::write(path("e-new"), "new").unwrap();
    fs::write(path("g-was-link"), "").unwrap();
    let portion = reader().read(batch, None).unwrap();
    let told: Vec<_> = portion.outcomes.iter().map(told).collect();
    let replaced = "skipped: it was replaced by something else while it was read";
    assert_eq!(
        told,
        [
            "a-gone: skipped: it vanished".to_owned(),
            format!("b-fifo: {replaced}"),
            format!("c-link: {replaced}"),
            format!("d-dir: {replaced}"),
            "e-new new".to_owned(),
            "f-same f-same".to_owned(),
            format!("g-was-link: {replaced}"),
        ]
    );
    let mut left = [0; 18];
    std::io::Read::read_exact(&mut writer, &mut left).unwrap();
    assert_eq!(&left, b"not for the backup", "nothing was taken out of the FIFO");
}

#[test]
fn a_file_that_changes_while_it_is_read_is_read_again_and_then_flagged() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("f");
    let source = source(dir.path());
    let read = |changes: Vec<&'static str>| {
        fs::write(&path, "0123456789").unwrap();
        let (_, batch) = first_batch(&source);
        let mut reader = reader();
        let file = path.clone();
        reader.after_content = Some(Box::new(move |attempt| {
            if let Some(content) = changes.get(attempt as usize) {
                // Long enough for any file system's clock.
                std::thread::sleep(Duration::from_millis(11));
                fs::write(&file, content).unwrap();
            }
        }));
        told(&reader.read(batch, None).unwrap().outcomes[0])
    };
    assert_eq!(read(vec![]), "f 0123456789");
    assert_eq!(read(vec!["abc"]), "f abc");
    assert_eq!(read(vec!["abcdefghij", "ABC"]), "f ABC");
    assert_eq!(read(vec!["abc", "ABC", "xyz"]), "f ABC inconsistent");
    assert_eq!(read(vec!["abc", "", "xyz"]), "f  inconsistent");
    assert_eq!(read(vec!["it has grown larger"]), "f 19 stored");
}

#[test]
fn many_extended_attributes_are_read_in_portions() {
    let dir = tempfile::tempdir().unwrap();
    for i in 0..6 {
        fs::write(dir.path().join(format!("{i}")), format!("{i}{i}")).unwrap();
        rustix::fs::setxattr(dir.path().join(format!("{i}")), "user.x", &[0; 100], XattrFlags::empty()).unwrap();
    }
    let (_, batch) = first_batch(&source(dir.path()));
    let mut reader = reader();
    reader.xattr_pause = 150;
    let mut told = Vec::new();
    let mut next = Some(batch);
    let mut portions = 0;
    while let Some(batch) = next {
        let portion = reader.read(batch, None).unwrap();
        told.extend(portion.outcomes.iter().map(super::tests::told));
        next = portion.rest;
        portions += 1;
    }
    assert_eq!(told, ["0 00", "1 11", "2 22", "3 33", "4 44", "5 55"]);
    assert_eq!(portions, 3);
}

/// Runs a test of this file again as a user who may not read everything.
fn as_nobody(test: &str, root: &Path) {
    // The user must be able to reach both.
    let exe = root.join("test");
    fs::copy(std::env::current_exe().unwrap(), &exe).unwrap();
    for path in [root, &exe] {
        fs::set_permissions(path, fs::Permissions::from_mode(0o755)).unwrap();
    }
    let mut command = std::process::Command::new(exe);
    command.args([test, "--exact", "--nocapture"]).env("LOCAL_SOURCE_DENIED", root.join("tree"));
    if rustix::process::geteuid().is_root() {
        std::os::unix::process::CommandExt::gid(&mut command, 65534);
        std::os::unix::process::CommandExt::uid(&mut command, 65534);
    }
    let output = command.output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success() && text.contains("1 passed"), "{text}{}", String::from_utf8_lossy(&output.stderr));
}

#[tokio::test]
async fn what_may_not_be_read_is_skipped_with_the_reason() {
    if let Some(tree) = std::env::var_os("LOCAL_SOURCE_DENIED") {
        let (entries, warnings) = all(source(Path::new(&tree))).await;
        assert_eq!(names(&entries), ["closed-to-search", "z"]);
        assert_eq!(
            warnings,
            [
                "closed: skipped: the directory cannot be read: permission denied",
                "closed-to-search/f: skipped: permission denied",
                "secret: skipped: permission denied",
            ]
        );
        let e = source(Path::new(&tree)).read(&"secret".into(), None, 0..1, &context()).await.unwrap_err();
        assert_eq!(e.class(), ErrorClass::Permanent);
        let closed = source(&Path::new(&tree).join("closed"));
        assert_eq!(closed.check().await.unwrap_err().class(), ErrorClass::Permanent);
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let tree = dir.path().join("tree");
    for name in ["closed", "closed-to-search"] {
        fs::create_dir_all(tree.join(name)).unwrap();
        fs::write(tree.join(name).join("f"), "").unwrap();
    }
    fs::write(tree.join("secret"), "x").unwrap();
    fs::write(tree.join("z"), "x").unwrap();
    for (name, mode) in [("closed", 0o000), ("closed-to-search", 0o444), ("secret", 0o000), ("z", 0o644), ("", 0o755)] {
        fs::set_permissions(tree.join(name), fs::Permissions::from_mode(mode)).unwrap();
    }
    as_nobody("local::source::tests::what_may_not_be_read_is_skipped_with_the_reason", dir.path());
    fs::set_permissions(tree.join("closed"), fs::Permissions::from_mode(0o700)).unwrap();
}

#[tokio::test]
async fn patterns_and_excluded_places_leave_out_all_below() {
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path().canonicalize().unwrap();
    for name in ["keep/x.o/inner", "keep/target/deep/er", "target", "backups/b%1/data"] {
        fs::create_dir_all(root.join(name)).unwrap();
    }
    for name in ["keep/a.o", "keep/a.c", "keep/target/f", "backups/b%1/f"] {
        fs::write(root.join(name), "").unwrap();
    }
    let (entries, warnings) = all(excluding(&root, &["*.o", "keep/target", "/backups"])).await;
    assert_eq!(names(&entries), ["keep", "keep/a.c", "target"]);
    assert!(warnings.is_empty());

    let source = Arc::new(excluding(&root, &["keep"]));
    let excluded =
        |place: &Path| ReadContext { excluded: [crate::local::local_identity(place).unwrap()].into(), ..context() };
    let (entries, _) = run(&source, None, excluded(&root.join("backups/b%1"))).await;
    assert_eq!(names(&entries), ["backups", "target"]);
    assert_eq!(run(&source, None, excluded(&root)).await.0.len(), 0);
    let (entries, _) = run(&source, None, excluded(&root.join("not/there"))).await;
    assert_eq!(entries.len(), 5);
    // Where the same directory is mounted a second time, only its number tells.
    let other_path = Scope::new(
        GlobSet::default(),
        false,
        &source.identity,
        &[Identity::new("local", root.join("backups").to_str().unwrap())],
    );
    assert!(other_path.leaves_out_inode(
        crate::local::metadata::FileState::from(rustix::fs::stat(root.join("backups")).unwrap()).inode()
    ));
}

#[tokio::test]
async fn other_file_systems_are_left_out_on_request() {
    let device = |path: &str| rustix::fs::stat(path).map(|s| s.st_dev).ok();
    let (Some(outer), Some(inner)) = (device("/dev"), device("/dev/shm")) else { return };
    if outer == inner {
        return;
    }
    let dir = tempfile::tempdir_in("/dev/shm").unwrap();
    fs::write(dir.path().join("f"), "x").unwrap();
    for one_file_system in [true, false] {
        // All but the one directory: what else is in `/dev` is not for tests to read.
        let exclude = vec!["/[!s]*".into(), "/s[!h]*".into(), "/shm/[!.]*".into()];
        let config = LocalSourceConfig { root: "/dev".into(), exclude, one_file_system };
        let source = Arc::new(LocalSource::new(config).unwrap());
        let (entries, _) = run(&source, None, context()).await;
        let found = names(&entries);
        let shm = found.iter().position(|name| name == "shm").unwrap();
        let below = found.iter().any(|name| name.starts_with("shm/"));
        assert_eq!(below, !one_file_system, "{found:?}");
        let (rest, _) = run(&source, Some(entries[shm].cursor.clone()), context()).await;
        assert_eq!(names(&rest), found[shm + 1..]);
    }
}

#[tokio::test]
async fn a_single_file_is_a_source_too() {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("f"), "content").unwrap();
    fs::write(dir.path().join("g"), "other").unwrap();
    symlink("f", dir.path().join("link")).unwrap();
    for root in ["f", "link"] {
        let source = Arc::new(source(&dir.path().join(root)));
        source.check().await.unwrap();
        let (entries, _) = run(&source, None, context()).await;
        assert_eq!(names(&entries), ["f"]);
        assert_eq!(inline(&entries[0]), b"content");
        assert_eq!(run(&source, Some(entries[0].cursor.clone()), context()).await.0.len(), 0);
        assert_eq!(source.estimate().await.unwrap(), Estimate { entries: Some(1), bytes: Some(7) });
        let opened = source.read(&"f".into(), None, 3..7, &context()).await.unwrap();
        assert_eq!(collect(opened).await, b"tent");
        assert!(source.read(&"g".into(), None, 0..1, &context()).await.is_err());
    }
}

#[tokio::test]
async fn a_root_that_is_missing_is_said_before_and_when_reading() {
    let dir = tempfile::tempdir().unwrap();
    let source = Arc::new(source(&dir.path().join("missing")));
    assert_eq!(source.check().await.unwrap_err().class(), ErrorClass::NotFound);
    assert_eq!(source.estimate().await.unwrap_err().class(), ErrorClass::NotFound);
    let mut events = source.clone().events(None, context());
    assert_eq!(events.next().await.unwrap().unwrap_err().class(), ErrorClass::NotFound);
    assert!(events.next().await.is_none());
    fs::create_dir(dir.path().join("missing")).unwrap();
    source.check().await.unwrap();
    assert_eq!(source.estimate().await.unwrap(), Estimate { entries: Some(0), bytes: Some(0) });
    let mut events = source.clone().events(Some(Cursor(Bytes::from_static(b"?"))), context());
    assert_eq!(events.next().await.unwrap().unwrap_err().class(), ErrorClass::Invalid);
    assert_eq!(source.identity(), crate::local::local_identity(dir.path().join("missing")).unwrap());
}

/// A tree of files, directories and links, made from random choices; names sort in other ways than paths do.
fn make_tree(root: &Path, choices: &[(u8, u8, u8)]) {
    let mut directories = vec![root.to_path_buf()];
    let mut files = Vec::new();
    for (kind, place, name) in choices {
        let place = &directories[usize::from(*place) % directories.len()];
        let alphabet = [&b"a"[..], b"a-", b"a.b", b"b", b"\xff", b"A", b"ab", b"a "];
        let path = place.join(os(alphabet[usize::from(*name) % alphabet.len()]));
        if path.symlink_metadata().is_ok() {
            continue;
        }
        match kind % 8 {
            0..=2 => {
                fs::create_dir(&path).unwrap();
                directories.push(path);
            }
            3 | 4 => {
                fs::write(&path, vec![*kind; usize::from(*kind) * 30]).unwrap();
                files.push(path);
            }
            5 => symlink("a/b", &path).unwrap(),
            6 => rustix::fs::mknodat(CWD, &path, Type::Fifo, Mode::RUSR, 0).unwrap(),
            _ if files.is_empty() => {}
            _ => fs::hard_link(&files[usize::from(*name) % files.len()], &path).unwrap(),
        }
    }
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn after_every_cursor_exactly_the_rest_follows(
        choices in prop::collection::vec((any::<u8>(), any::<u8>(), any::<u8>()), 1..60),
        tight in any::<bool>(),
    ) {
        let dir = tempfile::tempdir().unwrap();
        make_tree(dir.path(), &choices);
        let mut source = source(dir.path());
        if tight {
            source.bounds.walk.names = 40;
            source.bounds.walk.all_names = 60;
            source.bounds.walk.handles = 1;
            source.bounds.batch.items = 3;
            source.bounds.batch.directories = 2;
            source.bounds.batch.inline = 3000;
        }
        let source = Arc::new(source);
        runtime().block_on(async {
            let (entries, warnings) = run(&source, None, context()).await;
            let mut sorted: Vec<_> = entries.iter().map(|e| e.name.as_bytes().split(|b| *b == b'/').collect::<Vec<_>>()).collect();
            sorted.sort();
            sorted.dedup();
            let expected = walkdir(dir.path());
            prop_assert_eq!(&sorted.iter().map(|parts| parts.join(&b'/')).collect::<Vec<_>>(), &expected);
            prop_assert!(entries.iter().map(|e| e.name.as_bytes()).eq(expected.iter().map(Vec::as_slice)));
            for (i, entry) in entries.iter().enumerate() {
                let (rest, rest_warnings) = run(&source, Some(entry.cursor.clone()), context()).await;
                let rest: Vec<_> = rest.iter().map(essence).collect();
                let expected: Vec<_> = entries[i + 1..].iter().map(essence).collect();
                prop_assert_eq!(rest, expected);
                prop_assert!(warnings.ends_with(&rest_warnings));
            }
            Ok(())
        })?;
    }
}

/// The paths of a tree in the order of their components, but for FIFOs; by other means than ours.
fn walkdir(root: &Path) -> Vec<Vec<u8>> {
    fn visit(directory: &Path, prefix: &[u8], found: &mut Vec<Vec<u8>>) {
        let listed: BTreeMap<_, _> = fs::read_dir(directory)
            .unwrap()
            .map(|entry| entry.unwrap())
            .map(|entry| (entry.file_name().as_encoded_bytes().to_vec(), entry.file_type().unwrap()))
            .collect();
        for (name, kind) in listed {
            let path = [prefix, &name].concat();
            if std::os::unix::fs::FileTypeExt::is_fifo(&kind) {
                continue;
            }
            found.push(path.clone());
            if kind.is_dir() {
                visit(&directory.join(os(&name)), &[&path[..], b"/"].concat(), found);
            }
        }
    }
    let mut found = Vec::new();
    visit(root, b"", &mut found);
    found
}

#[tokio::test]
async fn a_cursor_holds_when_its_entry_has_vanished_or_become_something_else() {
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path();
    let build = || {
        for name in ["a", "b", "c"] {
            let _ = fs::remove_file(root.join(name));
            fs::create_dir_all(root.join(name)).unwrap();
            for file in ["1", "2", "3"] {
                fs::write(root.join(name).join(file), file).unwrap();
            }
        }
    };
    build();
    let source = Arc::new(source(root));
    let (entries, _) = run(&source, None, context()).await;
    let cursor = |name: &str| Some(entry(&entries, name).cursor.clone());

    fs::remove_file(root.join("b/2")).unwrap();
    let (rest, warnings) = run(&source, cursor("b/2"), context()).await;
    assert_eq!((names(&rest).join(" "), warnings.len()), ("b/3 c c/1 c/2 c/3".to_owned(), 0));

    // A file became a directory: it was delivered as a file, and is not delivered twice.
    fs::create_dir(root.join("b/2")).unwrap();
    fs::write(root.join("b/2/new"), "").unwrap();
    let (rest, _) = run(&source, cursor("b/2"), context()).await;
    assert_eq!(names(&rest).join(" "), "b/3 c c/1 c/2 c/3");

    fs::remove_dir_all(root.join("b")).unwrap();
    for at in ["b", "b/2"] {
        let (rest, warnings) = run(&source, cursor(at), context()).await;
        assert_eq!(names(&rest).join(" "), "c c/1 c/2 c/3", "{at}");
        assert_eq!(warnings, ["b: skipped: the rest of the directory: it vanished"]);
    }
    fs::write(root.join("b"), "a file").unwrap();
    for at in ["b", "b/2"] {
        let (rest, warnings) = run(&source, cursor(at), context()).await;
        assert_eq!((names(&rest).join(" "), warnings.len()), ("c c/1 c/2 c/3".to_owned(), 1), "{at}");
    }
    fs::remove_file(root.join("b")).unwrap();
    symlink("c", root.join("b")).unwrap();
    let (rest, _) = run(&source, cursor("b/2"), context()).await;
    assert_eq!(names(&rest).join(" "), "c c/1 c/2 c/3", "a link is not followed");
}

#[test]
fn a_directory_that_is_replaced_while_the_walk_is_inside_is_not_mixed_with_the_new_one() {
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path();
    for name in ["d/a", "d/e", "d/z"] {
        fs::create_dir_all(root.join(name)).unwrap();
    }
    let mut source = source(root);
    source.bounds.walk.handles = 1;
    let base = Base::find(&source.root).unwrap();
    let mut walk = Walk::new(base, Arc::new(source.scope(&[])), source.bounds.walk, None).unwrap();
    let mut next = || match walk.next().unwrap() {
        Some(Found::Item(item)) => item.name.to_string(),
        Some(Found::Warning(w)) => format!("{}: {}", w.name.unwrap(), w.message),
        None => "end".to_owned(),
    };
    assert_eq!(next(), "d");
    assert_eq!(next(), "d/a");
    fs::rename(root.join("d"), root.join("moved")).unwrap();
    fs::create_dir_all(root.join("d/e")).unwrap();
    assert_eq!(next(), "d/e: skipped: it was replaced by something else while it was read");
    assert_eq!(next(), "d/z: skipped: it was replaced by something else while it was read");
    assert_eq!(next(), "end");
}

#[tokio::test]
async fn a_deep_tree_needs_few_handles_and_too_long_a_path_is_skipped() {
    let dir = tempfile::tempdir().unwrap();
    let depth = 300;
    let mut at = rustix::fs::open(dir.path(), rustix::fs::OFlags::DIRECTORY, Mode::empty()).unwrap();
    for _ in 0..depth {
        for name in ["d", "e"] {
            rustix::fs::mkdirat(&at, name, Mode::RWXU).unwrap();
        }
        at = rustix::fs::openat(&at, "d", rustix::fs::OFlags::DIRECTORY, Mode::empty()).unwrap();
    }
    let mut source = source(dir.path());
    source.bounds.walk.handles = 4;
    source.bounds.walk.all_names = 100;
    let (entries, warnings) = all(source).await;
    assert_eq!((entries.len(), warnings.len()), (2 * depth, 0));
    assert_eq!(entries[depth - 1].name.as_bytes().len(), 2 * depth - 1);
    assert_eq!(entries[depth].name.as_bytes().len(), 2 * depth - 1);
    assert!(names(&entries)[depth].ends_with("d/e") && names(&entries)[2 * depth - 1] == "e");

    let mut source = super::tests::source(dir.path());
    source.bounds.walk.path = 5;
    let (entries, warnings) = all(source).await;
    assert_eq!(names(&entries), ["d", "d/d", "d/d/d", "d/d/e", "d/e", "e"]);
    assert_eq!(warnings.len(), 2);
    assert_eq!(warnings[0], "d/d/d/d: skipped: its path is longer than 5 bytes");
}

#[tokio::test]
async fn a_path_as_long_as_a_cursor_holds_can_be_resumed() {
    let dir = tempfile::tempdir().unwrap();
    let name = "n".repeat(250);
    let mut at = rustix::fs::open(dir.path(), rustix::fs::OFlags::DIRECTORY, Mode::empty()).unwrap();
    for _ in 0..270 {
        rustix::fs::mkdirat(&at, &name, Mode::RWXU).unwrap();
        at = rustix::fs::openat(&at, &name, rustix::fs::OFlags::DIRECTORY, Mode::empty()).unwrap();
    }
    let source = Arc::new(source(dir.path()));
    let (entries, warnings) = run(&source, None, context()).await;
    assert_eq!((entries.len(), warnings.len()), ((crate::adapter::MAX_CURSOR - 256) / 251, 1));
    let cursor = &entries[entries.len() - 2].cursor;
    assert!(cursor.0.len() <= crate::adapter::MAX_CURSOR);
    let (rest, _) = run(&source, Some(cursor.clone()), context()).await;
    assert_eq!(rest.len(), 1);
    assert_eq!(rest[0].name, entries[entries.len() - 1].name);
}

#[tokio::test]
async fn a_pause_delivers_what_was_read_and_a_resume_the_rest() {
    let dir = tempfile::tempdir().unwrap();
    for i in 0..200 {
        fs::write(dir.path().join(format!("{i:03}")), format!("{i}")).unwrap();
    }
    let mut source = source(dir.path());
    source.bounds.batch.items = 10;
    let source = Arc::new(source);
    let ctx = context();
    let stop = ctx.stop.clone();
    let budget = ctx.budget.clone();
    let mut events = source.clone().events(None, ctx);
    let mut first = Vec::new();
    while let Some(event) = events.next().await {
        let SourceEvent::Entry(entry) = event.unwrap() else { panic!() };
        first.push(*entry);
        if first.len() == 15 {
            stop.cancel();
        }
    }
    assert!((20..=80).contains(&first.len()) && first.len() % 10 == 0, "{}", first.len());
    let (rest, _) = run(&source, Some(first[first.len() - 1].cursor.clone()), context()).await;
    assert_eq!(first.len() + rest.len(), 200);
    assert_eq!(rest[0].name.to_string(), format!("{:03}", first.len()));
    assert!(budget.available() < budget.total());
    drop(first);
    assert_eq!(budget.available(), budget.total(), "what is dropped goes back");
}

#[tokio::test]
async fn a_small_budget_is_kept_and_dropping_the_stream_gives_all_back() {
    let dir = tempfile::tempdir().unwrap();
    for i in 0..50 {
        fs::write(dir.path().join(format!("{i:02}")), vec![i; 40_000]).unwrap();
    }
    let source = Arc::new(source(dir.path()));
    let ctx = ReadContext { budget: ByteBudget::new(128 << 10), ..context() };
    let budget = ctx.budget.clone();
    let mut events = source.clone().events(None, ctx.clone());
    for i in 0..50 {
        // Each is dropped before the next is asked for; so the walk is never stuck.
        let Some(Ok(SourceEvent::Entry(entry))) = events.next().await else { panic!() };
        assert_eq!(inline(&entry), vec![i; 40_000]);
    }
    assert!(events.next().await.is_none());
    assert_eq!(budget.available(), budget.total());

    let mut events = source.events(None, ctx);
    let first = events.next().await;
    drop(events);
    drop(first);
    for _ in 0..1000 {
        if budget.available() == budget.total() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    panic!("the budget did not come back");
}

#[tokio::test(start_paused = true)]
async fn the_bandwidth_limit_holds_inline_and_for_large_files() {
    let dir = tempfile::tempdir().unwrap();
    for i in 0..20 {
        fs::write(dir.path().join(format!("{i}")), vec![1; 50_000]).unwrap();
    }
    fs::write(dir.path().join("large"), vec![1; 2_000_000]).unwrap();
    let source = Arc::new(source(dir.path()));
    let ctx = context();
    ctx.limit.set(std::num::NonZeroU64::new(100_000));
    let start = tokio::time::Instant::now();
    assert_eq!(run(&source, None, ctx.clone()).await.0.len(), 21);
    let inline = start.elapsed().as_secs_f64();
    assert!((9.0..=10.1).contains(&inline), "{inline}");
    let opened = source.read(&"large".into(), None, 500_000..2_000_000, &ctx).await.unwrap();
    assert_eq!(collect(opened).await.len(), 1_500_000);
    let large = start.elapsed().as_secs_f64() - inline;
    assert!((14.0..=15.5).contains(&large), "{large}");
}

#[tokio::test]
async fn an_estimate_counts_what_would_be_delivered() {
    let dir = tempfile::tempdir().unwrap();
    fs::create_dir(dir.path().join("d")).unwrap();
    fs::write(dir.path().join("d/f"), [0; 1000]).unwrap();
    fs::write(dir.path().join("g"), [0; 234]).unwrap();
    fs::write(dir.path().join("h.o"), [0; 5]).unwrap();
    let estimate = excluding(dir.path(), &["*.o"]).estimate().await.unwrap();
    assert_eq!(estimate, Estimate { entries: Some(3), bytes: Some(1234) });
}

#[test]
fn a_batch_ends_before_it_holds_too_much() {
    let dir = tempfile::tempdir().unwrap();
    for i in 0..30 {
        fs::create_dir(dir.path().join(format!("{i:02}"))).unwrap();
        fs::write(dir.path().join(format!("{i:02}/f")), vec![0; 1000]).unwrap();
    }
    let mut source = source(dir.path());
    source.bounds.batch.directories = 7;
    let (_, batch) = first_batch(&source);
    assert_eq!(batch.tasks.len(), 13, "seven directories, and what is in six of them");
    source.bounds.batch.directories = 48;
    source.bounds.batch.bytes = 5000;
    assert_eq!(first_batch(&source).1.bytes, 5000);
    source.bounds.batch.inline = 999;
    let (_, batch) = first_batch(&source);
    assert!(
        batch
            .tasks
            .iter()
            .all(|task| matches!(task, Task::Read(_, plan) if *plan != crate::local::batch::Plan::Inline))
    );
}

/// Reads the tree of the environment variable `LOCAL_SOURCE_TREE` and prints how long it took; for release builds.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "a measurement"]
async fn measure() {
    let root = std::env::var_os("LOCAL_SOURCE_TREE").expect("LOCAL_SOURCE_TREE names a tree");
    for _ in 0..5 {
        let config = LocalSourceConfig { root: (&root).into(), ..LocalSourceConfig::default() };
        let source = Arc::new(LocalSource::new(config).unwrap());
        let start = Instant::now();
        let cpu = || rustix::time::clock_gettime(rustix::time::ClockId::ProcessCPUTime);
        let cpu_start = cpu();
        let mut events = source.events(None, context());
        let (mut entries, mut bytes, mut cursors) = (0_u64, 0, 0);
        while let Some(event) = events.next().await {
            if let SourceEvent::Entry(entry) = event.unwrap() {
                entries += 1;
                cursors += entry.cursor.0.len();
                if let Content::Inline { bytes: content, .. } = &entry.content {
                    bytes += content.len();
                }
            }
        }
        let used = cpu() - cpu_start;
        println!(
            "{entries} entries, {bytes} bytes, {cursors} bytes of cursors: {:?} wall, {}.{:03} s of one core",
            start.elapsed(),
            used.tv_sec,
            used.tv_nsec / 1_000_000
        );
    }
}
