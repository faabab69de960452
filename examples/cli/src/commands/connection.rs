//! `backup connection`

use crate::app::App;
use crate::args::{
    CheckAs, Connection, ConnectionAdd, ConnectionArg, ConnectionConfig, ConnectionEdit, ConnectionRemove,
};
use crate::confirm::confirm;
use crate::failure::{Exit, Failure};
use crate::output::{Lines, table};
use crate::service::{self, Means};
use crate::units;
use backup_core::Error;
use backup_core::model::{ConnectionCheck, ConnectionQuery};
use backup_core::service::{BackupService, ConnectionChange, ConnectionView, NewConnection, Role};
use secrecy::{ExposeSecret, SecretString};
use serde_json::{Map, Value, json};
use std::io::Read;

pub(super) async fn run(app: &App, command: Connection) -> Result<Exit, Failure> {
    let make = matches!(command, Connection::Add(_));
    let service = service::open(app, Means::default(), make).await?;
    match command {
        Connection::Add(args) => add(app, &service, args).await,
        Connection::List => list(app, &service).await,
        Connection::Show(args) => show(app, &service, args).await,
        Connection::Check(args) => check(app, &service, args.name, &roles(&args.check)).await,
        Connection::Edit(args) => edit(app, &service, args).await,
        Connection::Remove(args) => remove(app, &service, args).await,
        Connection::Kinds { kind } => kinds(app, &service, kind),
        Connection::Reseal => {
            let count = service.reseal_connections().await?;
            app.out.document(&json!({ "resealed": count }))?;
            app.out.line(format!("{} sealed under the newest key", units::count(count, "connection")))?;
            Ok(Exit::Done)
        }
    }
}

fn roles(check: &[CheckAs]) -> Vec<Role> {
    let role = |as_: &CheckAs| match as_ {
        CheckAs::Source => Role::Source,
        CheckAs::Destination => Role::Destination,
        CheckAs::Target => Role::Target,
    };
    check.iter().map(role).collect()
}

async fn add(app: &App, service: &BackupService, args: ConnectionAdd) -> Result<Exit, Failure> {
    let ConnectionAdd { name, kind, config, check } = args;
    let config = whole(config)?.unwrap_or_else(|| "{}".into());
    let new = NewConnection { check_as: roles(&check), ..NewConnection::new(name, kind, config) };
    let made = service.create_connection(new).await.map_err(|e| {
        let hint = "`backup connection kinds KIND` shows what a kind of connection takes";
        Failure::from(e).hint(hint)
    })?;
    app.out.document(&made)?;
    app.out.line(format!("connection {} ({}) works and is stored", made.name, made.kind))?;
    Ok(Exit::Done)
}

async fn list(app: &App, service: &BackupService) -> Result<Exit, Failure> {
    let mut query = ConnectionQuery::default();
    let mut all = Vec::new();
    loop {
        let page = service.connections(&query).await?;
        let Some(last) = page.last() else { break };
        query.after = Some(last.id.clone());
        all.extend(page);
    }
    all.sort_by(|a, b| a.name.cmp(&b.name));
    if app.out.json {
        app.out.document(&json!({ "connections": all }))?;
        return Ok(Exit::Done);
    }
    if all.is_empty() {
        app.out.note("there are no connections; make one with `backup connection add`");
        return Ok(Exit::Done);
    }
    let row = |view: &ConnectionView| {
        vec![view.name.clone(), view.kind.clone(), checked(view.last_check.as_ref()), brief(&view.config)]
    };
    let mut lines = Lines::new();
    lines.line(table(&["NAME", "KIND", "LAST CHECK", "CONFIGURATION"], &all.iter().map(row).collect::<Vec<_>>()))?;
    lines.flush()?;
    Ok(Exit::Done)
}

/// `ok, 2026-11-20 06:15`
fn checked(check: Option<&ConnectionCheck>) -> String {
    match check {
        None => "never".into(),
        Some(ConnectionCheck { at, error: None }) => format!("works, {}", units::local_time(*at)),
        Some(ConnectionCheck { at, error: Some(_) }) => format!("FAILS, {}", units::local_time(*at)),
    }
}

/// The settings in one line.
fn brief(config: &Value) -> String {
    let fields = config.as_object().into_iter().flatten();
    let shown = fields.filter(|(_, value)| !value.is_object() && !value.is_null());
    shown
        .map(|(name, value)| format!("{name}={}", value.as_str().map_or_else(|| value.to_string(), str::to_owned)))
        .collect::<Vec<_>>()
        .join(" ")
}

async fn show(app: &App, service: &BackupService, args: ConnectionArg) -> Result<Exit, Failure> {
    let view = service.find_connection(&args.name).await?;
    app.out.document(&view)?;
    if !app.out.json {
        let mut lines = Lines::new();
        lines.line(format!("name        {}", view.name))?;
        lines.line(format!("id          {}", view.id))?;
        lines.line(format!("kind        {}", view.kind))?;
        lines.line(format!("secrets     {}", if view.has_secrets { "stored, sealed" } else { "none" }))?;
        lines.line(format!("last check  {}", checked(view.last_check.as_ref())))?;
        if let Some(error) = view.last_check.as_ref().and_then(|check| check.error.as_ref()) {
            lines.line(format!("            {error}"))?;
        }
        lines.line(format!("{:#}", view.config))?;
        lines.flush()?;
    }
    Ok(Exit::Done)
}

async fn check(app: &App, service: &BackupService, name: String, roles: &[Role]) -> Result<Exit, Failure> {
    let id = service.find_connection(&name).await?.id;
    let view = service.check_connection(&id, roles).await?;
    app.out.document(&view)?;
    match view.last_check.and_then(|check| check.error) {
        None => {
            app.out.line(format!("connection {} works", view.name))?;
            Ok(Exit::Done)
        }
        Some(error) => {
            app.out.line(format!("connection {} does not work: {error}", view.name))?;
            Ok(Exit::Failed)
        }
    }
}

async fn edit(app: &App, service: &BackupService, args: ConnectionEdit) -> Result<Exit, Failure> {
    let ConnectionEdit { name, rename, config, check } = args;
    let view = service.find_connection(&name).await?;
    let change = ConnectionChange { name: rename, config: whole(config)?, check_as: roles(&check) };
    if change.name.is_none() && change.config.is_none() {
        return Err(Failure::Usage("say what to change: --rename, --set, --secret or --config".into()));
    }
    let changed = service.update_connection(&view.id, view.version, change).await?;
    app.out.document(&changed)?;
    app.out.line(format!("connection {} is changed", changed.name))?;
    Ok(Exit::Done)
}

async fn remove(app: &App, service: &BackupService, args: ConnectionRemove) -> Result<Exit, Failure> {
    let view = service.find_connection(&args.name).await?;
    if !args.force {
        let question =
            format!("remove the connection {} and its secrets? Archives that were made with it stay.", view.name);
        confirm(app.out, &question, "--force")?;
    }
    service.delete_connection(&view.id).await?;
    app.out.document(&json!({ "removed": view.id }))?;
    app.out.line(format!("connection {} is removed", view.name))?;
    Ok(Exit::Done)
}

fn kinds(app: &App, service: &BackupService, kind: Option<String>) -> Result<Exit, Failure> {
    let mut adapters = service.adapters();
    if let Some(kind) = kind {
        adapters.retain(|adapter| adapter.kind == kind);
        if adapters.is_empty() {
            return Err(Error::not_found("there is no such kind; `backup connection kinds` lists them")
                .on(kind)
                .into());
        }
        if !app.out.json {
            app.out.line(format!("{:#}", adapters[0].config_schema))?;
            return Ok(Exit::Done);
        }
    }
    if app.out.json {
        app.out.document(&json!({ "kinds": adapters }))?;
        return Ok(Exit::Done);
    }
    let rows: Vec<_> = adapters
        .iter()
        .map(|adapter| {
            let roles: Vec<String> = adapter.roles.iter().map(ToString::to_string).collect();
            vec![adapter.kind.clone(), roles.join(", ")]
        })
        .collect();
    app.out.line(table(&["KIND", "CAN BE USED AS"], &rows))?;
    Ok(Exit::Done)
}

/// The configuration that the command line gives; `None` when it gives none.
fn whole(config: ConnectionConfig) -> Result<Option<SecretString>, Failure> {
    let ConnectionConfig { config, set, secret } = config;
    if config.is_none() && set.is_empty() && secret.is_empty() {
        return Ok(None);
    }
    let mut whole = match config {
        Some(file) => read(&file)?,
        None => Value::Object(Map::new()),
    };
    for word in set {
        let (name, value) = pair(&word, "--set")?;
        // What reads as JSON is meant so: numbers, true, lists.
        let value = serde_json::from_str(value).unwrap_or_else(|_| Value::String(value.to_owned()));
        put(&mut whole, name, value)?;
    }
    for word in secret {
        let (name, variable) = pair(&word, "--secret")?;
        let value = std::env::var(variable)
            .map_err(|_| Failure::Usage(format!("--secret: the environment variable {variable} is not set")))?;
        put(&mut whole, name, Value::String(value))?;
    }
    Ok(Some(whole.to_string().into()))
}

fn read(file: &std::path::Path) -> Result<Value, Failure> {
    let mut text = String::new();
    let from = if file.as_os_str() == "-" {
        std::io::stdin().read_to_string(&mut text)
    } else {
        std::fs::File::open(file).and_then(|mut file| file.read_to_string(&mut text))
    };
    from.map_err(|e| Error::io(e, "cannot read the configuration").on(file.display()))?;
    let text = SecretString::from(text);
    // The parser's text could repeat a part of a secret.
    serde_json::from_str(text.expose_secret())
        .map_err(|e| Failure::Usage(format!("--config: not JSON at line {}, column {}", e.line(), e.column())))
}

fn pair<'a>(word: &'a str, option: &str) -> Result<(&'a str, &'a str), Failure> {
    // What follows may be a secret that was given to the wrong option.
    word.split_once('=').ok_or_else(|| Failure::Usage(format!("{option}: write it as NAME=VALUE")))
}

/// Sets a field; a dot leads into an object.
fn put(whole: &mut Value, name: &str, value: Value) -> Result<(), Failure> {
    let mut at = whole;
    for part in name.split('.') {
        if at.is_null() {
            *at = Value::Object(Map::new());
        }
        let Value::Object(fields) = at else {
            return Err(Failure::Usage(format!("{name}: there is a value where fields are to be")));
        };
        at = fields.entry(part).or_insert(Value::Null);
    }
    *at = value;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_configuration_is_put_together() {
        let config = ConnectionConfig {
            config: None,
            set: ["bucket=photos", "path_style=true", "credentials.kind=static", "port=17", "prefix=a=b"]
                .map(Into::into)
                .into(),
            secret: Vec::new(),
        };
        let whole: Value = serde_json::from_str(whole(config).unwrap().unwrap().expose_secret()).unwrap();
        let expected = json!({
            "bucket": "photos", "path_style": true, "credentials": { "kind": "static" }, "port": 17, "prefix": "a=b",
        });
        assert_eq!(whole, expected);
        assert!(put(&mut json!({ "a": 1 }), "a.b", Value::Null).is_err());
    }
}
