//! Regular expressions with the meaning that Go's RE2 gives them. Patterns are compiled once per thread and kept, in a
//! number and a size that have bounds.

mod translate;

pub use translate::push_char;

use std::cell::RefCell;
use std::collections::HashMap;
use std::rc::Rc;

use ::regex::{Captures, Regex, RegexBuilder};
use regorus::Value;

use super::sprintf::quoted;
use super::values::{append, int, too_large};
use super::{Builtin, Fault, Outcome, binary, of_many, ternary, text, unary};

pub const BUILTINS: [Builtin; 8] = [
    binary("regex.match", is_match),
    binary("re_match", is_match),
    unary("regex.is_valid", is_valid),
    binary("regex.split", split),
    ternary("regex.find_n", find),
    ternary("regex.find_all_string_submatch_n", find_submatches),
    ternary("regex.replace", replace),
    of_many("regex.template_match", 4, template_match),
];

/// Bytes of a pattern's text.
const MAX_PATTERN_BYTES: usize = 1 << 16;
/// Bytes of a compiled pattern, and of what its matcher remembers. A pattern from a request may not take more.
const MAX_COMPILED_BYTES: usize = 1 << 20;
/// Groups inside groups.
const MAX_NESTING: u32 = 200;
/// Patterns that a thread keeps. Beyond this number it starts anew: a policy has fewer.
const MAX_KEPT: usize = 100;
/// Texts that one search gives.
const MAX_FOUND: usize = 1 << 21;

thread_local! {
    static KEPT: RefCell<HashMap<Box<str>, Rc<Regex>>> = RefCell::new(HashMap::new());
}

/// Compiles what is written in the syntax of the `regex` crate.
pub fn build(pattern: &str) -> Result<Regex, ::regex::Error> {
    RegexBuilder::new(pattern)
        .size_limit(MAX_COMPILED_BYTES)
        .dfa_size_limit(MAX_COMPILED_BYTES)
        .nest_limit(MAX_NESTING)
        .build()
}

fn compile(pattern: &str) -> Result<Rc<Regex>, Fault> {
    if let Some(kept) = KEPT.with_borrow(|kept| kept.get(pattern).cloned()) {
        return Ok(kept);
    }
    let compiled = Rc::new(compiled(pattern)?);
    KEPT.with_borrow_mut(|kept| {
        if kept.len() >= MAX_KEPT {
            kept.clear();
        }
        kept.insert(pattern.into(), Rc::clone(&compiled));
    });
    Ok(compiled)
}

fn compiled(pattern: &str) -> Result<Regex, Fault> {
    let failed = |message: String| Fault::failed(format!("error parsing regexp: {message}"));
    if pattern.len() > MAX_PATTERN_BYTES {
        return Err(failed(format!("a pattern has at most {MAX_PATTERN_BYTES} bytes")));
    }
    let translated = translate::translate(pattern).map_err(failed)?;
    build(&translated).map_err(|error| match error {
        ::regex::Error::CompiledTooBig(_) => failed("expression too large".to_owned()),
        _ => failed(format!("invalid expression: `{pattern}`")),
    })
}

fn is_match(pattern: &Value, value: &Value) -> Outcome {
    let (pattern, text) = (text(1, pattern)?, text(2, value)?);
    Ok(Value::Bool(compile(pattern)?.is_match(text)))
}

/// A pattern that is too large for us is valid all the same.
#[allow(clippy::unnecessary_wraps, reason = "the shape of a built-in")]
fn is_valid(pattern: &Value) -> Outcome {
    let is_valid = |pattern: &str| {
        let translated = (pattern.len() <= MAX_PATTERN_BYTES).then(|| translate::translate(pattern));
        translated.and_then(Result::ok).is_some_and(|translated| {
            matches!(build(&translated), Ok(_) | Err(::regex::Error::CompiledTooBig(_)))
        })
    };
    Ok(Value::Bool(pattern.as_string().is_ok_and(|pattern| is_valid(pattern))))
}

fn split(pattern: &Value, value: &Value) -> Outcome {
    let (pattern, text) = (text(1, pattern)?, text(2, value)?);
    let regex = compile(pattern)?;
    if !pattern.is_empty() && text.is_empty() {
        return Ok(Value::from(vec![Value::from("")]));
    }
    let part = |from: usize, to: usize| Value::from(text.get(from..to).unwrap_or_default());
    let (mut parts, mut start, mut end) = (Vec::new(), 0, 0);
    for found in regex.find_iter(text) {
        end = found.start();
        // Nothing is cut off before an empty match at the start.
        if found.end() != 0 {
            parts.push(part(start, end));
        }
        start = found.end();
    }
    if end != text.len() {
        parts.push(part(start, text.len()));
    }
    Ok(Value::from(parts))
}

/// As many as wanted; all, if a negative number is wanted.
fn at_most(value: &Value) -> Result<usize, Fault> {
    Ok(usize::try_from(int(3, value)?).unwrap_or(usize::MAX))
}

fn find(pattern: &Value, value: &Value, number: &Value) -> Outcome {
    let (pattern, text, number) = (text(1, pattern)?, text(2, value)?, at_most(number)?);
    let regex = compile(pattern)?;
    let mut found: Vec<Value> = Vec::new();
    for found_one in regex.find_iter(text).take(number) {
        if found.len() == MAX_FOUND {
            return Err(too_large());
        }
        found.push(Value::from(found_one.as_str()));
    }
    Ok(Value::from(found))
}

fn find_submatches(pattern: &Value, value: &Value, number: &Value) -> Outcome {
    let (pattern, text, number) = (text(1, pattern)?, text(2, value)?, at_most(number)?);
    let regex = compile(pattern)?;
    let (mut found, mut budget) = (Vec::new(), MAX_FOUND);
    for captures in regex.captures_iter(text).take(number) {
        budget = budget.checked_sub(captures.len()).ok_or_else(too_large)?;
        let groups = captures.iter().map(|group| Value::from(group.map_or("", |group| group.as_str())));
        found.push(Value::from(groups.collect::<Vec<_>>()));
    }
    Ok(Value::from(found))
}

fn replace(value: &Value, pattern: &Value, template: &Value) -> Outcome {
    let (text, pattern, template) = (text(1, value)?, text(2, pattern)?, text(3, template)?);
    let regex = compile(pattern)?;
    let (mut result, mut last) = (String::new(), 0);
    for captures in regex.captures_iter(text) {
        let Some(whole) = captures.get(0) else { continue };
        append(&mut result, text.get(last..whole.start()).unwrap_or_default())?;
        expand(&mut result, template, &captures)?;
        last = whole.end();
    }
    append(&mut result, text.get(last..).unwrap_or_default())?;
    Ok(Value::from(result))
}

/// `$1`, `$name`, `${name}` and `$$`, by Go's rules. What names no group becomes nothing; what is no name stays.
fn expand(to: &mut String, template: &str, captures: &Captures<'_>) -> Result<(), Fault> {
    let mut rest = template;
    while let Some((before, after)) = rest.split_once('$') {
        append(to, before)?;
        let length = |text: &str| text.find(|c: char| !c.is_alphanumeric() && c != '_').unwrap_or(text.len());
        let braced = after.strip_prefix('{').and_then(|inner| {
            let (name, tail) = inner.split_at_checked(length(inner))?;
            tail.strip_prefix('}').map(|tail| (name, tail))
        });
        let plain = || after.split_at_checked(length(after));
        rest = match (after.strip_prefix('$'), braced.or_else(plain)) {
            (Some(tail), _) => {
                append(to, "$")?;
                tail
            }
            (None, Some((name, tail))) if !name.is_empty() => {
                append(to, group(name, captures))?;
                tail
            }
            _ => {
                append(to, "$")?;
                after
            }
        };
    }
    append(to, rest)
}

fn group<'a>(name: &str, captures: &Captures<'a>) -> &'a str {
    let is_number = name.bytes().all(|byte| byte.is_ascii_digit()) && (name == "0" || !name.starts_with('0'));
    let group = match name.parse() {
        Ok(number) if is_number => captures.get(number),
        _ => captures.name(name),
    };
    group.map_or("", |group| group.as_str())
}

/// Patterns inside delimiters, and plain text around them.
fn template_match(arguments: &[Value]) -> Outcome {
    let [template, value, start, end] = arguments else {
        return Err(Fault::failed("wrong number of arguments"));
    };
    let (template, value, start, end) = (text(1, template)?, text(2, value)?, text(3, start)?, text(4, end)?);
    let delimiter = |text: &str, name: &str| match text.as_bytes() {
        [only] => Ok(char::from(*only)),
        other => Err(Fault::failed(format!(
            "{name} delimiter has to be exactly one character long but is {} long",
            other.len()
        ))),
    };
    let (start, end) = (delimiter(start, "start")?, delimiter(end, "end")?);
    Ok(Value::Bool(compile(&template_pattern(template, start, end)?)?.is_match(value)))
}

fn template_pattern(template: &str, start: char, end: char) -> Result<String, Fault> {
    let unbalanced = || Fault::failed(format!("unbalanced braces in {}", quoted(template, '"')));
    let mut pattern = String::from("^");
    let (mut level, mut from) = (0_usize, 0);
    for (at, c) in template.char_indices() {
        // With one delimiter for both, the second is never an end: as in OPA.
        if c == start {
            level += 1;
            if level == 1 {
                pattern.push_str(&::regex::escape(template.get(from..at).unwrap_or_default()));
                from = at + 1;
            }
        } else if c == end {
            level = level.checked_sub(1).ok_or_else(unbalanced)?;
            if level == 0 {
                let inner = template.get(from..at).unwrap_or_default();
                compiled(&format!("^{inner}$"))?;
                pattern.extend(["(", inner, ")"]);
                from = at + 1;
            }
        }
    }
    if level != 0 {
        return Err(unbalanced());
    }
    pattern.push_str(&::regex::escape(template.get(from..).unwrap_or_default()));
    pattern.push('$');
    Ok(pattern)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn v(text: &str) -> Value {
        Value::from(text)
    }

    #[test]
    fn splits_and_finds_as_go() {
        let parts = |pattern: &str, text: &str| split(&v(pattern), &v(text)).map(|parts| parts.to_string());
        assert_eq!(parts("a", "banana").as_deref(), Ok(r#"["b","n","n",""]"#));
        assert_eq!(parts("a*", "baaac").as_deref(), Ok(r#"["b","c"]"#));
        assert_eq!(parts("", "abc").as_deref(), Ok(r#"["a","b","c"]"#));
        assert_eq!(parts("x", "").as_deref(), Ok(r#"[""]"#));
        let all = Value::from(-1_i64);
        assert_eq!(
            find_submatches(&v("(a)(b)?"), &v("aab"), &all).unwrap().to_string(),
            r#"[["a","a",""],["ab","a","b"]]"#
        );
        assert_eq!(find(&v("a"), &v("aaa"), &Value::from(0_u64)).unwrap().to_string(), "[]");
    }

    #[test]
    fn templates_of_a_replacement() {
        let replaced = |text: &str, pattern: &str, template: &str| {
            replace(&v(text), &v(pattern), &v(template)).map(|value| value.as_string().unwrap().to_string())
        };
        assert_eq!(replaced("-ab-axxb-", "a(x*)b", "${1}W").as_deref(), Ok("-W-xxW-"));
        assert_eq!(replaced("-ab-axxb-", "a(x*)b", "$1W").as_deref(), Ok("---"));
        assert_eq!(replaced("ab", "(?P<n>a)", "<$n$$${n}${x}$-${>").as_deref(), Ok("<a$a$-${>b"));
        assert_eq!(replaced("abc", "", "-").as_deref(), Ok("-a-b-c-"));
        let (text, many) = ("a".repeat(1 << 16), "$0".repeat(1 << 10));
        assert!(replaced(&text, "a+", &many).is_err());
    }

    #[test]
    fn the_cache_is_bounded_and_so_is_a_pattern() {
        for number in 0..3 * MAX_KEPT {
            assert_eq!(is_match(&v(&format!("^{number}$")), &v(&number.to_string())), Ok(Value::Bool(true)));
        }
        assert!(KEPT.with_borrow(HashMap::len) <= MAX_KEPT);
        assert!(is_match(&v(r"(\pL{1000}){1000}"), &v("a")).is_err());
        assert!(is_match(&v(&"(".repeat(50_000)), &v("a")).is_err());
        assert!(is_match(&v(&format!("{}{}", "(".repeat(30_000), ")".repeat(30_000))), &v("a")).is_err());
    }

    #[test]
    fn templates_of_a_match() {
        let matches = |template: &str, text: &str| {
            template_match(&[v(template), v(text), v("<"), v(">")]).map(|value| value == Value::Bool(true))
        };
        assert_eq!(matches("urn:<[a-z]+>:<.*>", "urn:foo:bar"), Ok(true));
        assert_eq!(matches("urn.<[a-z]+>", "urnxfoo"), Ok(false));
        assert!(matches("urn:<", "").is_err());
        assert!(matches("urn:>", "").is_err());
        assert!(template_match(&[v(""), v(""), v("<<"), v(">")]).is_err());
    }
}
