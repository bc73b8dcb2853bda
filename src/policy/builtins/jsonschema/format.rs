//! `format`: the checks of gojsonschema, as near as they need be. A format that is not known passes.

use std::net::{Ipv4Addr, Ipv6Addr};

use jiff::civil::{Date, Time};

use super::super::regex::build;

/// Of a pattern, which has to be compiled to know.
const MAX_CHARS: usize = 4096;

pub fn is_format(name: &str, text: &str) -> bool {
    match name {
        "date" => is_date(text),
        "time" => is_time(text, false),
        "date-time" => is_time(text, false) || is_date(text) || is_date_time(text),
        "hostname" => is_hostname(text),
        "email" | "idn-email" => is_email(text),
        "ipv4" => text.parse::<Ipv4Addr>().is_ok(),
        "ipv6" => text.parse::<Ipv6Addr>().is_ok(),
        "uri" | "iri" => is_reference(text) && has_scheme(text),
        "uri-reference" | "iri-reference" => is_reference(text),
        "uri-template" => !text.contains('\\') && is_template(text),
        "uuid" => is_uuid(text),
        "regex" => text.len() <= MAX_CHARS && build(text).is_ok(),
        "json-pointer" => is_pointer(text),
        "relative-json-pointer" => is_relative_pointer(text),
        _ => true,
    }
}

fn is_date(text: &str) -> bool {
    text.len() == 10 && Date::strptime("%Y-%m-%d", text).is_ok()
}

/// `15:04:05`, with fractions, and an offset if there is one or must be one.
fn is_time(text: &str, needs_offset: bool) -> bool {
    let (clock, rest) = text.split_at_checked(8).unwrap_or((text, ""));
    let shape = clock.bytes().enumerate().all(|(index, byte)| match index {
        2 | 5 => byte == b':',
        _ => byte.is_ascii_digit(),
    });
    if !shape || Time::strptime("%H:%M:%S", clock).is_err() || clock.ends_with("60") {
        return false;
    }
    let rest = match rest.strip_prefix('.') {
        Some(fraction) => {
            let digits = fraction.trim_start_matches(|c: char| c.is_ascii_digit());
            if digits.len() == fraction.len() {
                return false;
            }
            digits
        }
        None => rest,
    };
    match rest {
        "" => !needs_offset,
        "Z" => true,
        _ => rest
            .strip_prefix(['+', '-'])
            .is_some_and(|offset| offset.len() == 5 && Time::strptime("%H:%M", offset).is_ok()),
    }
}

fn is_date_time(text: &str) -> bool {
    text.split_once('T').is_some_and(|(date, time)| is_date(date) && is_time(time, true))
}

fn is_hostname(text: &str) -> bool {
    let is_label = |label: &str| {
        (1..=63).contains(&label.len())
            && !label.starts_with('-')
            && !label.ends_with('-')
            && label.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-')
    };
    text.len() < 256 && text.split('.').all(is_label)
}

/// An address, or a name with one in angle brackets.
fn is_email(text: &str) -> bool {
    let address = match text.trim().strip_suffix('>') {
        Some(named) => named.rsplit_once('<').map_or("", |(_, address)| address),
        None => text.trim(),
    };
    address.rsplit_once('@').is_some_and(|(local, domain)| {
        let is_atom = |c: char| c.is_alphanumeric() || "!#$%&'*+-/=?^_`{|}~".contains(c);
        let dotted = |text: &str| text.split('.').all(|part| !part.is_empty() && part.chars().all(is_atom));
        let quoted = local.len() > 2 && local.starts_with('"') && local.ends_with('"');
        (quoted || dotted(local)) && (dotted(domain) || (domain.starts_with('[') && domain.ends_with(']')))
    })
}

fn is_reference(text: &str) -> bool {
    let mut bytes = text.bytes();
    while let Some(byte) = bytes.next() {
        let escaped = || byte == b'%';
        if byte < b' ' || byte == 0x7f || byte == b'\\' {
            return false;
        }
        if escaped() && !(0..2).all(|_| bytes.next().is_some_and(|digit| digit.is_ascii_hexdigit())) {
            return false;
        }
    }
    let host =
        text.split_once("//").map_or("", |(_, rest)| rest.split(['/', '?', '#']).next().unwrap_or_default());
    !text.starts_with(':') && !host.contains([' ', '"', '<', '>'])
}

fn has_scheme(text: &str) -> bool {
    text.split_once(':').is_some_and(|(scheme, _)| {
        scheme.starts_with(|c: char| c.is_ascii_alphabetic())
            && scheme.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"+-.".contains(&byte))
    })
}

/// Braces in pairs, not inside each other's end.
fn is_template(text: &str) -> bool {
    let mut rest = text;
    while let Some((_, after)) = rest.split_once('{') {
        let Some((_, after)) = after.split_once('}') else { return false };
        rest = after;
    }
    true
}

fn is_uuid(text: &str) -> bool {
    text.len() == 36
        && text.bytes().enumerate().all(|(index, byte)| match index {
            8 | 13 | 18 | 23 => byte == b'-',
            _ => byte.is_ascii_hexdigit(),
        })
}

fn is_pointer(text: &str) -> bool {
    let escapes = text.split('~').skip(1).all(|after| after.starts_with(['0', '1']));
    (text.is_empty() || text.starts_with('/')) && escapes
}

fn is_relative_pointer(text: &str) -> bool {
    let end = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (digits, rest) = text.split_at(end);
    !digits.is_empty() && (digits == "0" || !digits.starts_with('0')) && (rest == "#" || is_pointer(rest))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn formats() {
        for (name, good, bad) in [
            ("date", "2024-02-29", "2023-02-29"),
            ("time", "12:30:00Z", "12:30"),
            ("date-time", "2024-01-01T00:00:00.5+02:00", "2024-01-01 00:00:00"),
            ("hostname", "a-b.example", "-a"),
            ("email", "a.b@c.d", "a@"),
            ("ipv4", "1.2.3.4", "1.2.3"),
            ("ipv6", "::1", "1.2.3.4"),
            ("uri", "http://a/b", "/a"),
            ("uri", "http://a/b c", "http:// a.b"),
            ("uri-reference", "/a%20b", "%zz"),
            ("uuid", "123e4567-e89b-12d3-a456-426614174000", "123"),
            ("regex", "a+", "("),
            ("json-pointer", "/a~1b", "a"),
            ("relative-json-pointer", "1/a", "-1"),
            ("uri-template", "/{a}", "/{a"),
        ] {
            assert!(is_format(name, good), "{name} {good}");
            assert!(!is_format(name, bad), "{name} {bad}");
        }
        assert!(is_format("other", "x"));
    }
}
