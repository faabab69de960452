//! What every [`Destination`](backup_core::adapter::Destination) must do.

mod fixture;
mod listing;
mod place;
mod reading;
mod writing;

use super::Report;
use super::suite::{cases, run};

pub use fixture::{DestinationFixture, DestinationPlace};

/// Runs every case. [`Report::assert_passed`] tells what a test must name.
pub async fn run_all(fixture: &impl DestinationFixture) -> Report {
    run(CASES, fixture).await
}

cases! {
    dyn DestinationFixture;
    identity: "Does no I/O and always answers the same" => place::the_identity_is_always_the_same;
    identity: "Carries no secret" => place::identity_and_debug_carry_no_secret;
    properties: "Does no I/O; all values are at least 1" => place::properties_are_at_least_one;
    check: "Success means that put, get and delete work" => place::after_a_check_a_new_place_works;
    check: "Leaves nothing behind" => place::a_check_leaves_nothing_behind;
    check: "Wrong credentials" => place::wrong_credentials_are_unauthorized;
    now: "Not earlier than" => place::the_clock_is_not_behind_the_objects;
    put: "On success the object is durable and visible" => writing::what_was_put_is_visible_to_everybody;
    put: "Equal bytes already under this name" => writing::equal_bytes_again_are_success;
    put: "Equal bytes already under this name" => writing::different_bytes_are_a_conflict_and_change_nothing;
    put: "After an error or a dropped call" => writing::a_dropped_put_leaves_the_whole_object_or_none;
    put: "Two puts of one name at once" => writing::of_puts_at_once_one_wins_whole;
    put: "A full disk or quota" => writing::a_full_place_is_no_space_and_leaves_nothing;
    put: "An empty payload" => writing::an_empty_payload_is_an_empty_object;
    put: "Sends no faster than the payload allows" => writing::a_put_is_no_faster_than_its_payload_allows;
    get: "Delivers exactly the range" => reading::ranges_are_exact;
    get: "An absent object" => reading::an_absent_object_is_not_found;
    get: "A range beyond the end" => reading::a_range_beyond_the_end_is_corrupt;
    get: "An empty range" => reading::an_empty_range_delivers_nothing;
    get: "A connection that breaks off" => reading::a_broken_connection_is_an_error;
    stat: "`None` when it is absent" => reading::stat_tells_what_is_there;
    list: "Every object that was there before" => listing::each_object_is_listed_once;
    list: "Every object that was there before" => listing::objects_that_stay_are_listed_while_others_go;
    list: "Staged and foreign names" => listing::staged_and_foreign_names_are_left_out;
    list: "Nothing below the prefix" => listing::nothing_below_a_prefix_is_an_empty_listing;
    list_roots: "Each component comes once" => listing::each_root_is_listed_once;
    delete: "An absent object is success" => writing::an_absent_object_can_be_deleted;
    delete: "After success neither" => writing::what_was_deleted_is_gone_for_everybody;
    delete_many: "After success all of them are gone" => writing::many_that_were_deleted_are_gone_and_no_others;
    delete_many: "After an error some of them may be gone" => writing::a_deletion_of_many_that_was_dropped_goes_on;
    remove_staged: "Removes only names" => writing::staged_leftovers_are_removed_below_the_prefix_only;
    free_space: "`None` when the service does not say" => place::free_space_is_told_or_unknown;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_bullet_has_a_case() {
        let source = include_str!("../../../../backup-core/src/adapter/destination.rs");
        let untestable = [
            ("list", "Holds at most a page in memory", "memory is not visible from outside; measure it in a bench"),
            ("remove_staged", "The caller makes sure", "binds the caller"),
        ];
        crate::conformance::suite::tests::check_list(CASES, source, "Destination", &untestable);
    }
}
