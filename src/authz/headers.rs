//! One view of the request's headers, whichever of its two fields Envoy filled.

use std::borrow::Cow;
use std::collections::HashMap;

use envoy_types::pb::envoy::service::auth::v3::attribute_context::HttpRequest;

/// Headers by name, several values of one name joined by a comma.
///
/// With `encode_raw_headers` Envoy fills `header_map` and leaves `headers` empty; without, the other way round. The
/// second form is put into the first here, by the rules Envoy itself follows, so that one request gets one decision.
#[derive(Debug)]
pub struct Headers<'a>(Cow<'a, HashMap<String, String>>);

impl<'a> Headers<'a> {
    pub fn of(http: &'a HttpRequest) -> Self {
        match &http.header_map {
            Some(map) if http.headers.is_empty() => {
                let mut joined: HashMap<String, String> = HashMap::with_capacity(map.headers.len());
                for header in &map.headers {
                    let value = if header.raw_value.is_empty() {
                        Cow::Borrowed(header.value.as_str())
                    } else {
                        printable(&header.raw_value)
                    };
                    joined
                        .entry(header.key.to_ascii_lowercase())
                        .and_modify(|known| {
                            known.push(',');
                            known.push_str(&value);
                        })
                        .or_insert_with(|| value.into_owned());
                }
                Self(Cow::Owned(joined))
            }
            _ => Self(Cow::Borrowed(&http.headers)),
        }
    }

    pub fn none() -> Self {
        Self(Cow::Owned(HashMap::new()))
    }

    pub fn get(&self, name: &str) -> Option<&str> {
        self.0.get(name).map(String::as_str)
    }

    pub fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        self.0.iter().map(|(name, value)| (name.as_str(), value.as_str()))
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

/// Envoy writes `!` for each byte that is not UTF-8.
fn printable(bytes: &[u8]) -> Cow<'_, str> {
    if let Ok(text) = std::str::from_utf8(bytes) {
        return Cow::Borrowed(text);
    }
    let mut text = String::with_capacity(bytes.len());
    for chunk in bytes.utf8_chunks() {
        text.push_str(chunk.valid());
        text.extend(chunk.invalid().iter().map(|_| '!'));
    }
    Cow::Owned(text)
}

#[cfg(test)]
mod tests {
    use envoy_types::pb::envoy::config::core::v3::{HeaderMap, HeaderValue};

    use super::*;

    #[test]
    fn both_forms_read_the_same() {
        let header = |key: &str, raw: &[u8]| HeaderValue {
            key: key.into(),
            raw_value: raw.to_vec(),
            ..HeaderValue::default()
        };
        let listed = HttpRequest {
            header_map: Some(HeaderMap {
                headers: vec![
                    header("X-A", b"1"),
                    header("cookie", b"a=1"),
                    header("cookie", b"b=2"),
                    header("x-b", b"\xff!"),
                ],
            }),
            ..HttpRequest::default()
        };
        let headers = Headers::of(&listed);
        assert_eq!(headers.get("x-a"), Some("1"));
        assert_eq!(headers.get("cookie"), Some("a=1,b=2"));
        assert_eq!(headers.get("x-b"), Some("!!"));
        assert_eq!(headers.get("X-A"), None);
    }
}
