//! Going on from any cursor, in trees of any shape.

use super::*;

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

    let mut source = super::source(dir.path());
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
async fn a_root_that_is_another_directory_by_now_is_refused_unless_the_last_entry_is_there() {
    let dir = tempfile::tempdir().unwrap();
    let (root, elsewhere) = (dir.path().join("root"), dir.path().join("elsewhere"));
    fs::create_dir_all(root.join("d")).unwrap();
    ["d/a", "d/b", "e"].iter().for_each(|name| fs::write(root.join(name), name).unwrap());
    let source = Arc::new(source(&root));
    let (entries, _) = run(&source, None, context()).await;
    assert_eq!(names(&entries), ["d", "d/a", "d/b", "e"]);
    fs::rename(&root, &elsewhere).unwrap();
    let refused = async || {
        for entry in &entries {
            let mut events = source.clone().events(Some(entry.cursor.clone()), context());
            let error = events.next().await.unwrap().unwrap_err();
            assert_eq!(error.class(), ErrorClass::NotFound);
            assert!(error.to_string().contains("is its disk mounted?"), "{error}");
        }
    };
    fs::create_dir(&root).unwrap();
    refused().await;
    fs::remove_dir(&root).unwrap();
    // A single file, of which no name comes behind the cursor.
    fs::write(&root, "x").unwrap();
    refused().await;
    fs::remove_file(&root).unwrap();

    fs::create_dir_all(root.join("d")).unwrap();
    fs::write(root.join("d/a"), "").unwrap();
    fs::write(root.join("z"), "").unwrap();
    let (rest, warnings) = run(&source, Some(entries[1].cursor.clone()), context()).await;
    assert_eq!(names(&rest), ["z"]);
    assert!(warnings.len() == 1 && warnings[0].contains("another directory than before"), "{warnings:?}");
    assert!(run(&source, None, context()).await.1.is_empty(), "from the start");
}
