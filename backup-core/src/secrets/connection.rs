//! The secrets of connections: bound to the connection's id and kind, so that a store's rows cannot be swapped.

use super::KeyRing;
use crate::model::{Connection, ConnectionId, SealedSecret};
use crate::{Error, Result};
use secrecy::{ExposeSecret, SecretString};

/// Seals the secrets of a connection under the ring's newest key.
///
/// ```
/// use backup_core::model::ConnectionId;
/// use backup_core::secrets::{KeyRing, SecretKey, seal_connection};
///
/// let ring = KeyRing::new(SecretKey::parse(&backup_core::archive::generate_key_file()?)?);
/// let id = ConnectionId::generate(jiff::Timestamp::now());
/// let sealed = seal_connection(&ring, &id, "s3", &"{\"secret_key\":\"…\"}".into())?;
/// # Ok::<(), backup_core::Error>(())
/// ```
///
/// # Errors
/// As [`KeyRing::seal`].
pub fn seal_connection(ring: &KeyRing, id: &ConnectionId, kind: &str, secret: &SecretString) -> Result<SealedSecret> {
    ring.seal(secret.expose_secret().as_bytes(), &place(id, kind)).map(SealedSecret)
}

/// Opens the secrets of a connection; `None` when it has none.
///
/// # Errors
/// As [`KeyRing::open`], with the connection's id.
pub fn open_connection(ring: &KeyRing, connection: &Connection) -> Result<Option<SecretString>> {
    let Some(SealedSecret(sealed)) = &connection.content.secret else { return Ok(None) };
    let opened = ring.open(sealed, &place(&connection.id, &connection.kind)).map_err(|e| e.on(&connection.id))?;
    let text = std::str::from_utf8(&opened);
    let text = text.map_err(|_| Error::corrupt("the secret of a connection is no text").on(&connection.id))?;
    Ok(Some(SecretString::from(text)))
}

/// The secrets of a connection under the newest key; `None` when there are none, or when they are so already.
///
/// # Errors
/// As [`open_connection`] and [`seal_connection`].
pub fn reseal_connection(ring: &KeyRing, connection: &Connection) -> Result<Option<SealedSecret>> {
    let Some(SealedSecret(sealed)) = &connection.content.secret else { return Ok(None) };
    if !ring.is_outdated(sealed).map_err(|e| e.on(&connection.id))? {
        return Ok(None);
    }
    let Some(secret) = open_connection(ring, connection)? else { return Ok(None) };
    seal_connection(ring, &connection.id, &connection.kind, &secret).map(Some)
}

/// The additional data. The id has a fixed length, so that no two pairs of id and kind give the same bytes.
fn place(id: &ConnectionId, kind: &str) -> Vec<u8> {
    format!("connection\n{id}\n{kind}").into_bytes()
}

#[cfg(test)]
mod tests {
    use super::super::SecretKey;
    use super::*;
    use crate::ErrorClass;
    use crate::archive::generate_key_file;
    use crate::model::ConnectionContent;

    const SECRET: &str = "mongodb://user:hunter2@host/";

    fn connection(ring: &KeyRing) -> Connection {
        let now = jiff::Timestamp::now();
        let id = ConnectionId::generate(now);
        let secret = Some(seal_connection(ring, &id, "mongodb", &SECRET.into()).unwrap());
        let content = ConnectionContent { name: "shop".into(), settings: serde_json::Value::Null, secret };
        Connection {
            id,
            kind: "mongodb".into(),
            content,
            version: 1,
            created_at: now,
            updated_at: now,
            last_check: None,
        }
    }

    fn class(ring: &KeyRing, connection: &Connection) -> ErrorClass {
        open_connection(ring, connection).unwrap_err().class()
    }

    #[test]
    fn a_secret_opens_only_for_its_connection_and_kind() {
        let ring = KeyRing::new(SecretKey::parse(&generate_key_file().unwrap()).unwrap());
        let (one, other) = (connection(&ring), connection(&ring));
        assert_eq!(open_connection(&ring, &one).unwrap().unwrap().expose_secret(), SECRET);
        let swapped = Connection { content: other.content, ..one.clone() };
        assert_eq!(class(&ring, &swapped), ErrorClass::Corrupt);
        assert_eq!(class(&ring, &Connection { kind: "s3".into(), ..one.clone() }), ErrorClass::Corrupt);
        let foreign = KeyRing::new(SecretKey::parse(&generate_key_file().unwrap()).unwrap());
        assert_eq!(class(&foreign, &one), ErrorClass::Unauthorized);
    }

    #[test]
    fn a_newer_key_seals_anew_and_then_suffices_alone() {
        let (old, new) = (generate_key_file().unwrap(), generate_key_file().unwrap());
        let key = |text| SecretKey::parse(text).unwrap();
        let mut kept = connection(&KeyRing::new(key(&old)));
        let both = KeyRing::new(key(&new)).with_older([key(&old)]);
        kept.content.secret = reseal_connection(&both, &kept).unwrap();
        let alone = KeyRing::new(key(&new));
        assert_eq!(open_connection(&alone, &kept).unwrap().unwrap().expose_secret(), SECRET);
        assert_eq!(reseal_connection(&both, &kept).unwrap(), None);
    }

    #[test]
    fn debug_shows_neither_secret_nor_ciphertext() {
        let ring = KeyRing::new(SecretKey::parse(&generate_key_file().unwrap()).unwrap());
        let text = format!("{:?}", connection(&ring));
        assert!(!text.contains("hunter2") && !text.contains("sealed-1."), "{text}");
    }
}
