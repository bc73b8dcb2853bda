//! How many of something each caller holds at once, and all of them together: one caller never takes everything.

use std::collections::HashMap;
use std::hash::Hash;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Why there is none to be had.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Full {
    /// The caller has its share.
    Own,
    /// All are taken.
    All,
}

/// As large as what is held: a caller that holds nothing is forgotten.
#[derive(Debug)]
struct Held<K> {
    all: usize,
    of: HashMap<K, usize>,
}

#[derive(Debug)]
pub struct Slots<K> {
    most: usize,
    most_of_one: usize,
    held: Mutex<Held<K>>,
}

impl<K: Clone + Eq + Hash> Slots<K> {
    #[must_use]
    pub fn new(most: usize, most_of_one: usize) -> Arc<Self> {
        Arc::new(Self { most, most_of_one, held: Mutex::new(Held { all: 0, of: HashMap::new() }) })
    }

    /// # Errors
    /// There is none, until somebody gives one back.
    pub fn take(self: &Arc<Self>, who: &K) -> Result<Slot<K>, Full> {
        let mut held = self.held();
        let own = held.of.get(who).copied().unwrap_or_default();
        if own >= self.most_of_one {
            return Err(Full::Own);
        }
        if held.all >= self.most {
            return Err(Full::All);
        }
        held.all += 1;
        held.of.insert(who.clone(), own + 1);
        Ok(Slot { slots: Arc::clone(self), who: who.clone() })
    }

    fn held(&self) -> MutexGuard<'_, Held<K>> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Given back when it is dropped.
#[derive(Debug)]
pub struct Slot<K: Clone + Eq + Hash> {
    slots: Arc<Slots<K>>,
    who: K,
}

impl<K: Clone + Eq + Hash> Drop for Slot<K> {
    fn drop(&mut self) {
        let mut held = self.slots.held();
        held.all = held.all.saturating_sub(1);
        match held.of.get_mut(&self.who) {
            Some(own) if *own > 1 => *own -= 1,
            _ => _ = held.of.remove(&self.who),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_has_a_share_of_all() {
        let slots = Slots::new(3, 2);
        let own = [slots.take(&"a").unwrap(), slots.take(&"a").unwrap()];
        assert_eq!(slots.take(&"a").unwrap_err(), Full::Own);
        let other = slots.take(&"b").unwrap();
        assert_eq!(slots.take(&"c").unwrap_err(), Full::All);
        drop(own);
        let _again = [slots.take(&"a").unwrap(), slots.take(&"c").unwrap()];
        drop(other);
        assert_eq!(slots.held().of.len(), 2, "who holds nothing is forgotten");
        assert_eq!(slots.held().all, 2);
    }
}
