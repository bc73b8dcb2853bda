//! OPA's built-in functions that the engine lacks, and those that stand in for the engine's where its would hang,
//! differ from OPA, or build a matcher for every call; and daypass' own. A built-in never panics, never does I/O, and never says more
//! than [`Fault`] of what went wrong.

mod aggregates;
mod arrays;
mod aws;
mod crypto;
mod daypass;
mod encoding;
mod glob;
mod globs;
mod go_float;
mod graph;
mod graphql;
mod json;
mod jsonschema;
mod jwt;
mod marshal;
mod net;
mod numbers;
mod objects;
mod offline;
pub mod operators;
mod paths;
mod regex;
mod semver;
mod sprintf;
mod strings;
mod template;
pub mod template_string;
mod time;
mod units;
mod uuids;
mod values;
mod x509;
pub mod yaml;

use std::collections::HashMap;
use std::sync::LazyLock;

use regorus::unstable::BUILTINS;
use regorus::{Engine, Value};
use thiserror::Error;

use super::desugar::CONSTANT;

pub type Outcome = Result<Value, Fault>;

/// Why a built-in has no value, by OPA's codes.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum Fault {
    /// An operand of the wrong type.
    #[error("eval_type_error: {0}")]
    Type(String),
    #[error("eval_builtin_error: {0}")]
    Failed(String),
    /// Two values where there can be one. Ends the evaluation in any case.
    #[error("eval_conflict_error: {0}")]
    Conflict(String),
}

impl Fault {
    /// `operand 1 must be number but got string`; operands count from 1.
    #[must_use]
    pub fn operand(position: usize, wanted: &str, found: &Value) -> Self {
        Self::kind(position, wanted, kind_of(found))
    }

    #[must_use]
    pub fn kind(position: usize, wanted: &str, found: &str) -> Self {
        Self::Type(format!("operand {position} must be {wanted} but got {found}"))
    }

    #[must_use]
    pub fn failed(message: impl Into<String>) -> Self {
        Self::Failed(message.into())
    }
}

/// What a call of a built-in that fails does to the evaluation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BuiltinErrors {
    /// The expression is undefined: OPA's default, and what every decision uses.
    Undefined,
    /// The evaluation ends with the error: `opa eval --strict-builtin-errors`.
    Strict,
}

/// What policies are evaluated for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Purpose {
    /// A request waits for it, so nothing may be called that waits for something else.
    Decision,
    /// Somebody asks, or tests.
    Query(BuiltinErrors),
}

impl Purpose {
    #[must_use]
    pub fn builtin_errors(self) -> BuiltinErrors {
        match self {
            Self::Decision => BuiltinErrors::Undefined,
            Self::Query(errors) => errors,
        }
    }

    /// Whether a built-in may be called at all.
    #[must_use]
    pub fn permits(self, name: &str) -> bool {
        self != Self::Decision || !offline::BUILTINS.iter().any(|builtin| builtin.name == name)
    }
}

#[derive(Clone, Copy)]
enum Call {
    Nullary(fn() -> Outcome),
    Unary(fn(&Value) -> Outcome),
    Binary(fn(&Value, &Value) -> Outcome),
    Ternary(fn(&Value, &Value, &Value) -> Outcome),
    Any(fn(&[Value]) -> Outcome),
}

#[derive(Clone, Copy)]
pub struct Builtin {
    name: &'static str,
    /// The name that messages use, where it is another one.
    shown: &'static str,
    arity: u8,
    call: Call,
}

impl Builtin {
    #[must_use]
    pub const fn named(mut self, shown: &'static str) -> Self {
        self.shown = shown;
        self
    }

    fn call(&self, arguments: &[Value]) -> Outcome {
        match (self.call, arguments) {
            (Call::Nullary(function), []) => function(),
            (Call::Unary(function), [a]) => function(a),
            (Call::Binary(function), [a, b]) => function(a, b),
            (Call::Ternary(function), [a, b, c]) => function(a, b, c),
            (Call::Any(function), arguments) => function(arguments),
            _ => Err(Fault::failed("wrong number of arguments")),
        }
    }
}

#[must_use]
pub const fn nullary(name: &'static str, function: fn() -> Outcome) -> Builtin {
    Builtin { name, shown: name, arity: 0, call: Call::Nullary(function) }
}

#[must_use]
pub const fn unary(name: &'static str, function: fn(&Value) -> Outcome) -> Builtin {
    Builtin { name, shown: name, arity: 1, call: Call::Unary(function) }
}

#[must_use]
pub const fn binary(name: &'static str, function: fn(&Value, &Value) -> Outcome) -> Builtin {
    Builtin { name, shown: name, arity: 2, call: Call::Binary(function) }
}

#[must_use]
pub const fn ternary(name: &'static str, function: fn(&Value, &Value, &Value) -> Outcome) -> Builtin {
    Builtin { name, shown: name, arity: 3, call: Call::Ternary(function) }
}

/// For functions of more than three arguments.
#[must_use]
pub const fn of_many(name: &'static str, arity: u8, function: fn(&[Value]) -> Outcome) -> Builtin {
    Builtin { name, shown: name, arity, call: Call::Any(function) }
}

/// Every family, one file each.
const FAMILIES: &[&[Builtin]] = &[
    &aggregates::BUILTINS,
    &arrays::BUILTINS,
    &aws::BUILTINS,
    &crypto::BUILTINS,
    &daypass::BUILTINS,
    &encoding::BUILTINS,
    &glob::BUILTINS,
    &globs::BUILTINS,
    &graph::BUILTINS,
    &graphql::BUILTINS,
    &json::BUILTINS,
    &jsonschema::BUILTINS,
    &jwt::BUILTINS,
    &marshal::BUILTINS,
    &net::BUILTINS,
    &numbers::BUILTINS,
    &objects::BUILTINS,
    &offline::BUILTINS,
    &operators::BUILTINS,
    &paths::BUILTINS,
    &regex::BUILTINS,
    &semver::BUILTINS,
    &sprintf::BUILTINS,
    &strings::BUILTINS,
    &template::BUILTINS,
    &template_string::BUILTINS,
    &time::BUILTINS,
    &units::BUILTINS,
    &uuids::BUILTINS,
    &x509::BUILTINS,
    &yaml::BUILTINS,
];

fn families() -> impl Iterator<Item = Builtin> {
    FAMILIES.iter().copied().flatten().copied()
}

static BY_NAME: LazyLock<HashMap<&'static str, Builtin>> =
    LazyLock::new(|| families().map(|builtin| (builtin.name, builtin)).collect());

/// How many arguments a built-in takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Arity {
    Exactly(usize),
    /// The function itself looks at what it is given.
    Any,
}

/// Arity of one of our own functions.
#[must_use]
pub fn own_arity(name: &str) -> Option<usize> {
    BY_NAME.get(name).map(|builtin| usize::from(builtin.arity))
}

/// Arity of a built-in, ours or the engine's.
#[must_use]
pub fn arity(name: &str) -> Option<Arity> {
    if let Some(own) = own_arity(name) {
        return Some(Arity::Exactly(own));
    }
    match BUILTINS.get(name) {
        // 0 stands for any number, or for functions that check it themselves.
        Some((_, 0)) => Some(Arity::Any),
        Some((_, arity)) => Some(Arity::Exactly(usize::from(*arity))),
        None if name == CONSTANT => Some(Arity::Exactly(1)),
        None => (name == "print").then_some(Arity::Any),
    }
}

#[must_use]
pub fn exists(name: &str) -> bool {
    arity(name).is_some()
}

/// The package of functions that only call a built-in: `with` replaces functions of policies, not built-ins of ours.
pub const WRAPPERS: &str = "daypass.internal.builtins";

/// The name of a built-in's function in that package.
#[must_use]
pub fn wrapper(name: &str) -> String {
    format!("call__{}", name.replace('.', "__"))
}

/// The package itself, for the built-ins that need one.
#[must_use]
pub fn wrappers<'a>(names: impl Iterator<Item = &'a String>) -> String {
    let mut module = format!("package {WRAPPERS}\n");
    for name in names {
        let Some(Arity::Exactly(arity)) = arity(name) else { continue };
        let arguments = (0..arity).map(|index| format!("a{index}")).collect::<Vec<_>>().join(", ");
        module.extend([&wrapper(name), "(", &arguments, ") := ", name, "(", &arguments, ")\n"]);
    }
    module
}

/// # Errors
/// The engine knows a function of that name already.
pub fn register(engine: &mut Engine, errors: BuiltinErrors) -> anyhow::Result<()> {
    for builtin in families() {
        let function = move |arguments: Vec<Value>| match (builtin.call(&arguments), errors) {
            (Ok(value), _) => Ok(value),
            (Err(fault @ Fault::Conflict(_)), _) => Err(anyhow::Error::new(fault)),
            (Err(_), BuiltinErrors::Undefined) => Ok(Value::Undefined),
            (Err(Fault::Type(message)), BuiltinErrors::Strict) => {
                Err(anyhow::anyhow!("eval_type_error: {}: {message}", builtin.shown))
            }
            (Err(Fault::Failed(message)), BuiltinErrors::Strict) => {
                Err(anyhow::anyhow!("eval_builtin_error: {}: {message}", builtin.shown))
            }
        };
        engine.add_extension(builtin.name.to_owned(), builtin.arity, Box::new(function))?;
    }
    Ok(())
}

/// OPA's name of a value's type.
#[must_use]
pub fn kind_of(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "boolean",
        Value::Number(_) => "number",
        Value::String(_) => "string",
        Value::Array(_) => "array",
        Value::Set(_) => "set",
        Value::Object(_) => "object",
        Value::Undefined => "undefined",
    }
}

/// # Errors
/// The operand is not a string.
pub fn text(position: usize, value: &Value) -> Result<&str, Fault> {
    match value {
        Value::String(text) => Ok(text),
        other => Err(Fault::operand(position, "string", other)),
    }
}

#[must_use]
pub fn why_unknown(name: &str) -> String {
    if name == "http.send" {
        return "`http.send` is not available: a decision makes no network calls. Put the data beside the policy \
                (--policy takes JSON and YAML files, a bundle carries them), or express it as grants"
            .to_owned();
    }
    if name == "test.sleep" {
        return "`test.sleep` is for tests alone: a decision waits for nothing".to_owned();
    }
    if name.starts_with("rego.") {
        return format!("OPA's built-in `{name}`, which looks at the text of policies, is not available");
    }
    format!("unknown function `{name}`")
}

#[cfg(test)]
mod tests;
