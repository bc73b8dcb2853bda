//! `io.jwt.*`: JSON Web Tokens with OPA's meaning. Whether a token is good is decided here on every call; only keys
//! are kept. A token that is not signed by a trusted key must never come back as valid, whatever its header says.

mod constraints;
mod decode_verify;
mod header;
mod sign;

use regorus::Value;

use super::{Builtin, Fault, Outcome, binary, ternary, text, unary};
use crate::jws::compact::Compact;
use crate::jws::{self, Algorithm, Hash, Key, base64};
use crate::policy::json;
use header::Header;

use Algorithm::{Ecdsa, EdDsa, Hmac, RsaPkcs1, RsaPss};
use Hash::{Sha256, Sha384, Sha512};

pub const BUILTINS: [Builtin; 17] = [
    unary("io.jwt.decode", decode),
    binary("io.jwt.decode_verify", decode_verify::decode_verify),
    ternary("io.jwt.encode_sign", sign::encode_sign),
    ternary("io.jwt.encode_sign_raw", sign::encode_sign_raw),
    binary("io.jwt.verify_hs256", |jwt, secret| verify_secret(Hmac(Sha256), jwt, secret)),
    binary("io.jwt.verify_hs384", |jwt, secret| verify_secret(Hmac(Sha384), jwt, secret)),
    binary("io.jwt.verify_hs512", |jwt, secret| verify_secret(Hmac(Sha512), jwt, secret)),
    binary("io.jwt.verify_rs256", |jwt, keys| verify(RsaPkcs1(Sha256), jwt, keys)),
    binary("io.jwt.verify_rs384", |jwt, keys| verify(RsaPkcs1(Sha384), jwt, keys)),
    binary("io.jwt.verify_rs512", |jwt, keys| verify(RsaPkcs1(Sha512), jwt, keys)),
    binary("io.jwt.verify_ps256", |jwt, keys| verify(RsaPss(Sha256), jwt, keys)),
    binary("io.jwt.verify_ps384", |jwt, keys| verify(RsaPss(Sha384), jwt, keys)),
    binary("io.jwt.verify_ps512", |jwt, keys| verify(RsaPss(Sha512), jwt, keys)),
    binary("io.jwt.verify_es256", |jwt, keys| verify(Ecdsa(Sha256), jwt, keys)),
    binary("io.jwt.verify_es384", |jwt, keys| verify(Ecdsa(Sha384), jwt, keys)),
    binary("io.jwt.verify_es512", |jwt, keys| verify(Ecdsa(Sha512), jwt, keys)),
    binary("io.jwt.verify_eddsa", |jwt, keys| verify(EdDsa, jwt, keys)),
];

/// Header, payload and the signature in hexadecimal; of a token in a token, the innermost.
fn decode(value: &Value) -> Outcome {
    let mut encoded = text(1, value)?.to_owned();
    loop {
        let compact = Compact::parse(&encoded).map_err(Fault::failed)?;
        let header = header::decode(&compact)?;
        let payload = payload_text(&compact)?;
        match header.get(&Value::from("cty")) {
            Some(Value::String(kind)) if &**kind == "JWT" => {
                // The inner token comes quoted from some issuers.
                payload.trim_matches(['"', '\'']).clone_into(&mut encoded);
                continue;
            }
            None | Some(Value::String(_)) => {}
            Some(_) => return Err(Fault::failed("cty: must be a string")),
        }
        let payload = object(&payload)?;
        let signature = compact
            .signature()
            .map_err(|error| Fault::failed(format!("JWT signature had invalid encoding: {error}")))?;
        let signature = data_encoding::HEXLOWER.encode(&signature);
        return Ok(Value::from(vec![Value::Object(header), payload, Value::from(signature)]));
    }
}

/// Bytes that are no UTF-8 become U+FFFD, as in Go's reader of JSON.
fn payload_text(compact: &Compact) -> Result<String, Fault> {
    let bytes = base64::url(compact.payload)
        .map_err(|error| Fault::failed(format!("JWT payload had invalid encoding: {error}")))?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

fn object(json_text: &str) -> Result<Value, Fault> {
    match json::parse(json_text) {
        Ok(value @ Value::Object(_)) => Ok(value),
        Ok(_) => Err(Fault::failed("decoded JSON type was not an Object")),
        Err(error) => Err(Fault::failed(format!("invalid JSON: {error}"))),
    }
}

/// With the algorithm of the function; the header's chooses among keys only.
fn verify(algorithm: Algorithm, jwt: &Value, keys: &Value) -> Outcome {
    let compact = Compact::parse(text(1, jwt)?).map_err(Fault::failed)?;
    let keys = jws::keys_of(text(2, keys)?).map_err(Fault::failed)?;
    let signature = compact.signature().map_err(|error| Fault::failed(error.to_string()))?;
    let members = header::decode(&compact)?;
    let header = Header::parse(&members)?;
    let valid = jws::candidates(&keys, &header.key_id, &header.algorithm).any(|candidate| {
        // As in OPA, which takes private keys for verification in `decode_verify` alone.
        matches!(candidate.key, Key::Public(_))
            && jws::verify(algorithm, &candidate.key, compact.signed, &signature)
    });
    Ok(Value::Bool(valid))
}

fn verify_secret(algorithm: Algorithm, jwt: &Value, secret: &Value) -> Outcome {
    let (jwt, secret) = (text(1, jwt)?, text(2, secret)?);
    let compact = Compact::parse(jwt).map_err(Fault::failed)?;
    let signature = compact.signature().map_err(|error| Fault::failed(error.to_string()))?;
    let key = Key::Secret(secret.as_bytes().to_vec());
    Ok(Value::Bool(jws::verify(algorithm, &key, compact.signed, &signature)))
}

#[cfg(test)]
mod tests;
