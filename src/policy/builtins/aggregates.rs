//! Counting, adding, ordering; and the deprecated `any` and `all`.

#![allow(clippy::unnecessary_wraps, reason = "the shape of a built-in")]

use num_bigint::BigInt;
use regorus::Value;

use super::values::{MAX_INTEGER_BITS, bounded_integer, compare, element, items, none_of, whole};
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
    fold(value, Decimal::whole(0), Decimal::plus)
}

fn product(value: &Value) -> Outcome {
    fold(value, Decimal::whole(1), Decimal::times)
}

/// digits × 10^exponent. What is written 0.1 is a tenth here, as it nearly is in OPA; in doubles three of them are more
/// than 0.3.
pub struct Decimal {
    digits: BigInt,
    exponent: i32,
}

impl Decimal {
    fn whole(number: i32) -> Self {
        Self { digits: number.into(), exponent: 0 }
    }

    /// `None` for what is no number.
    pub fn of(value: &Value) -> Option<Self> {
        if let Some(digits) = whole(value) {
            return Some(Self { digits, exponent: 0 });
        }
        let text = format!("{:e}", value.as_f64().ok()?);
        let (mantissa, exponent) = text.split_once('e')?;
        let decimals = mantissa.split_once('.').map_or(0, |(_, decimals)| decimals.len());
        let exponent = exponent.parse::<i32>().ok()?.checked_sub(i32::try_from(decimals).ok()?)?;
        Some(Self { digits: mantissa.replace('.', "").parse().ok()?, exponent })
    }

    pub fn plus(&self, other: &Self) -> Self {
        let exponent = self.exponent.min(other.exponent);
        Self { digits: self.digits_at(exponent) + other.digits_at(exponent), exponent }
    }

    pub fn minus(&self, other: &Self) -> Self {
        self.plus(&Self { digits: -&other.digits, exponent: other.exponent })
    }

    pub fn times(&self, other: &Self) -> Self {
        Self { digits: &self.digits * &other.digits, exponent: self.exponent + other.exponent }
    }

    /// With another, smaller exponent.
    fn digits_at(&self, exponent: i32) -> BigInt {
        &self.digits * power_of_ten(self.exponent.abs_diff(exponent))
    }

    pub fn value(self) -> Outcome {
        if self.exponent >= 0 {
            return bounded_integer(self.digits_at(0));
        }
        let divisor = power_of_ten(self.exponent.unsigned_abs());
        if &self.digits % &divisor == BigInt::ZERO {
            return bounded_integer(self.digits / divisor);
        }
        let text = format!("{}e{}", self.digits, self.exponent);
        let double = text.parse::<f64>().ok().filter(|double| double.is_finite());
        double.map(Value::from).ok_or_else(|| Fault::failed("number too large"))
    }
}

fn power_of_ten(exponent: u32) -> BigInt {
    BigInt::from(10).pow(exponent)
}

fn fold(value: &Value, start: Decimal, operation: fn(&Decimal, &Decimal) -> Decimal) -> Outcome {
    let items = collection(value)?;
    if let Some(wrong) = items.iter().find(|item| !matches!(item, Value::Number(_))) {
        return Err(element(1, value, "number", wrong));
    }
    let too_large = || Fault::failed("number too large");
    let mut total = start;
    for item in items {
        total = operation(&total, &Decimal::of(item).ok_or_else(too_large)?);
        if total.digits.bits() > MAX_INTEGER_BITS {
            return Err(too_large());
        }
    }
    total.value()
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
        assert_eq!(sum(&numbers(&["0.1", "0.2"])), Ok(Value::from(0.3)));
        assert_eq!(sum(&numbers(&["0.5", "0.5"])), Ok(Value::from(1_u64)));
        assert_eq!(product(&numbers(&["0.5", "4", "1e-300"])), Ok(Value::from(2e-300)));
        assert_eq!(product(&numbers(&["1e300", "1e300"])).map(|value| value.to_string().len()), Ok(601));
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
