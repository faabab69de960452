//! Archives: made, listed, shown, verified, restored, exported, deleted.

mod common;

use common::{Place, files_below, text};
use std::process::{Command, Stdio};

#[test]
fn what_was_backed_up_is_restored_and_read_back() {
    let place = Place::new();
    place.tree("tree");
    let run = place.ends(0, &["create", "--from", "tree", "--to", "local:backups", "--name", "mine"]);
    assert!(run.stdout.starts_with("archive "), "{}", run.stdout);

    let run = place.ends(0, &["restore", "mine", "--at", "backups", "--to", "back"]);
    place.assert_same("tree", "back");
    assert!(run.stdout.contains("verified"), "{}", run.stdout);
    // What is about to be restored is said before.
    for word in ["mine", "local:", "entries", "started"] {
        assert!(run.stderr.contains(word), "{word}: {}", run.stderr);
    }

    let run = place.ends(0, &["restore", "latest", "--at", "backups", "--to", "back2", "--no-verify"]);
    place.assert_same("tree", "back2");
    assert!(run.stdout.contains("not read back"), "{}", run.stdout);
}

#[test]
fn only_what_is_selected_is_restored() {
    let place = Place::new();
    place.tree("tree");
    place.create("tree", "backups", &[]);
    let restore = |to: &str, more: &[&str]| {
        let mut args = vec!["restore", "latest", "--at", "backups", "--to", to];
        args.extend(more);
        place.ends(0, &args);
        let root = place.path(to);
        files_below(&root).iter().map(|p| p.strip_prefix(&root).unwrap().display().to_string()).collect::<Vec<_>>()
    };
    assert_eq!(restore("r1", &["--include", "docs"]), ["docs/b.txt", "docs/deep/c.bin"]);
    assert_eq!(restore("r2", &["--include", "docs", "--exclude", "**/*.bin"]), ["docs/b.txt"]);
    assert_eq!(restore("r3", &["--entry", "a.txt"]), ["a.txt"]);
    // As `create --exclude` does: without a `/` at any depth, with one just there.
    assert_eq!(
        restore("r5", &["--include", "*.bin", "--include", "*.txt"]),
        ["a.txt", "docs/b.txt", "docs/deep/c.bin"]
    );
    assert_eq!(restore("r6", &["--include", "docs", "--exclude", "*.bin"]), ["docs/b.txt"]);
    assert_eq!(restore("r7", &["--include", "/*.txt", "--include", "./docs/*.txt"]), ["a.txt", "docs/b.txt"]);

    let run = place.ends(3, &["restore", "latest", "--at", "backups", "--to", "r4", "--include", "no-such-*"]);
    assert!(run.stderr.contains("nothing in the archive"), "{}", run.stderr);
    for bad in ["a[b", ""] {
        place.ends(2, &["restore", "latest", "--at", "backups", "--to", "r4", "--include", bad]);
    }
}

#[test]
fn an_entry_whose_name_is_not_text_is_restored_by_its_name() {
    use std::os::unix::ffi::OsStrExt;
    let place = Place::new();
    place.tree("tree");
    let name = std::ffi::OsStr::from_bytes(b"od\xffd");
    std::fs::write(place.path("tree").join(name), "kept").unwrap();
    place.create("tree", "backups", &[]);
    let mut command = place.command(&["restore", "latest", "--at", "backups", "--to", "back", "--entry"]);
    let output = command.arg(name).output().unwrap();
    assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
    assert_eq!(files_below(&place.path("back")), [place.path("back").join(name)]);
    assert_eq!(std::fs::read(place.path("back").join(name)).unwrap(), b"kept");
}

#[test]
fn what_cannot_be_restored_under_its_name_is_told_with_that_name_once() {
    let place = Place::new();
    place.tree("tree");
    place.write("tree/.backup-tmp-mine", "looks like a leftover");
    place.create("tree", "backups", &[]);
    let run = place.ends(3, &["restore", "latest", "--at", "backups", "--to", "back"]);
    assert_eq!(run.stderr.matches(".backup-tmp-mine").count(), 1, "{}", run.stderr);
}

#[test]
fn what_is_excluded_is_not_in_the_archive() {
    let place = Place::new();
    place.tree("tree");
    place.create("tree", "backups", &["--exclude", "*.tmp", "--exclude", "docs/deep"]);
    let run = place.ends(0, &["--json", "show", "latest", "--at", "backups", "--entries"]);
    let names: Vec<String> = run.lines().iter().map(|e| e["name"].as_str().unwrap().to_string()).collect();
    assert!(names.iter().any(|n| n == "docs/b.txt"), "{names:?}");
    assert!(!names.iter().any(|n| n.contains("deep") || n.contains("tmp")), "{names:?}");
}

#[test]
fn archives_are_listed_and_shown_for_people_and_machines() {
    let place = Place::new();
    place.tree("tree");
    // A place that is not there may be a disk that is not mounted: no empty list.
    assert_eq!(place.ends(1, &["--json", "list", "--at", "backups"]).last()["error"]["class"], "not-found");
    std::fs::create_dir(place.path("backups")).unwrap();
    assert_eq!(place.ends(0, &["--json", "list", "--at", "backups"]).last()["archives"].as_array().unwrap().len(), 0);
    let first = place.create("tree", "backups", &["--name", "one"]);
    let second = place.create("tree", "backups", &["--codec", "gzip", "--level", "9"]);

    let list = place.ends(0, &["--json", "list", "--at", "backups"]).last();
    let archives = list["archives"].as_array().unwrap();
    assert_eq!(archives.len(), 2);
    let one = archives.iter().find(|a| a["id"] == first.as_str()).unwrap();
    assert_eq!((&one["status"], &one["header"]["name"]), (&"complete".into(), &"one".into()));
    assert!(one["totals"]["bytes"].as_u64().unwrap() > 300_000);
    let people = place.ends(0, &["list", "--at", "backups"]).stdout;
    assert!(people.contains(&first) && people.contains(&second) && people.lines().count() == 3, "{people}");

    let shown = place.ends(0, &["--json", "show", &second, "--at", "backups"]).last();
    assert_eq!((&shown["header"]["codec"], &shown["header"]["level"]), (&"gzip".into(), &9.into()));
    let people = place.ends(0, &["show", "one", "--at", "backups"]).stdout;
    assert!(people.contains("name:") && people.contains("tree"), "{people}");
    let entries = place.ends(0, &["show", "one", "--at", "backups", "--entries"]).stdout;
    let line = entries.lines().find(|l| l.contains("a.txt") && l.starts_with('-')).unwrap();
    assert!(line.contains(" 6 "), "{line}");
    assert!(entries.lines().any(|l| l.starts_with('l') && l.ends_with("link -> a.txt")), "{entries}");

    // The beginning of an id is enough when it is the only one.
    let beginning = &first[..first.len() - 2];
    assert!(place.ends(0, &["show", beginning, "--at", "backups"]).stdout.contains(&first));
    let run = place.ends(1, &["show", "nothing-like-it", "--at", "backups"]);
    assert!(run.stderr.starts_with("error: "), "{}", run.stderr);
}

#[test]
fn nothing_is_deleted_when_the_id_of_one_archive_starts_with_the_name_of_another() {
    let place = Place::new();
    place.tree("tree");
    let first = place.create("tree", "backups", &[]);
    let name = &first[..first.len() - 1];
    let second = place.create("tree", "backups", &["--name", name]);
    let run = place.ends(1, &["delete", name, "--at", "backups", "--force"]);
    assert!(run.stderr.contains(&first) && run.stderr.contains(&second), "{}", run.stderr);
    place.ends(1, &["show", name, "--at", "backups"]);
    let list = place.ends(0, &["--json", "list", "--at", "backups"]).last();
    assert_eq!(list["archives"].as_array().unwrap().len(), 2);
    place.ends(0, &["delete", &first, "--at", "backups", "--force"]);
    place.ends(0, &["delete", name, "--at", "backups", "--force"]);
}

#[test]
fn a_sound_archive_passes_every_verification_and_a_damaged_one_none_that_reads_it() {
    let place = Place::new();
    place.tree("tree");
    let id = place.create("tree", "backups", &[]);
    for mode in [&[][..], &["--quick"], &["--sample", "50%"], &["--json"]] {
        let mut args = vec!["verify", "latest", "--at", "backups"];
        args.extend(mode);
        place.ends(0, &args);
    }
    let volume = files_below(&place.path(&format!("backups/{id}/data"))).pop().unwrap();
    let mut bytes = std::fs::read(&volume).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    std::fs::write(&volume, &bytes).unwrap();
    place.ends(0, &["verify", "latest", "--at", "backups", "--quick"]);
    let run = place.ends(1, &["--json", "verify", "latest", "--at", "backups"]).last();
    assert_eq!(run["sound"], false);
    assert!(run["finding_count"].as_u64().unwrap() >= 1 && !run["findings"].as_array().unwrap().is_empty(), "{run}");
    let run = place.ends(1, &["verify", "latest", "--at", "backups"]);
    assert!(run.stdout.contains("DAMAGED"), "{}", run.stdout);
    // What is intact can still be had, and the error says how.
    let run = place.ends(1, &["restore", "latest", "--at", "backups", "--to", "back"]);
    assert!(run.stderr.contains("--keep-going"), "{}", run.stderr);
    let run = place.ends(3, &["resume", "latest", "--keep-going"]);
    assert!(run.stdout.contains("4 warnings"), "{}", run.stdout);
    assert!(place.path("back/empty").is_dir());
    let run = place.ends(3, &["restore", "latest", "--at", "backups", "--to", "new", "--keep-going"]);
    assert!(run.stdout.contains("restored "), "{}", run.stdout);
    assert!(place.ends(0, &["logs", "latest"]).stdout.contains("not restored"));

    std::fs::remove_file(&volume).unwrap();
    place.ends(1, &["verify", "latest", "--at", "backups", "--quick"]);
}

#[test]
fn an_archive_that_was_replaced_by_another_is_noticed() {
    let place = Place::new();
    place.tree("tree");
    let id = place.create("tree", "backups", &[]);
    // The same id with another manifest, as a destination that cheats would offer it: sound in itself.
    let manifest = place.path(&format!("backups/{id}/manifest.json"));
    place.command(&["list", "--at", "backups"]).spawn().unwrap().wait().unwrap();
    let text = std::fs::read_to_string(&manifest).unwrap();
    std::fs::write(&manifest, text + "\n").unwrap();
    let list = place.ends(0, &["--json", "list", "--at", "backups"]).last();
    assert_ne!(list["archives"][0]["status"], "complete", "{list}");
    place.ends(1, &["verify", "latest", "--at", "backups"]);
}

#[test]
fn an_export_is_a_stream_that_tar_reads() {
    let place = Place::new();
    place.tree("tree");
    place.create("tree", "backups", &[]);
    // To a pipe, in the archive's own codec.
    let mut export = place.command(&["export", "latest", "--at", "backups"]).stdout(Stdio::piped()).spawn().unwrap();
    std::fs::create_dir(place.path("piped")).unwrap();
    let tar = Command::new("tar")
        .args(["--zstd", "-xf", "-", "-C"])
        .arg(place.path("piped"))
        .stdin(export.stdout.take().unwrap())
        .output()
        .unwrap();
    assert!(tar.status.success(), "{}", text(&tar.stderr));
    assert!(export.wait().unwrap().success());
    place.assert_same("tree", "piped");

    // To files, by their extension.
    for (name, option) in [("x.tar", "-x"), ("x.tar.gz", "-xz"), ("x.tar.zst", "-x")] {
        place.ends(0, &["export", "latest", "--at", "backups", "--output", name]);
        let to = format!("from-{name}");
        std::fs::create_dir(place.path(&to)).unwrap();
        let mut tar = Command::new("tar");
        tar.arg(option).arg("-f").arg(place.path(name)).arg("-C").arg(place.path(&to));
        if name.ends_with("zst") {
            tar.arg("--zstd");
        }
        let tar = tar.output().unwrap();
        assert!(tar.status.success(), "{name}: {}", text(&tar.stderr));
        place.assert_same("tree", &to);
    }
    // Nobody else may read what may have been sealed.
    let mode =
        |name: &str| std::os::unix::fs::PermissionsExt::mode(&place.path(name).metadata().unwrap().permissions());
    assert_eq!(mode("x.tar") & 0o777, 0o600);
    // A file that is there stays, unless told.
    let before = std::fs::metadata(place.path("x.tar")).unwrap().modified().unwrap();
    place.ends(2, &["export", "latest", "--at", "backups", "--output", "x.tar"]);
    assert_eq!(std::fs::metadata(place.path("x.tar")).unwrap().modified().unwrap(), before);
    let run = place.ends(0, &["--json", "export", "latest", "--at", "backups", "--output", "x.tar", "--force"]);
    assert!(run.lines().iter().any(|line| line["event"] == "progress" && line["bytes_total"].as_u64() > Some(0)));
    assert!(run.last()["bytes"].as_u64().unwrap() > 300_000);
    assert!(!files_below(&place.path(".")).iter().any(|p| p.display().to_string().contains(".backup-tmp-")));
    place.ends(2, &["--json", "export", "latest", "--at", "backups"]);
}

#[test]
fn an_export_that_nobody_reads_to_its_end_is_a_failure() {
    let place = Place::new();
    place.write("tree/noise", common::noise(2 << 20, 3));
    place.create("tree", "backups", &[]);
    let export = ["export", "latest", "--at", "backups"];
    let mut child = place.command(&export).spawn().unwrap();
    drop(child.stdout.take());
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert!(text(&output.stderr).contains("not complete"), "{}", text(&output.stderr));
}

#[test]
fn nothing_is_restored_over_the_archives() {
    let place = Place::new();
    place.tree("tree");
    let id = place.create("tree", "backups", &[]);
    for target in ["backups".to_owned(), format!("backups/{id}"), format!("backups/{id}/data")] {
        let run = place.ends(2, &["restore", "latest", "--at", "backups", "--to", &target, "--force"]);
        assert!(run.stderr.contains("archives are kept"), "{}", run.stderr);
    }
    place.ends(0, &["restore", "latest", "--at", "backups", "--to", "backups/beside"]);
    place.ends(0, &["verify", "latest", "--at", "backups"]);
}

#[test]
fn of_several_archives_of_one_name_none_is_deleted_by_it() {
    let place = Place::new();
    place.tree("tree");
    let twins: Vec<String> = (0..2).map(|_| place.create("tree", "backups", &["--name", "twin"])).collect();
    let run = place.ends(1, &["delete", "twin", "--at", "backups", "--force"]);
    assert!(twins.iter().all(|id| run.stderr.contains(id)), "{}", run.stderr);
    place.ends(0, &["verify", "twin", "--at", "backups", "--quick"]);
    place.ends(0, &["delete", &twins[0], "--at", "backups", "--force"]);
    place.ends(0, &["delete", "twin", "--at", "backups", "--force"]);
    let left = place.ends(0, &["--json", "list", "--at", "backups"]).last();
    assert_eq!(left["archives"].as_array().unwrap().len(), 0);
    // Also when all their ids begin with it.
    let twins: Vec<String> = (0..2).map(|_| place.create("tree", "backups", &["--name", "2"])).collect();
    place.ends(1, &["delete", "2", "--at", "backups", "--force"]);
    // The beginning of one id is enough.
    let unique = (1..twins[0].len()).find(|n| !twins[1].starts_with(&twins[0][..*n])).unwrap();
    place.ends(0, &["delete", &twins[0][..unique], "--at", "backups", "--force"]);
    place.ends(0, &["verify", &twins[1], "--at", "backups", "--quick"]);
}

#[test]
fn deleting_needs_a_yes_and_removes_everything() {
    let place = Place::new();
    place.tree("tree");
    let id = place.create("tree", "backups", &[]);
    let other = place.create("tree", "backups", &[]);
    let run = place.ends(2, &["delete", &id, "--at", "backups"]);
    assert!(run.stderr.contains("--force"), "{}", run.stderr);
    place.ends(0, &["verify", &id, "--at", "backups"]);
    let run = place.ends(0, &["--json", "delete", &id, "--at", "backups", "--force"]).last();
    assert_eq!(run["deleted"], id.as_str());
    assert!(files_below(&place.path(&format!("backups/{id}"))).is_empty());
    let list = place.ends(0, &["--json", "list", "--at", "backups"]).last();
    assert_eq!(list["archives"].as_array().unwrap().len(), 1, "a deleted archive is not missed: {list}");
    place.ends(0, &["verify", &other, "--at", "backups"]);
}

#[test]
fn a_target_that_is_not_empty_is_left_alone_without_a_word() {
    let place = Place::new();
    place.tree("tree");
    place.create("tree", "backups", &[]);
    place.write("back/a.txt", "mine\n");
    let run = place.ends(2, &["restore", "latest", "--at", "backups", "--to", "back"]);
    assert!(run.stderr.contains("--overwrite") && run.stderr.contains("--force"), "{}", run.stderr);
    assert_eq!(files_below(&place.path("back")).len(), 1);

    // Kept, and said so.
    let run = place.ends(3, &["restore", "latest", "--at", "backups", "--to", "back", "--force"]);
    assert!(run.stderr.contains("a.txt"), "{}", run.stderr);
    assert_eq!(std::fs::read_to_string(place.path("back/a.txt")).unwrap(), "mine\n");
    assert!(place.path("back/docs/deep/c.bin").exists());

    place.ends(0, &["restore", "latest", "--at", "backups", "--to", "back", "--overwrite"]);
    place.assert_same("tree", "back");
}

#[test]
fn a_source_inside_the_destination_is_refused_and_a_destination_inside_the_source_left_out() {
    let place = Place::new();
    place.tree("tree");
    std::fs::create_dir_all(place.path("backups/inside")).unwrap();
    let run = place.ends(2, &["create", "--from", "backups/inside", "--to", "backups"]);
    assert!(run.stderr.contains("inside the destination"), "{}", run.stderr);
    place.ends(2, &["create", "--from", "backups", "--to", "backups"]);

    place.create("tree", "tree/backups", &[]);
    place.create("tree", "tree/backups", &[]);
    let run = place.ends(0, &["--json", "show", "latest", "--at", "tree/backups", "--entries"]);
    assert!(!run.stdout.contains("manifest.json"), "{}", run.stdout);
    assert!(run.lines().iter().any(|e| e["name"] == "docs/b.txt"));
}

#[test]
fn what_cannot_be_read_is_a_warning_in_the_exit_code_the_log_and_the_archive() {
    let place = Place::new();
    place.tree("tree");
    // A socket is skipped whoever runs the test; a file without permissions is read by root.
    let _socket = std::os::unix::net::UnixListener::bind(place.path("tree/socket")).unwrap();
    let run = place.ends(3, &["create", "--from", "tree", "--to", "backups"]);
    assert!(run.stderr.contains("socket") && run.stdout.contains("1 warning"), "{}{}", run.stdout, run.stderr);
    assert!(place.ends(0, &["logs", "latest"]).stdout.contains("socket"));
    let shown = place.ends(0, &["show", "latest", "--at", "backups"]).stdout;
    assert!(shown.contains("warnings:") && shown.contains("socket: skipped"), "{shown}");
    let shown = place.ends(0, &["--json", "show", "latest", "--at", "backups"]).last();
    assert!(shown["warnings"].as_str().unwrap().contains("socket: skipped"), "{shown}");
}

#[test]
fn sweep_leaves_complete_archives_alone() {
    let place = Place::new();
    place.tree("tree");
    place.create("tree", "backups", &[]);
    let run = place.ends(0, &["--json", "sweep", "--at", "backups", "--min-age", "0s"]).last();
    assert_eq!(run["swept"].as_array().unwrap().len(), 0, "{run}");
    place.ends(0, &["verify", "latest", "--at", "backups"]);
}
