//! What belongs to a source, and what is told of it.

use super::*;

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
