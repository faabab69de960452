//! Patterns of names, as sources and selections take them.

use crate::{Error, Result};
use globset::{GlobBuilder, GlobSet, GlobSetBuilder};
use std::os::unix::ffi::OsStrExt;

/// Compiles patterns: `*` and `?` stand for anything but `/`, `**` for any number of directories, `[ab]` for one of the
/// characters; `\` takes the next character literally. A pattern without `/` is compared with the last part of a name, at any
/// depth; one with `/`, also in front, with the whole name. A `/` at the end and a `./` in front mean nothing.
///
/// # Errors
/// `Invalid`, and which one, when one cannot be read or is empty.
pub(crate) fn compile(patterns: &[String]) -> Result<GlobSet> {
    let mut set = GlobSetBuilder::new();
    for pattern in patterns {
        let about = |e: Error| e.on(format!("{pattern:?}"));
        let trimmed = pattern.trim_end_matches('/');
        let (anchored, rest) = match trimmed.strip_prefix("./").or_else(|| trimmed.strip_prefix('/')) {
            Some(rest) => (true, rest),
            None => (trimmed.contains('/'), trimmed),
        };
        if rest.is_empty() || rest == "." {
            return Err(about(Error::invalid("an empty pattern fits nothing; leave it out")));
        }
        let glob = if anchored { rest.to_owned() } else { format!("**/{rest}") };
        let glob = GlobBuilder::new(&glob).literal_separator(true).backslash_escape(true).build();
        set.add(glob.map_err(|e| about(Error::invalid("not a valid pattern").because(e)))?);
    }
    set.build().map_err(|e| Error::invalid("the patterns are too many or too large").because(e))
}

/// Whether one of the patterns fits a name of any bytes.
pub(crate) fn fits(patterns: &GlobSet, name: &[u8]) -> bool {
    !patterns.is_empty() && patterns.is_match(std::path::Path::new(std::ffi::OsStr::from_bytes(name)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_fit_last_parts_anywhere_or_whole_names() {
        let cases: &[(&str, &[&str], &[&str])] = &[
            ("*.log", &["a.log", "x/y/b.log"], &["a.log.gz", "x/log"]),
            ("target/", &["target", "x/target"], &["targets", "x/target/y"]),
            ("/target", &["target"], &["x/target"]),
            ("./target", &["target"], &["x/target"]),
            ("x/*.o", &["x/a.o"], &["y/x/a.o", "x/y/a.o"]),
            ("x/**", &["x/a", "x/a/b"], &["x", "y/a"]),
            ("**/cache/tmp", &["cache/tmp", "a/b/cache/tmp"], &["cache"]),
            ("[ab]?", &["ax", "q/b1"], &["c1"]),
            ("a\\*", &["a*"], &["ab"]),
        ];
        for (pattern, yes, no) in cases {
            let set = compile(&[(*pattern).to_owned()]).unwrap();
            for name in *yes {
                assert!(fits(&set, name.as_bytes()), "{pattern} {name}");
            }
            for name in *no {
                assert!(!fits(&set, name.as_bytes()), "{pattern} {name}");
            }
        }
        assert!(fits(&compile(&["*.x".to_owned()]).unwrap(), b"\xff\xfe.x"));
        assert!(!fits(&compile(&[]).unwrap(), b"a"));
    }

    #[test]
    fn a_pattern_that_cannot_be_meant_is_named() {
        for bad in ["a[", "", "/", ".", "./", "//"] {
            let error = compile(&[bad.to_owned()]).unwrap_err();
            assert_eq!(error.class(), crate::ErrorClass::Invalid);
            assert!(error.to_string().contains(&format!("{bad:?}")), "{error}");
        }
    }
}
