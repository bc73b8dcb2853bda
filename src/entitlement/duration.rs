//! How long, as people write it: `90s`, `15m`, `8h`, `1h30m`, `2d`.

use std::time::Duration;

/// Units in the order in which they are written, in seconds.
const UNITS: [(char, u64); 4] = [('d', 86_400), ('h', 3_600), ('m', 60), ('s', 1)];
/// Digits of one number: the longest time there is has fewer.
const MAX_DIGITS: usize = 9;

/// Whole numbers with units, each unit at most once, the longest first; more than 0 together.
///
/// # Errors
/// What a duration looks like.
pub fn parse(text: &str) -> Result<Duration, String> {
    let wrong = || format!("not a duration: {text:?}; write it as 90s, 15m, 8h, 1h30m or 2d");
    let mut seconds: u64 = 0;
    let mut rest = text;
    let mut units = UNITS.iter();
    while !rest.is_empty() {
        let end = rest.find(|c: char| !c.is_ascii_digit()).ok_or_else(wrong)?;
        let (digits, tail) = rest.split_at(end);
        let unit = tail.chars().next().ok_or_else(wrong)?;
        if digits.is_empty() || digits.len() > MAX_DIGITS {
            return Err(wrong());
        }
        let number: u64 = digits.parse().map_err(|_| wrong())?;
        let (_, factor) = units.find(|(name, _)| *name == unit).ok_or_else(wrong)?;
        seconds = number.checked_mul(*factor).and_then(|more| seconds.checked_add(more)).ok_or_else(wrong)?;
        rest = tail.get(unit.len_utf8()..).unwrap_or_default();
    }
    if seconds == 0 { Err(wrong()) } else { Ok(Duration::from_secs(seconds)) }
}

/// As people write it.
#[must_use]
pub fn format(duration: Duration) -> String {
    let mut left = duration.as_secs();
    let mut text = String::new();
    for (unit, factor) in UNITS {
        if left / factor > 0 {
            text.push_str(&(left / factor).to_string());
            text.push(unit);
            left %= factor;
        }
    }
    if text.is_empty() { "0s".to_owned() } else { text }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_what_people_write_and_nothing_else() {
        for (text, seconds) in [
            ("90s", 90),
            ("15m", 900),
            ("8h", 28_800),
            ("1h30m", 5_400),
            ("2d", 172_800),
            ("1d1h1m1s", 90_061),
        ] {
            assert_eq!(parse(text), Ok(Duration::from_secs(seconds)), "{text}");
            assert_eq!(parse(&format(Duration::from_secs(seconds))), Ok(Duration::from_secs(seconds)));
        }
        let huge = format!("{}h", "9".repeat(400));
        for text in [
            "", "0s", "0h0m", "5", "h", "1.5h", "-1h", "+1h", "1 h", " 1h", "30m1h", "1h1h", "1w", "1µs",
            "1h5", &huge,
        ] {
            assert!(parse(text).is_err(), "{text}");
        }
    }
}
