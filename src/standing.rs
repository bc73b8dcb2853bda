//! How somebody stands towards a request that was not made: what a check would answer, and why.

use std::net::IpAddr;

use jiff::Timestamp;

/// The request that is asked about.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Asked {
    pub host: String,
    pub method: String,
    /// With the query, if there is one.
    pub path: String,
    /// The peer's address, for grants with `source_cidrs`.
    pub source: Option<IpAddr>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Standing {
    pub allowed: bool,
    /// The reason code that a check would have.
    pub reason: &'static str,
    /// In words.
    pub message: String,
    /// The grant it would rest on, the first to end if there are several.
    pub grant: Option<String>,
    /// When that grant ends.
    pub expires_at: Option<Timestamp>,
    /// Every grant of the caller that has not ended.
    pub grants: Vec<GrantStanding>,
    /// The lock that stands in the way.
    pub lock: Option<String>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GrantStanding {
    pub grant: String,
    /// Whether the request could rest on it now.
    pub covers: bool,
    pub why_not: Option<String>,
    pub expires_at: Timestamp,
}
