//! Reading, for the built-in and for data files. Each value that an alias repeats is counted, with its bytes, and there is
//! an end to the counting.

use std::collections::{BTreeMap, HashMap};

use regorus::Value;
use saphyr_parser::{Event, Parser, ScalarStyle, Tag};

use super::super::super::json;
use super::super::marshal;

/// Values of one document, those of its aliases with them.
const MAX_VALUES: usize = 1 << 18;
/// Bytes of text that aliases stand for, all together. They share it, but whoever writes the document out does not.
const MAX_ALIASED_BYTES: usize = 1 << 24;
/// Levels: as many as a request body may have.
const MAX_DEPTH: usize = 512;

/// Go's words.
const EXCESSIVE: &str = "document contains excessive aliasing";

enum Open {
    Sequence(Vec<Value>, usize),
    /// With the key that waits for its value, and what `<<` brings in.
    Mapping(BTreeMap<Value, Value>, Option<Value>, Vec<Value>, usize),
}

struct Reader {
    open: Vec<Open>,
    anchors: HashMap<usize, (Value, Size)>,
    values: usize,
    max_values: usize,
    aliased_bytes: usize,
}

#[derive(Clone, Copy)]
struct Size {
    values: usize,
    bytes: usize,
    depth: usize,
}

/// What is wrong with a document, by Go's message, and where, counted from 1.
#[derive(Debug)]
pub struct Misread {
    pub line: usize,
    pub column: usize,
    pub message: String,
}

/// One value, or Go's message.
pub fn read(text: &str) -> Result<Value, String> {
    let found = read_within(text, MAX_VALUES).map(|(value, _)| value);
    found.map_err(|wrong| format!("yaml: line {}: {}", wrong.line, wrong.message))
}

/// The first document and how many values it has, which are no more than `max_values`.
pub fn read_within(text: &str, max_values: usize) -> Result<(Value, usize), Misread> {
    let mut reader =
        Reader { open: Vec::new(), anchors: HashMap::new(), values: 0, max_values, aliased_bytes: 0 };
    // What is missing at the end is missing on the last line.
    let lines = text.lines().count().max(1);
    for event in Parser::new_from_str(text) {
        let (event, span) = event.map_err(|error| {
            let message = format!("did not find expected content: {}", error.info());
            let marker = error.marker();
            Misread { line: marker.line().min(lines), column: marker.col() + 1, message }
        })?;
        let here =
            |message: String| Misread { line: span.start.line(), column: span.start.col() + 1, message };
        let done = match event {
            Event::Scalar(text, style, anchor, tag) => {
                let value = scalar(&text, style, tag.as_deref()).map_err(here)?;
                reader.put(value, anchor)
            }
            Event::Alias(anchor) => reader.alias(anchor),
            Event::SequenceStart(anchor, _) => reader.enter(Open::Sequence(Vec::new(), anchor)),
            Event::MappingStart(anchor, _) => {
                reader.enter(Open::Mapping(BTreeMap::new(), None, Vec::new(), anchor))
            }
            Event::SequenceEnd | Event::MappingEnd => reader.leave(),
            Event::DocumentEnd => break,
            _ => Ok(None),
        };
        if let Some(value) = done.map_err(here)? {
            return Ok((value, reader.values));
        }
    }
    Ok((Value::Null, 1))
}

type Done = Result<Option<Value>, String>;

impl Reader {
    fn count(&mut self, values: usize) -> Result<(), String> {
        self.values = self.values.saturating_add(values);
        if self.values <= self.max_values {
            Ok(())
        } else if self.anchors.is_empty() {
            Err(format!("more than {} values", self.max_values))
        } else {
            Err(EXCESSIVE.to_owned())
        }
    }

    fn enter(&mut self, open: Open) -> Done {
        self.open.push(open);
        if self.open.len() > MAX_DEPTH { Err("exceeded max depth".to_owned()) } else { Ok(None) }
    }

    fn leave(&mut self) -> Done {
        match self.open.pop() {
            Some(Open::Sequence(items, anchor)) => self.put(Value::from(items), anchor),
            Some(Open::Mapping(mut members, _, merged, anchor)) => {
                for merged in merged.iter().filter_map(|merged| merged.as_object().ok()) {
                    for (key, value) in merged.iter() {
                        members.entry(key.clone()).or_insert_with(|| value.clone());
                    }
                }
                self.put(Value::from(members), anchor)
            }
            None => Ok(None),
        }
    }

    fn alias(&mut self, anchor: usize) -> Done {
        let (value, size) =
            self.anchors.get(&anchor).cloned().ok_or_else(|| "unknown anchor referenced".to_owned())?;
        self.count(size.values)?;
        self.aliased_bytes = self.aliased_bytes.saturating_add(size.bytes);
        if self.aliased_bytes > MAX_ALIASED_BYTES {
            return Err(EXCESSIVE.to_owned());
        }
        if self.open.len() + size.depth > MAX_DEPTH {
            return Err("exceeded max depth".to_owned());
        }
        self.put(value, 0)
    }

    /// A value at its place; at the top it is the document.
    fn put(&mut self, value: Value, anchor: usize) -> Done {
        self.count(1)?;
        if anchor > 0 {
            let size = measure(&value);
            self.count(size.values)?;
            self.anchors.insert(anchor, (value.clone(), size));
        }
        match self.open.last_mut() {
            None => return Ok(Some(value)),
            Some(Open::Sequence(items, _)) => items.push(value),
            Some(Open::Mapping(members, key, merged, _)) => match key.take() {
                None => *key = Some(value),
                Some(key) if key == Value::from("<<") => match value {
                    Value::Object(_) => merged.push(value),
                    Value::Array(items) if items.iter().all(|item| matches!(item, Value::Object(_))) => {
                        merged.extend(items.iter().cloned());
                    }
                    _ => return Err("map merge requires map or sequence of maps as the value".to_owned()),
                },
                Some(key) => {
                    if matches!(key, Value::Array(_) | Value::Object(_) | Value::Null) {
                        return Err("unsupported map key".to_owned());
                    }
                    // Of two members of one name the later one counts.
                    members.insert(Value::from(marshal::key(&key)), value);
                }
            },
        }
        Ok(None)
    }
}

/// A value is no deeper and no larger here than the bounds allow.
fn measure(value: &Value) -> Size {
    let sizes = |sizes: &mut dyn Iterator<Item = Size>| {
        sizes.fold(Size { values: 1, bytes: 0, depth: 1 }, |all, one| Size {
            values: all.values.saturating_add(one.values),
            bytes: all.bytes.saturating_add(one.bytes),
            depth: all.depth.max(one.depth + 1),
        })
    };
    match value {
        Value::Array(items) => sizes(&mut items.iter().map(measure)),
        Value::Object(members) => sizes(&mut members.iter().map(|(name, value)| {
            let size = measure(value);
            Size { bytes: size.bytes.saturating_add(text_bytes(name)), ..size }
        })),
        _ => Size { values: 1, bytes: text_bytes(value), depth: 0 },
    }
}

fn text_bytes(value: &Value) -> usize {
    if let Value::String(text) = value { text.len() } else { 0 }
}

fn scalar(text: &str, style: ScalarStyle, tag: Option<&Tag>) -> Result<Value, String> {
    let tag = tag.filter(|tag| tag.is_yaml_core_schema()).map(|tag| tag.suffix.as_str());
    match (style, tag) {
        (_, Some("str")) => Ok(Value::from(text)),
        (ScalarStyle::Plain, _) | (_, Some("int" | "float" | "bool" | "null")) => plain(text),
        _ => Ok(Value::from(text)),
    }
}

fn plain(text: &str) -> Result<Value, String> {
    let value = match text {
        "" | "~" | "null" | "Null" | "NULL" => Value::Null,
        "true" | "True" | "TRUE" | "y" | "Y" | "yes" | "Yes" | "YES" | "on" | "On" | "ON" => {
            Value::Bool(true)
        }
        "false" | "False" | "FALSE" | "n" | "N" | "no" | "No" | "NO" | "off" | "Off" | "OFF" => {
            Value::Bool(false)
        }
        _ if is_infinite(text) => return Err("json: unsupported value".to_owned()),
        _ => number(text).unwrap_or_else(|| Value::from(text)),
    };
    Ok(value)
}

fn is_infinite(text: &str) -> bool {
    let unsigned = text.trim_start_matches(['+', '-']);
    matches!(unsigned, ".inf" | ".Inf" | ".INF" | ".nan" | ".NaN" | ".NAN")
}

/// The number that a plain text is, by the rules of version 1.1.
pub fn number(text: &str) -> Option<Value> {
    let is_start = |c: char| c.is_ascii_digit() || matches!(c, '.' | '+' | '-');
    if !text.starts_with(is_start) {
        return None;
    }
    let plain = text.replace('_', "");
    let (is_negative, unsigned) = match plain.strip_prefix(['+', '-']) {
        Some(rest) => (plain.starts_with('-'), rest),
        None => (false, plain.as_str()),
    };
    let radix = [("0x", 16), ("0X", 16), ("0b", 2), ("0B", 2), ("0o", 8), ("0O", 8)];
    let based = radix.iter().find_map(|(prefix, radix)| Some((unsigned.strip_prefix(prefix)?, *radix)));
    let octal = || unsigned.strip_prefix('0').filter(|rest| !rest.is_empty()).map(|rest| (rest, 8));
    if let Some((digits, radix)) = based.or_else(octal)
        && digits.starts_with(|c: char| c.is_ascii_hexdigit())
        && let Ok(size) = u64::from_str_radix(digits, radix)
    {
        return Some(Value::from(if is_negative { -i128::from(size) } else { i128::from(size) }));
    }
    let (mantissa, exponent) = unsigned.split_once(['e', 'E']).unwrap_or((unsigned, "0"));
    let (whole, fraction) = mantissa.split_once('.').unwrap_or((mantissa, ""));
    let is_digits = |text: &str| text.bytes().all(|byte| byte.is_ascii_digit());
    let has_digits = !whole.is_empty() || !fraction.is_empty();
    if !has_digits || !is_digits(whole) || !is_digits(fraction) || based.is_some() {
        return None;
    }
    // As JSON writes it, so that its bounds hold here too.
    let whole = whole.trim_start_matches('0');
    let whole = if whole.is_empty() { "0" } else { whole };
    let fraction = if fraction.is_empty() { String::new() } else { format!(".{fraction}") };
    let exponent: i64 = exponent.parse().ok()?;
    let exponent = if exponent == 0 { String::new() } else { format!("e{exponent}") };
    let sign = if is_negative { "-" } else { "" };
    let number = json::parse_number(&format!("{sign}{whole}{fraction}{exponent}")).ok()?;
    // What 64 bits do not hold is a double there.
    let is_small = number.as_i64().is_ok() || number.as_u64().is_ok();
    if is_small { Some(number) } else { number.to_string().parse::<f64>().ok().map(Value::from) }
}
