//! One change: look, decide, commit, and again if somebody else was first.

use std::time::Duration;

use jiff::Timestamp;

use super::event::Event;
use super::{Desk, DeskError};
use crate::store::journal::{Commit, Look, Outcome, Row, Write};

/// With other instances at the same store; within one they wait for their turn. Each attempt that fails is a change of
/// somebody else that did not.
const MAX_ATTEMPTS: u32 = 60;
/// Between attempts, times a random part of how many there were: at most some 60 ms.
const PAUSE: Duration = Duration::from_millis(1);

/// For the changes before. A store that is slow makes a queue, in which nobody waits for longer than a client does.
const MAX_WAIT: Duration = Duration::from_secs(10);
/// The same for what does not queue.
const SHORT_WAIT: Duration = Duration::from_millis(50);
/// For a lock to be read that was announced.
const LOCK_WAIT: Duration = Duration::from_millis(100);

/// What is to be written, and what the caller is told when it is.
#[derive(Debug)]
pub struct Plan<T> {
    pub answer: T,
    pub writes: Vec<Write>,
    pub events: Vec<Event>,
    /// Grants' keys that others may change without an event.
    pub unchanged: Vec<(Row, Option<String>)>,
    /// The decision does not hold at or after this moment.
    pub before: Option<Timestamp>,
}

impl<T> Plan<T> {
    /// There is nothing to do.
    pub fn nothing(answer: T) -> Self {
        Self::new(answer, Vec::new(), Vec::new())
    }

    pub fn new(answer: T, writes: Vec<Write>, events: Vec<Event>) -> Self {
        Self { answer, writes, events, unchanged: Vec::new(), before: None }
    }

    /// The same plan with another answer.
    pub fn map<U>(self, answer: impl FnOnce(T) -> U) -> Plan<U> {
        let Self { answer: before_map, writes, events, unchanged, before } = self;
        Plan { answer: answer(before_map), writes, events, unchanged, before }
    }
}

/// A change that is written.
#[derive(Debug)]
pub struct Done<T> {
    pub answer: T,
    pub replicas: usize,
    pub replicated: usize,
}

/// Who waits for the changes before.
#[derive(Clone, Copy)]
enum Queue {
    Wait,
    /// What takes access away goes first. Without a turn it may have to look again, and others too.
    Pass,
}

impl Desk {
    /// `decide` is called for each attempt, on what it saw. What it refuses is refused.
    pub(super) async fn change<T>(
        &self,
        rows: &[Row],
        decide: impl Fn(&Look) -> Result<Plan<T>, DeskError>,
    ) -> Result<Done<T>, DeskError> {
        self.attempt(Queue::Wait, rows, decide).await
    }

    /// The same for what must not wait for others.
    pub(super) async fn change_at_once<T>(
        &self,
        rows: &[Row],
        decide: impl Fn(&Look) -> Result<Plan<T>, DeskError>,
    ) -> Result<Done<T>, DeskError> {
        self.attempt(Queue::Pass, rows, decide).await
    }

    async fn attempt<T>(
        &self,
        queue: Queue,
        rows: &[Row],
        decide: impl Fn(&Look) -> Result<Plan<T>, DeskError>,
    ) -> Result<Done<T>, DeskError> {
        let patience = match queue {
            Queue::Wait => MAX_WAIT,
            Queue::Pass => SHORT_WAIT,
        };
        let turn = tokio::time::timeout(patience, self.turn.acquire()).await;
        let _turn = match (turn, queue) {
            (Ok(turn), _) => Some(turn.map_err(|_| DeskError::Contended)?),
            (Err(_), Queue::Pass) => None,
            (Err(_), Queue::Wait) => return Err(DeskError::Contended),
        };
        for attempt in 0..MAX_ATTEMPTS {
            self.locks_read().await;
            let look = self.store.look(rows).await?;
            let Plan { answer, writes, events, unchanged, before } = decide(&look)?;
            if writes.is_empty() && events.is_empty() {
                return Ok(Done { answer, replicas: 0, replicated: 0 });
            }
            let events = events.iter().map(serde_json::to_string).collect::<Result<_, _>>();
            let events = events.map_err(|error| DeskError::Invalid(format!("not JSON: {error}")))?;
            let at = Some(look.now);
            let commit = Commit { seen: look.head, unchanged, before, writes, events, at };
            match self.store.commit(commit).await.map_err(DeskError::Unwritten)? {
                Outcome::Done { replicas, replicated, .. } => {
                    return Ok(Done { answer, replicas, replicated });
                }
                // The next look tells what has become of it.
                Outcome::Moved | Outcome::Late => {
                    tokio::time::sleep(PAUSE * fastrand::u32(0..=attempt)).await;
                }
            }
        }
        Err(DeskError::Contended)
    }

    /// A lock that was announced is read before anything is decided; if it cannot be, the decision says so.
    async fn locks_read(&self) {
        if self.replica.is_lock_in_doubt() {
            // Whether it was read is asked again where it matters.
            let _ = tokio::time::timeout(LOCK_WAIT, self.replica.locks_settled()).await;
        }
    }
}

/// Reads a row that was looked at.
pub fn read<T: serde::de::DeserializeOwned>(
    look: &Look,
    index: usize,
    what: &'static str,
) -> Result<T, DeskError> {
    read_if_any(look, index)?.ok_or(DeskError::NotFound(what))
}

pub fn read_if_any<T: serde::de::DeserializeOwned>(
    look: &Look,
    index: usize,
) -> Result<Option<T>, DeskError> {
    let Some(text) = look.values.get(index).and_then(Option::as_deref) else { return Ok(None) };
    parse(text).map(Some)
}

/// A row that this version cannot read is no row that it could decide on.
pub fn parse<T: serde::de::DeserializeOwned>(text: &str) -> Result<T, DeskError> {
    serde_json::from_str(text).map_err(|error| {
        tracing::error!("a row of the store cannot be read: {error}");
        DeskError::State("it was written by another version of daypass and cannot be read".to_owned())
    })
}

/// The text of a row.
pub fn write(value: &impl serde::Serialize) -> Result<String, DeskError> {
    serde_json::to_string(value).map_err(|error| DeskError::Invalid(format!("not JSON: {error}")))
}
