//! Writing, in the style of Go's library: members in the natural order of their names, lists at the level of their key.

use std::cmp::Ordering;

use regorus::Value;

use super::super::values::{append, sorted_members};
use super::super::{Fault, go_float, sprintf::push_escape, time};
use super::read;

pub fn write(value: &Value) -> Result<String, Fault> {
    let mut out = String::new();
    match value {
        Value::Object(members) if !members.is_empty() => mapping(&mut out, value, 0)?,
        Value::Array(items) if !items.is_empty() => sequence(&mut out, items.iter(), 0)?,
        Value::Set(items) if !items.is_empty() => sequence(&mut out, items.iter_sorted(), 0)?,
        other => {
            scalar(&mut out, other, 0)?;
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
                scalar(out, other, depth + 1)?;
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
                scalar(out, other, depth + 1)?;
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

/// Writes a scalar, on from the column where the text is.
fn scalar(out: &mut String, value: &Value, depth: usize) -> Result<(), Fault> {
    let written = match value {
        Value::Bool(value) => value.to_string(),
        Value::Number(number) => match (number.as_i64(), number.as_u64(), number.format_decimal().parse()) {
            (None, None, Ok(double)) => go_float::text(double, 'g', None),
            _ => number.format_decimal(),
        },
        Value::String(value) => {
            let column = out.rsplit('\n').next().map_or(0, |line| line.chars().count());
            text(value, Some((depth.max(1), column)))
        }
        Value::Object(_) => "{}".to_owned(),
        Value::Array(_) | Value::Set(_) => "[]".to_owned(),
        Value::Null | Value::Undefined => "null".to_owned(),
    };
    append(out, &written)
}

/// Plain where nothing else could be read; in lines of its own where it has some. Without a place it is a key.
fn text(text: &str, place: Option<(usize, usize)>) -> String {
    let is_special = |c: char| {
        (c.is_control() && c != '\n') || matches!(c, '\u{feff}' | '\u{2028}' | '\u{2029}' | '\u{85}')
    };
    let is_double = text.contains(is_special) || text.contains(" \n");
    if let (true, false, Some((depth, _))) = (text.contains('\n'), is_double || text.ends_with(' '), place) {
        return literal(text, depth);
    }
    let (quoted, is_double) = if is_double || is_word(text) || text.contains('\n') {
        (double_quoted(text), true)
    } else if is_plain(text) {
        (text.to_owned(), false)
    } else {
        (format!("'{}'", text.replace('\'', "''")), false)
    };
    match place {
        Some((depth, column)) => folded(&quoted, is_double, depth, column),
        None => quoted,
    }
}

/// Column after which a line ends at the next space.
const WIDTH: usize = 80;

fn folded(text: &str, is_double: bool, depth: usize, column: usize) -> String {
    if column + text.len() <= WIDTH {
        return text.to_owned();
    }
    let is_quoted = text.starts_with(['"', '\'']);
    let characters: Vec<char> = text.chars().collect();
    let at = |index: usize| characters.get(index).copied();
    let (mut result, mut column, mut was_space) = (String::with_capacity(text.len() + 16), column, false);
    for (index, c) in characters.iter().copied().enumerate() {
        let is_edge = is_quoted && (index <= 1 || index + 2 >= characters.len());
        let next_is_space = at(index + 1) == Some(' ');
        if c == ' ' && !was_space && column > WIDTH && !is_edge && (is_double || !next_is_space) {
            result.push('\n');
            result.push_str(&"  ".repeat(depth));
            column = 2 * depth;
            if next_is_space {
                result.push('\\');
                column += 1;
            }
        } else {
            result.push(c);
            column += 1;
        }
        was_space = c == ' ';
    }
    result
}

/// What would be read as something other than a text.
fn is_word(text: &str) -> bool {
    let lower = text.to_ascii_lowercase();
    let words = ["", "~", "null", "true", "false", "yes", "no", "on", "off", "y", "n", "<<"];
    words.contains(&lower.as_str())
        || matches!(lower.trim_start_matches(['+', '-']), ".inf" | ".nan")
        || read::number(text).is_some()
        || time::is_timestamp(text)
        || is_sixties(text)
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
    // Where the first line begins with a space, its indent is told.
    let hint = if text.starts_with([' ', '\n']) { "2" } else { "" };
    let mut result = format!("|{hint}{chomp}");
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
