//! No secret gets into logs, errors or what `Debug` shows: with everything logged, under faults.

use crate::accounts::{agree, robot, robots};
use crate::fixture::{Place, config};
use backup_core::adapter::Destination;
use backup_core::model::ObjectName;
use backup_gdrive::account::{Account, AccountFile, OAuthClient};
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

/// A sign-in in a file, whose refresh token is rotated, and taken back.
async fn kept_and_rotated(place: &Place, secrets: &mut Vec<String>) -> String {
    let dir = tempfile::tempdir().unwrap();
    let key = backup_core::archive::generate_key_file().unwrap();
    let ring = backup_core::secrets::KeyRing::new(backup_core::secrets::SecretKey::parse(&key).unwrap());
    let file = AccountFile::new(dir.path().join("account"), Arc::new(ring));
    let account = Account {
        client_id: place.server.client_id().into(),
        client_secret: place.server.client_secret().into(),
        refresh_token: place.server.refresh_token().into(),
    };
    file.write(&account).await.unwrap();
    place.server.set_rotation(true);
    let config = config(&place.server, &place.folder, "not this one");
    let drive = GDrive::with_token_store(config, Arc::new(file.clone())).unwrap();
    let destination = GDriveDestination::new(drive);
    destination.check().await.unwrap();
    place.server.expire_access_tokens();
    let text = std::fs::read_to_string(file.path()).unwrap();
    // Nobody can read it any more.
    std::fs::write(file.path(), text.replace('A', "B")).unwrap();
    let failed = destination.now().await;
    secrets
        .extend(key.expose_secret().lines().filter(|line| line.len() > 20 && !line.contains(' ')).map(str::to_owned));
    format!("{account:?}{file:?}{destination:?}{failed:?}{text}")
}

/// A service account, and another that is refused.
async fn of_a_robot(place: &Place, secrets: &mut Vec<String>) -> String {
    let (email, private) = robot(&place.server);
    let destination = robots(&place.server, &place.folder, email, &private);
    destination.check().await.unwrap();
    let other = robots(&place.server, &place.folder, "another@project.iam.gserviceaccount.com", &private);
    let error = other.check().await.unwrap_err();
    // A line in the middle of the key; and what was signed, which begins with its kind.
    secrets.push(private.lines().nth(5).unwrap().to_owned());
    secrets.push("eyJ0eXAi".to_owned());
    format!("{destination:?}{error:?}{}", error.chain())
}

/// On one thread, so that the log of this test is its own.
#[test]
fn with_everything_logged_no_secret_is_seen() {
    // With one subscriber alone, what the other tests' threads come to first would count as not wanted by anybody
    // (`tracing_core::callsite`).
    let _second = tracing::Dispatch::new(tracing_subscriber::registry());
    let log = Log::default();
    let made = log.clone();
    let subscriber = tracing_subscriber::fmt()
        .with_max_level(tracing_subscriber::filter::LevelFilter::TRACE)
        .with_writer(move || made.clone());
    // Libraries below log through `log`.
    tracing_log::LogTracer::init().unwrap();
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
                let name = ObjectName::new(format!("a/{n}")).unwrap();
                let put = destination.put(&name, Bytes::from_static(b"content").into()).await;
                shown += &format!("{put:?}");
                shown += &put.err().map(|e| e.chain()).unwrap_or_default();
            }
            place.server.faults().clear();
            shown += &kept_and_rotated(&place, &mut secrets).await;
            shown += &of_a_robot(&place, &mut secrets).await;
            secrets.extend(place.server.secrets());
            place.server.revoke_all();
            let error = destination.now().await.unwrap_err();
            shown += &format!("{error:?}{}{drive:?}{destination:?}{:?}", error.chain(), destination.identity());
            secrets.push(place.server.client_secret().to_owned());
        });
    });
    let logged = String::from_utf8_lossy(&log.0.lock().unwrap()).into_owned();
    assert!(logged.contains("backup_gdrive::send"), "nothing was logged: {logged}");
    assert!(logged.contains("reqwest::connect"), "nothing came from the libraries below: {logged}");
    assert!(secrets.len() > 20);
    for secret in secrets {
        assert!(!logged.contains(&secret), "logged: {secret}");
        assert!(!shown.contains(&secret), "shown: {secret}");
    }
}
