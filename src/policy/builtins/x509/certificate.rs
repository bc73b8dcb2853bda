//! One certificate: what of it a chain is checked by, and its shape for policies.

use std::collections::BTreeMap;

use num_bigint::BigInt;
use regorus::Value;
use x509_parser::prelude::{FromDer, X509Certificate};

use super::extensions::Extensions;
use super::name::Name;
use super::shape;
use super::signature::Algorithm;
use crate::jws::key::{self, MALFORMED_CERTIFICATE, PublicKey};

/// Bytes of a serial number; RFC 5280 has 20. Writing a number in decimal takes the square of its length.
const MAX_SERIAL_BYTES: usize = 128;

#[derive(Clone)]
pub struct Certificate(std::rc::Rc<Parts>);

pub struct Parts {
    pub raw: Vec<u8>,
    pub signed: Vec<u8>,
    pub public_key_info: Vec<u8>,
    pub raw_subject: Vec<u8>,
    pub raw_issuer: Vec<u8>,
    pub signature: Vec<u8>,
    pub algorithm: Algorithm,
    pub key: PublicKey,
    /// 1 to 3.
    pub version: u32,
    /// Seconds since 1970.
    pub not_before: i64,
    pub not_after: i64,
    pub extensions: Extensions,
    serial: BigInt,
    issuer: Name,
    subject: Name,
}

impl std::ops::Deref for Certificate {
    type Target = Parts;

    fn deref(&self) -> &Parts {
        &self.0
    }
}

impl Certificate {
    /// Exactly one, in DER.
    pub fn parse(der: &[u8]) -> Result<Self, String> {
        let (rest, parsed) = X509Certificate::from_der(der).map_err(|_| MALFORMED_CERTIFICATE)?;
        if !rest.is_empty() {
            return Err("x509: trailing data".to_owned());
        }
        let tbs = &parsed.tbs_certificate;
        if tbs.signature != parsed.signature_algorithm {
            return Err("x509: inner and outer signature algorithm identifiers don't match".to_owned());
        }
        let serial = tbs.raw_serial();
        if serial.len() > MAX_SERIAL_BYTES {
            return Err(format!("x509: serial number longer than {MAX_SERIAL_BYTES} bytes"));
        }
        Ok(Self(std::rc::Rc::new(Parts {
            raw: der.to_vec(),
            signed: tbs.as_ref().to_vec(),
            public_key_info: tbs.subject_pki.raw.to_vec(),
            raw_subject: tbs.subject.as_raw().to_vec(),
            raw_issuer: tbs.issuer.as_raw().to_vec(),
            signature: parsed.signature_value.data.to_vec(),
            algorithm: Algorithm::of(&parsed.signature_algorithm),
            key: key::of_spki(tbs.subject_pki.raw)?,
            version: tbs.version.0.saturating_add(1),
            not_before: tbs.validity.not_before.timestamp(),
            not_after: tbs.validity.not_after.timestamp(),
            extensions: Extensions::parse(tbs.extensions())?,
            serial: BigInt::from_signed_bytes_be(serial),
            issuer: Name::parse(&tbs.issuer)?,
            subject: Name::parse(&tbs.subject)?,
        })))
    }

    fn members(&self) -> BTreeMap<Value, Value> {
        let mut members = vec![
            ("Raw", shape::bytes(&self.raw)),
            ("RawTBSCertificate", shape::bytes(&self.signed)),
            ("RawSubjectPublicKeyInfo", shape::bytes(&self.public_key_info)),
            ("RawSubject", shape::bytes(&self.raw_subject)),
            ("RawIssuer", shape::bytes(&self.raw_issuer)),
            ("Signature", shape::bytes(&self.signature)),
            ("SignatureAlgorithm", self.algorithm.shape()),
            ("PublicKeyAlgorithm", shape::key_algorithm(&self.key)),
            ("PublicKey", shape::public_key(&self.key)),
            ("Version", Value::from(self.version)),
            ("SerialNumber", shape::signed(&self.serial)),
            ("Issuer", self.issuer.shape()),
            ("Subject", self.subject.shape()),
            ("NotBefore", shape::seconds(self.not_before)),
            ("NotAfter", shape::seconds(self.not_after)),
        ];
        members.extend(self.extensions.members());
        members.into_iter().map(|(name, value)| (Value::from(name), value)).collect()
    }

    /// As Go's `x509.Certificate`.
    pub fn shape(&self) -> Value {
        Value::from(self.members())
    }

    /// With OPA's own member for URIs as texts.
    pub fn shape_with_uris(&self) -> Value {
        let mut members = self.members();
        members.insert(Value::from("URIStrings"), shape::texts(&self.extensions.names.uris));
        Value::from(members)
    }
}
