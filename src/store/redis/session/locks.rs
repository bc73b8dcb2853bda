//! Locks on their way from Redis into the replica: by the same rules as grants, and where those would forget a grant, a
//! lock is kept.

use super::{ReadValue, Session};
use crate::grant::{GrantId, Refusal};
use crate::lock::{self, Lock};
use crate::replica::ReplicaFull;
use crate::store::record::{self, ReadAt, Ttl};

/// Under this one id stand all keys whose names are no ids: some are not even text, and cannot be read one by one.
const MISNAMED: &str = "?";

impl Session {
    /// A key was announced that is under the prefix of locks and whose name is no id. It is there, or was until now: the
    /// list that follows says which.
    pub(super) fn suspect_misnamed(&self, key: &str) {
        if let Err(full) = self.insert_misnamed(key) {
            tracing::warn!("{full}");
            self.around.replica.suspect_lock(MISNAMED);
        }
    }

    pub(super) fn is_misnamed_lock(&self, key: &str) -> bool {
        self.keys.lock_id(key).is_some_and(|id| id.parse::<GrantId>().is_err())
    }

    /// A key whose name is no id was listed.
    pub(super) fn take_in_misnamed(&self, key: &str) -> Result<(), ReplicaFull> {
        self.tokens().remove(key);
        let Some(id) = self.keys.grant_id(key) else {
            self.report_unreadable(key, Refusal::BadId);
            return self.insert_misnamed(key);
        };
        self.refuse(id, Refusal::BadId);
        Ok(())
    }

    fn insert_misnamed(&self, key: &str) -> Result<(), ReplicaFull> {
        let lock = Lock::unreadable(MISNAMED, key, Refusal::BadId.code(), lock::endless());
        self.insert_lock(lock)
    }

    pub(super) fn take_in_lock(&self, id: &str, key: &str, value: ReadValue) -> Result<(), ReplicaFull> {
        // Counted from when the answer came, so that a lock never ends before its key.
        let read = self.around.clock.now();
        let (lock, refusal) = match value {
            // It was announced or listed in this history, so in this history it was ended.
            ReadValue::Absent => {
                self.around.replica.end_lock(id, read);
                return Ok(());
            }
            ReadValue::Refused { refusal, ttl } => {
                let left = match ttl {
                    Ttl::None => None,
                    Ttl::Left(left) => Some(left),
                };
                let lifetime = lock::lifetime(read, left, None);
                (Lock::unreadable(id, key, refusal.code(), lifetime), Some(refusal))
            }
            ReadValue::Present { bytes, ttl } => {
                if matches!(ttl, Ttl::Left(left) if left > lock::MAX_TTL) {
                    tracing::warn!(
                        lock = id,
                        "this lock is for longer than any should be; it holds all the same"
                    );
                }
                record::read_lock(id, key, &bytes, ReadAt { sent: read, ttl })
            }
        };
        if let Some(refusal) = refusal {
            self.report_unreadable(key, refusal);
        }
        self.insert_lock(lock)
    }

    fn insert_lock(&self, lock: Lock) -> Result<(), ReplicaFull> {
        self.around.replica.insert_lock_of(lock, &self.history, self.around.clock.now())
    }

    /// After a complete pass. Called under the lock of the tokens.
    pub(super) fn end_lock_pass(&self, is_waiting: impl Fn(&str) -> bool) {
        let lost = self.around.replica.end_lock_pass(&self.history, is_waiting);
        if lost > 0 {
            tracing::warn!(
                lost,
                "the server has lost locks, or they were ended unseen; they hold on until they would have ended"
            );
        }
    }

    fn report_unreadable(&self, key: &str, refusal: Refusal) {
        const SHOWN: usize = 160;
        let shown: String = key.chars().filter(|c| !c.is_control()).take(SHOWN).collect();
        tracing::error!(
            key = shown,
            reason = refusal.code(),
            "a lock cannot be read; everything is locked until it is mended or removed"
        );
        self.around.metrics.count_unreadable_lock(refusal);
    }
}
