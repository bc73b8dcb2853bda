//! JSON Web Keys (RFC 7517, 7518, 8037): one, or a set of them.

use num_bigint::BigUint;
use serde_json::{Map, Value};

use super::base64;
use super::der::without_leading_zeros;
use super::key::{self, Curve, Key, MAX_RSA_BYTES, Point, PrivateKey, PublicKey, RsaPrivate, padded};

/// Keys of one set. Each may be tried on a token that names none of them.
const MAX_KEYS: usize = 256;

/// Private forms have all of their members.
#[derive(Clone)]
pub struct Jwk {
    /// `kid`, or nothing.
    pub id: String,
    /// `alg`, or nothing.
    pub algorithm: String,
    /// `use`, or nothing.
    pub usage: String,
    pub key: Key,
}

impl Jwk {
    #[must_use]
    pub fn unnamed(key: Key) -> Self {
        Self { id: String::new(), algorithm: String::new(), usage: String::new(), key }
    }
}

/// One key, or the `keys` of a set. A key of a kind or on a curve not known is left out of a set (RFC 7517, 5), and an
/// error alone.
pub fn parse_set(text: &str) -> Result<Vec<Jwk>, String> {
    let value: Value = serde_json::from_str(text).map_err(|error| error.to_string())?;
    let Value::Object(members) = &value else {
        return Err("not a JSON object".to_owned());
    };
    let Some(keys) = members.get("keys") else {
        let key = parse_one(members)?.ok_or("invalid key type from JSON")?;
        return Ok(vec![key]);
    };
    let Value::Array(keys) = keys else {
        return Err("`keys` is not an array".to_owned());
    };
    if keys.len() > MAX_KEYS {
        return Err(format!("more than {MAX_KEYS} keys"));
    }
    let mut parsed = Vec::new();
    for (index, key) in keys.iter().enumerate() {
        let Value::Object(members) = key else {
            return Err(format!("failed to decode key #{index}: not a JSON object"));
        };
        let key = parse_one(members).map_err(|error| format!("failed to decode key #{index}: {error}"))?;
        parsed.extend(key);
    }
    Ok(parsed)
}

fn parse_one(members: &Map<String, Value>) -> Result<Option<Jwk>, String> {
    let fields = Fields(members);
    let key = match fields.text("kty")?.unwrap_or_default() {
        "RSA" => fields.rsa()?,
        "EC" => match fields.ec()? {
            Some(key) => key,
            None => return Ok(None),
        },
        "OKP" => fields.okp()?,
        "oct" => Key::Secret(fields.bytes("k")?),
        _ => return Ok(None),
    };
    let owned = |name| fields.text(name).map(|text| text.unwrap_or_default().to_owned());
    // OPA does not look at it, so it is no mistake there if it is no text.
    let usage = members.get("use").and_then(Value::as_str).unwrap_or_default().to_owned();
    Ok(Some(Jwk { id: owned("kid")?, algorithm: owned("alg")?, usage, key }))
}

struct Fields<'m>(&'m Map<String, Value>);

impl<'m> Fields<'m> {
    fn text(&self, name: &str) -> Result<Option<&'m str>, String> {
        match self.0.get(name) {
            None => Ok(None),
            Some(Value::String(text)) => Ok(Some(text)),
            Some(_) => Err(format!("value for key {name} is not a string")),
        }
    }

    fn has(&self, name: &str) -> bool {
        self.0.get(name).is_some()
    }

    fn bytes(&self, name: &str) -> Result<Vec<u8>, String> {
        let text = self.text(name)?.ok_or_else(|| format!("required field {name} is missing"))?;
        base64::of_key(text).map_err(|error| format!("failed to decode value for key {name}: {error}"))
    }

    fn number(&self, name: &str) -> Result<BigUint, String> {
        let bytes = self.bytes(name)?;
        if bytes.len() > MAX_RSA_BYTES {
            return Err(format!("value for key {name} is too long"));
        }
        Ok(BigUint::from_bytes_be(&bytes))
    }

    fn rsa(&self) -> Result<Key, String> {
        if !self.has("d") {
            let (modulus, exponent) = (self.number("n")?, self.number("e")?);
            return Ok(Key::Public(PublicKey::Rsa {
                modulus: modulus.to_bytes_be(),
                exponent: exponent.to_bytes_be(),
            }));
        }
        let key = RsaPrivate {
            modulus: self.number("n")?,
            exponent: self.number("e")?,
            private_exponent: self.number("d")?,
            primes: [self.number("p")?, self.number("q")?],
        };
        Ok(Key::private(PrivateKey::Rsa(Box::new(key))))
    }

    /// `None` on a curve not known.
    fn ec(&self) -> Result<Option<Key>, String> {
        let name = self.text("crv")?.ok_or("required field crv is missing")?;
        let Some(curve) = Curve::named(name) else { return Ok(None) };
        let point = Point::new(curve, &self.bytes("x")?, &self.bytes("y")?)
            .ok_or_else(|| format!("invalid point for curve {name}"))?;
        if !self.has("d") {
            return Ok(Some(Key::Public(PublicKey::Ec { curve, point })));
        }
        let scalar = padded(without_leading_zeros(&self.bytes("d")?), curve.bytes());
        let key = scalar.and_then(|scalar| key::ec_private(curve, scalar, point));
        let key = key.ok_or_else(|| format!("invalid private key for curve {name}"))?;
        Ok(Some(Key::private(key)))
    }

    fn okp(&self) -> Result<Key, String> {
        let public = self.bytes("x")?;
        match self.text("crv")? {
            Some("Ed25519") => {}
            // Not for signatures, or not known.
            Some(_) => return Ok(Key::Public(PublicKey::Other)),
            None => return Err("required field crv is missing".to_owned()),
        }
        if !self.has("d") {
            return Ok(Key::Public(PublicKey::Ed25519(public)));
        }
        let pair = key::ed25519(&self.bytes("d")?).ok_or("wrong private key size")?;
        if pair.public() != PublicKey::Ed25519(public) {
            return Err("invalid x value given d value".to_owned());
        }
        Ok(Key::private(pair))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_curve_not_known_costs_its_own_key_alone() {
        let unknown = r#"{"kty":"EC","crv":"secp256k1","x":"AQ","y":"AQ"}"#;
        let set = format!(r#"{{"keys":[{unknown},{{"kty":"oct","kid":"a","k":"AQ"}}]}}"#);
        let ids: Vec<_> = parse_set(&set).unwrap().into_iter().map(|key| key.id).collect();
        assert_eq!(ids, ["a"]);
        assert!(parse_set(unknown).is_err());
        assert!(parse_set(r#"{"keys":[{"kty":"EC","x":"AQ","y":"AQ"}]}"#).is_err());
    }
}
