//! An S3 server with a bucket `many` of objects that it computes, and an empty bucket `archive`. For `benches/compare s3-memory`.
//!
//! ```text
//! cargo run --release -p backup-benches --bin s3-server -- OBJECTS BYTES
//! ```
//! Prints its endpoint and keys as one line of JSON; answers each line on its standard input with the requests by operation since the last
//! one; ends with its input.

use backup_core::{Error, Result};
use backup_testkit::s3::{S3BucketOptions, S3Server, Synthetic};
use std::io::{BufRead, Write};

#[tokio::main]
async fn main() -> Result<()> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let [objects, size] = args.as_slice() else {
        return Err(Error::invalid("say how many objects of how many bytes"));
    };
    let number = |text: &str| text.parse::<u64>().map_err(|e| Error::invalid("not a number").on(text).because(e));
    let synthetic = Synthetic { objects: number(objects)?, size: number(size)? as usize };
    let server = S3Server::start().await;
    server.create_bucket_with("many", S3BucketOptions { synthetic: Some(synthetic), ..Default::default() });
    server.create_bucket("archive");
    print(&[
        ("endpoint", format!("{:?}", server.endpoint())),
        ("region", format!("{:?}", server.region())),
        ("access_key", format!("{:?}", server.access_key())),
        ("secret_key", format!("{:?}", server.secret_key())),
    ])?;
    for line in std::io::stdin().lock().lines() {
        line.map_err(|e| Error::permanent("standard input").because(e))?;
        let requests = server.requests();
        server.reset_requests();
        let counts: Vec<_> =
            requests.iter().map(|(operation, count)| (format!("{operation:?}"), count.to_string())).collect();
        let counts: Vec<_> = counts.iter().map(|(operation, count)| (operation.as_str(), count.clone())).collect();
        print(&counts)?;
    }
    Ok(())
}

/// One line of JSON; the values are JSON already.
fn print(pairs: &[(&str, String)]) -> Result<()> {
    let pairs: Vec<_> = pairs.iter().map(|(name, value)| format!("\"{name}\":{value}")).collect();
    let mut out = std::io::stdout().lock();
    writeln!(out, "{{{}}}", pairs.join(","))
        .and_then(|()| out.flush())
        .map_err(|e| Error::permanent("standard output").because(e))
}
