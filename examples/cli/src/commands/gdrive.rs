//! `backup gdrive login` and `backup gdrive logout`

use crate::accounts;
use crate::app::App;
use crate::args::{Gdrive, Login, Logout};
use crate::failure::{Exit, Failure};
use backup_core::{Error, ErrorClass, Result as CoreResult};
use backup_gdrive::account::{Account, OAuthClient, PendingConsent};
use backup_gdrive::{Credentials, GDrive, GDriveConfig};
use futures::StreamExt;
use futures::stream::FuturesUnordered;
use secrecy::SecretString;
use serde::Deserialize;
use serde_json::json;
use std::collections::HashMap;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

/// No request line of a browser is longer.
const LONGEST_REQUEST: usize = 16 << 10;

/// How long a connection may take to say what it wants.
const SILENCE: Duration = Duration::from_secs(10);
/// So many connections are listened to at once.
const AT_ONCE: usize = 64;

pub(super) async fn run(app: &App, args: Gdrive) -> Result<Exit, Failure> {
    match args {
        Gdrive::Login(args) => login(app, args).await,
        Gdrive::Logout(args) => logout(app, args),
    }
}

/// What Google's console gives for a client of the type "Desktop app".
#[derive(Deserialize)]
struct ClientFile {
    #[serde(alias = "web")]
    installed: Client,
}

#[derive(Deserialize)]
struct Client {
    client_id: String,
    client_secret: SecretString,
}

fn read_client(path: &Path) -> CoreResult<Client> {
    let text =
        std::fs::read_to_string(path).map_err(|e| Error::io(e, "cannot read the client file").on(path.display()))?;
    let text = SecretString::from(text);
    // What serde says of a wrong file may repeat some of it.
    let file: ClientFile = serde_json::from_str(secrecy::ExposeSecret::expose_secret(&text)).map_err(|_| {
        let text = "not the JSON file that Google's console offers for an OAuth client of the type `Desktop app`";
        Error::invalid(text).on(path.display())
    })?;
    Ok(file.installed)
}

async fn login(app: &App, args: Login) -> Result<Exit, Failure> {
    let Login { client, account, folder, endpoint } = args;
    let file = accounts::file(&account, true)?;
    let Client { client_id, client_secret } = read_client(&client)?;
    let mut oauth = OAuthClient::new(&client_id, client_secret.clone());
    if let Some(endpoint) = &endpoint {
        oauth = oauth.with_endpoint(endpoint)?;
    }
    let listener =
        TcpListener::bind(("127.0.0.1", 0)).await.map_err(|e| Error::io(e, "cannot listen for the browser"))?;
    let address = listener.local_addr().map_err(|e| Error::io(e, "cannot listen for the browser"))?;
    let pending = oauth.start(&format!("http://{address}/"))?;
    app.out.event(&json!({ "event": "open", "url": pending.url() }));
    app.out.tell(format!("Open this address in a browser on this machine, and allow access:\n\n{}\n", pending.url()));
    let refresh_token = wait_for_browser(&listener, &oauth, &pending).await?;
    let kept = Account { client_id: client_id.clone(), client_secret: client_secret.clone(), refresh_token };
    file.write(&kept).await?;

    let credentials = Credentials::User { client_id, client_secret, refresh_token: None };
    let mut config = GDriveConfig::new("root", credentials);
    config.endpoint.clone_from(&endpoint);
    let id = GDrive::with_token_store(config, Arc::new(file))?.make_folder(&folder).await?;
    let mut options = Vec::new();
    if account != "default" {
        options.push(format!("account={account}"));
    }
    options.extend(endpoint.map(|endpoint| format!("endpoint={endpoint}")));
    let options = if options.is_empty() { String::new() } else { format!("?{}", options.join("&")) };
    let locator = format!("gdrive:{id}{options}");
    app.out.document(&json!({ "event": "done", "account": account, "folder": id, "locator": locator }))?;
    app.out.line(format!(
        "Signed in as {account}. Archives go to the folder {folder}:\n\n  backup create --from PATH --to '{locator}'"
    ))?;
    Ok(Exit::Done)
}

fn logout(app: &App, args: Logout) -> Result<Exit, Failure> {
    let file = accounts::file(&args.account, false)?;
    match std::fs::remove_file(file.path()) {
        Ok(()) => {}
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => {
            return Err(Error::not_found("nobody has signed in under this name").on(args.account).into());
        }
        Err(e) => return Err(Error::io(e, "cannot remove the account").on(file.path().display()).into()),
    }
    app.out.document(&json!({ "account": args.account }))?;
    app.out.line(format!(
        "{}: forgotten here; Google's settings of the account can remove the app's access too",
        args.account
    ))?;
    Ok(Exit::Done)
}

/// Answers browsers until one brings the answer to our question.
async fn wait_for_browser(
    listener: &TcpListener,
    oauth: &OAuthClient,
    pending: &PendingConsent,
) -> CoreResult<SecretString> {
    // Side by side: one that says nothing must not keep the right one waiting.
    let mut asking = FuturesUnordered::new();
    loop {
        let asked = tokio::select! {
            accepted = listener.accept(), if asking.len() < AT_ONCE => {
                let (stream, _) = accepted.map_err(|e| Error::io(e, "cannot listen for the browser"))?;
                asking.push(tokio::time::timeout(SILENCE, request(stream)));
                continue;
            }
            Some(asked) = asking.next() => asked,
        };
        let Ok(Ok((mut stream, parameters))) = asked else { continue };
        let Some(state) = parameters.get("state") else {
            // An icon, or somebody else.
            let _ = answer(&mut stream, "404 Not Found", "There is nothing here.").await;
            continue;
        };
        let done = match (parameters.get("code"), parameters.get("error")) {
            (Some(code), _) => oauth.finish(pending, state, code).await,
            (None, Some(error)) if state == pending.state() => {
                let text = format!(
                    "access was not allowed ({})",
                    error.chars().filter(|c| !c.is_control()).take(60).collect::<String>()
                );
                Err(Error::unauthorized(text))
            }
            _ => Err(Error::invalid("the browser's answer is not whole")),
        };
        match done {
            Ok(token) => {
                let _ =
                    answer(&mut stream, "200 OK", "Signed in. You can close this page and go back to the terminal.")
                        .await;
                return Ok(token);
            }
            // An old page, or a page of somebody else: the right one may still come.
            Err(e) if e.class() == ErrorClass::Invalid => {
                let _ = answer(
                    &mut stream,
                    "400 Bad Request",
                    "This page does not belong to the sign-in that is under way.",
                )
                .await;
            }
            Err(e) => {
                let _ = answer(&mut stream, "403 Forbidden", "Signing in failed. The terminal says why.").await;
                return Err(e);
            }
        }
    }
}

/// The parameters of the address that a browser asks for.
async fn request(mut stream: TcpStream) -> std::io::Result<(TcpStream, HashMap<String, String>)> {
    let mut read = Vec::new();
    while !read.windows(4).any(|end| end == b"\r\n\r\n") && read.len() < LONGEST_REQUEST {
        let mut buffer = [0; 2048];
        match stream.read(&mut buffer).await? {
            0 => break,
            n => read.extend_from_slice(&buffer[..n]),
        }
    }
    let text = String::from_utf8_lossy(&read);
    let target = text.split_whitespace().nth(1).unwrap_or_default();
    let query = target.split_once('?').map_or("", |(_, query)| query);
    let decode =
        |text: &str| percent_encoding::percent_decode_str(&text.replace('+', " ")).decode_utf8_lossy().into_owned();
    let pairs = query.split('&').filter_map(|pair| pair.split_once('=')).map(|(k, v)| (decode(k), decode(v)));
    let parameters = pairs.collect();
    Ok((stream, parameters))
}

async fn answer(stream: &mut TcpStream, status: &str, text: &str) -> std::io::Result<()> {
    let page = format!("<!doctype html><meta charset=utf-8><title>backup</title><p>{text}</p>");
    let head = format!(
        "HTTP/1.1 {status}\r\ncontent-type: text/html; charset=utf-8\r\ncontent-length: {}\r\nconnection: close\r\n\r\n",
        page.len()
    );
    stream.write_all(head.as_bytes()).await?;
    stream.write_all(page.as_bytes()).await?;
    stream.shutdown().await
}
