//! Base64, hexadecimal and URL queries, strict as Go's decoders are. What is decoded is text: bytes that are no UTF-8
//! are replaced, as nothing can be done with them here.

use std::collections::BTreeMap;

use data_encoding::{BASE64, BASE64URL, BASE64URL_NOPAD, HEXLOWER};
use regorus::Value;

use super::sprintf::{push_escape, quoted};
use super::values::{items, object};
use super::{Builtin, Fault, Outcome, text, unary};

pub const BUILTINS: [Builtin; 12] = [
    unary("base64.encode", |value| Ok(Value::from(BASE64.encode(text(1, value)?.as_bytes())))),
    unary("base64.decode", |value| decoded(text(1, value)?, false)),
    unary("base64.is_valid", base64_is_valid),
    unary("base64url.encode", |value| Ok(Value::from(BASE64URL.encode(text(1, value)?.as_bytes())))),
    unary("base64url.encode_no_pad", |value| {
        Ok(Value::from(BASE64URL_NOPAD.encode(text(1, value)?.as_bytes())))
    }),
    unary("base64url.decode", base64url_decode),
    unary("hex.encode", |value| Ok(Value::from(HEXLOWER.encode(text(1, value)?.as_bytes())))),
    unary("hex.decode", hex_decode),
    unary("urlquery.encode", |value| Ok(Value::from(escaped(text(1, value)?)))),
    unary("urlquery.decode", |value| unescaped(text(1, value)?).map(Value::from)),
    unary("urlquery.encode_object", encode_object),
    unary("urlquery.decode_object", decode_object),
];

fn lossy(bytes: &[u8]) -> Value {
    Value::from(String::from_utf8_lossy(bytes).as_ref())
}

/// Line ends count for nothing, and bits after the last byte may be anything: both as in Go.
fn bytes(text: &str, is_url: bool) -> Result<Vec<u8>, usize> {
    let digit = |byte: u8| match byte {
        b'A'..=b'Z' => Some(byte - b'A'),
        b'a'..=b'z' => Some(byte - b'a' + 26),
        b'0'..=b'9' => Some(byte - b'0' + 52),
        b'+' if !is_url => Some(62),
        b'/' if !is_url => Some(63),
        b'-' if is_url => Some(62),
        b'_' if is_url => Some(63),
        _ => None,
    };
    let mut input = text.bytes().enumerate().filter(|(_, byte)| !matches!(byte, b'\r' | b'\n'));
    let (mut result, mut group, mut count) = (Vec::with_capacity(text.len() / 4 * 3), 0_u32, 0);
    while let Some((at, byte)) = input.next() {
        if let Some(digit) = digit(byte) {
            group = group << 6 | u32::from(digit);
            count += 1;
            if count == 4 {
                result.extend(group.to_be_bytes().into_iter().skip(1));
                (group, count) = (0, 0);
            }
            continue;
        }
        let tail: Vec<(usize, u8)> = input.collect();
        let is_end = match count {
            2 => matches!(tail.as_slice(), [(_, b'=')]),
            3 => tail.is_empty(),
            _ => false,
        };
        if byte != b'=' || !is_end {
            return Err(tail.get(1).filter(|_| byte == b'=' && count == 2).map_or(at, |(at, _)| *at));
        }
        let whole = group << (6 * (4 - count));
        result.extend(whole.to_be_bytes().into_iter().skip(1).take(count - 1));
        return Ok(result);
    }
    if count == 0 { Ok(result) } else { Err(text.len() - count % 4) }
}

fn decoded(text: &str, is_url: bool) -> Outcome {
    match bytes(text, is_url) {
        Ok(bytes) => Ok(lossy(&bytes)),
        Err(at) => Err(Fault::failed(format!("illegal base64 data at input byte {at}"))),
    }
}

#[allow(clippy::unnecessary_wraps, reason = "the shape of a built-in")]
fn base64_is_valid(value: &Value) -> Outcome {
    Ok(Value::Bool(value.as_string().is_ok_and(|text| bytes(text, false).is_ok())))
}

fn base64url_decode(value: &Value) -> Outcome {
    let text = text(1, value)?;
    if text.ends_with('=') {
        return decoded(text, true);
    }
    match text.len() % 4 {
        0 => decoded(text, true),
        2 => decoded(&format!("{text}=="), true),
        3 => decoded(&format!("{text}="), true),
        _ => Err(Fault::failed(format!("illegal base64url string: {text}"))),
    }
}

fn hex_decode(value: &Value) -> Outcome {
    let text = text(1, value)?;
    if let Some(wrong) = text.bytes().find(|byte| !byte.is_ascii_hexdigit()) {
        let shown = char::from(wrong);
        let point = u32::from(wrong);
        return Err(Fault::failed(format!(
            "encoding/hex: invalid byte: U+{point:04X} {}",
            quoted(&shown.to_string(), '\'')
        )));
    }
    let bytes = HEXLOWER.decode(text.to_ascii_lowercase().as_bytes());
    bytes.map(|bytes| lossy(&bytes)).map_err(|_| Fault::failed("encoding/hex: odd length hex string"))
}

fn escaped(text: &str) -> String {
    let mut result = String::with_capacity(text.len());
    for byte in text.bytes() {
        match byte {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'_' | b'.' | b'~' => {
                result.push(char::from(byte));
            }
            b' ' => result.push('+'),
            _ => push_escape(&mut result, "%", byte.into(), 2),
        }
    }
    result
}

fn unescaped(text: &str) -> Result<String, Fault> {
    let (mut bytes, mut rest) = (Vec::with_capacity(text.len()), text.as_bytes());
    while let Some((first, tail)) = rest.split_first() {
        rest = tail;
        match first {
            b'+' => bytes.push(b' '),
            b'%' => {
                let hex =
                    |byte: &u8| char::from(*byte).to_digit(16).and_then(|digit| u8::try_from(digit).ok());
                let (Some(high), Some(low)) = (tail.first().and_then(hex), tail.get(1).and_then(hex)) else {
                    let shown = format!("%{}", String::from_utf8_lossy(tail.get(..2).unwrap_or(tail)));
                    return Err(Fault::failed(format!("invalid URL escape {}", quoted(&shown, '"'))));
                };
                bytes.push(high << 4 | low);
                rest = tail.get(2..).unwrap_or_default();
            }
            other => bytes.push(*other),
        }
    }
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

fn encode_object(value: &Value) -> Outcome {
    let wrong = || Fault::Type("operand 1 values must be string, array[string], or set[string]".to_owned());
    let mut pairs: Vec<(String, String)> = Vec::new();
    for (key, value) in object(1, value)?.iter_sorted() {
        let name = escaped(&super::marshal::key(key));
        let mut add = |value: &Value| match value {
            Value::String(text) => {
                pairs.push((name.clone(), escaped(text)));
                Ok(())
            }
            _ => Err(wrong()),
        };
        match value {
            Value::String(_) => add(value)?,
            other => items(other).ok_or_else(wrong)?.into_iter().try_for_each(add)?,
        }
    }
    let text: Vec<String> = pairs.into_iter().map(|(name, value)| format!("{name}={value}")).collect();
    Ok(Value::from(text.join("&")))
}

fn decode_object(value: &Value) -> Outcome {
    let mut members: BTreeMap<Value, Vec<Value>> = BTreeMap::new();
    for pair in text(1, value)?.split('&') {
        if pair.contains(';') {
            return Err(Fault::failed("invalid semicolon separator in query"));
        }
        if pair.is_empty() {
            continue;
        }
        let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
        members.entry(Value::from(unescaped(name)?)).or_default().push(Value::from(unescaped(value)?));
    }
    Ok(Value::from(
        members.into_iter().map(|(name, values)| (name, Value::from(values))).collect::<BTreeMap<_, _>>(),
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn base64_as_go_reads_it() {
        let read = |text: &str| bytes(text, false).map(|bytes| String::from_utf8(bytes).unwrap());
        assert_eq!(read("YWJj").as_deref(), Ok("abc"));
        assert_eq!(read("YW\nI=").as_deref(), Ok("ab"));
        assert_eq!(read("YQ==").as_deref(), Ok("a"));
        assert_eq!(read("").as_deref(), Ok(""));
        for bad in ["YQ", "YQ=", "YQ===", "Y", "=", "YWJj=", "YW J", "YQ==YQ==", "-_-_"] {
            assert!(read(bad).is_err(), "{bad}");
        }
        assert_eq!(bytes("-_8=", true), Ok(vec![0xfb, 0xff]));
    }

    #[test]
    fn queries() {
        let decode = |text: &str| decode_object(&Value::from(text)).map(|value| value.to_string());
        assert_eq!(decode("a=1&b=2&a=%20+x&c").as_deref(), Ok(r#"{"a":["1","  x"],"b":["2"],"c":[""]}"#));
        assert!(decode("a=%2").is_err());
        assert!(decode("a;b").is_err());
        let object = Value::from_json_str(r#"{"a b":"c&d","e":["f","g"]}"#).unwrap();
        assert_eq!(encode_object(&object), Ok(Value::from("a+b=c%26d&e=f&e=g")));
    }
}
