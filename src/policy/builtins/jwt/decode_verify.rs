//! `io.jwt.decode_verify`: signature and claims in one. The order of the checks is OPA's, for it decides between an
//! error and `[false, {}, {}]`.

use regorus::value::Object;
use regorus::{Rc, Value};

use super::super::{Fault, Outcome, text};
use super::constraints::Constraints;
use super::header::{self, Header};
use super::{object, payload_text};
use crate::jws::compact::Compact;
use crate::jws::{self, Algorithm};

pub fn decode_verify(jwt: &Value, constraints: &Value) -> Outcome {
    let Value::Object(members) = constraints else {
        return Err(Fault::operand(2, "object", constraints));
    };
    let constraints = Constraints::parse(members)?;
    let verified = verified(text(1, jwt)?, &constraints)?;
    let accepted = match verified {
        Some((header, payload)) if claims_hold(&payload, &constraints)? => Some((header, payload)),
        _ => None,
    };
    let (valid, header, payload) = match accepted {
        Some((header, payload)) => (true, header, payload),
        None => (false, Rc::new(Object::new()), Rc::new(Object::new())),
    };
    Ok(Value::from(vec![Value::Bool(valid), Value::Object(header), Value::Object(payload)]))
}

/// Header and payload.
type Parts = (Rc<Object>, Rc<Object>);

/// Those of the innermost token, if every one on the way is signed by a trusted key.
fn verified(jwt: &str, constraints: &Constraints) -> Result<Option<Parts>, Fault> {
    let mut encoded = jwt.to_owned();
    // Ends: each token is shorter than the one around it.
    loop {
        let compact = Compact::parse(&encoded).map_err(Fault::failed)?;
        let members = header::decode(&compact)?;
        let header = Header::parse(&members)?;
        if !header.is_valid() {
            return Ok(None);
        }
        if !constraints.algorithm.is_empty() && constraints.algorithm != header.algorithm {
            return Ok(None);
        }
        let signature = compact.signature().map_err(|error| Fault::failed(error.to_string()))?;
        let Some(algorithm) = Algorithm::named(&header.algorithm) else { return Ok(None) };
        let is_signed = jws::candidates(constraints.keys(), &header.key_id, &header.algorithm)
            .any(|candidate| jws::verify(algorithm, &candidate.key, compact.signed, &signature));
        if !is_signed {
            return Ok(None);
        }
        let payload = payload_text(&compact)?;
        if header.content_type.eq_ignore_ascii_case("JWT") {
            encoded = payload;
            continue;
        }
        return match object(&payload)? {
            Value::Object(payload) => Ok(Some((members, payload))),
            _ => Ok(None),
        };
    }
}

fn claims_hold(payload: &Object, constraints: &Constraints) -> Result<bool, Fault> {
    let claim = |name| payload.get(&Value::from(name));
    if !constraints.issuer.is_empty()
        && !claim("iss").is_some_and(|found| is_text(found, &constraints.issuer))
    {
        return Ok(false);
    }
    let is_for_us = match claim("aud") {
        Some(Value::Array(audiences)) => audiences.iter().any(|found| is_text(found, &constraints.audience)),
        Some(audience) => is_text(audience, &constraints.audience),
        None => constraints.audience.is_empty(),
    };
    if !is_for_us {
        return Ok(false);
    }
    let now = Value::from(constraints.now);
    match claim("exp") {
        Some(expiry @ Value::Number(_)) if now >= *expiry => return Ok(false),
        None | Some(Value::Number(_)) => {}
        Some(_) => return Err(Fault::failed("exp value must be a number")),
    }
    match claim("nbf") {
        Some(start @ Value::Number(_)) if now < *start => Ok(false),
        None | Some(Value::Number(_)) => Ok(true),
        Some(_) => Err(Fault::failed("nbf value must be a number")),
    }
}

fn is_text(value: &Value, wanted: &str) -> bool {
    matches!(value, Value::String(text) if &**text == wanted)
}
