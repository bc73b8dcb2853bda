//! Doubles in the forms that Go's formatting gives them.

/// Digits after the point that a double can need; beyond them there are only zeros.
const MAX_DIGITS: usize = 1100;

/// `%e`, `%E`, `%f`, `%g` and `%G`, with a sign only for what is negative. No precision means as many digits as needed.
pub fn text(value: f64, verb: char, precision: Option<usize>) -> String {
    let plain = match verb {
        'e' | 'E' => scientific(value, precision),
        'f' | 'F' => fixed(value, precision),
        _ => general(value, precision),
    };
    if verb.is_ascii_uppercase() { plain.to_uppercase() } else { plain }
}

/// Bits of a double's fraction, and what its exponent is moved by.
const FRACTION_BITS: u32 = 52;
const EXPONENT_BIAS: i32 = 1023;

/// The number in front of a power of two, which is the other one.
fn parts(value: f64) -> (u64, i32) {
    let bits = value.abs().to_bits();
    let exponent = i32::try_from(bits >> FRACTION_BITS).unwrap_or(0);
    let fraction = bits & ((1 << FRACTION_BITS) - 1);
    let implied = if exponent == 0 { 0 } else { 1 << FRACTION_BITS };
    (fraction | implied, exponent.max(1) - EXPONENT_BIAS - FRACTION_BITS.cast_signed())
}

/// `%b`: the whole number that the bits are, and its power of two.
pub fn binary(value: f64) -> String {
    let (mantissa, exponent) = parts(value);
    format!("{mantissa}p{exponent:+}")
}

/// `%x`: one digit before the point, as many after it as there are.
pub fn hexadecimal(value: f64) -> String {
    let (mantissa, exponent) = parts(value);
    if mantissa == 0 {
        return "0x0p+00".to_owned();
    }
    let shift = mantissa.leading_zeros().saturating_sub(u64::BITS - 1 - FRACTION_BITS);
    let fraction = (mantissa << shift) & ((1 << FRACTION_BITS) - 1);
    let digits = format!("{fraction:013x}");
    let digits = digits.trim_end_matches('0');
    let point = if digits.is_empty() { "" } else { "." };
    let exponent = exponent + FRACTION_BITS.cast_signed() - shift.cast_signed();
    let sign = if exponent < 0 { '-' } else { '+' };
    format!("0x1{point}{digits}p{sign}{:02}", exponent.unsigned_abs())
}

fn padded(mut text: String, precision: usize) -> String {
    text.extend(std::iter::repeat_n('0', precision.saturating_sub(MAX_DIGITS)));
    text
}

fn fixed(value: f64, precision: Option<usize>) -> String {
    match precision {
        None => format!("{value}"),
        Some(precision) => padded(format!("{value:.*}", precision.min(MAX_DIGITS)), precision),
    }
}

fn scientific(value: f64, precision: Option<usize>) -> String {
    let text = match precision {
        None => format!("{value:e}"),
        Some(precision) => format!("{value:.*e}", precision.min(MAX_DIGITS)),
    };
    let Some((digits, exponent)) = text.split_once('e') else { return text };
    let (sign, exponent) = exponent.strip_prefix('-').map_or(('+', exponent), |rest| ('-', rest));
    format!("{}e{sign}{exponent:0>2}", padded(digits.to_owned(), precision.unwrap_or(0)))
}

fn general(value: f64, precision: Option<usize>) -> String {
    if !value.is_finite() {
        return format!("{value}");
    }
    let wanted = precision.map(|precision| precision.max(1));
    let text = scientific(value, wanted.map(|wanted| wanted.min(MAX_DIGITS) - 1));
    let exponent =
        |text: &str| text.split_once('e').and_then(|(_, tail)| tail.parse::<i64>().ok()).unwrap_or(0);
    let exponent = exponent(&text);
    let limit = wanted.unwrap_or(6);
    if exponent < -4 || exponent >= i64::try_from(limit).unwrap_or(i64::MAX) {
        let (digits, tail) = text.split_once('e').unwrap_or((&text, ""));
        return if wanted.is_some() { format!("{}e{tail}", without_zeros(digits)) } else { text };
    }
    match wanted {
        None => fixed(value, None),
        Some(wanted) => {
            let wanted = i64::try_from(wanted.min(MAX_DIGITS)).unwrap_or(0);
            let decimals = usize::try_from(wanted - 1 - exponent).unwrap_or(0);
            without_zeros(&fixed(value, Some(decimals))).to_owned()
        }
    }
}

fn without_zeros(digits: &str) -> &str {
    if digits.contains('.') { digits.trim_end_matches('0').trim_end_matches('.') } else { digits }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn forms_of_go() {
        assert_eq!(text(1.5, 'g', None), "1.5");
        assert_eq!(text(2_000_000.5, 'g', None), "2.0000005e+06");
        assert_eq!(text(100_000.0, 'g', None), "100000");
        assert_eq!(text(0.00001, 'g', None), "1e-05");
        assert_eq!(text(1234.5678, 'g', Some(3)), "1.23e+03");
        assert_eq!(text(1234.5678, 'g', Some(6)), "1234.57");
        assert_eq!(text(0.5, 'g', Some(6)), "0.5");
        assert_eq!(text(1.5, 'e', Some(6)), "1.500000e+00");
        assert_eq!(text(-1.5e-200, 'E', Some(1)), "-1.5E-200");
        assert_eq!(text(2.345, 'f', Some(2)), "2.35");
        assert_eq!(text(1.0, 'f', Some(70_000)).len(), 70_002);
        assert_eq!(binary(1.0), "4503599627370496p-52");
        assert_eq!(hexadecimal(1.5), "0x1.8p+00");
        assert_eq!(hexadecimal(0.1), "0x1.999999999999ap-04");
        assert_eq!(hexadecimal(5e-324), "0x1p-1074");
        assert_eq!(hexadecimal(0.0), "0x0p+00");
    }
}
