//! The journal in Redis: looks, commits and pages, each one script.
//!
//! A commit whose answer was lost is sent again. It can be told from one that came too late: the event that follows on
//! what was seen has its hash.

use std::collections::HashMap;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use jiff::Timestamp;
use redis::{Cmd, ToRedisArgs};
use tokio::sync::Semaphore;

use super::commands::Answer;
use super::{COMMAND, RedisStore, lock, scripts};
use crate::store::StoreError;
use crate::store::journal::{
    Commit, Due, Head, Index, Look, MAX_DOCUMENT_BYTES, MAX_EVENTS, MAX_PAGE, Moves, Outcome, Place, Row,
    StoredEvent, Write, kept_millis, millis_down, millis_up, moment,
};
use crate::store::ledger::Settled;
use crate::store::record::{self, ReadAt, Ttl};

/// How often the head is read while somebody waits for it to move.
const POLL_INTERVAL: Duration = Duration::from_millis(100);
/// Attempts at an event that nobody waits for.
const NOTE_ATTEMPTS: usize = 5;

/// A look's answer: number, hash, clock, values.
type Seen = (u64, String, i64, Vec<Option<Vec<u8>>>);
/// Of a stream: the entry's id and its fields.
type Entry = (String, Vec<(String, Vec<u8>)>);
/// Of a sorted set: members with their milliseconds.
type Scored = Vec<(String, i64)>;

/// What this process knows of the journal.
#[derive(Debug)]
pub struct Known {
    /// The latest clock that a look has shown, in milliseconds.
    clock: AtomicI64,
    moves: Moves,
    /// Held by the one waiter that polls.
    polling: Semaphore,
}

impl Default for Known {
    fn default() -> Self {
        Self { clock: AtomicI64::new(0), moves: Moves::new(0), polling: Semaphore::new(1) }
    }
}

/// A script's call: keys by number, each declared once.
#[derive(Default)]
struct Call {
    keys: Vec<String>,
    numbers: HashMap<String, usize>,
    arguments: Vec<Vec<u8>>,
}

impl Call {
    fn of(keys: &[&str]) -> Self {
        let mut call = Self::default();
        for key in keys {
            call.number((*key).to_owned());
        }
        call
    }

    fn number(&mut self, key: String) -> usize {
        let next = self.keys.len() + 1;
        let number = *self.numbers.entry(key.clone()).or_insert(next);
        if number == next {
            self.keys.push(key);
        }
        number
    }

    fn key(&mut self, key: String) -> &mut Self {
        let number = self.number(key);
        self.arg(number)
    }

    fn arg(&mut self, argument: impl ToRedisArgs) -> &mut Self {
        self.arguments.extend(argument.to_redis_args());
        self
    }

    /// Milliseconds, or an empty text for "for ever" and the like.
    fn optional(&mut self, millis: Option<i64>) -> &mut Self {
        match millis {
            Some(millis) => self.arg(millis),
            None => self.arg(""),
        }
    }

    fn command(self, script: &str) -> Cmd {
        let mut command = redis::cmd("EVAL");
        command.arg(script).arg(self.keys.len()).arg(self.keys).arg(self.arguments);
        command
    }
}

impl RedisStore {
    pub(in crate::store) async fn look(&self, rows: &[Row]) -> Result<Look, StoreError> {
        let mut command = redis::cmd("EVAL_RO");
        command.arg(scripts::LOOK).arg(rows.len() + 1).arg(self.keys.head());
        for row in rows {
            command.arg(self.keys.row(row));
        }
        command.arg(self.journal.clock.load(Ordering::Relaxed)).arg(MAX_DOCUMENT_BYTES);
        let answer: Answer<Seen> = self.commands.run(&command, COMMAND).await?;
        let (number, hash, now, values) = answer.value;
        self.journal.clock.fetch_max(now, Ordering::Relaxed);
        // What is no text cannot be compared with one later: it is an empty one to everybody.
        let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap_or_default();
        let values: Vec<_> = values.into_iter().map(|value| value.map(text)).collect();
        if values.len() != rows.len() {
            return Err(StoreError::unavailable("fewer values than rows"));
        }
        Ok(Look { head: Head { number, hash }, now: moment(now), values })
    }

    pub(in crate::store) async fn commit(&self, commit: Commit) -> Result<Outcome, StoreError> {
        commit.check()?;
        self.check_grants(&commit).await?;
        let ended = commit.ended_grants();
        if ended.is_empty() {
            return self.commit_checked(&commit).await;
        }
        // Before the store is asked, as always: also an end whose outcome nobody knows is asked for again.
        let until = self.around.clock.now().wall.checked_add(self.around.max_ttl).unwrap_or(Timestamp::MAX);
        let ids = ended.clone();
        self.with_ledger(move |ledger| ledger.begin(&ids, until)).await?;
        let outcome = self.commit_checked(&commit).await;
        let settled = match &outcome {
            Ok(Outcome::Moved | Outcome::Late) => Settled::Undone,
            Ok(Outcome::Done { .. }) | Err(_) => Settled::Stands,
        };
        if let Err(error) = self.with_ledger(move |ledger| ledger.settle(&ended, settled)).await {
            tracing::warn!("the ledger of revocations keeps some that were not made: {error}");
        }
        outcome
    }

    /// What can be known before the store is asked: that each is a grant or a lock, that there is room, that the id is new.
    async fn check_grants(&self, commit: &Commit) -> Result<(), StoreError> {
        for write in &commit.writes {
            let read_at = |ttl: &Duration| ReadAt { sent: self.around.clock.now(), ttl: Ttl::Left(*ttl) };
            if let Write::Lock { id, record, ttl } = write {
                let lock = record::decode_lock(id.as_str(), record.as_bytes(), read_at(ttl));
                lock.map_err(StoreError::Invalid)?;
                self.around.replica.check_room_for_lock()?;
            }
            let Write::Grant { id, record, ttl } = write else { continue };
            let read_at = read_at(ttl);
            let grant = record::decode(id.as_str(), record.as_bytes(), read_at, self.around.max_ttl)
                .map_err(StoreError::Invalid)?;
            // Ids are never reused: the ledger would revoke the second of that name after the next failover.
            let named = id.clone();
            if self.with_ledger(move |ledger| ledger.contains(&named)).await? {
                return Err(StoreError::AlreadyExists);
            }
            let held = self.around.replica.get(id.as_str());
            if held.is_none_or(|held| held.subject != grant.subject) {
                self.around.replica.check_room_for(&grant.subject)?;
            }
        }
        Ok(())
    }

    async fn commit_checked(&self, commit: &Commit) -> Result<Outcome, StoreError> {
        let events = commit.chained();
        let head = events.last().map_or_else(
            || commit.seen.clone(),
            |last| Head { number: last.number, hash: last.hash.clone() },
        );
        let command = self.commit_command(commit, &events);
        let is_end = commit.writes.iter().any(Write::ends_access);
        let (connection, answer) = if is_end {
            let (connection, answer) = self.commands.run_apart::<(String, String)>(&command, COMMAND).await?;
            (Some(connection), answer)
        } else {
            (None, self.commands.run(&command, COMMAND).await?)
        };
        let (outcome, found) = answer.value;
        match outcome.as_str() {
            "done" => {}
            "moved" if events.first().is_some_and(|first| first.hash == found) => {}
            "moved" => return Ok(Outcome::Moved),
            "late" => return Ok(Outcome::Late),
            _ => return Err(StoreError::unavailable(format!("the script answered {outcome}"))),
        }
        if commit.is_marks() {
            return Ok(Outcome::Done { head, replicas: 0, replicated: 0 });
        }
        self.journal.moves.note(head.number);
        // The push says the same a moment later, and is what the bound rests on.
        if let Some(session) = &*lock(&self.session) {
            commit.ended_grants().iter().for_each(|id| session.forget(id));
        }
        let Some(connection) = connection else {
            return Ok(Outcome::Done { head, replicas: 0, replicated: 0 });
        };
        let replicas = self.replicas.load(Ordering::Relaxed);
        // If an earlier attempt did it, nobody knows on which connection, nor how far it has spread.
        let replicated = if outcome == "done" { super::revoke::wait(&connection, replicas).await } else { 0 };
        Ok(Outcome::Done { head, replicas, replicated })
    }

    fn commit_command(&self, commit: &Commit, events: &[StoredEvent]) -> Cmd {
        let Commit { seen, unchanged, before, at, writes, events: _ } = commit;
        let mut call = Call::of(&[self.keys.head(), self.keys.events()]);
        call.arg(self.journal.clock.load(Ordering::Relaxed));
        if commit.is_marks() {
            call.arg("").arg("");
        } else {
            call.arg(format!("{} {}", seen.number, seen.hash)).arg(seen.number.saturating_add(1));
        }
        call.arg(MAX_EVENTS).arg(MAX_DOCUMENT_BYTES);
        call.arg(unchanged.len());
        for (row, value) in unchanged {
            call.key(self.keys.row(row));
            match value.as_deref() {
                // What is no text was seen as an empty one: that there is something is all that can be compared.
                Some("") => call.arg("any").arg(""),
                Some(value) => call.arg(1).arg(value),
                None => call.arg(0).arg(""),
            };
        }
        call.optional(before.map(millis_down));
        call.optional(at.map(millis_down));
        call.arg(writes.len());
        for write in writes {
            self.add_write(&mut call, write);
        }
        call.arg(events.len());
        for StoredEvent { number, hash, document } in events {
            call.arg(*number).arg(hash).arg(document);
        }
        let is_end = writes.iter().any(Write::ends_access);
        call.command(if is_end { scripts::COMMIT_ANYHOW } else { scripts::COMMIT })
    }

    fn add_write(&self, call: &mut Call, write: &Write) {
        match write {
            Write::Put { row, value, keep } => {
                call.arg("set").key(self.keys.row(row)).arg(value).optional(keep.map(kept_millis))
            }
            Write::Remove(row) => call.arg("del").key(self.keys.row(row)),
            Write::Enter { index, id, keep } => call
                .arg("enter")
                .key(self.keys.index(index))
                .key(self.keys.index_ends(index))
                .arg(id)
                .optional(keep.map(kept_millis)),
            Write::Leave { index, id } => {
                call.arg("leave").key(self.keys.index(index)).key(self.keys.index_ends(index)).arg(id)
            }
            Write::Due { what, at } => {
                call.arg("due").key(self.keys.due().to_owned()).arg(millis_up(*at)).arg(what)
            }
            Write::NotDue(what) => call.arg("notdue").key(self.keys.due().to_owned()).arg(what),
            Write::Grant { id, record, ttl } => {
                call.arg("give").key(self.keys.grant(id)).arg(record).arg(kept_millis(*ttl))
            }
            Write::EndGrant(id) => call.arg("del").key(self.keys.grant(id)),
            Write::Lock { id, record, ttl } => {
                call.arg("set").key(self.keys.lock(id)).arg(record).arg(kept_millis(*ttl))
            }
            Write::EndLock(id) => call.arg("del").key(self.keys.lock(id)),
        };
    }

    pub(in crate::store) async fn scan(
        &self,
        index: &Index,
        before: Option<&Place>,
        limit: usize,
    ) -> Result<Vec<Place>, StoreError> {
        let limit = limit.min(MAX_PAGE);
        if limit == 0 {
            return Ok(Vec::new());
        }
        let mut command = redis::cmd("EVAL_RO");
        command.arg(scripts::SCAN).arg(3);
        command.arg(self.keys.head()).arg(self.keys.index(index)).arg(self.keys.index_ends(index));
        command.arg(self.journal.clock.load(Ordering::Relaxed));
        match before {
            Some((entered, id)) => command.arg(*entered).arg(id),
            None => command.arg("+inf").arg(""),
        };
        command.arg(limit);
        let page: Answer<Scored> = self.commands.run(&command, COMMAND).await?;
        Ok(page.value.into_iter().map(|(id, entered)| (entered, id)).collect())
    }

    pub(in crate::store) async fn events(
        &self,
        after: u64,
        limit: usize,
    ) -> Result<Vec<StoredEvent>, StoreError> {
        let limit = limit.min(MAX_PAGE);
        let mut after = after;
        loop {
            let Some(first) = after.checked_add(1).filter(|_| limit > 0) else { return Ok(Vec::new()) };
            let mut command = redis::cmd("XRANGE");
            command.arg(self.keys.events()).arg(format!("{first}-0")).arg("+").arg("COUNT").arg(limit);
            let entries: Answer<Vec<Entry>> = self.commands.run(&command, COMMAND).await?;
            let Some((last, _)) = entries.value.last() else { return Ok(Vec::new()) };
            after = number_of(last).unwrap_or(u64::MAX);
            let events: Vec<_> = entries.value.into_iter().filter_map(event).collect();
            // What others have put there is left out, and is not the end.
            if !events.is_empty() {
                return Ok(events);
            }
        }
    }

    pub(in crate::store) async fn due(&self, limit: usize) -> Result<Due, StoreError> {
        let mut command = redis::cmd("EVAL_RO");
        command.arg(scripts::DUE).arg(2).arg(self.keys.head()).arg(self.keys.due());
        command.arg(self.journal.clock.load(Ordering::Relaxed)).arg(limit.min(MAX_PAGE));
        let answer: Answer<(i64, Scored, Scored)> = self.commands.run(&command, COMMAND).await?;
        let (now, what, next) = answer.value;
        self.journal.clock.fetch_max(now, Ordering::Relaxed);
        let what = what.into_iter().map(|(what, at)| (what, moment(at))).collect();
        Ok(Due { now: moment(now), what, next: next.first().map(|(_, at)| moment(*at)) })
    }

    pub(in crate::store) async fn moved(&self, past: u64) {
        let polled = async {
            // Whoever polls does it for all; when it has seen enough, or has gone, the next one does.
            let _turn = self.journal.polling.acquire().await;
            self.poll().await;
        };
        tokio::select! {
            () = self.journal.moves.past(past) => {}
            () = polled => {}
        }
    }

    /// For ever: a server that cannot be asked is asked again.
    async fn poll(&self) {
        loop {
            let get = redis::cmd("GET").arg(self.keys.head()).take();
            if let Ok(Answer { value, .. }) = self.commands.run::<Option<String>>(&get, COMMAND).await {
                let number = value.as_deref().and_then(|head| head.split(' ').next()?.parse().ok());
                self.journal.moves.note(number.unwrap_or(0));
            }
            tokio::time::sleep(POLL_INTERVAL).await;
        }
    }

    /// An event of something that has happened already, so that nothing depends on it.
    pub(super) async fn note(&self, event: &serde_json::Map<String, serde_json::Value>) {
        let mut failure = "others were always first".to_owned();
        for _ in 0..NOTE_ATTEMPTS {
            let noted = async {
                let Look { head, now, .. } = self.look(&[]).await?;
                let mut event = event.clone();
                event.insert("time".to_owned(), now.to_string().into());
                let events = vec![serde_json::Value::Object(event).to_string()];
                self.commit(Commit { seen: head, events, ..Commit::default() }).await
            };
            match noted.await {
                Ok(Outcome::Done { .. }) => return,
                Ok(Outcome::Moved | Outcome::Late) => {}
                Err(error) => {
                    failure = error.to_string();
                    break;
                }
            }
        }
        tracing::error!("the journal lacks an event, {event:?}: {failure}");
    }
}

fn number_of(entry: &str) -> Option<u64> {
    entry.split('-').next()?.parse().ok()
}

fn event((id, fields): Entry) -> Option<StoredEvent> {
    let number = id.strip_suffix("-0")?.parse().ok()?;
    let mut fields: HashMap<String, Vec<u8>> = fields.into_iter().collect();
    let mut field = |name| String::from_utf8(fields.remove(name)?).ok();
    Some(StoredEvent { number, hash: field("hash")?, document: field("document")? })
}
