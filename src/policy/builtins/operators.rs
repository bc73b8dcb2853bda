//! What rewritten operators call. In OPA an operand of the wrong type makes the expression undefined; the engine's own
//! operators would fail the whole evaluation.

use regorus::Value;

use super::aggregates::Decimal;
use super::{Builtin, Fault, Outcome, binary, unary};

pub const ADD: &str = "daypass__add";
pub const SUBTRACT: &str = "daypass__subtract";
pub const MULTIPLY: &str = "daypass__multiply";
pub const DIVIDE: &str = "daypass__divide";
pub const REMAINDER: &str = "daypass__remainder";
pub const INTERSECT: &str = "daypass__intersect";
pub const UNITE: &str = "daypass__unite";
pub const DOMAIN: &str = "daypass__domain";

pub const BUILTINS: [Builtin; 8] = [
    binary(ADD, add).named("plus"),
    binary(SUBTRACT, subtract).named("minus"),
    binary(MULTIPLY, multiply).named("mul"),
    binary(DIVIDE, divide).named("div"),
    binary(REMAINDER, remainder).named("rem"),
    binary(INTERSECT, intersect).named("and"),
    binary(UNITE, unite).named("or"),
    unary(DOMAIN, domain),
];

/// A numeric operation; the engine does not export the type of its numbers, so this is not a function over it.
macro_rules! on_numbers {
    ($a:expr, $b:expr, |$x:ident, $y:ident| $operation:expr) => {
        match ($a, $b) {
            (Value::Number($x), Value::Number($y)) => {
                $operation.map(Value::from).map_err(|error| Fault::failed(error.to_string()))
            }
            (Value::Number(_), other) => Err(Fault::operand(2, "number", other)),
            (other, _) => Err(Fault::operand(1, "number", other)),
        }
    };
}

/// The engine's operation is exact on whole numbers, and the one that most policies have. On others it would be the
/// doubles', where 0.1 + 0.2 is not 0.3: as `sum` and `product` have it, it is.
fn exact(a: &Value, b: &Value, operation: fn(&Decimal, &Decimal) -> Decimal) -> Option<Outcome> {
    match (a, b) {
        (Value::Number(x), Value::Number(y)) if !(x.is_integer() && y.is_integer()) => {
            Some(operation(&Decimal::of(a)?, &Decimal::of(b)?).value())
        }
        _ => None,
    }
}

fn add(a: &Value, b: &Value) -> Outcome {
    exact(a, b, Decimal::plus).unwrap_or_else(|| on_numbers!(a, b, |x, y| x.add(y)))
}

/// Numbers, or the difference of two sets.
fn subtract(a: &Value, b: &Value) -> Outcome {
    match (a, b) {
        (Value::Set(a), Value::Set(b)) => Ok(a.difference(b).into_value()),
        (Value::Set(_), other) => Err(Fault::operand(2, "set", other)),
        _ => exact(a, b, Decimal::minus).unwrap_or_else(|| on_numbers!(a, b, |x, y| x.sub(y))),
    }
}

fn multiply(a: &Value, b: &Value) -> Outcome {
    exact(a, b, Decimal::times).unwrap_or_else(|| on_numbers!(a, b, |x, y| x.mul(y)))
}

fn divide(a: &Value, b: &Value) -> Outcome {
    if *b == Value::from(0u64) {
        return Err(Fault::failed("divide by zero"));
    }
    on_numbers!(a, b, |x, y| x.clone().divide(y))
}

/// Whole numbers only, as in OPA.
fn remainder(a: &Value, b: &Value) -> Outcome {
    match (a, b) {
        (Value::Number(x), Value::Number(y)) if !x.is_integer() || !y.is_integer() => {
            Err(Fault::failed("modulo on floating-point number"))
        }
        (_, zero) if *zero == Value::from(0u64) => Err(Fault::failed("modulo by zero")),
        _ => on_numbers!(a, b, |x, y| x.clone().modulo(y)),
    }
}

fn intersect(a: &Value, b: &Value) -> Outcome {
    match (a, b) {
        (Value::Set(a), Value::Set(b)) => Ok(a.intersection(b).into_value()),
        (Value::Set(_), other) => Err(Fault::operand(2, "set", other)),
        (other, _) => Err(Fault::operand(1, "set", other)),
    }
}

fn unite(a: &Value, b: &Value) -> Outcome {
    match (a, b) {
        (Value::Set(a), Value::Set(b)) => Ok(a.union(b).into_value()),
        (Value::Set(_), other) => Err(Fault::operand(2, "set", other)),
        (other, _) => Err(Fault::operand(1, "set", other)),
    }
}

/// A collection, to iterate over it; OPA iterates over nothing else, and says nothing about it.
#[allow(clippy::unnecessary_wraps, reason = "the shape of a built-in")]
fn domain(value: &Value) -> Outcome {
    Ok(match value {
        Value::Array(_) | Value::Set(_) | Value::Object(_) => value.clone(),
        _ => Value::Undefined,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wrong_type_is_a_fault_with_its_operand() {
        let (number, text) = (Value::from(7u64), Value::from("7"));
        for operation in [add, subtract, multiply, divide, remainder, intersect, unite] {
            assert!(operation(&number, &text).is_err());
            assert!(operation(&text, &number).is_err());
        }
        let error = add(&number, &text).map_err(|fault| fault.to_string());
        assert_eq!(error, Err("eval_type_error: operand 2 must be number but got string".to_owned()));
        assert_eq!(divide(&number, &Value::from(0u64)), Err(Fault::failed("divide by zero")));
        assert!(remainder(&number, &Value::from(0u64)).is_err());
        assert!(remainder(&number, &Value::from(2.5)).is_err());
        assert_eq!(remainder(&number, &Value::from(4u64)), Ok(Value::from(3u64)));
    }

    #[test]
    fn decimals_are_exact() {
        let number = |text: &str| Value::from_numeric_string(text).unwrap();
        for (operation, a, b, expected) in [
            (add as fn(&Value, &Value) -> Outcome, "0.1", "0.2", "0.3"),
            (add, "0.5", "0.5", "1"),
            (add, "1", "0.1", "1.1"),
            (add, "9223372036854775807", "1", "9223372036854775808"),
            (subtract, "0.3", "0.1", "0.2"),
            (subtract, "0.3", "0.3", "0"),
            (subtract, "1", "1.5", "-0.5"),
            (multiply, "1.1", "3", "3.3"),
            (multiply, "0.1", "0.1", "0.01"),
            (multiply, "2251799813685249.5", "6", "13510798882111497"),
            (multiply, "1e-300", "1e-300", "0"),
            (multiply, "-0.5", "0", "0"),
        ] {
            let found = operation(&number(a), &number(b)).unwrap();
            assert_eq!(found, number(expected), "{a} {b}");
            assert_eq!(found.to_string(), number(expected).to_string(), "{a} {b}");
        }
    }
}
