//! From the first question to tokens that Google rotates and takes back.

use crate::fixture::{Place, config, quick};
use backup_core::adapter::Destination;
use backup_core::archive::generate_key_file;
use backup_core::secrets::{KeyRing, SecretKey};
use backup_core::{Error, ErrorClass, Result};
use backup_gdrive::account::{Account, AccountFile, OAuthClient, PendingConsent, TokenStore};
use backup_gdrive::{Credentials, GDrive, GDriveConfig, GDriveDestination};
use backup_testkit::faulty::When;
use backup_testkit::gdrive::{DriveFault, DriveOperation, DriveServer};
use secrecy::{ExposeSecret, SecretString};
use std::collections::HashMap;
use std::sync::Arc;

/// The browser: agrees, and comes back with what it was given.
pub(crate) async fn agree(url: &str) -> HashMap<String, String> {
    let browser = reqwest::Client::builder().redirect(reqwest::redirect::Policy::none()).build().unwrap();
    let answer = browser.get(url).send().await.unwrap();
    let status = answer.status();
    let place = answer.headers().get("location").map(|place| place.to_str().unwrap().to_owned());
    let place = place.unwrap_or_else(|| panic!("{status}"));
    url::Url::parse(&place).unwrap().query_pairs().into_owned().collect()
}

fn client(server: &DriveServer) -> OAuthClient {
    OAuthClient::new(server.client_id(), server.client_secret().into()).with_endpoint(server.url()).unwrap()
}

fn file(dir: &tempfile::TempDir) -> AccountFile {
    let ring = KeyRing::new(SecretKey::parse(&generate_key_file().unwrap()).unwrap());
    AccountFile::new(dir.path().join("account"), Arc::new(ring))
}

fn drive_of(server: &DriveServer, folder: &str, store: &AccountFile) -> GDriveDestination {
    let config = config(server, folder, "not this one");
    GDriveDestination::new(GDrive::with_token_store(config, Arc::new(store.clone())).unwrap())
}

#[tokio::test(flavor = "multi_thread")]
async fn from_the_question_to_a_stored_token_that_works() {
    const BACK: &str = "https://backups.example.org/google/callback";
    let server = DriveServer::start().await;
    let dir = tempfile::tempdir().unwrap();
    let store = file(&dir);

    let pending = client(&server).start(BACK).unwrap();
    let (state, verifier) = (pending.state().to_owned(), pending.verifier().clone());
    let answer = agree(pending.url()).await;
    // Another request, perhaps another process.
    let pending = PendingConsent::from_parts(BACK, state, verifier);
    let token = client(&server).finish(&pending, &answer["state"], &answer["code"]).await.unwrap();
    let account = Account {
        client_id: server.client_id().into(),
        client_secret: server.client_secret().into(),
        refresh_token: token,
    };
    store.write(&account).await.unwrap();

    let folder = server.make_folder("backups");
    drive_of(&server, &folder, &store).check().await.unwrap();
    // A code counts once.
    let error = client(&server).finish(&pending, &answer["state"], &answer["code"]).await.unwrap_err();
    assert_eq!(error.class(), ErrorClass::Unauthorized);
    assert!(!error.chain().contains(&answer["code"]));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_code_is_of_no_use_to_whoever_did_not_ask() {
    let server = DriveServer::start().await;
    let pending = client(&server).start("http://127.0.0.1:1/").unwrap();
    let answer = agree(pending.url()).await;
    let other = client(&server).start("http://127.0.0.1:1/").unwrap();
    let error = client(&server).finish(&other, &answer["state"], &answer["code"]).await.unwrap_err();
    assert_eq!(error.class(), ErrorClass::Invalid);
    // Even with the right state, the verifier is another.
    let stolen = PendingConsent::from_parts("http://127.0.0.1:1/", &*answer["state"], other.verifier().clone());
    let error = client(&server).finish(&stolen, &answer["state"], &answer["code"]).await.unwrap_err();
    assert_eq!(error.class(), ErrorClass::Unauthorized);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rotated_token_is_kept_and_the_next_process_uses_it() {
    let place = Place::new().await;
    let dir = tempfile::tempdir().unwrap();
    let store = file(&dir);
    let first = place.server.refresh_token();
    let account = Account {
        client_id: place.server.client_id().into(),
        client_secret: place.server.client_secret().into(),
        refresh_token: first.as_str().into(),
    };
    store.write(&account).await.unwrap();
    place.server.set_rotation(true);
    drive_of(&place.server, &place.folder, &store).check().await.unwrap();
    let second = store.load().await.unwrap().unwrap();
    assert_ne!(second.expose_secret(), first);
    assert!(place.server.refresh_tokens().contains(&second.expose_secret().to_owned()));
    drive_of(&place.server, &place.folder, &store).check().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn tokens_are_got_anew_before_they_end_and_by_one_request_at_a_time() {
    let place = Place::new().await;
    // Each counts for no longer than the time by which it is got anew early.
    place.server.set_token_life(30);
    let destination = place.destination();
    destination.check().await.unwrap();
    assert!(place.server.requests(DriveOperation::Token) > 1);
    let place = Place::new().await;
    let destination = place.destination();
    let asked = (0..20).map(|_| destination.now());
    futures::future::try_join_all(asked).await.unwrap();
    assert_eq!(place.server.requests(DriveOperation::Token), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_that_is_said_to_live_for_ever_is_a_token() {
    let place = Place::new().await;
    place.server.set_token_life(u64::MAX);
    let destination = place.destination();
    destination.check().await.unwrap();
    assert_eq!(place.server.requests(DriveOperation::Token), 1);
}

/// The address of a service account that the server knows, and its private key in PEM.
pub(crate) fn robot(server: &DriveServer) -> (&'static str, String) {
    use aws_lc_rs::encoding::AsDer as _;
    use aws_lc_rs::signature::KeyPair as _;
    use base64::Engine as _;
    const EMAIL: &str = "robot@project.iam.gserviceaccount.com";
    let pair = aws_lc_rs::rsa::KeyPair::generate(aws_lc_rs::rsa::KeySize::Rsa2048).unwrap();
    let pem = |what: &str, der: &[u8]| {
        let body = base64::engine::general_purpose::STANDARD.encode(der);
        let lines: Vec<&str> = body.as_bytes().chunks(64).map(|line| std::str::from_utf8(line).unwrap()).collect();
        format!("-----BEGIN {what}-----\n{}\n-----END {what}-----\n", lines.join("\n"))
    };
    let private = pem(
        "PRIVATE KEY",
        aws_lc_rs::encoding::AsDer::<aws_lc_rs::encoding::Pkcs8V1Der<'_>>::as_der(&pair).unwrap().as_ref(),
    );
    let public = pair.public_key();
    let public: aws_lc_rs::encoding::PublicKeyX509Der<'_> = public.as_der().unwrap();
    server.add_service_account(EMAIL, pem("PUBLIC KEY", public.as_ref()).as_bytes());
    (EMAIL, private)
}

/// A destination for which a service account signs in.
pub(crate) fn robots(server: &DriveServer, folder: &str, email: &str, private: &str) -> GDriveDestination {
    let key = serde_json::json!({
        "type": "service_account",
        "client_email": email,
        "private_key": private,
        "private_key_id": "1",
        "token_uri": format!("{}/token", server.url()),
    });
    let credentials = Credentials::ServiceAccount { key: key.to_string().into(), subject: None };
    let mut config = GDriveConfig::new(folder, credentials);
    (config.endpoint, config.quota) = (Some(server.url().to_owned()), quick());
    assert!(!format!("{config:?}").contains("PRIVATE"));
    GDriveDestination::new(GDrive::new(config).unwrap())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_service_account_signs_for_itself() {
    let server = DriveServer::start().await;
    let (email, private) = robot(&server);
    let folder = server.make_folder("backups");
    robots(&server, &folder, email, &private).check().await.unwrap();
    let other = robots(&server, &folder, "another@project.iam.gserviceaccount.com", &private);
    let error = other.check().await.unwrap_err();
    assert_eq!(error.class(), ErrorClass::Unauthorized, "{}", error.chain());
    // Two clocks agree, so that signing again would be of no use.
    assert_eq!(server.requests(DriveOperation::Token), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_service_account_signs_in_although_the_clock_is_wrong() {
    for hours in [-30, -2, 2, 30] {
        let server = DriveServer::start().await;
        server.set_clock_offset(hours * 3600);
        let (email, private) = robot(&server);
        let folder = server.make_folder("backups");
        let destination = robots(&server, &folder, email, &private);
        destination.check().await.unwrap_or_else(|e| panic!("{hours}: {}", e.chain()));
        assert_eq!(server.requests(DriveOperation::Token), 2, "{hours}");
    }
}

/// A store that takes nothing for a while.
#[derive(Debug)]
struct Stubborn {
    inner: AccountFile,
    refusals: std::sync::atomic::AtomicU32,
}

#[async_trait::async_trait]
impl TokenStore for Stubborn {
    async fn load(&self) -> Result<Option<SecretString>> {
        self.inner.load().await
    }

    async fn save(&self, refresh_token: &SecretString, instead_of: &SecretString) -> Result<()> {
        use std::sync::atomic::Ordering;
        if self.refusals.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| left.checked_sub(1)).is_ok() {
            return Err(Error::no_space("the disk is full"));
        }
        self.inner.save(refresh_token, instead_of).await
    }
}

/// The one from before counts no more as soon as another was given: what cannot be kept now is used, and kept later.
#[tokio::test(flavor = "multi_thread")]
async fn a_rotated_token_that_cannot_be_kept_at_once_is_not_lost() {
    for refusals in [1, 2, 3] {
        let place = Place::new().await;
        let dir = tempfile::tempdir().unwrap();
        let store = file(&dir);
        let account = |token: String| Account {
            client_id: place.server.client_id().into(),
            client_secret: place.server.client_secret().into(),
            refresh_token: token.into(),
        };
        store.write(&account(place.server.refresh_token())).await.unwrap();
        place.server.set_rotation(true);
        let stubborn = Arc::new(Stubborn { inner: store.clone(), refusals: refusals.into() });
        let config = config(&place.server, &place.folder, "not this one");
        let destination = GDriveDestination::new(GDrive::with_token_store(config, stubborn.clone()).unwrap());
        for _ in 0..3 {
            destination.now().await.unwrap_or_else(|e| panic!("{refusals}: {}", e.chain()));
            place.server.expire_access_tokens();
        }
        assert_eq!(stubborn.refusals.load(std::sync::atomic::Ordering::Relaxed), 0);
        destination.now().await.unwrap();
        let kept = store.load().await.unwrap().unwrap();
        assert!(place.server.refresh_tokens().contains(&kept.expose_secret().to_owned()), "{refusals}");

        // Somebody signs in anew while a token waits to be kept: that one counts.
        stubborn.refusals.store(1, std::sync::atomic::Ordering::Relaxed);
        place.server.expire_access_tokens();
        destination.now().await.unwrap();
        place.server.revoke_all();
        store.write(&account(place.server.refresh_token())).await.unwrap();
        destination.now().await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn trouble_of_the_token_address_is_told_apart() {
    let class_of = async |fault| {
        let place = Place::new().await;
        place.server.faults().add(DriveOperation::Token, When::Always, fault);
        place.destination().now().await.unwrap_err().class()
    };
    assert_eq!(class_of(DriveFault::unavailable()).await, ErrorClass::Transient);
    assert_eq!(class_of(DriveFault::Drop).await, ErrorClass::Transient);
    assert_eq!(class_of(DriveFault::NotJson).await, ErrorClass::Transient);
    let place = Place::new().await;
    place.server.revoke_all();
    let error = place.destination().now().await.unwrap_err();
    assert!(error.class() == ErrorClass::Unauthorized && error.chain().contains("sign in again"), "{}", error.chain());
}
