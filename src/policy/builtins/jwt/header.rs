//! The JOSE header of a token. Says what the token claims of itself; nothing in it is trusted.

use std::collections::BTreeSet;

use regorus::value::Object;
use regorus::{Rc, Value};

use super::super::Fault;
use super::object;
use crate::jws::base64;
use crate::jws::compact::Compact;

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
        let (mut critical, mut unknown) = (Critical::default(), Vec::new());
        for (name, value) in members.iter() {
            let Value::String(name) = name else { continue };
            match &**name {
                "alg" => string("alg", value)?.clone_into(&mut header.algorithm),
                "kid" => string("kid", value)?.clone_into(&mut header.key_id),
                "cty" => string("cty", value)?.clone_into(&mut header.content_type),
                "typ" => drop(string("typ", value)?),
                "crit" => critical = Critical::parse(value)?,
                other => unknown.push(other.to_owned()),
            }
        }
        header.has_unknown_critical =
            critical.has_others || unknown.iter().any(|name| critical.names.contains(name));
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

#[derive(Default)]
struct Critical {
    names: BTreeSet<String>,
    /// What is no name: a list that says less than it should lets nothing through.
    has_others: bool,
}

impl Critical {
    fn parse(value: &Value) -> Result<Self, Fault> {
        let Value::Array(items) = value else {
            return Err(Fault::failed("crit: must be a list"));
        };
        let mut critical = Self::default();
        for item in items.iter() {
            match item {
                Value::String(name) => drop(critical.names.insert(name.to_string())),
                _ => critical.has_others = true,
            }
        }
        if critical.names.is_empty() {
            return Err(Fault::failed("crit: must be a nonempty list"));
        }
        Ok(critical)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_critical_name_counts() {
        let is_valid = |json: &str| {
            let Value::Object(members) = Value::from_json_str(json).unwrap() else { panic!("no object") };
            Header::parse(&members).map(|header| header.is_valid()).ok()
        };
        assert_eq!(is_valid(r#"{"alg":"HS256","crit":["exp"]}"#), Some(true));
        assert_eq!(is_valid(r#"{"alg":"HS256","crit":["exp","b64"],"b64":false}"#), Some(false));
        assert_eq!(is_valid(r#"{"alg":"HS256","crit":["exp",1,"b64"],"b64":false}"#), Some(false));
        assert_eq!(is_valid(r#"{"alg":"HS256","crit":["exp",1]}"#), Some(false));
        assert_eq!(is_valid(r#"{"alg":"HS256","crit":[1]}"#), None);
    }
}
