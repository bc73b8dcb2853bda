//! Revocations that this process asked for, kept until the grants would have ended.
//!
//! A server that fails over or restarts from a snapshot may have lost a revocation that it acknowledged. Whoever asked
//! for it still knows, and asks again. Written before the store is asked, so that one whose outcome nobody knows is
//! asked for again too. An entry leaves only when its grant would have ended: that the store knows no such grant may be
//! because somebody else, or an earlier attempt, has just revoked it.

use std::collections::HashMap;
use std::path::Path;
use std::sync::{Mutex, MutexGuard, PoisonError};

use jiff::Timestamp;
use redb::{Database, ReadableDatabase, ReadableTable, TableDefinition};

use super::{StoreError, file};
use crate::grant::GrantId;

/// Grant id to the millisecond of its end.
const REVOKED: TableDefinition<'_, &str, i64> = TableDefinition::new("revoked");
const FILE_NAME: &str = "revocations.redb";
/// Written and swept, hardly read.
const CACHE_BYTES: usize = 1024 * 1024;

#[derive(Debug)]
pub struct Ledger {
    database: Database,
    /// Held with the file's change that belongs to it, never across an await.
    attempts: Mutex<HashMap<GrantId, Attempts>>,
}

/// At ending one grant, as part of a change that may turn out not to be made.
#[derive(Debug)]
struct Attempts {
    running: usize,
    /// Whatever becomes of the rest: somebody has asked for it, and it was not undone.
    stands: bool,
}

/// What became of an attempt.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Settled {
    /// It was made, or nobody knows.
    Stands,
    /// It was certainly not made, and nobody asks for it any more.
    Undone,
}

impl Ledger {
    /// # Errors
    /// The file cannot be opened: no permission, damaged, or in use by another daypass.
    pub fn open(data_dir: &Path) -> Result<Self, StoreError> {
        let database = file::open(data_dir, FILE_NAME, CACHE_BYTES)?;
        let ledger = Self { database, attempts: Mutex::default() };
        ledger.write(|_| Ok(()))?;
        Ok(ledger)
    }

    /// # Errors
    /// The file cannot be written. Then the store must not be asked either.
    pub fn record(&self, ids: &[GrantId], until: Timestamp) -> Result<(), StoreError> {
        let mut attempts = self.attempts();
        for id in ids {
            if let Some(attempts) = attempts.get_mut(id) {
                attempts.stands = true;
            }
        }
        self.write(|table| {
            for id in ids {
                table.insert(id.as_str(), until.as_millisecond())?;
            }
            Ok(())
        })
    }

    /// As [`Self::record`], for a change that may turn out not to be made. [`Self::settle`] belongs to it; without, the
    /// entries stand.
    ///
    /// # Errors
    /// The file cannot be written. Then the store must not be asked either.
    pub fn begin(&self, ids: &[GrantId], until: Timestamp) -> Result<(), StoreError> {
        let mut attempts = self.attempts();
        let mut known = Vec::with_capacity(ids.len());
        self.write(|table| {
            for id in ids {
                known.push(table.insert(id.as_str(), until.as_millisecond())?.is_some());
            }
            Ok(())
        })?;
        for (id, stands) in ids.iter().zip(known) {
            attempts.entry(id.clone()).or_insert(Attempts { running: 0, stands }).running += 1;
        }
        Ok(())
    }

    /// Takes back entries that only attempts which were undone have made.
    ///
    /// # Errors
    /// The file cannot be written. Then the entries stand.
    pub fn settle(&self, ids: &[GrantId], settled: Settled) -> Result<(), StoreError> {
        let mut attempts = self.attempts();
        let mut undone = Vec::new();
        for id in ids {
            let Some(of_id) = attempts.get_mut(id) else { continue };
            of_id.running = of_id.running.saturating_sub(1);
            of_id.stands |= settled == Settled::Stands;
            if of_id.running == 0 {
                undone.extend((!of_id.stands).then_some(id));
                attempts.remove(id);
            }
        }
        if undone.is_empty() {
            return Ok(());
        }
        self.write(|table| {
            for id in undone {
                table.remove(id.as_str())?;
            }
            Ok(())
        })
    }

    /// # Errors
    /// The file cannot be read.
    pub fn contains(&self, id: &GrantId) -> Result<bool, StoreError> {
        let transaction = self.database.begin_read().map_err(StoreError::unavailable)?;
        let table = transaction.open_table(REVOKED).map_err(StoreError::unavailable)?;
        Ok(table.get(id.as_str()).map_err(StoreError::unavailable)?.is_some())
    }

    /// All whose grants have not ended by themselves; the others are dropped.
    ///
    /// # Errors
    /// The file cannot be read or written.
    pub fn unended(&self, now: Timestamp) -> Result<Vec<GrantId>, StoreError> {
        let mut ids = Vec::new();
        self.write(|table| {
            table.retain(|_, until| until > now.as_millisecond())?;
            for entry in table.iter()? {
                ids.extend(entry?.0.value().parse::<GrantId>().ok());
            }
            Ok(())
        })?;
        Ok(ids)
    }

    fn attempts(&self) -> MutexGuard<'_, HashMap<GrantId, Attempts>> {
        self.attempts.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(
        &self,
        change: impl FnOnce(&mut redb::Table<'_, &str, i64>) -> Result<(), redb::StorageError>,
    ) -> Result<(), StoreError> {
        let transaction = self.database.begin_write().map_err(StoreError::unavailable)?;
        {
            let mut table = transaction.open_table(REVOKED).map_err(StoreError::unavailable)?;
            change(&mut table).map_err(StoreError::unavailable)?;
        }
        transaction.commit().map_err(StoreError::unavailable)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn remembers_until_the_grant_would_have_ended_and_over_a_restart() {
        let dir = tempfile::tempdir().unwrap();
        let at = |second| Timestamp::from_second(second).unwrap();
        let ids: Vec<GrantId> = ["a", "b", "c"].map(|id| id.parse().unwrap()).to_vec();
        {
            let ledger = Ledger::open(dir.path()).unwrap();
            ledger.record(&ids[..1], at(10)).unwrap();
            ledger.record(&ids[2..], at(20)).unwrap();
        }
        let ledger = Ledger::open(dir.path()).unwrap();
        assert_eq!(ledger.unended(at(9)).unwrap(), [ids[0].clone(), ids[2].clone()]);
        assert!(ledger.contains(&ids[0]).unwrap() && !ledger.contains(&ids[1]).unwrap());
        assert_eq!(ledger.unended(at(10)).unwrap(), [ids[2].clone()]);
        assert!(!ledger.contains(&ids[0]).unwrap());
    }

    #[test]
    fn what_was_undone_is_taken_back_unless_somebody_else_asked_for_it() {
        let dir = tempfile::tempdir().unwrap();
        let ledger = Ledger::open(dir.path()).unwrap();
        let until = Timestamp::from_second(10).unwrap();
        let ids: Vec<GrantId> = ["a", "b", "c", "d"].map(|id| id.parse().unwrap()).to_vec();
        let has = |id: &GrantId| ledger.contains(id).unwrap();
        let one = |index: usize| std::slice::from_ref(&ids[index]);
        ledger.begin(one(0), until).unwrap();
        assert!(has(&ids[0]));
        ledger.settle(one(0), Settled::Undone).unwrap();
        assert!(!has(&ids[0]));
        // Two at once, of which one is made, in either order.
        for (first, second) in [(Settled::Undone, Settled::Stands), (Settled::Stands, Settled::Undone)] {
            ledger.begin(one(1), until).unwrap();
            ledger.begin(one(1), until).unwrap();
            ledger.settle(one(1), first).unwrap();
            assert!(has(&ids[1]));
            ledger.settle(one(1), second).unwrap();
            assert!(has(&ids[1]));
        }
        // Known before, and asked for meanwhile.
        ledger.record(one(2), until).unwrap();
        ledger.begin(&ids[2..], until).unwrap();
        ledger.record(one(3), until).unwrap();
        ledger.settle(&ids[2..], Settled::Undone).unwrap();
        assert!(has(&ids[2]) && has(&ids[3]));
    }
}
