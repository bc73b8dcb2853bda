//! Digests and keyed digests. MD5 and SHA-1 are here because policies name them; nothing of daypass' own rests on
//! either.

use data_encoding::HEXLOWER;
use hmac::{Hmac, KeyInit, Mac};
use md5::{Digest, Md5};
use regorus::Value;
use ring::{digest, hmac as ring_hmac};
use subtle::ConstantTimeEq;

use super::{Builtin, Fault, Outcome, binary, text, unary};

pub const BUILTINS: [Builtin; 8] = [
    unary("crypto.md5", |message| hex(|message| Md5::digest(message), message)),
    unary("crypto.sha1", |message| {
        hex(|message| digest::digest(&digest::SHA1_FOR_LEGACY_USE_ONLY, message), message)
    }),
    unary("crypto.sha256", |message| hex(|message| digest::digest(&digest::SHA256, message), message)),
    binary("crypto.hmac.md5", hmac_md5),
    binary("crypto.hmac.sha1", |message, key| keyed(ring_hmac::HMAC_SHA1_FOR_LEGACY_USE_ONLY, message, key)),
    binary("crypto.hmac.sha256", |message, key| keyed(ring_hmac::HMAC_SHA256, message, key)),
    binary("crypto.hmac.sha512", |message, key| keyed(ring_hmac::HMAC_SHA512, message, key)),
    binary("crypto.hmac.equal", equal),
];

fn hex<D: AsRef<[u8]>>(hash: fn(&[u8]) -> D, message: &Value) -> Outcome {
    Ok(Value::from(HEXLOWER.encode(hash(text(1, message)?.as_bytes()).as_ref())))
}

fn keyed(algorithm: ring_hmac::Algorithm, message: &Value, key: &Value) -> Outcome {
    let (message, key) = (text(1, message)?, text(2, key)?);
    let tag = ring_hmac::sign(&ring_hmac::Key::new(algorithm, key.as_bytes()), message.as_bytes());
    Ok(Value::from(HEXLOWER.encode(tag.as_ref())))
}

fn hmac_md5(message: &Value, key: &Value) -> Outcome {
    let (message, key) = (text(1, message)?, text(2, key)?);
    let mut mac =
        Hmac::<Md5>::new_from_slice(key.as_bytes()).map_err(|error| Fault::failed(error.to_string()))?;
    mac.update(message.as_bytes());
    Ok(Value::from(HEXLOWER.encode(&mac.finalize().into_bytes())))
}

/// In a time that tells nothing of where they differ.
fn equal(a: &Value, b: &Value) -> Outcome {
    let (a, b) = (text(1, a)?, text(2, b)?);
    Ok(Value::Bool(a.as_bytes().ct_eq(b.as_bytes()).into()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn digests_of_nothing_are_the_known_ones() {
        let nothing = Value::from("");
        let call = |name: &str| {
            let found = BUILTINS.iter().find(|builtin| builtin.name == name).unwrap();
            found.call(std::slice::from_ref(&nothing))
        };
        assert_eq!(call("crypto.md5"), Ok(Value::from("d41d8cd98f00b204e9800998ecf8427e")));
        assert_eq!(call("crypto.sha1"), Ok(Value::from("da39a3ee5e6b4b0d3255bfef95601890afd80709")));
        let sha256 = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";
        assert_eq!(call("crypto.sha256"), Ok(Value::from(sha256)));
        assert!(hmac_md5(&nothing, &nothing).is_ok());
        let numbers = equal(&Value::from(1u64), &nothing);
        assert_eq!(numbers, Err(Fault::Type("operand 1 must be string but got number".to_owned())));
    }
}
