//! Base64 as Go's decoder takes it: line breaks anywhere, padding required or forbidden, unused bits ignored.

use std::fmt;
use std::sync::LazyLock;

use data_encoding::{BASE64, BASE64URL_NOPAD, Encoding, Specification};

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum BadBase64 {
    At(usize),
    /// Base64url of a length that no bytes have.
    Length(String),
}

impl fmt::Display for BadBase64 {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::At(offset) => write!(f, "illegal base64 data at input byte {offset}"),
            Self::Length(text) => write!(f, "illegal base64url string: {text}"),
        }
    }
}

const STANDARD_SYMBOLS: &str = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
const URL_SYMBOLS: &str = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";

static STANDARD: LazyLock<Option<Encoding>> = LazyLock::new(|| lenient(STANDARD_SYMBOLS, Some('=')));
static URL: LazyLock<Option<Encoding>> = LazyLock::new(|| lenient(URL_SYMBOLS, Some('=')));
static URL_BARE: LazyLock<Option<Encoding>> = LazyLock::new(|| lenient(URL_SYMBOLS, None));
static STANDARD_BARE: LazyLock<Option<Encoding>> = LazyLock::new(|| lenient(STANDARD_SYMBOLS, None));

fn lenient(symbols: &str, padding: Option<char>) -> Option<Encoding> {
    let mut specification = Specification::new();
    specification.symbols.push_str(symbols);
    specification.padding = padding;
    specification.ignore.push_str("\r\n");
    specification.check_trailing_bits = false;
    specification.encoding().ok()
}

fn decode(encoding: Option<&Encoding>, text: &str) -> Result<Vec<u8>, BadBase64> {
    let encoding = encoding.ok_or(BadBase64::At(0))?;
    // The decoder would go on after padding, as with files put one after another.
    if let Some(padding) = text.find('=') {
        let after = text[padding..].find(|c| !matches!(c, '=' | '\r' | '\n'));
        if let Some(after) = after {
            return Err(BadBase64::At(padding + after));
        }
    }
    encoding.decode(text.as_bytes()).map_err(|error| BadBase64::At(error.position))
}

/// `base64.StdEncoding`.
pub fn standard(text: &str) -> Result<Vec<u8>, BadBase64> {
    decode(STANDARD.as_ref(), text)
}

/// OPA's `base64url.decode`: padded or not.
pub fn url(text: &str) -> Result<Vec<u8>, BadBase64> {
    if text.ends_with('=') {
        return decode(URL.as_ref(), text);
    }
    // Most tokens are strict base64url, and its decoder is several times faster.
    if let Ok(bytes) = BASE64URL_NOPAD.decode(text.as_bytes()) {
        return Ok(bytes);
    }
    if text.len() % 4 == 1 {
        return Err(BadBase64::Length(text.to_owned()));
    }
    decode(URL_BARE.as_ref(), text)
}

/// As RFC 7515 has it: no padding, no line breaks, no bits left over.
#[must_use]
pub fn strict_url(text: &str) -> Option<Vec<u8>> {
    BASE64URL_NOPAD.decode(text.as_bytes()).ok()
}

/// Members of keys, which come in either alphabet, padded or not.
pub fn of_key(text: &str) -> Result<Vec<u8>, BadBase64> {
    let bare = text.trim_end_matches('=');
    let encoding = if bare.contains(['+', '/']) { &STANDARD_BARE } else { &URL_BARE };
    decode(encoding.as_ref(), bare)
}

#[must_use]
pub fn encode(bytes: &[u8]) -> String {
    BASE64.encode(bytes)
}

#[must_use]
pub fn encode_url(bytes: &[u8]) -> String {
    BASE64URL_NOPAD.encode(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn takes_what_go_takes() {
        for good in ["YWI=", "YW\r\nI=", "YWJ="] {
            assert_eq!(standard(good), Ok(b"ab".to_vec()), "{good:?}");
        }
        for good in ["YWI", "YWI=", "YWJ", "YW\nI="] {
            assert_eq!(url(good), Ok(b"ab".to_vec()), "{good:?}");
        }
        assert_eq!(standard("foobar"), Err(BadBase64::At(4)));
        assert_eq!(standard("YWI=YWI="), Err(BadBase64::At(4)));
        assert_eq!(url("YW(I"), Err(BadBase64::At(2)));
        assert_eq!(url("YWIXY"), Err(BadBase64::Length("YWIXY".to_owned())));
        assert_eq!(of_key("-_-_"), of_key("+/+/"));
        assert_eq!(strict_url("YWI"), Some(b"ab".to_vec()));
        for lax in ["YWI=", "YWJ", "YW\nI", "YW+I"] {
            assert_eq!(strict_url(lax), None, "{lax:?}");
        }
    }
}
