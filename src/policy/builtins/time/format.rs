//! Writing a moment in a layout.

use super::super::Fault;
use super::super::values::append;
use super::civil::Moment;
use super::layout::{self, Chunk, Zone};

pub const MONTHS: [&str; 12] = [
    "January",
    "February",
    "March",
    "April",
    "May",
    "June",
    "July",
    "August",
    "September",
    "October",
    "November",
    "December",
];

pub fn format(layout: &str, moment: &Moment) -> Result<String, Fault> {
    let mut out = String::new();
    let mut rest = layout;
    loop {
        let (before, chunk, after) = layout::next(rest);
        append(&mut out, before)?;
        let Some((chunk, _)) = chunk else { return Ok(out) };
        append(&mut out, &written(chunk, moment))?;
        rest = after;
    }
}

fn written(chunk: Chunk, moment: &Moment) -> String {
    let date = moment.date();
    let [hour, minute, second] = moment.clock();
    let hour12 = if hour % 12 == 0 { 12 } else { hour % 12 };
    let month =
        usize::try_from(date.month - 1).ok().and_then(|index| MONTHS.get(index)).copied().unwrap_or_default();
    let short = |name: &str| name.get(..3).unwrap_or(name).to_owned();
    match chunk {
        Chunk::LongMonth => month.to_owned(),
        Chunk::Month => short(month),
        Chunk::NumberMonth => date.month.to_string(),
        Chunk::ZeroMonth => format!("{:02}", date.month),
        Chunk::LongWeekday => moment.weekday().to_owned(),
        Chunk::Weekday => short(moment.weekday()),
        Chunk::Day => date.day.to_string(),
        Chunk::SpaceDay => format!("{:2}", date.day),
        Chunk::ZeroDay => format!("{:02}", date.day),
        Chunk::SpaceYearDay => format!("{:3}", date.day_of_year()),
        Chunk::ZeroYearDay => format!("{:03}", date.day_of_year()),
        Chunk::Hour => format!("{hour:02}"),
        Chunk::Hour12 => hour12.to_string(),
        Chunk::ZeroHour12 => format!("{hour12:02}"),
        Chunk::Minute => minute.to_string(),
        Chunk::ZeroMinute => format!("{minute:02}"),
        Chunk::Second => second.to_string(),
        Chunk::ZeroSecond => format!("{second:02}"),
        Chunk::LongYear => format!("{:04}", date.year),
        Chunk::Year => format!("{:02}", date.year.rem_euclid(100)),
        Chunk::UpperHalf => if hour >= 12 { "PM" } else { "AM" }.to_owned(),
        Chunk::LowerHalf => if hour >= 12 { "pm" } else { "am" }.to_owned(),
        Chunk::Abbreviation => moment.abbreviation.clone(),
        Chunk::Zone(zone) => offset(zone, moment.offset),
        Chunk::Fraction { digits, separator, is_trimmed } => {
            let nanoseconds = format!("{:09}", moment.nanosecond());
            let kept = nanoseconds.get(..digits.min(9)).unwrap_or_default();
            let kept = if is_trimmed { kept.trim_end_matches('0') } else { kept };
            if kept.is_empty() { String::new() } else { format!("{separator}{kept}") }
        }
    }
}

fn offset(zone: Zone, seconds: i32) -> String {
    if zone.has_z && seconds == 0 {
        return "Z".to_owned();
    }
    let sign = if seconds < 0 { '-' } else { '+' };
    let size = seconds.unsigned_abs();
    let colon = if zone.has_colon { ":" } else { "" };
    let mut text = format!("{sign}{:02}", size / 3600);
    if zone.has_minutes {
        text.push_str(&[colon, &format!("{:02}", size / 60 % 60)].concat());
    }
    if zone.has_seconds {
        text.push_str(&[colon, &format!("{:02}", size % 60)].concat());
    }
    text
}
