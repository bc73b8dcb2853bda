//! Where grants, and all that led to them, are kept: durable writes, and the feed of the replica.
//!
//! Two stores, one contract: the embedded one lives in this process, Redis is shared by many. The check path never
//! waits for either, with one exception: a use-limited grant, whose uses only the store can count.

mod embedded;
mod file;
pub mod journal;
mod ledger;
pub mod record;
mod redis;

use std::num::NonZeroU64;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use thiserror::Error;

use crate::clock::Clock;
use crate::grant::{Grant, GrantId, Refusal};
use crate::metrics::Metrics;
use crate::principal::Principal;
use crate::replica::{NoRoom, Replica};

use journal::{Commit, Due, Index, Look, Outcome, Place, Row, StoredEvent};

pub use embedded::EmbeddedStore;
pub use ledger::Ledger;
pub use record::GrantRecord;
pub use redis::{
    ClientCertificate, RedisConfig, RedisStore, RedisTls, RedisUrl, RedisUrlError, SentinelLogin,
};

/// How long a use is remembered for the check it was taken for. Longer than all attempts of Envoy at one check, its
/// own timeout and retries included; an id that comes back later is another request.
const USE_MEMORY: Duration = Duration::from_secs(5);

/// Named by what the caller can do about it.
#[derive(Debug, Error)]
pub enum StoreError {
    #[error("there is no such grant")]
    NotFound,
    #[error("a grant with this id exists, or was revoked; ids are never used again")]
    AlreadyExists,
    #[error("not a grant: {}", .0.code())]
    Invalid(Refusal),
    #[error(transparent)]
    Full(#[from] NoRoom),
    /// Nothing was done, and it may be done if it is asked for again.
    #[error("the store cannot do it now: {0}")]
    NotNow(String),
    /// Nothing was done, and somebody has to mend something first.
    #[error("the store refuses: {0}")]
    Refused(String),
    /// Try again later; nobody knows whether a write happened.
    #[error("the store cannot be reached")]
    Unavailable(#[source] Box<dyn std::error::Error + Send + Sync>),
}

impl StoreError {
    fn unavailable(error: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Self {
        Self::Unavailable(error.into())
    }
}

/// A grant as the store has it.
#[derive(Debug, Clone, PartialEq)]
pub struct StoredGrant {
    pub record: GrantRecord,
    pub id: GrantId,
    /// The effective end: the earlier of the key's TTL and the date in the record.
    pub expires_at: Timestamp,
}

/// A use-limited grant, of which one use is to be taken.
#[derive(Debug, Clone)]
pub struct Limited {
    pub grant: Arc<Grant>,
    pub max_uses: NonZeroU64,
}

/// Names what is remembered of a check: with the grants, because a check that is decided again without a spent one
/// takes a use of another.
fn memory_of(check: &str, grants: &[Limited]) -> String {
    let ids: Vec<&str> = grants.iter().map(|limited| limited.grant.id.as_str()).collect();
    format!("{check}:{}", ids.join(","))
}

/// What became of an attempt to take one use of each of some grants. Either all were taken or none.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Use {
    Taken,
    /// This one has no uses left.
    Exhausted(GrantId),
    /// This one was revoked, and the replica has not heard of it yet.
    Revoked(GrantId),
    /// This one has run out.
    Ended(GrantId),
    /// One of them is not what was decided on any more; it is being read again.
    Changed,
}

/// Grants that were ended, and how far that has spread.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Revoked {
    pub ids: Vec<GrantId>,
    /// Replicas of the store, one of which may take its place.
    pub replicas: usize,
    /// Of these, how many have the revocations.
    pub replicated: usize,
}

/// What a store needs of the rest of the process.
#[derive(Debug, Clone)]
pub struct Surroundings {
    pub replica: Arc<Replica>,
    pub metrics: Arc<Metrics>,
    pub clock: Clock,
    /// Longest TTL of a grant; longer ones are refused.
    pub max_ttl: Duration,
}

#[derive(Debug)]
pub enum Store {
    Embedded(Arc<EmbeddedStore>),
    Redis(Arc<RedisStore>),
}

impl Store {
    /// The journal's head, the store's clock and these rows, all of one moment.
    ///
    /// # Errors
    /// The store cannot be reached.
    pub async fn look(&self, rows: &[Row]) -> Result<Look, StoreError> {
        match self {
            Self::Embedded(store) => Arc::clone(store).look(rows.to_vec()).await,
            Self::Redis(store) => store.look(rows).await,
        }
    }

    /// Makes a change with its events, whole or not at all. Asked again for the same one it answers the same.
    ///
    /// # Errors
    /// The change is none that can be made, or the store cannot be reached.
    pub async fn commit(&self, commit: Commit) -> Result<Outcome, StoreError> {
        match self {
            Self::Embedded(store) => Arc::clone(store).commit(commit).await,
            Self::Redis(store) => store.commit(commit).await,
        }
    }

    /// A page of an index, the newest first: from the newest, or from behind the last place of the page before. At most
    /// [`journal::MAX_PAGE`].
    ///
    /// # Errors
    /// The store cannot be reached.
    pub async fn scan(
        &self,
        index: &Index,
        before: Option<&Place>,
        limit: usize,
    ) -> Result<Vec<Place>, StoreError> {
        match self {
            Self::Embedded(store) => Arc::clone(store).scan(index, before.cloned(), limit).await,
            Self::Redis(store) => store.scan(index, before, limit).await,
        }
    }

    /// Events after a number, in their order. At most [`journal::MAX_PAGE`]; none only if there are none.
    ///
    /// # Errors
    /// The store cannot be reached.
    pub async fn events(&self, after: u64, limit: usize) -> Result<Vec<StoredEvent>, StoreError> {
        match self {
            Self::Embedded(store) => Arc::clone(store).events(after, limit).await,
            Self::Redis(store) => store.events(after, limit).await,
        }
    }

    /// What is to be looked at by now, and when the next is. At most [`journal::MAX_PAGE`].
    ///
    /// # Errors
    /// The store cannot be reached.
    pub async fn due(&self, limit: usize) -> Result<Due, StoreError> {
        match self {
            Self::Embedded(store) => Arc::clone(store).due(limit).await,
            Self::Redis(store) => store.due(limit).await,
        }
    }

    /// Returns when the journal's last number is above `past`; a store that cannot be reached is waited for. Of a server
    /// that lost its journal that may be long: whoever waits for what may never be bounds it.
    pub async fn moved(&self, past: u64) {
        match self {
            Self::Embedded(store) => store.moved(past).await,
            Self::Redis(store) => store.moved(past).await,
        }
    }

    /// # Errors
    /// There is no such grant, or the store cannot be reached.
    pub async fn get(&self, id: GrantId) -> Result<StoredGrant, StoreError> {
        match self {
            Self::Embedded(store) => store.get(&id),
            Self::Redis(store) => store.get(&id).await,
        }
    }

    /// All grants, or all of one subject, by id. Reads the store itself, not the replica.
    ///
    /// # Errors
    /// The store cannot be reached.
    pub async fn list(&self, subject: Option<&Principal>) -> Result<Vec<StoredGrant>, StoreError> {
        let mut grants = match self {
            Self::Embedded(store) => store.list()?,
            Self::Redis(store) => store.list().await?,
        };
        if let Some(subject) = subject {
            grants.retain(|grant| grant.record.subject == subject.as_str());
        }
        grants.sort_by(|a, b| a.id.cmp(&b.id));
        Ok(grants)
    }

    /// Ends grants now, without an event: the last resort, for when a commit that ends them cannot be made. Ids that name none are left out of the answer. With the embedded store no later check is
    /// decided on them. With Redis the same holds at every sidecar after one push, about a millisecond, and whatever
    /// happens to the network after `max_staleness`.
    ///
    /// # Errors
    /// The store cannot be reached; some of them may have ended.
    pub async fn revoke(&self, ids: Vec<GrantId>) -> Result<Revoked, StoreError> {
        match self {
            Self::Embedded(store) => Arc::clone(store).revoke(ids).await,
            Self::Redis(store) => store.revoke(ids).await,
        }
    }

    /// Takes one use of each grant, exactly as it was decided on, or of none. Asked again for the same `check` within
    /// some seconds it gives the same answer and takes nothing.
    ///
    /// # Errors
    /// The store cannot be reached `within` that time; the uses may or may not have been taken.
    pub async fn take_uses(
        &self,
        grants: Vec<Limited>,
        check: &str,
        within: Duration,
    ) -> Result<Use, StoreError> {
        match self {
            Self::Embedded(store) => Arc::clone(store).take_uses(grants, check.to_owned()).await,
            Self::Redis(store) => store.take_uses(&grants, check, within).await,
        }
    }
}
