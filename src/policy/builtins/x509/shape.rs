//! Go's way of writing values as JSON: bytes in base64, nothing as null, numbers in full.

use num_bigint::{BigInt, BigUint};
use regorus::Value;
use std::collections::BTreeMap;
use x509_parser::asn1_rs::Oid;

use crate::jws::base64;
use crate::jws::key::PublicKey;

pub fn object<const N: usize>(members: [(&str, Value); N]) -> Value {
    Value::from(
        members.into_iter().map(|(name, value)| (Value::from(name), value)).collect::<BTreeMap<_, _>>(),
    )
}

pub fn bytes(bytes: &[u8]) -> Value {
    Value::from(base64::encode(bytes))
}

pub fn optional_bytes(found: Option<&Vec<u8>>) -> Value {
    found.map_or(Value::Null, |found| bytes(found))
}

/// A slice that nothing was ever put into is null.
pub fn list<T>(items: &[T], shape: impl Fn(&T) -> Value) -> Value {
    if items.is_empty() { Value::Null } else { Value::from(items.iter().map(shape).collect::<Vec<_>>()) }
}

pub fn texts(items: &[String]) -> Value {
    list(items, |item| Value::from(item.as_str()))
}

pub fn signed(number: &BigInt) -> Value {
    Value::from_numeric_string(&number.to_string()).unwrap_or(Value::Null)
}

pub fn unsigned(number: &BigUint) -> Value {
    Value::from_numeric_string(&number.to_string()).unwrap_or(Value::Null)
}

pub fn big_endian(number: &[u8]) -> Value {
    unsigned(&BigUint::from_bytes_be(number))
}

/// Bytes of an identifier that is written with dots: its numbers are of any size, and decimal takes the square of that.
const MAX_OID_BYTES: usize = 128;

pub fn dotted(oid: &Oid) -> Option<String> {
    (oid.as_bytes().len() <= MAX_OID_BYTES).then(|| oid.to_id_string())
}

/// The numbers of an object identifier.
pub fn oid(oid: &Oid) -> Value {
    let arcs = oid.iter().map(|arcs| arcs.map(Value::from).collect::<Vec<_>>());
    Value::from(arcs.unwrap_or_default())
}

pub fn seconds(timestamp: i64) -> Value {
    jiff::Timestamp::from_second(timestamp).map_or(Value::Null, |time| Value::from(time.to_string()))
}

/// Go's `PublicKeyAlgorithm`.
pub fn key_algorithm(key: &PublicKey) -> Value {
    Value::from(match key {
        PublicKey::Other => 0_u64,
        PublicKey::Rsa { .. } => 1,
        PublicKey::Ec { .. } => 3,
        PublicKey::Ed25519(_) => 4,
    })
}

pub fn public_key(key: &PublicKey) -> Value {
    match key {
        PublicKey::Other => Value::Null,
        PublicKey::Rsa { modulus, exponent } => {
            object([("N", big_endian(modulus)), ("E", big_endian(exponent))])
        }
        PublicKey::Ec { point, .. } => {
            let (x, y) = point.coordinates();
            object([("Curve", object([])), ("X", big_endian(x)), ("Y", big_endian(y))])
        }
        PublicKey::Ed25519(public) => bytes(public),
    }
}
