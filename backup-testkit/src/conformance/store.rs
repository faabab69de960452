//! What every [`Store`] must do: one case for each "# Behavior" bullet of the trait.
//!
//! ```no_run
//! # async fn test() {
//! use backup_testkit::conformance::store;
//! let ran = store::each(async || std::sync::Arc::new(backup_core::memory::MemoryStore::new()) as _).await;
//! assert_eq!(ran, store::CASES.len());
//! # }
//! ```

mod archives;
mod changes;
mod claims;
mod due;
mod fixture;
mod leases;
mod logs;
mod operations;

pub(super) use fixture::{operation_with, states};

use super::Report;
use super::suite::{cases, run_on};
use backup_core::adapter::Store;
use std::sync::Arc;

/// Runs every case, each on a new store that holds nothing yet, and returns how many ran.
///
/// Cases claim with leases of 50 ms and really wait for their end, so that a store may judge leases on any clock.
///
/// # Panics
/// After all have run, if any failed; the text names each with its reason.
pub async fn each<F>(make: F) -> usize
where
    F: AsyncFn() -> Arc<dyn Store>,
{
    let mut report = Report::default();
    for case in CASES {
        run_on(case, &make().await, &mut report).await;
    }
    report.assert_passed(&[])
}

cases! {
    Arc<dyn Store>;
    create: "The operation is durable on return" => operations::a_new_operation_is_as_it_was_given;
    create: "The checkpoint is there" => operations::an_operation_is_created_with_its_first_checkpoint;
    create: "An id that exists already" => operations::an_id_is_taken_once;
    create: "A connection that it names" => operations::an_operation_names_connections_that_are_there;
    get: "`None` when there is none" => operations::an_unknown_operation_is_none;
    query: "Ordered by id, descending" => operations::pages_list_the_newest_first_without_gaps_or_doubles;
    query: "Every given filter must hold" => operations::filters_hold_together;
    totals: "`before` and `limit`" => operations::totals_count_what_the_filters_leave;
    claim: "Follows [`Event::Claim`" => claims::only_claimable_states_can_be_claimed;
    claim: "While another lease runs" => claims::a_running_lease_keeps_others_out;
    claim: "While another lease runs" => claims::a_lease_that_ran_out_lets_the_next_in;
    claim: "Raises the attempt by one" => claims::each_claim_is_a_new_attempt_with_a_log_record;
    claim: "Of several claims at once" => claims::of_many_claims_at_once_one_wins;
    claim: "Returns the last saved checkpoint" => claims::a_claim_brings_the_last_checkpoint;
    claim_next: "Due is what is" => due::what_is_due_is_claimed_the_longest_due_first;
    claim_next: "Operations without connections" => due::what_has_no_connections_is_left_alone;
    claim_next: "One of whose connections `per_connection`" => due::busy_connections_are_passed_over;
    claim_next: "One of whose connections the worker" => due::what_a_worker_cannot_work_with_is_left_to_others;
    claim_next: "Of several claims at once" => due::of_many_claims_of_what_is_due_each_gets_another;
    claim_next: "The claim is as one" => due::a_claim_of_what_is_due_is_as_any_claim;
    renew: "It runs from now on" => leases::a_renewal_extends_the_lease_and_stores_progress;
    renew: "A fence that is not the newest claim" => leases::a_void_fence_renews_nothing;
    renew: "Returns the stored request" => leases::a_renewal_tells_of_the_request_until_it_is_cleared;
    save_checkpoint: "Durable on return" => leases::a_checkpoint_replaces_the_one_before;
    save_checkpoint: "A fence that is not the newest claim" => leases::a_void_fence_saves_nothing;
    checkpoint: "`None` when none was saved" => leases::no_checkpoint_is_none;
    transition: "State, log record, checkpoint" => changes::a_change_brings_everything_at_once;
    transition: "Follows the table" => changes::the_table_decides_and_a_refusal_changes_nothing;
    transition: "A guard that does not hold" => changes::a_guard_that_does_not_hold_changes_nothing;
    transition: "A guard that does not hold" => changes::of_many_changes_from_one_version_one_wins;
    transition: "Raises the version" => changes::leaving_the_worker_ends_lease_and_request;
    transition: "[`Event::Cancel`" => changes::cancel_voids_the_fence_of_the_worker;
    transition: "[`Event::Complete`" => changes::what_is_completed_needs_no_checkpoint;
    transition: "Exactly one log record" => changes::each_change_adds_one_log_record;
    request: "Only a `Running` operation" => changes::each_request_has_its_states;
    request: "Raises the version" => changes::a_request_stands_until_it_is_cleared;
    append_log: "All of them or none" => logs::appends_at_once_leave_no_gaps_and_stay_together;
    append_log: "Of a writer whose records" => logs::an_append_that_is_repeated_doubles_nothing;
    append_log: "Works in every state" => logs::a_log_can_be_written_in_every_state;
    page_log: "Records come in order" => logs::pages_give_each_record_once;
    page_log: "Records come in order" => logs::a_reader_that_follows_a_writer_misses_nothing;
    page_log: "No such operation" => logs::the_log_of_nothing_is_empty;
    clear_logs: "Answers how many" => logs::what_is_cleared_is_gone_and_numbers_go_on;
    clear_logs: "Of an operation that is completed" => logs::writers_are_forgotten_with_the_log_of_what_has_ended;
    archives: "Contains each record" => archives::completed_archives_are_remembered_until_forgotten;
    places: "Contains each record" => archives::an_archive_is_known_at_each_of_its_places;
    protect: "It stands in" => archives::a_protected_archive_stays_so;
    protect: "An unknown archive" => archives::the_unknown_is_not_protected;
    storage: "Sums the records" => archives::storage_is_summed_by_destination;
    forget_archive: "An unknown archive" => archives::forgetting_the_unknown_succeeds;
}

#[cfg(test)]
mod tests {
    use super::*;

    const UNTESTABLE: &[(&str, &str, &str)] = &[(
        "query",
        "An operation that this version of the program cannot read",
        "no call writes what a newer version would; stores that others can write to have a test of their own",
    )];

    #[test]
    fn every_bullet_has_a_case() {
        let source = include_str!("../../../backup-core/src/adapter/store.rs");
        crate::conformance::suite::tests::check_list(CASES, source, "Store", UNTESTABLE);
    }
}
