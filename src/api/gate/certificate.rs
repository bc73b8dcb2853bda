//! Whom a client certificate names. That an authority of ours signed it, the handshake has settled; a name is never
//! taken from the subject, which authorities check less than the alternative names.

use jiff::Timestamp;
use ring::digest;
use x509_parser::prelude::{FromDer, GeneralName, X509Certificate};

use super::answer::Reason;
use crate::principal::{Caller, Evidence, Identity, Kind, Principal};

const SPIFFE: &str = "spiffe://";

/// A certificate that a connection has shown.
#[derive(Debug)]
pub struct Presented {
    name: Result<Principal, Reason>,
    ends: Timestamp,
    sha256: Vec<u8>,
}

impl Presented {
    #[must_use]
    pub fn read(der: &[u8]) -> Self {
        let sha256 = digest::digest(&digest::SHA256, der).as_ref().to_vec();
        match X509Certificate::from_der(der) {
            Ok((_, certificate)) => {
                let ends = certificate.validity().not_after.timestamp();
                let ends = Timestamp::from_second(ends).unwrap_or(Timestamp::MAX);
                Self { name: name(&certificate), ends, sha256 }
            }
            Err(_) => Self { name: Err(Reason::Unreadable), ends: Timestamp::MIN, sha256 },
        }
    }

    /// # Errors
    /// It names nobody, or more than one, or no longer does.
    pub fn identity(&self, now: Timestamp) -> Result<Identity, Reason> {
        let name = self.name.clone()?;
        // Connections live longer than the handshake's look at it.
        if self.ends <= now {
            return Err(Reason::CertificateExpired);
        }
        let caller = Caller::new(vec![name]);
        let identity = Identity::new(caller, Evidence::Certificate).ok_or(Reason::NoSubject)?;
        Ok(Identity { expires_at: Some(self.ends), ..identity })
    }

    /// `x5t#S256` of RFC 8705.
    #[must_use]
    pub fn sha256(&self) -> &[u8] {
        &self.sha256
    }
}

fn name(certificate: &X509Certificate<'_>) -> Result<Principal, Reason> {
    let names = certificate.subject_alternative_name().map_err(|_| Reason::Unreadable)?;
    let names = names.map(|extension| extension.value.general_names.as_slice()).unwrap_or_default();
    let mut uris = names.iter().filter_map(|name| match name {
        GeneralName::URI(uri) => Some(*uri),
        _ => None,
    });
    let uri = uris.next();
    // X509-SVID, section 2: exactly one. Any choice among several would be a guess.
    if uris.next().is_some() {
        return Err(Reason::SeveralNames);
    }
    let text = match uri.filter(|uri| is_prefixed(uri)) {
        Some(uri) if is_spiffe_id(uri) => uri,
        Some(_) => return Err(Reason::BadSpiffeId),
        None => {
            let mut dns = names.iter().filter_map(|name| match name {
                GeneralName::DNSName(name) => Some(*name),
                _ => None,
            });
            let first = dns.next().ok_or(Reason::NoSubject)?;
            if dns.any(|other| other != first) {
                return Err(Reason::SeveralNames);
            }
            // What the encoding lets through could spell an SPIFFE ID, and names in other cases are other principals.
            if is_dns_name(first) { first } else { return Err(Reason::BadDnsName) }
        }
    };
    Principal::new(Kind::Workload, text).map_err(|_| Reason::BadPrincipal)
}

/// In any case of letters: what only looks like one must not fall through to another name.
fn is_prefixed(uri: &str) -> bool {
    uri.get(..SPIFFE.len()).is_some_and(|start| start.eq_ignore_ascii_case(SPIFFE))
}

/// RFC 1123, section 2.1, in lower case: labels of letters, digits and hyphens, and nothing that stands for several.
fn is_dns_name(name: &str) -> bool {
    let is_label = |label: &str| {
        (1..=63).contains(&label.len())
            && label.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-')
            && !label.starts_with('-')
            && !label.ends_with('-')
    };
    name.len() <= 253 && name.split('.').all(is_label)
}

/// SPIFFE-ID, section 2: a trust domain in lower case, a path of plain segments, and nothing more.
fn is_spiffe_id(uri: &str) -> bool {
    let Some(rest) = uri.strip_prefix(SPIFFE) else { return false };
    let mut parts = rest.split('/');
    let domain = parts.next().unwrap_or_default();
    let is_domain = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || b"-._".contains(&byte);
    let is_segment = |segment: &str| {
        !matches!(segment, "" | "." | "..")
            && segment.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-._".contains(&byte))
    };
    !domain.is_empty() && domain.bytes().all(is_domain) && parts.all(is_segment)
}

#[cfg(test)]
mod tests {
    use rcgen::{CertificateParams, KeyPair, SanType};

    use super::*;

    enum Name {
        Uri(&'static str),
        Dns(&'static str),
    }
    use Name::{Dns, Uri};

    fn named(names: &[Name]) -> Result<String, Reason> {
        let mut params = CertificateParams::default();
        params.distinguished_name.push(rcgen::DnType::CommonName, "admin");
        params.subject_alt_names = names
            .iter()
            .map(|name| match name {
                Uri(uri) => SanType::URI((*uri).try_into().unwrap()),
                Dns(dns) => SanType::DnsName((*dns).try_into().unwrap()),
            })
            .collect();
        let key = KeyPair::generate().unwrap();
        let der = params.self_signed(&key).unwrap().der().to_vec();
        Presented::read(&der).identity(Timestamp::now()).map(|identity| identity.subject.to_string())
    }

    #[test]
    fn names_come_from_the_alternative_names_alone() {
        assert_eq!(
            named(&[Uri("spiffe://td/ns/a/sa/web")]),
            Ok("workload:spiffe://td/ns/a/sa/web".to_owned())
        );
        assert_eq!(named(&[Dns("x.svc"), Uri("spiffe://td/web")]), Ok("workload:spiffe://td/web".to_owned()));
        assert_eq!(named(&[Dns("a.svc"), Dns("a.svc")]), Ok("workload:a.svc".to_owned()));
        assert_eq!(named(&[Dns("a.svc"), Dns("b.svc")]), Err(Reason::SeveralNames));
        assert_eq!(
            named(&[Uri("spiffe://td/web"), Dns("a.svc"), Dns("b.svc")]),
            Ok("workload:spiffe://td/web".to_owned())
        );
        for good in ["a", "a-b.c1.example", "10.0.0.1"] {
            assert_eq!(named(&[Dns(good)]), Ok(format!("workload:{good}")));
        }
        for bad in [
            "spiffe://td/web",
            "*.svc",
            "A.svc",
            "a_b.svc",
            "a..svc",
            ".svc",
            "a.svc.",
            "-a.svc",
            "a-.svc",
            "a b",
            "",
            "a/b",
            "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa.svc",
        ] {
            assert_eq!(named(&[Dns(bad)]), Err(Reason::BadDnsName), "{bad}");
        }
        assert_eq!(named(&[Uri("https://x/y"), Dns("a.svc")]), Ok("workload:a.svc".to_owned()));
        assert_eq!(named(&[]), Err(Reason::NoSubject));
        assert_eq!(named(&[Uri("https://x/y")]), Err(Reason::NoSubject));
        for second in ["spiffe://td/b", "https://x", "spiffe://td/a"] {
            assert_eq!(named(&[Uri("spiffe://td/a"), Uri(second)]), Err(Reason::SeveralNames));
        }
        for bad in [
            "spiffe://",
            "spiffe:///web",
            "spiffe://TD/web",
            "SPIFFE://td/web",
            "spiffe://td/",
            "spiffe://td/a//b",
            "spiffe://td/../b",
            "spiffe://td/a?b",
            "spiffe://td/a#b",
            "spiffe://td:80/a",
            "spiffe://u@td/a",
            "spiffe://td/%61",
        ] {
            assert_eq!(named(&[Uri(bad), Dns("a.svc")]), Err(Reason::BadSpiffeId), "{bad}");
        }
        let garbage = Presented::read(b"no certificate");
        assert_eq!(garbage.identity(Timestamp::now()), Err(Reason::Unreadable));
    }

    #[test]
    fn a_certificate_ends() {
        let mut params = CertificateParams::new(vec!["a.svc".to_owned()]).unwrap();
        params.not_after = rcgen::date_time_ymd(2030, 1, 1);
        let der = params.self_signed(&KeyPair::generate().unwrap()).unwrap().der().to_vec();
        let certificate = Presented::read(&der);
        let end: Timestamp = "2030-01-01T00:00:00Z".parse().unwrap();
        let before = end - jiff::SignedDuration::from_secs(1);
        assert_eq!(certificate.identity(before).unwrap().expires_at, Some(end));
        assert_eq!(certificate.identity(end), Err(Reason::CertificateExpired));
    }
}
