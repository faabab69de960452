//! Resumable uploads ("Perform a resumable upload" in the guides of the Drive API).

use super::answer::{self, Answer};
use super::files::{self, Described, Parameters};
use super::state::{Session, State};
use bytes::Bytes;
use hyper::HeaderMap;
use hyper::header::{CONTENT_RANGE, HeaderValue, LOCATION, RANGE};

/// All chunks but the last are multiples of this.
const GRAIN: usize = 256 << 10;

pub(super) fn begin(state: &mut State, own: &str, parameters: &Parameters, headers: &HeaderMap, body: &[u8]) -> Answer {
    if parameters.get("uploadType").map(String::as_str) != Some("resumable") {
        return answer::error(400, "badRequest");
    }
    let Described { name, mime, parents, app_properties } = match files::described(state, parameters, body) {
        Ok(described) => described,
        Err(answer) => return *answer,
    };
    let text = |name: &str| headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let Ok(total) = text("x-upload-content-length").parse::<u64>() else { return answer::error(400, "required") };
    if state.quota.is_some_and(|quota| state.used() + total > quota) {
        return answer::error(403, "storageQuotaExceeded");
    }
    let mime = if mime.is_empty() { text("x-upload-content-type").to_owned() } else { mime };
    let id = state.id("session");
    state.given.push(id.clone());
    state
        .sessions
        .insert(id.clone(), Session { name, mime, parents, app_properties, total, kept: Vec::new(), file: None });
    let mut begun = answer::empty(200);
    let fields = parameters.get("fields").map(|fields| format!("&fields={fields}")).unwrap_or_default();
    let drives = parameters.get("supportsAllDrives").map(|all| format!("&supportsAllDrives={all}")).unwrap_or_default();
    let place = format!("{own}/upload/drive/v3/files?uploadType=resumable&upload_id={id}{fields}{drives}");
    begun.headers_mut().extend(HeaderValue::try_from(place).map(|place| (LOCATION, place)));
    begun
}

/// Takes bytes, or says how far the upload is. `partial` is how many bytes of the chunk are kept at most; `whole` is false when the
/// connection broke off, so that only what came of the body counts.
pub(super) fn chunk(
    state: &mut State,
    parameters: &Parameters,
    headers: &HeaderMap,
    body: &Bytes,
    partial: Option<usize>,
    whole: bool,
) -> Answer {
    let id = parameters.get("upload_id").cloned().unwrap_or_default();
    let Some(session) = state.sessions.get_mut(&id) else { return answer::error(404, "notFound") };
    if let Some(file) = session.file.clone() {
        return finished(state, &file, parameters);
    }
    let range = headers.get(CONTENT_RANGE).and_then(|range| range.to_str().ok()).unwrap_or_default();
    let Some((range, total)) = range.strip_prefix("bytes ").and_then(|range| range.split_once('/')) else {
        return answer::error(400, "badRequest");
    };
    if total.parse() != Ok(session.total) {
        return answer::error(400, "badRequest");
    }
    if range != "*" {
        let Some((from, to)) =
            range.split_once('-').and_then(|(a, b)| Some((a.parse::<u64>().ok()?, b.parse::<u64>().ok()?)))
        else {
            return answer::error(400, "badRequest");
        };
        let length = (to + 1).saturating_sub(from);
        let is_last = to + 1 == session.total;
        let aligned = is_last || length.is_multiple_of(GRAIN as u64);
        if from != session.kept.len() as u64 || !aligned || to >= session.total || whole && length != body.len() as u64
        {
            return answer::error(400, "badRequest");
        }
        let mut keep = body.len().min(partial.unwrap_or(usize::MAX));
        if !(whole && keep == body.len()) {
            keep -= keep % GRAIN;
        }
        session.kept.extend_from_slice(&body[..keep]);
    }
    if (session.kept.len() as u64) < session.total {
        let mut more = answer::empty(308);
        if !session.kept.is_empty() {
            let range = format!("bytes=0-{}", session.kept.len() - 1);
            more.headers_mut().extend(HeaderValue::try_from(range).map(|range| (RANGE, range)));
        }
        return more;
    }
    let file = state.id("file");
    let Some(session) = state.sessions.get_mut(&id) else { return answer::error(404, "notFound") };
    session.file = Some(file.clone());
    let content = Bytes::from(std::mem::take(&mut session.kept));
    let described =
        (session.name.clone(), session.mime.clone(), session.parents.clone(), session.app_properties.clone());
    if let Some(missing) = described.2.iter().find(|parent| !state.files.contains_key(*parent)).cloned() {
        state.sessions.remove(&id);
        return answer::not_found(&missing);
    }
    files::add(state, file.clone(), described, content);
    finished(state, &file, parameters)
}

fn finished(state: &State, file: &str, parameters: &Parameters) -> Answer {
    files::metadata(state, file, parameters)
}
