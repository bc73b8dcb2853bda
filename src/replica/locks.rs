//! The live copy of all locks. There are few, mostly none, and a check that meets none pays one load for them.
//!
//! What is doubtful locks. While a lock is being read again nobody is decided on. A lock that is missing where the
//! server has begun another history may be one that the server lost, and holds on; so does what a lock was before it
//! differed there.

use std::collections::{HashMap, HashSet};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard};
use std::time::Duration;

use super::{Change, NoRoom, Replica, ReplicaFull};
use crate::clock::Now;
use crate::grant::Grant;
use crate::lock::{Lock, LockTarget};
use crate::principal::Caller;

/// Locks are for emergencies. Each costs every sidecar up to 2 KiB; beyond this somebody uses them for something else.
pub const MAX_LOCKS: usize = 10_000;

/// Of one key: what it is, and what it was for other targets in other histories of the server. The oldest go first.
const MAX_VERSIONS: usize = 8;

/// Between two readings of one end. Less is no other end, but the way of the answers.
const SAME_END: Duration = Duration::from_secs(1);

#[derive(Debug, Default)]
pub(super) struct Locks {
    index: RwLock<LockIndex>,
    /// Entries and ids in doubt. While it is 0 there is nothing to look at.
    occupied: AtomicUsize,
}

#[derive(Debug, Default)]
struct LockIndex {
    by_id: HashMap<Arc<str>, Entry>,
    by_target: HashMap<LockTarget, Vec<Arc<Lock>>>,
    /// Announced as changed and not read again yet.
    in_doubt: HashSet<Box<str>>,
    /// Counts complete passes over the store.
    pass: u32,
}

#[derive(Debug)]
struct Entry {
    /// The newest first, as it was last read. Behind it, one for each target, what a server may have lost.
    locks: Vec<Arc<Lock>>,
    /// Of the server, when it was last seen. None in a store that loses nothing.
    history: Option<Arc<str>>,
    pass: u32,
}

impl Locks {
    fn read(&self) -> RwLockReadGuard<'_, LockIndex> {
        self.index.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// One change, after which readers know whether there is anything to look at.
    fn change<T>(&self, change: impl FnOnce(&mut LockIndex) -> T) -> T {
        let mut index = self.index.write().unwrap_or_else(PoisonError::into_inner);
        let changed = change(&mut index);
        self.occupied.store(index.by_id.len() + index.in_doubt.len(), Ordering::Release);
        changed
    }

    pub(super) fn begin_pass(&self) {
        self.change(|index| index.pass = index.pass.wrapping_add(1));
    }

    pub(super) fn sweep(&self, now: Now) {
        if self.occupied.load(Ordering::Acquire) == 0 {
            return;
        }
        self.change(|index| {
            let ended = |entry: &Entry| entry.locks.iter().any(|lock| !lock.holds(now));
            let ids: Vec<_> =
                index.by_id.iter().filter(|(_, e)| ended(e)).map(|(id, _)| Arc::clone(id)).collect();
            for id in ids {
                let Some(entry) = index.take(&id) else { continue };
                let locks: Vec<_> = entry.locks.iter().filter(|lock| lock.holds(now)).cloned().collect();
                if !locks.is_empty() {
                    index.put(id, Entry { locks, ..entry });
                }
            }
        });
    }
}

impl LockIndex {
    fn take(&mut self, id: &str) -> Option<Entry> {
        let entry = self.by_id.remove(id)?;
        for lock in &entry.locks {
            if let Some(list) = self.by_target.get_mut(&lock.target) {
                list.retain(|other| !Arc::ptr_eq(other, lock));
                if list.is_empty() {
                    self.by_target.remove(&lock.target);
                }
            }
        }
        Some(entry)
    }

    fn put(&mut self, id: Arc<str>, entry: Entry) {
        for lock in &entry.locks {
            self.by_target.entry(lock.target.clone()).or_default().push(Arc::clone(lock));
        }
        self.by_id.insert(id, entry);
    }

    fn insert(
        &mut self,
        lock: Lock,
        history: Option<&Arc<str>>,
        now: Option<Now>,
    ) -> Result<(), ReplicaFull> {
        self.in_doubt.remove(&*lock.id);
        let before = self.take(&lock.id);
        if self.by_id.len() >= MAX_LOCKS {
            return Err(ReplicaFull::Locks(MAX_LOCKS));
        }
        let id = Arc::clone(&lock.id);
        let kept = match (before, now) {
            (Some(before), Some(now)) => {
                let is_same = before.history.as_ref() == history;
                kept(&lock, &before.locks, is_same, now)
            }
            _ => Vec::new(),
        };
        let locks = std::iter::once(Arc::new(lock)).chain(kept).collect();
        self.put(id, Entry { locks, history: history.cloned(), pass: self.pass });
        Ok(())
    }

    /// The first by id of those that hold, so that every sidecar names the same.
    fn on(&self, target: &LockTarget, now: Now) -> Option<Arc<Lock>> {
        let holding = self.by_target.get(target)?.iter().filter(|lock| lock.holds(now));
        holding.min_by(|a, b| a.id.cmp(&b.id)).cloned()
    }

    fn on_caller(&self, caller: &Caller, now: Now) -> Option<Arc<Lock>> {
        let of = |principal| self.on(&LockTarget::Principal(principal), now);
        caller.principals().iter().cloned().filter_map(of).min_by(|a, b| a.id.cmp(&b.id))
    }

    fn on_grant(&self, grant: &Grant, now: Now) -> Option<Arc<Lock>> {
        let entitlement = grant.provenance.as_deref()?.entitlement.as_ref()?;
        self.on(&LockTarget::Entitlement(entitlement.clone()), now)
    }
}

/// What holds on beside `lock`, which is now under the id of those `before`: in another history what it was there, in the
/// same one what was kept already, unless a writer has since made it another lock.
fn kept(lock: &Lock, before: &[Arc<Lock>], is_same_history: bool, now: Now) -> Vec<Arc<Lock>> {
    let candidates = match (before, is_same_history) {
        ([last, rest @ ..], true) if last.target == lock.target => rest,
        (_, true) => &[],
        (all, false) => all,
    };
    let mut kept: Vec<Arc<Lock>> = Vec::new();
    for other in candidates.iter().filter(|other| other.holds(now)) {
        let left = other.lifetime.remaining(now);
        let is_within = |lock: &Lock| {
            lock.target == other.target && lock.lifetime.remaining(now).saturating_add(SAME_END) >= left
        };
        if is_within(lock) || kept.iter().any(|lock| is_within(lock)) {
            continue;
        }
        kept.retain(|lock| lock.target != other.target);
        kept.push(Arc::clone(other));
    }
    kept.truncate(MAX_VERSIONS - 1);
    kept
}

impl Replica {
    /// Puts a lock in the place of whatever had its id.
    ///
    /// # Errors
    /// There are [`MAX_LOCKS`]. Whoever feeds the replica must not call it fresh then.
    pub fn insert_lock(&self, lock: Lock) -> Result<(), ReplicaFull> {
        self.change_locks(|index| index.insert(lock, None, None))
    }

    /// The same for a server that has histories, in one of which the lock was read: what another one had under that id
    /// holds on.
    ///
    /// # Errors
    /// As [`Self::insert_lock`].
    pub fn insert_lock_of(&self, lock: Lock, history: &Arc<str>, now: Now) -> Result<(), ReplicaFull> {
        self.change_locks(|index| index.insert(lock, Some(history), Some(now)))
    }

    /// Whether there was one.
    pub fn remove_lock(&self, id: &str) -> bool {
        self.change_locks(|index| {
            index.in_doubt.remove(id);
            index.take(id).is_some()
        })
    }

    /// The server announced that the lock is no more. If it was about to end, that says nothing of what it was in other
    /// histories.
    pub fn end_lock(&self, id: &str, now: Now) {
        self.change_locks(|index| {
            index.in_doubt.remove(id);
            let Some(Entry { mut locks, pass, .. }) = index.take(id) else { return };
            let is_deleted = locks.first().is_none_or(|last| last.lifetime.remaining(now) > SAME_END);
            if is_deleted || locks.len() < 2 {
                return;
            }
            locks.remove(0);
            index.put(id.into(), Entry { locks, history: None, pass });
        });
    }

    /// Decides nothing on anybody until this lock was inserted or removed.
    pub fn suspect_lock(&self, id: &str) {
        self.locks.change(|index| index.in_doubt.insert(id.into()));
    }

    /// Ends a complete pass, for locks: those that were not inserted since it began are gone if they were seen in this
    /// history, unless `keep` knows better. How many hold on because another history may have been lost with them.
    pub fn end_lock_pass(&self, history: &Arc<str>, keep: impl Fn(&str) -> bool) -> usize {
        self.change_locks(|index| {
            index.in_doubt.retain(|id| keep(id));
            let pass = index.pass;
            let unseen = index.by_id.iter().filter(|(id, entry)| entry.pass != pass && !keep(id));
            let (gone, lost): (Vec<_>, Vec<_>) = unseen
                .map(|(id, entry)| (Arc::clone(id), entry.history.as_ref() == Some(history)))
                .partition(|(_, is_ended)| *is_ended);
            for (id, _) in gone {
                index.take(&id);
            }
            lost.len()
        })
    }

    /// Makes room for a new copy of what the server has in this history.
    pub fn forget_locks_of(&self, history: &str) {
        self.change_locks(|index| {
            let of = index.by_id.iter().filter(|(_, entry)| entry.history.as_deref() == Some(history));
            let ids: Vec<_> = of.map(|(id, _)| Arc::clone(id)).collect();
            for id in ids {
                index.take(&id);
            }
        });
    }

    /// Whether there is any lock, or one in doubt. If not, nothing else here need be asked.
    #[must_use]
    pub fn has_locks(&self) -> bool {
        self.locks.occupied.load(Ordering::Acquire) != 0
    }

    /// Whether a lock was announced that has not been read yet.
    #[must_use]
    pub fn is_lock_in_doubt(&self) -> bool {
        self.has_locks() && !self.locks.read().in_doubt.is_empty()
    }

    /// The lock on one of the caller's principals.
    #[must_use]
    pub fn lock_on(&self, caller: &Caller, now: Now) -> Option<Arc<Lock>> {
        if !self.has_locks() {
            return None;
        }
        self.locks.read().on_caller(caller, now)
    }

    #[must_use]
    pub fn lock_on_everything(&self, now: Now) -> Option<Arc<Lock>> {
        if !self.has_locks() {
            return None;
        }
        self.locks.read().on(&LockTarget::Everything, now)
    }

    /// Takes the grants out of whose entitlements there is a lock.
    pub fn take_locked(&self, active: &mut Vec<Arc<Grant>>, now: Now) -> Vec<(Arc<Grant>, Arc<Lock>)> {
        let mut taken = Vec::new();
        if self.has_locks() {
            let index = self.locks.read();
            active.retain(|grant| match index.on_grant(grant, now) {
                Some(lock) => {
                    taken.push((Arc::clone(grant), lock));
                    false
                }
                None => true,
            });
        }
        taken
    }

    /// Waits until no lock is in doubt. The caller bounds the wait.
    pub async fn locks_settled(&self) {
        loop {
            // Registered before the look, so that a change between look and wait is not missed.
            let changed = self.settled.notified();
            let mut changed = std::pin::pin!(changed);
            changed.as_mut().enable();
            if !self.is_lock_in_doubt() {
                return;
            }
            changed.await;
        }
    }

    /// Whether one more lock would be within the limit.
    ///
    /// # Errors
    /// It would not.
    pub fn check_room_for_lock(&self) -> Result<(), NoRoom> {
        if self.lock_count() < MAX_LOCKS { Ok(()) } else { Err(NoRoom::ForLocks(MAX_LOCKS)) }
    }

    #[must_use]
    pub fn lock_count(&self) -> usize {
        self.locks.read().by_id.len()
    }

    /// All that are held, by id, whether or not they have ended.
    #[must_use]
    pub fn locks(&self) -> Vec<Arc<Lock>> {
        let mut locks: Vec<_> =
            self.locks.read().by_id.values().flat_map(|entry| entry.locks.iter().cloned()).collect();
        locks.sort_by(|a, b| a.id.cmp(&b.id));
        locks
    }

    fn change_locks<T>(&self, change: impl FnOnce(&mut LockIndex) -> T) -> T {
        let changed = self.locks.change(change);
        self.tell(Change::Locks);
        changed
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::Clock;
    use crate::grant::Provenance;
    use crate::grant::testing::{NOW, grant};
    use crate::lock::testing::lock;
    use crate::replica::{Limits, Lookup, Staleness};

    fn replica() -> Replica {
        Replica::new(Staleness::Local, Limits { grants: 10, grants_per_principal: 10 })
    }

    fn alice() -> Caller {
        Caller::new(vec!["user:alice".parse().unwrap(), "group:sre".parse().unwrap()])
    }

    fn later(millis: u64) -> Now {
        Now { boot: NOW.boot + Duration::from_millis(millis), ..NOW }
    }

    fn on_alice(replica: &Replica, now: Now) -> Option<String> {
        replica.lock_on(&alice(), now).map(|lock| lock.id.to_string())
    }

    fn history(name: &str) -> Arc<str> {
        name.into()
    }

    #[test]
    fn a_lock_holds_for_its_target_until_its_end_or_its_removal() {
        let replica = replica();
        assert!(!replica.has_locks());
        replica.insert_lock(lock("b", "group:sre", 1_000)).unwrap();
        replica.insert_lock(lock("a", "user:alice", 500)).unwrap();
        replica.insert_lock(lock("c", "user:bob", 500)).unwrap();
        replica.insert_lock(lock("d", "*", 200)).unwrap();
        assert_eq!(on_alice(&replica, NOW).as_deref(), Some("a"));
        assert_eq!(on_alice(&replica, later(500)).as_deref(), Some("b"));
        assert_eq!(on_alice(&replica, later(1_000)), None);
        assert!(replica.lock_on_everything(later(199)).is_some());
        assert!(replica.lock_on_everything(later(200)).is_none());
        // The same id with another target is another lock.
        replica.insert_lock(lock("a", "user:bob", 500)).unwrap();
        assert_eq!(on_alice(&replica, NOW).as_deref(), Some("b"));
        assert!(replica.remove_lock("b") && !replica.remove_lock("b"));
        assert_eq!(on_alice(&replica, NOW), None);
        replica.sweep(later(499));
        assert_eq!(replica.lock_count(), 2);
        replica.sweep(later(500));
        assert!(!replica.has_locks());
    }

    #[test]
    fn a_lock_on_an_entitlement_takes_its_grants_and_no_others() {
        let replica = replica();
        replica.insert_lock(lock("l", "db", 1_000)).unwrap();
        let from = |id: &str, entitlement: Option<&str>| {
            let provenance = Provenance { entitlement: entitlement.map(Into::into), ..Provenance::default() };
            Arc::new(crate::grant::Grant {
                provenance: Some(Box::new(provenance)),
                ..grant(id, "user:alice", 1_000)
            })
        };
        let mut active = vec![from("a", Some("db")), from("b", Some("web")), from("c", None)];
        active.push(Arc::new(grant("d", "user:alice", 1_000)));
        let taken = replica.take_locked(&mut active, NOW);
        assert_eq!(
            taken.iter().map(|(grant, lock)| (grant.id.as_str(), &*lock.id)).collect::<Vec<_>>(),
            [("a", "l")]
        );
        assert_eq!(active.len(), 3);
        assert!(replica.take_locked(&mut vec![from("a", Some("db"))], later(1_000)).is_empty());
    }

    #[tokio::test]
    async fn while_a_lock_is_in_doubt_nobody_is_settled() {
        let replica = Arc::new(replica());
        let bob = Caller::new(vec!["user:bob".parse().unwrap()]);
        let ways: [fn(&Replica); 3] = [
            |replica| assert!(!replica.remove_lock("l")),
            |replica| replica.insert_lock(lock("l", "user:alice", 9)).unwrap(),
            |replica| assert_eq!(replica.end_lock_pass(&history("h"), |_| false), 0),
        ];
        for settle in ways {
            replica.suspect_lock("l");
            assert!(matches!(replica.lookup(&bob, NOW), Lookup::Unsettled));
            let waiting = tokio::spawn({
                let (replica, bob) = (Arc::clone(&replica), bob.clone());
                async move {
                    replica.locks_settled().await;
                    matches!(replica.settled(&bob, Clock::Fixed(NOW)).await, Lookup::Settled(_))
                }
            });
            tokio::task::yield_now().await;
            assert!(!waiting.is_finished());
            settle(&replica);
            assert!(waiting.await.unwrap());
        }
        replica.suspect_lock("l");
        replica.end_lock_pass(&history("h"), |id| id == "l");
        assert!(replica.is_lock_in_doubt(), "it changed during the pass and was not read yet");
    }

    #[test]
    fn what_another_history_has_not_holds_on_and_what_its_own_has_not_ends() {
        let replica = replica();
        let (first, second) = (history("first"), history("second"));
        let pass = |history: &Arc<str>, kept: &str| {
            replica.begin_pass();
            replica.end_lock_pass(history, |id| id == kept)
        };
        replica.insert_lock_of(lock("l", "user:alice", 1_000), &first, NOW).unwrap();
        assert_eq!((pass(&second, ""), pass(&second, "")), (1, 1), "however often");
        assert!(on_alice(&replica, NOW).is_some() && on_alice(&replica, later(1_000)).is_none());
        // Read there, it is that history's.
        replica.insert_lock_of(lock("l", "user:alice", 1_000), &second, NOW).unwrap();
        assert_eq!(pass(&second, "l"), 0);
        assert!(on_alice(&replica, NOW).is_some(), "a change is waiting to be read");
        assert_eq!(pass(&second, ""), 0);
        assert!(!replica.has_locks());
    }

    #[test]
    fn a_change_that_a_server_may_have_lost_leaves_both_in_force() {
        let replica = replica();
        let (first, second) = (history("first"), history("second"));
        let read = |target, left_ms, history: &Arc<str>| {
            replica.insert_lock_of(lock("l", target, left_ms), history, NOW).unwrap();
        };
        read("*", 1_000, &first);
        read("user:alice", 9_000, &second);
        // Also when the next session reads the same again.
        read("user:alice", 9_000, &second);
        assert!(on_alice(&replica, NOW).is_some() && replica.lock_on_everything(NOW).is_some());
        assert!(replica.lock_on_everything(later(1_000)).is_none());
        // Whoever makes it another lock in the new history means it.
        read("user:bob", 9_000, &second);
        assert!(on_alice(&replica, NOW).is_none() && replica.lock_on_everything(NOW).is_none());
        // The same lock, of which a server may have lost that its end was put off.
        let bob = Caller::new(vec!["user:bob".parse().unwrap()]);
        read("user:bob", 500, &first);
        read("user:bob", 500, &first);
        assert!(replica.lock_on(&bob, later(8_999)).is_some());
        // The way of an answer is no other end, or a lock that is shortened now would not end.
        read("user:bob", 8_700, &second);
        read("user:bob", 500, &second);
        assert_eq!(replica.locks().len(), 1);
        assert!(replica.lock_on(&bob, later(500)).is_none());
        // The end of what it is now is not the end of what it was, a deletion is.
        for (ended, expected) in [(later(1_490), true), (NOW, false)] {
            replica.remove_lock("l");
            read("user:bob", 9_000, &first);
            read("user:alice", 1_500, &second);
            replica.end_lock("l", ended);
            replica.begin_pass();
            replica.end_lock_pass(&second, |_| false);
            assert_eq!(replica.lock_on(&bob, later(2_000)).is_some(), expected);
            assert!(on_alice(&replica, NOW).is_none());
        }
    }

    #[test]
    fn too_many_locks_are_not_some_of_them() {
        let replica = replica();
        let first = history("first");
        for number in 0..MAX_LOCKS {
            replica.insert_lock_of(lock(&format!("l{number}"), "user:bob", 9), &first, NOW).unwrap();
        }
        let one_more = || lock("more", "user:alice", 9);
        assert_eq!(replica.insert_lock(one_more()), Err(ReplicaFull::Locks(MAX_LOCKS)));
        replica.insert_lock(lock("l0", "user:alice", 9)).unwrap();
        replica.forget_locks_of("first");
        assert_eq!(replica.lock_count(), 1, "what is of no history is not forgotten");
        replica.insert_lock(one_more()).unwrap();
    }
}
