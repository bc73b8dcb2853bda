//! Algorithms that certificates are signed with, numbered as Go's `SignatureAlgorithm`, and whether a signature is
//! the issuer's. MD5 and SHA-1 are named and never accepted.

use p521::ecdsa::signature::hazmat::PrehashVerifier;
use regorus::Value;
use ring::digest;
use ring::signature::{
    ECDSA_P256_SHA256_ASN1, ECDSA_P256_SHA384_ASN1, ECDSA_P384_SHA256_ASN1, ECDSA_P384_SHA384_ASN1,
    UnparsedPublicKey,
};
use x509_parser::asn1_rs::{Oid, oid};
use x509_parser::signature_algorithm::SignatureAlgorithm;
use x509_parser::x509::AlgorithmIdentifier;

use crate::jws::key::{Curve, Point, PublicKey, padded};
use crate::jws::{self, Hash, Key};

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
        (Curve::P256 | Curve::P384, Hash::Sha512) | (Curve::P521, _) => {
            return verify_digest(hash, *curve, point, signed, signature).unwrap_or(false);
        }
    };
    UnparsedPublicKey::new(algorithm, point.as_bytes()).verify(signed, signature).is_ok()
}

/// The pairs that ring does not have.
fn verify_digest(hash: Hash, curve: Curve, point: &Point, signed: &[u8], signature: &[u8]) -> Option<bool> {
    let algorithm = match hash {
        Hash::Sha256 => &digest::SHA256,
        Hash::Sha384 => &digest::SHA384,
        Hash::Sha512 => &digest::SHA512,
    };
    let digest = digest::digest(algorithm, signed);
    let digest = digest.as_ref();
    // A number of the curve's length, cut at its right (FIPS 186-5, 6.4): p521 itself refuses SHA-256.
    let digest = padded(digest.get(..curve.bytes()).unwrap_or(digest), curve.bytes())?;
    let point = point.as_bytes();
    let verified = match curve {
        Curve::P256 => {
            let key = p256::ecdsa::VerifyingKey::from_sec1_bytes(point).ok()?;
            key.verify_prehash(&digest, &p256::ecdsa::Signature::from_der(signature).ok()?)
        }
        Curve::P384 => {
            let key = p384::ecdsa::VerifyingKey::from_sec1_bytes(point).ok()?;
            key.verify_prehash(&digest, &p384::ecdsa::Signature::from_der(signature).ok()?)
        }
        Curve::P521 => {
            let key = p521::ecdsa::VerifyingKey::from_sec1_bytes(point).ok()?;
            key.verify_prehash(&digest, &p521::ecdsa::Signature::from_der(signature).ok()?)
        }
    };
    Some(verified.is_ok())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::jws::{base64, key};

    /// By OpenSSL: a public key, and its signatures of `message` with SHA-256, SHA-384 and SHA-512.
    const SIGNED: [[&str; 4]; 3] = [
        [
            "MFkwEwYHKoZIzj0CAQYIKoZIzj0DAQcDQgAEX7HhObR0bZYtbGYRaMu87uWHExIkLba2txDzeEG0EaTHBqZZpE6G6VMjVqmd\
             2h6MU6QMm9M1hvCj8zEKGOlCrA==",
            "MEUCIQDNSnrg9neg8YbS8i2gvTrjGEA5i10oJjThrAVOrvd5GQIgJDAKXrKOOjfEwFGX3xzyPUomaNwHYeGoy114ZfFqLDY=",
            "MEUCIQDANvKbuHCE9JiLybSjL4SthWLorr44A+FEMil4GOAtuwIgKa3cxMv1mo6E1wwSpvtuJjVfeSYStvEFpy1MJmPDGZE=",
            "MEQCIC4X/cYNFYn4j8FFMSCeHg9xodFfVCbpdfyAjRFdtwRVAiBxoG0Tx/qD5R7nom40vPEUGijOB51nMAxEiMLD9ZXB2w==",
        ],
        [
            "MHYwEAYHKoZIzj0CAQYFK4EEACIDYgAELmx7b82eSahu5VBPyIWfwEi5ITLpxQvHeOwVE7s0glHQ3TS0VFIAO20hBx/upSDR\
             2PrIkoSuNGwYKlD07fGf6nLcWbTscoGF2hXnkOoVeQFx2t0htKqKwQ5ugXosTcxQ",
            "MGUCME2c4grbEstuVjzdeuLfsH6aYiKtJsjc7eDSzTm3HLZe8Z2uzhN2P6uIwGnXXcv/wAIxAJGbXbueNfQgCTvUjcxPI/wd\
             7oRIMiACFqxpAunL43jUNEJJZqkQHCeJR1gY5sxp6Q==",
            "MGQCMAi5OjHAcyey8DkmzVzzsi31Ap273tJj1gEWpdyIheRfTodM46u8KL/oGE7kDNRpRgIwWWXLVcnGAU3EFwpscq+yPQMn\
             bMqnUiY90LXPs/WZAnsfXQv2MI+qOkV5ztFx4FZ6",
            "MGQCMAHd3919ItVW4Wl+EugSBcn2mDs+tmi4gyLKI3JVuoRF5iXXY9rHke8RuJzDkxjktwIwCqVWFXeKZFY8ITiF4gC9BYR/\
             TW4hCX2+h5dkIuaLQ+oqDiwWFwHgAj4ICdkGvP9m",
        ],
        [
            "MIGbMBAGByqGSM49AgEGBSuBBAAjA4GGAAQBoA6pSQirm5hyiBAmWT0Y/8R3p5Jd44wyeyWVGW9FpUCXCO1NhnrHtlPRjlcC\
             gUNhjrjEazY4V/A8aWuMomz7fFcAYuY/IZ5EVEZWb7V4npc7DOecssHcBoshTkk+neiUFUUhBSdguMjo7xAxyCtDnfirQKYS\
             iWquxFDz9+Mngr9OWjw=",
            "MIGHAkEM+NZbwT2XkzqNnc6pBnx9i/v0fMmKfqjai4g/MbfI3OHxehmrx5MFRDncMGw2WDpfPc/vbIBHEKVZHoIaRobXrgJC\
             APBIgzflIBc4j8P3nhp4Y2NtCjaWQ+C6FwqOc37gG2VS8hYEP7DkHMGx4at58hVpjHRGcAGBa3lI2BLHmpH93w4k",
            "MIGGAkEevdqii9ZKmMMsDh3X29NoxqktJImXm4Tj2RK4pcub+cHHrZV3sgN5iODIUUXTefOv/Fo1hB4S2q9FIXzr6wvRBQJB\
             aqQOABSS8iH5Ycx57Dvc9OtHV7jm932XJZN4/Sfo9n7Lmn1hqyNQf8hQGtgJ6XsOyi5xPi1/d5QWGzd4tCrjXSA=",
            "MIGGAkFpQidl3QE7jN3OyVY4b9j4yr9efUYDGvbjOI71z/xeeEiKsN9S/zfQYgtbmSdUtAepYsUxKnWueILMT5czOAfaQAJB\
             I3S91sziU9TGx9eErziTEcv0XnvsOyPtGEFzfHus4U5tFR++Z935G37n5uAcWoo1nPlS5Scv4b3vySrhn5aCL04=",
        ],
    ];

    #[test]
    fn every_curve_goes_with_every_hash() {
        let bytes = |text: &str| base64::standard(text).unwrap();
        for [key, signatures @ ..] in SIGNED {
            let key = key::of_spki(&bytes(key)).unwrap();
            for (number, signature) in (10..).zip(signatures) {
                let mut signature = bytes(signature);
                let verifies = |number, message: &[u8], signature: &[u8]| {
                    Algorithm(number).verify(&key, message, signature)
                };
                assert!(verifies(number, b"message", &signature), "{number}");
                assert!(!verifies(number, b"massage", &signature), "{number}");
                assert!((10..13).all(|other| other == number || !verifies(other, b"message", &signature)));
                *signature.last_mut().unwrap() ^= 1;
                assert!(!verifies(number, b"message", &signature), "{number}");
                assert!(!verifies(number, b"message", &[]), "{number}");
            }
        }
    }
}
