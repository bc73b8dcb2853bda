//! Revocations that this process asked for, kept until the grants would have ended.
//!
//! A server that fails over or restarts from a snapshot may have lost a revocation that it acknowledged. Whoever asked
//! for it still knows, and asks again. Written before the store is asked, so that one whose outcome nobody knows is
//! asked for again too. An entry leaves only when its grant would have ended: that the store knows no such grant may be
//! because somebody else, or an earlier attempt, has just revoked it.

use std::path::Path;

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
pub struct Ledger(Database);

impl Ledger {
    /// # Errors
    /// The file cannot be opened: no permission, damaged, or in use by another daypass.
    pub fn open(data_dir: &Path) -> Result<Self, StoreError> {
        let ledger = Self(file::open(data_dir, FILE_NAME, CACHE_BYTES)?);
        ledger.write(|_| Ok(()))?;
        Ok(ledger)
    }

    /// # Errors
    /// The file cannot be written. Then the store must not be asked either.
    pub fn record(&self, ids: &[GrantId], until: Timestamp) -> Result<(), StoreError> {
        self.write(|table| {
            for id in ids {
                table.insert(id.as_str(), until.as_millisecond())?;
            }
            Ok(())
        })
    }

    /// # Errors
    /// The file cannot be read.
    pub fn contains(&self, id: &GrantId) -> Result<bool, StoreError> {
        let transaction = self.0.begin_read().map_err(StoreError::unavailable)?;
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

    fn write(
        &self,
        change: impl FnOnce(&mut redb::Table<'_, &str, i64>) -> Result<(), redb::StorageError>,
    ) -> Result<(), StoreError> {
        let transaction = self.0.begin_write().map_err(StoreError::unavailable)?;
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
}
