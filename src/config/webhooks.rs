//! The `webhooks` of the configuration file: who is told of what happens. Must never show a URL or the value of a header: many
//! are secrets.

use std::collections::HashSet;
use std::path::PathBuf;
use std::time::Duration;

use http::header::{HeaderName, HeaderValue};
use serde_json::Value as Json;
use url::{Host, Url};

use super::file::{parsed, path, text};
use super::parse_duration;
use super::reader::Section;
use crate::webhook::{
    DEFAULT_MAX_AGE, DEFAULT_TIMEOUT, Format, MAX_TIMEOUT, Reach, WebhookConfig, is_known_type,
};

/// Each has a task and a row in the store.
const MAX_WEBHOOKS: usize = 64;
/// As names of entitlements.
const MAX_NAME: usize = 63;
/// What is set by whoever sends, and by nobody else.
const OWN_HEADERS: [&str; 9] = [
    "connection",
    "content-length",
    "content-type",
    "expect",
    "host",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
];

pub fn read(root: &mut Section<'_, '_>) -> Vec<WebhookConfig> {
    let found = root.sections("webhooks", webhook).unwrap_or_default();
    let mut names = HashSet::new();
    for config in &found {
        if !names.insert(config.name.as_str()) {
            root.complain(&format!("webhooks: the name {:?} is there twice", config.name));
        }
    }
    if found.len() > MAX_WEBHOOKS {
        root.complain(&format!("webhooks: more than {MAX_WEBHOOKS}"));
    }
    found
}

fn webhook(section: &mut Section<'_, '_>) -> Option<WebhookConfig> {
    let name = section.get("name", name);
    let url = section.get("url", url);
    let events = section.list("events", event_type);
    let entitlements = section.list("entitlements", text);
    let is_default = section.get("default", parsed::<bool>);
    let format = section.get("format", |text| match text {
        "generic" => Ok(Format::Generic),
        "slack" => Ok(Format::Slack),
        other => Err(format!("{other:?} is neither generic nor slack")),
    });
    let secret_file = section.get("secret_file", path);
    let headers = headers(section, "headers", |value| {
        let mut value = HeaderValue::from_str(value).ok()?;
        value.set_sensitive(true);
        Some(value)
    });
    let header_files =
        self::headers(section, "header_files", |value| (!value.is_empty()).then(|| PathBuf::from(value)));
    if headers.iter().any(|(name, _)| header_files.iter().any(|(other, _)| name == other)) {
        section.complain("a header is in headers and in header_files");
    }
    let ca_file = section.get("ca_file", path);
    if ca_file.is_some() && url.as_ref().is_some_and(|url| url.scheme() != "https") {
        section.complain("ca_file is for https://");
    }
    let timeout = section.get("timeout", |text| at_most(text, MAX_TIMEOUT));
    let max_age = section.get("max_age", parse_duration);
    for (key, is_there) in [("name", name.is_some()), ("url", url.is_some())] {
        if !is_there {
            section.complain(&format!("needs `{key}`"));
        }
    }
    if [&events, &entitlements].into_iter().any(|list| list.as_ref().is_some_and(Vec::is_empty)) {
        section.complain("an empty list takes nothing; leave it out for all, or write `default: false`");
    }
    Some(WebhookConfig {
        name: name?,
        url: url?,
        events: events.unwrap_or_default(),
        entitlements: entitlements.unwrap_or_default(),
        reach: if is_default == Some(false) { Reach::Named } else { Reach::All },
        format: format.unwrap_or_default(),
        secret_file,
        headers,
        header_files,
        ca_file,
        timeout: timeout.unwrap_or(DEFAULT_TIMEOUT),
        max_age: max_age.unwrap_or(DEFAULT_MAX_AGE),
    })
}

fn name(text: &str) -> Result<String, String> {
    let starts = text.starts_with(|c: char| c.is_ascii_lowercase() || c.is_ascii_digit());
    let is_inner = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || "._-".contains(c);
    if starts && text.len() <= MAX_NAME && text.chars().all(is_inner) {
        Ok(text.to_owned())
    } else {
        Err(format!("a name is 1 to {MAX_NAME} of a-z, 0-9, `.`, `_`, `-` and begins with a letter or digit"))
    }
}

fn event_type(text: &str) -> Result<String, String> {
    if is_known_type(text) {
        Ok(text.to_owned())
    } else {
        Err(format!("{text:?} is no type of events and no family; write grant.created or grant.*"))
    }
}

/// What is told says who may do what: nobody on the way may read it.
fn url(text: &str) -> Result<Url, String> {
    let url = Url::parse(text).map_err(|error| format!("not a URL: {error}"))?;
    let is_loopback = match url.host() {
        Some(Host::Domain(name)) => name == "localhost",
        Some(Host::Ipv4(address)) => address.is_loopback(),
        Some(Host::Ipv6(address)) => address.is_loopback(),
        None => false,
    };
    match url.scheme() {
        _ if !url.username().is_empty() || url.password().is_some() => {
            Err("user and password are not sent; write an authorization header".to_owned())
        }
        "https" => Ok(url),
        "http" if is_loopback => Ok(url),
        "http" => Err("in clear; only this machine may be called by http://".to_owned()),
        _ => Err("not https://".to_owned()),
    }
}

fn at_most(text: &str, longest: Duration) -> Result<Duration, String> {
    let found = parse_duration(text)?;
    if found <= longest { Ok(found) } else { Err(format!("{found:?} is more than {longest:?}")) }
}

/// Names to values, which are not shown.
fn headers<T>(
    section: &mut Section<'_, '_>,
    key: &'static str,
    parse: impl Fn(&str) -> Option<T>,
) -> Vec<(HeaderName, T)> {
    let mut found = Vec::new();
    let members = match section.json(key) {
        None => return found,
        Some(Json::Object(members)) => members,
        Some(_) => {
            section.complain(&format!("{key} must be a mapping of names to values"));
            return found;
        }
    };
    for (name, value) in members {
        let is_own = |name: &HeaderName| {
            OWN_HEADERS.contains(&name.as_str()) || name.as_str().starts_with("x-daypass-")
        };
        match (HeaderName::try_from(name.as_str()), value.as_str().and_then(&parse)) {
            (Ok(name), _) if is_own(&name) => {
                section.complain(&format!("{key}.{name}: this header is not yours to set"));
            }
            (Ok(name), _) if found.iter().any(|(other, _)| *other == name) => {
                section.complain(&format!("{key}.{name}: is there twice"));
            }
            (Ok(name), Some(value)) => found.push((name, value)),
            (Ok(name), None) => section.complain(&format!("{key}.{name}: no text that can be a value")),
            (Err(_), _) => section.complain(&format!("{key}: {name:?} is no name of a header")),
        }
    }
    found
}
