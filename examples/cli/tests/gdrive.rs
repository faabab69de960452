//! Google Drive with the tool: signing in, and backups from a bucket that are killed.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "helpers of tests may panic as tests do")]

mod buckets;
mod common;

use backup_testkit::gdrive::DriveServer;
use buckets::Buckets;
use common::Run;
use std::collections::BTreeSet;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::process::Command;
use std::time::{Duration, Instant};

/// So many processes are killed.
const KILLS: u32 = 8;

struct Drive {
    server: DriveServer,
    buckets: Buckets,
    locator: String,
}

/// What a browser gets: the head of the answer, which is short.
fn browse(url: &str) -> String {
    let (host, path) = url.strip_prefix("http://").unwrap().split_once('/').unwrap();
    let mut stream = TcpStream::connect(host).unwrap();
    write!(stream, "GET /{path} HTTP/1.1\r\nhost: {host}\r\nconnection: close\r\n\r\n").unwrap();
    let mut text = String::new();
    stream.read_to_string(&mut text).unwrap();
    text
}

/// Where an answer leads.
fn location(answer: &str) -> String {
    let line = answer
        .lines()
        .find(|line| line.to_ascii_lowercase().starts_with("location:"))
        .unwrap_or_else(|| panic!("{answer}"));
    line.split_once(':').unwrap().1.trim().to_owned()
}

impl Drive {
    fn new() -> Self {
        let buckets = Buckets::new();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let server = runtime.block_on(DriveServer::start());
        let client = serde_json::json!({
            "installed": { "client_id": server.client_id(), "client_secret": server.client_secret() },
        });
        buckets.place.write("client.json", client.to_string());
        Self { server, buckets, locator: String::new() }
    }

    fn command(&self, args: &[&str]) -> Command {
        let mut command = self.buckets.command(args);
        command.env_remove("XDG_CONFIG_HOME").env_remove("BACKUP_SECRETS_KEY_FILE");
        command
    }

    #[track_caller]
    fn ends(&self, code: i32, args: &[&str]) -> Run {
        let run = common::wait(self.command(args).spawn().unwrap());
        assert_eq!(run.code, Some(code), "backup {}\n{}\n{}", args.join(" "), run.stdout, run.stderr);
        for secret in self.server.secrets() {
            assert!(!run.stdout.contains(&secret) && !run.stderr.contains(&secret), "{run:?}");
        }
        run
    }

    /// Volumes in the drive.
    fn volumes(&self) -> usize {
        self.server.files().iter().filter(|file| file.path.contains("/data/")).count()
    }

    /// Signs in as a person with a browser does.
    fn login(&mut self) {
        let endpoint = self.server.url().to_owned();
        let args = ["--json", "gdrive", "login", "--client", "client.json", "--endpoint", &endpoint];
        let mut child = self.command(&args).spawn().unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let asked: serde_json::Value = serde_json::from_str(&lines.next().unwrap().unwrap()).unwrap();
        let back = location(&browse(asked["url"].as_str().unwrap()));
        // A connection that says nothing keeps nobody waiting.
        let address = back.strip_prefix("http://").and_then(|rest| rest.split('/').next()).unwrap();
        let _silent = std::net::TcpStream::connect(address).unwrap();
        let begun = Instant::now();
        // Somebody else's answer, and a browser's wish for an icon, come first.
        let icon = format!("{}/favicon.ico", back.split("/?").next().unwrap());
        assert!(browse(&icon).starts_with("HTTP/1.1 404"));
        let other = back.replace("state=", "state=x");
        assert!(browse(&other).starts_with("HTTP/1.1 400"));
        assert!(browse(&back).starts_with("HTTP/1.1 200"));
        assert!(begun.elapsed() < Duration::from_secs(8), "{:?}", begun.elapsed());
        let done: serde_json::Value = serde_json::from_str(&lines.next().unwrap().unwrap()).unwrap();
        assert!(child.wait().unwrap().success());
        self.locator = done["locator"].as_str().unwrap().to_owned();
        assert!(self.locator.starts_with("gdrive:folder-"), "{}", self.locator);
    }
}

#[test]
fn a_bucket_goes_to_a_drive_although_processes_are_killed_and_comes_back() {
    let mut drive = Drive::new();
    drive.login();
    let s3 = &drive.buckets;
    s3.server.create_bucket("source");
    s3.server.create_bucket("target");
    s3.fill("source");
    let (from, to) = (s3.at("source", "tags=true"), s3.at("target", ""));
    let at = drive.locator.clone();
    let start =
        ["create", "--from", &from, "--to", &at, "--volume-size", "1MiB", "--memory", "64MiB", "--limit-read", "6MiB"];
    let mut killed = 0;
    let mut args: Vec<String> = start.iter().map(|arg| (*arg).to_owned()).collect();
    while killed < KILLS {
        let words: Vec<&str> = args.iter().map(String::as_str).collect();
        let mut child = drive.command(&words).spawn().unwrap();
        // At some moment, or when it has brought some volumes into the drive, the first of which a checkpoint knows by then: so that
        // the archive is of several processes.
        let (moment, before, begun) =
            (Duration::from_millis(400 + 130 * u64::from(killed)), drive.volumes(), Instant::now());
        let is_time = || match killed % 2 {
            0 => begun.elapsed() >= moment,
            _ => drive.volumes() >= before + 4 || begun.elapsed() >= common::PATIENCE,
        };
        while !is_time() && child.try_wait().unwrap().is_none() {
            std::thread::sleep(Duration::from_millis(2));
        }
        if child.try_wait().unwrap().is_some() {
            let run = common::wait(child);
            assert_eq!(run.code, Some(0), "{words:?}: {}{}", run.stdout, run.stderr);
            break;
        }
        child.kill().unwrap();
        child.wait().unwrap();
        killed += 1;
        let begun = drive.ends(0, &["--json", "operations"]).last()["operations"].as_array().unwrap().len();
        if begun > 0 {
            args = ["resume", "latest"].map(str::to_owned).to_vec();
        }
    }
    assert!(killed > 2, "only {killed} processes were killed");
    if drive.ends(0, &["--json", "operations"]).last()["operations"][0]["state"] != "completed" {
        drive.ends(0, &["resume", "latest"]);
    }
    drive.ends(0, &["verify", "latest", "--at", &at]);
    let listed = drive.ends(0, &["--json", "list", "--at", &at]);
    assert_eq!(listed.last()["archives"].as_array().map(Vec::len), Some(1), "{}", listed.stdout);
    // Volumes of several processes, each object once, nothing of broken uploads.
    let paths: Vec<String> = drive.server.files().into_iter().map(|file| file.path).collect();
    let volumes = paths.iter().filter_map(|path| path.split_once("/data/")?.1.get(9..)?.split('.').next());
    assert!(volumes.collect::<BTreeSet<_>>().len() > 1, "{paths:?}");
    assert_eq!(paths.iter().collect::<BTreeSet<_>>().len(), paths.len());
    assert!(paths.iter().all(|path| !path.contains(".backup-tmp-")), "{paths:?}");

    drive.ends(0, &["restore", "latest", "--at", &at, "--to", &to]);
    drive.buckets.assert_same("source", "", "target", "");
    drive.ends(0, &["delete", "latest", "--at", &at, "--force"]);
    assert!(drive.server.files().is_empty(), "{:?}", drive.server.files());
}

#[test]
fn without_a_sign_in_or_with_one_that_was_taken_back_it_says_what_to_do() {
    let mut drive = Drive::new();
    drive.buckets.place.tree("from");
    let run = drive.ends(1, &["create", "--from", "from", "--to", "gdrive:1AbC"]);
    assert!(run.stderr.contains("backup gdrive login"), "{}", run.stderr);
    drive.login();
    let at = drive.locator.clone();
    drive.ends(0, &["create", "--from", "from", "--to", &at]);
    drive.server.revoke_all();
    let run = drive.ends(1, &["list", "--at", &at]);
    assert!(run.stderr.contains("sign in again"), "{}", run.stderr);
    drive.login();
    drive.ends(0, &["list", "--at", &at]);
    // The account is sealed, and its owner's alone.
    let files = common::files_below(&drive.buckets.place.path("home"));
    assert_eq!(files.len(), 2, "{files:?}");
    for file in files {
        use std::os::unix::fs::PermissionsExt as _;
        let text = std::fs::read_to_string(&file).unwrap();
        assert!(drive.server.refresh_tokens().iter().all(|token| !text.contains(token)));
        assert_eq!(std::fs::metadata(&file).unwrap().permissions().mode() & 0o077, 0, "{file:?}");
    }
    drive.ends(0, &["gdrive", "logout"]);
    let run = drive.ends(1, &["list", "--at", &at]);
    assert!(run.stderr.contains("backup gdrive login"), "{}", run.stderr);
}
