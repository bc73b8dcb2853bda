//! `data.yaml`, with the meaning that the YAML library of OPA gives it: YAML 1.1, so that `yes` is true and `010` is 8.
//!
//! Made from the parser's events and not by a loader: a few lines of aliases of aliases stand for gigabytes.

use std::collections::HashMap;

use saphyr_parser::{Event, Parser, ScalarStyle, StrInput, Tag};
use serde_json::{Map, Number, Value as Json};

use super::BundleError;

/// Nesting of a document; the same as the JSON reader's.
const MAX_DEPTH: usize = 128;
/// Values that aliases may stand for, all together. People write each of them by hand, or leave them be.
const MAX_ALIASED_VALUES: usize = 100_000;

pub fn parse(path: &str, bytes: &[u8]) -> Result<Json, BundleError> {
    let wrong = |message: String| BundleError::Content(format!("{path}: not YAML: {message}"));
    let text = std::str::from_utf8(bytes).map_err(|error| wrong(error.to_string()))?;
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let mut reader =
        Reader { parser: Parser::new_from_str(text), anchors: HashMap::new(), aliased: 0, line: 1 };
    reader.document().map_err(|message| wrong(format!("line {}: {message}", reader.line)))
}

struct Reader<'t> {
    parser: Parser<'t, StrInput<'t>>,
    anchors: HashMap<usize, Json>,
    aliased: usize,
    line: usize,
}

impl<'t> Reader<'t> {
    fn next(&mut self) -> Result<Event<'t>, String> {
        match self.parser.next_event() {
            Some(Ok((event, span))) => {
                self.line = span.start.line();
                Ok(event)
            }
            Some(Err(error)) => {
                self.line = error.marker().line();
                Err(error.info().to_owned())
            }
            None => Err("it ends too early".to_owned()),
        }
    }

    fn document(&mut self) -> Result<Json, String> {
        let mut document = Json::Null;
        let mut has_begun = false;
        loop {
            match self.next()? {
                Event::StreamEnd => return Ok(document),
                Event::DocumentStart(_) if has_begun => {
                    return Err("more than one document in a file".to_owned());
                }
                Event::DocumentStart(_) => {
                    has_begun = true;
                    let event = self.next()?;
                    document = self.value(event, 0)?;
                }
                _ => {}
            }
        }
    }

    fn value(&mut self, event: Event<'t>, depth: usize) -> Result<Json, String> {
        if depth > MAX_DEPTH {
            return Err(format!("nested deeper than {MAX_DEPTH} levels"));
        }
        let (value, anchor) = match event {
            Event::Scalar(text, style, anchor, tag) => (scalar(&text, style, tag.as_deref())?, anchor),
            Event::SequenceStart(anchor, _) => (self.sequence(depth)?, anchor),
            Event::MappingStart(anchor, _) => (self.mapping(depth)?, anchor),
            Event::Alias(anchor) => return self.alias(anchor, depth),
            _ => return Err("a value is missing".to_owned()),
        };
        if anchor != 0 {
            self.anchors.insert(anchor, value.clone());
        }
        Ok(value)
    }

    fn alias(&mut self, anchor: usize, depth: usize) -> Result<Json, String> {
        let value = self.anchors.get(&anchor).ok_or("an alias stands within what it names")?;
        let (count, height) = extent(value);
        self.aliased = self.aliased.saturating_add(count);
        if self.aliased > MAX_ALIASED_VALUES || depth.saturating_add(height) > MAX_DEPTH {
            return Err(format!(
                "its aliases stand for more than {MAX_ALIASED_VALUES} values, or too deep ones"
            ));
        }
        Ok(value.clone())
    }

    fn sequence(&mut self, depth: usize) -> Result<Json, String> {
        let mut items = Vec::new();
        loop {
            match self.next()? {
                Event::SequenceEnd => return Ok(Json::Array(items)),
                event => items.push(self.value(event, depth + 1)?),
            }
        }
    }

    fn mapping(&mut self, depth: usize) -> Result<Json, String> {
        let mut members = Map::new();
        let mut merged = Vec::new();
        loop {
            let is_merge;
            let key = match self.next()? {
                Event::MappingEnd => break,
                event => {
                    is_merge = matches!(&event, Event::Scalar(text, ScalarStyle::Plain, ..) if text == "<<");
                    self.value(event, depth + 1)?
                }
            };
            let event = self.next()?;
            let value = self.value(event, depth + 1)?;
            if is_merge {
                merged.push(value);
                continue;
            }
            let key = match key {
                Json::String(text) => text,
                scalar @ (Json::Bool(_) | Json::Number(_)) => scalar.to_string(),
                Json::Null => return Err("null cannot be a key".to_owned()),
                Json::Array(_) | Json::Object(_) => {
                    return Err("a list or mapping cannot be a key".to_owned());
                }
            };
            members.insert(key, value);
        }
        for value in merged {
            merge(&mut members, value)?;
        }
        Ok(Json::Object(members))
    }
}

/// `<<`: the members of another mapping, or of several, where this one has none of its own.
fn merge(members: &mut Map<String, Json>, value: Json) -> Result<(), String> {
    match value {
        Json::Object(others) => {
            for (name, value) in others {
                members.entry(name).or_insert(value);
            }
            Ok(())
        }
        Json::Array(items) if items.iter().all(Json::is_object) => {
            items.into_iter().try_for_each(|item| merge(members, item))
        }
        _ => Err("`<<` needs a mapping".to_owned()),
    }
}

/// Values in it, and levels.
fn extent(value: &Json) -> (usize, usize) {
    let of_parts = |parts: &mut dyn Iterator<Item = &Json>| {
        parts.map(extent).fold((1, 1), |(count, height), (more, below)| (count + more, height.max(below + 1)))
    };
    match value {
        Json::Array(items) => of_parts(&mut items.iter()),
        Json::Object(members) => of_parts(&mut members.values()),
        _ => (1, 1),
    }
}

fn scalar(text: &str, style: ScalarStyle, tag: Option<&Tag>) -> Result<Json, String> {
    let core = tag.filter(|tag| tag.is_yaml_core_schema()).map(|tag| tag.suffix.as_str());
    match core {
        Some("binary") => return Err("binary values are not supported".to_owned()),
        Some("str") => return Ok(Json::from(text)),
        _ => {}
    }
    if style != ScalarStyle::Plain {
        return Ok(Json::from(text));
    }
    Ok(match text {
        "" | "~" | "null" | "Null" | "NULL" => Json::Null,
        "y" | "Y" | "yes" | "Yes" | "YES" | "true" | "True" | "TRUE" | "on" | "On" | "ON" => Json::Bool(true),
        "n" | "N" | "no" | "No" | "NO" | "false" | "False" | "FALSE" | "off" | "Off" | "OFF" => {
            Json::Bool(false)
        }
        ".inf" | ".Inf" | ".INF" | "+.inf" | "+.Inf" | "+.INF" | "-.inf" | "-.Inf" | "-.INF" | ".nan"
        | ".NaN" | ".NAN" => return Err(format!("{text} has no place in JSON")),
        _ => number(text).map_or_else(|| Json::from(text), Json::Number),
    })
}

/// What looks like a number to Go's `ParseInt` with base 0, or to YAML 1.1's form of floats.
fn number(text: &str) -> Option<Number> {
    if !text.starts_with(|c: char| c.is_ascii_digit() || "+-.".contains(c)) {
        return None;
    }
    let plain = text.replace('_', "");
    let (sign, digits) = match plain.strip_prefix(['+', '-']) {
        Some(digits) => (if plain.starts_with('-') { "-" } else { "" }, digits),
        None => ("", plain.as_str()),
    };
    if let Some(magnitude) = whole(digits) {
        let is_in_range = sign.is_empty() || i128::from(magnitude) <= 1 << 63;
        if is_in_range {
            return if magnitude == 0 { "0".parse().ok() } else { format!("{sign}{magnitude}").parse().ok() };
        }
    }
    if !is_float(digits) {
        return None;
    }
    let value: f64 = plain.parse().ok().filter(|value: &f64| value.is_finite())?;
    go_float(value).parse().ok()
}

fn whole(digits: &str) -> Option<u64> {
    let radix = |prefix: [&str; 2], radix| {
        let rest = digits.strip_prefix(prefix[0]).or_else(|| digits.strip_prefix(prefix[1]))?;
        Some((rest, radix))
    };
    let (digits, radix) = radix(["0x", "0X"], 16)
        .or_else(|| radix(["0o", "0O"], 8))
        .or_else(|| radix(["0b", "0B"], 2))
        .or_else(|| digits.strip_prefix('0').filter(|rest| !rest.is_empty()).map(|rest| (rest, 8)))
        .unwrap_or((digits, 10));
    if digits.starts_with(['+', '-']) { None } else { u64::from_str_radix(digits, radix).ok() }
}

/// `[0-9]+(\.[0-9]*)?([eE][-+]?[0-9]+)?`, or with no digits before the point.
fn is_float(text: &str) -> bool {
    let (mantissa, exponent) = match text.split_once(['e', 'E']) {
        Some((mantissa, exponent)) => (mantissa, Some(exponent)),
        None => (text, None),
    };
    let are_digits = |text: &str| text.bytes().all(|byte| byte.is_ascii_digit());
    let (before, behind) = mantissa.split_once('.').unwrap_or((mantissa, ""));
    let has_exponent = exponent.is_none_or(|exponent| {
        let digits = exponent.strip_prefix(['+', '-']).unwrap_or(exponent);
        !digits.is_empty() && are_digits(digits)
    });
    are_digits(before) && are_digits(behind) && !(before.is_empty() && behind.is_empty()) && has_exponent
}

/// As Go writes a float64 in JSON, which is what a signature covers.
fn go_float(value: f64) -> String {
    let size = value.abs();
    if value == 0.0 || (1e-6..1e21).contains(&size) {
        return value.to_string();
    }
    let text = format!("{value:e}");
    if text.contains("e-") { text } else { text.replace('e', "e+") }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    fn read(text: &str) -> Result<Json, String> {
        parse("data.yaml", text.as_bytes()).map_err(|error| error.to_string())
    }

    #[test]
    fn scalars_as_in_yaml_1_1() {
        for (text, expected) in [
            ("yes", "true"),
            ("Off", "false"),
            ("'yes'", "\"yes\""),
            ("!!str yes", "\"yes\""),
            ("~", "null"),
            ("''", "\"\""),
            ("010", "8"),
            ("0x1F", "31"),
            ("-0b11", "-3"),
            ("1_000", "1000"),
            ("+12", "12"),
            ("-0", "0"),
            ("089", "89"),
            ("18446744073709551615", "18446744073709551615"),
            ("-9223372036854775808", "-9223372036854775808"),
            ("18446744073709551616", "18446744073709552000"),
            ("1.0", "1"),
            ("1e3", "1000"),
            (".5", "0.5"),
            ("1e21", "1e+21"),
            ("0.0000001", "1e-7"),
            ("1.", "1"),
            ("1e", "\"1e\""),
            ("1.2.3", "\"1.2.3\""),
            ("2001-01-01", "\"2001-01-01\""),
            ("-", "\"-\""),
            ("--1", "\"--1\""),
            ("0x", "\"0x\""),
            ("1e999", "\"1e999\""),
            ("12e03 ", "12000"),
        ] {
            // A lone dash begins a list.
            let found = if text == "-" { scalar(text, ScalarStyle::Plain, None) } else { read(text) };
            assert_eq!(found.map(|value| value.to_string()), Ok(expected.to_owned()), "{text}");
        }
        for bad in [".inf", "-.INF", ".NaN", "!!binary aGk="] {
            assert!(read(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn documents() {
        assert_eq!(
            read("a: {1: x, true: z}\nb:\n- [c]\n"),
            Ok(json!({"a": {"1": "x", "true": "z"}, "b": [["c"]]}))
        );
        assert_eq!(read(""), Ok(Json::Null));
        assert_eq!(read("a: &x {p: 1, q: 2}\nb: *x\nc: {<<: *x, q: 3}\n"), {
            Ok(json!({"a": {"p": 1, "q": 2}, "b": {"p": 1, "q": 2}, "c": {"p": 1, "q": 3}}))
        });
        for bad in ["a: [", "--- 1\n--- 2\n", "{[a]: 1}", "~: 1", "a: *b", "a: &a [*a]", "<<: 1"] {
            assert!(read(bad).is_err(), "{bad}");
        }
        assert!(read("a: 1\nb: [}\n").unwrap_err().contains("line 2"));
    }

    proptest! {
        #[test]
        fn whatever_it_is_it_ends(text in r#"[\[\]{}:,"'&*<!|>?#%@a0-9.\- \n\tyn]{0,40}"#) {
            _ = parse("f", text.as_bytes());
        }
    }

    #[test]
    fn bombs_are_not_carried_out() {
        let mut bomb = "a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n".to_owned();
        for level in 1..12 {
            let below = format!("*a{}", level - 1);
            bomb.push_str(&[&format!("a{level}: &a{level} ["), &*vec![below; 10].join(", "), "]\n"].concat());
        }
        assert!(read(&bomb).unwrap_err().contains("aliases"));
        let mut tower = "a0: &a0 [x]\n".to_owned();
        for level in 1..200 {
            tower.push_str(
                &[
                    "a",
                    &level.to_string(),
                    ": &a",
                    &level.to_string(),
                    " [*a",
                    &(level - 1).to_string(),
                    "]\n",
                ]
                .concat(),
            );
        }
        assert!(read(&tower).is_err());
        assert!(read(&"[".repeat(10_000)).is_err());
    }
}
