//! `daypass login` and `logout`: where the API is and who one is, kept for the next commands in a file that nobody else
//! can read. A token is read from standard input or printed by a command, and never is an argument: arguments are seen by all.

use std::io::Read;
use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use clap::Args;
use serde_json::{Map, Value, json};

use super::Done;
use super::client::{Client, ClientError};
use super::credential::{Credential, TokenCommand, read_private, write_private};
use super::output::clean;
use super::settings::{Connection, DEFAULT_API, Settings};
use crate::api::{Token, v1};

/// Of a token on standard input.
const MAX_TOKEN_BYTES: u64 = 64 * 1024;
const FILE: &str = "client.json";
const CACHE: &str = "client-token.json";

#[derive(Debug, Args)]
pub struct LoginArgs {
    #[command(flatten)]
    connection: Connection,
    /// Read the token from standard input
    #[arg(long, group = "how")]
    token_stdin: bool,
    /// A command that prints a token (a JWT); it runs again whenever the last one has expired
    #[arg(long, value_name = "COMMAND", group = "how")]
    token_command: Option<String>,
    /// Store it without asking the API who that is
    #[arg(long)]
    no_check: bool,
}

/// What a login holds.
#[derive(Default)]
pub struct Login {
    pub api: String,
    pub token: Option<String>,
    pub token_command: Option<String>,
    pub ca_file: Option<PathBuf>,
    pub cert_file: Option<PathBuf>,
    pub key_file: Option<PathBuf>,
    /// Where tokens of the command wait.
    pub cache: Option<PathBuf>,
}

impl Login {
    pub fn load(env: &dyn Fn(&str) -> Option<String>) -> Result<Option<Self>, ClientError> {
        let Some(dir) = directory(env) else { return Ok(None) };
        Self::read(&dir).map_err(ClientError::Credential)
    }

    fn read(dir: &Path) -> anyhow::Result<Option<Self>> {
        let path = dir.join(FILE);
        let Some(text) = read_private(&path)? else { return Ok(None) };
        let broken = || format!("{} is no login; `daypass login` again, or `daypass logout`", path.display());
        let value: Value = serde_json::from_str(&text).with_context(broken)?;
        let member = |name: &str| value.get(name).and_then(Value::as_str).map(str::to_owned);
        Ok(Some(Self {
            api: member("api").with_context(broken)?,
            token: member("token"),
            token_command: member("token_command"),
            ca_file: member("ca_file").map(PathBuf::from),
            cert_file: member("cert_file").map(PathBuf::from),
            key_file: member("key_file").map(PathBuf::from),
            cache: Some(dir.join(CACHE)),
        }))
    }

    fn write(&self, dir: &Path) -> anyhow::Result<()> {
        let mut members = Map::new();
        members.insert("api".to_owned(), json!(self.api));
        for (name, text) in [("token", &self.token), ("token_command", &self.token_command)] {
            members.extend(text.iter().map(|text| (name.to_owned(), json!(text))));
        }
        for (name, path) in
            [("ca_file", &self.ca_file), ("cert_file", &self.cert_file), ("key_file", &self.key_file)]
        {
            members.extend(path.iter().map(|path| (name.to_owned(), json!(path))));
        }
        write_private(&dir.join(FILE), &format!("{:#}\n", Value::Object(members)))
    }

    pub fn is_for(&self, api: &str) -> bool {
        let same = |text: &str| text.trim_end_matches('/').to_ascii_lowercase();
        same(&self.api) == same(api)
    }

    pub fn credential(&self) -> Option<Credential> {
        let token = self.token.as_ref().map(|token| Credential::Token(Token::new(token)));
        let command =
            |text: &String| Credential::Command(TokenCommand::new(text.clone(), self.cache.clone()));
        token.or_else(|| self.token_command.as_ref().map(command))
    }
}

/// Where the login is kept.
fn directory(env: &dyn Fn(&str) -> Option<String>) -> Option<PathBuf> {
    let dir = |name: &str| env(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    let base = dir("XDG_CONFIG_HOME").or_else(|| dir("HOME").map(|home| home.join(".config")));
    base.map(|base| base.join("daypass"))
}

fn own_directory() -> anyhow::Result<PathBuf> {
    directory(&|name| std::env::var(name).ok()).context("no place for a login; set HOME or XDG_CONFIG_HOME")
}

pub async fn login(args: LoginArgs) -> anyhow::Result<Done> {
    let LoginArgs { connection, token_stdin, token_command, no_check } = args;
    let dir = own_directory()?;
    let api = connection
        .api
        .clone()
        .or_else(|| std::env::var("DAYPASS_API").ok().filter(|api| !api.is_empty()))
        .unwrap_or_else(|| DEFAULT_API.to_owned());
    let absolute = |path: &Option<PathBuf>| path.as_ref().map(std::path::absolute).transpose();
    let mut login = Login {
        api: api.clone(),
        token_command,
        ca_file: absolute(&connection.ca_file)?,
        cert_file: absolute(&connection.cert_file)?,
        key_file: absolute(&connection.key_file)?,
        ..Login::default()
    };
    if token_stdin {
        login.token = Some(token_from_stdin()?);
    } else if let Some(path) = &connection.token_file {
        login.token = Some(read_private(path)?.context("--token-file: no such file")?.trim().to_owned());
    }
    if login.token.is_none() && login.token_command.is_none() && login.cert_file.is_none() {
        let how = "say who you are: --token-stdin, --token-command COMMAND, --token-file FILE, or --cert-file and --key-file";
        return Err(ClientError::usage(how.to_owned()).into());
    }
    let who = if no_check { None } else { check(&login).await? };
    // What an earlier command printed is not of this login.
    let _ = std::fs::remove_file(dir.join(CACHE));
    login.write(&dir)?;
    if connection.json {
        return Ok(Done::json(&json!({"api": api, "subject": who, "file": dir.join(FILE)})));
    }
    let who = who.map(|who| format!(" as {}", clean(&who))).unwrap_or_default();
    Ok(Done::text(format!("logged in to {api}{who}; kept in {}\n", dir.join(FILE).display())))
}

/// Who the server takes one for; none if it has no such call.
async fn check(login: &Login) -> anyhow::Result<Option<String>> {
    let identity = match (&login.cert_file, &login.key_file) {
        (Some(cert), Some(key)) => Some((cert.clone(), key.clone())),
        (None, None) => None,
        _ => bail!(ClientError::usage("--cert-file and --key-file go together".to_owned())),
    };
    let api = login.api.clone();
    if !api.starts_with("https://") && !super::settings::is_on_this_machine(&api) {
        bail!(ClientError::usage(format!("--api: {api} would carry the token in clear; use https://")));
    }
    let credential = login.credential().unwrap_or(Credential::None);
    let settings = Settings { api, credential, ca_file: login.ca_file.clone(), identity };
    let client = Client::open(settings).await?;
    match client.get_caller(v1::GetCallerRequest {}).await {
        Ok(caller) => Ok(Some(caller.subject)),
        Err(error) if error.is_unknown_call() => Ok(None),
        Err(error) => Err(anyhow::Error::new(error).context("not logged in, nothing was stored")),
    }
}

fn token_from_stdin() -> anyhow::Result<String> {
    let mut text = String::new();
    std::io::stdin().take(MAX_TOKEN_BYTES).read_to_string(&mut text).context("standard input")?;
    let token = text.trim();
    if token.is_empty() || token.contains(char::is_whitespace) {
        bail!("standard input must hold one token and nothing else");
    }
    Ok(token.to_owned())
}

/// Succeeds also when there was no login.
pub fn logout() -> anyhow::Result<Done> {
    let dir = own_directory()?;
    let mut was = false;
    for name in [FILE, CACHE] {
        match std::fs::remove_file(dir.join(name)) {
            Ok(()) => was = true,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
            Err(error) => return Err(error).context(dir.join(name).display().to_string()),
        }
    }
    Ok(Done::text(if was { "logged out\n" } else { "there was no login\n" }))
}
