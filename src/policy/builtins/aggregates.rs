//! Counting, adding, ordering; and the deprecated `any` and `all`.

#![allow(clippy::unnecessary_wraps, reason = "the shape of a built-in")]

use num_bigint::BigInt;
use regorus::Value;

use super::values::{bounded_integer, compare, element, items, none_of, whole};
use super::{Builtin, Fault, Outcome, unary};

pub const BUILTINS: [Builtin; 8] = [
    unary("count", count),
    unary("sum", sum),
    unary("product", product),
    unary("max", max),
    unary("min", min),
    unary("sort", sort),
    unary("all", all),
    unary("any", any),
];

fn count(value: &Value) -> Outcome {
    let count = match value {
        Value::Array(items) => items.len(),
        Value::Object(members) => members.len(),
        Value::Set(items) => items.len(),
        Value::String(text) => text.chars().count(),
        other => return Err(none_of(1, &["array", "object", "set", "string"], other)),
    };
    Ok(Value::from(count))
}

fn collection(value: &Value) -> Result<Vec<&Value>, Fault> {
    items(value).ok_or_else(|| none_of(1, &["set", "array"], value))
}

fn sum(value: &Value) -> Outcome {
    fold(value, BigInt::ZERO, |total, next| total + next, |total, next| total + next)
}

fn product(value: &Value) -> Outcome {
    fold(value, BigInt::from(1), |total, next| total * next, |total, next| total * next)
}

/// Exact as long as every number is whole.
fn fold(
    value: &Value,
    start: BigInt,
    exact: fn(BigInt, BigInt) -> BigInt,
    rounded: fn(f64, f64) -> f64,
) -> Outcome {
    let items = collection(value)?;
    if let Some(wrong) = items.iter().find(|item| !matches!(item, Value::Number(_))) {
        return Err(element(1, value, "number", wrong));
    }
    let mut double = if start == BigInt::ZERO { 0.0 } else { 1.0 };
    let mut total = Some(start);
    for item in items {
        total = match (total, whole(item)) {
            (Some(total), Some(next)) => {
                let total = exact(total, next);
                bounded_integer(total.clone())?;
                Some(total)
            }
            _ => None,
        };
        double = rounded(double, item.as_f64().unwrap_or(f64::NAN));
    }
    match total {
        Some(total) => bounded_integer(total),
        None if double.is_finite() => Ok(Value::from(double)),
        None => Err(Fault::failed("number too large")),
    }
}

fn max(value: &Value) -> Outcome {
    Ok(collection(value)?.into_iter().max_by(|a, b| compare(a, b)).cloned().unwrap_or(Value::Undefined))
}

fn min(value: &Value) -> Outcome {
    Ok(collection(value)?.into_iter().min_by(|a, b| compare(a, b)).cloned().unwrap_or(Value::Undefined))
}

fn sort(value: &Value) -> Outcome {
    let mut items = collection(value)?;
    items.sort_by(|a, b| compare(a, b));
    Ok(Value::from(items.into_iter().cloned().collect::<Vec<_>>()))
}

fn all(value: &Value) -> Outcome {
    let items = items(value).ok_or_else(|| none_of(1, &["array", "set"], value))?;
    Ok(Value::Bool(items.into_iter().all(|item| *item == Value::Bool(true))))
}

fn any(value: &Value) -> Outcome {
    let items = items(value).ok_or_else(|| none_of(1, &["array", "set"], value))?;
    Ok(Value::Bool(items.into_iter().any(|item| *item == Value::Bool(true))))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exact_while_whole_and_bounded() {
        let numbers = |numbers: &[&str]| {
            Value::from(numbers.iter().map(|n| Value::from_numeric_string(n).unwrap()).collect::<Vec<_>>())
        };
        assert_eq!(
            sum(&numbers(&["9223372036854775807", "1"])),
            Ok(Value::from(9_223_372_036_854_775_808_u64))
        );
        assert_eq!(sum(&numbers(&["0.5", "1"])), Ok(Value::from(1.5)));
        assert_eq!(product(&numbers(&[])), Ok(Value::from(1_u64)));
        let huge = "9".repeat(500);
        assert_eq!(product(&numbers(&[huge.as_str(); 1000])), Err(Fault::failed("number too large")));
        assert!(sum(&Value::from(vec![Value::Null])).is_err());
    }

    #[test]
    fn objects_come_before_sets() {
        let (object, set) = (Value::new_object(), Value::new_set());
        assert_eq!(max(&Value::from(vec![set.clone(), object])), Ok(set));
    }
}
