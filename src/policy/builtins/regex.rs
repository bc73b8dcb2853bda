//! Regular expressions with the meaning that Go's RE2 gives them. Patterns are compiled once per thread and kept, in a
//! number and a size that have bounds; so has the time that searches take, whatever the pattern and the text.

mod translate;

pub use translate::push_char;

use std::cell::RefCell;
use std::collections::HashMap;
use std::rc::Rc;
use std::time::Duration;

use ::regex::{Captures, Regex, RegexBuilder};
use regorus::Value;
use rustix::time::{ClockId, clock_gettime};

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

/// Bytes of a pattern's text. A class is read in the square of the ranges it has.
const MAX_PATTERN_BYTES: usize = 1 << 13;
/// Groups inside groups.
const MAX_NESTING: u32 = 200;
/// Patterns that a thread keeps. Beyond this number it starts anew: a policy has fewer.
const MAX_KEPT: usize = 100;
/// Bytes of the patterns that a thread keeps: [`MAX_KEPT`] ordinary ones, or a few that are [`LARGE`].
pub const MAX_KEPT_BYTES: usize = 64 << 20;
/// Texts that one search gives.
const MAX_FOUND: usize = 1 << 21;
/// Processor time of the searches of one call. Each may look at all that is left of a text, so that those for all
/// matches could take the square of its length.
const MAX_SEARCH_TIME: Duration = Duration::from_millis(100);
/// Bytes that may have been looked at between two looks at the clock, which costs as much as a short search.
const UNTIMED_BYTES: usize = 1 << 18;

/// Bytes that a pattern may take.
struct Size {
    compiled: usize,
    /// What its matcher remembers of the texts it has seen.
    remembered: usize,
}

const ORDINARY: Size = Size { compiled: 1 << 15, remembered: 1 << 18 };
/// A pattern from a request may not take more.
const LARGE: Size = Size { compiled: 1 << 20, remembered: 1 << 20 };

impl Size {
    /// One automaton looks for the end of a match, and another one for its start.
    const fn bytes(&self) -> usize {
        2 * (self.compiled + self.remembered)
    }

    fn build(&self, pattern: &str) -> Result<Regex, ::regex::Error> {
        RegexBuilder::new(pattern)
            .size_limit(self.compiled)
            .dfa_size_limit(self.remembered)
            .nest_limit(MAX_NESTING)
            .build()
    }
}

/// What could not be compiled is kept too: it takes as long.
type Compiled = Result<Rc<Regex>, Fault>;

#[derive(Default)]
struct Kept {
    patterns: HashMap<Box<str>, Compiled>,
    bytes: usize,
}

impl Kept {
    fn keep(&mut self, pattern: &str, compiled: Compiled, bytes: usize) {
        if self.patterns.len() >= MAX_KEPT || self.bytes + bytes > MAX_KEPT_BYTES {
            *self = Self::default();
        }
        self.bytes += bytes;
        self.patterns.insert(pattern.into(), compiled);
    }
}

thread_local! {
    static KEPT: RefCell<Kept> = RefCell::default();
}

/// Compiles what is written in the syntax of the `regex` crate.
pub fn build(pattern: &str) -> Result<Regex, ::regex::Error> {
    sized(pattern).map(|(regex, _)| regex)
}

/// With the bytes that it may take.
pub fn sized(pattern: &str) -> Result<(Regex, usize), ::regex::Error> {
    match ORDINARY.build(pattern) {
        Err(::regex::Error::CompiledTooBig(_)) => LARGE.build(pattern).map(|regex| (regex, LARGE.bytes())),
        built => built.map(|regex| (regex, ORDINARY.bytes())),
    }
}

fn compile(pattern: &str) -> Compiled {
    if pattern.len() > MAX_PATTERN_BYTES {
        return Err(too_long());
    }
    if let Some(kept) = KEPT.with_borrow(|kept| kept.patterns.get(pattern).cloned()) {
        return kept;
    }
    let (compiled, bytes) = match compiled(pattern) {
        Ok((regex, bytes)) => (Ok(Rc::new(regex)), bytes),
        // A message may have the pattern in it.
        Err(fault) => (Err(fault), 3 * pattern.len()),
    };
    KEPT.with_borrow_mut(|kept| kept.keep(pattern, compiled.clone(), bytes));
    compiled
}

fn parse_fault(message: &str) -> Fault {
    Fault::failed(format!("error parsing regexp: {message}"))
}

fn too_long() -> Fault {
    parse_fault(&format!("a pattern has at most {MAX_PATTERN_BYTES} bytes"))
}

fn compiled(pattern: &str) -> Result<(Regex, usize), Fault> {
    let translated = translate::translate(pattern).map_err(|message| parse_fault(&message))?;
    sized(&translated).map_err(|error| match error {
        ::regex::Error::CompiledTooBig(_) => parse_fault("expression too large"),
        _ => parse_fault(&format!("invalid expression: `{pattern}`")),
    })
}

/// The time that the searches of one call have taken.
#[derive(Default)]
struct Meter {
    untimed: usize,
    /// Of the thread, at the first look at its clock.
    started: Option<Duration>,
}

impl Meter {
    /// After a search that had these bytes to look at.
    fn searched(&mut self, bytes: usize) -> Result<(), Fault> {
        self.untimed = self.untimed.saturating_add(bytes);
        if self.untimed < UNTIMED_BYTES {
            return Ok(());
        }
        self.untimed = 0;
        let now = processor_time();
        let started = *self.started.get_or_insert(now);
        if now.saturating_sub(started) > MAX_SEARCH_TIME {
            return Err(Fault::failed("the search takes too long"));
        }
        Ok(())
    }
}

/// Of this thread: a busy machine makes no search fail.
fn processor_time() -> Duration {
    let time = clock_gettime(ClockId::ThreadCPUTime);
    Duration::new(u64::try_from(time.tv_sec).unwrap_or(0), u32::try_from(time.tv_nsec).unwrap_or(0))
}

fn is_match(pattern: &Value, value: &Value) -> Outcome {
    let (pattern, text) = (text(1, pattern)?, text(2, value)?);
    Ok(Value::Bool(compile(pattern)?.is_match(text)))
}

/// A pattern that is too large to compile is valid all the same; one too long to read is not.
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
    let mut meter = Meter::default();
    for found in regex.find_iter(text) {
        meter.searched(text.len() - start)?;
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
    let (mut found, mut meter, mut start): (Vec<Value>, _, _) = (Vec::new(), Meter::default(), 0);
    for found_one in regex.find_iter(text).take(number) {
        if found.len() == MAX_FOUND {
            return Err(too_large());
        }
        meter.searched(text.len() - start)?;
        start = found_one.end();
        found.push(Value::from(found_one.as_str()));
    }
    Ok(Value::from(found))
}

fn find_submatches(pattern: &Value, value: &Value, number: &Value) -> Outcome {
    let (pattern, text, number) = (text(1, pattern)?, text(2, value)?, at_most(number)?);
    let regex = compile(pattern)?;
    let (mut found, mut budget) = (Vec::new(), MAX_FOUND);
    let (mut meter, mut start) = (Meter::default(), 0);
    for captures in regex.captures_iter(text).take(number) {
        meter.searched(text.len() - start)?;
        start = captures.get_match().end();
        budget = budget.checked_sub(captures.len()).ok_or_else(too_large)?;
        let groups = captures.iter().map(|group| Value::from(group.map_or("", |group| group.as_str())));
        found.push(Value::from(groups.collect::<Vec<_>>()));
    }
    Ok(Value::from(found))
}

fn replace(value: &Value, pattern: &Value, template: &Value) -> Outcome {
    let (text, pattern, template) = (text(1, value)?, text(2, pattern)?, text(3, template)?);
    let regex = compile(pattern)?;
    let (mut result, mut last, mut meter) = (String::new(), 0, Meter::default());
    for captures in regex.captures_iter(text) {
        meter.searched(text.len() - last)?;
        let whole = captures.get_match();
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
    if template.len() > MAX_PATTERN_BYTES {
        return Err(too_long());
    }
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
    fn searches_for_all_matches_take_no_longer_than_one_may() {
        let all = Value::from(-1_i64);
        let (letters, commas) = (v(&"a".repeat(200_000)), v(&",".repeat(100_000)));
        let started = std::time::Instant::now();
        let slow = v("[^;]*;|[^;]");
        assert!(find(&slow, &letters, &all).is_err());
        assert!(find_submatches(&slow, &letters, &all).is_err());
        assert!(replace(&letters, &slow, &v("")).is_err());
        assert!(split(&v(r",.*\)|,"), &commas).is_err());
        assert!(started.elapsed() < Duration::from_secs(20));
        let found = find(&v("a"), &v(&"a".repeat(20_000)), &all).unwrap();
        assert_eq!(found.as_array().unwrap().len(), 20_000);
    }

    #[test]
    fn a_pattern_that_is_slow_to_compile_is_refused_and_that_is_kept() {
        let started = std::time::Instant::now();
        for class in
            [r"[^\pL]", r"\PL", r"[\W]", "[[:^alpha:]]", "[a-\u{10FFFF}]", "k", "[a-c]", "[é]", r"\W"]
        {
            let pattern = format!("(?i){}", class.repeat((MAX_PATTERN_BYTES - 4) / class.len()));
            let _ = is_match(&v(&pattern), &v("a"));
            assert!(KEPT.with_borrow(|kept| kept.patterns.contains_key(pattern.as_str())), "{class}");
            println!("{class} {:?}", started.elapsed());
        }
        assert!(started.elapsed() < Duration::from_secs(10));
        assert!(is_match(&v(&format!("(?i){}", r"[^\pL]".repeat(1000))), &v("a")).is_err());
        for number in 0..2 * MAX_KEPT {
            let pattern = v(&format!(r"\pL{{18}}x{number}$"));
            assert_eq!(is_match(&pattern, &v("a")), Ok(Value::Bool(false)));
            assert!(KEPT.with_borrow(|kept| kept.bytes) <= MAX_KEPT_BYTES);
        }
        assert!(KEPT.with_borrow(|kept| kept.patterns.len()) < MAX_KEPT / 2);
    }

    #[test]
    fn the_cache_is_bounded_and_so_is_a_pattern() {
        for number in 0..3 * MAX_KEPT {
            assert_eq!(is_match(&v(&format!("^{number}$")), &v(&number.to_string())), Ok(Value::Bool(true)));
        }
        assert!(KEPT.with_borrow(|kept| kept.patterns.len()) <= MAX_KEPT);
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
        assert!(matches(&"<a>".repeat(1 << 20), "").is_err());
    }
}
