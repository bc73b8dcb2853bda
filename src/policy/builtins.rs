//! Functions of our own: those that rewritten operators call, those that stand in for the engine's where its would
//! hang or differ on text from a stranger, and what to say of functions that nobody has.

use regorus::{Engine, Value};

use super::{json, operators};

type Unary = (&'static str, fn(&Value) -> Value);

/// In place of the engine's, whose number reader can be made to run for minutes.
const READERS: [Unary; 3] =
    [("json.unmarshal", json_unmarshal), ("json.is_valid", json_is_valid), ("to_number", to_number)];

fn unary() -> impl Iterator<Item = Unary> {
    operators::UNARY.into_iter().chain(READERS)
}

fn json_unmarshal(text: &Value) -> Value {
    text.as_string().ok().and_then(|text| json::parse(text).ok()).unwrap_or(Value::Undefined)
}

fn json_is_valid(text: &Value) -> Value {
    Value::Bool(text.as_string().is_ok_and(|text| json::parse(text).is_ok()))
}

fn to_number(value: &Value) -> Value {
    match value {
        Value::Null | Value::Bool(false) => Value::from(0u64),
        Value::Bool(true) => Value::from(1u64),
        Value::Number(_) => value.clone(),
        Value::String(text) => json::parse_number(text).unwrap_or(Value::Undefined),
        _ => Value::Undefined,
    }
}

/// Arity of one of our own functions.
#[must_use]
pub fn arity(name: &str) -> Option<usize> {
    let binary = operators::BINARY.iter().map(|(own, _)| (*own, 2));
    let unary = unary().map(|(own, _)| (own, 1));
    binary.chain(unary).find(|(own, _)| *own == name).map(|(_, arity)| arity)
}

/// # Errors
/// The engine knows a function of that name already.
pub fn register(engine: &mut Engine) -> anyhow::Result<()> {
    for (name, operation) in operators::BINARY {
        let function = move |arguments: Vec<Value>| match arguments.as_slice() {
            [a, b] => Ok(operation(a, b)),
            _ => Ok(Value::Undefined),
        };
        engine.add_extension(name.to_owned(), 2, Box::new(function))?;
    }
    for (name, operation) in unary() {
        let function = move |arguments: Vec<Value>| match arguments.as_slice() {
            [a] => Ok(operation(a)),
            _ => Ok(Value::Undefined),
        };
        engine.add_extension(name.to_owned(), 1, Box::new(function))?;
    }
    Ok(())
}

/// OPA's families of built-ins that this build does not have, so that the message is not "unknown".
const ABSENT: [&str; 8] =
    ["io.jwt.", "crypto.", "graphql.", "rego.", "opa.", "providers.", "yaml.", "json.match_schema"];

#[must_use]
pub fn why_unknown(name: &str) -> String {
    if name == "http.send" {
        return "`http.send` is not available: a decision makes no network calls. Put the data beside the policy \
                (--policy takes JSON and YAML files), or express it as grants"
            .to_owned();
    }
    if ABSENT.iter().any(|family| name.starts_with(family)) {
        return format!("OPA's built-in `{name}` is not available in this version of daypass");
    }
    format!("unknown function `{name}`")
}
