//! The server's life, and what a test has in hand.

use super::backend::Backend;
use super::requests::Counter;
use super::wire::{self, Wire};
use super::{Faults, Quirks, Requests, S3BucketOptions, S3Buckets, S3Object, S3Upload};
use bytes::Bytes;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use tokio::net::TcpListener;
use tokio::runtime::Runtime;

const REGION: &str = "us-east-1";

/// An S3 server on a port of 127.0.0.1, with path-style addresses. It has a thread of its own, so that a test may block, and stops when it is
/// dropped.
pub struct S3Server {
    address: SocketAddr,
    keys: (String, String),
    buckets: S3Buckets,
    faults: Faults,
    counter: Counter,
    quirks: Arc<Mutex<Quirks>>,
    runtime: Option<Runtime>,
}

impl S3Server {
    /// Starts an empty server.
    ///
    /// # Panics
    /// If the system gives no port or thread.
    pub async fn start() -> Self {
        Self::start_on(0).await
    }

    /// Starts an empty server on a port of one's choice; 0 is any that is free.
    ///
    /// # Panics
    /// If the system does not give this port, or no thread.
    #[allow(clippy::expect_used, reason = "a test without its server has nothing to go on with")]
    pub async fn start_on(port: u16) -> Self {
        // Not the caller's runtime: it may be busy, or its clock stopped.
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .thread_name("s3-server")
            .enable_all()
            .build()
            .expect("a runtime for the server");
        let keys = ("TESTKITACCESSKEY".to_owned(), "testkit/secret+key".to_owned());
        let (buckets, faults, counter) = (S3Buckets::default(), Faults::default(), Counter::default());
        let quirks = Arc::new(Mutex::new(Quirks::default()));
        let backend = Backend::new(buckets.clone(), faults.clone(), quirks.clone());
        let wire = Wire::new(backend, keys.clone(), REGION, counter.clone());
        let bound = runtime.spawn(async move {
            let listener = TcpListener::bind(("127.0.0.1", port)).await?;
            let address = listener.local_addr()?;
            tokio::spawn(wire::serve(listener, Arc::new(wire)));
            std::io::Result::Ok(address)
        });
        let address = bound.await.expect("the server's task").expect("a port for the server");
        Self { address, keys, buckets, faults, counter, quirks, runtime: Some(runtime) }
    }

    /// `http://127.0.0.1:PORT`.
    pub fn endpoint(&self) -> String {
        format!("http://{}", self.address)
    }

    /// The region that requests have to be signed for.
    pub fn region(&self) -> &str {
        REGION
    }

    /// The access key.
    pub fn access_key(&self) -> &str {
        &self.keys.0
    }

    /// The secret key, of characters that need care in URLs.
    pub fn secret_key(&self) -> &str {
        &self.keys.1
    }

    /// Makes an empty bucket without versions.
    pub fn create_bucket(&self, name: &str) {
        self.create_bucket_with(name, S3BucketOptions::default());
    }

    /// Makes a bucket; one that exists is replaced.
    pub fn create_bucket_with(&self, name: &str, options: S3BucketOptions) {
        self.buckets.create_bucket(name, options);
    }

    /// Stores an object without a request. Returns its version id. Objects with headers and the like: [`S3Buckets::put`].
    ///
    /// # Panics
    /// Without such a bucket.
    pub fn put(&self, bucket: &str, key: &str, body: impl Into<Bytes>) -> String {
        self.buckets.put(bucket, S3Object::new(key, body))
    }

    /// The current version of an object.
    pub fn object(&self, bucket: &str, key: &str) -> Option<S3Object> {
        self.buckets.object(bucket, key)
    }

    /// All objects that are stored in a bucket, current versions only, by key.
    pub fn objects(&self, bucket: &str) -> Vec<S3Object> {
        self.buckets.objects(bucket)
    }

    /// The multipart uploads that are open in a bucket.
    pub fn uploads(&self, bucket: &str) -> Vec<S3Upload> {
        self.buckets.uploads(bucket)
    }

    /// All buckets, to look at and to change without requests.
    pub fn buckets(&self) -> &S3Buckets {
        &self.buckets
    }

    /// The script of faults.
    pub fn faults(&self) -> &Faults {
        &self.faults
    }

    /// From now on the server departs from AWS in these ways.
    pub fn set_quirks(&self, quirks: Quirks) {
        *self.quirks.lock().unwrap_or_else(std::sync::PoisonError::into_inner) = quirks;
    }

    /// The requests since the start, or since [`reset_requests`](Self::reset_requests).
    pub fn requests(&self) -> Requests {
        self.counter.seen()
    }

    /// Starts counting anew.
    pub fn reset_requests(&self) {
        self.counter.reset();
    }
}

impl std::fmt::Debug for S3Server {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("S3Server").field("endpoint", &self.endpoint()).finish_non_exhaustive()
    }
}

impl Drop for S3Server {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            // Dropping it would wait, which no async test may do.
            runtime.shutdown_background();
        }
    }
}
