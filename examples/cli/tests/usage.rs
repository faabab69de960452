//! Wrong usage, errors for people and machines, and where things are kept.

mod common;

use common::{Place, text, wait};
use std::os::unix::fs::PermissionsExt;
use std::process::Command;

#[test]
fn wrong_usage_exits_with_2_and_changes_nothing() {
    let place = Place::new();
    place.tree("tree");
    let create = ["create", "--from", "tree", "--to", "backups"];
    for bad in [
        &["--memory", "0"][..],
        &["--memory", "4096"],
        &["--memory", "lots"],
        &["--volume-size", "-1"],
        &["--volume-size", "100MiB"],
        &["--volume-size", "11MiB", "--memory", "64MiB"],
        &["--name", "latest"],
        &["--limit-read", "0MiB/s"],
        &["--limit-write", "fast"],
        &["--codec", "lzma"],
        &["--level", "99"],
        &["--codec", "gzip", "--level", "22"],
        &["--exclude", "a[b"],
        &["--no-such-option"],
    ] {
        let run = place.ends(2, &[&create[..], bad].concat());
        assert!(run.stderr.contains("error"), "{bad:?}: {}", run.stderr);
    }
    place.ends(2, &["create", "--from", "tree"]);
    place.ends(2, &["create", "--from", "s3://bucket", "--to", "backups"]);
    place.ends(2, &["create", "--from", "", "--to", "backups"]);
    place.ends(2, &["verify", "latest", "--at", "backups", "--sample", "0%"]);
    place.ends(2, &["verify", "latest", "--at", "backups", "--sample", "5%", "--quick"]);
    place.ends(2, &["sweep", "--at", "backups", "--min-age", "soon"]);
    place.ends(2, &["resume"]);
    place.ends(2, &["no-such-command"]);
    assert!(!place.path("backups").exists());
}

#[test]
fn an_unknown_kind_of_place_is_named_with_the_known_ones() {
    let place = Place::new();
    let run = place.ends(2, &["list", "--at", "ftp://host/x"]);
    assert!(run.stderr.contains("`ftp`") && run.stderr.contains("local:PATH"), "{}", run.stderr);
}

#[test]
fn errors_are_json_when_asked_for() {
    let place = Place::new();
    let run = place.ends(2, &["--json", "list"]);
    assert_eq!(run.last()["error"]["class"], "usage");
    assert!(run.stderr.is_empty(), "{}", run.stderr);
    let run = place.ends(1, &["--json", "create", "--from", "nowhere", "--to", "backups"]);
    let error = &run.last()["error"];
    assert_eq!(error["class"], "not-found");
    assert!(error["message"].is_string() && error["causes"].is_array());
}

#[test]
fn a_source_that_is_not_there_is_an_error_and_makes_no_operation() {
    let place = Place::new();
    let run = place.ends(1, &["create", "--from", "nowhere", "--to", "backups"]);
    assert!(run.stderr.starts_with("error: ") && run.stderr.contains("nowhere"), "{}", run.stderr);
    let list = place.ends(0, &["--json", "operations"]).last();
    assert_eq!(list["operations"].as_array().unwrap().len(), 0, "{list}");
}

#[test]
fn help_and_version_and_completions_are_there() {
    let place = Place::new();
    let help = place.ends(0, &["--help"]).stdout;
    for word in ["create", "restore", "Examples", "Exit codes"] {
        assert!(help.contains(word), "{word}");
    }
    assert!(place.ends(0, &["--version"]).stdout.starts_with("backup "));
    assert!(place.ends(0, &["completions", "bash"]).stdout.contains("_backup"));
    for command in [
        "create",
        "list",
        "show",
        "verify",
        "restore",
        "export",
        "delete",
        "sweep",
        "operations",
        "pause",
        "cancel",
        "resume",
        "logs",
        "keygen",
    ] {
        place.ends(0, &[command, "-h"]);
    }
}

#[test]
fn the_store_is_made_in_the_data_directory_for_its_owner_alone() {
    let place = Place::new();
    place.tree("tree");
    let create = ["create", "--from", "tree", "--to", "backups"];
    let run = wait(place.command(&create).env_remove("BACKUP_STORE").spawn().unwrap());
    assert_eq!(run.code, Some(0), "{}", run.stderr);
    let directory = place.path("home/.local/share/backup");
    assert!(directory.join("store.db").is_file());
    assert_eq!(std::fs::metadata(&directory).unwrap().permissions().mode() & 0o777, 0o700);

    let run = wait(
        place.command(&create).env_remove("BACKUP_STORE").env("XDG_DATA_HOME", place.path("xdg")).spawn().unwrap(),
    );
    assert_eq!(run.code, Some(0), "{}", run.stderr);
    assert!(place.path("xdg/backup/store.db").is_file());

    // Looking at archives makes no store.
    let list =
        place.command(&["list", "--at", "backups"]).env("BACKUP_STORE", place.path("none/s.db")).output().unwrap();
    assert!(list.status.success(), "{}", text(&list.stderr));
    assert!(!place.path("none").exists());

    let run = place.ends(1, &["operations", "--store", "mysql://h/db"]);
    assert!(run.stderr.contains("--store"), "{}", run.stderr);
    place.ends(0, &["operations", "--store", &format!("sqlite:{}", place.arg("by-url/s.db"))]);
    assert!(place.path("by-url/s.db").is_file());
}

#[test]
fn quiet_says_only_the_result_and_nothing_is_said_twice() {
    let place = Place::new();
    place.tree("tree");
    let run = place.ends(0, &["-q", "create", "--from", "tree", "--to", "backups"]);
    assert!(run.stderr.is_empty(), "{}", run.stderr);
    assert_eq!(run.stdout.lines().count(), 1, "{}", run.stdout);
    let run = place.ends(0, &["-q", "--json", "create", "--from", "tree", "--to", "backups"]);
    let events: Vec<_> = run.lines().iter().map(|e| e["event"].clone()).collect();
    assert_eq!(events.iter().filter(|e| *e == "completed").count(), 1, "{events:?}");
    assert!(!events.contains(&"progress".into()), "{events:?}");
}

#[test]
fn a_reader_that_goes_away_is_no_panic() {
    let place = Place::new();
    for i in 0..3000 {
        place.write(&format!("tree/{i:05}-with-a-name-that-fills-the-pipe-sooner"), "");
    }
    place.create("tree", "backups", &[]);
    let script = format!("'{}' show latest --at backups --entries | head -n 1", env!("CARGO_BIN_EXE_backup"));
    let output = Command::new("bash")
        .args(["-c", &format!("set -o pipefail; {script}")])
        .current_dir(place.path("."))
        .env("BACKUP_STORE", place.path("state/store.db"))
        .output()
        .unwrap();
    assert_eq!((output.status.code(), text(&output.stderr).as_str()), (Some(0), ""));
    assert_eq!(text(&output.stdout).lines().count(), 1);
}
