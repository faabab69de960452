//! A database with everything that is odd: every type of `_id`, odd names, capped, clustered and time-series collections, views, and
//! all kinds of indexes. Always the same for the same scale.

use mongodb::bson::oid::ObjectId;
use mongodb::bson::spec::BinarySubtype;
use mongodb::bson::{Binary, Bson, DateTime, Decimal128, Document, Regex, Timestamp, Uuid, doc};
use mongodb::{Client, Database};

/// A small generator of numbers (SplitMix64), so that the data does not change with a library.
pub(crate) struct Random(pub(crate) u64);

impl Random {
    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    pub(crate) fn below(&mut self, end: u64) -> u64 {
        self.next() % end
    }

    fn words(&mut self, count: u64) -> String {
        const WORDS: [&str; 16] = [
            "lorem",
            "ipsum",
            "dolor",
            "order",
            "item",
            "price",
            "Zürich",
            "naïve",
            "façade",
            "日本語",
            "тест",
            "emoji😀",
            "warehouse",
            "payment",
            "refund",
            "stock",
        ];
        (0..count).map(|_| WORDS[self.below(16) as usize]).collect::<Vec<_>>().join(" ")
    }

    fn bytes<const N: usize>(&mut self) -> [u8; N] {
        std::array::from_fn(|_| self.next() as u8)
    }
}

fn oid(n: u32) -> ObjectId {
    let mut bytes = [0; 12];
    bytes[..4].copy_from_slice(&(1_704_067_200 + n / 50).to_be_bytes());
    bytes[8..].copy_from_slice(&n.to_be_bytes());
    ObjectId::from_bytes(bytes)
}

fn binary(subtype: BinarySubtype, bytes: &[u8]) -> Bson {
    Bson::Binary(Binary { subtype, bytes: bytes.to_vec() })
}

fn date(seconds: i64) -> DateTime {
    DateTime::from_millis((1_704_067_200 + seconds) * 1000)
}

fn decimal(text: &str) -> Bson {
    Bson::Decimal128(text.parse::<Decimal128>().unwrap())
}

/// An order, about 1 KiB.
pub(crate) fn order(random: &mut Random, n: u32) -> Document {
    let items: Vec<Document> = (0..1 + random.below(5))
        .map(|_| doc! { "sku": format!("SKU-{:06}", random.below(200_000)), "qty": 1 + random.below(9) as i32, "price": random.below(10_000) as f64 / 100.0 })
        .collect();
    let words = 30 + random.below(45);
    doc! {
        "_id": oid(n), "n": n as i32, "customer": Uuid::from_bytes(random.bytes()),
        "status": (["new", "paid", "shipped", "returned"][random.below(4) as usize]),
        "total": decimal(&format!("{}.{:02}", random.below(9999), random.below(100))), "ts": date(i64::from(n) * 7),
        "score": random.below(1_000_000) as f64 / 1e6, "flags": [true, false, random.below(2) == 1], "items": items,
        "addr": { "street": format!("Street {}", random.below(200)), "zip": format!("{:05}", random.below(99_999)), "geo": [random.below(360) as f64 - 180.0, random.below(180) as f64 - 90.0] },
        "blob": binary(BinarySubtype::Generic, &random.bytes::<128>()), "note": random.words(words),
    }
}

/// Values of every type that an `_id` can have, with some that compare as special.
pub(crate) fn ids(count: u32) -> Vec<Bson> {
    let mut random = Random(7);
    let mut ids = vec![
        Bson::Null,
        true.into(),
        false.into(),
        Bson::MinKey,
        Bson::MaxKey,
        f64::NAN.into(),
        f64::INFINITY.into(),
        f64::NEG_INFINITY.into(),
        decimal("1E+30"),
        decimal("-1E-30"),
        Timestamp { time: 5, increment: 5 }.into(),
        Timestamp { time: 0, increment: 0 }.into(),
        Bson::JavaScriptCode("function(){}".into()),
        "".into(),
        doc! {}.into(),
        doc! { "a": 1, "b": 2 }.into(),
        doc! { "b": 2, "a": 1 }.into(),
        binary(BinarySubtype::Generic, b""),
        binary(BinarySubtype::Md5, b"x"),
        binary(BinarySubtype::UserDefined(128), &[0; 16]),
        DateTime::from_millis(-86_400_000).into(),
    ];
    for i in 0..count {
        ids.extend([
            (i as i32 * 3).into(),
            ((1_i64 << 40) + i64::from(i)).into(),
            (f64::from(i) + 0.5).into(),
            format!("s{:07}-{i}", random.below(9_999_999)).into(),
            oid(i).into(),
            Uuid::from_bytes(random.bytes()).into(),
            doc! { "region": "eu", "n": i as i32, "u": Uuid::from_bytes(random.bytes()) }.into(),
            DateTime::from_millis(1_704_067_200_000 + i64::from(i) * 997).into(),
            decimal(&format!("{i}.25")),
        ]);
    }
    ids
}

async fn insert(database: &Database, collection: &str, documents: impl IntoIterator<Item = Document>) {
    let documents: Vec<Document> = documents.into_iter().collect();
    for some in documents.chunks(2000) {
        database.collection::<Document>(collection).insert_many(some).ordered(true).await.unwrap();
    }
}

async fn run(database: &Database, command: Document) {
    let text = command.to_string();
    database.run_command(command).await.unwrap_or_else(|e| panic!("{text}: {e}"));
}

/// The names of collections that are odd, all of them legal.
pub(crate) fn odd_names() -> Vec<String> {
    let names = [
        "dots.in.name",
        "per%cent",
        "sl/ash",
        "back\\slash",
        "ünïcode-日本",
        "sp ace",
        "quote\"'",
        "star*?<>|:",
        "CaseName",
        "casename",
        "trailing.",
        "%2F",
        "new\nline",
        "plus+",
    ];
    names.into_iter().map(str::to_owned).chain(["x".repeat(200), "ü".repeat(60)]).collect()
}

/// Fills a database, which is dropped before. `orders` documents of 1 KiB are in the largest collection.
pub(crate) async fn fill(client: &Client, name: &str, orders: u32) {
    let database = client.database(name);
    database.drop().await.unwrap();
    let scale = |of: u32, least: u32| (orders / of).max(least);

    let mut random = Random(42);
    insert(&database, "orders", (0..orders).map(|n| order(&mut random, n))).await;

    let mut random = Random(43);
    insert(
        &database,
        "mixed_ids",
        ids(scale(90, 40))
            .into_iter()
            .enumerate()
            .map(|(k, id)| doc! { "_id": id, "k": k as i32, "note": random.words(8) }),
    )
    .await;

    run(&database, doc! {
        "create": "indexed", "validator": { "$jsonSchema": { "required": ["email"] } }, "validationLevel": "moderate", "validationAction": "warn",
        "collation": { "locale": "de", "strength": 2 },
    }).await;
    let mut random = Random(44);
    insert(&database, "indexed", (0..scale(30, 200)).map(|i| doc! {
        "_id": oid(i), "email": format!("u{i}@example.org"), "a": random.below(100) as i32, "b": random.below(1000) as f64, "created": date(i64::from(i)),
        "title": random.words(3), "body": random.words(12), "name": random.words(1),
        "loc": { "type": "Point", "coordinates": [random.below(360) as f64 - 180.0, random.below(170) as f64 - 85.0] }, "h": i as i32,
        "s": if i % 3 == 0 { Bson::Null } else { Bson::Int32(i as i32) }, "w": { format!("k{}", i % 5): i as i32 }, "x": i as i32,
        "re": Regex { pattern: "^a.*b$".try_into().unwrap(), options: "i".try_into().unwrap() }, "code": Bson::JavaScriptCode("return 1".into()),
        "tsn": Timestamp { time: i + 1, increment: 1 },
    })).await;
    run(&database, doc! { "createIndexes": "indexed", "indexes": [
        { "key": { "email": 1 }, "unique": true, "name": "email_u" },
        { "key": { "b": 1, "a": -1 }, "name": "b1_a-1" },
        { "key": { "created": 1 }, "expireAfterSeconds": 1_000_000_000, "name": "ttl" },
        { "key": { "a": 1 }, "partialFilterExpression": { "a": { "$gt": 50 } }, "name": "partial_a" },
        { "key": { "title": "text", "body": "text" }, "weights": { "title": 5, "body": 1 }, "default_language": "german", "name": "txt", "collation": { "locale": "simple" } },
        { "key": { "loc": "2dsphere" }, "name": "geo" },
        { "key": { "name": 1 }, "collation": { "locale": "sv", "strength": 1 }, "name": "name_sv" },
        { "key": { "h": "hashed" }, "name": "hashed", "collation": { "locale": "simple" } },
        { "key": { "s": 1 }, "sparse": true, "hidden": true, "name": "sparse_hidden" },
        { "key": { "w.$**": 1 }, "name": "wild" },
        { "key": { "x": 1 }, "name": "weird name % / $ ü" },
    ] }).await;

    run(&database, doc! { "create": "capped", "capped": true, "size": 16 << 20, "max": 20_000 }).await;
    let mut random = Random(45);
    // Falling ids: the order of insertion is not that of the ids. More than there is room for.
    let some = if orders > 10_000 { 30_000 } else { 3000 };
    insert(&database, "capped", (0..some).map(|i| doc! { "_id": 100_000 - i, "msg": random.words(20) })).await;

    run(&database, doc! {
        "create": "weather", "timeseries": { "timeField": "t", "metaField": "sensor", "granularity": "minutes" }, "expireAfterSeconds": 1_000_000_000_i64,
    }).await;
    let mut random = Random(46);
    insert(&database, "weather", (0..scale(9, 1000)).map(|i| doc! {
        "t": date(30 * i64::from(i)), "sensor": { "id": (i % 17) as i32, "site": format!("site{}", i % 7) }, "_id": oid(i), "temp": random.below(4000) as f64 / 100.0, "hum": random.below(100) as i32,
    })).await;
    run(
        &database,
        doc! { "createIndexes": "weather", "indexes": [{ "key": { "sensor.id": 1, "t": 1 }, "name": "sensor_t" }] },
    )
    .await;

    run(
        &database,
        doc! { "create": "clustered", "clusteredIndex": { "key": { "_id": 1 }, "unique": true, "name": "cl" } },
    )
    .await;
    insert(&database, "clustered", ids(scale(3000, 20)).into_iter().map(|id| doc! { "_id": id, "v": 1.5 })).await;

    // A view on a view, and the one that comes first by name is built on the other.
    run(
        &database,
        doc! { "create": "paid_orders", "viewOn": "orders", "pipeline": [{ "$match": { "status": "paid" } }] },
    )
    .await;
    run(
        &database,
        doc! { "create": "a_view", "viewOn": "paid_orders", "pipeline": [{ "$project": { "n": 1, "total": 1 } }] },
    )
    .await;
    run(&database, doc! { "create": "empty" }).await;
    insert(
        &database,
        "system.js",
        [doc! { "_id": "f", "value": Bson::JavaScriptCode("function(){ return 1 }".into()) }],
    )
    .await;
    for odd in odd_names() {
        insert(&database, &odd, (0..10).map(|i| doc! { "_id": i, "name": &odd })).await;
    }
    zero_timestamps(&database).await;
}

/// Timestamps of zero, which a server replaces when they are inserted.
async fn zero_timestamps(database: &Database) {
    let collection = database.collection::<Document>("zero_ts");
    for id in [Bson::Int32(1), Bson::Timestamp(Timestamp { time: 0, increment: 0 }), Bson::Document(doc! { "a": 1 })] {
        let zero = Timestamp { time: 0, increment: 0 };
        let document = doc! { "_id": id.clone(), "t": zero, "inner": { "t": zero }, "u": zero };
        collection.insert_one(doc! { "_id": id.clone() }).await.unwrap();
        let literal = vec![doc! { "$replaceRoot": { "newRoot": { "$literal": document } } }];
        collection.update_one(doc! { "_id": id }, literal).await.unwrap();
    }
}
