//! Which state of an object an entry stands for, as the engine keeps it between listing and reading.

use super::S3Versions;
use backup_core::adapter::Version;
use serde::{Deserialize, Serialize};

/// The state of an object.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct State {
    /// Which version it is, in a source of all versions: this one is read, also when others have come since.
    #[serde(rename = "id", default, skip_serializing_if = "Option::is_none")]
    pub(super) version_id: Option<String>,
    /// It is the current version, although its name is not the plain key.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub(super) latest: bool,
    /// Without its quotation marks.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) etag: Option<String>,
}

impl State {
    /// A source of current objects has the ETag alone, one of all versions JSON. Of nothing at all there is no version.
    pub(super) fn encode(self) -> Option<Version> {
        match self {
            Self { version_id: None, latest: _, etag } => etag.map(|etag| Version(etag.into())),
            state => serde_json::to_string(&state).ok().map(|text| Version(text.into())),
        }
    }

    pub(super) fn decode(version: &Version, versions: S3Versions) -> Self {
        let etag = || Self { etag: Some(version.0.as_ref().to_owned()), ..Self::default() };
        match versions {
            S3Versions::Current => etag(),
            S3Versions::All => serde_json::from_str(&version.0).unwrap_or_else(|_| etag()),
        }
    }
}

/// An ETag without its quotation marks; servers do not agree on where these belong to it.
pub(super) fn bare(etag: &str) -> String {
    etag.trim_start_matches("W/").trim_matches('"').to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_kept_is_the_same_state_again() {
        let state = |id: Option<&str>, latest, etag: Option<&str>| State {
            version_id: id.map(Into::into),
            latest,
            etag: etag.map(Into::into),
        };
        let only_etag = state(None, false, Some("{\"abc\"}-2"));
        let kept = only_etag.clone().encode().unwrap();
        assert_eq!(&*kept.0, "{\"abc\"}-2");
        assert_eq!(State::decode(&kept, S3Versions::Current), only_etag);
        for state in [state(Some("null"), false, Some("a")), state(Some("x\"&="), true, None)] {
            assert_eq!(State::decode(&state.clone().encode().unwrap(), S3Versions::All), state);
        }
        // Whatever it is, it is not taken for another state.
        assert_eq!(State::decode(&Version("abc-2".into()), S3Versions::All), state(None, false, Some("abc-2")));
        assert_eq!(State::default().encode(), None);
    }

    #[test]
    fn etags_are_compared_without_their_marks() {
        assert_eq!((&*bare("\"abc-2\""), &*bare("W/\"abc\""), &*bare("abc")), ("abc-2", "abc", "abc"));
    }
}
