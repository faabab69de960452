//! Takes entries of the oplog apart.

use crate::documents::{Builder, Elements};
use crate::layout::BUCKETS_PREFIX;
use backup_core::{Error, Result};
use mongodb::bson::{Document, RawDocument, RawDocumentBuf};
use std::collections::HashMap;

/// One operation, or what one stands for.
#[derive(Debug)]
pub(super) enum Step {
    /// A change of a document, ready to be applied.
    Write { full: String, operation: RawDocumentBuf },
    /// A command: database in the archive and at the target, and what it says.
    Command { from: String, database: String, command: Document },
    /// A collection is made in a database of which the plan has nothing.
    MadeElsewhere { from: String, name: String },
}

/// Takes entries of the oplog apart. Transactions wait until they are committed.
#[derive(Debug, Default)]
pub(super) struct Reader {
    /// By session and number; entries in order.
    open: HashMap<Vec<u8>, Vec<RawDocumentBuf>>,
}

impl Reader {
    pub(super) fn entry(
        &mut self,
        entry: &RawDocument,
        target: &dyn Fn(&str) -> Option<String>,
        steps: &mut Vec<Step>,
    ) -> Result<()> {
        let damaged = |e: mongodb::bson::error::Error| Error::corrupt("an entry of the oplog is damaged").because(e);
        let op = entry.get_str("op").map_err(|e| Error::corrupt("an entry of the oplog has no kind").because(e))?;
        let namespace = entry.get_str("ns").unwrap_or_default();
        let Some((database, name)) = namespace.split_once('.') else { return Ok(()) };
        match op {
            "i" | "u" | "d" => {
                let Some(to) = target(database) else { return Ok(()) };
                let full = format!("{to}.{name}");
                steps.push(Step::Write { operation: relocated(entry, &full)?, full });
            }
            "c" => {
                let command = entry
                    .get_document("o")
                    .map_err(|e| Error::corrupt("a command of the oplog is damaged").because(e))?;
                let first = command.iter().next().transpose().map_err(damaged)?.map(|(key, _)| key.as_str().to_owned());
                let transaction = || [raw(entry, b"lsid"), raw(entry, b"txnNumber")].concat();
                let is_open = |key: &str| command.get(key).ok().flatten().is_some_and(|v| v.as_bool() == Some(true));
                match first.as_deref() {
                    Some("applyOps") => {
                        let (partial, prepared) = (is_open("partialTxn"), is_open("prepare"));
                        let number = transaction();
                        if partial || prepared {
                            self.open.entry(number).or_default().push(entry.to_owned());
                            return Ok(());
                        }
                        for before in self.open.remove(&number).filter(|_| !number.is_empty()).unwrap_or_default() {
                            self.inner(&before, target, steps)?;
                        }
                        self.inner(entry, target, steps)?;
                    }
                    Some("commitTransaction") => {
                        for before in self.open.remove(&transaction()).unwrap_or_default() {
                            self.inner(&before, target, steps)?;
                        }
                    }
                    Some("abortTransaction") => {
                        self.open.remove(&transaction());
                    }
                    _ => {
                        let Some(to) = target(database) else {
                            if let Ok(name) = command.get_str("create") {
                                let name = name.strip_prefix(BUCKETS_PREFIX).unwrap_or(name).to_owned();
                                steps.push(Step::MadeElsewhere { from: database.to_owned(), name });
                            }
                            return Ok(());
                        };
                        let command = Document::try_from(command)
                            .map_err(|e| Error::corrupt("a command of the oplog is damaged").because(e))?;
                        steps.push(Step::Command { from: database.to_owned(), database: to, command });
                    }
                }
            }
            // Nothing happened.
            _ => {}
        }
        Ok(())
    }

    /// The operations inside an `applyOps`.
    fn inner(
        &mut self,
        entry: &RawDocument,
        target: &dyn Fn(&str) -> Option<String>,
        steps: &mut Vec<Step>,
    ) -> Result<()> {
        let damaged = || Error::corrupt("a transaction in the oplog is damaged");
        let operations = entry.get_document("o").and_then(|o| o.get_array("applyOps"));
        for operation in operations.map_err(|e| damaged().because(e))? {
            let operation = operation.map_err(|e| damaged().because(e))?;
            self.entry(operation.as_document().ok_or_else(damaged)?, target, steps)?;
        }
        Ok(())
    }
}

/// The bytes of an element's value.
fn raw<'a>(entry: &'a RawDocument, name: &[u8]) -> &'a [u8] {
    Elements::new(entry.as_bytes()).flatten().find(|e| e.name == name).map(|e| e.value).unwrap_or_default()
}

/// An operation on another namespace, without what belongs to the server that logged it.
fn relocated(entry: &RawDocument, full: &str) -> Result<RawDocumentBuf> {
    let mut builder = Builder::new(entry.as_bytes().len());
    for element in Elements::new(entry.as_bytes()) {
        let element = element?;
        match element.name {
            b"op" => builder.element("op", element.kind, element.value),
            b"o" => builder.element("o", element.kind, element.value),
            b"o2" => builder.element("o2", element.kind, element.value),
            b"b" => builder.element("b", element.kind, element.value),
            _ => continue,
        };
    }
    builder.text("ns", full);
    builder.finish()
}

#[cfg(test)]
mod tests {
    use super::*;
    use mongodb::bson::rawdoc;

    fn read(entries: &[RawDocumentBuf]) -> Vec<String> {
        let mut reader = Reader::default();
        let target = |database: &str| (database == "shop").then(|| "copy".to_owned());
        let mut steps = Vec::new();
        for entry in entries {
            reader.entry(entry, &target, &mut steps).unwrap();
        }
        let text = |step: Step| match step {
            Step::Write { full, operation } => {
                assert_eq!(operation.get_str("ns").unwrap(), full);
                assert!(operation.get("ui").unwrap().is_none());
                format!(
                    "{} {full} {:?}",
                    operation.get_str("op").unwrap(),
                    operation.get_document("o").unwrap().get_i32("n")
                )
            }
            Step::Command { from, database, command } => format!("{from} to {database}: {command}"),
            Step::MadeElsewhere { from, name } => format!("{from}.{name} is not here"),
        };
        steps.into_iter().map(text).collect()
    }

    fn insert(n: i32) -> RawDocumentBuf {
        rawdoc! { "op": "i", "ns": "shop.a", "ui": "x", "o": { "n": n } }
    }

    fn transaction(number: i64, operations: &[RawDocumentBuf], flags: RawDocumentBuf) -> RawDocumentBuf {
        let mut o = mongodb::bson::RawArrayBuf::new();
        operations.iter().for_each(|operation| o.push(operation.clone()));
        let mut command = RawDocumentBuf::new();
        command.append(mongodb::bson::raw::cstr!("applyOps"), o);
        for element in flags.iter() {
            let (key, value) = element.unwrap();
            command.append(key, value);
        }
        rawdoc! { "op": "c", "ns": "admin.$cmd", "lsid": { "id": 1 }, "txnNumber": number, "o": command }
    }

    #[test]
    fn operations_move_with_their_database_and_others_are_left_out() {
        let all = [
            insert(1),
            rawdoc! { "op": "n", "ns": "", "o": {} },
            rawdoc! { "op": "i", "ns": "other.a", "o": { "n": 2 } },
            rawdoc! { "op": "d", "ns": "shop.a.b", "o": { "n": 3 } },
            rawdoc! { "op": "c", "ns": "shop.$cmd", "o": { "drop": "x" } },
            rawdoc! { "op": "c", "ns": "other.$cmd", "o": { "drop": "x" } },
            rawdoc! { "op": "c", "ns": "other.$cmd", "o": { "create": "system.buckets.x" } },
        ];
        assert_eq!(
            read(&all),
            ["i copy.a Ok(1)", "d copy.a.b Ok(3)", "shop to copy: { \"drop\": \"x\" }", "other.x is not here"]
        );
    }

    #[test]
    fn transactions_are_applied_when_they_are_committed() {
        let end = |kind: &str| {
            let o = RawDocumentBuf::try_from(&mongodb::bson::doc! { kind: 1 }).unwrap();
            rawdoc! { "op": "c", "ns": "admin.$cmd", "lsid": { "id": 1 }, "txnNumber": 2_i64, "o": o }
        };
        assert_eq!(read(&[transaction(1, &[insert(1), insert(2)], rawdoc! {})]), ["i copy.a Ok(1)", "i copy.a Ok(2)"]);
        let partial = transaction(1, &[insert(1)], rawdoc! { "partialTxn": true });
        let last = transaction(1, &[insert(2)], rawdoc! { "count": 2_i64 });
        assert_eq!(read(&[partial.clone(), insert(7), last]), ["i copy.a Ok(7)", "i copy.a Ok(1)", "i copy.a Ok(2)"]);
        let prepared = transaction(2, &[insert(5)], rawdoc! { "prepare": true });
        assert_eq!(read(&[prepared.clone(), end("commitTransaction")]), ["i copy.a Ok(5)"]);
        assert!(read(&[prepared.clone(), end("abortTransaction")]).is_empty());
        assert!(read(&[prepared]).is_empty());
    }
}
