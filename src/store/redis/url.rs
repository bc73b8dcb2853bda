//! A store URL, taken apart once: where Redis is, of what kind, and under which name to log in.
//!
//! It prints without user and password, whatever is done with it.

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;

use redis::{ConnectionAddr, IntoConnectionInfo};
use thiserror::Error;

const DEFAULT_PORT: u16 = 6379;
/// Of the sentinels themselves, not of what they watch.
const SENTINEL_PORT: u16 = 26379;

#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum RedisUrlError {
    #[error("not a Redis URL: {0}")]
    Malformed(String),
    #[error(
        "`{0}` is not supported; use redis://, rediss://, unix://, redis+sentinel:// or redis+cluster:// (with TLS: rediss+...)"
    )]
    Unsupported(String),
}

/// One server to connect to.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Node {
    Tcp { host: String, port: u16 },
    Unix(PathBuf),
}

impl fmt::Display for Node {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp { host, port } if host.contains(':') => write!(f, "[{host}]:{port}"),
            Self::Tcp { host, port } => write!(f, "{host}:{port}"),
            Self::Unix(path) => write!(f, "{}", path.display()),
        }
    }
}

impl Node {
    /// `host:port` as a cluster names its nodes, IPv6 without brackets included.
    #[must_use]
    pub fn from_address(address: &str) -> Option<Self> {
        let (host, port) = address.rsplit_once(':')?;
        Some(Self::Tcp { host: host.to_owned(), port: port.parse().ok()? })
    }
}

/// Who of the named servers has the grants.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Topology {
    /// The one that is named.
    Single(Node),
    /// The one that the sentinels call the master of this name.
    Sentinel { sentinels: Vec<Node>, master: String },
    /// The owner of the slot of the key prefix; any node knows who that is.
    Cluster { seeds: Vec<Node> },
}

#[derive(Clone, PartialEq, Eq)]
pub struct RedisUrl {
    /// Without user, password and query.
    shown: String,
    pub topology: Topology,
    pub has_tls: bool,
    pub user: Option<String>,
    pub password: Option<String>,
    pub db: i64,
}

impl fmt::Debug for RedisUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.shown)
    }
}

impl fmt::Display for RedisUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.shown)
    }
}

impl FromStr for RedisUrl {
    type Err = RedisUrlError;

    fn from_str(text: &str) -> Result<Self, RedisUrlError> {
        let (scheme, rest) = text
            .split_once("://")
            .ok_or_else(|| RedisUrlError::Unsupported("a text without ://".to_owned()))?;
        let has_tls = scheme.starts_with("rediss");
        match scheme {
            "redis" | "rediss" | "unix" => single(text, has_tls),
            "redis+sentinel" | "rediss+sentinel" => sentinel(scheme, rest, has_tls),
            "redis+cluster" | "rediss+cluster" => cluster(scheme, rest, has_tls),
            _ => Err(RedisUrlError::Unsupported(format!("{scheme}://"))),
        }
    }
}

impl RedisUrl {
    #[must_use]
    pub fn has_sentinels(&self) -> bool {
        matches!(self.topology, Topology::Sentinel { .. })
    }

    #[must_use]
    pub fn is_cluster(&self) -> bool {
        matches!(self.topology, Topology::Cluster { .. })
    }
}

fn single(text: &str, has_tls: bool) -> Result<RedisUrl, RedisUrlError> {
    // The library reads `rediss` only with its own TLS, which is not used.
    let parsed = parse(&text.replacen("rediss://", "redis://", 1))?;
    Ok(RedisUrl {
        shown: shown(text),
        topology: Topology::Single(parsed.node),
        has_tls,
        user: parsed.user,
        password: parsed.password,
        db: parsed.db,
    })
}

fn sentinel(scheme: &str, rest: &str, has_tls: bool) -> Result<RedisUrl, RedisUrlError> {
    let malformed = |message: &str| RedisUrlError::Malformed(format!("{scheme}://: {message}"));
    let (rest, query) = split_query(rest);
    let (authority, master) =
        rest.split_once('/').ok_or_else(|| malformed("name the master: h1,h2,h3/master-name"))?;
    if master.is_empty() || master.contains('/') {
        return Err(malformed("name the master, and a database as ?db=N: h1,h2,h3/master-name"));
    }
    let db = match query {
        "" => 0,
        query => query
            .strip_prefix("db=")
            .and_then(|db| db.parse().ok())
            .ok_or_else(|| malformed("of a query only db=N is understood"))?,
    };
    let hosts = hosts(authority, SENTINEL_PORT)?;
    let topology = Topology::Sentinel { sentinels: hosts.nodes, master: master.to_owned() };
    let shown = format!("{scheme}://{}/{master}", hosts.shown);
    Ok(RedisUrl { shown, topology, has_tls, user: hosts.user, password: hosts.password, db })
}

fn cluster(scheme: &str, rest: &str, has_tls: bool) -> Result<RedisUrl, RedisUrlError> {
    let (rest, query) = split_query(rest);
    let authority = rest.trim_end_matches('/');
    if authority.contains('/') || !query.is_empty() {
        let message =
            format!("{scheme}://: a cluster has one database; leave out everything behind the hosts");
        return Err(RedisUrlError::Malformed(message));
    }
    let hosts = hosts(authority, DEFAULT_PORT)?;
    let topology = Topology::Cluster { seeds: hosts.nodes };
    let shown = format!("{scheme}://{}", hosts.shown);
    Ok(RedisUrl { shown, topology, has_tls, user: hosts.user, password: hosts.password, db: 0 })
}

fn split_query(rest: &str) -> (&str, &str) {
    rest.split_once('?').unwrap_or((rest, ""))
}

struct Hosts {
    nodes: Vec<Node>,
    shown: String,
    user: Option<String>,
    password: Option<String>,
}

/// `[user[:password]@]h1[:port],h2,...`: each host is read as the authority of a URL of its own.
fn hosts(authority: &str, default_port: u16) -> Result<Hosts, RedisUrlError> {
    let (login, list) = match authority.rsplit_once('@') {
        Some((login, list)) => (format!("{login}@"), list),
        None => (String::new(), authority),
    };
    let mut nodes = Vec::new();
    let (mut user, mut password) = (None, None);
    for host in list.split(',') {
        let has_port =
            host.rsplit_once(':').is_some_and(|(_, port)| port.bytes().all(|byte| byte.is_ascii_digit()));
        let host = if has_port { host.to_owned() } else { format!("{host}:{default_port}") };
        let parsed = parse(&format!("redis://{login}{host}"))
            .map_err(|_| RedisUrlError::Malformed(format!("`{host}` is not host:port")))?;
        nodes.push(parsed.node);
        (user, password) = (parsed.user, parsed.password);
    }
    let masked = if login.is_empty() { "" } else { "***@" };
    Ok(Hosts { nodes, shown: format!("{masked}{list}"), user, password })
}

struct Parsed {
    node: Node,
    user: Option<String>,
    password: Option<String>,
    db: i64,
}

fn parse(text: &str) -> Result<Parsed, RedisUrlError> {
    let info = text.into_connection_info().map_err(|error| RedisUrlError::Malformed(error.to_string()))?;
    let node = match info.addr() {
        ConnectionAddr::Tcp(host, port) | ConnectionAddr::TcpTls { host, port, .. } => Node::Tcp {
            // A URL writes IPv6 in brackets, a socket address does not.
            host: host.trim_matches(['[', ']']).to_owned(),
            port: *port,
        },
        ConnectionAddr::Unix(path) => Node::Unix(path.clone()),
        _ => return Err(RedisUrlError::Malformed("an address of an unknown kind".to_owned())),
    };
    let settings = info.redis_settings();
    Ok(Parsed {
        node,
        user: settings.username().map(str::to_owned),
        password: settings.password().map(str::to_owned),
        db: settings.db(),
    })
}

fn shown(text: &str) -> String {
    // User and password may also be in the query.
    let (plain, _) = split_query(text);
    match (plain.split_once("://"), plain.rsplit_once('@')) {
        (Some((scheme, _)), Some((_, place))) => format!("{scheme}://***@{place}"),
        _ => plain.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tcp(host: &str, port: u16) -> Node {
        Node::Tcp { host: host.to_owned(), port }
    }

    fn read(text: &str) -> RedisUrl {
        text.parse().unwrap_or_else(|error| panic!("{text}: {error}"))
    }

    #[test]
    fn one_server() {
        let url = read("redis://u:p%40@h:6380/2");
        assert_eq!(url.topology, Topology::Single(tcp("h", 6380)));
        assert_eq!((url.user.as_deref(), url.password.as_deref(), url.db), (Some("u"), Some("p@"), 2));
        assert!(read("rediss://h").has_tls && !read("redis://h").has_tls);
        assert_eq!(read("redis://[::1]").topology, Topology::Single(tcp("::1", 6379)));
        let unix = read("unix:///run/redis.sock?db=1&pass=s");
        assert_eq!(unix.topology, Topology::Single(Node::Unix("/run/redis.sock".into())));
        assert_eq!((unix.db, unix.password.as_deref()), (1, Some("s")));
    }

    #[test]
    fn many_servers() {
        let url = read("redis+sentinel://u:p@h1,h2:1,[::1]/the-master?db=3");
        let sentinels = vec![tcp("h1", 26379), tcp("h2", 1), tcp("::1", 26379)];
        assert_eq!(url.topology, Topology::Sentinel { sentinels, master: "the-master".to_owned() });
        assert_eq!((url.db, url.password.as_deref(), url.has_tls), (3, Some("p"), false));
        let url = read("rediss+cluster://h1,h2:7000/");
        assert_eq!(url.topology, Topology::Cluster { seeds: vec![tcp("h1", 6379), tcp("h2", 7000)] });
        assert!(url.has_tls);
    }

    #[test]
    fn what_is_no_store() {
        for bad in [
            "",
            "h:6379",
            "http://h",
            "redis://h/x",
            "redis+sentinel://a,b",
            "redis+sentinel://a/",
            "redis+sentinel://a/m/1",
            "redis+sentinel://a/m?x=1",
            "redis+cluster://a/1",
            "redis+cluster://a,,b",
            "redis+cluster://",
        ] {
            assert!(bad.parse::<RedisUrl>().is_err(), "{bad}");
        }
    }

    #[test]
    fn a_wrong_host_is_named() {
        let error = "rediss+cluster://u:pw@good,bad:x".parse::<RedisUrl>().unwrap_err().to_string();
        assert!(error.contains("`bad:x:6379` is not host:port") && !error.contains("pw"), "{error}");
    }

    #[test]
    fn a_password_is_never_printed() {
        let both = |text: &str| format!("{0} {0:?}", read(text));
        assert_eq!(both("redis://u:se@cret@h:1/2"), "redis://***@h:1/2 redis://***@h:1/2");
        for url in [
            "unix:///r?user=u&pass=secret",
            "unix:///r?user=u@x&pass=secret",
            "redis+sentinel://u:secret@h1,h2/m",
            "rediss+cluster://:secret@h1,h2",
        ] {
            assert!(!both(url).contains("secret"), "{url}");
        }
    }

    #[test]
    fn nodes_as_a_cluster_writes_them() {
        assert_eq!(Node::from_address("10.0.0.1:7001"), Some(tcp("10.0.0.1", 7001)));
        assert_eq!(Node::from_address("fe80::1:7001"), Some(tcp("fe80::1", 7001)));
        assert_eq!(tcp("fe80::1", 7001).to_string(), "[fe80::1]:7001");
        assert_eq!(Node::from_address("nowhere"), None);
    }
}
