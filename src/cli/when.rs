//! Times as people write and read them: `15m`, `2d`, `+2h`, "in 42m", "3m ago".

use std::time::Duration;

use jiff::{SignedDuration, Span, SpanRelativeTo, Timestamp};

/// `90s`, `15m`, `1h30m`, `2d`: more than nothing. A day has 24 hours.
pub fn parse_length(text: &str) -> Result<Duration, String> {
    let span: Option<Span> = text.parse().ok();
    span.and_then(|span| span.to_duration(SpanRelativeTo::days_are_24_hours()).ok())
        .and_then(|length| Duration::try_from(length).ok())
        .filter(|length| !length.is_zero())
        .ok_or_else(|| format!("{text:?} is not a duration; write 150ms, 90s, 15m, 1h30m or 2d"))
}

/// When something is to begin.
#[derive(Debug, Clone, Copy)]
pub enum Start {
    At(Timestamp),
    After(Duration),
}

impl Start {
    pub fn parse(text: &str) -> Result<Self, String> {
        if let Some(rest) = text.strip_prefix('+') {
            return parse_length(rest).map(Self::After);
        }
        let at = text.parse().map(Self::At);
        at.map_err(|_| {
            format!(
                "{text:?} is no moment; write +2h, or RFC 3339 with an offset such as 2026-05-01T09:00:00Z"
            )
        })
    }

    pub fn moment(self, now: Timestamp) -> Option<Timestamp> {
        match self {
            Self::At(at) => Some(at),
            Self::After(length) => now.checked_add(length).ok(),
        }
    }
}

pub fn to_proto(moment: Timestamp) -> prost_types::Timestamp {
    prost_types::Timestamp { seconds: moment.as_second(), nanos: moment.subsec_nanosecond() }
}

pub fn from_proto(moment: Option<prost_types::Timestamp>) -> Option<Timestamp> {
    moment.and_then(|moment| Timestamp::new(moment.seconds, moment.nanos).ok())
}

/// A length in the API's form. One too long for it is sent as the longest, which the server refuses in words.
pub fn length(length: Duration) -> prost_types::Duration {
    prost_types::Duration::try_from(length)
        .unwrap_or(prost_types::Duration { seconds: 315_576_000_000, nanos: 0 })
}

pub fn from_length(length: Option<prost_types::Duration>) -> Option<Duration> {
    length.and_then(|length| Duration::try_from(length).ok())
}

/// The two largest units: `1h 30m`, `42m`, `2d 3h`. Below a minute, seconds.
pub fn spell(length: Duration) -> String {
    let seconds = length.as_secs();
    let units = [(86_400, "d"), (3_600, "h"), (60, "m"), (1, "s")];
    let Some(first) = units.iter().position(|(unit, _)| seconds >= *unit) else { return "0s".to_owned() };
    let mut rest = seconds;
    let mut parts = Vec::new();
    for (unit, name) in units.iter().skip(first).take(2) {
        if rest / unit > 0 {
            parts.push(format!("{}{name}", rest / unit));
        }
        rest %= unit;
    }
    parts.join(" ")
}

/// `in 42m`, `3m ago`. Rounded to seconds, or what was just given 15 minutes would have 14m 59s.
pub fn relative(moment: Timestamp, now: Timestamp) -> String {
    let left = moment.duration_since(now);
    if left.is_negative() {
        let past = left.unsigned_abs();
        return if past.as_secs() == 0 { "just now".to_owned() } else { format!("{} ago", spell(past)) };
    }
    format!("in {}", spell((left + SignedDuration::from_millis(500)).unsigned_abs()))
}

/// `in 42m (2026-05-01T09:00:00Z)`: what a person reads, and what a person copies.
pub fn both(moment: Option<prost_types::Timestamp>, now: Timestamp) -> String {
    from_proto(moment).map(|moment| format!("{} ({moment:.0})", relative(moment, now))).unwrap_or_default()
}

pub fn short(moment: Option<prost_types::Timestamp>, now: Timestamp) -> String {
    from_proto(moment).map(|moment| relative(moment, now)).unwrap_or_default()
}

pub fn spelled(length: Option<prost_types::Duration>) -> String {
    from_length(length).map(spell).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lengths() {
        for (text, seconds) in [("90s", 90), ("15m", 900), ("1h30m", 5400), ("2d", 172_800), ("1w", 604_800)]
        {
            assert_eq!(parse_length(text).unwrap().as_secs(), seconds, "{text}");
        }
        for text in ["", "0s", "-5m", "soon", "5", "1mo", "5m ago", "99999999999999999999d"] {
            assert!(parse_length(text).is_err(), "{text}");
        }
        assert_eq!(length(Duration::MAX).seconds, 315_576_000_000);
    }

    #[test]
    fn spelled_by_the_two_largest_units() {
        for (seconds, text) in
            [(0, "0s"), (59, "59s"), (90, "1m 30s"), (3600, "1h"), (5400, "1h 30m"), (86_405, "1d")]
        {
            assert_eq!(spell(Duration::from_secs(seconds)), text);
        }
        let now: Timestamp = "2026-05-01T09:00:00Z".parse().unwrap();
        let at = |seconds: i64| now + SignedDuration::from_secs(seconds);
        assert_eq!(relative(at(900) - SignedDuration::from_millis(3), now), "in 15m");
        assert_eq!(relative(at(-180), now), "3m ago");
        assert_eq!(relative(now, now), "in 0s");
    }

    #[test]
    fn starts() {
        let now: Timestamp = "2026-05-01T09:00:00Z".parse().unwrap();
        let moment = |text: &str| Start::parse(text).map(|start| start.moment(now).unwrap().to_string());
        assert_eq!(moment("+2h").unwrap(), "2026-05-01T11:00:00Z");
        assert_eq!(moment("2026-05-01T12:00:00+02:00").unwrap(), "2026-05-01T10:00:00Z");
        assert!(
            moment("tomorrow").is_err() && moment("2026-05-01T12:00:00").is_err() && moment("+").is_err()
        );
    }
}
