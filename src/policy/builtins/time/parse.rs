//! Reading a moment in a layout, with what Go lets pass and what it does not.

use super::super::sprintf::quoted;
use super::civil::{Date, NANOSECONDS_PER_DAY, NANOSECONDS_PER_SECOND, is_leap};
use super::format::MONTHS;
use super::layout::{self, Chunk, Zone};

const WEEKDAYS: [&str; 7] = ["Sunday", "Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday"];

enum Wrong {
    Bad,
    Range(&'static str),
}

/// Digits of a fraction that count.
const FRACTION_DIGITS: usize = 9;

#[derive(Default)]
struct Fields {
    year: i64,
    month: Option<i64>,
    day: Option<i64>,
    year_day: Option<i64>,
    hour: i64,
    minute: i64,
    second: i64,
    nanosecond: i64,
    is_afternoon: Option<bool>,
    /// Seconds east of Greenwich. A zone that has only a name moves nothing, as in Go.
    offset: i64,
}

/// Nanoseconds since 1970, of any year; or Go's message.
pub fn parse(layout: &str, text: &str) -> Result<i128, String> {
    let fault = |part: &str, rest: &str| {
        let (layout, text) = (quoted(layout, '"'), quoted(text, '"'));
        format!(
            "parsing time {text} as {layout}: cannot parse {} as {}",
            quoted(rest, '"'),
            quoted(part, '"')
        )
    };
    let short = |message: &str| format!("parsing time {}: {message}", quoted(text, '"'));
    let mut fields = Fields::default();
    let (mut left, mut rest) = (layout, text);
    loop {
        let (before, chunk, after) = layout::next(left);
        rest = skip(rest, before).map_err(|at| fault(before, at))?;
        let Some((chunk, own)) = chunk else { break };
        left = after;
        let hold = rest;
        rest = fields.read(chunk, rest, left).map_err(|wrong| match wrong {
            Wrong::Bad => fault(own, hold),
            Wrong::Range(what) => short(&format!("{what} out of range")),
        })?;
    }
    if !rest.is_empty() {
        return Err(short(&format!("extra text: {}", quoted(rest, '"'))));
    }
    fields.instant().map_err(short)
}

/// Past what the layout has between its chunks. A space stands for any number of them.
fn skip<'a>(text: &'a str, expected: &str) -> Result<&'a str, &'a str> {
    let (mut text, mut expected) = (text, expected);
    while let Some(next) = expected.chars().next() {
        if next == ' ' {
            if text.starts_with(|c| c != ' ') {
                return Err(text);
            }
            (text, expected) = (text.trim_start_matches(' '), expected.trim_start_matches(' '));
            continue;
        }
        text = text.strip_prefix(next).ok_or(text)?;
        expected = expected.get(next.len_utf8()..).unwrap_or_default();
    }
    Ok(text)
}

/// So many digits at the start, with what follows them.
fn digits(text: &str, least: usize, most: usize) -> Result<(i64, &str), Wrong> {
    let count = text.bytes().take(most).take_while(u8::is_ascii_digit).count();
    let (digits, rest) = text.split_at_checked(count).ok_or(Wrong::Bad)?;
    if count < least {
        return Err(Wrong::Bad);
    }
    Ok((digits.parse().map_err(|_| Wrong::Bad)?, rest))
}

fn within(value: i64, range: std::ops::RangeInclusive<i64>, what: &'static str) -> Result<i64, Wrong> {
    if range.contains(&value) { Ok(value) } else { Err(Wrong::Range(what)) }
}

/// The index of the name that the text starts with, in any case.
fn name<'a>(text: &'a str, names: &[&str], is_short: bool) -> Result<(i64, &'a str), Wrong> {
    for (index, name) in (0..).zip(names) {
        let name = if is_short { name.get(..3).unwrap_or(name) } else { name };
        if let Some((start, rest)) = text.split_at_checked(name.len())
            && start.eq_ignore_ascii_case(name)
        {
            return Ok((index, rest));
        }
    }
    Err(Wrong::Bad)
}

/// A fraction of a second, from its separator on, in nanoseconds.
fn fraction(text: &str, count: usize) -> Result<(i64, &str), Wrong> {
    let digits = text.strip_prefix(['.', ',']).ok_or(Wrong::Bad)?;
    let (digits, rest) = digits.split_at_checked(count).ok_or(Wrong::Bad)?;
    if !digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return Err(Wrong::Bad);
    }
    let kept = digits.get(..count.min(FRACTION_DIGITS)).unwrap_or_default();
    Ok((format!("{kept:0<FRACTION_DIGITS$}").parse().map_err(|_| Wrong::Bad)?, rest))
}

fn fraction_length(text: &str) -> usize {
    let digits = text.strip_prefix(['.', ',']).unwrap_or_default();
    digits.bytes().take_while(u8::is_ascii_digit).count()
}

impl Fields {
    fn read<'a>(&mut self, chunk: Chunk, text: &'a str, layout: &str) -> Result<&'a str, Wrong> {
        let (value, rest) = match chunk {
            Chunk::LongMonth | Chunk::Month => name(text, &MONTHS, chunk == Chunk::Month)?,
            Chunk::LongWeekday | Chunk::Weekday => name(text, &WEEKDAYS, chunk == Chunk::Weekday)?,
            Chunk::LongYear => digits(text, 4, 4)?,
            Chunk::Year
            | Chunk::ZeroMonth
            | Chunk::ZeroDay
            | Chunk::ZeroHour12
            | Chunk::ZeroMinute
            | Chunk::ZeroSecond => digits(text, 2, 2)?,
            Chunk::SpaceDay => digits(text.strip_prefix(' ').unwrap_or(text), 1, 2)?,
            Chunk::ZeroYearDay => digits(text, 3, 3)?,
            Chunk::SpaceYearDay => {
                let text = text.strip_prefix(' ').unwrap_or(text);
                digits(text.strip_prefix(' ').unwrap_or(text), 1, 3)?
            }
            Chunk::UpperHalf => half(text, "AM", "PM")?,
            Chunk::LowerHalf => half(text, "am", "pm")?,
            Chunk::Abbreviation => (0, abbreviation(text).ok_or(Wrong::Bad)?),
            Chunk::Zone(zone) => offset(zone, text)?,
            Chunk::Fraction { is_trimmed: false, digits, .. } => fraction(text, digits)?,
            Chunk::Fraction { .. } => match fraction_length(text) {
                0 => return Ok(text),
                length => fraction(text, length)?,
            },
            _ => digits(text, 1, 2)?,
        };
        self.set(chunk, value)?;
        // A fraction may follow seconds even where the layout has none.
        if matches!(chunk, Chunk::Second | Chunk::ZeroSecond) && fraction_length(rest) > 0 {
            let (before, next, _) = layout::next(layout);
            let has_own = before.is_empty() && matches!(next, Some((Chunk::Fraction { .. }, _)));
            if !has_own {
                let (value, rest) = fraction(rest, fraction_length(rest))?;
                self.nanosecond = value;
                return Ok(rest);
            }
        }
        Ok(rest)
    }

    fn set(&mut self, chunk: Chunk, value: i64) -> Result<(), Wrong> {
        match chunk {
            Chunk::LongMonth | Chunk::Month => self.month = Some(value + 1),
            Chunk::NumberMonth | Chunk::ZeroMonth => self.month = Some(within(value, 1..=12, "month")?),
            Chunk::LongYear => self.year = value,
            Chunk::Year => self.year = if value >= 69 { 1900 + value } else { 2000 + value },
            Chunk::Day | Chunk::SpaceDay | Chunk::ZeroDay => self.day = Some(value),
            Chunk::SpaceYearDay | Chunk::ZeroYearDay => self.year_day = Some(value),
            Chunk::Hour => self.hour = within(value, 0..=23, "hour")?,
            Chunk::Hour12 | Chunk::ZeroHour12 => self.hour = within(value, 0..=12, "hour")?,
            Chunk::Minute | Chunk::ZeroMinute => self.minute = within(value, 0..=59, "minute")?,
            Chunk::Second | Chunk::ZeroSecond => self.second = within(value, 0..=59, "second")?,
            Chunk::UpperHalf | Chunk::LowerHalf => self.is_afternoon = Some(value == 1),
            Chunk::Zone(_) => self.offset = value,
            Chunk::Fraction { .. } => self.nanosecond = value,
            Chunk::LongWeekday | Chunk::Weekday | Chunk::Abbreviation => {}
        }
        Ok(())
    }

    fn instant(self) -> Result<i128, &'static str> {
        let hour = match self.is_afternoon {
            Some(true) if self.hour < 12 => self.hour + 12,
            Some(false) if self.hour == 12 => 0,
            _ => self.hour,
        };
        let date = self.date()?;
        let seconds = hour * 3600 + self.minute * 60 + self.second - self.offset;
        Ok(i128::from(date.days()) * NANOSECONDS_PER_DAY
            + i128::from(seconds) * NANOSECONDS_PER_SECOND
            + i128::from(self.nanosecond))
    }

    fn date(&self) -> Result<Date, &'static str> {
        let date = Date { year: self.year, month: self.month.unwrap_or(1), day: self.day.unwrap_or(1) };
        let Some(year_day) = self.year_day else {
            let is_valid = (1..=date.days_in_month()).contains(&date.day);
            return if is_valid { Ok(date) } else { Err("day out of range") };
        };
        if !(1..=365 + i64::from(is_leap(self.year))).contains(&year_day) {
            return Err("day-of-year out of range");
        }
        let start = |month: i64| Date { month, day: 1, ..date }.day_of_year();
        let month = (1..=12).rev().find(|month| start(*month) <= year_day).unwrap_or(1);
        let day = year_day - start(month) + 1;
        if self.month.is_some_and(|own| own != month) {
            return Err("day-of-year does not match month");
        }
        if self.day.is_some_and(|own| own != day) {
            return Err("day-of-year does not match day");
        }
        Ok(Date { month, day, ..date })
    }
}

fn half<'a>(text: &'a str, before: &str, after: &str) -> Result<(i64, &'a str), Wrong> {
    let (half, rest) = text.split_at_checked(2).ok_or(Wrong::Bad)?;
    match half {
        half if half == before => Ok((0, rest)),
        half if half == after => Ok((1, rest)),
        _ => Err(Wrong::Bad),
    }
}

fn offset(zone: Zone, text: &str) -> Result<(i64, &str), Wrong> {
    if let Some(rest) = text.strip_prefix('Z').filter(|_| zone.has_z) {
        return Ok((0, rest));
    }
    let (sign, rest) = match (text.strip_prefix('+'), text.strip_prefix('-')) {
        (Some(rest), _) => (1, rest),
        (_, Some(rest)) => (-1, rest),
        _ => return Err(Wrong::Bad),
    };
    let part = |text: &str| {
        let text = if zone.has_colon { text.strip_prefix(':').ok_or(Wrong::Bad)? } else { text };
        digits(text, 2, 2).map(|(value, rest)| (value, rest.len()))
    };
    let tail = |length: usize| rest.get(rest.len() - length..).unwrap_or_default();
    let (hours, mut rest) = digits(rest, 2, 2)?;
    let (mut minutes, mut seconds) = (0, 0);
    if zone.has_minutes {
        let (value, length) = part(rest)?;
        (minutes, rest) = (value, tail(length));
    }
    if zone.has_seconds {
        let (value, length) = part(rest)?;
        (seconds, rest) = (value, tail(length));
    }
    let hours = within(hours, 0..=24, "time zone offset hour")?;
    let minutes = within(minutes, 0..=60, "time zone offset minute")?;
    let seconds = within(seconds, 0..=60, "time zone offset second")?;
    Ok((sign * (hours * 3600 + minutes * 60 + seconds), rest))
}

/// Past what looks like the name of a zone.
fn abbreviation(text: &str) -> Option<&str> {
    if let Some(rest) = ["UTC", "ChST", "MeST"].iter().find_map(|name| text.strip_prefix(name)) {
        return Some(rest);
    }
    let signed = |text: &str| {
        let digits = text.strip_prefix(['+', '-'])?;
        let count = digits.bytes().take_while(u8::is_ascii_digit).count();
        let (hours, _) = digits.split_at_checked(count)?;
        hours.parse::<u32>().ok().filter(|hours| *hours <= 23).map(|_| count + 1)
    };
    if let Some(rest) = text.strip_prefix("GMT") {
        return rest.get(signed(rest).unwrap_or(0)..);
    }
    if text.starts_with(['+', '-']) {
        return text.get(signed(text).filter(|_| text.len() >= 3)?..);
    }
    let length = text.bytes().take(6).take_while(u8::is_ascii_uppercase).count();
    let is_name = match length {
        3 => true,
        4 => text.starts_with("WITA") || text.get(..4).is_some_and(|name| name.ends_with('T')),
        5 => text.get(..5).is_some_and(|name| name.ends_with('T')),
        _ => false,
    };
    text.get(length..).filter(|_| is_name)
}
