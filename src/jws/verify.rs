//! Whether a signature is one, by that key, over those bytes. Answers no for whatever does not fit together.

use p521::ecdsa::signature::Verifier;
use ring::hmac;
use ring::signature::{
    ECDSA_P256_SHA256_FIXED, ECDSA_P384_SHA384_FIXED, ED25519, RSA_PKCS1_2048_8192_SHA256,
    RSA_PKCS1_2048_8192_SHA384, RSA_PKCS1_2048_8192_SHA512, RSA_PSS_2048_8192_SHA256,
    RSA_PSS_2048_8192_SHA384, RSA_PSS_2048_8192_SHA512, RsaParameters, RsaPublicKeyComponents,
    UnparsedPublicKey,
};

use super::key::{Curve, Point, PublicKey};
use super::{Algorithm, Hash, Key};

/// RSA keys have 2048 to 8192 bits here, and ECDSA its own curve for each hash, as RFC 7518 says. An empty secret is no
/// secret.
#[must_use]
pub fn verify(algorithm: Algorithm, key: &Key, signed: &[u8], signature: &[u8]) -> bool {
    match (algorithm, key) {
        (Algorithm::Hmac(hash), Key::Secret(secret)) => {
            !secret.is_empty() && hmac::verify(&hmac_key(hash, secret), signed, signature).is_ok()
        }
        (Algorithm::Hmac(_), _) => false,
        (algorithm, key) => {
            key.as_public().is_some_and(|public| verify_public(algorithm, public, signed, signature))
        }
    }
}

/// Whether a key is of the kind that an algorithm takes: none other costs anything to try.
#[must_use]
pub fn fits(algorithm: Algorithm, key: &Key) -> bool {
    let public = match algorithm {
        Algorithm::Hmac(_) => return matches!(key, Key::Secret(_)),
        _ => key.as_public(),
    };
    match (algorithm, public) {
        (Algorithm::Ecdsa(hash), Some(PublicKey::Ec { curve, .. })) => matches!(
            (hash, curve),
            (Hash::Sha256, Curve::P256) | (Hash::Sha384, Curve::P384) | (Hash::Sha512, Curve::P521)
        ),
        (Algorithm::RsaPkcs1(_) | Algorithm::RsaPss(_), Some(PublicKey::Rsa { .. }))
        | (Algorithm::EdDsa, Some(PublicKey::Ed25519(_))) => true,
        _ => false,
    }
}

pub fn hmac_key(hash: Hash, secret: &[u8]) -> hmac::Key {
    let algorithm = match hash {
        Hash::Sha256 => hmac::HMAC_SHA256,
        Hash::Sha384 => hmac::HMAC_SHA384,
        Hash::Sha512 => hmac::HMAC_SHA512,
    };
    hmac::Key::new(algorithm, secret)
}

fn verify_public(algorithm: Algorithm, key: &PublicKey, signed: &[u8], signature: &[u8]) -> bool {
    match (algorithm, key) {
        (Algorithm::RsaPkcs1(hash), PublicKey::Rsa { modulus, exponent }) => {
            let parameters = match hash {
                Hash::Sha256 => &RSA_PKCS1_2048_8192_SHA256,
                Hash::Sha384 => &RSA_PKCS1_2048_8192_SHA384,
                Hash::Sha512 => &RSA_PKCS1_2048_8192_SHA512,
            };
            verify_rsa(parameters, modulus, exponent, signed, signature)
        }
        (Algorithm::RsaPss(hash), PublicKey::Rsa { modulus, exponent }) => {
            let parameters = match hash {
                Hash::Sha256 => &RSA_PSS_2048_8192_SHA256,
                Hash::Sha384 => &RSA_PSS_2048_8192_SHA384,
                Hash::Sha512 => &RSA_PSS_2048_8192_SHA512,
            };
            verify_rsa(parameters, modulus, exponent, signed, signature)
        }
        (Algorithm::Ecdsa(hash), PublicKey::Ec { curve, point }) => match (hash, curve) {
            (Hash::Sha256, Curve::P256) => UnparsedPublicKey::new(&ECDSA_P256_SHA256_FIXED, point.as_bytes())
                .verify(signed, signature)
                .is_ok(),
            (Hash::Sha384, Curve::P384) => UnparsedPublicKey::new(&ECDSA_P384_SHA384_FIXED, point.as_bytes())
                .verify(signed, signature)
                .is_ok(),
            (Hash::Sha512, Curve::P521) => verify_p521(point, signed, signature),
            _ => false,
        },
        (Algorithm::EdDsa, PublicKey::Ed25519(public)) => {
            UnparsedPublicKey::new(&ED25519, public).verify(signed, signature).is_ok()
        }
        _ => false,
    }
}

fn verify_rsa(
    parameters: &'static RsaParameters,
    modulus: &[u8],
    exponent: &[u8],
    signed: &[u8],
    signature: &[u8],
) -> bool {
    RsaPublicKeyComponents { n: modulus, e: exponent }.verify(parameters, signed, signature).is_ok()
}

fn verify_p521(point: &Point, signed: &[u8], signature: &[u8]) -> bool {
    let Ok(key) = p521::ecdsa::VerifyingKey::from_sec1_bytes(point.as_bytes()) else { return false };
    let Ok(signature) = p521::ecdsa::Signature::from_slice(signature) else { return false };
    key.verify(signed, &signature).is_ok()
}
