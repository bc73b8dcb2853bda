//! What the desk keeps: access requests, and the register of grants. These types are their JSON in the store.
//!
//! Nothing here decides. What cannot be, such as a decided request without a time, is not written by the desk; what
//! is read was written by a daypass.

use std::time::Duration;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::grant::GrantId;
use crate::principal::Identity;
use crate::store::GrantRecord;

/// Whether an access request is for a grant, or for more time of one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    Access,
    Extension,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum State {
    Pending,
    Approved,
    Denied,
    Withdrawn,
    /// Nobody decided in time.
    Expired,
}

impl State {
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Pending => "pending",
            Self::Approved => "approved",
            Self::Denied => "denied",
            Self::Withdrawn => "withdrawn",
            Self::Expired => "expired",
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Decision {
    Approved,
    Denied,
}

/// A person or workload, with the names it had when it acted.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Party {
    pub name: String,
    pub principals: Vec<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub delegate: Option<String>,
}

impl Party {
    /// By all the names it had.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.principals.iter().chain(&self.delegate).chain([&self.name]).map(String::as_str)
    }

    #[must_use]
    pub fn of(identity: &Identity) -> Self {
        Self {
            name: identity.subject.to_string(),
            principals: identity.caller.principals().iter().map(ToString::to_string).collect(),
            delegate: identity.delegate.as_ref().map(ToString::to_string),
        }
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Review {
    pub reviewer: Party,
    pub decision: Decision,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub reason: String,
    pub time: Timestamp,
    /// What the reviewer narrowed it to.
    #[serde(default, with = "millis", skip_serializing_if = "Option::is_none")]
    pub duration: Option<Duration>,
}

/// Somebody asks for an entitlement.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Request {
    pub id: String,
    pub kind: Kind,
    pub state: State,
    pub entitlement: String,
    pub revision: String,
    /// Digest of what the entitlement gave when it was asked for.
    pub gives: String,
    pub requester: Party,
    pub subject: String,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub justification: String,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub ticket: String,
    /// As asked.
    #[serde(with = "millis")]
    pub duration: Option<Duration>,
    /// As decided.
    #[serde(default, with = "millis", skip_serializing_if = "Option::is_none")]
    pub granted: Option<Duration>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub not_before: Option<Timestamp>,
    pub approve_by: Timestamp,
    pub created: Timestamp,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub decided: Option<Timestamp>,
    pub approvals_required: u32,
    pub reviews: Vec<Review>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub grant: Option<String>,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub reason: String,
    pub approvers: Vec<String>,
}

impl Request {
    /// What was asked for, at most as long as every reviewer said.
    #[must_use]
    pub fn narrowed(&self) -> Duration {
        let asked = self.duration.unwrap_or_default();
        self.reviews.iter().filter_map(|review| review.duration).fold(asked, Duration::min)
    }

    /// What policy is told of it.
    #[must_use]
    pub fn question(&self) -> Value {
        let subject_principals = if self.is_for_others() {
            std::slice::from_ref(&self.subject)
        } else {
            &self.requester.principals
        };
        let mut question = json!({
            "id": self.id,
            "kind": self.kind,
            "state": self.state,
            "entitlement": self.entitlement,
            "requester": self.requester.name,
            "requester_principals": self.requester.principals,
            "subject": self.subject,
            "subject_principals": subject_principals,
            "justification": self.justification,
            "ticket": self.ticket,
            "duration_s": seconds(self.duration.unwrap_or_default()),
            "approve_by": self.approve_by,
            "create_time": self.created,
        });
        set(&mut question, "delegate", self.requester.delegate.as_ref());
        set(&mut question, "not_before", self.not_before.as_ref());
        set(&mut question, "grant", self.grant.as_ref());
        question
    }

    /// Everybody who has to do with it, by all the names they had.
    pub fn parties(&self) -> impl Iterator<Item = &str> {
        let names = self.requester.principals.iter().chain(&self.requester.delegate);
        names.chain([&self.subject, &self.requester.name]).map(String::as_str)
    }

    #[must_use]
    pub fn is_for_others(&self) -> bool {
        self.subject != self.requester.name
    }

    #[must_use]
    pub fn reviews_question(&self) -> Value {
        let review = |review: &Review| {
            let mut question = json!({
                "reviewer": review.reviewer.name,
                "principals": review.reviewer.principals,
                "decision": review.decision,
                "reason": review.reason,
                "time": review.time,
            });
            set(&mut question, "delegate", review.reviewer.delegate.as_ref());
            set(&mut question, "duration_s", review.duration.map(seconds).as_ref());
            question
        };
        self.reviews.iter().map(review).collect()
    }
}

/// What became of a grant.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Standing {
    /// Approved, to begin later. Its key is not written yet.
    Scheduled,
    Active,
    Ended,
    Revoked,
    Relinquished,
    /// Refused at its start.
    Cancelled,
}

impl Standing {
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Scheduled => "scheduled",
            Self::Active => "active",
            Self::Ended => "ended",
            Self::Revoked => "revoked",
            Self::Relinquished => "relinquished",
            Self::Cancelled => "cancelled",
        }
    }

    /// Whether it may still let something pass, now or later.
    #[must_use]
    pub const fn is_open(self) -> bool {
        matches!(self, Self::Scheduled | Self::Active)
    }
}

/// A grant in the register: its record, and what the key does not say. Outlives the key.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Registered {
    pub id: String,
    pub standing: Standing,
    pub record: GrantRecord,
    /// Who asked for it, or gave it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub requester: Option<String>,
    /// Digest of what its entitlement gave when it was given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gives: Option<String>,
    pub created: Timestamp,
    /// When its time began, or begins.
    pub starts: Timestamp,
    pub expires: Timestamp,
    #[serde(default)]
    pub extensions: u32,
    /// Whether it was recorded that it has no uses left.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub is_exhausted: bool,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ended_by: Option<String>,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub end_reason: String,
}

impl Registered {
    /// Of a grant that somebody wrote without the API.
    #[must_use]
    pub fn of_key(id: &GrantId, record: GrantRecord, now: Timestamp, expires: Timestamp) -> Self {
        Self {
            id: id.to_string(),
            standing: Standing::Active,
            record,
            requester: None,
            gives: None,
            created: now,
            starts: now,
            expires,
            extensions: 0,
            is_exhausted: false,
            ended_by: None,
            end_reason: String::new(),
        }
    }

    #[must_use]
    pub fn question(&self) -> Value {
        let total = Duration::try_from(self.expires.duration_since(self.starts)).unwrap_or_default();
        let mut question = json!({
            "id": self.id,
            "subject": self.record.subject,
            "state": self.standing,
            "extensions": self.extensions,
            "starts_at": self.starts,
            "expires_at": self.expires,
            "total_s": seconds(total),
            "break_glass": self.record.break_glass,
        });
        set(&mut question, "entitlement", self.record.entitlement.as_ref());
        set(&mut question, "request", self.record.request.as_ref());
        set(&mut question, "requester", self.requester.as_ref());
        question
    }
}

/// Whole seconds, rounded up: what is compared with a maximum must not look shorter than it is.
#[must_use]
pub fn seconds(duration: Duration) -> u64 {
    duration.as_secs() + u64::from(duration.subsec_nanos() > 0)
}

/// Sets a member where there is a value; policy tells absent from empty.
pub fn set<T: Serialize>(question: &mut Value, name: &str, value: Option<&T>) {
    if let (Some(members), Some(value)) = (question.as_object_mut(), value) {
        // A value that cannot be written is one that policy does not see.
        members.insert(name.to_owned(), serde_json::to_value(value).unwrap_or_default());
    }
}

/// Durations in milliseconds.
mod millis {
    use std::time::Duration;

    use serde::{Deserialize, Deserializer, Serializer};

    #[expect(clippy::ref_option, reason = "serde's signature")]
    pub fn serialize<S: Serializer>(duration: &Option<Duration>, serializer: S) -> Result<S::Ok, S::Error> {
        match duration {
            Some(duration) => {
                serializer.serialize_u64(u64::try_from(duration.as_millis()).unwrap_or(u64::MAX))
            }
            None => serializer.serialize_none(),
        }
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Duration>, D::Error> {
        Option::<u64>::deserialize(deserializer).map(|millis| millis.map(Duration::from_millis))
    }
}
