//! What this sidecar saw revoked or changed before its time, so that a server which lost that cannot bring it back.
//!
//! A server that restarts from a snapshot, or a replica that is promoted before it heard of a deletion, serves a
//! revoked grant again, and nothing about the grant tells. Ids are never reused, so a grant that was gone and is back,
//! byte for byte, in another history of the server is one that came back from the dead. In the same history it is
//! a writer's doing: no acknowledged deletion was lost there.

use std::collections::HashMap;
use std::hash::{BuildHasher, RandomState};
use std::sync::Arc;

use crate::clock::{BootTime, Now};
use crate::grant::{Grant, GrantId};

/// As many as a replica holds by default; about 100 bytes each.
pub const MAX_VANISHED: usize = 100_000;
/// Of one grant: somebody narrowed it, narrowed it again, and then revoked it. The oldest go first.
const MAX_VERSIONS: usize = 4;

#[derive(Debug)]
pub struct Vanished {
    entries: HashMap<GrantId, Entry>,
    /// Keyed anew in each process: nobody can make two documents that collide.
    hasher: RandomState,
    limit: usize,
}

#[derive(Debug)]
struct Entry {
    versions: Vec<Version>,
    /// Until then it could have lived; after that it is not accepted for its TTL.
    until: BootTime,
}

/// A value that is no more.
#[derive(Debug)]
struct Version {
    hash: u64,
    /// `master_replid` of the server when it vanished; none once it was found back in another, for then it stays
    /// refused whatever history is next.
    history: Option<Arc<str>>,
}

/// There is no room to remember one more.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Forgotten;

impl Vanished {
    #[must_use]
    pub fn new(limit: usize) -> Self {
        Self { entries: HashMap::new(), hasher: RandomState::new(), limit }
    }

    /// The grant was there with this value, and is no more.
    ///
    /// # Errors
    /// The memory is full of grants that have not ended yet.
    pub fn remember(&mut self, grant: &Grant, history: &Arc<str>, now: Now) -> Result<(), Forgotten> {
        if grant.lifetime.has_ended(now) {
            return Ok(());
        }
        if self.entries.len() >= self.limit && !self.entries.contains_key(&grant.id) {
            self.entries.retain(|_, entry| !entry.until.since(now.boot).is_zero());
            if self.entries.len() >= self.limit {
                return Err(Forgotten);
            }
        }
        let hash = self.hasher.hash_one(&*grant.document);
        let until = grant.lifetime.deadline;
        let entry = self
            .entries
            .entry(grant.id.clone())
            .or_insert_with(|| Entry { versions: Vec::with_capacity(1), until });
        entry.until = entry.until.max(until);
        match entry.versions.iter_mut().find(|version| version.hash == hash) {
            Some(Version { history: Some(known), .. }) => *known = Arc::clone(history),
            // Refused already, and not to be forgiven for vanishing once more.
            Some(_) => {}
            None => {
                if entry.versions.len() == MAX_VERSIONS {
                    // One that has come back already may still be there.
                    let spare = entry.versions.iter().position(|version| version.history.is_some());
                    entry.versions.remove(spare.unwrap_or(0));
                }
                entry.versions.push(Version { hash, history: Some(Arc::clone(history)) });
            }
        }
        Ok(())
    }

    /// Whether a grant that was read may be used, or is one that came back.
    pub fn admits(&mut self, grant: &Grant, history: &Arc<str>, now: Now) -> bool {
        let Some(entry) = self.entries.get_mut(&grant.id) else { return true };
        let hash = self.hasher.hash_one(&*grant.document);
        let Some(index) = entry.versions.iter().position(|version| version.hash == hash) else { return true };
        let is_over = entry.until.since(now.boot).is_zero();
        let was_never_lost = entry.versions[index].history.as_ref().is_some_and(|seen| seen == history);
        if is_over || was_never_lost {
            entry.versions.remove(index);
            if entry.versions.is_empty() {
                self.entries.remove(&grant.id);
            }
            return true;
        }
        entry.versions[index].history = None;
        // It may have been extended after it was last read, before it was revoked.
        entry.until = entry.until.max(grant.lifetime.deadline);
        false
    }

    #[cfg(test)]
    fn len(&self) -> usize {
        self.entries.len()
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::grant::testing::{NOW, grant};

    fn history(name: &str) -> Arc<str> {
        name.into()
    }

    fn later(millis: u64) -> Now {
        Now { boot: NOW.boot + Duration::from_millis(millis), ..NOW }
    }

    #[test]
    fn what_comes_back_in_another_history_is_refused_until_it_would_have_ended() {
        let mut vanished = Vanished::new(10);
        let one = grant("a", "user:alice", 5_000);
        vanished.remember(&one, &history("first"), NOW).unwrap();
        assert!(!vanished.admits(&one, &history("second"), NOW));
        assert!(!vanished.admits(&one, &history("second"), NOW), "also the second time in that history");
        assert!(!vanished.admits(&one, &history("first"), NOW), "and back in the first");
        assert!(vanished.admits(&one, &history("second"), later(5_000)));
        // Extended before it was revoked, while nobody listened.
        let extended = grant("c", "user:alice", 9_000);
        vanished.remember(&grant("c", "user:alice", 2_000), &history("first"), NOW).unwrap();
        assert!(!vanished.admits(&extended, &history("second"), later(1_000)));
        assert!(!vanished.admits(&extended, &history("second"), later(3_000)));
        assert!(vanished.admits(&grant("b", "user:alice", 5_000), &history("second"), NOW));
    }

    #[test]
    fn in_the_same_history_it_is_a_writers_doing() {
        let mut vanished = Vanished::new(10);
        let one = grant("a", "user:alice", 5_000);
        vanished.remember(&one, &history("first"), NOW).unwrap();
        assert!(vanished.admits(&one, &history("first"), NOW));
        assert!(vanished.admits(&one, &history("second"), NOW), "and then it lives");
    }

    #[test]
    fn another_document_is_another_grant() {
        let mut vanished = Vanished::new(10);
        let one = grant("a", "user:alice", 5_000);
        vanished.remember(&one, &history("first"), NOW).unwrap();
        let narrowed = Grant { document: "{ }".into(), ..one.clone() };
        assert!(vanished.admits(&narrowed, &history("second"), NOW));
        // Narrowed, then revoked: neither version comes back.
        vanished.remember(&narrowed, &history("second"), NOW).unwrap();
        assert!(!vanished.admits(&one, &history("third"), NOW));
        assert!(!vanished.admits(&narrowed, &history("third"), NOW));
    }

    #[test]
    fn a_narrowing_that_was_lost_stays_refused_when_its_successor_vanishes() {
        let mut vanished = Vanished::new(10);
        let wide = grant("a", "user:alice", 5_000);
        let narrow = Grant { document: "{ }".into(), ..wide.clone() };
        vanished.remember(&wide, &history("first"), NOW).unwrap();
        assert!(!vanished.admits(&wide, &history("second"), NOW));
        vanished.remember(&narrow, &history("second"), NOW).unwrap();
        vanished.remember(&wide, &history("second"), NOW).unwrap();
        assert!(!vanished.admits(&wide, &history("second"), NOW));
    }

    #[test]
    fn a_full_memory_says_so_and_makes_room_for_what_has_ended() {
        let mut vanished = Vanished::new(1);
        vanished.remember(&grant("over", "user:alice", 0), &history("first"), NOW).unwrap();
        vanished.remember(&grant("a", "user:alice", 100), &history("first"), NOW).unwrap();
        let second = grant("b", "user:alice", 900);
        assert_eq!(vanished.remember(&second, &history("first"), NOW), Err(Forgotten));
        vanished.remember(&second, &history("first"), later(100)).unwrap();
        assert_eq!(vanished.len(), 1);
    }
}
