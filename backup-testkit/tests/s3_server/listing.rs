//! Listing current objects.

use crate::client::{BUCKET, error, refused, start};
use aws_sdk_s3::types::EncodingType;
use backup_testkit::s3::{Quirks, S3BucketOptions, Synthetic};

#[tokio::test]
async fn keys_come_in_the_order_of_their_bytes_page_by_page() {
    let (server, client) = start().await;
    let mut keys = ["a", "a!", "a/", "a/b", "B", "\u{ff5e}", "\u{1f600}", "ä", "z"];
    for key in keys {
        server.put(BUCKET, key, "");
    }
    keys.sort_by_key(|key| key.as_bytes());
    let mut seen = Vec::new();
    let mut token = None;
    loop {
        let page =
            client.list_objects_v2().bucket(BUCKET).max_keys(2).set_continuation_token(token).send().await.unwrap();
        assert!(page.contents().len() <= 2);
        seen.extend(page.contents().iter().map(|one| one.key().unwrap().to_owned()));
        token = page.next_continuation_token;
        assert_eq!(page.is_truncated, Some(token.is_some()));
        if token.is_none() {
            break;
        }
    }
    assert_eq!(seen, keys);
    let after = client.list_objects_v2().bucket(BUCKET).start_after("a/").send().await.unwrap();
    assert_eq!(after.contents()[0].key(), Some("a/b"));
    let bad = client.list_objects_v2().bucket(BUCKET).continuation_token("???").send().await;
    assert_eq!(refused(bad), error(400, "InvalidArgument"));
}

#[tokio::test]
async fn prefixes_are_summed_up_at_the_delimiter() {
    let (server, client) = start().await;
    for key in ["p/a/1", "p/a/2", "p/b", "p/c/1", "q"] {
        server.put(BUCKET, key, "");
    }
    let mut seen = Vec::new();
    let mut token = None;
    loop {
        let page = client.list_objects_v2().bucket(BUCKET).prefix("p/").delimiter("/").max_keys(1);
        let page = page.set_continuation_token(token).send().await.unwrap();
        seen.extend(page.common_prefixes().iter().filter_map(|one| Some(one.prefix()?.to_owned())));
        seen.extend(page.contents().iter().filter_map(|one| Some(one.key()?.to_owned())));
        token = page.next_continuation_token;
        if token.is_none() {
            break;
        }
    }
    assert_eq!(seen, ["p/a/", "p/b", "p/c/"]);
}

#[tokio::test]
async fn names_are_encoded_when_asked_for() {
    let (server, client) = start().await;
    server.put(BUCKET, "a b+c/ü\u{1}(1).png", "");
    let list = || client.list_objects_v2().bucket(BUCKET).encoding_type(EncodingType::Url).send();
    assert_eq!(list().await.unwrap().contents()[0].key(), Some("a+b%2Bc/%C3%BC%01%281%29.png"));
    server.set_quirks(Quirks { percent_spaces: true, ..Quirks::default() });
    assert_eq!(list().await.unwrap().contents()[0].key(), Some("a%20b%2Bc/%C3%BC%01%281%29.png"));
}

#[tokio::test]
async fn a_million_keys_need_no_memory() {
    let (server, client) = start().await;
    let many = Synthetic { objects: 1_000_000, size: 1000 };
    server.create_bucket_with("many", S3BucketOptions { synthetic: Some(many), ..Default::default() });
    let page = client.list_objects_v2().bucket("many").start_after(many.key(499_999)).send().await.unwrap();
    assert_eq!(page.contents().len(), 1000);
    let first = &page.contents()[0];
    assert_eq!((first.key(), first.size()), (Some(many.key(500_000).as_str()), Some(1000)));
    let got =
        client.get_object().bucket("many").key(first.key().unwrap()).if_match(first.e_tag().unwrap()).send().await;
    assert_eq!(got.unwrap().body.collect().await.unwrap().into_bytes(), many.body(500_000));
    let last = client.list_objects_v2().bucket("many").start_after(many.key(999_998)).send().await.unwrap();
    assert_eq!((last.contents().len(), last.is_truncated()), (1, Some(false)));
    assert_eq!(refused(client.put_object().bucket("many").key("k").send().await), error(403, "AccessDenied"));
}
