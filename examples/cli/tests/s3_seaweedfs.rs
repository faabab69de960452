//! From bucket to bucket on a real server, SeaweedFS: killed processes, a server that is killed and starts again, and another
//! client's word for what came of it.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "helpers of tests may panic as tests do")]

mod common;

use backup_s3::S3Bucket;
use common::{Place, Run};
use std::os::unix::process::ExitStatusExt;
use std::path::PathBuf;
use std::process::{Command, Output};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

fn variable(name: &str) -> String {
    std::env::var(name)
        .unwrap_or_else(|_| panic!("{name} is not set; scripts/test-servers starts the server and sets it"))
}

fn script(name: &str, args: &[&str]) -> Output {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../scripts").join(name);
    Command::new(path).args(args).output().unwrap()
}

#[track_caller]
fn check(args: &[&str]) {
    let output = script("s3-check", args);
    assert!(output.status.success(), "{args:?}: {}{}", common::text(&output.stdout), common::text(&output.stderr));
}

/// Kills the server as a power failure would; it comes back with its data.
fn restart() {
    let output = script("test-servers", &["restart", "seaweedfs"]);
    let text = common::text(&output.stderr);
    assert!(
        output.status.success(),
        "this test restarts the server, which must be that of scripts/test-servers: {text}"
    );
}

struct Tool(Place);

impl Tool {
    fn command(&self, args: &[&str]) -> Command {
        let mut command = self.0.command(args);
        command
            .env("AWS_ACCESS_KEY_ID", variable("BACKUP_TEST_S3_ACCESS_KEY"))
            .env("AWS_SECRET_ACCESS_KEY", variable("BACKUP_TEST_S3_SECRET_KEY"));
        command
    }

    #[track_caller]
    fn ends(&self, args: &[&str]) -> Run {
        let run = common::wait(self.command(args).spawn().unwrap());
        assert_eq!(run.code, Some(0), "backup {}\n{}\n{}", args.join(" "), run.stdout, run.stderr);
        run
    }

    fn operations(&self) -> usize {
        self.ends(&["--json", "operations"]).last()["operations"].as_array().unwrap().len()
    }

    /// Kills the command and restarts the server, again and again, and lets it come to its end.
    fn killed(&self, start: &[&str]) {
        let before = self.operations();
        let mut hit = 0;
        for (turn, moment) in [400, 900, 1500].into_iter().enumerate() {
            let begun = self.operations() > before;
            let mut child = self.command(if begun { &["resume", "latest"] } else { start }).spawn().unwrap();
            std::thread::sleep(Duration::from_millis(moment));
            if turn == 1 {
                // Under the process.
                restart();
            }
            let _ = child.kill();
            hit += u32::from(child.wait().unwrap().signal() == Some(9));
            if turn != 1 {
                restart();
            }
        }
        assert!(hit >= 2, "only {hit} of 3 kills hit a running process: {start:?}");
        self.to_its_end(start, before);
    }

    /// Pauses the command twice, as Ctrl-C does, and lets it come to its end.
    fn paused(&self, start: &[&str]) {
        let before = self.operations();
        let mut paused = 0;
        for moment in [700, 1300] {
            let begun = self.operations() > before;
            let child = self.command(if begun { &["resume", "latest"] } else { start }).spawn().unwrap();
            std::thread::sleep(Duration::from_millis(moment));
            common::signal(&child, "INT");
            let run = common::wait(child);
            paused += u32::from(run.code != Some(0));
        }
        assert!(paused >= 1, "no pause met a running process: {start:?}");
        self.to_its_end(start, before);
    }

    fn to_its_end(&self, start: &[&str], before: usize) {
        if self.operations() > before {
            self.ends(&["resume", "--all"])
        } else {
            self.ends(start)
        };
    }
}

fn at(path: &str, options: &str) -> String {
    let endpoint = variable("BACKUP_TEST_S3");
    format!("s3://{path}?endpoint={endpoint}&region=us-east-1&path_style=true{options}")
}

/// The tests restart the one server.
static ALONE: Mutex<()> = Mutex::new(());

#[test]
fn killed_and_restarted_a_bucket_comes_back_as_it_was_by_another_clients_word() {
    let _alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    let pid = std::process::id();
    let [source, archives, target] = ["a", "b", "c"].map(|name| format!("cli-{pid}-{name}"));
    let tool = Tool(Place::new());
    for bucket in [&source, &archives, &target] {
        make(bucket);
    }
    check(&["fill", &source]);
    let backups = at(&format!("{archives}/backups"), "");
    let from = at(&source, "&tags=true");
    let small = ["--volume-size", "1MiB", "--limit-read", "2MiB"];
    tool.killed(&[&["create", "--from", &from, "--to", &backups][..], &small].concat());
    tool.ends(&["verify", "latest", "--at", &backups]);
    let to = at(&target, "");
    tool.killed(&["restore", "latest", "--at", &backups, "--to", &to, "--limit-write", "2MiB"]);
    check(&["compare", &source, &target]);
}

/// This server lists `f00/a` before `f00-x`: a run that goes on behind one of them must neither miss nor repeat the others.
#[test]
fn siblings_of_folders_are_neither_lost_nor_doubled_when_a_run_is_killed_or_paused() {
    let _alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    let pid = std::process::id();
    let [source, archives, whole, part] = ["d", "e", "f", "g"].map(|name| format!("cli-{pid}-{name}"));
    for bucket in [&source, &archives, &whole, &part] {
        make(bucket);
    }
    let ends = ["-x", ".x", "/a", "/b/c", "0"];
    let below_top: Vec<String> =
        (0..60).map(|n| format!("top/f{:02}{}", n / ends.len(), ends[n % ends.len()])).collect();
    let beside_top = ["top-x", "top.x", "top0"].map(str::to_owned);
    with(&source, async |bucket| {
        for (n, key) in below_top.iter().chain(&beside_top).enumerate() {
            let body = common::noise(150_000 + n, n as u64).into();
            bucket.client().put_object().bucket(bucket.bucket()).key(key).body(body).send().await.unwrap();
        }
    });
    let tool = Tool(Place::new());
    let small = ["--volume-size", "1MiB", "--limit-read", "2MiB"];
    for (from, under, to, entries, kill) in
        [(source.clone(), "whole", whole, 63, true), (format!("{source}/top"), "part", part, 60, false)]
    {
        let (place, backups, restored) = (at(&from, ""), at(&format!("{archives}/{under}"), ""), at(&to, ""));
        let create = [&["create", "--from", &place, "--to", &backups][..], &small].concat();
        if kill {
            tool.killed(&create)
        } else {
            tool.paused(&create)
        };
        let shown = tool.ends(&["--json", "show", "latest", "--at", &backups]).last();
        assert_eq!(shown["manifest"]["totals"]["entries"].as_u64(), Some(entries), "{from}");
        tool.ends(&["restore", "latest", "--at", &backups, "--to", &restored]);
        check(&["compare", &if kill { from } else { format!("{from}/") }, &to]);
    }
}

/// Makes a bucket.
fn make(bucket: &str) {
    with(bucket, async |connected| {
        connected.client().create_bucket().bucket(bucket).send().await.unwrap();
    });
}

fn with(bucket: &str, work: impl AsyncFnOnce(S3Bucket)) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let config = backup_s3::S3Config {
            endpoint: Some(variable("BACKUP_TEST_S3")),
            credentials: backup_s3::Credentials::Static {
                access_key: variable("BACKUP_TEST_S3_ACCESS_KEY"),
                secret_key: variable("BACKUP_TEST_S3_SECRET_KEY").into(),
                session_token: None,
            },
            ..backup_s3::S3Config::new(bucket)
        };
        work(S3Bucket::connect(config).await.unwrap()).await;
    });
}
