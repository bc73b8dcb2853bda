//! Private keys for policies: as Go's structures, as a JWK, and beside their certificate.

use std::mem;

use regorus::Value;

use super::super::{Fault, Outcome, text};
use super::certificate::Certificate;
use super::shape::{self, big_endian, bytes, object, unsigned};
use crate::jws::base64;
use crate::jws::key::{self, PrivateKey, RsaPrivate};
use crate::jws::pem::Block;

/// Private keys in one text.
const MAX_KEYS: usize = 64;

const PEM_BEGIN: &str = "-----BEGIN";

pub fn parse_private_keys(value: &Value) -> Outcome {
    let text = text(1, value)?;
    if text.is_empty() {
        return Ok(Value::Null);
    }
    let keys = private_keys(text).map_err(Fault::failed)?;
    Ok(Value::from(keys.iter().map(shape_of).collect::<Vec<_>>()))
}

/// Despite its name for a key of any kind: the first, as a JWK.
pub fn parse_rsa_private_key(value: &Value) -> Outcome {
    let text = text(1, value)?;
    if text.is_empty() {
        return Err(Fault::failed("input PEM data was empty"));
    }
    if !text.starts_with(PEM_BEGIN) {
        base64::standard(text).map_err(|error| Fault::failed(error.to_string()))?;
    }
    let keys = private_keys(text).map_err(Fault::failed)?;
    Ok(keys.first().map_or(Value::Null, jwk))
}

fn private_keys(text: &str) -> Result<Vec<PrivateKey>, String> {
    let decoded = base64::standard(text).ok().map(|bytes| String::from_utf8_lossy(&bytes).into_owned());
    let mut rest = decoded.as_deref().unwrap_or(text);
    let mut keys = Vec::new();
    while let Some((block, after)) = Block::first(rest) {
        rest = after;
        keys.extend(match block.label {
            "RSA PRIVATE KEY" => Some(key::of_pkcs1(&block.bytes)?),
            "PRIVATE KEY" => Some(key::of_pkcs8(&block.bytes)?),
            "EC PRIVATE KEY" => Some(key::of_sec1(&block.bytes)?),
            _ => None,
        });
        if keys.len() > MAX_KEYS {
            return Err(format!("more than {MAX_KEYS} private keys"));
        }
    }
    Ok(keys)
}

pub fn parse_keypair(certificate: &Value, key: &Value) -> Outcome {
    let (certificate, key) = (text(1, certificate)?, text(1, key)?);
    keypair(certificate, key).map_err(Fault::failed)
}

/// As Go's `tls.Certificate`.
fn keypair(certificate: &str, key: &str) -> Result<Value, String> {
    let found = blocks(certificate, "CERTIFICATE")?;
    let chain: Vec<&Vec<u8>> =
        found.iter().filter(|(label, _)| label == "CERTIFICATE").map(|(_, der)| der).collect();
    let first = chain.first().ok_or_else(|| no_certificate(&found))?;
    let leaf = Certificate::parse(first)?;
    let found = blocks(key, "PRIVATE KEY")?;
    let is_key = |label: &str| label == "PRIVATE KEY" || label.ends_with(" PRIVATE KEY");
    let (_, der) = found.iter().find(|(label, _)| is_key(label)).ok_or_else(|| no_key(&found))?;
    let key = key::of_pkcs1(der)
        .or_else(|_| key::of_pkcs8(der))
        .or_else(|_| key::of_sec1(der))
        .map_err(|_| "tls: failed to parse private key")?;
    let public = key.public();
    if mem::discriminant(&public) != mem::discriminant(&leaf.key) {
        return Err("tls: private key type does not match public key type".to_owned());
    }
    if public != leaf.key {
        return Err("tls: private key does not match public key".to_owned());
    }
    Ok(object([
        ("Certificate", Value::from(chain.iter().map(|der| bytes(der)).collect::<Vec<_>>())),
        ("PrivateKey", shape_of(&key)),
        ("SupportedSignatureAlgorithms", Value::Null),
        ("OCSPStaple", Value::Null),
        ("SignedCertificateTimestamps", Value::Null),
        ("Leaf", leaf.shape()),
    ]))
}

/// Label and content.
type Labelled = (String, Vec<u8>);

fn no_certificate(found: &[Labelled]) -> String {
    match found {
        [] => "tls: failed to find any PEM data in certificate input".to_owned(),
        [(label, _)] if label.ends_with("PRIVATE KEY") => {
            "tls: failed to find certificate PEM data in certificate \
             input, but did find a private key; PEM inputs may have been switched"
                .to_owned()
        }
        _ => "tls: failed to find \"CERTIFICATE\" PEM block in certificate input".to_owned(),
    }
}

fn no_key(found: &[Labelled]) -> String {
    match found {
        [] => "tls: failed to find any PEM data in key input".to_owned(),
        [(label, _)] if label == "CERTIFICATE" => {
            "tls: found a certificate rather than a key in the PEM for the private key".to_owned()
        }
        _ => "tls: failed to find PEM block with type ending in \"PRIVATE KEY\" in key input".to_owned(),
    }
}

/// PEM, PEM in base64, or DER in base64, which is taken for one block.
fn blocks(text: &str, label: &str) -> Result<Vec<Labelled>, String> {
    let decoded;
    let mut rest = text;
    if !text.starts_with(PEM_BEGIN) {
        let bytes = base64::standard(text).map_err(|error| error.to_string())?;
        if !bytes.starts_with(PEM_BEGIN.as_bytes()) {
            return Ok(vec![(label.to_owned(), bytes)]);
        }
        decoded = String::from_utf8_lossy(&bytes).into_owned();
        rest = &decoded;
    }
    let mut found = Vec::new();
    while let Some((block, after)) = Block::first(rest) {
        rest = after;
        found.push((block.label.to_owned(), block.bytes));
    }
    Ok(found)
}

fn shape_of(key: &PrivateKey) -> Value {
    match key {
        PrivateKey::Rsa(key) => {
            let RsaPrivate { modulus, exponent, private_exponent, primes: [p, q] } = &**key;
            let [dp, dq, inverse] = key.derived().unwrap_or_default();
            object([
                ("N", unsigned(modulus)),
                ("E", unsigned(exponent)),
                ("D", unsigned(private_exponent)),
                ("Primes", Value::from(vec![unsigned(p), unsigned(q)])),
                (
                    "Precomputed",
                    object([
                        ("Dp", unsigned(&dp)),
                        ("Dq", unsigned(&dq)),
                        ("Qinv", unsigned(&inverse)),
                        ("CRTValues", Value::from(Vec::<Value>::new())),
                    ]),
                ),
            ])
        }
        PrivateKey::Ec { scalar, point, .. } => {
            let (x, y) = point.coordinates();
            object([
                ("Curve", object([])),
                ("X", big_endian(x)),
                ("Y", big_endian(y)),
                ("D", big_endian(scalar)),
            ])
        }
        PrivateKey::Ed25519 { seed, public } => shape::bytes(&[seed.as_slice(), public].concat()),
    }
}

fn jwk(key: &PrivateKey) -> Value {
    let encoded = |bytes: &[u8]| Value::from(base64::encode_url(bytes));
    match key {
        PrivateKey::Rsa(key) => {
            let number = |number: &num_bigint::BigUint| encoded(&number.to_bytes_be());
            let [dp, dq, inverse] = key.derived().unwrap_or_default();
            object([
                ("kty", Value::from("RSA")),
                ("n", number(&key.modulus)),
                ("e", number(&key.exponent)),
                ("d", number(&key.private_exponent)),
                ("p", number(&key.primes[0])),
                ("q", number(&key.primes[1])),
                ("dp", number(&dp)),
                ("dq", number(&dq)),
                ("qi", number(&inverse)),
            ])
        }
        PrivateKey::Ec { curve, scalar, point } => {
            let (x, y) = point.coordinates();
            object([
                ("kty", Value::from("EC")),
                ("crv", Value::from(curve.name())),
                ("x", encoded(x)),
                ("y", encoded(y)),
                ("d", encoded(scalar)),
            ])
        }
        PrivateKey::Ed25519 { seed, public } => object([
            ("kty", Value::from("OKP")),
            ("crv", Value::from("Ed25519")),
            ("x", encoded(public)),
            ("d", encoded(seed)),
        ]),
    }
}
