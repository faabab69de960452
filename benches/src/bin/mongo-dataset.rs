//! Fills a database with the data set of the comparison, the one that the tests of `backup-mongo` use:
//! `mongo-dataset URI DATABASE ORDERS`. Drops a database: `mongo-dataset URI DATABASE drop`.

#![allow(clippy::unwrap_used, reason = "a tool for benchmarks")]

#[path = "../../../backup-mongo/tests/support/dataset.rs"]
mod dataset;

use mongodb::Client;

#[tokio::main]
async fn main() {
    let args: Vec<String> = std::env::args().collect();
    let [_, uri, database, what] = &args[..] else {
        eprintln!("usage: mongo-dataset URI DATABASE ORDERS|drop");
        std::process::exit(2);
    };
    let client = Client::with_uri_str(uri).await.unwrap();
    if what == "drop" {
        client.database(database).drop().await.unwrap();
        return;
    }
    dataset::fill(&client, database, what.parse().unwrap()).await;
    let stats = client.database(database).run_command(mongodb::bson::doc! { "dbStats": 1 }).await.unwrap();
    let number = |key: &str| {
        let value = stats.get(key);
        let whole = value.and_then(|n| n.as_i64().or(n.as_i32().map(i64::from)));
        whole.or(value.and_then(|n| n.as_f64()).map(|n| n as i64)).unwrap_or_default()
    };
    println!("{} {}", number("objects"), number("dataSize"));
}
