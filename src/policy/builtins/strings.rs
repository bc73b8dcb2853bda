//! Strings, counted in characters as in OPA. Never more work than the length of the operands, never a text beyond the
//! shared bound.

#![allow(clippy::unnecessary_wraps, reason = "the shape of a built-in")]

use std::collections::HashSet;

use aho_corasick::{AhoCorasick, MatchKind};
use num_bigint::BigInt;
use regorus::Value;

use super::values::{append, int, none_of, object, strings, text_value, whole};
use super::{Builtin, Fault, Outcome, binary, ternary, text, unary};

pub const BUILTINS: [Builtin; 23] = [
    binary("concat", concat),
    binary("contains", |a, b| Ok(Value::Bool(text(1, a)?.contains(text(2, b)?)))),
    binary("startswith", |a, b| Ok(Value::Bool(text(1, a)?.starts_with(text(2, b)?)))),
    binary("endswith", |a, b| Ok(Value::Bool(text(1, a)?.ends_with(text(2, b)?)))),
    binary("format_int", format_int),
    binary("indexof", index_of),
    binary("indexof_n", indexes_of),
    unary("lower", lower),
    unary("upper", upper),
    ternary("replace", replace),
    binary("split", split),
    binary("strings.any_prefix_match", any_prefix),
    binary("strings.any_suffix_match", any_suffix),
    binary("strings.count", count),
    binary("strings.replace_n", replace_many),
    unary("strings.reverse", |value| Ok(text_value(text(1, value)?.chars().rev().collect::<String>()))),
    ternary("substring", substring),
    binary("trim", |value, set| trimmed(value, set, true, true)),
    binary("trim_left", |value, set| trimmed(value, set, true, false)),
    binary("trim_right", |value, set| trimmed(value, set, false, true)),
    binary("trim_prefix", |value, prefix| stripped(value, prefix, |text, prefix| text.strip_prefix(prefix))),
    binary("trim_suffix", |value, suffix| stripped(value, suffix, |text, suffix| text.strip_suffix(suffix))),
    unary("trim_space", |value| Ok(Value::from(text(1, value)?.trim()))),
];

fn concat(separator: &Value, collection: &Value) -> Outcome {
    let separator = text(1, separator)?;
    let mut joined = String::new();
    for (index, part) in strings(2, collection, &["set", "array"])?.into_iter().enumerate() {
        if index > 0 {
            append(&mut joined, separator)?;
        }
        append(&mut joined, part)?;
    }
    Ok(Value::from(joined))
}

fn format_int(value: &Value, base: &Value) -> Outcome {
    let Value::Number(number) = value else { return Err(Fault::operand(1, "number", value)) };
    let Value::Number(base) = base else { return Err(Fault::operand(2, "number", base)) };
    let radix = match base.as_u64() {
        Some(2) => 2,
        Some(8) => 8,
        Some(10) => 10,
        Some(16) => 16,
        _ => return Err(Fault::Type("operand 2 must be one of {2, 8, 10, 16}".to_owned())),
    };
    let towards_zero = || {
        let double = Value::from(number.as_f64().unwrap_or_default().trunc());
        whole(&double).unwrap_or_default()
    };
    let integer: BigInt = whole(value).unwrap_or_else(towards_zero);
    Ok(Value::from(integer.to_str_radix(radix)))
}

fn needle(value: &Value) -> Result<&str, Fault> {
    let needle = text(2, value)?;
    if needle.is_empty() { Err(Fault::failed("empty search character")) } else { Ok(needle) }
}

fn index_of(value: &Value, sought: &Value) -> Outcome {
    let (text, sought) = (text(1, value)?, needle(sought)?);
    let characters = |at: usize| text.get(..at).map_or(0, |before| before.chars().count());
    Ok(text.find(sought).map_or_else(|| Value::from(-1_i64), |at| Value::from(characters(at))))
}

/// Overlapping ones too. By Knuth, Morris and Pratt: trying at each character would take the product of the lengths.
fn indexes_of(value: &Value, sought: &Value) -> Outcome {
    let (text, sought) = (text(1, value)?, needle(sought)?);
    let sought: Vec<char> = sought.chars().collect();
    let at = |index: usize| sought.get(index).copied();
    let mut borders: Vec<usize> = vec![0];
    let border = |borders: &[usize], length: usize| borders.get(length.wrapping_sub(1)).copied().unwrap_or(0);
    let mut length = 0;
    for &next in sought.iter().skip(1) {
        while length > 0 && at(length) != Some(next) {
            length = border(&borders, length);
        }
        length += usize::from(at(length) == Some(next));
        borders.push(length);
    }
    let (mut found, mut matched) = (Vec::new(), 0);
    for (index, next) in text.chars().enumerate() {
        while matched > 0 && at(matched) != Some(next) {
            matched = border(&borders, matched);
        }
        matched += usize::from(at(matched) == Some(next));
        if matched == sought.len() {
            found.push(Value::from(index + 1 - matched));
        }
    }
    Ok(Value::from(found))
}

/// Character by character, as in Go: no `ß` to `SS`, no final sigma.
fn lower(value: &Value) -> Outcome {
    let lower = |c: char| {
        let mut mapped = c.to_lowercase();
        mapped.next().unwrap_or(c)
    };
    Ok(text_value(text(1, value)?.chars().map(lower).collect::<String>()))
}

fn upper(value: &Value) -> Outcome {
    let upper = |c: char| {
        let mut mapped = c.to_uppercase();
        match (mapped.next(), mapped.next()) {
            (Some(only), None) => only,
            // Greek with an iota below has a title case of one character; the rest has none.
            _ => match u32::from(c) {
                code @ (0x1f80..=0x1f87 | 0x1f90..=0x1f97 | 0x1fa0..=0x1fa7) => {
                    char::from_u32(code + 8).unwrap_or(c)
                }
                code @ (0x1fb3 | 0x1fc3 | 0x1ff3) => char::from_u32(code + 9).unwrap_or(c),
                _ => c,
            },
        }
    };
    Ok(text_value(text(1, value)?.chars().map(upper).collect::<String>()))
}

fn replace(value: &Value, old: &Value, new: &Value) -> Outcome {
    let (text, old, new) = (text(1, value)?, text(2, old)?, text(3, new)?);
    if old.is_empty() {
        return replaced(text, &[(old, new)]);
    }
    let (mut result, mut last) = (String::with_capacity(text.len()), 0);
    for (at, _) in text.match_indices(old) {
        append(&mut result, text.get(last..at).unwrap_or_default())?;
        append(&mut result, new)?;
        last = at + old.len();
    }
    append(&mut result, text.get(last..).unwrap_or_default())?;
    Ok(Value::from(result))
}

fn replace_many(patterns: &Value, value: &Value) -> Outcome {
    let patterns = object(1, patterns)?;
    let text = text(2, value)?;
    let mut pairs = Vec::new();
    for (old, new) in patterns.iter_sorted() {
        let wrong = |part: &str| Fault::Type(format!("operand 1 non-string {part} found in pattern object"));
        let Value::String(old) = old else { return Err(wrong("key")) };
        let Value::String(new) = new else { return Err(wrong("value")) };
        pairs.push((old.as_ref(), new.as_ref()));
    }
    replaced(text, &pairs)
}

/// In one pass; of two old texts at one place the one that is named first. An empty one is found wherever nothing else
/// has just been replaced by it, as in Go.
fn replaced(text: &str, pairs: &[(&str, &str)]) -> Outcome {
    let between = pairs.iter().find(|(old, _)| old.is_empty()).map(|(_, new)| *new);
    let pairs: Vec<_> = pairs.iter().filter(|(old, _)| !old.is_empty()).collect();
    let search = AhoCorasick::builder()
        .match_kind(MatchKind::LeftmostFirst)
        .build(pairs.iter().map(|(old, _)| old))
        .map_err(|error| Fault::failed(error.to_string()))?;
    let (mut result, mut last) = (String::new(), 0);
    let keep = |result: &mut String, kept: &str| match between {
        None => append(result, kept),
        Some(new) => kept.chars().try_for_each(|c| {
            append(result, new)?;
            append(result, c.encode_utf8(&mut [0; 4]))
        }),
    };
    for found in search.find_iter(text) {
        keep(&mut result, text.get(last..found.start()).unwrap_or_default())?;
        append(&mut result, between.unwrap_or_default())?;
        append(&mut result, pairs.get(found.pattern().as_usize()).map_or("", |(_, new)| new))?;
        last = found.end();
    }
    keep(&mut result, text.get(last..).unwrap_or_default())?;
    append(&mut result, between.unwrap_or_default())?;
    Ok(Value::from(result))
}

fn split(value: &Value, separator: &Value) -> Outcome {
    let (text, separator) = (text(1, value)?, text(2, separator)?);
    let parts: Vec<Value> = if separator.is_empty() {
        text.chars().map(|c| Value::from(&*c.encode_utf8(&mut [0; 4]))).collect()
    } else {
        text.split(separator).map(Value::from).collect()
    };
    Ok(Value::from(parts))
}

fn any_prefix(texts: &Value, prefixes: &Value) -> Outcome {
    let own = |text: &&str| (*text).to_owned();
    let texts = one_or_more(1, texts)?.iter().map(own).collect();
    any_starts(texts, &one_or_more(2, prefixes)?.iter().map(own).collect::<Vec<_>>())
}

fn any_suffix(texts: &Value, suffixes: &Value) -> Outcome {
    let reverse = |text: &&str| text.chars().rev().collect::<String>();
    let texts = one_or_more(1, texts)?.iter().map(reverse).collect();
    any_starts(texts, &one_or_more(2, suffixes)?.iter().map(reverse).collect::<Vec<_>>())
}

fn one_or_more(position: usize, value: &Value) -> Result<Vec<&str>, Fault> {
    match value {
        Value::String(text) => Ok(vec![text]),
        Value::Array(_) | Value::Set(_) => strings(position, value, &[]),
        other => Err(none_of(position, &["string", "set", "array"], other)),
    }
}

/// The texts that start with a prefix stand together in their order, from the prefix on.
fn any_starts(mut texts: Vec<String>, prefixes: &[String]) -> Outcome {
    texts.sort_unstable();
    let starts = |prefix: &String| {
        let first = texts.partition_point(|text| text < prefix);
        texts.get(first).is_some_and(|text| text.starts_with(prefix))
    };
    Ok(Value::Bool(prefixes.iter().any(starts)))
}

fn count(value: &Value, sought: &Value) -> Outcome {
    let (text, sought) = (text(1, value)?, text(2, sought)?);
    let count = if sought.is_empty() { text.chars().count() + 1 } else { text.matches(sought).count() };
    Ok(Value::from(count))
}

fn substring(value: &Value, start: &Value, length: &Value) -> Outcome {
    let (text, start, length) = (text(1, value)?, int(2, start)?, int(3, length)?);
    let start = usize::try_from(start).map_err(|_| Fault::failed("negative offset"))?;
    let length = usize::try_from(length).unwrap_or(usize::MAX);
    Ok(text_value(text.chars().skip(start).take(length).collect::<String>()))
}

/// Up to so many characters are looked through one by one.
const SMALL_CUT_SET: usize = 16;

fn trimmed(value: &Value, cut: &Value, left: bool, right: bool) -> Outcome {
    let (text, cut) = (text(1, value)?, text(2, cut)?);
    let many: HashSet<char> = if cut.len() > SMALL_CUT_SET { cut.chars().collect() } else { HashSet::new() };
    let is_cut = |c: char| if many.is_empty() { cut.contains(c) } else { many.contains(&c) };
    let text = if left { text.trim_start_matches(is_cut) } else { text };
    Ok(Value::from(if right { text.trim_end_matches(is_cut) } else { text }))
}

fn stripped(value: &Value, part: &Value, strip: for<'a> fn(&'a str, &str) -> Option<&'a str>) -> Outcome {
    let (text, part) = (text(1, value)?, text(2, part)?);
    Ok(Value::from(strip(text, part).unwrap_or(text)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn v(text: &str) -> Value {
        Value::from(text)
    }

    #[test]
    fn places_of_overlapping_texts() {
        let places =
            |text: &str, sought: &str| indexes_of(&v(text), &v(sought)).map(|found| found.to_string());
        assert_eq!(places("aaaa", "aa").as_deref(), Ok("[0, 1, 2]".replace(' ', "").as_str()));
        assert_eq!(places("äbäbäb", "äbä").as_deref(), Ok("[0,2]"));
        assert_eq!(places("abc", "d").as_deref(), Ok("[]"));
        assert!(index_of(&v("a"), &v("")).is_err());
        let (text, sought) = ("a".repeat(1 << 20), "a".repeat(1 << 19));
        assert_eq!(indexes_of(&v(&text), &v(&sought)).unwrap().as_array().unwrap().len(), (1 << 19) + 1);
    }

    #[test]
    fn case_as_in_go() {
        assert_eq!(upper(&v("straße ᾳ")), Ok(v("STRAßE ᾼ")));
        assert_eq!(lower(&v("ΣΑΣ İ")), Ok(v("σασ i")));
    }

    #[test]
    fn replacing_has_a_bound_and_an_order() {
        let long = v(&"a".repeat(1 << 16));
        assert!(replace(&long, &v("a"), &long).is_err());
        assert_eq!(replace(&v("äb"), &v(""), &v("-")), Ok(v("-ä-b-")));
        assert_eq!(replace(&v("aaäa"), &v("aa"), &v("-")), Ok(v("-äa")));
        let pairs = Value::from_json_str(r#"{"": "X", "a": "b", "ab": "c"}"#).unwrap();
        assert_eq!(replace_many(&pairs, &v("aab")), Ok(v("XbXbXbX")));
        assert!(concat(&long, &Value::from(vec![v("x"); 1 << 10])).is_err());
    }

    #[test]
    fn counts_and_parts() {
        assert_eq!(count(&v("dummy"), &v("")), Ok(Value::from(6_u64)));
        assert_eq!(substring(&v("äöü"), &Value::from(1_u64), &Value::from(i64::MAX)), Ok(v("öü")));
        assert_eq!(trimmed(&v("xxaxx"), &v("x"), true, false), Ok(v("axx")));
        assert_eq!(any_suffix(&Value::from(vec![v("foo.exe")]), &v(".exe")), Ok(Value::Bool(true)));
    }
}
