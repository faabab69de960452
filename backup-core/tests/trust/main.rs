//! What an archive's owner has to rely on when something went wrong: damage is told, hostile archives do no harm, and mistakes are
//! answered instead of carried out.

#![allow(clippy::unwrap_used, clippy::expect_used)]

mod bad_input;
mod common;
mod damage;
mod hostile;
