//! What was just allowed, kept until its watch comes, which is a moment later or never.
//!
//! The exact request, as it was decided: what ext_proc shows of it has been changed by then. Bounded, and the oldest go
//! first. A stream whose request is gone is watched all the same, and ended where only the request could tell.

use std::cell::Cell;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use envoy_types::pb::envoy::service::auth::v3::CheckRequest;
use uuid::Uuid;

use crate::grant::Grant;
use crate::principal::Caller;

/// Threads that decide have a ring each, so that the memory of a request is freed where it was taken.
const RINGS: usize = 16;
/// Per ring, of some 3 KiB each. Envoy opens the watch in the same moment as it reads the answer.
const SLOTS: usize = 128;

/// Of one request, encoded. Streams hold theirs as long as they live, and callers write headers and bodies. A larger one is
/// watched without.
pub const MAX_KEPT_BYTES: usize = 12 * 1024;

/// What an allow rests on.
#[derive(Debug, Clone, Default)]
pub struct Footing {
    pub grants: Vec<Arc<Grant>>,
    /// It says that it rests on no grant, and so stands against a lock on everything.
    pub stands_alone: bool,
}

/// A request that was allowed.
#[derive(Debug)]
pub struct Admitted {
    pub decision: Uuid,
    pub request: CheckRequest,
    pub caller: Caller,
    pub footing: Footing,
    /// Of the policy that decided.
    pub revision: Arc<str>,
}

#[derive(Debug, Default)]
pub struct Recent {
    /// Nobody pays for what nobody asks for.
    is_wanted: AtomicBool,
    rings: [Mutex<Ring>; RINGS],
}

#[derive(Debug, Default)]
struct Ring {
    slots: Vec<Option<Admitted>>,
    next: usize,
}

impl Recent {
    /// Whether a watch was ever opened.
    #[must_use]
    pub fn is_wanted(&self) -> bool {
        self.is_wanted.load(Ordering::Relaxed)
    }

    pub fn put(&self, admitted: Admitted) {
        let Some(ring) = self.rings.get(own_ring()) else { return };
        // Dropped behind the lock.
        let _oldest = ring.lock().unwrap_or_else(PoisonError::into_inner).put(admitted);
    }

    /// What was allowed under this name, once.
    pub fn take(&self, decision: Uuid) -> Option<Admitted> {
        self.is_wanted.store(true, Ordering::Relaxed);
        let mut rings = self.rings.iter();
        rings.find_map(|ring| ring.lock().unwrap_or_else(PoisonError::into_inner).take(decision))
    }
}

impl Ring {
    fn put(&mut self, admitted: Admitted) -> Option<Admitted> {
        if self.slots.len() < SLOTS {
            self.slots.push(Some(admitted));
            return None;
        }
        let slot = self.slots.get_mut(self.next)?;
        self.next = (self.next + 1) % SLOTS;
        slot.replace(admitted)
    }

    fn take(&mut self, decision: Uuid) -> Option<Admitted> {
        let is_it =
            |slot: &&mut Option<Admitted>| slot.as_ref().is_some_and(|found| found.decision == decision);
        self.slots.iter_mut().find(is_it)?.take()
    }
}

fn own_ring() -> usize {
    static NEXT: AtomicUsize = AtomicUsize::new(0);
    thread_local! {
        static OWN: Cell<Option<usize>> = const { Cell::new(None) };
    }
    OWN.get().unwrap_or_else(|| {
        let own = NEXT.fetch_add(1, Ordering::Relaxed) % RINGS;
        OWN.set(Some(own));
        own
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn admitted(number: u128) -> Admitted {
        Admitted {
            decision: Uuid::from_u128(number),
            request: CheckRequest { attributes: None },
            caller: Caller::default(),
            footing: Footing::default(),
            revision: "".into(),
        }
    }

    #[test]
    fn what_was_allowed_is_there_once_and_the_oldest_go_first() {
        let recent = Recent::default();
        let is_there = |number: u128| recent.take(Uuid::from_u128(number)).is_some();
        assert!(!recent.is_wanted() && !is_there(0) && recent.is_wanted());
        let last = SLOTS as u128;
        (0..=last).for_each(|number| recent.put(admitted(number)));
        assert!(!is_there(0), "it had to make room");
        assert!(is_there(1) && !is_there(1), "once");
        assert!(is_there(last));
    }
}
