//! What was decided about one request, why, and what Envoy is to be told.
//!
//! There is no way to write "allowed, reason unknown" here, and no default: a decision is built where it is made.

use std::time::Duration;

use jiff::Timestamp;

/// Why a request passes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AllowReason {
    /// It rests on at least one grant.
    Grant,
    /// Policy allowed it without any grant.
    Policy,
    /// It would have been denied; `--dry-run` lets it through.
    DryRun(DenyReason),
}

impl AllowReason {
    #[must_use]
    pub const fn code(self) -> &'static str {
        match self {
            Self::Grant => "grant",
            Self::Policy => "policy",
            Self::DryRun(_) => "dry_run",
        }
    }
}

/// Why a request does not pass. The codes are stable: people alert on them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum DenyReason {
    /// The caller holds no grant.
    NoGrant,
    /// The caller holds grants, none of which covers this request.
    NotCovered,
    /// A lock beats every grant.
    Locked,
    /// The deciding grant has no uses left.
    UsesExhausted,
    /// The deciding grant was revoked while the request was being decided.
    GrantRevoked,
    /// The deciding grant ran out while the request was being decided.
    GrantExpired,
    /// The deciding grant changed, and changed again, while the request was being decided.
    GrantChanged,
    /// A principal of the caller holds more grants than a check may look at.
    TooManyGrants,
    /// The deciding grant ends within [`MIN_REMAINING`].
    GrantEnding,
    /// The grants cannot be known: the replica is not fresh.
    Stale,
    /// Policy said no.
    PolicyDenied,
    /// Policy failed, or said something that is not a decision.
    PolicyError,
    /// The request cannot be read.
    BadRequest,
    /// Two sources name different callers.
    IdentityConflict,
    /// More checks at once than configured.
    Overloaded,
    /// The check's own time budget ran out.
    Timeout,
    /// A mistake of ours.
    InternalError,
    /// Policy changed under a live stream that cannot be decided again as it stands. Whoever still may comes back.
    PolicyChanged,
}

impl DenyReason {
    pub const ALL: [Self; 18] = [
        Self::NoGrant,
        Self::NotCovered,
        Self::Locked,
        Self::UsesExhausted,
        Self::GrantRevoked,
        Self::GrantExpired,
        Self::GrantChanged,
        Self::TooManyGrants,
        Self::GrantEnding,
        Self::Stale,
        Self::PolicyDenied,
        Self::PolicyError,
        Self::BadRequest,
        Self::IdentityConflict,
        Self::Overloaded,
        Self::Timeout,
        Self::InternalError,
        Self::PolicyChanged,
    ];

    #[must_use]
    pub const fn code(self) -> &'static str {
        match self {
            Self::NoGrant => "no_grant",
            Self::NotCovered => "not_covered",
            Self::Locked => "locked",
            Self::UsesExhausted => "uses_exhausted",
            Self::GrantRevoked => "grant_revoked",
            Self::GrantExpired => "grant_expired",
            Self::GrantChanged => "grant_changed",
            Self::TooManyGrants => "too_many_grants",
            Self::GrantEnding => "grant_ending",
            Self::Stale => "stale",
            Self::PolicyDenied => "policy_denied",
            Self::PolicyError => "policy_error",
            Self::BadRequest => "bad_request",
            Self::IdentityConflict => "identity_conflict",
            Self::Overloaded => "overloaded",
            Self::Timeout => "timeout",
            Self::InternalError => "internal_error",
            Self::PolicyChanged => "policy_changed",
        }
    }

    /// The status a caller sees unless policy chose one: 403 is "no", 503 is "cannot tell", 500 is our operator's.
    #[must_use]
    pub const fn http_status(self) -> u16 {
        match self {
            Self::NoGrant
            | Self::NotCovered
            | Self::Locked
            | Self::UsesExhausted
            | Self::GrantRevoked
            | Self::GrantExpired
            | Self::GrantEnding
            | Self::PolicyDenied
            | Self::IdentityConflict => 403,
            Self::Stale
            | Self::GrantChanged
            | Self::TooManyGrants
            | Self::Overloaded
            | Self::Timeout
            | Self::PolicyChanged => 503,
            Self::PolicyError | Self::InternalError => 500,
            Self::BadRequest => 400,
        }
    }

    /// What the caller is told when policy wrote no body. Names no grant, no file and no secret.
    #[must_use]
    pub const fn message(self) -> &'static str {
        match self {
            Self::NoGrant => "you hold no grant; ask for access",
            Self::NotCovered => "your grants do not cover this request",
            Self::Locked => "access is locked",
            Self::UsesExhausted => "the grant for this request has no uses left",
            Self::GrantRevoked => "the grant for this request was revoked",
            Self::GrantExpired => "the grant for this request has ended",
            Self::GrantChanged => "the grant for this request is being changed; try again",
            Self::TooManyGrants => "too many grants to look at; their operator can see whose in the log",
            Self::GrantEnding => "the grant for this request is about to end",
            Self::Stale => "the grants cannot be read at the moment; try again",
            Self::PolicyDenied => "denied by policy",
            Self::PolicyError => "the access policy failed; its operator can see why in the log",
            Self::BadRequest => "the request cannot be read",
            Self::IdentityConflict => "the request names more than one caller",
            Self::Overloaded => "too many requests at once; try again",
            Self::Timeout => "the decision took too long; try again",
            Self::InternalError => "the check failed; its operator can see why in the log",
            Self::PolicyChanged => "the policy has changed; try again",
        }
    }

    /// Whether `--dry-run` lets it pass.
    const fn is_for_trying_out(self) -> bool {
        !self.is_unknown() && !matches!(self, Self::BadRequest | Self::Locked)
    }

    /// Whether nobody could know the answer, as opposed to knowing that it is no.
    #[must_use]
    pub const fn is_unknown(self) -> bool {
        self.http_status() >= 500
    }
}

/// A grant with less than this left is not worth starting a request on: Envoy's stream deadline has a floor of its own
/// cost, and a value of 0 would mean no deadline at all.
pub const MIN_REMAINING: Duration = Duration::from_millis(100);

/// A JSON value in nobody's library, for metadata on its way from policy to Envoy.
#[derive(Debug, Clone, PartialEq)]
pub enum Json {
    Null,
    Bool(bool),
    Number(f64),
    String(String),
    List(Vec<Json>),
    Object(Vec<(String, Json)>),
}

/// Name and value, in the order policy gave them.
pub type Pairs = Vec<(String, String)>;

/// What an allow asks of Envoy (`OkHttpResponse`).
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Mutations {
    pub headers: Pairs,
    pub headers_to_remove: Vec<String>,
    pub response_headers_to_add: Pairs,
    pub query_parameters_to_set: Pairs,
    pub query_parameters_to_remove: Vec<String>,
}

/// What a denial tells the caller (`DeniedHttpResponse`).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DeniedHttp {
    pub status: u16,
    pub headers: Pairs,
    pub body: String,
}

/// The grants a decision rests on, all of them needed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Basis {
    /// Ids, the one that ends first in front.
    pub grants: Vec<String>,
    /// Of the grant that ends first.
    pub request: Option<String>,
    pub approved_by: Vec<String>,
    pub ticket: Option<String>,
    pub break_glass: bool,
    pub expires_at: Timestamp,
    /// Time left when the decision was made.
    pub remaining: Duration,
}

#[expect(clippy::large_enum_variant, reason = "one a check, moved a few times; allows are what is frequent")]
#[derive(Debug, Clone, PartialEq)]
pub enum Verdict {
    Allow {
        reason: AllowReason,
        /// `None` where policy said a bare `true`, which OPA-Envoy answers without an `OkHttpResponse`.
        mutations: Option<Mutations>,
        basis: Option<Basis>,
        /// Longest stream that policy wants to allow by it.
        lease: Option<Duration>,
    },
    Deny {
        reason: DenyReason,
        /// `None` where policy said a bare `false`: Envoy then answers an empty 403.
        http: Option<DeniedHttp>,
    },
}

/// The lock that stands in the way.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Barrier {
    pub lock: String,
    pub message: String,
}

#[derive(Debug, Clone, PartialEq)]
pub struct Decision {
    pub verdict: Verdict,
    /// Policy's own `dynamic_metadata`.
    pub metadata: Vec<(String, Json)>,
    pub barrier: Option<Barrier>,
}

impl Decision {
    /// A denial that no policy had a say in.
    #[must_use]
    pub fn deny(reason: DenyReason) -> Self {
        Self::deny_with(reason, reason.message())
    }

    /// As [`Self::deny`], with a message that is safe to show to the caller.
    #[must_use]
    pub fn deny_with(reason: DenyReason, message: &str) -> Self {
        let body = format!("{{\"reason\":\"{}\",\"message\":{}}}\n", reason.code(), json_string(message));
        let headers = vec![("content-type".to_owned(), "application/json".to_owned())];
        let http = DeniedHttp { status: reason.http_status(), headers, body };
        Self { verdict: Verdict::Deny { reason, http: Some(http) }, metadata: Vec::new(), barrier: None }
    }

    #[must_use]
    pub fn locked(lock: &str, message: &str) -> Self {
        let barrier = Barrier { lock: lock.to_owned(), message: message.to_owned() };
        Self { barrier: Some(barrier), ..Self::deny_with(DenyReason::Locked, message) }
    }

    #[must_use]
    pub fn is_allow(&self) -> bool {
        matches!(self.verdict, Verdict::Allow { .. })
    }

    #[must_use]
    pub fn reason_code(&self) -> &'static str {
        match &self.verdict {
            Verdict::Allow { reason, .. } => reason.code(),
            Verdict::Deny { reason, .. } => reason.code(),
        }
    }

    /// None of an allow.
    #[must_use]
    pub fn deny_reason(&self) -> Option<DenyReason> {
        match &self.verdict {
            Verdict::Allow { .. } => None,
            Verdict::Deny { reason, .. } => Some(*reason),
        }
    }

    #[must_use]
    pub fn basis(&self) -> Option<&Basis> {
        match &self.verdict {
            Verdict::Allow { basis, .. } => basis.as_ref(),
            Verdict::Deny { .. } => None,
        }
    }

    /// The same decision `elapsed` later: its grants have less left, or too little.
    #[must_use]
    pub fn after(mut self, elapsed: Duration) -> Self {
        if let Verdict::Allow { basis: Some(basis), .. } = &mut self.verdict {
            basis.remaining = basis.remaining.saturating_sub(elapsed);
            if basis.remaining < MIN_REMAINING {
                return Self::deny(DenyReason::GrantEnding);
            }
        }
        self
    }

    /// What `--dry-run` makes of it: a denial that was decided passes; one that could not be decided stays, and so does
    /// a lock, which somebody set so that nothing passes.
    #[must_use]
    pub fn into_dry_run(self) -> Self {
        match self.verdict {
            Verdict::Deny { reason, .. } if reason.is_for_trying_out() => {
                let verdict = Verdict::Allow {
                    reason: AllowReason::DryRun(reason),
                    mutations: Some(Mutations::default()),
                    basis: None,
                    lease: None,
                };
                Self { verdict, ..self }
            }
            verdict => Self { verdict, ..self },
        }
    }
}

fn json_string(text: &str) -> String {
    let mut quoted = String::with_capacity(text.len() + 2);
    quoted.push('"');
    for c in text.chars() {
        match c {
            '"' => quoted.push_str("\\\""),
            '\\' => quoted.push_str("\\\\"),
            // Nothing that a person should read has them.
            c if c.is_control() => quoted.push(' '),
            c => quoted.push(c),
        }
    }
    quoted.push('"');
    quoted
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_are_distinct_and_statuses_are_denials() {
        let codes: std::collections::BTreeSet<_> =
            DenyReason::ALL.iter().map(|reason| reason.code()).collect();
        assert_eq!(codes.len(), DenyReason::ALL.len());
        assert!(DenyReason::ALL.iter().all(|reason| reason.http_status() >= 400));
    }

    #[test]
    fn dry_run_passes_what_was_decided_and_nothing_else() {
        for reason in DenyReason::ALL {
            let passes = Decision::deny(reason).into_dry_run().is_allow();
            let is_no = reason.http_status() == 403 && reason != DenyReason::Locked;
            assert_eq!(passes, is_no, "{reason:?}");
        }
    }

    #[test]
    fn messages_stay_json() {
        assert_eq!(json_string("a\"b\\c\n"), r#""a\"b\\c ""#);
    }
}
