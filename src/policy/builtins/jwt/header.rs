//! The JOSE header of a token. Says what the token claims of itself; nothing in it is trusted.

use std::collections::BTreeSet;

use regorus::value::Object;
use regorus::{Rc, Value};

use super::super::Fault;
use super::super::jws::base64;
use super::super::jws::compact::Compact;
use super::object;

#[derive(Debug, Default, PartialEq, Eq)]
pub struct Header {
    pub algorithm: String,
    pub key_id: String,
    pub content_type: String,
    /// Parameters that must be understood, and are not.
    has_unknown_critical: bool,
}

/// # Errors
/// It is not base64url or not an object, or the token is encrypted.
pub fn decode(compact: &Compact) -> Result<Rc<Object>, Fault> {
    let bytes = base64::url(compact.header)
        .map_err(|error| Fault::failed(format!("JWT header had invalid encoding: {error}")))?;
    let header = match object(&String::from_utf8_lossy(&bytes)) {
        Ok(Value::Object(header)) => header,
        Err(Fault::Failed(why)) => return Err(Fault::failed(format!("bad JWT header: {why}"))),
        Ok(_) | Err(_) => return Err(Fault::failed("bad JWT header")),
    };
    if header.get(&Value::from("enc")).is_some() {
        return Err(Fault::failed("JWT is a JWE object, which is not supported"));
    }
    Ok(header)
}

impl Header {
    /// # Errors
    /// A parameter has the wrong type.
    pub fn parse(members: &Object) -> Result<Self, Fault> {
        let mut header = Self::default();
        let (mut critical, mut unknown) = (BTreeSet::new(), Vec::new());
        for (name, value) in members.iter() {
            let Value::String(name) = name else { continue };
            match &**name {
                "alg" => string("alg", value)?.clone_into(&mut header.algorithm),
                "kid" => string("kid", value)?.clone_into(&mut header.key_id),
                "cty" => string("cty", value)?.clone_into(&mut header.content_type),
                "typ" => drop(string("typ", value)?),
                "crit" => critical = critical_names(value)?,
                other => unknown.push(other.to_owned()),
            }
        }
        header.has_unknown_critical = unknown.iter().any(|name| critical.contains(name));
        Ok(header)
    }

    /// RFC 7515: `alg` is there (4.1.1), and no critical parameter is unknown (4.1.11).
    #[must_use]
    pub fn is_valid(&self) -> bool {
        !self.algorithm.is_empty() && !self.has_unknown_critical
    }
}

fn string<'v>(name: &str, value: &'v Value) -> Result<&'v str, Fault> {
    match value {
        Value::String(text) => Ok(text),
        _ => Err(Fault::failed(format!("{name}: must be a string"))),
    }
}

fn critical_names(value: &Value) -> Result<BTreeSet<String>, Fault> {
    let Value::Array(items) = value else {
        return Err(Fault::failed("crit: must be a list"));
    };
    let names: BTreeSet<String> = items
        .iter()
        .map_while(|item| match item {
            Value::String(name) => Some(name.to_string()),
            _ => None,
        })
        .collect();
    if names.is_empty() { Err(Fault::failed("crit: must be a nonempty list")) } else { Ok(names) }
}
