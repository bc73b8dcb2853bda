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

use crate::grant::GrantId;

/// What the hash of the first event is chained to.
pub const GENESIS: &str = "0000000000000000000000000000000000000000000000000000000000000000";

/// Longest document of an event or value of a row, in bytes.
pub const MAX_DOCUMENT_BYTES: usize = 256 * 1024;

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

/// Lists of ids by the time they were entered, the newest first. Entries older than [`KEEP`] go.
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

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Write {
    /// Writes a row, to be kept for so long, or for ever.
    Put {
        row: Row,
        value: String,
        keep: Option<Duration>,
    },
    Remove(Row),
    /// Puts an id into an index, kept there for so long, or for ever.
    Enter {
        index: Index,
        id: String,
        keep: Option<Duration>,
    },
    Leave {
        index: Index,
        id: String,
    },
    /// Something is to be looked at at that moment: `what` is text of the writer's own. One entry for each text.
    Due {
        what: String,
        at: Timestamp,
    },
    NotDue(String),
    /// Writes the key of a grant, which ends after `ttl`.
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

/// What was seen at one moment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Look {
    pub head: Head,
    /// The store's clock. Never before the time of an event that was seen before.
    pub now: Timestamp,
    /// In the order they were asked for.
    pub values: Vec<Option<String>>,
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
    /// The events of the change, at least one. Each has something in it that no other has.
    pub events: Vec<String>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// Where the journal ends now. For ended grants, how far that has spread.
    Done { head: Head, replicas: usize, replicated: usize },
    /// Somebody else was first, or something in `unchanged` has changed: look again.
    Moved,
    /// It is not before [`Commit::before`] any more.
    Late,
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
