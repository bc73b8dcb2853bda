//! Locks on the check path: before policy is asked, and again behind everything that takes time.
//!
//! A check that meets no lock pays one load for that, each time. Nothing here ever makes a denial an allow.

use std::sync::Arc;

use tokio::time::timeout_at;

use super::settle::{self, Settled};
use super::{Checker, Course};
use crate::clock::Now;
use crate::decision::{Decision, DenyReason};
use crate::grant::{self, Grant};
use crate::lock::Lock;
use crate::permission::Target;
use crate::principal::Caller;

impl Checker {
    /// Takes the grants whose entitlements are locked out of `active`, and says which lock took the best of those that
    /// cover `target`.
    pub(super) fn lock_on_covering(
        &self,
        active: &mut Vec<Arc<Grant>>,
        target: &Target<'_>,
        now: Now,
    ) -> Option<Arc<Lock>> {
        let taken = self.replica.take_locked(active, now);
        if taken.is_empty() {
            return None;
        }
        let (grants, locks): (Vec<_>, Vec<_>) = taken.into_iter().unzip();
        let best = *grant::covering(&grants, target).first()?;
        let of_best =
            |(grant, lock): (&Arc<Grant>, &Arc<Lock>)| Arc::ptr_eq(grant, best).then(|| Arc::clone(lock));
        grants.iter().zip(&locks).find_map(of_best)
    }

    /// The same decision, unless a lock came that is against it. One that was announced and not read yet is waited
    /// for: a check that is answered after the announcement is answered by it.
    pub(super) async fn unless_locked(
        &self,
        course: &Course<'_>,
        settled: Settled,
        active: &[Arc<Grant>],
    ) -> Settled {
        if !self.replica.has_locks() || settled.decision.barrier.is_some() {
            return settled;
        }
        let known = timeout_at(course.settle_by, self.replica.locks_settled()).await;
        if let Some(lock) = self.lock_against(&settled, course.caller, active) {
            return Settled::plain(settle::locked(&lock));
        }
        if known.is_err() {
            return Settled::plain(Decision::deny(DenyReason::Stale));
        }
        if settled.decision.basis().is_none() {
            return settled;
        }
        // The wait took time, of which the grants have less left now.
        match self.still_known(settled.decision, course.began) {
            decision if decision.is_allow() => Settled { decision, ..settled },
            decision => Settled::plain(decision),
        }
    }

    fn lock_against(&self, settled: &Settled, caller: &Caller, active: &[Arc<Grant>]) -> Option<Arc<Lock>> {
        let now = self.clock.now();
        let on_everything = || {
            if settled.stands_alone { None } else { self.replica.lock_on_everything(now) }
        };
        self.replica.lock_on(caller, now).or_else(on_everything).or_else(|| {
            let basis = settled.decision.basis()?;
            let is_needed = |grant: &&Arc<Grant>| basis.grants.iter().any(|id| id == grant.id.as_str());
            let mut needed: Vec<_> = active.iter().filter(is_needed).cloned().collect();
            self.replica.take_locked(&mut needed, now).into_iter().map(|(_, lock)| lock).next()
        })
    }
}
