//! The journal: every change of requests, grants and locks is an event, and both are one atomic step.
//!
//! Whoever changes something looks first: at the head of the journal, the store's clock, and what it needs to read. It
//! then commits against that head. If anything happened in between, nothing is written and it looks again. So every
//! decision is made on the state it changes, whoever else decides at the same moment, and no rule is written in the
//! language of a store.
//!
//! Events are numbered without gaps, and each carries the hash of the one before it: what is taken out, put in or
//! changed later shows.

use std::fmt::Write as _;
use std::time::Duration;

use jiff::Timestamp;
use ring::digest::{SHA256, digest};
use tokio::sync::watch;

use super::StoreError;
use crate::grant::GrantId;

/// What the hash of the first event is chained to.
pub const GENESIS: &str = "0000000000000000000000000000000000000000000000000000000000000000";

/// Longest document of an event or value of a row, in bytes.
pub const MAX_DOCUMENT_BYTES: usize = 256 * 1024;
/// Most writes, conditions and events of one commit together. All of them are one step, in which a server does nothing
/// else: some 50 ms.
pub const MAX_STEPS: usize = 20_000;
/// Events that are kept, about; some 100 MB of them as they usually are.
pub const MAX_EVENTS: u64 = 100_000;
/// Entries of one page of anything, however many are asked for.
pub const MAX_PAGE: usize = 1000;
/// Longest time that anything is kept that is not kept for ever: a century, which every clock can add.
const MAX_KEEP: Duration = Duration::from_secs(100 * 365 * 24 * 3600);

/// SHA-256 of the hash before, a line feed, and the document; in hex.
#[must_use]
pub fn chain(before: &str, document: &str) -> String {
    let digest = digest(&SHA256, format!("{before}\n{document}").as_bytes());
    digest.as_ref().iter().fold(String::with_capacity(64), |mut text, byte| {
        // Writing to a string cannot fail.
        let _ = write!(text, "{byte:02x}");
        text
    })
}

/// Where the journal ends.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Head {
    /// Of the last event; 0 if there is none.
    pub number: u64,
    pub hash: String,
}

impl Default for Head {
    fn default() -> Self {
        Self { number: 0, hash: GENESIS.to_owned() }
    }
}

/// What kinds of rows there are. A row is a text under an id.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Table {
    /// Access requests.
    Requests,
    /// What is known of grants beyond their keys: scheduled ones, and those that have ended.
    Register,
    /// Which request a caller's `request_id` made.
    Calls,
    /// How far each webhook has got.
    Webhooks,
    /// The grants themselves, as the key contract has them. Read only: they are changed by [`Write::Grant`] and
    /// [`Write::EndGrant`].
    Grants,
    /// Likewise the locks.
    Locks,
}

impl Table {
    pub const ALL: [Self; 6] =
        [Self::Requests, Self::Register, Self::Calls, Self::Webhooks, Self::Grants, Self::Locks];

    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Requests => "request",
            Self::Register => "register",
            Self::Calls => "call",
            Self::Webhooks => "webhook",
            Self::Grants => "grant",
            Self::Locks => "lock",
        }
    }
}

/// The name of a row. `id` is text of our own making, or was checked to have the characters of a grant's id.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Row {
    pub table: Table,
    pub id: String,
}

impl Row {
    #[must_use]
    pub fn new(table: Table, id: impl Into<String>) -> Self {
        Self { table, id: id.into() }
    }
}

/// How long finished requests, ended grants and entries of indexes are kept: as auditors ask for a quarter.
pub const KEEP: Duration = Duration::from_secs(90 * 24 * 3600);

/// A place in an index: when the id was entered, in milliseconds, and the id.
pub type Place = (i64, String);

/// Lists of ids by the time they were entered, the newest first; of those of one millisecond the highest id.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Index {
    /// All requests.
    Requests,
    /// Requests that are pending.
    Pending,
    /// Of these, those that a principal made.
    PendingOf(String),
    /// Requests that a principal made, or that were made for it.
    Of(String),
    /// Requests that a principal decided on.
    ReviewedBy(String),
    /// Grants in the register.
    Register,
    /// Grants that are scheduled.
    Scheduled,
    /// Grants in the register of one subject.
    RegisterOf(String),
}

impl Index {
    /// Tells each from all others.
    #[must_use]
    pub fn name(&self) -> String {
        match self {
            Self::Requests => "requests".to_owned(),
            Self::Pending => "pending".to_owned(),
            Self::PendingOf(principal) => format!("pending-of:{principal}"),
            Self::Of(principal) => format!("of:{principal}"),
            Self::ReviewedBy(principal) => format!("reviewed-by:{principal}"),
            Self::Register => "register".to_owned(),
            Self::Scheduled => "scheduled".to_owned(),
            Self::RegisterOf(principal) => format!("register-of:{principal}"),
        }
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Write {
    /// Writes a row, to be kept for so long, or for ever.
    Put {
        row: Row,
        value: String,
        keep: Option<Duration>,
    },
    Remove(Row),
    /// Puts an id into an index, to be found there for so long from now, or for ever. An id that is there keeps its
    /// place. What is kept no longer goes when the next is entered.
    Enter {
        index: Index,
        id: String,
        keep: Option<Duration>,
    },
    Leave {
        index: Index,
        id: String,
    },
    /// Something is to be looked at at that moment, to the millisecond and not before: `what` is text of the writer's
    /// own. One entry for each text: a later one takes the place of the one before.
    Due {
        what: String,
        at: Timestamp,
    },
    NotDue(String),
    /// Writes the key of a grant, which ends after `ttl`, over what is there: that it is new is for
    /// [`Commit::unchanged`] to say.
    Grant {
        id: GrantId,
        record: String,
        ttl: Duration,
    },
    EndGrant(GrantId),
    /// Writes the key of a lock, which ends after `ttl`.
    Lock {
        id: GrantId,
        record: String,
        ttl: Duration,
    },
    EndLock(GrantId),
}

impl Write {
    /// Whether it takes access away, which must not fail for want of memory.
    #[must_use]
    pub const fn ends_access(&self) -> bool {
        matches!(self, Self::EndGrant(_) | Self::Lock { .. })
    }
}

/// What was seen at one moment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Look {
    pub head: Head,
    /// The store's clock, to the millisecond. Never before what any look showed that a commit was made on.
    pub now: Timestamp,
    /// In the order they were asked for. What is there and is no text, or too long for a document, is an empty one.
    pub values: Vec<Option<String>>,
}

/// What is to be looked at.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Due {
    /// The store's clock.
    pub now: Timestamp,
    /// What is due, with its moment; the earliest first.
    pub what: Vec<(String, Timestamp)>,
    /// The earliest moment that is still to come.
    pub next: Option<Timestamp>,
}

/// A change, whole or not at all.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Commit {
    /// Nothing has happened since.
    pub seen: Head,
    /// Rows that must still have these values. For what others may change without an event: grants' keys.
    pub unchanged: Vec<(Row, Option<String>)>,
    /// On the store's clock: not at or after this moment.
    pub before: Option<Timestamp>,
    pub writes: Vec<Write>,
    /// The events of the change. Each has something in it that no other has. None at all only where nothing is changed
    /// but what is due and in indexes, or in marks alone ([`Self::is_marks`]).
    pub events: Vec<String>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// Where the journal ends now; of marks, what was seen. For ended grants, how far that has spread.
    Done { head: Head, replicas: usize, replicated: usize },
    /// Somebody else was first, or something in `unchanged` has changed: look again.
    Moved,
    /// It is not before [`Commit::before`] any more.
    Late,
}

impl Commit {
    /// Whether only marks are written: how far webhooks are. They say nothing of access, so they need no event, and are
    /// held against what they replace alone: the head is neither compared nor written. Nor can one be told from
    /// another's if its answer was lost: [`Outcome::Moved`], and the row says whose it is.
    #[must_use]
    pub fn is_marks(&self) -> bool {
        let is_mark = |write: &Write| matches!(write, Write::Put { row, .. } if row.table == Table::Webhooks);
        self.events.is_empty() && !self.writes.is_empty() && self.writes.iter().all(is_mark)
    }

    /// What no store takes, said before it is asked.
    ///
    /// # Errors
    /// The commit is no change that a journal can hold.
    pub(super) fn check(&self) -> Result<(), StoreError> {
        let refused = |why: String| Err(StoreError::Refused(why));
        // What nobody did is no event: something that was due and has been done already is only struck off.
        let is_housekeeping = |write: &Write| matches!(write, Write::NotDue(_) | Write::Leave { .. });
        if self.events.is_empty() && !self.is_marks() && !self.writes.iter().all(is_housekeeping) {
            return refused("a change without an event".to_owned());
        }
        let replaces = |write: &Write| match write {
            Write::Put { row, .. } => self.unchanged.iter().any(|(unchanged, _)| unchanged == row),
            _ => true,
        };
        if self.is_marks() && !self.writes.iter().all(replaces) {
            return refused("a mark that does not say what it replaces".to_owned());
        }
        let steps = self.writes.len() + self.unchanged.len() + self.events.len();
        if steps > MAX_STEPS {
            return refused(format!("a change of {steps} steps; {MAX_STEPS} are allowed"));
        }
        let mut longest = self.events.iter().map(String::len).max().unwrap_or(0);
        for write in &self.writes {
            match write {
                Write::Put { row, .. } | Write::Remove(row)
                    if matches!(row.table, Table::Grants | Table::Locks) =>
                {
                    return refused(format!("{}s are not written as rows", row.table.as_str()));
                }
                Write::Put { value, .. } => longest = longest.max(value.len()),
                Write::Grant { record, .. } | Write::Lock { record, .. } => {
                    longest = longest.max(record.len())
                }
                _ => {}
            }
        }
        if longest > MAX_DOCUMENT_BYTES {
            return refused(format!("a document of {longest} bytes; {MAX_DOCUMENT_BYTES} are allowed"));
        }
        Ok(())
    }

    /// The events as they follow on what was seen.
    pub(super) fn chained(&self) -> Vec<StoredEvent> {
        let Head { mut number, mut hash } = self.seen.clone();
        let follow = |document: &String| {
            number = number.saturating_add(1);
            hash = chain(&hash, document);
            StoredEvent { number, hash: hash.clone(), document: document.clone() }
        };
        self.events.iter().map(follow).collect()
    }

    pub(super) fn ended_grants(&self) -> Vec<GrantId> {
        let ended = |write: &Write| match write {
            Write::EndGrant(id) => Some(id.clone()),
            _ => None,
        };
        self.writes.iter().filter_map(ended).collect()
    }
}

/// The journal's last number, for whoever waits for it to move.
#[derive(Debug)]
pub(super) struct Moves(watch::Sender<u64>);

impl Moves {
    pub fn new(number: u64) -> Self {
        Self(watch::Sender::new(number))
    }

    pub fn note(&self, number: u64) {
        self.0.send_if_modified(|known| std::mem::replace(known, number) != number);
    }

    pub async fn past(&self, past: u64) {
        // An error would mean that the sender is gone, and it is in our hands.
        let _ = self.0.subscribe().wait_for(|number| *number > past).await;
    }
}

/// In milliseconds, rounded down.
pub(super) fn millis_down(at: Timestamp) -> i64 {
    at.as_millisecond()
}

/// In milliseconds, rounded up: what is due then is not looked at before.
pub(super) fn millis_up(at: Timestamp) -> i64 {
    at.as_millisecond() + i64::from(at.subsec_nanosecond() % 1_000_000 > 0)
}

pub(super) fn moment(millis: i64) -> Timestamp {
    let end = if millis < 0 { Timestamp::MIN } else { Timestamp::MAX };
    Timestamp::from_millisecond(millis).unwrap_or(end)
}

/// How long something is kept, in milliseconds that any clock can add; at least one, or it would never be there.
pub(super) fn kept_millis(keep: Duration) -> i64 {
    i64::try_from(keep.min(MAX_KEEP).as_millis()).unwrap_or(i64::MAX).max(1)
}

/// An event as it is kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoredEvent {
    pub number: u64,
    pub hash: String,
    pub document: String,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_chain_is_sha256_over_hash_line_feed_and_document() {
        // printf '%064d\n{}' 0 | sha256sum
        assert_eq!(chain(GENESIS, "{}"), "5649d09ed68c17156095d175eef152856c5b1a81c117c409c1e00f096aa6838e");
    }
}
