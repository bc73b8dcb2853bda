//! Signatures made by policies. The keys are the policy's own; nothing of them is logged or put into an error.

use p521::ecdsa::signature::Signer;
use ring::hmac;
use ring::rand::SystemRandom;
use ring::rsa::{KeyPairComponents, PublicKeyComponents};
use ring::signature::{
    ECDSA_P256_SHA256_FIXED_SIGNING, ECDSA_P384_SHA384_FIXED_SIGNING, EcdsaKeyPair, EcdsaSigningAlgorithm,
    Ed25519KeyPair, RSA_PKCS1_SHA256, RSA_PKCS1_SHA384, RSA_PKCS1_SHA512, RSA_PSS_SHA256, RSA_PSS_SHA384,
    RSA_PSS_SHA512, RsaEncoding, RsaKeyPair,
};

use super::key::{Curve, Point, PrivateKey, RsaPrivate};
use super::verify::hmac_key;
use super::{Algorithm, Hash, Key};

/// # Errors
/// The key is not one for the algorithm, or its numbers do not fit together.
pub fn sign(algorithm: Algorithm, key: &Key, input: &[u8]) -> Result<Vec<u8>, String> {
    match (algorithm, key) {
        (Algorithm::Hmac(hash), Key::Secret(secret)) if !secret.is_empty() => {
            Ok(hmac::sign(&hmac_key(hash, secret), input).as_ref().to_vec())
        }
        (algorithm, Key::Private { key, .. }) => sign_private(algorithm, key, input),
        _ => Err(unfit()),
    }
}

fn unfit() -> String {
    "invalid key for the signature algorithm".to_owned()
}

fn sign_private(algorithm: Algorithm, key: &PrivateKey, input: &[u8]) -> Result<Vec<u8>, String> {
    match (algorithm, key) {
        (Algorithm::RsaPkcs1(hash), PrivateKey::Rsa(key)) => {
            let encoding: &'static dyn RsaEncoding = match hash {
                Hash::Sha256 => &RSA_PKCS1_SHA256,
                Hash::Sha384 => &RSA_PKCS1_SHA384,
                Hash::Sha512 => &RSA_PKCS1_SHA512,
            };
            sign_rsa(key, encoding, input)
        }
        (Algorithm::RsaPss(hash), PrivateKey::Rsa(key)) => {
            let encoding: &'static dyn RsaEncoding = match hash {
                Hash::Sha256 => &RSA_PSS_SHA256,
                Hash::Sha384 => &RSA_PSS_SHA384,
                Hash::Sha512 => &RSA_PSS_SHA512,
            };
            sign_rsa(key, encoding, input)
        }
        (Algorithm::Ecdsa(hash), PrivateKey::Ec { curve, scalar, point }) => match (hash, curve) {
            (Hash::Sha256, Curve::P256) | (Hash::Sha384, Curve::P384) => {
                sign_ecdsa(*curve, scalar, point, input)
            }
            (Hash::Sha512, Curve::P521) => {
                let key = p521::ecdsa::SigningKey::from_slice(scalar).map_err(|_| unfit())?;
                let signature: p521::ecdsa::Signature = key.try_sign(input).map_err(|_| unfit())?;
                Ok(signature.to_bytes().to_vec())
            }
            _ => Err(unfit()),
        },
        (Algorithm::EdDsa, PrivateKey::Ed25519 { seed, public }) => {
            let pair = Ed25519KeyPair::from_seed_and_public_key(seed, public).map_err(|_| unfit())?;
            Ok(pair.sign(input).as_ref().to_vec())
        }
        _ => Err(unfit()),
    }
}

fn sign_rsa(key: &RsaPrivate, encoding: &'static dyn RsaEncoding, input: &[u8]) -> Result<Vec<u8>, String> {
    let [dp, dq, inverse] = key.derived().ok_or_else(unfit)?;
    let pair = RsaKeyPair::from_components(&KeyPairComponents {
        public_key: PublicKeyComponents { n: key.modulus.to_bytes_be(), e: key.exponent.to_bytes_be() },
        d: key.private_exponent.to_bytes_be(),
        p: key.primes[0].to_bytes_be(),
        q: key.primes[1].to_bytes_be(),
        dP: dp.to_bytes_be(),
        dQ: dq.to_bytes_be(),
        qInv: inverse.to_bytes_be(),
    })
    .map_err(|_| unfit())?;
    let mut signature = vec![0; pair.public().modulus_len()];
    pair.sign(encoding, &SystemRandom::new(), input, &mut signature).map_err(|_| unfit())?;
    Ok(signature)
}

fn ring_curve(curve: Curve) -> Option<&'static EcdsaSigningAlgorithm> {
    match curve {
        Curve::P256 => Some(&ECDSA_P256_SHA256_FIXED_SIGNING),
        Curve::P384 => Some(&ECDSA_P384_SHA384_FIXED_SIGNING),
        Curve::P521 => None,
    }
}

fn ring_pair(curve: Curve, scalar: &[u8], point: &Point) -> Option<EcdsaKeyPair> {
    let algorithm = ring_curve(curve)?;
    EcdsaKeyPair::from_private_key_and_public_key(algorithm, scalar, point.as_bytes(), &SystemRandom::new())
        .ok()
}

fn sign_ecdsa(curve: Curve, scalar: &[u8], point: &Point, input: &[u8]) -> Result<Vec<u8>, String> {
    let pair = ring_pair(curve, scalar, point).ok_or_else(unfit)?;
    let signature = pair.sign(&SystemRandom::new(), input).map_err(|_| unfit())?;
    Ok(signature.as_ref().to_vec())
}

/// Whether the point is the scalar's.
pub fn is_pair(curve: Curve, scalar: &[u8], point: &Point) -> bool {
    if curve == Curve::P521 {
        return p521::ecdsa::SigningKey::from_slice(scalar)
            .is_ok_and(|key| key.verifying_key().to_sec1_point(false).as_bytes() == point.as_bytes());
    }
    ring_pair(curve, scalar, point).is_some()
}
