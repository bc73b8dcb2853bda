//! What the caller shows: a token, or the command that prints one. Never printed, never an argument.

use std::fs;
use std::io::{Read, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Mutex;

use anyhow::{Context, bail, ensure};
use data_encoding::BASE64URL_NOPAD;
use jiff::{SignedDuration, Timestamp};
use serde_json::{Value, json};

use crate::api::Token;

/// Of what a token command prints. Headers of servers end far below.
const MAX_TOKEN_BYTES: u64 = 64 * 1024;
/// Of a login: a token, and paths.
const MAX_FILE_BYTES: u64 = 256 * 1024;
/// A token that ends within this is not used any more: the call, and the server's clock, take time.
const MARGIN: SignedDuration = SignedDuration::from_secs(30);

#[derive(Debug)]
pub enum Credential {
    /// A client certificate speaks for the caller.
    None,
    Token(Token),
    Command(TokenCommand),
}

/// A command that prints a token, and the last one it printed.
pub struct TokenCommand {
    command: String,
    cache: Option<PathBuf>,
    held: Mutex<Option<Held>>,
}

#[derive(Clone)]
struct Held {
    token: String,
    /// As the JWT says. One that says nothing is not kept.
    expires_at: Timestamp,
}

impl std::fmt::Debug for TokenCommand {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("TokenCommand").field("command", &self.command).finish_non_exhaustive()
    }
}

impl Credential {
    /// The token for a call that is made now.
    pub fn token(&self) -> anyhow::Result<Option<Token>> {
        match self {
            Self::None => Ok(None),
            Self::Token(token) => Ok(Some(token.clone())),
            Self::Command(command) => command.token().map(|text| Some(Token::new(&text))),
        }
    }

    /// Whether another token may be had after the server has refused the last one.
    pub fn renew(&self) -> bool {
        match self {
            Self::None | Self::Token(_) => false,
            Self::Command(command) => command.forget(),
        }
    }
}

impl TokenCommand {
    /// `cache` is where tokens wait for the next call, for this user only.
    pub fn new(command: String, cache: Option<PathBuf>) -> Self {
        Self { command, cache, held: Mutex::new(None) }
    }

    fn token(&self) -> anyhow::Result<String> {
        let now = Timestamp::now();
        let held = self.held.lock().ok().and_then(|held| held.clone()).or_else(|| self.cached());
        if let Some(held) = held.filter(|held| held.expires_at > now + MARGIN) {
            return Ok(held.token);
        }
        let token = self.run()?;
        if let Some(expires_at) = expiry(&token) {
            let held = Held { token: token.clone(), expires_at };
            self.keep(&held);
            if let Ok(mut place) = self.held.lock() {
                *place = Some(held);
            }
        }
        Ok(token)
    }

    fn forget(&self) -> bool {
        let held = self.held.lock().ok().and_then(|mut held| held.take()).is_some();
        let cached = self.cache.as_ref().is_some_and(|path| fs::remove_file(path).is_ok());
        held || cached
    }

    fn run(&self) -> anyhow::Result<String> {
        let named = || format!("the token command `{}`", self.command);
        let mut shell = Command::new("/bin/sh");
        shell
            .args(["-c", &self.command])
            .stdin(Stdio::inherit())
            .stdout(Stdio::piped())
            .stderr(Stdio::inherit());
        let mut child = shell.spawn().with_context(named)?;
        let mut text = String::new();
        let read = match child.stdout.take() {
            Some(out) => out.take(MAX_TOKEN_BYTES).read_to_string(&mut text),
            None => Ok(0),
        };
        let status = child.wait().with_context(named)?;
        read.with_context(named)?;
        ensure!(status.success(), "{} failed ({status}); run it by hand, or `daypass login` again", named());
        let token = text.trim();
        if token.is_empty() || token.contains(char::is_whitespace) {
            bail!("{} must print one token and nothing else", named());
        }
        Ok(token.to_owned())
    }

    fn cached(&self) -> Option<Held> {
        let text = read_private(self.cache.as_ref()?).ok()??;
        let value: Value = serde_json::from_str(&text).ok()?;
        if value.get("command")?.as_str()? != self.command {
            return None;
        }
        let expires_at = value.get("expires_at")?.as_str()?.parse().ok()?;
        Some(Held { token: value.get("token")?.as_str()?.to_owned(), expires_at })
    }

    /// A cache that cannot be written costs a run of the command, no more.
    fn keep(&self, held: &Held) {
        let Some(path) = &self.cache else { return };
        let value =
            json!({"command": self.command, "token": held.token, "expires_at": held.expires_at.to_string()});
        let _ = write_private(path, &value.to_string());
    }
}

/// The `exp` claim, of a JWT that nobody verifies here: it only says when to fetch the next one.
fn expiry(token: &str) -> Option<Timestamp> {
    let claims = token.split('.').nth(1)?;
    let claims = BASE64URL_NOPAD.decode(claims.as_bytes()).ok()?;
    let claims: Value = serde_json::from_slice(&claims).ok()?;
    let exp = claims.get("exp")?;
    let seconds = exp.as_i64().or_else(|| exp.as_f64().and_then(whole))?;
    Timestamp::from_second(seconds).ok()
}

/// Seconds of a `NumericDate` with a fraction.
fn whole(seconds: f64) -> Option<i64> {
    format!("{:.0}", seconds.floor()).parse().ok()
}

/// The text of a file that is this user's and that nobody else can read; none if there is no such file. What is in it may be
/// run: a file that somebody else put there must not.
pub fn read_private(path: &Path) -> anyhow::Result<Option<String>> {
    read_owned(path, rustix::process::geteuid().as_raw())
}

/// Owner and mode are those of what is read, and not of what is at the path a moment before.
fn read_owned(path: &Path, owner: u32) -> anyhow::Result<Option<String>> {
    let place = || path.display().to_string();
    // A pipe that nobody writes to must not hold the command up.
    let flags = i32::try_from(rustix::fs::OFlags::NONBLOCK.bits()).with_context(place)?;
    let file = match fs::OpenOptions::new().read(true).custom_flags(flags).open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error).with_context(place),
    };
    let metadata = file.metadata().with_context(place)?;
    ensure!(metadata.is_file(), "{} is no file", place());
    ensure!(
        metadata.uid() == owner,
        "{} belongs to somebody else (user {}, and you are {owner}); remove it, or `daypass login` again",
        place(),
        metadata.uid()
    );
    let mode = metadata.mode() & 0o777;
    ensure!(
        mode.trailing_zeros() >= 6,
        "{} can be read by others (mode {mode:03o}); chmod 600 it, or `daypass login` again",
        place()
    );
    let mut text = String::new();
    file.take(MAX_FILE_BYTES).read_to_string(&mut text).with_context(place)?;
    Ok(Some(text))
}

/// Whole or not at all, and readable by its owner alone from the first byte on.
pub fn write_private(path: &Path, text: &str) -> anyhow::Result<()> {
    let place = || path.display().to_string();
    let dir = path.parent().with_context(place)?;
    fs::DirBuilder::new().recursive(true).mode(0o700).create(dir).with_context(place)?;
    let draft = path.with_extension(format!("draft-{}", std::process::id()));
    let _ = fs::remove_file(&draft);
    let mut options = fs::OpenOptions::new();
    let mut file = options.write(true).create_new(true).mode(0o600).open(&draft).with_context(place)?;
    let written = file.write_all(text.as_bytes()).and_then(|()| file.sync_all());
    written.and_then(|()| fs::rename(&draft, path)).with_context(place).inspect_err(|_| {
        let _ = fs::remove_file(&draft);
    })
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    fn jwt(exp: &str) -> String {
        let part = |text: &str| BASE64URL_NOPAD.encode(text.as_bytes());
        format!("{}.{}.sig", part("{}"), part(&format!("{{\"exp\":{exp}}}")))
    }

    /// A command that counts how often it ran, in a file.
    fn counting(dir: &Path, token: &str) -> String {
        format!("echo x >> '{}'; echo '{token}'", dir.join("runs").display())
    }

    fn runs(dir: &Path) -> usize {
        fs::read_to_string(dir.join("runs")).map_or(0, |text| text.lines().count())
    }

    #[test]
    fn a_command_runs_again_only_when_its_token_has_expired() {
        let later = (Timestamp::now() + SignedDuration::from_hours(1)).as_second();
        for (exp, expected) in
            [(later.to_string(), 1), (format!("{later}.5"), 1), ("1".into(), 3), ("\"x\"".into(), 3)]
        {
            let dir = tempfile::tempdir().unwrap();
            let token = jwt(&exp);
            let cache = dir.path().join("cache/token.json");
            let command = counting(dir.path(), &token);
            for _ in 0..3 {
                // As three runs of the program: nothing is held but what is on disk.
                let command = TokenCommand::new(command.clone(), Some(cache.clone()));
                assert_eq!(command.token().unwrap(), token);
            }
            assert_eq!(runs(dir.path()), expected, "{exp}");
            if expected == 1 {
                assert_eq!(fs::metadata(&cache).unwrap().permissions().mode() & 0o777, 0o600);
                let other = TokenCommand::new(counting(dir.path(), "other"), Some(cache.clone()));
                assert_eq!(other.token().unwrap(), "other", "a cache is of one command");
                let refused = TokenCommand::new(command, Some(cache));
                refused.token().unwrap();
                assert!(refused.forget());
                refused.token().unwrap();
                assert_eq!(runs(dir.path()), 3);
            }
        }
    }

    #[test]
    fn a_command_that_prints_no_token_is_an_error() {
        for (command, message) in [
            ("exit 3", "failed"),
            ("true", "must print one token"),
            ("echo a b", "must print one token"),
            ("head -c 200000 /dev/zero | tr '\\0' x", "failed"),
        ] {
            let error = TokenCommand::new(command.into(), None).token();
            match error {
                Err(error) => assert!(format!("{error:#}").contains(message), "{command}: {error:#}"),
                // The shell may hide that its pipe was closed; the text is cut all the same.
                Ok(token) => assert_eq!(u64::try_from(token.len()).unwrap(), MAX_TOKEN_BYTES),
            }
        }
    }

    #[test]
    fn files_are_private_and_refused_if_they_are_not() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("new/client.json");
        assert!(read_private(&path).unwrap().is_none());
        write_private(&path, "a").unwrap();
        write_private(&path, "b").unwrap();
        assert_eq!(read_private(&path).unwrap().unwrap(), "b");
        assert_eq!(fs::metadata(path.parent().unwrap()).unwrap().permissions().mode() & 0o777, 0o700);
        assert_eq!(fs::read_dir(path.parent().unwrap()).unwrap().count(), 1);
        fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).unwrap();
        assert!(read_private(&path).unwrap_err().to_string().contains("mode 644"));
    }

    #[test]
    fn a_file_of_somebody_else_is_not_read() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("client.json");
        write_private(&path, "a").unwrap();
        let owner = fs::metadata(&path).unwrap().uid();
        assert_eq!(read_owned(&path, owner).unwrap().unwrap(), "a");
        let error = read_owned(&path, owner + 1).unwrap_err().to_string();
        assert!(error.contains("belongs to somebody else"), "{error}");
        // A link counts as what it leads to.
        let link = dir.path().join("link");
        std::os::unix::fs::symlink(&path, &link).unwrap();
        assert_eq!(read_private(&link).unwrap().unwrap(), "a");
        assert!(read_private(dir.path()).is_err(), "a directory");
    }
}
