//! `crypto.x509.parse_certificate_request`: a PKCS#10 request as Go's `x509.CertificateRequest`.

use std::collections::BTreeMap;

use regorus::Value;
use x509_parser::asn1_rs::{Any, Class, Tag};
use x509_parser::cri_attributes::ParsedCriAttribute;
use x509_parser::prelude::{FromDer, X509CertificationRequest};

use super::super::{Fault, Outcome, text};
use super::extensions::Extensions;
use super::name::Name;
use super::shape::{self, bytes, list, object};
use super::signature::Algorithm;
use crate::jws::der::Fields;
use crate::jws::pem::Block;
use crate::jws::{base64, key};

pub fn parse(value: &Value) -> Outcome {
    let text = text(1, value)?;
    let bytes = if text.starts_with("-----BEGIN CERTIFICATE REQUEST-----") {
        text.as_bytes().to_vec()
    } else {
        base64::standard(text).map_err(|error| Fault::failed(error.to_string()))?
    };
    let der = match Block::first(&String::from_utf8_lossy(&bytes)) {
        Some((block, _)) if block.label == "CERTIFICATE REQUEST" => block.bytes,
        Some(_) => return Err(Fault::failed("invalid PEM-encoded certificate signing request")),
        None => bytes,
    };
    shape_of(&der).map_err(Fault::failed)
}

fn shape_of(der: &[u8]) -> Result<Value, String> {
    let malformed = "asn1: structure error: not a certificate request";
    let (rest, request) = X509CertificationRequest::from_der(der).map_err(|_| malformed)?;
    if !rest.is_empty() {
        return Err("asn1: syntax error: trailing data".to_owned());
    }
    let info = &request.certification_request_info;
    let requested = info.attributes().iter().find_map(|attribute| match attribute.parsed_attribute() {
        ParsedCriAttribute::ExtensionRequest(request) => Some(request.extensions.as_slice()),
        _ => None,
    });
    let extensions = Extensions::parse(requested.unwrap_or_default())?;
    let key = key::of_spki(info.subject_pki.raw)?;
    let attributes = attributes(info.raw);
    let mut members = vec![
        ("Raw", bytes(der)),
        ("RawTBSCertificateRequest", bytes(info.raw)),
        ("RawSubjectPublicKeyInfo", bytes(info.subject_pki.raw)),
        ("RawSubject", bytes(info.subject.as_raw())),
        ("Version", Value::from(info.version.0)),
        ("Signature", bytes(&request.signature_value.data)),
        ("SignatureAlgorithm", Algorithm::of(&request.signature_algorithm).shape()),
        ("PublicKeyAlgorithm", shape::key_algorithm(&key)),
        ("PublicKey", shape::public_key(&key)),
        ("Subject", Name::parse(&info.subject)?.shape()),
        ("Attributes", list(&attributes, Clone::clone)),
        ("Extensions", extensions.all()),
        ("ExtraExtensions", Value::Null),
    ];
    members.extend(extensions.names.members());
    let members = members.into_iter().map(|(name, value)| (Value::from(name), value));
    Ok(Value::from(members.collect::<BTreeMap<_, _>>()))
}

/// Read anew: the parser keeps the values of those attributes alone that it knows.
fn attributes(info: &[u8]) -> Vec<Value> {
    let found = (|| {
        let mut fields = Fields::of(info)?;
        // Version, subject and key.
        for _ in 0..3 {
            fields.any()?;
        }
        fields.tagged(0)
    })();
    let mut attributes = Vec::new();
    let Some(mut found) = found else { return attributes };
    while let Some(mut attribute) = found.sequence() {
        // Go's old form, lists of typed values; it leaves out those of any other form.
        if let (Some(kind), Some(values)) = (attribute.oid(), attribute.set())
            && let Some(values) = typed_values(values)
        {
            attributes.push(object([("Type", shape::oid(&kind)), ("Value", values)]));
        }
    }
    attributes
}

fn typed_values(mut set: Fields) -> Option<Value> {
    let mut values = Vec::new();
    while !set.is_empty() {
        let mut typed = Vec::new();
        let mut inner = set.sequence()?;
        while !inner.is_empty() {
            let mut pair = inner.sequence()?;
            let (kind, value) = (pair.oid()?, pair.any()?);
            typed.push(object([("Type", shape::oid(&kind)), ("Value", plain(&value)?)]));
        }
        values.push(Value::from(typed));
    }
    Some(Value::from(values))
}

fn plain(value: &Any) -> Option<Value> {
    let content = value.as_bytes();
    if value.class() != Class::Universal {
        return None;
    }
    match value.tag() {
        Tag::Boolean => Some(Value::Bool(content != [0])),
        Tag::OctetString => Some(bytes(content)),
        Tag::Utf8String | Tag::PrintableString | Tag::Ia5String => {
            Some(Value::from(String::from_utf8_lossy(content).into_owned()))
        }
        _ => None,
    }
}
