//! What OPA's configuration says of bundles: `services`, `bundles`, `keys` and `persistence_directory`, all mistakes at
//! once. What OPA has and this has not is refused by name, and never quietly left out.

mod fields;
mod services;

use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use http::header::{HeaderName, HeaderValue};
use serde_json::{Map, Value as Json};
use url::Url;

use super::archive::{DEFAULT_SIZE_BYTES, Limits};
use super::keys::{Algorithm, Key};
use super::pattern::Pattern;
use super::signature::Verification;
use fields::{Fields, Problems, named};

pub use crate::fetch::tls::{ClientCertificate, Tls};

/// Delays of OPA where none are configured.
const DEFAULT_MIN_DELAY: Duration = Duration::from_secs(60);
const DEFAULT_MAX_DELAY: Duration = Duration::from_secs(120);
/// Of any delay or wait. More is a mistake in the unit.
const LONGEST_SECONDS: u64 = 24 * 3600;

/// One mistake, with the path of what is wrong.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    pub place: String,
    pub message: String,
}

#[derive(Debug, Clone)]
pub struct Config {
    /// In the order of their names, which differ.
    pub sources: Vec<Source>,
    pub persistence_directory: PathBuf,
}

/// One bundle, and where it comes from.
#[derive(Debug, Clone)]
pub struct Source {
    pub name: String,
    pub origin: Origin,
    pub persist: bool,
    pub polling: Polling,
    pub verification: Option<Verification>,
    pub limits: Limits,
}

#[derive(Debug, Clone)]
pub enum Origin {
    /// An archive or a directory. Read again with every poll.
    File(PathBuf),
    Service {
        service: Arc<Service>,
        url: Url,
    },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Polling {
    pub min_delay: Duration,
    pub max_delay: Duration,
    /// How long the server is asked to wait for news. None: not at all.
    pub long_poll: Option<Duration>,
}

impl Default for Polling {
    fn default() -> Self {
        Self { min_delay: DEFAULT_MIN_DELAY, max_delay: DEFAULT_MAX_DELAY, long_poll: None }
    }
}

#[derive(Debug, Clone)]
pub struct Service {
    pub name: String,
    /// Marked as sensitive: some are tokens.
    pub headers: Vec<(HeaderName, HeaderValue)>,
    pub credentials: Credentials,
    pub tls: Tls,
    /// Until the answer begins, beyond what the server was asked to wait.
    pub header_timeout: Duration,
}

#[derive(Debug, Clone)]
pub enum Credentials {
    None,
    /// User and password, in the form of the header.
    Basic(Secret),
    Bearer {
        scheme: String,
        token: Token,
    },
}

#[derive(Debug, Clone)]
pub enum Token {
    Text(Secret),
    /// Read for each request.
    File(PathBuf),
}

/// Text that is not shown.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(String);

impl Secret {
    #[must_use]
    pub fn new(text: impl Into<String>) -> Self {
        Self(text.into())
    }

    #[must_use]
    pub fn reveal(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("[secret]")
    }
}

impl Config {
    /// From the members of OPA's configuration that concern bundles; others are not looked at. Variables in values are
    /// the caller's to replace.
    ///
    /// # Errors
    /// Every mistake.
    pub fn parse(document: &Map<String, Json>, default_persistence: &Path) -> Result<Self, Vec<Problem>> {
        let problems = Problems::default();
        let nothing = Json::Object(Map::new());
        let member = |name: &str| document.get(name).filter(|value| !value.is_null()).unwrap_or(&nothing);
        let (services, default_service) = services::read(member("services"), &problems);
        let services: BTreeMap<String, (Arc<Service>, Option<Url>)> =
            services.into_iter().map(|(name, (service, url))| (name, (Arc::new(service), url))).collect();
        let reader = Reader { services, default_service, keys: keys(member("keys"), &problems) };
        let sources: Vec<_> = named("bundles", member("bundles"), &problems)
            .into_iter()
            .filter_map(|(name, fields)| reader.source(name, fields))
            .collect();
        let persistence_directory = match document.get("persistence_directory") {
            None | Some(Json::Null) => default_persistence.to_owned(),
            Some(Json::String(path)) if !path.is_empty() => path.into(),
            Some(_) => {
                let place = "persistence_directory".to_owned();
                problems.borrow_mut().push(Problem { place, message: "must be a path".to_owned() });
                default_persistence.to_owned()
            }
        };
        let problems = problems.into_inner();
        if problems.is_empty() { Ok(Self { sources, persistence_directory }) } else { Err(problems) }
    }
}

fn keys(value: &Json, problems: &Problems) -> BTreeMap<String, Key> {
    let mut keys = BTreeMap::new();
    for (id, mut fields) in named("keys", value, problems) {
        let name = fields.text("algorithm").unwrap_or_else(|| "RS256".to_owned());
        let (text, scope) = (fields.text("key"), fields.text("scope"));
        // What OPA signs its own requests with, where `key` is what it verifies with.
        let has_private = fields.text("private_key").is_some();
        match (Algorithm::named(&name), text) {
            (None, _) => fields.complain("algorithm", format!("{name:?} is not supported")),
            (Some(_), None) if has_private => {}
            (Some(_), None) => fields.complain("key", "is missing"),
            (Some(algorithm), Some(text)) => match Key::new(algorithm, &text, scope) {
                Ok(key) => _ = keys.insert(id.to_owned(), key),
                Err(message) => fields.complain("key", message),
            },
        }
        fields.finish();
    }
    keys
}

struct Reader {
    services: BTreeMap<String, (Arc<Service>, Option<Url>)>,
    default_service: Option<String>,
    keys: BTreeMap<String, Key>,
}

impl Reader {
    fn source(&self, name: &str, mut fields: Fields<'_>) -> Option<Source> {
        if name.is_empty() {
            fields.complain("", "a bundle needs a name");
        }
        let origin = self.origin(name, &mut fields);
        let verification = self.verification(&mut fields);
        if fields.text("trigger").is_some_and(|trigger| trigger != "periodic") {
            fields.complain("trigger", "only periodic is supported");
        }
        let polling = fields.object("polling").map_or_else(Polling::default, polling);
        let persist = fields.flag("persist");
        let size_bytes =
            fields.whole("size_limit_bytes").filter(|size| *size > 0).unwrap_or(DEFAULT_SIZE_BYTES);
        fields.finish();
        let limits = Limits { size_bytes };
        Some(Source { name: name.to_owned(), origin: origin?, persist, polling, verification, limits })
    }

    fn origin(&self, name: &str, fields: &mut Fields<'_>) -> Option<Origin> {
        let resource = fields.text("resource").unwrap_or_else(|| format!("bundles/{name}"));
        let service = fields.text("service");
        if resource.starts_with("file:") {
            let path = Url::parse(&resource).ok().and_then(|url| url.to_file_path().ok());
            if path.is_none() {
                fields.complain("resource", "a file is named by its whole path: file:///path");
            }
            return path.map(Origin::File);
        }
        let Some(service) = service.or_else(|| self.default_service.clone()) else {
            fields.complain("service", "is missing, and there are no services");
            return None;
        };
        let Some((service, base)) = self.services.get(&service) else {
            fields.complain("service", format!("there is no service {service:?}"));
            return None;
        };
        // Without a base the service was complained of already.
        let base = base.as_ref()?.as_str().trim_end_matches('/');
        match Url::parse(&format!("{base}/{}", resource.trim_matches('/'))) {
            Ok(url) => Some(Origin::Service { service: Arc::clone(service), url }),
            Err(error) => {
                fields.complain("resource", error.to_string());
                None
            }
        }
    }

    fn verification(&self, fields: &mut Fields<'_>) -> Option<Verification> {
        let verification = Verification { keys: self.keys.clone(), ..Verification::default() };
        let Some(mut section) = fields.object("signing") else {
            return (!self.keys.is_empty()).then_some(verification);
        };
        let key_id = section.text("keyid");
        if let Some(id) = key_id.as_ref().filter(|id| !self.keys.contains_key(*id)) {
            section.complain("keyid", format!("there is no key {id:?}"));
        }
        if self.keys.is_empty() && key_id.is_none() {
            section.complain("", "there are no keys to verify with");
        }
        let mut exclude = Vec::new();
        for text in section.texts("exclude_files") {
            match Pattern::path(text.trim_start_matches('/')) {
                Ok(pattern) => exclude.push(pattern),
                Err(message) => section.complain("exclude_files", format!("{text:?}: {message}")),
            }
        }
        let scope = section.text("scope");
        section.finish();
        Some(Verification { key_id, scope, exclude, is_required: true, ..verification })
    }
}

fn polling(mut section: Fields<'_>) -> Polling {
    let mut seconds = |key: &'static str| {
        let found = section.whole(key);
        if found.is_some_and(|seconds| !(1..=LONGEST_SECONDS).contains(&seconds)) {
            section.complain(key, format!("must be from 1 to {LONGEST_SECONDS}"));
        }
        found.map(Duration::from_secs)
    };
    let mut polling = Polling { long_poll: seconds("long_polling_timeout_seconds"), ..Polling::default() };
    match (seconds("min_delay_seconds"), seconds("max_delay_seconds")) {
        (Some(min), Some(max)) if min > max => {
            section.complain("", "max_delay_seconds is below min_delay_seconds");
        }
        (Some(min), Some(max)) => (polling.min_delay, polling.max_delay) = (min, max),
        (None, None) => {}
        _ => section.complain("", "min_delay_seconds and max_delay_seconds belong together"),
    }
    section.finish();
    polling
}

#[cfg(test)]
mod tests;
