//! The function behind `$"interpolated {strings}"`.

use regorus::Value;

use super::super::desugar::TEMPLATE;
use super::{Builtin, Fault, Outcome, unary};

/// What an operand of `print` shows.
pub const PRINTED: &str = "daypass__printed";

pub const BUILTINS: [Builtin; 2] = [unary(TEMPLATE, join).named("template_string"), unary(PRINTED, printed)];

/// The one value of an operand, all of them if there are several, or that there is none.
fn printed(values: &Value) -> Outcome {
    let found = values.as_set().map_err(|_| Fault::operand(1, "set", values))?;
    let mut each = found.iter();
    Ok(match (each.next(), each.next()) {
        (None, _) => Value::from("<undefined>"),
        (Some(only), None) => only.clone(),
        _ => values.clone(),
    })
}

/// Strings stand for themselves, sets for an expression: its one value, or none.
fn join(parts: &Value) -> Outcome {
    let parts = parts.as_array().map_err(|_| Fault::operand(1, "array", parts))?;
    let mut text = String::new();
    for part in parts {
        match part {
            Value::String(plain) => text.push_str(plain),
            Value::Set(values) => {
                let mut values = values.iter();
                match (values.next(), values.next()) {
                    (None, _) => text.push_str("<undefined>"),
                    (Some(Value::String(value)), None) => text.push_str(value),
                    (Some(value), None) => write(value, &mut text),
                    _ => {
                        let message = "template-strings must not produce multiple outputs";
                        return Err(Fault::Conflict(message.to_owned()));
                    }
                }
            }
            other => return Err(Fault::operand(1, "array of strings and sets", other)),
        }
    }
    Ok(Value::String(text.into()))
}

/// A value as OPA writes terms: `{"a": [1, 2]}`, `{1}`, `set()`. Values nest no deeper than what made them allows.
fn write(value: &Value, text: &mut String) {
    match value {
        Value::Array(items) => list(items.iter(), ['[', ']'], text),
        Value::Set(items) if items.is_empty() => text.push_str("set()"),
        Value::Set(items) => list(items.iter(), ['{', '}'], text),
        Value::Object(members) => {
            text.push('{');
            for (index, (key, value)) in members.iter().enumerate() {
                if index > 0 {
                    text.push_str(", ");
                }
                write(key, text);
                text.push_str(": ");
                write(value, text);
            }
            text.push('}');
        }
        scalar => text.push_str(&scalar.to_string()),
    }
}

fn list<'a>(items: impl Iterator<Item = &'a Value>, marks: [char; 2], text: &mut String) {
    text.push(marks[0]);
    for (index, item) in items.enumerate() {
        if index > 0 {
            text.push_str(", ");
        }
        write(item, text);
    }
    text.push(marks[1]);
}
