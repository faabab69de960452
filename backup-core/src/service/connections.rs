//! Connections: stored configuration of places, whose secrets nobody sees again.

use super::BackupService;
use super::adapter::{Adapter, Role};
use super::config::{self, AdapterConfig};
use super::keeper::{ConnectionKeeper, UnstoredKeeper};
use crate::adapter::{Destination, RestoreTarget, Source, check_connection_name, connection_name_taken};
use crate::model::{
    Connection, ConnectionCheck, ConnectionContent, ConnectionId, ConnectionQuery, Identity, NewConnection as Stored,
    SealedSecret,
};
use crate::secrets::{open_connection, reseal_connection, seal_connection};
use crate::{Error, ErrorClass, Result};
use secrecy::SecretString;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::sync::Arc;

/// A connection to be made.
#[derive(Clone, Debug)]
pub struct NewConnection {
    /// Its name for people, which no other connection has: 1 to 128 characters, none of them a control character, no space at its
    /// ends.
    pub name: String,
    /// The kind of its adapter.
    pub kind: String,
    /// The adapter's configuration, as JSON text, secrets included.
    pub config: SecretString,
    /// As what the place is checked before anything is stored. When empty, as what the adapter prefers: for kinds that can be read, as
    /// a source.
    pub check_as: Vec<Role>,
}

impl NewConnection {
    /// A connection that is checked as its adapter prefers.
    pub fn new(name: impl Into<String>, kind: impl Into<String>, config: SecretString) -> Self {
        Self { name: name.into(), kind: kind.into(), config, check_as: Vec::new() }
    }

    /// The same, checked as these.
    #[must_use]
    pub fn checked_as(self, roles: impl Into<Vec<Role>>) -> Self {
        Self { check_as: roles.into(), ..self }
    }
}

/// A change of a connection.
#[derive(Clone, Debug, Default)]
pub struct ConnectionChange {
    /// Another name.
    pub name: Option<String>,
    /// What changes in the configuration, as a JSON merge patch (RFC 7396): fields that it names are replaced, null removes one, all
    /// others stay, secrets too.
    pub config: Option<SecretString>,
    /// As what the place is checked before anything is stored, as in [`NewConnection::check_as`].
    pub check_as: Vec<Role>,
}

/// A connection as it may be shown: without any secret.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ConnectionView {
    /// Its id.
    pub id: ConnectionId,
    /// Its name for people.
    pub name: String,
    /// The kind of its adapter.
    pub kind: String,
    /// The configuration without its secrets.
    pub config: Value,
    /// Whether secrets are stored with it.
    pub has_secrets: bool,
    /// Grows by one with each change.
    pub version: u64,
    /// When it was created, on the store's clock.
    pub created_at: jiff::Timestamp,
    /// When it last changed, on the store's clock.
    pub updated_at: jiff::Timestamp,
    /// What the last check found.
    pub last_check: Option<ConnectionCheck>,
}

impl From<Connection> for ConnectionView {
    fn from(connection: Connection) -> Self {
        let Connection { id, kind, content, version, created_at, updated_at, last_check } = connection;
        let ConnectionContent { name, settings, secret } = content;
        let has_secrets = secret.is_some();
        Self { id, name, kind, config: settings, has_secrets, version, created_at, updated_at, last_check }
    }
}

/// What a service can connect to, for frontends that draw forms.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct AdapterInfo {
    /// The kind.
    pub kind: String,
    /// What its places can be used as.
    pub roles: Vec<Role>,
    /// JSON Schema of the configuration; secrets are marked `writeOnly`.
    pub config_schema: Value,
    /// JSON Schemas of what can be chosen for each operation, by role.
    pub options_schemas: Vec<(Role, Value)>,
}

impl BackupService {
    /// What this service can connect to, in order of the kinds.
    pub fn adapters(&self) -> Vec<AdapterInfo> {
        let info = |adapter: &Arc<dyn Adapter>| AdapterInfo {
            kind: adapter.kind().to_owned(),
            roles: adapter.roles().to_vec(),
            config_schema: adapter.config_schema(),
            options_schemas: adapter.roles().iter().map(|role| (*role, adapter.options_schema(*role))).collect(),
        };
        self.inner.adapters.all().map(info).collect()
    }

    /// Makes a connection: the place is checked with these credentials, and only when that succeeds is anything stored.
    ///
    /// # Errors
    /// `Invalid` when the configuration does not fit; `Unsupported` for an unknown kind; `Conflict` when the name is taken; why the place
    /// cannot be used; what keys or store met. Nothing is stored then.
    pub async fn create_connection(&self, new: NewConnection) -> Result<ConnectionView> {
        let NewConnection { name, kind, config, check_as } = new;
        let adapter = self.inner.adapters.get(&kind)?;
        // Before anybody is asked to check it.
        config::split(&adapter.config_schema(), &config)?;
        // A check may replace secrets of the configuration, which are lost when it cannot be stored.
        self.check_name_free(&name, None).await?;
        let at = self.now();
        let config = Arc::new(UnstoredKeeper::new(config));
        checked(&**adapter, &config, &check_as).await?;
        let config::Parts { settings, secrets } = config::split(&adapter.config_schema(), &config.config())?;
        let id = ConnectionId::generate(self.now());
        let secret = self.seal(&id, &kind, secrets).await?;
        let content = ConnectionContent { name, settings, secret };
        let created = self.inner.store.create_connection(Stored { id: id.clone(), kind, content }).await?;
        Ok(self.with_check(created, ConnectionCheck { at, error: None }).await.into())
    }

    /// Lists connections, in order of their ids.
    ///
    /// # Errors
    /// What the store met.
    pub async fn connections(&self, query: &ConnectionQuery) -> Result<Vec<ConnectionView>> {
        Ok(self.inner.store.connections(query).await?.into_iter().map(Into::into).collect())
    }

    /// A connection by its id.
    ///
    /// # Errors
    /// `NotFound` when there is none; what the store met.
    pub async fn connection(&self, id: &ConnectionId) -> Result<ConnectionView> {
        Ok(self.stored(id).await?.into())
    }

    /// A connection by its name, or by its id.
    ///
    /// # Errors
    /// `NotFound` when there is none; what the store met.
    pub async fn find_connection(&self, name_or_id: &str) -> Result<ConnectionView> {
        let query = ConnectionQuery { name: Some(name_or_id.to_owned()), ..ConnectionQuery::default() };
        if let Some(found) = self.inner.store.connections(&query).await?.pop() {
            return Ok(found.into());
        }
        let by_id = match name_or_id.parse() {
            Ok(id) => self.inner.store.connection(&id).await?,
            Err(_) => None,
        };
        let found =
            by_id.ok_or_else(|| Error::not_found("there is no such connection").on(name_or_id.escape_debug()))?;
        Ok(found.into())
    }

    /// Changes a connection; as for a new one, the place is checked first, unless only the name changes.
    ///
    /// # Errors
    /// As for [`create_connection`](Self::create_connection); `Conflict` also when somebody else has changed it since `version`;
    /// `NotFound` when there is none; why the stored secrets cannot be opened, unless the change brings others. Nothing of the change is
    /// stored then; what the service has replaced of the stored secrets during the check is kept at once, as a change of its own.
    pub async fn update_connection(
        &self,
        id: &ConnectionId,
        version: u64,
        change: ConnectionChange,
    ) -> Result<ConnectionView> {
        let connection = self.stored(id).await?;
        crate::adapter::check_connection_version(&connection, version)?;
        let ConnectionChange { name, config, check_as } = change;
        let mut content = connection.content.clone();
        if let Some(name) = name {
            self.check_name_free(&name, Some(id)).await?;
            content.name = name;
        }
        let (mut version, mut found) = (version, None);
        if let Some(patch) = config {
            let adapter = self.inner.adapters.get(&connection.kind)?;
            let before = match self.whole_config(&connection).await {
                // Secrets that cannot be opened any more can be given anew, but do not get lost by the way.
                Err(e)
                    if matches!(e.class(), ErrorClass::Unauthorized | ErrorClass::Corrupt)
                        && config::split(&adapter.config_schema(), &patch)?.secrets.is_some() =>
                {
                    config::join(&connection.content.settings, None)?
                }
                before => before?,
            };
            let config = config::patch(&before, &patch)?;
            config::split(&adapter.config_schema(), &config)?;
            found = Some(ConnectionCheck { at: self.now(), error: None });
            let config = Arc::new(UnstoredKeeper::of_change(config, version, self.keeper(id)));
            checked(&**adapter, &config, &check_as).await?;
            version = config.version();
            let config::Parts { settings, secrets } = config::split(&adapter.config_schema(), &config.config())?;
            content.settings = settings;
            content.secret = self.seal(id, &connection.kind, secrets).await?;
        }
        let changed = self.inner.store.update_connection(id, version, content).await?;
        Ok(match found {
            Some(check) => self.with_check(changed, check).await.into(),
            None => changed.into(),
        })
    }

    /// Checks a stored connection again and keeps what was found, which stands in [`ConnectionView::last_check`].
    ///
    /// # Errors
    /// `NotFound` when there is none; what the store met. That the place cannot be used is no error: the answer says so.
    pub async fn check_connection(&self, id: &ConnectionId, check_as: &[Role]) -> Result<ConnectionView> {
        let connection = self.stored(id).await?;
        let at = self.now();
        let found = async {
            let (adapter, config) = self.adapter_of(&connection).await?;
            check(&**adapter, &config, check_as).await
        };
        let error = found.await.err().map(|error: Error| error.chain());
        Ok(self.inner.store.record_check(id, ConnectionCheck { at, error }).await?.into())
    }

    /// Deletes a connection and its secrets. Archives that were made with it stay.
    ///
    /// # Errors
    /// `Conflict` while an operation that is pending, running, completing or paused works with it; `NotFound` when there is none; what
    /// the store met.
    pub async fn delete_connection(&self, id: &ConnectionId) -> Result<()> {
        loop {
            let connection = self.stored(id).await?;
            match self.inner.store.delete_connection(id, connection.version).await {
                // It was changed meanwhile, by one who wrote a new token back for instance.
                Err(e) if e.class() == ErrorClass::Conflict && self.stored(id).await?.version != connection.version => {
                }
                result => return result,
            }
        }
    }

    /// Seals the secrets of all connections under the newest key, so that older keys are needed no more; how many that were.
    ///
    /// # Errors
    /// `Unauthorized` when a connection was sealed under a key that the ring does not have, `Corrupt` when its secret was changed: all
    /// others are seen to all the same, and the first such error is told; what the store met. Doing it again goes on.
    pub async fn reseal_connections(&self) -> Result<u64> {
        let ring = self.inner.keys.ring().await?;
        let mut query = ConnectionQuery::default();
        let mut count = 0;
        let mut first_error = None;
        loop {
            let page = self.inner.store.connections(&query).await?;
            let Some(last) = page.last() else { return first_error.map_or(Ok(count), Err) };
            query.after = Some(last.id.clone());
            for mut connection in page {
                loop {
                    let sealed = match reseal_connection(&ring, &connection) {
                        Ok(Some(sealed)) => sealed,
                        Ok(None) => break,
                        Err(error) => {
                            first_error.get_or_insert(error);
                            break;
                        }
                    };
                    let content = ConnectionContent { secret: Some(sealed), ..connection.content.clone() };
                    match self.inner.store.update_connection(&connection.id, connection.version, content).await {
                        Ok(_) => {
                            count += 1;
                            break;
                        }
                        Err(e) if e.class() == ErrorClass::NotFound => break,
                        Err(e) if e.class() == ErrorClass::Conflict => connection = self.stored(&connection.id).await?,
                        Err(e) => return Err(e),
                    }
                }
            }
        }
    }

    /// Keeps what a check found beside a connection that is stored already; that it cannot be kept is no reason to fail.
    async fn with_check(&self, connection: Connection, check: ConnectionCheck) -> Connection {
        match self.inner.store.record_check(&connection.id, check).await {
            Ok(checked) => checked,
            Err(error) => {
                tracing::warn!(error = %error.chain(), "what a check of a connection found was not kept");
                connection
            }
        }
    }

    /// Whether a connection may get a name; of several that get it at once, the store sees to it that one wins.
    async fn check_name_free(&self, name: &str, of: Option<&ConnectionId>) -> Result<()> {
        check_connection_name(name)?;
        let query = ConnectionQuery { name: Some(name.to_owned()), ..ConnectionQuery::default() };
        match self.inner.store.connections(&query).await?.iter().any(|other| Some(&other.id) != of) {
            true => Err(connection_name_taken(name)),
            false => Ok(()),
        }
    }

    pub(super) fn now(&self) -> jiff::Timestamp {
        (self.inner.clock)()
    }

    pub(super) async fn stored(&self, id: &ConnectionId) -> Result<Connection> {
        let found = self.inner.store.connection(id).await?;
        found.ok_or_else(|| Error::not_found("there is no such connection").on(id))
    }

    /// Without secrets no key is needed.
    async fn seal(&self, id: &ConnectionId, kind: &str, secrets: Option<SecretString>) -> Result<Option<SealedSecret>> {
        let Some(secrets) = secrets else { return Ok(None) };
        seal_connection(&*self.inner.keys.ring().await?, id, kind, &secrets).map(Some)
    }

    async fn whole_config(&self, connection: &Connection) -> Result<SecretString> {
        let secrets = match &connection.content.secret {
            Some(_) => open_connection(&*self.inner.keys.ring().await?, connection)?,
            None => None,
        };
        config::join(&connection.content.settings, secrets.as_ref()).map_err(|e| e.on(&connection.id))
    }

    async fn adapter_of(&self, connection: &Connection) -> Result<(&Arc<dyn Adapter>, AdapterConfig)> {
        let adapter = self.inner.adapters.get(&connection.kind)?;
        let keeper = Arc::new(self.keeper(&connection.id));
        Ok((adapter, AdapterConfig::new(self.whole_config(connection).await?).with_keeper(keeper)))
    }

    fn keeper(&self, id: &ConnectionId) -> ConnectionKeeper {
        ConnectionKeeper { store: self.inner.store.clone(), keys: self.inner.keys.clone(), id: id.clone() }
    }

    pub(super) async fn source(&self, id: &ConnectionId, options: &Value) -> Result<Arc<dyn Source>> {
        self.source_of(&self.stored(id).await?, options).await
    }

    pub(super) async fn destination(&self, id: &ConnectionId) -> Result<Arc<dyn Destination>> {
        self.destination_of(&self.stored(id).await?).await
    }

    pub(super) async fn target(&self, id: &ConnectionId, options: &Value) -> Result<Arc<dyn RestoreTarget>> {
        self.target_of(&self.stored(id).await?, options).await
    }

    pub(super) async fn source_of(&self, connection: &Connection, options: &Value) -> Result<Arc<dyn Source>> {
        let (adapter, config) = self.adapter_of(connection).await?;
        adapter.source(&config, options).await.map_err(|e| of_connection(e, connection))
    }

    pub(super) async fn destination_of(&self, connection: &Connection) -> Result<Arc<dyn Destination>> {
        let made = async {
            let (adapter, config) = self.adapter_of(connection).await?;
            adapter.destination(&config).await
        };
        made.await.map_err(|e| of_connection(e, connection))
    }

    pub(super) async fn target_of(&self, connection: &Connection, options: &Value) -> Result<Arc<dyn RestoreTarget>> {
        let (adapter, config) = self.adapter_of(connection).await?;
        adapter.target(&config, options).await.map_err(|e| of_connection(e, connection))
    }

    /// The destinations of all connections whose place is this one, and why others of its kind, that may lead there too, cannot be used.
    pub(super) async fn destinations_at(&self, place: &Identity) -> Result<(Vec<Arc<dyn Destination>>, Vec<Error>)> {
        let mut query = ConnectionQuery { kind: Some(place.kind.clone()), ..ConnectionQuery::default() };
        let (mut found, mut unusable) = (Vec::new(), Vec::new());
        loop {
            let page = self.inner.store.connections(&query).await?;
            let Some(last) = page.last() else { return Ok((found, unusable)) };
            query.after = Some(last.id.clone());
            for connection in page {
                match self.destination_of(&connection).await {
                    Ok(destination) if destination.identity() == *place => found.push(destination),
                    Ok(_) => {}
                    Err(error) => unusable.push(error),
                }
            }
        }
    }
}

fn of_connection(error: Error, connection: &Connection) -> Error {
    error.context(format!("the connection {} cannot be used", connection.content.name.escape_debug()))
}

/// Checks a configuration that is not stored yet. The keeper has it as it is after that: a service may have replaced a secret.
async fn checked(adapter: &dyn Adapter, keeper: &Arc<UnstoredKeeper>, roles: &[Role]) -> Result<()> {
    let config = AdapterConfig::new(keeper.config()).with_keeper(keeper.clone());
    check(adapter, &config, roles).await.map_err(|e| e.context("the connection does not work"))
}

/// Checks a place in each of the roles; without any, in the one that the adapter prefers.
async fn check(adapter: &dyn Adapter, config: &AdapterConfig, roles: &[Role]) -> Result<()> {
    let roles = match roles {
        [] => adapter.roles().get(..1).unwrap_or_default(),
        roles => roles,
    };
    for role in roles {
        if !adapter.roles().contains(role) {
            return Err(Error::unsupported(format!("a place of kind {} cannot be used as {role}", adapter.kind())));
        }
        match role {
            Role::Source => adapter.source(config, &Value::Null).await?.check().await?,
            Role::Destination => adapter.destination(config).await?.check().await?,
            Role::Target => adapter.target(config, &Value::Null).await?.check().await?,
        }
    }
    Ok(())
}
