//! Globs as OPA has them: `*` within delimiters, `**` across them, `?`, `[abc]`, `[!a-z]`, `{a,b}` and `\`. A glob
//! becomes a regular expression, once per thread.

use std::cell::RefCell;
use std::collections::HashMap;
use std::rc::Rc;

use ::regex::Regex;
use regorus::Value;

use super::values::{element, none_of};
use super::{Builtin, Fault, Outcome, regex, ternary, text, unary};

pub const BUILTINS: [Builtin; 2] = [ternary("glob.match", is_match), unary("glob.quote_meta", quote)];

/// Bytes of a glob.
const MAX_PATTERN_BYTES: usize = 1 << 16;
/// Alternatives inside alternatives.
const MAX_NESTING: usize = 64;
/// Globs that a thread keeps; beyond this number it starts anew.
const MAX_KEPT: usize = 100;

/// Of one pattern, by the delimiters it was compiled with, and with the bytes it may take.
type Kept = Vec<(Box<[char]>, Rc<Regex>, usize)>;

thread_local! {
    static KEPT: RefCell<HashMap<Box<str>, Kept>> = RefCell::new(HashMap::new());
}

fn is_match(pattern: &Value, delimiters: &Value, value: &Value) -> Outcome {
    let pattern = text(1, pattern)?;
    let delimiters = match delimiters {
        Value::Null => Vec::new(),
        Value::Array(items) if items.is_empty() => vec!['.'],
        Value::Array(items) => {
            items.iter().map(|item| delimiter(delimiters, item)).collect::<Result<_, _>>()?
        }
        other => return Err(none_of(2, &["array", "null"], other)),
    };
    Ok(Value::Bool(compile(pattern, &delimiters)?.is_match(text(3, value)?)))
}

fn delimiter(all: &Value, item: &Value) -> Result<char, Fault> {
    let Value::String(text) = item else { return Err(element(2, all, "string", item)) };
    let mut characters = text.chars();
    match (characters.next(), characters.next()) {
        (Some(only), None) => Ok(only),
        _ => Err(element(2, all, "rune", item)),
    }
}

fn compile(pattern: &str, delimiters: &[char]) -> Result<Rc<Regex>, Fault> {
    let kept = KEPT.with_borrow(|kept| {
        let of_pattern = kept.get(pattern)?;
        of_pattern.iter().find(|(own, ..)| **own == *delimiters).map(|(_, regex, _)| Rc::clone(regex))
    });
    if let Some(kept) = kept {
        return Ok(kept);
    }
    if pattern.len() > MAX_PATTERN_BYTES {
        return Err(Fault::failed(format!("a glob has at most {MAX_PATTERN_BYTES} bytes")));
    }
    let translated = translate(pattern, delimiters).map_err(Fault::failed)?;
    let (compiled, bytes) = regex::sized(&translated).map_err(|_| Fault::failed("the glob is too large"))?;
    let compiled = Rc::new(compiled);
    KEPT.with_borrow_mut(|kept| {
        let all = kept.values().flatten().map(|(.., bytes)| bytes);
        if all.clone().count() >= MAX_KEPT || all.sum::<usize>() + bytes > regex::MAX_KEPT_BYTES {
            kept.clear();
        }
        kept.entry(pattern.into()).or_default().push((delimiters.into(), Rc::clone(&compiled), bytes));
    });
    Ok(compiled)
}

fn escaped(characters: impl IntoIterator<Item = char>) -> String {
    let mut escaped = String::new();
    characters.into_iter().for_each(|c| regex::push_char(&mut escaped, c));
    escaped
}

fn translate(pattern: &str, delimiters: &[char]) -> Result<String, &'static str> {
    let one = if delimiters.is_empty() {
        "(?s:.)".to_owned()
    } else {
        format!("[^{}]", escaped(delimiters.iter().copied()))
    };
    let mut out = String::from(r"\A(?:");
    let mut depth = 0;
    let mut characters = pattern.chars().peekable();
    // A null character ends a pattern, for the reader that OPA uses.
    while let Some(c) = characters.next().filter(|c| *c != '\0') {
        match c {
            '*' if characters.next_if_eq(&'*').is_some() => out.push_str("(?s:.)*"),
            '*' => {
                out.push_str(&one);
                out.push('*');
            }
            '?' => out.push_str(&one),
            '[' => out.push_str(&class(&mut characters)?),
            '{' => {
                depth += 1;
                if depth > MAX_NESTING {
                    return Err("alternatives are nested too deep");
                }
                out.push_str("(?:");
            }
            ',' if depth > 0 => out.push('|'),
            '}' if depth > 0 => {
                depth -= 1;
                out.push(')');
            }
            '\\' => {
                if let Some(c) = characters.next().filter(|c| *c != '\0') {
                    out.push_str(&escaped([c]));
                }
            }
            other => out.push_str(&escaped([other])),
        }
    }
    // Alternatives that nobody closed end with the pattern.
    out.extend(std::iter::repeat_n(')', depth));
    out.push_str(r")\z");
    Ok(out)
}

/// After the `[`: either one range, or a list; a backslash counts in a list alone.
fn class(characters: &mut std::iter::Peekable<std::str::Chars<'_>>) -> Result<String, &'static str> {
    const END: &str = "unexpected end of input";
    let is_negated = characters.next_if_eq(&'!').is_some();
    let open = if is_negated { "[^" } else { "[" };
    let first = characters.next().ok_or(END)?;
    if characters.next_if_eq(&'-').is_some() {
        let last = characters.next().ok_or(END)?;
        if last < first {
            return Err("hi character should be greater than lo");
        }
        if characters.next() != Some(']') {
            return Err("expected close range character");
        }
        return Ok(format!("{open}{}-{}]", escaped([first]), escaped([last])));
    }
    let (mut list, mut next, mut is_escaped) = (String::new(), first, false);
    loop {
        match next {
            '\\' if !is_escaped => is_escaped = true,
            ']' if !is_escaped => break,
            c => {
                list.push(c);
                is_escaped = false;
            }
        }
        next = characters.next().ok_or(END)?;
    }
    if list.is_empty() {
        Err("could not parse range")
    } else {
        Ok(format!("{open}{}]", escaped(list.chars())))
    }
}

fn quote(value: &Value) -> Outcome {
    let mut quoted = String::new();
    for c in text(1, value)?.chars() {
        if matches!(c, '*' | '?' | '\\' | '[' | ']' | '{' | '}') {
            quoted.push('\\');
        }
        quoted.push(c);
    }
    Ok(Value::from(quoted))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn matches(pattern: &str, delimiters: &[char], text: &str) -> bool {
        compile(pattern, delimiters).unwrap().is_match(text)
    }

    #[test]
    fn as_opa_matches() {
        for (pattern, delimiters, text, wanted) in [
            ("*.github.com", &['.'][..], "api.github.com", true),
            ("*.github.com", &['.'], "api.cdn.github.com", false),
            ("**.github.com", &['.'], "api.cdn.github.com", true),
            ("*hub.com", &[], "api.cdn.github.com", true),
            ("*:hub:com", &[':'], "api.x:hub:com", true),
            ("?at", &[], "cat", true),
            ("?at", &['c'], "cat", false),
            ("[abc]at", &[], "bat", true),
            ("[!abc]at", &[], "bat", false),
            ("[a-c]at", &[], "cat", true),
            ("[!a-c]at", &[], "lat", true),
            ("{cat,[bf]at}", &[], "fat", true),
            ("{cat,b{x,y}}", &[], "by", true),
            ("{a,}b", &[], "b", true),
            ("{a,b", &[], "b", true),
            ("a,b}", &[], "a,b}", true),
            (r"\*\{", &[], "*{", true),
            (r"a\", &[], "a", true),
            ("/api/**/x", &['/'], "/api/a/b/x", true),
            ("/api/*/x", &['/'], "/api/a/b/x", false),
            ("", &['.'], "", true),
            ("a+(b)", &[], "a+(b)", true),
            ("*", &['.'], "a\nb", true),
            ("é*", &['/'], "éß", true),
        ] {
            assert_eq!(matches(pattern, delimiters, text), wanted, "{pattern} {text}");
        }
        for bad in ["[a", "[", "[]", "[!]", "[z-a]", "[a-cx]", &"{".repeat(100)] {
            assert!(compile(bad, &[]).is_err(), "{bad}");
        }
    }

    #[test]
    fn large_globs_are_few() {
        let delimiters: Vec<char> = ('a'..='z').chain('А'..='я').collect();
        for number in 0..MAX_KEPT {
            compile(&format!("{}{number}", "*.".repeat(60)), &delimiters).unwrap();
        }
        let bytes = KEPT.with_borrow(|kept| kept.values().flatten().map(|(.., bytes)| bytes).sum::<usize>());
        assert!((1..=regex::MAX_KEPT_BYTES).contains(&bytes));
        assert!(KEPT.with_borrow(HashMap::len) < MAX_KEPT / 2, "{bytes}");
    }

    proptest! {
        #[test]
        fn a_quoted_text_matches_itself(text in r"[a-c*?\\\[\]{},!.-]{0,12}") {
            let quoted = quote(&Value::from(text.as_str())).unwrap();
            prop_assert!(matches(quoted.as_string().unwrap(), &['.'], &text));
        }

        #[test]
        fn anything_is_compiled_or_refused(text in r"[a-c*?\\\[\]{},!.\x00é-]{0,16}") {
            let _ = compile(&text, &['.']);
        }
    }
}
