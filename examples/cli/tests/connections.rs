//! `backup connection`, `create --source`, `worker`, `history`.

#![allow(clippy::unwrap_used, reason = "a failing test panics")]

mod common;

use common::{Place, signal, wait};
use std::process::Stdio;

const SECRET: &str = "hunter2-correct-horse";

fn places(place: &Place) {
    place.tree("docs");
    let path = |name: &str| format!("path={}", place.arg(name));
    place.ends(0, &["connection", "add", "docs", "--kind", "local", "--set", &path("docs")]);
    let disk = ["connection", "add", "disk", "--kind", "local", "--set", &path("disk"), "--check-as", "destination"];
    place.ends(0, &disk);
    let back = ["connection", "add", "back", "--kind", "local", "--set", &path("back"), "--check-as", "target"];
    place.ends(0, &back);
}

#[test]
fn connections_are_checked_stored_listed_changed_and_removed() {
    let place = Place::new();
    places(&place);
    let listed = place.ends(0, &["--json", "connection", "list"]).last();
    let names: Vec<_> = listed["connections"].as_array().unwrap().iter().map(|c| c["name"].as_str().unwrap()).collect();
    assert_eq!(names, ["back", "disk", "docs"]);
    let bad = place.ends(1, &["connection", "add", "bad", "--kind", "local", "--set", "path=/no/such/place"]);
    assert!(bad.stderr.contains("/no/such/place") && bad.stderr.contains("connection kinds"), "{}", bad.stderr);
    let twice = place
        .ends(1, &["connection", "add", "docs", "--kind", "local", "--set", &format!("path={}", place.arg("docs"))]);
    assert!(twice.stderr.contains("this name already"), "{}", twice.stderr);
    place.ends(2, &["connection", "edit", "docs"]);
    place.ends(0, &["connection", "edit", "docs", "--rename", "files"]);
    place.ends(1, &["connection", "show", "docs"]);
    assert!(place.ends(0, &["connection", "show", "files"]).stdout.contains("works"));
    std::fs::rename(place.path("docs"), place.path("away")).unwrap();
    let failed = place.ends(1, &["connection", "check", "files"]);
    assert!(failed.stdout.contains("does not work"), "{}", failed.stdout);
    assert!(place.ends(0, &["connection", "list"]).stdout.contains("FAILS"));
    place.ends(2, &["connection", "remove", "files"]);
    place.ends(0, &["connection", "remove", "files", "--force"]);
    let kinds = place.ends(0, &["--json", "connection", "kinds"]).last();
    assert_eq!(kinds["kinds"].as_array().unwrap().len(), 4);
    assert!(place.ends(0, &["connection", "kinds", "s3"]).stdout.contains("writeOnly"));
}

#[test]
fn secrets_come_from_the_environment_and_are_not_repeated() {
    let place = Place::new();
    let args = [
        "-vv",
        "connection",
        "add",
        "bucket",
        "--kind",
        "s3",
        "--set",
        "bucket=photos",
        "--set",
        "endpoint=http://127.0.0.1:9",
    ];
    let keys = [
        "--set",
        "credentials.kind=static",
        "--set",
        "credentials.access_key=AK",
        "--secret",
        "credentials.secret_key=MY_KEY",
    ];
    let mut command = place.command(&[&args[..], &keys].concat());
    let run = wait(command.env("MY_KEY", SECRET).env("RUST_LOG", "trace").spawn().unwrap());
    assert_eq!(run.code, Some(1), "{run:?}");
    assert!(run.stderr.contains("s3://photos") && !run.stderr.contains(SECRET) && !run.stdout.contains(SECRET));
    let missing = place.ends(2, &[&args[..], &keys].concat());
    assert!(missing.stderr.contains("MY_KEY"), "{}", missing.stderr);
    for entry in common::files_below(&place.path("")) {
        let bytes = std::fs::read(&entry).unwrap();
        assert!(!bytes.windows(SECRET.len()).any(|window| window == SECRET.as_bytes()), "{entry:?}");
    }
}

#[test]
fn a_backup_of_connections_runs_here_or_by_a_worker() {
    let place = Place::new();
    places(&place);
    let here = place.ends(0, &["create", "--source", "docs", "--destination", "disk", "--name", "here"]);
    assert!(here.stdout.contains("archive "), "{}", here.stdout);
    let options = r#"{"exclude":["*.tmp"]}"#;
    let detached = [
        "create",
        "--source",
        "docs",
        "--destination",
        "disk",
        "--name",
        "there",
        "--detach",
        "--source-options",
        options,
    ];
    let created = place.ends(0, &[&["--json"][..], &detached].concat()).last();
    let id = created["operation"].as_str().unwrap();
    assert_eq!(place.state(id), "pending");
    let in_use = place.ends(1, &["connection", "remove", "docs", "--force"]);
    assert!(in_use.stderr.contains(id), "{}", in_use.stderr);

    let worker = place.command(&["--json", "worker"]).stdout(Stdio::piped()).spawn().unwrap();
    let deadline = std::time::Instant::now() + common::PATIENCE;
    while place.state(id) != "completed" {
        assert!(std::time::Instant::now() < deadline, "the worker does not run it");
        std::thread::sleep(std::time::Duration::from_millis(100));
    }
    signal(&worker, "TERM");
    let told = wait(worker);
    assert_eq!(told.code, Some(0), "{told:?}");
    assert!(told.stdout.contains(id) && told.stdout.contains("\"stopped\""), "{}", told.stdout);

    place.ends(0, &["restore", "there", "--destination", "disk", "--target", "back"]);
    std::fs::remove_file(place.path("docs/skip.tmp")).unwrap();
    place.assert_same("docs", "back");

    let history = place.ends(0, &["--json", "history", "--source", "docs"]).last();
    assert_eq!(history["totals"]["completed"], 2);
    assert_eq!(history["success_rate"], 1.0);
    assert_eq!(history["storage"][0]["archives"], 2);
    let page = place.ends(0, &["--json", "history", "--limit", "1"]).last();
    let next = place.ends(0, &["--json", "history", "--before", page["next_before"].as_str().unwrap()]).last();
    assert_eq!(next["operations"].as_array().unwrap().len(), 2);
    let none = place.ends(0, &["--json", "history", "--since", "2999-01-01"]).last();
    assert_eq!(none["totals"]["completed"], 0);
    place.ends(2, &["history", "--since", "yesterday"]);
    assert!(place.ends(0, &["history"]).stdout.contains("100 % succeeded"));
}

#[test]
fn a_paused_backup_of_connections_is_resumed_or_cancelled() {
    let place = Place::new();
    places(&place);
    place.large_tree("docs");
    for (end, state) in [("resume", "completed"), ("cancel", "cancelled")] {
        let args = ["create", "--source", "docs", "--destination", "disk", "--limit-read", common::SLOW];
        let child = place.command(&args).spawn().unwrap();
        let id = place.wait_for_running("backup").unwrap();
        place.ends(0, &["pause", &id]);
        assert_eq!(wait(child).code, Some(4));
        place.ends(0, &[end, &id]);
        assert_eq!(place.state(&id), state);
    }
}

#[test]
fn the_two_ways_to_name_places_do_not_mix() {
    let place = Place::new();
    for args in [
        &["create", "--from", "a", "--destination", "disk"][..],
        &["create", "--source", "a"],
        &["create", "--from", "a"],
        &["create", "--from", "a", "--to", "b", "--detach"],
        &["restore", "latest", "--at", "a", "--target", "b"],
    ] {
        place.ends(2, args);
    }
    let unknown = place.ends(1, &["create", "--source", "a", "--destination", "b"]);
    assert!(unknown.stderr.contains("no such connection"), "{}", unknown.stderr);
}

#[test]
fn a_worker_needs_no_key_when_no_connection_has_secrets() {
    let place = Place::new();
    places(&place);
    let key_files = common::files_below(&place.path("home"));
    let keys: Vec<_> = key_files.iter().filter(|path| path.extension().is_some_and(|e| e == "key")).collect();
    assert_eq!(keys.len(), 1, "the key that was made with the first connection: {key_files:?}");
    std::fs::remove_file(keys[0]).unwrap();
    let args = ["--json", "create", "--source", "docs", "--destination", "disk", "--detach"];
    let created = place.ends(0, &args).last();
    let id = created["operation"].as_str().unwrap();
    let worker = place.command(&["--json", "worker"]).stdout(Stdio::piped()).spawn().unwrap();
    let deadline = std::time::Instant::now() + common::PATIENCE;
    while place.state(id) != "completed" {
        assert!(std::time::Instant::now() < deadline, "the worker does not run it");
        std::thread::sleep(std::time::Duration::from_millis(100));
    }
    signal(&worker, "TERM");
    assert_eq!(wait(worker).code, Some(0));
    // What a crash has left says what to do.
    std::fs::write(keys[0], "").unwrap();
    let path = format!("path={}", place.arg("docs"));
    let empty = place.ends(1, &["connection", "add", "more", "--kind", "local", "--set", &path]);
    assert!(empty.stderr.contains("is empty") && empty.stderr.contains("remove it"), "{}", empty.stderr);
}
