//! Arrays, sets, and the deprecated casts between them.

#![allow(clippy::unnecessary_wraps, reason = "the shape of a built-in")]

use regorus::Value;
use regorus::value::Set;

use super::values::{array, int, items, none_of, set};
use super::{Builtin, Fault, Outcome, binary, kind_of, ternary, unary};

pub const BUILTINS: [Builtin; 21] = [
    binary("array.concat", concat),
    unary("array.flatten", flatten),
    unary("array.reverse", reverse),
    ternary("array.slice", slice),
    unary("union", union),
    unary("intersection", intersection),
    binary("set_diff", difference),
    unary("cast_array", cast_array),
    unary("cast_set", cast_set),
    unary("cast_string", |value| cast(value, "string")),
    unary("cast_boolean", |value| cast(value, "boolean")),
    unary("cast_null", |value| cast(value, "null")),
    unary("cast_object", |value| cast(value, "object")),
    unary("is_array", |value| is(value, "array")),
    unary("is_boolean", |value| is(value, "boolean")),
    unary("is_null", |value| is(value, "null")),
    unary("is_number", |value| is(value, "number")),
    unary("is_object", |value| is(value, "object")),
    unary("is_set", |value| is(value, "set")),
    unary("is_string", |value| is(value, "string")),
    unary("type_name", type_name),
];

fn concat(a: &Value, b: &Value) -> Outcome {
    let (a, b) = (array(1, a)?, array(2, b)?);
    Ok(Value::from(a.iter().chain(b.iter()).cloned().collect::<Vec<_>>()))
}

/// One level.
fn flatten(value: &Value) -> Outcome {
    let mut flat = Vec::new();
    for item in array(1, value)? {
        match item {
            Value::Array(inner) => flat.extend(inner.iter().cloned()),
            other => flat.push(other.clone()),
        }
    }
    Ok(Value::from(flat))
}

fn reverse(value: &Value) -> Outcome {
    let mut items = array(1, value)?.to_vec();
    items.reverse();
    Ok(Value::from(items))
}

fn slice(value: &Value, start: &Value, stop: &Value) -> Outcome {
    let items = array(1, value)?;
    let index = |number: i64| usize::try_from(number.max(0)).unwrap_or(usize::MAX);
    let (start, stop) = (index(int(2, start)?), index(int(3, stop)?).min(items.len()));
    Ok(Value::from(items.as_slice().get(start.min(stop)..stop).unwrap_or_default().to_vec()))
}

fn union(value: &Value) -> Outcome {
    let mut all = Set::new();
    for inner in set(1, value)? {
        for item in set(1, inner)? {
            all.insert(item.clone());
        }
    }
    Ok(all.into_value())
}

fn intersection(value: &Value) -> Outcome {
    let mut common: Option<Set> = None;
    for inner in set(1, value)? {
        let inner = set(1, inner)?;
        common = Some(common.map_or_else(|| inner.clone(), |common| common.intersection(inner)));
    }
    Ok(common.unwrap_or_default().into_value())
}

fn difference(a: &Value, b: &Value) -> Outcome {
    let (a, b) = (set(1, a)?, set(2, b)?);
    Ok(a.difference(b).into_value())
}

fn cast_array(value: &Value) -> Outcome {
    let items = items(value).ok_or_else(|| none_of(1, &["array", "set"], value))?;
    Ok(Value::from(items.into_iter().cloned().collect::<Vec<_>>()))
}

fn cast_set(value: &Value) -> Outcome {
    let items = items(value).ok_or_else(|| none_of(1, &["array", "set"], value))?;
    Ok(items.into_iter().cloned().collect::<Set>().into_value())
}

fn cast(value: &Value, wanted: &str) -> Outcome {
    if kind_of(value) == wanted { Ok(value.clone()) } else { Err(Fault::operand(1, wanted, value)) }
}

fn is(value: &Value, wanted: &str) -> Outcome {
    Ok(Value::Bool(kind_of(value) == wanted))
}

fn type_name(value: &Value) -> Outcome {
    Ok(Value::from(kind_of(value)))
}
