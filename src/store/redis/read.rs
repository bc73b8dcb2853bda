//! Reading grants and locks: which keys there are, and what they hold, with nothing that one bad key could spoil for
//! others.

use redis::aio::MultiplexedConnection;
use redis::{Pipeline, RedisResult, Value};

use super::fault::Fault;
use super::keys::Keys;
use super::server::{Replication, joined};
use super::topology;
use super::url::Node;
use crate::grant::Refusal;
use crate::store::record::{MAX_VALUE_BYTES, Ttl};

/// Keys of one pipeline: large enough to be few, small enough to answer in milliseconds.
pub const BATCH: usize = 500;
/// `SCAN ... COUNT`: steps of the server's hash table, not keys returned.
const SCAN_COUNT: usize = 1000;

/// The servers that have the grants: one, and while a cluster moves the slot, two.
pub struct Source {
    pub owner: MultiplexedConnection,
    /// Where the slot is being moved to: asked for what the owner no longer has.
    pub target: Option<Target>,
    pub slot: Option<u16>,
}

pub struct Target {
    pub node: Node,
    pub link: MultiplexedConnection,
}

/// What a key held when it was read.
#[derive(Debug)]
pub enum ReadValue {
    Absent,
    Present { bytes: Vec<u8>, ttl: Ttl },
    Refused { refusal: Refusal, ttl: Ttl },
}

impl Target {
    pub fn is(&self, node: Option<&Node>) -> bool {
        node.is_none_or(|node| topology::beside(&self.node, node.clone()) == self.node)
    }
}

impl Source {
    /// Values and TTLs of the keys.
    pub async fn values<K: AsRef<str>>(&mut self, keys: &[K]) -> Result<Vec<ReadValue>, Fault> {
        let replies = read_at(&mut self.owner, keys, Redirected::No).await?;
        let mut values = Vec::with_capacity(keys.len());
        let mut moved = Vec::new();
        for (index, reply) in replies.into_iter().enumerate() {
            match reply {
                Ok(value) => values.push(value),
                // To a third node the slot cannot be on its way; then this is another move than the one we follow.
                Err(Fault::Ask(node))
                    if self.target.as_ref().is_some_and(|target| target.is(node.as_ref())) =>
                {
                    moved.push(index);
                    values.push(ReadValue::Absent);
                }
                // LOADING, MOVED, NOPERM and the like say nothing about this key: the read as a whole has failed.
                Err(fault) => return Err(fault),
            }
        }
        if let Some(Target { link: target, .. }) = &mut self.target {
            let asked: Vec<&str> = moved.iter().map(|index| keys[*index].as_ref()).collect();
            for (index, reply) in moved.iter().zip(read_at(target, &asked, Redirected::Yes).await?) {
                values[*index] = reply?;
            }
        }
        Ok(values)
    }
}

impl Source {
    /// The history that the servers are in at this moment.
    pub async fn history(&mut self) -> Result<String, Fault> {
        let mut ask = redis::cmd("INFO");
        ask.arg("replication");
        let info: String = ask.query_async(&mut self.owner).await?;
        let owner = Replication::parse(&info).history;
        let Some(Target { link, .. }) = &mut self.target else { return Ok(owner) };
        let info: String = ask.query_async(link).await?;
        Ok(joined(&owner, &Replication::parse(&info).history))
    }
}

/// A walk over all keys of grants and locks, in portions. Keys may come twice; one that is there throughout comes at least once.
/// In a cluster a server is asked for its keys of our slot, which are just ours; elsewhere it walks over all it has.
pub struct Listing(Step);

#[derive(Clone, Copy)]
enum Step {
    Scan(u64),
    Owner(u16),
    Target(u16),
    Done,
}

impl Listing {
    pub fn of(source: &Source) -> Self {
        Self(source.slot.map_or(Step::Scan(0), Step::Owner))
    }

    pub async fn next(&mut self, source: &mut Source, keys: &Keys) -> Result<Option<Vec<String>>, Fault> {
        let (found, next) = match (self.0, &mut source.target) {
            (Step::Scan(cursor), _) => {
                let (next, found) = scan(&mut source.owner, cursor, keys).await?;
                (found, if next == 0 { Step::Done } else { Step::Scan(next) })
            }
            // In this order: what moves in between was at the owner, or is at the target.
            (Step::Owner(slot), _) => {
                (keys_in_slot(&mut source.owner, slot, keys).await?, Step::Target(slot))
            }
            (Step::Target(slot), Some(target)) => {
                (keys_in_slot(&mut target.link, slot, keys).await?, Step::Done)
            }
            (Step::Target(_) | Step::Done, _) => return Ok(None),
        };
        self.0 = next;
        Ok(Some(found))
    }
}

async fn scan(
    server: &mut MultiplexedConnection,
    cursor: u64,
    keys: &Keys,
) -> Result<(u64, Vec<String>), Fault> {
    let mut scan = redis::cmd("SCAN");
    scan.arg(cursor).arg("MATCH").arg(keys.pattern()).arg("COUNT").arg(SCAN_COUNT);
    let (next, found): (u64, Vec<Vec<u8>>) = scan.query_async(server).await?;
    Ok((next, found.iter().map(|key| text(key)).filter(|key| keys.is_followed(key)).collect()))
}

async fn keys_in_slot(
    server: &mut MultiplexedConnection,
    slot: u16,
    keys: &Keys,
) -> Result<Vec<String>, Fault> {
    // All of them at once: counters come and go meanwhile, and of a smaller number the grants might be left out.
    let mut list = redis::cmd("CLUSTER");
    list.arg("GETKEYSINSLOT").arg(slot).arg(i32::MAX);
    let found: Vec<Vec<u8>> = list.query_async(server).await?;
    Ok(found.iter().map(|key| text(key)).filter(|key| keys.is_followed(key)).collect())
}

/// A key that is not text has no valid id; replacing its bytes keeps it invalid.
fn text(key: &[u8]) -> String {
    String::from_utf8_lossy(key).into_owned()
}

/// Whether a server is asked for keys of a slot that it is only about to get.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Redirected {
    Yes,
    No,
}

/// In one pipeline, each key with a result of its own: without `ignore_errors`, one key of a wrong type would keep
/// every sidecar from ever being in step.
async fn read_at<K: AsRef<str>>(
    server: &mut MultiplexedConnection,
    keys: &[K],
    redirected: Redirected,
) -> Result<Vec<Result<ReadValue, Fault>>, Fault> {
    if keys.is_empty() {
        return Ok(Vec::new());
    }
    let mut pipeline = redis::pipe();
    pipeline.ignore_errors();
    let asking = |pipeline: &mut Pipeline| {
        if redirected == Redirected::Yes {
            pipeline.cmd("ASKING");
        }
    };
    for key in keys {
        let key = key.as_ref();
        asking(&mut pipeline);
        // At most one byte more than allowed: a value of 64 MiB never crosses the wire.
        pipeline.cmd("GETRANGE").arg(key).arg(0).arg(MAX_VALUE_BYTES);
        asking(&mut pipeline);
        pipeline.cmd("PTTL").arg(key);
    }
    let replies: Vec<RedisResult<Value>> = pipeline.query_async(server).await?;
    let per_key = if redirected == Redirected::Yes { 4 } else { 2 };
    if replies.len() != keys.len() * per_key {
        return Err(Fault::Other("fewer replies than commands".to_owned()));
    }
    let mut replies = replies.into_iter();
    let mut next = || {
        if redirected == Redirected::Yes {
            replies.next();
        }
        replies.next().unwrap_or(Ok(Value::Nil))
    };
    Ok(keys.iter().map(|_| read_value(next(), next())).collect())
}

fn read_value(value: RedisResult<Value>, ttl: RedisResult<Value>) -> Result<ReadValue, Fault> {
    let ttl: i64 = redis::from_redis_value(ttl?).map_err(|error| Fault::Other(error.to_string()))?;
    let ttl = match u64::try_from(ttl) {
        Ok(millis) => Ttl::Left(std::time::Duration::from_millis(millis)),
        Err(_) if ttl == -1 => Ttl::None,
        Err(_) => return absent(value),
    };
    match value {
        Ok(Value::BulkString(bytes)) => Ok(ReadValue::Present { bytes, ttl }),
        Ok(_) => Ok(ReadValue::Refused { refusal: Refusal::WrongType, ttl }),
        Err(error) if error.code() == Some("WRONGTYPE") => {
            Ok(ReadValue::Refused { refusal: Refusal::WrongType, ttl })
        }
        Err(error) => Err(error.into()),
    }
}

/// The key is not there, or went between the two commands.
fn absent(value: RedisResult<Value>) -> Result<ReadValue, Fault> {
    match value {
        Err(error) if error.code() != Some("WRONGTYPE") => Err(error.into()),
        _ => Ok(ReadValue::Absent),
    }
}
