//! What OPA's grammar has and the engine's has not, written in terms that both know: interpolated strings, references
//! that begin with a keyword, and deep constants. Works on tokens, before anything is parsed, and leaves every line where
//! it was.
//!
//! The engine's parser takes twice as long for each level of brackets, since it first takes them for a comprehension.
//! Constants that nest are therefore taken out of the text, and what still nests deep is refused.

use regorus::Value;

use super::edits::Edit;
use super::error::{ErrorCode, Problem};
use super::json;
use super::source::RegoVersion;

/// The function that puts an interpolated string together.
pub const TEMPLATE: &str = "daypass__template";
/// Stands before a keyword that begins a reference.
const KEYWORD_ROOT: &str = "daypass__keyword__";
/// Interpolated strings inside interpolated strings; nobody reads more.
const MAX_TEMPLATE_DEPTH: usize = 8;

/// The function that stands for a constant, which it names by its number.
pub const CONSTANT: &str = "daypass__constant";
/// Brackets within brackets from which on a constant is taken out.
const MIN_CONSTANT_DEPTH: usize = 6;
/// Brackets within brackets around what is no constant. The parser takes a second for these, and twice that for one more.
const MAX_BRACKETS: usize = 12;

const KEYWORDS: [&str; 11] =
    ["as", "default", "else", "false", "import", "not", "null", "package", "some", "true", "with"];
/// Keywords of the language's first version only where they are imported.
const KEYWORDS_OF_V1: [&str; 4] = ["contains", "every", "if", "in"];

/// The keyword that a variable of a translated text stands for.
#[must_use]
pub fn keyword_of(variable: &str) -> Option<&str> {
    variable.strip_prefix(KEYWORD_ROOT)
}

#[must_use]
pub fn is_keyword(word: &str) -> bool {
    KEYWORDS.contains(&word) || KEYWORDS_OF_V1.contains(&word)
}

/// # Errors
/// A string that does not end, or interpolation that is nested too deep.
pub fn edits(
    file: &str,
    text: &str,
    version: RegoVersion,
    constants: &mut Vec<Value>,
) -> Result<Vec<Edit>, Problem> {
    let mut scanner = Scanner {
        text,
        at: 0,
        edits: Vec::new(),
        open: Vec::new(),
        version,
        brackets: Vec::new(),
        default: Default::No,
        constants,
    };
    match scanner.run() {
        Ok(()) => Ok(scanner.edits),
        Err((offset, message)) => {
            let before = text.get(..offset).unwrap_or(text);
            let line = before.matches('\n').count() + 1;
            let column = before.rsplit('\n').next().unwrap_or_default().chars().count() + 1;
            Err(Problem {
                file: file.to_owned(),
                line: u32::try_from(line).unwrap_or(0),
                column: u32::try_from(column).unwrap_or(0),
                code: ErrorCode::Parse,
                message: message.to_owned(),
            })
        }
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Bracket {
    /// Of a reference or a rule's head, which take no call.
    Key,
    Other,
}

/// How far a `default` rule was read; its value must be plain.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Default {
    No,
    /// Up to its `=`.
    Head,
    /// Behind it, and nothing of the value yet.
    BeforeValue,
    Value,
}

/// An interpolated string whose expression is being read.
struct Template {
    quote: u8,
    /// Braces that the expression itself has open.
    braces: usize,
    starts: usize,
}

struct Scanner<'a> {
    text: &'a str,
    at: usize,
    edits: Vec<Edit>,
    open: Vec<Template>,
    version: RegoVersion,
    /// Those that are open here, and whether each holds the key of a reference.
    brackets: Vec<Bracket>,
    default: Default,
    constants: &'a mut Vec<Value>,
}

type Scanned = Result<(), (usize, &'static str)>;

impl Scanner<'_> {
    fn peek(&self, ahead: usize) -> Option<u8> {
        self.text.as_bytes().get(self.at + ahead).copied()
    }

    fn run(&mut self) -> Scanned {
        while let Some(byte) = self.peek(0) {
            self.note_default(byte);
            match byte {
                b'#' => self.at += self.rest().find('\n').unwrap_or(self.rest().len()),
                b'"' => self.string(),
                b'`' => self.raw_string(),
                b'$' if matches!(self.peek(1), Some(b'"' | b'`')) => self.open_template()?,
                b'{' | b'[' if self.constant() => {}
                b'{' | b'[' => self.open_bracket(byte)?,
                b']' => {
                    self.brackets.pop();
                    self.at += 1;
                }
                b'}' => self.close_brace()?,
                b'a'..=b'z' | b'A'..=b'Z' | b'_' => self.word(),
                b'0'..=b'9' => self.number()?,
                _ => self.at += 1,
            }
        }
        match self.open.first() {
            Some(template) => Err((template.starts, "this interpolated string does not end")),
            None => Ok(()),
        }
    }

    fn rest(&self) -> &str {
        self.text.get(self.at..).unwrap_or_default()
    }

    fn open_bracket(&mut self, byte: u8) -> Scanned {
        self.brackets.push(if byte == b'[' && self.follows_a_value() {
            Bracket::Key
        } else {
            Bracket::Other
        });
        if self.brackets.len() > MAX_BRACKETS {
            return Err((
                self.at,
                "brackets nest deeper than 12 levels here; give the inner part to a rule of its own",
            ));
        }
        if byte == b'{' {
            self.open.last_mut().into_iter().for_each(|template| template.braces += 1);
        }
        self.at += 1;
        Ok(())
    }

    /// Takes a constant that nests out of the text, if there is one here. Not a default's value, which must be plain.
    fn constant(&mut self) -> bool {
        if self.brackets.contains(&Bracket::Key) || self.default != Default::No || self.follows_a_value() {
            return false;
        }
        let Some(end) = self.end_of_constant() else { return false };
        let Some(literal) = self.text.get(self.at..end) else { return false };
        let Ok(value) = json::parse(literal) else { return false };
        let lines: String = literal.chars().filter(|c| matches!(c, '\n' | '\r')).collect();
        let call = format!("{CONSTANT}({}{lines})", self.constants.len());
        self.edits.push(Edit::replace(self.at, end, call));
        self.constants.push(value);
        self.at = end;
        true
    }

    /// Behind the bracket that closes the one here, if all between is of JSON's characters and nests deep enough.
    fn end_of_constant(&self) -> Option<usize> {
        let bytes = self.text.as_bytes();
        let (mut at, mut depth, mut deepest) = (self.at, 0usize, 0usize);
        loop {
            match bytes.get(at)? {
                b'{' | b'[' => {
                    depth += 1;
                    deepest = deepest.max(depth);
                }
                b'}' | b']' => {
                    depth = depth.checked_sub(1)?;
                    if depth == 0 {
                        return (deepest >= MIN_CONSTANT_DEPTH).then_some(at + 1);
                    }
                }
                b'"' => {
                    at += 1;
                    while *bytes.get(at)? != b'"' {
                        at += if bytes.get(at) == Some(&b'\\') { 2 } else { 1 };
                    }
                }
                b','
                | b':'
                | b'.'
                | b'-'
                | b'+'
                | b' '
                | b'\t'
                | b'\n'
                | b'\r'
                | b'0'..=b'9'
                | b'a'..=b'z'
                | b'E' => {}
                _ => return None,
            }
            at += 1;
        }
    }

    /// Whether a bracket here would belong to what stands directly before it.
    fn follows_a_value(&self) -> bool {
        let before = self.at.checked_sub(1).and_then(|at| self.text.as_bytes().get(at)).copied();
        before.is_some_and(|byte| {
            byte.is_ascii_alphanumeric()
                || matches!(byte, b'_' | b']' | b')' | b'}' | b'"' | b'`')
                || !byte.is_ascii()
        })
    }

    fn note_default(&mut self, byte: u8) {
        self.default = match (self.default, byte) {
            (Default::Value, b'\n') if self.brackets.is_empty() => Default::No,
            (Default::Head, b'=') | (Default::BeforeValue, b' ' | b'\t' | b'\r' | b'\n' | b'#') => {
                Default::BeforeValue
            }
            (Default::BeforeValue, _) => Default::Value,
            (same, _) => same,
        };
    }

    /// A plain string is the parser's business; here it only must not be taken for anything else.
    fn string(&mut self) {
        self.at += 1;
        while let Some(byte) = self.peek(0) {
            self.at += if byte == b'\\' { 2 } else { 1 };
            if matches!(byte, b'"' | b'\n') {
                break;
            }
        }
        self.at = self.at.min(self.text.len());
        // An escape may have stepped into the middle of a character.
        while !self.text.is_char_boundary(self.at) {
            self.at += 1;
        }
    }

    fn raw_string(&mut self) {
        self.at += 1;
        self.at += self.rest().find('`').map_or(self.rest().len(), |length| length + 1);
    }

    /// The engine writes out every digit that an exponent stands for.
    fn number(&mut self) -> Scanned {
        let starts = self.at;
        let length =
            self.rest().bytes().take_while(|byte| matches!(byte, b'0'..=b'9' | b'.' | b'e' | b'E')).count();
        self.at += length;
        if matches!(self.text.as_bytes().get(self.at - 1), Some(b'e' | b'E')) {
            self.at +=
                self.rest().bytes().take_while(|byte| matches!(byte, b'0'..=b'9' | b'+' | b'-')).count();
        }
        let number = self.text.get(starts..self.at).unwrap_or_default();
        match number.find(['e', 'E']) {
            Some(_) if json::parse_number(number).is_err() => Err((starts, "a number that is out of range")),
            _ => Ok(()),
        }
    }

    fn word(&mut self) {
        let length =
            self.rest().bytes().take_while(|byte| byte.is_ascii_alphanumeric() || *byte == b'_').count();
        let starts = self.at;
        let previous = starts.checked_sub(1).and_then(|at| self.text.as_bytes().get(at)).copied();
        self.at += length;
        let word = self.text.get(starts..self.at).unwrap_or_default();
        if word == "default" && self.brackets.is_empty() && self.peek(0) != Some(b'.') {
            self.default = Default::Head;
        }
        let is_keyword =
            KEYWORDS.contains(&word) || (self.version == RegoVersion::V1 && KEYWORDS_OF_V1.contains(&word));
        let begins_reference = self.peek(0) == Some(b'.')
            && self.peek(1).is_some_and(|next| next.is_ascii_alphabetic() || next == b'_');
        let is_root = !matches!(previous, Some(b'.')) && previous.is_none_or(|byte| !byte.is_ascii_digit());
        if is_keyword && begins_reference && is_root {
            self.edits.push(Edit::insert(starts, KEYWORD_ROOT));
        }
    }

    fn open_template(&mut self) -> Scanned {
        if self.open.len() >= MAX_TEMPLATE_DEPTH {
            return Err((self.at, "interpolated strings nest too deep"));
        }
        let (starts, quote) = (self.at, self.peek(1).unwrap_or(b'"'));
        self.edits.push(Edit::replace(starts, starts + 2, format!("{TEMPLATE}([{}", char::from(quote))));
        self.at += 2;
        self.open.push(Template { quote, braces: 0, starts });
        self.template_text()
    }

    /// The part of an interpolated string up to its next expression, or to its end.
    fn template_text(&mut self) -> Scanned {
        let Some((quote, starts)) = self.open.last().map(|template| (template.quote, template.starts)) else {
            return Ok(());
        };
        let mark = char::from(quote);
        loop {
            match self.peek(0) {
                None => return Err((starts, "this interpolated string does not end")),
                Some(b'\n') if quote == b'"' => {
                    return Err((starts, "this interpolated string does not end"));
                }
                Some(b'\\') if self.peek(1) == Some(b'{') => {
                    self.edits.push(Edit::replace(self.at, self.at + 2, "{"));
                    self.at += 2;
                }
                Some(b'\\') if quote == b'"' => self.at += 2,
                Some(b'{') => {
                    let variable = format!("daypass__part_{}", self.open.len());
                    let opens = format!("{mark}, {{{variable} | {variable} := ");
                    self.edits.push(Edit::replace(self.at, self.at + 1, opens));
                    self.at += 1;
                    return Ok(());
                }
                Some(byte) if byte == quote => {
                    self.edits.push(Edit::replace(self.at, self.at + 1, format!("{mark}])")));
                    self.at += 1;
                    self.open.pop();
                    return Ok(());
                }
                Some(_) => self.at += 1,
            }
        }
    }

    fn close_brace(&mut self) -> Scanned {
        if self.open.last().is_none_or(|template| template.braces > 0) {
            self.brackets.pop();
        }
        match self.open.last_mut() {
            Some(template) if template.braces == 0 => {
                let mark = char::from(template.quote);
                self.edits.push(Edit::replace(self.at, self.at + 1, format!("}}, {mark}")));
                self.at += 1;
                self.template_text()
            }
            Some(template) => {
                template.braces -= 1;
                self.at += 1;
                Ok(())
            }
            None => {
                self.at += 1;
                Ok(())
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::edits::Edited;
    use super::*;

    fn desugared(text: &str) -> String {
        let edits = edits("p.rego", text, RegoVersion::V1, &mut Vec::new()).unwrap();
        Edited::new(text, edits).unwrap().text
    }

    #[test]
    fn deep_constants_leave_the_text_and_other_depth_is_refused() {
        let mut constants = Vec::new();
        let text = "x := {\"a\": [{\"b\":\n [[[1]]]}], \"c\": \"]\\\"\"}\ny := [[[[z]]]]";
        let found = edits("p.rego", text, RegoVersion::V1, &mut constants).unwrap();
        assert_eq!(Edited::new(text, found).unwrap().text, "x := daypass__constant(0\n)\ny := [[[[z]]]]");
        assert_eq!(constants[0].to_string(), r#"{"a":[{"b":[[[1]]]}],"c":"]\""}"#);
        for untouched in [
            "default x := [[[[[[1]]]]]]",
            "default\tx := # c\n [[[[[[1]]]]]]",
            "default x := {\n # c\n \"a\": [[[[[[1]]]]]]}\ny := 1",
            "x := [[[[[1]]]]]",
            "x := [[[[[[1, # no\n2]]]]]]",
            "x := [[[[[[{1}]]]]]]",
            "deny[{\"a\":{\"b\":{\"c\":{\"d\":[[1]]}}}}] if input.x",
            "x if y in[[[[[[1]]]]]]",
            "x := y[[[[[[1]]]]]]",
        ] {
            assert_eq!(desugared(untouched), untouched);
        }
        assert_eq!(
            desugared("default x := 1\ny := [[[[[[1]]]]]]"),
            "default x := 1\ny := daypass__constant(0)"
        );
        let deep = format!("x := {}z{}", "[".repeat(13), "]".repeat(13));
        let problem = edits("p.rego", &deep, RegoVersion::V1, &mut Vec::new()).unwrap_err();
        assert_eq!((problem.line, problem.column), (1, 18));
        let constant = format!("x := {}1{}", "[".repeat(300), "]".repeat(300));
        assert_eq!(desugared(&constant), "x := daypass__constant(0)");
    }

    #[test]
    fn templates_and_keyword_roots_become_what_the_engine_knows() {
        for (text, expected) in [
            (r#"x := $"""#, r#"x := daypass__template([""])"#),
            (
                r#"x := $"a {b} c""#,
                r#"x := daypass__template(["a ", {daypass__part_1 | daypass__part_1 := b}, " c"])"#,
            ),
            (r#"x := $"\{a}""#, r#"x := daypass__template(["{a}"])"#),
            (
                "x := $`a\n{b}`",
                "x := daypass__template([`a\n`, {daypass__part_1 | daypass__part_1 := b}, ``])",
            ),
            ("y := \"$\\\"{as.b}\" # as.c $\"", "y := \"$\\\"{as.b}\" # as.c $\""),
            ("y := `as.b`", "y := `as.b`"),
            ("x := as.b", "x := daypass__keyword__as.b"),
            ("x := a.as.b", "x := a.as.b"),
            ("x := input.in", "x := input.in"),
            ("x if not a.b", "x if not a.b"),
            ("x if not.b", "x if daypass__keyword__not.b"),
            ("\"\\é\"", "\"\\é\""),
        ] {
            assert_eq!(desugared(text), expected, "{text}");
        }
        let nested = desugared(r#"x := $"{$"{a}"}""#);
        assert!(nested.contains("daypass__part_2 := a"), "{nested}");
    }

    #[test]
    fn what_does_not_end_is_said_where_it_begins() {
        for text in
            ["x := 1\ny := $\"a {b", "x := 1\ny := $\"a\n\"", "x := 1\ny := $`a", "x := 1\ny := $\"\\"]
        {
            let problem = edits("p.rego", text, RegoVersion::V1, &mut Vec::new()).unwrap_err();
            assert_eq!((problem.line, problem.column), (2, 6), "{text}");
        }
        let deep = "$\"{".repeat(20);
        assert!(edits("p.rego", &deep, RegoVersion::V1, &mut Vec::new()).is_err());
    }
}
