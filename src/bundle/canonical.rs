//! The form of a structured file that its signature covers: members in the order of their names, no white space,
//! strings as Go writes them, numbers as they stand in the file. The last is why it is made from the text: a parsed
//! number has lost its `E5`.

use std::borrow::Cow;

use crate::policy::{self, Document};

/// Of text that need not be JSON. None: it is not, or nests deeper than any reader takes it.
pub fn of_text(text: &[u8], write: &mut impl FnMut(&[u8])) -> Option<()> {
    let text = text.strip_prefix(b"\xef\xbb\xbf").unwrap_or(text);
    let mut scanner = Scanner { rest: std::str::from_utf8(text).ok()?, depth: 0 };
    let node = scanner.node()?;
    write_node(&node, write)
}

/// Borrows from the text, and is small: an enemy's file may be all braces.
enum Node<'t> {
    /// A number, a literal, or a string with its quotation marks.
    Scalar(&'t str),
    Array(Vec<Self>),
    /// In the order of their names. Of members of one name the last counts, as for the reader.
    Object(Vec<(Cow<'t, str>, Self)>),
}

fn write_node(node: &Node<'_>, write: &mut impl FnMut(&[u8])) -> Option<()> {
    match node {
        Node::Scalar(text) if text.starts_with('"') => policy::write_text(&unescaped(text)?, write),
        Node::Scalar(text) => write(text.as_bytes()),
        Node::Array(items) => {
            write(b"[");
            for (index, item) in items.iter().enumerate() {
                if index > 0 {
                    write(b",");
                }
                write_node(item, write)?;
            }
            write(b"]");
        }
        Node::Object(members) => {
            write(b"{");
            for (index, (name, value)) in members.iter().enumerate() {
                if index > 0 {
                    write(b",");
                }
                policy::write_text(name, write);
                write(b":");
                write_node(value, write)?;
            }
            write(b"}");
        }
    }
    Some(())
}

fn unescaped(quoted: &str) -> Option<Cow<'_, str>> {
    let text = quoted.strip_prefix('"')?.strip_suffix('"')?;
    if text.bytes().any(|byte| byte == b'\\' || byte < b' ') {
        Document::from_json(quoted).ok()?.as_text().map(|text| Cow::Owned(text.to_owned()))
    } else {
        Some(Cow::Borrowed(text))
    }
}

struct Scanner<'t> {
    rest: &'t str,
    depth: usize,
}

impl<'t> Scanner<'t> {
    fn peek(&mut self) -> Option<u8> {
        self.rest = self.rest.trim_ascii_start();
        self.rest.bytes().next()
    }

    fn take(&mut self, count: usize) -> Option<&'t str> {
        let (taken, rest) = self.rest.split_at_checked(count)?;
        self.rest = rest;
        Some(taken)
    }

    fn skip(&mut self, byte: u8) -> Option<()> {
        if self.peek()? != byte {
            return None;
        }
        self.take(1).map(|_| ())
    }

    fn node(&mut self) -> Option<Node<'t>> {
        if self.depth > policy::MAX_DEPTH {
            return None;
        }
        self.depth += 1;
        let node = match self.peek()? {
            b'{' => self.object()?,
            b'[' => self.array()?,
            b'"' => Node::Scalar(self.text()?),
            _ => {
                let is_part = |byte: &u8| byte.is_ascii_alphanumeric() || b"+-.".contains(byte);
                match self.rest.bytes().take_while(is_part).count() {
                    0 => return None,
                    length => Node::Scalar(self.take(length)?),
                }
            }
        };
        self.depth -= 1;
        Some(node)
    }

    fn object(&mut self) -> Option<Node<'t>> {
        let mut members = Vec::new();
        self.skip(b'{')?;
        while self.peek()? != b'}' {
            if !members.is_empty() {
                self.skip(b',')?;
                self.peek()?;
            }
            let name = unescaped(self.text()?)?;
            self.skip(b':')?;
            members.push((name, self.node()?));
        }
        self.skip(b'}')?;
        members.sort_by(|(one, _), (other, _)| one.cmp(other));
        members.dedup_by(|later, kept| {
            let is_same = later.0 == kept.0;
            if is_same {
                std::mem::swap(later, kept);
            }
            is_same
        });
        members.shrink_to_fit();
        Some(Node::Object(members))
    }

    fn array(&mut self) -> Option<Node<'t>> {
        let mut items = Vec::new();
        self.skip(b'[')?;
        while self.peek()? != b']' {
            if !items.is_empty() {
                self.skip(b',')?;
            }
            items.push(self.node()?);
        }
        self.skip(b']')?;
        items.shrink_to_fit();
        Some(Node::Array(items))
    }

    /// At its quotation mark; up to the one that closes it.
    fn text(&mut self) -> Option<&'t str> {
        let mut is_escaped = false;
        let ends = |byte: u8| {
            let is_end = byte == b'"' && !is_escaped;
            is_escaped = byte == b'\\' && !is_escaped;
            is_end
        };
        let length = self.rest.bytes().skip(1).position(ends)?;
        self.take(length + 2)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn form(text: &str) -> Option<String> {
        let mut form = Vec::new();
        of_text(text.as_bytes(), &mut |part| form.extend_from_slice(part))?;
        String::from_utf8(form).ok()
    }

    #[test]
    fn as_opa_hashes_it() {
        for (text, expected) in [
            (
                "{\"b\" : [1.50, 1E5, 1e5, -0, 12345678901234567890123],\n \"B\": {}, \"a\\/\": \"<é\\u0007\\t\\u2028>\"}",
                "{\"B\":{},\"a/\":\"<é\\u0007\\t\\u2028>\",\"b\":[1.50,1E5,1e5,-0,12345678901234567890123]}",
            ),
            ("\u{feff}[null, true,false,[ ] ]", "[null,true,false,[]]"),
            ("{\"b\": 0, \"a\": 1, \"a\": 2, \"\\u0061\": 3}", "{\"a\":3,\"b\":0}"),
            ("{\"a\": 1, \"a\": \"\\\\\\\"\"}", "{\"a\":\"\\\\\\\"\"}"),
            (" 7 ", "7"),
        ] {
            assert_eq!(form(text).as_deref(), Some(expected));
        }
        for bad in ["", "{", "[1", "\"", "\"\\", "{\"a\"", "{\"a\":", "[,]", "{1:2}"] {
            assert_eq!(form(bad), None, "{bad}");
        }
        assert_eq!(form(&"[".repeat(100_000)), None);
    }

    proptest! {
        #[test]
        fn text_and_value_agree(text in r#"[\[\]{}:,"\\ua0-9\- \ntrufalsn]{0,24}"#) {
            if let Ok(value) = Document::from_json(&text) {
                let mut expected = Vec::new();
                value.write_as_go(&mut |part| expected.extend_from_slice(part));
                let form = form(&text);
                let has_numbers = text.contains(|c: char| c.is_ascii_digit());
                prop_assert!(form == String::from_utf8(expected).ok() || has_numbers && form.is_some());
            } else {
                // Whatever it is, it ends.
                form(&text);
            }
        }
    }
}
