//! Extensions of certificates and requests (RFC 5280, 4.2), those that Go reads.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use regorus::Value;
use x509_parser::asn1_rs::{Oid, oid};
use x509_parser::extensions::{
    CRLDistributionPoint, DistributionPointName, GeneralName, GeneralSubtree, NameConstraints,
    ParsedExtension, X509Extension,
};

use super::shape::{self, bytes, list, object, optional_bytes, texts};
use super::uri;
use crate::jws::der::Fields;

const OCSP: Oid<'static> = oid!(1.3.6.1.5.5.7.48.1);
const CA_ISSUERS: Oid<'static> = oid!(1.3.6.1.5.5.7.48.2);

/// In the order of Go's `ExtKeyUsage`.
const USAGES: [Oid<'static>; 14] = [
    oid!(2.5.29.37.0),
    oid!(1.3.6.1.5.5.7.3.1),
    oid!(1.3.6.1.5.5.7.3.2),
    oid!(1.3.6.1.5.5.7.3.3),
    oid!(1.3.6.1.5.5.7.3.4),
    oid!(1.3.6.1.5.5.7.3.5),
    oid!(1.3.6.1.5.5.7.3.6),
    oid!(1.3.6.1.5.5.7.3.7),
    oid!(1.3.6.1.5.5.7.3.8),
    oid!(1.3.6.1.5.5.7.3.9),
    oid!(1.3.6.1.4.1.311.10.3.3),
    oid!(2.16.840.1.113730.4.1),
    oid!(1.3.6.1.4.1.311.2.1.22),
    oid!(1.3.6.1.4.1.311.61.1.1),
];

/// Extended key usages by their numbers in Go.
pub const ANY_USAGE: u64 = 0;
pub const SERVER_AUTH: u64 = 1;

pub const KEY_USAGE_CERT_SIGN: u16 = 1 << 5;

#[derive(Default)]
pub struct AlternativeNames {
    pub dns: Vec<String>,
    pub emails: Vec<String>,
    pub addresses: Vec<IpAddr>,
    pub uris: Vec<String>,
}

/// Address and mask.
pub type Range = (Vec<u8>, Vec<u8>);

#[derive(Default)]
pub struct Subtrees {
    pub dns: Vec<String>,
    pub ranges: Vec<Range>,
    pub emails: Vec<String>,
    pub uris: Vec<String>,
}

#[derive(Default)]
pub struct Extensions {
    all: Vec<Value>,
    pub unhandled_critical: Vec<Value>,
    pub key_usage: u16,
    pub usages: Vec<u64>,
    pub unknown_usages: Vec<Value>,
    pub has_basic_constraints: bool,
    pub is_ca: bool,
    /// -1: none.
    pub max_path: i64,
    subject_key_id: Option<Vec<u8>>,
    authority_key_id: Option<Vec<u8>>,
    ocsp_servers: Vec<String>,
    issuing_urls: Vec<String>,
    pub names: AlternativeNames,
    name_constraints_critical: bool,
    pub permitted: Subtrees,
    pub excluded: Subtrees,
    distribution_points: Vec<String>,
    policies: Vec<(Value, String)>,
    policy_mappings: Vec<(String, String)>,
    require_explicit_policy: Option<u32>,
    inhibit_policy_mapping: Option<u32>,
    inhibit_any_policy: Option<u32>,
}

impl Extensions {
    pub fn parse(found: &[X509Extension]) -> Result<Self, String> {
        let mut extensions = Self::default();
        for extension in found {
            let is_handled = extensions.read(extension)?;
            if extension.critical && !is_handled {
                extensions.unhandled_critical.push(shape::oid(&extension.oid));
            }
            extensions.all.push(object([
                ("Id", shape::oid(&extension.oid)),
                ("Critical", Value::Bool(extension.critical)),
                ("Value", bytes(extension.value)),
            ]));
        }
        Ok(extensions)
    }

    /// Whether all of it is understood.
    fn read(&mut self, extension: &X509Extension) -> Result<bool, String> {
        if extension.oid == oid!(2.5.29.37) {
            self.read_usages(extension.value)?;
            return Ok(true);
        }
        match extension.parsed_extension() {
            ParsedExtension::KeyUsage(usage) => self.key_usage = usage.flags,
            ParsedExtension::BasicConstraints(constraints) => {
                self.has_basic_constraints = true;
                self.is_ca = constraints.ca;
                self.max_path = constraints.path_len_constraint.map_or(-1, i64::from);
            }
            ParsedExtension::SubjectKeyIdentifier(id) => self.subject_key_id = Some(id.0.to_vec()),
            ParsedExtension::AuthorityKeyIdentifier(id) => {
                self.authority_key_id = id.key_identifier.as_ref().map(|id| id.0.to_vec());
            }
            ParsedExtension::SubjectAlternativeName(names) => {
                self.names = alternative_names(&names.general_names)?;
                let AlternativeNames { dns, emails, addresses, uris } = &self.names;
                return Ok(!(dns.is_empty() && emails.is_empty() && addresses.is_empty() && uris.is_empty()));
            }
            ParsedExtension::NameConstraints(constraints) => {
                self.name_constraints_critical = extension.critical;
                return self.read_name_constraints(constraints);
            }
            ParsedExtension::CRLDistributionPoints(points) => {
                self.distribution_points = points.iter().flat_map(point_uris).collect();
            }
            ParsedExtension::CertificatePolicies(policies) => {
                let one = |oid: &Oid| Some((shape::oid(oid), shape::dotted(oid)?));
                let policies: Option<Vec<_>> = policies.iter().map(|policy| one(&policy.policy_id)).collect();
                self.policies = policies.ok_or("x509: invalid certificate policies")?;
            }
            ParsedExtension::PolicyMappings(mappings) => {
                let pairs = mappings.mappings.iter().map(|pair| {
                    let issuer = shape::dotted(&pair.issuer_domain_policy)?;
                    Some((issuer, shape::dotted(&pair.subject_domain_policy)?))
                });
                let pairs: Option<Vec<_>> = pairs.collect();
                self.policy_mappings = pairs.ok_or("x509: invalid policy mappings")?;
            }
            ParsedExtension::PolicyConstraints(constraints) => {
                self.require_explicit_policy = constraints.require_explicit_policy;
                self.inhibit_policy_mapping = constraints.inhibit_policy_mapping;
            }
            ParsedExtension::InhibitAnyPolicy(policy) => self.inhibit_any_policy = Some(policy.skip_certs),
            ParsedExtension::AuthorityInfoAccess(access) => {
                for description in access.iter() {
                    let GeneralName::URI(uri) = &description.access_location else { continue };
                    if description.access_method == OCSP {
                        self.ocsp_servers.push((*uri).to_owned());
                    } else if description.access_method == CA_ISSUERS {
                        self.issuing_urls.push((*uri).to_owned());
                    }
                }
            }
            ParsedExtension::ParseError { .. } if is_known(&extension.oid) => {
                return Err(format!("x509: invalid extension {}", extension.oid.to_id_string()));
            }
            _ => return Ok(false),
        }
        Ok(true)
    }

    /// In their order, which the parser does not keep.
    fn read_usages(&mut self, der: &[u8]) -> Result<(), String> {
        let invalid = "x509: invalid extended key usages";
        let mut fields = Fields::of(der).ok_or(invalid)?;
        while !fields.is_empty() {
            let usage = fields.oid().ok_or(invalid)?;
            match (0_u64..).zip(&USAGES).find(|(_, known)| **known == usage) {
                Some((number, _)) => self.usages.push(number),
                None => self.unknown_usages.push(shape::oid(&usage)),
            }
        }
        Ok(())
    }

    fn read_name_constraints(&mut self, constraints: &NameConstraints) -> Result<bool, String> {
        let mut is_handled = true;
        for (subtrees, into) in [
            (&constraints.permitted_subtrees, &mut self.permitted),
            (&constraints.excluded_subtrees, &mut self.excluded),
        ] {
            for subtree in subtrees.iter().flatten() {
                is_handled &= into.read(subtree)?;
            }
        }
        Ok(is_handled)
    }

    /// Members of a certificate that come from its extensions.
    pub fn members(&self) -> Vec<(&'static str, Value)> {
        let count = |found: Option<u32>| Value::from(found.unwrap_or(0));
        let is_zero = |found: Option<u32>| Value::Bool(found == Some(0));
        let mut members = vec![
            ("KeyUsage", Value::from(u64::from(self.key_usage))),
            ("Extensions", list(&self.all, Clone::clone)),
            ("ExtraExtensions", Value::Null),
            ("UnhandledCriticalExtensions", list(&self.unhandled_critical, Clone::clone)),
            ("ExtKeyUsage", list(&self.usages, |usage| Value::from(*usage))),
            ("UnknownExtKeyUsage", list(&self.unknown_usages, Clone::clone)),
            ("BasicConstraintsValid", Value::Bool(self.has_basic_constraints)),
            ("IsCA", Value::Bool(self.is_ca)),
            ("MaxPathLen", Value::from(self.max_path)),
            ("MaxPathLenZero", Value::Bool(self.has_basic_constraints && self.max_path == 0)),
            ("SubjectKeyId", optional_bytes(self.subject_key_id.as_ref())),
            ("AuthorityKeyId", optional_bytes(self.authority_key_id.as_ref())),
            ("OCSPServer", texts(&self.ocsp_servers)),
            ("IssuingCertificateURL", texts(&self.issuing_urls)),
            ("PermittedDNSDomainsCritical", Value::Bool(self.name_constraints_critical)),
            ("CRLDistributionPoints", texts(&self.distribution_points)),
            ("PolicyIdentifiers", list(&self.policies, |(arcs, _)| arcs.clone())),
            ("Policies", list(&self.policies, |(_, dotted)| Value::from(dotted.as_str()))),
            (
                "PolicyMappings",
                list(&self.policy_mappings, |(issuer, subject)| {
                    object([
                        ("IssuerDomainPolicy", Value::from(issuer.as_str())),
                        ("SubjectDomainPolicy", Value::from(subject.as_str())),
                    ])
                }),
            ),
            ("RequireExplicitPolicy", count(self.require_explicit_policy)),
            ("RequireExplicitPolicyZero", is_zero(self.require_explicit_policy)),
            ("InhibitPolicyMapping", count(self.inhibit_policy_mapping)),
            ("InhibitPolicyMappingZero", is_zero(self.inhibit_policy_mapping)),
            ("InhibitAnyPolicy", count(self.inhibit_any_policy)),
            ("InhibitAnyPolicyZero", is_zero(self.inhibit_any_policy)),
        ];
        members.extend(self.permitted.members([
            "PermittedDNSDomains",
            "PermittedIPRanges",
            "PermittedEmailAddresses",
            "PermittedURIDomains",
        ]));
        members.extend(self.excluded.members([
            "ExcludedDNSDomains",
            "ExcludedIPRanges",
            "ExcludedEmailAddresses",
            "ExcludedURIDomains",
        ]));
        members.extend(self.names.members());
        members
    }

    /// As a request has them.
    pub fn all(&self) -> Value {
        list(&self.all, Clone::clone)
    }
}

impl AlternativeNames {
    pub fn members(&self) -> Vec<(&'static str, Value)> {
        vec![
            ("DNSNames", texts(&self.dns)),
            ("EmailAddresses", texts(&self.emails)),
            ("IPAddresses", list(&self.addresses, |address| Value::from(address.to_string()))),
            ("URIs", list(&self.uris, |text| uri::shape(text).unwrap_or(Value::Null))),
        ]
    }
}

impl Subtrees {
    fn read(&mut self, subtree: &GeneralSubtree) -> Result<bool, String> {
        match &subtree.base {
            GeneralName::DNSName(domain) => self.dns.push((*domain).to_owned()),
            GeneralName::RFC822Name(email) => self.emails.push((*email).to_owned()),
            GeneralName::URI(domain) => self.uris.push((*domain).to_owned()),
            GeneralName::IPAddress(both) if matches!(both.len(), 8 | 32) => {
                let (address, mask) = both.split_at(both.len() / 2);
                let network = address.iter().zip(mask).map(|(byte, mask)| byte & mask).collect();
                self.ranges.push((network, mask.to_vec()));
            }
            GeneralName::IPAddress(_) => return Err("x509: IP constraint of a wrong length".to_owned()),
            _ => return Ok(false),
        }
        Ok(true)
    }

    fn members(&self, names: [&'static str; 4]) -> [(&'static str, Value); 4] {
        let [dns, ranges, emails, uris] = names;
        let range = |(address, mask): &Range| {
            let address = ip_address(address).map_or(Value::Null, |address| Value::from(address.to_string()));
            object([("IP", address), ("Mask", bytes(mask))])
        };
        [
            (dns, texts(&self.dns)),
            (ranges, list(&self.ranges, range)),
            (emails, texts(&self.emails)),
            (uris, texts(&self.uris)),
        ]
    }
}

fn is_known(oid: &Oid) -> bool {
    matches!(
        oid.as_bytes(),
        [0x55, 0x1d, 14 | 15 | 17 | 19 | 30 | 31 | 32 | 33 | 35 | 36 | 54]
            | [0x2b, 0x06, 0x01, 0x05, 0x05, 0x07, 0x01, 0x01]
    )
}

fn point_uris(point: &CRLDistributionPoint) -> Vec<String> {
    let Some(DistributionPointName::FullName(names)) = &point.distribution_point else {
        return Vec::new();
    };
    let uri = |name: &GeneralName| match name {
        GeneralName::URI(uri) => Some((*uri).to_owned()),
        _ => None,
    };
    names.iter().filter_map(uri).collect()
}

fn alternative_names(found: &[GeneralName]) -> Result<AlternativeNames, String> {
    let mut names = AlternativeNames::default();
    for name in found {
        match name {
            GeneralName::DNSName(dns) if dns.is_ascii() => names.dns.push((*dns).to_owned()),
            GeneralName::RFC822Name(email) if email.is_ascii() => names.emails.push((*email).to_owned()),
            GeneralName::URI(text) if text.is_ascii() => {
                uri::shape(text).ok_or_else(|| format!("x509: cannot parse URI {text:?}"))?;
                names.uris.push((*text).to_owned());
            }
            GeneralName::IPAddress(bytes) => names.addresses.push(
                ip_address(bytes)
                    .ok_or_else(|| format!("x509: cannot parse IP address of length {}", bytes.len()))?,
            ),
            GeneralName::DNSName(_) | GeneralName::RFC822Name(_) | GeneralName::URI(_) => {
                return Err("x509: SAN is malformed".to_owned());
            }
            GeneralName::Invalid(..) => return Err("x509: invalid subject alternative name".to_owned()),
            _ => {}
        }
    }
    Ok(names)
}

fn ip_address(bytes: &[u8]) -> Option<IpAddr> {
    if let Ok(four) = <[u8; 4]>::try_from(bytes) {
        return Some(IpAddr::V4(Ipv4Addr::from(four)));
    }
    let sixteen = Ipv6Addr::from(<[u8; 16]>::try_from(bytes).ok()?);
    Some(sixteen.to_ipv4_mapped().map_or(IpAddr::V6(sixteen), IpAddr::V4))
}
