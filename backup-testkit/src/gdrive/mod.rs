//! Google Drive in this process: strict where the service is, with faults by a script. Feature `gdrive`.
//!
//! It knows what an adapter for archives needs of the [Drive API v3](https://developers.google.com/workspace/drive/api/reference/rest/v3) and
//! of [OAuth 2.0](https://developers.google.com/identity/protocols/oauth2): files and folders, queries by parents and `appProperties`,
//! resumable uploads, downloads of ranges, quota, tokens. Everything is in memory.
//!
//! ```
//! use backup_testkit::faulty::When;
//! use backup_testkit::gdrive::{DriveFault, DriveOperation, DriveServer};
//!
//! # tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(async {
//! let drive = DriveServer::start().await;
//! let folder = drive.make_folder("backups");
//! // The second chunk of an upload is taken in part only.
//! drive.faults().add(DriveOperation::UploadChunk, When::Nth(2), DriveFault::Partial { kept: 256 << 10 });
//! // … run the code under test with drive.url(), `folder` and drive.client_id(), …
//! assert_eq!(drive.requests(DriveOperation::UploadChunk), 0);
//! # });
//! ```

mod answer;
mod faults;
mod files;
mod oauth;
mod operation;
mod query;
mod server;
mod state;
mod upload;
mod wire;

pub use faults::{DriveFault, DriveFaults};
pub use operation::DriveOperation;
pub use server::DriveServer;
pub use state::{DriveFile, DriveRole};
