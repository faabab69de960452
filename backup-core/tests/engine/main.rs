//! The engine on in-memory doubles that are stricter than any real service: round trips, pauses, crashes, races between
//! workers, damage, hostile archives, and random sequences of all of it.

#![allow(clippy::unwrap_used, clippy::expect_used)]

mod backup_restore;
mod bad_input;
mod common;
mod damage;
mod hostile;
mod model;
mod pause_resume;
mod races;
mod restore_trouble;
