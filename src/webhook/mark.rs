//! How far a webhook is, as a row of the store: shared by all instances, and there after a restart. Whoever delivers
//! holds a lease in the same row, so that no two do. Pure; moments are the store's.

use std::time::Duration;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::store::journal::{Head, StoredEvent, chain};

/// A lease or a pause that ends later than this was written by another clock, and is none.
const LONGEST_HOLD: Duration = Duration::from_secs(2 * 3600);
/// By how much clocks of two servers, of which one took the other's place, may differ. Its events come twice.
const SEARCH_MARGIN: Duration = Duration::from_secs(5);

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Mark {
    /// The last event that is done with.
    pub place: Place,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lease: Option<Lease>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pause: Option<Pause>,
}

/// An event of the journal. With its hash, because a store that lost its journal counts from the beginning again.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Place {
    pub number: u64,
    /// Empty if nobody knows it.
    pub hash: String,
    pub time: Timestamp,
    /// Up to here the events were of another journal, or of this one and done with: earlier ones are passed over.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub since: Option<Timestamp>,
}

impl Place {
    /// The end of a journal.
    #[must_use]
    pub fn end(head: &Head, now: Timestamp) -> Self {
        Self { number: head.number, hash: head.hash.clone(), time: now, since: None }
    }

    /// Before all events, of which those from about here on are to be delivered.
    #[must_use]
    pub fn search(&self) -> Self {
        let since = self.since.unwrap_or(self.time);
        let since = since.checked_sub(SEARCH_MARGIN).unwrap_or(Timestamp::MIN);
        Self { number: 0, hash: String::new(), time: self.time, since: Some(since) }
    }

    /// Whether a journal that ends there, or goes on with this event, is another than the one it is of.
    #[must_use]
    pub fn is_elsewhere(&self, head: &Head) -> bool {
        let is_known = !self.hash.is_empty();
        self.number > head.number || (is_known && self.number == head.number && self.hash != head.hash)
    }

    #[must_use]
    pub fn is_followed_by(&self, event: &StoredEvent) -> bool {
        let is_next = Some(event.number) == self.number.checked_add(1);
        self.hash.is_empty() || !is_next || chain(&self.hash, &event.document) == event.hash
    }
}

/// Its holder alone delivers, until then.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Lease {
    pub owner: String,
    pub until: Timestamp,
}

/// The event after the mark could not be delivered, and is not tried before then. For all instances: a receiver in trouble
/// does not get better by their number.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pause {
    pub attempts: u32,
    pub until: Timestamp,
}

impl Mark {
    #[must_use]
    pub fn at(place: Place) -> Self {
        Self { place, ..Self::default() }
    }

    /// How long `owner` has to wait.
    #[must_use]
    pub fn wait(&self, owner: &str, now: Timestamp) -> Duration {
        let left = |until: Timestamp| {
            let left = Duration::try_from(until.duration_since(now)).unwrap_or_default();
            if left > LONGEST_HOLD { Duration::ZERO } else { left }
        };
        let lease = self.lease.as_ref().filter(|lease| lease.owner != owner);
        let pause = self.pause.as_ref();
        lease
            .map_or(Duration::ZERO, |lease| left(lease.until))
            .max(pause.map_or(Duration::ZERO, |pause| left(pause.until)))
    }

    /// Attempts at the event after it that have failed.
    #[must_use]
    pub fn attempts(&self) -> u32 {
        self.pause.as_ref().map_or(0, |pause| pause.attempts)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn holds_are_waited_for_and_end() {
        let now = Timestamp::from_second(1_800_000_000).unwrap();
        let in_s = |seconds: i64| Timestamp::from_second(1_800_000_000 + seconds).unwrap();
        let leased = |until| Mark {
            lease: Some(Lease { owner: "a".to_owned(), until }),
            ..Mark::at(Place { number: 7, ..Place::default() })
        };
        assert_eq!(leased(in_s(5)).wait("b", now), Duration::from_secs(5));
        assert_eq!(leased(in_s(5)).wait("a", now), Duration::ZERO);
        assert_eq!(leased(in_s(0)).wait("b", now), Duration::ZERO);
        assert_eq!(leased(in_s(-5)).wait("b", now), Duration::ZERO);
        assert_eq!(leased(in_s(86_400)).wait("b", now), Duration::ZERO, "of a clock that ran ahead");
        let paused = Mark { pause: Some(Pause { attempts: 2, until: in_s(9) }), ..leased(in_s(5)) };
        assert_eq!(paused.wait("b", now), Duration::from_secs(9));
        assert_eq!(paused.wait("a", now), Duration::from_secs(9));
        let place = |number, hash: &str| Place { number, hash: hash.to_owned(), ..Place::default() };
        let head = Head { number: 7, hash: "a".to_owned() };
        for (place, is_elsewhere) in [
            (place(8, ""), true),
            (place(7, "b"), true),
            (place(7, "a"), false),
            (place(7, ""), false),
            (place(6, "b"), false),
        ] {
            assert_eq!(place.is_elsewhere(&head), is_elsewhere, "{place:?}");
        }
        let event = |number, before: &str| StoredEvent {
            number,
            hash: chain(before, "{}"),
            document: "{}".to_owned(),
        };
        assert!(place(7, "a").is_followed_by(&event(8, "a")) && place(7, "").is_followed_by(&event(8, "a")));
        assert!(
            !place(7, "b").is_followed_by(&event(8, "a")) && place(7, "b").is_followed_by(&event(9, "a"))
        );
        let text = serde_json::to_string(&paused).unwrap();
        assert_eq!(serde_json::from_str::<Mark>(&text).unwrap(), paused);
    }
}
