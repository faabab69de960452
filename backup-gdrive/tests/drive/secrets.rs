//! No secret gets into logs, errors or what `Debug` shows: with everything logged, under faults.

use crate::accounts::agree;
use crate::fixture::{Place, config};
use backup_core::adapter::Destination;
use backup_core::model::ObjectName;
use backup_gdrive::account::OAuthClient;
use backup_gdrive::{GDrive, GDriveDestination};
use backup_testkit::faulty::When;
use backup_testkit::gdrive::{DriveFault, DriveOperation};
use bytes::Bytes;
use secrecy::ExposeSecret;
use std::sync::{Arc, Mutex};

#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<u8>>>);

impl std::io::Write for Log {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

/// On one thread, so that the log of this test is its own.
#[test]
fn with_everything_logged_no_secret_is_seen() {
    let log = Log::default();
    let made = log.clone();
    let subscriber = tracing_subscriber::fmt()
        .with_max_level(tracing_subscriber::filter::LevelFilter::TRACE)
        .with_writer(move || made.clone());
    // Libraries below log through `log`.
    let mut secrets = Vec::new();
    let mut shown = String::new();
    tracing::subscriber::with_default(subscriber.finish(), || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let place = Place::new().await;
            let client = OAuthClient::new(place.server.client_id(), place.server.client_secret().into());
            let client = client.with_endpoint(place.server.url()).unwrap();
            let pending = client.start("http://127.0.0.1:1/back").unwrap();
            let answer = agree(pending.url()).await;
            let token = client.finish(&pending, &answer["state"], &answer["code"]).await.unwrap();
            secrets.extend([answer["code"].clone(), pending.verifier().expose_secret().to_owned()]);
            let config = config(&place.server, &place.folder, token.expose_secret());
            shown += &format!("{client:?}{pending:?}{config:?}");
            let drive = GDrive::new(config).unwrap();
            let destination = GDriveDestination::new(drive.clone());
            destination.check().await.unwrap();
            for (n, fault) in [
                DriveFault::LostReply,
                DriveFault::SessionGone { status: 404 },
                DriveFault::Fail { status: 400, reason: "badRequest" },
                DriveFault::Fail { status: 403, reason: "forbidden" },
                DriveFault::NotJson,
                DriveFault::Drop,
            ]
            .into_iter()
            .enumerate()
            {
                place.server.faults().clear();
                place.server.faults().add(DriveOperation::UploadChunk, When::Nth(1), fault);
                secrets.extend(place.server.session_ids());
                let name = ObjectName::new(format!("a/{n}")).unwrap();
                let put = destination.put(&name, Bytes::from_static(b"content").into()).await;
                shown += &format!("{put:?}");
                shown += &put.err().map(|e| e.chain()).unwrap_or_default();
                secrets.extend(place.server.session_ids());
            }
            place.server.faults().clear();
            secrets.extend(place.server.access_tokens());
            secrets.extend(place.server.refresh_tokens());
            place.server.revoke_all();
            let error = destination.now().await.unwrap_err();
            shown += &format!("{error:?}{}{drive:?}{destination:?}{:?}", error.chain(), destination.identity());
            secrets.push(place.server.client_secret().to_owned());
        });
    });
    let logged = String::from_utf8_lossy(&log.0.lock().unwrap()).into_owned();
    assert!(logged.contains("upload") || logged.contains("trying again"), "nothing was logged: {logged}");
    assert!(secrets.len() > 10);
    for secret in secrets {
        assert!(!logged.contains(&secret), "logged: {secret}");
        assert!(!shown.contains(&secret), "shown: {secret}");
    }
}
