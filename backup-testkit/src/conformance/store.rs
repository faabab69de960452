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
mod fixture;
mod leases;
mod logs;
mod operations;

use backup_core::adapter::Store;
use futures::future::BoxFuture;
use std::sync::Arc;

/// What a case gives: nothing, or what the store did wrong.
pub type Outcome = Result<(), Box<dyn std::error::Error + Send + Sync>>;

/// One case of the suite.
#[derive(Debug, Clone, Copy)]
pub struct Case {
    /// The method of [`Store`] whose promise is tested.
    pub method: &'static str,
    /// How the promise's text starts: a bullet, or the first sentence of the method.
    pub promise: &'static str,
    /// What the case is called.
    pub name: &'static str,
    run: fn(Arc<dyn Store>) -> BoxFuture<'static, Outcome>,
}

impl Case {
    /// Runs the case on a store that holds nothing yet.
    ///
    /// # Errors
    /// What the store did wrong.
    pub async fn run(&self, store: Arc<dyn Store>) -> Outcome {
        (self.run)(store).await
    }
}

/// Runs every case, each on a new store, and returns how many ran.
///
/// Cases claim with leases of 50 ms and really wait for their end, so that a store may judge leases on any clock.
///
/// # Panics
/// After all have run, if any failed; the text names each with its reason.
#[allow(clippy::panic, reason = "a suite reports as a test does")]
pub async fn each<F>(make: F) -> usize
where
    F: AsyncFn() -> Arc<dyn Store>,
{
    let mut failures = Vec::new();
    for case in CASES {
        if let Err(reason) = case.run(make().await).await {
            failures.push(format!("{}: {}\n    the promise: {}", case.name, text_of(&*reason), case.promise));
        }
    }
    let total = CASES.len();
    assert!(failures.is_empty(), "{} of {total} cases failed:\n{}", failures.len(), failures.join("\n"));
    total
}

fn text_of(reason: &(dyn std::error::Error + Send + Sync + 'static)) -> String {
    reason.downcast_ref::<backup_core::Error>().map_or_else(|| reason.to_string(), |e| format!("{e:?}"))
}

macro_rules! cases {
    ($($method:ident: $promise:literal => $module:ident::$name:ident;)*) => {
        /// All cases, in the order of the trait.
        pub static CASES: &[Case] = &[$(Case {
            method: stringify!($method),
            promise: $promise,
            name: stringify!($name),
            run: |store| Box::pin($module::$name(store)),
        }),*];
    };
}

cases! {
    create: "The operation is durable on return" => operations::a_new_operation_is_as_it_was_given;
    create: "The checkpoint is there" => operations::an_operation_is_created_with_its_first_checkpoint;
    create: "An id that exists already" => operations::an_id_is_taken_once;
    get: "`None` when there is none" => operations::an_unknown_operation_is_none;
    query: "Ordered by id, descending" => operations::pages_list_the_newest_first_without_gaps_or_doubles;
    query: "Every given filter must hold" => operations::filters_hold_together;
    claim: "Follows [`Event::Claim`" => claims::only_claimable_states_can_be_claimed;
    claim: "While another lease runs" => claims::a_running_lease_keeps_others_out;
    claim: "While another lease runs" => claims::a_lease_that_ran_out_lets_the_next_in;
    claim: "Raises the attempt by one" => claims::each_claim_is_a_new_attempt_with_a_log_record;
    claim: "Of several claims at once" => claims::of_many_claims_at_once_one_wins;
    claim: "Returns the last saved checkpoint" => claims::a_claim_brings_the_last_checkpoint;
    renew: "Extends a lease from now on" => leases::a_renewal_extends_the_lease_and_stores_progress;
    renew: "A fence that is not the newest claim" => leases::a_void_fence_renews_nothing;
    renew: "Returns the stored request" => leases::a_renewal_tells_of_the_request_until_it_is_cleared;
    save_checkpoint: "Durable on return" => leases::a_checkpoint_replaces_the_one_before;
    save_checkpoint: "A fence that is not the newest claim" => leases::a_void_fence_saves_nothing;
    checkpoint: "`None` when none was saved" => leases::no_checkpoint_is_none;
    transition: "Changes the state, with log record" => changes::a_change_brings_everything_at_once;
    transition: "Follows the table" => changes::the_table_decides_and_a_refusal_changes_nothing;
    transition: "A guard that does not hold" => changes::a_guard_that_does_not_hold_changes_nothing;
    transition: "A guard that does not hold" => changes::of_many_changes_from_one_version_one_wins;
    transition: "Raises the version" => changes::leaving_the_worker_ends_lease_and_request;
    transition: "[`Event::Cancel`" => changes::cancel_voids_the_fence_of_the_worker;
    transition: "Exactly one log record" => changes::each_change_adds_one_log_record;
    request: "Only a `Running` operation" => changes::only_a_running_operation_takes_a_request;
    request: "Raises the version" => changes::a_request_stands_until_it_is_cleared;
    append_log: "All of them or none" => logs::appends_at_once_leave_no_gaps_and_stay_together;
    append_log: "Works in every state" => logs::a_log_can_be_written_in_every_state;
    page_log: "Records come in order" => logs::pages_give_each_record_once;
    page_log: "Records come in order" => logs::a_reader_that_follows_a_writer_misses_nothing;
    page_log: "No such operation" => logs::the_log_of_nothing_is_empty;
    archives: "Contains each record" => archives::completed_archives_are_remembered_until_forgotten;
    forget_archive: "An unknown archive" => archives::forgetting_the_unknown_succeeds;
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Promise {
        method: String,
        text: String,
        is_bullet: bool,
    }

    /// The first line and the bullets of every method of the trait, read from its source.
    fn promises() -> Vec<Promise> {
        let source = include_str!("../../../backup-core/src/adapter/store.rs");
        let (mut promises, mut of_method) = (Vec::new(), Vec::new());
        for line in source.lines().skip_while(|line| !line.contains("pub trait Store")).map(str::trim) {
            if let Some(doc) = line.strip_prefix("/// ") {
                let bullet = doc.strip_prefix("- ");
                if bullet.is_some() || of_method.is_empty() {
                    of_method.push((bullet.unwrap_or(doc), bullet.is_some()));
                }
            } else if let Some(method) = line.strip_prefix("async fn ").and_then(|rest| rest.split('(').next()) {
                promises.extend(of_method.drain(..).map(|(text, is_bullet)| Promise {
                    method: method.into(),
                    text: text.into(),
                    is_bullet,
                }));
            }
        }
        promises
    }

    #[test]
    fn every_bullet_of_the_trait_has_a_case_and_every_case_a_promise() {
        let promises = promises();
        assert!(
            promises.iter().filter(|promise| promise.is_bullet).count() >= 28,
            "the trait's source is not understood"
        );
        let tests =
            |case: &Case, promise: &Promise| promise.method == case.method && promise.text.starts_with(case.promise);
        for case in CASES {
            let promised = promises.iter().any(|promise| tests(case, promise));
            assert!(promised, "{} tests what {} does not promise: {}", case.name, case.method, case.promise);
        }
        for promise in promises.iter().filter(|promise| promise.is_bullet) {
            let tested = CASES.iter().any(|case| tests(case, promise));
            assert!(tested, "nothing tests this promise of {}: {}", promise.method, promise.text);
        }
    }

    #[test]
    fn names_are_unique() {
        let mut names: Vec<_> = CASES.iter().map(|case| case.name).collect();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), CASES.len());
    }
}
