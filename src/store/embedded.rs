//! The store of a single sidecar: a redb file, or memory. Survives a restart and a `kill -9`.
//!
//! Every change is committed to disk before it shows in the replica, and both happen under one lock: otherwise a
//! revocation could be overtaken by the creation it revokes.

mod journal;

use std::path::Path;
use std::sync::atomic::AtomicI64;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use jiff::Timestamp;
use redb::backends::InMemoryBackend;
use redb::{Database, ReadableDatabase, ReadableTable, TableDefinition, WriteTransaction};

use super::file;
use super::journal::Moves;
use super::record::{self, GrantRecord, ReadAt, Ttl};
use super::{Limited, Revoked, StoreError, StoredGrant, Surroundings, USE_MEMORY, Use, memory_of};
use crate::clock::Now;
use crate::grant::{Grant, GrantId, Refusal};

/// Grant id to its JSON, in which `expires_at` is always set: a file has no TTL.
const GRANTS: TableDefinition<'_, &str, &str> = TableDefinition::new("grants");
/// Grant id to uses taken.
const USES: TableDefinition<'_, &str, u64> = TableDefinition::new("uses");
/// Check for which uses were taken to the millisecond until which that is remembered.
const CHECKS: TableDefinition<'_, &str, i64> = TableDefinition::new("checks");

const FILE_NAME: &str = "grants.redb";
/// Nothing is read from the file on the check path, so it needs no more than a working set for writes.
const CACHE_BYTES: usize = 4 * 1024 * 1024;

#[derive(Debug)]
pub struct EmbeddedStore {
    database: Database,
    /// Held for a commit and the replica's change that belongs to it, never across an await.
    commit_order: Mutex<()>,
    around: Surroundings,
    /// The latest clock that anybody was shown, in milliseconds.
    shown_clock: AtomicI64,
    moves: Moves,
}

impl EmbeddedStore {
    /// Opens or creates the file in `data_dir` and fills the replica from it.
    ///
    /// # Errors
    /// The file cannot be opened: no permission, damaged, or in use by another daypass.
    pub fn open(data_dir: &Path, around: Surroundings) -> Result<Self, StoreError> {
        let database = file::open(data_dir, FILE_NAME, CACHE_BYTES)?;
        Self::with(database, around)
    }

    /// A store that ends with the process.
    ///
    /// # Errors
    /// Memory cannot be had.
    pub fn in_memory(around: Surroundings) -> Result<Self, StoreError> {
        let database = Database::builder()
            .create_with_backend(InMemoryBackend::new())
            .map_err(StoreError::unavailable)?;
        Self::with(database, around)
    }

    fn with(database: Database, around: Surroundings) -> Result<Self, StoreError> {
        let transaction = database.begin_write().map_err(StoreError::unavailable)?;
        transaction.open_table(GRANTS).map_err(StoreError::unavailable)?;
        transaction.open_table(USES).map_err(StoreError::unavailable)?;
        transaction.open_table(CHECKS).map_err(StoreError::unavailable)?;
        let last = journal::prepare(&transaction).map_err(StoreError::unavailable)?;
        transaction.commit().map_err(StoreError::unavailable)?;
        let store = Self {
            database,
            commit_order: Mutex::new(()),
            around,
            shown_clock: AtomicI64::new(0),
            moves: Moves::new(last),
        };
        let now = store.around.clock.now();
        store.fill_locks(now)?;
        for (id, text) in store.texts()? {
            match store.decode(&id, &text, now) {
                Ok(grant) => store.around.replica.insert(grant).map_err(StoreError::unavailable)?,
                Err(refusal) => {
                    tracing::warn!(grant = id, reason = refusal.code(), "stored grant refused");
                    store.around.metrics.count_refused(refusal);
                }
            }
        }
        Ok(store)
    }

    fn fill_locks(&self, now: Now) -> Result<(), StoreError> {
        for (id, text, left) in self.locks(now)? {
            let read_at = ReadAt { sent: now, ttl: Ttl::Left(left) };
            let (lock, refusal) = record::read_lock(&id, &id, text.as_bytes(), read_at);
            if let Some(refusal) = refusal {
                tracing::error!(
                    lock = id,
                    reason = refusal.code(),
                    "a stored lock cannot be read; everything is locked"
                );
                self.around.metrics.count_unreadable_lock(refusal);
            }
            if lock.holds(now) {
                self.around.replica.insert_lock(lock).map_err(StoreError::unavailable)?;
            }
        }
        Ok(())
    }

    pub(super) async fn revoke(self: Arc<Self>, ids: Vec<GrantId>) -> Result<Revoked, StoreError> {
        blocking(move || self.delete(ids)).await
    }

    fn delete(&self, ids: Vec<GrantId>) -> Result<Revoked, StoreError> {
        let _order = self.commit_order.lock().unwrap_or_else(PoisonError::into_inner);
        // First out of use, then off the disk: if the disk fails, the caller learns it and nobody has access.
        for id in &ids {
            self.around.replica.remove(id.as_str());
        }
        let transaction = self.database.begin_write().map_err(StoreError::unavailable)?;
        let mut revoked = Revoked::default();
        {
            let mut uses = transaction.open_table(USES).map_err(StoreError::unavailable)?;
            let mut grants = transaction.open_table(GRANTS).map_err(StoreError::unavailable)?;
            for id in ids {
                uses.remove(id.as_str()).map_err(StoreError::unavailable)?;
                if grants.remove(id.as_str()).map_err(StoreError::unavailable)?.is_some() {
                    revoked.ids.push(id);
                }
            }
        }
        transaction.commit().map_err(StoreError::unavailable)?;
        Ok(revoked)
    }

    pub(super) async fn take_uses(
        self: Arc<Self>,
        grants: Vec<Limited>,
        check: String,
    ) -> Result<Use, StoreError> {
        blocking(move || self.take_uses_now(&grants, &check)).await
    }

    /// In the order of the script for Redis, for its reasons.
    fn take_uses_now(&self, grants: &[Limited], check: &str) -> Result<Use, StoreError> {
        let _order = self.commit_order.lock().unwrap_or_else(PoisonError::into_inner);
        let now = self.around.clock.now();
        let check = memory_of(check, grants);
        let check = check.as_str();
        let mut is_changed = false;
        for Limited { grant, .. } in grants {
            match self.around.replica.get(grant.id.as_str()) {
                Some(held) if held.lifetime.has_ended(now) => return Ok(Use::Ended(grant.id.clone())),
                Some(held) => is_changed |= held.document != grant.document,
                None if grant.lifetime.has_ended(now) => return Ok(Use::Ended(grant.id.clone())),
                None => return Ok(Use::Revoked(grant.id.clone())),
            }
        }
        let transaction = self.database.begin_write().map_err(StoreError::unavailable)?;
        {
            let mut checks = transaction.open_table(CHECKS).map_err(StoreError::unavailable)?;
            let known = checks.get(check).map_err(StoreError::unavailable)?.map(|until| until.value());
            if known.is_some_and(|until| until > now.wall.as_millisecond()) {
                return Ok(Use::Taken);
            }
            if is_changed {
                return Ok(Use::Changed);
            }
            let mut uses = transaction.open_table(USES).map_err(StoreError::unavailable)?;
            for Limited { grant, max_uses } in grants {
                let id = grant.id.as_str();
                let taken = uses.get(id).map_err(StoreError::unavailable)?.map_or(0, |taken| taken.value());
                if taken >= max_uses.get() {
                    // The transaction ends unwritten, and with it what was taken of the grants before.
                    return Ok(Use::Exhausted(grant.id.clone()));
                }
                uses.insert(id, taken + 1).map_err(StoreError::unavailable)?;
            }
            let until = now.wall.checked_add(USE_MEMORY).unwrap_or(Timestamp::MAX);
            checks.insert(check, until.as_millisecond()).map_err(StoreError::unavailable)?;
        }
        transaction.commit().map_err(StoreError::unavailable)?;
        Ok(Use::Taken)
    }

    pub(super) fn get(&self, id: &GrantId) -> Result<StoredGrant, StoreError> {
        let transaction = self.database.begin_read().map_err(StoreError::unavailable)?;
        let table = transaction.open_table(GRANTS).map_err(StoreError::unavailable)?;
        let text = table.get(id.as_str()).map_err(StoreError::unavailable)?.ok_or(StoreError::NotFound)?;
        self.stored(id.as_str(), text.value()).ok_or(StoreError::NotFound)
    }

    pub(super) fn list(&self) -> Result<Vec<StoredGrant>, StoreError> {
        Ok(self.texts()?.iter().filter_map(|(id, text)| self.stored(id, text)).collect())
    }

    /// Removes from the file what has ended or is kept no longer. The replica does the same for itself.
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn sweep(&self) -> Result<(), StoreError> {
        let now = self.around.clock.now().wall;
        // A grant that has ended may be extended meanwhile, and then has not.
        let _order = self.commit_order.lock().unwrap_or_else(PoisonError::into_inner);
        let transaction = self.database.begin_write().map_err(StoreError::unavailable)?;
        self.sweep_in(&transaction, now).map_err(StoreError::unavailable)?;
        transaction.commit().map_err(StoreError::unavailable)
    }

    fn sweep_in(&self, transaction: &WriteTransaction, now: Timestamp) -> Result<(), redb::Error> {
        let mut ended = Vec::new();
        let mut grants = transaction.open_table(GRANTS)?;
        grants.retain(|id, text| {
            let is_over = has_ended(text, now);
            if is_over {
                ended.push(id.to_owned());
            }
            !is_over
        })?;
        let mut uses = transaction.open_table(USES)?;
        for id in &ended {
            uses.remove(id.as_str())?;
        }
        transaction.open_table(CHECKS)?.retain(|_, until| until > now.as_millisecond())?;
        drop((grants, uses));
        self.sweep_journal(transaction)
    }

    fn texts(&self) -> Result<Vec<(String, String)>, StoreError> {
        self.texts_of(GRANTS)
    }

    fn texts_of(
        &self,
        table: TableDefinition<'_, &'static str, &'static str>,
    ) -> Result<Vec<(String, String)>, StoreError> {
        let transaction = self.database.begin_read().map_err(StoreError::unavailable)?;
        let table = transaction.open_table(table).map_err(StoreError::unavailable)?;
        let entries = table.iter().map_err(StoreError::unavailable)?;
        entries
            .map(|entry| entry.map(|(id, text)| (id.value().to_owned(), text.value().to_owned())))
            .collect::<Result<_, _>>()
            .map_err(StoreError::unavailable)
    }

    fn stored(&self, id: &str, text: &str) -> Option<StoredGrant> {
        let grant = self.decode(id, text, self.around.clock.now()).ok()?;
        if grant.lifetime.has_ended(self.around.clock.now()) {
            return None;
        }
        let record = serde_json::from_str(text).ok()?;
        Some(StoredGrant { record, id: grant.id, expires_at: grant.lifetime.expires_at })
    }

    fn decode(&self, id: &str, text: &str, now: Now) -> Result<Grant, Refusal> {
        let record: Option<GrantRecord> = serde_json::from_str(text).ok();
        let ttl = record.and_then(|record| record.expires_at).map_or(Ttl::None, |end| {
            Ttl::Left(Duration::try_from(end.duration_since(now.wall)).unwrap_or(Duration::ZERO))
        });
        record::decode(id, text.as_bytes(), ReadAt { sent: now, ttl }, self.around.max_ttl)
    }
}

/// By the date in the record, which every grant in the file has.
fn has_ended(text: &str, now: Timestamp) -> bool {
    serde_json::from_str::<GrantRecord>(text)
        .is_ok_and(|record| record.expires_at.is_some_and(|end| end <= now))
}

/// Disk work must not hold up the thread that decides.
async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, StoreError> + Send + 'static,
) -> Result<T, StoreError> {
    tokio::task::spawn_blocking(work).await.map_err(StoreError::unavailable)?
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::Clock;
    use crate::metrics::Metrics;
    use crate::principal::Caller;
    use crate::replica::{Limits, Replica, Staleness};

    fn around() -> Surroundings {
        let limits = Limits { grants: 10, grants_per_principal: 10 };
        Surroundings {
            replica: Arc::new(Replica::new(Staleness::Local, limits)),
            metrics: Arc::new(Metrics::new().unwrap()),
            clock: Clock::System,
            max_ttl: Duration::from_secs(3600),
        }
    }

    #[test]
    fn locks_of_the_file_are_in_force_from_the_start() {
        let dir = tempfile::tempdir().unwrap();
        let write = |id: &str, text: &str| {
            let store = EmbeddedStore::open(dir.path(), around()).unwrap();
            let transaction = store.database.begin_write().unwrap();
            transaction.open_table(journal::LOCKS).unwrap().insert(id, (text, i64::MAX)).unwrap();
            transaction.commit().unwrap();
        };
        write("l", r#"{"v":1,"principal":"user:alice","message":"m","expires_at":"2999-01-01T00:00:00Z"}"#);
        write("over", r#"{"v":1,"everything":true,"message":"m","expires_at":"2001-01-01T00:00:00Z"}"#);
        let around = around();
        drop(EmbeddedStore::open(dir.path(), around.clone()).unwrap());
        let now = Clock::System.now();
        let alice = Caller::new(vec!["user:alice".parse().unwrap()]);
        assert!(around.replica.lock_on(&alice, now).is_some());
        assert!(around.replica.lock_on_everything(now).is_none());
        write("bad", "{");
        drop(EmbeddedStore::open(dir.path(), around.clone()).unwrap());
        assert!(around.replica.lock_on_everything(now).is_some());
    }
}
