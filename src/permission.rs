//! What a grant lets its holder reach, and whether one request is within it.
//!
//! Matching here decides access, so everything ambiguous fails: a path that two parsers could read differently is
//! covered by no permission, an empty list is refused when the grant is read, and a list that is given must match.

mod glob;
mod target;

use std::net::IpAddr;
use std::str::FromStr;

use thiserror::Error;

use glob::Glob;
pub use target::{AmbiguousPath, Target};

/// Longest glob in bytes. Paths in grants are written by people; Envoy itself stops at 60 KiB of headers.
pub const MAX_GLOB_BYTES: usize = 2048;

#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum PermissionError {
    #[error("a permission names hosts, methods, paths or grpc_methods")]
    Empty,
    #[error("`{0}` is an empty list, which nothing could match; leave it out or fill it")]
    EmptyList(&'static str),
    #[error("`{0}` has an empty entry")]
    EmptyEntry(&'static str),
    #[error("`{0}` has an entry of more than {MAX_GLOB_BYTES} bytes")]
    TooLong(&'static str),
    #[error("`{0}` has an entry with control characters")]
    Unprintable(&'static str),
    #[error("`paths` entries begin with `/` or `**`: {0}")]
    RelativePath(String),
    #[error("not an address range: {0}")]
    BadCidr(String),
}

/// The lists as somebody wrote them. `None` is "not given", which matches everything of its kind.
#[derive(Debug, Clone, Default)]
pub struct PermissionLists {
    pub hosts: Option<Vec<String>>,
    pub methods: Option<Vec<String>>,
    pub paths: Option<Vec<String>>,
    pub grpc_methods: Option<Vec<String>>,
}

/// Hosts, methods, paths and gRPC methods that belong together: every list that is given must match.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Permission {
    hosts: GlobList,
    methods: GlobList,
    paths: GlobList,
    grpc_methods: GlobList,
}

impl Permission {
    /// # Errors
    /// No list is given, a list is empty, or an entry could never match.
    pub fn new(lists: &PermissionLists) -> Result<Self, PermissionError> {
        if let Some(path) =
            lists.paths.iter().flatten().find(|path| !path.starts_with('/') && !path.starts_with("**"))
        {
            return Err(PermissionError::RelativePath(path.clone()));
        }
        let permission = Self {
            hosts: GlobList::new("hosts", lists.hosts.as_deref(), target::canonical_host_pattern)?,
            methods: GlobList::new("methods", lists.methods.as_deref(), str::to_ascii_uppercase)?,
            paths: GlobList::new("paths", lists.paths.as_deref(), str::to_owned)?,
            grpc_methods: GlobList::new("grpc_methods", lists.grpc_methods.as_deref(), |text| {
                text.trim_start_matches('/').to_owned()
            })?,
        };
        let lists = [&permission.hosts, &permission.methods, &permission.paths, &permission.grpc_methods];
        if lists.iter().all(|list| list.0.is_none()) { Err(PermissionError::Empty) } else { Ok(permission) }
    }

    #[must_use]
    pub fn matches(&self, target: &Target<'_>) -> bool {
        self.hosts.admits(target.host(), b'.')
            && self.methods.admits(target.method(), b'/')
            && self.paths.admits(target.path(), b'/')
            && self.grpc_methods.admits(target.grpc_method(), b'/')
            // A permission that names only a host or a method says nothing about paths, and still must not
            // cover a path that the upstream may read as another one.
            && !target.is_ambiguous()
    }
}

/// The patterns of one list in one allocation, since a sidecar holds those of every grant. `None` was not given.
#[derive(Debug, Clone, PartialEq, Eq)]
struct GlobList(Option<Box<str>>);

/// Between two patterns. Never within one: control characters are refused.
const BETWEEN: char = '\0';

impl GlobList {
    fn new(
        name: &'static str,
        list: Option<&[String]>,
        canonical: impl Fn(&str) -> String,
    ) -> Result<Self, PermissionError> {
        let Some(list) = list else { return Ok(Self(None)) };
        if list.is_empty() {
            return Err(PermissionError::EmptyList(name));
        }
        let mut patterns = String::new();
        for (index, text) in list.iter().enumerate() {
            let pattern = canonical(text);
            if pattern.is_empty() {
                return Err(PermissionError::EmptyEntry(name));
            }
            if pattern.len() > MAX_GLOB_BYTES {
                return Err(PermissionError::TooLong(name));
            }
            if pattern.chars().any(char::is_control) {
                return Err(PermissionError::Unprintable(name));
            }
            if index > 0 {
                patterns.push(BETWEEN);
            }
            patterns.push_str(&pattern);
        }
        Ok(Self(Some(patterns.into_boxed_str())))
    }

    fn admits(&self, value: Option<&str>, separator: u8) -> bool {
        let Some(patterns) = &self.0 else { return true };
        value.is_some_and(|value| {
            patterns.split(BETWEEN).any(|pattern| Glob::new(pattern, separator).matches(value))
        })
    }
}

/// An address range such as `10.0.0.0/8`; a bare address is a range of one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Cidr {
    network: u128,
    prefix: u8,
    is_v4: bool,
}

impl Cidr {
    #[must_use]
    pub fn contains(&self, address: IpAddr) -> bool {
        // An IPv4 peer of a dual-stack listener arrives as ::ffff:a.b.c.d.
        let (bits, is_v4) = address_bits(address.to_canonical());
        is_v4 == self.is_v4 && mask(bits, self.prefix, is_v4) == self.network
    }
}

impl FromStr for Cidr {
    type Err = PermissionError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let bad = || PermissionError::BadCidr(text.to_owned());
        let (address, prefix) = match text.split_once('/') {
            Some((address, prefix)) => (address, Some(prefix)),
            None => (text, None),
        };
        let (bits, is_v4) = address_bits(address.parse().map_err(|_| bad())?);
        let width = if is_v4 { 32 } else { 128 };
        let prefix = match prefix {
            Some(digits) if digits.bytes().all(|b| b.is_ascii_digit()) => {
                digits.parse().ok().filter(|prefix| *prefix <= width).ok_or_else(bad)?
            }
            Some(_) => return Err(bad()),
            None => width,
        };
        Ok(Self { network: mask(bits, prefix, is_v4), prefix, is_v4 })
    }
}

fn address_bits(address: IpAddr) -> (u128, bool) {
    match address {
        IpAddr::V4(v4) => (u128::from(v4.to_bits()), true),
        IpAddr::V6(v6) => (v6.to_bits(), false),
    }
}

fn mask(bits: u128, prefix: u8, is_v4: bool) -> u128 {
    let width = if is_v4 { 32 } else { 128 };
    bits.checked_shr(width - u32::from(prefix)).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn permission(hosts: &[&str], methods: &[&str], paths: &[&str]) -> Permission {
        let list = |items: &[&str]| {
            (!items.is_empty()).then(|| items.iter().map(|item| (*item).to_owned()).collect())
        };
        Permission::new(&PermissionLists {
            hosts: list(hosts),
            methods: list(methods),
            paths: list(paths),
            grpc_methods: None,
        })
        .unwrap()
    }

    #[test]
    fn every_given_list_must_match() {
        let orders = permission(&["orders.*.svc"], &["GET", "HEAD"], &["/db/**"]);
        for (host, method, path, covered) in [
            ("orders.prod.svc", "GET", "/db/rows", true),
            ("ORDERS.prod.svc.:8080", "get", "/db/rows?x=1", true),
            ("orders.prod.svc", "HEAD", "/db/", true),
            ("orders.prod.svc", "POST", "/db/rows", false),
            ("orders.a.b.svc", "GET", "/db/rows", false),
            ("orders.prod.svc.evil", "GET", "/db/rows", false),
            ("orders.prod.svc", "GET", "/db", false),
            ("orders.prod.svc", "GET", "/db/../admin", false),
        ] {
            assert_eq!(
                orders.matches(&Target::http(host, method, path, None)),
                covered,
                "{host} {method} {path}"
            );
        }
    }

    #[test]
    fn a_host_alone_does_not_cover_an_ambiguous_path() {
        let host_only = permission(&["a.svc"], &[], &[]);
        assert!(host_only.matches(&Target::http("a.svc", "GET", "/x", None)));
        assert!(!host_only.matches(&Target::http("a.svc", "GET", "/x%2f..%2fy", None)));
    }

    #[test]
    fn lists_that_could_never_match_are_refused() {
        let empty = PermissionLists { hosts: Some(vec![]), ..PermissionLists::default() };
        assert_eq!(Permission::new(&empty), Err(PermissionError::EmptyList("hosts")));
        assert_eq!(Permission::new(&PermissionLists::default()), Err(PermissionError::Empty));
        let relative = PermissionLists { paths: Some(vec!["db/**".into()]), ..PermissionLists::default() };
        assert_eq!(Permission::new(&relative), Err(PermissionError::RelativePath("db/**".into())));
    }

    #[test]
    fn address_ranges() {
        for (cidr, address, inside) in [
            ("10.0.0.0/8", "10.255.0.1", true),
            ("10.0.0.0/8", "11.0.0.1", false),
            ("10.0.0.0/8", "::ffff:10.1.1.1", true),
            ("0.0.0.0/0", "8.8.8.8", true),
            ("0.0.0.0/0", "::1", false),
            ("192.0.2.7", "192.0.2.7", true),
            ("192.0.2.7", "192.0.2.8", false),
            ("2001:db8::/32", "2001:db8:1::5", true),
            ("::/0", "2001:db8::", true),
        ] {
            let range: Cidr = cidr.parse().unwrap();
            assert_eq!(range.contains(address.parse().unwrap()), inside, "{address} in {cidr}");
        }
        for bad in ["", "10.0.0.0/33", "10.0.0/8", "10.0.0.0/+8", "10.0.0.0/", "x/8", "::/129"] {
            assert!(bad.parse::<Cidr>().is_err(), "{bad}");
        }
    }
}
