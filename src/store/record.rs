//! The grant as JSON: the key contract, version 1. Anybody may write it, so everything about it is checked.

mod lock;

use std::num::NonZeroU64;
use std::time::Duration;

use jiff::Timestamp;
use serde::{Deserialize, Deserializer, Serialize};
use serde_json::{Map, Value};

use crate::clock::Now;
use crate::grant::{Grant, GrantId, Lifetime, Provenance, Refusal};
use crate::permission::{Cidr, Permission, PermissionLists};

pub use lock::{LockRecord, decode_lock, read_lock};

/// The only version there is.
pub const VERSION: u64 = 1;

/// Longest value in bytes. A grant is a page of JSON at most; a sidecar holds all of them.
pub const MAX_VALUE_BYTES: usize = 64 * 1024;

/// One grant as it is written. Field by field the documentation is in `docs/grant-key.md`.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct GrantRecord {
    pub v: u64,
    #[serde(default, deserialize_with = "given", skip_serializing_if = "Option::is_none")]
    pub id: Option<String>,
    pub subject: String,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub permissions: Vec<PermissionRecord>,
    #[serde(default, deserialize_with = "given", skip_serializing_if = "Option::is_none")]
    pub not_before: Option<Timestamp>,
    #[serde(default, deserialize_with = "given", skip_serializing_if = "Option::is_none")]
    pub expires_at: Option<Timestamp>,
    #[serde(default, deserialize_with = "given", skip_serializing_if = "Option::is_none")]
    pub max_uses: Option<NonZeroU64>,
    #[serde(default, deserialize_with = "given", skip_serializing_if = "Option::is_none")]
    pub conditions: Option<ConditionsRecord>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub roles: Vec<String>,
    #[serde(default, deserialize_with = "given", skip_serializing_if = "Option::is_none")]
    pub attributes: Option<Map<String, Value>>,
    #[serde(default, deserialize_with = "given", skip_serializing_if = "Option::is_none")]
    pub entitlement: Option<String>,
    #[serde(default, deserialize_with = "given", skip_serializing_if = "Option::is_none")]
    pub request: Option<String>,
    #[serde(default, skip_serializing_if = "Approvers::is_empty")]
    pub approved_by: Approvers,
    #[serde(default, deserialize_with = "given", skip_serializing_if = "Option::is_none")]
    pub justification: Option<String>,
    #[serde(default, deserialize_with = "given", skip_serializing_if = "Option::is_none")]
    pub ticket: Option<String>,
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub break_glass: bool,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PermissionRecord {
    #[serde(default, deserialize_with = "given", skip_serializing_if = "Option::is_none")]
    pub hosts: Option<Vec<String>>,
    #[serde(default, deserialize_with = "given", skip_serializing_if = "Option::is_none")]
    pub methods: Option<Vec<String>>,
    #[serde(default, deserialize_with = "given", skip_serializing_if = "Option::is_none")]
    pub paths: Option<Vec<String>>,
    #[serde(default, deserialize_with = "given", skip_serializing_if = "Option::is_none")]
    pub grpc_methods: Option<Vec<String>>,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ConditionsRecord {
    /// Required, and never empty: a condition that says nothing is a writer's lookup that found nothing.
    pub source_cidrs: Vec<String>,
}

/// A field that is there has a value: `null` would read as "no restriction" where somebody meant to write one.
fn given<'de, D: Deserializer<'de>, T: Deserialize<'de>>(deserializer: D) -> Result<Option<T>, D::Error> {
    T::deserialize(deserializer).map(Some)
}

/// One name, or a list of them.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Approvers {
    One(String),
    Many(Vec<String>),
}

impl Default for Approvers {
    fn default() -> Self {
        Self::Many(Vec::new())
    }
}

impl Approvers {
    #[must_use]
    pub fn is_empty(&self) -> bool {
        matches!(self, Self::Many(names) if names.is_empty())
    }

    #[must_use]
    pub fn to_vec(&self) -> Vec<String> {
        match self {
            Self::One(name) => vec![name.clone()],
            Self::Many(names) => names.clone(),
        }
    }
}

/// When a value was read and how long its key then had, as the store said.
#[derive(Debug, Clone, Copy)]
pub struct ReadAt {
    /// When the read was *sent*: the TTL is counted from then, so it errs early.
    pub sent: Now,
    pub ttl: Ttl,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ttl {
    /// The key never ends.
    None,
    Left(Duration),
}

/// Reads the value of the key of grant `id`.
///
/// # Errors
/// The first reason for which this is not a grant.
pub fn decode(id: &str, value: &[u8], read_at: ReadAt, max_ttl: Duration) -> Result<Grant, Refusal> {
    let id: GrantId = id.parse().map_err(|_| Refusal::BadId)?;
    if value.len() > MAX_VALUE_BYTES {
        return Err(Refusal::TooLarge);
    }
    let left = match read_at.ttl {
        Ttl::None => return Err(Refusal::NoTtl),
        Ttl::Left(left) if left > max_ttl => return Err(Refusal::TtlTooLong),
        Ttl::Left(left) => left,
    };
    let text = std::str::from_utf8(value).map_err(|_| Refusal::NotJson)?;
    let record = parse(text)?;
    if record.id.as_deref().is_some_and(|own| own != id.as_str()) {
        return Err(Refusal::BadId);
    }
    let by_ttl = read_at.sent.wall.checked_add(left).unwrap_or(Timestamp::MAX);
    let lifetime = Lifetime {
        not_before: record.not_before,
        deadline: read_at.sent.boot + left,
        expires_at: record.expires_at.map_or(by_ttl, |date| date.min(by_ttl)),
        is_dated: record.expires_at.is_some(),
    };
    record.into_grant(id, lifetime, text)
}

fn parse(text: &str) -> Result<GrantRecord, Refusal> {
    let error = match serde_json::from_str::<GrantRecord>(text) {
        Ok(record) if record.v == VERSION => return Ok(record),
        Ok(_) => return Err(Refusal::BadVersion),
        Err(error) => error,
    };
    // Only now, where it costs nobody anything: which of the reasons is it?
    let Ok(Value::Object(members)) = serde_json::from_str::<Value>(text) else {
        return Err(Refusal::NotJson);
    };
    if members.get("v").and_then(Value::as_u64) != Some(VERSION) {
        return Err(Refusal::BadVersion);
    }
    if members.get("subject").is_none_or(|subject| subject.as_str().is_none_or(str::is_empty)) {
        return Err(Refusal::BadSubject);
    }
    // serde tells its kinds of error apart only in its text, which a test pins.
    if error.to_string().starts_with("unknown field") {
        Err(Refusal::UnknownField)
    } else {
        Err(Refusal::BadField)
    }
}

impl GrantRecord {
    fn into_grant(self, id: GrantId, lifetime: Lifetime, document: &str) -> Result<Grant, Refusal> {
        let subject = self.subject.parse().map_err(|_| Refusal::BadSubject)?;
        let permissions = self.permissions.into_iter().map(|permission| {
            let PermissionRecord { hosts, methods, paths, grpc_methods } = permission;
            Permission::new(&PermissionLists { hosts, methods, paths, grpc_methods })
        });
        let permissions = permissions.collect::<Result<_, _>>().map_err(|_| Refusal::BadPermission)?;
        let ranges = match self.conditions {
            Some(conditions) if conditions.source_cidrs.is_empty() => return Err(Refusal::BadField),
            Some(conditions) => conditions.source_cidrs,
            None => Vec::new(),
        };
        let source_cidrs = ranges.iter().map(|range| range.parse::<Cidr>()).collect::<Result<_, _>>();
        let provenance = Provenance {
            entitlement: self.entitlement.map(Into::into),
            request: self.request.map(Into::into),
            approved_by: self.approved_by.to_vec().into_iter().map(Into::into).collect(),
            ticket: self.ticket.map(Into::into),
            break_glass: self.break_glass,
        };
        Ok(Grant {
            id,
            subject,
            permissions,
            lifetime,
            max_uses: self.max_uses,
            source_cidrs: source_cidrs.map_err(|_| Refusal::BadField)?,
            provenance: (provenance != Provenance::default()).then(|| Box::new(provenance)),
            document: document.into(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::BootTime;

    const NOW: Now = Now { boot: BootTime::from_millis(1_000), wall: Timestamp::UNIX_EPOCH };
    const HOUR: Duration = Duration::from_secs(3600);

    fn read(value: &str) -> Result<Grant, Refusal> {
        let read_at = ReadAt { sent: NOW, ttl: Ttl::Left(HOUR) };
        decode("g1", value.as_bytes(), read_at, 24 * HOUR)
    }

    #[test]
    fn reads_the_example_of_the_contract() {
        let grant = read(
            r#"{"v": 1, "subject": "user:alice@corp",
                "permissions": [{"hosts": ["orders.*.svc"], "methods": ["GET"], "paths": ["/db/**"]}]}"#,
        )
        .unwrap();
        assert_eq!(grant.subject.as_str(), "user:alice@corp");
        assert_eq!(grant.lifetime.remaining(NOW), HOUR);
        assert!(!grant.lifetime.is_dated);
    }

    #[test]
    fn reads_every_field() {
        let grant = read(
            r#"{"v": 1, "id": "g1", "subject": "group:sre", "permissions": [{"grpc_methods": ["a.B/*"]}],
                "not_before": "1970-01-01T00:10:00Z", "expires_at": "1970-01-01T00:30:00+00:00", "max_uses": 3,
                "conditions": {"source_cidrs": ["10.0.0.0/8"]}, "roles": ["r"], "attributes": {"any": [1.5]},
                "entitlement": "e", "request": "r1", "approved_by": "user:bob", "justification": "j", "ticket": "T-1",
                "break_glass": true}"#,
        )
        .unwrap();
        assert_eq!(grant.lifetime.remaining(NOW), Duration::from_secs(1800));
        assert_eq!(grant.max_uses, NonZeroU64::new(3));
        let provenance = grant.provenance.unwrap();
        assert_eq!(provenance.entitlement.as_deref(), Some("e"));
        assert_eq!(provenance.approved_by.first().map(|name| &**name), Some("user:bob"));
        assert!(provenance.break_glass);
        assert!(read(r#"{"v":1,"subject":"user:a","approved_by":["x","y"]}"#).is_ok());
    }

    #[test]
    fn refuses_with_the_reason() {
        for (value, refusal) in [
            ("", Refusal::NotJson),
            ("[]", Refusal::NotJson),
            ("{\"v\":1", Refusal::NotJson),
            (r#"{"subject":"user:a"}"#, Refusal::BadVersion),
            (r#"{"v":2,"subject":"user:a","new":1}"#, Refusal::BadVersion),
            (r#"{"v":"1","subject":"user:a"}"#, Refusal::BadVersion),
            (r#"{"v":1}"#, Refusal::BadSubject),
            (r#"{"v":1,"subject":""}"#, Refusal::BadSubject),
            (r#"{"v":1,"subject":7}"#, Refusal::BadSubject),
            (r#"{"v":1,"subject":"alice"}"#, Refusal::BadSubject),
            (r#"{"v":1,"subject":"user:a","nope":1}"#, Refusal::UnknownField),
            (r#"{"v":1,"subject":"user:a","permissions":[{"host":["x"]}]}"#, Refusal::UnknownField),
            (r#"{"v":1,"subject":"user:a","conditions":{"x":1}}"#, Refusal::UnknownField),
            (r#"{"v":1,"id":"g2","subject":"user:a"}"#, Refusal::BadId),
            (r#"{"v":1,"subject":"user:a","permissions":[{}]}"#, Refusal::BadPermission),
            (r#"{"v":1,"subject":"user:a","permissions":[{"hosts":[]}]}"#, Refusal::BadPermission),
            (r#"{"v":1,"subject":"user:a","max_uses":0}"#, Refusal::BadField),
            (r#"{"v":1,"subject":"user:a","max_uses":-1}"#, Refusal::BadField),
            (r#"{"v":1,"subject":"user:a","expires_at":"soon"}"#, Refusal::BadField),
            (r#"{"v":1,"subject":"user:a","attributes":[]}"#, Refusal::BadField),
            (r#"{"v":1,"subject":"user:a","subject":"user:b"}"#, Refusal::BadField),
            (r#"{"v":1,"subject":"user:a","conditions":{"source_cidrs":["x"]}}"#, Refusal::BadField),
            (r#"{"v":1,"subject":"user:a","conditions":{"source_cidrs":[]}}"#, Refusal::BadField),
            (r#"{"v":1,"subject":"user:a","conditions":{}}"#, Refusal::BadField),
            (r#"{"v":1,"subject":"user:a","conditions":null}"#, Refusal::BadField),
            (r#"{"v":1,"subject":"user:a","max_uses":null}"#, Refusal::BadField),
            (r#"{"v":1,"subject":"user:a","expires_at":null}"#, Refusal::BadField),
            (
                r#"{"v":1,"subject":"user:a","permissions":[{"hosts":null,"paths":["/x"]}]}"#,
                Refusal::BadField,
            ),
        ] {
            assert_eq!(read(value).map(|_| ()), Err(refusal), "{value}");
        }
        let large =
            format!(r#"{{"v":1,"subject":"user:a","justification":"{}"}}"#, "x".repeat(MAX_VALUE_BYTES));
        assert_eq!(read(&large).map(|_| ()), Err(Refusal::TooLarge));
        let valid = br#"{"v":1,"subject":"user:a"}"#;
        let with = |id, ttl| decode(id, valid, ReadAt { sent: NOW, ttl }, 24 * HOUR).map(|_| ());
        assert_eq!(with("g1", Ttl::None), Err(Refusal::NoTtl));
        assert_eq!(with("g1", Ttl::Left(25 * HOUR)), Err(Refusal::TtlTooLong));
        assert_eq!(with("g 1", Ttl::Left(HOUR)), Err(Refusal::BadId));
    }
}
