//! A grant: who may reach what, and until when. Nothing else in daypass gives access.
//!
//! This module never asks what time it is and never trusts a clock to be right twice: a grant ends at the earlier of
//! its boot-clock deadline (from the store's TTL) and the date written in it.

mod refusal;

use std::borrow::Borrow;
use std::fmt;
use std::num::NonZeroU64;
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use thiserror::Error;

use crate::clock::{BootTime, Now};
use crate::permission::{Cidr, Mismatch, Permission, Target};
use crate::principal::Principal;

pub use refusal::Refusal;

/// Longest grant id in bytes, as in the key contract.
pub const MAX_GRANT_ID_BYTES: usize = 128;

#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[error("a grant id is 1 to {MAX_GRANT_ID_BYTES} characters of A-Z, a-z, 0-9, `_` and `-`")]
pub struct BadGrantId;

/// Names a grant for ever: ids are never reused. Cheap to clone.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct GrantId(Arc<str>);

impl GrantId {
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for GrantId {
    type Err = BadGrantId;

    fn from_str(text: &str) -> Result<Self, BadGrantId> {
        let ok = (1..=MAX_GRANT_ID_BYTES).contains(&text.len())
            && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_' || byte == b'-');
        if ok { Ok(Self(text.into())) } else { Err(BadGrantId) }
    }
}

impl Borrow<str> for GrantId {
    fn borrow(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for GrantId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// From when until when a grant holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Lifetime {
    pub not_before: Option<Timestamp>,
    /// When the store's TTL runs out, on this machine's boot clock.
    pub deadline: BootTime,
    /// The end as a date: what people and policies are shown.
    pub expires_at: Timestamp,
    /// Whether `expires_at` was written in the grant, and so is judged, or only follows from the TTL.
    pub is_dated: bool,
}

impl Lifetime {
    /// Time left, zero if it has ended.
    #[must_use]
    pub fn remaining(&self, now: Now) -> Duration {
        let by_ttl = self.deadline.since(now.boot);
        if !self.is_dated {
            return by_ttl;
        }
        let by_date = Duration::try_from(self.expires_at.duration_since(now.wall)).unwrap_or(Duration::ZERO);
        by_ttl.min(by_date)
    }

    #[must_use]
    pub fn is_active(&self, now: Now) -> bool {
        self.not_before.is_none_or(|start| start <= now.wall) && !self.has_ended(now)
    }

    #[must_use]
    pub fn has_ended(&self, now: Now) -> bool {
        self.remaining(now).is_zero()
    }
}

/// How a grant came about. Shown in answers and logs, never part of matching.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Provenance {
    /// What was asked for. A lock on it takes the grant out of use.
    pub entitlement: Option<Box<str>>,
    pub request: Option<Box<str>>,
    pub approved_by: Box<[Box<str>]>,
    pub ticket: Option<Box<str>>,
    pub break_glass: bool,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Grant {
    pub id: GrantId,
    pub subject: Principal,
    /// Alternatives. None at all: only Rego gives the grant meaning.
    pub permissions: Box<[Permission]>,
    pub lifetime: Lifetime,
    pub max_uses: Option<NonZeroU64>,
    /// `conditions.source_cidrs`: when not empty, the peer's address lies in one of them.
    pub source_cidrs: Box<[Cidr]>,
    /// Absent for most grants, and boxed so that those cost eight bytes.
    pub provenance: Option<Box<Provenance>>,
    /// The JSON text it was read from: what policies see, and the bytes that tell one version from another.
    pub document: Box<str>,
}

impl Grant {
    /// Whether one of the permissions matches and every condition holds. Says nothing about time.
    #[must_use]
    pub fn covers(&self, target: &Target<'_>) -> bool {
        self.admits_source(target) && self.permissions.iter().any(|permission| permission.matches(target))
    }

    fn admits_source(&self, target: &Target<'_>) -> bool {
        self.source_cidrs.is_empty()
            || target.source().is_some_and(|peer| self.source_cidrs.iter().any(|range| range.contains(peer)))
    }

    /// Why it does not cover `target`, for people.
    #[must_use]
    pub fn why_not_covering(&self, target: &Target<'_>) -> Option<String> {
        if self.covers(target) {
            return None;
        }
        if !self.admits_source(target) {
            return Some("the peer's address is in none of its source_cidrs".to_owned());
        }
        if self.permissions.is_empty() {
            return Some("it has no permissions; only policy gives it meaning".to_owned());
        }
        let mismatches = self.permissions.iter().filter_map(|permission| permission.mismatch(target));
        let mut reasons: Vec<&str> = mismatches.map(Mismatch::as_str).collect();
        reasons.dedup();
        Some(format!("it is for {}", reasons.join("; or ")))
    }
}

/// The active grants that cover `target`, the best first: unlimited before limited, later end before earlier.
/// The id decides between equals, so that every sidecar names the same grant.
#[must_use]
pub fn covering<'g>(active: &'g [Arc<Grant>], target: &Target<'_>) -> Vec<&'g Arc<Grant>> {
    let mut covering: Vec<_> = active.iter().filter(|grant| grant.covers(target)).collect();
    covering.sort_by(|a, b| {
        a.max_uses
            .is_some()
            .cmp(&b.max_uses.is_some())
            .then_with(|| b.lifetime.expires_at.cmp(&a.lifetime.expires_at))
            .then_with(|| a.id.cmp(&b.id))
    });
    covering
}

/// Grants for tests of what is built on them.
#[cfg(test)]
pub(crate) mod testing {
    use super::*;

    /// The moment those tests happen at.
    pub const NOW: Now = Now { boot: BootTime::from_millis(10_000), wall: Timestamp::UNIX_EPOCH };

    /// Without permissions, ending `left_ms` after [`NOW`].
    pub fn grant(id: &str, subject: &str, left_ms: u64) -> Grant {
        Grant {
            id: id.parse().unwrap(),
            subject: subject.parse().unwrap(),
            permissions: Box::default(),
            lifetime: Lifetime {
                not_before: None,
                deadline: NOW.boot + Duration::from_millis(left_ms),
                expires_at: NOW.wall,
                is_dated: false,
            },
            max_uses: None,
            source_cidrs: Box::default(),
            provenance: None,
            document: "{}".into(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::testing::NOW;
    use super::*;

    fn lifetime(deadline_ms: u64, expires_at_ms: i64, is_dated: bool) -> Lifetime {
        Lifetime {
            not_before: None,
            deadline: BootTime::from_millis(deadline_ms),
            expires_at: Timestamp::from_millisecond(expires_at_ms).unwrap(),
            is_dated,
        }
    }

    #[test]
    fn the_earlier_of_ttl_and_date_ends_it() {
        assert_eq!(lifetime(13_000, 5_000, true).remaining(NOW), Duration::from_secs(3));
        assert_eq!(lifetime(19_000, 5_000, true).remaining(NOW), Duration::from_secs(5));
        assert_eq!(lifetime(19_000, -5_000, true).remaining(NOW), Duration::ZERO);
        assert_eq!(lifetime(13_000, -5_000, false).remaining(NOW), Duration::from_secs(3));
        assert!(lifetime(10_000, 5_000, false).has_ended(NOW));
    }

    #[test]
    fn a_grant_in_waiting_is_not_active() {
        let mut window = lifetime(13_000, 3_000, false);
        window.not_before = Some(Timestamp::from_millisecond(1).unwrap());
        assert!(!window.is_active(NOW));
        window.not_before = Some(NOW.wall);
        assert!(window.is_active(NOW));
    }

    #[test]
    fn ids() {
        for good in ["a", "A-_9", &"x".repeat(128)] {
            assert!(good.parse::<GrantId>().is_ok(), "{good}");
        }
        for bad in ["", "a b", "a/b", "ä", "{x}", &"x".repeat(129)] {
            assert_eq!(bad.parse::<GrantId>(), Err(BadGrantId), "{bad}");
        }
    }
}
