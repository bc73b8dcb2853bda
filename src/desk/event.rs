//! What happened, as it is written into the journal. An event says who did what to what, and is never changed.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::model::{Registered, Request};
use crate::principal::Identity;

/// Everything that is recorded. The names are stable: people filter by them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EventType {
    RequestCreated,
    RequestReviewed,
    RequestApproved,
    RequestAutoApproved,
    RequestDenied,
    RequestWithdrawn,
    RequestExpired,
    GrantCreated,
    GrantScheduled,
    GrantActivated,
    GrantCancelled,
    GrantExtended,
    GrantRevoked,
    GrantRevokedAgain,
    GrantRelinquished,
    GrantEnded,
    GrantExhausted,
    BreakGlassActivated,
    LockCreated,
    LockDeleted,
    LockEnded,
    PolicyLoaded,
    EntitlementUpdated,
    StoreRecovered,
}

impl EventType {
    pub const ALL: [Self; 20] = [
        Self::RequestCreated,
        Self::RequestReviewed,
        Self::RequestApproved,
        Self::RequestAutoApproved,
        Self::RequestDenied,
        Self::RequestWithdrawn,
        Self::RequestExpired,
        Self::GrantCreated,
        Self::GrantScheduled,
        Self::GrantActivated,
        Self::GrantCancelled,
        Self::GrantExtended,
        Self::GrantRevoked,
        Self::GrantRevokedAgain,
        Self::GrantRelinquished,
        Self::GrantEnded,
        Self::BreakGlassActivated,
        Self::LockCreated,
        Self::LockDeleted,
        Self::LockEnded,
    ];

    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::RequestCreated => "request.created",
            Self::RequestReviewed => "request.reviewed",
            Self::RequestApproved => "request.approved",
            Self::RequestAutoApproved => "request.auto_approved",
            Self::RequestDenied => "request.denied",
            Self::RequestWithdrawn => "request.withdrawn",
            Self::RequestExpired => "request.expired",
            Self::GrantCreated => "grant.created",
            Self::GrantScheduled => "grant.scheduled",
            Self::GrantActivated => "grant.activated",
            Self::GrantCancelled => "grant.cancelled",
            Self::GrantExtended => "grant.extended",
            Self::GrantRevoked => "grant.revoked",
            Self::GrantRevokedAgain => "grant.revoked_again",
            Self::GrantRelinquished => "grant.relinquished",
            Self::GrantEnded => "grant.ended",
            Self::GrantExhausted => "grant.exhausted",
            Self::BreakGlassActivated => "breakglass.activated",
            Self::LockCreated => "lock.created",
            Self::LockDeleted => "lock.deleted",
            Self::LockEnded => "lock.ended",
            Self::PolicyLoaded => "policy.loaded",
            Self::EntitlementUpdated => "entitlement.updated",
            Self::StoreRecovered => "store.recovered",
        }
    }
}

/// One event. Members without a value are left out.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Event {
    /// Its own, so that no two events are the same text.
    pub id: String,
    /// The name of an [`EventType`], of this version or another.
    #[serde(rename = "type")]
    pub kind: String,
    pub time: Timestamp,
    /// Who did it; absent where time did.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub actor: Option<String>,
    /// Who acted for the actor.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub delegate: Option<String>,
    /// By what the actor was known: `jwt`, `certificate` or `token`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub evidence: Option<String>,
    /// Whose access it is about.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub subject: Option<String>,
    /// Who asked for it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub requester: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub request: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub grant: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lock: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub entitlement: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub revision: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub break_glass: bool,
    /// What is particular to the type.
    #[serde(default, skip_serializing_if = "Map::is_empty")]
    pub details: Map<String, Value>,
}

impl Event {
    /// Nobody did it: its time had come.
    #[must_use]
    pub fn new(kind: EventType, time: Timestamp) -> Self {
        Self {
            id: uuid::Uuid::new_v4().simple().to_string(),
            kind: kind.as_str().to_owned(),
            time,
            actor: None,
            delegate: None,
            evidence: None,
            subject: None,
            requester: None,
            request: None,
            grant: None,
            lock: None,
            entitlement: None,
            revision: None,
            reason: None,
            break_glass: false,
            details: Map::new(),
        }
    }

    /// What policy is told of it.
    #[must_use]
    pub fn question(&self) -> Value {
        let mut question = Value::Object(Map::new());
        let mut put = |name: &str, value: Option<&String>| super::model::set(&mut question, name, value);
        put("type", Some(&self.kind));
        put("actor", self.actor.as_ref());
        put("subject", self.subject.as_ref());
        put("requester", self.requester.as_ref());
        put("request", self.request.as_ref());
        put("grant", self.grant.as_ref());
        put("entitlement", self.entitlement.as_ref());
        question
    }

    #[must_use]
    pub fn by(mut self, identity: &Identity) -> Self {
        self.actor = Some(identity.subject.to_string());
        self.delegate = identity.delegate.as_ref().map(ToString::to_string);
        self.evidence = Some(identity.evidence.as_str().to_owned());
        self
    }

    #[must_use]
    pub fn on_request(mut self, request: &Request) -> Self {
        self.subject = Some(request.subject.clone());
        self.requester = Some(request.requester.name.clone());
        self.request = Some(request.id.clone());
        self.grant.clone_from(&request.grant);
        self.entitlement = Some(request.entitlement.clone());
        self.revision = Some(request.revision.clone());
        self
    }

    #[must_use]
    pub fn on_grant(mut self, grant: &Registered) -> Self {
        self.subject = Some(grant.record.subject.clone());
        self.requester.clone_from(&grant.requester);
        self.request.clone_from(&grant.record.request);
        self.grant = Some(grant.id.clone());
        self.entitlement.clone_from(&grant.record.entitlement);
        self.break_glass = grant.record.break_glass;
        self.with("expires_at", &grant.expires)
    }

    #[must_use]
    pub fn because(mut self, reason: &str) -> Self {
        self.reason = (!reason.is_empty()).then(|| reason.to_owned());
        self
    }

    #[must_use]
    pub fn with(mut self, name: &str, value: &impl Serialize) -> Self {
        // What cannot be written as JSON is a detail that is missing, not an event.
        if let Ok(value) = serde_json::to_value(value) {
            self.details.insert(name.to_owned(), value);
        }
        self
    }
}
