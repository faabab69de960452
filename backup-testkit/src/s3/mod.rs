//! An S3 server in this process: strict where the service is, with faults by a script. Feature `s3`.
//!
//! It checks signatures, regions, clocks, lengths, Content-MD5, checksums, ETags of parts and the sizes of parts, and gives errors with the
//! codes of the [S3 API](https://docs.aws.amazon.com/AmazonS3/latest/API/ErrorResponses.html). Everything is in memory.
//!
//! ```
//! use backup_testkit::faulty::When;
//! use backup_testkit::s3::{Fault, Operation, Rule, S3Server};
//!
//! # tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(async {
//! let server = S3Server::start().await;
//! server.create_bucket("photos");
//! server.put("photos", "a.jpg", "…");
//! // Each third GET of a .jpg is told to slow down.
//! server.faults().add(Rule::new(Operation::GetObject, When::Every(3), Fault::slow_down()).about(".jpg"));
//! // … run the code under test with server.endpoint(), server.region(), server.access_key() and server.secret_key() …
//! assert_eq!(server.requests().count(Operation::GetObject), 0);
//! # });
//! ```

mod backend;
mod body;
mod buckets;
mod faults;
mod gate;
mod object;
mod operation;
mod quirks;
mod requests;
mod server;
mod synthetic;
mod wire;

pub use buckets::{S3BucketOptions, S3Buckets, S3Upload, Versioning};
pub use faults::{Act, Fault, Faults, Fired, Rule};
pub use object::{Encryption, Headers, S3Object};
pub use operation::Operation;
pub use quirks::Quirks;
pub use requests::Requests;
pub use server::S3Server;
pub use synthetic::Synthetic;
