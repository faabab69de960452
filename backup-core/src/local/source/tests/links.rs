//! Files with several names.

use super::*;

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
