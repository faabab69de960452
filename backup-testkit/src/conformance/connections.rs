//! What every [`ConnectionStore`](backup_core::adapter::ConnectionStore) must do: one case for each "# Behavior" bullet of the trait.
//!
//! ```no_run
//! # async fn test() {
//! use backup_testkit::conformance::connections;
//! let ran = connections::each(async || std::sync::Arc::new(backup_core::memory::MemoryStore::new()) as _).await;
//! assert_eq!(ran, connections::CASES.len());
//! # }
//! ```

mod changes;
mod fixture;
mod reading;

use super::Report;
use super::suite::{cases, run_on};
use backup_core::adapter::Store;
use std::sync::Arc;

/// Runs every case, each on a new store that holds nothing yet, and returns how many ran.
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
    create_connection: "It is durable on return" => reading::a_new_connection_is_as_it_was_given;
    create_connection: "An id or a name" => changes::an_id_and_a_name_are_taken_once;
    create_connection: "An id or a name" => changes::of_many_of_one_name_at_once_one_wins;
    create_connection: "A name that is not allowed" => changes::odd_names_are_refused;
    connection: "`None` when there is none" => reading::an_unknown_connection_is_none;
    connections: "Ordered by id" => reading::pages_list_without_gaps_or_doubles;
    connections: "Every given filter must hold" => reading::filters_of_connections_hold_together;
    update_connection: "Durable on return" => changes::a_change_replaces_the_content;
    update_connection: "Another version" => changes::of_many_changes_of_one_version_one_wins;
    update_connection: "The name of another connection" => changes::a_change_to_a_bad_name_changes_nothing;
    update_connection: "A connection that does not exist" => changes::the_unknown_is_not_changed;
    record_check: "It stands in" => changes::the_last_check_is_kept;
    record_check: "A connection that does not exist" => changes::the_unknown_is_not_checked;
    delete_connection: "Its id and its name are free" => changes::what_is_deleted_can_be_created_again;
    delete_connection: "Another version" => changes::a_deletion_of_another_version_changes_nothing;
    delete_connection: "While an operation" => changes::what_is_in_use_stays;
    delete_connection: "One that does not exist" => changes::the_unknown_is_not_deleted;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_bullet_has_a_case() {
        let source = include_str!("../../../backup-core/src/adapter/connection_store.rs");
        crate::conformance::suite::tests::check_list(CASES, source, "ConnectionStore", &[]);
    }
}
