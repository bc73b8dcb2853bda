//! Whether a record of events is whole: numbers without a gap, each hash over the one before it and its document. Pure: it
//! is fed event by event, and never holds more than two.
//!
//! It stops at the first break. What comes behind a break proves nothing.

use std::collections::BTreeMap;
use std::fmt;

use crate::store::journal::{GENESIS, StoredEvent, chain};

/// A hash that somebody wrote down before: the event of that number must have it, and have been checked against the event
/// before it. The hash alone says nothing of the document beside it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Anchor {
    pub number: u64,
    pub hash: String,
}

impl Anchor {
    pub fn parse(text: &str) -> Result<Self, String> {
        let wrong = || format!("{text:?} is no anchor; write NUMBER:HASH, as `audit verify` prints its head");
        let (number, hash) = text.split_once(':').ok_or_else(wrong)?;
        let number: u64 = number.parse().map_err(|_| wrong())?;
        let is_hash = hash.len() == GENESIS.len() && hash.bytes().all(|byte| byte.is_ascii_hexdigit());
        if !is_hash || number == 0 {
            return Err(wrong());
        }
        Ok(Self { number, hash: hash.to_ascii_lowercase() })
    }
}

/// Where and how a record breaks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Break {
    /// Events are missing.
    Gap { expected: u64, found: u64 },
    /// A number that was there already.
    Order { after: u64, found: u64 },
    /// The next event fits the hash, so the document is what was changed, or all that is before it.
    Document { number: u64 },
    /// The next event fits the document, so the hash is what was changed.
    Hash { number: u64 },
    /// The last event, or the one behind it does not fit either.
    Either { number: u64 },
    /// An event that had another hash when somebody wrote it down.
    Anchor { number: u64, found: String },
    /// An anchor's event is not in the record.
    NoAnchor { number: u64, first: u64, last: u64 },
    /// An anchor's event is the first there is, and nothing is known of the one before it.
    Unproven { number: u64 },
    /// The record does not begin with event 1, and nothing is known of the one before its first.
    Trimmed { first: u64 },
    /// There are no events.
    Empty,
    /// The record goes on where this ends.
    Behind { last: u64, head: u64 },
    /// A line that is no event.
    Line { line: u64, why: String },
}

impl Break {
    /// A stable name.
    pub fn code(&self) -> &'static str {
        match self {
            Self::Gap { .. } => "gap",
            Self::Order { .. } => "order",
            Self::Document { .. } => "document",
            Self::Hash { .. } => "hash",
            Self::Either { .. } => "document_or_hash",
            Self::Anchor { .. } => "anchor",
            Self::NoAnchor { .. } => "anchor_missing",
            Self::Unproven { .. } => "anchor_unproven",
            Self::Trimmed { .. } => "trimmed",
            Self::Empty => "empty",
            Self::Behind { .. } => "end_missing",
            Self::Line { .. } => "line",
        }
    }

    /// The number at which it breaks, or the line where there is none.
    pub fn place(&self) -> u64 {
        match self {
            Self::Gap { expected: number, .. }
            | Self::Order { found: number, .. }
            | Self::Document { number }
            | Self::Hash { number }
            | Self::Either { number }
            | Self::Anchor { number, .. }
            | Self::NoAnchor { number, .. }
            | Self::Unproven { number }
            | Self::Trimmed { first: number }
            | Self::Line { line: number, .. } => *number,
            Self::Behind { last, .. } => last.saturating_add(1),
            Self::Empty => 1,
        }
    }
}

impl fmt::Display for Break {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Gap { expected, found } if *found == expected + 1 => {
                write!(f, "gap: event {expected} is missing")
            }
            Self::Gap { expected, found } => {
                write!(f, "gap: events {expected} to {} are missing", found - 1)
            }
            Self::Order { after, found } => write!(f, "wrong order: event {found} comes after event {after}"),
            Self::Document { number } => write!(
                f,
                "changed: the document of event {number} is not the one its hash was made of, or what is before it was \
                 written anew"
            ),
            Self::Hash { number } => {
                write!(f, "changed: the hash of event {number} is not that of its document")
            }
            Self::Either { number } => {
                write!(f, "changed: document and hash of event {number} do not belong to what is before them")
            }
            Self::Anchor { number, found } => {
                write!(
                    f,
                    "rewritten: event {number} has the hash {found}, and had another when it was written down"
                )
            }
            Self::NoAnchor { number, first: 0, .. } => {
                write!(f, "event {number} of the anchor is missing: the record has no events")
            }
            Self::NoAnchor { number, first, last } => {
                write!(f, "event {number} of the anchor is missing: the record has {first} to {last}")
            }
            Self::Unproven { number } => write!(
                f,
                "unproven: event {number} of the anchor is the first there is, and its document can only be checked with the \
                 hash of event {}",
                number.saturating_sub(1)
            ),
            Self::Trimmed { first } => write!(
                f,
                "trimmed: the record begins at {first}, and its first document can only be checked with the hash of event {} \
                 (--anchor); --allow-trimmed takes it on trust",
                first.saturating_sub(1)
            ),
            Self::Empty => {
                f.write_str("there are no events; --allow-empty takes that for a record that is new")
            }
            Self::Behind { last, head } => {
                write!(
                    f,
                    "the end is missing: the record goes on to {head}, and {last} is the last that is there"
                )
            }
            Self::Line { line, why } => write!(f, "line {line} is no event: {why}"),
        }
    }
}

/// What is let pass although it proves less.
#[derive(Debug, Clone, Copy, Default)]
pub struct Leniency {
    /// A record whose beginning is not kept.
    pub trimmed: bool,
    /// A record without events.
    pub empty: bool,
}

/// What is known of the record so far.
#[derive(Debug, Default)]
pub struct Verifier {
    anchors: BTreeMap<u64, String>,
    leniency: Leniency,
    first: Option<u64>,
    /// The last event that fits.
    last: Option<(u64, String)>,
    good: u64,
    /// An event that does not fit, whose successor will tell why: the hash it should have, and itself.
    doubtful: Option<(String, StoredEvent)>,
}

#[derive(Debug)]
pub struct Report {
    /// 0 if there are no events.
    pub first: u64,
    pub last: u64,
    pub good: u64,
    /// The hash of the last event that fits.
    pub head: String,
    /// The first event could not be checked against the one before it, which is not kept any more.
    pub is_trimmed: bool,
    /// The last anchor that the record fits; 0 if there is none.
    pub anchored: u64,
    pub broken: Option<Break>,
}

impl Verifier {
    /// # Errors
    /// Two anchors contradict each other.
    pub fn new(anchors: impl IntoIterator<Item = Anchor>, leniency: Leniency) -> Result<Self, String> {
        let mut known = BTreeMap::new();
        for Anchor { number, hash } in anchors {
            if known.insert(number, hash.clone()).is_some_and(|other| other != hash) {
                return Err(format!("--anchor: event {number} cannot have two hashes"));
            }
        }
        Ok(Self { anchors: known, leniency, ..Self::default() })
    }

    /// The number of the last event that was looked at.
    pub fn reached(&self) -> u64 {
        let doubtful = self.doubtful.as_ref().map(|(_, event)| event.number);
        doubtful.or(self.last.as_ref().map(|(number, _)| *number)).unwrap_or(0)
    }

    /// The next event, or where the record breaks.
    pub fn next(&mut self, event: StoredEvent) -> Result<(), Break> {
        if let Some((right, suspect)) = self.doubtful.take() {
            return Err(blame(&right, &suspect, Some(&event)));
        }
        if event.number == 0 {
            return Err(Break::Order { after: 0, found: 0 });
        }
        let before = match &self.last {
            Some((last, hash)) => {
                let expected = last.saturating_add(1);
                if event.number > expected {
                    return Err(Break::Gap { expected, found: event.number });
                }
                if event.number < expected {
                    return Err(Break::Order { after: *last, found: event.number });
                }
                Some(hash.clone())
            }
            None => self.before_first(event.number),
        };
        let hash = event.hash.to_ascii_lowercase();
        if let Some(before) = before {
            let right = chain(&before, &event.document);
            if right != hash {
                self.doubtful = Some((right, event));
                return Ok(());
            }
        }
        if self.anchors.get(&event.number).is_some_and(|anchored| *anchored != hash) {
            return Err(Break::Anchor { number: event.number, found: hash });
        }
        self.first.get_or_insert(event.number);
        self.last = Some((event.number, hash));
        self.good += 1;
        Ok(())
    }

    /// What the first event is chained to: the beginning of all records, or an anchor right before it.
    fn before_first(&self, number: u64) -> Option<String> {
        match number {
            1 => Some(GENESIS.to_owned()),
            number => self.anchors.get(&number.checked_sub(1)?).cloned(),
        }
    }

    /// `broken` is what ended the reading, if anything did.
    pub fn finish(mut self, broken: Option<Break>) -> Report {
        let broken =
            broken.or_else(|| self.doubtful.take().map(|(right, event)| blame(&right, &event, None)));
        let (first, is_trimmed) = match self.first {
            Some(first) => (first, self.before_first(first).is_none()),
            None => (0, false),
        };
        let (last, head) = self.last.clone().unwrap_or_default();
        let is_known = |number: u64| {
            first > 0 && (first..=last).contains(&number)
                || (number.checked_add(1) == Some(first) && !is_trimmed)
        };
        let missing = self.anchors.keys().find(|number| !is_known(**number));
        let missing = || missing.map(|number| Break::NoAnchor { number: *number, first, last });
        let unproven =
            || (is_trimmed && self.anchors.contains_key(&first)).then_some(Break::Unproven { number: first });
        let less = || match first {
            0 if !self.leniency.empty => Some(Break::Empty),
            first if is_trimmed && !self.leniency.trimmed => Some(Break::Trimmed { first }),
            _ => None,
        };
        let broken = broken.or_else(missing).or_else(unproven).or_else(less);
        let anchored = self.anchors.keys().rfind(|number| is_known(**number));
        let anchored = anchored.copied().unwrap_or(0);
        Report { first, last, good: self.good, head, is_trimmed, anchored, broken }
    }
}

/// Which of the two was changed: the successor was made when both were right.
fn blame(right: &str, suspect: &StoredEvent, next: Option<&StoredEvent>) -> Break {
    let number = suspect.number;
    let Some(next) = next.filter(|next| Some(next.number) == number.checked_add(1)) else {
        return Break::Either { number };
    };
    let fits = |before: &str| chain(before, &next.document) == next.hash.to_ascii_lowercase();
    if fits(&suspect.hash.to_ascii_lowercase()) {
        Break::Document { number }
    } else if fits(right) {
        Break::Hash { number }
    } else {
        Break::Either { number }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(count: u64) -> Vec<StoredEvent> {
        let mut before = GENESIS.to_owned();
        (1..=count)
            .map(|number| {
                let document = format!("{{\"n\":{number}}}");
                before = chain(&before, &document);
                StoredEvent { number, hash: before.clone(), document }
            })
            .collect()
    }

    const LENIENT: Leniency = Leniency { trimmed: true, empty: true };

    fn verify(events: &[StoredEvent], anchors: &[Anchor]) -> Report {
        verify_with(events, anchors, LENIENT)
    }

    fn verify_with(events: &[StoredEvent], anchors: &[Anchor], leniency: Leniency) -> Report {
        let mut verifier = Verifier::new(anchors.iter().cloned(), leniency).unwrap();
        let broken = events.iter().find_map(|event| verifier.next(event.clone()).err());
        verifier.finish(broken)
    }

    fn anchor(event: &StoredEvent) -> Anchor {
        Anchor { number: event.number, hash: event.hash.clone() }
    }

    #[test]
    fn a_whole_record_is_good_from_its_beginning_and_a_trimmed_one_from_where_it_begins() {
        let events = record(9);
        let whole = verify(&events, &[anchor(&events[4])]);
        assert_eq!((whole.first, whole.last, whole.good, whole.is_trimmed), (1, 9, 9, false));
        assert_eq!((whole.broken, whole.head), (None, events[8].hash.clone()));
        let trimmed = verify(&events[3..], &[]);
        assert_eq!((trimmed.first, trimmed.good, trimmed.is_trimmed, trimmed.broken), (4, 6, true, None));
        // The hash before the first is known from elsewhere.
        let anchored = verify(&events[3..], &[anchor(&events[2])]);
        assert_eq!((anchored.is_trimmed, anchored.broken), (false, None));
        let none = verify(&[], &[]);
        assert_eq!((none.first, none.last, none.broken), (0, 0, None));
    }

    #[test]
    fn every_change_shows_and_where() {
        let events = record(9);
        let with = |change: &dyn Fn(&mut Vec<StoredEvent>)| {
            let mut changed = events.clone();
            change(&mut changed);
            let report = verify(&changed, &[]);
            (report.good, report.broken)
        };
        assert_eq!(with(&|all| drop(all.remove(4))), (4, Some(Break::Gap { expected: 5, found: 6 })));
        assert_eq!(with(&|all| all.swap(4, 5)), (4, Some(Break::Gap { expected: 5, found: 6 })));
        let twice = |all: &mut Vec<StoredEvent>| all.insert(5, all[4].clone());
        assert_eq!(with(&twice), (5, Some(Break::Order { after: 5, found: 5 })));
        let document = |all: &mut Vec<StoredEvent>| all[4].document = "{}".into();
        assert_eq!(with(&document), (4, Some(Break::Document { number: 5 })));
        let hash = |all: &mut Vec<StoredEvent>| all[4].hash = GENESIS.into();
        assert_eq!(with(&hash), (4, Some(Break::Hash { number: 5 })));
        let last = |all: &mut Vec<StoredEvent>| all[8].document = "{}".into();
        assert_eq!(with(&last), (8, Some(Break::Either { number: 9 })));
        let first = |all: &mut Vec<StoredEvent>| all[0].document = "{}".into();
        assert_eq!(with(&first), (0, Some(Break::Document { number: 1 })));
        let none = |all: &mut Vec<StoredEvent>| all[0].number = 0;
        assert_eq!(with(&none), (0, Some(Break::Order { after: 0, found: 0 })));
        let huge = |all: &mut Vec<StoredEvent>| all[8].number = u64::MAX;
        assert_eq!(with(&huge), (8, Some(Break::Gap { expected: 9, found: u64::MAX })));
        // Whoever changes a document and its hash has to change all that follow...
        let both = |all: &mut Vec<StoredEvent>| {
            all[4].document = "{}".into();
            all[4].hash = chain(&all[3].hash, "{}");
        };
        assert_eq!(with(&both), (5, Some(Break::Document { number: 6 })));
    }

    #[test]
    fn an_anchor_shows_what_the_chain_alone_cannot() {
        let events = record(9);
        let mut rewritten = events[..4].to_vec();
        for number in 5..=9 {
            let document = format!("{{\"forged\":{number}}}");
            let hash = chain(&rewritten.last().unwrap().hash, &document);
            rewritten.push(StoredEvent { number, hash, document });
        }
        assert_eq!(verify(&rewritten, &[]).broken, None);
        let found = rewritten[6].hash.clone();
        let broken = verify(&rewritten, &[anchor(&events[6])]).broken;
        assert_eq!(broken, Some(Break::Anchor { number: 7, found }));
        // The end cut off.
        let broken = verify(&events[..5], &[anchor(&events[6])]).broken;
        assert_eq!(broken, Some(Break::NoAnchor { number: 7, first: 1, last: 5 }));
        // The beginning trimmed, further than the anchor.
        let broken = verify(&events[5..], &[anchor(&events[2])]).broken;
        assert_eq!(broken, Some(Break::NoAnchor { number: 3, first: 6, last: 9 }));
        assert!(verify(&[], &[anchor(&events[0])]).broken.is_some());
        let far = Anchor { number: u64::MAX, hash: GENESIS.into() };
        assert!(verify(&events, &[far]).broken.is_some());
        // A trimmed record whose first document was changed is found by the anchor before it.
        let mut trimmed = events[3..].to_vec();
        trimmed[0].document = "{}".into();
        assert_eq!(verify(&trimmed, &[]).broken, None);
        assert_eq!(verify(&trimmed, &[anchor(&events[2])]).broken, Some(Break::Document { number: 4 }));
    }

    #[test]
    fn what_proves_less_is_let_pass_only_where_it_was_said() {
        let events = record(9);
        let strict = |events: &[StoredEvent], anchors: &[Anchor]| {
            verify_with(events, anchors, Leniency::default()).broken
        };
        assert_eq!(strict(&events, &[]), None);
        assert_eq!(strict(&[], &[]), Some(Break::Empty));
        assert_eq!(strict(&events[3..], &[]), Some(Break::Trimmed { first: 4 }));
        assert_eq!(strict(&events[3..], &[anchor(&events[8])]), Some(Break::Trimmed { first: 4 }));
        assert_eq!(strict(&events[3..], &[anchor(&events[2])]), None);
        // A hash alone does not prove the document beside it, whatever is let pass.
        let mut forged = events[8..].to_vec();
        forged[0].document = "{}".into();
        let at_first = [anchor(&events[8])];
        assert_eq!(strict(&forged, &at_first), Some(Break::Unproven { number: 9 }));
        assert_eq!(verify(&forged, &at_first).broken, Some(Break::Unproven { number: 9 }));
        assert_eq!(strict(&forged, &[anchor(&events[7])]), Some(Break::Either { number: 9 }));
        // Behind the first, everything is proven.
        assert_eq!(verify(&events[3..], &[anchor(&events[8])]).anchored, 9);
        assert_eq!(verify(&events[3..], &[anchor(&events[2])]).anchored, 3);
        let other = Anchor { number: 9, hash: GENESIS.into() };
        assert!(Verifier::new([anchor(&events[8]), other], LENIENT).is_err());
    }

    #[test]
    fn anchors() {
        let hash = GENESIS.replace('0', "A");
        assert_eq!(Anchor::parse(&format!("7:{hash}")).unwrap().hash, hash.to_lowercase());
        for wrong in [
            "",
            "7",
            "7:abc",
            ":",
            "x:0",
            &format!("-1:{hash}"),
            &format!("0:{hash}"),
            &format!("7:{}", "g".repeat(64)),
        ] {
            assert!(Anchor::parse(wrong).is_err(), "{wrong}");
        }
    }
}
