//! Semantic versions as OPA reads them: a `v` in front is allowed, and leading zeros are.

#![allow(clippy::unnecessary_wraps, reason = "the shape of a built-in")]

use std::cmp::Ordering;

use regorus::Value;

use super::sprintf::quoted;
use super::{Builtin, Fault, Outcome, binary, text, unary};

pub const BUILTINS: [Builtin; 2] = [binary("semver.compare", compare), unary("semver.is_valid", is_valid)];

struct Version<'a> {
    numbers: [i64; 3],
    pre_release: &'a str,
}

fn parse(text: &str) -> Option<Version<'_>> {
    let text = text.strip_prefix('v').unwrap_or(text);
    let (text, build) = text.split_once('+').unwrap_or((text, ""));
    let (text, pre_release) = text.split_once('-').unwrap_or((text, ""));
    let is_identifier = |part: &str| {
        !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-')
    };
    let is_valid = |part: &str| part.is_empty() || part.split('.').all(is_identifier);
    let numbers: Vec<i64> = text.split('.').map(str::parse).collect::<Result<_, _>>().ok()?;
    (is_valid(build) && is_valid(pre_release))
        .then_some(Version { numbers: numbers.try_into().ok()?, pre_release })
}

fn order(a: &Version<'_>, b: &Version<'_>) -> Ordering {
    let pre_releases = || match (a.pre_release, b.pre_release) {
        (a, b) if a == b => Ordering::Equal,
        ("", _) => Ordering::Greater,
        (_, "") => Ordering::Less,
        (a, b) => {
            let parts = a.split('.').zip(b.split('.')).map(|(a, b)| part_order(a, b));
            let first = parts.into_iter().find(|order| order.is_ne());
            first.unwrap_or_else(|| a.split('.').count().cmp(&b.split('.').count()))
        }
    };
    a.numbers.cmp(&b.numbers).then_with(pre_releases)
}

fn part_order(a: &str, b: &str) -> Ordering {
    let is_number = |part: &str| part.bytes().all(|byte| byte.is_ascii_digit());
    match (is_number(a), is_number(b)) {
        (true, false) => Ordering::Less,
        (false, true) => Ordering::Greater,
        (false, false) => a.cmp(b),
        (true, true) => {
            let (a, b) = (a.trim_start_matches('0'), b.trim_start_matches('0'));
            a.len().cmp(&b.len()).then_with(|| a.cmp(b))
        }
    }
}

fn compare(a: &Value, b: &Value) -> Outcome {
    let (a, b) = (text(1, a)?, text(2, b)?);
    let version = |position: usize, text| {
        let fault = || {
            Fault::failed(format!("operand {position}: string {} is not a valid SemVer", quoted(text, '"')))
        };
        parse(text).ok_or_else(fault)
    };
    Ok(Value::from(order(&version(1, a)?, &version(2, b)?) as i64))
}

fn is_valid(value: &Value) -> Outcome {
    Ok(Value::Bool(value.as_string().is_ok_and(|text| parse(text).is_some())))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn order_of_the_specification() {
        let versions = [
            "1.0.0-alpha",
            "1.0.0-alpha.1",
            "1.0.0-alpha.beta",
            "1.0.0-2beta",
            "1.0.0-beta.2",
            "1.0.0-beta.11",
            "v1.0.0",
        ];
        let ordered = [
            "1.0.0-2beta",
            "1.0.0-alpha",
            "1.0.0-alpha.1",
            "1.0.0-alpha.beta",
            "1.0.0-beta.2",
            "1.0.0-beta.11",
            "v1.0.0",
        ];
        let mut sorted = versions;
        sorted.sort_by(|a, b| order(&parse(a).unwrap(), &parse(b).unwrap()));
        assert_eq!(sorted, ordered);
        for bad in ["1.0", "1.0.0.0", "1.0.x", "1.0.0-a..b", "1.0.0+ä", "", "1.0.99999999999999999999"] {
            assert!(parse(bad).is_none(), "{bad}");
        }
    }
}
