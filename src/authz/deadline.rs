//! The headers of an allow that end what it lets in: Envoy's for every kind of stream, gRPC's for a clean end.
//!
//! Never a value of 0, which is no limit to Envoy, and never more than is left, but for [`TIMER_SLACK`] and [`GRPC_GRACE`].

use std::time::Duration;

use envoy_types::pb::envoy::service::auth::v3::CheckRequest;

use crate::decision::Basis;

/// Ends the stream when the grant ends: HTTP, SSE, WebSocket, gRPC and CONNECT alike. Envoy takes it off the request.
const STREAM_DURATION: &str = "x-envoy-upstream-stream-duration-ms";
/// The deadline starts anew with each retry, so near its end a retry would outlive the grant.
const MAX_RETRIES: &str = "x-envoy-max-retries";
/// How long the caller of a gRPC method waits, which its server keeps to (gRPC over HTTP/2, "Timeout").
const GRPC_TIMEOUT: &str = "grpc-timeout";

/// Envoy counts from the beginning of the turn that its event loop is in, so its timers may be early by as much. A stream is not
/// cut while its grant lives.
pub const TIMER_SLACK: Duration = Duration::from_millis(2);

/// For an upstream that ends a call by itself, as told, to say so: cut at the same moment its caller would see a broken
/// stream rather than `DEADLINE_EXCEEDED`.
pub const GRPC_GRACE: Duration = Duration::from_millis(50);

/// Of any stream. A number that does not fit is no limit to Envoy.
const LONGEST: Duration = Duration::from_secs(366 * 24 * 3600);

/// More digits than eight no value of the header has.
const MAX_GRPC_DIGITS: usize = 8;

/// How allows that rest on grants are limited.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StreamLimits {
    /// Longest stream before its request must be decided anew, whatever the grant still has.
    pub lease: Option<Duration>,
    /// With less than this left, upstream retries are switched off.
    pub retry_horizon: Duration,
}

/// What one allow may last.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Term {
    left: Duration,
    are_retries_off: bool,
}

impl Term {
    /// None if nothing limits it: it rests on no grant, and policy named no lease.
    #[must_use]
    pub fn of(basis: Option<&Basis>, lease: Option<Duration>, limits: StreamLimits) -> Option<Self> {
        let lease_of_grants = limits.lease.filter(|_| basis.is_some());
        let remaining = basis.map(|basis| basis.remaining);
        let left = [remaining, lease, lease_of_grants].into_iter().flatten().min()?.min(LONGEST);
        let are_retries_off = remaining.is_some_and(|remaining| remaining < limits.retry_horizon);
        Some(Self { left, are_retries_off })
    }

    /// `caller_waits`: what the request itself says, of [`grpc_timeout`].
    #[must_use]
    pub fn headers(self, caller_waits: Option<Duration>) -> Vec<(&'static str, String)> {
        let mut headers = Vec::with_capacity(3);
        let mut cut = self.left.saturating_add(TIMER_SLACK);
        if caller_waits.is_some_and(|waits| waits > self.left) {
            headers.push((GRPC_TIMEOUT, grpc_text(self.left)));
            cut = self.left.saturating_add(GRPC_GRACE);
        }
        headers.push((STREAM_DURATION, millis_rounded_up(cut).to_string()));
        if self.are_retries_off {
            headers.push((MAX_RETRIES, "0".to_owned()));
        }
        headers
    }
}

/// How long the caller of a gRPC method waits. None of other requests, and of what nobody can read.
#[must_use]
pub fn grpc_timeout(request: &CheckRequest) -> Option<Duration> {
    let http = request.attributes.as_ref()?.request.as_ref()?.http.as_ref()?;
    if let Some(value) = http.headers.get(GRPC_TIMEOUT) {
        return read_grpc(value);
    }
    let raw = http.header_map.as_ref()?.headers.iter();
    let mut found = raw.filter(|header| header.key.eq_ignore_ascii_case(GRPC_TIMEOUT));
    let (header, None) = (found.next()?, found.next()) else { return None };
    match std::str::from_utf8(&header.raw_value) {
        Ok("") => read_grpc(&header.value),
        Ok(value) => read_grpc(value),
        Err(_) => None,
    }
}

fn read_grpc(value: &str) -> Option<Duration> {
    let unit = value.chars().last()?;
    let digits = value.strip_suffix(unit)?;
    let is_number =
        (1..=MAX_GRPC_DIGITS).contains(&digits.len()) && digits.bytes().all(|b| b.is_ascii_digit());
    let number: u64 = digits.parse().ok().filter(|_| is_number)?;
    Some(match unit {
        'H' => Duration::from_secs(number * 3600),
        'M' => Duration::from_secs(number * 60),
        'S' => Duration::from_secs(number),
        'm' => Duration::from_millis(number),
        'u' => Duration::from_micros(number),
        'n' => Duration::from_nanos(number),
        _ => return None,
    })
}

/// In the smallest of milliseconds and seconds that it fits in, rounded up.
fn grpc_text(left: Duration) -> String {
    let millis = millis_rounded_up(left);
    if millis < 10_u128.pow(8) {
        format!("{millis}m")
    } else {
        format!("{}S", millis.div_ceil(1000).min(10_u128.pow(8) - 1))
    }
}

/// Never 0, which would mean no limit at all.
fn millis_rounded_up(left: Duration) -> u128 {
    left.as_nanos().div_ceil(1_000_000).max(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMITS: StreamLimits = StreamLimits { lease: None, retry_horizon: Duration::from_secs(60) };

    fn basis(remaining: Duration) -> Basis {
        Basis {
            grants: vec!["g".into()],
            request: None,
            approved_by: Vec::new(),
            ticket: None,
            break_glass: false,
            expires_at: jiff::Timestamp::UNIX_EPOCH,
            remaining,
        }
    }

    fn shown(term: Option<Term>, caller_waits: Option<Duration>) -> String {
        let headers = term.map(|term| term.headers(caller_waits)).unwrap_or_default();
        headers.iter().map(|(name, value)| format!("{name}={value}")).collect::<Vec<_>>().join(" ")
    }

    #[test]
    fn the_shortest_of_all_limits_rounded_up_and_never_zero() {
        let leased = StreamLimits { lease: Some(Duration::from_secs(30)), ..LIMITS };
        let seconds = Duration::from_secs;
        for (left, lease, limits, expected) in [
            (Some(Duration::from_micros(90_000_001)), None, LIMITS, "90003"),
            (Some(seconds(90)), None, leased, "30002"),
            (Some(seconds(90)), Some(seconds(5)), leased, "5002"),
            (None, Some(seconds(5)), leased, "5002"),
            (Some(Duration::from_nanos(1)), None, LIMITS, "3 x-envoy-max-retries=0"),
            (Some(seconds(59)), None, LIMITS, "59002 x-envoy-max-retries=0"),
        ] {
            let basis = left.map(basis);
            let found = shown(Term::of(basis.as_ref(), lease, limits), None);
            assert_eq!(found, format!("{STREAM_DURATION}={expected}"));
        }
        assert_eq!(Term::of(None, None, leased), None);
    }

    #[test]
    fn who_waits_longer_than_is_left_is_told() {
        let term = Term::of(Some(&basis(Duration::from_secs(90))), None, LIMITS);
        let of = |waits| shown(term, Some(waits));
        assert_eq!(of(Duration::from_secs(90)), format!("{STREAM_DURATION}=90002"));
        assert_eq!(of(Duration::from_secs(91)), format!("grpc-timeout=90000m {STREAM_DURATION}=90050"));
        assert_eq!(grpc_text(Duration::from_secs(100_000)), "100000S");
        assert_eq!(grpc_text(Duration::from_nanos(1)), "1m");
    }

    #[test]
    fn what_grpc_does_not_allow_is_no_timeout() {
        for (text, expected) in [
            ("1H", Some(Duration::from_secs(3600))),
            ("2M", Some(Duration::from_secs(120))),
            ("99999999S", Some(Duration::from_secs(99_999_999))),
            ("5m", Some(Duration::from_millis(5))),
            ("7u", Some(Duration::from_micros(7))),
            ("9n", Some(Duration::from_nanos(9))),
            ("", None),
            ("S", None),
            ("5", None),
            ("100000000S", None),
            ("+5S", None),
            ("5S,6S", None),
            ("5é", None),
        ] {
            assert_eq!(read_grpc(text), expected, "{text}");
        }
    }
}
