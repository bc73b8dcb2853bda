//! Ranges, bits and rounding. A range and a shift have bounds: a stranger's numbers would fill the memory.

#![allow(clippy::unnecessary_wraps, reason = "the shape of a built-in")]

use num_bigint::{BigInt, Sign};
use regorus::Value;

use super::values::{MAX_INTEGER_BITS, MAX_ITEMS, big, bounded_integer, floating, integer, whole};
use super::{Builtin, Fault, Outcome, binary, ternary, unary};

pub const BUILTINS: [Builtin; 12] = [
    binary("numbers.range", range),
    ternary("numbers.range_step", range_step),
    binary("bits.and", |a, b| on_bits(a, b, |a, b| a & b)),
    binary("bits.or", |a, b| on_bits(a, b, |a, b| a | b)),
    binary("bits.xor", |a, b| on_bits(a, b, |a, b| a ^ b)),
    unary("bits.negate", negate),
    binary("bits.lsh", shift_left),
    binary("bits.rsh", shift_right),
    unary("abs", abs),
    unary("ceil", |value| rounded(value, f64::ceil)),
    unary("floor", |value| rounded(value, f64::floor)),
    unary("round", |value| rounded(value, f64::round)),
];

fn range(from: &Value, to: &Value) -> Outcome {
    numbers(big(1, from)?, &big(2, to)?, &BigInt::from(1))
}

fn range_step(from: &Value, to: &Value, step: &Value) -> Outcome {
    let (from, to, step) = (big(1, from)?, big(2, to)?, big(3, step)?);
    if step.sign() != Sign::Plus {
        return Err(Fault::failed("numbers.range_step: step must be a positive integer"));
    }
    numbers(from, &to, &step)
}

fn numbers(from: BigInt, to: &BigInt, step: &BigInt) -> Outcome {
    let (rising, mut next, mut numbers) = (from <= *to, from, Vec::new());
    while if rising { next <= *to } else { next >= *to } {
        if numbers.len() == MAX_ITEMS {
            return Err(Fault::failed(format!("a range has at most {MAX_ITEMS} numbers")));
        }
        numbers.push(integer(next.clone()));
        next = if rising { next + step } else { next - step };
    }
    Ok(Value::from(numbers))
}

fn on_bits(a: &Value, b: &Value, operation: fn(BigInt, BigInt) -> BigInt) -> Outcome {
    Ok(integer(operation(big(1, a)?, big(2, b)?)))
}

fn negate(value: &Value) -> Outcome {
    Ok(integer(!big(1, value)?))
}

fn shift(value: &Value, by: &Value) -> Result<(BigInt, BigInt), Fault> {
    let (value, by) = (big(1, value)?, big(2, by)?);
    if by.sign() == Sign::Minus {
        return Err(Fault::kind(2, "an unsigned integer number", "a negative integer"));
    }
    Ok((value, by))
}

fn shift_left(value: &Value, by: &Value) -> Outcome {
    let (value, by) = shift(value, by)?;
    if value.sign() == Sign::NoSign {
        return Ok(integer(value));
    }
    match u64::try_from(&by) {
        Ok(by) if by <= MAX_INTEGER_BITS => bounded_integer(value << by),
        _ => Err(Fault::failed("number too large")),
    }
}

fn shift_right(value: &Value, by: &Value) -> Outcome {
    let (value, by) = shift(value, by)?;
    // Beyond all its bits only the sign is left.
    let by = u64::try_from(&by).unwrap_or(u64::MAX).min(value.bits().saturating_add(1));
    Ok(integer(value >> by))
}

fn abs(value: &Value) -> Outcome {
    match value {
        Value::Number(number) => Ok(Value::Number(number.abs())),
        other => Err(Fault::operand(1, "number", other)),
    }
}

fn rounded(value: &Value, rounding: fn(f64) -> f64) -> Outcome {
    let Value::Number(number) = value else { return Err(Fault::operand(1, "number", value)) };
    if number.is_integer() {
        return Ok(value.clone());
    }
    let double = rounding(number.as_f64().ok_or_else(|| floating(1))?);
    Ok(whole(&Value::from(double)).map_or_else(|| Value::from(double), integer))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_grows_without_bound() {
        let huge = Value::from_numeric_string("1e300").unwrap();
        let one = Value::from(1_u64);
        assert!(range(&one, &huge).is_err());
        assert!(range(&huge, &one).is_err());
        assert!(range_step(&one, &huge, &huge).is_ok());
        assert!(shift_left(&one, &huge).is_err());
        assert!(shift_left(&one, &Value::from(u32::MAX)).is_err());
        assert_eq!(shift_right(&one, &huge), Ok(Value::from(0_u64)));
        assert_eq!(shift_right(&Value::from(-5_i64), &huge), Ok(Value::from(-1_i64)));
        assert_eq!(rounded(&Value::from(-0.5), f64::round), Ok(Value::from(-1_i64)));
        assert_eq!(on_bits(&Value::from(1.5), &one, |a, _| a), Err(floating(1)));
    }
}
