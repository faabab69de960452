//! Trees that change or refuse while they are read.

use super::*;

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

/// The first batch of a tree.
fn first_batch(source: &LocalSource) -> (Batches, Batch) {
    let base = Base::find(&source.root).unwrap();
    let walk = Walk::new(base, Arc::new(source.scope(&[])), source.bounds.walk, None).unwrap();
    let mut batches = Batches::new(walk, HashSet::new());
    let batch = batches.next(&source.bounds.batch).unwrap().unwrap();
    (batches, batch)
}

fn reader() -> BatchReader {
    BatchReader::new(Arc::<OwnerNames>::default(), BufferPool::new(1))
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
    let mut seen = Vec::new();
    let mut next = Some(batch);
    let mut portions = 0;
    while let Some(batch) = next {
        let portion = reader.read(batch, None).unwrap();
        seen.extend(portion.outcomes.iter().map(told));
        next = portion.rest;
        portions += 1;
    }
    assert_eq!(seen, ["0 00", "1 11", "2 22", "3 33", "4 44", "5 55"]);
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
    as_nobody("local::source::tests::change::what_may_not_be_read_is_skipped_with_the_reason", dir.path());
    fs::set_permissions(tree.join("closed"), fs::Permissions::from_mode(0o700)).unwrap();
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
