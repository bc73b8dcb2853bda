//! Entitlements: who may ask for which access, for how long, and who decides. They are policy data, below
//! `data.daypass.entitlements`, read strictly: a mistake must never widen who gets what, so all of them are told and
//! nothing is used. Must never do I/O, and never decide; that is the admission policy's.

mod duration;
mod fields;
mod read;

use std::collections::BTreeMap;
use std::fmt;
use std::num::NonZeroU64;
use std::sync::Arc;
use std::time::Duration;

use ring::digest::{Context, SHA256};
use serde_json::{Map, Value, json};

use crate::permission::{Cidr, Permission, PermissionLists, Target};
use crate::principal::{Caller, Principal};

pub use duration::parse as parse_duration;

/// What entitlements are held against.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Longest time that any grant may have, extensions included.
    pub max_grant_ttl: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self { max_grant_ttl: Duration::from_secs(24 * 3600) }
    }
}

/// One part of the way to a value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    Name(String),
    Index(usize),
}

/// One thing that is wrong, and where below `data`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mistake {
    pub path: Vec<Step>,
    pub message: String,
}

impl fmt::Display for Mistake {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("data")?;
        for step in &self.path {
            match step {
                Step::Index(index) => write!(f, "[{index}]")?,
                Step::Name(name) if !name.is_empty() && name.bytes().all(is_plain) => write!(f, ".{name}")?,
                Step::Name(name) => write!(f, "[{}]", Value::from(name.as_str()))?,
            }
        }
        write!(f, ": {}", self.message)
    }
}

fn is_plain(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || byte == b'_' || byte == b'-'
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Justification {
    pub required: bool,
    /// In characters, where one is required.
    pub min_length: u32,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ticket {
    pub required: bool,
    /// As it was written; the whole ticket must match.
    pub pattern: Option<String>,
}

/// Access without anybody's approval. Nobody is eligible unless somebody is named.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BreakGlass {
    pub eligible: Vec<Principal>,
    pub max_ttl: Duration,
}

/// One entitlement, with every default in place. Field by field the documentation is in `docs/entitlements.md`.
#[derive(Debug, Clone)]
pub struct Entitlement {
    pub name: String,
    pub description: String,
    /// As they are written, for the grant.
    pub permissions: Vec<PermissionLists>,
    matchers: Vec<Permission>,
    pub roles: Vec<String>,
    pub attributes: Map<String, Value>,
    /// As they are written, for the grant.
    pub source_cidrs: Vec<String>,
    ranges: Vec<Cidr>,
    pub eligible: Vec<Principal>,
    pub approvers: Vec<Principal>,
    /// Persons who must agree; 0 if nobody has to.
    pub approvals: u32,
    pub default_ttl: Duration,
    pub max_ttl: Duration,
    /// All extensions together with what was there before them.
    pub max_total_ttl: Duration,
    pub max_extensions: u32,
    pub approve_within: Duration,
    pub justification: Justification,
    pub ticket: Ticket,
    pub max_uses: Option<NonZeroU64>,
    pub allow_self_approval: bool,
    /// Who may ask on behalf of somebody else.
    pub ask_for_others: Vec<Principal>,
    pub break_glass: BreakGlass,
    pub webhooks: Vec<String>,
    /// As it was written, or a digest of everything above.
    pub revision: String,
}

impl Entitlement {
    /// Whether a grant of it would cover this request.
    #[must_use]
    pub fn covers(&self, target: &Target<'_>) -> bool {
        let is_inside = self.ranges.is_empty()
            || target.source().is_some_and(|source| self.ranges.iter().any(|range| range.contains(source)));
        is_inside && self.matchers.iter().any(|permission| permission.matches(target))
    }

    /// What policy sees: every field, durations as seconds.
    #[must_use]
    pub fn to_json(&self) -> Value {
        let mut json = self.body();
        json["revision"] = self.revision.as_str().into();
        json
    }

    /// A digest of everything: changes when anything does, also where `revision` was written and stayed the same.
    #[must_use]
    pub fn digest(&self) -> String {
        digest(&self.to_json())
    }

    /// A digest of what a grant of it has: changes with it, and with nothing else.
    #[must_use]
    pub fn gives(&self) -> String {
        digest(&self.given())
    }

    fn given(&self) -> Value {
        let mut json = json!({
            "permissions": self.permissions.iter().map(lists_json).collect::<Vec<_>>(),
            "roles": self.roles,
            "attributes": self.attributes,
            "conditions": {"source_cidrs": self.source_cidrs},
        });
        if let Some(max_uses) = self.max_uses {
            json["max_uses"] = max_uses.get().into();
        }
        json
    }

    fn body(&self) -> Value {
        let mut json = self.given();
        let ticket = match &self.ticket.pattern {
            Some(pattern) => json!({"required": self.ticket.required, "pattern": pattern,
                "anchored": anchored(pattern)}),
            None => json!({"required": self.ticket.required}),
        };
        let more = json!({
            "name": self.name,
            "description": self.description,
            "eligible": texts(&self.eligible),
            "approvers": texts(&self.approvers),
            "approvals": self.approvals,
            "default_ttl_s": self.default_ttl.as_secs(),
            "max_ttl_s": self.max_ttl.as_secs(),
            "max_total_ttl_s": self.max_total_ttl.as_secs(),
            "max_extensions": self.max_extensions,
            "approve_within_s": self.approve_within.as_secs(),
            "justification": {
                "required": self.justification.required,
                "min_length": self.justification.min_length,
            },
            "ticket": ticket,
            "allow_self_approval": self.allow_self_approval,
            "ask_for_others": texts(&self.ask_for_others),
            "break_glass": {
                "eligible": texts(&self.break_glass.eligible),
                "max_ttl_s": self.break_glass.max_ttl.as_secs(),
            },
            "webhooks": self.webhooks,
        });
        if let (Value::Object(all), Value::Object(more)) = (&mut json, more) {
            all.extend(more);
        }
        json
    }
}

/// All there is to ask for, and who may see and run everything.
#[derive(Debug, Clone)]
pub struct Entitlements {
    by_name: BTreeMap<String, Arc<Entitlement>>,
    administrators: Vec<Principal>,
    auditors: Vec<Principal>,
}

impl Entitlements {
    /// What `data` has below `daypass`, which must not be anything else; without that there is nothing to ask for.
    ///
    /// # Errors
    /// Every mistake, with its place.
    pub fn from_data(data: &Value, limits: &Limits) -> Result<Self, Vec<Mistake>> {
        read::entitlements(data, limits)
    }

    #[must_use]
    pub fn get(&self, name: &str) -> Option<&Entitlement> {
        self.by_name.get(name).map(Arc::as_ref)
    }

    /// By name.
    pub fn iter(&self) -> impl Iterator<Item = &Entitlement> {
        self.by_name.values().map(Arc::as_ref)
    }

    /// Those of which a grant would cover this request, by name.
    pub fn covering<'a>(&'a self, target: &'a Target<'a>) -> impl Iterator<Item = &'a Entitlement> {
        self.iter().filter(move |entitlement| entitlement.covers(target))
    }

    #[must_use]
    pub fn len(&self) -> usize {
        self.by_name.len()
    }

    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.by_name.is_empty()
    }

    #[must_use]
    pub fn administrators(&self) -> &[Principal] {
        &self.administrators
    }

    /// Whether the caller is an administrator or an auditor.
    #[must_use]
    pub fn oversees(&self, caller: &Caller) -> bool {
        let mut names = self.administrators.iter().chain(&self.auditors);
        names.any(|name| caller.principals().contains(name))
    }

    #[must_use]
    pub fn auditors(&self) -> &[Principal] {
        &self.auditors
    }
}

/// A pattern that matches a whole ticket or nothing.
fn anchored(pattern: &str) -> String {
    format!(r"\A(?:{pattern})\z")
}

fn texts(principals: &[Principal]) -> Vec<&str> {
    principals.iter().map(Principal::as_str).collect()
}

fn lists_json(lists: &PermissionLists) -> Value {
    let PermissionLists { hosts, methods, paths, grpc_methods } = lists;
    let named = [("hosts", hosts), ("methods", methods), ("paths", paths), ("grpc_methods", grpc_methods)];
    let given = named.into_iter().filter_map(|(name, list)| Some((name.to_owned(), json!(list.as_ref()?))));
    Value::Object(given.collect())
}

/// The same for the same value, whatever the order of its members.
fn digest(value: &Value) -> String {
    /// Of the digest; short enough to be read out.
    const BYTES: usize = 8;
    let mut context = Context::new(&SHA256);
    feed(value, &mut context);
    data_encoding::HEXLOWER.encode(context.finish().as_ref().get(..BYTES).unwrap_or_default())
}

/// Depth is bounded by what was read.
fn feed(value: &Value, context: &mut Context) {
    match value {
        Value::Array(items) => {
            context.update(b"[");
            for item in items {
                feed(item, context);
                context.update(b",");
            }
            context.update(b"]");
        }
        Value::Object(members) => {
            let sorted: BTreeMap<_, _> = members.iter().collect();
            context.update(b"{");
            for (name, value) in sorted {
                context.update(Value::from(name.as_str()).to_string().as_bytes());
                context.update(b":");
                feed(value, context);
                context.update(b",");
            }
            context.update(b"}");
        }
        scalar => context.update(scalar.to_string().as_bytes()),
    }
}

#[cfg(test)]
mod tests;
