//! What a webhook is, and which events are for it. Must never show what is secret in it: not its headers, and not its
//! URL, which is the password of many a chat.

use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use http::header::{HeaderName, HeaderValue};
use url::Url;

use super::record::Told;
use crate::desk::event::EventType;
use crate::desk::takes_type;

pub const DEFAULT_TIMEOUT: Duration = Duration::from_secs(5);
/// More would be no answer but a wait, and another instance takes a webhook over only after it.
pub const MAX_TIMEOUT: Duration = Duration::from_secs(60);
pub const DEFAULT_MAX_AGE: Duration = Duration::from_secs(24 * 3600);

/// What the receiver reads.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Format {
    /// The event as it stands in the journal.
    #[default]
    Generic,
    /// One line for people.
    Slack,
}

/// Of which events that no entitlement names it for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Reach {
    #[default]
    All,
    /// None: `default: false`.
    Named,
}

#[derive(Clone, PartialEq, Eq)]
pub struct WebhookConfig {
    pub name: String,
    pub url: Url,
    /// Types and families; empty for all.
    pub events: Vec<String>,
    /// Empty for all, and for events about none.
    pub entitlements: Vec<String>,
    pub reach: Reach,
    pub format: Format,
    /// The key of the signature. Read for each delivery, as are the other files.
    pub secret_file: Option<PathBuf>,
    /// Marked as sensitive.
    pub headers: Vec<(HeaderName, HeaderValue)>,
    pub header_files: Vec<(HeaderName, PathBuf)>,
    pub ca_file: Option<PathBuf>,
    /// Of one attempt, until the status.
    pub timeout: Duration,
    /// What is older is not delivered any more.
    pub max_age: Duration,
}

impl fmt::Debug for WebhookConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("WebhookConfig").field("name", &self.name).finish_non_exhaustive()
    }
}

/// Whether any event has a type that this takes.
#[must_use]
pub fn is_known_type(wanted: &str) -> bool {
    !wanted.is_empty() && EventType::ALL.iter().any(|kind| takes_type(wanted, kind.as_str()))
}

impl WebhookConfig {
    /// Whether the event is for this webhook, of which `is_named` says whether the event's entitlement names it.
    ///
    /// What an entitlement names stands beside `entitlements`; `events` holds for both. But who skips the approvers is
    /// told of to everybody the entitlement names.
    #[must_use]
    pub fn takes(&self, told: &Told, is_named: bool) -> bool {
        if is_named && told.kind == EventType::BreakGlassActivated.as_str() {
            return true;
        }
        let is_listed = self.entitlements.is_empty()
            || told.entitlement.as_ref().is_some_and(|name| self.entitlements.contains(name));
        let is_about = is_named || (self.reach == Reach::All && is_listed);
        is_about
            && (self.events.is_empty() || self.events.iter().any(|wanted| takes_type(wanted, &told.kind)))
    }
}

#[cfg(test)]
pub mod tests {
    use super::*;

    pub fn webhook() -> WebhookConfig {
        WebhookConfig {
            name: "chat".to_owned(),
            url: Url::parse("https://chat.example/T/secret-path").unwrap(),
            events: Vec::new(),
            entitlements: Vec::new(),
            reach: Reach::All,
            format: Format::Generic,
            secret_file: None,
            headers: Vec::new(),
            header_files: Vec::new(),
            ca_file: None,
            timeout: DEFAULT_TIMEOUT,
            max_age: DEFAULT_MAX_AGE,
        }
    }

    fn told(kind: &str, entitlement: Option<&str>) -> Told {
        Told::parse(&serde_json::json!({"type": kind, "entitlement": entitlement}).to_string()).unwrap()
    }

    #[test]
    fn filters_and_names() {
        let all = webhook();
        let grants = WebhookConfig { events: vec!["grant.*".to_owned()], ..webhook() };
        let orders = WebhookConfig { entitlements: vec!["orders".to_owned()], ..webhook() };
        let named = WebhookConfig { reach: Reach::Named, ..webhook() };
        let quiet = WebhookConfig { reach: Reach::Named, ..grants.clone() };
        for (webhook, kind, entitlement, is_named, wanted) in [
            (&all, "lock.created", None, false, true),
            (&grants, "grant.created", None, false, true),
            (&grants, "request.created", None, false, false),
            (&grants, "grants", None, false, false),
            (&orders, "grant.created", Some("orders"), false, true),
            (&orders, "grant.created", Some("stock"), false, false),
            (&orders, "grant.created", Some("stock"), true, true),
            (&orders, "lock.created", None, false, false),
            (&named, "grant.created", Some("orders"), false, false),
            (&named, "grant.created", Some("orders"), true, true),
            (&named, "breakglass.activated", Some("orders"), false, false),
            (&quiet, "request.created", Some("orders"), true, false),
            (&quiet, "grant.created", Some("orders"), true, true),
            (&quiet, "breakglass.activated", Some("orders"), true, true),
            (&grants, "breakglass.activated", Some("orders"), false, false),
        ] {
            let taken = webhook.takes(&told(kind, entitlement), is_named);
            assert_eq!(taken, wanted, "{kind} {entitlement:?} {is_named}");
        }
    }

    #[test]
    fn types_are_known_ones() {
        for known in ["grant.created", "grant.*", "*", "breakglass.*", "request.auto_approved"] {
            assert!(is_known_type(known), "{known}");
        }
        for unknown in ["", "grant", "grants.*", "grant.create", "Grant.*"] {
            assert!(!is_known_type(unknown), "{unknown}");
        }
    }

    #[test]
    fn nothing_secret_is_shown() {
        assert!(!format!("{:?}", webhook()).contains("secret-path"));
    }
}
