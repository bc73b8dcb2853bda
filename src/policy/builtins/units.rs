//! Amounts with units. Exact in tenths and thousandths, with a bound on the digits that an exponent asks for.

use num_bigint::{BigInt, Sign};
use regorus::Value;

use super::values::integer;
use super::{Builtin, Fault, Outcome, text, unary};

pub const BUILTINS: [Builtin; 2] = [unary("units.parse", parse), unary("units.parse_bytes", parse_bytes)];

/// Digits of an exponent that are looked at at all.
const MAX_EXPONENT_DIGITS: usize = 6;
/// Digits of an amount written out: more than the largest double has.
const MAX_DIGITS: usize = 512;
/// Decimals of an amount that is not whole.
const DECIMALS: u32 = 10;

/// The same word twice, before and after the name that every message gets: so it is in OPA.
fn fault(name: &str, message: &str) -> Fault {
    Fault::failed(format!("{name}: {message}"))
}

/// digits × 10^exponent
struct Decimal {
    digits: BigInt,
    exponent: i64,
}

fn parse(value: &Value) -> Outcome {
    let text = text(1, value)?.replace('"', "");
    let failed = |message: &str| fault("units.parse", message);
    let (number, unit) = split(&text, |message| failed(message), "no amount provided")?;
    let mut characters = unit.chars();
    let unit = characters.next().map_or_else(String::new, |first| {
        let mut unit = String::from(first);
        unit.push_str(&characters.as_str().to_lowercase());
        unit
    });
    let is_milli = unit == "m";
    let factor = match unit.as_str() {
        "m" | "" => 1,
        "M" => 1_000_000,
        // A lone m is a thousandth here, so the other units may be in either case.
        other => factor(&other.to_lowercase())
            .filter(|_| !other.ends_with('b'))
            .ok_or_else(|| failed(&format!("unit {unit} not recognized")))?,
    };
    let decimal = decimal(number).ok_or_else(|| failed("could not parse amount to a number"))?;
    let exponent = decimal.exponent - if is_milli { 3 } else { 0 };
    rational(decimal.digits * factor, exponent).ok_or_else(|| failed("exponent too large"))
}

fn parse_bytes(value: &Value) -> Outcome {
    let text = text(1, value)?.to_lowercase().replace('"', "");
    let failed = |message: &str| fault("units.parse_bytes", message);
    let (number, unit) = split(&text, |message| failed(message), "no byte amount provided")?;
    let factor = match unit {
        "" => 1,
        unit => factor(unit).ok_or_else(|| failed(&format!("byte unit {unit} not recognized")))?,
    };
    let decimal = decimal(number).ok_or_else(|| failed("could not parse byte amount to a number"))?;
    let digits = decimal.digits * factor;
    let power = power(decimal.exponent.unsigned_abs(), &digits);
    match (decimal.exponent >= 0, power) {
        (true, Some(power)) => Ok(integer(digits * power)),
        (false, Some(power)) => Ok(integer(digits / power)),
        (true, None) => Err(failed("exponent too large")),
        (false, None) => Ok(Value::from(0_u64)),
    }
}

fn factor(unit: &str) -> Option<u64> {
    let (letter, rest) = unit.split_at_checked(1)?;
    let step = match letter {
        "k" => 1,
        "m" => 2,
        "g" => 3,
        "t" => 4,
        "p" => 5,
        "e" => 6,
        _ => return None,
    };
    match rest {
        "" | "b" => Some(1000_u64.pow(step)),
        "i" | "ib" => Some(1024_u64.pow(step)),
        _ => None,
    }
}

/// The number and the unit after it.
fn split<'a>(
    text: &'a str,
    failed: impl Fn(&str) -> Fault,
    no_amount: &str,
) -> Result<(&'a str, &'a str), Fault> {
    if text.contains(' ') {
        return Err(failed("spaces not allowed in resource strings"));
    }
    let bytes = text.as_bytes();
    let is_digit = |at: usize| bytes.get(at).is_some_and(u8::is_ascii_digit);
    let is_sign = |at: usize| matches!(bytes.get(at), Some(b'+' | b'-'));
    let mut at = 0;
    while let Some(byte) = bytes.get(at) {
        match byte {
            b'0'..=b'9' | b'.' | b'+' | b'-' => {}
            b'e' | b'E' if is_digit(at + 1) || is_sign(at + 1) => {
                at += usize::from(is_sign(at + 1));
                let digits = bytes.iter().skip(at + 1).take_while(|byte| byte.is_ascii_digit()).count();
                if digits > MAX_EXPONENT_DIGITS {
                    return Err(failed("exponent too large"));
                }
            }
            _ => break,
        }
        at += 1;
    }
    match text.split_at_checked(at) {
        Some(("", _)) | None => Err(failed(no_amount)),
        Some(parts) => Ok(parts),
    }
}

fn decimal(text: &str) -> Option<Decimal> {
    let (mantissa, exponent) = text.split_once(['e', 'E']).unwrap_or((text, "0"));
    let exponent: i64 = exponent.parse().ok()?;
    let (negative, unsigned) = match mantissa.strip_prefix(['+', '-']) {
        Some(rest) => (mantissa.starts_with('-'), rest),
        None => (false, mantissa),
    };
    let (whole, fraction) = unsigned.split_once('.').unwrap_or((unsigned, ""));
    let digits = format!("{whole}{fraction}");
    if digits.is_empty() || digits.len() > MAX_DIGITS || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    let digits: BigInt = digits.parse().ok()?;
    let exponent = exponent - i64::try_from(fraction.len()).ok()?;
    Some(Decimal { digits: if negative { -digits } else { digits }, exponent })
}

/// Nothing if the result would have more digits than an amount has.
fn power(exponent: u64, digits: &BigInt) -> Option<BigInt> {
    let exponent = if digits.sign() == Sign::NoSign { 0 } else { u32::try_from(exponent).ok()? };
    (usize::try_from(exponent).ok()? <= 2 * MAX_DIGITS).then(|| BigInt::from(10).pow(exponent))
}

fn rational(digits: BigInt, exponent: i64) -> Option<Value> {
    if exponent >= 0 {
        return Some(integer(&digits * power(exponent.unsigned_abs(), &digits)?));
    }
    let Some(divisor) = power(exponent.unsigned_abs(), &digits) else { return Some(Value::from(0_u64)) };
    if &digits % &divisor == BigInt::ZERO {
        return Some(integer(digits / divisor));
    }
    // Half away from zero at the last decimal.
    let scaled: BigInt = digits.magnitude().clone().into();
    let rounded = (scaled * BigInt::from(10).pow(DECIMALS) * 2 + &divisor) / (divisor * 2);
    let text = format!("{rounded:0>width$}", width = DECIMALS as usize + 1);
    let (whole, fraction) = text.split_at_checked(text.len() - DECIMALS as usize)?;
    let sign = if digits.sign() == Sign::Minus { "-" } else { "" };
    Value::from_numeric_string(&format!("{sign}{whole}.{fraction}")).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn amounts() {
        let amount = |text: &str| parse(&Value::from(text)).map(|value| value.to_string());
        let bytes = |text: &str| parse_bytes(&Value::from(text)).map(|value| value.to_string());
        for (text, wanted) in [
            ("100m", "0.1"),
            ("1.5K", "1500"),
            ("10Mi", "10485760"),
            ("-2e3", "-2000"),
            ("1E", "1000000000000000000"),
            ("0e999999", "0"),
        ] {
            assert_eq!(amount(text).as_deref(), Ok(wanted), "{text}");
        }
        for (text, wanted) in [("1.5kb", "1500"), ("0.1MiB", "104857"), ("5", "5"), ("1e-999999", "0")] {
            assert_eq!(bytes(text).as_deref(), Ok(wanted), "{text}");
        }
        for text in ["", "m", "1.2.3", "1 m", "1kb", "1e9999999", "1e999999", "é", "1é", "+", "1e+"] {
            assert!(amount(text).is_err(), "{text}");
        }
    }
}
