//! Keys in memory, and their DER forms: X.509, PKCS#1, PKCS#8 and SEC 1. Reads what is there and checks that its parts
//! fit together; what the numbers are worth, the verifier decides.

use num_bigint::BigUint;
use ring::signature::{Ed25519KeyPair, KeyPair};
use x509_parser::asn1_rs::{Oid, oid};
use x509_parser::prelude::{FromDer, X509Certificate};

use super::der::{Fields, without_leading_zeros};
use super::sign;

/// Bytes of a modulus. The verifier takes 8192 bits at most; beyond twice that nothing is a key.
pub const MAX_RSA_BYTES: usize = 2048;

const RSA: Oid<'static> = oid!(1.2.840.113549.1.1.1);
const EC: Oid<'static> = oid!(1.2.840.10045.2.1);
const ED25519: Oid<'static> = oid!(1.3.101.112);
const P256: Oid<'static> = oid!(1.2.840.10045.3.1.7);
const P384: Oid<'static> = oid!(1.3.132.0.34);
const P521: Oid<'static> = oid!(1.3.132.0.35);

pub const MALFORMED_CERTIFICATE: &str = "x509: malformed certificate";

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Curve {
    P256,
    P384,
    P521,
}

impl Curve {
    /// Bytes of one coordinate.
    #[must_use]
    pub fn bytes(self) -> usize {
        match self {
            Self::P256 => 32,
            Self::P384 => 48,
            Self::P521 => 66,
        }
    }

    /// As JWK's `crv`.
    #[must_use]
    pub fn named(name: &str) -> Option<Self> {
        match name {
            "P-256" => Some(Self::P256),
            "P-384" => Some(Self::P384),
            "P-521" => Some(Self::P521),
            _ => None,
        }
    }

    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::P256 => "P-256",
            Self::P384 => "P-384",
            Self::P521 => "P-521",
        }
    }

    fn of_oid(oid: &Oid) -> Option<Self> {
        [(P256, Self::P256), (P384, Self::P384), (P521, Self::P521)]
            .into_iter()
            .find_map(|(known, curve)| (known == *oid).then_some(curve))
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PublicKey {
    /// Big-endian, without zeros in front.
    Rsa {
        modulus: Vec<u8>,
        exponent: Vec<u8>,
    },
    Ec {
        curve: Curve,
        point: Point,
    },
    Ed25519(Vec<u8>),
    /// Of a kind that signs no token.
    Other,
}

/// Uncompressed: 4, x and y.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Point(Vec<u8>);

impl Point {
    /// Coordinates of any length that have a value of the curve's.
    pub fn new(curve: Curve, x: &[u8], y: &[u8]) -> Option<Self> {
        let mut point = vec![4];
        for coordinate in [x, y] {
            point.extend(padded(coordinate, curve.bytes())?);
        }
        Some(Self(point))
    }

    fn from_sec1(curve: Curve, bytes: &[u8]) -> Option<Self> {
        let is_uncompressed = bytes.first() == Some(&4) && bytes.len() == 1 + 2 * curve.bytes();
        is_uncompressed.then(|| Self(bytes.to_vec()))
    }

    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    /// x and y.
    #[must_use]
    pub fn coordinates(&self) -> (&[u8], &[u8]) {
        let both = self.0.get(1..).unwrap_or_default();
        both.split_at(both.len() / 2)
    }
}

/// A number in exactly that many bytes.
#[must_use]
pub fn padded(number: &[u8], length: usize) -> Option<Vec<u8>> {
    let number = without_leading_zeros(number);
    let mut bytes = vec![0; length.checked_sub(number.len())?];
    bytes.extend(number);
    Some(bytes)
}

#[derive(Clone)]
pub struct RsaPrivate {
    pub modulus: BigUint,
    pub exponent: BigUint,
    pub private_exponent: BigUint,
    pub primes: [BigUint; 2],
}

impl RsaPrivate {
    /// d modulo p - 1 and q - 1, and the inverse of q modulo p; `None` if p and q cannot be primes.
    #[must_use]
    pub fn derived(&self) -> Option<[BigUint; 3]> {
        let [p, q] = &self.primes;
        let one = BigUint::from(1_u8);
        if *p <= one || *q <= one {
            return None;
        }
        Some([&self.private_exponent % (p - &one), &self.private_exponent % (q - &one), q.modinv(p)?])
    }
}

#[derive(Clone)]
pub enum PrivateKey {
    Rsa(Box<RsaPrivate>),
    Ec { curve: Curve, scalar: Vec<u8>, point: Point },
    Ed25519 { seed: Vec<u8>, public: Vec<u8> },
}

impl PrivateKey {
    #[must_use]
    pub fn public(&self) -> PublicKey {
        match self {
            Self::Rsa(key) => {
                PublicKey::Rsa { modulus: key.modulus.to_bytes_be(), exponent: key.exponent.to_bytes_be() }
            }
            Self::Ec { curve, point, .. } => PublicKey::Ec { curve: *curve, point: point.clone() },
            Self::Ed25519 { public, .. } => PublicKey::Ed25519(public.clone()),
        }
    }
}

/// Whatever a token may be checked or signed with. No `Debug`: half of them are secrets.
#[derive(Clone)]
pub enum Key {
    Public(PublicKey),
    Private { key: PrivateKey, public: PublicKey },
    Secret(Vec<u8>),
}

impl Key {
    #[must_use]
    pub fn private(key: PrivateKey) -> Self {
        let public = key.public();
        Self::Private { key, public }
    }

    #[must_use]
    pub fn as_public(&self) -> Option<&PublicKey> {
        match self {
            Self::Public(public) | Self::Private { public, .. } => Some(public),
            Self::Secret(_) => None,
        }
    }
}

pub fn of_certificate(der: &[u8]) -> Result<PublicKey, String> {
    let malformed = || MALFORMED_CERTIFICATE.to_owned();
    let (rest, certificate) = X509Certificate::from_der(der).map_err(|_| malformed())?;
    if !rest.is_empty() {
        return Err("x509: trailing data".to_owned());
    }
    of_spki(certificate.public_key().raw)
}

/// SubjectPublicKeyInfo.
pub fn of_spki(der: &[u8]) -> Result<PublicKey, String> {
    let parsed = (|| {
        let mut info = Fields::of(der)?;
        let mut algorithm = info.sequence()?;
        let kind = algorithm.oid()?;
        let bits = info.bits()?;
        Some((kind, algorithm, bits))
    })();
    let (kind, mut parameters, bits) = parsed.ok_or("asn1: structure error: not a public key")?;
    if kind == RSA {
        return rsa_public(bits).ok_or_else(|| "x509: invalid RSA public key".to_owned());
    }
    if kind == EC {
        let curve = parameters.oid().ok_or("x509: invalid ECDSA parameters")?;
        let Some(curve) = Curve::of_oid(&curve) else {
            return Ok(PublicKey::Other);
        };
        let point = Point::from_sec1(curve, bits).ok_or("x509: failed to unmarshal elliptic curve point")?;
        return Ok(PublicKey::Ec { curve, point });
    }
    if kind == ED25519 {
        if bits.len() != 32 {
            return Err("x509: wrong Ed25519 public key size".to_owned());
        }
        return Ok(PublicKey::Ed25519(bits.to_vec()));
    }
    Ok(PublicKey::Other)
}

fn rsa_public(der: &[u8]) -> Option<PublicKey> {
    let mut fields = Fields::of(der)?;
    let (modulus, exponent) = (fields.unsigned()?, fields.unsigned()?);
    let is_key = !modulus.is_empty() && modulus.len() <= MAX_RSA_BYTES && (1..=8).contains(&exponent.len());
    is_key.then(|| PublicKey::Rsa { modulus: modulus.to_vec(), exponent: exponent.to_vec() })
}

/// PKCS#1, two primes.
pub fn of_pkcs1(der: &[u8]) -> Result<PrivateKey, String> {
    let parsed = (|| {
        let mut fields = Fields::of(der)?;
        if !fields.unsigned()?.is_empty() {
            return None;
        }
        let mut number = || {
            let bytes = fields.unsigned()?;
            (bytes.len() <= MAX_RSA_BYTES).then(|| BigUint::from_bytes_be(bytes))
        };
        let key = RsaPrivate {
            modulus: number()?,
            exponent: number()?,
            private_exponent: number()?,
            primes: [number()?, number()?],
        };
        let [p, q] = &key.primes;
        (p * q == key.modulus && key.derived().is_some()).then_some(key)
    })();
    parsed
        .map(|key| PrivateKey::Rsa(Box::new(key)))
        .ok_or_else(|| "x509: failed to parse private key".to_owned())
}

/// PKCS#8: RSA, ECDSA and Ed25519.
pub fn of_pkcs8(der: &[u8]) -> Result<PrivateKey, String> {
    const WRONG: &str = "x509: failed to parse private key";
    let parsed = (|| {
        let mut fields = Fields::of(der)?;
        fields.unsigned()?;
        let mut algorithm = fields.sequence()?;
        Some((algorithm.oid()?, algorithm, fields.octets()?))
    })();
    let (kind, mut parameters, inner) = parsed.ok_or(WRONG)?;
    if kind == RSA {
        return of_pkcs1(inner);
    }
    if kind == EC {
        return sec1(inner, parameters.oid());
    }
    if kind == ED25519 {
        let seed = Fields::inside(inner).octets().ok_or("x509: invalid Ed25519 private key")?;
        return ed25519(seed).ok_or_else(|| "x509: invalid Ed25519 private key length".to_owned());
    }
    Err("x509: PKCS#8 wrapping contained private key with unknown algorithm".to_owned())
}

/// SEC 1.
pub fn of_sec1(der: &[u8]) -> Result<PrivateKey, String> {
    sec1(der, None)
}

fn sec1(der: &[u8], named: Option<Oid>) -> Result<PrivateKey, String> {
    let parsed = (|| {
        let mut fields = Fields::of(der)?;
        fields.unsigned()?;
        let scalar = fields.octets()?;
        let inner = fields.tagged(0).and_then(|mut inside| inside.oid());
        let point = fields.tagged(1).and_then(|mut inside| inside.bits());
        Some((scalar, inner, point))
    })();
    let (scalar, inner, point) = parsed.ok_or("x509: failed to parse EC private key")?;
    let curve = named.or(inner).and_then(|oid| Curve::of_oid(&oid)).ok_or("x509: unknown elliptic curve")?;
    let scalar = padded(scalar, curve.bytes()).ok_or("x509: invalid private key length")?;
    // Both forms may leave the point out, but nothing that writes keys does.
    let point = point.and_then(|bytes| Point::from_sec1(curve, bytes)).ok_or("x509: no public key")?;
    ec_private(curve, scalar, point)
        .ok_or_else(|| "x509: invalid elliptic curve private key value".to_owned())
}

/// `None` if the point is not the scalar's.
#[must_use]
pub fn ec_private(curve: Curve, scalar: Vec<u8>, point: Point) -> Option<PrivateKey> {
    sign::is_pair(curve, &scalar, &point).then_some(PrivateKey::Ec { curve, scalar, point })
}

#[must_use]
pub fn ed25519(seed: &[u8]) -> Option<PrivateKey> {
    let pair = Ed25519KeyPair::from_seed_unchecked(seed).ok()?;
    Some(PrivateKey::Ed25519 { seed: seed.to_vec(), public: pair.public_key().as_ref().to_vec() })
}
