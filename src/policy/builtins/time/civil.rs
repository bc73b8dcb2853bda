//! Days and times of day, of the calendar that has always been the one of today.

use jiff::Timestamp;
use jiff::tz::TimeZone;

pub const NANOSECONDS_PER_DAY: i128 = 86_400 * NANOSECONDS_PER_SECOND;
pub const NANOSECONDS_PER_SECOND: i128 = 1_000_000_000;

const WEEKDAYS: [&str; 7] = ["Thursday", "Friday", "Saturday", "Sunday", "Monday", "Tuesday", "Wednesday"];

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Date {
    pub year: i64,
    pub month: i64,
    pub day: i64,
}

pub fn is_leap(year: i64) -> bool {
    year % 4 == 0 && (year % 100 != 0 || year % 400 == 0)
}

impl Date {
    /// Days since 1970. Years begin in March here, so that the day of a leap year is their last.
    pub fn days(self) -> i64 {
        let year = if self.month <= 2 { self.year - 1 } else { self.year };
        let month = (self.month + 9) % 12;
        let leap_days = year.div_euclid(4) - year.div_euclid(100) + year.div_euclid(400);
        365 * year + leap_days + (153 * month + 2) / 5 + self.day - 1 - 719_468
    }

    fn of(days: i64) -> Self {
        // From below: a day in so many years is one too few.
        let mut year = 1970 + days.div_euclid(if days < 0 { 365 } else { 366 });
        while (Self { year: year + 1, month: 1, day: 1 }).days() <= days {
            year += 1;
        }
        let start = |month: i64| Self { year, month, day: 1 }.days();
        let month = (1..=12).rev().find(|month| start(*month) <= days).unwrap_or(1);
        Self { year, month, day: days - start(month) + 1 }
    }

    pub fn days_in_month(self) -> i64 {
        match self.month {
            2 if is_leap(self.year) => 29,
            2 => 28,
            4 | 6 | 9 | 11 => 30,
            _ => 31,
        }
    }

    pub fn day_of_year(self) -> i64 {
        self.days() - Self { month: 1, day: 1, ..self }.days() + 1
    }
}

/// A time as the clocks of a zone show it.
pub struct Moment {
    local: i128,
    /// Seconds east of Greenwich.
    pub offset: i32,
    pub abbreviation: String,
}

impl Moment {
    pub fn new(nanoseconds: i64, zone: &TimeZone) -> Self {
        let (offset, abbreviation) = match Timestamp::from_nanosecond(nanoseconds.into()) {
            Ok(time) => {
                let info = zone.to_offset_info(time);
                (info.offset().seconds(), info.abbreviation().to_owned())
            }
            Err(_) => (0, "UTC".to_owned()),
        };
        Self {
            local: i128::from(nanoseconds) + i128::from(offset) * NANOSECONDS_PER_SECOND,
            offset,
            abbreviation,
        }
    }

    fn days(&self) -> i64 {
        i64::try_from(self.local.div_euclid(NANOSECONDS_PER_DAY)).unwrap_or(0)
    }

    pub fn date(&self) -> Date {
        Date::of(self.days())
    }

    pub fn nanoseconds_of_day(&self) -> i128 {
        self.local.rem_euclid(NANOSECONDS_PER_DAY)
    }

    /// Hour, minute, second.
    pub fn clock(&self) -> [i64; 3] {
        let seconds = i64::try_from(self.nanoseconds_of_day() / NANOSECONDS_PER_SECOND).unwrap_or(0);
        [seconds / 3600, seconds / 60 % 60, seconds % 60]
    }

    pub fn nanosecond(&self) -> i128 {
        self.local.rem_euclid(NANOSECONDS_PER_SECOND)
    }

    pub fn weekday(&self) -> &'static str {
        let index = usize::try_from(self.days().rem_euclid(7)).unwrap_or(0);
        WEEKDAYS.get(index).copied().unwrap_or_default()
    }
}

/// When the clocks of a zone show that time. What they never show is taken by the offset of before.
pub fn instant(local: i128, zone: &TimeZone) -> i128 {
    let offset = |time: i128| {
        let time = Timestamp::from_nanosecond(time);
        time.map_or(0, |time| i128::from(zone.to_offset(time).seconds())) * NANOSECONDS_PER_SECOND
    };
    local - offset(local - offset(local))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn days_and_dates_are_one() {
        for days in (-110_000..110_000).step_by(13) {
            let date = Date::of(days);
            assert_eq!(date.days(), days);
            assert!((1..=date.days_in_month()).contains(&date.day), "{date:?}");
        }
        assert_eq!(Date::of(0), Date { year: 1970, month: 1, day: 1 });
        assert_eq!(Date { year: 2000, month: 2, day: 29 }.days(), 11_016);
        assert_eq!(Date { year: 2000, month: 12, day: 31 }.day_of_year(), 366);
    }
}
