//! Random requests from several processes: the states follow the table, and each change has its log line.

use crate::common::{Place, as_process};
use crate::watch::WatchedStore;
use backup_core::adapter::Store;
use backup_core::model::{LogLevel, LogQuery, OperationId};
use backup_core::service::{BackupService, NewBackup};
use proptest::prelude::*;
use std::num::NonZeroU64;
use std::sync::Arc;
use std::time::Duration;

#[derive(Clone, Copy, Debug)]
enum Wish {
    Start {
        slow: bool,
    },
    Pause,
    Resume,
    Cancel,
    Retry,
    /// The worker hands over, and a new one comes.
    Restart,
    Wait,
}

fn wish() -> impl Strategy<Value = (Wish, u8, u8)> {
    let wish = prop_oneof![
        3 => any::<bool>().prop_map(|slow| Wish::Start { slow }),
        3 => Just(Wish::Pause),
        3 => Just(Wish::Resume),
        1 => Just(Wish::Cancel),
        1 => Just(Wish::Retry),
        1 => Just(Wish::Restart),
        3 => Just(Wish::Wait),
    ];
    // Who asks, and about which operation.
    (wish, 0..2_u8, any::<u8>())
}

fn process(place: &Place, store: &WatchedStore, pid: u32) -> BackupService {
    place.builder_on(Arc::new(store.clone())).engine(as_process(pid)).build().unwrap()
}

async fn run(wishes: &[(Wish, u8, u8)]) {
    let place = Place::new();
    place.large(1 << 20);
    let store = WatchedStore::default();
    let mut pid = 2;
    let mut processes = [process(&place, &store, 1), process(&place, &store, 2)];
    let (docs, disk) = place.connect(&processes[0]).await;
    let mut ids: Vec<OperationId> = Vec::new();
    for (wish, who, about) in wishes {
        let service = &processes[usize::from(*who)];
        let id = ids.get(usize::from(*about) % ids.len().max(1)).cloned();
        match (wish, id) {
            (Wish::Start { slow }, _) => {
                let limit_read = if *slow { NonZeroU64::new(2 << 20) } else { None };
                let new = NewBackup { limit_read, ..NewBackup::new(&docs, &disk) };
                ids.push(service.backup(new).await.unwrap().new.id);
            }
            // Whether these are allowed is for the store to say.
            (Wish::Pause, Some(id)) => drop(service.pause(&id).await),
            (Wish::Resume, Some(id)) => drop(service.resume(&id).await),
            (Wish::Cancel, Some(id)) => drop(service.cancel(&id).await),
            (Wish::Retry, Some(id)) => drop(service.retry(&id).await),
            (Wish::Restart, _) => {
                service.shutdown().await;
                pid += 1;
                processes[usize::from(*who)] = process(&place, &store, pid);
            }
            _ => tokio::time::sleep(Duration::from_millis(u64::from(*about))).await,
        }
    }
    for id in &ids {
        loop {
            let now = processes[0].wait(id).await.unwrap();
            match now.state.name() {
                "paused" | "failed" => drop(processes[1].resume(id).await),
                _ => break,
            }
        }
        let now = processes[0].operation(id).await.unwrap();
        let all = LogQuery { min_level: LogLevel::Debug, limit: 10_000, ..LogQuery::default() };
        let log = store.page_log(id, &all).await.unwrap().records;
        let expected = store.changes(id);
        let mut claims = 0;
        let mut told = log.iter().map(|stored| &stored.record);
        for change in &expected {
            assert!(
                told.any(|record| record.step == change.0 && record.message == change.1),
                "{change:?} has no line in {log:?}"
            );
        }
        for stored in &log {
            claims += u64::from(stored.record.step == "claim");
        }
        // A cancel counts as an attempt without a claim.
        assert_eq!(claims, now.attempt - u64::from(now.state.name() == "cancelled"), "claims in the log of {now:?}");
        if now.state.name() == "completed" {
            processes[0].archive(&disk, &now.new.archive).await.unwrap();
        }
    }
    for process in &processes {
        process.shutdown().await;
    }
    assert_eq!(store.breaches(), Vec::<String>::new());
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 12, max_shrink_iters: 20, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn states_follow_the_table_whoever_asks_for_what(wishes in prop::collection::vec(wish(), 1..25)) {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
        runtime.block_on(run(&wishes));
    }
}
