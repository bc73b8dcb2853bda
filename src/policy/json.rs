//! JSON from outside, with the meaning it has in OPA.
//!
//! Not the engine's own reader, for three reasons. It takes `1e999999999` for a whole number and spends minutes and
//! gigabytes on its digits; it takes an object with one magic member name for a number; and it refuses what Go
//! accepts, a lone half of a surrogate pair. Request bodies are written by strangers, so each of these would be
//! theirs to use. Numbers stay exact here, and have bounds.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::hash::{DefaultHasher, Hash, Hasher};

use regorus::{Rc, Value};
use thiserror::Error;

/// Nesting that a body may have. Evaluation and release of a value recurse once per level, on stacks of 16 MiB.
pub const MAX_DEPTH: usize = 512;
/// Characters of one number. No identifier and no amount has more digits.
const MAX_NUMBER_CHARS: usize = 512;
/// Power of ten of one number, both ways: what a double can hold.
const MAX_EXPONENT: i64 = 308;

#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum JsonError {
    #[error("unexpected end of JSON input")]
    End,
    #[error("invalid character at offset {0}")]
    Unexpected(usize),
    #[error("invalid character after the top-level value at offset {0}")]
    Trailing(usize),
    #[error("nested deeper than {MAX_DEPTH} levels")]
    TooDeep,
    #[error("a number at offset {0} is out of range")]
    Number(usize),
}

/// Exactly one value, white space around it. Later members of one name win.
pub fn parse(text: &str) -> Result<Value, JsonError> {
    let mut parser = Parser { text, at: 0, names: Names(Vec::new()) };
    let value = parser.value(0)?;
    parser.skip_space();
    if parser.at == text.len() { Ok(value) } else { Err(JsonError::Trailing(parser.at)) }
}

/// What was read of a data file, or why not and at which byte.
///
/// Member names of equal text share it: data repeats them by the thousand.
pub fn parse_data(text: &str) -> Result<Value, (JsonError, usize)> {
    let mut parser = Parser { text, at: 0, names: Names(vec![None; Names::SLOTS]) };
    let value = parser.value(0).map_err(|error| (error, parser.at))?;
    parser.skip_space();
    if parser.at == text.len() { Ok(value) } else { Err((JsonError::Trailing(parser.at), parser.at)) }
}

/// Values in a text, if it is JSON; an empty list or object counts twice. Needs no memory, so that what is too much can
/// be refused before anything is made of it.
pub fn count(text: &[u8]) -> usize {
    let (mut count, mut in_string, mut is_escaped) = (1_usize, false, false);
    for byte in text {
        match byte {
            _ if is_escaped => is_escaped = false,
            b'\\' if in_string => is_escaped = true,
            b'"' => in_string = !in_string,
            b',' | b'[' | b'{' if !in_string => count = count.saturating_add(1),
            _ => {}
        }
    }
    count
}

/// A number as `to_number` takes it: JSON's form, and no other.
pub fn parse_number(text: &str) -> Result<Value, JsonError> {
    let mut parser = Parser { text, at: 0, names: Names(Vec::new()) };
    let value = parser.number()?;
    if parser.at == text.len() { Ok(value) } else { Err(JsonError::Trailing(parser.at)) }
}

/// Names seen lately, each at the place its hash says. A name that is not there any more is made anew, which costs
/// memory and nothing else; so no text can make this large.
struct Names(Vec<Option<Rc<str>>>);

impl Names {
    /// A few times as many as the records of one file have members.
    const SLOTS: usize = 4096;

    fn share(&mut self, name: &str) -> Rc<str> {
        if self.0.is_empty() {
            return name.into();
        }
        let mut hasher = DefaultHasher::new();
        name.hash(&mut hasher);
        let index = usize::try_from(hasher.finish() % Self::SLOTS as u64).unwrap_or(0);
        let Some(slot) = self.0.get_mut(index) else { return name.into() };
        match slot {
            Some(known) if known.as_ref() == name => Rc::clone(known),
            _ => Rc::clone(slot.insert(name.into())),
        }
    }
}

struct Parser<'a> {
    text: &'a str,
    at: usize,
    names: Names,
}

impl<'a> Parser<'a> {
    fn peek(&self) -> Option<u8> {
        self.text.as_bytes().get(self.at).copied()
    }

    fn skip_space(&mut self) {
        while let Some(b' ' | b'\t' | b'\n' | b'\r') = self.peek() {
            self.at += 1;
        }
    }

    fn next_token(&mut self) -> Result<u8, JsonError> {
        self.skip_space();
        self.peek().ok_or(JsonError::End)
    }

    fn expect(&mut self, literal: &str) -> Result<(), JsonError> {
        if self.text[self.at..].starts_with(literal) {
            self.at += literal.len();
            Ok(())
        } else {
            Err(self.unexpected())
        }
    }

    fn unexpected(&self) -> JsonError {
        if self.at < self.text.len() { JsonError::Unexpected(self.at) } else { JsonError::End }
    }

    fn value(&mut self, depth: usize) -> Result<Value, JsonError> {
        if depth > MAX_DEPTH {
            return Err(JsonError::TooDeep);
        }
        match self.next_token()? {
            b'{' => self.object(depth),
            b'[' => self.array(depth),
            b'"' => Ok(Value::String(self.string()?.as_ref().into())),
            b't' => self.expect("true").map(|()| Value::Bool(true)),
            b'f' => self.expect("false").map(|()| Value::Bool(false)),
            b'n' => self.expect("null").map(|()| Value::Null),
            b'-' | b'0'..=b'9' => self.number(),
            _ => Err(self.unexpected()),
        }
    }

    fn object(&mut self, depth: usize) -> Result<Value, JsonError> {
        let mut members = BTreeMap::new();
        self.at += 1;
        if self.next_token()? == b'}' {
            self.at += 1;
            return Ok(Value::from(members));
        }
        loop {
            if self.next_token()? != b'"' {
                return Err(self.unexpected());
            }
            let name = self.string()?;
            let name = self.names.share(&name);
            self.next_token()?;
            self.expect(":")?;
            members.insert(Value::String(name), self.value(depth + 1)?);
            match self.next_token()? {
                b',' => self.at += 1,
                b'}' => break,
                _ => return Err(self.unexpected()),
            }
        }
        self.at += 1;
        Ok(Value::from(members))
    }

    fn array(&mut self, depth: usize) -> Result<Value, JsonError> {
        let mut items = Vec::new();
        self.at += 1;
        if self.next_token()? == b']' {
            self.at += 1;
            return Ok(Value::from(items));
        }
        loop {
            items.push(self.value(depth + 1)?);
            match self.next_token()? {
                b',' => self.at += 1,
                b']' => break,
                _ => return Err(self.unexpected()),
            }
        }
        self.at += 1;
        // It lives as long as the policy, and grew with room to spare.
        items.shrink_to_fit();
        Ok(Value::from(items))
    }

    fn string(&mut self) -> Result<Cow<'a, str>, JsonError> {
        let mut result = Cow::Borrowed("");
        self.at += 1;
        loop {
            let rest = &self.text[self.at..];
            let is_special = |byte: &u8| matches!(byte, b'"' | b'\\' | 0..=0x1f);
            let plain = rest.as_bytes().iter().position(is_special).ok_or(JsonError::End)?;
            // Adding to nothing borrows: most strings have no escapes.
            result += &rest[..plain];
            self.at += plain;
            match self.peek() {
                Some(b'"') => {
                    self.at += 1;
                    return Ok(result);
                }
                Some(b'\\') => result.to_mut().push(self.escape()?),
                _ => return Err(self.unexpected()),
            }
        }
    }

    fn escape(&mut self) -> Result<char, JsonError> {
        self.at += 1;
        let escaped = match self.peek().ok_or(JsonError::End)? {
            b'"' => '"',
            b'\\' => '\\',
            b'/' => '/',
            b'b' => '\u{8}',
            b'f' => '\u{c}',
            b'n' => '\n',
            b'r' => '\r',
            b't' => '\t',
            b'u' => return self.unicode_escape(),
            _ => return Err(self.unexpected()),
        };
        self.at += 1;
        Ok(escaped)
    }

    /// At the `u`. Half a surrogate pair without the other becomes U+FFFD, as in Go.
    fn unicode_escape(&mut self) -> Result<char, JsonError> {
        self.at += 1;
        let first = self.hex_unit(self.at).ok_or_else(|| self.unexpected())?;
        self.at += 4;
        let rest = &self.text.as_bytes()[self.at..];
        let second = if rest.starts_with(b"\\u") { self.hex_unit(self.at + 2) } else { None };
        match (first, second) {
            (0xd800..=0xdbff, Some(low @ 0xdc00..=0xdfff)) => {
                self.at += 6;
                Ok(char::decode_utf16([first, low])
                    .next()
                    .and_then(Result::ok)
                    .unwrap_or(char::REPLACEMENT_CHARACTER))
            }
            _ => Ok(char::from_u32(first.into()).unwrap_or(char::REPLACEMENT_CHARACTER)),
        }
    }

    fn hex_unit(&self, at: usize) -> Option<u16> {
        let digits = self.text.as_bytes().get(at..at + 4)?;
        digits.iter().try_fold(0_u16, |unit, digit| {
            let value = char::from(*digit).to_digit(16).and_then(|value| u16::try_from(value).ok())?;
            Some(unit << 4 | value)
        })
    }

    fn number(&mut self) -> Result<Value, JsonError> {
        let start = self.at;
        if self.peek() == Some(b'-') {
            self.at += 1;
        }
        if self.peek() == Some(b'0') {
            self.at += 1;
        } else {
            self.digits()?;
        }
        let mut is_whole = true;
        if self.peek() == Some(b'.') {
            is_whole = false;
            self.at += 1;
            self.digits()?;
        }
        let mut exponent = 0;
        if let Some(b'e' | b'E') = self.peek() {
            is_whole = false;
            self.at += 1;
            let from = self.at;
            if let Some(b'+' | b'-') = self.peek() {
                self.at += 1;
            }
            self.digits()?;
            exponent = self.text[from..self.at].parse().map_err(|_| JsonError::Number(start))?;
        }
        let text = &self.text[start..self.at];
        let out_of_range = || JsonError::Number(start);
        if text.len() > MAX_NUMBER_CHARS || !(-MAX_EXPONENT..=MAX_EXPONENT).contains(&exponent) {
            return Err(out_of_range());
        }
        match text.parse::<i64>() {
            Ok(value) if is_whole => Ok(Value::from(value)),
            _ => Value::from_numeric_string(text).map_err(|_| out_of_range()),
        }
    }

    fn digits(&mut self) -> Result<(), JsonError> {
        let rest = &self.text.as_bytes()[self.at..];
        match rest.iter().take_while(|byte| byte.is_ascii_digit()).count() {
            0 => Err(self.unexpected()),
            count => {
                self.at += count;
                Ok(())
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn reads_what_json_is_and_nothing_else() {
        for good in [
            "null",
            " true ",
            "[]",
            "[1, [2], {}]",
            r#"{"a":{"b":[null]}}"#,
            "-0",
            "0.5e-3",
            "1E+2",
            r#""\"\\\/\b\f\n\r\t\u00e9""#,
            "\"é\"",
        ] {
            let ours = parse(good).map(|value| value.to_json_str().unwrap());
            let theirs = Value::from_json_str(good).unwrap().to_json_str().unwrap();
            assert_eq!(ours, Ok(theirs), "{good}");
        }
        for bad in [
            "",
            " ",
            "nul",
            "truex",
            "[1,]",
            "[1 2]",
            "[",
            "{",
            r#"{"a"}"#,
            r#"{"a":}"#,
            r#"{"a":1,}"#,
            "{1:2}",
            "01",
            "1.",
            ".5",
            "+1",
            "1e",
            "-",
            "\"",
            "\"\u{1}\"",
            r#""\x""#,
            r#""\u12""#,
            r#""\"#,
            "1 x",
            "'a'",
            "NaN",
            "a: 1",
        ] {
            assert!(parse(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn numbers_stay_exact_and_within_bounds() {
        let text = |source: &str| parse(source).map(|value| value.to_json_str().unwrap());
        assert_eq!(text("12345678901234567890123").as_deref(), Ok("12345678901234567890123"));
        assert_eq!(parse("1e3"), parse("1000"));
        assert_ne!(parse("12345678901234567890123"), parse("12345678901234567890124"));
        assert_eq!(text("18446744073709551615").as_deref(), Ok("18446744073709551615"));
        for large in ["1e309", "1e999999999", "-1E-999999999999999999999", &"9".repeat(600), "1e-309"] {
            assert!(matches!(parse(large), Err(JsonError::Number(0))), "{large}");
        }
        assert_eq!(parse(r#"{"$serde_json::private::Number":"1"}"#).unwrap().as_object().unwrap().len(), 1);
    }

    #[test]
    fn strings_as_in_go() {
        let text = |source: &str| parse(source).map(|value| value.as_string().unwrap().to_string());
        assert_eq!(text(r#""\ud83d\ude00""#).as_deref(), Ok("😀"));
        assert_eq!(text(r#""\ud800x\udc00""#).as_deref(), Ok("\u{fffd}x\u{fffd}"));
        assert_eq!(text(r#""\ud800A""#).as_deref(), Ok("\u{fffd}A"));
        assert_eq!(text(r#""\\ud800""#).as_deref(), Ok("\\ud800"));
        let twice = parse(r#"{"a":1,"a":2}"#).unwrap();
        assert_eq!(twice, parse(r#"{"a":2}"#).unwrap());
    }

    #[test]
    fn values_are_counted_before_they_are_read() {
        for (text, wanted) in [
            ("7", 1),
            (r#"[1, [2, "a,[{\",", 3]]"#, 6),
            (r#"{"a": {"b": 1}, "c": [null]}"#, 5),
            (r#"["\\", 1]"#, 3),
            ("", 1),
        ] {
            assert_eq!(count(text.as_bytes()), wanted, "{text}");
        }
    }

    #[test]
    fn data_shares_its_names_and_says_where_it_is_wrong() {
        let value = parse_data(r#"[{"name": 1}, {"n\u0061me": 2}]"#).unwrap();
        let name = |index: usize| {
            let (name, _) = value.as_array().unwrap()[index].as_object().unwrap().iter().next().unwrap();
            Rc::clone(name.as_string().unwrap())
        };
        assert!(Rc::ptr_eq(&name(0), &name(1)));
        assert_eq!(parse_data("{\"a\":\n x}"), Err((JsonError::Unexpected(7), 7)));
    }

    #[test]
    fn depth_is_bounded() {
        let nested = |depth: usize| "[".repeat(depth) + &"]".repeat(depth);
        assert!(parse(&nested(MAX_DEPTH)).is_ok());
        assert_eq!(parse(&nested(MAX_DEPTH + 2)), Err(JsonError::TooDeep));
        assert_eq!(parse(&"[".repeat(1 << 20)), Err(JsonError::TooDeep));
    }

    proptest! {
        #[test]
        fn agrees_with_serde_json(text in r#"[\[\]{}:,"\\ua0-9eE.+\- \ntrufalsn]{0,24}"#) {
            let theirs = serde_json::from_str::<serde_json::Value>(&text);
            match parse(&text) {
                Ok(_) => prop_assert!(theirs.is_ok() || text.contains("\\u"), "{}", text),
                Err(JsonError::Number(_)) => {}
                Err(_) => prop_assert!(theirs.is_err(), "{}", text),
            }
        }
    }
}
