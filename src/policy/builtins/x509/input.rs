//! What a text with certificates may be: PEM, PEM in base64, or DER in base64, one after another.

use x509_parser::asn1_rs::Any;
use x509_parser::prelude::FromDer;

use super::certificate::Certificate;
use crate::jws::base64;
use crate::jws::key::MALFORMED_CERTIFICATE;
use crate::jws::pem::Block;

/// Certificates in one text. The trust stores of operating systems have about 150.
const MAX_CERTIFICATES: usize = 512;

const PEM_BEGIN: &str = "-----BEGIN";

pub fn certificates(text: &str) -> Result<Vec<Certificate>, String> {
    if text.starts_with(PEM_BEGIN) {
        return of_pem(text);
    }
    let bytes = base64::standard(text).map_err(|error| error.to_string())?;
    if bytes.starts_with(PEM_BEGIN.as_bytes()) {
        return of_pem(&String::from_utf8_lossy(&bytes));
    }
    of_der(&bytes)
}

fn of_pem(text: &str) -> Result<Vec<Certificate>, String> {
    let (mut rest, mut der) = (text, Vec::new());
    while let Some((block, after)) = Block::first(rest) {
        if block.label != "CERTIFICATE" {
            return Err(format!("PEM block type is '{}', expected CERTIFICATE", block.label));
        }
        der.extend(block.bytes);
        rest = after;
    }
    of_der(&der)
}

fn of_der(mut der: &[u8]) -> Result<Vec<Certificate>, String> {
    let mut certificates = Vec::new();
    while !der.is_empty() {
        if certificates.len() == MAX_CERTIFICATES {
            return Err(format!("more than {MAX_CERTIFICATES} certificates"));
        }
        let (rest, _) = Any::from_der(der).map_err(|_| MALFORMED_CERTIFICATE)?;
        let one = der.get(..der.len() - rest.len()).unwrap_or_default();
        certificates.push(Certificate::parse(one)?);
        der = rest;
    }
    Ok(certificates)
}
