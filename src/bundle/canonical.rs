//! The form of a structured file that its signature covers: members in the order of their names, no white space,
//! strings as Go writes them, numbers as they stand in the file. The last is why it is made from the text: a parsed
//! number has lost its `E5`.

use std::collections::BTreeMap;

use serde_json::Value as Json;

/// Of JSON that the reader took, which bounds its depth. None: it is no JSON after all.
pub fn of_text(text: &[u8], write: &mut impl FnMut(&[u8])) -> Option<()> {
    let text = text.strip_prefix(b"\xef\xbb\xbf").unwrap_or(text);
    let mut scanner = Scanner { rest: text };
    let node = scanner.node()?;
    write_node(&node, write);
    Some(())
}

/// Of what YAML became. Its numbers are written as Go would write them.
pub fn of_value(value: &Json, write: &mut impl FnMut(&[u8])) {
    match value {
        Json::Null | Json::Bool(_) | Json::Number(_) => write(value.to_string().as_bytes()),
        Json::String(text) => write_text(text, write),
        Json::Array(items) => write_array(items, write, of_value),
        Json::Object(members) => {
            let mut members: Vec<_> = members.iter().collect();
            members.sort_unstable_by_key(|(name, _)| *name);
            write_object(members.into_iter(), write, of_value);
        }
    }
}

enum Node<'t> {
    /// A number or a literal.
    Verbatim(&'t [u8]),
    Text(String),
    Array(Vec<Self>),
    /// Of members of one name the last counts, as for the reader.
    Object(BTreeMap<String, Self>),
}

fn write_node<W: FnMut(&[u8])>(node: &Node<'_>, write: &mut W) {
    match node {
        Node::Verbatim(bytes) => write(bytes),
        Node::Text(text) => write_text(text, write),
        Node::Array(items) => write_array(items, write, write_node),
        Node::Object(members) => write_object(members.iter(), write, write_node),
    }
}

fn write_array<T, W: FnMut(&[u8])>(items: &[T], write: &mut W, of_item: impl Fn(&T, &mut W)) {
    write(b"[");
    for (index, item) in items.iter().enumerate() {
        if index > 0 {
            write(b",");
        }
        of_item(item, write);
    }
    write(b"]");
}

fn write_object<'m, T: 'm, W: FnMut(&[u8])>(
    members: impl Iterator<Item = (&'m String, &'m T)>,
    write: &mut W,
    of_member: impl Fn(&T, &mut W),
) {
    write(b"{");
    for (index, (name, value)) in members.enumerate() {
        if index > 0 {
            write(b",");
        }
        write_text(name, write);
        write(b":");
        of_member(value, write);
    }
    write(b"}");
}

fn write_text(text: &str, write: &mut impl FnMut(&[u8])) {
    let text = Json::from(text).to_string();
    // JavaScript took these for ends of lines, and Go still escapes them.
    if text.contains(['\u{2028}', '\u{2029}']) {
        write(text.replace('\u{2028}', "\\u2028").replace('\u{2029}', "\\u2029").as_bytes());
    } else {
        write(text.as_bytes());
    }
}

struct Scanner<'t> {
    rest: &'t [u8],
}

impl<'t> Scanner<'t> {
    fn peek(&mut self) -> Option<u8> {
        self.rest = self.rest.trim_ascii_start();
        self.rest.first().copied()
    }

    fn take(&mut self, count: usize) -> Option<&'t [u8]> {
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
        match self.peek()? {
            b'{' => self.object(),
            b'[' => self.array(),
            b'"' => self.text().map(Node::Text),
            _ => {
                let is_part = |byte: &u8| byte.is_ascii_alphanumeric() || b"+-.".contains(byte);
                let length = self.rest.iter().take_while(|byte| is_part(byte)).count();
                if length == 0 { None } else { self.take(length).map(Node::Verbatim) }
            }
        }
    }

    fn object(&mut self) -> Option<Node<'t>> {
        let mut members = BTreeMap::new();
        self.skip(b'{')?;
        while self.peek()? != b'}' {
            if !members.is_empty() {
                self.skip(b',')?;
                self.peek()?;
            }
            let name = self.text()?;
            self.skip(b':')?;
            members.insert(name, self.node()?);
        }
        self.skip(b'}')?;
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
        Some(Node::Array(items))
    }

    /// At its quotation mark.
    fn text(&mut self) -> Option<String> {
        let mut is_escaped = false;
        let ends = |byte: &u8| {
            let is_end = *byte == b'"' && !is_escaped;
            is_escaped = *byte == b'\\' && !is_escaped;
            is_end
        };
        let length = self.rest.get(1..)?.iter().position(ends)?;
        serde_json::from_slice(self.take(length + 2)?).ok()
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
            ("{\"a\": 1, \"a\": \"\\\\\\\"\"}", "{\"a\":\"\\\\\\\"\"}"),
            (" 7 ", "7"),
        ] {
            assert_eq!(form(text).as_deref(), Some(expected));
        }
        for bad in ["", "{", "[1", "\"", "\"\\", "{\"a\"", "{\"a\":", "[,]", "{1:2}"] {
            assert_eq!(form(bad), None, "{bad}");
        }
    }

    proptest! {
        #[test]
        fn text_and_value_agree(text in r#"[\[\]{}:,"\\ua0-9\- \ntrufalsn]{0,24}"#) {
            if let Ok(value) = serde_json::from_str::<Json>(&text) {
                let mut expected = Vec::new();
                of_value(&value, &mut |part| expected.extend_from_slice(part));
                prop_assert_eq!(form(&text), String::from_utf8(expected).ok());
            } else {
                // Whatever it is, it ends.
                form(&text);
            }
        }
    }
}
