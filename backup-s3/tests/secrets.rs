//! What is logged, with everything logged, while a bucket is read, written and restored into, under faults.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a failing test panics")]

mod common;

use backup_core::adapter::{Destination, Source};
use backup_core::engine::{BackupRequest, Engine, Outcome, RestoreRequest};
use backup_core::memory::MemoryStore;
use backup_s3::{
    Credentials, Encryption, S3Bucket, S3Config, S3Destination, S3RestoreTarget, S3Source, S3SourceOptions,
    S3TargetOptions, SDK_LOG_TARGETS,
};
use backup_testkit::faulty::When;
use backup_testkit::s3::{Fault, Operation, Rule, S3Server};
use common::Access;
use std::fmt::{Debug, Write as _};
use std::sync::{Arc, Mutex};
use tracing::field::{Field, Visit};
use tracing::span::{Attributes, Id, Record};
use tracing::{Event, Level, Metadata, Subscriber};
use tracing_subscriber::layer::{Context, Layer, SubscriberExt};

const TOKEN: &str = "FwoGZXIvYXdzEBYaDGhlbGxv+token/7d1c";
const CUSTOMER_KEY: &str = "0c88e1b5a7f0c4de92b1be7a63d5fa01";
const CUSTOMER_KEY_BASE64: &str = "MGM4OGUxYjVhN2YwYzRkZTkyYjFiZTdhNjNkNWZhMDE=";

/// What was logged: level, target, fields.
#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<(Level, String, String)>>>);

#[derive(Default)]
struct Text(String);

impl Visit for Text {
    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        let _ = write!(self.0, "{}={value:?} ", field.name());
    }
}

impl Log {
    fn add(&self, metadata: &Metadata<'_>, fields: impl FnOnce(&mut Text)) {
        let mut text = Text::default();
        fields(&mut text);
        // What comes through `log` tells its own target in a field.
        let target = text.0.split("log.target=\"").nth(1).and_then(|rest| rest.split('"').next());
        let target = target.unwrap_or(metadata.target()).to_owned();
        self.0.lock().unwrap().push((*metadata.level(), target, text.0));
    }
}

impl<S: Subscriber + for<'a> tracing_subscriber::registry::LookupSpan<'a>> Layer<S> for Log {
    fn on_event(&self, event: &Event<'_>, _: Context<'_, S>) {
        self.add(event.metadata(), |text| event.record(text));
    }

    fn on_new_span(&self, attributes: &Attributes<'_>, _: &Id, _: Context<'_, S>) {
        self.add(attributes.metadata(), |text| attributes.record(text));
    }

    fn on_record(&self, id: &Id, values: &Record<'_>, ctx: Context<'_, S>) {
        if let Some(metadata) = ctx.metadata(id) {
            self.add(metadata, |text| values.record(text));
        }
    }
}

fn config(server: &S3Server, bucket: &str) -> S3Config {
    let mut config = Access::of(server).config(bucket, "");
    if let Credentials::Static { session_token, .. } = &mut config.credentials {
        *session_token = Some(TOKEN.into());
    }
    S3Config { encryption: Encryption::SseC { key: CUSTOMER_KEY_BASE64.into() }, ..config }
}

/// Bucket to bucket to bucket, with what fails and what is refused on the way; gives what is shown of it.
async fn everything(server: &S3Server) -> String {
    let mut shown = String::new();
    for name in ["one", "two", "three"] {
        server.create_bucket(name);
    }
    let connect = |name: &'static str| async { S3Bucket::connect(config(server, name)).await.unwrap() };
    server.faults().require_session_token(Some(TOKEN));
    server.put("one", "plain", "small");
    let one = connect("one").await;
    for (key, length) in [("small", 100usize), ("large", 17 << 20)] {
        let request = one.client().put_object().bucket("one").key(key).body(vec![7; length].into());
        let md5 = "TKEi1boGLgFpvL1827oMxw==";
        // The key as this crate sends it.
        let request = request.sse_customer_algorithm("AES256").sse_customer_key(CUSTOMER_KEY_BASE64);
        request.sse_customer_key_md5(md5).send().await.unwrap();
        server.put("one", &format!("{key}, not encrypted"), vec![7; length]);
    }
    let source = Arc::new(S3Source::new(one, S3SourceOptions { tags: true, ..Default::default() }).unwrap());
    let destination = Arc::new(S3Destination::new(connect("two").await));
    let target = Arc::new(S3RestoreTarget::new(connect("three").await, S3TargetOptions::default()).unwrap());
    let engine = Engine::new(Arc::new(MemoryStore::new()));
    let backup = engine.backup(BackupRequest::new(source.clone(), destination.clone())).await.unwrap();
    for operation in [Operation::GetObject, Operation::PutObject, Operation::UploadPart] {
        for (nth, fault) in [(1, Fault::slow_down()), (3, Fault::LostReply)] {
            server.faults().add(Rule::new(operation, When::Nth(nth), fault));
        }
    }
    let archive = backup.archive().clone();
    let outcome = backup.wait().await.unwrap();
    assert!(matches!(outcome, Outcome::Completed { .. }), "{outcome:?}");
    let request = RestoreRequest::new(destination.clone(), archive, target.clone());
    let outcome = engine.restore(request).await.unwrap().wait().await.unwrap();
    assert!(matches!(outcome, Outcome::Completed { .. }), "{outcome:?}");
    assert!(server.faults().fired().len() >= 6, "{:?}", server.faults().fired());
    assert_eq!(server.objects("three").len(), server.objects("one").len());
    server.faults().clear();
    server.faults().require_session_token(Some("another"));
    let refused = source.check().await.unwrap_err();
    let refused_too = destination.check().await.unwrap_err();
    let _ = write!(shown, "{} {refused:?} {refused_too:?} {}", refused.chain(), refused_too.chain());
    let _ = write!(shown, "{source:?} {destination:?} {target:?} {:?}", config(server, "one"));
    shown
}

/// On one thread, so that the log of this test is its own.
#[test]
fn with_everything_logged_only_the_sdk_shows_secrets_and_not_from_info_on() {
    let log = Log::default();
    tracing_log::LogTracer::init().unwrap();
    let subscriber = tracing_subscriber::registry().with(log.clone());
    let mut secrets = vec![TOKEN.to_owned(), CUSTOMER_KEY.to_owned(), CUSTOMER_KEY_BASE64.to_owned()];
    let shown = tracing::subscriber::with_default(subscriber, || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let server = S3Server::start().await;
            secrets.push(server.secret_key().to_owned());
            everything(&server).await
        })
    });
    let logged = log.0.lock().unwrap();
    assert!(logged.iter().any(|(level, target, _)| *level == Level::TRACE && target.starts_with("aws_smithy_runtime")));
    assert!(logged.iter().any(|(_, target, _)| target.starts_with("backup_s3")));
    let mut leaks: Vec<String> = Vec::new();
    for secret in &secrets {
        assert!(!shown.contains(secret), "shown: {secret}");
        for (level, target, text) in logged.iter().filter(|(_, _, text)| text.contains(secret)) {
            let known = target.starts_with(SDK_LOG_TARGETS);
            if !known || *level <= Level::INFO {
                leaks.push(format!("{level} {target}: {secret} in {}", &text[..text.len().min(300)]));
            }
        }
    }
    assert!(leaks.is_empty(), "{leaks:#?}");
}
