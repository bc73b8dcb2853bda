//! Numbers of schemas: divided exactly, and written as Go writes them.

use regorus::Value;

/// Digits and power of ten.
pub fn decimal(value: &Value) -> Option<(i128, i32)> {
    let text = value.to_string();
    let (digits, exponent) = text.split_once(['e', 'E']).unwrap_or((&text, "0"));
    let (whole, fraction) = digits.split_once('.').unwrap_or((digits, ""));
    let all = format!("{whole}{fraction}");
    // Zeros at the end are powers.
    let digits = all.trim_end_matches('0');
    let power = i32::try_from(all.len() - digits.len()).ok()? - i32::try_from(fraction.len()).ok()?;
    let power = exponent.parse::<i32>().ok()?.checked_add(power)?;
    if digits.is_empty() || digits == "-" {
        return Some((0, 0));
    }
    digits.parse().ok().map(|digits| (digits, power))
}

pub fn is_multiple(value: &Value, of: &Value) -> bool {
    let exact = decimal(value).zip(decimal(of)).and_then(|((a, a_power), (b, b_power))| {
        let scale = |digits: i128, by: i32| {
            let factor = 10_i128.checked_pow(u32::try_from(by).ok()?)?;
            digits.checked_mul(factor)
        };
        let least = a_power.min(b_power);
        scale(a, a_power.checked_sub(least)?)?.checked_rem(scale(b, b_power.checked_sub(least)?)?)
    });
    match exact {
        Some(rest) => rest == 0,
        None => match (value.as_f64(), of.as_f64()) {
            (Ok(value), Ok(of)) => value % of == 0.0,
            _ => false,
        },
    }
}

/// Go's `%v` of a `big.Float`: ten digits, and no exponent within them.
pub fn shown(number: &Value) -> String {
    match number.as_f64() {
        Ok(value) if value != 0.0 && !(1e-4..1e10).contains(&value.abs()) => {
            let text = format!("{value:e}");
            let (digits, power) = text.split_once('e').unwrap_or((&text, "0"));
            let (sign, power) = power.strip_prefix('-').map_or(('+', power), |power| ('-', power));
            format!("{digits}e{sign}{power:0>2}")
        }
        Ok(value) => value.to_string(),
        Err(_) => number.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn multiples_are_exact() {
        let number = |text: &str| Value::from_numeric_string(text).unwrap();
        assert!(is_multiple(&number("0.3"), &number("0.1")));
        assert!(!is_multiple(&number("0.35"), &number("0.1")));
        assert!(is_multiple(&number("1e300"), &number("1e299")));
        assert!(is_multiple(&number("9007199254740994"), &number("2")));
        assert_eq!(shown(&number("2.50")), "2.5");
        assert_eq!(shown(&number("100")), "100");
        assert_eq!(shown(&number("1e10")), "1e+10");
    }
}
