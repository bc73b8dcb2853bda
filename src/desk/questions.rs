//! What the admission policy is asked, as the document it reads.

use jiff::Timestamp;
use serde_json::{Value, json};
use tokio::runtime::{Handle, RuntimeFlavor};

use super::admission::{Admission, Admitted, Terms};
use super::model::{Registered, Request, seconds, set};
use super::{Desk, DeskError, MAX_START_AHEAD};
use crate::entitlement::Entitlement;
use crate::principal::{Identity, Principal};

/// Everything that can be asked. The names are part of the contract with policies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Action {
    RequestCreate,
    RequestApprove,
    RequestDeny,
    RequestWithdraw,
    RequestView,
    GrantStart,
    GrantExtend,
    GrantCreate,
    GrantRevoke,
    GrantRelinquish,
    GrantRevokeAll,
    GrantView,
    BreakGlass,
    LockCreate,
    LockDelete,
    LockView,
    EventView,
    EntitlementView,
    AccessExplain,
}

impl Action {
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::RequestCreate => "request.create",
            Self::RequestApprove => "request.approve",
            Self::RequestDeny => "request.deny",
            Self::RequestWithdraw => "request.withdraw",
            Self::RequestView => "request.view",
            Self::GrantStart => "grant.start",
            Self::GrantExtend => "grant.extend",
            Self::GrantCreate => "grant.create",
            Self::GrantRevoke => "grant.revoke",
            Self::GrantRelinquish => "grant.relinquish",
            Self::GrantRevokeAll => "grant.revoke_all",
            Self::GrantView => "grant.view",
            Self::BreakGlass => "break_glass",
            Self::LockCreate => "lock.create",
            Self::LockDelete => "lock.delete",
            Self::LockView => "lock.view",
            Self::EventView => "event.view",
            Self::EntitlementView => "entitlement.view",
            Self::AccessExplain => "access.explain",
        }
    }
}

/// What a question is about. Parts that are not there are not in the document.
#[derive(Debug, Clone, Copy, Default)]
pub struct About<'a> {
    pub entitlement: Option<&'a Entitlement>,
    pub request: Option<&'a Request>,
    pub grant: Option<&'a Registered>,
    pub target: Option<&'a Value>,
    pub event: Option<&'a Value>,
}

/// The decision stands on the policy and entitlements of one moment.
pub struct Asking<'a> {
    pub admission: &'a Admission,
    pub who: Option<&'a Identity>,
    pub now: Timestamp,
    max_grant_ttl_s: u64,
}

impl Desk {
    pub(super) fn asking<'a>(
        &self,
        admission: &'a Admission,
        who: Option<&'a Identity>,
        now: Timestamp,
    ) -> Asking<'a> {
        Asking { admission, who, now, max_grant_ttl_s: seconds(self.limits.max_grant_ttl) }
    }
}

impl Asking<'_> {
    /// # Errors
    /// Policy says no, with its reasons, or has failed.
    pub fn require(&self, action: Action, about: About<'_>) -> Result<Terms, DeskError> {
        match self.decide(action, about)? {
            Admitted::Yes(terms) => Ok(terms),
            Admitted::No { reasons } => Err(DeskError::Denied(reasons)),
        }
    }

    /// # Errors
    /// Policy has failed.
    pub fn allows(&self, action: Action, about: About<'_>) -> Result<bool, DeskError> {
        Ok(matches!(self.decide(action, about)?, Admitted::Yes(_)))
    }

    /// Whether the caller is one of those who see everything, about whom no row needs a question of its own.
    pub fn sees_all(&self) -> bool {
        self.who.is_some_and(|who| self.admission.entitlements().oversees(&who.caller))
    }

    /// What a caller may not see is not found.
    ///
    /// # Errors
    /// The caller may not see it, or policy has failed.
    pub fn see(&self, action: Action, about: About<'_>, what: &'static str) -> Result<(), DeskError> {
        if self.allows(action, about)? { Ok(()) } else { Err(DeskError::NotFound(what)) }
    }

    fn decide(&self, action: Action, about: About<'_>) -> Result<Admitted, DeskError> {
        let decided = beside_others(|| self.admission.decide(self.question(action, about)));
        decided.map_err(|error| {
            tracing::error!(action = action.as_str(), "the admission policy failed: {error}");
            DeskError::Admission(error)
        })
    }

    fn question(&self, action: Action, about: About<'_>) -> Value {
        let entitlements = self.admission.entitlements();
        let mut question = json!({
            "action": action.as_str(),
            "now": self.now,
            "now_ns": i64::try_from(self.now.as_nanosecond()).unwrap_or(i64::MAX),
            "limits": {
                "max_grant_ttl_s": self.max_grant_ttl_s,
                "max_start_ahead_s": seconds(MAX_START_AHEAD),
            },
            "administrators": names(entitlements.administrators()),
            "auditors": names(entitlements.auditors()),
        });
        set(&mut question, "caller", self.who.map(caller).as_ref());
        set(&mut question, "entitlement", about.entitlement.map(Entitlement::to_json).as_ref());
        set(&mut question, "request", about.request.map(Request::question).as_ref());
        set(&mut question, "reviews", about.request.map(Request::reviews_question).as_ref());
        set(&mut question, "grant", about.grant.map(Registered::question).as_ref());
        set(&mut question, "target", about.target);
        set(&mut question, "event", about.event);
        question
    }
}

/// Policy may take its whole time limit, for which nothing else on this thread may wait: the heartbeat of the store's
/// session least of all.
fn beside_others<T>(work: impl FnOnce() -> T) -> T {
    match Handle::try_current().map(|runtime| runtime.runtime_flavor()) {
        Ok(RuntimeFlavor::MultiThread) => tokio::task::block_in_place(work),
        // A runtime of one thread is a test's.
        _ => work(),
    }
}

fn caller(identity: &Identity) -> Value {
    let mut caller = json!({
        "subject": identity.subject.as_str(),
        "principals": names(identity.caller.principals()),
        "source": identity.evidence.as_str(),
    });
    set(&mut caller, "delegate", identity.delegate.as_ref().map(ToString::to_string).as_ref());
    caller
}

fn names(principals: &[Principal]) -> Vec<&str> {
    principals.iter().map(Principal::as_str).collect()
}
