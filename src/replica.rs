//! The live copy of all active grants, by principal, and of the locks, and how far it can be trusted.
//!
//! Pure memory: no I/O, no clock of its own. A store feeds it, the check path reads it. It never answers from data
//! whose age is unknown, and never hands out a grant that a writer has announced to have changed.

mod locks;

use std::collections::HashMap;
use std::collections::hash_map::Entry as MapEntry;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};
use std::time::Duration;

use thiserror::Error;
use tokio::sync::{Notify, broadcast};

use crate::clock::{BootTime, Now};
use crate::grant::{Grant, GrantId};
use crate::principal::{Caller, Principal};

pub use locks::MAX_LOCKS;

use locks::Locks;

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
    Fresh {
        age: Duration,
    },
    /// `age` is absent until the first complete copy, and after the store forgot everything.
    Stale {
        age: Option<Duration>,
    },
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
pub enum ReplicaFull {
    #[error("the replica holds its maximum of {0} grants (`max_grants`)")]
    Grants(usize),
    #[error("there are more than {0} locks")]
    Locks(usize),
}

/// How many grants there may be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// In all. Each costs memory, about 1 KiB, in every sidecar.
    pub grants: usize,
    /// Of one principal. Each costs every check of that principal the time to look at it.
    pub grants_per_principal: usize,
}

/// Why one more grant of a principal cannot be given.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum NoRoom {
    #[error("there are `max_grants` ({0}) grants already")]
    InAll(usize),
    #[error("the principal holds `max_grants_per_principal` ({0}) grants already")]
    ForPrincipal(usize),
    #[error("there are {0} locks already, which is all that sidecars hold")]
    ForLocks(usize),
}

/// What is known of a caller's grants at one moment.
#[derive(Debug, Clone)]
pub enum Lookup {
    Settled(Vec<Arc<Grant>>),
    /// A grant of this caller changed, or a lock, and is being read again.
    Unsettled,
    /// One of the principals holds more grants than a check may look at. To look at some of them would be a guess.
    TooMany,
}

/// Something that live streams may rest on has changed, and can be looked at.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Change {
    Grant(GrantId),
    Locks,
    /// All grants are forgotten, and will be read again.
    Everything,
}

/// Changes that somebody may be behind. Whoever is further behind looks at everything.
const CHANGES_HELD: usize = 1024;

#[derive(Debug)]
pub struct Replica {
    /// A plain lock: readers hold it for a lookup of a few entries, writers for one change, nobody across an await.
    index: RwLock<Index>,
    /// Likewise.
    locks: Locks,
    /// Microseconds on the boot clock plus one; 0 is "never complete".
    fresh_at: AtomicU64,
    staleness: Staleness,
    limits: Limits,
    settled: Notify,
    changes: broadcast::Sender<Change>,
    /// Why the store cannot be followed at the moment, for people. Never asked by a decision.
    trouble: Mutex<Option<Arc<str>>>,
}

#[derive(Debug, Default)]
struct Index {
    by_id: HashMap<GrantId, Place>,
    by_subject: HashMap<Principal, Vec<Slot>>,
    /// Counts complete passes over the store, so that what one did not see can be told apart.
    pass: u32,
}

/// Where a grant is: in the list of its subject, at `position`. Thousands of grants of one group must not make each
/// change of one of them a search.
#[derive(Debug)]
struct Place {
    grant: Arc<Grant>,
    /// Four bytes: `max_grants` are held, and each costs what its place does.
    position: u32,
}

#[derive(Debug)]
struct Slot {
    grant: Arc<Grant>,
    /// The pass during or after which it was inserted.
    pass: u32,
    /// Announced as changed and not read again yet.
    is_suspect: bool,
}

impl Replica {
    #[must_use]
    pub fn new(staleness: Staleness, limits: Limits) -> Self {
        Self {
            index: RwLock::default(),
            locks: Locks::default(),
            fresh_at: AtomicU64::new(0),
            staleness,
            limits,
            settled: Notify::new(),
            changes: broadcast::Sender::new(CHANGES_HELD),
            trouble: Mutex::default(),
        }
    }

    /// Puts a grant in the place of whatever had its id.
    ///
    /// # Errors
    /// The replica is full. What had the id is gone then, so the error errs on the side of a denial.
    pub fn insert(&self, grant: Grant) -> Result<(), ReplicaFull> {
        let change = Change::Grant(grant.id.clone());
        let inserted = {
            let mut index = self.write();
            index.remove(grant.id.as_str());
            if index.by_id.len() < self.limits.grants {
                index.insert(grant);
                Ok(())
            } else {
                Err(ReplicaFull::Grants(self.limits.grants))
            }
        };
        self.tell(change);
        inserted
    }

    /// What was removed.
    pub fn remove(&self, id: &str) -> Option<Arc<Grant>> {
        let removed = self.write().remove(id);
        match &removed {
            Some(grant) => self.tell(Change::Grant(grant.id.clone())),
            None => self.settled.notify_waiters(),
        }
        removed
    }

    /// Stops using a grant until it is inserted or removed again.
    pub fn suspect(&self, id: &str) {
        let mut index = self.write();
        if let Some(slot) = index.slot_mut(id) {
            slot.is_suspect = true;
        }
    }

    /// Forgets all grants, also that it was ever complete. What there was. Locks stay: they take access, and give none.
    pub fn clear(&self) -> Vec<Arc<Grant>> {
        self.fresh_at.store(0, Ordering::Release);
        let mut index = self.write();
        let pass = index.pass;
        let before = std::mem::replace(&mut *index, Index { pass, ..Index::default() });
        drop(index);
        self.tell(Change::Everything);
        before.by_id.into_values().map(|place| place.grant).collect()
    }

    /// What changes from now on, after it has. A grant that ends by itself does not.
    #[must_use]
    pub fn changes(&self) -> broadcast::Receiver<Change> {
        self.changes.subscribe()
    }

    fn tell(&self, change: Change) {
        self.settled.notify_waiters();
        // An error means that nobody wants to know.
        let _ = self.changes.send(change);
    }

    /// Begins a complete pass over the store.
    pub fn begin_pass(&self) {
        self.locks.begin_pass();
        let mut index = self.write();
        index.pass = index.pass.wrapping_add(1);
    }

    /// Ends it: what was not inserted since it began is gone from the store, unless `keep` knows better. What is gone.
    pub fn end_pass(&self, keep: impl Fn(&str) -> bool) -> Vec<Arc<Grant>> {
        let unseen: Vec<GrantId> = {
            let index = self.read();
            let slots = index.by_subject.values().flatten().filter(|slot| slot.pass != index.pass);
            slots.map(|slot| slot.grant.id.clone()).filter(|id| !keep(id.as_str())).collect()
        };
        unseen.iter().filter_map(|id| self.remove(id.as_str())).collect()
    }

    /// Drops what has ended. Expiry itself needs no sweep, memory does.
    pub fn sweep(&self, now: Now) {
        self.locks.sweep(now);
        let ended: Vec<GrantId> = {
            let index = self.read();
            let slots = index.by_subject.values().flatten();
            slots
                .filter(|slot| slot.grant.lifetime.has_ended(now))
                .map(|slot| slot.grant.id.clone())
                .collect()
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
        // Never back: a complete pass that took long ends after heartbeats that were sent later.
        self.fresh_at.fetch_max(micros.saturating_add(1), Ordering::AcqRel);
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
        if self.is_lock_in_doubt() {
            return Lookup::Unsettled;
        }
        let mut active = Vec::new();
        let index = self.read();
        for principal in caller.principals() {
            let slots = index.by_subject.get(principal).map(Vec::as_slice).unwrap_or_default();
            if slots.len() > self.limits.grants_per_principal {
                return Lookup::TooMany;
            }
            for slot in slots {
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

    /// All of a caller's grants that have not ended, also those that have not begun; of one principal no more than a
    /// check may look at. For people: nothing is decided on it.
    #[must_use]
    pub fn held(&self, caller: &Caller, now: Now) -> Vec<Arc<Grant>> {
        let index = self.read();
        let of = |principal| index.by_subject.get(principal).map(Vec::as_slice).unwrap_or_default();
        let lists = caller.principals().iter().map(of);
        let slots = lists.flat_map(|slots| slots.iter().take(self.limits.grants_per_principal));
        slots.filter(|slot| !slot.grant.lifetime.has_ended(now)).map(|slot| Arc::clone(&slot.grant)).collect()
    }

    /// Waits until a change was read in, then looks again. The caller bounds the wait.
    pub async fn settled(&self, caller: &Caller, clock: crate::clock::Clock) -> Lookup {
        loop {
            // Registered before the look, so that a change between look and wait is not missed.
            let changed = self.settled.notified();
            let mut changed = std::pin::pin!(changed);
            changed.as_mut().enable();
            match self.lookup(caller, clock.now()) {
                Lookup::Unsettled => changed.await,
                settled => return settled,
            }
        }
    }

    #[must_use]
    pub fn get(&self, id: &str) -> Option<Arc<Grant>> {
        self.read().by_id.get(id).map(|place| Arc::clone(&place.grant))
    }

    /// Whether one more grant of this principal would be within the limits.
    ///
    /// # Errors
    /// Which it would not be within.
    pub fn check_room_for(&self, subject: &Principal) -> Result<(), NoRoom> {
        let Limits { grants, grants_per_principal } = self.limits;
        let index = self.read();
        if index.by_id.len() >= grants {
            return Err(NoRoom::InAll(grants));
        }
        if index.by_subject.get(subject).is_some_and(|slots| slots.len() >= grants_per_principal) {
            return Err(NoRoom::ForPrincipal(grants_per_principal));
        }
        Ok(())
    }

    /// Says why the store cannot be followed, or that it can.
    pub fn set_trouble(&self, trouble: Option<String>) {
        *self.trouble.lock().unwrap_or_else(PoisonError::into_inner) = trouble.map(Into::into);
    }

    #[must_use]
    pub fn trouble(&self) -> Option<Arc<str>> {
        self.trouble.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    #[must_use]
    pub fn len(&self) -> usize {
        self.read().by_id.len()
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
    fn insert(&mut self, mut grant: Grant) {
        // One copy of the subject's name, however many grants it has.
        if let Some((subject, _)) = self.by_subject.get_key_value(&grant.subject) {
            grant.subject = subject.clone();
        }
        let grant = Arc::new(grant);
        // Most subjects hold one grant, and a list grows to four at once.
        let slots = self.by_subject.entry(grant.subject.clone()).or_insert_with(|| Vec::with_capacity(1));
        let position = u32::try_from(slots.len()).unwrap_or(u32::MAX);
        self.by_id.insert(grant.id.clone(), Place { grant: Arc::clone(&grant), position });
        slots.push(Slot { grant, pass: self.pass, is_suspect: false });
    }

    fn remove(&mut self, id: &str) -> Option<Arc<Grant>> {
        let Place { grant, position } = self.by_id.remove(id)?;
        let MapEntry::Occupied(mut slots) = self.by_subject.entry(grant.subject.clone()) else {
            return Some(grant);
        };
        let index = position as usize;
        if index < slots.get().len() {
            slots.get_mut().swap_remove(index);
        }
        if let Some(moved) = slots.get().get(index)
            && let Some(place) = self.by_id.get_mut(moved.grant.id.as_str())
        {
            place.position = position;
        }
        if slots.get().is_empty() {
            slots.remove();
        }
        Some(grant)
    }

    fn slot_mut(&mut self, id: &str) -> Option<&mut Slot> {
        let place = self.by_id.get(id)?;
        self.by_subject.get_mut(&place.grant.subject)?.get_mut(place.position as usize)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::Clock;
    use crate::grant::testing::{NOW, grant};

    fn alice() -> Caller {
        Caller::new(vec!["user:alice".parse().unwrap(), "group:sre".parse().unwrap()])
    }

    fn replica(staleness: Staleness, grants: usize) -> Replica {
        Replica::new(staleness, Limits { grants, grants_per_principal: grants })
    }

    fn ids(lookup: &Lookup) -> Vec<String> {
        match lookup {
            Lookup::Settled(grants) => grants.iter().map(|grant| grant.id.to_string()).collect(),
            Lookup::Unsettled => vec!["unsettled".into()],
            Lookup::TooMany => vec!["too many".into()],
        }
    }

    #[test]
    fn finds_the_active_grants_of_every_principal() {
        let replica = replica(Staleness::Local, 10);
        for (id, subject, deadline) in [
            ("a", "user:alice", 10_000),
            ("b", "group:sre", 10_000),
            ("ended", "user:alice", 0),
            ("other", "user:bob", 10_000),
        ] {
            replica.insert(grant(id, subject, deadline)).unwrap();
        }
        assert_eq!(ids(&replica.lookup(&alice(), NOW)), ["a", "b"]);
        replica.sweep(NOW);
        assert_eq!(replica.len(), 3);
        replica.remove("a");
        replica.begin_pass();
        replica.insert(grant("other", "user:bob", 10_000)).unwrap();
        replica.end_pass(|id| id == "known otherwise");
        assert_eq!(replica.len(), 1);
        assert_eq!(ids(&replica.lookup(&alice(), NOW)), Vec::<String>::new());
    }

    #[test]
    fn a_grant_that_moves_to_another_subject_leaves_the_first() {
        let replica = replica(Staleness::Local, 10);
        replica.insert(grant("a", "user:alice", 10_000)).unwrap();
        replica.insert(grant("a", "user:bob", 10_000)).unwrap();
        assert_eq!(ids(&replica.lookup(&alice(), NOW)), Vec::<String>::new());
        assert_eq!(replica.len(), 1);
    }

    #[tokio::test]
    async fn a_suspect_grant_is_not_used_until_it_was_read_again() {
        let replica = Arc::new(replica(Staleness::Local, 10));
        replica.insert(grant("a", "user:alice", 10_000)).unwrap();
        replica.suspect("a");
        assert_eq!(ids(&replica.lookup(&alice(), NOW)), ["unsettled"]);
        let waiting = tokio::spawn({
            let replica = Arc::clone(&replica);
            async move { ids(&replica.settled(&alice(), Clock::Fixed(NOW)).await) }
        });
        tokio::task::yield_now().await;
        replica.insert(grant("a", "user:alice", 20_000)).unwrap();
        assert_eq!(waiting.await.unwrap(), ["a"]);
    }

    #[test]
    fn age_is_judged_from_when_the_heartbeat_was_sent() {
        let replica = replica(Staleness::AtMost(Duration::from_secs(2)), 10);
        assert_eq!(replica.freshness(NOW), Freshness::Stale { age: None });
        replica.confirm(BootTime::from_millis(7_999));
        assert_eq!(replica.freshness(NOW), Freshness::Stale { age: Some(Duration::from_millis(2_001)) });
        replica.confirm(BootTime::from_millis(8_000));
        assert_eq!(replica.freshness(NOW), Freshness::Fresh { age: Duration::from_secs(2) });
        replica.confirm(BootTime::from_millis(7_000));
        assert!(replica.freshness(NOW).is_fresh(), "it never grows older than it is");
        replica.clear();
        assert_eq!(replica.freshness(NOW), Freshness::Stale { age: None });
    }

    #[test]
    fn ten_thousand_grants_of_one_group_are_changed_one_by_one() {
        let replica = replica(Staleness::Local, 20_000);
        let id = |number: usize| format!("g-{number}");
        for number in (0..10_000).chain(0..10_000) {
            replica.insert(grant(&id(number), "group:all", 10_000)).unwrap();
        }
        for number in (0..10_000).step_by(2) {
            replica.remove(&id(number));
        }
        assert_eq!(replica.len(), 5_000);
        for number in 0..10_000 {
            let found = replica.get(&id(number)).map(|grant| grant.id.to_string());
            assert_eq!(found, (number % 2 == 1).then(|| id(number)));
        }
    }

    #[test]
    fn of_too_many_grants_none_is_looked_at() {
        let replica = Replica::new(Staleness::Local, Limits { grants: 10, grants_per_principal: 2 });
        let (alice_name, bob_name) = ("user:alice".parse().unwrap(), "user:bob".parse().unwrap());
        for id in ["a", "b", "c"] {
            replica.insert(grant(id, "user:alice", 10_000)).unwrap();
        }
        assert_eq!(ids(&replica.lookup(&alice(), NOW)), ["too many"]);
        assert_eq!(replica.check_room_for(&alice_name), Err(NoRoom::ForPrincipal(2)));
        assert_eq!(replica.check_room_for(&bob_name), Ok(()));
        replica.remove("b");
        assert_eq!(ids(&replica.lookup(&alice(), NOW)), ["a", "c"]);
    }

    #[test]
    fn a_full_replica_says_so() {
        let replica = replica(Staleness::Local, 1);
        replica.insert(grant("a", "user:alice", 10_000)).unwrap();
        replica.insert(grant("a", "user:alice", 20_000)).unwrap();
        assert_eq!(replica.insert(grant("b", "user:alice", 10_000)), Err(ReplicaFull::Grants(1)));
    }
}
