//! Go's `net/url`, as far as OPA-Envoy uses it. Policies compare these results, so the corners are Go's too.

use std::collections::BTreeMap;

use thiserror::Error;

#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum UrlError {
    #[error("invalid URL escape {0:?}")]
    Escape(String),
    #[error("invalid semicolon separator in query")]
    Semicolon,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Mode {
    Path,
    /// `+` is a space.
    Query,
}

/// `url.PathUnescape`.
pub fn path_unescape(text: &str) -> Result<String, UrlError> {
    unescape(text, Mode::Path)
}

/// Values by name. A tree, because strangers choose how many names there are.
pub type Values = BTreeMap<String, Vec<String>>;

/// `url.ParseQuery`.
pub fn parse_query(text: &str) -> Result<Values, UrlError> {
    let mut values = Values::new();
    for pair in text.split('&').filter(|pair| !pair.is_empty()) {
        if pair.contains(';') {
            return Err(UrlError::Semicolon);
        }
        let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
        let (name, value) = (unescape(name, Mode::Query)?, unescape(value, Mode::Query)?);
        values.entry(name).or_default().push(value);
    }
    Ok(values)
}

fn unescape(text: &str, mode: Mode) -> Result<String, UrlError> {
    if !text.contains('%') && (mode == Mode::Path || !text.contains('+')) {
        return Ok(text.to_owned());
    }
    let bytes = text.as_bytes();
    let mut decoded = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while let Some(byte) = bytes.get(at) {
        match byte {
            b'%' => {
                let digits = bytes.get(at + 1..at + 3).and_then(|pair| Some((hex(pair[0])?, hex(pair[1])?)));
                let Some((high, low)) = digits else {
                    let end = bytes.len().min(at + 3);
                    return Err(UrlError::Escape(String::from_utf8_lossy(&bytes[at..end]).into_owned()));
                };
                decoded.push(high << 4 | low);
                at += 3;
                continue;
            }
            b'+' if mode == Mode::Query => decoded.push(b' '),
            other => decoded.push(*other),
        }
        at += 1;
    }
    Ok(to_text(&decoded))
}

fn hex(byte: u8) -> Option<u8> {
    char::from(byte).to_digit(16).and_then(|digit| u8::try_from(digit).ok())
}

/// Go keeps any bytes in a string and replaces invalid ones, each for itself, when it writes JSON.
pub fn to_text(bytes: &[u8]) -> String {
    let mut text = String::with_capacity(bytes.len());
    for chunk in bytes.utf8_chunks() {
        text.push_str(chunk.valid());
        text.extend(chunk.invalid().iter().map(|_| char::REPLACEMENT_CHARACTER));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unescapes_as_go_does() {
        for (text, expected) in [
            ("/a+b%20c", Ok("/a+b c".to_owned())),
            ("%2Fx", Ok("/x".to_owned())),
            ("/a%ff%fe", Ok("/a\u{fffd}\u{fffd}".to_owned())),
            ("/%zzz", Err(UrlError::Escape("%zz".to_owned()))),
            ("/a%2", Err(UrlError::Escape("%2".to_owned()))),
            ("%", Err(UrlError::Escape("%".to_owned()))),
        ] {
            assert_eq!(path_unescape(text), expected, "{text}");
        }
        assert_eq!(UrlError::Escape("%zz".into()).to_string(), "invalid URL escape \"%zz\"");
    }

    #[test]
    fn queries_as_go_reads_them() {
        let pairs = |text: &str| parse_query(text).map(|pairs| format!("{pairs:?}"));
        for (text, expected) in [
            ("", "{}"),
            ("&&", "{}"),
            ("a=1&b=2&a=3", r#"{"a": ["1", "3"], "b": ["2"]}"#),
            ("a&b=&=v", r#"{"": ["v"], "a": [""], "b": [""]}"#),
            ("q=a+b%20c=d", r#"{"q": ["a b c=d"]}"#),
            ("a%5B%5D=1", r#"{"a[]": ["1"]}"#),
        ] {
            assert_eq!(pairs(text).as_deref(), Ok(expected), "{text}");
        }
        assert_eq!(pairs("a=1;b=2"), Err(UrlError::Semicolon));
        assert!(pairs("a=%zz").is_err());
    }
}
