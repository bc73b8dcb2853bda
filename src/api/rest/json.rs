//! JSON text of callers, read once into a tree. Refuses what two readers could read differently: a name that is there
//! twice. Numbers keep their digits; what they mean is for the field to say.
//!
//! Must never recurse or grow without bound.

use std::cell::Cell;
use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::fmt;

use serde::de::{DeserializeSeed, Deserializer, Error, MapAccess, SeqAccess, Visitor};

/// Containers within each other. Each level of a `Struct` is three of its protobuf form, and a reader of that stops at 100.
pub const MAX_DEPTH: usize = 24;
/// Values in one body: memory for each is some 40 times the least text of one.
pub const MAX_VALUES: usize = 65_536;
/// How serde_json hands out a number whose digits it keeps. An object with this one name is read as the number it
/// holds, or refused.
const NUMBER: &str = "$serde_json::private::Number";

#[derive(Debug, Clone, PartialEq)]
pub enum Json {
    Null,
    Bool(bool),
    Number(String),
    Text(String),
    List(Vec<Json>),
    Object(BTreeMap<String, Json>),
}

impl Json {
    /// With its article, for messages.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Null => "null",
            Self::Bool(_) => "a boolean",
            Self::Number(_) => "a number",
            Self::Text(_) => "a string",
            Self::List(_) => "a list",
            Self::Object(_) => "an object",
        }
    }
}

/// The error says what is wrong, and at which line and column.
pub fn read(text: &[u8]) -> Result<Json, serde_json::Error> {
    let left = Cell::new(MAX_VALUES);
    let mut reader = serde_json::Deserializer::from_slice(text);
    let json = Reader { left: &left, depth: 0 }.deserialize(&mut reader)?;
    reader.end()?;
    Ok(json)
}

#[derive(Clone, Copy)]
struct Reader<'a> {
    left: &'a Cell<usize>,
    depth: usize,
}

impl Reader<'_> {
    fn within<E: Error>(self) -> Result<Self, E> {
        if self.depth == MAX_DEPTH {
            return Err(E::custom(format_args!("nested deeper than {MAX_DEPTH}")));
        }
        Ok(Self { depth: self.depth + 1, ..self })
    }
}

impl<'de> DeserializeSeed<'de> for Reader<'_> {
    type Value = Json;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Json, D::Error> {
        match self.left.get().checked_sub(1) {
            Some(left) => self.left.set(left),
            None => return Err(D::Error::custom(format_args!("more than {MAX_VALUES} values"))),
        }
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Reader<'_> {
    type Value = Json;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("JSON")
    }

    fn visit_unit<E>(self) -> Result<Json, E> {
        Ok(Json::Null)
    }

    fn visit_bool<E>(self, value: bool) -> Result<Json, E> {
        Ok(Json::Bool(value))
    }

    fn visit_u64<E>(self, value: u64) -> Result<Json, E> {
        Ok(Json::Number(value.to_string()))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Json, E> {
        Ok(Json::Number(value.to_string()))
    }

    fn visit_f64<E>(self, value: f64) -> Result<Json, E> {
        Ok(Json::Number(value.to_string()))
    }

    fn visit_str<E>(self, text: &str) -> Result<Json, E> {
        Ok(Json::Text(text.to_owned()))
    }

    fn visit_string<E>(self, text: String) -> Result<Json, E> {
        Ok(Json::Text(text))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Json, A::Error> {
        let reader = self.within()?;
        let mut list = Vec::new();
        while let Some(item) = items.next_element_seed(reader)? {
            list.push(item);
        }
        Ok(Json::List(list))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut members: A) -> Result<Json, A::Error> {
        let mut object = BTreeMap::new();
        let mut next: Option<String> = members.next_key()?;
        if next.as_deref() == Some(NUMBER) {
            return members.next_value().map(Json::Number);
        }
        let reader = self.within()?;
        while let Some(name) = next {
            let value = members.next_value_seed(reader)?;
            match object.entry(name) {
                Entry::Vacant(place) => place.insert(value),
                Entry::Occupied(found) => {
                    return Err(A::Error::custom(format_args!("`{}` is there twice", shown(found.key()))));
                }
            };
            next = members.next_key()?;
        }
        Ok(Json::Object(object))
    }
}

/// So much of a caller's own text as a message repeats.
pub fn shown(text: &str) -> &str {
    const MAX_SHOWN: usize = 64;
    text.char_indices().nth(MAX_SHOWN).and_then(|(end, _)| text.get(..end)).unwrap_or(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keeps_digits_and_refuses_doubles() {
        let number = |text: &str| Json::Number(text.to_owned());
        assert_eq!(read(b" 1e999999999 ").unwrap(), number("1e+999999999"));
        assert_eq!(
            read(b"[18446744073709551616]").unwrap(),
            Json::List(vec![number("18446744073709551616")])
        );
        for (text, why) in [
            (&br#"{"a":1,"a":2}"#[..], "`a` is there twice at line 1 column"),
            (br#"{"a":{"\u0062":1,"b":2}}"#, "`b` is there twice"),
            (b"", "EOF"),
            (b"{} x", "trailing"),
            (b"\"\xff\"", "unicode"),
            (br#""\ud800""#, "hex escape"),
            (b"\xef\xbb\xbf{}", "expected value"),
            (b"{\"a\":NaN}", "expected value"),
            (b"[01]", "number"),
            (br#"{"$serde_json::private::Number":{}}"#, "invalid type"),
        ] {
            let error = read(text).unwrap_err().to_string();
            assert!(error.contains(why), "{}: {error}", String::from_utf8_lossy(text));
        }
    }

    #[test]
    fn is_bounded() {
        let nested = |depth: usize| [b"[".repeat(depth), b"]".repeat(depth)].concat();
        assert!(read(&nested(MAX_DEPTH)).is_ok());
        assert!(read(&nested(MAX_DEPTH + 1)).unwrap_err().to_string().contains("deeper"));
        assert!(read(&b"[".repeat(1 << 20)).unwrap_err().to_string().contains("deeper"));
        let many = |count: usize| format!("[{}0]", "0,".repeat(count - 2)).into_bytes();
        assert!(read(&many(MAX_VALUES)).is_ok());
        assert!(read(&many(MAX_VALUES + 1)).unwrap_err().to_string().contains("values"));
        assert_eq!(shown(&"é".repeat(65)), "é".repeat(64));
    }
}
