//! `.signatures.json`: a JWT that names every file of a bundle and what it hashes to.
//!
//! A file that is not in it, a name in it without a file, and a signature without a key to verify it with are all
//! refused. Nothing of the token is believed before its signature was verified, but which key that takes.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use data_encoding::{BASE64URL_NOPAD, HEXLOWER_PERMISSIVE};
use ring::digest::{self, Context};
use serde::Deserialize;
use serde::de::IgnoredAny;

use super::keys::{Algorithm, Key};
use super::pattern::Pattern;
use super::{BundleError, canonical};
use crate::policy::Document;

/// How a bundle is verified: `signing` and `keys` together.
#[derive(Debug, Clone, Default)]
pub struct Verification {
    pub keys: BTreeMap<String, Key>,
    /// None: the token says which key it was signed with.
    pub key_id: Option<String>,
    /// None: the scope of the key.
    pub scope: Option<String>,
    pub exclude: Vec<Pattern>,
    /// Whether a bundle without a signature is refused. So it is wherever `signing` is configured; keys alone say only
    /// what signatures there may be.
    pub is_required: bool,
}

#[derive(Deserialize)]
struct Signatures {
    #[serde(default)]
    signatures: Vec<String>,
    #[serde(default)]
    plugin: String,
}

#[derive(Deserialize)]
struct Header {
    alg: String,
    kid: Option<String>,
    #[serde(default)]
    crit: Vec<IgnoredAny>,
}

#[derive(Deserialize)]
struct Payload {
    #[serde(default)]
    files: Vec<File>,
    #[serde(default)]
    scope: String,
}

/// All of the payload that is looked at before it is verified.
#[derive(Deserialize)]
struct Unverified {
    /// Where the key was named before it was named in the header.
    keyid: Option<String>,
}

#[derive(Deserialize)]
struct File {
    name: String,
    hash: String,
    #[serde(default)]
    algorithm: String,
}

/// What a verified token says, less what was found to be so.
#[derive(Debug)]
pub(super) struct Claims {
    files: BTreeMap<String, (&'static digest::Algorithm, Vec<u8>)>,
    exclude: Vec<Pattern>,
}

/// Content of a file, as its hash sees it.
#[derive(Clone, Copy)]
pub(super) enum Content<'a> {
    Bytes(&'a [u8]),
    /// Text that is JSON, or else is not what was signed.
    Json(&'a [u8]),
    Yaml(&'a Document),
}

fn refused(message: impl Into<String>) -> BundleError {
    BundleError::Signature(message.into())
}

fn not_signed(path: &str) -> BundleError {
    refused(format!("{path}: not in the signature"))
}

impl Verification {
    /// # Errors
    /// The file is not one verified token, or a token that does not fit what is configured.
    pub(super) fn verify(&self, signatures: &[u8]) -> Result<Claims, BundleError> {
        let signatures = signatures.strip_prefix(b"\xef\xbb\xbf").unwrap_or(signatures);
        let found: Signatures = serde_json::from_slice(signatures)
            .map_err(|error| refused(format!(".signatures.json: {error}")))?;
        if !matches!(found.plugin.as_str(), "" | "_default") {
            return Err(refused(format!(".signatures.json: the plugin {:?} is not supported", found.plugin)));
        }
        let [token] = found.signatures.as_slice() else {
            let count = found.signatures.len();
            return Err(refused(format!(".signatures.json: {count} tokens, and exactly one is expected")));
        };
        let payload = self.verify_token(token)?;
        let mut files = BTreeMap::new();
        for file in payload.files {
            let name = super::archive::normal_path(file.name.as_bytes())?;
            let algorithm = hash_algorithm(&file.name, &file.algorithm)?;
            let hash = HEXLOWER_PERMISSIVE
                .decode(file.hash.as_bytes())
                .map_err(|error| refused(format!("{:?} in the signature: its hash: {error}", file.name)))?;
            if files.insert(name, (algorithm, hash)).is_some() {
                return Err(refused(format!("{:?} is in the signature twice", file.name)));
            }
        }
        Ok(Claims { files, exclude: self.exclude.clone() })
    }

    fn verify_token(&self, token: &str) -> Result<Payload, BundleError> {
        let bad = |what: &str, error: &dyn std::fmt::Display| refused(format!("the token's {what}: {error}"));
        let parts: Vec<_> = token.split('.').collect();
        let [header, payload, signature] = parts.as_slice() else {
            return Err(refused("the token is not a JWT: it has not three parts"));
        };
        let decode = |what: &str, part: &str| {
            BASE64URL_NOPAD.decode(part.as_bytes()).map_err(|error| bad(what, &error))
        };
        let header_json = decode("header", header)?;
        let parsed: Header = serde_json::from_slice(&header_json).map_err(|error| bad("header", &error))?;
        let payload_json = decode("payload", payload)?;
        let unverified: Unverified =
            serde_json::from_slice(&payload_json).map_err(|error| bad("payload", &error))?;
        if !parsed.crit.is_empty() {
            return Err(refused("the token has critical extensions, and none is supported"));
        }
        let key_id = [self.key_id.as_deref(), parsed.kid.as_deref(), unverified.keyid.as_deref()]
            .into_iter()
            .flatten()
            .find(|id| !id.is_empty())
            .ok_or_else(|| refused("neither the configuration nor the token says which key verifies it"))?;
        let key = self.keys.get(key_id).ok_or_else(|| refused(format!("no key {key_id:?} is configured")))?;
        if Algorithm::named(&parsed.alg) != Some(key.algorithm) {
            let (found, expected) = (&parsed.alg, key.algorithm.name());
            return Err(refused(format!("the token says {found:?}, and key {key_id:?} is for {expected}")));
        }
        let signed = token.rsplit_once('.').map_or("", |(signed, _)| signed);
        if !key.verifies(signed.as_bytes(), &decode("signature", signature)?) {
            return Err(refused(format!("the signature was not made with key {key_id:?}")));
        }
        let payload: Payload =
            serde_json::from_slice(&payload_json).map_err(|error| bad("payload", &error))?;
        let scope = self.scope.as_ref().or(key.scope.as_ref()).map_or("", String::as_str);
        if payload.scope != scope {
            return Err(refused(format!(
                "the token's scope is {:?}, and {scope:?} is expected",
                payload.scope
            )));
        }
        Ok(payload)
    }
}

impl Claims {
    /// Whether the file is signed. If not, it need not be read for this.
    ///
    /// # Errors
    /// It has to be, and is not in the signature.
    pub fn covers(&mut self, path: &str) -> Result<bool, BundleError> {
        if self.exclude.iter().any(|pattern| pattern.matches(path)) {
            self.files.remove(path);
            return Ok(false);
        }
        if self.files.contains_key(path) { Ok(true) } else { Err(not_signed(path)) }
    }

    /// # Errors
    /// The file is not in the signature, or not what was signed.
    pub fn check(&mut self, path: &str, content: Content<'_>) -> Result<(), BundleError> {
        let (algorithm, expected) = self.files.remove(path).ok_or_else(|| not_signed(path))?;
        let mut hasher = Context::new(algorithm);
        match content {
            Content::Bytes(bytes) => hasher.update(bytes),
            Content::Json(text) => canonical::of_text(text, &mut |part| hasher.update(part))
                .ok_or_else(|| refused(format!("{path}: not JSON")))?,
            Content::Yaml(document) => document.write_as_go(&mut |part| hasher.update(part)),
        }
        let found = hasher.finish();
        if found.as_ref() == expected.as_slice() {
            return Ok(());
        }
        let mut message = format!("{path}: its hash is ");
        hex(&mut message, found.as_ref());
        message.push_str(", and the signature is over ");
        hex(&mut message, &expected);
        Err(refused(message))
    }

    /// # Errors
    /// Files that were signed are missing.
    pub fn finish(self) -> Result<(), BundleError> {
        if self.files.is_empty() {
            return Ok(());
        }
        let names: Vec<_> = self.files.keys().map(String::as_str).collect();
        Err(refused(format!("in the signature and not in the bundle: {}", names.join(", "))))
    }
}

fn hex(text: &mut String, bytes: &[u8]) {
    for byte in bytes {
        // Writing to a string does not fail.
        _ = write!(text, "{byte:02x}");
    }
}

/// Those of OPA's list with which nobody makes two files that hash alike, and which the library has.
fn hash_algorithm(file: &str, name: &str) -> Result<&'static digest::Algorithm, BundleError> {
    match name {
        "SHA-256" => Ok(&digest::SHA256),
        "SHA-384" => Ok(&digest::SHA384),
        "SHA-512" => Ok(&digest::SHA512),
        "SHA-512-256" => Ok(&digest::SHA512_256),
        "" => Err(refused(format!("{file:?} in the signature: no hashing algorithm"))),
        "MD5" | "SHA-1" => {
            Err(refused(format!("{file:?} in the signature: {name} can be forged; sign with SHA-256")))
        }
        other => {
            Err(refused(format!("{file:?} in the signature: {other:?} is not supported; sign with SHA-256")))
        }
    }
}
