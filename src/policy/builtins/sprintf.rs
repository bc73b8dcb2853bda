//! `sprintf` by the rules of Go's `fmt`: verbs, flags, width, precision, argument indexes, and its notes of what does
//! not fit. What is written has a bound, however wide a format asks for.

use std::borrow::Cow;

use num_bigint::{BigInt, Sign};
use regorus::Value;

use super::values::{append, array, whole};
use super::{Builtin, Fault, Outcome, binary, go_float, text};

pub const BUILTINS: [Builtin; 1] = [binary("sprintf", sprintf)];

/// The largest width or precision that Go reads.
const MAX_WIDTH: usize = 1_000_000;

enum Argument<'a> {
    Integer(BigInt),
    Float(f64),
    Text(Cow<'a, str>),
}

impl Argument<'_> {
    fn type_name(&self) -> &'static str {
        match self {
            Self::Integer(value) if i64::try_from(value).is_ok() => "int",
            Self::Integer(_) => "*big.Int",
            Self::Float(_) => "float64",
            Self::Text(_) => "string",
        }
    }
}

fn sprintf(format: &Value, arguments: &Value) -> Outcome {
    let format = text(1, format)?;
    let arguments: Vec<Argument<'_>> = array(2, arguments)?.iter().map(argument).collect();
    let mut printer = Printer { out: String::new(), arguments: &arguments, next: 0, reordered: false };
    printer.run(format)?;
    Ok(Value::from(printer.out))
}

fn argument(value: &Value) -> Argument<'_> {
    match value {
        Value::String(text) => Argument::Text(Cow::Borrowed(text)),
        Value::Number(number) => match whole(value) {
            Some(integer) if integer.bits() > MAX_DOUBLE_BITS => beyond_double(integer),
            Some(integer) => Argument::Integer(integer),
            None => Argument::Float(number.as_f64().unwrap_or(f64::NAN)),
        },
        other => Argument::Text(Cow::Owned(term(other))),
    }
}

/// Bits of the largest double.
const MAX_DOUBLE_BITS: u64 = 1024;
/// Digits of a number that can only have been written with an exponent, and is shown with it.
const WRITTEN_DIGITS: usize = 40;

fn beyond_double<'a>(integer: BigInt) -> Argument<'a> {
    let digits = integer.to_string();
    let kept = digits.trim_end_matches('0');
    if kept.len() > WRITTEN_DIGITS {
        return Argument::Integer(integer);
    }
    Argument::Text(Cow::Owned(format!("{kept}e{}", digits.len() - kept.len())))
}

/// A value as Rego writes it.
pub fn term(value: &Value) -> String {
    fn join(items: impl Iterator<Item = String>) -> String {
        items.collect::<Vec<_>>().join(", ")
    }
    match value {
        Value::Null => "null".to_owned(),
        Value::Bool(value) => value.to_string(),
        Value::Number(number) => number.format_decimal(),
        Value::String(text) => quoted(text, '"'),
        Value::Array(items) => format!("[{}]", join(items.iter().map(term))),
        Value::Set(items) if items.is_empty() => "set()".to_owned(),
        Value::Set(items) => format!("{{{}}}", join(items.iter_sorted().map(term))),
        Value::Object(members) => {
            format!(
                "{{{}}}",
                join(members.iter_sorted().map(|(key, value)| format!("{}: {}", term(key), term(value))))
            )
        }
        Value::Undefined => "undefined".to_owned(),
    }
}

/// A prefix and a number in hexadecimal digits; upper case ones after a `%`.
pub fn push_escape(to: &mut String, prefix: &str, code: u32, digits: usize) {
    let is_upper = prefix == "%";
    let code = if is_upper { format!("{code:0digits$X}") } else { format!("{code:0digits$x}") };
    to.push_str(prefix);
    to.push_str(&code);
}

/// As Go's `strconv.Quote`.
pub fn quoted(text: &str, quote: char) -> String {
    let mut result = String::with_capacity(text.len() + 2);
    result.push(quote);
    for c in text.chars() {
        match c {
            '\\' => result.push_str("\\\\"),
            '\u{7}' => result.push_str("\\a"),
            '\u{8}' => result.push_str("\\b"),
            '\u{c}' => result.push_str("\\f"),
            '\n' => result.push_str("\\n"),
            '\r' => result.push_str("\\r"),
            '\t' => result.push_str("\\t"),
            '\u{b}' => result.push_str("\\v"),
            c if c == quote => result.extend(['\\', c]),
            c if is_printable(c) => result.push(c),
            c if c.is_ascii() => push_escape(&mut result, "\\x", c.into(), 2),
            c if u32::from(c) <= 0xffff => push_escape(&mut result, "\\u", c.into(), 4),
            c => push_escape(&mut result, "\\U", c.into(), 8),
        }
    }
    result.push(quote);
    result
}

fn is_printable(c: char) -> bool {
    if c.is_ascii() {
        return !c.is_ascii_control();
    }
    // After a letter, so that a combining mark is not escaped for standing first.
    let mut buffer = String::from("a");
    buffer.push(c);
    buffer.escape_debug().count() == 2
}

#[derive(Default, Clone)]
#[allow(clippy::struct_excessive_bools, reason = "the flags of a verb, each by itself")]
struct Flags {
    minus: bool,
    plus: bool,
    sharp: bool,
    space: bool,
    zero: bool,
    width: Option<usize>,
    precision: Option<usize>,
}

struct Printer<'a> {
    out: String,
    arguments: &'a [Argument<'a>],
    next: usize,
    reordered: bool,
}

impl Printer<'_> {
    fn run(&mut self, format: &str) -> Result<(), Fault> {
        let mut rest = format;
        while let Some((before, after)) = rest.split_once('%') {
            append(&mut self.out, before)?;
            rest = self.directive(after)?;
        }
        append(&mut self.out, rest)?;
        let extra = self.arguments.get(self.next..).unwrap_or_default();
        if !self.reordered && !extra.is_empty() {
            append(&mut self.out, "%!(EXTRA ")?;
            for (index, argument) in extra.iter().enumerate() {
                append(&mut self.out, if index > 0 { ", " } else { "" })?;
                append(&mut self.out, argument.type_name())?;
                append(&mut self.out, "=")?;
                self.print(argument, 'v', &Flags::default())?;
            }
            append(&mut self.out, ")")?;
        }
        Ok(())
    }

    /// What follows a `%`; gives what follows the directive.
    fn directive<'f>(&mut self, format: &'f str) -> Result<&'f str, Fault> {
        let mut flags = Flags::default();
        let mut rest = format;
        while let Some(flag) = rest.chars().next().filter(|c| "#0+- ".contains(*c)) {
            match flag {
                '#' => flags.sharp = true,
                '0' => flags.zero = true,
                '+' => flags.plus = true,
                '-' => flags.minus = true,
                _ => flags.space = true,
            }
            rest = rest.get(1..).unwrap_or_default();
        }
        let mut is_good = true;
        let mut after_index = self.index(&mut rest, &mut is_good);
        if let Some(tail) = rest.strip_prefix('*') {
            rest = tail;
            match self.star() {
                Some(width) => {
                    flags.minus |= width < 0;
                    flags.width = usize::try_from(width.unsigned_abs()).ok();
                }
                None => append(&mut self.out, "%!(BADWIDTH)")?,
            }
            after_index = false;
        } else {
            flags.width = number(&mut rest);
            is_good &= !(after_index && flags.width.is_some());
        }
        if let Some(tail) = rest.strip_prefix('.') {
            rest = tail;
            is_good &= !after_index;
            after_index = self.index(&mut rest, &mut is_good);
            if let Some(tail) = rest.strip_prefix('*') {
                rest = tail;
                match self.star() {
                    Some(precision) => flags.precision = usize::try_from(precision).ok(),
                    None => append(&mut self.out, "%!(BADPREC)")?,
                }
                after_index = false;
            } else {
                flags.precision = Some(number(&mut rest).unwrap_or(0));
            }
        }
        if !after_index {
            self.index(&mut rest, &mut is_good);
        }
        flags.zero &= !flags.minus;
        let Some(verb) = rest.chars().next() else {
            append(&mut self.out, "%!(NOVERB)")?;
            return Ok("");
        };
        let rest = rest.get(verb.len_utf8()..).unwrap_or_default();
        if verb == '%' {
            append(&mut self.out, "%")?;
        } else if !is_good {
            append(&mut self.out, &format!("%!{verb}(BADINDEX)"))?;
        } else if let Some(argument) = self.arguments.get(self.next) {
            self.next += 1;
            self.print(argument, verb, &flags)?;
        } else {
            append(&mut self.out, &format!("%!{verb}(MISSING)"))?;
        }
        Ok(rest)
    }

    /// `[3]`: which argument is next. True if there was one.
    fn index(&mut self, rest: &mut &str, is_good: &mut bool) -> bool {
        let Some(tail) = rest.strip_prefix('[') else { return false };
        self.reordered = true;
        let Some((digits, after)) = tail.split_once(']') else {
            *rest = tail;
            *is_good = false;
            return false;
        };
        *rest = after;
        let index = if digits.bytes().all(|byte| byte.is_ascii_digit()) {
            digits.parse::<usize>().ok()
        } else {
            None
        };
        match index {
            Some(index) if (1..=self.arguments.len()).contains(&index) => {
                self.next = index - 1;
                true
            }
            other => {
                *is_good = false;
                other.is_some()
            }
        }
    }

    /// A width or a precision among the arguments.
    fn star(&mut self) -> Option<i64> {
        let argument = self.arguments.get(self.next)?;
        self.next += 1;
        let Argument::Integer(value) = argument else { return None };
        i64::try_from(value).ok().filter(|value| value.unsigned_abs() <= MAX_WIDTH as u64)
    }

    fn print(&mut self, argument: &Argument<'_>, verb: char, flags: &Flags) -> Result<(), Fault> {
        let text = match (argument, verb) {
            (_, 'T') => Some(padded(argument.type_name(), flags)),
            (Argument::Integer(value), _) => integer(value, verb, flags, argument.type_name() == "int"),
            (Argument::Float(value), _) => float(*value, verb, flags),
            (Argument::Text(text), _) => string(text, verb, flags),
        };
        if let Some(text) = text {
            return append(&mut self.out, &text);
        }
        let kind = argument.type_name().trim_start_matches('*');
        append(&mut self.out, &format!("%!{verb}({kind}="))?;
        self.print(argument, 'v', flags)?;
        append(&mut self.out, ")")
    }
}

/// Digits at the start. A number beyond Go's largest takes the whole rest with it.
fn number(rest: &mut &str) -> Option<usize> {
    let length = rest.bytes().take_while(u8::is_ascii_digit).count();
    let (digits, after) = rest.split_at_checked(length)?;
    if digits.is_empty() {
        return None;
    }
    let value = digits.parse().ok().filter(|value| *value <= MAX_WIDTH);
    *rest = if value.is_some() { after } else { "" };
    value
}

fn padded(text: &str, flags: &Flags) -> String {
    let missing = flags.width.unwrap_or(0).saturating_sub(text.chars().count());
    let padding = if flags.zero { "0" } else { " " }.repeat(missing);
    if flags.minus { format!("{text}{padding}") } else { format!("{padding}{text}") }
}

fn integer(value: &BigInt, verb: char, flags: &Flags, is_small: bool) -> Option<String> {
    let (radix, prefix) = match verb {
        'd' | 'v' => (10, ""),
        's' if !is_small => (10, ""),
        'b' => (2, "0b"),
        'o' => (8, "0"),
        'O' => (8, "0o"),
        'x' => (16, "0x"),
        'X' => (16, "0X"),
        'c' if is_small => return Some(padded(&character(value).to_string(), flags)),
        'q' if is_small => return Some(padded(&quoted(&character(value).to_string(), '\''), flags)),
        'U' if is_small => {
            return Some(padded(&unicode(value, flags), &Flags { zero: false, ..flags.clone() }));
        }
        _ => return None,
    };
    let prefix = if flags.sharp || verb == 'O' { prefix } else { "" };
    let mut digits = value.magnitude().to_str_radix(radix);
    if verb == 'X' {
        digits.make_ascii_uppercase();
    }
    let sign = match (value.sign() == Sign::Minus, flags.plus, flags.space) {
        (true, ..) => "-",
        (_, true, _) => "+",
        (_, _, true) => " ",
        _ => "",
    };
    let mut least = flags.precision.unwrap_or(1);
    if flags.precision == Some(0) && value.sign() == Sign::NoSign {
        digits.clear();
    }
    if let (true, None, Some(width)) = (flags.zero, flags.precision, flags.width) {
        least = width.saturating_sub(sign.len());
    }
    let zeros = "0".repeat(least.saturating_sub(digits.len()));
    Some(padded(&format!("{sign}{prefix}{zeros}{digits}"), &Flags { zero: false, ..flags.clone() }))
}

fn character(value: &BigInt) -> char {
    u32::try_from(value).ok().and_then(char::from_u32).unwrap_or(char::REPLACEMENT_CHARACTER)
}

fn unicode(value: &BigInt, flags: &Flags) -> String {
    let code = value.to_str_radix(16).to_uppercase();
    let least = flags.precision.unwrap_or(4).max(4);
    let zeros = "0".repeat(least.saturating_sub(code.len()));
    let shown = if flags.sharp { format!(" '{}'", character(value)) } else { String::new() };
    format!("U+{zeros}{code}{shown}")
}

fn float(value: f64, verb: char, flags: &Flags) -> Option<String> {
    let decimal = |form, precision| go_float::text(value.abs(), form, flags.precision.or(precision));
    let digits = match verb {
        'v' => decimal('g', None),
        'g' | 'G' => decimal(verb, None),
        'e' | 'E' | 'f' | 'F' => decimal(verb, Some(6)),
        'b' => go_float::binary(value),
        'x' => go_float::hexadecimal(value),
        'X' => go_float::hexadecimal(value).to_uppercase(),
        _ => return None,
    };
    let sign = match (value.is_sign_negative(), flags.plus, flags.space) {
        (true, ..) => "-",
        (_, true, _) => "+",
        (_, _, true) => " ",
        _ => "",
    };
    let width = flags.width.unwrap_or(0);
    let zeros = if flags.zero { width.saturating_sub(sign.len() + digits.len()) } else { 0 };
    Some(padded(&format!("{sign}{}{digits}", "0".repeat(zeros)), flags))
}

fn string(text: &str, verb: char, flags: &Flags) -> Option<String> {
    let cut = |text: &str| match flags.precision {
        Some(precision) => text.chars().take(precision).collect(),
        None => text.to_owned(),
    };
    let is_plain = |c: char| c != '`' && c != '\u{feff}' && (!c.is_control() || c == '\t');
    let shown = match verb {
        'v' if flags.sharp => quoted(&cut(text), '"'),
        'v' | 's' => cut(text),
        'q' if flags.sharp && text.chars().all(is_plain) => format!("`{}`", cut(text)),
        'q' => quoted(&cut(text), '"'),
        'x' | 'X' => hexadecimal(text, verb, flags),
        _ => return None,
    };
    Some(padded(&shown, flags))
}

fn hexadecimal(text: &str, verb: char, flags: &Flags) -> String {
    let bytes = text.as_bytes();
    let bytes = bytes.get(..flags.precision.unwrap_or(usize::MAX).min(bytes.len())).unwrap_or_default();
    let mut result = String::with_capacity(bytes.len() * 2);
    for (index, byte) in bytes.iter().enumerate() {
        if flags.space && index > 0 {
            result.push(' ');
        }
        if flags.sharp && (flags.space || index == 0) {
            result.push_str("0x");
        }
        push_escape(&mut result, "", u32::from(*byte), 2);
    }
    if verb == 'X' { result.to_uppercase() } else { result }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn print(format: &str, arguments: &str) -> String {
        let arguments = Value::from_json_str(arguments).unwrap();
        sprintf(&Value::from(format), &arguments).unwrap().as_string().unwrap().to_string()
    }

    #[test]
    fn as_go_prints() {
        for (format, arguments, wanted) in [
            ("%d|%5d|%-5d|%05d|%+d", "[1,2,3,-4,5]", "1|    2|3    |-0004|+5"),
            ("%x %X %#x %o %b %c %q %U", "[255,255,255,8,5,65,66,9731]", "ff FF 0xff 10 101 A 'B' U+2603"),
            ("%s %v %q", r#"["a",[1,"b"],"c\n"]"#, r#"a [1, "b"] "c\n""#),
            ("%5.1f|%e|%g|%v", "[3.14159,1.5,0.25,1e-7]", "  3.1|1.500000e+00|0.25|1e-07"),
            ("%d %d", r#"["x"]"#, "%!d(string=x) %!d(MISSING)"),
            ("%s", "[1]", "%!s(int=1)"),
            ("%f", "[3]", "%!f(int=3)"),
            ("a", "[1, 2.5]", "a%!(EXTRA int=1, float64=2.5)"),
            ("%", "[]", "%!(NOVERB)"),
            ("%!", "[1]", "%!!(int=1)"),
            ("100%%", "[]", "100%"),
            ("%[2]d %[1]d", "[1,2]", "2 1"),
            ("%[5]d", "[1]", "%!d(BADINDEX)"),
            ("%*d|%.*f", "[4,1,1,2.55]", "   1|2.5"),
            ("%t %T", "[true, 1]", "%!t(string=true) int"),
            ("%d", "[123456789012345678901]", "123456789012345678901"),
            ("%v %v", r#"[{"b":1,"a":null}, []]"#, r#"{"a": null, "b": 1} []"#),
            ("% x|%06.2f", r#"["ab", 1.5]"#, "61 62|001.50"),
            ("%99999999999d", "[1]", "%!(NOVERB)%!(EXTRA int=1)"),
            ("%v", "[2e308]", "2e308"),
            ("%x|%b|%d", "[1.5,0.5,1.5]", "0x1.8p+00|4503599627370496p-53|%!d(float64=1.5)"),
            ("%+q|%#x|%#v|%-5s|", r#"["a","b","c","d"]"#, "\"a\"|0x62|\"c\"|d    |"),
            ("%6.2f%%|%3c|%-4q|", "[99.5,65,66]", " 99.50%|  A|'B' |"),
        ] {
            assert_eq!(print(format, arguments), wanted, "{format}");
        }
        assert_eq!(print("%1000000d", "[1]").len(), 1_000_000);
        let wide = Value::from("%1000000d".repeat(20));
        assert!(sprintf(&wide, &Value::from(vec![Value::from(1_u64); 20])).is_err());
    }
}
