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
///
/// The lists are one text, since a sidecar holds those of every grant: in this order, with [`NEXT_LIST`] after each and
/// [`BETWEEN`] its patterns. A list that was not given is empty; one that is given never is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Permission(Box<str>);

/// Why a permission does not match a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mismatch {
    Host,
    Method,
    Path,
    GrpcMethod,
    /// Two parsers could read the path differently.
    AmbiguousPath,
}

impl Mismatch {
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Host => "another host",
            Self::Method => "another method",
            Self::Path => "another path",
            Self::GrpcMethod => "another gRPC method",
            Self::AmbiguousPath => "a path that can be read in two ways, which no permission covers",
        }
    }
}

/// Between two patterns of a list. Never within one: control characters are refused.
const BETWEEN: char = '\0';
/// Behind each list.
const NEXT_LIST: char = '\u{1}';

impl Permission {
    /// # Errors
    /// No list is given, a list is empty, or an entry could never match.
    pub fn new(lists: &PermissionLists) -> Result<Self, PermissionError> {
        if let Some(path) =
            lists.paths.iter().flatten().find(|path| !path.starts_with('/') && !path.starts_with("**"))
        {
            return Err(PermissionError::RelativePath(path.clone()));
        }
        let PermissionLists { hosts, methods, paths, grpc_methods } = lists;
        if [hosts, methods, paths, grpc_methods].into_iter().all(Option::is_none) {
            return Err(PermissionError::Empty);
        }
        let mut text = String::new();
        append(&mut text, "hosts", hosts.as_deref(), target::canonical_host_pattern)?;
        append(&mut text, "methods", methods.as_deref(), str::to_ascii_uppercase)?;
        append(&mut text, "paths", paths.as_deref(), str::to_owned)?;
        append(&mut text, "grpc_methods", grpc_methods.as_deref(), |text| {
            text.trim_start_matches('/').to_owned()
        })?;
        Ok(Self(text.into_boxed_str()))
    }

    #[must_use]
    pub fn matches(&self, target: &Target<'_>) -> bool {
        self.mismatch(target).is_none()
    }

    /// The first thing that keeps the permission from matching.
    #[must_use]
    pub fn mismatch(&self, target: &Target<'_>) -> Option<Mismatch> {
        let mut lists = self.0.split(NEXT_LIST);
        let mut admits = |value, separator| lists.next().is_some_and(|list| admits(list, value, separator));
        if !admits(target.host(), b'.') {
            Some(Mismatch::Host)
        } else if !admits(target.method(), b'/') {
            Some(Mismatch::Method)
        } else if !admits(target.path(), b'/') {
            Some(if target.is_ambiguous() { Mismatch::AmbiguousPath } else { Mismatch::Path })
        } else if !admits(target.grpc_method(), b'/') {
            Some(Mismatch::GrpcMethod)
        } else {
            // A permission that names only a host or a method says nothing about paths, and still must not
            // cover a path that the upstream may read as another one.
            target.is_ambiguous().then_some(Mismatch::AmbiguousPath)
        }
    }
}

fn append(
    text: &mut String,
    name: &'static str,
    list: Option<&[String]>,
    canonical: impl Fn(&str) -> String,
) -> Result<(), PermissionError> {
    if list.is_some_and(<[String]>::is_empty) {
        return Err(PermissionError::EmptyList(name));
    }
    for (index, entry) in list.unwrap_or_default().iter().enumerate() {
        let pattern = canonical(entry);
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
            text.push(BETWEEN);
        }
        text.push_str(&pattern);
    }
    text.push(NEXT_LIST);
    Ok(())
}

fn admits(list: &str, value: Option<&str>, separator: u8) -> bool {
    list.is_empty()
        || value.is_some_and(|value| {
            list.split(BETWEEN).any(|pattern| Glob::new(pattern, separator).matches(value))
        })
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
