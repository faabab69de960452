//! Backups and restores from bucket to bucket that are killed with SIGKILL at random moments, and go on in new processes; some
//! of them find the server gone for a while.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "helpers of tests may panic as tests do")]

mod buckets;
mod common;

use backup_testkit::faulty::When;
use backup_testkit::s3::{Fault, Rule};
use buckets::Buckets;
use std::collections::BTreeSet;
use std::os::unix::process::ExitStatusExt;
use std::time::{Duration, Instant};

/// So many processes are killed before the test is content.
const KILLS: u32 = 20;
/// Repeats a run's choice of moments.
const SEED: &str = "BACKUP_KILL_SEED";

/// Numbers that depend on a seed alone (splitmix64).
struct Random(u64);

impl Random {
    fn below(&mut self, end: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)) % end
    }
}

struct Journey {
    s3: Buckets,
    random: Random,
    kills: u32,
    /// Kills of restores that were inside a large object.
    inside: u32,
    /// Archives with volumes of several processes.
    joined: u32,
    /// The bucket to restore to.
    target: String,
    story: String,
}

#[test]
fn whatever_is_killed_between_buckets_goes_on_and_loses_nothing() {
    let seed = match std::env::var(SEED) {
        Ok(seed) => seed.parse().expect("the seed is a number"),
        Err(_) => std::time::UNIX_EPOCH.elapsed().unwrap().as_nanos() as u64,
    };
    println!("{SEED}={seed} repeats this choice of moments");
    let s3 = Buckets::new();
    s3.server.create_bucket("source");
    s3.fill("source");
    let before: Vec<_> = s3.server.objects("source").into_iter().map(|o| (o.key, o.etag, o.modified)).collect();
    let mut journey = Journey {
        s3,
        random: Random(seed),
        kills: 0,
        inside: 0,
        joined: 0,
        target: String::new(),
        story: String::new(),
    };
    for number in 0..40 {
        if journey.kills >= KILLS && journey.inside > 0 {
            break;
        }
        journey.make(number);
    }
    println!("{} kills, {} inside a large object, {} joined archives", journey.kills, journey.inside, journey.joined);
    assert!(journey.kills >= KILLS, "only {} kills hit a running process", journey.kills);
    assert!(journey.joined > 0, "no archive was written by several processes");
    assert!(journey.inside > 0, "no restore was killed inside a large object");
    let after: Vec<_> = journey.s3.server.objects("source").into_iter().map(|o| (o.key, o.etag, o.modified)).collect();
    assert!(before == after, "a source is only ever read");
}

impl Journey {
    fn make(&mut self, number: u32) {
        let (archives, target) = (format!("archives-{number}"), format!("target-{number}"));
        self.s3.server.create_bucket(&archives);
        self.s3.server.create_bucket(&target);
        self.story = format!("journey {number}");
        self.target.clone_from(&target);
        let (from, at, to) =
            (self.s3.at("source", "tags=true"), self.s3.at(&format!("{archives}/x"), ""), self.s3.at(&target, ""));
        let start = [
            "create",
            "--from",
            &from,
            "--to",
            &at,
            "--volume-size",
            "1MiB",
            "--memory",
            "64MiB",
            "--limit-read",
            "24MiB",
        ];
        self.until_done("backup", &start);
        self.s3.ends(0, &["verify", "latest", "--at", &at]);
        // `…/data/00000000-1x7f3a9c00.tar.zst`: behind the number stands who wrote it.
        let keys: Vec<String> = self.s3.server.objects(&archives).into_iter().map(|o| o.key).collect();
        let volumes = keys.iter().filter_map(|key| key.split_once("/data/")?.1.get(9..)?.split('.').next());
        self.joined += u32::from(volumes.collect::<BTreeSet<_>>().len() > 1);
        assert!(
            keys.iter().all(|key| !key.contains(".backup-tmp-") || key.contains("-probe")),
            "{}: {keys:?}",
            self.story
        );

        self.until_done("restore", &["restore", "latest", "--at", &at, "--to", &to, "--limit-write", "16MiB"]);
        self.s3.assert_same("source", "", &target, "");
        let open = self.s3.server.uploads(&target);
        assert!(open.is_empty(), "{}: uploads are left open at {}: {open:?}", self.story, jiff::Timestamp::now());
        println!("{} ({} kills so far)", self.story, self.kills);
    }

    /// Runs a command, kills it, and goes on, until it is done.
    fn until_done(&mut self, kind: &str, start: &[&str]) {
        let mut kills = self.random.below(4);
        let before = self.operations(kind);
        loop {
            let args: Vec<String> =
                match self.operations(kind).into_iter().find(|o| !before.contains(o) && o.1 != "completed") {
                    Some((id, _)) => vec!["resume".into(), id],
                    None if self.operations(kind).len() > before.len() => return,
                    None => start.iter().map(|arg| (*arg).to_owned()).collect(),
                };
            let args: Vec<&str> = args.iter().map(String::as_str).collect();
            let mut child = self.s3.command(&args).spawn().unwrap();
            if kills == 0 {
                let run = common::wait(child);
                assert_eq!(run.code, Some(0), "{}; then {args:?} failed:\n{}\n{}", self.story, run.stdout, run.stderr);
                continue;
            }
            kills -= 1;
            let outage = self.random.below(4) == 0;
            let moment = Duration::from_millis(self.random.below(4000));
            let begun = Instant::now();
            while begun.elapsed() < moment && child.try_wait().unwrap().is_none() {
                std::thread::sleep(Duration::from_millis(2));
            }
            if outage {
                // The server dies under the process and comes back with what it has.
                self.s3.server.faults().add(Rule::any(When::Always, Fault::Drop));
                std::thread::sleep(Duration::from_millis(self.random.below(300)));
            }
            child.kill().unwrap();
            let status = child.wait().unwrap();
            self.s3.server.faults().clear();
            if status.signal() == Some(9) {
                self.kills += 1;
                self.inside += u32::from(kind == "restore" && !self.s3.server.uploads(&self.target).is_empty());
            } else {
                let output = child.wait_with_output().unwrap();
                assert!(outage || status.success(), "{}: {}", self.story, common::text(&output.stderr));
            }
        }
    }

    /// Ids and states of the operations of a kind.
    fn operations(&self, kind: &str) -> Vec<(String, String)> {
        let list = self.s3.ends(0, &["--json", "operations", "--limit", "1000"]).last();
        let text = |value: &serde_json::Value| value.as_str().unwrap().to_owned();
        let of_kind = list["operations"].as_array().unwrap().iter().filter(|o| o["kind"] == kind);
        of_kind.map(|o| (text(&o["id"]), text(&o["state"]))).collect()
    }
}
