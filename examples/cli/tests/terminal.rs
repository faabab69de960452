//! On a terminal: questions and progress bars. `script(1)` gives the program a terminal of its own.

#![allow(clippy::unwrap_used, reason = "helpers of tests")]

mod common;

use common::{Place, files_below, text, wait};
use std::io::Write;
use std::process::{Command, Stdio};

/// Runs the program on a terminal on which somebody types.
fn on_terminal(place: &Place, line: &str, typed: &str) -> (Option<i32>, String) {
    let mut child = Command::new("script")
        .args(["--quiet", "--return", "--command"])
        .arg(format!("'{}' {line}", env!("CARGO_BIN_EXE_backup")))
        .arg("/dev/null")
        .current_dir(place.path("."))
        .env("BACKUP_STORE", place.path("state/store.db"))
        .env("SHELL", "/bin/sh")
        .env("TERM", "xterm")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut keyboard = child.stdin.take().unwrap();
    keyboard.write_all(typed.as_bytes()).unwrap();
    let run = wait(child);
    drop(keyboard);
    (run.code, run.stdout)
}

#[test]
fn deleting_is_done_after_a_yes_only() {
    let place = Place::new();
    place.tree("tree");
    let id = place.create("tree", "backups", &["--name", "precious"]);
    for no in ["n\n", "\n", "yeah\n"] {
        let (code, screen) = on_terminal(&place, "delete latest --at backups", no);
        assert_eq!(code, Some(1), "{screen}");
        assert!(screen.contains(&id) && screen.contains("precious") && screen.contains("[y/N]"), "{screen}");
        assert!(!files_below(&place.path(&format!("backups/{id}"))).is_empty());
    }
    let (code, screen) = on_terminal(&place, "delete latest --at backups", "y\n");
    assert_eq!(code, Some(0), "{screen}");
    assert!(files_below(&place.path(&format!("backups/{id}"))).is_empty());
}

#[test]
fn restoring_into_a_place_that_is_not_empty_shows_the_archive_and_asks() {
    let place = Place::new();
    place.tree("tree");
    place.create("tree", "backups", &["--name", "precious"]);
    place.write("back/other.txt", "mine\n");
    let (code, screen) = on_terminal(&place, "restore latest --at backups --to back", "n\n");
    assert_eq!(code, Some(1), "{screen}");
    assert!(screen.contains("precious") && screen.contains("not empty"), "{screen}");
    assert_eq!(files_below(&place.path("back")).len(), 1);
    let (code, screen) = on_terminal(&place, "restore latest --at backups --to back", "y\n");
    assert_eq!(code, Some(0), "{screen}");
    assert!(place.path("back/docs/b.txt").exists() && place.path("back/other.txt").exists());
}

#[test]
fn a_bar_shows_the_progress_and_an_archive_is_not_written_to_the_screen() {
    let place = Place::new();
    for i in 0..20 {
        place.write(&format!("tree/{i}"), common::noise(64 << 10, i));
    }
    let (code, screen) = on_terminal(&place, "create --from tree --to backups --limit-read 1MiB", "");
    assert_eq!(code, Some(0), "{screen}");
    assert!(screen.contains("transferring") && screen.contains("MiB"), "{screen}");
    assert!(screen.contains("archive "), "{screen}");
    let (code, screen) = on_terminal(&place, "export latest --at backups", "");
    assert_eq!(code, Some(2), "{screen}");
    assert!(screen.contains("--output"), "{screen}");
    assert_eq!(text(screen.as_bytes()).matches("error:").count(), 1);
}
