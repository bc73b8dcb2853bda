//! A lock: a denial that beats every grant. By principal, by entitlement, or of everything.
//!
//! Where something about a lock is doubtful, the doubt locks: what cannot be read locks everything, and what would end
//! at two times ends at the later one. A grant errs the other way round.

use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;

use crate::clock::{BootTime, Now};
use crate::grant::Lifetime;
use crate::principal::{Caller, Principal};

/// Longest life of a lock that is asked for. What is to hold for longer is no lock, but a change of who may what.
pub const MAX_TTL: Duration = Duration::from_secs(366 * 24 * 3600);

/// Of a message in characters. It is the body of every denial, and every sidecar holds it.
pub const MAX_MESSAGE_CHARS: usize = 1024;

/// What is shown of the name of a key, in characters.
const MAX_NAME_CHARS: usize = 160;

/// What is said where a lock says nothing.
const NO_MESSAGE: &str = "access is locked";

/// What a lock is for.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum LockTarget {
    /// All that this principal does, whatever it would rest on.
    Principal(Principal),
    /// All grants from this entitlement.
    Entitlement(Box<str>),
    /// All that does not expressly rest on no grant.
    Everything,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Lock {
    /// The id, or of a lock that cannot be read as much of a name as there is.
    pub id: Arc<str>,
    pub target: LockTarget,
    /// Told to whoever is denied.
    pub message: Box<str>,
    pub lifetime: Lifetime,
}

impl Lock {
    #[must_use]
    pub fn new(id: &str, target: LockTarget, message: &str, lifetime: Lifetime) -> Self {
        let message = if message.trim().is_empty() { NO_MESSAGE } else { message };
        let message = message.chars().take(MAX_MESSAGE_CHARS).collect::<String>().into();
        Self { id: id.into(), target, message, lifetime }
    }

    /// What stands for a lock that cannot be read: nobody knows for whom it was meant.
    #[must_use]
    pub fn unreadable(id: &str, key: &str, why: &str, lifetime: Lifetime) -> Self {
        let key = shown(key);
        let message = format!("everything is locked: the lock {key} cannot be read ({why})");
        Self::new(&shown(id), LockTarget::Everything, &message, lifetime)
    }

    /// Whether it stands in the way of this caller, or of access from this entitlement.
    #[must_use]
    pub fn stands_for(&self, caller: &Caller, entitlement: Option<&str>) -> bool {
        match &self.target {
            LockTarget::Principal(principal) => caller.principals().contains(principal),
            LockTarget::Entitlement(name) => entitlement == Some(name),
            LockTarget::Everything => true,
        }
    }

    #[must_use]
    pub fn holds(&self, now: Now) -> bool {
        !self.lifetime.has_ended(now)
    }

    /// None if somebody has to end it.
    #[must_use]
    pub fn expires_at(&self) -> Option<Timestamp> {
        (self.lifetime.expires_at != Timestamp::MAX).then_some(self.lifetime.expires_at)
    }
}

/// The life of what nobody gave an end.
#[must_use]
pub fn endless() -> Lifetime {
    Lifetime {
        not_before: None,
        deadline: BootTime::from_millis(0) + Duration::MAX,
        expires_at: Timestamp::MAX,
        is_dated: false,
    }
}

/// The life of a lock whose key has `left`, or no end, and whose value may name a date.
#[must_use]
pub fn lifetime(read: Now, left: Option<Duration>, date: Option<Timestamp>) -> Lifetime {
    let by_ttl = left.map_or_else(endless, |left| Lifetime {
        deadline: read.boot + left,
        expires_at: read.wall.checked_add(left).unwrap_or(Timestamp::MAX),
        ..endless()
    });
    match date {
        Some(date) => Lifetime { expires_at: date.min(by_ttl.expires_at), is_dated: true, ..by_ttl },
        None => by_ttl,
    }
}

/// A name that anybody may have written, fit for a log.
fn shown(name: &str) -> String {
    name.chars().filter(|c| !c.is_control()).take(MAX_NAME_CHARS).collect()
}

/// Locks for tests of what is built on them.
#[cfg(test)]
pub(crate) mod testing {
    use super::*;
    use crate::grant::testing::NOW;

    /// On `target`: `user:x`, `*` for everything, and else an entitlement. Ends `left_ms` after the tests' moment.
    pub fn lock(id: &str, target: &str, left_ms: u64) -> Lock {
        let target = match target {
            "*" => LockTarget::Everything,
            name if name.contains(':') => LockTarget::Principal(name.parse().unwrap()),
            name => LockTarget::Entitlement(name.into()),
        };
        Lock::new(id, target, "no", lifetime(NOW, Some(Duration::from_millis(left_ms)), None))
    }
}

#[cfg(test)]
mod tests {
    use super::testing::lock;
    use super::*;
    use crate::grant::testing::NOW;

    #[test]
    fn a_lock_stands_for_its_target_alone() {
        let alice = Caller::new(vec!["user:alice".parse().unwrap(), "group:sre".parse().unwrap()]);
        for (target, entitlement, expected) in [
            ("user:alice", None, true),
            ("group:sre", Some("db"), true),
            ("user:alic", None, false),
            ("user:alice2", Some("db"), false),
            ("db", Some("db"), true),
            ("db", Some("DB"), false),
            ("db", None, false),
            ("*", None, true),
            ("*", Some("db"), true),
        ] {
            assert_eq!(lock("l", target, 1).stands_for(&alice, entitlement), expected, "{target}");
        }
        assert!(!lock("l", "user:alice", 1).stands_for(&Caller::default(), None));
        assert!(lock("l", "*", 1).stands_for(&Caller::default(), None));
    }

    #[test]
    fn the_earlier_of_ttl_and_date_ends_it_and_without_either_nothing_does() {
        let at = |millis| Some(Timestamp::from_millisecond(millis).unwrap());
        let of = |left: Option<u64>, date| {
            let lock =
                Lock { lifetime: lifetime(NOW, left.map(Duration::from_millis), date), ..lock("l", "*", 1) };
            (lock.holds(NOW), lock.lifetime.remaining(NOW), lock.expires_at())
        };
        assert_eq!(of(Some(3_000), None), (true, Duration::from_secs(3), at(3_000)));
        assert_eq!(of(Some(3_000), at(1_000)), (true, Duration::from_secs(1), at(1_000)));
        assert_eq!(of(Some(3_000), at(9_000)), (true, Duration::from_secs(3), at(3_000)));
        assert_eq!(of(None, at(9_000)), (true, Duration::from_secs(9), at(9_000)));
        assert!(!of(Some(3_000), at(0)).0 && !of(Some(0), None).0);
        let (holds, _, end) = of(None, None);
        assert!(holds && end.is_none());
        let much_later = Now { boot: NOW.boot + Duration::from_secs(10_000_000_000), wall: Timestamp::MAX };
        assert!(Lock { lifetime: endless(), ..lock("l", "*", 1) }.holds(much_later));
    }

    #[test]
    fn what_is_told_is_short_and_says_something() {
        let unreadable = Lock::unreadable("a\nb", &"k".repeat(1_000_000), "not_json", endless());
        assert!(unreadable.message.len() < 300 && unreadable.message.contains("(not_json)"));
        assert_eq!(&*unreadable.id, "ab");
        assert_eq!(unreadable.target, LockTarget::Everything);
        let long = Lock::new("l", LockTarget::Everything, &"ä".repeat(5_000), endless());
        assert_eq!(long.message.chars().count(), MAX_MESSAGE_CHARS);
        assert_eq!(&*Lock::new("l", LockTarget::Everything, " ", endless()).message, NO_MESSAGE);
    }
}
