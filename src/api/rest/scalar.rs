//! Values that JSON has no form for: 64-bit integers, durations, moments. What is read here, and the pattern by which
//! the OpenAPI document describes it, stand side by side; a test holds them to each other.

use jiff::civil::DateTime;
use prost_types::{Duration, Timestamp};

/// The longest duration of protobuf: 10,000 years.
const MAX_DURATION_SECONDS: u64 = 315_576_000_000;
const NANO_DIGITS: usize = 9;

/// A number of JSON that is a whole one: `7`, `7.0`, `70e-1`.
pub fn integer(text: &str, max: u64) -> Option<u64> {
    let (number, exponent) = match text.split_once(['e', 'E']) {
        Some((number, exponent)) => (number, exponent),
        None => (text, "0"),
    };
    let is_negative = number.starts_with('-');
    let (whole, fraction) = number.trim_start_matches('-').split_once('.').unwrap_or((number, ""));
    let digits = [whole.trim_start_matches('-'), fraction].concat();
    if digits.is_empty() || !digits.bytes().all(|digit| digit.is_ascii_digit()) {
        return None;
    }
    let significant = digits.trim_start_matches('0').trim_end_matches('0');
    if significant.is_empty() {
        return Some(0);
    }
    let trailing = digits.len() - digits.trim_end_matches('0').len();
    // An exponent that does not fit has no whole number of 64 bits.
    let exponent: i64 = exponent.parse().ok()?;
    let shift = exponent
        .checked_add(i64::try_from(trailing).ok()?)?
        .checked_sub(i64::try_from(fraction.len()).ok()?)?;
    let scale = 10_u64.checked_pow(u32::try_from(shift).ok()?)?;
    let value = significant.parse::<u64>().ok()?.checked_mul(scale)?;
    (!is_negative && value <= max).then_some(value)
}

/// Of a string: digits and nothing else.
pub fn digits(text: &str) -> Option<u64> {
    let is_plain =
        text.bytes().all(|digit| digit.is_ascii_digit()) && (text == "0" || !text.starts_with('0'));
    is_plain.then(|| text.parse().ok())?
}

/// `90s`, `0.5s`, `-3s`.
pub fn duration(text: &str) -> Option<Duration> {
    let number = text.strip_suffix('s')?;
    let (is_negative, number) = number.strip_prefix('-').map_or((false, number), |rest| (true, rest));
    let (seconds, nanos) = match number.split_once('.') {
        Some((seconds, fraction)) => (seconds, nanos(fraction)?),
        None => (number, 0),
    };
    let seconds = digits(seconds)?;
    if seconds > MAX_DURATION_SECONDS || (seconds == MAX_DURATION_SECONDS && nanos > 0) {
        return None;
    }
    let seconds = i64::try_from(seconds).ok()?;
    Some(if is_negative {
        Duration { seconds: -seconds, nanos: -nanos }
    } else {
        Duration { seconds, nanos }
    })
}

fn nanos(fraction: &str) -> Option<i32> {
    let is_fraction =
        (1..=NANO_DIGITS).contains(&fraction.len()) && fraction.bytes().all(|digit| digit.is_ascii_digit());
    is_fraction.then(|| format!("{fraction:0<NANO_DIGITS$}").parse().ok())?
}

/// RFC 3339, in the years 1 to 9999; capital letters, no leap seconds.
pub fn timestamp(text: &str) -> Option<Timestamp> {
    let (local, rest) = text.split_at_checked("0000-00-00T00:00:00".len())?;
    let is_shaped = local
        .bytes()
        .zip("0000-00-00T00:00:00".bytes())
        .all(|(given, shape)| if shape == b'0' { given.is_ascii_digit() } else { given == shape });
    if !is_shaped || local.starts_with("0000") || local.ends_with("60") {
        return None;
    }
    let moment: DateTime = local.parse().ok()?;
    let zone_at = rest.find(['Z', '+', '-'])?;
    let (fraction, zone) = rest.split_at_checked(zone_at)?;
    let nanos = if fraction.is_empty() { 0 } else { nanos(fraction.strip_prefix('.')?)? };
    let since = moment.duration_since(DateTime::constant(1970, 1, 1, 0, 0, 0, 0));
    Some(Timestamp { seconds: since.as_secs() - offset_seconds(zone)?, nanos })
}

fn offset_seconds(zone: &str) -> Option<i64> {
    if zone == "Z" {
        return Some(0);
    }
    let (sign, rest) = match zone.split_at_checked(1)? {
        ("+", rest) => (1, rest),
        ("-", rest) => (-1, rest),
        _ => return None,
    };
    let (hours, minutes) = rest.split_once(':')?;
    let part = |text: &str, most: i64| {
        let is_two = text.len() == 2 && text.bytes().all(|digit| digit.is_ascii_digit());
        is_two.then(|| text.parse::<i64>().ok())?.filter(|value| *value <= most)
    };
    Some(sign * (part(hours, 23)? * 3600 + part(minutes, 59)? * 60))
}

pub fn digits_pattern() -> String {
    format!("^{}$", up_to(u64::MAX))
}

pub fn duration_pattern() -> String {
    let below = up_to(MAX_DURATION_SECONDS - 1);
    format!(r"^-?({below}(\.[0-9]{{1,9}})?|{MAX_DURATION_SECONDS}(\.0{{1,9}})?)s$")
}

pub fn timestamp_pattern() -> String {
    let year = "([1-9][0-9]{3}|0[1-9][0-9]{2}|00[1-9][0-9]|000[1-9])";
    let day = "(0[1-9]|1[0-2])-(0[1-9]|[12][0-9]|3[01])";
    let time = "([01][0-9]|2[0-3]):[0-5][0-9]";
    format!(r"^{year}-{day}T{time}:[0-5][0-9](\.[0-9]{{1,9}})?(Z|[+-]{time})$")
}

/// A pattern for the whole numbers from 0 to `max`, without leading zeros.
fn up_to(max: u64) -> String {
    let digits = max.to_string();
    let mut ways = vec!["0".to_owned()];
    if digits.len() > 1 {
        ways.push(format!("[1-9][0-9]{{0,{}}}", digits.len() - 2));
    }
    // As long as `max`, the same up to one digit, and there smaller.
    for (at, digit) in digits.char_indices() {
        let least = if at == 0 { '1' } else { '0' };
        if digit > least {
            let before = char::from_u32(u32::from(digit) - 1).unwrap_or(least);
            let rest = digits.len() - at - 1;
            ways.push(format!("{}[{least}-{before}][0-9]{{{rest}}}", digits.get(..at).unwrap_or_default()));
        }
    }
    ways.push(digits);
    format!("({})", ways.join("|"))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use regex::Regex;

    use super::*;

    #[test]
    fn whole_numbers_however_they_are_written() {
        for (text, value) in [
            ("0", Some(0)),
            ("-0", Some(0)),
            ("0e999999999999999999999", Some(0)),
            ("7", Some(7)),
            ("7.0", Some(7)),
            ("70e-1", Some(7)),
            ("0.7E+1", Some(7)),
            ("1e3", Some(1000)),
            ("18446744073709551615", Some(u64::MAX)),
            ("18446744073709551616", None),
            ("1e999999999999999999999", None),
            ("1e-999999999999999999999", None),
            ("1e19", Some(10_000_000_000_000_000_000)),
            ("1e20", None),
            ("-7", None),
            ("7.5", None),
            ("", None),
            ("-", None),
            ("x", None),
            ("1-1", None),
        ] {
            assert_eq!(integer(text, u64::MAX), value, "{text}");
        }
        assert_eq!(integer("4294967296", u64::from(u32::MAX)), None);
        assert_eq!(integer(&format!("1{}e-100000", "0".repeat(100_000)), 9), Some(1));
    }

    #[test]
    fn moments_and_durations() {
        let moment = |seconds, nanos| Some(Timestamp { seconds, nanos });
        for (text, value) in [
            ("1970-01-01T00:00:00Z", moment(0, 0)),
            ("1970-01-01T01:00:00.5+01:00", moment(0, 500_000_000)),
            ("1969-12-31T23:59:59.000000001Z", moment(-1, 1)),
            ("2026-02-29T00:00:00Z", None),
            ("2026-01-01T24:00:00Z", None),
            ("2026-01-01T23:59:60Z", None),
            ("2026-01-01T00:00:00", None),
            ("2026-01-01 00:00:00Z", None),
            ("2026-01-01T00:00:00z", None),
            ("2026-01-01T00:00:00.Z", None),
            ("2026-01-01T00:00:00.0000000001Z", None),
            ("2026-01-01T00:00:00+24:00", None),
            ("2026-01-01T00:00:00+1:00", None),
            ("2026-01-01T00:00:00[UTC]", None),
            ("0000-01-01T00:00:00Z", None),
            ("+2026-01-01T00:00:00Z", None),
            ("9999-12-31T23:59:59.999999999Z", moment(253_402_300_799, 999_999_999)),
            ("0001-01-01T00:00:00Z", moment(-62_135_596_800, 0)),
            ("２026-01-01T00:00:00Z", None),
        ] {
            assert_eq!(timestamp(text), value, "{text}");
        }
        let lasting = |seconds, nanos| Some(Duration { seconds, nanos });
        for (text, value) in [
            ("3600s", lasting(3600, 0)),
            ("-1.5s", lasting(-1, -500_000_000)),
            ("0s", lasting(0, 0)),
            ("315576000000s", lasting(315_576_000_000, 0)),
            ("315576000000.1s", None),
            ("315576000001s", None),
            ("1h", None),
            ("s", None),
            ("1.s", None),
            (".5s", None),
            ("01s", None),
            ("+1s", None),
            (" 1s", None),
        ] {
            assert_eq!(duration(text), value, "{text}");
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(2000))]
        #[test]
        fn what_a_pattern_allows_is_read_and_nothing_else(
            whole in prop_oneof![
                any::<u64>().prop_map(|number| number.to_string()),
                "[0-9]{1,21}",
                "31557[56]0000[0-9]{2}",
                "1844674407370955161[0-9]",
            ],
            end in prop_oneof![Just(String::new()), Just("s".to_owned()), r"\.[0-9]{0,10}s"],
        ) {
            let text = format!("{whole}{end}");
            prop_assert_eq!(Regex::new(&digits_pattern()).unwrap().is_match(&text), digits(&text).is_some());
            prop_assert_eq!(Regex::new(&duration_pattern()).unwrap().is_match(&text), duration(&text).is_some());
        }

        #[test]
        fn a_moment_is_read_if_its_pattern_and_the_calendar_allow_it(
            text in "[0-9]{4}-[01][0-9]-[0-2][0-9]T[0-2][0-9]:[0-6][0-9]:[0-6][0-9](\\.[0-9]{1,10})?(Z|[+-][0-2][0-9]:[0-6][0-9])",
        ) {
            let is_day = text.get(..10).is_some_and(|day| day.parse::<jiff::civil::Date>().is_ok());
            let allowed = is_day && Regex::new(&timestamp_pattern()).unwrap().is_match(&text);
            prop_assert_eq!(allowed, timestamp(&text).is_some());
        }
    }
}
