//! Algorithms that certificates are signed with, numbered as Go's `SignatureAlgorithm`, and whether a signature is
//! the issuer's. MD5 and SHA-1 are named and never accepted.

use p521::ecdsa::signature::Verifier;
use regorus::Value;
use ring::signature::{
    ECDSA_P256_SHA256_ASN1, ECDSA_P256_SHA384_ASN1, ECDSA_P384_SHA256_ASN1, ECDSA_P384_SHA384_ASN1,
    UnparsedPublicKey,
};
use x509_parser::asn1_rs::{Oid, oid};
use x509_parser::signature_algorithm::SignatureAlgorithm;
use x509_parser::x509::AlgorithmIdentifier;

use super::super::jws::key::{Curve, PublicKey};
use super::super::jws::{self, Hash, Key};

const BY_OID: [(Oid<'static>, u64); 12] = [
    (oid!(1.2.840.113549.1.1.2), 1),
    (oid!(1.2.840.113549.1.1.4), 2),
    (oid!(1.2.840.113549.1.1.5), 3),
    (oid!(1.2.840.113549.1.1.11), 4),
    (oid!(1.2.840.113549.1.1.12), 5),
    (oid!(1.2.840.113549.1.1.13), 6),
    (oid!(1.2.840.10040.4.3), 7),
    (oid!(2.16.840.1.101.3.4.3.2), 8),
    (oid!(1.2.840.10045.4.1), 9),
    (oid!(1.2.840.10045.4.3.2), 10),
    (oid!(1.2.840.10045.4.3.3), 11),
    (oid!(1.2.840.10045.4.3.4), 12),
];
const ED25519: Oid<'static> = oid!(1.3.101.112);
const SHA256: Oid<'static> = oid!(2.16.840.1.101.3.4.2.1);
const SHA384: Oid<'static> = oid!(2.16.840.1.101.3.4.2.2);
const SHA512: Oid<'static> = oid!(2.16.840.1.101.3.4.2.3);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Algorithm(u64);

impl Algorithm {
    pub fn of(identifier: &AlgorithmIdentifier) -> Self {
        let oid = &identifier.algorithm;
        if *oid == ED25519 {
            return Self(16);
        }
        if let Some((_, number)) = BY_OID.iter().find(|(known, _)| known == oid) {
            return Self(*number);
        }
        match SignatureAlgorithm::try_from(identifier) {
            Ok(SignatureAlgorithm::RSASSA_PSS(parameters)) => {
                let hash = parameters.hash_algorithm_oid();
                let number = [(SHA256, 32, 13), (SHA384, 48, 14), (SHA512, 64, 15)]
                    .into_iter()
                    .find(|(known, salt, _)| known == hash && *salt == parameters.salt_length());
                let same_mask = parameters.mask_gen_algorithm().is_ok_and(|mask| mask.hash == *hash);
                Self(number.filter(|_| same_mask).map_or(0, |(.., number)| number))
            }
            _ => Self(0),
        }
    }

    pub fn shape(self) -> Value {
        Value::from(self.0)
    }

    pub fn verify(self, key: &PublicKey, signed: &[u8], signature: &[u8]) -> bool {
        let as_token = |algorithm| jws::verify(algorithm, &Key::Public(key.clone()), signed, signature);
        match self.0 {
            4 => as_token(jws::Algorithm::RsaPkcs1(Hash::Sha256)),
            5 => as_token(jws::Algorithm::RsaPkcs1(Hash::Sha384)),
            6 => as_token(jws::Algorithm::RsaPkcs1(Hash::Sha512)),
            10 => verify_ecdsa(Hash::Sha256, key, signed, signature),
            11 => verify_ecdsa(Hash::Sha384, key, signed, signature),
            12 => verify_ecdsa(Hash::Sha512, key, signed, signature),
            13 => as_token(jws::Algorithm::RsaPss(Hash::Sha256)),
            14 => as_token(jws::Algorithm::RsaPss(Hash::Sha384)),
            15 => as_token(jws::Algorithm::RsaPss(Hash::Sha512)),
            16 => as_token(jws::Algorithm::EdDsa),
            _ => false,
        }
    }
}

/// Certificates have signatures in DER, and tokens of fixed length.
fn verify_ecdsa(hash: Hash, key: &PublicKey, signed: &[u8], signature: &[u8]) -> bool {
    let PublicKey::Ec { curve, point } = key else { return false };
    let algorithm = match (curve, hash) {
        (Curve::P256, Hash::Sha256) => &ECDSA_P256_SHA256_ASN1,
        (Curve::P256, Hash::Sha384) => &ECDSA_P256_SHA384_ASN1,
        (Curve::P384, Hash::Sha256) => &ECDSA_P384_SHA256_ASN1,
        (Curve::P384, Hash::Sha384) => &ECDSA_P384_SHA384_ASN1,
        (Curve::P521, Hash::Sha512) => {
            let Ok(key) = p521::ecdsa::VerifyingKey::from_sec1_bytes(point.as_bytes()) else { return false };
            let Ok(signature) = p521::ecdsa::Signature::from_der(signature) else { return false };
            return key.verify(signed, &signature).is_ok();
        }
        _ => return false,
    };
    UnparsedPublicKey::new(algorithm, point.as_bytes()).verify(signed, signature).is_ok()
}
