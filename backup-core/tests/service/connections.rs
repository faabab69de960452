//! Connections: checked before they are stored, never shown with their secrets.

use crate::common::{PASSWORD, Place, ring};
use async_trait::async_trait;
use backup_core::adapter::{ConnectionStore, Source};
use backup_core::local::{LocalSource, LocalSourceConfig};
use backup_core::model::ConnectionQuery;
use backup_core::secrets::{KeyRing, SecretKey};
use backup_core::service::{
    Adapter, AdapterConfig, BackupService, ConnectionChange, ConnectionView, NewBackup, NewConnection, Role,
};
use backup_core::{Error, ErrorClass, Result};
use backup_testkit::Method;
use backup_testkit::faulty::{Fault, FaultyStore, Rule, Script, When};
use secrecy::{ExposeSecret, SecretString};
use serde_json::{Value, json};
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::Duration;

#[tokio::test]
async fn a_connection_that_does_not_work_is_not_stored() {
    let place = Place::new();
    let service = place.service();
    let missing =
        service.create_connection(NewConnection::new("x", "local", place.config("missing"))).await.unwrap_err();
    assert!(missing.chain().contains("does not work") && missing.chain().contains("missing"), "{}", missing.chain());
    let refused =
        service.create_connection(NewConnection::new("x", "vault", place.vault("docs", "wrong"))).await.unwrap_err();
    assert_eq!(refused.class(), ErrorClass::Unauthorized);
    assert!(refused.chain().contains("refuses the password"), "{}", refused.chain());
    for (kind, config, class) in [
        ("ftp", "{}", ErrorClass::Unsupported),
        ("local", "[1]", ErrorClass::Invalid),
        ("local", "{\"path\":\"relative\"}", ErrorClass::Invalid),
        ("local", "{\"path\":\"/\",\"colour\":1}", ErrorClass::Invalid),
        ("vault", "{\"path\":\"/\",\"login\":{\"password\":17}}", ErrorClass::Invalid),
    ] {
        let error = service.create_connection(NewConnection::new("x", kind, config.into())).await.unwrap_err();
        assert_eq!(error.class(), class, "{kind} {config}: {error:?}");
    }
    assert!(service.connections(&ConnectionQuery::default()).await.unwrap().is_empty());
}

#[tokio::test]
async fn a_connection_is_shown_without_its_secrets() {
    let place = Place::new();
    let service = place.service();
    let made =
        service.create_connection(NewConnection::new("v", "vault", place.vault("docs", PASSWORD))).await.unwrap();
    assert!(made.has_secrets && made.last_check.as_ref().unwrap().error.is_none());
    assert_eq!(made.config, json!({ "path": place.path("docs"), "login": {} }));
    assert_eq!(service.connection(&made.id).await.unwrap(), made);
    assert_eq!(service.find_connection("v").await.unwrap(), made);
    assert_eq!(service.find_connection(made.id.as_str()).await.unwrap(), made);
    assert_eq!(service.find_connection("w").await.unwrap_err().class(), ErrorClass::NotFound);
    let stored = place.store.connection(&made.id).await.unwrap().unwrap();
    assert!(stored.content.secret.as_ref().unwrap().0.starts_with("sealed-1."));
    for text in [format!("{made:?} {stored:?} {service:?}"), serde_json::to_string(&made).unwrap()] {
        assert!(!text.contains("hunter2"), "{text}");
    }
}

#[tokio::test]
async fn a_change_is_checked_and_keeps_what_it_does_not_name() {
    let place = Place::new();
    std::fs::create_dir(place.path("more")).unwrap();
    let service = place.service();
    let made =
        service.create_connection(NewConnection::new("v", "vault", place.vault("docs", PASSWORD))).await.unwrap();
    let change = |config: serde_json::Value| ConnectionChange {
        config: Some(config.to_string().into()),
        ..ConnectionChange::default()
    };
    let wrong = change(json!({ "login": { "password": "wrong" } }));
    let error = service.update_connection(&made.id, made.version, wrong).await.unwrap_err();
    assert_eq!(error.class(), ErrorClass::Unauthorized);
    assert_eq!(service.connection(&made.id).await.unwrap(), made);

    // The password stays, as the check shows.
    let moved = change(json!({ "path": place.path("more") }));
    let moved = service.update_connection(&made.id, made.version, moved).await.unwrap();
    assert_eq!(moved.config["path"], json!(place.path("more")));
    assert!(moved.has_secrets && moved.version == 2);
    let named = ConnectionChange { name: Some("w".into()), ..ConnectionChange::default() };
    let late = service.update_connection(&made.id, made.version, named.clone()).await.unwrap_err();
    assert_eq!(late.class(), ErrorClass::Conflict);
    assert_eq!(service.update_connection(&made.id, 2, named).await.unwrap().name, "w");
}

#[tokio::test]
async fn a_check_is_kept_whatever_it_finds() {
    let place = Place::new();
    let service = place.service();
    let (docs, _) = place.connect(&service).await;
    std::fs::rename(place.path("docs"), place.path("away")).unwrap();
    let found = service.check_connection(&docs, &[]).await.unwrap().last_check.unwrap();
    assert!(found.error.as_ref().unwrap().contains("docs"), "{found:?}");
    std::fs::rename(place.path("away"), place.path("docs")).unwrap();
    service.check_connection(&docs, &[Role::Source, Role::Destination]).await.unwrap();
    assert_eq!(service.connection(&docs).await.unwrap().last_check.unwrap().error, None);
}

#[tokio::test]
async fn what_an_operation_works_with_is_not_deleted() {
    let place = Place::new();
    let service = place.builder().without_worker().build().unwrap();
    let (docs, disk) = place.connect(&service).await;
    let backup = service.backup(NewBackup::new(&docs, &disk)).await.unwrap();
    for id in [&docs, &disk] {
        let error = service.delete_connection(id).await.unwrap_err();
        assert!(error.class() == ErrorClass::Conflict && error.to_string().contains(backup.new.id.as_str()), "{error}");
    }
    service.cancel(&backup.new.id).await.unwrap();
    for id in [&docs, &disk] {
        service.delete_connection(id).await.unwrap();
        assert_eq!(service.delete_connection(id).await.unwrap_err().class(), ErrorClass::NotFound);
    }
    let gone = service.backup(NewBackup::new(&docs, &disk)).await.unwrap_err();
    assert_eq!(gone.class(), ErrorClass::NotFound);
}

#[tokio::test]
async fn secrets_open_only_with_their_key_and_for_their_connection() {
    let place = Place::new();
    let service = place.service();
    let one = service.create_connection(NewConnection::new("1", "vault", place.vault("docs", PASSWORD))).await.unwrap();
    let two = service.create_connection(NewConnection::new("2", "vault", place.vault("docs", PASSWORD))).await.unwrap();
    let found = |view: backup_core::service::ConnectionView| view.last_check.unwrap().error.unwrap_or_default();

    let other = place.builder().keys(ring()).build().unwrap();
    assert!(found(other.check_connection(&one.id, &[]).await.unwrap()).contains("not among those given"));
    assert_eq!(found(service.check_connection(&one.id, &[]).await.unwrap()), "");

    // Somebody with access to the database swaps the secrets of two connections, or changes one.
    let stored = async |id| place.store.connection(id).await.unwrap().unwrap();
    let (left, right) = (stored(&one.id).await, stored(&two.id).await);
    let mut swapped = left.content.clone();
    swapped.secret = right.content.secret.clone();
    place.store.update_connection(&one.id, left.version, swapped).await.unwrap();
    assert!(found(service.check_connection(&one.id, &[]).await.unwrap()).contains("belongs to another place"));
    let mut tampered = right.content.clone();
    let secret = tampered.secret.as_mut().unwrap();
    let last = secret.0.pop().unwrap();
    secret.0.push(if last == 'A' { 'E' } else { 'A' });
    place.store.update_connection(&two.id, right.version, tampered).await.unwrap();
    assert!(found(service.check_connection(&two.id, &[]).await.unwrap()).contains("was changed"));
}

#[tokio::test]
async fn after_resealing_the_newest_key_suffices() {
    let place = Place::new();
    let (old, new) =
        (backup_core::archive::generate_key_file().unwrap(), backup_core::archive::generate_key_file().unwrap());
    let key = |text| SecretKey::parse(text).unwrap();
    let before = place.builder().keys(Arc::new(KeyRing::new(key(&old)))).build().unwrap();
    for name in ["1", "2"] {
        before.create_connection(NewConnection::new(name, "vault", place.vault("docs", PASSWORD))).await.unwrap();
    }
    place.connect(&before).await;
    let both = Arc::new(KeyRing::new(key(&new)).with_older([key(&old)]));
    let service = place.builder().keys(both).build().unwrap();
    // One that nobody can open, the first of all, keeps no other from being seen to.
    let long_ago = Arc::new(|| jiff::Timestamp::from_second(1_000_000_000).unwrap());
    let elsewhere = place.builder().keys(ring()).clock(long_ago).build().unwrap();
    let foreign = NewConnection::new("0", "vault", place.vault("docs", PASSWORD));
    let foreign = elsewhere.create_connection(foreign).await.unwrap().id;
    assert_eq!(service.reseal_connections().await.unwrap_err().class(), ErrorClass::Unauthorized);
    service.delete_connection(&foreign).await.unwrap();
    assert_eq!(service.reseal_connections().await.unwrap(), 0);
    before.create_connection(NewConnection::new("3", "vault", place.vault("docs", PASSWORD))).await.unwrap();
    assert_eq!(service.reseal_connections().await.unwrap(), 1);
    let alone = place.builder().keys(Arc::new(KeyRing::new(key(&new)))).build().unwrap();
    for connection in alone.connections(&ConnectionQuery::default()).await.unwrap() {
        let checked = alone.check_connection(&connection.id, &[]).await.unwrap();
        assert_eq!(checked.last_check.unwrap().error, None, "{}", connection.name);
    }
}

#[tokio::test]
async fn every_adapter_describes_its_configuration() {
    let place = Place::new();
    let adapters = place.service().adapters();
    let kinds: Vec<&str> = adapters.iter().map(|adapter| adapter.kind.as_str()).collect();
    assert_eq!(kinds, ["local", "vault"]);
    assert_eq!(adapters[0].config_schema["properties"]["path"]["type"], "string");
    assert_eq!(adapters[0].options_schemas.len(), adapters[0].roles.len());
    let twice = place.builder().adapter(crate::common::VaultAdapter).build().unwrap_err();
    assert_eq!(twice.class(), ErrorClass::Conflict);
}

/// Gives another token at each sign-in; the one before counts no more.
#[derive(Clone, Debug, Default)]
struct Rotating(Arc<Mutex<u32>>);

#[derive(serde::Deserialize)]
struct RotatingConfig {
    path: PathBuf,
    token: SecretString,
}

#[async_trait]
impl Adapter for Rotating {
    fn kind(&self) -> &str {
        "rotating"
    }

    fn roles(&self) -> &[Role] {
        &[Role::Source]
    }

    fn config_schema(&self) -> Value {
        json!({ "type": "object", "properties": {
            "path": { "type": "string" }, "token": { "type": "string", "writeOnly": true },
        } })
    }

    async fn source(&self, config: &AdapterConfig, _: &Value) -> Result<Arc<dyn Source>> {
        let RotatingConfig { path, token } = config.parse()?;
        let next = {
            let mut counts = self.0.lock().unwrap();
            if token.expose_secret() != format!("token-{counts}") {
                return Err(Error::unauthorized("this token counts no more"));
            }
            *counts += 1;
            SecretString::from(format!("token-{counts}"))
        };
        config.keeper().unwrap().save("/token", &next, &token).await?;
        if path.ends_with("slow") {
            std::future::pending::<()>().await;
        }
        Ok(Arc::new(LocalSource::new(LocalSourceConfig { root: path, ..LocalSourceConfig::default() })?))
    }
}

#[tokio::test]
async fn a_token_that_is_replaced_while_a_change_fails_is_not_lost() {
    let place = Place::new();
    let service = place.builder().adapter(Rotating::default()).without_worker().build().unwrap();
    let config = json!({ "path": place.path("docs"), "token": "token-0" }).to_string();
    let made = service.create_connection(NewConnection::new("r", "rotating", config.into())).await.unwrap();
    let change = |config: Value| ConnectionChange { config: Some(config.to_string().into()), ..Default::default() };
    let change_path = |path: &str| change(json!({ "path": place.path(path) }));

    // The place does not work, or the change cannot be stored.
    let missing = service.update_connection(&made.id, made.version, change_path("missing")).await.unwrap_err();
    assert!(missing.chain().contains("does not work"), "{}", missing.chain());
    service.create_connection(NewConnection::new("taken", "local", place.config("docs"))).await.unwrap();
    let version = service.connection(&made.id).await.unwrap().version;
    let taken = ConnectionChange { name: Some("taken".into()), ..change_path("docs") };
    let taken = service.update_connection(&made.id, version, taken).await.unwrap_err();
    assert_eq!(taken.class(), ErrorClass::Conflict);
    let kept = service.connection(&made.id).await.unwrap();
    assert_eq!((kept.name, kept.config), ("r".into(), made.config));

    // A token of the change itself that counts no more is nothing to keep.
    let wrong = change(json!({ "token": "token-0" }));
    service.update_connection(&made.id, kept.version, wrong).await.unwrap_err();
    let works = service.check_connection(&made.id, &[]).await.unwrap().last_check.unwrap();
    assert_eq!(works.error, None);
    let version = service.connection(&made.id).await.unwrap().version;
    service.update_connection(&made.id, version, change_path("docs")).await.unwrap();
    assert_eq!(service.check_connection(&made.id, &[]).await.unwrap().last_check.unwrap().error, None);
}

fn change(config: &Value) -> ConnectionChange {
    ConnectionChange { config: Some(config.to_string().into()), ..ConnectionChange::default() }
}

/// A service whose store fails by a script, and a connection whose token is another at each use.
async fn rotating(place: &Place) -> (BackupService, Script, Rotating, ConnectionView) {
    let script = Script::new();
    let store = FaultyStore::new(Arc::new(place.store.clone()), script.clone());
    let adapter = Rotating::default();
    let service = place.builder_on(store).adapter(adapter.clone()).without_worker().build().unwrap();
    let config = json!({ "path": place.path("docs"), "token": "token-0" }).to_string();
    let made = service.create_connection(NewConnection::new("r", "rotating", config.into())).await.unwrap();
    (service, script, adapter, made)
}

async fn works(service: &BackupService, made: &ConnectionView) {
    assert_eq!(service.check_connection(&made.id, &[]).await.unwrap().last_check.unwrap().error, None);
}

#[tokio::test]
async fn a_replaced_token_waits_for_a_store_that_is_away() {
    let place = Place::new();
    let (service, script, _, made) = rotating(&place).await;
    script.add(Rule::new(Method::UpdateConnection, When::First(2), Fault::Fail(ErrorClass::Transient)));
    works(&service, &made).await;
    works(&service, &made).await;
}

#[tokio::test]
async fn a_replaced_token_is_kept_also_when_nobody_waits_for_it() {
    let place = Place::new();
    let (service, script, _, made) = rotating(&place).await;
    let slow = || change(&json!({ "path": place.path("slow") }));
    let dropped = async |version| {
        let update = service.update_connection(&made.id, version, slow());
        assert!(tokio::time::timeout(Duration::from_millis(100), update).await.is_err(), "it is not slow");
    };
    // While it checks, and while the token is written.
    dropped(made.version).await;
    let now = service.connection(&made.id).await.unwrap();
    assert_eq!((now.version, &now.config), (made.version + 1, &made.config));
    script.add(Rule::new(Method::UpdateConnection, When::First(1), Fault::Delay(Duration::from_millis(300))));
    dropped(now.version).await;
    for _ in 0..100 {
        if service.connection(&made.id).await.unwrap().version > now.version {
            break;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    works(&service, &made).await;
}

#[tokio::test]
async fn a_change_goes_on_from_the_token_that_it_kept_but_not_over_what_others_changed() {
    let place = Place::new();
    let (service, _, _, made) = rotating(&place).await;
    std::fs::create_dir(place.path("more")).unwrap();
    let moved = change(&json!({ "path": place.path("more") }));
    let moved = service.update_connection(&made.id, made.version, moved).await.unwrap();
    assert_eq!((moved.version, &moved.config), (made.version + 2, &json!({ "path": place.path("more") })));
    let late = service.update_connection(&made.id, made.version, change(&json!({}))).await.unwrap_err();
    assert_eq!(late.class(), ErrorClass::Conflict);
    works(&service, &made).await;
}

#[tokio::test]
async fn a_name_that_cannot_be_had_is_told_before_a_check_replaces_the_token() {
    let place = Place::new();
    let (service, _, adapter, made) = rotating(&place).await;
    let config = || json!({ "path": place.path("docs"), "token": "token-1" }).to_string().into();
    for (name, class) in [("r", ErrorClass::Conflict), (" r", ErrorClass::Invalid)] {
        let refused = service.create_connection(NewConnection::new(name, "rotating", config())).await.unwrap_err();
        assert_eq!(refused.class(), class);
    }
    service.create_connection(NewConnection::new("taken", "local", place.config("docs"))).await.unwrap();
    let renamed = ConnectionChange { name: Some("taken".into()), ..change(&json!({})) };
    let refused = service.update_connection(&made.id, made.version, renamed).await.unwrap_err();
    assert_eq!(refused.class(), ErrorClass::Conflict);
    assert_eq!(*adapter.0.lock().unwrap(), 1, "the token was replaced");
    let same = ConnectionChange { name: Some("r".into()), ..ConnectionChange::default() };
    service.update_connection(&made.id, made.version, same).await.unwrap();
}

/// An adapter whose password is not needed for a check would lose it without a word.
#[tokio::test]
async fn secrets_that_cannot_be_opened_are_not_lost_with_a_change_of_something_else() {
    let place = Place::new();
    let config = json!({ "path": place.path("docs"), "token": "token-0" }).to_string();
    let careless = || place.builder().adapter(Careless);
    let first = careless().build().unwrap();
    let made = first.create_connection(NewConnection::new("c", "careless", config.into())).await.unwrap();
    let other = careless().keys(ring()).build().unwrap();
    let plain = change(&json!({ "path": place.path("docs") }));
    let refused = other.update_connection(&made.id, made.version, plain).await.unwrap_err();
    assert_eq!(refused.class(), ErrorClass::Unauthorized);
    assert_eq!(first.connection(&made.id).await.unwrap().version, made.version);
    let anew = change(&json!({ "token": "another" }));
    assert!(other.update_connection(&made.id, made.version, anew).await.unwrap().has_secrets);
}

/// Has a secret that it does without.
#[derive(Debug)]
struct Careless;

#[async_trait]
impl Adapter for Careless {
    fn kind(&self) -> &str {
        "careless"
    }

    fn roles(&self) -> &[Role] {
        &[Role::Source]
    }

    fn config_schema(&self) -> Value {
        Rotating::default().config_schema()
    }

    async fn source(&self, config: &AdapterConfig, _: &Value) -> Result<Arc<dyn Source>> {
        let config: Value = config.parse()?;
        let root = PathBuf::from(config["path"].as_str().unwrap());
        Ok(Arc::new(LocalSource::new(LocalSourceConfig { root, ..LocalSourceConfig::default() })?))
    }
}
