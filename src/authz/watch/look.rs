//! One look at one live stream: does what it rests on still stand?

use std::borrow::Cow;
use std::sync::Arc;

use envoy_types::pb::envoy::service::auth::v3::CheckRequest;
use prost::Message;
use tokio::time::Instant;

use super::recent::Footing;
use super::{Watcher, gone};
use crate::authz::uses::Spent;
use crate::authz::{Course, Measure, request, settle, telling};
use crate::clock::{BootTime, Now};
use crate::decision::{Decision, DenyReason, MIN_REMAINING};
use crate::grant::Grant;
use crate::lock::Lock;
use crate::principal::Caller;

/// How closely a stream is looked at.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Depth {
    /// Its grants, and whether a lock is against it.
    Grants,
    /// Policy is asked again, too.
    Policy,
}

/// What is known of a live stream.
#[derive(Debug, Clone)]
pub struct Known {
    /// The id of the decision that let it in.
    pub decision: Arc<str>,
    pub caller: Caller,
    pub footing: Footing,
    /// The encoded CheckRequest. None if it was gone when the watch came, or another instance decided it.
    pub request: Option<Box<[u8]>>,
    /// Of the policy that decided. None if that is not known.
    pub revision: Option<Arc<str>>,
    /// When the first of its grants ends.
    pub end: Option<BootTime>,
    /// Grants that the stream rests on and this instance has not got, and until when they may still come.
    pub missing: Vec<String>,
    pub missing_until: Option<BootTime>,
}

/// What a look found.
pub enum Looked {
    Same,
    /// It stands, on something that has changed.
    Other(Known),
    /// Only the request can tell.
    Decide,
    /// Nobody can tell at the moment.
    Unknown,
    Over(Box<Decision>),
}

impl Known {
    /// Envoy's name for the request, if the request is known.
    #[must_use]
    pub fn request_id(&self) -> Option<String> {
        let request = CheckRequest::decode(self.request.as_deref()?).ok()?;
        telling::request_id(&request).map(Cow::into_owned)
    }

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
        let replica = &self.checker.replica;
        let now = self.checker.clock.now();
        if !known.missing.is_empty() {
            return self.look_for_missing(known, now);
        }
        let mut grants = Vec::with_capacity(known.footing.grants.len());
        // An end that has passed and is none: dates are judged by a clock that somebody may set.
        let mut is_other = known.end.is_some() && is_late(known, now);
        for grant in &known.footing.grants {
            let is_ending = grant.lifetime.remaining(now) < MIN_REMAINING;
            match replica.get(grant.id.as_str()) {
                // Envoy's timer is about to end it, and says so better.
                None if is_ending && !is_late(known, now) => return Looked::Same,
                None => return Looked::over(gone(is_ending)),
                Some(current) if current.lifetime.has_ended(now) => {
                    return if is_late(known, now) { Looked::over(gone(true)) } else { Looked::Same };
                }
                Some(current) if Arc::ptr_eq(&current, grant) => grants.push(current),
                Some(current) if is_same_access(&current, grant) => {
                    is_other = true;
                    grants.push(current);
                }
                Some(_) if known.request.is_some() => return Looked::Decide,
                Some(_) => return Looked::over(DenyReason::GrantChanged),
            }
        }
        if let Some(lock) = self.lock_against_stream(known, &grants, now) {
            return Looked::Over(Box::new(settle::locked(&lock)));
        }
        let is_same_policy = || {
            let revision = &self.checker.rules.current().revision;
            known.revision.as_ref().is_some_and(|known| Arc::ptr_eq(known, revision))
        };
        match (depth, &known.request) {
            (Depth::Policy, Some(_)) => return Looked::Decide,
            (Depth::Policy, None) => return Looked::over(DenyReason::PolicyChanged),
            // It came into force between the decision and the watch.
            (Depth::Grants, Some(_)) if !is_same_policy() => return Looked::Decide,
            (Depth::Grants, _) => {}
        }
        if is_other {
            let footing = Footing { grants, ..known.footing };
            return Looked::Other(Known { footing, ..known.clone() }.ending(now));
        }
        Looked::Same
    }

    /// Two instances hear of a grant within a moment of each other. One that does not come was revoked in that moment.
    fn look_for_missing(&self, known: &Known, now: Now) -> Looked {
        let find = |id: &String| self.checker.replica.get(id);
        match known.missing.iter().map(find).collect::<Option<Vec<_>>>() {
            Some(found) => {
                let grants = known.footing.grants.iter().cloned().chain(found).collect();
                let footing = Footing { grants, ..known.footing };
                let known = Known { footing, missing: Vec::new(), missing_until: None, ..known.clone() };
                Looked::Other(known.ending(now))
            }
            None if known.missing_until.is_some_and(|until| now.boot < until) => Looked::Unknown,
            None => Looked::over(DenyReason::GrantRevoked),
        }
    }

    /// While the replica is not to be trusted. What ended by its own clock has ended.
    pub(super) fn look_at_clock(&self, known: &Known) -> Looked {
        let now = self.checker.clock.now();
        let has_ended = known.footing.grants.iter().any(|grant| grant.lifetime.has_ended(now));
        if has_ended && is_late(known, now) {
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
        let rules = checker.rules.current();
        let request = known.request.as_deref().map(CheckRequest::decode);
        let Some(Ok(request)) = request else { return Looked::over(DenyReason::PolicyChanged) };
        let Ok(parsed) = request::parse(&request, checker.config.body_parsing) else {
            return Looked::over(DenyReason::BadRequest);
        };
        let course = Course {
            rules: &rules,
            caller: &known.caller,
            began: checker.clock.now(),
            settle_by: Instant::now() + checker.config.settle_timeout,
            measure: Measure::No,
        };
        let weighed = checker.weigh(&course, parsed, &Spent::default()).await;
        if weighed.decision.is_allow() {
            let footing = weighed.footing();
            let revision = Some(Arc::clone(&rules.revision));
            return Looked::Other(Known { footing, revision, ..known.clone() }.ending(checker.clock.now()));
        }
        match weighed.decision.deny_reason() {
            Some(DenyReason::Stale | DenyReason::GrantChanged | DenyReason::GrantEnding) => Looked::Unknown,
            _ => Looked::Over(Box::new(weighed.decision)),
        }
    }
}

/// Whether its end is longer ago than Envoy's own timer may take.
fn is_late(known: &Known, now: Now) -> bool {
    known.end.is_none_or(|end| end + super::END_GRACE <= now.boot)
}

/// Whether two versions of a grant differ in nothing but when they end.
fn is_same_access(one: &Grant, other: &Grant) -> bool {
    one.document == other.document && one.subject == other.subject && one.max_uses == other.max_uses
}
