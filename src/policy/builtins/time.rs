//! Time in nanoseconds since 1970, and its texts in Go's layouts. Zones come from the database in the binary: a built-in
//! reads no files, so `Local` is UTC here. What the time is now is the engine's to say, once for an evaluation.

mod civil;
pub mod duration;
mod format;
mod layout;
mod parse;

use std::sync::LazyLock;

use jiff::tz::{TimeZone, TimeZoneDatabase};
use regorus::Value;

use super::sprintf::quoted;
use super::values::int;
use super::{Builtin, Fault, Outcome, binary, of_many, text, unary};
use civil::{Date, Moment};

pub const BUILTINS: [Builtin; 9] = [
    binary("time.parse_ns", parse_ns),
    unary("time.parse_rfc3339_ns", parse_rfc3339_ns),
    unary("time.parse_duration_ns", parse_duration_ns),
    unary("time.format", format),
    unary("time.date", date),
    unary("time.clock", clock),
    unary("time.weekday", weekday),
    of_many("time.add_date", 4, add_date),
    binary("time.diff", diff),
];

/// Years, months or days that are added: more than there are nanoseconds for.
const MAX_ADDED: i64 = 1_000_000;

const RFC3339: &str = "2006-01-02T15:04:05Z07:00";

/// The zones of the binary; those that were asked for are kept, and there are some hundreds in all.
static ZONES: LazyLock<TimeZoneDatabase> = LazyLock::new(TimeZoneDatabase::bundled);

/// Layouts that have a name.
fn named(layout: &str) -> &str {
    match layout {
        "ANSIC" => "Mon Jan _2 15:04:05 2006",
        "UnixDate" => "Mon Jan _2 15:04:05 MST 2006",
        "RubyDate" => "Mon Jan 02 15:04:05 -0700 2006",
        "RFC822" => "02 Jan 06 15:04 MST",
        "RFC822Z" => "02 Jan 06 15:04 -0700",
        "RFC850" => "Monday, 02-Jan-06 15:04:05 MST",
        "RFC1123" => "Mon, 02 Jan 2006 15:04:05 MST",
        "RFC1123Z" => "Mon, 02 Jan 2006 15:04:05 -0700",
        "RFC3339" => RFC3339,
        "" | "RFC3339Nano" => "2006-01-02T15:04:05.999999999Z07:00",
        other => other,
    }
}

/// What YAML takes for a point in time.
pub fn is_timestamp(text: &str) -> bool {
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    let layouts = [
        "2006-1-2T15:4:5.999999999Z07:00",
        "2006-1-2t15:4:5.999999999Z07:00",
        "2006-1-2 15:4:5.999999999",
        "2006-1-2",
    ];
    digits == 4 && layouts.iter().any(|layout| parse::parse(layout, text).is_ok())
}

fn nanoseconds(time: i128) -> Outcome {
    i64::try_from(time).map(Value::from).map_err(|_| Fault::failed("time outside of valid range"))
}

fn parse_ns(layout: &Value, value: &Value) -> Outcome {
    let (layout, value) = (text(1, layout)?, text(2, value)?);
    // An empty layout is empty here: only formatting has a layout of its own.
    let layout = if layout.is_empty() { "" } else { named(layout) };
    nanoseconds(parse::parse(layout, value).map_err(Fault::failed)?)
}

fn parse_rfc3339_ns(value: &Value) -> Outcome {
    nanoseconds(parse::parse(RFC3339, text(1, value)?).map_err(Fault::failed)?)
}

fn parse_duration_ns(value: &Value) -> Outcome {
    let duration = text(1, value)?;
    duration::parse(duration)
        .map(Value::from)
        .map_err(|message| Fault::failed(format!("time: {message} {}", quoted(duration, '"'))))
}

/// A time, with its zone and its layout if it has them.
struct Operand<'a> {
    nanoseconds: i64,
    zone: TimeZone,
    layout: &'a str,
}

impl Operand<'_> {
    fn moment(&self) -> Moment {
        Moment::new(self.nanoseconds, &self.zone)
    }
}

fn operand(value: &Value) -> Result<Operand<'_>, Fault> {
    let (number, zone, layout) = match value {
        Value::Number(_) => (value, "", ""),
        Value::Array(items) if !items.is_empty() => {
            let number = items.first().filter(|item| matches!(item, Value::Number(_)));
            let number = number
                .ok_or_else(|| Fault::operand(1, "number", items.first().unwrap_or(&Value::Undefined)))?;
            let part = |index: usize| items.get(index).map_or(Ok(""), |item| text(1, item));
            (number, part(1)?, part(2)?)
        }
        other => return Err(Fault::operand(1, "either number (ns) or [number (ns), string (tz)]", other)),
    };
    let nanoseconds = number.as_i64().map_err(|_| Fault::failed("timestamp too big"))?;
    Ok(Operand { nanoseconds, zone: time_zone(zone)?, layout })
}

fn time_zone(name: &str) -> Result<TimeZone, Fault> {
    match name {
        "" | "UTC" | "Local" => Ok(TimeZone::UTC),
        name => {
            let zone = ZONES.get(name);
            // The database finds a name in any case; Go does not.
            zone.ok()
                .filter(|zone| zone.iana_name() == Some(name))
                .ok_or_else(|| Fault::failed(format!("unknown time zone {name}")))
        }
    }
}

fn format(value: &Value) -> Outcome {
    let operand = operand(value)?;
    format::format(named(operand.layout), &operand.moment()).map(Value::from)
}

fn list<const N: usize>(numbers: [i64; N]) -> Value {
    Value::from(numbers.into_iter().map(Value::from).collect::<Vec<_>>())
}

fn date(value: &Value) -> Outcome {
    let date = operand(value)?.moment().date();
    Ok(list([date.year, date.month, date.day]))
}

fn clock(value: &Value) -> Outcome {
    Ok(list(operand(value)?.moment().clock()))
}

fn weekday(value: &Value) -> Outcome {
    Ok(Value::from(operand(value)?.moment().weekday()))
}

fn add_date(arguments: &[Value]) -> Outcome {
    let [time, years, months, days] = arguments else {
        return Err(Fault::failed("wrong number of arguments"));
    };
    let operand = operand(time)?;
    let added = |position: usize, value: &Value| {
        let added = int(position, value)?;
        let is_near = (-MAX_ADDED..=MAX_ADDED).contains(&added);
        is_near.then_some(added).ok_or_else(|| Fault::failed("time outside of valid range"))
    };
    let (years, months, days) = (added(2, years)?, added(3, months)?, added(4, days)?);
    let moment = operand.moment();
    let date = moment.date();
    // Months beyond twelve are years; days beyond a month's are the next month's.
    let month = date.month - 1 + months;
    let (year, month) = (date.year + years + month.div_euclid(12), month.rem_euclid(12) + 1);
    let day = Date { year, month, day: 1 }.days() + date.day - 1 + days;
    let local = i128::from(day) * civil::NANOSECONDS_PER_DAY + moment.nanoseconds_of_day();
    nanoseconds(civil::instant(local, &operand.zone))
}

fn diff(a: &Value, b: &Value) -> Outcome {
    let (a, b) = (operand(a)?, operand(b)?);
    let (earlier, later) = (a.nanoseconds.min(b.nanoseconds), a.nanoseconds.max(b.nanoseconds));
    let (earlier, later) = (Moment::new(earlier, &a.zone), Moment::new(later, &a.zone));
    let (from, to) = (earlier.date(), later.date());
    let ([hour_from, minute_from, second_from], [hour_to, minute_to, second_to]) =
        (earlier.clock(), later.clock());
    let borrow = |difference: &mut i64, size: i64, larger: &mut i64| {
        if *difference < 0 {
            *difference += size;
            *larger -= 1;
        }
    };
    let (mut years, mut months, mut days) = (to.year - from.year, to.month - from.month, to.day - from.day);
    let (mut hours, mut minutes, mut seconds) =
        (hour_to - hour_from, minute_to - minute_from, second_to - second_from);
    borrow(&mut seconds, 60, &mut minutes);
    borrow(&mut minutes, 60, &mut hours);
    borrow(&mut hours, 24, &mut days);
    borrow(&mut days, from.days_in_month(), &mut months);
    borrow(&mut months, 12, &mut years);
    Ok(list([years, months, days, hours, minutes, seconds]))
}

#[cfg(test)]
mod tests;
