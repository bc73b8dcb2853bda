//! How far a webhook is, as a row of the store: shared by all instances, and there after a restart. Whoever delivers
//! holds a lease in the same row, so that no two do. Pure; moments are the store's.

use std::time::Duration;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

/// A lease or a pause that ends later than this was written by another clock, and is none.
pub const LONGEST_HOLD: Duration = Duration::from_secs(2 * 3600);

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Mark {
    /// The last event that is done with.
    pub number: u64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lease: Option<Lease>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pause: Option<Pause>,
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
    pub fn at(number: u64) -> Self {
        Self { number, ..Self::default() }
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
        let leased = |until| Mark { lease: Some(Lease { owner: "a".to_owned(), until }), ..Mark::at(7) };
        assert_eq!(leased(in_s(5)).wait("b", now), Duration::from_secs(5));
        assert_eq!(leased(in_s(5)).wait("a", now), Duration::ZERO);
        assert_eq!(leased(in_s(0)).wait("b", now), Duration::ZERO);
        assert_eq!(leased(in_s(-5)).wait("b", now), Duration::ZERO);
        assert_eq!(leased(in_s(86_400)).wait("b", now), Duration::ZERO, "of a clock that ran ahead");
        let paused = Mark { pause: Some(Pause { attempts: 2, until: in_s(9) }), ..leased(in_s(5)) };
        assert_eq!(paused.wait("b", now), Duration::from_secs(9));
        assert_eq!(paused.wait("a", now), Duration::from_secs(9));
        let text = serde_json::to_string(&paused).unwrap();
        assert_eq!(serde_json::from_str::<Mark>(&text).unwrap(), paused);
    }
}
