//! Why Redis did not do what it was asked, named by what helps against it.

use redis::{ErrorKind, RedisError, ServerErrorKind};
use thiserror::Error;

use super::url::Node;

#[derive(Debug, Error)]
pub enum Fault {
    /// Nobody to send to. Nothing was sent.
    #[error("no connection: {0}")]
    Unreachable(String),
    /// Reset or closed. What was sent may have been done.
    #[error("the connection was lost: {0}")]
    Link(String),
    /// What was sent may have been done.
    #[error("no answer in time")]
    TimedOut,
    /// A file of the configuration that is read for each connection.
    #[error("{path}: {reason}")]
    File { path: String, reason: String },
    #[error("TLS: {0}")]
    Tls(String),
    /// The slot has another owner; nothing was done.
    #[error("MOVED: another node has the keys{}", hint(.0.as_ref()))]
    Moved(Option<Node>),
    /// The slot is being moved, and the key is not here any more, or not at all; nothing was done.
    #[error("ASK: the keys are being moved{}", hint(.0.as_ref()))]
    Ask(Option<Node>),
    /// The keys of one command are on both sides of a move; nothing was done.
    #[error("TRYAGAIN: the keys are being moved")]
    TryAgain,
    /// A replica, or a master that was demoted; it knows nothing of what its master acknowledged.
    #[error("the server is a replica, not the master")]
    NotMaster,
    /// It answers, but cannot tell: loading, its cluster or master down, a script that does not end.
    #[error("the server cannot tell: {0}")]
    Unready(String),
    /// Password, user or permissions.
    #[error("the server refuses this user: {0}")]
    Login(String),
    #[error("the server is out of memory: {0}")]
    OutOfMemory(String),
    /// `min-replicas-to-write`: even a revocation is refused.
    #[error("the server refuses writes for want of replicas: {0}")]
    NoReplicas(String),
    /// What was asked for is not a thing this server, or this topology, can do.
    #[error("{0}")]
    Unfit(String),
    #[error("{0}")]
    Other(String),
}

/// A command that failed, and whether it may have been carried out all the same, by this attempt or an earlier one.
#[derive(Debug)]
pub struct Failure {
    pub fault: Fault,
    pub may_be_done: bool,
}

impl From<Fault> for Failure {
    fn from(fault: Fault) -> Self {
        Self { may_be_done: fault.is_unknown(), fault }
    }
}

fn hint(node: Option<&Node>) -> String {
    node.map_or_else(String::new, |node| format!(" ({node})"))
}

impl Fault {
    /// For the metric of ended sessions.
    #[must_use]
    pub const fn code(&self) -> &'static str {
        match self {
            Self::Unreachable(_) => "unreachable",
            Self::Link(_) => "link",
            Self::TimedOut => "timeout",
            Self::File { .. } => "file",
            Self::Tls(_) => "tls",
            Self::Moved(_) => "moved",
            Self::Ask(_) => "ask",
            Self::TryAgain => "try_again",
            Self::NotMaster => "not_master",
            Self::Unready(_) => "unready",
            Self::Login(_) => "login",
            Self::OutOfMemory(_) => "out_of_memory",
            Self::NoReplicas(_) => "no_replicas",
            Self::Unfit(_) => "unfit",
            Self::Other(_) => "other",
        }
    }

    /// Whether nobody knows if the command was carried out.
    #[must_use]
    pub const fn is_unknown(&self) -> bool {
        matches!(self, Self::Link(_) | Self::TimedOut)
    }

    /// Whether another connection, to whoever has the keys now, may succeed where this one did not.
    #[must_use]
    pub const fn is_about_the_server(&self) -> bool {
        matches!(
            self,
            Self::Unreachable(_)
                | Self::Link(_)
                | Self::TimedOut
                | Self::Moved(_)
                | Self::NotMaster
                | Self::Unready(_)
        )
    }
}

impl From<RedisError> for Fault {
    fn from(error: RedisError) -> Self {
        let text = error.to_string();
        let node = || error.redirect_node().and_then(|(address, _)| Node::from_address(address));
        match error.kind() {
            ErrorKind::Server(ServerErrorKind::Moved) => Self::Moved(node()),
            ErrorKind::Server(ServerErrorKind::Ask) => Self::Ask(node()),
            ErrorKind::Server(ServerErrorKind::TryAgain) => Self::TryAgain,
            ErrorKind::Server(ServerErrorKind::ReadOnly) => Self::NotMaster,
            ErrorKind::Server(
                ServerErrorKind::BusyLoading | ServerErrorKind::ClusterDown | ServerErrorKind::MasterDown,
            ) => Self::Unready(text),
            ErrorKind::Server(ServerErrorKind::NoPerm) | ErrorKind::AuthenticationFailed => Self::Login(text),
            ErrorKind::RESP3NotSupported => Self::Unfit(format!("Redis 7.0 or Valkey is needed: {text}")),
            ErrorKind::Io if error.is_timeout() => Self::TimedOut,
            ErrorKind::Io => Self::Link(text),
            _ => match error.code() {
                Some("BUSY") => Self::Unready(text),
                Some("NOAUTH" | "WRONGPASS") => Self::Login(text),
                Some("OOM") => Self::OutOfMemory(text),
                Some("NOREPLICAS") => Self::NoReplicas(text),
                _ if error.is_connection_dropped() => Self::Link(text),
                _ => Self::Other(text),
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(line: &str) -> Fault {
        let value = redis::parse_redis_value(format!("-{line}\r\n").as_bytes()).unwrap();
        Fault::from(value.extract_error().unwrap_err())
    }

    #[test]
    fn each_answer_of_the_server_leads_where_it_helps() {
        for (line, code) in [
            ("MOVED 3999 127.0.0.1:6381", "moved"),
            ("ASK 3999 127.0.0.1:6381", "ask"),
            ("TRYAGAIN Multiple keys request during rehashing of slot", "try_again"),
            ("READONLY You can't write against a read only replica.", "not_master"),
            ("LOADING Redis is loading the dataset in memory", "unready"),
            ("CLUSTERDOWN The cluster is down", "unready"),
            ("MASTERDOWN Link with MASTER is down and replica-serve-stale-data is set to 'no'.", "unready"),
            ("BUSY Redis is busy running a script.", "unready"),
            ("NOPERM this user has no permissions to run the 'get' command", "login"),
            ("NOAUTH Authentication required.", "login"),
            ("WRONGPASS invalid username-password pair or user is disabled.", "login"),
            ("OOM command not allowed when used memory > 'maxmemory'.", "out_of_memory"),
            ("NOREPLICAS Not enough good replicas to write.", "no_replicas"),
            ("ERR unknown command", "other"),
        ] {
            assert_eq!(of(line).code(), code, "{line}");
        }
        let Fault::Moved(Some(node)) = of("MOVED 3999 127.0.0.1:6381") else { panic!() };
        assert_eq!(node.to_string(), "127.0.0.1:6381");
        // An empty host is "the one you asked".
        assert!(
            matches!(of("MOVED 3999 :6381"), Fault::Moved(Some(Node::Tcp { host, .. })) if host.is_empty())
        );
    }
}
