//! A path from a certificate to its root, with Go's rules: `x509.Certificate.Verify`. Stricter in two places: SHA-1
//! and RSA keys under 2048 bits never verify, and constraints on names of a kind that is not compared here (mail
//! addresses, URIs) refuse every certificate that has such names.

use std::net::IpAddr;

use super::certificate::Certificate;
use super::extensions::{ANY_USAGE, Extensions, KEY_USAGE_CERT_SIGN, Range, Subtrees};
use super::hostname;
use super::options::Options;

/// Signatures checked for one chain. Certificates that name each other as issuers would allow for exponentially many.
const MAX_SIGNATURE_CHECKS: usize = 100;
/// Certificates of one chain. Real ones have four.
const MAX_CHAIN: usize = 16;

pub fn build(
    leaf: &Certificate,
    intermediates: &[Certificate],
    root: &Certificate,
    options: &Options,
) -> Option<Vec<Certificate>> {
    let mut search = Search { intermediates, root, options, checks: 0, comparisons: 0 };
    if !search.is_current(leaf) || !leaf.extensions.unhandled_critical.is_empty() {
        return None;
    }
    if !options.dns_name.is_empty() && !hostname::matches(&leaf.extensions.names, &options.dns_name) {
        return None;
    }
    search.extend(vec![leaf.clone()])
}

struct Search<'c> {
    intermediates: &'c [Certificate],
    root: &'c Certificate,
    options: &'c Options,
    checks: usize,
    /// Of names with constraints.
    comparisons: usize,
}

impl Search<'_> {
    /// Depth first; recurses at most [`MAX_CHAIN`] deep.
    fn extend(&mut self, chain: Vec<Certificate>) -> Option<Vec<Certificate>> {
        let last = chain.last()?.clone();
        if chain.len() == 1 && last.raw == self.root.raw {
            return self.serves(&chain).then_some(chain);
        }
        if chain.len() >= MAX_CHAIN {
            return None;
        }
        let root = self.root.clone();
        if let Some(complete) = self.with_issuer(&chain, &root, true)
            && self.serves(&complete)
        {
            return Some(complete);
        }
        for candidate in self.intermediates {
            if let Some(longer) = self.with_issuer(&chain, candidate, false)
                && let Some(complete) = self.extend(longer)
            {
                return Some(complete);
            }
        }
        None
    }

    fn with_issuer(
        &mut self,
        chain: &[Certificate],
        issuer: &Certificate,
        is_root: bool,
    ) -> Option<Vec<Certificate>> {
        let child = chain.last()?;
        let is_in_chain = |known: &Certificate| {
            known.raw_subject == issuer.raw_subject && known.public_key_info == issuer.public_key_info
        };
        if child.raw_issuer != issuer.raw_subject || chain.iter().any(is_in_chain) {
            return None;
        }
        if !self.may_issue(issuer, chain, is_root) {
            return None;
        }
        if self.checks >= MAX_SIGNATURE_CHECKS {
            return None;
        }
        self.checks += 1;
        if !child.algorithm.verify(&issuer.key, &child.signed, &child.signature) {
            return None;
        }
        // Last, for it is what hostile certificates could make dear.
        if !chain.iter().all(|below| self.names_allowed(&issuer.extensions, &below.extensions)) {
            return None;
        }
        let mut longer = chain.to_vec();
        longer.push(issuer.clone());
        Some(longer)
    }

    fn may_issue(&self, issuer: &Certificate, chain: &[Certificate], is_root: bool) -> bool {
        let extensions = &issuer.extensions;
        let is_authority = if extensions.has_basic_constraints {
            extensions.is_ca
        } else {
            // Certificates before version 3 have no way to say so, and only a root is believed.
            is_root && issuer.version < 3
        };
        let may_sign = extensions.key_usage == 0 || extensions.key_usage & KEY_USAGE_CERT_SIGN != 0;
        // Those between the issuer and the leaf.
        let between = i64::try_from(chain.len()).unwrap_or(i64::MAX) - 1;
        let is_short_enough =
            !extensions.has_basic_constraints || extensions.max_path < 0 || between <= extensions.max_path;
        is_authority
            && may_sign
            && is_short_enough
            && extensions.unhandled_critical.is_empty()
            && self.is_current(issuer)
    }

    fn is_current(&self, certificate: &Certificate) -> bool {
        let ns = |seconds: i64| i128::from(seconds) * 1_000_000_000;
        (ns(certificate.not_before)..=ns(certificate.not_after)).contains(&self.options.now_ns)
    }

    fn names_allowed(&mut self, issuer: &Extensions, below: &Extensions) -> bool {
        let (permitted, excluded, names) = (&issuer.permitted, &issuer.excluded, &below.names);
        self.comparisons += names.dns.len() * (permitted.dns.len() + excluded.dns.len());
        self.comparisons += names.addresses.len() * (permitted.ranges.len() + excluded.ranges.len());
        if self.comparisons > self.options.max_comparisons {
            return false;
        }
        let dns = names.dns.iter().all(|name| {
            let inside = |domain: &String| is_in_domain(name, domain);
            (permitted.dns.is_empty() || permitted.dns.iter().any(inside)) && !excluded.dns.iter().any(inside)
        });
        let addresses = names.addresses.iter().all(|address| {
            let inside = |range: &Range| is_in_range(*address, range);
            (permitted.ranges.is_empty() || permitted.ranges.iter().any(inside))
                && !excluded.ranges.iter().any(inside)
        });
        let constrains =
            |kind: fn(&Subtrees) -> &Vec<String>| !kind(permitted).is_empty() || !kind(excluded).is_empty();
        let emails = names.emails.is_empty() || !constrains(|subtrees| &subtrees.emails);
        let uris = names.uris.is_empty() || !constrains(|subtrees| &subtrees.uris);
        dns && addresses && emails && uris
    }

    /// Whether one of the usages asked for is allowed by every certificate. One that names none allows all.
    fn serves(&self, chain: &[Certificate]) -> bool {
        let allows = |certificate: &Certificate, usage: u64| {
            let Extensions { usages, unknown_usages, .. } = &certificate.extensions;
            (usages.is_empty() && unknown_usages.is_empty())
                || usages.contains(&ANY_USAGE)
                || usages.contains(&usage)
        };
        self.options
            .usages
            .iter()
            .any(|usage| *usage == ANY_USAGE || chain.iter().all(|certificate| allows(certificate, *usage)))
    }
}

/// The domain itself or one below; with a dot in front, only those below.
fn is_in_domain(name: &str, domain: &str) -> bool {
    let below = name.len().checked_sub(domain.len()).and_then(|at| name.as_bytes().split_at_checked(at));
    let Some((above, end)) = below else { return false };
    end.eq_ignore_ascii_case(domain.as_bytes())
        && (domain.is_empty() || above.is_empty() || domain.starts_with('.') || above.ends_with(b"."))
}

fn is_in_range(address: IpAddr, (network, mask): &Range) -> bool {
    let bytes = match address {
        IpAddr::V4(address) => address.octets().to_vec(),
        IpAddr::V6(address) => address.octets().to_vec(),
    };
    bytes.len() == network.len()
        && bytes.iter().zip(mask).zip(network).all(|((byte, mask), network)| byte & mask == *network)
}
