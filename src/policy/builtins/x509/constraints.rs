//! Whether names lie within an authority's name constraints (RFC 5280, 4.2.1.10), by Go's rules. A name or a constraint
//! that cannot be compared refuses: another form of a name must never get around an exclusion.

use std::net::IpAddr;

use super::extensions::{AlternativeNames, Extensions, Range, Subtrees};
use super::uri;

pub struct Constraints<'e> {
    permitted: &'e Subtrees,
    excluded: &'e Subtrees,
}

impl<'e> Constraints<'e> {
    pub fn of(issuer: &'e Extensions) -> Self {
        Self { permitted: &issuer.permitted, excluded: &issuer.excluded }
    }

    /// How many names are held against how many constraints.
    pub fn comparisons(&self, names: &AlternativeNames) -> usize {
        let count = |subtrees: &Subtrees| {
            names.dns.len() * subtrees.dns.len()
                + names.addresses.len() * subtrees.ranges.len()
                + names.uris.len() * subtrees.uris.len()
        };
        count(self.permitted) + count(self.excluded)
    }

    pub fn allow(&self, names: &AlternativeNames) -> bool {
        let Self { permitted, excluded } = self;
        let constrains_emails = !permitted.emails.is_empty() || !excluded.emails.is_empty();
        self.allow_dns(&names.dns)
            && self.allow_uris(&names.uris)
            && (names.emails.is_empty() || !constrains_emails)
            && names.addresses.iter().all(|address| {
                let inside = |range: &Range| is_in_range(*address, range);
                (permitted.ranges.is_empty() || permitted.ranges.iter().any(inside))
                    && !excluded.ranges.iter().any(inside)
            })
    }

    fn allow_dns(&self, names: &[String]) -> bool {
        let (permitted, excluded) = (&self.permitted.dns, &self.excluded.dns);
        if permitted.is_empty() && excluded.is_empty() {
            return true;
        }
        permitted.iter().chain(excluded).all(|domain| is_constraint(domain))
            && names.iter().all(|name| {
                is_name(name)
                    && (permitted.is_empty() || permitted.iter().any(|domain| is_in_domain(name, domain)))
                    && !excluded.iter().any(|domain| is_in_domain(name, domain) || may_become(name, domain))
            })
    }

    fn allow_uris(&self, uris: &[String]) -> bool {
        let (permitted, excluded) = (&self.permitted.uris, &self.excluded.uris);
        if permitted.is_empty() && excluded.is_empty() {
            return true;
        }
        permitted.iter().chain(excluded).all(|domain| is_constraint(domain))
            && uris.iter().all(|uri| {
                uri_host(uri).is_some_and(|host| {
                    (permitted.is_empty() || permitted.iter().any(|domain| is_host_of(&host, domain)))
                        && !excluded.iter().any(|domain| is_host_of(&host, domain))
                })
            })
    }
}

/// Labels of visible characters. Nothing is empty: with a full stop at its end, a name would be another one here, and
/// the same one for those who connect to it.
fn is_name(name: &str) -> bool {
    name.split('.').all(|label| !label.is_empty() && label.bytes().all(|byte| byte.is_ascii_graphic()))
}

fn is_constraint(domain: &str) -> bool {
    domain.is_empty() || is_name(domain.strip_prefix('.').unwrap_or(domain))
}

/// The domain itself or one below; with a dot in front, only those below.
fn is_in_domain(name: &str, domain: &str) -> bool {
    let below = name.len().checked_sub(domain.len()).and_then(|at| name.as_bytes().split_at_checked(at));
    let Some((above, end)) = below else { return false };
    end.eq_ignore_ascii_case(domain.as_bytes())
        && (domain.is_empty() || above.is_empty() || domain.starts_with('.') || above.ends_with(b"."))
}

/// Whether the name is a wildcard, and the domain one of those that it stands for.
fn may_become(name: &str, domain: &str) -> bool {
    let parents = (name.strip_prefix("*."), domain.split_once('.'));
    matches!(parents, (Some(stands_below), Some((_, parent))) if stands_below.eq_ignore_ascii_case(parent))
}

/// For URIs a constraint is one host, unless it has a dot in front.
fn is_host_of(host: &str, domain: &str) -> bool {
    if domain.is_empty() || domain.starts_with('.') {
        is_in_domain(host, domain)
    } else {
        host.eq_ignore_ascii_case(domain)
    }
}

/// A host name, without the port. URIs without one, and with an address for it, have nothing that could be compared.
fn uri_host(text: &str) -> Option<String> {
    let shape = uri::shape(text)?;
    let authority = shape["Host"].as_string().ok()?;
    let host = authority.split_once(':').map_or(&**authority, |(host, _)| host);
    let is_address = host.starts_with('[') || host.parse::<IpAddr>().is_ok();
    (!is_address && is_name(host)).then(|| host.to_owned())
}

fn is_in_range(address: IpAddr, (network, mask): &Range) -> bool {
    let bytes = match address {
        IpAddr::V4(address) => address.octets().to_vec(),
        IpAddr::V6(address) => address.octets().to_vec(),
    };
    bytes.len() == network.len()
        && bytes.iter().zip(mask).zip(network).all(|((byte, mask), network)| byte & mask == *network)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn allowed(permitted: &[&str], excluded: &[&str], names: &[&str]) -> bool {
        let texts = |texts: &[&str]| texts.iter().map(|text| (*text).to_owned()).collect::<Vec<_>>();
        let subtrees = |dns: &[&str]| Subtrees { dns: texts(dns), uris: texts(dns), ..Subtrees::default() };
        let (permitted, excluded) = (subtrees(permitted), subtrees(excluded));
        let mut found = AlternativeNames::default();
        for name in names {
            let kind = if name.contains(':') { &mut found.uris } else { &mut found.dns };
            kind.push((*name).to_owned());
        }
        Constraints { permitted: &permitted, excluded: &excluded }.allow(&found)
    }

    #[test]
    fn no_other_form_of_a_name_gets_around_an_exclusion() {
        let excluded = ["secret.example.com"];
        for name in [
            "secret.example.com",
            "SECRET.example.com",
            "secret.example.com.",
            "a.secret.example.com.",
            "secret..example.com",
            "secret.example.com ",
            ".secret.example.com",
            "",
            "*.example.com",
            "*.Example.com",
            "*.secret.example.com",
        ] {
            assert!(!allowed(&[], &excluded, &[name]), "{name}");
            assert!(!allowed(&["example.com"], &excluded, &[name]), "{name}");
        }
        for name in ["example.com", "a.example.com", "*.a.example.com", "nosecret.example.com"] {
            assert!(allowed(&[], &excluded, &[name]), "{name}");
            assert!(allowed(&["example.com"], &excluded, &[name]), "{name}");
        }
        assert!(allowed(&[], &[".secret.example.com"], &["*.example.com"]), "only those below");
        assert!(allowed(&["example.com"], &[], &["*.example.com"]));
        assert!(!allowed(&["secret.example.com"], &[], &["*.example.com"]));
        assert!(
            !allowed(&[], &["secret.example.com."], &["a.example.com"]),
            "a constraint that means nothing"
        );
        assert!(!allowed(&["."], &[], &["a"]));
        assert!(allowed(&[], &[], &["a..b."]));
    }

    #[test]
    fn hosts_of_uris_are_compared() {
        for (domain, uri, expected) in [
            ("example.com", "spiffe://example.com/ns/a", true),
            ("example.com", "spiffe://Example.COM:8/a", true),
            ("example.com", "https://u@example.com/", true),
            ("example.com", "spiffe://a.example.com/", false),
            (".example.com", "spiffe://a.example.com/", true),
            (".example.com", "spiffe://example.com/", false),
            ("", "spiffe://example.com/", true),
            ("", "urn:uuid:1", false),
            ("", "https://10.0.0.1/", false),
            ("", "https://[::1]/", false),
            ("", "https://[::1]:2/", false),
            ("example.com", "https://example.com@other.com/", false),
        ] {
            assert_eq!(allowed(&[domain], &[], &[uri]), expected, "{domain} {uri}");
        }
        assert!(!allowed(&[], &["example.com"], &["spiffe://example.com./a"]));
        assert!(!allowed(&[], &["example.com"], &["spiffe://example.com/a"]));
        assert!(allowed(&[], &["example.com"], &["spiffe://other.com/a"]));
    }
}
