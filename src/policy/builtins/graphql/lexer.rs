//! Tokens of GraphQL (October 2021, section 2.1), with the names and places that OPA's messages give them.
//!
//! What is no token becomes [`Kind::Invalid`], never an error of its own: the parser says where it stood.

use std::fmt;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Position {
    pub line: usize,
    /// Characters, from 1. For a block string, whose place is its start seen from its last line, it can be negative.
    pub column: i64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    Invalid,
    End,
    Bang,
    Dollar,
    Amp,
    ParenL,
    ParenR,
    Spread,
    Colon,
    Equals,
    At,
    BracketL,
    BracketR,
    BraceL,
    BraceR,
    Pipe,
    Name,
    Int,
    Float,
    Text,
    BlockText,
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Invalid => "<Invalid>",
            Self::End => "<EOF>",
            Self::Bang => "!",
            Self::Dollar => "$",
            Self::Amp => "&",
            Self::ParenL => "(",
            Self::ParenR => ")",
            Self::Spread => "...",
            Self::Colon => ":",
            Self::Equals => "=",
            Self::At => "@",
            Self::BracketL => "[",
            Self::BracketR => "]",
            Self::BraceL => "{",
            Self::BraceR => "}",
            Self::Pipe => "|",
            Self::Name => "Name",
            Self::Int => "Int",
            Self::Float => "Float",
            Self::Text => "String",
            Self::BlockText => "BlockString",
        })
    }
}

#[derive(Debug, Clone)]
pub struct Token {
    pub kind: Kind,
    /// Empty for punctuation.
    pub text: String,
    pub at: Position,
}

impl fmt::Display for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.text.is_empty() {
            write!(f, "{}", self.kind)
        } else {
            write!(f, "{} {:?}", self.kind, self.text)
        }
    }
}

pub struct Lexer<'a> {
    rest: &'a str,
    line: usize,
    /// Characters read so far, and those before the current line.
    read: i64,
    before_line: i64,
}

impl<'a> Lexer<'a> {
    pub fn new(text: &'a str) -> Self {
        Self { rest: text, line: 1, read: 0, before_line: 0 }
    }

    fn position(&self) -> Position {
        Position { line: self.line, column: self.read - self.before_line + 1 }
    }

    fn peek(&self) -> Option<char> {
        self.rest.chars().next()
    }

    fn bump(&mut self) -> Option<char> {
        let mut chars = self.rest.chars();
        let next = chars.next()?;
        self.rest = chars.as_str();
        self.read += 1;
        Some(next)
    }

    fn bump_many(&mut self, count: usize) {
        for _ in 0..count {
            self.bump();
        }
    }

    fn accept(&mut self, wanted: &[char]) -> bool {
        let found = self.peek().is_some_and(|next| wanted.contains(&next));
        if found {
            self.bump();
        }
        found
    }

    /// What passes the test, from here.
    fn take_while(&mut self, passes: impl Fn(char) -> bool) -> &'a str {
        let whole = self.rest;
        while self.peek().is_some_and(&passes) {
            self.bump();
        }
        whole.strip_suffix(self.rest).unwrap_or_default()
    }

    fn new_line(&mut self) {
        self.line += 1;
        self.before_line = self.read;
    }

    fn invalid(&self) -> Token {
        Token { kind: Kind::Invalid, text: String::new(), at: self.position() }
    }

    pub fn next(&mut self) -> Token {
        self.skip_ignored();
        let at = self.position();
        let Some(first) = self.peek() else {
            return Token { kind: Kind::End, text: String::new(), at };
        };
        let kind = match first {
            '!' => Kind::Bang,
            '$' => Kind::Dollar,
            '&' => Kind::Amp,
            '(' => Kind::ParenL,
            ')' => Kind::ParenR,
            ':' => Kind::Colon,
            '=' => Kind::Equals,
            '@' => Kind::At,
            '[' => Kind::BracketL,
            ']' => Kind::BracketR,
            '{' => Kind::BraceL,
            '}' => Kind::BraceR,
            '|' => Kind::Pipe,
            '.' if self.rest.starts_with("...") => {
                self.bump_many(2);
                Kind::Spread
            }
            '_' | 'a'..='z' | 'A'..='Z' => {
                let text = self.take_while(|c| c == '_' || c.is_ascii_alphanumeric()).to_owned();
                return Token { kind: Kind::Name, text, at };
            }
            '-' | '0'..='9' => return self.number(at),
            '"' if self.rest.starts_with("\"\"\"") => return self.block_string(),
            '"' => return self.string(),
            _ => return self.invalid(),
        };
        self.bump();
        Token { kind, text: String::new(), at }
    }

    fn skip_ignored(&mut self) {
        while let Some(next) = self.peek() {
            match next {
                '\t' | ' ' | ',' | '\u{feff}' => {
                    self.bump();
                }
                '\n' => {
                    self.bump();
                    self.new_line();
                }
                '\r' => {
                    self.bump();
                    self.new_line();
                    self.accept(&['\n']);
                }
                '#' => {
                    self.take_while(|c| c > '\u{1f}' || c == '\t');
                }
                _ => return,
            }
        }
    }

    fn digits(&mut self) -> bool {
        !self.take_while(|c| c.is_ascii_digit()).is_empty()
    }

    fn number(&mut self, at: Position) -> Token {
        let whole = self.rest;
        self.accept(&['-']);
        if self.accept(&['0']) {
            if self.peek().is_some_and(|c| c.is_ascii_digit()) {
                return self.invalid();
            }
        } else if !self.digits() {
            return self.invalid();
        }
        let mut kind = Kind::Int;
        if self.accept(&['.']) {
            kind = Kind::Float;
            if !self.digits() {
                return self.invalid();
            }
        }
        if self.accept(&['e', 'E']) {
            kind = Kind::Float;
            self.accept(&['-', '+']);
            if !self.digits() {
                return self.invalid();
            }
        }
        Token { kind, text: whole.strip_suffix(self.rest).unwrap_or_default().to_owned(), at }
    }

    /// Its place is behind the quote.
    fn string(&mut self) -> Token {
        self.bump();
        let at = self.position();
        let mut text = String::new();
        loop {
            match self.peek() {
                Some('"') => {
                    self.bump();
                    return Token { kind: Kind::Text, text, at };
                }
                Some('\\') => match self.escape() {
                    Some(escaped) => text.push(escaped),
                    None => return self.invalid(),
                },
                Some('\t' | ' '..) => text.extend(self.bump()),
                _ => return self.invalid(),
            }
        }
    }

    fn escape(&mut self) -> Option<char> {
        self.bump();
        let escaped = match self.peek()? {
            same @ ('"' | '/' | '\\') => same,
            'b' => '\u{8}',
            'f' => '\u{c}',
            'n' => '\n',
            'r' => '\r',
            't' => '\t',
            'u' => {
                let digits =
                    self.rest.get(1..5).filter(|digits| digits.bytes().all(|b| b.is_ascii_hexdigit()))?;
                let unit = u32::from_str_radix(digits, 16).ok()?;
                self.bump_many(5);
                // Half a surrogate pair, as in Go.
                return Some(char::from_u32(unit).unwrap_or(char::REPLACEMENT_CHARACTER));
            }
            _ => return None,
        };
        self.bump();
        Some(escaped)
    }

    fn block_string(&mut self) -> Token {
        self.bump_many(3);
        let start = self.read;
        let mut text = String::new();
        loop {
            if self.rest.starts_with("\"\"\"") {
                let quotes = self.take_while(|c| c == '"').len();
                // The last three close; what is before them is text.
                text.extend(std::iter::repeat_n('"', quotes.saturating_sub(3)));
                let at = Position { line: self.line, column: start - self.before_line + 1 };
                return Token { kind: Kind::BlockText, text: dedent(&text), at };
            }
            if self.rest.starts_with("\\\"\"\"") {
                self.bump_many(4);
                text.push_str("\"\"\"");
                continue;
            }
            match self.peek() {
                Some('\r' | '\n') => {
                    if self.bump() == Some('\r') {
                        self.accept(&['\n']);
                    }
                    text.push('\n');
                    self.new_line();
                }
                Some('\t' | ' '..) => text.extend(self.bump()),
                _ => return self.invalid(),
            }
        }
    }
}

/// `BlockStringValue()` of the specification, but the first line counts for the common indent, as it does in OPA.
fn dedent(raw: &str) -> String {
    let indent = |line: &str| line.find(|c| c != ' ' && c != '\t');
    let lines: Vec<&str> = raw.split('\n').collect();
    let common = lines.iter().filter_map(|line| indent(line)).min().unwrap_or_default();
    let text_at = |line: &&str| indent(line).is_some();
    let Some(first) = lines.iter().position(text_at) else { return String::new() };
    let last = lines.iter().rposition(text_at).unwrap_or(first);
    let cut = |(index, line): (usize, &&str)| {
        let from = if index == 0 { 0 } else { common };
        line.get(from..).unwrap_or_default().to_owned()
    };
    let cut: Vec<String> = lines.iter().enumerate().take(last + 1).skip(first).map(cut).collect();
    cut.join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tokens(text: &str) -> Vec<(Kind, String)> {
        let mut lexer = Lexer::new(text);
        let mut found = Vec::new();
        loop {
            let token = lexer.next();
            found.push((token.kind, token.text));
            if matches!(token.kind, Kind::End | Kind::Invalid) {
                return found;
            }
        }
    }

    #[test]
    fn numbers_and_strings() {
        let kinds = |text: &str| tokens(text).into_iter().map(|token| token.0).collect::<Vec<_>>();
        assert_eq!(kinds("-0 1.5e-3 10"), [Kind::Int, Kind::Float, Kind::Int, Kind::End]);
        for bad in
            ["00", "-", "1.", "1e", "\"", "\"\\x\"", "\"\\u12\"", "\"\n\"", "..", "\u{1}", "\"\"\"", "é"]
        {
            assert_eq!(kinds(bad).last(), Some(&Kind::Invalid), "{bad}");
        }
        let text = |source: &str| tokens(source).remove(0).1;
        assert_eq!(text(r#""a\u0041\ud800\n""#), "aA\u{fffd}\n");
        assert_eq!(text("\"\"\"\n    a\n      \"b\"\r\n\n  \"\"\""), "a\n  \"b\"");
        assert_eq!(text("\"\"\"x\"\"\"\""), "x\"");
        assert_eq!(text("\"\"\" \\\"\"\" \"\"\""), " \"\"\" ");
    }

    #[test]
    fn places_count_characters() {
        let mut lexer = Lexer::new("é # é\r\n  \"é\" x");
        assert_eq!(lexer.next().kind, Kind::Invalid);
        let mut lexer = Lexer::new("# é\r\n  \"é\" x");
        lexer.next();
        // A carriage return with a line feed is one line, whose feed is its first character, as in OPA.
        assert_eq!(lexer.next().at, Position { line: 2, column: 8 });
    }
}
