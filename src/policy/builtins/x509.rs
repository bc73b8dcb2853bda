//! `crypto.x509.*` and `crypto.parse_private_keys`: certificates, requests and keys in the shape that Go's structures
//! have as JSON, for policies read their fields by those names. A chain never counts as verified for lack of a check.

mod certificate;
mod chain;
mod constraints;
mod extensions;
mod hostname;
mod input;
mod keys;
mod name;
mod options;
mod request;
mod shape;
mod signature;
mod uri;

use regorus::Value;

use super::{Builtin, Fault, Outcome, binary, text, unary};
use certificate::Certificate;
use options::Options;

pub const BUILTINS: [Builtin; 7] = [
    unary("crypto.x509.parse_certificates", parse_certificates),
    unary("crypto.x509.parse_and_verify_certificates", parse_and_verify),
    binary("crypto.x509.parse_and_verify_certificates_with_options", parse_and_verify_with_options),
    unary("crypto.x509.parse_certificate_request", request::parse),
    binary("crypto.x509.parse_keypair", keys::parse_keypair),
    unary("crypto.x509.parse_rsa_private_key", keys::parse_rsa_private_key),
    unary("crypto.parse_private_keys", keys::parse_private_keys),
];

fn parse_certificates(value: &Value) -> Outcome {
    let certificates = input::certificates(text(1, value)?).map_err(Fault::failed)?;
    Ok(Value::from(certificates.iter().map(Certificate::shape_with_uris).collect::<Vec<_>>()))
}

fn parse_and_verify(value: &Value) -> Outcome {
    Ok(match verified(text(1, value)?, &Options::default()) {
        Some(chain) => answer(true, chain.iter().map(Certificate::shape_with_uris).collect()),
        None => answer(false, Vec::new()),
    })
}

fn parse_and_verify_with_options(value: &Value, options: &Value) -> Outcome {
    let certificates = text(1, value)?;
    let Value::Object(members) = options else {
        return Err(Fault::operand(2, "object", options));
    };
    if input::certificates(certificates).is_err() {
        return Ok(answer(false, Vec::new()));
    }
    let options = Options::parse(members)?;
    Ok(match verified(certificates, &options) {
        // Without the additional member, as in OPA.
        Some(chain) => answer(true, chain.iter().map(Certificate::shape).collect()),
        None => answer(false, Vec::new()),
    })
}

/// From the leaf, which comes last in the text, to the root, which comes first.
fn verified(text: &str, options: &Options) -> Option<Vec<Certificate>> {
    let certificates = input::certificates(text).ok()?;
    let (root, others) = certificates.split_first()?;
    let (leaf, intermediates) = others.split_last()?;
    chain::build(leaf, intermediates, root, options)
}

fn answer(valid: bool, chain: Vec<Value>) -> Value {
    Value::from(vec![Value::Bool(valid), Value::from(chain)])
}

#[cfg(test)]
mod tests;
