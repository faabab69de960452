//! Sealed archives: keys from files and passphrases, and what happens without.

mod common;

use common::{Place, files_below};
use std::os::unix::fs::PermissionsExt;

#[test]
fn a_key_file_is_made_once_and_for_its_owner_alone() {
    let place = Place::new();
    let run = place.ends(0, &["keygen", "key"]);
    assert!(run.stderr.contains("safe place"), "{}", run.stderr);
    let key = std::fs::read_to_string(place.path("key")).unwrap();
    assert_eq!(std::fs::metadata(place.path("key")).unwrap().permissions().mode() & 0o777, 0o600);
    place.ends(1, &["keygen", "key"]);
    assert_eq!(std::fs::read_to_string(place.path("key")).unwrap(), key, "a key is never overwritten");
    let printed = place.ends(0, &["keygen"]).stdout;
    assert_ne!(printed.trim(), key.trim());
    assert!(place.ends(0, &["--json", "keygen"]).last()["key"].is_string());
}

#[test]
fn a_sealed_archive_opens_with_its_key_only() {
    let place = Place::new();
    place.tree("tree");
    place.ends(0, &["keygen", "key"]);
    place.ends(0, &["keygen", "other"]);
    let id = place.create("tree", "backups", &["--key-file", "key", "--name", "secret"]);
    for file in files_below(&place.path(&format!("backups/{id}"))) {
        let bytes = std::fs::read(&file).unwrap();
        assert!(!bytes.windows(5).any(|w| w == b"a.txt"), "{}", file.display());
    }
    // Listing works without.
    let list = place.ends(0, &["--json", "list", "--at", "backups"]).last();
    assert_eq!(
        (&list["archives"][0]["status"], &list["archives"][0]["header"]["sealed"]),
        (&"complete".into(), &true.into())
    );
    let list = place.ends(0, &["--json", "list", "--at", "backups", "--key-file", "key"]).last();
    assert!(list["archives"][0]["totals"]["entries"].as_u64().unwrap() > 5);

    let run = place.ends(1, &["restore", "secret", "--at", "backups", "--to", "back"]);
    assert!(run.stderr.contains("--key-file"), "{}", run.stderr);
    let run = place.ends(1, &["--json", "verify", "secret", "--at", "backups", "--key-file", "other"]);
    assert_eq!(run.last()["error"]["class"], "unauthorized", "{}", run.stdout);
    assert!(!place.path("back").exists());

    place.ends(0, &["verify", "secret", "--at", "backups", "--key-file", "key"]);
    place.ends(0, &["--key-file", "key", "restore", "secret", "--at", "backups", "--to", "back"]);
    place.assert_same("tree", "back");
    place.ends(0, &["--key-file", "key", "export", "secret", "--at", "backups", "--output", "x.tar"]);
    assert!(std::fs::read(place.path("x.tar")).unwrap().windows(6).any(|w| w == b"second"));
    place.ends(0, &["delete", "secret", "--at", "backups", "--force"]);
}

#[test]
fn a_passphrase_seals_and_never_reaches_the_store() {
    let place = Place::new();
    place.tree("tree");
    let run = |args: &[&str], passphrase: Option<&str>| {
        let mut command = place.command(args);
        if let Some(passphrase) = passphrase {
            command.env("TEST_PASSPHRASE", passphrase);
        }
        common::wait(command.spawn().unwrap())
    };
    let create = ["create", "--from", "tree", "--to", "backups", "--passphrase-env", "TEST_PASSPHRASE"];
    let failed = run(&create, None);
    assert_eq!(failed.code, Some(1));
    assert!(failed.stderr.contains("TEST_PASSPHRASE"), "{}", failed.stderr);
    assert_eq!(run(&create, Some("")).code, Some(1));

    assert_eq!(run(&create, Some("correct horse battery")).code, Some(0));
    for file in files_below(&place.path("state")) {
        let bytes = std::fs::read(&file).unwrap();
        assert!(!bytes.windows(13).any(|w| w == b"correct horse"), "{}", file.display());
    }
    let restore = ["restore", "latest", "--at", "backups", "--to", "back", "--passphrase-env", "TEST_PASSPHRASE"];
    assert_eq!(run(&restore, Some("wrong")).code, Some(1));
    assert_eq!(run(&restore, Some("correct horse battery")).code, Some(0));
    place.assert_same("tree", "back");
}

#[test]
fn with_a_key_an_archive_that_is_not_sealed_is_refused_unless_allowed() {
    let place = Place::new();
    place.tree("tree");
    place.ends(0, &["keygen", "key"]);
    place.create("tree", "backups", &[]);
    let run = place.ends(1, &["verify", "latest", "--at", "backups", "--key-file", "key"]);
    assert!(run.stderr.contains("--allow-unsealed"), "{}", run.stderr);
    place.ends(0, &["verify", "latest", "--at", "backups", "--key-file", "key", "--allow-unsealed"]);
    place.ends(1, &["restore", "latest", "--at", "backups", "--to", "back", "--key-file", "key"]);
    place.ends(0, &["restore", "latest", "--at", "backups", "--to", "back", "--key-file", "key", "--allow-unsealed"]);
    place.assert_same("tree", "back");
}

#[test]
fn two_keys_at_once_and_files_that_are_no_keys_are_refused() {
    let place = Place::new();
    place.tree("tree");
    place.ends(0, &["keygen", "key"]);
    let create = ["create", "--from", "tree", "--to", "backups"];
    let with = |more: &[&'static str]| [&create[..], more].concat();
    place.ends(2, &with(&["--key-file", "key", "--passphrase-env", "X"]));
    place.ends(1, &with(&["--key-file", "no-such-file"]));
    place.ends(1, &with(&["--key-file", "tree/a.txt"]));
    assert!(files_below(&place.path("backups")).is_empty());
}

#[test]
fn a_new_key_takes_the_place_of_the_old_one() {
    let place = Place::new();
    place.tree("tree");
    for key in ["key", "new", "other"] {
        place.ends(0, &["keygen", key]);
    }
    place.create("tree", "backups", &["--key-file", "key", "--name", "secret"]);
    let rekey = ["rekey", "secret", "--at", "backups", "--new-key-file", "new"];
    let with = |more: &[&'static str]| [&rekey[..], more].concat();
    let run = place.ends(2, &rekey);
    assert!(run.stderr.contains("--key-file"), "{}", run.stderr);
    place.ends(1, &with(&["--key-file", "other"]));
    let run = place.ends(0, &with(&["--key-file", "key", "--json"]));
    assert_eq!(run.last()["archives"][0]["outcome"], "changed", "{}", run.stdout);
    place.ends(1, &["verify", "secret", "--at", "backups", "--key-file", "key"]);
    place.ends(0, &["verify", "secret", "--at", "backups", "--key-file", "new"]);
    let run = place.ends(0, &with(&["--key-file", "key"]));
    assert!(run.stdout.contains("already"), "{}", run.stdout);
    place.ends(0, &["restore", "secret", "--at", "backups", "--to", "back", "--key-file", "new"]);
    place.assert_same("tree", "back");
}

#[test]
fn the_key_of_all_archives_is_changed_at_once_and_those_that_cannot_be_are_told() {
    let place = Place::new();
    place.tree("tree");
    for key in ["key", "new", "other"] {
        place.ends(0, &["keygen", key]);
    }
    place.create("tree", "backups", &[]);
    let mine = [(); 2].map(|()| place.create("tree", "backups", &["--key-file", "key"]));
    let rekey = ["rekey", "--all", "--at", "backups", "--key-file", "key", "--new-key-file", "new", "--json"];
    let outcomes = |run: common::Run| -> Vec<(String, String)> {
        let text = |value: &serde_json::Value| value.as_str().unwrap().to_string();
        let run = run.last();
        let archives = run["archives"].as_array().unwrap().iter();
        archives.map(|a| (text(&a["archive"]), text(&a["outcome"]))).collect()
    };
    let changed = outcomes(place.ends(0, &[&rekey[..], &["--keep-old"]].concat()));
    assert_eq!(changed, mine.clone().map(|id| (id, "changed".to_string())));
    for key in ["key", "new"] {
        place.ends(0, &["verify", &mine[0], "--at", "backups", "--key-file", key]);
    }
    let foreign = place.create("tree", "backups", &["--key-file", "other"]);
    let manifest = place.path(&format!("backups/{}/manifest.json.sealed", mine[1]));
    std::fs::rename(&manifest, place.path("aside")).unwrap();
    let mut left = outcomes(place.ends(1, &rekey));
    left.sort();
    let mut expected = vec![
        (mine[0].clone(), "changed".to_string()),
        (mine[1].clone(), "left".to_string()),
        (foreign, "left".to_string()),
    ];
    expected.sort();
    assert_eq!(left, expected);
    std::fs::rename(place.path("aside"), &manifest).unwrap();
    place.ends(1, &["verify", &mine[0], "--at", "backups", "--key-file", "key"]);
    place.ends(0, &["verify", &mine[1], "--at", "backups", "--key-file", "key"]);
}
