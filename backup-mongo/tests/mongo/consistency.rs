//! Money that is moved while it is read: none may appear or vanish.

use crate::server::ReplicaSet;
use crate::support::{Place, Run, context, documents, replica_set};
use backup_core::ErrorClass;
use backup_core::adapter::ReadContext;
use backup_core::limit::RateLimit;
use backup_mongo::layout::{Consistency, Item};
use backup_mongo::{MongoSourceOptions, ReadConsistency};
use mongodb::Client;
use mongodb::bson::{Bson, Document, doc};
use std::collections::BTreeMap;
use std::num::NonZeroU64;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use tokio::task::JoinSet;

const ACCOUNTS: i64 = 3000;
const BALANCE: i64 = 100;

/// Accounts in two collections, with documents long enough to take several batches.
async fn fill(place: &Place) {
    for name in ["east", "west"] {
        let accounts = place.database().collection::<Document>(name);
        for chunk in 0..3 {
            let each = ACCOUNTS / 3;
            let new = (chunk * each..(chunk + 1) * each)
                .map(|n| doc! { "_id": n, "balance": BALANCE, "pad": "p".repeat(4000) });
            accounts.insert_many(new).await.unwrap();
        }
    }
}

/// Moves money until it is told to stop.
struct Movers {
    stop: Arc<AtomicBool>,
    moves: Arc<AtomicU64>,
    tasks: JoinSet<()>,
}

impl Movers {
    fn start(place: &Place) -> Self {
        let (stop, moves) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let mut tasks = JoinSet::new();
        for seed in 1..=3u64 {
            let (client, name, stop, moves) = (place.client.clone(), place.name.clone(), stop.clone(), moves.clone());
            tasks.spawn(async move {
                let mut numbers = crate::data::Numbers(seed);
                while !stop.load(Ordering::Relaxed) {
                    let amount = numbers.below(20) as i64 - 10;
                    let (from, to) = (numbers.below(ACCOUNTS as u64) as i64, numbers.below(ACCOUNTS as u64) as i64);
                    if transfer(&client, &name, from, to, amount).await.is_ok() {
                        moves.fetch_add(1, Ordering::Relaxed);
                    }
                }
            });
        }
        Self { stop, moves, tasks }
    }

    async fn until(&self, moves: u64) {
        while self.moves.load(Ordering::Relaxed) < moves {
            tokio::time::sleep(std::time::Duration::from_millis(5)).await;
        }
    }

    async fn end(self) -> u64 {
        self.stop.store(true, Ordering::Relaxed);
        self.tasks.join_all().await;
        self.moves.load(Ordering::Relaxed)
    }
}

async fn transfer(client: &Client, database: &str, from: i64, to: i64, amount: i64) -> mongodb::error::Result<()> {
    let database = client.database(database);
    let mut session = client.start_session().await?;
    session.start_transaction().await?;
    let pay = |id: i64, amount: i64| (doc! { "_id": id }, doc! { "$inc": { "balance": amount } });
    let (who, what) = pay(from, -amount);
    database.collection::<Document>("east").update_one(who, what).session(&mut session).await?;
    let (who, what) = pay(to, amount);
    database.collection::<Document>("west").update_one(who, what).session(&mut session).await?;
    session.commit_transaction().await
}

/// A run so slow that money is moved in the meantime.
fn slow() -> ReadContext {
    ReadContext { limit: RateLimit::new(NonZeroU64::new(10 << 20)), ..context() }
}

/// The accounts as a restore would have them: the collections, and then what the oplog says.
fn restored(run: &Run, place: &Place) -> BTreeMap<(String, i64), Document> {
    let mut accounts = BTreeMap::new();
    let id_of = |document: &Document| document.get_i64("_id").unwrap();
    for (name, all) in run.collections() {
        for bytes in all {
            let document = mongodb::bson::deserialize_from_slice::<Document>(&bytes).unwrap();
            accounts.insert((name.clone(), id_of(&document)), document);
        }
    }
    for seen in &run.entries {
        if let Some(Item::Oplog { .. }) = Item::parse(&seen.name) {
            for entry in documents(&seen.bytes) {
                apply(&mongodb::bson::deserialize_from_slice(&entry).unwrap(), place, &mut accounts);
            }
        }
    }
    accounts
}

fn apply(entry: &Document, place: &Place, accounts: &mut BTreeMap<(String, i64), Document>) {
    let what = entry.get_document("o").unwrap();
    if let Ok(operations) = what.get_array("applyOps") {
        return operations.iter().for_each(|op| apply(op.as_document().unwrap(), place, accounts));
    }
    let collection = entry.get_str("ns").unwrap().strip_prefix(&format!("{}.", place.name)).unwrap().to_owned();
    match entry.get_str("op").unwrap() {
        "i" => {
            accounts.insert((collection, what.get_i64("_id").unwrap()), what.clone());
        }
        "u" => {
            let id = entry.get_document("o2").unwrap().get_i64("_id").unwrap();
            let changed = what.get_document("diff").unwrap().get_document("u").unwrap();
            let account = accounts.get_mut(&(collection, id)).unwrap();
            changed.iter().for_each(|(key, value)| drop(account.insert(key, value.clone())));
        }
        other => panic!("{other}: {entry}"),
    }
}

fn sum(accounts: &BTreeMap<(String, i64), Document>) -> i64 {
    accounts.values().map(|account| account.get("balance").and_then(Bson::as_i64).unwrap()).sum()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_snapshot_holds_all_the_money() {
    let place = Place::new(&replica_set()).await;
    fill(&place).await;
    let movers = Movers::start(&place);
    movers.until(20).await;
    let mut run = Run::default();
    // Another process in the middle of it, too.
    assert!(run.go_on(&place.source(MongoSourceOptions::default()).await, &slow(), 5).await.unwrap());
    run.go_on(&place.source(MongoSourceOptions::default()).await, &slow(), usize::MAX).await.unwrap();
    let moves = movers.end().await;
    assert!(moves > 50, "{moves}");
    assert!(matches!(run.consistency(), Consistency::Snapshot { .. }), "{:?}", run.consistency());
    assert!(!run.entries.iter().any(|seen| seen.name.to_string().starts_with("oplog")));
    assert_eq!(sum(&restored(&run, &place)), 2 * ACCOUNTS * BALANCE);
    place.drop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn reads_at_several_moments_do_not_hold_all_the_money() {
    // So that the other tests can fail. Chance may have it that the sum is right.
    let place = Place::new(&replica_set()).await;
    fill(&place).await;
    let movers = Movers::start(&place);
    movers.until(20).await;
    let options = MongoSourceOptions { consistency: ReadConsistency::BestEffort, ..MongoSourceOptions::default() };
    let mut sums = Vec::new();
    while sums.len() < 5 && sums.iter().all(|sum| *sum == 2 * ACCOUNTS * BALANCE) {
        let mut run = Run::default();
        run.go_on(&place.source(options).await, &slow(), usize::MAX).await.unwrap();
        sums.push(sum(&restored(&run, &place)));
    }
    movers.end().await;
    assert!(sums.iter().any(|sum| *sum != 2 * ACCOUNTS * BALANCE), "{sums:?}");
    place.drop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_oplog_beside_the_reads_brings_all_the_money_together() {
    let place = Place::new(&replica_set()).await;
    fill(&place).await;
    let movers = Movers::start(&place);
    movers.until(20).await;
    let options = MongoSourceOptions { consistency: ReadConsistency::Oplog, ..MongoSourceOptions::default() };
    let mut run = Run::default();
    while run.go_on(&place.source(options).await, &slow(), 4).await.unwrap() {}
    movers.end().await;
    assert!(matches!(run.consistency(), Consistency::Oplog { .. }), "{:?}", run.consistency());
    assert_eq!(sum(&restored(&run, &place)), 2 * ACCOUNTS * BALANCE);
    // Its digest is that of its entries.
    let oplog: Vec<u8> =
        run.entries.iter().filter(|s| s.name.to_string().starts_with("oplog")).flat_map(|s| s.bytes.to_vec()).collect();
    let told = &run.facts.group_digests[&backup_core::model::GroupName("oplog".into())];
    assert!(told.contains(&format!("bytes={} sha256={}", oplog.len(), backup_core::Digest::of(&oplog))), "{told}");
    place.drop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_snapshot_that_is_not_kept_long_enough_goes_on_with_the_oplog() {
    let set = ReplicaSet::start(1, &[]).await;
    set.keep_for(2).await;
    let place = Place::new(&set.uri()).await;
    fill(&place).await;
    let movers = Movers::start(&place);
    movers.until(20).await;
    let mut run = Run::default();
    assert!(run.go_on(&place.source(MongoSourceOptions::default()).await, &slow(), 5).await.unwrap());
    tokio::time::sleep(std::time::Duration::from_secs(8)).await;
    while run.go_on(&place.source(MongoSourceOptions::default()).await, &slow(), 4).await.unwrap() {}
    movers.end().await;
    assert!(matches!(run.consistency(), Consistency::Oplog { .. }), "{:?}", run.consistency());
    assert!(run.warnings.iter().any(|w| w.contains("oplog")), "{:?}", run.warnings);
    assert!(run.superseded.is_empty());
    assert_eq!(sum(&restored(&run, &place)), 2 * ACCOUNTS * BALANCE);
}

#[tokio::test(flavor = "multi_thread")]
async fn when_the_oplog_is_gone_too_somebody_has_to_choose() {
    let set = ReplicaSet::start(1, &["--oplogSize", "1"]).await;
    set.keep_for(1).await;
    let place = Place::new(&set.uri()).await;
    fill(&place).await;
    let mut run = Run::default();
    assert!(run.go_on(&place.source(MongoSourceOptions::default()).await, &context(), 4).await.unwrap());
    let kept = async || {
        let oplog = place.client.database("local").collection::<Document>("oplog.rs");
        oplog.find_one(doc! {}).sort(doc! { "$natural": 1 }).await.unwrap().unwrap().get_timestamp("ts").unwrap()
    };
    let before = kept().await;
    let filler = place.client.database("filler").collection::<Document>("filler");
    while kept().await == before {
        filler.insert_many((0..100).map(|_| doc! { "pad": "p".repeat(20_000) })).await.unwrap();
        tokio::time::sleep(std::time::Duration::from_millis(100)).await;
    }
    tokio::time::sleep(std::time::Duration::from_secs(5)).await;
    let lost = run.go_on(&place.source(MongoSourceOptions::default()).await, &context(), usize::MAX).await.unwrap_err();
    assert_eq!(lost.class(), ErrorClass::ConsistencyLost, "{lost:?}");
    assert!(lost.to_string().contains("best effort"), "{lost}");
    let options = MongoSourceOptions { consistency: ReadConsistency::BestEffort, ..MongoSourceOptions::default() };
    run.go_on(&place.source(options).await, &context(), usize::MAX).await.unwrap();
    run.compare(&place).await;
    assert!(matches!(run.consistency(), Consistency::BestEffort { .. }), "{:?}", run.consistency());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_collection_renamed_beside_the_oplog_is_not_papered_over() {
    let place = Place::new(&replica_set()).await;
    fill(&place).await;
    let options = MongoSourceOptions { consistency: ReadConsistency::Oplog, ..MongoSourceOptions::default() };
    let mut run = Run::default();
    assert!(run.go_on(&place.source(options).await, &context(), 4).await.unwrap());
    let (from, to) = (format!("{}.west", place.name), format!("{}.south", place.name));
    place.client.database("admin").run_command(doc! { "renameCollection": from, "to": to }).await.unwrap();
    let lost = run.go_on(&place.source(options).await, &context(), usize::MAX).await.unwrap_err();
    assert_eq!(lost.class(), ErrorClass::ConsistencyLost, "{lost:?}");
    place.drop().await;
}
