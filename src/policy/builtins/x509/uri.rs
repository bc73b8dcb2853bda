//! A URI in its parts, as Go's `url.URL`.

use regorus::Value;

use super::shape::object;

/// `None` where Go's parser would refuse it.
pub fn shape(text: &str) -> Option<Value> {
    if text.chars().any(|c| c.is_ascii_control()) {
        return None;
    }
    let (rest, raw_fragment) = text.split_once('#').unwrap_or((text, ""));
    let fragment = unescaped(raw_fragment)?;
    let (scheme, rest) = scheme(rest)?;
    let (rest, query) = rest.split_once('?').unwrap_or((rest, ""));
    let force_query = text.split('#').next().is_some_and(|before| before.ends_with('?')) && query.is_empty();
    let mut parts = Parts { scheme: scheme.to_ascii_lowercase(), ..Parts::default() };
    if !scheme.is_empty() && !rest.starts_with('/') {
        rest.clone_into(&mut parts.opaque);
    } else {
        let mut path = rest;
        if let Some(after) = rest.strip_prefix("//")
            && (!scheme.is_empty() || !rest.starts_with("///"))
        {
            let (authority, after) = after.split_at(after.find('/').unwrap_or(after.len()));
            let (user, host) =
                authority.rsplit_once('@').map_or((None, authority), |(user, host)| (Some(user), host));
            parts.has_user = user.is_some();
            parts.host = host_text(host)?;
            path = after;
        }
        parts.path = unescaped(path)?;
        if path.contains('%') && escaped(&parts.path) != path {
            path.clone_into(&mut parts.raw_path);
        }
    }
    let raw_fragment = if escaped(&fragment) == raw_fragment { "" } else { raw_fragment };
    Some(object([
        ("Scheme", Value::from(parts.scheme)),
        ("Opaque", Value::from(parts.opaque)),
        ("User", if parts.has_user { object([]) } else { Value::Null }),
        ("Host", Value::from(parts.host)),
        ("Path", Value::from(parts.path)),
        ("RawPath", Value::from(parts.raw_path)),
        ("OmitHost", Value::Bool(false)),
        ("ForceQuery", Value::Bool(force_query)),
        ("RawQuery", Value::from(query)),
        ("Fragment", Value::from(fragment)),
        ("RawFragment", Value::from(raw_fragment)),
    ]))
}

#[derive(Default)]
struct Parts {
    scheme: String,
    opaque: String,
    has_user: bool,
    host: String,
    path: String,
    raw_path: String,
}

fn scheme(text: &str) -> Option<(&str, &str)> {
    let is_inside = |c: char| c.is_ascii_alphanumeric() || matches!(c, '+' | '-' | '.');
    match text.split_once(|c| !is_inside(c)) {
        Some((scheme, _)) if text[scheme.len()..].starts_with(':') => {
            if scheme.is_empty() {
                return None;
            }
            let begins_well = scheme.starts_with(|c: char| c.is_ascii_alphabetic());
            Some(if begins_well { (scheme, &text[scheme.len() + 1..]) } else { ("", text) })
        }
        _ => Some(("", text)),
    }
}

fn host_text(host: &str) -> Option<String> {
    let port = match (host.rfind(']'), host.rfind(':')) {
        (Some(bracket), Some(colon)) if colon < bracket => None,
        (_, colon) => colon.map(|colon| &host[colon + 1..]),
    };
    if host.contains(' ') || port.is_some_and(|port| !port.chars().all(|c| c.is_ascii_digit())) {
        return None;
    }
    unescaped(host)
}

fn unescaped(text: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((&first, after)) = rest.split_first() {
        rest = after;
        if first == b'%' {
            let [high, low, after @ ..] = after else { return None };
            let digit = |byte: u8| char::from(byte).to_digit(16).and_then(|digit| u8::try_from(digit).ok());
            bytes.push(digit(*high)? << 4 | digit(*low)?);
            rest = after;
        } else {
            bytes.push(first);
        }
    }
    Some(String::from_utf8_lossy(&bytes).into_owned())
}

/// As Go would write a path.
fn escaped(text: &str) -> String {
    let mut out = String::new();
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || b"-_.~$&+,/:;=@!*'()".contains(&byte) {
            out.push(char::from(byte));
        } else {
            out.push('%');
            out.push_str(&data_encoding::HEXUPPER.encode(&[byte]));
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn parts(text: &str) -> Option<[String; 6]> {
        let shape = shape(text)?;
        let part = |name: &str| shape[name].as_string().unwrap().to_string();
        Some(["Scheme", "Opaque", "Host", "Path", "RawPath", "RawQuery"].map(part))
    }

    #[test]
    fn has_the_parts_that_go_gives_it() {
        for (text, expected) in [
            ("spiffe://a/b", ["spiffe", "", "a", "/b", "", ""]),
            ("urn:uuid:1", ["urn", "uuid:1", "", "", "", ""]),
            ("HTTPS://u@A:8/x%2Fy?q=1", ["https", "", "A:8", "/x/y", "/x%2Fy", "q=1"]),
            ("mailto:a@b?c", ["mailto", "a@b", "", "", "", "c"]),
            ("/path%20", ["", "", "", "/path ", "", ""]),
            ("http://[::1]:2/", ["http", "", "[::1]:2", "/", "", ""]),
            ("", ["", "", "", "", "", ""]),
        ] {
            assert_eq!(parts(text), Some(expected.map(str::to_owned)), "{text}");
        }
        for wrong in ["http://a/%zz", ":a", "http://a:b/", "a\nb", "http://a b/"] {
            assert_eq!(parts(wrong), None, "{wrong:?}");
        }
    }

    proptest! {
        #[test]
        fn any_text_is_taken_apart_or_refused(text in "[-a-z:/?#%@.\\[\\]0é ]{0,24}") {
            let _ = shape(&text);
        }
    }
}
