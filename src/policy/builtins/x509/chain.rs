//! A path from a certificate to its root, with Go's rules: `x509.Certificate.Verify`. Stricter in two places: SHA-1
//! and RSA keys under 2048 bits never verify, and constraints on mail addresses refuse every certificate that has one.

use super::certificate::Certificate;
use super::constraints::Constraints;
use super::extensions::{ANY_USAGE, Extensions, KEY_USAGE_CERT_SIGN};
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
        let constraints = Constraints::of(&issuer.extensions);
        for below in chain {
            let names = &below.extensions.names;
            self.comparisons += constraints.comparisons(names);
            if self.comparisons > self.options.max_comparisons || !constraints.allow(names) {
                return None;
            }
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
