//! What the three databases say in different words.

use sqlx::any::AnyArguments;
use sqlx::query::Query;
use sqlx::{Any, AssertSqlSafe, Encode, Type};
use std::fmt::Write as _;

/// A kind of database.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Dialect {
    #[cfg(feature = "sqlite")]
    Sqlite,
    #[cfg(feature = "postgres")]
    Postgres,
    #[cfg(feature = "mysql")]
    MySql,
}

impl Dialect {
    /// Starts a transaction that writes. SQLite takes its lock, and waits for it, at once: a transaction that first reads and then
    /// writes would fail when another has written between.
    pub(crate) fn begin(self) -> &'static str {
        match self {
            #[cfg(feature = "sqlite")]
            Self::Sqlite => "BEGIN IMMEDIATE",
            #[cfg(feature = "postgres")]
            Self::Postgres => "BEGIN",
            #[cfg(feature = "mysql")]
            Self::MySql => "START TRANSACTION",
        }
    }

    /// Now, in microseconds since 1970 on the database's clock: when the statement began, which lets it be compared by an index.
    fn now(self) -> &'static str {
        match self {
            // SQLite's clock has milliseconds.
            #[cfg(feature = "sqlite")]
            Self::Sqlite => "CAST(ROUND(unixepoch('subsec') * 1000) AS INTEGER) * 1000",
            #[cfg(feature = "postgres")]
            Self::Postgres => "CAST(EXTRACT(EPOCH FROM statement_timestamp()) * 1000000 AS BIGINT)",
            #[cfg(feature = "mysql")]
            Self::MySql => "CAST(UNIX_TIMESTAMP(NOW(6)) * 1000000 AS SIGNED)",
        }
    }

    /// The type of a whole number in a cast: sums have another one in some databases.
    fn integer(self) -> &'static str {
        match self {
            #[cfg(feature = "sqlite")]
            Self::Sqlite => "INTEGER",
            #[cfg(feature = "postgres")]
            Self::Postgres => "BIGINT",
            #[cfg(feature = "mysql")]
            Self::MySql => "SIGNED",
        }
    }

    /// Says which index finds what is due, where the database would rather take one that rules busy connections out.
    fn by_due(self) -> &'static str {
        match self {
            #[cfg(feature = "sqlite")]
            Self::Sqlite => "",
            #[cfg(feature = "postgres")]
            Self::Postgres => "",
            #[cfg(feature = "mysql")]
            Self::MySql => "FORCE INDEX (backup_operations_by_due)",
        }
    }

    /// Whether rows are locked one by one. SQLite has one lock for all, which [`begin`](Self::begin) takes.
    fn locks_rows(self) -> bool {
        match self {
            #[cfg(feature = "sqlite")]
            Self::Sqlite => false,
            #[cfg(feature = "postgres")]
            Self::Postgres => true,
            #[cfg(feature = "mysql")]
            Self::MySql => true,
        }
    }

    /// How the nth value, from 1, is written.
    fn placeholder(self, n: usize, text: &mut String) {
        match self {
            #[cfg(feature = "postgres")]
            Self::Postgres => {
                // Writing to a string does not fail.
                let _ = write!(text, "${n}");
            }
            #[cfg(any(feature = "sqlite", feature = "mysql"))]
            _ => {
                let _ = (n, write!(text, "?"));
            }
        }
    }

    /// A text of [`sql`](crate::sql) in this database's words.
    pub(crate) fn translate(self, text: &str) -> String {
        let mut out = String::with_capacity(text.len() + 64);
        let (mut rest, mut bound) = (text, 0);
        while let Some(at) = rest.find(['?', '{']) {
            out.push_str(&rest[..at]);
            rest = &rest[at..];
            if let Some(after) = rest.strip_prefix('?') {
                bound += 1;
                self.placeholder(bound, &mut out);
                rest = after;
                continue;
            }
            let words = [
                ("{now}", self.now()),
                ("{integer}", self.integer()),
                ("{for update}", if self.locks_rows() { "FOR UPDATE" } else { "" }),
                ("{by due}", self.by_due()),
                ("{skip locked}", if self.locks_rows() { "SKIP LOCKED" } else { "" }),
            ];
            match words.iter().find_map(|(name, word)| Some((rest.strip_prefix(name)?, word))) {
                Some((after, word)) => {
                    out.push_str(word);
                    rest = after;
                }
                None => {
                    out.push('{');
                    rest = &rest[1..];
                }
            }
        }
        out + rest
    }

    /// A statement whose values are bound one after the other.
    pub(crate) fn query(self, text: &str) -> Query<'static, Any, AnyArguments> {
        sqlx::query(AssertSqlSafe(self.translate(text)))
    }
}

/// A statement that is put together piece by piece, in the words of [`sql`](crate::sql).
#[derive(Default)]
pub(crate) struct Statement {
    text: String,
    arguments: AnyArguments,
    failed: Option<sqlx::Error>,
}

impl Statement {
    pub(crate) fn new(text: &str) -> Self {
        Self { text: text.into(), ..Self::default() }
    }

    pub(crate) fn push(&mut self, text: &str) -> &mut Self {
        self.text.push_str(text);
        self
    }

    /// The statement that asks for its plan instead.
    #[cfg(test)]
    pub(crate) fn explained(self, explain: &str) -> Self {
        Self { text: format!("{explain}{}", self.text), ..self }
    }

    /// A value, for which a `?` is added.
    pub(crate) fn bind<'v>(&mut self, value: impl Encode<'v, Any> + Type<Any>) -> &mut Self {
        use sqlx::Arguments as _;
        if let Err(error) = self.arguments.add(value) {
            self.failed.get_or_insert(sqlx::Error::Encode(error));
        }
        self.push("?")
    }

    /// The statement, to be run.
    pub(crate) fn finish(self, dialect: Dialect) -> Result<Query<'static, Any, AnyArguments>, sqlx::Error> {
        match self.failed {
            Some(error) => Err(error),
            None => Ok(sqlx::query_with(AssertSqlSafe(dialect.translate(&self.text)), self.arguments)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[cfg(feature = "sqlite")]
    #[test]
    fn sqlite_has_no_row_locks() {
        let text = Dialect::Sqlite.translate("SELECT a FROM b WHERE c = ? AND d = ? {for update} {skip locked}{x");
        assert_eq!(text, "SELECT a FROM b WHERE c = ? AND d = ?  {x");
    }

    #[cfg(feature = "postgres")]
    #[test]
    fn postgres_counts_its_values() {
        let text = Dialect::Postgres.translate("SELECT a FROM b WHERE c = ? AND d = ? {for update} {skip locked}");
        assert_eq!(text, "SELECT a FROM b WHERE c = $1 AND d = $2 FOR UPDATE SKIP LOCKED");
    }

    #[cfg(feature = "mysql")]
    #[test]
    fn sums_become_whole_numbers() {
        assert_eq!(Dialect::MySql.translate("CAST(SUM(x) AS {integer})"), "CAST(SUM(x) AS SIGNED)");
    }
}
