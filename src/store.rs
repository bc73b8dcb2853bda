//! Where grants are kept: durable writes, and the feed of the replica.
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
    /// Writes a new grant that ends after `ttl`.
    ///
    /// # Errors
    /// The id is taken, the record is not a grant, or the store cannot be reached.
    pub async fn create(
        &self,
        id: GrantId,
        record: GrantRecord,
        ttl: Duration,
    ) -> Result<StoredGrant, StoreError> {
        match self {
            Self::Embedded(store) => Arc::clone(store).create(id, record, ttl).await,
            Self::Redis(store) => store.create(id, record, ttl).await,
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

    /// Ends grants now; ids that name none are left out of the answer. With the embedded store no later check is
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
