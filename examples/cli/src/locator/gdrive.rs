//! `gdrive:FOLDER_ID/PATH?OPTION=VALUE&…`: a folder of Google Drive.
//!
//! Who we are comes from `backup gdrive login`, or from the key file of a service account; never from the locator, which is kept with
//! operations and shown in lists.

use super::{Adapter, Secret, SourceOptions, TargetOptions};
use crate::accounts;
use async_trait::async_trait;
use backup_core::adapter::{Destination, RestoreTarget, Source};
use backup_core::{Error, Result};
use backup_gdrive::{Credentials, GDrive, GDriveConfig, GDriveDestination};
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, percent_decode_str, utf8_percent_encode};
use secrecy::SecretString;
use std::sync::Arc;

/// What stays readable in a locator.
const READABLE: &AsciiSet =
    &NON_ALPHANUMERIC.remove(b'/').remove(b'-').remove(b'_').remove(b'.').remove(b'~').remove(b':').remove(b'@');
const OPTIONS: &str = "account=NAME, drive=ID, credentials=FILE, endpoint=URL";
const ONLY_DESTINATION: &str = "a folder of Google Drive keeps archives; it cannot be backed up or restored to";

#[derive(Debug)]
pub(super) struct GoogleDrive;

/// A locator taken apart.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Parts {
    folder: String,
    path: String,
    account: Option<String>,
    drive: Option<String>,
    /// Path of a service account's key file; absolute.
    credentials: Option<String>,
    endpoint: Option<String>,
}

impl Parts {
    fn parse(rest: &str) -> Result<Self, String> {
        let (place, options) = rest.split_once('?').unwrap_or((rest, ""));
        let place = place.trim_start_matches('/');
        let (folder, path) = place.split_once('/').unwrap_or((place, ""));
        if folder.is_empty() {
            return Err(
                "the folder's id is missing: gdrive:FOLDER_ID/PATH; `backup gdrive login` makes a folder and names it"
                    .into(),
            );
        }
        if folder == "root" {
            let text = "the top of a drive is another place for each account; write the id of a folder (`backup gdrive login` makes one)";
            return Err(text.into());
        }
        let mut parts =
            Self { folder: decode(folder)?, path: decode(path)?.trim_matches('/').into(), ..Self::default() };
        for option in options.split('&').filter(|option| !option.is_empty()) {
            let (name, value) =
                option.split_once('=').ok_or_else(|| format!("`{option}` has no value; options are {OPTIONS}"))?;
            let value = decode(value)?;
            if value.is_empty() {
                return Err(format!("{name} has no value"));
            }
            match name {
                "account" => accounts::check(&value).map(|()| parts.account = Some(value)).map_err(|e| e.chain())?,
                "drive" => parts.drive = Some(value),
                "credentials" => parts.credentials = Some(absolute(&value)?),
                "endpoint" => parts.endpoint = Some(value),
                "token" | "refresh_token" | "client_secret" | "password" => {
                    return Err(
                        "credentials do not belong into a locator, which is kept and shown; use `backup gdrive login`"
                            .into(),
                    );
                }
                _ => return Err(format!("there is no option `{name}`; options are {OPTIONS}")),
            }
        }
        if parts.account.is_some() && parts.credentials.is_some() {
            return Err("account and credentials exclude each other".into());
        }
        // What can be found wrong without asking the service is found now.
        let nobody = Credentials::User { client_id: "?".into(), client_secret: "".into(), refresh_token: None };
        parts.config(nobody).validate().map_err(|e| e.chain())?;
        Ok(parts)
    }

    /// The rest of a locator that means the same.
    fn to_rest(&self) -> String {
        let Self { folder, path, account, drive, credentials, endpoint } = self;
        let encode = |text: &str| utf8_percent_encode(text, READABLE).to_string();
        let options = [("account", account), ("drive", drive), ("credentials", credentials), ("endpoint", endpoint)];
        let options: Vec<String> = options
            .into_iter()
            .filter_map(|(name, value)| Some(format!("{name}={}", encode(value.as_ref()?))))
            .collect();
        let mut rest = encode(folder);
        if !path.is_empty() {
            rest += &format!("/{}", encode(path));
        }
        if !options.is_empty() {
            rest += &format!("?{}", options.join("&"));
        }
        rest
    }

    fn config(&self, credentials: Credentials) -> GDriveConfig {
        let mut config = GDriveConfig::new(&*self.folder, credentials);
        config.path.clone_from(&self.path);
        config.drive.clone_from(&self.drive);
        config.endpoint.clone_from(&self.endpoint);
        config
    }

    async fn connect(&self) -> Result<GDrive> {
        if let Some(path) = &self.credentials {
            let key = std::fs::read_to_string(path)
                .map_err(|e| Error::io(e, "cannot read the service account's key").on(path))?;
            let credentials = Credentials::ServiceAccount { key: SecretString::from(key), subject: None };
            return GDrive::new(self.config(credentials));
        }
        let name = self.account.as_deref().unwrap_or("default");
        let file = accounts::file(name, false)?;
        let account = file.read().await?.ok_or_else(|| {
            Error::unauthorized(format!("nobody has signed in as {name}; run `backup gdrive login --account {name}`"))
        })?;
        let credentials = Credentials::User {
            client_id: account.client_id,
            client_secret: account.client_secret,
            refresh_token: None,
        };
        GDrive::with_token_store(self.config(credentials), Arc::new(file))
    }
}

fn decode(text: &str) -> Result<String, String> {
    let decoded = percent_decode_str(text).decode_utf8();
    decoded.map(|text| text.into_owned()).map_err(|_| format!("`{text}` is not UTF-8 when its `%` are decoded"))
}

fn absolute(path: &str) -> Result<String, String> {
    let path = std::path::absolute(path).map_err(|e| format!("`{path}` is no path: {e}"))?;
    path.into_os_string()
        .into_string()
        .map_err(|_| "the working directory's path is not UTF-8; write the whole path".into())
}

#[async_trait]
impl Adapter for GoogleDrive {
    fn kind(&self) -> &'static str {
        "gdrive"
    }

    fn syntax(&self) -> &'static str {
        "gdrive:FOLDER_ID/PATH?account=NAME"
    }

    fn absolute(&self, rest: &str) -> Result<String, String> {
        Parts::parse(rest).map(|parts| parts.to_rest())
    }

    async fn source(&self, _: &str, _: &Secret, _: &SourceOptions) -> Result<Arc<dyn Source>> {
        Err(Error::unsupported(ONLY_DESTINATION))
    }

    async fn destination(&self, rest: &str) -> Result<Arc<dyn Destination>> {
        let parts = Parts::parse(rest).map_err(Error::invalid)?;
        Ok(Arc::new(GDriveDestination::new(parts.connect().await?)))
    }

    async fn target(&self, _: &str, _: &Secret, _: &TargetOptions) -> Result<Arc<dyn RestoreTarget>> {
        Err(Error::unsupported(ONLY_DESTINATION))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_kept_means_the_same_again() {
        for (rest, kept) in [
            ("1AbC_d-e", "1AbC_d-e"),
            ("//1x/a/b c/", "1x/a/b%20c"),
            ("1x?account=me@example.org&drive=0ABC", "1x?account=me@example.org&drive=0ABC"),
            ("1x/y?credentials=/k/robot.json", "1x/y?credentials=/k/robot.json"),
        ] {
            let parts = Parts::parse(rest).unwrap();
            assert_eq!(parts.to_rest(), kept);
            assert_eq!(Parts::parse(kept).unwrap(), parts);
        }
    }

    #[test]
    fn what_cannot_be_right_is_refused() {
        for (rest, why) in [
            ("", "id is missing"),
            ("root/a", "another place for each account"),
            ("a b", "id of a folder"),
            ("1x/../y", "path"),
            ("1x?account=../z", "name of an account"),
            ("1x?token=hunter2", "credentials do not belong"),
            ("1x?colour=red", "no option `colour`"),
            ("1x?account=a&credentials=b", "exclude each other"),
            ("1x?endpoint=nowhere", "endpoint"),
        ] {
            let message = Parts::parse(rest).unwrap_err();
            assert!(message.contains(why) && !message.contains("hunter2"), "{rest}: {message}");
        }
    }
}
