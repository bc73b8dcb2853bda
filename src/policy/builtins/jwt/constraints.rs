//! What `io.jwt.decode_verify` is told to insist on. A constraint that is not known is an error: a typo must not
//! become a check that is never made.

use std::time::{SystemTime, UNIX_EPOCH};

use regorus::Value;
use regorus::value::Object;

use super::super::Fault;
use crate::jws::jwk::Jwk;
use crate::jws::{self, Key, KeySet};

pub struct Constraints {
    keys: KeySet,
    /// Empty: any.
    pub algorithm: String,
    /// Empty: any.
    pub issuer: String,
    /// Empty: none, and a token that has one is refused.
    pub audience: String,
    /// Seconds since 1970. A double, as in OPA: equality with a claim depends on its rounding.
    pub now: f64,
}

impl Constraints {
    pub fn parse(members: &Object) -> Result<Self, Fault> {
        let (mut keys, mut secret, mut now_ns) = (None, String::new(), None);
        let (mut algorithm, mut issuer, mut audience) = (String::new(), String::new(), String::new());
        for (name, value) in members.iter() {
            match name.as_string().map(|name| &**name) {
                Ok("alg") => algorithm = string("alg", value)?,
                Ok("aud") => audience = string("aud", value)?,
                Ok("cert") => {
                    keys = Some(jws::keys_of(&string("cert", value)?).map_err(Fault::failed)?);
                }
                Ok("iss") => issuer = string("iss", value)?,
                Ok("secret") => secret = string("secret", value)?,
                Ok("time") => now_ns = Some(time(value)?),
                _ => {
                    return Err(Fault::failed(format!(
                        "unknown token validation constraint: {}",
                        plain(name)
                    )));
                }
            }
        }
        let keys = match (keys, secret.is_empty()) {
            (Some(_), false) => return Err(Fault::failed("duplicate key constraints")),
            (Some(keys), true) => keys,
            (None, false) => KeySet::from([Jwk::unnamed(Key::Secret(secret.into_bytes()))]),
            (None, true) => return Err(Fault::failed("no key constraint")),
        };
        let now = now_ns.unwrap_or_else(wall_clock_ns) / 1e9;
        Ok(Self { keys, algorithm, issuer, audience, now })
    }

    #[must_use]
    pub fn keys(&self) -> &[Jwk] {
        &self.keys
    }
}

fn plain(name: &Value) -> String {
    name.as_string().map_or_else(|_| "not a string".to_owned(), ToString::to_string)
}

fn string(name: &str, value: &Value) -> Result<String, Fault> {
    match value {
        Value::String(text) => Ok(text.to_string()),
        _ => Err(Fault::failed(format!("{name} constraint: must be a string"))),
    }
}

fn time(value: &Value) -> Result<f64, Fault> {
    if !matches!(value, Value::Number(_)) {
        return Err(Fault::failed("token time constraint: must be a number"));
    }
    // By way of its digits: the engine converts only what a double holds exactly, and nanoseconds of today are not that.
    let nearest = value.to_json_str().ok().and_then(|digits| digits.parse::<f64>().ok());
    match nearest.filter(|time| time.is_finite()) {
        None => Err(Fault::failed("token time constraint: unvalid float64")),
        Some(time) if time < 0.0 => Err(Fault::failed("token time constraint: must not be negative")),
        Some(time) => Ok(time),
    }
}

fn wall_clock_ns() -> f64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    since.as_secs_f64() * 1e9
}
