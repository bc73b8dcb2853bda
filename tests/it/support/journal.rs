//! Stores of one's own, and commits to them.

use std::sync::Arc;
use std::time::Duration;

use daypass::clock::Clock;
use daypass::metrics::Metrics;
use daypass::replica::{Limits, Replica, Staleness};
use daypass::store::journal::{Commit, Head, Look, Outcome, Row, Table, Write};
use daypass::store::{EmbeddedStore, Ledger, RedisConfig, RedisStore, Store, StoreError, Surroundings};
use tempfile::TempDir;

use super::redis::Redis;

/// A store, and what keeps it alive.
pub struct Opened {
    pub store: Arc<Store>,
    pub replica: Arc<Replica>,
    pub redis: Option<Redis>,
    _dir: TempDir,
}

pub fn surroundings(staleness: Staleness, clock: Clock) -> Surroundings {
    let limits = Limits { grants: 10, grants_per_principal: 3 };
    Surroundings {
        replica: Arc::new(Replica::new(staleness, limits)),
        metrics: Arc::new(Metrics::new().unwrap()),
        clock,
        max_ttl: Duration::from_secs(86_400),
    }
}

impl Opened {
    pub fn embedded() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let around = surroundings(Staleness::Local, Clock::System);
        let replica = Arc::clone(&around.replica);
        let store = Arc::new(Store::Embedded(Arc::new(EmbeddedStore::open(dir.path(), around).unwrap())));
        Self { store, replica, redis: None, _dir: dir }
    }

    pub fn memory() -> Self {
        let around = surroundings(Staleness::Local, Clock::System);
        let replica = Arc::clone(&around.replica);
        let store = Arc::new(Store::Embedded(Arc::new(EmbeddedStore::in_memory(around).unwrap())));
        Self { store, replica, redis: None, _dir: tempfile::tempdir().unwrap() }
    }

    pub fn redis() -> Option<Self> {
        let redis = Redis::start(&[])?;
        let opened = Self::at(&redis.url());
        Some(Self { redis: Some(redis), ..opened })
    }

    /// Of a server that somebody else keeps.
    pub fn at(url: &str) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let around = surroundings(Staleness::AtMost(Duration::from_secs(2)), Clock::System);
        let replica = Arc::clone(&around.replica);
        let config = RedisConfig::new(url.parse().unwrap());
        let store = Arc::new(RedisStore::new(config, Ledger::open(dir.path()).unwrap(), around));
        Self { store: Arc::new(Store::Redis(store)), replica, redis: None, _dir: dir }
    }
}

/// A document that no other event has.
pub fn event(what: &str) -> String {
    format!("{{\"type\":\"{what}\",\"id\":\"{}\"}}", uuid::Uuid::new_v4())
}

pub fn change(seen: &Head, writes: Vec<Write>) -> Commit {
    Commit { seen: seen.clone(), writes, events: vec![event("test")], ..Commit::default() }
}

/// Makes a change, whatever others do meanwhile.
pub async fn make(store: &Store, writes: Vec<Write>) -> Result<Head, StoreError> {
    loop {
        let Look { head, .. } = store.look(&[]).await?;
        if let Outcome::Done { head, .. } = store.commit(change(&head, writes.clone())).await? {
            return Ok(head);
        }
    }
}

/// A new grant, with an event.
pub async fn give(store: &Store, id: &str, record: &str, ttl: Duration) -> Result<(), StoreError> {
    let row = Row::new(Table::Grants, id);
    let grant = Write::Grant { id: id.parse().unwrap(), record: record.to_owned(), ttl };
    loop {
        let Look { head, values, .. } = store.look(std::slice::from_ref(&row)).await?;
        if values[0].is_some() {
            return Err(StoreError::AlreadyExists);
        }
        let commit = Commit { unchanged: vec![(row.clone(), None)], ..change(&head, vec![grant.clone()]) };
        if matches!(store.commit(commit).await?, Outcome::Done { .. }) {
            return Ok(());
        }
    }
}
