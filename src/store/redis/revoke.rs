//! The end of grants: at once, whatever else is broken, on as many replicas as there are, and again if a server has
//! lost it.

use std::sync::atomic::Ordering;
use std::time::Duration;

use jiff::Timestamp;

use super::commands::Answer;
use super::connect::Connection;
use super::fault::{Failure, Fault};
use super::read::{ReadValue, Source};
use super::{COMMAND, RedisStore, bounded, lock, millis, scripts};
use crate::grant::GrantId;
use crate::store::{Revoked, StoreError};

/// For replicas to have a revocation, first and, if they are late, once more.
const WAITS: [Duration; 2] = [Duration::from_millis(200), Duration::from_millis(800)];
/// Grants that the ledger looks for at once. Their values come over the connection of the heartbeat, which must not
/// be late for them: 2 MB at most.
const REAPPLY_BATCH: usize = 32;

impl RedisStore {
    /// Ends grants. Those that were there, and how many replicas have it.
    pub(in crate::store) async fn revoke(&self, ids: Vec<GrantId>) -> Result<Revoked, StoreError> {
        let until = self.around.clock.now().wall.checked_add(self.around.max_ttl).unwrap_or(Timestamp::MAX);
        let ids = self.with_ledger(move |ledger| ledger.record(&ids, until).map(|()| ids)).await?;
        let mut revoked = Revoked { replicas: self.replicas.load(Ordering::Relaxed), ..Revoked::default() };
        let (mut last, mut failed) = (None, None);
        for id in ids {
            match self.revoke_one(&id, "grant.revoked").await {
                Ok(Ended::Now(connection)) => last = Some(connection),
                // Nobody knows on which connection it was written, nor how far it has spread.
                Ok(Ended::Before) => last = None,
                Ok(Ended::Never) => continue,
                // One that cannot be ended keeps no other alive; a server that is not there keeps all, and the ledger
                // has them.
                Err(error) => {
                    let is_hopeless = matches!(error, StoreError::NotNow(_) | StoreError::Unavailable(_));
                    failed.get_or_insert(error);
                    if is_hopeless {
                        break;
                    }
                    continue;
                }
            }
            // The push says the same a moment later, and is what the bound rests on.
            if let Some(session) = &*lock(&self.session) {
                session.forget(&id);
            }
            revoked.ids.push(id);
        }
        match failed {
            Some(error) if revoked.ids.is_empty() => return Err(error),
            Some(error) => return Err(StoreError::unavailable(error)),
            None => {}
        }
        if let Some(connection) = last {
            revoked.replicated = wait(&connection, revoked.replicas).await;
        }
        Ok(revoked)
    }

    /// By the script, and if that cannot run by a plain deletion: a grant whose end cannot be recorded ends all the
    /// same.
    async fn revoke_one(&self, id: &GrantId, event: &str) -> Result<Ended, StoreError> {
        let mut command = self.recorded(scripts::REVOKE, id, &[]);
        command.arg(event);
        let failure = match self.commands.run_apart::<(u64, String)>(&command, COMMAND).await {
            Ok((connection, Answer { value: (deleted, unrecorded), was_repeated })) => {
                if !unrecorded.is_empty() {
                    tracing::error!(grant = %id, "revoked, but not recorded in the audit stream: {unrecorded}");
                }
                return Ok(Ended::of(deleted, was_repeated, connection));
            }
            Err(failure) if failure.fault.is_unknown() || matches!(failure.fault, Fault::Unreachable(_)) => {
                return Err(failure.into());
            }
            Err(failure) => failure,
        };
        let del = redis::cmd("DEL").arg(self.keys.grant(id)).take();
        let deleted = self.commands.run_apart::<u64>(&del, COMMAND).await;
        let (connection, answer) = deleted
            .map_err(|last| Failure { may_be_done: last.may_be_done || failure.may_be_done, ..last })?;
        tracing::error!(grant = %id, "revoked, but not recorded in the audit stream: {}", failure.fault);
        Ok(Ended::of(answer.value, answer.was_repeated || failure.may_be_done, connection))
    }

    /// In a history of the server that is new, it may have lost what it acknowledged in the last. Read where the
    /// session reads, and done only when nothing is left there: another server may have found nothing to do.
    pub(super) async fn reapply_revocations(&self, source: &mut Source) -> Result<(), StoreError> {
        let now = self.around.clock.now().wall;
        let ids = self.with_ledger(move |ledger| ledger.unended(now)).await?;
        let mut failed = None;
        for batch in ids.chunks(REAPPLY_BATCH) {
            for id in self.present(source, batch).await? {
                tracing::warn!(grant = %id, "the server had lost this revocation; it is asked for again");
                self.around.metrics.count_reapplied();
                if let Err(error) = self.revoke_one(id, "grant.revoked_again").await {
                    failed.get_or_insert(error);
                }
            }
            if let Some(id) = self.present(source, batch).await?.first() {
                failed.get_or_insert(StoreError::NotNow(format!("{id} is still there")));
            }
        }
        failed.map_or(Ok(()), Err)
    }

    async fn present<'i>(
        &self,
        source: &mut Source,
        ids: &'i [GrantId],
    ) -> Result<Vec<&'i GrantId>, StoreError> {
        let keys: Vec<String> = ids.iter().map(|id| self.keys.grant(id)).collect();
        let values = bounded(COMMAND.total, source.values(&keys)).await?;
        let is_there = |(id, value)| (!matches!(value, ReadValue::Absent)).then_some(id);
        Ok(ids.iter().zip(values).filter_map(is_there).collect())
    }
}

/// What a revocation found.
enum Ended {
    /// It was there, and was deleted on this connection.
    Now(Connection),
    /// It is gone, and an attempt whose answer was lost may be why.
    Before,
    /// There was no such grant.
    Never,
}

impl Ended {
    fn of(deleted: u64, was_repeated: bool, connection: Connection) -> Self {
        match (deleted, was_repeated) {
            (1.., _) => Self::Now(connection),
            (0, true) => Self::Before,
            (0, false) => Self::Never,
        }
    }
}

/// How many replicas have everything that was written on this connection.
async fn wait(connection: &Connection, replicas: usize) -> usize {
    let mut replicated = 0;
    for limit in WAITS {
        if replicated >= replicas {
            break;
        }
        let mut link = connection.link();
        let wait = redis::cmd("WAIT").arg(replicas).arg(millis(limit)).take();
        let answer = tokio::time::timeout(limit + COMMAND.answer, wait.query_async::<usize>(&mut link)).await;
        match answer {
            Ok(Ok(count)) => replicated = count,
            // The grant is revoked; how far that has spread is all that is not known.
            Ok(Err(error)) => {
                tracing::warn!("replicas could not be waited for: {error}");
                break;
            }
            Err(_) => break,
        }
    }
    replicated
}
