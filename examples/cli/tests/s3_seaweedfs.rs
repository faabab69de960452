//! From bucket to bucket on a real server, SeaweedFS: killed processes, a server that is killed and starts again, and another
//! client's word for what came of it.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "helpers of tests may panic as tests do")]

mod common;

use common::{Place, Run};
use std::path::PathBuf;
use std::process::{Command, Output};
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

    /// Kills the command and restarts the server, again and again, and lets it come to its end.
    fn killed(&self, start: &[&str]) {
        let operations = || self.ends(&["--json", "operations"]).last()["operations"].as_array().unwrap().len();
        let before = operations();
        for (turn, moment) in [400, 900, 1500].into_iter().enumerate() {
            let begun = operations() > before;
            let mut child = self.command(if begun { &["resume", "latest"] } else { start }).spawn().unwrap();
            std::thread::sleep(Duration::from_millis(moment));
            if turn == 1 {
                // Under the process.
                restart();
            }
            let _ = child.kill();
            child.wait().unwrap();
            if turn != 1 {
                restart();
            }
        }
        if operations() > before {
            self.ends(&["resume", "--all"])
        } else {
            self.ends(start)
        };
    }
}

#[test]
fn killed_and_restarted_a_bucket_comes_back_as_it_was_by_another_clients_word() {
    let (endpoint, pid) = (variable("BACKUP_TEST_S3"), std::process::id());
    let [source, archives, target] = ["a", "b", "c"].map(|name| format!("cli-{pid}-{name}"));
    let at = |path: &str, options: &str| {
        format!("s3://{path}?endpoint={endpoint}&region=us-east-1&path_style=true{options}")
    };
    let tool = Tool(Place::new());
    for bucket in [&source, &archives, &target] {
        make(bucket);
    }
    check(&["fill", &source]);
    let backups = at(&format!("{archives}/backups"), "");
    let from = at(&source, "&tags=true");
    let small = ["--volume-size", "1MiB", "--limit-read", "8MiB"];
    tool.killed(&[&["create", "--from", &from, "--to", &backups][..], &small].concat());
    tool.ends(&["verify", "latest", "--at", &backups]);
    let to = at(&target, "");
    tool.killed(&["restore", "latest", "--at", &backups, "--to", &to, "--limit-write", "8MiB"]);
    check(&["compare", &source, &target]);
}

/// Makes a bucket.
fn make(bucket: &str) {
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
        let connected = backup_s3::S3Bucket::connect(config).await.unwrap();
        connected.client().create_bucket().bucket(bucket).send().await.unwrap();
    });
}
