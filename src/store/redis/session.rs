//! The protocol that keeps the replica in step with Redis.
//!
//! One RESP3 connection per session carries everything, because only there is there an order between replies and
//! invalidations. `CLIENT TRACKING ... BCAST` comes first, then a complete pass over the keys; so whatever changes
//! during the pass is announced. Four rules make it exact:
//!
//! * A push makes the grant suspect at once, and it is read again. Nobody is decided on it in between.
//! * A reply counts only if no push came for its key since the read was registered. The library hands replies over in
//!   another task than pushes, so their order is lost; the token that a push takes away restores it.
//! * The heartbeat is a keyed read on the same connection. Its answer proves that everything acknowledged before it
//!   was *sent* has been delivered, so freshness counts from sending. No answer in time ends the session.
//! * A session's tokens die with it. The next one reads everything anew, and what it does not see is gone.

use std::collections::{HashMap, HashSet};
use std::convert::Infallible;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use redis::aio::MultiplexedConnection;
use redis::{PushInfo, PushKind};
use thiserror::Error;
use tokio::sync::mpsc;
use tokio::time::{MissedTickBehavior, interval, sleep, timeout};

use super::keys::{Cursor, Keys};
use super::record::{self, ReadAt};
use super::{BATCH, ReadValue, RedisStore, Surroundings, connect, read_values};
use crate::clock::Now;
use crate::grant::{GrantId, Refusal};
use crate::replica::ReplicaFull;

/// Upper bounds; with a smaller `max_staleness` both shrink, so that a lost heartbeat is noticed before it matters.
const HEARTBEAT_INTERVAL: Duration = Duration::from_millis(500);
/// For a batch of reads during a complete pass.
const SYNC_TIMEOUT: Duration = Duration::from_secs(2);
const FIRST_BACKOFF: Duration = Duration::from_millis(20);
/// Short, because every sidecar denies while it lasts; with jitter, because all of them lose Redis together.
const MAX_BACKOFF: Duration = Duration::from_millis(500);
/// Of failures in a row, which come about every [`MAX_BACKOFF`].
const FAILURES_PER_WARNING: u32 = 64;

#[derive(Debug, Error)]
enum SessionEnd {
    #[error("redis: {0}")]
    Redis(#[from] redis::RedisError),
    #[error("the connection was closed")]
    Closed,
    #[error("no answer to the heartbeat within {0:?}")]
    HeartbeatLost(Duration),
    #[error("the server is a replica; name the master")]
    NotMaster,
    #[error(transparent)]
    Full(#[from] ReplicaFull),
}

/// What a push left to do.
enum Change {
    Keys(Vec<String>),
    /// FLUSHALL or FLUSHDB: the server no longer says which keys.
    Everything,
    Closed,
}

/// Runs sessions until the task is dropped.
pub async fn follow(store: &RedisStore) -> Infallible {
    let mut backoff = FIRST_BACKOFF;
    let mut failures = 0_u32;
    loop {
        let (changes, received) = mpsc::unbounded_channel();
        let session = Arc::new(Session::new(store, changes));
        let end = match run(&session, store, received).await {
            Ok(never) => match never {},
            Err(end) => end,
        };
        if session.is_synced() {
            (failures, backoff) = (0, FIRST_BACKOFF);
        }
        // The first failure, and then one in about half a minute: not the same line several times a second.
        if failures.is_multiple_of(FAILURES_PER_WARNING) {
            tracing::warn!(store = %store.config.url, failures, "no session with the store: {end}");
        }
        failures = failures.wrapping_add(1);
        sleep(jittered(backoff)).await;
        backoff = (backoff * 2).min(MAX_BACKOFF);
    }
}

/// Between half and the whole of it. Not worth a random generator: the boot clock's nanoseconds differ enough.
fn jittered(backoff: Duration) -> Duration {
    let noise = std::time::SystemTime::now()
        .duration_since(std::time::UNIX_EPOCH)
        .map_or(0, |since| since.subsec_nanos() % 1000);
    backoff / 2 + backoff / 2 * noise / 1000
}

async fn run(
    session: &Arc<Session>,
    store: &RedisStore,
    mut changes: mpsc::UnboundedReceiver<Change>,
) -> Result<Infallible, SessionEnd> {
    let handler = {
        let session = Arc::clone(session);
        Box::new(move |push| session.on_push(push))
    };
    let mut connection = connect::open(&store.config, SYNC_TIMEOUT, Some(handler)).await?;
    if !is_master(&redis::cmd("ROLE").query_async(&mut connection).await?) {
        return Err(SessionEnd::NotMaster);
    }
    let started = session.around.clock.now();
    let () = redis::cmd("CLIENT")
        .arg(&["TRACKING", "ON", "BCAST", "PREFIX", session.keys.grant_prefix()])
        .query_async(&mut connection)
        .await?;
    let heartbeats = heartbeat(session, connection.clone(), store.config.max_staleness);
    let work = async {
        session.sync(&mut connection).await?;
        session.confirm(started);
        tracing::info!(store = %store.config.url, grants = session.around.replica.len(), "in step with the store");
        loop {
            session.apply(&mut connection, changes.recv().await, &mut changes).await?;
        }
    };
    // Both run on this task; whichever fails ends the session, and dropping the connection tears a half-open link down.
    tokio::select! {
        end = heartbeats => end,
        end = work => end,
    }
}

async fn heartbeat(
    session: &Session,
    mut connection: MultiplexedConnection,
    max_staleness: Duration,
) -> Result<Infallible, SessionEnd> {
    let period = HEARTBEAT_INTERVAL.min(max_staleness / 4);
    let mut ticks = interval(period);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        let sent = session.around.clock.now();
        let mut pipeline = redis::pipe();
        pipeline.cmd("GET").arg(session.keys.heartbeat()).ignore().cmd("ROLE");
        let answer = pipeline.query_async::<(redis::Value,)>(&mut connection);
        let (role,) = timeout(period, answer).await.map_err(|_| SessionEnd::HeartbeatLost(period))??;
        if !is_master(&role) {
            return Err(SessionEnd::NotMaster);
        }
        session.confirm(sent);
    }
}

/// A replica, or a master that was demoted under an open connection, knows nothing of what its master acknowledged.
fn is_master(role: &redis::Value) -> bool {
    match role {
        redis::Value::Array(parts) => match parts.first() {
            Some(redis::Value::BulkString(name)) => name == b"master",
            Some(redis::Value::SimpleString(name)) => name == "master",
            _ => false,
        },
        _ => false,
    }
}

struct Session {
    keys: Keys,
    around: Surroundings,
    /// By key: the last read or push registered for it. Held for a few map operations and the change of the
    /// replica that belongs to them, never across an await.
    tokens: Mutex<HashMap<String, u64>>,
    next_token: AtomicU64,
    is_synced: AtomicBool,
    changes: mpsc::UnboundedSender<Change>,
}

impl Session {
    fn new(store: &RedisStore, changes: mpsc::UnboundedSender<Change>) -> Self {
        Self {
            keys: store.keys.clone(),
            around: store.around.clone(),
            tokens: Mutex::default(),
            next_token: AtomicU64::new(0),
            is_synced: AtomicBool::new(false),
            changes,
        }
    }

    fn is_synced(&self) -> bool {
        self.is_synced.load(Ordering::Acquire)
    }

    /// Under the lock that a flush takes too: an emptied replica must not be called fresh.
    fn confirm(&self, sent: Now) {
        let _tokens = self.tokens();
        if self.is_synced() {
            self.around.replica.confirm(sent.boot);
        }
    }

    fn tokens(&self) -> MutexGuard<'_, HashMap<String, u64>> {
        self.tokens.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn token(&self) -> u64 {
        self.next_token.fetch_add(1, Ordering::Relaxed)
    }

    fn on_push(&self, push: PushInfo) {
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
        let mut changed = Vec::with_capacity(keys.len());
        let mut tokens = self.tokens();
        for key in keys {
            let redis::Value::BulkString(bytes) = key else { continue };
            let key = String::from_utf8_lossy(&bytes).into_owned();
            let Some(id) = self.keys.grant_id(&key) else { continue };
            self.around.replica.suspect(id);
            tokens.insert(key.clone(), self.token());
            changed.push(key);
        }
        Change::Keys(changed)
    }

    fn on_flushed(&self) -> Change {
        let mut tokens = self.tokens();
        tokens.clear();
        self.is_synced.store(false, Ordering::Release);
        self.around.replica.clear();
        Change::Everything
    }

    /// Takes all changes that are waiting, so that a burst is one pipeline.
    async fn apply(
        &self,
        connection: &mut MultiplexedConnection,
        first: Option<Change>,
        more: &mut mpsc::UnboundedReceiver<Change>,
    ) -> Result<(), SessionEnd> {
        let mut keys = HashSet::new();
        let mut needs_sync = false;
        let mut next = first;
        loop {
            match next {
                Some(Change::Keys(changed)) => keys.extend(changed),
                Some(Change::Everything) => needs_sync = true,
                Some(Change::Closed) | None => return Err(SessionEnd::Closed),
            }
            match more.try_recv() {
                Ok(change) => next = Some(change),
                Err(mpsc::error::TryRecvError::Empty) => break,
                Err(mpsc::error::TryRecvError::Disconnected) => return Err(SessionEnd::Closed),
            }
        }
        if needs_sync {
            self.sync(connection).await?;
        }
        let keys: Vec<String> = keys.into_iter().collect();
        self.read_in(connection, &keys).await
    }

    /// A complete pass. Afterwards the replica has what Redis has, and nothing else.
    async fn sync(&self, connection: &mut MultiplexedConnection) -> Result<(), SessionEnd> {
        self.around.replica.begin_pass();
        let mut cursor = Cursor::start();
        while let Some(keys) = cursor.next(connection, &self.keys).await? {
            self.read_in(connection, &keys).await?;
        }
        {
            // A grant that changed during the pass and was read by nobody yet has a token, and a change waiting.
            let tokens = self.tokens();
            self.around
                .replica
                .end_pass(|id| tokens.contains_key(&format!("{}{id}", self.keys.grant_prefix())));
            self.is_synced.store(true, Ordering::Release);
        }
        self.around.metrics.count_resync();
        Ok(())
    }

    async fn read_in(
        &self,
        connection: &mut MultiplexedConnection,
        keys: &[String],
    ) -> Result<(), SessionEnd> {
        // A key that cannot be a grant's is not worth a read, and one that is not text could not be read by name.
        let is_grant =
            |key: &&String| self.keys.grant_id(key).is_some_and(|id| id.parse::<GrantId>().is_ok());
        let (keys, others): (Vec<&String>, Vec<&String>) = keys.iter().partition(is_grant);
        for key in others {
            self.tokens().remove(key);
            self.refuse(self.keys.grant_id(key).unwrap_or_default(), Refusal::BadId);
        }
        for batch in keys.chunks(BATCH) {
            let registered = self.register(batch);
            let sent = self.around.clock.now();
            let values = read_values(connection, batch).await?;
            self.take_replies(batch, &registered, values, sent)?;
        }
        Ok(())
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
        read_at: impl Fn(record::Ttl) -> ReadAt,
    ) -> Result<(), ReplicaFull> {
        let Some(id) = self.keys.grant_id(key) else { return Ok(()) };
        let refusal = match value {
            ReadValue::Absent => None,
            ReadValue::Refused(refusal) => Some(refusal),
            ReadValue::Present { bytes, ttl } => {
                match record::decode(id, &bytes, read_at(ttl), self.around.max_ttl) {
                    Ok(grant) => return self.around.replica.insert(grant),
                    Err(refusal) => Some(refusal),
                }
            }
        };
        self.around.replica.remove(id);
        if let Some(refusal) = refusal {
            self.refuse(id, refusal);
        }
        Ok(())
    }

    fn refuse(&self, id: &str, refusal: Refusal) {
        const SHOWN: usize = 128;
        let shown: String = id.chars().filter(|c| !c.is_control()).take(SHOWN).collect();
        tracing::warn!(grant = shown, reason = refusal.code(), "stored value refused as a grant");
        self.around.metrics.count_refused(refusal);
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::super::{RedisConfig, RedisStore};
    use super::*;
    use crate::clock::Clock;
    use crate::metrics::Metrics;
    use crate::principal::Caller;
    use crate::replica::{Lookup, Replica, Staleness};
    use crate::store::record::Ttl;

    const VALUE: &str = r#"{"v":1,"subject":"user:alice"}"#;

    fn session() -> (Session, mpsc::UnboundedReceiver<Change>) {
        let around = Surroundings {
            replica: Arc::new(Replica::new(Staleness::AtMost(Duration::from_secs(2)), 10)),
            metrics: Arc::new(Metrics::new().unwrap()),
            clock: Clock::System,
            max_ttl: Duration::from_secs(3600),
        };
        let config = RedisConfig {
            url: "redis://127.0.0.1:1".parse().unwrap(),
            password_file: None,
            key_prefix: "{jit}".to_owned(),
            max_staleness: Duration::from_secs(2),
        };
        let (changes, received) = mpsc::unbounded_channel();
        (Session::new(&RedisStore::new(config, around), changes), received)
    }

    fn invalidation(keys: Option<&[&str]>) -> PushInfo {
        let bulk = |key: &&str| redis::Value::BulkString(key.as_bytes().to_vec());
        let data =
            keys.map_or(redis::Value::Nil, |keys| redis::Value::Array(keys.iter().map(bulk).collect()));
        PushInfo { kind: PushKind::Invalidate, data: vec![data] }
    }

    fn present() -> Vec<ReadValue> {
        vec![ReadValue::Present { bytes: VALUE.into(), ttl: Ttl::Left(Duration::from_secs(60)) }]
    }

    /// Active grants of alice; none if one of them is being read again.
    fn known(session: &Session) -> Option<usize> {
        let alice = Caller::new(vec!["user:alice".parse().unwrap()]);
        match session.around.replica.lookup(&alice, Clock::System.now()) {
            Lookup::Settled(grants) => Some(grants.len()),
            Lookup::Unsettled => None,
        }
    }

    fn read(session: &Session, during: impl FnOnce()) {
        let key = "{jit}:grant:g".to_owned();
        let registered = session.register(&[&key]);
        let sent = Clock::System.now();
        during();
        session.take_replies(&[&key], &registered, present(), sent).unwrap();
    }

    #[test]
    fn a_reply_counts_only_if_no_push_overtook_it() {
        let (session, _changes) = session();
        read(&session, || session.on_push(invalidation(Some(&["{jit}:grant:g"]))));
        assert_eq!(known(&session), Some(0), "the old value of a key that changed meanwhile");
        read(&session, || session.on_push(invalidation(Some(&["{jit}:grant:other", "foreign"]))));
        assert_eq!(known(&session), Some(1));
    }

    #[test]
    fn an_announced_grant_is_not_used_until_it_was_read_again() {
        let (session, mut changes) = session();
        read(&session, || ());
        session.on_push(invalidation(Some(&["{jit}:grant:g"])));
        assert_eq!(known(&session), None);
        assert!(matches!(changes.try_recv(), Ok(Change::Keys(keys)) if keys == ["{jit}:grant:g"]));
        read(&session, || ());
        assert_eq!(known(&session), Some(1));
    }

    #[test]
    fn a_flush_forgets_everything_and_that_it_was_fresh() {
        let (session, mut changes) = session();
        let is_fresh = |session: &Session| session.around.replica.freshness(Clock::System.now()).is_fresh();
        session.confirm(Clock::System.now());
        assert!(!is_fresh(&session), "before the first complete pass");
        session.is_synced.store(true, Ordering::Release);
        session.confirm(Clock::System.now());
        assert!(is_fresh(&session));
        read(&session, || session.on_push(invalidation(None)));
        assert!(matches!(changes.try_recv(), Ok(Change::Everything)));
        session.confirm(Clock::System.now());
        assert!(!is_fresh(&session));
        assert_eq!(known(&session), Some(0), "a value read before the flush");
    }

    #[test]
    fn only_a_master_is_believed() {
        let role = |name: &str| {
            redis::Value::Array(vec![redis::Value::BulkString(name.into()), redis::Value::Int(0)])
        };
        assert!(is_master(&role("master")));
        assert!(
            !is_master(&role("slave")) && !is_master(&role("sentinel")) && !is_master(&redis::Value::Nil)
        );
    }
}
