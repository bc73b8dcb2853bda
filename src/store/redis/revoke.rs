//! The end of grants: at once, whatever else is broken, on as many replicas as there are, and again if a server has
//! lost it.

use std::sync::atomic::Ordering;
use std::time::Duration;

use jiff::Timestamp;

use super::commands::Answer;
use super::connect::Connection;
use super::read::{ReadValue, Source};
use super::{COMMAND, RedisStore, bounded, lock, millis, scripts};
use crate::grant::GrantId;
use crate::store::{Revoked, StoreError};

/// For replicas to have a revocation, first and, if they are late, once more.
const WAITS: [Duration; 2] = [Duration::from_millis(200), Duration::from_millis(800)];
/// Grants that the ledger looks for at once. Their values come over the connection of the heartbeat, which must not
/// be late for them: 2 MB at most.
const REAPPLY_BATCH: usize = 32;
/// Grants that are ended in one step: less than a millisecond of the server's.
const REVOKE_BATCH: usize = 500;

impl RedisStore {
    /// Ends grants without a record, for when one cannot be written. Those that were there, and how many replicas
    /// have it.
    pub(in crate::store) async fn revoke(&self, ids: Vec<GrantId>) -> Result<Revoked, StoreError> {
        let until = self.around.clock.now().wall.checked_add(self.around.max_ttl).unwrap_or(Timestamp::MAX);
        let ids = self.with_ledger(move |ledger| ledger.record(&ids, until).map(|()| ids)).await?;
        let mut revoked = Revoked { replicas: self.replicas.load(Ordering::Relaxed), ..Revoked::default() };
        let (mut last, mut failed) = (None, None);
        for batch in ids.chunks(REVOKE_BATCH) {
            let deleted = self.delete_batch(batch, &mut failed).await;
            // The push says the same a moment later, and is what the bound rests on.
            if let Some(session) = &*lock(&self.session) {
                deleted.ids.iter().for_each(|id| session.forget(id));
            }
            if !deleted.ids.is_empty() {
                last = deleted.connection;
            }
            revoked.ids.extend(deleted.ids);
            // A server that is not there keeps all, and the ledger has them.
            if failed.as_ref().is_some_and(is_hopeless) {
                break;
            }
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

    /// All at once, and also when the server is out of memory.
    async fn delete(&self, ids: &[GrantId]) -> Result<Deleted, StoreError> {
        let keys: Vec<String> = ids.iter().map(|id| self.keys.grant(id)).collect();
        let mut command = redis::cmd("EVAL");
        command.arg(scripts::REVOKE).arg(keys.len()).arg(&keys);
        let (connection, Answer { value, was_repeated }) =
            self.commands.run_apart::<Vec<u64>>(&command, COMMAND).await?;
        // One that is gone may be so because of an attempt whose answer was lost. Then nobody knows on which connection
        // it was written, nor how far it has spread.
        let was_there = |(id, deleted): (&GrantId, u64)| (deleted > 0 || was_repeated).then(|| id.clone());
        let ids = ids.iter().zip(value).filter_map(was_there).collect();
        Ok(Deleted { ids, connection: (!was_repeated).then_some(connection) })
    }

    /// Together, or if that is refused one by one: in the middle of a cluster's move some are here and some are there.
    /// One that cannot be ended keeps no other alive.
    async fn delete_batch(&self, ids: &[GrantId], failed: &mut Option<StoreError>) -> Deleted {
        match self.delete(ids).await {
            Ok(deleted) => return deleted,
            Err(StoreError::NotNow(_) | StoreError::Refused(_)) if ids.len() > 1 => {}
            Err(error) => {
                failed.get_or_insert(error);
                return Deleted::default();
            }
        }
        let mut all = Deleted::default();
        for id in ids {
            match self.delete(std::slice::from_ref(id)).await {
                Ok(deleted) if deleted.ids.is_empty() => {}
                Ok(deleted) => {
                    all.ids.extend(deleted.ids);
                    all.connection = deleted.connection;
                }
                Err(error) => {
                    let is_over = is_hopeless(&error);
                    failed.get_or_insert(error);
                    if is_over {
                        break;
                    }
                }
            }
        }
        all
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
                match self.delete(std::slice::from_ref(id)).await {
                    Ok(_) => self.note_reapplied(id).await,
                    Err(error) => {
                        failed.get_or_insert(error);
                    }
                }
            }
            if let Some(id) = self.present(source, batch).await?.first() {
                failed.get_or_insert(StoreError::NotNow(format!("{id} is still there")));
            }
        }
        failed.map_or(Ok(()), Err)
    }

    async fn note_reapplied(&self, id: &GrantId) {
        let fields = [
            ("id", uuid::Uuid::now_v7().to_string()),
            ("type", "grant.revoked_again".to_owned()),
            ("grant", id.to_string()),
        ];
        let event = fields.into_iter().map(|(name, value)| (name.to_owned(), value.into())).collect();
        self.note(&event).await;
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

/// What was ended, and where it was written if that is known.
#[derive(Default)]
struct Deleted {
    ids: Vec<GrantId>,
    connection: Option<Connection>,
}

/// Whether the next one would fare no better.
const fn is_hopeless(error: &StoreError) -> bool {
    matches!(error, StoreError::NotNow(_) | StoreError::Unavailable(_))
}

/// How many replicas have everything that was written on this connection.
pub(super) async fn wait(connection: &Connection, replicas: usize) -> usize {
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
