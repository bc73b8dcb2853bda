//! Writing, in the style of Go's library: members in the natural order of their names, lists at the level of their key.

use std::cmp::Ordering;

use regorus::Value;

use super::super::Fault;
use super::super::sprintf::push_escape;
use super::super::values::{append, sorted_members};
use super::read;

pub fn write(value: &Value) -> Result<String, Fault> {
    let mut out = String::new();
    match value {
        Value::Object(members) if !members.is_empty() => mapping(&mut out, value, 0)?,
        Value::Array(items) if !items.is_empty() => sequence(&mut out, items.iter(), 0)?,
        Value::Set(items) if !items.is_empty() => sequence(&mut out, items.iter_sorted(), 0)?,
        other => {
            append(&mut out, &scalar(other, 0))?;
            out.push('\n');
        }
    }
    Ok(out)
}

fn mapping(out: &mut String, value: &Value, depth: usize) -> Result<(), Fault> {
    let mut members = sorted_members(value);
    members.sort_by(|a, b| natural(&a.0, &b.0));
    for (index, (name, value)) in members.into_iter().enumerate() {
        if index > 0 {
            indent(out, depth)?;
        }
        append(out, &text(&name, None))?;
        append(out, ":")?;
        match value {
            Value::Object(members) if !members.is_empty() => {
                append(out, "\n")?;
                indent(out, depth + 1)?;
                mapping(out, value, depth + 1)?;
            }
            Value::Array(items) if !items.is_empty() => {
                append(out, "\n")?;
                indent(out, depth)?;
                sequence(out, items.iter(), depth)?;
            }
            Value::Set(items) if !items.is_empty() => {
                append(out, "\n")?;
                indent(out, depth)?;
                sequence(out, items.iter_sorted(), depth)?;
            }
            other => {
                append(out, " ")?;
                append(out, &scalar(other, depth + 1))?;
                append(out, "\n")?;
            }
        }
    }
    Ok(())
}

fn sequence<'a>(out: &mut String, items: impl Iterator<Item = &'a Value>, depth: usize) -> Result<(), Fault> {
    for (index, item) in items.enumerate() {
        if index > 0 {
            indent(out, depth)?;
        }
        append(out, "- ")?;
        match item {
            Value::Object(members) if !members.is_empty() => mapping(out, item, depth + 1)?,
            Value::Array(items) if !items.is_empty() => boxed(out, &mut items.iter(), depth + 1)?,
            Value::Set(items) if !items.is_empty() => boxed(out, &mut items.iter_sorted(), depth + 1)?,
            other => {
                append(out, &scalar(other, depth + 1))?;
                append(out, "\n")?;
            }
        }
    }
    Ok(())
}

/// Ends the growth of the type that recursion over iterators would have.
fn boxed(out: &mut String, items: &mut dyn Iterator<Item = &Value>, depth: usize) -> Result<(), Fault> {
    sequence(out, items, depth)
}

fn indent(out: &mut String, depth: usize) -> Result<(), Fault> {
    (0..depth).try_for_each(|_| append(out, "  "))
}

fn scalar(value: &Value, depth: usize) -> String {
    match value {
        Value::Bool(value) => value.to_string(),
        Value::Number(number) => number.format_decimal(),
        Value::String(value) => text(value, Some(depth)),
        Value::Object(_) => "{}".to_owned(),
        Value::Array(_) | Value::Set(_) => "[]".to_owned(),
        Value::Null | Value::Undefined => "null".to_owned(),
    }
}

/// Plain where nothing else could be read; in lines of its own where it has some and there is room at a depth.
fn text(text: &str, depth: Option<usize>) -> String {
    let is_special = |c: char| {
        (c.is_control() && c != '\n') || matches!(c, '\u{feff}' | '\u{2028}' | '\u{2029}' | '\u{85}')
    };
    let is_line_end = text.contains('\n');
    if text.contains(is_special) || is_word(text) || (is_line_end && depth.is_none()) {
        return double_quoted(text);
    }
    if let (true, Some(depth)) = (is_line_end, depth) {
        // What starts with a space would need a number, what ends with one would lose it.
        if text.starts_with([' ', '\n']) || text.contains(" \n") || text.ends_with(' ') {
            return double_quoted(text);
        }
        return literal(text, depth);
    }
    if is_plain(text) { text.to_owned() } else { format!("'{}'", text.replace('\'', "''")) }
}

/// What would be read as something other than a text.
fn is_word(text: &str) -> bool {
    let lower = text.to_ascii_lowercase();
    let words = ["", "~", "null", "true", "false", "yes", "no", "on", "off", "y", "n", "<<", "="];
    words.contains(&lower.as_str())
        || matches!(lower.trim_start_matches(['+', '-']), ".inf" | ".nan")
        || read::number(text).is_some()
        || is_date(text)
        || is_sixties(text)
}

fn is_date(text: &str) -> bool {
    let date = text.get(..10).unwrap_or_default().as_bytes();
    date.len() == 10
        && date
            .iter()
            .enumerate()
            .all(|(index, byte)| if matches!(index, 4 | 7) { *byte == b'-' } else { byte.is_ascii_digit() })
}

/// Numbers by sixties, such as 1:20: written with quotes, though nothing reads them any more.
fn is_sixties(text: &str) -> bool {
    let unsigned = text.trim_start_matches(['+', '-']);
    let mut parts = unsigned.split(':');
    let is_digits = |part: &str| !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_digit());
    unsigned.contains(':') && parts.all(is_digits)
}

fn is_plain(text: &str) -> bool {
    let first_refused = |c: char| "-?:,[]{}#&*!|>'\"%@`".contains(c);
    let mut characters = text.chars();
    let (first, second) = (characters.next(), characters.next());
    let is_start = match first {
        Some('-' | '?' | ':') => second.is_some_and(|c| c != ' '),
        Some(c) => !first_refused(c),
        None => false,
    };
    is_start
        && !text.starts_with([' ', '\t'])
        && !text.ends_with([' ', ':'])
        && !text.contains(": ")
        && !text.contains(" #")
        && !text.starts_with("---")
        && !text.starts_with("...")
}

fn literal(text: &str, depth: usize) -> String {
    let kept = text.trim_end_matches('\n');
    let chomp = match text.len() - kept.len() {
        0 => "-",
        1 => "",
        _ => "+",
    };
    let space = "  ".repeat(depth.max(1));
    let mut result = format!("|{chomp}");
    for line in text.strip_suffix('\n').unwrap_or(text).split('\n') {
        result.push('\n');
        if !line.is_empty() {
            result.push_str(&space);
            result.push_str(line);
        }
    }
    result
}

fn double_quoted(text: &str) -> String {
    let mut result = String::from("\"");
    for c in text.chars() {
        match c {
            '"' => result.push_str("\\\""),
            '\\' => result.push_str("\\\\"),
            '\0' => result.push_str("\\0"),
            '\u{7}' => result.push_str("\\a"),
            '\u{8}' => result.push_str("\\b"),
            '\t' => result.push_str("\\t"),
            '\n' => result.push_str("\\n"),
            '\u{b}' => result.push_str("\\v"),
            '\u{c}' => result.push_str("\\f"),
            '\r' => result.push_str("\\r"),
            '\u{1b}' => result.push_str("\\e"),
            '\u{85}' => result.push_str("\\N"),
            '\u{2028}' => result.push_str("\\L"),
            '\u{2029}' => result.push_str("\\P"),
            c if c.is_control() => push_escape(&mut result, "\\x", c.into(), 2),
            '\u{feff}' => result.push_str("\\uFEFF"),
            other => result.push(other),
        }
    }
    result.push('"');
    result
}

/// Numbers inside names by their size, letters after everything else.
fn natural(a: &str, b: &str) -> Ordering {
    let (mut a, mut b) = (a, b);
    loop {
        let digits = |text: &str| text.bytes().take_while(u8::is_ascii_digit).count();
        match (a.chars().next(), b.chars().next()) {
            (None, None) => return Ordering::Equal,
            (None, _) => return Ordering::Less,
            (_, None) => return Ordering::Greater,
            (Some(x), Some(y)) if x.is_ascii_digit() && y.is_ascii_digit() => {
                let (Some((left, rest_a)), Some((right, rest_b))) =
                    (a.split_at_checked(digits(a)), b.split_at_checked(digits(b)))
                else {
                    return Ordering::Equal;
                };
                let size = |digits: &str| digits.trim_start_matches('0').to_owned();
                let (own, other) = (size(left), size(right));
                let order = own.len().cmp(&other.len()).then_with(|| own.cmp(&other));
                if order.is_ne() {
                    return order;
                }
                (a, b) = (rest_a, rest_b);
            }
            (Some(x), Some(y)) if x == y => {
                (a, b) =
                    (a.get(x.len_utf8()..).unwrap_or_default(), b.get(y.len_utf8()..).unwrap_or_default());
            }
            (Some(x), Some(y)) => {
                return x.is_alphabetic().cmp(&y.is_alphabetic()).then_with(|| x.cmp(&y));
            }
        }
    }
}
