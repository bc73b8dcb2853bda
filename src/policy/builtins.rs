//! Functions that policies may call beside the engine's own, and what to say of those that nobody has.

use regorus::{Engine, Value};

use super::operators;

/// Arity of one of our own functions.
#[must_use]
pub fn arity(name: &str) -> Option<usize> {
    let binary = operators::BINARY.iter().map(|(own, _)| (*own, 2));
    let unary = operators::UNARY.iter().map(|(own, _)| (*own, 1));
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
    for (name, operation) in operators::UNARY {
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
