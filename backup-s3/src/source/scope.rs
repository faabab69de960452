//! Which keys belong to a source.

use super::S3SourceOptions;
use backup_core::model::Identity;
use backup_core::{Error, Result};
use globset::{GlobBuilder, GlobSet, GlobSetBuilder};

/// The prefixes and patterns of a source, compiled.
#[derive(Clone, Debug)]
pub(super) struct Scope {
    /// None of them starts with another; in order. Relative to the bucket's prefix.
    pub(super) prefixes: Vec<String>,
    include: Option<GlobSet>,
    exclude: GlobSet,
    /// Beginnings of keys that are left out: places that a run must not read.
    excluded: Vec<String>,
    nothing: bool,
}

impl Scope {
    pub(super) fn new(options: &S3SourceOptions) -> Result<Self> {
        let S3SourceOptions { prefixes, include, exclude, tags: _, versions: _ } = options;
        let mut sorted = if prefixes.is_empty() { vec![String::new()] } else { prefixes.clone() };
        sorted.sort_unstable();
        // What starts with a prefix follows it directly.
        sorted.dedup_by(|later, kept| later.starts_with(kept.as_str()));
        Ok(Self {
            prefixes: sorted,
            include: if include.is_empty() { None } else { Some(compile(include)?) },
            exclude: compile(exclude)?,
            excluded: Vec::new(),
            nothing: false,
        })
    }

    /// Without these places, as far as they lie in the source.
    pub(super) fn without(mut self, places: &[Identity], source: &Identity) -> Self {
        for place in places {
            if place.contains(source) {
                self.nothing = true;
            } else if let Some(below) = source.below(place) {
                self.excluded.push(format!("{below}/"));
            }
        }
        self
    }

    /// Whether there is nothing to list.
    pub(super) fn is_empty(&self) -> bool {
        self.nothing
    }

    /// Whether some of what is listed may not belong to the source.
    pub(super) fn has_patterns(&self) -> bool {
        self.include.is_some() || !self.exclude.is_empty()
    }

    /// Whether a key that has one of the prefixes belongs to the source.
    pub(super) fn contains(&self, key: &str) -> bool {
        !self.excluded.iter().any(|place| key.starts_with(place.as_str()))
            && self.include.as_ref().is_none_or(|include| matches(include, key))
            && !matches(&self.exclude, key)
    }
}

/// Whether a pattern matches the key or a level above it.
fn matches(globs: &GlobSet, key: &str) -> bool {
    !globs.is_empty() && (globs.is_match(key) || key.match_indices('/').any(|(at, _)| globs.is_match(&key[..at])))
}

fn compile(patterns: &[String]) -> Result<GlobSet> {
    let mut set = GlobSetBuilder::new();
    for pattern in patterns {
        let trimmed = pattern.trim_end_matches('/');
        let anchored = match trimmed.strip_prefix('/') {
            Some(rest) => rest.to_owned(),
            None if trimmed.contains('/') => trimmed.to_owned(),
            None => format!("**/{trimmed}"),
        };
        if trimmed.is_empty() {
            return Err(Error::invalid("an empty pattern means nothing; leave it out").on(format!("{pattern:?}")));
        }
        let glob = GlobBuilder::new(&anchored).literal_separator(true).backslash_escape(true).build();
        set.add(glob.map_err(|e| Error::invalid("not a valid pattern").on(format!("{pattern:?}")).because(e))?);
    }
    set.build().map_err(|e| Error::invalid("the patterns are too many or too large").because(e))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn scope(prefixes: &[&str], include: &[&str], exclude: &[&str]) -> Scope {
        let owned = |list: &[&str]| list.iter().map(ToString::to_string).collect();
        let options = S3SourceOptions {
            prefixes: owned(prefixes),
            include: owned(include),
            exclude: owned(exclude),
            ..S3SourceOptions::default()
        };
        Scope::new(&options).unwrap()
    }

    #[test]
    fn prefixes_are_in_order_and_none_lies_in_another() {
        assert_eq!(scope(&[], &[], &[]).prefixes, [""]);
        assert_eq!(scope(&["b", "a/x", "a/", "a/x/y", "b"], &[], &[]).prefixes, ["a/", "b"]);
    }

    #[test]
    fn patterns_match_names_at_any_depth_paths_and_what_lies_below() {
        let scope = scope(&[], &["*.jpg", "/keep", "x/*/z"], &["private", "/a/b.jpg"]);
        for key in ["1.jpg", "a/b/2.jpg", "keep", "keep/any/thing", "x/y/z", "x/y/z/deep", "c/a/b.jpg"] {
            assert!(scope.contains(key), "{key}");
        }
        for key in ["1.png", "a/keep", "private/1.jpg", "q/private", "a/b.jpg", "x/y"] {
            assert!(!scope.contains(key), "{key}");
        }
    }

    #[test]
    fn excluded_places_are_compared_by_levels() {
        let source = Identity::new("s3", "aws/bucket/data");
        let place = |location: &str| [Identity::new("s3", location)];
        let without = |location: &str| scope(&[], &[], &[]).without(&place(location), &source);
        assert!(!without("aws/bucket/data/backups").contains("backups/x"));
        assert!(without("aws/bucket/data/backups").contains("backups"));
        assert!(without("aws/bucket/data/backups").contains("backups2/x"));
        assert!(without("aws/other/data/backups").contains("backups/x"));
        assert!(without("aws/bucket").is_empty());
        assert!(!without("aws/bucket/data/backups").is_empty());
    }
}
