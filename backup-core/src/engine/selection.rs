//! Chooses entries of an archive by name.

use super::Selection;
use crate::Result;
use crate::adapter::Wanted;
use crate::model::{Entry, EntryName};
use crate::pattern::{compile, fits};
use globset::GlobSet;
use std::collections::HashSet;
use std::sync::Arc;

impl Selection {
    /// The selection as a question.
    ///
    /// # Errors
    /// `Invalid` when a pattern cannot be read.
    pub fn filter(&self) -> Result<Wanted> {
        let chosen = Chosen::new(self)?;
        Ok(Arc::new(move |entry| chosen.contains(entry)))
    }
}

/// A compiled [`Selection`].
#[derive(Clone, Debug)]
pub(super) struct Chosen {
    include: Option<GlobSet>,
    exclude: GlobSet,
    names: Option<HashSet<EntryName>>,
}

impl Chosen {
    /// # Errors
    /// `Invalid` when a pattern cannot be read.
    pub(super) fn new(selection: &Selection) -> Result<Self> {
        let Selection { include, exclude, names } = selection;
        Ok(Self {
            include: if include.is_empty() { None } else { Some(compile(include)?) },
            exclude: compile(exclude)?,
            names: if names.is_empty() { None } else { Some(names.iter().cloned().collect()) },
        })
    }

    /// Whether all entries are chosen.
    pub(super) fn is_all(&self) -> bool {
        self.include.is_none() && self.names.is_none() && self.exclude.is_empty()
    }

    pub(super) fn contains(&self, entry: &Entry) -> bool {
        self.contains_name(&entry.name)
    }

    pub(super) fn contains_name(&self, name: &EntryName) -> bool {
        let wanted = match (&self.include, &self.names) {
            (None, None) => true,
            (include, names) => {
                names.as_ref().is_some_and(|names| names.contains(name))
                    || include.as_ref().is_some_and(|include| matches(include, name))
            }
        };
        wanted && !matches(&self.exclude, name)
    }

    /// The only names that can match, when they are listed one by one: a reader then needs only the pieces that can hold them.
    pub(super) fn exact_names(&self) -> Option<&HashSet<EntryName>> {
        if self.include.is_some() { None } else { self.names.as_ref() }
    }
}

/// Whether a pattern fits the name or a directory above it.
fn matches(patterns: &GlobSet, name: &EntryName) -> bool {
    let bytes = name.as_bytes();
    let mut above = bytes.iter().enumerate().filter(|(_, b)| **b == b'/').map(|(at, _)| &bytes[..at]);
    !patterns.is_empty() && (above.any(|part| fits(patterns, part)) || fits(patterns, bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chosen(include: &[&str], exclude: &[&str], names: &[&str]) -> Chosen {
        Chosen::new(&Selection {
            include: include.iter().map(|s| s.to_string()).collect(),
            exclude: exclude.iter().map(|s| s.to_string()).collect(),
            names: names.iter().map(|s| EntryName::from(*s)).collect(),
        })
        .unwrap()
    }

    #[test]
    fn patterns_choose_as_those_of_a_source_do_and_whatever_is_below_a_directory() {
        let some = chosen(&["/src", "*.txt", "./doc/"], &["src/gen/**", "*.tmp"], &[]);
        for (name, wanted) in [
            ("src", true),
            ("src/a/b.rs", true),
            ("src/a/b.tmp", false),
            ("x.tmp/a.txt", false),
            ("src/gen/x", false),
            ("dir/src/x", false),
            ("a.txt", true),
            ("dir/a.txt", true),
            ("doc/x", true),
            ("srcs/x", false),
        ] {
            assert_eq!(some.contains_name(&name.into()), wanted, "{name}");
        }
        assert!(chosen(&[], &[], &[]).contains_name(&"x".into()));
        assert!(!chosen(&[], &[], &["a"]).contains_name(&"a/b".into()), "exact names are exact");
    }

    #[test]
    fn a_bad_pattern_is_named() {
        let error = Chosen::new(&Selection { include: vec!["a[".into()], ..Selection::default() }).unwrap_err();
        assert!(error.to_string().contains("a["), "{error}");
    }
}
