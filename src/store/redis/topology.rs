//! Who has the grants now. Asked anew for every session: nothing that was true of the last one is taken for granted.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use redis::Value;
use tokio::task::JoinSet;
use tokio::time::{Instant, timeout_at};

use super::RedisConfig;
use super::connect::{self, Login};
use super::fault::Fault;
use super::keys::Keys;
use super::url::{Node, Topology};

/// For one sentinel or cluster node to say who it is. Several may be silent, and access waits for the answer.
const RESOLVE_TIMEOUT: Duration = Duration::from_millis(500);

/// For the last sentinels, once most have answered: those that are there answer within a millisecond of each other.
const STRAGGLER_TIMEOUT: Duration = Duration::from_millis(50);

/// Where the keys are, and in a cluster in which slot.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
    pub node: Node,
    pub slot: Option<u16>,
    /// Every node that was named on the way there, to ask the next time.
    pub others: Vec<Node>,
}

/// `hints` are asked before the nodes of the URL: who an error pointed to, and who was there the last time.
///
/// # Errors
/// Nobody could be asked, or nobody knew.
pub async fn resolve(config: &Arc<RedisConfig>, keys: &Keys, hints: &[Node]) -> Result<Place, Fault> {
    match &config.url.topology {
        Topology::Single(node) => Ok(Place { node: node.clone(), slot: None, others: Vec::new() }),
        Topology::Sentinel { sentinels, master } => ask_sentinels(config, sentinels, master).await,
        Topology::Cluster { seeds } => {
            let mut last = Fault::Unfit("no cluster node is named".to_owned());
            let mut asked: Vec<&Node> = Vec::new();
            for node in hints.iter().chain(seeds) {
                if asked.contains(&node) {
                    continue;
                }
                asked.push(node);
                match soon(ask_cluster(config, node, keys)).await {
                    Ok(place) => return Ok(place),
                    Err(fault) => last = fault,
                }
            }
            Err(last)
        }
    }
}

async fn soon<T>(answer: impl Future<Output = Result<T, Fault>>) -> Result<T, Fault> {
    tokio::time::timeout(RESOLVE_TIMEOUT, answer).await.map_err(|_| Fault::TimedOut)?
}

/// All of them, at once: one that was cut off from the others still names the master of before. The newest
/// configuration is the one with the highest epoch, which only a majority can raise. When most have answered, one that
/// is silent is not waited for much longer.
async fn ask_sentinels(config: &Arc<RedisConfig>, sentinels: &[Node], master: &str) -> Result<Place, Fault> {
    let mut asked = JoinSet::new();
    for sentinel in sentinels {
        let (config, sentinel, master) = (Arc::clone(config), sentinel.clone(), master.to_owned());
        asked.spawn(async move { soon(ask_sentinel(&config, &sentinel, &master)).await });
    }
    let mut newest: Option<(u64, Node)> = None;
    let mut last = Fault::Unfit("no sentinel is named".to_owned());
    let mut answered = 0;
    let mut deadline: Option<Instant> = None;
    loop {
        let next = match deadline {
            Some(deadline) => timeout_at(deadline, asked.join_next()).await.ok().flatten(),
            None => asked.join_next().await,
        };
        let Some(answer) = next else { break };
        answered += usize::from(matches!(answer, Ok(Ok(_))));
        if answered > sentinels.len() / 2 {
            deadline.get_or_insert_with(|| Instant::now() + STRAGGLER_TIMEOUT);
        }
        match answer {
            Ok(Ok((epoch, node))) if newest.as_ref().is_none_or(|(newest, _)| epoch > *newest) => {
                newest = Some((epoch, node));
            }
            Ok(Ok(_)) => {}
            Ok(Err(fault)) => last = fault,
            Err(error) => last = Fault::Other(error.to_string()),
        }
    }
    let (_, node) = newest.ok_or(last)?;
    Ok(Place { node, slot: None, others: Vec::new() })
}

async fn ask_sentinel(config: &RedisConfig, sentinel: &Node, master: &str) -> Result<(u64, Node), Fault> {
    let connection = connect::open(config, sentinel, Login::Sentinel, RESOLVE_TIMEOUT, None).await?;
    let answer: redis::RedisResult<HashMap<String, String>> =
        redis::cmd("SENTINEL").arg("MASTER").arg(master).query_async(&mut connection.link()).await;
    let answer = answer.map_err(|error| match Fault::from(error) {
        Fault::Other(text) => Fault::Unfit(format!("sentinel {sentinel} does not know {master:?}: {text}")),
        fault => fault,
    })?;
    let field = |name: &str| answer.get(name).map(String::as_str).unwrap_or_default();
    let unfit = || Fault::Unfit(format!("sentinel {sentinel} names no address for {master:?}"));
    let port = field("port").parse().map_err(|_| unfit())?;
    let epoch = field("config-epoch").parse().map_err(|_| unfit())?;
    Ok((epoch, Node::Tcp { host: field("ip").to_owned(), port }))
}

async fn ask_cluster(config: &RedisConfig, node: &Node, keys: &Keys) -> Result<Place, Fault> {
    let connection = connect::open(config, node, Login::Store, RESOLVE_TIMEOUT, None).await?;
    let mut link = connection.link();
    // Its own answer rather than our sum: the slot is the server's business.
    let slot: redis::RedisResult<u16> =
        redis::cmd("CLUSTER").arg("KEYSLOT").arg(keys.heartbeat()).query_async(&mut link).await;
    let slot = slot.map_err(|error| match Fault::from(error) {
        Fault::Other(text) => Fault::Unfit(format!("{node} is no cluster node: {text}")),
        fault => fault,
    })?;
    let table: Value = redis::cmd("CLUSTER").arg("SLOTS").query_async(&mut link).await?;
    let (owner, others) = owner_of(slot, &table, node)
        .ok_or_else(|| Fault::Unready(format!("{node} knows no owner of slot {slot}")))?;
    Ok(Place { node: owner, slot: Some(slot), others })
}

/// `CLUSTER SLOTS`: ranges `[first, last, [host, port, id, ...], replicas...]`.
fn owner_of(slot: u16, table: &Value, asked: &Node) -> Option<(Node, Vec<Node>)> {
    let Value::Array(ranges) = table else { return None };
    let mut owner = None;
    let mut others = Vec::new();
    for range in ranges {
        let Value::Array(parts) = range else { return None };
        let [Value::Int(first), Value::Int(last), master, ..] = parts.as_slice() else { return None };
        let node = node_of(master, asked)?;
        if (*first..=*last).contains(&i64::from(slot)) {
            owner = Some(node.clone());
        }
        if !others.contains(&node) {
            others.push(node);
        }
    }
    Some((owner?, others))
}

fn node_of(entry: &Value, asked: &Node) -> Option<Node> {
    let Value::Array(parts) = entry else { return None };
    let [host, Value::Int(port), ..] = parts.as_slice() else { return None };
    let host = match host {
        Value::BulkString(bytes) => String::from_utf8(bytes.clone()).ok()?,
        Value::SimpleString(text) => text.clone(),
        _ => String::new(),
    };
    Some(beside(asked, Node::Tcp { host, port: u16::try_from(*port).ok()? }))
}

/// A node named without a host is on the host that was asked.
#[must_use]
pub fn beside(asked: &Node, named: Node) -> Node {
    match (asked, named) {
        (Node::Tcp { host: asked, .. }, Node::Tcp { host, port }) if host.is_empty() => {
            Node::Tcp { host: asked.clone(), port }
        }
        (_, named) => named,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node(host: &str, port: u16) -> Node {
        Node::Tcp { host: host.to_owned(), port }
    }

    #[test]
    fn the_owner_of_a_slot() {
        let entry = |host: Value, port: i64| Value::Array(vec![host, Value::Int(port)]);
        let range = |first: i64, last: i64, owner: Value| {
            Value::Array(vec![Value::Int(first), Value::Int(last), owner, entry(Value::Nil, 9)])
        };
        let table = Value::Array(vec![
            range(0, 99, entry(Value::BulkString(b"a".to_vec()), 1)),
            range(100, 200, entry(Value::Nil, 2)),
            range(201, 300, entry(Value::BulkString(b"a".to_vec()), 1)),
        ]);
        let asked = node("asked", 7);
        let others = vec![node("a", 1), node("asked", 2)];
        assert_eq!(owner_of(99, &table, &asked), Some((node("a", 1), others.clone())));
        assert_eq!(owner_of(100, &table, &asked), Some((node("asked", 2), others)));
        assert_eq!(owner_of(301, &table, &asked), None);
        assert_eq!(owner_of(1, &Value::Nil, &asked), None);
    }
}
