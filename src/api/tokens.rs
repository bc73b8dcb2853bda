//! Static tokens for programs that have no issuer: a file of hashes, which is worth nothing to who reads it. A token
//! itself is shown once, when it is made, and never written down here; but for the first administrator's, which the
//! command line finds in the data directory.

mod file;
mod live;

use std::collections::BTreeSet;
use std::fmt::Write as _;

use data_encoding::HEXLOWER_PERMISSIVE;
use jiff::Timestamp;
use ring::digest;
use ring::rand::{SecureRandom, SystemRandom};
use saphyr::{LoadableYamlNode, Scalar, Yaml};
use subtle::ConstantTimeEq;
use thiserror::Error;

pub use file::{edit, open, path_in, read, remove};
pub use live::LiveTokens;

use super::token::TokenError;
use crate::principal::{Caller, Principal};

/// Of one file. Each call is compared with all of them.
const MAX_TOKENS: usize = 4096;
/// Bytes of random. As many as the hash has.
const SECRET_BYTES: usize = 32;
/// By it people, and programs that look for leaked secrets, know a token.
const PREFIX: &str = "dp_";

#[derive(Debug, Error)]
pub enum TokensError {
    #[error("the tokens file {path} cannot be used")]
    File { path: String, source: std::io::Error },
    #[error("the tokens file {path} can be read by others (mode {mode:03o}); chmod 600 it")]
    Exposed { path: String, mode: u32 },
    #[error("the tokens file {path} belongs to another user ({uid})")]
    Foreign { path: String, uid: u32 },
    #[error(
        "there is a token, {token}, and no {path}: nobody knows whether that token was taken back. Bring the file back; \
         or delete the token, and the next start makes another one for the first administrator"
    )]
    Forgotten { path: String, token: String },
    #[error("the tokens file {path}: {message}")]
    Content { path: String, message: String },
    #[error("{0}")]
    Refused(String),
    #[error("the system has no random numbers")]
    NoRandom,
    #[error(transparent)]
    Token(#[from] TokenError),
}

impl TokensError {
    /// The tokens file itself is not there.
    #[must_use]
    pub fn is_missing(&self) -> bool {
        matches!(self, Self::File { source, .. } if source.kind() == std::io::ErrorKind::NotFound)
    }
}

/// What is kept of a token.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    pub name: String,
    pub sha256: [u8; 32],
    /// A user or a workload.
    pub principal: Principal,
    pub groups: Vec<Principal>,
    pub expires_at: Option<Timestamp>,
}

impl Entry {
    #[must_use]
    pub fn caller(&self) -> Caller {
        let mut names = vec![self.principal.clone()];
        names.extend(self.groups.iter().cloned());
        Caller::new(names)
    }
}

#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Tokens(Vec<Entry>);

#[must_use]
pub fn hash(token: &str) -> [u8; 32] {
    let mut bytes = [0; 32];
    for (to, from) in bytes.iter_mut().zip(digest::digest(&digest::SHA256, token.as_bytes()).as_ref()) {
        *to = *from;
    }
    bytes
}

/// A new token.
///
/// # Errors
/// The system has no random numbers.
pub fn generate() -> Result<String, TokensError> {
    let mut bytes = [0; SECRET_BYTES];
    SystemRandom::new().fill(&mut bytes).map_err(|_| TokensError::NoRandom)?;
    Ok(format!("{PREFIX}{}", data_encoding::BASE64URL_NOPAD.encode(&bytes)))
}

impl Tokens {
    #[must_use]
    pub fn entries(&self) -> &[Entry] {
        &self.0
    }

    /// Looks at every entry, in the same time whichever it is.
    #[must_use]
    pub fn find(&self, token: &str) -> Option<&Entry> {
        let presented = hash(token);
        let mut found = None;
        for entry in &self.0 {
            if bool::from(entry.sha256.ct_eq(&presented)) {
                found = Some(entry);
            }
        }
        found
    }

    /// # Errors
    /// The name or the hash is there already, or there are too many.
    pub fn add(&mut self, entry: Entry) -> Result<(), String> {
        if self.0.len() >= MAX_TOKENS {
            return Err(format!("there are {MAX_TOKENS} tokens already; remove some"));
        }
        if self.0.iter().any(|known| known.name == entry.name) {
            return Err(format!("there is a token {:?} already", entry.name));
        }
        if self.0.iter().any(|known| known.sha256 == entry.sha256) {
            return Err(format!("the token {:?} has the hash of another", entry.name));
        }
        self.0.push(entry);
        Ok(())
    }

    /// # Errors
    /// There is none of that name.
    pub fn remove(&mut self, name: &str) -> Result<(), String> {
        let before = self.0.len();
        self.0.retain(|entry| entry.name != name);
        if self.0.len() < before { Ok(()) } else { Err(format!("there is no token {name:?}")) }
    }

    /// # Errors
    /// The first mistake.
    pub fn parse(text: &str) -> Result<Self, String> {
        let documents = Yaml::load_from_str(text).map_err(|error| format!("not YAML: {error}"))?;
        let mut tokens = Self::default();
        // An empty file is one that somebody is writing.
        let document = documents.first().ok_or("`tokens` is missing")?;
        let members = Members::of(document, "the file", &["tokens"])?;
        match members.get("tokens") {
            None => return Err("`tokens` is missing".to_owned()),
            Some(Yaml::Value(Scalar::Null)) => {}
            Some(Yaml::Sequence(items)) => {
                for (index, item) in items.iter().enumerate() {
                    let place = format!("tokens[{index}]");
                    let entry = entry(item, &place)?;
                    tokens.add(entry).map_err(|message| format!("{place}: {message}"))?;
                }
            }
            Some(_) => return Err("`tokens` must be a list".to_owned()),
        }
        Ok(tokens)
    }

    /// As [`Self::parse`] reads it. Texts are JSON's, which are YAML's too.
    #[must_use]
    pub fn render(&self) -> String {
        let quoted = |text: &str| serde_json::Value::from(text).to_string();
        let mut text =
            "# Hashes of the API's tokens. Written by `daypass token`, read by `daypass serve`.\n".to_owned();
        text.push_str(if self.0.is_empty() { "tokens: []\n" } else { "tokens:\n" });
        for entry in &self.0 {
            let groups: Vec<_> = entry.groups.iter().map(|group| quoted(group.as_str())).collect();
            // Writing to a string does not fail.
            let _ = writeln!(text, "  - name: {}", quoted(&entry.name));
            let _ = writeln!(text, "    sha256: {}", quoted(&HEXLOWER_PERMISSIVE.encode(&entry.sha256)));
            let _ = writeln!(text, "    principal: {}", quoted(entry.principal.as_str()));
            let _ = writeln!(text, "    groups: [{}]", groups.join(", "));
            if let Some(end) = entry.expires_at {
                let _ = writeln!(text, "    expires_at: {}", quoted(&end.to_string()));
            }
        }
        text
    }
}

fn entry(item: &Yaml<'_>, place: &str) -> Result<Entry, String> {
    let members = Members::of(item, place, &["name", "sha256", "principal", "groups", "expires_at"])?;
    let required = |name: &str| members.text(name)?.ok_or_else(|| format!("{place}: `{name}` is missing"));
    let wrong = |name: &str, error: &dyn std::fmt::Display| format!("{place}.{name}: {error}");
    let name = required("name")?.to_owned();
    if name.is_empty() || name.chars().any(|c| c.is_control() || c.is_whitespace()) {
        return Err(format!("{place}.name: a name has no spaces and is not empty"));
    }
    let sha256 = HEXLOWER_PERMISSIVE.decode(required("sha256")?.as_bytes()).ok();
    let sha256 = sha256
        .and_then(|bytes| <[u8; 32]>::try_from(bytes).ok())
        .ok_or_else(|| format!("{place}.sha256: not the 64 hexadecimal digits of a SHA-256"))?;
    let principal: Principal = required("principal")?.parse().map_err(|error| wrong("principal", &error))?;
    if principal.is_group() {
        return Err(format!("{place}.principal: a token belongs to a user or a workload"));
    }
    let mut groups = BTreeSet::new();
    for group in members.texts("groups")? {
        let group: Principal = group.parse().map_err(|error| wrong("groups", &error))?;
        if !group.is_group() {
            return Err(format!("{place}.groups: {group} is no group"));
        }
        groups.insert(group);
    }
    let expires_at = members.text("expires_at")?;
    let expires_at = expires_at.map(str::parse).transpose().map_err(|error| wrong("expires_at", &error))?;
    Ok(Entry { name, sha256, principal, groups: groups.into_iter().collect(), expires_at })
}

/// A mapping with known names.
struct Members<'y> {
    place: &'y str,
    node: &'y Yaml<'y>,
}

impl<'y> Members<'y> {
    fn of(node: &'y Yaml<'y>, place: &'y str, known: &[&str]) -> Result<Self, String> {
        let Yaml::Mapping(members) = node else { return Err(format!("{place} must be a mapping")) };
        for name in members.keys() {
            let name = name.as_str().unwrap_or_default();
            if !known.contains(&name) {
                return Err(format!("{place}: unknown key {name:?}; known here: {}", known.join(", ")));
            }
        }
        Ok(Self { place, node })
    }

    fn get(&self, name: &str) -> Option<&'y Yaml<'y>> {
        let Yaml::Mapping(members) = self.node else { return None };
        members.iter().find(|(key, _)| key.as_str() == Some(name)).map(|(_, value)| value)
    }

    fn text(&self, name: &str) -> Result<Option<&'y str>, String> {
        match self.get(name) {
            None | Some(Yaml::Value(Scalar::Null)) => Ok(None),
            Some(Yaml::Value(Scalar::String(text))) => Ok(Some(text)),
            Some(_) => Err(format!("{}.{name} must be a text; put it in quotes", self.place)),
        }
    }

    fn texts(&self, name: &str) -> Result<Vec<&'y str>, String> {
        match self.get(name) {
            None | Some(Yaml::Value(Scalar::Null)) => Ok(Vec::new()),
            Some(Yaml::Sequence(items)) => items
                .iter()
                .map(|item| item.as_str().ok_or_else(|| format!("{}.{name} must be texts", self.place)))
                .collect(),
            Some(_) => Err(format!("{}.{name} must be a list", self.place)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry_of(name: &str, token: &str) -> Entry {
        Entry {
            name: name.to_owned(),
            sha256: hash(token),
            principal: "user:ci".parse().unwrap(),
            groups: vec!["group:a \"quoted\": x".parse().unwrap(), "group:b".parse().unwrap()],
            expires_at: "2030-01-02T03:04:05Z".parse().ok(),
        }
    }

    #[test]
    fn what_is_written_is_read_again() {
        let mut tokens = Tokens::default();
        assert_eq!(Tokens::parse(&tokens.render()), Ok(tokens.clone()));
        tokens.add(entry_of("ci", "one")).unwrap();
        tokens.add(Entry { expires_at: None, groups: Vec::new(), ..entry_of("null", "two") }).unwrap();
        assert!(tokens.add(entry_of("ci", "three")).is_err());
        assert!(tokens.add(entry_of("other", "one")).is_err());
        let text = tokens.render();
        assert_eq!(Tokens::parse(&text), Ok(tokens.clone()), "{text}");
        assert!(!text.contains("one\n"));
        assert_eq!(tokens.find("two").map(|entry| entry.name.as_str()), Some("null"));
        assert_eq!(tokens.find("tw"), None);
        tokens.remove("ci").unwrap();
        assert!(tokens.remove("ci").is_err() && tokens.find("one").is_none());
    }

    #[test]
    fn mistakes_are_named() {
        let good = format!("name: a\n    sha256: {}\n    principal: user:a", "ab".repeat(32));
        let file = |entry: &str| format!("tokens:\n  - {entry}\n");
        assert!(Tokens::parse(&file(&good)).is_ok());
        assert_eq!(Tokens::parse("tokens:"), Ok(Tokens::default()));
        for (text, message) in [
            (file(&good.replace("user:a", "group:a")), "a user or a workload"),
            (file(&good.replace("user:a", "alice")), "begins with"),
            (file(&good.replace("abab", "xyz")), "hexadecimal"),
            (file(&good.replacen("ab", "", 1)), "hexadecimal"),
            (file(&good.replace("name: a", "name: 7")), "in quotes"),
            (file(&good.replace("name: a", "label: a")), "unknown key"),
            (file(&format!("{good}\n    groups: group:a")), "a list"),
            (file(&format!("{good}\n    groups: [user:a]")), "is no group"),
            (file(&format!("{good}\n    expires_at: soon")), "expires_at"),
            (format!("{}  - {good}\n", file(&good)), "already"),
            (String::new(), "missing"),
            ("{}".to_owned(), "missing"),
            ("- a".to_owned(), "mapping"),
            ("tokens: a".to_owned(), "a list"),
            ("tokens: [".to_owned(), "not YAML"),
        ] {
            let error = Tokens::parse(&text).unwrap_err();
            assert!(error.contains(message), "{text}: {error}");
        }
    }

    #[test]
    fn new_tokens_are_long_and_different() {
        let (one, two) = (generate().unwrap(), generate().unwrap());
        assert!(one.starts_with("dp_") && one.len() == 3 + 43 && one != two);
    }
}
