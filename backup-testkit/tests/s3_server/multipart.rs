//! Objects out of parts.

use crate::client::{BUCKET, error, refused, start};
use aws_sdk_s3::Client;
use aws_sdk_s3::operation::complete_multipart_upload::builders::CompleteMultipartUploadFluentBuilder;
use aws_sdk_s3::types::{CompletedMultipartUpload, CompletedPart, StorageClass};
use backup_testkit::s3::Quirks;

const MIB: usize = 1 << 20;

async fn create(client: &Client) -> String {
    let made = client.create_multipart_upload().bucket(BUCKET).key("k").metadata("a", "b");
    made.content_type("text/x")
        .tagging("t=1")
        .storage_class(StorageClass::StandardIa)
        .send()
        .await
        .unwrap()
        .upload_id
        .unwrap()
}

async fn part(client: &Client, id: &str, number: i32, size: usize) -> CompletedPart {
    let body = vec![number as u8; size].into();
    let part = client.upload_part().bucket(BUCKET).key("k").upload_id(id).part_number(number).body(body);
    CompletedPart::builder().part_number(number).set_e_tag(part.send().await.unwrap().e_tag).build()
}

fn complete(client: &Client, id: &str, parts: &[&CompletedPart]) -> CompleteMultipartUploadFluentBuilder {
    let parts = parts.iter().map(|part| (*part).clone()).collect();
    let parts = CompletedMultipartUpload::builder().set_parts(Some(parts)).build();
    client.complete_multipart_upload().bucket(BUCKET).key("k").upload_id(id).multipart_upload(parts)
}

#[tokio::test]
async fn parts_become_an_object() {
    let (server, client) = start().await;
    let id = create(&client).await;
    let one = part(&client, &id, 1, 5 * MIB).await;
    let three = part(&client, &id, 3, 10).await;
    assert_eq!(server.uploads(BUCKET)[0].parts, [1, 3]);
    assert!(server.objects(BUCKET).is_empty());
    let listed = client.list_multipart_uploads().bucket(BUCKET).send().await.unwrap();
    assert_eq!(listed.uploads()[0].upload_id(), Some(id.as_str()));
    let listed = client.list_parts().bucket(BUCKET).key("k").upload_id(&id).max_parts(1).send().await.unwrap();
    assert_eq!((listed.parts()[0].size(), listed.is_truncated()), (Some(5 * MIB as i64), Some(true)));
    let rest = client.list_parts().bucket(BUCKET).key("k").upload_id(&id).part_number_marker("1").send().await.unwrap();
    assert_eq!((rest.parts().len(), rest.parts()[0].e_tag()), (1, three.e_tag()));
    let done = complete(&client, &id, &[&one, &three]).send().await.unwrap();
    assert!(done.e_tag().unwrap().ends_with("-2\""));
    let object = server.object(BUCKET, "k").unwrap();
    assert_eq!((object.body.len(), object.body[0], object.body[5 * MIB]), (5 * MIB + 10, 1, 3));
    assert_eq!((object.metadata["a"].as_str(), object.tags["t"].as_str()), ("b", "1"));
    assert_eq!(
        (object.headers.content_type.as_deref(), object.storage_class.as_str()),
        (Some("text/x"), "STANDARD_IA")
    );
    assert_eq!(refused(complete(&client, &id, &[&one]).send().await), error(404, "NoSuchUpload"));
    assert!(server.uploads(BUCKET).is_empty());
}

#[tokio::test]
async fn a_wrong_list_of_parts_is_refused_and_the_upload_stays() {
    let (server, client) = start().await;
    let id = create(&client).await;
    let one = part(&client, &id, 1, MIB).await;
    let two = part(&client, &id, 2, MIB).await;
    let stranger = CompletedPart::builder().part_number(2).e_tag("\"00000000000000000000000000000000\"").build();
    let missing = CompletedPart::builder().part_number(4).set_e_tag(one.e_tag.clone()).build();
    for (parts, code) in [
        (vec![&two, &one], "InvalidPartOrder"),
        (vec![&one, &stranger], "InvalidPart"),
        (vec![&one, &missing], "InvalidPart"),
        (vec![&one, &two], "EntityTooSmall"),
        (vec![], "MalformedXML"),
    ] {
        assert_eq!(refused(complete(&client, &id, &parts).send().await), error(400, code));
    }
    server.put(BUCKET, "k", "there");
    let create_only = complete(&client, &id, &[&two]).if_none_match("*").send().await;
    assert_eq!(refused(create_only), error(412, "PreconditionFailed"));
    assert_eq!(server.uploads(BUCKET).len(), 1);
    complete(&client, &id, &[&two]).send().await.unwrap();
    assert_eq!(server.object(BUCKET, "k").unwrap().body.len(), MIB);
}

#[tokio::test]
async fn an_aborted_upload_is_gone() {
    let (server, client) = start().await;
    let id = create(&client).await;
    let one = part(&client, &id, 1, 1).await;
    let abort = || client.abort_multipart_upload().bucket(BUCKET).key("k").upload_id(&id).send();
    abort().await.unwrap();
    assert_eq!(refused(abort().await), error(404, "NoSuchUpload"));
    assert_eq!(refused(complete(&client, &id, &[&one]).send().await), error(404, "NoSuchUpload"));
    assert!(server.objects(BUCKET).is_empty());
}

#[tokio::test]
async fn other_servers_have_their_own_rules_for_parts() {
    let (server, client) = start().await;
    let id = create(&client).await;
    server.set_quirks(Quirks {
        lists_parts_twice: true,
        wants_equal_parts: true,
        most_parts: Some(3),
        ..Quirks::default()
    });
    part(&client, &id, 1, 1).await;
    let one = part(&client, &id, 1, 5 * MIB).await;
    let listed = client.list_parts().bucket(BUCKET).key("k").upload_id(&id).send().await.unwrap();
    assert_eq!(listed.parts().iter().map(|part| part.size().unwrap()).collect::<Vec<_>>(), [1, 5 * MIB as i64]);
    let two = part(&client, &id, 2, 6 * MIB).await;
    let three = part(&client, &id, 3, 1).await;
    let four = part(&client, &id, 4, 1).await;
    let invalid = |parts: Vec<CompletedPart>| {
        let request = complete(&client, &id, &parts.iter().collect::<Vec<_>>());
        async move { refused(request.send().await) }
    };
    assert_eq!(invalid(vec![one.clone(), two, three.clone()]).await, error(400, "InvalidPart"));
    assert_eq!(invalid(vec![one.clone(), four]).await, error(400, "InvalidPart"));
    complete(&client, &id, &[&one, &three]).send().await.unwrap();
}
