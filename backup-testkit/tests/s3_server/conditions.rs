//! Conditions of reads and writes.

use crate::client::{BUCKET, error, refused, start};
use aws_sdk_s3::primitives::ByteStream;
use backup_testkit::s3::Quirks;

#[tokio::test]
async fn reads_hold_to_their_etag() {
    let (server, client) = start().await;
    server.put(BUCKET, "k", "old");
    let etag = client.head_object().bucket(BUCKET).key("k").send().await.unwrap().e_tag.unwrap();
    let get = || client.get_object().bucket(BUCKET).key("k");
    get().if_match(&etag).send().await.unwrap();
    assert_eq!(refused(get().if_none_match(&etag).send().await).0, 304);
    server.put(BUCKET, "k", "new");
    assert_eq!(refused(get().if_match(&etag).range("bytes=1-").send().await), error(412, "PreconditionFailed"));
    server.set_quirks(Quirks { ignores_if_match: true, ..Quirks::default() });
    get().if_match(&etag).send().await.unwrap();
}

#[tokio::test]
async fn writes_create_only_when_told_so() {
    let (server, client) = start().await;
    let put = |body: &'static [u8]| client.put_object().bucket(BUCKET).key("k").body(ByteStream::from_static(body));
    put(b"1").if_none_match("*").send().await.unwrap();
    assert_eq!(refused(put(b"2").if_none_match("*").send().await), error(412, "PreconditionFailed"));
    assert_eq!(refused(put(b"2").if_match("\"other\"").send().await), error(412, "PreconditionFailed"));
    assert_eq!(server.object(BUCKET, "k").unwrap().body, "1");
    server.set_quirks(Quirks { refuses_if_none_match: true, ..Quirks::default() });
    assert_eq!(refused(put(b"2").if_none_match("*").send().await), error(501, "NotImplemented"));
    server.set_quirks(Quirks { ignores_if_none_match: true, ..Quirks::default() });
    put(b"2").if_none_match("*").send().await.unwrap();
    assert_eq!(server.object(BUCKET, "k").unwrap().body, "2");
}
