//! The protocol that keeps the replica in step with Redis.
//!
//! One RESP3 connection per session carries everything, because only there is there an order between replies and
//! invalidations. `CLIENT TRACKING ... BCAST` comes first, then a complete pass over the keys; so whatever changes
//! during the pass is announced. Four rules make it exact:
//!
//! * A push makes the grant suspect at once, and it is read again. Nobody is decided on it in between. After the push
//!   for a lock nobody is decided on at all until it was read.
//! * A reply counts only if no push came for its key since the read was registered. The library hands replies over in
//!   another task than pushes, so their order is lost; the token that a push takes away restores it.
//! * The heartbeat is a keyed read on the same connection. Its answer proves that everything acknowledged before it
//!   was *sent* has been delivered, so freshness counts from sending. No answer in time ends the session.
//! * A session's tokens die with it. The next one reads everything anew, and what it does not see is gone.
//!
//! While a cluster moves the slot there are two connections: pushes come on both, reads go to the owner first and to
//! the other for what the owner no longer has, and freshness needs the answer of both.

mod locks;

use std::collections::{HashMap, HashSet};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use redis::{PushInfo, PushKind};
use thiserror::Error;
use tokio::sync::mpsc;

use super::Surroundings;
use super::fault::Fault;
use super::keys::Keys;
use super::read::{BATCH, Listing, ReadValue, Source};
use super::vanished::Vanished;
use crate::clock::Now;
use crate::grant::{Grant, GrantId, Refusal};
use crate::replica::ReplicaFull;
use crate::store::record::{self, ReadAt, Ttl};

/// Keys of the first pipeline, when nothing is known of their size yet.
const FIRST_BATCH: usize = 64;
/// Of one pipeline's answers. A heartbeat waits behind them, and must not be late for it.
const BATCH_BYTES: usize = 2 * 1024 * 1024;

#[derive(Debug, Error)]
pub enum SessionEnd {
    #[error(transparent)]
    Fault(#[from] Fault),
    #[error("the connection was closed")]
    Closed,
    #[error("no answer to the heartbeat within {0:?}")]
    HeartbeatLost(std::time::Duration),
    #[error("the server began another history: it was restarted or promoted")]
    HistoryChanged,
    #[error(transparent)]
    Full(#[from] ReplicaFull),
}

impl SessionEnd {
    #[must_use]
    pub const fn code(&self) -> &'static str {
        match self {
            Self::Fault(fault) => fault.code(),
            Self::Closed => "closed",
            Self::HeartbeatLost(_) => "heartbeat",
            Self::HistoryChanged => "history",
            Self::Full(_) => "full",
        }
    }
}

/// What a push left to do.
#[derive(Debug)]
pub enum Change {
    Keys(Vec<String>),
    /// FLUSHALL or FLUSHDB: the server no longer says which keys. These grants were there before.
    Everything(Vec<Arc<Grant>>),
    Closed,
}

/// The history that the server is in, and what is known to have vanished in it and in others.
#[derive(Debug, Clone)]
pub struct History {
    /// `master_replid`.
    pub name: Arc<str>,
    /// Held for a few map operations, never across an await.
    pub vanished: Arc<Mutex<Vanished>>,
}

#[derive(Debug)]
pub struct Session {
    keys: Keys,
    around: Surroundings,
    vanished: Arc<Mutex<Vanished>>,
    /// `master_replid` of the server. Within a session it does not change.
    history: Arc<str>,
    /// By key: the last read or push registered for it. Held for a few map operations and the change of the
    /// replica that belongs to them, never across an await.
    tokens: Mutex<HashMap<String, u64>>,
    next_token: AtomicU64,
    is_synced: AtomicBool,
    /// Set under the lock of the tokens: what a connection that is being torn down still delivers must not touch
    /// what the next session builds.
    is_closed: AtomicBool,
    /// Keys that the next pipeline may have, by the size of the last ones.
    batch: AtomicUsize,
    changes: mpsc::UnboundedSender<Change>,
}

impl Session {
    #[must_use]
    pub fn new(
        keys: Keys,
        around: Surroundings,
        History { name: history, vanished }: History,
        changes: mpsc::UnboundedSender<Change>,
    ) -> Self {
        Self {
            keys,
            around,
            vanished,
            history,
            tokens: Mutex::default(),
            next_token: AtomicU64::new(0),
            is_synced: AtomicBool::new(false),
            is_closed: AtomicBool::new(false),
            batch: AtomicUsize::new(FIRST_BATCH),
            changes,
        }
    }

    pub fn history(&self) -> &str {
        &self.history
    }

    pub fn is_synced(&self) -> bool {
        self.is_synced.load(Ordering::Acquire)
    }

    /// Everything acknowledged before `sent` has been delivered. Under the lock that a flush takes too: an emptied
    /// replica must not be called fresh.
    pub fn confirm(&self, sent: Now) {
        let _tokens = self.tokens();
        if self.is_synced() {
            self.around.replica.confirm(sent.boot);
        }
    }

    /// From now on pushes change nothing.
    pub fn close(&self) {
        let _tokens = self.tokens();
        self.is_closed.store(true, Ordering::Release);
    }

    fn is_closed(&self) -> bool {
        self.is_closed.load(Ordering::Acquire)
    }

    fn tokens(&self) -> MutexGuard<'_, HashMap<String, u64>> {
        self.tokens.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn token(&self) -> u64 {
        self.next_token.fetch_add(1, Ordering::Relaxed)
    }

    pub fn on_push(&self, push: PushInfo) {
        let change = match push.kind {
            PushKind::Invalidate => match push.data.into_iter().next() {
                Some(redis::Value::Array(keys)) => self.on_invalidated(keys),
                _ => self.on_flushed(),
            },
            PushKind::Disconnection => Change::Closed,
            _ => return,
        };
        // A closed channel means that the session has ended; there is nobody left to tell.
        let _ = self.changes.send(change);
    }

    fn on_invalidated(&self, keys: Vec<redis::Value>) -> Change {
        let text = |key| match key {
            redis::Value::BulkString(bytes) => Some(String::from_utf8_lossy(&bytes).into_owned()),
            _ => None,
        };
        self.suspect(keys.into_iter().filter_map(text))
    }

    fn suspect(&self, keys: impl Iterator<Item = String>) -> Change {
        let mut changed = Vec::new();
        let mut tokens = self.tokens();
        if self.is_closed() {
            return Change::Closed;
        }
        for key in keys {
            if self.is_misnamed_lock(&key) {
                self.suspect_misnamed(&key);
                changed.push(key);
                continue;
            }
            if let Some(id) = self.keys.lock_id(&key) {
                self.around.replica.suspect_lock(id);
            } else if let Some(id) = self.keys.grant_id(&key) {
                self.around.replica.suspect(id);
            } else {
                continue;
            }
            tokens.insert(key.clone(), self.token());
            changed.push(key);
        }
        Change::Keys(changed)
    }

    /// Reads a grant again that turned out to have changed before the push said so.
    pub fn reread(&self, id: &GrantId) {
        let _ = self.changes.send(self.suspect(std::iter::once(self.keys.grant(id))));
    }

    /// A grant that this process has revoked: out of use without waiting for the push, and remembered.
    pub fn forget(&self, id: &GrantId) {
        if let Some(grant) = self.around.replica.remove(id.as_str()) {
            self.remember(&[grant]);
        }
    }

    fn on_flushed(&self) -> Change {
        let mut tokens = self.tokens();
        if self.is_closed() {
            return Change::Closed;
        }
        tokens.clear();
        self.is_synced.store(false, Ordering::Release);
        Change::Everything(self.around.replica.clear())
    }

    /// Takes all changes that are waiting, so that a burst is one pipeline. If that took a new copy, the moment it was
    /// begun: what was acknowledged before is in it.
    ///
    /// # Errors
    /// The session is over.
    pub async fn apply(
        &self,
        source: &mut Source,
        first: Option<Change>,
        more: &mut mpsc::UnboundedReceiver<Change>,
    ) -> Result<Option<Now>, SessionEnd> {
        let mut keys = HashSet::new();
        let mut needs_sync = false;
        let mut next = first;
        loop {
            match next {
                Some(Change::Keys(changed)) => keys.extend(changed),
                Some(Change::Everything(flushed)) => {
                    self.remember(&flushed);
                    needs_sync = true;
                }
                Some(Change::Closed) | None => return Err(SessionEnd::Closed),
            }
            match more.try_recv() {
                Ok(change) => next = Some(change),
                Err(mpsc::error::TryRecvError::Empty) => break,
                Err(mpsc::error::TryRecvError::Disconnected) => return Err(SessionEnd::Closed),
            }
        }
        // A key that cannot be read by its name is seen by a list alone.
        let before = keys.len();
        keys.retain(|key| !self.is_misnamed_lock(key));
        needs_sync |= keys.len() < before;
        let copied = needs_sync.then(|| self.around.clock.now());
        if copied.is_some() {
            self.sync(source).await?;
        }
        let keys: Vec<String> = keys.into_iter().collect();
        self.read_in(source, &keys).await?;
        Ok(copied)
    }

    /// A complete pass. Afterwards the replica has what Redis has, and nothing else.
    ///
    /// # Errors
    /// The session is over.
    pub async fn sync(&self, source: &mut Source) -> Result<(), SessionEnd> {
        self.around.replica.begin_pass();
        let mut listing = Listing::of(source);
        while let Some(keys) = listing.next(source, &self.keys).await? {
            self.read_in(source, &keys).await?;
        }
        // The list is the server's own, whoever has the slot now. Only a keyed read says whether it was all.
        source.values(&[self.keys.nobodys().0]).await?;
        // What is missing now is gone only if the server is still in the history in which it was seen.
        if source.history().await? != *self.history {
            return Err(SessionEnd::HistoryChanged);
        }
        let unseen = {
            // A grant that changed during the pass and was read by nobody yet has a token, and a change waiting.
            let tokens = self.tokens();
            let unseen = self
                .around
                .replica
                .end_pass(|id| tokens.contains_key(&format!("{}{id}", self.keys.grant_prefix())));
            self.end_lock_pass(|id| tokens.contains_key(&format!("{}{id}", self.keys.lock_prefix())));
            self.is_synced.store(true, Ordering::Release);
            unseen
        };
        self.remember(&unseen);
        self.around.metrics.count_resync();
        Ok(())
    }

    async fn read_in(&self, source: &mut Source, keys: &[String]) -> Result<(), SessionEnd> {
        // A key that cannot be a grant's is not worth a read, and one that is not text could not be read by name.
        let is_readable = |key: &&String| {
            let id = self.keys.grant_id(key).or_else(|| self.keys.lock_id(key));
            id.is_some_and(|id| id.parse::<GrantId>().is_ok())
        };
        let (keys, others): (Vec<&String>, Vec<&String>) = keys.iter().partition(is_readable);
        for key in others {
            self.take_in_misnamed(key)?;
        }
        let mut rest = keys.as_slice();
        while !rest.is_empty() {
            let (batch, behind) = rest.split_at(self.batch.load(Ordering::Relaxed).min(rest.len()));
            rest = behind;
            let registered = self.register(batch);
            let sent = self.around.clock.now();
            let values = source.values(batch).await?;
            self.adapt_batch(&values);
            self.take_replies(batch, &registered, values, sent)?;
        }
        Ok(())
    }

    fn adapt_batch(&self, values: &[ReadValue]) {
        let size = |value: &ReadValue| match value {
            ReadValue::Present { bytes, .. } => bytes.len(),
            ReadValue::Absent | ReadValue::Refused { .. } => 0,
        };
        let average = values.iter().map(size).sum::<usize>() / values.len().max(1);
        let fitting = (BATCH_BYTES / average.max(1)).clamp(1, BATCH);
        // Grows step by step: the next values need not be like the last.
        let last = self.batch.load(Ordering::Relaxed);
        self.batch.store(fitting.min(last * 2), Ordering::Relaxed);
    }

    /// Before a read is sent: a token for each key, which a push takes away.
    fn register(&self, keys: &[&String]) -> Vec<u64> {
        let mut tokens = self.tokens();
        let register = |key: &&String| {
            let token = self.token();
            tokens.insert((*key).clone(), token);
            token
        };
        keys.iter().map(register).collect()
    }

    /// Takes in the replies whose tokens are still there. Where one is not, a push came meanwhile, and what it
    /// announced is read by itself.
    fn take_replies(
        &self,
        keys: &[&String],
        registered: &[u64],
        values: Vec<ReadValue>,
        sent: Now,
    ) -> Result<(), ReplicaFull> {
        let mut tokens = self.tokens();
        for ((key, token), value) in keys.iter().zip(registered).zip(values) {
            if tokens.get(*key) == Some(token) {
                tokens.remove(*key);
                self.take_in(key, value, |ttl| ReadAt { sent, ttl })?;
            }
        }
        Ok(())
    }

    fn take_in(
        &self,
        key: &str,
        value: ReadValue,
        read_at: impl Fn(Ttl) -> ReadAt,
    ) -> Result<(), ReplicaFull> {
        if let Some(id) = self.keys.lock_id(key) {
            return self.take_in_lock(id, key, value);
        }
        let Some(id) = self.keys.grant_id(key) else { return Ok(()) };
        let refusal = match value {
            ReadValue::Absent => None,
            ReadValue::Refused { refusal, .. } => Some(refusal),
            ReadValue::Present { bytes, ttl } => {
                match record::decode(id, &bytes, read_at(ttl), self.around.max_ttl) {
                    Ok(grant) if self.admits(&grant) => return self.replace(grant),
                    Ok(_) => Some(Refusal::Resurrected),
                    Err(refusal) => Some(refusal),
                }
            }
        };
        if let Some(grant) = self.around.replica.remove(id) {
            self.remember(&[grant]);
        }
        if let Some(refusal) = refusal {
            self.refuse(id, refusal);
        }
        Ok(())
    }

    fn replace(&self, grant: Grant) -> Result<(), ReplicaFull> {
        let before = self.around.replica.get(grant.id.as_str());
        if let Some(before) = before.filter(|before| before.document != grant.document) {
            self.remember(&[before]);
        }
        self.around.replica.insert(grant)
    }

    fn admits(&self, grant: &Grant) -> bool {
        self.vanished().admits(grant, &self.history, self.around.clock.now())
    }

    fn remember(&self, grants: &[Arc<Grant>]) {
        let now = self.around.clock.now();
        let mut vanished = self.vanished();
        for grant in grants {
            if vanished.remember(grant, &self.history, now).is_err() {
                self.around.metrics.count_forgotten();
            }
        }
    }

    fn vanished(&self) -> MutexGuard<'_, Vanished> {
        self.vanished.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn refuse(&self, id: &str, refusal: Refusal) {
        const SHOWN: usize = 128;
        let shown: String = id.chars().filter(|c| !c.is_control()).take(SHOWN).collect();
        tracing::warn!(grant = shown, reason = refusal.code(), "stored value refused as a grant");
        self.around.metrics.count_refused(refusal);
    }
}

#[cfg(test)]
mod tests;
