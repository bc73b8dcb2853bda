//! One look at one live stream: does what it rests on still stand?

use std::sync::Arc;
use std::time::Duration;

use envoy_types::pb::envoy::service::auth::v3::CheckRequest;
use prost::Message;
use tokio::time::Instant;

use super::recent::Footing;
use super::{END_GRACE, Watcher};
use crate::authz::uses::Spent;
use crate::authz::{Course, Measure, request, settle};
use crate::clock::{BootTime, Now};
use crate::decision::{Decision, DenyReason, MIN_REMAINING};
use crate::grant::Grant;
use crate::lock::Lock;
use crate::principal::Caller;

/// For a grant that another instance let a stream in by to come here, too. A push takes a millisecond, a new copy a second.
const GRANT_PATIENCE: Duration = Duration::from_secs(1);
/// For an instance with another policy to come to the same one: bundles are polled for at different moments.
const POLICY_PATIENCE: Duration = Duration::from_secs(60);
/// Looks that end in no decision (an evaluation that took too long) before a stream ends for it.
const MAX_DOUBTS: u8 = 3;

/// How closely a stream is looked at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Depth {
    /// Its grants, and whether a lock is against it.
    Grants,
    /// Policy is asked again, too.
    Policy,
}

/// Who decided that a stream may begin.
#[derive(Debug, Clone)]
pub enum Origin {
    /// This process, and this is the encoded CheckRequest.
    Here(Box<[u8]>),
    /// This process, about a request too large to be kept.
    HereUnkept,
    /// Another one, or this one before anybody watched. What is known of it came with Envoy's metadata.
    Elsewhere,
}

/// What is known of a live stream.
#[derive(Debug, Clone)]
pub struct Known {
    /// The id of the decision that let it in.
    pub decision: Arc<str>,
    /// Envoy's name for the request.
    pub request_id: Option<Box<str>>,
    pub caller: Caller,
    pub footing: Footing,
    pub origin: Origin,
    /// Of the policy that decided. None where the metadata does not say.
    pub revision: Option<Arc<str>>,
    /// When the first of its grants ends.
    pub end: Option<BootTime>,
    /// Grants that the stream rests on and this instance has not got.
    pub missing: Vec<String>,
    pub began: BootTime,
    pub doubts: u8,
}

/// What a look found.
pub enum Looked {
    Same,
    /// It stands, on something that has changed.
    Other(Known),
    /// More is known of it, and it must be looked at again.
    Again(Known),
    /// Only the request can tell.
    Decide,
    /// Nobody can tell at the moment.
    Unknown,
    Over(Box<Decision>),
}

impl Known {
    /// When its grants, as they are now, end.
    #[must_use]
    pub fn ending(self, now: Now) -> Self {
        let left = self.footing.grants.iter().map(|grant| grant.lifetime.remaining(now)).min();
        Self { end: left.map(|left| now.boot + left), ..self }
    }
}

impl Looked {
    fn over(reason: DenyReason) -> Self {
        Self::Over(Box::new(Decision::deny(reason)))
    }
}

impl Watcher {
    pub(super) fn look(&self, known: &Known, depth: Depth) -> Looked {
        let now = self.checker.clock.now();
        if !known.missing.is_empty() {
            return self.look_for_missing(known, now);
        }
        let mut grants = Vec::with_capacity(known.footing.grants.len());
        // An end that has passed and is none: dates are judged by a clock that somebody may set.
        let mut is_other = known.end.is_some_and(|end| end + END_GRACE <= now.boot);
        for grant in &known.footing.grants {
            let current = self.checker.replica.get(grant.id.as_str());
            let is_gone = current.as_ref().is_none_or(|current| current.lifetime.has_ended(now));
            match current {
                // Envoy's timer is about to end it, and says so better.
                _ if is_gone && is_ending(grant, now) => return Looked::Same,
                Some(_) if is_gone => return Looked::over(DenyReason::GrantExpired),
                None => return Looked::over(why_gone(grant, now)),
                Some(current) if Arc::ptr_eq(&current, grant) => grants.push(current),
                Some(current) if is_same_access(&current, grant) => {
                    is_other = true;
                    grants.push(current);
                }
                Some(_) if matches!(known.origin, Origin::Here(_)) => return Looked::Decide,
                Some(_) => return Looked::over(DenyReason::GrantChanged),
            }
        }
        if let Some(lock) = self.lock_against_stream(known, &grants, now) {
            return Looked::Over(Box::new(settle::locked(&lock)));
        }
        if let Some(looked) = self.look_at_policy(known, depth, now) {
            return looked;
        }
        if is_other {
            let footing = Footing { grants, ..known.footing };
            return Looked::Other(Known { footing, ..known.clone() }.ending(now));
        }
        Looked::Same
    }

    /// None if it was let in by the policy in force.
    fn look_at_policy(&self, known: &Known, depth: Depth, now: Now) -> Option<Looked> {
        let in_force = Arc::clone(&self.checker.rules.current().revision);
        let is_same = known.revision.as_ref().is_some_and(|revision| **revision == *in_force);
        let is_asked = depth == Depth::Policy;
        match (&known.origin, &known.revision) {
            // The same text may be another policy: what it was loaded from may have been mended in between.
            (Origin::Here(_), Some(revision)) if !is_asked && Arc::ptr_eq(revision, &in_force) => None,
            (Origin::Here(_), _) => Some(Looked::Decide),
            _ if is_same => None,
            (Origin::Elsewhere, None) if !is_asked => None,
            (Origin::Elsewhere, Some(_)) if !is_asked && now.boot < known.began + POLICY_PATIENCE => {
                Some(Looked::Unknown)
            }
            (Origin::HereUnkept | Origin::Elsewhere, _) => Some(Looked::over(DenyReason::PolicyChanged)),
        }
    }

    /// Two instances hear of a grant within a moment of each other. One that does not come was revoked in that moment.
    fn look_for_missing(&self, known: &Known, now: Now) -> Looked {
        let find = |id: &String| self.checker.replica.get(id);
        match known.missing.iter().map(find).collect::<Option<Vec<_>>>() {
            Some(found) => {
                let subjects = found.iter().map(|grant| grant.subject.clone());
                let caller = Caller::new(known.caller.principals().iter().cloned().chain(subjects).collect());
                let grants = known.footing.grants.iter().cloned().chain(found).collect();
                let footing = Footing { grants, ..known.footing };
                Looked::Again(Known { caller, footing, missing: Vec::new(), ..known.clone() }.ending(now))
            }
            None if now.boot < known.began + GRANT_PATIENCE => Looked::Unknown,
            None => Looked::over(DenyReason::GrantRevoked),
        }
    }

    /// While the replica is not to be trusted. What ended by its own clock has ended.
    pub(super) fn look_at_clock(&self, known: &Known) -> Looked {
        let now = self.checker.clock.now();
        let has_ended = |grant: &Arc<Grant>| grant.lifetime.has_ended(now) && !is_ending(grant, now);
        if known.footing.grants.iter().any(has_ended) {
            Looked::over(DenyReason::GrantExpired)
        } else {
            Looked::Unknown
        }
    }

    fn lock_against_stream(&self, known: &Known, grants: &[Arc<Grant>], now: Now) -> Option<Arc<Lock>> {
        let replica = &self.checker.replica;
        if !replica.has_locks() {
            return None;
        }
        let on_everything =
            || if known.footing.stands_alone { None } else { replica.lock_on_everything(now) };
        let on_grants = || {
            let mut grants = grants.to_vec();
            replica.take_locked(&mut grants, now).into_iter().map(|(_, lock)| lock).next()
        };
        replica.lock_on(&known.caller, now).or_else(on_everything).or_else(on_grants)
    }

    /// As a check of the same request would be decided now. Takes no uses: this stream has had its own.
    pub(super) async fn decide_again(&self, known: &Known) -> Looked {
        let checker = &self.checker;
        let Origin::Here(request) = &known.origin else { return Looked::over(DenyReason::PolicyChanged) };
        let Ok(request) = CheckRequest::decode(&**request) else {
            return Looked::over(DenyReason::InternalError);
        };
        let Ok(parsed) = request::parse(&request, checker.config.body_parsing) else {
            return Looked::over(DenyReason::BadRequest);
        };
        let rules = checker.rules.current();
        let course = Course {
            request: &request,
            rules: &rules,
            caller: &known.caller,
            began: checker.clock.now(),
            settle_by: Instant::now() + checker.config.settle_timeout,
            measure: Measure::No,
        };
        let weighed = checker.weigh(&course, parsed, &Spent::default()).await;
        let Some(reason) = weighed.decision.deny_reason() else {
            let footing = weighed.footing();
            let revision = Some(Arc::clone(&rules.revision));
            let known = Known { footing, revision, doubts: 0, ..known.clone() };
            return Looked::Other(known.ending(checker.clock.now()));
        };
        match reason {
            DenyReason::Stale | DenyReason::GrantChanged | DenyReason::GrantEnding => Looked::Unknown,
            // It may have been the machine, and every stream is looked at in the same moment.
            DenyReason::PolicyError | DenyReason::TooManyGrants if known.doubts < MAX_DOUBTS => {
                Looked::Again(Known { doubts: known.doubts + 1, ..known.clone() })
            }
            _ => Looked::Over(Box::new(weighed.decision)),
        }
    }
}

/// Whether Envoy's own timer is at this end: it is about to come, or came less than [`END_GRACE`] ago.
fn is_ending(grant: &Grant, now: Now) -> bool {
    let lifetime = &grant.lifetime;
    let is_past = lifetime.deadline + END_GRACE <= now.boot
        || lifetime.is_dated
            && Duration::try_from(now.wall.duration_since(lifetime.expires_at))
                .is_ok_and(|past| past >= END_GRACE);
    lifetime.remaining(now) < MIN_REMAINING && !is_past
}

fn why_gone(grant: &Grant, now: Now) -> DenyReason {
    if grant.lifetime.remaining(now) < MIN_REMAINING {
        DenyReason::GrantExpired
    } else {
        DenyReason::GrantRevoked
    }
}

/// Whether two versions of a grant differ in nothing but when they end.
fn is_same_access(one: &Grant, other: &Grant) -> bool {
    one.document == other.document && one.subject == other.subject && one.max_uses == other.max_uses
}
