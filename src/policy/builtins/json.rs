//! Reading JSON and numbers from text, in place of the engine's own functions, whose number reader can be made to run
//! for minutes.

use regorus::Value;

use super::super::json;
use super::{Builtin, Fault, Outcome, text, unary};

pub const BUILTINS: [Builtin; 3] =
    [unary("json.unmarshal", unmarshal), unary("json.is_valid", is_valid), unary("to_number", to_number)];

fn unmarshal(value: &Value) -> Outcome {
    json::parse(text(1, value)?).map_err(|error| Fault::failed(error.to_string()))
}

#[allow(clippy::unnecessary_wraps, reason = "the shape of a built-in")]
fn is_valid(value: &Value) -> Outcome {
    Ok(Value::Bool(value.as_string().is_ok_and(|text| json::parse(text).is_ok())))
}

fn to_number(value: &Value) -> Outcome {
    match value {
        Value::Null | Value::Bool(false) => Ok(Value::from(0u64)),
        Value::Bool(true) => Ok(Value::from(1u64)),
        Value::Number(_) => Ok(value.clone()),
        Value::String(text) => number(text),
        other => Err(Fault::operand(1, "one of {null, boolean, number, string}", other)),
    }
}

fn number(text: &str) -> Outcome {
    json::parse_number(text).map_err(|_| {
        let word = text.trim_start_matches(['+', '-']).to_ascii_lowercase();
        // What Go would read as a float that no number of Rego is.
        if matches!(word.as_str(), "nan" | "inf" | "infinity") {
            Fault::kind(1, "valid number", "string")
        } else {
            Fault::failed("invalid syntax")
        }
    })
}
