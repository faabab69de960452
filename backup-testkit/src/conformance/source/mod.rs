//! What every [`Source`](backup_core::adapter::Source) must do.

mod fixture;
mod listing;
mod place;
mod reading;
mod run;

use super::Report;
use super::suite::{cases, run as run_cases};

pub use fixture::{Disturbance, KnownItem, SourceFixture, SourcePart, SourcePlace};

/// Runs every case. [`Report::assert_passed`] tells what a test must name.
pub async fn run_all(fixture: &impl SourceFixture) -> Report {
    run_cases(CASES, fixture).await
}

cases! {
    dyn SourceFixture;
    identity: "Does no I/O and always answers the same" => place::the_identity_is_always_the_same;
    identity: "Carries no secret" => place::identity_and_debug_carry_no_secret;
    properties: "Does no I/O; `parallel_reads` is at least 1" => place::parallel_reads_are_at_least_one;
    check: "Success means that listing works now" => place::after_a_check_listing_works;
    check: "A place that does not exist" => place::a_missing_place_is_not_found;
    check: "A place that does not exist" => place::wrong_credentials_are_unauthorized;
    estimate: "Answers unknown rather" => place::an_estimate_is_given_or_unknown;
    events: "Without a cursor every item" => listing::every_item_is_delivered_once;
    events: "After the cursor of an entry" => listing::two_runs_deliver_in_one_order;
    events: "After the cursor of an entry" => listing::another_process_goes_on_behind_any_cursor;
    events: "Cursors are at most" => listing::cursors_are_short;
    events: "A cursor that this source did not make" => listing::a_foreign_cursor_is_invalid;
    events: "Inline content is at most" => listing::inline_content_is_short_and_occupies_the_budget;
    events: "Inline content is at most" => listing::the_smallest_budget_is_enough;
    events: "When `ctx.stop` is cancelled" => listing::a_stop_ends_the_stream_and_loses_nothing;
    events: "When `ctx.stop` is cancelled" => listing::a_stop_ends_a_long_stream_soon;
    events: "Trouble with one item" => listing::an_item_that_may_not_be_read_does_not_end_the_run;
    events: "Places in `ctx.excluded`" => listing::an_excluded_place_is_left_out;
    events: "Dropping the stream" => listing::a_dropped_stream_gives_its_memory_back;
    read: "`range` lies within" => reading::an_empty_range_delivers_nothing;
    read: "Delivers exactly the range" => reading::ranges_are_exact;
    read: "Delivers exactly the range" => reading::an_item_that_became_shorter_delivers_what_is_left;
    read: "Delivers exactly the range" => reading::a_broken_connection_is_an_error;
    read: "An item that is gone" => reading::a_removed_item_is_not_found;
    read: "An item that is gone" => reading::a_denied_item_is_permanent_or_unauthorized;
    read: "When `version` is given" => reading::a_changed_item_is_told;
    read: "The stream takes its bytes" => reading::the_bandwidth_limit_is_kept;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_bullet_has_a_case() {
        let source = include_str!("../../../../backup-core/src/adapter/source.rs");
        let untestable = [("estimate", "May be wrong", "promises nothing")];
        crate::conformance::suite::tests::check_list(CASES, source, "Source", &untestable);
    }
}
