//! Configuration of connections: what of it is secret, and how it is taken apart and put together again.

use crate::{Error, Result};
use async_trait::async_trait;
use secrecy::{ExposeSecret, SecretString};
use serde::de::DeserializeOwned;
use serde_json::{Map, Value};
use std::collections::BTreeSet;
use std::fmt;
use std::sync::Arc;
use zeroize::Zeroize;

/// Writes back a secret that a service has replaced, as one that rotates tokens does.
#[async_trait]
pub trait SecretKeeper: fmt::Debug + Send + Sync + 'static {
    /// The secret at a JSON pointer (RFC 6901) into the configuration, as it is stored now; `None` when there is none.
    ///
    /// # Errors
    /// What the store met, or why the secret cannot be opened.
    async fn load(&self, pointer: &str) -> Result<Option<SecretString>>;

    /// Replaces it, durably, if what is stored is still the one `instead_of` which the service gave it, or it already.
    ///
    /// # Errors
    /// As for [`load`](Self::load); `Conflict` when another is stored by now, which stays: that of a worker that was faster, or of a person
    /// who has signed in again.
    async fn save(&self, pointer: &str, secret: &SecretString, instead_of: &SecretString) -> Result<()>;
}

/// Puts a secret in place of another, if that is still what the secrets have at the pointer. `None` when nothing need be changed.
///
/// # Errors
/// As [`SecretKeeper::save`].
pub(super) fn replace(
    secrets: &SecretString,
    pointer: &str,
    secret: &SecretString,
    instead_of: &SecretString,
) -> Result<Option<SecretString>> {
    let present = get(secrets, pointer);
    let is = |other: &SecretString| present.as_ref().is_some_and(|p| p.expose_secret() == other.expose_secret());
    if is(secret) {
        return Ok(None);
    }
    if !is(instead_of) {
        return Err(Error::conflict("another secret was stored meanwhile, and stays"));
    }
    set(secrets, pointer, secret).map(Some)
}

/// The whole configuration of a place, secrets included.
#[derive(Clone)]
pub struct AdapterConfig {
    json: SecretString,
    keeper: Option<Arc<dyn SecretKeeper>>,
}

impl fmt::Debug for AdapterConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("AdapterConfig")
    }
}

impl AdapterConfig {
    /// Configuration as JSON text.
    pub fn new(json: SecretString) -> Self {
        Self { json, keeper: None }
    }

    /// The same, with a place where secrets that change are kept.
    #[must_use]
    pub fn with_keeper(self, keeper: Arc<dyn SecretKeeper>) -> Self {
        Self { keeper: Some(keeper), ..self }
    }

    /// Where secrets that change are kept, if there is such a place.
    pub fn keeper(&self) -> Option<&Arc<dyn SecretKeeper>> {
        self.keeper.as_ref()
    }

    /// The configuration as the adapter's own type.
    ///
    /// # Errors
    /// `Invalid`, saying which field is wrong as far as that can be told without repeating a value.
    pub fn parse<T: DeserializeOwned>(&self) -> Result<T> {
        serde_json::from_str(self.json.expose_secret()).map_err(|e| Error::invalid(without_values(&e)))
    }
}

/// Options of an operation as the adapter's own type; null is the default.
///
/// # Errors
/// `Invalid` when they do not fit.
pub fn parse_options<T: DeserializeOwned + Default>(options: &Value) -> Result<T> {
    match options {
        Value::Null => Ok(T::default()),
        options => T::deserialize(options).map_err(|e| Error::invalid("the options do not fit").because(e)),
    }
}

/// What a parser says, when it repeats nothing but names of fields.
fn without_values(error: &serde_json::Error) -> String {
    let text = error.to_string();
    let harmless = ["missing field", "unknown field", "duplicate field"].iter().any(|start| text.starts_with(start));
    match harmless {
        true => format!("the configuration does not fit: {}", text.split(" at line ").next().unwrap_or_default()),
        false => format!(
            "the configuration does not fit: a value of the wrong kind at line {}, column {}",
            error.line(),
            error.column()
        ),
    }
}

/// A configuration that was taken apart.
pub(super) struct Parts {
    /// Everything that may be shown.
    pub(super) settings: Value,
    /// The secrets, at the places that they have in the configuration; `None` when there are none.
    pub(super) secrets: Option<SecretString>,
}

/// Takes a configuration apart by its schema.
///
/// # Errors
/// `Invalid` when it is no JSON object.
pub(super) fn split(schema: &Value, config: &SecretString) -> Result<Parts> {
    let text = config.expose_secret();
    let mut settings: Value = serde_json::from_str(text).map_err(|_| not_an_object())?;
    if !settings.is_object() {
        wipe(&mut settings);
        return Err(not_an_object());
    }
    let mut secrets = Value::Object(Map::new());
    let mut found = false;
    for path in secret_paths(schema) {
        if let Some(secret) = take(&mut settings, &path) {
            put(&mut secrets, &path, secret);
            found = true;
        }
    }
    let text = found.then(|| SecretString::from(secrets.to_string()));
    wipe(&mut secrets);
    Ok(Parts { settings, secrets: text })
}

/// Puts a configuration together again.
///
/// # Errors
/// `Corrupt` when the secrets are no JSON.
pub(super) fn join(settings: &Value, secrets: Option<&SecretString>) -> Result<SecretString> {
    let mut config = settings.clone();
    if let Some(secrets) = secrets {
        let secrets = serde_json::from_str(secrets.expose_secret())
            .map_err(|_| Error::corrupt("the stored secrets of a connection cannot be read"))?;
        merge(&mut config, secrets);
    }
    let text = SecretString::from(config.to_string());
    wipe(&mut config);
    Ok(text)
}

/// Applies a JSON merge patch (RFC 7396) to a configuration: what it names is replaced, null removes, all else stays, secrets too.
///
/// # Errors
/// `Invalid` when it is no JSON object.
pub(super) fn patch(config: &SecretString, patch: &SecretString) -> Result<SecretString> {
    let mut whole: Value = serde_json::from_str(config.expose_secret()).map_err(|_| not_an_object())?;
    let patch: Value = serde_json::from_str(patch.expose_secret()).map_err(|_| not_an_object())?;
    if !patch.is_object() {
        return Err(not_an_object());
    }
    merge(&mut whole, patch);
    let text = SecretString::from(whole.to_string());
    wipe(&mut whole);
    Ok(text)
}

/// The secret at a pointer.
pub(super) fn get(config: &SecretString, pointer: &str) -> Option<SecretString> {
    let mut config: Value = serde_json::from_str(config.expose_secret()).ok()?;
    let secret = config.pointer(pointer).and_then(Value::as_str).map(SecretString::from);
    wipe(&mut config);
    secret
}

/// The configuration with another secret at a pointer.
///
/// # Errors
/// `Corrupt` when it cannot be read; `Invalid` when it has no place for it.
pub(super) fn set(config: &SecretString, pointer: &str, secret: &SecretString) -> Result<SecretString> {
    let mut whole: Value = serde_json::from_str(config.expose_secret())
        .map_err(|_| Error::corrupt("the stored configuration of a connection cannot be read"))?;
    let (parent, name) = pointer.rsplit_once('/').ok_or_else(|| Error::invalid("not a place in a configuration"))?;
    match whole.pointer_mut(parent) {
        Some(Value::Object(fields)) => {
            let before = fields.insert(unescape(name), Value::String(secret.expose_secret().to_owned()));
            before.into_iter().for_each(|mut before| wipe(&mut before));
        }
        _ => return Err(Error::invalid("the configuration has no such place").on(pointer)),
    }
    let text = SecretString::from(whole.to_string());
    wipe(&mut whole);
    Ok(text)
}

fn not_an_object() -> Error {
    Error::invalid("a configuration is a JSON object")
}

/// The places of secrets, by the names on the way.
fn secret_paths(schema: &Value) -> BTreeSet<Vec<String>> {
    let mut found = BTreeSet::new();
    walk(schema, schema, &mut Vec::new(), &mut found, 0);
    found
}

/// Where secrets of a schema would not be found: they must have a place of their own.
const UNSEEN: [&str; 12] = [
    "items",
    "prefixItems",
    "contains",
    "additionalProperties",
    "patternProperties",
    "unevaluatedItems",
    "unevaluatedProperties",
    "if",
    "then",
    "else",
    "not",
    "dependentSchemas",
];

/// Checks that all secrets of a schema are found.
///
/// # Errors
/// `Invalid` when one is in a list, under a name that is not told, or there only under a condition.
pub(super) fn check_schema(schema: &Value) -> Result<()> {
    match has_unseen(schema, schema, false, 0) {
        false => Ok(()),
        true => Err(Error::invalid(
            "a secret (`writeOnly`) of the configuration's schema is in a list, under a name that is not told, or there only \
             under a condition: give each secret a property of its own",
        )),
    }
}

fn has_unseen(root: &Value, schema: &Value, unseen: bool, depth: usize) -> bool {
    if depth > MAX_DEPTH {
        return false;
    }
    match schema {
        Value::Object(fields) => {
            (unseen && fields.get("writeOnly") == Some(&Value::Bool(true)))
                || fields.iter().any(|(name, value)| match (name.as_str(), value) {
                    ("$ref", Value::String(to)) => {
                        let referred = to.strip_prefix('#').and_then(|to| root.pointer(to));
                        unseen && referred.is_some_and(|referred| has_unseen(root, referred, true, depth + 1))
                    }
                    (name, value) => has_unseen(root, value, unseen || UNSEEN.contains(&name), depth + 1),
                })
        }
        Value::Array(items) => items.iter().any(|item| has_unseen(root, item, unseen, depth + 1)),
        _ => false,
    }
}

/// A schema that refers to itself ends here.
const MAX_DEPTH: usize = 32;

fn walk(root: &Value, schema: &Value, path: &mut Vec<String>, found: &mut BTreeSet<Vec<String>>, depth: usize) {
    if depth > MAX_DEPTH {
        return;
    }
    if schema.get("writeOnly") == Some(&Value::Bool(true)) {
        found.insert(path.clone());
        return;
    }
    if let Some(referred) = schema.get("$ref").and_then(Value::as_str).and_then(|r| root.pointer(r.strip_prefix('#')?))
    {
        walk(root, referred, path, found, depth + 1);
    }
    for all in ["oneOf", "anyOf", "allOf"] {
        for schema in schema.get(all).and_then(Value::as_array).into_iter().flatten() {
            walk(root, schema, path, found, depth + 1);
        }
    }
    for (name, schema) in schema.get("properties").and_then(Value::as_object).into_iter().flatten() {
        path.push(name.clone());
        walk(root, schema, path, found, depth + 1);
        path.pop();
    }
}

/// Takes a value out; null counts as none.
fn take(value: &mut Value, path: &[String]) -> Option<Value> {
    let (name, rest) = path.split_first()?;
    let fields = value.as_object_mut()?;
    match rest {
        [] => fields.remove(name).filter(|value| !value.is_null()),
        rest => take(fields.get_mut(name)?, rest),
    }
}

fn put(value: &mut Value, path: &[String], secret: Value) {
    let (Some((name, rest)), Some(fields)) = (path.split_first(), value.as_object_mut()) else { return };
    match rest {
        [] => {
            fields.insert(name.clone(), secret);
        }
        rest => put(fields.entry(name.clone()).or_insert_with(|| Value::Object(Map::new())), rest, secret),
    }
}

fn merge(target: &mut Value, patch: Value) {
    let Value::Object(patch) = patch else {
        wipe(target);
        *target = patch;
        return;
    };
    if !target.is_object() {
        *target = Value::Object(Map::new());
    }
    if let Value::Object(fields) = target {
        for (name, value) in patch {
            match value {
                Value::Null => {
                    fields.remove(&name);
                }
                value => merge(fields.entry(name).or_insert(Value::Null), value),
            }
        }
    }
}

/// Overwrites the texts in a value before its memory is given back.
fn wipe(value: &mut Value) {
    match value {
        Value::String(text) => text.zeroize(),
        Value::Array(items) => items.iter_mut().for_each(wipe),
        Value::Object(fields) => fields.values_mut().for_each(wipe),
        Value::Null | Value::Bool(_) | Value::Number(_) => {}
    }
}

fn unescape(name: &str) -> String {
    name.replace("~1", "/").replace("~0", "~")
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn schema() -> Value {
        json!({
            "type": "object",
            "properties": {
                "uri": { "type": "string", "writeOnly": true },
                "bucket": { "type": "string" },
                "credentials": { "$ref": "#/$defs/Credentials" },
                "again": { "$ref": "#" },
            },
            "$defs": { "Credentials": { "oneOf": [
                { "properties": { "kind": { "const": "a" }, "a/b": { "anyOf": [{ "writeOnly": true }, { "type": "null" }] } } },
                { "properties": { "kind": { "const": "b" }, "key": { "writeOnly": true } } },
            ] } },
        })
    }

    fn text(value: Value) -> SecretString {
        value.to_string().into()
    }

    fn value(text: &SecretString) -> Value {
        serde_json::from_str(text.expose_secret()).unwrap()
    }

    #[test]
    fn a_configuration_is_taken_apart_and_put_together() {
        let config = json!({
            "uri": "hunter1", "bucket": "b",
            "credentials": { "kind": "a", "a/b": "hunter2" },
            "again": { "uri": "hunter3" },
        });
        let parts = split(&schema(), &text(config.clone())).unwrap();
        assert!(!parts.settings.to_string().contains("hunter"), "{}", parts.settings);
        assert_eq!(value(&join(&parts.settings, parts.secrets.as_ref()).unwrap()), config);
        assert_eq!(get(&text(config), "/credentials/a~1b").unwrap().expose_secret(), "hunter2");
        let none =
            split(&schema(), &text(json!({ "bucket": "b", "credentials": { "kind": "b", "key": null } }))).unwrap();
        assert!(none.secrets.is_none());
        assert!(split(&schema(), &"[\"hunter2\"]".into()).is_err());
    }

    #[test]
    fn a_patch_leaves_the_secrets_that_it_does_not_name() {
        let config = text(json!({ "uri": "hunter1", "bucket": "b", "credentials": { "kind": "b", "key": "hunter2" } }));
        let patched =
            patch(&config, &text(json!({ "bucket": "c", "credentials": { "key": "new" }, "uri": null }))).unwrap();
        assert_eq!(value(&patched), json!({ "bucket": "c", "credentials": { "kind": "b", "key": "new" } }));
        let set = set(&patched, "/credentials/a~1b", &"x".into()).unwrap();
        assert_eq!(value(&set)["credentials"]["a/b"], "x");
        assert!(super::set(&patched, "/nowhere/x", &"x".into()).is_err());
    }

    #[test]
    fn a_schema_must_not_hide_secrets() {
        check_schema(&schema()).unwrap();
        let secret = json!({ "writeOnly": true });
        for bad in [
            json!({ "properties": { "hosts": { "items": { "properties": { "password": secret } } } } }),
            json!({ "additionalProperties": secret }),
            json!({ "properties": { "a": { "items": { "$ref": "#/$defs/x" } } }, "$defs": { "x": secret } }),
            json!({ "if": {}, "then": { "properties": { "password": secret } } }),
        ] {
            assert!(check_schema(&bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn errors_repeat_no_values() {
        #[derive(Debug, serde::Deserialize)]
        #[serde(deny_unknown_fields)]
        #[allow(dead_code)]
        struct Config {
            port: u16,
        }
        let error = |config: Value| AdapterConfig::new(text(config)).parse::<Config>().unwrap_err().chain();
        assert!(error(json!({ "port": 1, "colour": "hunter2" })).contains("unknown field `colour`"));
        assert!(error(json!({})).contains("missing field `port`"));
        let wrong = error(json!({ "port": "hunter2" }));
        assert!(wrong.contains("wrong kind") && !wrong.contains("hunter2"), "{wrong}");
    }
}
