//! What every [`RestoreTarget`](backup_core::adapter::RestoreTarget) must do.

mod discard;
mod fixture;
mod large;
mod place;
mod restore;
mod sample;
mod small;
mod whole;

use super::Report;
use super::suite::{cases, run};

pub use fixture::{SeenItem, TargetFixture, TargetPlace};
pub use sample::{Sample, Samples, plan};

/// Runs every case. [`Report::assert_passed`] tells what a test must name.
pub async fn run_all(fixture: &impl TargetFixture) -> Report {
    run(CASES, fixture).await
}

cases! {
    dyn TargetFixture;
    identity: "Does no I/O and always answers the same" => place::the_identity_is_always_the_same;
    identity: "Carries no secret" => place::identity_and_debug_carry_no_secret;
    granularity: "Does no I/O and always answers the same" => place::the_granularity_is_always_the_same;
    check: "Success means that writing can be expected" => place::after_a_check_a_new_place_is_still_empty_and_works;
    check: "Wrong credentials" => place::wrong_credentials_are_unauthorized;
    is_empty: "A root that does not exist is empty" => place::a_new_place_is_empty_and_a_restored_one_is_not;
    is_empty: "A root that does not exist is empty" => place::staged_leftovers_do_not_count;
    prepare: "Creates the root if it is missing" => place::prepare_makes_a_place_ready_and_writes_no_entry;
    prepare: "Repeating it is harmless" => place::prepare_can_be_repeated;
    write_small: "Answers for each entry" => small::each_entry_is_answered_in_order;
    write_small: "An entry is published whole" => small::a_dropped_batch_leaves_whole_entries_or_none;
    write_small: "The same item already there" => small::the_same_item_is_already_there;
    write_small: "The same item already there" => small::another_item_is_a_conflict_and_stays;
    write_small: "The same item already there" => small::another_item_is_replaced_when_the_plan_says_so;
    write_small: "Missing parents are made" => small::missing_parents_are_made;
    write_small: "Missing parents are made" => small::hostile_names_are_refused_and_the_rest_is_written;
    write_small: "Repeating it is harmless" => small::a_batch_can_be_repeated_in_another_process;
    write_large: "Publishes only after" => large::nothing_is_visible_before_the_end;
    write_large: "Publishes only after" => large::a_wrong_digest_or_length_is_not_published;
    write_large: "Publishes only after" => large::content_of_any_size_is_written;
    write_large: "Existing items are treated" => large::existing_items_are_treated_as_by_write_small;
    write_large: "The inner error is about" => large::an_item_in_the_way_is_the_inner_error;
    write_large: "With saved progress" => large::a_resumed_entry_is_as_without_interruption;
    write_large: "With saved progress" => large::a_saved_state_of_no_use_is_changed;
    write_large: "An error of the reader" => large::an_error_of_the_reader_comes_back_and_nothing_is_published;
    sync: "May run beside writes" => whole::sync_runs_beside_writes;
    take_warnings: "Does no I/O" => whole::no_warnings_before_anything_is_written;
    take_warnings: "Each warning is given once" => whole::each_warning_is_given_once;
    finish: "Repeating it is harmless" => whole::finish_can_be_repeated;
    finish: "Afterwards no staged leftover" => whole::finish_leaves_nothing_staged;
    finish: "Trouble with one entry" => whole::trouble_with_one_entry_is_a_warning;
    discard: "Removes what any attempt" => discard::discard_leaves_nothing_staged;
    discard: "Waits for what calls" => discard::a_dropped_write_leaves_nothing_behind_a_discard;
    discard: "Published entries stay" => discard::discard_keeps_what_is_published_and_adds_nothing;
    discard: "Needs no `prepare`" => discard::a_place_that_was_never_touched_stays_empty;
    discard: "Repeating it is harmless" => discard::discard_can_be_repeated;
    verify: "Every entry of the plan is compared" => whole::what_was_restored_verifies;
    verify: "An entry that is missing or differs" => whole::what_is_missing_or_differs_is_a_mismatch;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_bullet_has_a_case() {
        let source = include_str!("../../../../backup-core/src/adapter/restore_target.rs");
        crate::conformance::suite::tests::check_list(CASES, source, "RestoreTarget", &[]);
    }
}
