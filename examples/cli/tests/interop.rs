//! Archives are read by others: GNU tar with its companions, and the second reader in Python.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "helpers of tests may panic as tests do")]

mod common;
mod made;
mod trees;

use backup_core::archive::{Codec, Compression, KeyFileProvider, PassphraseParameters, PassphraseProvider};
use backup_core::engine::BackupOptions;
use backup_core::model::{EntryKind, EntryName};
use backup_testkit::doubles::{MemoryContent, MemorySource};
use common::{Place, files_below, text};
use made::{file, second_reader};
use std::collections::BTreeMap;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use trees::{Keeps, Names, Weight};

const PASSPHRASE: &str = "correct horse battery staple";
const KEY_FILE: [&str; 2] = ["--key-file", "key"];
const PASSPHRASE_ENV: [&str; 2] = ["--passphrase-env", "PASSPHRASE"];

/// Ways to keep an archive: options for its codec and its key.
const WAYS: [(&str, &[&str]); 6] =
    [("zstd", &[]), ("gzip", &[]), ("none", &[]), ("zstd", &KEY_FILE), ("gzip", &PASSPHRASE_ENV), ("none", &KEY_FILE)];

/// A tree, and the archives of it in all ways, each of several volumes.
struct Archives {
    place: Place,
    /// Directory, codec and key of each.
    all: Vec<(String, &'static str, &'static [&'static str])>,
}

fn archives(names: Names) -> Archives {
    let place = Place::new();
    std::fs::create_dir(place.path("tree")).unwrap();
    trees::make(&place.path("tree"), names, Weight::Small);
    place.ends(0, &["keygen", "key"]);
    let make = |(codec, key): (&'static str, &'static [&'static str])| {
        let more = ["--codec", codec, "--volume-size", "500KiB", "--memory", "64MiB"];
        let args = [&["--json", "-q", "create", "--from", "tree", "--to", "backups"], &more[..], key].concat();
        let run = common::wait(place.command(&args).env("PASSPHRASE", PASSPHRASE).spawn().unwrap());
        assert_eq!(run.code, Some(0), "{}{}", run.stdout, run.stderr);
        let directory = place.arg(&format!("backups/{}", run.last()["archive"].as_str().unwrap()));
        assert!(files_below(&Path::new(&directory).join("data")).len() > 2, "more than one volume");
        (directory, codec, key)
    };
    let all = WAYS.into_iter().map(make).collect();
    Archives { place, all }
}

/// Runs a pipe in a shell, in a directory; nothing but success and silence on standard error will do.
fn shell(directory: &Path, script: &str, environment: &[(&str, &str)]) -> String {
    let mut command = Command::new("bash");
    command.args(["-c", &format!("set -euo pipefail; umask 022; {script}")]).current_dir(directory);
    let output = command.envs(environment.iter().copied()).env("LC_ALL", "C.UTF-8").output().unwrap();
    assert!(
        output.status.success() && output.stderr.is_empty(),
        "{script}: {}\n{}",
        output.status,
        text(&output.stderr)
    );
    text(&output.stdout)
}

fn tar_option(codec: &str) -> &'static str {
    match codec {
        "zstd" => "--zstd",
        "gzip" => "-z",
        _ => "",
    }
}

#[test]
fn tar_reads_the_volumes_of_each_codec_without_a_word() {
    let archives = archives(Names::Plain);
    for (directory, codec, key) in &archives.all {
        if !key.is_empty() {
            continue;
        }
        let to = archives.place.arg(&format!("by-tar-{codec}"));
        std::fs::create_dir(&to).unwrap();
        let script = format!("xargs cat < volumes.txt | tar {} -xp -C {to}", tar_option(codec));
        shell(Path::new(directory), &script, &[]);
        trees::assert_same(&archives.place.path("tree"), Path::new(&to), Keeps::Tar);
        // Nothing of an older attempt lies about, so the shorter way does as well.
        let script = format!("cat data/* | tar {} -tv | wc -l", tar_option(codec));
        let count = trees::walk(&archives.place.path("tree")).len();
        assert_eq!(shell(Path::new(directory), &script, &[]).trim(), count.to_string());
    }
}

#[test]
fn tar_reads_the_export_of_each_archive_also_of_sealed_ones_in_each_codec() {
    let archives = archives(Names::Plain);
    let environment =
        [("BACKUP", env!("CARGO_BIN_EXE_backup")), ("BACKUP_STORE", "state/store.db"), ("PASSPHRASE", PASSPHRASE)];
    for (number, (directory, codec, key)) in archives.all.iter().enumerate() {
        let (id, key) = (Path::new(directory).file_name().unwrap().to_str().unwrap(), key.join(" "));
        // As it is stored, and each once in another codec.
        let other = ["gzip", "none", "zstd"][number % 3];
        for (option, codec) in [(String::new(), *codec), (format!("--codec {other}"), other)] {
            let to = format!("by-export-{number}-{codec}");
            std::fs::create_dir(archives.place.path(&to)).unwrap();
            let tar = format!("tar {} -xp -C {to}", tar_option(codec));
            let script = format!("\"$BACKUP\" -q export {id} --at backups {key} {option} | {tar}");
            shell(&archives.place.path("."), &script, &environment);
            trees::assert_same(&archives.place.path("tree"), &archives.place.path(&to), Keeps::Tar);
        }
    }
}

/// Runs the second reader on an archive and expects success.
#[track_caller]
fn read(place: &Place, command: &str, directory: &str, key: &[&str], more: &[&str]) -> String {
    let mut reader = second_reader();
    reader.args([command, directory]).args(key).args(more).current_dir(place.path(".")).env("PASSPHRASE", PASSPHRASE);
    let output = reader.output().unwrap();
    assert!(output.status.success(), "{command} {directory}: {}{}", text(&output.stdout), text(&output.stderr));
    assert_eq!(text(&output.stderr), "", "{command} {directory}");
    text(&output.stdout)
}

#[test]
fn the_second_reader_lists_verifies_and_extracts_each_archive() {
    let archives = archives(Names::Any);
    let Archives { place, all } = &archives;
    for (number, (directory, _, key)) in all.iter().enumerate() {
        let (id, to) = (Path::new(directory).file_name().unwrap().to_str().unwrap(), format!("by-reader-{number}"));
        let list = read(place, "list", directory, key, &[]);
        let mut show = place.command(&[&["show", id, "--at", "backups", "--entries", "--json"], *key].concat());
        let show = common::wait(show.env("PASSPHRASE", PASSPHRASE).spawn().unwrap());
        assert_eq!(list.lines().count(), show.lines().len(), "both readers see the same entries");
        assert!(list.contains("1300000 mid/above-1MiB.bin\n") && list.contains("bytes-\\xff\\xfe-no-text\n"), "{list}");

        let verified = read(place, "verify", directory, key, &[]);
        assert!(verified.contains("are as they were backed up; 0 warnings"), "{verified}");

        read(place, "extract", directory, key, &["--output", &to]);
        // The one name that the reader does not use as it is.
        let root = place.path(&to);
        std::fs::rename(root.join("%42ACKUP-WARNINGS.txt"), root.join("BACKUP-WARNINGS.txt")).unwrap();
        trees::assert_same(&place.path("tree"), &root, Keeps::AllButHoles);
    }
}

/// Names that no file tree has, or that no tar path can have, and the tar path that each gets, by the rules of the format.
fn odd_names() -> Vec<(Vec<u8>, String)> {
    let long = "n".repeat(300);
    let long_path = format!("{}~{:.32}", &long[..207], backup_core::Digest::of(long.as_bytes()).to_string());
    let looks_cut = format!("x~{}", "0123456789abcdef".repeat(2));
    let text = |name: &str, path: &str| (name.as_bytes().to_vec(), path.to_string());
    let mut names = vec![
        text("a", "a"),
        text("a/b", "a%2Fb"),
        text("a/b/c", "a%2Fb%2Fc"),
        text("/leading", "%2Fleading"),
        text("../up", "%2E%2E/up"),
        text("./here", "%2E/here"),
        text("dots/..", "dots/%2E%2E"),
        text("double//slash", "double/%2Fslash"),
        text("trailing/", "trailing%2F"),
        text("100%41", "100%2541"),
        text("line\nbreak", "line%0Abreak"),
        text("nul\0byte", "nul%00byte"),
        text("BACKUP-WARNINGS.txt", "%42ACKUP-WARNINGS.txt"),
        text("below/BACKUP-WARNINGS.txt", "below/BACKUP-WARNINGS.txt"),
        text(&looks_cut, &looks_cut.replace('~', "%7E")),
        text(&long, &long_path),
        text("Größe/名前", "Größe/名前"),
        text("-rf", "-rf"),
        text(" blanks ", " blanks "),
        text(&["deep"; 60].join("/"), &["deep"; 60].join("/")),
        (b"bytes-\xff-here".to_vec(), "bytes-%FF-here".to_string()),
        (b"b64:looks-encoded\xfe".to_vec(), "b64:looks-encoded%FE".to_string()),
    ];
    // As object stores list them: a key before those that it is the beginning of.
    names.sort();
    names
}

/// Of this one there is a hard link, too.
const LINKED: &[u8] = b"../up";

/// A source with these names, each with a content of its own.
fn odd_source() -> MemorySource {
    let mut source = MemorySource::new("odd names");
    for (number, (name, _)) in odd_names().into_iter().enumerate() {
        source = source.entry(file(&name, &*format!("content {number}")));
    }
    let link = EntryKind::HardLink { target: EntryName::new(LINKED) };
    source.entry(made::entry(b"zz/hard-link", link, MemoryContent::None))
}

/// Archives of them in each codec, not sealed and sealed in both ways: id, codec and key.
async fn odd_archives(place: &Place) -> [(String, &'static str, &'static [&'static str]); 5] {
    place.ends(0, &["keygen", "key"]);
    let key_file = std::fs::read_to_string(place.path("key")).unwrap();
    let key_file = Arc::new(KeyFileProvider::parse(&key_file.into()).unwrap());
    let cost = PassphraseParameters { memory_kib: 64, passes: 1, lanes: 1 };
    let passphrase = Arc::new(PassphraseProvider::with_parameters(PASSPHRASE.into(), cost).unwrap());
    let of = |codec| BackupOptions {
        compression: Compression::new(codec, None).unwrap(),
        volume_size: Some(4096),
        ..BackupOptions::default()
    };
    let backups = place.path("backups");
    [
        (made::archive(&backups, odd_source(), of(Codec::Zstd), None).await, "zstd", &[]),
        (made::archive(&backups, odd_source(), of(Codec::Gzip), None).await, "gzip", &[]),
        (made::archive(&backups, odd_source(), of(Codec::None), None).await, "none", &[]),
        (made::archive(&backups, odd_source(), of(Codec::Zstd), Some(key_file)).await, "zstd", &KEY_FILE),
        (made::archive(&backups, odd_source(), of(Codec::Gzip), Some(passphrase)).await, "gzip", &PASSPHRASE_ENV),
    ]
}

#[tokio::test(flavor = "multi_thread")]
async fn the_second_reader_refuses_wrong_keys_and_damage() {
    let place = Place::new();
    let all = odd_archives(&place).await;
    place.ends(0, &["keygen", "other"]);
    let fails = |directory: &str, key: &[&str], passphrase: &str| {
        let mut reader = second_reader();
        reader.args(["verify", directory]).args(key).current_dir(place.path(".")).env("PASSPHRASE", passphrase);
        let output = reader.output().unwrap();
        assert_eq!(output.status.code(), Some(1), "{}", text(&output.stdout));
        text(&output.stderr)
    };
    for (id, _, key) in all {
        let directory = place.arg(&format!("backups/{id}"));
        if key.is_empty() {
            assert!(fails(&directory, &["--key-file", "other"], "").contains("not sealed"));
        } else {
            let wrong = if key == KEY_FILE { &["--key-file", "other"][..] } else { key };
            assert!(fails(&directory, wrong, "wrong").starts_with("error: the "));
            assert!(fails(&directory, &[], "").contains("the archive is sealed"));
        }
        let volume = files_below(&Path::new(&directory).join("data")).pop().unwrap();
        let mut bytes = std::fs::read(&volume).unwrap();
        let middle = bytes.len() / 2;
        bytes[middle] ^= 1;
        std::fs::write(&volume, &bytes).unwrap();
        assert!(fails(&directory, key, PASSPHRASE).contains("data/00000000"), "the damaged volume is named");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn names_that_no_tar_path_can_have_are_encoded_and_read_back_by_all() {
    let place = Place::new();
    let all = odd_archives(&place).await;
    let mut by_path: BTreeMap<String, String> =
        odd_names().into_iter().enumerate().map(|(n, (_, path))| (path, format!("content {n}"))).collect();
    by_path.insert("zz/hard-link".into(), by_path["%2E%2E/up"].clone());
    let found = |root: &Path| -> BTreeMap<String, String> {
        let name = |path: &Path| path.strip_prefix(root).unwrap().to_str().unwrap().to_string();
        files_below(root).iter().map(|path| (name(path), std::fs::read_to_string(path).unwrap())).collect()
    };
    let mut contents: Vec<String> = by_path.values().cloned().collect();
    contents.sort();
    let environment =
        [("BACKUP", env!("CARGO_BIN_EXE_backup")), ("BACKUP_STORE", "state/store.db"), ("PASSPHRASE", PASSPHRASE)];

    for (number, (id, codec, key)) in all.iter().enumerate() {
        let directory = place.arg(&format!("backups/{id}"));
        let verify =
            place.command(&[&["verify", id, "--at", "backups"], *key].concat()).env("PASSPHRASE", PASSPHRASE).spawn();
        assert_eq!(common::wait(verify.unwrap()).code, Some(0));

        if key.is_empty() {
            let to = place.arg(&format!("tar-{number}"));
            std::fs::create_dir(&to).unwrap();
            let script = format!("xargs cat < volumes.txt | tar {} -x -C {to}", tar_option(codec));
            shell(Path::new(&directory), &script, &[]);
            assert_eq!(found(Path::new(&to)), by_path);
        }
        let to = format!("export-{number}");
        std::fs::create_dir(place.path(&to)).unwrap();
        let (key_options, tar) = (key.join(" "), format!("tar {} -x -C {to}", tar_option(codec)));
        shell(
            &place.path("."),
            &format!("\"$BACKUP\" -q export {id} --at backups {key_options} | {tar}"),
            &environment,
        );
        assert_eq!(found(&place.path(&to)), by_path);

        let list = read(&place, "list", &directory, key, &[]);
        assert_eq!(list.lines().count(), by_path.len());
        assert!(list.contains("line\\x0abreak") && list.contains(" bytes-\\xff-here\n"), "{list}");
        read(&place, "verify", &directory, key, &[]);
        let to = format!("reader-{number}");
        read(&place, "extract", &directory, key, &["--output", &to]);
        let mut extracted: Vec<String> =
            files_below(&place.path(&to)).iter().map(|path| std::fs::read_to_string(path).unwrap()).collect();
        extracted.sort();
        assert_eq!(extracted, contents);
        assert_eq!(std::fs::read_to_string(place.path(&to).join("../up")).ok(), None, "nothing is written outside");
    }
}

#[test]
fn the_second_reader_finds_the_newest_keys_and_passes_over_damaged_ones() {
    let place = Place::new();
    place.tree("tree");
    place.ends(0, &["keygen", "key"]);
    place.ends(0, &["keygen", "new"]);
    let id = place.create("tree", "backups", &["--key-file", "key"]);
    let (directory, keys) = (place.arg(&format!("backups/{id}")), place.path(&format!("backups/{id}/keys")));
    let old = std::fs::read(keys.join("0.json")).unwrap();
    place.ends(0, &["rekey", &id, "--at", "backups", "--key-file", "key", "--new-key-file", "new"]);
    read(&place, "verify", &directory, &["--key-file", "new"], &[]);
    let refused = second_reader()
        .args(["verify", &directory, "--key-file", "key"])
        .current_dir(place.path("."))
        .output()
        .unwrap();
    assert!(!refused.status.success());
    // As after a change that was cut short, and with damage in the newest.
    std::fs::write(keys.join("0.json"), old).unwrap();
    std::fs::write(keys.join("10.json"), "{}").unwrap();
    for key in ["key", "new"] {
        read(&place, "verify", &directory, &["--key-file", key], &[]);
        place.ends(0, &["verify", &id, "--at", "backups", "--key-file", key]);
    }
}
