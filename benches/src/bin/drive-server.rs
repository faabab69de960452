//! A Google Drive in memory. For `benches/compare gdrive`.
//!
//! ```text
//! cargo run --release -p backup-benches --bin drive-server
//! ```
//! Prints its address and what a client needs as one line of JSON; answers each line on its standard input with the requests since the last
//! one; ends with its input.

use backup_core::{Error, Result};
use backup_testkit::gdrive::{DriveOperation, DriveServer};
use std::io::{BufRead, Write};

#[tokio::main]
async fn main() -> Result<()> {
    let server = DriveServer::start().await;
    let (folder, token) = (server.make_folder("plain"), server.refresh_token());
    print(&[
        ("url", server.url()),
        ("folder", &folder),
        ("client_id", server.client_id()),
        ("client_secret", server.client_secret()),
        ("refresh_token", &token),
    ])?;
    for line in std::io::stdin().lock().lines() {
        line.map_err(|e| Error::permanent("standard input").because(e))?;
        use DriveOperation as O;
        let counts =
            [O::BeginUpload, O::UploadChunk, O::UploadStatus, O::List, O::GetMetadata, O::Create, O::About, O::Token]
                .map(|operation| (format!("{operation:?}"), server.requests(operation).to_string()));
        server.reset_requests();
        let counts: Vec<(&str, &str)> = counts.iter().map(|(name, count)| (name.as_str(), count.as_str())).collect();
        print(&counts)?;
    }
    Ok(())
}

/// One line of JSON; all values are text.
fn print(pairs: &[(&str, &str)]) -> Result<()> {
    let pairs: Vec<_> = pairs.iter().map(|(name, value)| format!("{name:?}:{value:?}")).collect();
    let mut out = std::io::stdout().lock();
    writeln!(out, "{{{}}}", pairs.join(","))
        .and_then(|()| out.flush())
        .map_err(|e| Error::permanent("standard output").because(e))
}
