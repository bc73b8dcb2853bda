//! From RE2's syntax, as Go reads it, into that of the `regex` crate. They differ in what is a digit, a word and a
//! space, in what is plain text, and in what is refused. What is not known here is refused, never passed on.

use super::super::sprintf::push_escape;

type Message = String;

const DIGITS: &str = "0-9";
const WORD: &str = "0-9A-Za-z_";
const SPACE: &str = r"\t\n\x0C\r ";
/// The most that a repetition may ask for.
const MAX_REPEAT: u32 = 1000;
/// Classes with characters of all the world, of which one pattern may have so many. Without regard to case each takes
/// a tenth of a millisecond, and 25 KB while it is compiled.
const MAX_WIDE_CLASSES: usize = 200;
/// Characters of a range beyond which it counts as one of these.
const MAX_NARROW: u32 = 0x100;

/// A character in a form that is no syntax anywhere.
pub fn push_char(to: &mut String, c: char) {
    push_escape(to, r"\x{", c.into(), 1);
    to.push('}');
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Last {
    /// Nothing that could be repeated.
    Nothing,
    Atom,
    Repeat,
}

struct Translator<'a> {
    pattern: &'a str,
    rest: &'a str,
    out: String,
    last: Last,
    depth: usize,
    /// Of [`MAX_WIDE_CLASSES`].
    wide: usize,
}

pub fn translate(pattern: &str) -> Result<String, Message> {
    let mut translator =
        Translator { pattern, rest: pattern, out: String::new(), last: Last::Nothing, depth: 0, wide: 0 };
    while let Some(next) = translator.peek() {
        translator.item(next)?;
    }
    if translator.depth > 0 {
        return Err(format!("missing closing ): `{pattern}`"));
    }
    Ok(translator.out)
}

impl<'a> Translator<'a> {
    fn peek(&self) -> Option<char> {
        self.rest.chars().next()
    }

    fn next(&mut self) -> Option<char> {
        let next = self.peek()?;
        self.skip(next.len_utf8());
        Some(next)
    }

    fn skip(&mut self, bytes: usize) {
        self.rest = self.rest.get(bytes..).unwrap_or_default();
    }

    /// What has been read since.
    fn since(&self, start: &'a str) -> &'a str {
        start.get(..start.len() - self.rest.len()).unwrap_or_default()
    }

    fn emit(&mut self, text: &str) {
        self.out.push_str(text);
        self.last = Last::Atom;
    }

    fn count_wide(&mut self) -> Result<(), Message> {
        self.wide += 1;
        if self.wide > MAX_WIDE_CLASSES {
            return Err("expression too large".to_owned());
        }
        Ok(())
    }

    fn literal(&mut self, c: char) {
        let escaped = regex::escape(c.encode_utf8(&mut [0; 4]));
        self.emit(&escaped);
    }

    fn item(&mut self, next: char) -> Result<(), Message> {
        match next {
            '(' => self.group()?,
            ')' => {
                self.skip(1);
                self.depth =
                    self.depth.checked_sub(1).ok_or_else(|| format!("unexpected ): `{}`", self.pattern))?;
                self.emit(")");
            }
            '|' => {
                self.skip(1);
                self.emit("|");
                self.last = Last::Nothing;
            }
            '^' | '$' | '.' => {
                self.skip(1);
                self.emit(next.encode_utf8(&mut [0; 4]));
            }
            '[' => self.class()?,
            '*' | '+' | '?' => {
                let start = self.rest;
                self.skip(1);
                self.repeat(start, next.encode_utf8(&mut [0; 4]))?;
            }
            '{' => self.counted()?,
            '\\' => self.escape()?,
            other => {
                self.skip(other.len_utf8());
                self.literal(other);
            }
        }
        Ok(())
    }

    fn group(&mut self) -> Result<(), Message> {
        let start = self.rest;
        self.depth += 1;
        let Some(inside) = start.strip_prefix("(?") else {
            self.skip(1);
            self.emit("(");
            self.last = Last::Nothing;
            return Ok(());
        };
        if let Some(named) = inside.strip_prefix("P<").or_else(|| inside.strip_prefix('<')) {
            let is_name =
                |name: &&str| !name.is_empty() && name.chars().all(|c| c == '_' || c.is_ascii_alphanumeric());
            let name = named.split_once('>').map(|(name, _)| name).filter(is_name);
            let name = name.ok_or_else(|| format!("invalid named capture: `{start}`"))?;
            self.skip(start.len() - named.len() + name.len() + 1);
            self.emit(&format!("(?P<{name}>"));
            self.last = Last::Nothing;
            return Ok(());
        }
        self.flags(start, inside)
    }

    fn flags(&mut self, start: &'a str, inside: &str) -> Result<(), Message> {
        let wrong = |length: usize| {
            let shown = start.chars().take(length + 3).collect::<String>();
            format!("invalid or unsupported Perl syntax: `{shown}`")
        };
        let (mut on, mut off, mut is_off) = (String::new(), String::new(), false);
        for (at, c) in inside.char_indices() {
            match c {
                'i' | 'm' | 's' | 'U' => {
                    (on, off) = (on.replace(c, ""), off.replace(c, ""));
                    if is_off { off.push(c) } else { on.push(c) }
                }
                '-' if !is_off => is_off = true,
                ':' | ')' => {
                    if is_off && off.is_empty() {
                        return Err(wrong(at));
                    }
                    let off = if off.is_empty() { String::new() } else { format!("-{off}") };
                    self.skip(at + 3);
                    let last = self.last;
                    if c == ')' {
                        self.depth -= 1;
                        let has_flags = !on.is_empty() || !off.is_empty();
                        self.emit(&if has_flags { format!("(?{on}{off})") } else { String::new() });
                        self.last = last;
                    } else {
                        self.emit(&format!("(?{on}{off}:"));
                        self.last = Last::Nothing;
                    }
                    return Ok(());
                }
                _ => return Err(wrong(at)),
            }
        }
        Err(format!("missing closing ): `{}`", self.pattern))
    }

    fn repeat(&mut self, start: &'a str, operator: &str) -> Result<(), Message> {
        let shown = self.since(start);
        match self.last {
            Last::Nothing => return Err(format!("missing argument to repetition operator: `{shown}`")),
            Last::Repeat => return Err(format!("invalid nested repetition operator: `{shown}`")),
            Last::Atom => {}
        }
        self.emit(operator);
        if self.peek() == Some('?') {
            self.skip(1);
            self.emit("?");
        }
        self.last = Last::Repeat;
        Ok(())
    }

    /// `{2}`, `{2,}` and `{2,4}`; any other brace is text.
    fn counted(&mut self) -> Result<(), Message> {
        let start = self.rest;
        let number = |text: &str| {
            let is_number = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
            (is_number && (text == "0" || !text.starts_with('0')))
                .then(|| text.parse::<u32>().unwrap_or(u32::MAX))
        };
        let counts = start.get(1..).and_then(|inside| inside.split_once('}')).and_then(|(counts, _)| {
            let (least, most) = counts.split_once(',').unwrap_or((counts, counts));
            let most = if most.is_empty() && counts.ends_with(',') { None } else { Some(number(most)?) };
            Some((counts, number(least)?, most))
        });
        let Some((counts, least, most)) = counts else {
            self.skip(1);
            self.literal('{');
            return Ok(());
        };
        self.skip(counts.len() + 2);
        if least > MAX_REPEAT || most.is_some_and(|most| most > MAX_REPEAT || most < least) {
            return Err(format!("invalid repeat count: `{}`", self.since(start)));
        }
        self.repeat(start, &format!("{{{counts}}}"))
    }

    fn escape(&mut self) -> Result<(), Message> {
        let start = self.rest;
        let Some(escaped) = start.chars().nth(1) else {
            return Err("trailing backslash at end of expression: ``".to_owned());
        };
        match escaped {
            'A' | 'z' => {
                self.skip(2);
                self.emit(if escaped == 'A' { r"\A" } else { r"\z" });
            }
            'b' | 'B' => {
                self.skip(2);
                self.emit(if escaped == 'b' { r"(?-u:\b)" } else { r"(?-u:\B)" });
            }
            'Q' => {
                self.skip(2);
                while !self.rest.is_empty() && !self.rest.starts_with(r"\E") {
                    if let Some(c) = self.next() {
                        self.literal(c);
                    }
                }
                self.skip(2);
            }
            _ => {
                if let Some(class) = self.named_class(true)? {
                    self.emit(&class);
                } else {
                    let c = self.character()?;
                    self.literal(c);
                }
            }
        }
        Ok(())
    }

    /// `\d` and the like, and `\p{Greek}`; alone, or among others in brackets.
    fn named_class(&mut self, is_alone: bool) -> Result<Option<String>, Message> {
        let start = self.rest;
        let Some(escaped) = start.strip_prefix('\\').and_then(|rest| rest.chars().next()) else {
            return Ok(None);
        };
        let ranges = match escaped.to_ascii_lowercase() {
            'd' => DIGITS,
            'w' => WORD,
            's' => SPACE,
            'p' => return self.unicode_class(escaped == 'P').map(Some),
            _ => return Ok(None),
        };
        self.skip(2);
        // Alone it is negated after case has been seen to, when it is still narrow.
        if escaped.is_ascii_uppercase() && !is_alone {
            self.count_wide()?;
        }
        Ok(Some(match (escaped.is_ascii_uppercase(), is_alone) {
            (true, _) => format!("[^{ranges}]"),
            (false, true) => format!("[{ranges}]"),
            (false, false) => ranges.to_owned(),
        }))
    }

    fn unicode_class(&mut self, is_negated: bool) -> Result<String, Message> {
        let start = self.rest;
        self.skip(2);
        self.count_wide()?;
        let invalid = |shown: &str| format!("invalid character class range: `{shown}`");
        let name = match self.next() {
            Some('{') => {
                let (name, _) = self.rest.split_once('}').ok_or_else(|| invalid(start))?;
                self.skip(name.len() + 1);
                name
            }
            Some(_) => self.since(start).get(2..).unwrap_or_default(),
            None => return Err(invalid(start)),
        };
        let (is_negated, name) =
            name.strip_prefix('^').map_or((is_negated, name), |name| (!is_negated, name));
        if name.is_empty() || !name.chars().all(|c| c == '_' || c.is_ascii_alphanumeric()) {
            return Err(invalid(self.since(start)));
        }
        Ok(format!(r"\{}{{{name}}}", if is_negated { 'P' } else { 'p' }))
    }

    /// A character that is written with a backslash.
    fn character(&mut self) -> Result<char, Message> {
        let start = self.rest;
        self.skip(1);
        let escaped = self.next().ok_or_else(|| "trailing backslash at end of expression: ``".to_owned())?;
        let read = match escaped {
            'a' => Some('\u{7}'),
            'f' => Some('\u{c}'),
            'n' => Some('\n'),
            'r' => Some('\r'),
            't' => Some('\t'),
            'v' => Some('\u{b}'),
            'x' => self.hexadecimal(),
            '0'..='7' => {
                let is_octal = |c: &char| ('0'..='7').contains(c);
                // One digit other than 0 would be a group to come back to, which there is not.
                let is_number = escaped == '0' || self.peek().is_some_and(|c| is_octal(&c));
                let mut code = u32::from(escaped) - u32::from('0');
                for _ in 0..2 {
                    if let Some(digit) = self.peek().filter(is_octal).filter(|_| is_number) {
                        self.skip(1);
                        code = code * 8 + (u32::from(digit) - u32::from('0'));
                    }
                }
                char::from_u32(code).filter(|_| is_number)
            }
            c if c.is_ascii() && !c.is_ascii_alphanumeric() => Some(c),
            _ => None,
        };
        read.ok_or_else(|| format!("invalid escape sequence: `{}`", self.since(start)))
    }

    fn hexadecimal(&mut self) -> Option<char> {
        let digits = if let Some(inside) = self.rest.strip_prefix('{') {
            let (digits, _) = inside.split_once('}')?;
            self.skip(digits.len() + 2);
            digits
        } else {
            let digits = self.rest.get(..2)?;
            self.skip(2);
            digits
        };
        let is_number = !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_hexdigit());
        u32::from_str_radix(digits, 16).ok().filter(|_| is_number).and_then(char::from_u32)
    }

    fn class(&mut self) -> Result<(), Message> {
        let start = self.rest;
        self.skip(1);
        let mut class = String::from("[");
        if self.peek() == Some('^') {
            self.skip(1);
            class.push('^');
        }
        let mut is_first = true;
        loop {
            let next = self.peek().ok_or_else(|| format!("missing closing ]: `{start}`"))?;
            if next == ']' && !is_first {
                self.skip(1);
                break;
            }
            is_first = false;
            if let Some(named) = self.posix_class()? {
                class.push_str(&named);
            } else if let Some(named) = self.named_class(false)? {
                class.push_str(&named);
            } else {
                self.range(start, &mut class)?;
            }
        }
        class.push(']');
        self.emit(&class);
        Ok(())
    }

    fn posix_class(&mut self) -> Result<Option<String>, Message> {
        let Some((name, _)) = self.rest.strip_prefix("[:").and_then(|rest| rest.split_once(":]")) else {
            return Ok(None);
        };
        let known = [
            "alnum", "alpha", "ascii", "blank", "cntrl", "digit", "graph", "lower", "print", "punct",
            "space", "upper", "word", "xdigit",
        ];
        if !known.contains(&name.trim_start_matches('^')) || name.starts_with("^^") {
            return Err(format!("invalid character class range: `[:{name}:]`"));
        }
        self.skip(name.len() + 4);
        if name.starts_with('^') {
            self.count_wide()?;
        }
        Ok(Some(format!("[:{name}:]")))
    }

    fn range(&mut self, class_start: &str, class: &mut String) -> Result<(), Message> {
        let start = self.rest;
        let low = self.class_character(class_start)?;
        let mut high = low;
        if self.rest.starts_with('-') && !self.rest.starts_with("-]") && self.rest.len() > 1 {
            self.skip(1);
            high = self.class_character(class_start)?;
            if high < low {
                return Err(format!("invalid character class range: `{}`", self.since(start)));
            }
        }
        if u32::from(high) - u32::from(low) >= MAX_NARROW {
            self.count_wide()?;
        }
        push_char(class, low);
        if high > low {
            class.push('-');
            push_char(class, high);
        }
        Ok(())
    }

    fn class_character(&mut self, class_start: &str) -> Result<char, Message> {
        if self.peek() == Some('\\') {
            return self.character();
        }
        self.next().ok_or_else(|| format!("missing closing ]: `{class_start}`"))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn matches(pattern: &str, text: &str) -> bool {
        super::super::build(&translate(pattern).unwrap()).unwrap().is_match(text)
    }

    #[test]
    fn classes_are_ascii() {
        for (pattern, text, wanted) in [
            (r"^\d$", "٣", false),
            (r"^\D$", "٣", true),
            (r"^\w$", "é", false),
            (r"^\W$", "é", true),
            (r"^\s$", "\u{b}", false),
            (r"^\s$", "\u{c}", true),
            (r"^\S$", "\u{a0}", true),
            (r"\bb", "éb", true),
            (r"^a\B", "aé", false),
            (r"^\B", "é", true),
            (r"^[\d\-x]+$", "1-x", true),
            (r"^[^\W]$", "_", true),
            ("(?i)^K$", "\u{212a}", true),
            (r"(?i)^straße$", "STRAßE", true),
        ] {
            assert_eq!(matches(pattern, text), wanted, "{pattern} {text:?}");
        }
    }

    #[test]
    fn text_that_is_syntax_elsewhere() {
        for (pattern, text) in [
            (r"^a{,2}$", "a{,2}"),
            (r"^{$", "{"),
            (r"^a{b}$", "a{b}"),
            (r"^[[&&~~-]+$", "[&~-"),
            (r"^[a-z&&[^b]]$", "b]"),
            (r"^[]a]+$", "]a"),
            (r"^[^]a]$", "b"),
            (r"^\<\>$", "<>"),
            (r"^\Qa.b*\E+$", "a.b**"),
            (r"^\Q(", "("),
            (r"^\x{41}\x42\103\0$", "ABC\0"),
            (r"^\pL\p{^L}\P{L}\p{Greek}$", "a12α"),
            (r"^[[:alpha:][:^alpha:]]$", "1"),
            (r"^(?P<a>x)(?<b>y)$", "xy"),
            (r"^a{2}?b{1,}c{0,1}$", "aab"),
            ("(?)(?s-i:^.$)", "\n"),
            ("#", "#"),
            ("(|a)*", ""),
        ] {
            assert!(matches(pattern, text), "{pattern} {text:?}");
        }
        assert!(!matches("^.$", "\n"));
        assert!(matches("(?m)^b$", "a\nb\nc"));
    }

    #[test]
    fn what_go_refuses() {
        for pattern in [
            "*",
            "a**",
            "a*+",
            "a??+",
            "a{2}{3}",
            "(*",
            "|*",
            "(",
            ")",
            "a)",
            "[a",
            "[z-a]",
            r"[a-\d]",
            r"\1",
            r"\8",
            r"\Z",
            r"\C",
            r"\G",
            r"\u1234",
            r"\y",
            r"\",
            "(?x)a",
            "(?u)a",
            "(?=a)",
            "(?<=a)",
            "(?!a)",
            "a{1001}",
            "a{2,1}",
            "(?P<>a)",
            "(?P<a",
            "[[:foo:]]",
            r"\p{",
            r"\x{110000}",
            r"\x4",
            "(?i",
            "(?-)",
        ] {
            assert!(translate(pattern).is_err(), "{pattern}");
        }
        assert_eq!(translate("a**"), Err("invalid nested repetition operator: `*`".to_owned()));
        assert_eq!(translate("[a"), Err("missing closing ]: `[a`".to_owned()));
    }

    proptest! {
        #[test]
        fn anything_is_translated_or_refused(pattern in r"[\[\]\\(){}|*+?.^$a-cdwsxpQE0-9:<>&~,é-]{0,24}") {
            if let Ok(translated) = translate(&pattern) {
                let _ = super::super::build(&translated);
            }
        }
    }
}
