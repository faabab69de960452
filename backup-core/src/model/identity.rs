//! Which place an adapter stands for.

use serde::{Deserialize, Serialize};
use std::fmt;

/// The place that an adapter stands for, without any secret: its kind, and a canonical location
/// (an absolute path; endpoint, bucket and prefix), so that two adapters of one place are equal.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Identity {
    /// Kind of the adapter: `local`, `s3`, `mongodb`, `gdrive`.
    pub kind: String,
    /// Canonical location; levels are separated by `/`, without a `/` at the end.
    pub location: String,
}

impl Identity {
    /// An identity; a `/` at the end of the location is cut.
    pub fn new(kind: impl Into<String>, location: impl Into<String>) -> Self {
        let mut location = location.into();
        while location.ends_with('/') {
            location.pop();
        }
        Self { kind: kind.into(), location }
    }

    /// Whether `other` is this place or lies inside it.
    pub fn contains(&self, other: &Identity) -> bool {
        self.kind == other.kind && self.below(other).is_some()
    }

    /// The path from this place to `other` inside it; empty when they are equal.
    pub fn below<'a>(&self, other: &'a Identity) -> Option<&'a str> {
        if self.kind != other.kind {
            return None;
        }
        match other.location.strip_prefix(&self.location)? {
            "" => Some(""),
            rest => rest.strip_prefix('/'),
        }
    }
}

impl fmt::Display for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.kind, if self.location.is_empty() { "/" } else { &self.location })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn containment_goes_by_levels() {
        let a = Identity::new("local", "/data/");
        assert!(a.contains(&Identity::new("local", "/data")));
        assert_eq!(a.below(&Identity::new("local", "/data/x/y")), Some("x/y"));
        assert!(!a.contains(&Identity::new("local", "/database")));
        assert!(!a.contains(&Identity::new("s3", "/data/x")));
        assert!(Identity::new("local", "/").contains(&a));
    }
}
