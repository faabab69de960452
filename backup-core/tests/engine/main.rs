//! The engine on in-memory doubles that are stricter than any real service: round trips, pauses, crashes, races between
//! workers, restores in trouble.

#![allow(clippy::unwrap_used, clippy::expect_used)]

mod backup_restore;
mod begin_and_end;
mod common;
mod job_log;
mod long_index;
mod naming;
mod pause_resume;
mod races;
mod rekey;
mod restore_trouble;
