//! From what policy said to what happens: holds a ruling against the grants it rests on.
//!
//! Pure. Policy cannot make a grant live longer than it does, and cannot rest on one that is not there.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use crate::clock::Now;
use crate::decision::{AllowReason, Basis, Decision, DenyReason, MIN_REMAINING, Verdict};
use crate::grant::Grant;
use crate::policy::{GrantsKey, Outcome, Ruling};
use crate::store::Limited;

/// What the replica said about the caller.
#[derive(Debug, Clone, Copy)]
pub struct Known<'a> {
    /// Empty if the replica may not be used.
    pub active: &'a [Arc<Grant>],
    pub covering: &'a [&'a Arc<Grant>],
    pub is_fresh: bool,
    pub locks: Standing<'a>,
}

/// The locks in the way of one request. None of them is on the caller: that one is not asked about.
#[derive(Debug, Clone, Copy, Default)]
pub struct Standing<'a> {
    pub on_everything: Option<&'a Lock>,
    /// Took a grant that covers the request out of `active`.
    pub on_covering: Option<&'a Lock>,
}

/// A decision, and the use-limited grants of which one use each must be taken before it stands.
#[derive(Debug)]
pub struct Settled {
    pub decision: Decision,
    pub limited: Vec<Limited>,
}

#[must_use]
pub fn settle(ruling: Ruling, grants_key: GrantsKey, known: Known<'_>, now: Now) -> Settled {
    let Ruling { outcome, metadata, grants } = ruling;
    let mutations = match outcome {
        Outcome::Deny { .. } if known.locks.any().is_some() => return locked(known.locks.any()),
        // A policy that could not see the grants may have denied for want of them.
        Outcome::Deny { .. } if !known.is_fresh => return denied(Decision::deny(DenyReason::Stale)),
        Outcome::Deny { http, reason } => {
            let verdict = Verdict::Deny { reason, http };
            return denied(Decision { verdict, metadata, barrier: None });
        }
        Outcome::Allow(mutations) => mutations,
    };
    // Only a decision that says it rests on nothing can stand against a lock on everything, or without knowing the
    // grants.
    let rests_on_nothing = grants.as_deref() == Some(&[]);
    if known.locks.on_everything.is_some() && !rests_on_nothing {
        return locked(known.locks.on_everything);
    }
    if !known.is_fresh && !rests_on_nothing {
        return denied(Decision::deny(DenyReason::Stale));
    }
    let Ok(basis) = rests_on(grants.as_deref(), grants_key, known) else {
        return denied(Decision::deny(DenyReason::PolicyError));
    };
    let Some(remaining) = basis.iter().map(|grant| grant.lifetime.remaining(now)).min() else {
        let verdict = Verdict::Allow { reason: AllowReason::Policy, mutations, basis: None };
        return denied(Decision { verdict, metadata, barrier: None });
    };
    if remaining < MIN_REMAINING {
        return denied(Decision::deny(DenyReason::GrantEnding));
    }
    let limited =
        |grant: &&Arc<Grant>| grant.max_uses.map(|max_uses| Limited { grant: Arc::clone(grant), max_uses });
    let limited = basis.iter().filter_map(limited).collect();
    let basis = describe(basis, remaining, now);
    let verdict = Verdict::Allow { reason: AllowReason::Grant, mutations, basis };
    Settled { decision: Decision { verdict, metadata, barrier: None }, limited }
}

fn denied(decision: Decision) -> Settled {
    Settled { decision, limited: Vec::new() }
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
        }
    }

    fn outcome(ruling: Ruling, key: GrantsKey, is_fresh: bool) -> String {
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
        let settled = settle(ruling, key, Known { active: &active, covering: &covering, is_fresh }, NOW);
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
}
