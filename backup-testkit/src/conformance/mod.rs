//! What every adapter must do: a suite for each trait, with a case for each "# Behavior" bullet.
//!
//! A fixture gives a suite what it works on, and what a suite cannot know; the suite runs every case on a place of its own and
//! reports what failed, what was skipped and how many ran. A case that the fixture has no means for is skipped, and a test
//! names the cases that it lets be skipped: one that is skipped beyond that is a failure, not a pass.

pub mod connections;
pub mod destination;
pub mod restore_target;
pub mod source;
pub mod store;
mod suite;

pub use suite::{Case, Failed, Outcome, Report, Stop};
