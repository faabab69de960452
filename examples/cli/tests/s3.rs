//! Buckets on the command line: as source, as place for archives, as target.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "helpers of tests may panic as tests do")]

mod buckets;
mod common;

use backup_testkit::s3::{S3BucketOptions, Versioning};
use buckets::Buckets;
use std::collections::BTreeMap;

#[test]
fn a_bucket_is_backed_up_into_another_and_restored_into_a_third_with_all_that_it_has() {
    let s3 = Buckets::new();
    for name in ["one", "two", "three"] {
        s3.server.create_bucket(name);
    }
    s3.fill("one");
    s3.ends(0, &["create", "--from", &s3.at("one", "tags=true"), "--to", &s3.at("two/backups", "")]);
    s3.ends(0, &["verify", "latest", "--at", &s3.at("two/backups", "")]);
    s3.ends(0, &["restore", "latest", "--at", &s3.at("two/backups", ""), "--to", &s3.at("three", "")]);
    s3.assert_same("one", "", "three", "");
    assert!(s3.server.uploads("three").is_empty() && s3.server.uploads("two").is_empty());

    // Once more: all is there already, and nothing is replaced.
    let before: Vec<_> = s3.server.objects("three").iter().map(|object| object.modified).collect();
    s3.ends(0, &["restore", "latest", "--at", &s3.at("two/backups", ""), "--to", &s3.at("three", ""), "--force"]);
    let after: Vec<_> = s3.server.objects("three").iter().map(|object| object.modified).collect();
    assert_eq!(before, after);

    // Below a prefix, beside what is there.
    s3.ends(0, &["restore", "latest", "--at", &s3.at("two/backups", ""), "--to", &s3.at("three/below/here", "")]);
    s3.assert_same("one", "", "three", "below/here/");
}

#[test]
fn an_archive_of_a_bucket_can_be_restored_to_a_disk_and_one_of_files_to_a_bucket() {
    let s3 = Buckets::new();
    for name in ["one", "two", "three"] {
        s3.server.create_bucket(name);
    }
    s3.fill("one");
    let archives = s3.at("two", "");
    s3.ends(0, &["create", "--from", &s3.at("one", ""), "--to", &archives]);
    s3.ends(0, &["restore", "latest", "--at", &archives, "--to", &s3.place.arg("disk")]);
    let mut contents: Vec<Vec<u8>> =
        common::files_below(&s3.place.path("disk")).iter().map(|p| std::fs::read(p).unwrap()).collect();
    let mut expected: Vec<Vec<u8>> = s3.server.objects("one").iter().map(|object| object.body.to_vec()).collect();
    contents.sort();
    expected.sort();
    assert!(contents == expected, "{} files of {} objects", contents.len(), expected.len());
    assert!(!s3.place.path("x").exists(), "`../x` left its root");

    s3.place.tree("tree");
    s3.ends(0, &["create", "--from", &s3.place.arg("tree"), "--to", &archives, "--name", "files"]);
    // A symbolic link, and what only files have: said, and not more.
    let run = s3.ends(3, &["restore", "files", "--at", &archives, "--to", &s3.at("three/tree", "")]);
    assert!(run.stdout.contains("2 warnings"), "{}\n{}", run.stdout, run.stderr);
    let found: BTreeMap<String, usize> =
        s3.server.objects("three").into_iter().map(|o| (o.key, o.body.len())).collect();
    let expected = [
        ("tree/a.txt", 6),
        ("tree/docs/", 0),
        ("tree/docs/b.txt", 7),
        ("tree/docs/deep/", 0),
        ("tree/docs/deep/c.bin", 300_000),
        ("tree/empty/", 0),
        ("tree/skip.tmp", 11),
    ];
    assert_eq!(found, expected.map(|(key, size)| (key.to_owned(), size)).into());
    assert!(s3.server.object("three", "tree/a.txt").unwrap().metadata.contains_key("mtime"));
}

#[test]
fn of_all_versions_the_current_ones_come_back_whatever_their_keys_are_like() {
    let s3 = Buckets::new();
    let versioning = Versioning::Enabled;
    s3.server.create_bucket_with("one", S3BucketOptions { versioning, ..S3BucketOptions::default() });
    s3.server.create_bucket("two");
    s3.server.create_bucket("three");
    for key in ["a", "a?versionId=x", "b?deleteMarker=y", "large?versionId=z"] {
        s3.server.put("one", key, "before");
        let length = if key.starts_with("large") { 3 << 20 } else { 100 };
        s3.server.put("one", key, common::noise(length, 1));
    }
    s3.server.put("one", "gone?versionId=1", "before");
    s3.server.buckets().remove("one", "gone?versionId=1");
    let archives = s3.at("two", "");
    s3.ends(0, &["create", "--from", &s3.at("one", "versions=all"), "--to", &archives]);
    let run = s3.ends(3, &["restore", "latest", "--at", &archives, "--to", &s3.at("three", "")]);
    // Four earlier versions; one of what is deleted, and its marker.
    assert!(run.stdout.contains("6 warnings"), "{}\n{}", run.stdout, run.stderr);
    s3.assert_same("one", "", "three", "");
}

#[test]
fn a_destination_inside_its_source_is_left_out_and_one_around_it_is_refused() {
    let s3 = Buckets::new();
    s3.server.create_bucket("one");
    s3.fill("one");
    let count = s3.server.objects("one").len() as u64;
    let (bucket, inside) = (s3.at("one", ""), s3.at("one/backups", ""));
    for _ in 0..3 {
        s3.ends(0, &["create", "--from", &bucket, "--to", &inside]);
        let shown = s3.ends(0, &["--json", "show", "latest", "--at", &inside]).last();
        assert_eq!(shown["manifest"]["totals"]["entries"].as_u64(), Some(count), "the archives are not backed up");
    }
    let own = s3.ends(2, &["create", "--from", &bucket, "--to", &bucket]);
    assert!(own.stderr.contains("lies inside the destination"), "{}", own.stderr);
    let around = s3.ends(2, &["create", "--from", &s3.at("one/data", ""), "--to", &bucket]);
    assert!(around.stderr.contains("lies inside the destination"), "{}", around.stderr);
}

/// The bucket is the same, which nothing but the archive's own name tells.
#[test]
fn a_backup_into_its_own_source_under_another_address_does_not_feed_on_itself() {
    let s3 = Buckets::new();
    s3.server.create_bucket("one");
    s3.fill("one");
    let bucket = s3.at("one", "");
    let other = s3.at("one/backups", "").replace("127.0.0.1", "localhost");
    let create = |code, more: &[&str]| {
        let args = [&["create", "--from", &bucket, "--to", &other], more].concat();
        let run = s3.ends(code, &args);
        let shown = s3.ends(0, &["--json", "show", "latest", "--at", &other]).last();
        (shown["manifest"]["totals"].clone(), run)
    };
    let before = s3.server.objects("one").len() as u64;
    let (totals, run) = create(3, &[]);
    assert_eq!((totals["entries"].as_u64(), totals["warnings"].as_u64()), (Some(before), Some(1)), "{}", run.stderr);
    let logs = s3.ends(0, &["logs", "latest"]);
    assert!(logs.stdout.contains("under another address"), "{}", logs.stdout);
    // The first archive is in the second one, unless it is excluded.
    let between = s3.server.objects("one").len() as u64;
    assert_eq!(create(3, &[]).0["entries"].as_u64(), Some(between));
    assert_eq!(create(0, &["--exclude", "backups/**"]).0["entries"].as_u64(), Some(before));
}

#[test]
fn whatever_is_wrong_with_a_bucket_is_said_and_no_secret_with_it() {
    let s3 = Buckets::new();
    s3.server.create_bucket("one");
    s3.place.tree("tree");
    let tree = s3.place.arg("tree");
    let create = |to: &str| vec!["create".to_owned(), "--from".into(), tree.clone(), "--to".into(), to.to_owned()];
    let run = |args: Vec<String>, env: &[(&str, &str)], code: i32| {
        let args: Vec<&str> = args.iter().map(String::as_str).collect();
        let mut command = s3.command(&args);
        command.envs(env.iter().copied());
        let run = common::wait(command.spawn().unwrap());
        assert_eq!(run.code, Some(code), "{args:?}: {}{}", run.stdout, run.stderr);
        assert!(!run.stderr.contains(s3.server.secret_key()) && !run.stderr.contains("wrong-secret"), "{}", run.stderr);
        run.stderr
    };
    let wrong = run(create(&s3.at("one", "")), &[("AWS_SECRET_ACCESS_KEY", "wrong-secret")], 1);
    assert!(wrong.contains("check the secret key"), "{wrong}");
    let unknown = run(create(&s3.at("one", "")), &[("AWS_ACCESS_KEY_ID", "NOBODY")], 1);
    assert!(unknown.contains("does not know the access key"), "{unknown}");
    let missing = run(create(&s3.at("nowhere", "")), &[], 1);
    assert!(missing.contains("no such bucket"), "{missing}");
    let region = s3.at("one", "").replace("region=", "region=moon-");
    let region = run(create(&region), &[], 1);
    assert!(region.contains("region"), "{region}");
    let nobody = "s3://one?endpoint=http://127.0.0.1:1";
    let refused = run(create(nobody), &[], 1);
    assert!(refused.contains("cannot be reached"), "{refused}");
    let with_key = run(create("s3://AKIA:wrong-secret@one"), &[], 2);
    assert!(with_key.contains("credentials do not belong into a locator"), "{with_key}");
    let of_source = run(create(&s3.at("one", "tags=true")), &[], 1);
    assert!(of_source.contains("options of sources"), "{of_source}");
    assert!(s3.server.objects("one").is_empty(), "something was left behind");
}

#[test]
fn with_everything_logged_no_secret_is_seen() {
    use std::os::unix::ffi::OsStringExt;
    let s3 = Buckets::new();
    s3.server.create_bucket("one");
    s3.place.tree("tree");
    let (token, key) = ("FwoGZXIvYXdzEBYaDGhlbGxv+token/7d1c", "MGM4OGUxYjVhN2YwYzRkZTkyYjFiZTdhNjNkNWZhMDE=");
    s3.server.faults().require_session_token(Some(token));
    let place = s3.at("one", "customer_key_env=CUSTOMER_KEY");
    let run = |args: &[&str], change: &dyn Fn(&mut std::process::Command)| {
        let mut command = s3.command(args);
        command.env("AWS_SESSION_TOKEN", token).env("CUSTOMER_KEY", key).env("RUST_LOG", "trace,aws_sigv4=trace");
        change(&mut command);
        let run = common::wait(command.spawn().unwrap());
        for secret in [token, key, "0c88e1b5a7f0c4de92b1be7a63d5fa01", s3.server.secret_key(), "s3cr3t"] {
            assert!(!run.stderr.contains(secret) && !run.stdout.contains(secret), "{secret}");
        }
        assert!(!run.stderr.contains("TRACE aws_") && !run.stderr.contains("DEBUG aws_"));
        run
    };
    let tree = s3.place.arg("tree");
    let as_it_is = |_: &mut std::process::Command| {};
    let done = run(&["create", "--from", &tree, "--to", &place], &as_it_is);
    assert_eq!(done.code, Some(0), "{}", done.stderr);
    assert!(done.stderr.contains("DEBUG backup_core"), "nothing was logged: {}", done.stderr);
    let target = s3.at("one/below", "customer_key_env=CUSTOMER_KEY");
    let done = run(&["restore", "latest", "--at", &place, "--to", &target], &as_it_is);
    assert_eq!(done.code, Some(3), "{}", done.stderr);
    // What is no text is not shown either, by whoever reads it.
    for (variable, class) in [("AWS_SECRET_ACCESS_KEY", "is not UTF-8"), ("CUSTOMER_KEY", "no text")] {
        let odd = std::ffi::OsString::from_vec(b"s3cr3t\xff".to_vec());
        let refused = run(&["verify", "latest", "--at", &place], &|command| {
            command.env(variable, &odd);
        });
        assert!(refused.code != Some(0) && refused.stderr.contains(class), "{}", refused.stderr);
        assert!(refused.stderr.contains(variable), "{}", refused.stderr);
    }
}
