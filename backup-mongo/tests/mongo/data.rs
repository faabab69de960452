//! Collections of every kind that a backup meets.

use mongodb::Database;
use mongodb::bson::spec::BinarySubtype;
use mongodb::bson::{Binary, Bson, DateTime, Decimal128, Document, Regex, Timestamp, doc, oid::ObjectId};

/// Numbers that look random and are always the same.
pub(crate) struct Numbers(pub(crate) u64);

impl Numbers {
    pub(crate) fn next(&mut self) -> u64 {
        // xorshift64
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    pub(crate) fn below(&mut self, n: u64) -> u64 {
        self.next() % n
    }

    fn bytes(&mut self, n: usize) -> Vec<u8> {
        (0..n).map(|_| self.next() as u8).collect()
    }

    fn text(&mut self, n: u64) -> String {
        const WORDS: [&str; 8] = ["lorem", "ipsum", "Zürich", "naïve", "日本語", "тест", "emoji😀", "order"];
        (0..n).map(|_| WORDS[self.below(8) as usize]).collect::<Vec<_>>().join(" ")
    }

    fn oid(&mut self) -> ObjectId {
        let mut id = [0; 12];
        id.copy_from_slice(&self.bytes(12));
        ObjectId::from_bytes(id)
    }
}

/// Identifiers of every type, also ones that compare as equal across types are avoided by construction.
fn ids(count: i64) -> impl Iterator<Item = Bson> {
    let special = vec![
        Bson::Null,
        true.into(),
        false.into(),
        Bson::MinKey,
        Bson::MaxKey,
        f64::NAN.into(),
        f64::INFINITY.into(),
        f64::NEG_INFINITY.into(),
        "-1E-30".parse::<Decimal128>().unwrap().into(),
        Timestamp { time: 5, increment: 5 }.into(),
        Bson::JavaScriptCode("function(){}".into()),
        "".into(),
        doc! {}.into(),
        doc! { "a": 1, "b": 2 }.into(),
        doc! { "b": 2, "a": 1 }.into(),
        Binary { subtype: BinarySubtype::Generic, bytes: vec![] }.into(),
        Binary { subtype: BinarySubtype::UserDefined(0x80), bytes: vec![0; 16] }.into(),
        DateTime::from_millis(-86_400_000).into(),
    ];
    let mut numbers = Numbers(7);
    special.into_iter().chain((0..count).flat_map(move |n| {
        [
            Bson::Int32(n as i32 * 3),
            Bson::Int64((1 << 40) + n),
            Bson::Double(n as f64 + 0.5),
            Bson::String(format!("s{:07}-{n}", numbers.below(9_999_999))),
            Bson::ObjectId(numbers.oid()),
            Bson::Document(doc! { "region": "eu", "n": n }),
            Bson::DateTime(DateTime::from_millis(n * 997)),
            Bson::Decimal128(format!("{n}.25").parse().unwrap()),
        ]
    }))
}

fn order(numbers: &mut Numbers, n: u64) -> Document {
    doc! {
        "_id": numbers.oid(), "n": n as i64, "status": "paid", "total": "12.50".parse::<Decimal128>().unwrap(),
        "ts": DateTime::from_millis(n as i64), "blob": Binary { subtype: BinarySubtype::Generic, bytes: numbers.bytes(128) },
        "note": numbers.text(60), "items": [{ "sku": "x", "qty": 1 }, { "sku": "y", "qty": 2i64 }],
        "re": Regex { pattern: "^a".to_string().try_into().unwrap(), options: "i".to_string().try_into().unwrap() },
    }
}

async fn insert(database: &Database, name: &str, documents: Vec<Document>) {
    for chunk in documents.chunks(5000) {
        database.collection::<Document>(name).insert_many(chunk).ordered(false).await.unwrap();
    }
}

async fn run(database: &Database, command: Document) {
    database.run_command(command.clone()).await.unwrap_or_else(|e| panic!("{command}: {e}"));
}

/// Names that need care.
pub(crate) const ODD: [&str; 14] = [
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
    "a+b",
];

/// Fills a database: `n` orders and in proportion of the rest.
pub(crate) async fn fill(database: &Database, n: u64) {
    let mut numbers = Numbers(42);
    let orders = (0..n).map(|n| order(&mut numbers, n)).collect();
    insert(database, "orders", orders).await;
    insert(database, "mixed_ids", ids((n / 20) as i64).map(|id| doc! { "_id": id, "x": "some text" }).collect()).await;

    run(
        database,
        doc! { "create": "indexed", "collation": { "locale": "de", "strength": 2 },
        "validator": { "$jsonSchema": { "required": ["email"] } }, "validationAction": "warn" },
    )
    .await;
    run(database, doc! { "createIndexes": "indexed", "indexes": [
        { "key": { "email": 1 }, "name": "email_u", "unique": true },
        { "key": { "a": 1, "b": -1 }, "name": "a1_b-1" },
        { "key": { "title": "text" }, "name": "txt", "weights": { "title": 5 }, "collation": { "locale": "simple" } },
        { "key": { "w.$**": 1 }, "name": "wild" },
        { "key": { "x": 1 }, "name": "weird name % / $ ü", "sparse": true, "hidden": true },
    ] }).await;
    insert(
        database,
        "indexed",
        (0..n / 10).map(|n| doc! { "email": format!("u{n}@example.org"), "a": n as i64, "x": 1 }).collect(),
    )
    .await;

    run(database, doc! { "create": "capped", "capped": true, "size": 1 << 20, "max": 1000 }).await;
    insert(database, "capped", (0..1500).map(|n| doc! { "_id": 100_000 - n, "msg": numbers.text(10) }).collect()).await;

    run(database, doc! { "create": "weather", "timeseries": { "timeField": "t", "metaField": "sensor", "granularity": "minutes" } }).await;
    insert(
        database,
        "weather",
        (0..n as i64 / 4)
            .map(|n| {
                doc! { "t": DateTime::from_millis(n * 30_000), "sensor": n % 17, "temp": n as f64 / 3.0 }
            })
            .collect(),
    )
    .await;
    run(
        database,
        doc! { "createIndexes": "weather", "indexes": [{ "key": { "sensor": 1, "t": 1 }, "name": "sensor_t" }] },
    )
    .await;

    run(
        database,
        doc! { "create": "clustered", "clusteredIndex": { "key": { "_id": 1 }, "unique": true, "name": "cl" } },
    )
    .await;
    insert(database, "clustered", ids((n / 40) as i64).map(|id| doc! { "_id": id, "v": 1 }).collect()).await;

    run(
        database,
        doc! { "create": "orders_paid", "viewOn": "orders", "pipeline": [{ "$match": { "status": "paid" } }] },
    )
    .await;
    run(database, doc! { "create": "empty" }).await;
    for name in ODD {
        insert(database, name, (0..10).map(|id| doc! { "_id": id, "name": name }).collect()).await;
    }
    insert(database, &"x".repeat(150), vec![doc! { "_id": 1 }]).await;
}
