//! Grants in Redis, shared by any number of sidecars and writers.
//!
//! The key contract is one string key per grant with a TTL; no index to keep in step. Each sidecar holds a full
//! replica, kept by `session`. Everything that speaks the Redis protocol is below this module.

mod connect;
mod keys;
mod session;

use std::convert::Infallible;
use std::num::NonZeroU64;
use std::sync::Arc;
use std::time::Duration;

use redis::aio::MultiplexedConnection;

use super::record::{self, GrantRecord, MAX_VALUE_BYTES, ReadAt, Ttl};
use super::{StoreError, StoredGrant, Surroundings, Use};
use crate::grant::{Grant, GrantId, Refusal};

pub use connect::{RedisConfig, RedisUrl, RedisUrlError};
use keys::Keys;

/// For one command of the grant API or one use of a limited grant.
const COMMAND_TIMEOUT: Duration = Duration::from_secs(1);

/// Keys of one `SCAN` step and of one pipeline: large enough to be few, small enough to answer in milliseconds.
const BATCH: usize = 500;

/// Takes one use. Both keys lie in one cluster slot. The grant's key is an argument, because a sidecar's user may
/// read it and not write it, and Redis asks for both on everything that is declared.
///
/// The counter lives by a TTL of its own, renewed with every attempt: with the grant's, a grant that is extended after
/// its last use would come back with all its uses.
///
/// KEYS[1] uses counter · ARGV[1] grant key · ARGV[2] value decided on · ARGV[3] max uses · ARGV[4] counter TTL in ms
const TAKE_USE: &str = r"
local value = redis.call('GET', ARGV[1])
if not value or value ~= ARGV[2] then return -1 end
if redis.call('PTTL', ARGV[1]) <= 0 then return -1 end
local used = tonumber(redis.call('GET', KEYS[1]) or '0')
local taken = used < tonumber(ARGV[3]) and 1 or 0
redis.call('SET', KEYS[1], used + taken, 'PX', ARGV[4])
return taken
";

/// In grants' longest lives. An unused grant must be extended more than once before its counter could be gone.
const COUNTER_LIVES: u32 = 2;

#[derive(Debug)]
pub struct RedisStore {
    config: RedisConfig,
    keys: Keys,
    around: Surroundings,
}

impl RedisStore {
    #[must_use]
    pub fn new(config: RedisConfig, around: Surroundings) -> Self {
        let keys = Keys::new(&config.key_prefix);
        Self { config, keys, around }
    }

    /// Keeps the replica in step with Redis, for ever: a lost session is followed by the next one.
    pub async fn follow(self: Arc<Self>) -> Infallible {
        session::follow(&self).await
    }

    pub(super) async fn create(
        &self,
        id: GrantId,
        record: GrantRecord,
        ttl: Duration,
    ) -> Result<StoredGrant, StoreError> {
        let text = serde_json::to_string(&record).map_err(StoreError::unavailable)?;
        let read_at = ReadAt { sent: self.around.clock.now(), ttl: Ttl::Left(ttl) };
        let grant = record::decode(id.as_str(), text.as_bytes(), read_at, self.around.max_ttl)
            .map_err(StoreError::Invalid)?;
        let ttl_ms = u64::try_from(ttl.as_millis()).unwrap_or(u64::MAX).max(1);
        let mut connection = self.connect().await?;
        let written: Option<String> = redis::cmd("SET")
            .arg(self.keys.grant(&id))
            .arg(text)
            .arg("PX")
            .arg(ttl_ms)
            .arg("NX")
            .query_async(&mut connection)
            .await
            .map_err(StoreError::unavailable)?;
        match written {
            Some(_) => Ok(StoredGrant { record, id, expires_at: grant.lifetime.expires_at }),
            None => Err(StoreError::AlreadyExists),
        }
    }

    pub(super) async fn get(&self, id: &GrantId) -> Result<StoredGrant, StoreError> {
        let mut connection = self.connect().await?;
        let found = self.read(&mut connection, &[self.keys.grant(id)]).await?;
        found.into_iter().next().ok_or(StoreError::NotFound)
    }

    pub(super) async fn list(&self) -> Result<Vec<StoredGrant>, StoreError> {
        let mut connection = self.connect().await?;
        let mut keys = Vec::new();
        let mut cursor = keys::Cursor::start();
        while let Some(batch) =
            cursor.next(&mut connection, &self.keys).await.map_err(StoreError::unavailable)?
        {
            keys.extend(batch);
        }
        // SCAN may give a key twice.
        keys.sort();
        keys.dedup();
        let mut grants = Vec::with_capacity(keys.len());
        for batch in keys.chunks(BATCH) {
            grants.extend(self.read(&mut connection, batch).await?);
        }
        Ok(grants)
    }

    pub(super) async fn revoke(&self, id: &GrantId) -> Result<(), StoreError> {
        let mut connection = self.connect().await?;
        let deleted: u64 = redis::cmd("DEL")
            .arg(self.keys.grant(id))
            .query_async(&mut connection)
            .await
            .map_err(StoreError::unavailable)?;
        // The push says the same a moment later, and is what the bound rests on.
        self.around.replica.remove(id.as_str());
        if deleted == 0 { Err(StoreError::NotFound) } else { Ok(()) }
    }

    pub(super) async fn take_use(&self, grant: &Grant, max_uses: NonZeroU64) -> Result<Use, StoreError> {
        let mut connection = self.connect().await?;
        let taken: i64 = redis::cmd("EVAL")
            .arg(TAKE_USE)
            .arg(1)
            .arg(self.keys.uses(&grant.id))
            .arg(self.keys.grant(&grant.id))
            .arg(&*grant.document)
            .arg(max_uses.get())
            .arg(u64::try_from((self.around.max_ttl * COUNTER_LIVES).as_millis()).unwrap_or(u64::MAX))
            .query_async(&mut connection)
            .await
            .map_err(StoreError::unavailable)?;
        Ok(match taken {
            1 => Use::Taken,
            0 => Use::Exhausted,
            _ => Use::Gone,
        })
    }

    async fn connect(&self) -> Result<MultiplexedConnection, StoreError> {
        connect::open(&self.config, COMMAND_TIMEOUT, None).await.map_err(StoreError::unavailable)
    }

    /// The grants among these keys; what is not a grant is left out.
    async fn read(
        &self,
        connection: &mut MultiplexedConnection,
        keys: &[String],
    ) -> Result<Vec<StoredGrant>, StoreError> {
        let sent = self.around.clock.now();
        let values = read_values(connection, keys).await.map_err(StoreError::unavailable)?;
        let stored = |(key, value): (&String, ReadValue)| {
            let ReadValue::Present { bytes, ttl } = value else { return None };
            let id = self.keys.grant_id(key)?;
            let grant = record::decode(id, &bytes, ReadAt { sent, ttl }, self.around.max_ttl).ok()?;
            let record = serde_json::from_slice(&bytes).ok()?;
            let ended = grant.lifetime.has_ended(sent);
            (!ended).then_some(StoredGrant { record, id: grant.id, expires_at: grant.lifetime.expires_at })
        };
        Ok(keys.iter().zip(values).filter_map(stored).collect())
    }
}

/// What a key held when it was read.
enum ReadValue {
    Absent,
    Present { bytes: Vec<u8>, ttl: Ttl },
    Refused(Refusal),
}

/// Values and TTLs of the keys, in one pipeline. A key that cannot be read spoils no other: without
/// `ignore_errors`, one key of a wrong type would keep every sidecar from ever being in step.
async fn read_values<K: AsRef<str>>(
    connection: &mut MultiplexedConnection,
    keys: &[K],
) -> redis::RedisResult<Vec<ReadValue>> {
    let mut pipeline = redis::pipe();
    pipeline.ignore_errors();
    for key in keys {
        // At most one byte more than allowed: a value of 64 MiB never crosses the wire.
        let key = key.as_ref();
        pipeline.cmd("GETRANGE").arg(key).arg(0).arg(MAX_VALUE_BYTES);
        pipeline.cmd("PTTL").arg(key);
    }
    let replies: Vec<redis::RedisResult<redis::Value>> = pipeline.query_async(connection).await?;
    let mut replies = replies.into_iter();
    let mut values = Vec::with_capacity(keys.len());
    for _ in keys {
        let (Some(value), Some(ttl)) = (replies.next(), replies.next()) else {
            return Err((redis::ErrorKind::UnexpectedReturnType, "fewer replies than commands").into());
        };
        values.push(read_value(value, ttl)?);
    }
    Ok(values)
}

fn read_value(
    value: redis::RedisResult<redis::Value>,
    ttl: redis::RedisResult<redis::Value>,
) -> redis::RedisResult<ReadValue> {
    let ttl: i64 = redis::from_redis_value(ttl?)?;
    let bytes = match value {
        Ok(redis::Value::BulkString(bytes)) => bytes,
        Ok(_) => return Ok(ReadValue::Refused(Refusal::WrongType)),
        Err(error) if error.code() == Some("WRONGTYPE") => return Ok(ReadValue::Refused(Refusal::WrongType)),
        // LOADING, MOVED, NOPERM and the like say nothing about this key: the read as a whole has failed.
        Err(error) => return Err(error),
    };
    Ok(match u64::try_from(ttl) {
        Ok(millis) => ReadValue::Present { bytes, ttl: Ttl::Left(Duration::from_millis(millis)) },
        Err(_) if ttl == -1 => ReadValue::Present { bytes, ttl: Ttl::None },
        Err(_) => ReadValue::Absent,
    })
}
