//! Patterns over the paths in a bundle, with the meaning they have in OPA. One never matches more than it would there:
//! what `exclude_files` matches is not verified.

/// A pattern that was understood.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pattern {
    tokens: Vec<Token>,
    separators: Separators,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Separators {
    /// `*` and `?` do not match `/`: Go's `filepath.Match`.
    Kept,
    /// They do: the globs of `file_rego_versions`.
    Ordinary,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Token {
    Char(char),
    One,
    Star,
    Class { negated: bool, ranges: Vec<(char, char)> },
}

impl Pattern {
    /// One of `exclude_files`.
    ///
    /// # Errors
    /// A class or an escape that does not end.
    pub fn path(text: &str) -> Result<Self, String> {
        Self::parse(text, Separators::Kept)
    }

    /// A key of `file_rego_versions`.
    ///
    /// # Errors
    /// As [`Self::path`]; and alternatives in braces, which are not supported.
    pub fn glob(text: &str) -> Result<Self, String> {
        if text.contains(['{', '}']) {
            return Err("alternatives in braces are not supported".to_owned());
        }
        Self::parse(text, Separators::Ordinary)
    }

    fn parse(text: &str, separators: Separators) -> Result<Self, String> {
        let mut tokens = Vec::new();
        let mut chars = text.chars();
        while let Some(c) = chars.next() {
            tokens.push(match c {
                '*' if tokens.last() == Some(&Token::Star) => continue,
                '*' => Token::Star,
                '?' => Token::One,
                '[' => class(&mut chars, separators)?,
                '\\' => Token::Char(chars.next().ok_or("ends in a backslash")?),
                c => Token::Char(c),
            });
        }
        Ok(Self { tokens, separators })
    }

    /// At most pattern times text steps: since no star passes a separator, going back to the last one is enough.
    #[must_use]
    pub fn matches(&self, text: &str) -> bool {
        let text: Vec<char> = text.chars().collect();
        let (mut token, mut at) = (0, 0);
        let mut last_star: Option<(usize, usize)> = None;
        loop {
            match (self.tokens.get(token), text.get(at)) {
                (None, None) => return true,
                (Some(Token::Star), _) => {
                    last_star = Some((token, at));
                    token += 1;
                    continue;
                }
                (Some(expected), Some(c)) if self.fits(expected, *c) => {
                    token += 1;
                    at += 1;
                    continue;
                }
                _ => {}
            }
            // The last star takes one character more.
            match last_star {
                Some((star, from)) if text.get(from).is_some_and(|c| self.is_crossed(*c)) => {
                    last_star = Some((star, from + 1));
                    token = star + 1;
                    at = from + 1;
                }
                _ => return false,
            }
        }
    }

    fn is_crossed(&self, c: char) -> bool {
        c != '/' || self.separators == Separators::Ordinary
    }

    fn fits(&self, token: &Token, c: char) -> bool {
        match token {
            Token::Char(expected) => *expected == c,
            Token::One => self.is_crossed(c),
            Token::Star => false,
            Token::Class { negated, ranges } => {
                self.is_crossed(c) && ranges.iter().any(|(low, high)| (*low..=*high).contains(&c)) != *negated
            }
        }
    }
}

/// Behind the `[`.
fn class(chars: &mut std::str::Chars<'_>, separators: Separators) -> Result<Token, String> {
    let unended = || "a `[` has no `]`".to_owned();
    let negation = if separators == Separators::Kept { '^' } else { '!' };
    let negated = chars.as_str().starts_with(negation);
    if negated {
        chars.next();
    }
    let mut ranges = Vec::new();
    loop {
        let low = match chars.next().ok_or_else(unended)? {
            ']' if !ranges.is_empty() => return Ok(Token::Class { negated, ranges }),
            ']' => return Err("an empty class".to_owned()),
            '\\' => chars.next().ok_or_else(unended)?,
            c => c,
        };
        let mut high = low;
        if chars.as_str().starts_with('-') && !chars.as_str().starts_with("-]") {
            chars.next();
            high = match chars.next().ok_or_else(unended)? {
                '\\' => chars.next().ok_or_else(unended)?,
                c => c,
            };
        }
        ranges.push((low, high));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_as_in_go() {
        let matches = |pattern: &str, text: &str| Pattern::path(pattern).unwrap().matches(text);
        for (pattern, text) in [
            ("data.json", "data.json"),
            ("*.json", "data.json"),
            ("*/data.json", "a/data.json"),
            ("a*c*e", "abcde"),
            ("a?c", "abc"),
            ("[a-c]x", "bx"),
            ("[^a-c]x", "dx"),
            ("a\\*", "a*"),
            ("{a,b}", "{a,b}"),
            ("*", ""),
            ("**/a", "x/a"),
        ] {
            assert!(matches(pattern, text), "{pattern} {text}");
        }
        for (pattern, text) in [
            ("*.json", "a/data.json"),
            ("*", "a/b"),
            ("a?b", "a/b"),
            ("a[^b]c", "a/c"),
            ("**/a", "x/y/a"),
            ("*a/", "xa"),
            ("a", ""),
            ("", "a"),
            ("{a,b}", "a"),
            ("[b-a]", "a"),
        ] {
            assert!(!matches(pattern, text), "{pattern} {text}");
        }
        for bad in ["[", "[]", "[a", "[a-", "a\\", "[\\"] {
            assert!(Pattern::path(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn globs_pass_separators() {
        let matches = |pattern: &str, text: &str| Pattern::glob(pattern).unwrap().matches(text);
        assert!(
            matches("old/*.rego", "old/deep/a.rego") && matches("[!a]b", "cb") && !matches("[!a]b", "ab")
        );
        assert!(Pattern::glob("{a,b}").is_err());
    }

    #[test]
    fn long_patterns_end() {
        let pattern = Pattern::path(&"*a".repeat(500)).unwrap();
        assert!(!pattern.matches(&"a".repeat(499)) && pattern.matches(&"a".repeat(2000)));
    }
}
