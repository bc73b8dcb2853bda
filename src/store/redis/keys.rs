//! Every key daypass has in Redis. The prefix holds a hash tag, `{jit}`, which puts all keys of a tenant into one
//! cluster slot, so that a script may touch a grant and its counter together.

use redis::aio::MultiplexedConnection;

use crate::grant::GrantId;

/// `SCAN ... COUNT`: steps of the server's hash table, not keys returned.
const SCAN_COUNT: usize = 1000;

#[derive(Debug, Clone)]
pub struct Keys {
    grant_prefix: String,
    uses_prefix: String,
    heartbeat: String,
}

impl Keys {
    pub fn new(prefix: &str) -> Self {
        Self {
            grant_prefix: format!("{prefix}:grant:"),
            uses_prefix: format!("{prefix}:used:"),
            heartbeat: format!("{prefix}:hb"),
        }
    }

    /// What invalidations are asked for. Counters lie outside it, or every use would be pushed to every sidecar.
    pub fn grant_prefix(&self) -> &str {
        &self.grant_prefix
    }

    pub fn grant(&self, id: &GrantId) -> String {
        format!("{}{id}", self.grant_prefix)
    }

    pub fn uses(&self, id: &GrantId) -> String {
        format!("{}{id}", self.uses_prefix)
    }

    /// Read by the heartbeat. Need not exist: what counts is that a *keyed* command is answered, since a cluster
    /// that lost its majority still answers PING.
    pub fn heartbeat(&self) -> &str {
        &self.heartbeat
    }

    pub fn grant_id<'k>(&self, key: &'k str) -> Option<&'k str> {
        key.strip_prefix(&self.grant_prefix)
    }
}

/// A pass over all grant keys. Keys may come twice; one that is there throughout comes at least once.
pub struct Cursor(Option<u64>);

impl Cursor {
    pub const fn start() -> Self {
        Self(Some(0))
    }

    pub async fn next(
        &mut self,
        connection: &mut MultiplexedConnection,
        keys: &Keys,
    ) -> redis::RedisResult<Option<Vec<String>>> {
        let Some(cursor) = self.0 else { return Ok(None) };
        let (next, found): (u64, Vec<Vec<u8>>) = redis::cmd("SCAN")
            .arg(cursor)
            .arg("MATCH")
            .arg(format!("{}*", keys.grant_prefix))
            .arg("COUNT")
            .arg(SCAN_COUNT)
            .query_async(connection)
            .await?;
        self.0 = (next != 0).then_some(next);
        // A key that is not text has no valid id; replacing its bytes keeps it invalid.
        Ok(Some(found.iter().map(|key| String::from_utf8_lossy(key).into_owned()).collect()))
    }
}
