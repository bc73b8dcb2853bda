//! Keys that bundles are verified with. A secret must never be shown, nor a key be used with another algorithm than
//! the one it was configured for.

use data_encoding::BASE64;
use ring::{hmac, signature};

use crate::fetch::tls;

/// RFC 7518, section 3.1. P-521 is not in the library that does the arithmetic.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Algorithm {
    Rs256,
    Rs384,
    Rs512,
    Ps256,
    Ps384,
    Ps512,
    Es256,
    Es384,
    Hs256,
    Hs384,
    Hs512,
}

impl Algorithm {
    const ALL: [Self; 11] = [
        Self::Rs256,
        Self::Rs384,
        Self::Rs512,
        Self::Ps256,
        Self::Ps384,
        Self::Ps512,
        Self::Es256,
        Self::Es384,
        Self::Hs256,
        Self::Hs384,
        Self::Hs512,
    ];

    #[must_use]
    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|algorithm| algorithm.name() == name)
    }

    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Rs256 => "RS256",
            Self::Rs384 => "RS384",
            Self::Rs512 => "RS512",
            Self::Ps256 => "PS256",
            Self::Ps384 => "PS384",
            Self::Ps512 => "PS512",
            Self::Es256 => "ES256",
            Self::Es384 => "ES384",
            Self::Hs256 => "HS256",
            Self::Hs384 => "HS384",
            Self::Hs512 => "HS512",
        }
    }

    fn secret(self) -> Option<hmac::Algorithm> {
        match self {
            Self::Hs256 => Some(hmac::HMAC_SHA256),
            Self::Hs384 => Some(hmac::HMAC_SHA384),
            Self::Hs512 => Some(hmac::HMAC_SHA512),
            _ => None,
        }
    }

    fn public(self) -> &'static dyn signature::VerificationAlgorithm {
        match self {
            Self::Rs256 => &signature::RSA_PKCS1_2048_8192_SHA256,
            Self::Rs384 => &signature::RSA_PKCS1_2048_8192_SHA384,
            Self::Rs512 => &signature::RSA_PKCS1_2048_8192_SHA512,
            Self::Ps256 => &signature::RSA_PSS_2048_8192_SHA256,
            Self::Ps384 => &signature::RSA_PSS_2048_8192_SHA384,
            Self::Ps512 => &signature::RSA_PSS_2048_8192_SHA512,
            // The last three have secrets, and do not get here.
            Self::Es256 | Self::Hs256 | Self::Hs384 | Self::Hs512 => &signature::ECDSA_P256_SHA256_FIXED,
            Self::Es384 => &signature::ECDSA_P384_SHA384_FIXED,
        }
    }

    /// What an X.509 key for it says of itself, as DER.
    fn identifier(self) -> &'static [u8] {
        match self {
            Self::Es256 => P256,
            Self::Es384 => P384,
            _ => RSA,
        }
    }
}

/// rsaEncryption, without parameters: NULL or none follow.
const RSA: &[u8] = b"\x06\x09\x2a\x86\x48\x86\xf7\x0d\x01\x01\x01";
/// id-ecPublicKey, prime256v1.
const P256: &[u8] = b"\x06\x07\x2a\x86\x48\xce\x3d\x02\x01\x06\x08\x2a\x86\x48\xce\x3d\x03\x01\x07";
/// id-ecPublicKey, secp384r1.
const P384: &[u8] = b"\x06\x07\x2a\x86\x48\xce\x3d\x02\x01\x06\x05\x2b\x81\x04\x00\x22";

/// One of `keys`.
#[derive(Debug, Clone)]
pub struct Key {
    pub algorithm: Algorithm,
    pub scope: Option<String>,
    material: Material,
}

#[derive(Debug, Clone)]
enum Material {
    /// Shows only its algorithm.
    Secret(hmac::Key),
    /// As the library takes it: RSAPublicKey, or an uncompressed point.
    Public(Vec<u8>),
}

impl Key {
    /// From a secret, or a public key or certificate in PEM.
    ///
    /// # Errors
    /// The text is no key of this algorithm. Never says what the text is.
    pub fn new(algorithm: Algorithm, text: &str, scope: Option<String>) -> Result<Self, String> {
        let material = match algorithm.secret() {
            Some(hmac) => Material::Secret(hmac::Key::new(hmac, text.as_bytes())),
            None => Material::Public(public_key(algorithm, text)?),
        };
        Ok(Self { algorithm, scope, material })
    }

    #[must_use]
    pub fn verifies(&self, message: &[u8], signature: &[u8]) -> bool {
        match &self.material {
            Material::Secret(key) => hmac::verify(key, message, signature).is_ok(),
            Material::Public(key) => signature::UnparsedPublicKey::new(self.algorithm.public(), key)
                .verify(message, signature)
                .is_ok(),
        }
    }
}

fn public_key(algorithm: Algorithm, text: &str) -> Result<Vec<u8>, String> {
    let (label, der) = pem(text).ok_or("not PEM: it needs -----BEGIN PUBLIC KEY-----")?;
    let info = match label.as_str() {
        "PUBLIC KEY" => der,
        "CERTIFICATE" => tls::public_key_of(der)?,
        "RSA PUBLIC KEY" if algorithm.identifier() == RSA => return Ok(der),
        label if label.ends_with("PRIVATE KEY") => {
            return Err("a private key; bundles are verified with the public one".to_owned());
        }
        label => return Err(format!("{label:?} in PEM is not supported")),
    };
    // RFC 5280: SubjectPublicKeyInfo ::= SEQUENCE { SEQUENCE { OID, parameters }, BIT STRING }
    let parsed = element(&info, 0x30).and_then(|(info, _)| {
        let (identifier, rest) = element(info, 0x30)?;
        let (bits, _) = element(rest, 0x03)?;
        // The first byte counts the unused bits of the last.
        Some((identifier, bits.strip_prefix(&[0])?))
    });
    let (identifier, key) = parsed.ok_or("not a public key as in RFC 5280")?;
    let expected = algorithm.identifier();
    let fits = if expected == RSA { identifier.starts_with(RSA) } else { identifier == expected };
    if fits { Ok(key.to_vec()) } else { Err(format!("not a key for {}", algorithm.name())) }
}

/// Label and bytes of the first block. Line breaks may have become spaces on the way through a configuration.
fn pem(text: &str) -> Option<(String, Vec<u8>)> {
    let (label, rest) = text.split_once("-----BEGIN ")?.1.split_once("-----")?;
    let body = rest.split_once("-----END ")?.0;
    let body: String = body.chars().filter(|c| !c.is_whitespace()).collect();
    Some((label.to_owned(), BASE64.decode(body.as_bytes()).ok()?))
}

/// Content of a DER element with this tag, and what follows it.
fn element(der: &[u8], tag: u8) -> Option<(&[u8], &[u8])> {
    let rest = der.strip_prefix(&[tag])?;
    let (first, rest) = rest.split_first()?;
    let (length, rest) = match *first {
        short @ 0..=0x7f => (usize::from(short), rest),
        0x81 => rest.split_first().map(|(length, rest)| (usize::from(*length), rest))?,
        0x82 => {
            rest.split_first_chunk().map(|(length, rest)| (usize::from(u16::from_be_bytes(*length)), rest))?
        }
        // A key of 64 KiB is none.
        _ => return None,
    };
    rest.split_at_checked(length)
}

#[cfg(test)]
mod tests {
    use ring::rand::SystemRandom;
    use ring::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, ECDSA_P384_SHA384_FIXED_SIGNING, EcdsaKeyPair};

    use super::*;

    /// Made, and signed with, by `openssl`.
    const RSA_PUBLIC: &str = include_str!("testdata/rsa-public.pem");
    const RSA_PKCS1: &str = include_str!("testdata/rsa-public-pkcs1.pem");
    const RSA_CERTIFICATE: &str = include_str!("testdata/rsa-certificate.pem");
    const RSA_SIGNATURES: [(Algorithm, &[u8]); 6] = [
        (Algorithm::Rs256, include_bytes!("testdata/rs256.sig")),
        (Algorithm::Rs384, include_bytes!("testdata/rs384.sig")),
        (Algorithm::Rs512, include_bytes!("testdata/rs512.sig")),
        (Algorithm::Ps256, include_bytes!("testdata/ps256.sig")),
        (Algorithm::Ps384, include_bytes!("testdata/ps384.sig")),
        (Algorithm::Ps512, include_bytes!("testdata/ps512.sig")),
    ];
    const MESSAGE: &[u8] = b"message";

    #[test]
    fn rsa_in_every_form() {
        for (algorithm, signature) in RSA_SIGNATURES {
            for text in [RSA_PUBLIC, RSA_PKCS1, RSA_CERTIFICATE, &RSA_PUBLIC.replace('\n', " ")] {
                let key = Key::new(algorithm, text, None).unwrap();
                assert!(key.verifies(MESSAGE, signature), "{algorithm:?}");
                assert!(!key.verifies(b"massage", signature) && !key.verifies(MESSAGE, b""));
            }
            for (other, _) in RSA_SIGNATURES.iter().filter(|(other, _)| *other != algorithm) {
                assert!(!Key::new(*other, RSA_PUBLIC, None).unwrap().verifies(MESSAGE, signature));
            }
        }
    }

    #[test]
    fn elliptic_curves() {
        for (algorithm, curve, signing) in [
            (Algorithm::Es256, &rcgen::PKCS_ECDSA_P256_SHA256, &ECDSA_P256_SHA256_FIXED_SIGNING),
            (Algorithm::Es384, &rcgen::PKCS_ECDSA_P384_SHA384, &ECDSA_P384_SHA384_FIXED_SIGNING),
        ] {
            let pair = rcgen::KeyPair::generate_for(curve).unwrap();
            let random = SystemRandom::new();
            let signer = EcdsaKeyPair::from_pkcs8(signing, &pair.serialize_der(), &random).unwrap();
            let signature = signer.sign(&random, MESSAGE).unwrap();
            let key = Key::new(algorithm, &pair.public_key_pem(), None).unwrap();
            assert!(key.verifies(MESSAGE, signature.as_ref()) && !key.verifies(b"other", signature.as_ref()));
            let other = if algorithm == Algorithm::Es256 { Algorithm::Es384 } else { Algorithm::Es256 };
            assert!(Key::new(other, &pair.public_key_pem(), None).is_err());
            assert!(Key::new(Algorithm::Rs256, &pair.public_key_pem(), None).is_err());
            let private = Key::new(algorithm, &pair.serialize_pem(), None).unwrap_err();
            assert!(private.contains("private"), "{private}");
        }
    }

    #[test]
    fn secrets_stay_secret() {
        let key = Key::new(Algorithm::Hs256, "hunter2", None).unwrap();
        assert!(!format!("{key:?}").contains("hunter2"));
        let tag = hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, b"hunter2"), MESSAGE);
        assert!(key.verifies(MESSAGE, tag.as_ref()) && !key.verifies(MESSAGE, &[]));
        // A public key is never taken for a secret of the same text.
        let tag = hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, RSA_PUBLIC.as_bytes()), MESSAGE);
        assert!(!Key::new(Algorithm::Rs256, RSA_PUBLIC, None).unwrap().verifies(MESSAGE, tag.as_ref()));
    }

    #[test]
    fn what_is_no_key() {
        for bad in [
            "",
            "secret",
            "-----BEGIN PUBLIC KEY-----",
            "-----BEGIN PUBLIC KEY-----\nAAAA\n-----END PUBLIC KEY-----",
        ] {
            assert!(Key::new(Algorithm::Rs256, bad, None).is_err(), "{bad}");
        }
        let cut = RSA_PUBLIC.replace("MII", "MIA");
        assert!(Key::new(Algorithm::Rs256, &cut, None).is_err());
        assert!(Algorithm::named("none").is_none() && Algorithm::named("ES512").is_none());
    }
}
