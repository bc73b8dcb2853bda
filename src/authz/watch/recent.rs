//! What was just allowed, kept until its watch comes, which is a moment later or never.
//!
//! The exact request, as it was decided: what ext_proc shows of it has been changed by then. Bounded in number, bytes and
//! age; the oldest go first. A stream whose entry is gone is watched all the same, by what the metadata says of it.

use std::cell::Cell;
use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use envoy_types::pb::envoy::service::auth::v3::CheckRequest;
use prost::Message;
use uuid::Uuid;

use crate::grant::Grant;
use crate::principal::Caller;

/// Threads that decide have a ring each, so that the memory of a request is freed where it was taken.
const RINGS: usize = 16;
/// Of one ring. More than one thread allows within [`KEPT_FOR`] where each of them becomes a stream.
const MAX_ENTRIES: usize = 4096;
/// Of the requests in one ring, as they are on the wire.
const MAX_RING_BYTES: usize = 4 * 1024 * 1024;
/// Envoy opens the watch as soon as it has read the answer. Filters in between may wait for something.
const KEPT_FOR: Duration = Duration::from_secs(2);
/// Of one request. Streams hold theirs as long as they live, and callers write headers and bodies. Of a larger one everything
/// is kept but the request itself.
const MAX_REQUEST_BYTES: usize = 12 * 1024;

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
    pub caller: Caller,
    pub footing: Footing,
    /// Of the policy that decided.
    pub revision: Arc<str>,
    /// None if it was too large to be kept.
    pub request: Option<CheckRequest>,
}

#[derive(Debug, Default)]
pub struct Recent {
    /// Nobody pays for what nobody asks for.
    is_wanted: AtomicBool,
    rings: [Mutex<Ring>; RINGS],
}

#[derive(Debug, Default)]
struct Ring {
    slots: VecDeque<Slot>,
    bytes: usize,
}

#[derive(Debug)]
struct Slot {
    put: Instant,
    bytes: usize,
    /// None once it was taken.
    admitted: Option<Admitted>,
}

impl Recent {
    /// Whether a watch was ever opened.
    #[must_use]
    pub fn is_wanted(&self) -> bool {
        self.is_wanted.load(Ordering::Relaxed)
    }

    pub fn put(&self, mut admitted: Admitted) {
        let bytes = admitted.request.as_ref().map_or(0, Message::encoded_len);
        let bytes = if bytes > MAX_REQUEST_BYTES {
            admitted.request = None;
            0
        } else {
            bytes
        };
        let Some(ring) = self.rings.get(own_ring()) else { return };
        // Dropped behind the lock.
        let _old = ring.lock().unwrap_or_else(PoisonError::into_inner).put(admitted, bytes, Instant::now());
    }

    /// What was allowed under this name, once.
    pub fn take(&self, decision: Uuid) -> Option<Admitted> {
        self.is_wanted.store(true, Ordering::Relaxed);
        let mut rings = self.rings.iter();
        rings.find_map(|ring| ring.lock().unwrap_or_else(PoisonError::into_inner).take(decision))
    }
}

impl Ring {
    fn put(&mut self, admitted: Admitted, bytes: usize, now: Instant) -> Vec<Slot> {
        let mut old = Vec::new();
        while self.slots.front().is_some_and(|first| {
            now.saturating_duration_since(first.put) > KEPT_FOR
                || self.slots.len() >= MAX_ENTRIES
                || self.bytes + bytes > MAX_RING_BYTES
        }) {
            let Some(slot) = self.slots.pop_front() else { break };
            self.bytes -= slot.bytes;
            old.push(slot);
        }
        self.bytes += bytes;
        self.slots.push_back(Slot { put: now, bytes, admitted: Some(admitted) });
        old
    }

    /// From the newest on: it is most likely the one before.
    fn take(&mut self, decision: Uuid) -> Option<Admitted> {
        let is_it = |slot: &&mut Slot| slot.admitted.as_ref().is_some_and(|found| found.decision == decision);
        let slot = self.slots.iter_mut().rev().find(is_it)?;
        self.bytes -= std::mem::take(&mut slot.bytes);
        slot.admitted.take()
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
    use envoy_types::pb::envoy::service::auth::v3::AttributeContext;

    use super::*;

    fn admitted(number: u128, bytes: usize) -> Admitted {
        let extension = [("k".to_owned(), "x".repeat(bytes))].into();
        let attributes = AttributeContext { context_extensions: extension, ..AttributeContext::default() };
        Admitted {
            decision: Uuid::from_u128(number),
            request: Some(CheckRequest { attributes: Some(attributes) }),
            caller: Caller::default(),
            footing: Footing::default(),
            revision: "".into(),
        }
    }

    #[test]
    fn what_was_allowed_is_there_once() {
        let recent = Recent::default();
        let take = |number: u128| recent.take(Uuid::from_u128(number));
        assert!(!recent.is_wanted() && take(0).is_none() && recent.is_wanted());
        recent.put(admitted(1, 10));
        recent.put(admitted(2, MAX_REQUEST_BYTES));
        assert!(take(1).is_some_and(|found| found.request.is_some()) && take(1).is_none());
        assert!(take(2).is_some_and(|found| found.request.is_none()), "too large to be kept");
        assert!(recent.rings.iter().all(|ring| ring.lock().unwrap().bytes == 0));
    }

    #[test]
    fn the_oldest_go_first_by_number_bytes_and_age() {
        let now = Instant::now();
        let mut ring = Ring::default();
        for number in 0..=MAX_ENTRIES as u128 {
            ring.put(admitted(number, 0), 1, now);
        }
        assert!(ring.take(Uuid::from_u128(0)).is_none() && ring.take(Uuid::from_u128(1)).is_some());
        assert_eq!(ring.put(admitted(9_000, 0), MAX_RING_BYTES, now).len(), MAX_ENTRIES);
        let late = now + KEPT_FOR + Duration::from_millis(1);
        assert_eq!(ring.put(admitted(9_001, 0), 1, late).len(), 1);
        assert_eq!((ring.slots.len(), ring.bytes), (1, 1));
    }
}
