//! Durations such as `1h30m`, as Go reads them.

/// Nanoseconds; or what is wrong, before the text that it is wrong with.
pub fn parse(text: &str) -> Result<i64, &'static str> {
    const INVALID: &str = "invalid duration";
    let (is_negative, mut rest) = match text.strip_prefix('-') {
        Some(rest) => (true, rest),
        None => (false, text.strip_prefix('+').unwrap_or(text)),
    };
    if rest == "0" {
        return Ok(0);
    }
    if rest.is_empty() {
        return Err(INVALID);
    }
    let mut total: i128 = 0;
    while !rest.is_empty() {
        let digits = |text: &str| text.bytes().take_while(u8::is_ascii_digit).count();
        let (whole, after) = rest.split_at_checked(digits(rest)).ok_or(INVALID)?;
        let (fraction, after) = match after.strip_prefix('.') {
            Some(after) => after.split_at_checked(digits(after)).ok_or(INVALID)?,
            None => ("", after),
        };
        if whole.is_empty() && fraction.is_empty() {
            return Err(INVALID);
        }
        let unit_length = after.find(|c: char| c == '.' || c.is_ascii_digit()).unwrap_or(after.len());
        let (unit, after) = after.split_at_checked(unit_length).ok_or(INVALID)?;
        let size: i128 = match unit {
            "" => return Err("missing unit in duration"),
            "ns" => 1,
            "us" | "µs" | "μs" => 1000,
            "ms" => 1_000_000,
            "s" => 1_000_000_000,
            "m" => 60_000_000_000,
            "h" => 3_600_000_000_000,
            _ => return Err("unknown unit in duration"),
        };
        let whole: i128 =
            if whole.is_empty() { 0 } else { whole.parse::<u64>().map_err(|_| INVALID)?.into() };
        total += whole * size;
        let mut place = size;
        for digit in fraction.bytes().take(18) {
            // Truncated at the end, not digit by digit: every size but an hour's and a minute's is a power of ten.
            total += place * i128::from(digit - b'0') / 10;
            place /= 10;
        }
        if total > i128::from(i64::MAX) + 1 {
            return Err(INVALID);
        }
        rest = after;
    }
    i64::try_from(if is_negative { -total } else { total }).map_err(|_| INVALID)
}
