//! `regex.globs_match`: whether some text matches two small regular expressions at once, of characters, `.`, sets,
//! `*` and `+`. By the steps that OPA takes, and no more of them than there is time for.

use regorus::Value;

use super::{Builtin, Fault, Outcome, binary, text};

pub const BUILTINS: [Builtin; 1] = [binary("regex.globs_match", globs_match)];

/// Tokens of an expression; each with a flag can be a level of recursion.
const MAX_TOKENS: usize = 1000;
/// Steps of one answer. Many stars on both sides would take their product to the power of their number.
const MAX_STEPS: usize = 1 << 20;

#[derive(Debug, Clone, PartialEq, Eq)]
enum Symbol {
    Character(char),
    Any,
    Set(Vec<(char, char)>),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Flag {
    None,
    Plus,
    Star,
}

#[derive(Debug, Clone)]
struct Token {
    symbol: Symbol,
    flag: Flag,
}

fn globs_match(a: &Value, b: &Value) -> Outcome {
    let (a, b) = (tokens(text(1, a)?)?, tokens(text(2, b)?)?);
    let mut search = Search { left: MAX_STEPS };
    let found = match trimmed(&a, &b) {
        Some((a, b)) => search.normal(a, b),
        None => Some(false),
    };
    found.map(Value::Bool).ok_or_else(|| Fault::failed("the expressions take too many steps to compare"))
}

struct Reader<'a> {
    input: &'a str,
    rest: std::str::Chars<'a>,
}

impl Reader<'_> {
    /// A character, and whether it was escaped.
    fn next(&mut self) -> Result<Option<(char, bool)>, Fault> {
        match self.rest.next() {
            Some('\\') => match self.rest.next() {
                Some(c) => Ok(Some((c, true))),
                None => Err(self.invalid("input ends with a \\ (escape) character")),
            },
            next => Ok(next.map(|c| (c, false))),
        }
    }

    fn invalid(&self, message: &str) -> Fault {
        let at = self.input.chars().count() - self.rest.clone().count();
        Fault::failed(format!("input:{}, pos:{at}, {message}: the input provided is invalid", self.input))
    }

    fn set(&mut self) -> Result<Symbol, Fault> {
        let (mut ranges, mut before) = (Vec::new(), None);
        while let Some((c, is_escaped)) = self.next()? {
            match c {
                ']' if !is_escaped => return Ok(Symbol::Set(ranges)),
                '-' if !is_escaped => {
                    let Some(low) = before.take() else {
                        return Err(
                            self.invalid("range character '-' must be preceded by a Unicode character")
                        );
                    };
                    match self.next()? {
                        None => {
                            return Err(
                                self.invalid("range character '-' must be followed by a Unicode character")
                            );
                        }
                        Some((']' | '-', false)) => {
                            return Err(
                                self.invalid("range character '-' cannot be followed by a special symbol")
                            );
                        }
                        Some((high, _)) if high < low => return Err(self.invalid("range is out of order")),
                        Some((high, _)) => ranges.push((low, high)),
                    }
                }
                c => {
                    ranges.push((c, c));
                    before = Some(c);
                }
            }
        }
        Err(self.invalid("found [ without matching ]"))
    }
}

fn tokens(input: &str) -> Result<Vec<Token>, Fault> {
    let mut reader = Reader { input, rest: input.chars() };
    let mut tokens: Vec<Token> = Vec::new();
    while let Some((c, is_escaped)) = reader.next()? {
        let symbol = match (c, is_escaped) {
            ('.', false) => Symbol::Any,
            ('[', false) => reader.set()?,
            (']', false) => return Err(reader.invalid("set-close ']' with no preceding '['")),
            ('+' | '*', false) => {
                return Err(reader.invalid(&format!("flag '{c}' must be preceded by a non-flag")));
            }
            (c, _) => Symbol::Character(c),
        };
        let flag = match reader.rest.clone().next() {
            Some('+') => Flag::Plus,
            Some('*') => Flag::Star,
            _ => Flag::None,
        };
        if flag != Flag::None {
            reader.rest.next();
        }
        // Twice the same, repeated, is once.
        if let Some(last) = tokens.last_mut()
            && flag != Flag::None
            && last.flag != Flag::None
            && last.symbol == symbol
        {
            last.flag = if flag == Flag::Plus { flag } else { last.flag };
            continue;
        }
        tokens.push(Token { symbol, flag });
        if tokens.len() > MAX_TOKENS {
            return Err(Fault::failed(format!("an expression has at most {MAX_TOKENS} tokens")));
        }
    }
    Ok(tokens)
}

fn meet(a: &Token, b: &Token) -> bool {
    match (&a.symbol, &b.symbol) {
        (Symbol::Any, _) | (_, Symbol::Any) => true,
        (Symbol::Character(a), Symbol::Character(b)) => a == b,
        (Symbol::Character(c), Symbol::Set(set)) | (Symbol::Set(set), Symbol::Character(c)) => {
            set.iter().any(|(low, high)| (low..=high).contains(&c))
        }
        (Symbol::Set(a), Symbol::Set(b)) => a.iter().any(|(low, high)| {
            b.iter().any(|(other_low, other_high)| low <= other_high && other_low <= high)
        }),
    }
}

/// Without the ends where nothing is repeated and everything meets; nothing, if something there does not meet. One
/// token of each end is left.
fn trimmed<'a>(a: &'a [Token], b: &'a [Token]) -> Option<(&'a [Token], &'a [Token])> {
    let plain = |pair: &(&Token, &Token)| pair.0.flag == Flag::None && pair.1.flag == Flag::None;
    let front = a.iter().zip(b).take_while(plain);
    let mut at_front = 0;
    for (a, b) in front {
        if !meet(a, b) {
            return None;
        }
        at_front += 1;
    }
    let skipped = usize::saturating_sub(at_front, 1);
    let (a, b) = (a.get(skipped..)?, b.get(skipped..)?);
    let mut at_back = 0;
    for (a, b) in a.iter().rev().zip(b.iter().rev()).take_while(plain) {
        if !meet(a, b) {
            return None;
        }
        at_back += 1;
    }
    let cut = usize::saturating_sub(at_back, 1);
    Some((a.get(..a.len() - cut)?, b.get(..b.len() - cut)?))
}

struct Search {
    left: usize,
}

/// Each answers nothing once the steps are used up.
impl Search {
    fn step(&mut self) -> Option<()> {
        self.left = self.left.checked_sub(1)?;
        Some(())
    }

    fn normal(&mut self, a: &[Token], b: &[Token]) -> Option<bool> {
        let (mut a, mut b) = (a, b);
        loop {
            self.step()?;
            match (a.split_first(), b.split_first()) {
                (None, None) => return Some(true),
                (Some((first, rest_a)), Some((second, rest_b))) => match (first.flag, second.flag) {
                    (Flag::None, Flag::None) => {
                        if !meet(first, second) {
                            return Some(false);
                        }
                        (a, b) = (rest_a, rest_b);
                    }
                    (Flag::Plus, _) => return self.plus(a, b),
                    (Flag::Star, _) => return self.star(a, b),
                    (Flag::None, Flag::Plus) => return self.plus(b, a),
                    (Flag::None, Flag::Star) => return self.star(b, a),
                },
                _ => return Some(false),
            }
        }
    }

    fn plus(&mut self, repeated: &[Token], other: &[Token]) -> Option<bool> {
        let (Some((first, rest)), Some((second, others))) = (repeated.split_first(), other.split_first())
        else {
            return Some(false);
        };
        if !meet(first, second) {
            return Some(false);
        }
        if self.star(repeated, others)? {
            return Some(true);
        }
        if second.flag == Flag::None { Some(false) } else { self.normal(rest, other) }
    }

    fn star(&mut self, repeated: &[Token], other: &[Token]) -> Option<bool> {
        let Some((first, rest)) = repeated.split_first() else { return Some(false) };
        let mut others = other;
        while let Some((second, after)) = others.split_first() {
            self.step()?;
            if rest.first().is_some_and(|next| meet(second, next)) && self.normal(rest, others)? {
                return Some(true);
            }
            if !meet(second, first) {
                return Some(false);
            }
            others = after;
        }
        Some(rest.is_empty())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn both(a: &str, b: &str) -> Result<bool, Fault> {
        globs_match(&Value::from(a), &Value::from(b)).map(|found| found == Value::Bool(true))
    }

    #[test]
    fn some_text_matches_both() {
        for (a, b, wanted) in [
            ("a.a.[0-9]+z", ".b.b2359825792*594823z", true),
            ("[a-z]+", "[0-9]*", false),
            (r"[a-z]+\[[0-9]+\]", r"foo\[1\]", true),
            ("b.*", "bar", true),
            ("abc", "abc", true),
            ("abc", "ab", false),
            ("", "", true),
            ("", "a", false),
            ("a*b*", "b+", true),
            ("a+a*", "aa", true),
        ] {
            assert_eq!(both(a, b), Ok(wanted), "{a} {b}");
        }
        for bad in ["*", "a**", "]", "[a", r"a\", "[-a]", "[b-a]", "[a-]"] {
            assert!(both(bad, "a").is_err(), "{bad}");
        }
    }

    #[test]
    fn steps_have_a_bound() {
        let (a, b) = ("a*b*".repeat(200), format!("{}c", "b*a*".repeat(200)));
        assert!(both(&a, &b).is_err() || both(&a, &b) == Ok(false));
        assert!(both(&"ab".repeat(1000), "a").is_err());
        assert_eq!(both("[\0-\u{10ffff}]", "a"), Ok(true));
    }
}
