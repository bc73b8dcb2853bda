//! From what policy said to what happens: holds a ruling against the grants it rests on.
//!
//! Pure. Policy cannot make a grant live longer than it does, and cannot rest on one that is not there.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use crate::clock::Now;
use crate::decision::{AllowReason, Basis, Decision, DenyReason, MIN_REMAINING, Verdict};
use crate::grant::Grant;
use crate::lock::Lock;
use crate::policy::{GrantsKey, Outcome, Ruling};
use crate::store::Limited;

/// What the replica said about the caller.
#[derive(Debug, Clone, Copy)]
pub struct Known<'a> {
    /// Empty if the replica may not be used.
    pub active: &'a [Arc<Grant>],
    pub covering: &'a [&'a Arc<Grant>],
    pub is_fresh: bool,
    pub locks: Obstacles<'a>,
}

/// The locks that one request meets, beside those on its caller, which nobody gets as far as policy with.
#[derive(Debug, Clone, Copy, Default)]
pub struct Obstacles<'a> {
    pub on_everything: Option<&'a Lock>,
    /// Took a grant that covers the request out of `active`.
    pub on_covering: Option<&'a Lock>,
}

/// A decision, and the use-limited grants of which one use each must be taken before it stands.
#[derive(Debug)]
pub struct Settled {
    pub decision: Decision,
    pub limited: Vec<Limited>,
    /// It allows, and says that it does so on no grant.
    pub stands_alone: bool,
}

impl Settled {
    /// A decision on which nothing has to be taken.
    #[must_use]
    pub fn plain(decision: Decision) -> Self {
        Self { decision, limited: Vec::new(), stands_alone: false }
    }
}

#[must_use]
pub fn settle(ruling: Ruling, grants_key: GrantsKey, known: Known<'_>, now: Now) -> Settled {
    let Ruling { outcome, metadata, grants, lease } = ruling;
    let mutations = match outcome {
        Outcome::Deny { http, reason } => {
            let decided = Decision { verdict: Verdict::Deny { reason, http }, metadata, barrier: None };
            return Settled::plain(denial(decided, known));
        }
        Outcome::Allow(mutations) => mutations,
    };
    // Only a decision that says it rests on nothing can stand against a lock on everything, and without knowing the
    // grants.
    let stands_alone = grants.as_deref() == Some(&[]);
    if let Some(lock) = known.locks.on_everything.filter(|_| !stands_alone) {
        return Settled::plain(locked(lock));
    }
    if !known.is_fresh && !stands_alone {
        return Settled::plain(Decision::deny(DenyReason::Stale));
    }
    let Ok(basis) = rests_on(grants.as_deref(), grants_key, known) else {
        return Settled::plain(Decision::deny(DenyReason::PolicyError));
    };
    let Some(remaining) = basis.iter().map(|grant| grant.lifetime.remaining(now)).min() else {
        let verdict = Verdict::Allow { reason: AllowReason::Policy, mutations, basis: None, lease };
        let decision = Decision { verdict, metadata, barrier: None };
        return Settled { decision, limited: Vec::new(), stands_alone };
    };
    if remaining < MIN_REMAINING {
        return Settled::plain(Decision::deny(DenyReason::GrantEnding));
    }
    let limited =
        |grant: &&Arc<Grant>| grant.max_uses.map(|max_uses| Limited { grant: Arc::clone(grant), max_uses });
    let limited = basis.iter().filter_map(limited).collect();
    let basis = describe(basis, remaining, now);
    let verdict = Verdict::Allow { reason: AllowReason::Grant, mutations, basis, lease };
    Settled { decision: Decision { verdict, metadata, barrier: None }, limited, stands_alone }
}

/// What policy's no becomes: with a lock or without knowing the grants it was no for want of them.
fn denial(decided: Decision, known: Known<'_>) -> Decision {
    match known.locks.on_everything.or(known.locks.on_covering) {
        Some(lock) => locked(lock),
        None if known.is_fresh => decided,
        None => Decision::deny(DenyReason::Stale),
    }
}

#[must_use]
pub fn locked(lock: &Lock) -> Decision {
    Decision::locked(&lock.id, &lock.message)
}

/// Policy named a grant that the caller does not hold at this moment.
struct NotHeld;

fn rests_on<'a>(
    named: Option<&[String]>,
    key: GrantsKey,
    known: Known<'a>,
) -> Result<Vec<&'a Arc<Grant>>, NotHeld> {
    let best_covering = || known.covering.first().copied().into_iter().collect();
    let Some(ids) = named else { return Ok(best_covering()) };
    // Named twice it is still one grant, and one use of it.
    let ids: BTreeSet<&str> = ids.iter().map(String::as_str).collect();
    let held: Option<Vec<_>> =
        ids.iter().map(|id| known.active.iter().find(|grant| grant.id.as_str() == *id)).collect();
    match (held, key) {
        (Some(held), _) => Ok(held),
        (None, GrantsKey::Binding) => Err(NotHeld),
        // Not ids of ours: the policy has said nothing about grants.
        (None, GrantsKey::Foreign) => Ok(best_covering()),
    }
}

fn describe(mut grants: Vec<&Arc<Grant>>, remaining: Duration, now: Now) -> Option<Basis> {
    grants.sort_by_key(|grant| grant.lifetime.remaining(now));
    let first = grants.first()?;
    let provenance = first.provenance.as_deref();
    let text = |text: &Option<Box<str>>| text.as_deref().map(str::to_owned);
    Some(Basis {
        grants: grants.iter().map(|grant| grant.id.to_string()).collect(),
        request: provenance.and_then(|found| text(&found.request)),
        approved_by: provenance
            .map(|found| found.approved_by.iter().map(ToString::to_string).collect())
            .unwrap_or_default(),
        ticket: provenance.and_then(|found| text(&found.ticket)),
        break_glass: provenance.is_some_and(|found| found.break_glass),
        expires_at: first.lifetime.expires_at,
        remaining,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::grant::testing::{NOW, grant};

    fn allow(grants: Option<&[&str]>) -> Ruling {
        Ruling {
            outcome: Outcome::Allow(None),
            metadata: Vec::new(),
            grants: grants.map(|ids| ids.iter().map(|id| (*id).to_owned()).collect()),
            lease: None,
        }
    }

    fn outcome(ruling: Ruling, key: GrantsKey, is_fresh: bool) -> String {
        with_locks(ruling, key, is_fresh, Obstacles::default())
    }

    fn with_locks(ruling: Ruling, key: GrantsKey, is_fresh: bool, locks: Obstacles<'_>) -> String {
        let active = if is_fresh {
            ["a", "b", "end"]
                .iter()
                .zip([5_000, 3_000, 99])
                .map(|(id, left)| Arc::new(grant(id, "user:alice", left)))
                .collect()
        } else {
            vec![]
        };
        let covering: Vec<_> = active.iter().take(1).collect();
        let settled =
            settle(ruling, key, Known { active: &active, covering: &covering, is_fresh, locks }, NOW);
        let basis =
            settled.decision.basis().map(|basis| format!(" {:?} {:?}", basis.grants, basis.remaining));
        format!("{}{}", settled.decision.reason_code(), basis.unwrap_or_default())
    }

    #[test]
    fn an_allow_rests_on_what_it_says_or_on_the_best_covering_grant() {
        use GrantsKey::{Binding, Foreign};
        let deny = || Ruling {
            outcome: Outcome::Deny { http: None, reason: DenyReason::NoGrant },
            metadata: Vec::new(),
            grants: None,
            lease: None,
        };
        for (ruling, key, is_fresh, expected) in [
            (allow(None), Binding, true, "grant [\"a\"] 5s"),
            (allow(Some(&[])), Binding, true, "policy"),
            (allow(Some(&["a", "b"])), Binding, true, "grant [\"b\", \"a\"] 3s"),
            (allow(Some(&["a", "nope"])), Binding, true, "policy_error"),
            (allow(Some(&["nope"])), Foreign, true, "grant [\"a\"] 5s"),
            (allow(Some(&["b"])), Foreign, true, "grant [\"b\"] 3s"),
            (allow(Some(&["end"])), Binding, true, "grant_ending"),
            (deny(), Binding, true, "no_grant"),
            (allow(None), Binding, false, "stale"),
            (allow(Some(&["a"])), Binding, false, "stale"),
            (allow(Some(&["x"])), Foreign, false, "stale"),
            (allow(Some(&[])), Binding, false, "policy"),
            (deny(), Binding, false, "stale"),
        ] {
            assert_eq!(outcome(ruling.clone(), key, is_fresh), expected, "{ruling:?} {key:?} {is_fresh}");
        }
    }

    #[test]
    fn against_a_lock_stands_only_what_rests_on_nothing_or_on_other_grants() {
        use GrantsKey::{Binding, Foreign};
        let deny = || Ruling {
            outcome: Outcome::Deny { http: None, reason: DenyReason::NoGrant },
            metadata: Vec::new(),
            grants: None,
            lease: None,
        };
        let lock = crate::lock::testing::lock("l", "*", 1_000);
        let everything = Obstacles { on_everything: Some(&lock), on_covering: None };
        let covering = Obstacles { on_everything: None, on_covering: Some(&lock) };
        for (ruling, key, is_fresh, locks, expected) in [
            (allow(None), Binding, true, everything, "locked"),
            (allow(Some(&["a"])), Binding, true, everything, "locked"),
            (allow(Some(&["x"])), Foreign, true, everything, "locked"),
            (allow(Some(&[])), Binding, true, everything, "policy"),
            (allow(Some(&[])), Foreign, true, everything, "policy"),
            (allow(Some(&[])), Binding, false, everything, "policy"),
            (allow(None), Binding, false, everything, "locked"),
            (deny(), Binding, true, everything, "locked"),
            (deny(), Binding, false, everything, "locked"),
            (deny(), Foreign, true, covering, "locked"),
            (allow(Some(&[])), Binding, true, covering, "policy"),
            (allow(Some(&["a"])), Binding, true, covering, "grant [\"a\"] 5s"),
        ] {
            assert_eq!(with_locks(ruling.clone(), key, is_fresh, locks), expected, "{ruling:?} {is_fresh}");
        }
    }
}
