//! Where grants are kept: durable writes, and the feed of the replica.
//!
//! Two stores, one contract: the embedded one lives in this process, Redis is shared by many. The check path never
//! waits for either, with one exception: a use-limited grant, whose uses only the store can count.

mod embedded;
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
use crate::replica::Replica;

pub use embedded::EmbeddedStore;
pub use record::GrantRecord;
pub use redis::{RedisConfig, RedisStore, RedisUrl, RedisUrlError};

/// Named by what the caller can do about it.
#[derive(Debug, Error)]
pub enum StoreError {
    #[error("there is no such grant")]
    NotFound,
    #[error("a grant with this id exists")]
    AlreadyExists,
    #[error("not a grant: {}", .0.code())]
    Invalid(Refusal),
    #[error("the store holds its maximum of grants")]
    Full,
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

/// What became of an attempt to use a use-limited grant once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Use {
    Taken,
    Exhausted,
    /// Revoked, expired or changed since it was decided on.
    Gone,
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

    /// Ends a grant now. With the embedded store no later check is decided on it. With Redis the same holds at every
    /// sidecar after one push, about a millisecond, and whatever happens to the network after `max_staleness`.
    ///
    /// # Errors
    /// There is no such grant, or the store cannot be reached.
    pub async fn revoke(&self, id: GrantId) -> Result<(), StoreError> {
        match self {
            Self::Embedded(store) => Arc::clone(store).revoke(id).await,
            Self::Redis(store) => store.revoke(&id).await,
        }
    }

    /// Takes one use of a grant, exactly as it was decided on.
    ///
    /// # Errors
    /// The store cannot be reached; the use may or may not have been taken.
    pub async fn take_use(&self, grant: &Arc<Grant>, max_uses: NonZeroU64) -> Result<Use, StoreError> {
        match self {
            Self::Embedded(store) => Arc::clone(store).take_use(Arc::clone(grant), max_uses).await,
            Self::Redis(store) => store.take_use(grant, max_uses).await,
        }
    }
}
