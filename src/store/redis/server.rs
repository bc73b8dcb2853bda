//! What a server says of itself: which role and history it has, and whether grants are safe with it.

use std::collections::HashMap;
use std::time::Duration;

use redis::aio::MultiplexedConnection;

use super::fault::Fault;

/// The first that has everything the protocol needs: ACL key permissions, script flags, `INFO` of several sections.
const OLDEST_MAJOR_VERSION: u32 = 7;

/// `INFO replication`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Replication {
    pub is_master: bool,
    /// `master_replid`: another one after every restart and every promotion. As long as it is the same, the server
    /// cannot have lost a write that it acknowledged.
    pub history: String,
    /// Seconds since each online replica was last heard of.
    lags: Vec<u64>,
}

impl Replication {
    #[must_use]
    pub fn parse(info: &str) -> Self {
        let lag = |line: &str| {
            let (name, fields) = line.split_once(':')?;
            let number = name.strip_prefix("slave")?;
            let is_replica = !number.is_empty() && number.bytes().all(|byte| byte.is_ascii_digit());
            let is_online = fields.split(',').any(|field| field == "state=online");
            let lag = fields.split(',').find_map(|field| field.strip_prefix("lag="))?;
            (is_replica && is_online).then(|| lag.parse().ok())?
        };
        Self {
            is_master: field(info, "role") == Some("master"),
            history: field(info, "master_replid").unwrap_or_default().to_owned(),
            lags: info.lines().filter_map(lag).collect(),
        }
    }

    /// How many replicas are online, and were heard of within `max_lag`.
    #[must_use]
    pub fn replicas_within(&self, max_lag: Duration) -> usize {
        self.lags.iter().filter(|lag| Duration::from_secs(**lag) <= max_lag).count()
    }

    #[must_use]
    pub fn replicas(&self) -> usize {
        self.lags.len()
    }
}

/// The history of two servers that are followed as one.
pub fn joined(owner: &str, target: &str) -> String {
    format!("{owner}+{target}")
}

/// Something about the server that an operator should change. None of them makes an answer wrong as long as nothing
/// else goes wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Concern {
    /// Grants are the keys with a TTL, hence the first to be evicted: unexplained denials.
    EvictsGrants,
    /// A restart brings revoked grants back.
    SnapshotsOnly,
    /// `CONFIG` is not allowed to this user, and there is no AOF.
    UnknownPersistence,
    /// Scripts or counters are not allowed to this user.
    CannotCountUses,
    /// A crash of the host loses up to a second of acknowledged revocations.
    SyncsEverySecond,
}

impl Concern {
    #[must_use]
    pub const fn message(self) -> &'static str {
        match self {
            Self::EvictsGrants => {
                "maxmemory-policy evicts keys with a TTL, which grants are; set `maxmemory-policy noeviction`"
            }
            Self::SnapshotsOnly => {
                "it keeps snapshots and no AOF, so a restart brings revoked grants back; set `appendonly yes` with \
                 `appendfsync always`, or `save \"\"`"
            }
            Self::UnknownPersistence => {
                "it has no AOF, and this user may not ask whether it keeps snapshots, with which a restart brings \
                 revoked grants back; check that `save` is empty, or allow `+config|get`"
            }
            Self::CannotCountUses => {
                "this user may not count uses, so grants with `max_uses` are denied; docs/grant-key.md has the permissions"
            }
            Self::SyncsEverySecond => {
                "its AOF is not synced with every write, so a crash of its host can bring revoked grants back; set \
                 `appendfsync always`"
            }
        }
    }
}

/// What a server says when a session begins.
#[derive(Debug)]
pub struct Greeting {
    pub replication: Replication,
    pub is_cluster: bool,
    pub concerns: Vec<Concern>,
}

/// Asks all of it at once: a session is begun when the last one was lost, and every round trip of it is a denial.
///
/// # Errors
/// It cannot be asked, or is not one that grants can be trusted to.
pub async fn greet(link: &mut MultiplexedConnection) -> Result<Greeting, Fault> {
    let mut pipeline = redis::pipe();
    pipeline.ignore_errors();
    pipeline.cmd("INFO").arg("replication").cmd("INFO").arg("cluster");
    pipeline.cmd("INFO").arg(&["server", "memory", "persistence"]);
    pipeline.cmd("CONFIG").arg(&["GET", "save", "appendfsync"]);
    let answers: [redis::RedisResult<redis::Value>; 4] = pipeline
        .query_async::<Vec<_>>(link)
        .await?
        .try_into()
        .map_err(|_| Fault::Other("fewer answers than questions".to_owned()))?;
    let [replication, cluster, server, settings] = answers;
    let text = |answer: redis::RedisResult<redis::Value>| -> Result<String, Fault> {
        redis::from_redis_value(answer?).map_err(|error| Fault::Other(error.to_string()))
    };
    let replication = Replication::parse(&text(replication)?);
    let is_cluster = field(&text(cluster)?, "cluster_enabled") == Some("1");
    // Before 7.0 there is no INFO of several sections.
    let server = text(server).map_err(|fault| match fault {
        Fault::Other(text) => Fault::Unfit(format!("Redis 7.0 or later, or Valkey, is needed: {text}")),
        fault => fault,
    })?;
    // Not to be allowed to ask is no reason to deny anybody anything.
    let settings: Option<HashMap<String, String>> =
        settings.ok().and_then(|settings| redis::from_redis_value(settings).ok());
    Ok(Greeting { replication, is_cluster, concerns: judge(&server, settings.as_ref())? })
}

fn judge(info: &str, settings: Option<&HashMap<String, String>>) -> Result<Vec<Concern>, Fault> {
    let version = field(info, "redis_version").unwrap_or_default();
    let major = version.split('.').next().and_then(|major| major.parse().ok()).unwrap_or(0_u32);
    if major < OLDEST_MAJOR_VERSION {
        return Err(Fault::Unfit(format!("Redis 7.0 or later, or Valkey, is needed; this is {version:?}")));
    }
    let policy = field(info, "maxmemory_policy").unwrap_or_default();
    if policy.starts_with("allkeys") {
        // The only setting that can *give* access: an evicted use counter refills its grant.
        return Err(Fault::Unfit(format!(
            "maxmemory-policy {policy} may evict the counters of use-limited grants, which refills them; set \
             `maxmemory-policy noeviction`"
        )));
    }
    let mut concerns = Vec::new();
    if policy.starts_with("volatile") {
        concerns.push(Concern::EvictsGrants);
    }
    let setting = |name: &str| settings?.get(name).map(String::as_str);
    let has_aof = field(info, "aof_enabled") == Some("1");
    concerns.extend(match (has_aof, setting("appendfsync"), setting("save")) {
        (true, Some("always") | None, _) | (false, _, Some("")) => None,
        (true, Some(_), _) => Some(Concern::SyncsEverySecond),
        (false, _, Some(_)) => Some(Concern::SnapshotsOnly),
        (false, _, None) => Some(Concern::UnknownPersistence),
    });
    Ok(concerns)
}

fn field<'i>(info: &'i str, name: &str) -> Option<&'i str> {
    info.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':')).map(str::trim_end)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn replication() {
        let found = Replication::parse(
            "# Replication\r\nrole:master\r\nconnected_slaves:3\r\n\
             slave0:ip=10.0.0.1,port=6379,state=online,offset=1,lag=0\r\n\
             slave1:ip=10.0.0.2,port=6379,state=online,offset=1,lag=3\r\n\
             slave2:ip=10.0.0.3,port=6379,state=wait_bgsave,offset=0,lag=0\r\n\
             slave_repl_offset:7\r\nmaster_replid:abc\r\nmaster_replid2:def\r\n",
        );
        assert!(found.is_master);
        assert_eq!(found.history, "abc");
        assert_eq!(found.replicas(), 2);
        assert_eq!(found.replicas_within(Duration::from_secs(2)), 1);
        assert_eq!(found.replicas_within(Duration::from_secs(3)), 2);
        assert!(!Replication::parse("role:slave\r\nmaster_replid:abc\r\n").is_master);
        assert!(!Replication::parse("").is_master);
    }

    #[test]
    fn a_server_is_judged_by_what_it_may_lose() {
        let info = |policy: &str, aof: u8| {
            format!("redis_version:7.0.15\r\nmaxmemory_policy:{policy}\r\naof_enabled:{aof}\r\n")
        };
        let settings = |save: &str, fsync: &str| {
            Some([("save", save), ("appendfsync", fsync)].map(|(k, v)| (k.to_owned(), v.to_owned())).into())
        };
        for (policy, aof, settings, expected) in [
            ("noeviction", 1, settings("3600 1", "always"), vec![]),
            ("noeviction", 0, settings("", "everysec"), vec![]),
            ("noeviction", 1, None, vec![]),
            ("noeviction", 1, settings("", "everysec"), vec![Concern::SyncsEverySecond]),
            ("noeviction", 0, settings("3600 1", "everysec"), vec![Concern::SnapshotsOnly]),
            ("noeviction", 0, None, vec![Concern::UnknownPersistence]),
            ("volatile-ttl", 0, settings("", ""), vec![Concern::EvictsGrants]),
        ] {
            assert_eq!(judge(&info(policy, aof), settings.as_ref()).unwrap(), expected, "{policy} {aof}");
        }
        assert!(matches!(judge(&info("allkeys-lru", 1), None), Err(Fault::Unfit(_))));
        assert!(matches!(judge("redis_version:6.2.0\r\n", None), Err(Fault::Unfit(_))));
    }
}
