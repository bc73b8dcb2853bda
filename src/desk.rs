//! The desk: where access is asked for, agreed to, given, extended and given back.
//!
//! Every step is one change: look at what there is, ask the admission policy, decide, commit against what was seen. If
//! somebody else was first, all of it is done again. So two reviewers at the same instant, or an approval against a
//! withdrawal, have one outcome, on every store.
//!
//! What policy may not change is decided here: a request is decided once and in time, reviewers narrow and never
//! widen, persons are counted once each, no grant outlives the hard cap, and what an entitlement gives at the decision
//! is what was asked for.

pub mod admission;
mod changes;
mod counting;
mod endings;
mod ends;
pub mod event;
mod events;
mod giving;
mod grants;
mod locks;
mod looking;
pub mod model;
mod noting;
mod questions;
mod requests;
mod reviews;

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use thiserror::Error;
use tokio::sync::{Semaphore, watch};
use tokio::time::Instant;

use crate::grant::GrantId;
use crate::principal::is_invisible;
use crate::replica::Replica;
use crate::store::{Store, StoreError};
use admission::LiveAdmission;

pub use endings::{Ending, Target};
pub use events::{EventFilter, EventPage, SeenEvent, takes_type};
pub use grants::{Extend, Extended};
pub use locks::SeenLock;
pub use looking::{Offer, Page, Seen, SeenGrant};
pub use requests::{Ask, Relation};

/// How far ahead access may begin: what is planned further away is planned again.
pub const MAX_START_AHEAD: Duration = Duration::from_secs(7 * 24 * 3600);
/// Longest text that somebody writes for others to read, in bytes.
pub const MAX_TEXT_BYTES: usize = 4096;
/// Pending requests of one requester. More is a loop, not a person.
const MAX_PENDING: usize = 100;
/// Asks of one requester in an hour. The record keeps so many events, and nobody alone may push out what is in it.
const MAX_ASKS_PER_HOUR: usize = 300;
const HOUR: Duration = Duration::from_secs(3600);
/// Between looks of somebody who watches while nothing happens.
const MOVED_PATIENCE: Duration = Duration::from_secs(10);
/// How long a `request_id` is remembered: longer than any client repeats a call.
const CALL_MEMORY: Duration = Duration::from_secs(24 * 3600);

/// Named by what the caller can do about it. The texts are for the caller.
#[derive(Debug, Error)]
pub enum DeskError {
    #[error("{0}")]
    Invalid(String),
    /// There is none, or the caller may not know of it.
    #[error("there is no such {0}")]
    NotFound(&'static str),
    #[error("{}", .0.join("; "))]
    Denied(Vec<String>),
    /// It is not in the state for it.
    #[error("{0}")]
    State(String),
    #[error("{0}")]
    AlreadyExists(String),
    #[error("{0}")]
    Full(String),
    #[error("others changed the same things all the time; nothing was done, try again")]
    Contended,
    /// The operator can see why.
    #[error("the admission policy failed, so nobody is admitted; its operator can see why in the log")]
    Admission(#[source] admission::AdmissionError),
    #[error(transparent)]
    Store(#[from] StoreError),
    /// It was decided, and could not be written.
    #[error(transparent)]
    Unwritten(StoreError),
}

/// What holds whatever policy says.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// Longest life of a grant, extensions included.
    pub max_grant_ttl: Duration,
}

pub struct Desk {
    store: Arc<Store>,
    replica: Arc<Replica>,
    admission: Arc<LiveAdmission>,
    limits: Limits,
    /// Changes of this process come one after the other: those that look at the same moment would undo each other's
    /// work.
    turn: Semaphore,
    /// Lists ask policy about each row. One at a time, and with pauses: checks are decided on the same cores.
    reading: Semaphore,
    /// Whether the policy in force is on record, or was tried to be.
    has_noted: watch::Sender<bool>,
}

impl fmt::Debug for Desk {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Desk").field("limits", &self.limits).finish_non_exhaustive()
    }
}

impl Desk {
    #[must_use]
    pub fn new(
        store: Arc<Store>,
        replica: Arc<Replica>,
        admission: Arc<LiveAdmission>,
        limits: Limits,
    ) -> Self {
        Self {
            store,
            replica,
            admission,
            limits,
            turn: Semaphore::new(1),
            reading: Semaphore::new(1),
            has_noted: watch::Sender::new(false),
        }
    }

    /// Returns when the policy in force is on record, or was tried to be: whoever tells others of what happens begins
    /// after it.
    pub async fn noted(&self) {
        // The sender is in here too, so that it cannot be gone.
        let _ = self.has_noted.subscribe().wait_for(|has_noted| *has_noted).await;
    }

    /// Does the part of a list that asks policy, when it is its turn, and then leaves the cores to others for as long as it
    /// took.
    async fn picking<T>(&self, work: impl FnOnce() -> Result<T, DeskError>) -> Result<T, DeskError> {
        let turn = self.reading.acquire().await.map_err(|_| DeskError::Contended)?;
        let began = Instant::now();
        let picked = work();
        tokio::time::sleep(began.elapsed()).await;
        drop(turn);
        picked
    }

    /// Returns when the journal has more than this many events, or after some time: a store that lost its last events
    /// gets past the number again only later, and has changed all the same.
    pub async fn moved(&self, past: u64) {
        // That nothing happened is no error: whoever waits looks again.
        let _ = tokio::time::timeout(MOVED_PATIENCE, self.store.moved(past)).await;
    }
}

/// Ordered by time, so that lists are too.
fn new_id(prefix: &str) -> String {
    format!("{prefix}-{}", uuid::Uuid::now_v7().simple())
}

fn new_grant_id() -> Result<GrantId, DeskError> {
    grant_id(&new_id("g"))
}

/// An id as somebody wrote it.
fn grant_id(text: &str) -> Result<GrantId, DeskError> {
    text.parse().map_err(|error| DeskError::Invalid(format!("`id`: {error}")))
}

/// The moment `duration` after another one, or the last there is.
fn after(moment: Timestamp, duration: Duration) -> Timestamp {
    moment.checked_add(duration).unwrap_or(Timestamp::MAX)
}

/// From one moment to another; nothing if it has passed.
fn until(from: Timestamp, to: Timestamp) -> Duration {
    Duration::try_from(to.duration_since(from)).unwrap_or(Duration::ZERO)
}

/// Text for others to read: bounded, and nothing that could pass for more than text.
fn checked(field: &str, text: &str) -> Result<String, DeskError> {
    if text.len() > MAX_TEXT_BYTES {
        return Err(DeskError::Invalid(format!("`{field}` is longer than {MAX_TEXT_BYTES} bytes")));
    }
    if text.chars().any(|c| is_invisible(c) && c != '\n' && c != '\t') {
        return Err(DeskError::Invalid(format!(
            "`{field}` has control characters, or ones that nobody sees"
        )));
    }
    Ok(text.trim().to_owned())
}
