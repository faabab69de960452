//! Operations: paused, resumed, cancelled and watched, from this process and others.

mod common;

use common::{Place, files_below, signal, wait};
use std::time::{Duration, Instant};

#[test]
fn ctrl_c_pauses_and_sigterm_hands_over_and_both_say_how_to_go_on() {
    for (name, event, state) in [("INT", "paused on request", "paused"), ("TERM", "handed over", "pending")] {
        let place = Place::new();
        let (child, id) = place.slow_backup("tree", "backups", false);
        signal(&child, name);
        let run = wait(child);
        assert_eq!(run.code, Some(4), "{name}: {}{}", run.stdout, run.stderr);
        assert!(run.stdout.contains(&format!("backup resume {id}")), "{}", run.stdout);
        assert!(run.stdout.contains(event), "{}", run.stdout);
        assert_eq!(place.state(&id), state);
        place.ends(0, &["resume", &id, "--limit-read", "1GiB"]);
        assert_eq!(place.state(&id), "completed");
        place.ends(0, &["restore", "latest", "--at", "backups", "--to", "back"]);
        place.assert_same("tree", "back");
        // What is done is done.
        place.ends(1, &["resume", &id]);
    }
}

#[test]
fn a_second_ctrl_c_stops_at_once_and_a_resume_goes_on_at_once() {
    let place = Place::new();
    // One read of these takes a minute, so that a pause would take its time.
    for i in 0..4 {
        place.write(&format!("tree/{i}"), common::noise(4 << 20, i));
    }
    let create = ["--json", "create", "--from", "tree", "--to", "backups", "--limit-read", "64KiB"];
    let child = place.command(&create).spawn().unwrap();
    let id = place.wait_for_running("backup").unwrap();
    let start = Instant::now();
    signal(&child, "INT");
    std::thread::sleep(Duration::from_millis(500));
    signal(&child, "INT");
    let run = wait(child);
    assert!(start.elapsed() < Duration::from_secs(10), "{run:?}");
    assert_eq!(run.code, Some(4), "{run:?}");
    assert_eq!(run.last()["resume"], format!("backup resume {id}"));
    let start = Instant::now();
    place.ends(0, &["resume", "latest", "--limit-read", "1GiB"]);
    assert!(start.elapsed() < Duration::from_secs(30), "no lease is waited for");
    assert_eq!(place.state(&id), "completed");
}

#[test]
fn another_process_pauses_lists_and_resumes() {
    let place = Place::new();
    let (child, id) = place.slow_backup("tree", "backups", true);
    let beginning = &id[..id.len() - 1];
    let run = place.ends(0, &["pause", beginning]);
    assert!(run.stdout.contains("is paused"), "{}", run.stdout);
    let run = wait(child);
    assert_eq!(run.code, Some(4), "{}{}", run.stdout, run.stderr);
    let events: Vec<String> = run.lines().iter().map(|l| l["event"].as_str().unwrap().to_string()).collect();
    assert_eq!(events.first().map(String::as_str), Some("started"));
    assert!(events.contains(&"progress".to_string()), "{events:?}");
    assert_eq!(run.last()["event"], "paused");
    assert_eq!(run.last()["reason"], "requested");
    assert_eq!(run.last()["resume"], format!("backup resume {id}"));
    // Asking again changes nothing.
    place.ends(0, &["pause", &id]);

    let list = place.ends(0, &["operations"]).stdout;
    let line = list.lines().find(|l| l.contains(&id)).unwrap();
    for word in ["backup", "paused", "tree", "backups", "on request"] {
        assert!(line.contains(word), "{word}: {line}");
    }
    place.ends(0, &["resume", &id, "--limit-read", "1GiB"]);
    place.ends(0, &["verify", "latest", "--at", "backups"]);
    place.ends(1, &["pause", &id]);
}

#[test]
fn a_cancel_from_another_process_ends_it_and_leaves_no_archive() {
    let place = Place::new();
    let (child, id) = place.slow_backup("tree", "backups", false);
    place.ends(0, &["cancel", &id]);
    let run = wait(child);
    assert_eq!(run.code, Some(1), "{}{}", run.stdout, run.stderr);
    assert_eq!(place.state(&id), "cancelled");
    let list = place.ends(0, &["--json", "list", "--at", "backups"]).last();
    assert_eq!(list["archives"].as_array().unwrap().len(), 0, "{list}");
    place.ends(1, &["resume", &id]);
    // Again: there is nothing left to remove.
    place.ends(0, &["cancel", &id]);
    assert_eq!(place.state(&id), "cancelled");
}

#[test]
fn a_paused_backup_can_be_cancelled() {
    let place = Place::new();
    let (child, id) = place.slow_backup("tree", "backups", false);
    signal(&child, "INT");
    assert_eq!(wait(child).code, Some(4));
    assert!(!files_below(&place.path("backups")).is_empty());
    let run = place.ends(0, &["--json", "cancel", "latest"]).last();
    assert_eq!((&run["id"], &run["state"]), (&id.as_str().into(), &"cancelled".into()));
    assert!(files_below(&place.path("backups")).is_empty(), "{:?}", files_below(&place.path("backups")));
}

#[test]
fn a_killed_worker_is_seen_and_taken_over_at_once() {
    let place = Place::new();
    let (child, id) = place.slow_backup("tree", "backups", false);
    signal(&child, "KILL");
    wait(child);
    assert!(place.ends(0, &["operations"]).stdout.contains("interrupted"));
    let start = Instant::now();
    place.ends(0, &["resume", "--all", "--limit-read", "1GiB"]);
    assert!(start.elapsed() < Duration::from_secs(30), "no lease is waited for");
    assert_eq!(place.state(&id), "completed");
    place.ends(0, &["restore", "latest", "--at", "backups", "--to", "back"]);
    place.assert_same("tree", "back");
}

#[test]
fn a_killed_worker_is_paused_in_its_place() {
    let place = Place::new();
    let (child, id) = place.slow_backup("tree", "backups", false);
    signal(&child, "KILL");
    wait(child);
    place.ends(0, &["pause", &id]);
    assert_eq!(place.state(&id), "paused");
}

#[test]
fn resume_all_leaves_what_another_process_works_on() {
    let place = Place::new();
    let run = place.ends(0, &["resume", "--all"]);
    assert!(run.stderr.contains("nothing to resume"), "{}", run.stderr);
    let (child, id) = place.slow_backup("tree", "backups", false);
    let run = place.ends(0, &["resume", "--all"]);
    assert!(run.stderr.contains("nothing to resume"), "{}", run.stderr);
    assert_eq!(place.state(&id), "running");
    signal(&child, "INT");
    assert_eq!(wait(child).code, Some(4));
}

#[test]
fn a_resume_waits_for_a_worker_that_lives_and_goes_on_when_it_lets_go() {
    let place = Place::new();
    let (child, id) = place.slow_backup("tree", "backups", false);
    let resume = place.command(&["resume", &id, "--limit-read", "1GiB"]).spawn().unwrap();
    std::thread::sleep(Duration::from_secs(2));
    assert_eq!(place.state(&id), "running", "the first worker still has it");
    signal(&child, "INT");
    assert_eq!(wait(child).code, Some(4));
    let run = wait(resume);
    assert_eq!(run.code, Some(0), "{run:?}");
    assert!(run.stderr.contains("waiting") && run.stderr.contains("--take-over"), "{}", run.stderr);
    place.ends(0, &["verify", "latest", "--at", "backups"]);
}

#[test]
fn a_take_over_goes_on_at_once_and_the_worker_before_gives_up() {
    let place = Place::new();
    let (child, id) = place.slow_backup("tree", "backups", false);
    place.ends(0, &["resume", &id, "--take-over", "--limit-read", "1GiB"]);
    let run = wait(child);
    assert_eq!(run.code, Some(1), "{run:?}");
    assert!(run.stderr.contains("error: "), "{}", run.stderr);
    assert_eq!(place.state(&id), "completed");
    place.ends(0, &["restore", "latest", "--at", "backups", "--to", "back"]);
    place.assert_same("tree", "back");
}

#[test]
fn a_restore_is_paused_and_resumed_too() {
    let place = Place::new();
    place.large_tree("tree");
    place.create("tree", "backups", &[]);
    let restore = ["restore", "latest", "--at", "backups", "--to", "back", "--limit-read", common::SLOW];
    let child = place.command(&restore).spawn().unwrap();
    assert!(place.wait_for_running("restore").is_some(), "it does not start");
    signal(&child, "INT");
    let run = wait(child);
    assert_eq!(run.code, Some(4), "{}{}", run.stdout, run.stderr);
    let run = place.ends(0, &["resume", "latest", "--limit-read", "1GiB"]);
    assert!(run.stdout.contains("verified"), "{}", run.stdout);
    place.assert_same("tree", "back");
}

#[test]
fn a_cancelled_restore_leaves_nothing_staged() {
    let place = Place::new();
    // Large enough to be staged for a while.
    place.write("tree/large", common::noise(40 << 20, 1));
    place.create("tree", "backups", &[]);
    let restore = ["restore", "latest", "--at", "backups", "--to", "back", "--limit-write", "4MiB"];
    for kill in [false, true] {
        let child = place.command(&restore).spawn().unwrap();
        let id = place.wait_for_running("restore").unwrap();
        let start = Instant::now();
        while files_below(&place.path("back")).is_empty() {
            assert!(start.elapsed() < common::PATIENCE, "nothing is staged");
            std::thread::sleep(Duration::from_millis(20));
        }
        if kill {
            signal(&child, "KILL");
            wait(child);
            place.ends(0, &["cancel", &id]);
        } else {
            place.ends(0, &["cancel", &id]);
            let run = wait(child);
            assert!(run.code == Some(1) && run.stdout.contains("was cancelled"), "{run:?}");
        }
        assert_eq!(files_below(&place.path("back")), Vec::<std::path::PathBuf>::new(), "killed: {kill}");
        assert_eq!(place.state(&id), "cancelled");
    }
}

#[test]
fn a_sealed_backup_finds_its_key_again() {
    let place = Place::new();
    place.large_tree("tree");
    place.ends(0, &["keygen", "key"]);
    let create = ["create", "--from", "tree", "--to", "backups", "--key-file", "key", "--limit-read", common::SLOW];
    let child = place.command(&create).spawn().unwrap();
    assert!(place.wait_for_running("backup").is_some(), "it does not start");
    signal(&child, "INT");
    assert_eq!(wait(child).code, Some(4));
    place.ends(0, &["resume", "latest", "--limit-read", "1GiB"]);
    place.ends(0, &["verify", "latest", "--at", "backups", "--key-file", "key"]);
}

#[test]
fn logs_are_printed_and_followed_until_the_end() {
    let place = Place::new();
    let (child, id) = place.slow_backup("tree", "backups", false);
    let follow = place.command(&["--json", "logs", &id, "--follow"]).spawn().unwrap();
    std::thread::sleep(Duration::from_millis(500));
    signal(&child, "INT");
    assert_eq!(wait(child).code, Some(4));
    let run = wait(follow);
    assert_eq!(run.code, Some(0));
    let records = run.lines();
    assert_eq!(records[0]["step"], "created");
    assert_eq!(records[0]["sequence"], 1);
    let printed = place.ends(0, &["logs", "latest"]).stdout;
    assert_eq!(printed.lines().count(), records.len(), "following saw everything up to the end");
    assert!(printed.lines().next().unwrap().contains("created"), "{printed}");
}

#[test]
fn operations_that_do_not_exist_are_named() {
    let place = Place::new();
    for command in ["pause", "cancel", "resume", "logs"] {
        assert!(place.ends(1, &[command, "latest"]).stderr.contains("no operation yet"));
        let run = place.ends(1, &[command, "20990101T000000Z-00000000", "--json"]);
        assert_eq!(run.last()["error"]["class"], "not-found");
    }
    let list = place.ends(0, &["--json", "operations"]).last();
    assert_eq!(list["operations"].as_array().unwrap().len(), 0);
}

#[test]
fn the_beginning_of_an_id_must_be_unique() {
    let place = Place::new();
    place.tree("tree");
    place.create("tree", "backups", &[]);
    place.create("tree", "backups", &[]);
    let run = place.ends(1, &["logs", "2"]);
    assert!(run.stderr.contains("several"), "{}", run.stderr);
}
