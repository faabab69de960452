//! The S3 server is as strict as the service, seen by the SDK and by plain HTTP.

#![allow(clippy::unwrap_used, reason = "a test may")]

mod client;
mod conditions;
mod faults;
mod independent;
mod listing;
mod multipart;
mod objects;
mod refusals;
mod versions;
