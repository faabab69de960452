//! Files, folders and queries.

use super::answer::{self, Answer};
use super::query;
use super::state::{DriveRole, FOLDER, File, State};
use bytes::Bytes;
use hyper::HeaderMap;
use hyper::header::{CONTENT_RANGE, CONTENT_TYPE, HeaderValue, RANGE};
use serde_json::{Value, json};
use std::collections::{BTreeMap, HashMap};

/// The parameters of a request.
pub(super) type Parameters = HashMap<String, String>;

/// The token of a page before which there was none.
pub(super) const FROM_THE_START: &str = "after-/";

fn parameter<'a>(parameters: &'a Parameters, name: &str) -> &'a str {
    parameters.get(name).map(String::as_str).unwrap_or_default()
}

pub(super) fn about(state: &State, parameters: &Parameters) -> Answer {
    if parameter(parameters, "fields").is_empty() {
        return answer::error(400, "required");
    }
    let mut quota = json!({ "usage": state.used().to_string(), "usageInDrive": state.used().to_string() });
    if let (Some(limit), Some(map)) = (state.quota, quota.as_object_mut()) {
        map.insert("limit".into(), limit.to_string().into());
    }
    answer::json(200, &json!({ "storageQuota": quota, "user": { "displayName": "A Test" } }))
}

pub(super) fn list(state: &mut State, parameters: &Parameters) -> Answer {
    state.lists += 1;
    let state = &*state;
    let Some(mut terms) = query::parse(parameter(parameters, "q")) else { return answer::error(400, "invalid") };
    let is_true = |name| parameter(parameters, name) == "true";
    let drive = match (parameter(parameters, "driveId"), parameter(parameters, "corpora")) {
        ("", "" | "user") => None,
        (drive, "drive") if is_true("includeItemsFromAllDrives") && is_true("supportsAllDrives") => Some(drive),
        _ => return answer::error(400, "invalid"),
    };
    if let Some(drive) = drive.filter(|drive| !state.drives.contains_key(*drive)) {
        return answer::not_found(drive);
    }
    for term in &mut terms {
        if let query::Term::Parent(parent) = term {
            *parent = state.resolve(parent).to_owned();
            if state.visible(parent, parameters).is_none() {
                return answer::not_found(".");
            }
        }
    }
    let size = match parameter(parameters, "pageSize") {
        "" => 100,
        size => match size.parse() {
            Ok(size @ 1..=1000) => size,
            _ => return answer::error(400, "invalid"),
        },
    };
    let shows = |file: &File| !file.hidden && file.drive.as_deref() == drive && file.listed_from <= state.lists;
    let holds = |file: &File| terms.iter().all(|term| term.holds(file, state.is_trashed(file)));
    let mut found: Vec<&File> = state.files.values().filter(|file| shows(file) && holds(file)).collect();
    match parameter(parameters, "orderBy") {
        "" => {}
        "name" => found.sort_by(|a, b| (&a.name, &a.id).cmp(&(&b.name, &b.id))),
        "createdTime" => found.sort_by(|a, b| (a.created, &a.id).cmp(&(b.created, &b.id))),
        "name,createdTime" => found.sort_by(|a, b| (&a.name, a.created, &a.id).cmp(&(&b.name, b.created, &b.id))),
        _ => return answer::error(400, "invalid"),
    }
    // A token names what the page before ended with, so that files that go meanwhile shift nothing.
    let start = match parameter(parameters, "pageToken").strip_prefix("after-") {
        None => 0,
        Some(token) => {
            let Some((key, id)) = token.split_once('/') else { return answer::error(400, "invalid") };
            found.partition_point(|file| match parameter(parameters, "orderBy") {
                order if order.starts_with("name") => (file.name.as_str(), file.id.as_str()) <= (&*unhex(key), id),
                _ => file.id.as_str() <= id,
            })
        }
    };
    let page = &found[start..found.len().min(start + size)];
    let fields = parameter(parameters, "fields");
    let of_files = fields.split_once("files(").and_then(|(_, rest)| rest.split_once(')')).map_or("", |(of, _)| of);
    let mut body = json!({ "files": page.iter().map(|file| file.resource(state, of_files)).collect::<Vec<Value>>() });
    if let (Some(last), Some(map)) = (page.last(), body.as_object_mut())
        && start + size < found.len()
        && (fields.is_empty() || fields.contains("nextPageToken"))
    {
        map.insert("nextPageToken".into(), format!("after-{}/{}", hex(&last.name), last.id).into());
    }
    answer::json(200, &body)
}

fn hex(text: &str) -> String {
    text.bytes().map(|b| format!("{b:02x}")).collect()
}

fn unhex(text: &str) -> String {
    let bytes = (0..text.len() / 2).filter_map(|n| u8::from_str_radix(text.get(2 * n..2 * n + 2)?, 16).ok());
    String::from_utf8(bytes.collect()).unwrap_or_default()
}

pub(super) fn metadata(state: &State, id: &str, parameters: &Parameters) -> Answer {
    match state.visible(id, parameters) {
        Some(file) => answer::json(200, &file.resource(state, parameter(parameters, "fields"))),
        None => answer::not_found(id),
    }
}

/// What a body of metadata says.
pub(super) struct Described {
    pub(super) name: String,
    pub(super) mime: String,
    pub(super) parents: Vec<String>,
    pub(super) app_properties: BTreeMap<String, String>,
}

/// Reads the metadata of a new file.
pub(super) fn described(state: &State, parameters: &Parameters, body: &[u8]) -> Result<Described, Box<Answer>> {
    let value: Value = serde_json::from_slice(body).map_err(|_| Box::new(answer::error(400, "parseError")))?;
    let text = |name: &str| value.get(name).and_then(Value::as_str).unwrap_or_default().to_owned();
    let parents = match value.get("parents").and_then(Value::as_array) {
        Some(list) => list.iter().filter_map(Value::as_str).map(|id| state.resolve(id).to_owned()).collect(),
        None => vec![state.resolve("root").to_owned()],
    };
    if let Some(missing) = parents.iter().find(|id| !state.visible(id, parameters).is_some_and(File::is_folder)) {
        return Err(Box::new(answer::not_found(missing)));
    }
    if parents.len() != 1 {
        return Err(Box::new(answer::error(400, "invalidParents")));
    }
    let app_properties = properties(&value).ok_or_else(|| Box::new(answer::error(400, "propertyTooLarge")))?;
    Ok(Described { name: text("name"), mime: text("mimeType"), parents, app_properties })
}

/// At most 30 properties of 124 bytes, key and value together.
fn properties(value: &Value) -> Option<BTreeMap<String, String>> {
    let Some(map) = value.get("appProperties").and_then(Value::as_object) else { return Some(BTreeMap::new()) };
    let pairs: BTreeMap<String, String> =
        map.iter().map(|(k, v)| Some((k.clone(), v.as_str()?.to_owned()))).collect::<Option<_>>()?;
    (pairs.len() <= 30 && pairs.iter().all(|(k, v)| k.len() + v.len() <= 124)).then_some(pairs)
}

pub(super) fn create(state: &mut State, parameters: &Parameters, body: &[u8]) -> Answer {
    let Described { name, mime, parents, app_properties } = match described(state, parameters, body) {
        Ok(described) => described,
        Err(answer) => return *answer,
    };
    let id = state.id(if mime == FOLDER { "folder" } else { "file" });
    add(state, id.clone(), (name, mime, parents, app_properties), Bytes::new());
    metadata(state, &id, parameters)
}

/// Adds a file with its digests.
pub(super) fn add(
    state: &mut State,
    id: String,
    (name, mime, parents, app_properties): (String, String, Vec<String>, BTreeMap<String, String>),
    content: Bytes,
) {
    use md5::Digest as _;
    let md5 = md5::Md5::digest(&content).iter().map(|b| format!("{b:02x}")).collect();
    let sha256 = backup_core::Digest::of(&content).to_string();
    let drive = parents.first().and_then(|parent| state.files.get(parent)?.drive.clone());
    let file = File {
        id: id.clone(),
        name,
        mime,
        parents,
        app_properties,
        content,
        md5,
        sha256,
        created: state.now(),
        trashed: false,
        hidden: false,
        drive,
        // At once, without a lag.
        listed_from: if state.lag == 0 { 0 } else { state.lists + 1 + state.lag },
    };
    state.files.insert(id, file);
}

pub(super) fn update(state: &mut State, id: &str, parameters: &Parameters, body: &[u8]) -> Answer {
    let Ok(value) = serde_json::from_slice::<Value>(body) else { return answer::error(400, "parseError") };
    let id = state.resolve(id).to_owned();
    if state.visible(&id, parameters).is_none() {
        return answer::not_found(&id);
    }
    let Some(file) = state.files.get_mut(&id) else { return answer::not_found(&id) };
    if let Some(trashed) = value.get("trashed").and_then(Value::as_bool) {
        file.trashed = trashed;
    }
    if let Some(name) = value.get("name").and_then(Value::as_str) {
        file.name = name.to_owned();
    }
    metadata(state, &id, parameters)
}

pub(super) fn delete(state: &mut State, id: &str, parameters: &Parameters) -> Answer {
    let Some(file) = state.visible(id, parameters) else { return answer::not_found(id) };
    let role = file.drive.as_ref().and_then(|drive| state.drives.get(drive));
    if role.is_some_and(|role| *role != DriveRole::Organizer) {
        return answer::error(403, "insufficientFilePermissions");
    }
    state.remove(id);
    answer::empty(204)
}

pub(super) fn download(state: &State, id: &str, parameters: &Parameters, headers: &HeaderMap) -> Answer {
    let Some(file) = state.visible(id, parameters) else { return answer::not_found(id) };
    if file.is_folder() {
        return answer::error(403, "fileNotDownloadable");
    }
    let length = file.content.len() as u64;
    let range = headers.get(RANGE).and_then(|range| range.to_str().ok()).and_then(|range| range.strip_prefix("bytes="));
    let Some((from, to)) = range.and_then(|range| range.split_once('-')) else {
        return content(200, file.content.clone());
    };
    let (Ok(from), Ok(to)) = (from.parse::<u64>(), to.parse::<u64>()) else { return answer::error(400, "invalid") };
    if from >= length || to < from {
        let mut refused = answer::empty(416);
        refused.headers_mut().extend(HeaderValue::try_from(format!("bytes */{length}")).map(|v| (CONTENT_RANGE, v)));
        return refused;
    }
    let to = to.min(length - 1);
    let mut part = content(206, file.content.slice(from as usize..=to as usize));
    part.headers_mut().extend(HeaderValue::try_from(format!("bytes {from}-{to}/{length}")).map(|v| (CONTENT_RANGE, v)));
    part
}

fn content(status: u16, bytes: Bytes) -> Answer {
    let mut answer = answer::empty(status);
    answer.headers_mut().insert(hyper::header::CONTENT_LENGTH, bytes.len().into());
    answer.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/octet-stream"));
    *answer.body_mut() = answer::pieces(bytes);
    answer
}
