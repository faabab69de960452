//! Runs that break off anywhere, and go on in another process.

use crate::data::{Numbers, fill};
use crate::support::{Place, Run, Seen, context, replica_set, standalone};
use backup_mongo::layout::Consistency;
use backup_mongo::{MongoSourceOptions, ReadConsistency, ReadOrder};
use mongodb::bson::spec::BinarySubtype;
use mongodb::bson::{Binary, Document, doc};

/// Collections that take several batches, one with batches that take several slices.
async fn fill_long(place: &Place) {
    let database = place.database();
    fill(&database, 2000).await;
    let mut numbers = Numbers(3);
    for name in ["long", "longer"] {
        for chunk in 0..10 {
            let documents = (0..1000).map(|n| {
                doc! { "_id": numbers.next() as i64, "n": chunk * 1000 + n, "text": "x".repeat(numbers.below(2000) as usize) }
            });
            database.collection::<Document>(name).insert_many(documents).await.unwrap();
        }
    }
    let skewed = database.collection::<Document>("skewed");
    skewed.insert_many((0..3000).map(|n| doc! { "_id": n })).await.unwrap();
    for n in 0..20 {
        skewed.insert_one(doc! { "_id": 10_000 + n, "text": "y".repeat(1 << 20) }).await.unwrap();
    }
}

/// Breaks a run off at random places until it has come to its end.
async fn broken_often(place: &Place, options: MongoSourceOptions, seed: u64) -> Run {
    let mut numbers = Numbers(seed);
    let mut run = Run::default();
    // A new source is what another process would have.
    while run.go_on(&place.source(options).await, &context(), 1 + numbers.below(9) as usize).await.unwrap() {}
    run
}

async fn breaks_often(uri: &str, order: ReadOrder) {
    let place = Place::new(uri).await;
    fill_long(&place).await;
    let options = MongoSourceOptions { order, ..MongoSourceOptions::default() };
    let whole = Run::whole(&place.source(options).await).await;
    whole.compare(&place).await;
    assert!(whole.entries.iter().filter(|seen| seen.name.to_string().contains("/skewed/")).count() > 4);
    let names = |run: &Run| run.entries.iter().map(|seen| seen.name.to_string()).collect::<Vec<_>>();
    for seed in 1..=6 {
        let run = broken_often(&place, options, seed).await;
        run.compare(&place).await;
        assert_eq!(names(&run), names(&whole), "seed {seed}");
        assert_eq!(run.facts.group_digests, whole.facts.group_digests, "seed {seed}");
        assert!(run.superseded.is_empty() && run.warnings.is_empty(), "{:?} {:?}", run.superseded, run.warnings);
        assert_eq!(
            matches!(run.consistency(), Consistency::Snapshot { .. }),
            uri == replica_set(),
            "{:?}",
            run.consistency()
        );
    }
    place.drop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_run_that_breaks_off_anywhere_goes_on_in_natural_order() {
    breaks_often(&replica_set(), ReadOrder::Natural).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_run_that_breaks_off_anywhere_goes_on_by_id() {
    breaks_often(&replica_set(), ReadOrder::Id).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_run_through_a_standalone_server_goes_on() {
    breaks_often(&standalone(), ReadOrder::Natural).await;
}

/// Breaks off inside of the collection `long`, lets something happen, and goes on to the end.
async fn meanwhile(uri: &str, options: MongoSourceOptions, happens: impl AsyncFn(&Place)) -> (Place, Run) {
    behind("/long/000001.bson", uri, options, happens).await
}

/// The same behind another entry.
async fn behind(entry: &str, uri: &str, options: MongoSourceOptions, happens: impl AsyncFn(&Place)) -> (Place, Run) {
    let place = Place::new(uri).await;
    fill_long(&place).await;
    let mut run = Run::default();
    let source = place.source(options).await;
    while !run.entries.iter().any(|seen| seen.name.to_string().ends_with(entry)) {
        assert!(run.go_on(&source, &context(), 1).await.unwrap());
    }
    happens(&place).await;
    while run.go_on(&place.source(options).await, &context(), 5).await.unwrap() {}
    (place, run)
}

fn best_effort() -> MongoSourceOptions {
    MongoSourceOptions { consistency: ReadConsistency::BestEffort, ..MongoSourceOptions::default() }
}

#[tokio::test(flavor = "multi_thread")]
async fn when_the_place_is_gone_the_collection_is_read_again() {
    for uri in [replica_set(), standalone()] {
        let happens = async |place: &Place| {
            let long = place.database().collection::<Document>("long");
            long.delete_many(doc! { "n": { "$lt": 9000 } }).await.unwrap();
        };
        let (place, run) = meanwhile(&uri, best_effort(), happens).await;
        run.compare(&place).await;
        assert_eq!(run.superseded.iter().map(|g| g.0.ends_with(".long")).collect::<Vec<_>>(), [true]);
        place.drop().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_collection_that_was_made_anew_is_read_as_the_new_one() {
    for uri in [replica_set(), standalone()] {
        let happens = async |place: &Place| {
            let long = place.database().collection::<Document>("long");
            long.drop().await.unwrap();
            long.insert_many((0..500).map(|n| doc! { "_id": n, "new": true })).await.unwrap();
        };
        let (place, run) = meanwhile(&uri, MongoSourceOptions::default(), happens).await;
        run.compare(&place).await;
        assert!(run.warnings.iter().any(|w| w.contains("/long/") && w.contains("made anew")), "{:?}", run.warnings);
        if uri == replica_set() {
            let Consistency::Snapshot { outside, .. } = run.consistency() else { panic!("{:?}", run.consistency()) };
            assert_eq!(outside, [format!("{}.capped", place.name), format!("{}.long", place.name)]);
        }
        place.drop().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_collection_that_was_dropped_is_named_and_void() {
    for uri in [replica_set(), standalone()] {
        let happens = async |place: &Place| place.database().collection::<Document>("long").drop().await.unwrap();
        let (place, run) = meanwhile(&uri, MongoSourceOptions::default(), happens).await;
        run.compare(&place).await;
        assert!(run.warnings.iter().any(|w| w.contains("/long/") && w.contains("dropped")), "{:?}", run.warnings);
        place.drop().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_renamed_collection_is_kept_under_its_new_name() {
    // Once it sorts before what has been read, once behind it.
    for (uri, to) in [(replica_set(), "a_new_name"), (standalone(), "a_new_name"), (standalone(), "zz_new_name")] {
        let happens = async |place: &Place| {
            let (from, to) = (format!("{}.long", place.name), format!("{}.{to}", place.name));
            place.client.database("admin").run_command(doc! { "renameCollection": from, "to": to }).await.unwrap();
        };
        let (place, run) = meanwhile(&uri, MongoSourceOptions::default(), happens).await;
        run.compare(&place).await;
        assert!(run.warnings.iter().any(|w| w.contains("/long/") && w.contains("renamed")), "{:?}", run.warnings);
        place.drop().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_collection_renamed_onto_another_takes_its_place_in_the_archive_too() {
    // Onto one that has been delivered, and onto one that was being read just now.
    for (uri, from, to) in [
        (replica_set(), "long", "indexed"),
        (standalone(), "long", "indexed"),
        (replica_set(), "longer", "long"),
        (standalone(), "longer", "long"),
    ] {
        let happens = async |place: &Place| {
            let (from, to) = (format!("{}.{from}", place.name), format!("{}.{to}", place.name));
            let rename = doc! { "renameCollection": from, "to": to, "dropTarget": true };
            place.client.database("admin").run_command(rename).await.unwrap();
        };
        let entry = format!("/{from}/000001.bson");
        let (place, run) = behind(&entry, &uri, MongoSourceOptions::default(), happens).await;
        run.compare(&place).await;
        assert!(run.superseded.iter().any(|group| group.0.ends_with(&format!(".{to}"))), "{:?}", run.superseded);
        place.drop().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_collection_renamed_inside_a_run_is_found_again_by_the_next() {
    for uri in [replica_set(), standalone()] {
        let place = Place::new(&uri).await;
        fill_long(&place).await;
        let options = MongoSourceOptions::default();
        let happens = async |seen: &Seen| {
            let name = seen.name.to_string();
            // A collection that this run has listed and not begun; its new name is behind everything that it has listed.
            if name.ends_with("/long/metadata.json") {
                let (from, to) = (format!("{}.skewed", place.name), format!("{}.zz_new_name", place.name));
                let rename = doc! { "renameCollection": from, "to": to };
                place.client.database("admin").run_command(rename).await.unwrap();
            }
            // The next run finds it open.
            name.ends_with("/zz_new_name/metadata.json")
        };
        let mut run = Run::default();
        let more = run.go_on_and(&place.source(options).await, &context(), usize::MAX, happens).await;
        assert!(more.unwrap());
        while run.go_on(&place.source(options).await, &context(), 3).await.unwrap() {}
        run.compare(&place).await;
        assert!(run.warnings.iter().any(|w| w.contains("renamed to zz_new_name")), "{:?}", run.warnings);
        place.drop().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_collection_made_anew_before_its_turn_is_not_taken_for_the_old_one() {
    for uri in [replica_set(), standalone()] {
        let place = Place::new(&uri).await;
        fill_long(&place).await;
        let happens = async |seen: &Seen| {
            if seen.name.to_string().ends_with("/long/metadata.json") {
                let skewed = place.database().collection::<Document>("skewed");
                skewed.drop().await.unwrap();
                skewed.insert_one(doc! { "_id": 1, "new": true }).await.unwrap();
            }
            false
        };
        let mut run = Run::default();
        let source = place.source(MongoSourceOptions::default()).await;
        assert!(!run.go_on_and(&source, &context(), usize::MAX, happens).await.unwrap());
        run.compare(&place).await;
        assert!(run.warnings.iter().any(|w| w.contains("/skewed/") && w.contains("made anew")), "{:?}", run.warnings);
        place.drop().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_collection_without_an_index_of_ids_is_read_as_it_lies() {
    let place = Place::new(&standalone()).await;
    let create = doc! { "create": "bare", "capped": true, "size": 1 << 20, "autoIndexId": false };
    // Newer servers know no such collections but internal ones.
    if place.database().run_command(create).await.is_ok() {
        place.database().collection::<Document>("bare").insert_many((0..10).map(|n| doc! { "n": n })).await.unwrap();
    }
    place.database().collection::<Document>("usual").insert_one(doc! { "n": 1 }).await.unwrap();
    let options = MongoSourceOptions { order: ReadOrder::Id, ..MongoSourceOptions::default() };
    Run::whole(&place.source(options).await).await.compare(&place).await;
    place.drop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_changed_among_collections_that_were_not_begun_is_told() {
    let happens = async |place: &Place| place.database().collection::<Document>("ünïcode-日本").drop().await.unwrap();
    let (place, run) = meanwhile(&standalone(), MongoSourceOptions::default(), happens).await;
    run.compare(&place).await;
    assert!(run.warnings.iter().any(|w| w.contains("list of collections")), "{:?}", run.warnings);
    place.drop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_identifier_that_is_too_long_for_a_cursor_means_reading_the_collection_again() {
    let place = Place::new(&replica_set()).await;
    let long = place.database().collection::<Document>("long");
    for n in 0..300u32 {
        let id = Binary { subtype: BinarySubtype::Generic, bytes: [&n.to_be_bytes()[..], &[1; 50_000]].concat() };
        long.insert_one(doc! { "_id": id }).await.unwrap();
    }
    let options = MongoSourceOptions { order: ReadOrder::Id, ..MongoSourceOptions::default() };
    let mut run = Run::default();
    // The first entry, the metadata, and a slice behind which nobody can go on.
    assert!(run.go_on(&place.source(options).await, &context(), 3).await.unwrap());
    while run.go_on(&place.source(options).await, &context(), 1000).await.unwrap() {}
    run.compare(&place).await;
    assert_eq!(run.superseded.len(), 1);
    place.drop().await;
}
