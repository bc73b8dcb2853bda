//! How many streams are live, in all and of each caller. A caller who opened all there may be watched would have the rest of
//! them unwatched, and everybody else's.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::Watcher;
use crate::principal::{Caller, Principal};

/// None stands for callers without a name.
type Name = Option<Principal>;

#[derive(Default)]
pub struct Places(Mutex<Taken>);

#[derive(Default)]
struct Taken {
    all: usize,
    by_caller: HashMap<Name, usize>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Full {
    /// Streams beyond run unwatched.
    All,
    /// This caller has its share.
    Caller,
}

/// How many there may be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Room {
    pub all: usize,
    pub of_one_caller: usize,
}

/// A live stream, counted for as long as it is one.
pub struct Place {
    watcher: Arc<Watcher>,
    name: Name,
}

impl Place {
    pub fn take(watcher: &Arc<Watcher>, caller: &Caller) -> Result<Self, Full> {
        let name = caller.subject().or_else(|| caller.principals().first()).cloned();
        watcher.checker.streams.places.taken().take(name.clone(), watcher.checker.config.watched_streams)?;
        watcher.checker.metrics.count_live_stream(1);
        Ok(Self { watcher: Arc::clone(watcher), name })
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.watcher.checker.streams.places.taken().leave(&self.name);
        self.watcher.checker.metrics.count_live_stream(-1);
    }
}

impl Places {
    fn taken(&self) -> MutexGuard<'_, Taken> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Taken {
    fn take(&mut self, name: Name, room: Room) -> Result<(), Full> {
        if self.all >= room.all {
            return Err(Full::All);
        }
        let of_caller = self.by_caller.entry(name).or_default();
        if *of_caller >= room.of_one_caller {
            return Err(Full::Caller);
        }
        *of_caller += 1;
        self.all += 1;
        Ok(())
    }

    fn leave(&mut self, name: &Name) {
        self.all = self.all.saturating_sub(1);
        if let Some(count) = self.by_caller.get_mut(name) {
            *count -= 1;
            if *count == 0 {
                self.by_caller.remove(name);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nobody_takes_all_the_places() {
        let mut taken = Taken::default();
        let room = Room { all: 3, of_one_caller: 2 };
        let name = |name: &str| Some(format!("user:{name}").parse().unwrap());
        assert_eq!(taken.take(name("a"), room), Ok(()));
        assert_eq!(taken.take(name("a"), room), Ok(()));
        assert_eq!(taken.take(name("a"), room), Err(Full::Caller));
        assert_eq!(taken.take(None, room), Ok(()));
        assert_eq!(taken.take(name("b"), room), Err(Full::All));
        taken.leave(&name("a"));
        assert_eq!(taken.take(name("a"), room), Ok(()));
        for left in [name("a"), name("a"), None] {
            taken.leave(&left);
        }
        assert!(taken.all == 0 && taken.by_caller.is_empty());
    }
}
