//! JSON Web Signatures (RFC 7515) over the key forms of OPA: PEM, JWK, JWK Set and shared secrets. For policies and for
//! the API alike, so it knows nothing of claims. A key of one kind must never check a signature of another kind: that is how a public key becomes the
//! secret of a forged HMAC.

pub mod base64;
pub mod compact;
pub mod der;
pub mod jwk;
pub mod key;
pub mod pem;
mod sign;
mod verify;

use std::cell::RefCell;
use std::rc::Rc;

pub use key::Key;
pub use sign::sign;
pub use verify::{fits, verify};

use jwk::Jwk;
use pem::Block;

/// Sets of keys a thread keeps parsed. A policy trusts one or two issuers.
const MAX_CACHED_SETS: usize = 16;
/// Bytes of a text whose keys are kept. Longer ones are parsed every time, so the cache of a thread is bounded.
const MAX_CACHED_TEXT_BYTES: usize = 64 << 10;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Hash {
    Sha256,
    Sha384,
    Sha512,
}

/// `alg` of RFC 7518. There is no `none`: what is not signed does not verify.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Algorithm {
    Hmac(Hash),
    RsaPkcs1(Hash),
    RsaPss(Hash),
    Ecdsa(Hash),
    EdDsa,
}

impl Algorithm {
    #[must_use]
    pub fn named(name: &str) -> Option<Self> {
        if name == "EdDSA" {
            return Some(Self::EdDsa);
        }
        let (family, bits) = name.split_at_checked(2)?;
        let hash = match bits {
            "256" => Hash::Sha256,
            "384" => Hash::Sha384,
            "512" => Hash::Sha512,
            _ => return None,
        };
        match family {
            "HS" => Some(Self::Hmac(hash)),
            "RS" => Some(Self::RsaPkcs1(hash)),
            "PS" => Some(Self::RsaPss(hash)),
            "ES" => Some(Self::Ecdsa(hash)),
            _ => None,
        }
    }
}

/// Keys as they are trusted, in their order.
pub type KeySet = Rc<[Jwk]>;

thread_local! {
    /// Least recently used first. A check path verifies with the same text on every request.
    static PARSED: RefCell<Vec<(String, KeySet)>> = const { RefCell::new(Vec::new()) };
}

/// Keys of a PEM certificate, a PEM public key, a JWK or a JWK Set. Keys with an `alg` that is no signature's are
/// left out.
///
/// # Errors
/// The text is none of these; the message is OPA's.
pub fn keys_of(text: &str) -> Result<KeySet, String> {
    let known = PARSED.with_borrow_mut(|sets| {
        let at = sets.iter().position(|(known, _)| known == text)?;
        // The one just used goes last.
        let entry = sets.remove(at);
        let keys = entry.1.clone();
        sets.push(entry);
        Some(keys)
    });
    if let Some(keys) = known {
        return Ok(keys);
    }
    let keys = parse_keys(text)?;
    if text.len() <= MAX_CACHED_TEXT_BYTES {
        PARSED.with_borrow_mut(|sets| {
            if sets.len() >= MAX_CACHED_SETS {
                sets.remove(0);
            }
            sets.push((text.to_owned(), keys.clone()));
        });
    }
    Ok(keys)
}

fn parse_keys(text: &str) -> Result<KeySet, String> {
    if let Some((block, rest)) = Block::first(text) {
        if !rest.is_empty() {
            return Err("extra data after a PEM certificate block".to_owned());
        }
        let key = match block.label {
            "CERTIFICATE" => key::of_certificate(&block.bytes)
                .map_err(|error| format!("failed to parse a PEM certificate: {error}"))?,
            "PUBLIC KEY" => key::of_spki(&block.bytes)
                .map_err(|error| format!("failed to parse a PEM public key: {error}"))?,
            _ => return Err("failed to extract a Key from the PEM certificate".to_owned()),
        };
        return Ok(Rc::from([Jwk::unnamed(Key::Public(key))]));
    }
    let keys = jwk::parse_set(text).map_err(|error| format!("failed to parse a JWK key (set): {error}"))?;
    let signs = |key: &Jwk| key.algorithm.is_empty() || Algorithm::named(&key.algorithm).is_some();
    Ok(keys.into_iter().filter(signs).collect())
}

/// The key that a token names, or else every key that may fit its `alg`.
pub fn candidates<'k>(keys: &'k [Jwk], id: &str, algorithm: &str) -> impl Iterator<Item = &'k Jwk> {
    let named = if id.is_empty() { None } else { keys.iter().find(|key| key.id == id) };
    let is_named = named.is_some();
    let fitting = keys.iter().filter({
        let algorithm = algorithm.to_owned();
        move |key| !is_named && (key.algorithm.is_empty() || key.algorithm == algorithm)
    });
    named.into_iter().chain(fitting)
}

#[cfg(test)]
mod tests;
