//! Buckets of a server in the test's process, and the program that uses them.
#![allow(dead_code, reason = "each test binary uses a part")]

use crate::common::{self, Place, Run, noise};
use backup_testkit::s3::{S3Object, S3Server};
use std::process::Command;

/// A server with its buckets, and a directory to work in.
pub(crate) struct Buckets {
    pub(crate) server: S3Server,
    pub(crate) place: Place,
}

impl Buckets {
    pub(crate) fn new() -> Self {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        // It goes on in a thread of its own.
        let server = runtime.block_on(S3Server::start());
        Self { server, place: Place::new() }
    }

    /// The locator of a bucket, or of a prefix in one.
    pub(crate) fn at(&self, path: &str, options: &str) -> String {
        let (endpoint, region) = (self.server.endpoint(), self.server.region());
        let options = if options.is_empty() { String::new() } else { format!("&{options}") };
        format!("s3://{path}?endpoint={endpoint}&region={region}&path_style=true{options}")
    }

    pub(crate) fn command(&self, args: &[&str]) -> Command {
        let mut command = self.place.command(args);
        command
            .env("AWS_ACCESS_KEY_ID", self.server.access_key())
            .env("AWS_SECRET_ACCESS_KEY", self.server.secret_key())
            .env_remove("AWS_SESSION_TOKEN")
            .env_remove("AWS_PROFILE")
            .env_remove("AWS_REGION");
        command
    }

    /// Runs and expects this exit code.
    #[track_caller]
    pub(crate) fn ends(&self, code: i32, args: &[&str]) -> Run {
        let run = common::wait(self.command(args).spawn().unwrap());
        assert_eq!(run.code, Some(code), "backup {}\n{}\n{}", args.join(" "), run.stdout, run.stderr);
        run
    }

    /// Objects of all kinds: keys that no file can have, headers, metadata, tags, sizes from nothing to several parts.
    pub(crate) fn fill(&self, bucket: &str) {
        let keys = ["../x", "//", "a", "a/", "a/b", "a b+c%20", "deep/er/ä/日本", "line\nbreak\u{1}", "~"];
        for key in keys {
            self.server.put(bucket, key, key.to_owned());
        }
        let long = format!("long/{}", "ä".repeat(500));
        self.server.put(bucket, &long, "at the end of a long key");
        self.server.put(bucket, "empty", "");
        for n in 0..300 {
            self.server.put(bucket, &format!("many/{n:04}"), noise(n * 31, n as u64));
        }
        self.server.put(bucket, "middle", noise(5 << 20, 1));
        self.server.put(bucket, "large", noise((20 << 20) + 12_345, 2));
        let mut full = S3Object::new("headers/full", "with everything");
        full.headers.content_type = Some("text/plain; charset=utf-8".into());
        full.headers.content_encoding = Some("gzip".into());
        full.headers.content_language = Some("de, en".into());
        full.headers.content_disposition = Some("attachment; filename=\"a b.txt\"".into());
        full.headers.cache_control = Some("no-cache, max-age=60".into());
        full.headers.expires = Some(std::time::UNIX_EPOCH + std::time::Duration::from_secs(1_900_000_000));
        full.metadata = [("colour", "blue"), ("owner", "me and you")].map(|(k, v)| (k.into(), v.into())).into();
        full.tags = [("stage", "test"), ("a b", "1+1=2/ä")].map(|(k, v)| (k.into(), v.into())).into();
        full.storage_class = "STANDARD_IA".into();
        self.server.buckets().put(bucket, full);
    }

    /// Compares two buckets below two prefixes.
    #[track_caller]
    pub(crate) fn assert_same(&self, bucket: &str, prefix: &str, other: &str, other_prefix: &str) {
        let below = |bucket: &str, prefix: &str| -> Vec<S3Object> {
            let mut objects = self.server.objects(bucket);
            objects.retain_mut(|object| {
                let Some(key) = object.key.strip_prefix(prefix) else { return false };
                object.key = key.to_owned();
                true
            });
            objects
        };
        let (expected, mut found) = (below(bucket, prefix), below(other, other_prefix));
        if prefix.is_empty() && other_prefix.is_empty() {
            assert_eq!(found.len(), expected.len());
        }
        for object in &expected {
            let at =
                found.iter().position(|o| o.key == object.key).unwrap_or_else(|| panic!("{:?} is missing", object.key));
            let found = found.swap_remove(at);
            assert!(found.body == object.body, "{:?} has other bytes", object.key);
            let rest = |o: &S3Object| (o.metadata.clone(), o.tags.clone(), o.storage_class.clone());
            assert_eq!(rest(&found), rest(object), "{:?}", object.key);
            let mut headers = found.headers.clone();
            if object.headers.content_type.is_none() {
                headers.content_type = None;
            }
            assert_eq!(headers, object.headers, "{:?}", object.key);
        }
    }
}
