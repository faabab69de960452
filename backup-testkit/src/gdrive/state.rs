//! What the server remembers.

use super::files::Parameters;
use bytes::Bytes;
use jiff::{SignedDuration, Timestamp};
use serde_json::{Map, Value, json};
use std::collections::{BTreeMap, HashMap, HashSet};

pub(super) const FOLDER: &str = "application/vnd.google-apps.folder";
/// The root of the user's own drive.
pub(super) const ROOT: &str = "root-of-my-drive";

/// A file or folder.
#[derive(Clone, Debug)]
pub(super) struct File {
    pub(super) id: String,
    pub(super) name: String,
    pub(super) mime: String,
    pub(super) parents: Vec<String>,
    pub(super) app_properties: BTreeMap<String, String>,
    pub(super) content: Bytes,
    pub(super) md5: String,
    pub(super) sha256: String,
    pub(super) created: Timestamp,
    /// By itself; what lies in a folder in the bin is in the bin as well.
    pub(super) trashed: bool,
    /// Of somebody else's, in a place that is ours: the app cannot see it.
    pub(super) hidden: bool,
    /// The shared drive that it is in.
    pub(super) drive: Option<String>,
    /// From which listing on it shows up.
    pub(super) listed_from: u64,
}

/// What the account may do in a shared drive.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DriveRole {
    /// `organizer`, "Manager": everything.
    Organizer,
    /// `fileOrganizer`, "Content manager": adds files and puts them into the bin, but removes none for good.
    FileOrganizer,
}

/// A file as a test sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DriveFile {
    /// Its id.
    pub id: String,
    /// Its name.
    pub name: String,
    /// Names of the folders above it below the drive's root, and its own, joined by `/`.
    pub path: String,
    /// Its content.
    pub content: Bytes,
}

impl File {
    pub(super) fn is_folder(&self) -> bool {
        self.mime == FOLDER
    }

    /// The resource, cut down to the fields that were asked for (`*` and nothing stand for the usual ones).
    pub(super) fn resource(&self, state: &State, fields: &str) -> Value {
        let time = self.created.strftime("%Y-%m-%dT%H:%M:%S%.3fZ").to_string();
        let mut all = json!({
            "kind": "drive#file",
            "id": self.id,
            "name": self.name,
            "mimeType": self.mime,
            "parents": self.parents,
            "appProperties": self.app_properties,
            "createdTime": time,
            "modifiedTime": time,
            "trashed": state.is_trashed(self),
        });
        if !self.is_folder()
            && let Some(map) = all.as_object_mut()
        {
            map.insert("size".into(), self.content.len().to_string().into());
            map.insert("md5Checksum".into(), self.md5.clone().into());
            if !state.without_sha256 {
                map.insert("sha256Checksum".into(), self.sha256.clone().into());
            }
        }
        if let (Some(drive), Some(map)) = (&self.drive, all.as_object_mut()) {
            map.insert("driveId".into(), drive.clone().into());
        }
        match fields {
            "*" => all,
            "" => pick(all, "kind,id,name,mimeType"),
            fields => pick(all, fields),
        }
    }
}

fn pick(mut all: Value, fields: &str) -> Value {
    let picked: Map<String, Value> =
        fields.split(',').filter_map(|field| Some((field.to_owned(), all.get_mut(field)?.take()))).collect();
    picked.into()
}

/// A resumable upload.
#[derive(Debug)]
pub(super) struct Session {
    pub(super) name: String,
    pub(super) mime: String,
    pub(super) parents: Vec<String>,
    pub(super) app_properties: BTreeMap<String, String>,
    pub(super) total: u64,
    pub(super) kept: Vec<u8>,
    /// The id of the file that it became.
    pub(super) file: Option<String>,
}

/// What a code that a person agreed to stands for.
#[derive(Debug)]
pub(super) struct Code {
    pub(super) redirect: String,
    pub(super) challenge: String,
}

#[derive(Debug, Default)]
pub(super) struct State {
    pub(super) files: BTreeMap<String, File>,
    pub(super) sessions: HashMap<String, Session>,
    pub(super) codes: HashMap<String, Code>,
    pub(super) refresh_tokens: HashSet<String>,
    pub(super) access_tokens: HashSet<String>,
    /// E-mail addresses of service accounts, and their public keys in PEM.
    pub(super) service_accounts: HashMap<String, Vec<u8>>,
    /// Refresh tokens change at each use.
    pub(super) rotates: bool,
    /// Seconds that access tokens live, as answers say.
    pub(super) token_life: u64,
    /// Bytes that there is room for in all; `None` is without a limit.
    pub(super) quota: Option<u64>,
    pub(super) made: u64,
    /// Shared drives, and what the account may do there.
    pub(super) drives: HashMap<String, DriveRole>,
    /// Tokens, codes and ids of upload sessions that were ever given out.
    pub(super) given: Vec<String>,
    /// Listings that were asked for.
    pub(super) lists: u64,
    /// After how many further listings a new file shows up.
    pub(super) lag: u64,
    /// Files are given an MD5 only.
    pub(super) without_sha256: bool,
    /// By how much the server's clock is ahead of this machine's.
    pub(super) clock: SignedDuration,
}

impl State {
    /// A new id, of the length that the service's have.
    pub(super) fn id(&mut self, kind: &str) -> String {
        self.made += 1;
        format!("{kind}-{:027}", self.made)
    }

    pub(super) fn used(&self) -> u64 {
        self.files.values().map(|file| file.content.len() as u64).sum()
    }

    pub(super) fn now(&self) -> Timestamp {
        Timestamp::now().saturating_add(self.clock).unwrap_or(Timestamp::MAX)
    }

    /// A file as requests see it: nobody else's, and on a shared drive only for those that say that they know of such.
    pub(super) fn visible(&self, id: &str, parameters: &Parameters) -> Option<&File> {
        let all_drives = parameters.get("supportsAllDrives").is_some_and(|all| all == "true");
        self.files.get(self.resolve(id)).filter(|file| !file.hidden && (file.drive.is_none() || all_drives))
    }

    /// Whether a file is in the bin, by itself or with a folder above it.
    pub(super) fn is_trashed(&self, file: &File) -> bool {
        file.trashed || file.parents.iter().filter_map(|id| self.files.get(id)).any(|above| self.is_trashed(above))
    }

    /// `root` is another name of the drive's root.
    pub(super) fn resolve<'a>(&self, id: &'a str) -> &'a str {
        if id == "root" { ROOT } else { id }
    }

    /// Removes a file, and a folder with all that is in it.
    pub(super) fn remove(&mut self, id: &str) {
        self.files.remove(id);
        let below: Vec<String> = self
            .files
            .values()
            .filter(|file| file.parents.iter().any(|p| p == id))
            .map(|file| file.id.clone())
            .collect();
        for id in below {
            self.remove(&id);
        }
    }

    pub(super) fn path(&self, file: &File) -> String {
        let above =
            file.parents.first().and_then(|parent| self.files.get(parent)).filter(|parent| !parent.parents.is_empty());
        match above {
            Some(above) => format!("{}/{}", self.path(above), file.name),
            None => file.name.clone(),
        }
    }
}
