//! Google's own client agrees with the server of the test kit, and reads what the adapter writes.

use crate::fixture::Place;
use backup_core::adapter::Destination;
use backup_core::model::ObjectName;
use bytes::Bytes;
use futures::TryStreamExt;
use std::process::Command;

const SCRIPT: &str = r#"
import hashlib, io, sys
from google.oauth2.credentials import Credentials
from googleapiclient.discovery import build
from googleapiclient.errors import HttpError
from googleapiclient.http import MediaIoBaseDownload, MediaIoBaseUpload

url, token, folder = sys.argv[1:]
drive = build("drive", "v3", credentials=Credentials(token), static_discovery=True, client_options={"api_endpoint": url + "/drive/v3/"})

def upload(name, content, chunk, **more):
    body = {"name": name, "parents": [folder], "appProperties": {"k": name}, **more}
    media = MediaIoBaseUpload(io.BytesIO(content), "application/octet-stream", chunksize=chunk, resumable=True)
    request = drive.files().create(body=body, media_body=media, fields="id,size,md5Checksum,sha256Checksum")
    # The client makes this address https.
    request.uri = request.uri.replace("https://", "http://")
    request.resumable_uri = None
    done = None
    while done is None:
        _, done = request.next_chunk()
    return done

content = bytes(range(256)) * 4000
made = upload("one", content, 256 * 1024)
assert made["md5Checksum"] == hashlib.md5(content).hexdigest(), made
assert made["sha256Checksum"] == hashlib.sha256(content).hexdigest(), made
assert made["size"] == str(len(content)), made

read = io.BytesIO()
download = MediaIoBaseDownload(read, drive.files().get_media(fileId=made["id"]), chunksize=300_000)
done = False
while not done:
    _, done = download.next_chunk()
assert read.getvalue() == content

for n in range(5):
    drive.files().create(body={"name": f"f{n}", "mimeType": "application/vnd.google-apps.folder", "parents": [folder]}).execute()
names, page = [], None
while True:
    got = drive.files().list(q=f"'{folder}' in parents and trashed = false", orderBy="name", pageSize=2, pageToken=page,
                             fields="nextPageToken,files(id,name,appProperties)").execute()
    names += [file["name"] for file in got["files"]]
    page = got.get("nextPageToken")
    if page is None:
        break
assert names == ["archives", "f0", "f1", "f2", "f3", "f4", "one"], names
found = drive.files().list(q="appProperties has { key='k' and value='one' }", fields="files(id)").execute()["files"]
assert [file["id"] for file in found] == [made["id"]], found

# What the adapter has put.
theirs = drive.files().list(q="name = 'of the adapter' and trashed = false", fields="files(id,size)").execute()["files"]
assert not theirs
theirs = drive.files().list(q="name = '1' and trashed = false", fields="files(id,appProperties)").execute()["files"]
assert len(theirs) == 1 and theirs[0]["appProperties"]["backupName0"] == "a/data/1", theirs
assert drive.files().get_media(fileId=theirs[0]["id"]).execute() == b"of the adapter"

drive.files().delete(fileId=made["id"]).execute()
try:
    drive.files().get(fileId=made["id"]).execute()
    raise SystemExit("it is still there")
except HttpError as error:
    assert error.resp.status == 404, error
quota = drive.about().get(fields="storageQuota").execute()["storageQuota"]
assert int(quota["usage"]) > 0, quota
"#;

#[tokio::test(flavor = "multi_thread")]
async fn googles_own_client_finds_all_as_it_should_be() {
    let place = Place::new().await;
    let destination = place.destination();
    destination.put(&ObjectName::new("a/data/1").unwrap(), Bytes::from_static(b"of the adapter").into()).await.unwrap();
    let python = std::env::var("BACKUP_TEST_PYTHON").unwrap_or_else(|_| "python3".into());
    let found = Command::new(&python).args(["-c", "import googleapiclient"]).output();
    assert!(
        found.is_ok_and(|out| out.status.success()),
        "google-api-python-client is missing: run the tests with scripts/test, which installs it"
    );
    let token = place.server.access_tokens().remove(0);
    let (url, folder) = (place.server.url().to_owned(), place.folder.clone());
    let run = move || Command::new(python).args(["-c", SCRIPT, &url, &token, &folder]).output().unwrap();
    let out = tokio::task::spawn_blocking(run).await.unwrap();
    assert!(out.status.success(), "{}{}", String::from_utf8_lossy(&out.stdout), String::from_utf8_lossy(&out.stderr));
    let listed: Vec<_> = destination.list(None).try_collect().await.unwrap();
    assert_eq!(listed.len(), 1, "files of others are no objects");
}
