//! The live copy of all active grants, by principal, and how far it can be trusted.
//!
//! Pure memory: no I/O, no clock of its own. A store feeds it, the check path reads it. It never answers from data
//! whose age is unknown, and never hands out a grant that a writer has announced to have changed.

use std::collections::HashMap;
use std::collections::hash_map::Entry as MapEntry;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};
use std::time::Duration;

use thiserror::Error;
use tokio::sync::Notify;

use crate::clock::{BootTime, Now};
use crate::grant::{Grant, GrantId};
use crate::principal::{Caller, Principal};

/// How old the replica may be before it is no longer used.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Staleness {
    /// The store is in this process and writes the replica in the same step: there is no age.
    Local,
    /// The store is elsewhere; usable while the last answered heartbeat was sent at most this long ago.
    AtMost(Duration),
}

/// Whether the replica may be used, and how old it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Freshness {
    Fresh { age: Duration },
    /// `age` is absent until the first complete copy, and after the store forgot everything.
    Stale { age: Option<Duration> },
}

impl Freshness {
    #[must_use]
    pub fn is_fresh(self) -> bool {
        matches!(self, Self::Fresh { .. })
    }

    #[must_use]
    pub fn age(self) -> Option<Duration> {
        match self {
            Self::Fresh { age } => Some(age),
            Self::Stale { age } => age,
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[error("the replica holds its maximum of {0} grants")]
pub struct ReplicaFull(pub usize);

/// What is known of a caller's grants at one moment.
#[derive(Debug, Clone)]
pub enum Lookup {
    Settled(Vec<Arc<Grant>>),
    /// A grant of this caller changed and is being read again.
    Unsettled,
}

#[derive(Debug)]
pub struct Replica {
    /// A plain lock: readers hold it for a lookup of a few entries, writers for one change, nobody across an await.
    index: RwLock<Index>,
    /// Microseconds on the boot clock plus one; 0 is "never complete".
    fresh_at: AtomicU64,
    staleness: Staleness,
    max_grants: usize,
    settled: Notify,
}

#[derive(Debug, Default)]
struct Index {
    subjects: HashMap<GrantId, Principal>,
    by_subject: HashMap<Principal, Vec<Slot>>,
}

#[derive(Debug)]
struct Slot {
    grant: Arc<Grant>,
    /// Announced as changed and not read again yet.
    is_suspect: bool,
}

impl Replica {
    #[must_use]
    pub fn new(staleness: Staleness, max_grants: usize) -> Self {
        Self {
            index: RwLock::default(),
            fresh_at: AtomicU64::new(0),
            staleness,
            max_grants,
            settled: Notify::new(),
        }
    }

    /// Puts a grant in the place of whatever had its id.
    ///
    /// # Errors
    /// The replica is full. What had the id is gone then, so the error errs on the side of a denial.
    pub fn insert(&self, grant: Grant) -> Result<(), ReplicaFull> {
        let grant = Arc::new(grant);
        let inserted = {
            let mut index = self.write();
            index.remove(grant.id.as_str());
            if index.subjects.len() < self.max_grants {
                index.subjects.insert(grant.id.clone(), grant.subject.clone());
                index.by_subject.entry(grant.subject.clone()).or_default().push(Slot { grant, is_suspect: false });
                Ok(())
            } else {
                Err(ReplicaFull(self.max_grants))
            }
        };
        self.settled.notify_waiters();
        inserted
    }

    pub fn remove(&self, id: &str) {
        self.write().remove(id);
        self.settled.notify_waiters();
    }

    /// Stops using a grant until it is inserted or removed again.
    pub fn suspect(&self, id: &str) {
        let mut index = self.write();
        if let Some(slot) = index.slot_mut(id) {
            slot.is_suspect = true;
        }
    }

    /// Forgets everything, also that it was ever complete.
    pub fn clear(&self) {
        self.fresh_at.store(0, Ordering::Release);
        *self.write() = Index::default();
        self.settled.notify_waiters();
    }

    /// Keeps what `keep` says: what a complete pass over the store did not see is gone from the store.
    pub fn retain(&self, keep: impl Fn(&str) -> bool) {
        let gone: Vec<GrantId> = self.read().subjects.keys().filter(|id| !keep(id.as_str())).cloned().collect();
        for id in gone {
            self.remove(id.as_str());
        }
    }

    /// Drops what has ended. Expiry itself needs no sweep, memory does.
    pub fn sweep(&self, now: Now) {
        let ended: Vec<GrantId> = {
            let index = self.read();
            let slots = index.by_subject.values().flatten();
            slots.filter(|slot| slot.grant.lifetime.has_ended(now)).map(|slot| slot.grant.id.clone()).collect()
        };
        for id in ended {
            let mut index = self.write();
            // Between the two locks the grant may have been extended.
            if index.slot_mut(id.as_str()).is_some_and(|slot| slot.grant.lifetime.has_ended(now)) {
                index.remove(id.as_str());
            }
        }
    }

    /// Everything acknowledged by the store before `sent` is in the replica.
    pub fn confirm(&self, sent: BootTime) {
        let micros = u64::try_from(sent.since(BootTime::from_millis(0)).as_micros()).unwrap_or(u64::MAX - 1);
        self.fresh_at.store(micros.saturating_add(1), Ordering::Release);
    }

    #[must_use]
    pub fn freshness(&self, now: Now) -> Freshness {
        let limit = match self.staleness {
            Staleness::Local => return Freshness::Fresh { age: Duration::ZERO },
            Staleness::AtMost(limit) => limit,
        };
        let Some(micros) = self.fresh_at.load(Ordering::Acquire).checked_sub(1) else {
            return Freshness::Stale { age: None };
        };
        let age = now.boot.since(BootTime::from_millis(0)).saturating_sub(Duration::from_micros(micros));
        if age <= limit { Freshness::Fresh { age } } else { Freshness::Stale { age: Some(age) } }
    }

    /// The active grants of all of a caller's principals.
    #[must_use]
    pub fn lookup(&self, caller: &Caller, now: Now) -> Lookup {
        let mut active = Vec::new();
        let index = self.read();
        for principal in caller.principals() {
            for slot in index.by_subject.get(principal).into_iter().flatten() {
                if slot.is_suspect {
                    return Lookup::Unsettled;
                }
                if slot.grant.lifetime.is_active(now) {
                    active.push(Arc::clone(&slot.grant));
                }
            }
        }
        Lookup::Settled(active)
    }

    /// Waits until a change was read in, then looks again. The caller bounds the wait.
    pub async fn settled(&self, caller: &Caller, clock: crate::clock::Clock) -> Vec<Arc<Grant>> {
        loop {
            // Registered before the look, so that a change between look and wait is not missed.
            let changed = self.settled.notified();
            let mut changed = std::pin::pin!(changed);
            changed.as_mut().enable();
            match self.lookup(caller, clock.now()) {
                Lookup::Settled(active) => return active,
                Lookup::Unsettled => changed.await,
            }
        }
    }

    #[must_use]
    pub fn get(&self, id: &str) -> Option<Arc<Grant>> {
        let index = self.read();
        let subject = index.subjects.get(id)?;
        let slots = index.by_subject.get(subject)?;
        slots.iter().find(|slot| slot.grant.id.as_str() == id).map(|slot| Arc::clone(&slot.grant))
    }

    #[must_use]
    pub fn len(&self) -> usize {
        self.read().subjects.len()
    }

    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    // A panic while the lock is held cannot leave the index half-changed in a way that widens access: the worst is a
    // grant that is missing. So a poisoned lock is used on.
    fn read(&self) -> RwLockReadGuard<'_, Index> {
        self.index.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> RwLockWriteGuard<'_, Index> {
        self.index.write().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Index {
    fn remove(&mut self, id: &str) {
        let Some(subject) = self.subjects.remove(id) else { return };
        if let MapEntry::Occupied(mut slots) = self.by_subject.entry(subject) {
            slots.get_mut().retain(|slot| slot.grant.id.as_str() != id);
            if slots.get().is_empty() {
                slots.remove();
            }
        }
    }

    fn slot_mut(&mut self, id: &str) -> Option<&mut Slot> {
        let subject = self.subjects.get(id)?;
        self.by_subject.get_mut(subject)?.iter_mut().find(|slot| slot.grant.id.as_str() == id)
    }
}

#[cfg(test)]
mod tests {
    use jiff::Timestamp;

    use super::*;
    use crate::clock::Clock;
    use crate::grant::Lifetime;

    const NOW: Now = Now { boot: BootTime::from_millis(10_000), wall: Timestamp::UNIX_EPOCH };

    fn grant(id: &str, subject: &str, deadline_ms: u64) -> Grant {
        Grant {
            id: id.parse().unwrap(),
            subject: subject.parse().unwrap(),
            permissions: Box::default(),
            lifetime: Lifetime {
                not_before: None,
                deadline: BootTime::from_millis(deadline_ms),
                expires_at: NOW.wall,
                is_dated: false,
            },
            max_uses: None,
            source_cidrs: Box::default(),
            provenance: None,
            document: "{}".into(),
        }
    }

    fn alice() -> Caller {
        Caller::new(vec!["user:alice".parse().unwrap(), "group:sre".parse().unwrap()])
    }

    fn ids(lookup: &Lookup) -> Vec<String> {
        match lookup {
            Lookup::Settled(grants) => grants.iter().map(|grant| grant.id.to_string()).collect(),
            Lookup::Unsettled => vec!["unsettled".into()],
        }
    }

    #[test]
    fn finds_the_active_grants_of_every_principal() {
        let replica = Replica::new(Staleness::Local, 10);
        for (id, subject, deadline) in [
            ("a", "user:alice", 20_000),
            ("b", "group:sre", 20_000),
            ("ended", "user:alice", 10_000),
            ("other", "user:bob", 20_000),
        ] {
            replica.insert(grant(id, subject, deadline)).unwrap();
        }
        assert_eq!(ids(&replica.lookup(&alice(), NOW)), ["a", "b"]);
        replica.sweep(NOW);
        assert_eq!(replica.len(), 3);
        replica.remove("a");
        replica.retain(|id| id != "b");
        assert_eq!(ids(&replica.lookup(&alice(), NOW)), Vec::<String>::new());
    }

    #[test]
    fn a_grant_that_moves_to_another_subject_leaves_the_first() {
        let replica = Replica::new(Staleness::Local, 10);
        replica.insert(grant("a", "user:alice", 20_000)).unwrap();
        replica.insert(grant("a", "user:bob", 20_000)).unwrap();
        assert_eq!(ids(&replica.lookup(&alice(), NOW)), Vec::<String>::new());
        assert_eq!(replica.len(), 1);
    }

    #[tokio::test]
    async fn a_suspect_grant_is_not_used_until_it_was_read_again() {
        let replica = Arc::new(Replica::new(Staleness::Local, 10));
        replica.insert(grant("a", "user:alice", 20_000)).unwrap();
        replica.suspect("a");
        assert_eq!(ids(&replica.lookup(&alice(), NOW)), ["unsettled"]);
        let waiting = tokio::spawn({
            let replica = Arc::clone(&replica);
            async move { replica.settled(&alice(), Clock::Fixed(NOW)).await.len() }
        });
        tokio::task::yield_now().await;
        replica.insert(grant("a", "user:alice", 30_000)).unwrap();
        assert_eq!(waiting.await.unwrap(), 1);
    }

    #[test]
    fn age_is_judged_from_when_the_heartbeat_was_sent() {
        let replica = Replica::new(Staleness::AtMost(Duration::from_secs(2)), 10);
        assert_eq!(replica.freshness(NOW), Freshness::Stale { age: None });
        replica.confirm(BootTime::from_millis(8_000));
        assert_eq!(replica.freshness(NOW), Freshness::Fresh { age: Duration::from_secs(2) });
        replica.confirm(BootTime::from_millis(7_999));
        assert_eq!(replica.freshness(NOW), Freshness::Stale { age: Some(Duration::from_millis(2_001)) });
        replica.confirm(BootTime::from_millis(8_000));
        replica.clear();
        assert_eq!(replica.freshness(NOW), Freshness::Stale { age: None });
    }

    #[test]
    fn a_full_replica_says_so() {
        let replica = Replica::new(Staleness::Local, 1);
        replica.insert(grant("a", "user:alice", 20_000)).unwrap();
        replica.insert(grant("a", "user:alice", 30_000)).unwrap();
        assert_eq!(replica.insert(grant("b", "user:alice", 20_000)), Err(ReplicaFull(1)));
    }
}
