//! Values of templates, and Go's functions on them. What they make is bounded by the caller's limit.

use std::cmp::Ordering;
use std::fmt::Write;

use regorus::Value;

#[derive(Debug, Clone)]
pub enum Datum<'a> {
    /// Go's zero value: what is not there.
    Missing,
    Json(&'a Value),
    Bool(bool),
    Int(i64),
    Float(f64),
    Text(String),
}

type Called<T> = Result<T, String>;

/// What Go tells apart when it compares.
#[derive(Debug, PartialEq)]
enum Basic {
    Bool(bool),
    Int(i64),
    Float(f64),
    Text(String),
}

impl Datum<'_> {
    /// Null is nothing, too, once it is on its own.
    fn is_nil(&self) -> bool {
        matches!(self, Self::Missing | Self::Json(Value::Null))
    }

    fn basic(&self) -> Option<Basic> {
        Some(match self {
            Self::Bool(value) | Self::Json(Value::Bool(value)) => Basic::Bool(*value),
            Self::Int(value) => Basic::Int(*value),
            Self::Float(value) => Basic::Float(*value),
            Self::Text(text) => Basic::Text(text.clone()),
            Self::Json(Value::String(text)) => Basic::Text(text.to_string()),
            Self::Json(number @ Value::Number(_)) => Basic::Text(number.to_string()),
            Self::Missing | Self::Json(_) => return None,
        })
    }

    /// With a number of the input as its digits.
    fn as_text(&self) -> Option<String> {
        match self.basic() {
            Some(Basic::Text(text)) => Some(text),
            _ => None,
        }
    }

    /// What copying it, or going through it, takes.
    pub fn bytes(&self) -> usize {
        match self {
            Self::Text(text) => text.len(),
            Self::Json(Value::String(text)) => text.len(),
            _ => 0,
        }
    }

    pub fn is_true(&self) -> bool {
        match self {
            Self::Text(_) | Self::Json(Value::String(_)) => self.bytes() > 0,
            Self::Json(Value::Array(items)) => !items.is_empty(),
            Self::Json(Value::Object(members)) => !members.is_empty(),
            other => match other.basic() {
                Some(Basic::Bool(value)) => value,
                Some(Basic::Int(value)) => value != 0,
                Some(Basic::Float(value)) => value != 0.0,
                Some(Basic::Text(text)) => !text.is_empty(),
                None => false,
            },
        }
    }

    pub fn fields(&self, names: &[String]) -> Called<Self> {
        let mut found = self.clone();
        for name in names {
            found = match found {
                Self::Missing => Self::Missing,
                Self::Json(Value::Object(members)) => {
                    members.get(&Value::from(name.as_str())).map_or(Self::Missing, Self::Json)
                }
                Self::Json(Value::Null) => {
                    return Err(format!("nil pointer evaluating interface {{}}.{name}"));
                }
                _ => return Err(format!("can't evaluate field {name} in type interface {{}}")),
            };
        }
        Ok(found)
    }

    /// What `range` goes over, with indices or keys.
    pub fn items(&self, limit: usize) -> Called<Vec<(Self, Self)>> {
        Ok(match self {
            Self::Missing | Self::Json(Value::Null) => Vec::new(),
            Self::Json(Value::Array(items)) => {
                (0..).map(Self::Int).zip(items.iter().map(Self::Json)).collect()
            }
            Self::Json(Value::Object(members)) => {
                members.iter_sorted().map(|(key, value)| (Self::Json(key), Self::Json(value))).collect()
            }
            Self::Int(count) if usize::try_from(*count).is_ok_and(|count| count > limit) => {
                return Err("range is too long".to_owned());
            }
            Self::Int(count) => (0..*count).map(|index| (Self::Int(index), Self::Int(index))).collect(),
            _ => return Err("range can't iterate over it".to_owned()),
        })
    }

    /// As Go's `fmt` does with `%v`. Stops above the limit; the caller finds out by the length.
    pub fn print(&self, output: &mut String, limit: usize) {
        match self {
            Self::Missing | Self::Json(Value::Null) => output.push_str("<no value>"),
            Self::Json(value) => print_json(value, output, limit),
            // Writing to a string does not fail.
            Self::Bool(value) => drop(write!(output, "{value}")),
            Self::Int(value) => drop(write!(output, "{value}")),
            Self::Float(value) => drop(write!(output, "{value}")),
            Self::Text(text) => output.push_str(text),
        }
    }

    /// As an operand of `print`, where nothing is `<nil>`.
    fn shown(&self, limit: usize) -> String {
        let mut shown = String::new();
        if self.is_nil() {
            shown.push_str("<nil>");
        } else {
            self.print(&mut shown, limit);
        }
        shown
    }
}

/// The caller has bounded its depth.
fn print_json(value: &Value, output: &mut String, limit: usize) {
    if output.len() > limit {
        return;
    }
    match value {
        Value::Null => output.push_str("<nil>"),
        Value::String(text) => output.push_str(text),
        Value::Array(items) => {
            output.push('[');
            for (index, item) in items.iter().enumerate() {
                output.push_str(if index > 0 { " " } else { "" });
                print_json(item, output, limit);
            }
            output.push(']');
        }
        Value::Object(members) => {
            output.push_str("map[");
            for (index, (key, member)) in members.iter_sorted().enumerate() {
                output.push_str(if index > 0 { " " } else { "" });
                print_json(key, output, limit);
                output.push(':');
                print_json(member, output, limit);
            }
            output.push(']');
        }
        other => drop(write!(output, "{other}")),
    }
}

pub fn call<'a>(name: &str, values: &[Datum<'a>], limit: usize) -> Called<Datum<'a>> {
    let result = match (name, values) {
        ("not", [value]) => Datum::Bool(!value.is_true()),
        ("len", [value]) => Datum::Int(length(value)?),
        ("index", [value, keys @ ..]) => index(value, keys)?,
        ("slice", [value, bounds @ ..]) => slice(value, bounds)?,
        ("eq", [first, rest @ ..]) if !rest.is_empty() => {
            let mut found = false;
            for other in rest {
                found |= equal(first, other)?;
            }
            Datum::Bool(found)
        }
        ("ne", [a, b]) => Datum::Bool(!equal(a, b)?),
        ("lt", [a, b]) => Datum::Bool(compare(a, b)? == Ordering::Less),
        ("le", [a, b]) => Datum::Bool(compare(a, b)? != Ordering::Greater),
        ("gt", [a, b]) => Datum::Bool(compare(a, b)? == Ordering::Greater),
        ("ge", [a, b]) => Datum::Bool(compare(a, b)? != Ordering::Less),
        ("print", _) => Datum::Text(joined(values, limit)),
        ("println", _) => Datum::Text(listed(values, limit) + "\n"),
        ("printf", [format, operands @ ..]) => {
            let format = format.as_text().ok_or("printf needs a format")?;
            Datum::Text(printf(&format, operands, limit)?)
        }
        ("html", _) => Datum::Text(escaped(&joined(values, limit), html)),
        ("js", _) => Datum::Text(escaped(&joined(values, limit), javascript)),
        ("urlquery", _) => Datum::Text(query_escaped(&joined(values, limit))),
        ("not" | "len" | "index" | "slice" | "eq" | "ne" | "lt" | "le" | "gt" | "ge" | "printf", _) => {
            return Err(format!("wrong number of args for {name}"));
        }
        _ => return Err(format!("function \"{name}\" not defined")),
    };
    match &result {
        Datum::Text(text) if text.len() > limit => Err(format!("a text is longer than {limit} bytes")),
        _ => Ok(result),
    }
}

/// With a space between all of them.
fn listed(values: &[Datum], limit: usize) -> String {
    let mut output = String::new();
    for (index, value) in values.iter().enumerate() {
        output.push_str(if index > 0 { " " } else { "" });
        output.push_str(&value.shown(limit));
        if output.len() > limit {
            break;
        }
    }
    output
}

/// Go's `fmt.Sprint`: a space between two operands of which none is a text.
fn joined(values: &[Datum], limit: usize) -> String {
    let mut output = String::new();
    let mut after_text = true;
    for value in values {
        let is_text = value.as_text().is_some();
        if !output.is_empty() && !is_text && !after_text {
            output.push(' ');
        }
        output.push_str(&value.shown(limit));
        after_text = is_text;
        if output.len() > limit {
            break;
        }
    }
    output
}

fn length(value: &Datum) -> Called<i64> {
    let length = match value {
        Datum::Json(Value::Array(items)) => items.len(),
        Datum::Json(Value::Object(members)) => members.len(),
        other => other.as_text().ok_or("len of a value that has none")?.len(),
    };
    i64::try_from(length).map_err(|_| "len is out of range".to_owned())
}

fn position(value: &Datum, end: usize) -> Called<usize> {
    let Datum::Int(index) = value else {
        return Err("cannot index with a value that is no integer".to_owned());
    };
    let found = usize::try_from(*index).ok().filter(|index| *index <= end);
    found.ok_or_else(|| format!("index out of range: {index}"))
}

fn index<'a>(value: &Datum<'a>, keys: &[Datum<'a>]) -> Called<Datum<'a>> {
    let mut found = value.clone();
    for key in keys {
        found = match found {
            Datum::Json(Value::Array(items)) => {
                let at = position(key, items.len())?;
                items.get(at).map(Datum::Json).ok_or_else(|| format!("index out of range: {at}"))?
            }
            Datum::Json(Value::Object(members)) => {
                let key = key.as_text().ok_or("value is nil or of another type than the keys")?;
                members.get(&Value::from(key)).map_or(Datum::Missing, Datum::Json)
            }
            other if other.is_nil() => return Err("index of untyped nil".to_owned()),
            other => {
                let text = other.as_text().ok_or("can't index item of this type")?;
                let at = position(key, text.len())?;
                let byte = text.as_bytes().get(at).ok_or_else(|| format!("index out of range: {at}"))?;
                Datum::Int(i64::from(*byte))
            }
        };
    }
    Ok(found)
}

/// Of texts only; a piece of a list would be a list that nobody has.
fn slice<'a>(value: &Datum<'a>, bounds: &[Datum<'a>]) -> Called<Datum<'a>> {
    let text = value.as_text().ok_or("slice of a list is not supported")?;
    let bound =
        |index: usize, other: usize| bounds.get(index).map_or(Ok(other), |at| position(at, text.len()));
    let (from, to) = (bound(0, 0)?, bound(1, text.len())?);
    let piece = text.get(from..to).filter(|_| bounds.len() <= 2).ok_or("invalid slice index")?;
    Ok(Datum::Text(piece.to_owned()))
}

fn equal(a: &Datum, b: &Datum) -> Called<bool> {
    match (a.basic(), b.basic()) {
        (Some(first), Some(second)) if std::mem::discriminant(&first) == std::mem::discriminant(&second) => {
            Ok(first == second)
        }
        _ if a.is_nil() || b.is_nil() => Ok(a.is_nil() && b.is_nil()),
        (Some(_), _) | (_, Some(_)) => Err("incompatible types for comparison".to_owned()),
        (None, None) => Err("non-comparable types".to_owned()),
    }
}

fn compare(a: &Datum, b: &Datum) -> Called<Ordering> {
    let ordering = match (a.basic(), b.basic()) {
        (Some(Basic::Int(a)), Some(Basic::Int(b))) => Some(a.cmp(&b)),
        (Some(Basic::Float(a)), Some(Basic::Float(b))) => a.partial_cmp(&b),
        (Some(Basic::Text(a)), Some(Basic::Text(b))) => Some(a.cmp(&b)),
        _ => None,
    };
    ordering.ok_or_else(|| "invalid type for comparison".to_owned())
}

/// `%v %s %d %q %t %f %%`, with `-`, `0`, `+`, width and precision.
fn printf(format: &str, operands: &[Datum], limit: usize) -> Called<String> {
    let (mut output, mut rest, mut operands) = (String::new(), format, operands.iter());
    while let Some((before, after)) = rest.split_once('%') {
        output.push_str(before);
        let flags = after.find(|c| !matches!(c, '-' | '0' | '+')).unwrap_or(after.len());
        let (flags, after) = after.split_at(flags);
        let (width, after) = number(after);
        let (precision, after) = match after.strip_prefix('.') {
            Some(after) => {
                let (precision, after) = number(after);
                (Some(precision?.unwrap_or(0)), after)
            }
            None => (None, after),
        };
        let mut chars = after.chars();
        let verb = chars.next().ok_or("a verb is missing at the end of a format")?;
        rest = chars.as_str();
        if verb == '%' {
            output.push('%');
            continue;
        }
        let operand = operands.next().ok_or_else(|| format!("an operand is missing for %{verb}"))?;
        let text = formatted(verb, operand, flags, precision, limit)?;
        let fill = width?.unwrap_or(0).saturating_sub(text.chars().count());
        let is_number = matches!(verb, 'd' | 'f');
        if flags.contains('-') {
            output.push_str(&text);
            output.extend(std::iter::repeat_n(' ', fill));
        } else if flags.contains('0') && is_number {
            let digits = text.trim_start_matches(['-', '+']);
            output.push_str(text.strip_suffix(digits).unwrap_or_default());
            output.extend(std::iter::repeat_n('0', fill));
            output.push_str(digits);
        } else {
            output.extend(std::iter::repeat_n(' ', fill));
            output.push_str(&text);
        }
        if output.len() > limit {
            return Err(format!("a text is longer than {limit} bytes"));
        }
    }
    if operands.next().is_some() {
        return Err("a format has too few verbs".to_owned());
    }
    output.push_str(rest);
    Ok(output)
}

/// Of at most four digits: nobody needs wider.
fn number(text: &str) -> (Called<Option<usize>>, &str) {
    let end = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (digits, rest) = text.split_at(end);
    let found = match digits.len() {
        0 => Ok(None),
        1..=4 => digits.parse().map(Some).map_err(|_| "bad width".to_owned()),
        _ => Err("a width is too large".to_owned()),
    };
    (found, rest)
}

fn formatted(
    verb: char,
    value: &Datum,
    flags: &str,
    precision: Option<usize>,
    limit: usize,
) -> Called<String> {
    let signed =
        |text: String| if flags.contains('+') && !text.starts_with('-') { format!("+{text}") } else { text };
    let cut = |text: String| match precision {
        Some(precision) => text.chars().take(precision).collect(),
        None => text,
    };
    match (verb, value) {
        ('v', value) => Ok(value.shown(limit)),
        ('d', Datum::Int(number)) => Ok(signed(number.to_string())),
        ('f', Datum::Float(number)) => Ok(signed(format!("{number:.*}", precision.unwrap_or(6)))),
        ('t', Datum::Bool(value) | Datum::Json(Value::Bool(value))) => Ok(value.to_string()),
        ('s', value) if value.as_text().is_some() => Ok(cut(value.shown(limit))),
        ('q', value) if value.as_text().is_some() => Ok(format!("{:?}", cut(value.shown(limit)))),
        _ => Err(format!("%{verb} is not supported for this value")),
    }
}

fn escaped(text: &str, escape: fn(char) -> Option<&'static str>) -> String {
    let mut output = String::with_capacity(text.len());
    for c in text.chars() {
        match escape(c) {
            Some(escape) => output.push_str(escape),
            None => output.push(c),
        }
    }
    output
}

fn html(c: char) -> Option<&'static str> {
    Some(match c {
        '\0' => "\u{fffd}",
        '"' => "&#34;",
        '\'' => "&#39;",
        '&' => "&amp;",
        '<' => "&lt;",
        '>' => "&gt;",
        _ => return None,
    })
}

fn javascript(c: char) -> Option<&'static str> {
    Some(match c {
        '\\' => "\\\\",
        '\'' => "\\'",
        '"' => "\\\"",
        '<' => "\\u003C",
        '>' => "\\u003E",
        '&' => "\\u0026",
        '=' => "\\u003D",
        '\n' => "\\u000A",
        '\r' => "\\u000D",
        '\t' => "\\u0009",
        _ => return None,
    })
}

fn query_escaped(text: &str) -> String {
    let mut output = String::with_capacity(text.len());
    for byte in text.bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'_' | b'.' | b'~' => {
                output.push(char::from(byte));
            }
            b' ' => output.push('+'),
            other => drop(write!(output, "%{other:02X}")),
        }
    }
    output
}
