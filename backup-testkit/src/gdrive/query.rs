//! The subset of search queries that the server understands: terms joined by `and`. Grammar: "Search query terms and operators" of the
//! Drive API.

use super::state::File;

#[derive(Debug, PartialEq, Eq)]
pub(super) enum Term {
    Parent(String),
    Trashed(bool),
    Mime { equal: bool, value: String },
    Name(String),
    AppProperty { key: String, value: String },
}

/// The terms of a query; `None` when it is not understood, which the service answers with 400.
pub(super) fn parse(query: &str) -> Option<Vec<Term>> {
    let mut rest = query.trim();
    let mut terms = Vec::new();
    while !rest.is_empty() {
        let (term, after) = term(rest)?;
        terms.push(term);
        let after = after.trim_start();
        rest = match after.strip_prefix("and ") {
            Some(next) => next.trim_start(),
            None if after.is_empty() => after,
            None => return None,
        };
    }
    Some(terms)
}

fn term(text: &str) -> Option<(Term, &str)> {
    if text.starts_with('\'') {
        let (parent, rest) = quoted(text)?;
        return Some((Term::Parent(parent), rest.trim_start().strip_prefix("in parents")?));
    }
    if let Some(rest) = text.strip_prefix("trashed") {
        let rest = rest.trim_start().strip_prefix('=')?.trim_start();
        if let Some(rest) = rest.strip_prefix("false") {
            return Some((Term::Trashed(false), rest));
        }
        return rest.strip_prefix("true").map(|rest| (Term::Trashed(true), rest));
    }
    if let Some(rest) = text.strip_prefix("mimeType") {
        let rest = rest.trim_start();
        let (equal, rest) = match rest.strip_prefix("!=") {
            Some(rest) => (false, rest),
            None => (true, rest.strip_prefix('=')?),
        };
        let (value, rest) = quoted(rest.trim_start())?;
        return Some((Term::Mime { equal, value }, rest));
    }
    if let Some(rest) = text.strip_prefix("name") {
        let (value, rest) = quoted(rest.trim_start().strip_prefix('=')?.trim_start())?;
        return Some((Term::Name(value), rest));
    }
    let rest = text.strip_prefix("appProperties has")?.trim_start().strip_prefix('{')?.trim_start();
    let (key, rest) = quoted(rest.strip_prefix("key")?.trim_start().strip_prefix('=')?.trim_start())?;
    let rest = rest.trim_start().strip_prefix("and")?.trim_start().strip_prefix("value")?;
    let (value, rest) = quoted(rest.trim_start().strip_prefix('=')?.trim_start())?;
    Some((Term::AppProperty { key, value }, rest.trim_start().strip_prefix('}')?))
}

/// `'…'` with `\'` and `\\` inside.
fn quoted(text: &str) -> Option<(String, &str)> {
    let mut value = String::new();
    let mut chars = text.strip_prefix('\'')?.char_indices();
    while let Some((at, c)) = chars.next() {
        match c {
            '\'' => return Some((value, &text[1 + at + 1..])),
            '\\' => value.push(chars.next()?.1),
            c => value.push(c),
        }
    }
    None
}

impl Term {
    pub(super) fn holds(&self, file: &File, is_trashed: bool) -> bool {
        match self {
            Self::Parent(parent) => file.parents.contains(parent),
            Self::Trashed(trashed) => is_trashed == *trashed,
            Self::Mime { equal, value } => (file.mime == *value) == *equal,
            Self::Name(name) => file.name == *name,
            Self::AppProperty { key, value } => file.app_properties.get(key) == Some(value),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn terms_are_told_apart_and_nonsense_is_not_understood() {
        let terms = parse(
            r"'id' in parents and trashed = false and mimeType != 'a/b' and name='it\'s' and appProperties has { key='k' and value='v' }",
        );
        let expected = vec![
            Term::Parent("id".into()),
            Term::Trashed(false),
            Term::Mime { equal: false, value: "a/b".into() },
            Term::Name("it's".into()),
            Term::AppProperty { key: "k".into(), value: "v".into() },
        ];
        assert_eq!(terms, Some(expected));
        for bad in ["'id in parents", "name = x", "trashed=maybe", "a", "'i' in parents or trashed=false"] {
            assert_eq!(parse(bad), None, "{bad}");
        }
    }
}
