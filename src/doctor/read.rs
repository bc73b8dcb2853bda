//! Text to tree: JSON where it is JSON, else YAML as Envoy reads it. Size and nesting have bounds, aliases are shared and
//! counted, and nothing here can loop or run out of stack.

use std::collections::HashMap;

use saphyr_parser::{Event, Parser, ScalarStyle};
use serde_json::Value as Json;

use super::node::{Kind, Node};

/// Values of one document, those behind aliases counted each time. A mesh's dump has about a million.
const MAX_VALUES: usize = 1 << 23;
/// Levels. Envoy's own configurations have about forty.
const MAX_DEPTH: usize = 256;

/// The tree, or what is wrong with the text and on which line.
///
/// # Errors
/// It is neither JSON nor YAML, or larger or deeper than anything an Envoy would run with.
pub fn read(text: &str) -> Result<Node, String> {
    if text.trim_start().starts_with('{') {
        match serde_json::from_str::<Json>(text) {
            Ok(json) => return Ok(from_json(json)),
            // Flow style begins like JSON.
            Err(error) => return yaml(text).map_err(|_| format!("not JSON: {error}")),
        }
    }
    yaml(text).map_err(|error| format!("not YAML: {error}"))
}

fn from_json(json: Json) -> Node {
    let kind = match json {
        Json::Null => Kind::Null,
        Json::Bool(flag) => Kind::Bool(flag),
        Json::Number(number) => Kind::Number(number.as_f64().unwrap_or(0.0)),
        Json::String(text) => Kind::Text(text.into()),
        Json::Array(items) => Kind::List(items.into_iter().map(from_json).collect()),
        Json::Object(members) => {
            Kind::Map(members.into_iter().map(|(name, value)| (name, from_json(value))).collect())
        }
    };
    Node::new(kind, 0)
}

enum Open {
    List(Vec<Node>),
    /// With the key that waits for its value.
    Map(Vec<(String, Node)>, Option<String>),
}

struct Frame {
    open: Open,
    anchor: usize,
    line: usize,
    /// Values and levels below, for aliases.
    values: usize,
    depth: usize,
}

/// A value that an alias may name, and what it costs to name it.
struct Anchored {
    node: Node,
    values: usize,
    depth: usize,
}

#[derive(Default)]
struct Reader {
    frames: Vec<Frame>,
    anchors: HashMap<usize, Anchored>,
    values: usize,
}

fn yaml(text: &str) -> Result<Node, String> {
    let mut reader = Reader::default();
    for event in Parser::new_from_str(text) {
        let (event, span) = event.map_err(|error| {
            let line = error.marker().line();
            format!("line {line}: {}", error.info())
        })?;
        let line = span.start.line();
        let done = reader.take(event, line).map_err(|error| format!("line {line}: {error}"))?;
        if let Some(node) = done {
            return Ok(node);
        }
    }
    Ok(Node::new(Kind::Null, 0))
}

impl Reader {
    /// The document, when it is whole.
    fn take(&mut self, event: Event<'_>, line: usize) -> Result<Option<Node>, String> {
        match event {
            Event::Scalar(text, style, anchor, _) => {
                let kind =
                    if style == ScalarStyle::Plain { plain(&text) } else { Kind::Text((&*text).into()) };
                // A key that looks like a number or a bool is text all the same.
                if let Some(Frame { open: Open::Map(_, key @ None), .. }) = self.frames.last_mut() {
                    *key = Some(text.into_owned());
                    return Ok(None);
                }
                self.put(Node::new(kind, line), anchor, 1, 0)
            }
            Event::Alias(anchor) => {
                let found = self.anchors.get(&anchor).ok_or("an alias of nothing")?;
                let (node, values, depth) = (found.node.clone(), found.values, found.depth);
                self.put(node, 0, values, depth)
            }
            Event::SequenceStart(anchor, _) => self.enter(Open::List(Vec::new()), anchor, line),
            Event::MappingStart(anchor, _) => self.enter(Open::Map(Vec::new(), None), anchor, line),
            Event::SequenceEnd | Event::MappingEnd => self.leave(),
            _ => Ok(None),
        }
    }

    fn enter(&mut self, open: Open, anchor: usize, line: usize) -> Result<Option<Node>, String> {
        if self.frames.len() >= MAX_DEPTH {
            return Err(format!("nested deeper than {MAX_DEPTH} levels"));
        }
        if matches!(self.frames.last(), Some(Frame { open: Open::Map(_, None), .. })) {
            return Err("a key that is no text".to_owned());
        }
        self.frames.push(Frame { open, anchor, line, values: 1, depth: 1 });
        Ok(None)
    }

    fn leave(&mut self) -> Result<Option<Node>, String> {
        let Some(frame) = self.frames.pop() else { return Ok(None) };
        let kind = match frame.open {
            Open::List(items) => Kind::List(items.into()),
            Open::Map(members, _) => Kind::Map(merged(members).into()),
        };
        self.put(Node::new(kind, frame.line), frame.anchor, frame.values, frame.depth)
    }

    fn put(
        &mut self,
        node: Node,
        anchor: usize,
        values: usize,
        depth: usize,
    ) -> Result<Option<Node>, String> {
        self.values = self.values.saturating_add(values);
        if self.values > MAX_VALUES {
            return Err(format!("more than {MAX_VALUES} values"));
        }
        if self.frames.len() + depth > MAX_DEPTH {
            return Err(format!("nested deeper than {MAX_DEPTH} levels"));
        }
        if anchor > 0 {
            self.anchors.insert(anchor, Anchored { node: node.clone(), values, depth });
        }
        let Some(frame) = self.frames.last_mut() else { return Ok(Some(node)) };
        frame.values = frame.values.saturating_add(values);
        frame.depth = frame.depth.max(depth + 1);
        match &mut frame.open {
            Open::List(items) => items.push(node),
            Open::Map(members, key) => match key.take() {
                Some(name) => members.push((name, node)),
                None => return Err("a key that is no text".to_owned()),
            },
        }
        Ok(None)
    }
}

/// `<<: *common` brings in what is not said beside it. Of two members of one name the later counts.
fn merged(members: Vec<(String, Node)>) -> Vec<(String, Node)> {
    let mut result: Vec<(String, Node)> = Vec::with_capacity(members.len());
    let mut places: HashMap<String, usize> = HashMap::new();
    let mut common = Vec::new();
    for (name, node) in members {
        if name == "<<" {
            common.push(node);
        } else if let Some(place) = places.get(&name) {
            result[*place].1 = node;
        } else {
            places.insert(name.clone(), result.len());
            result.push((name, node));
        }
    }
    for node in &common {
        let parts = if node.items().is_empty() { std::slice::from_ref(node) } else { node.items() };
        for (name, node) in parts.iter().flat_map(Node::members) {
            if !places.contains_key(name) {
                places.insert(name.clone(), result.len());
                result.push((name.clone(), node.clone()));
            }
        }
    }
    result
}

/// Envoy's reader takes a bare `y` or `n` for a bool.
fn plain(text: &str) -> Kind {
    match text {
        "" | "~" | "null" | "Null" | "NULL" => Kind::Null,
        "true" | "True" | "TRUE" | "y" | "Y" | "yes" | "Yes" | "YES" | "on" | "On" | "ON" => Kind::Bool(true),
        "false" | "False" | "FALSE" | "n" | "N" | "no" | "No" | "NO" | "off" | "Off" | "OFF" => {
            Kind::Bool(false)
        }
        _ => {
            let is_number = text.starts_with(|c: char| c.is_ascii_digit() || c == '-' || c == '.');
            match text.parse::<f64>() {
                Ok(number) if is_number && number.is_finite() => Kind::Number(number),
                _ => Kind::Text(text.into()),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn yaml_and_json_are_one_tree() {
        for text in [
            "a: [1, yes, 'yes', ~]\nb: {c: x}\n",
            r#"{"a": [1, true, "yes", null], "b": {"c": "x"}}"#,
            "{a: [1, y, \"yes\", null], b: {c: x}}",
            "x: &x {c: x}\na: [1, true, 'yes', null]\nb: *x",
            "b: {<<: {c: y}, c: x}\na: [1, true, 'yes', null]",
        ] {
            let node = read(text).unwrap();
            let items = node.get("a").items();
            assert_eq!(items[0].number(), Some(1.0), "{text}");
            assert!(items[1].is_true() && items[2].text() == "yes" && !items[3].is_set(), "{text}");
            assert_eq!(node.at(&["b", "c"]).text(), "x", "{text}");
        }
    }

    #[test]
    fn hostile_text_is_refused_or_read_and_never_more() {
        let mut bomb = String::from("a0: &a0 [x,x,x,x,x,x,x,x,x,x]\n");
        for level in 1..20 {
            let below = format!("*a{}", level - 1);
            bomb = format!("{bomb}a{level}: &a{level} [{}]\n", [below.as_str(); 10].join(","));
        }
        assert!(read(&bomb).unwrap_err().contains("values"));
        for text in ["[".repeat(100_000), "{\"a\":".repeat(100_000), "- ".repeat(100_000)] {
            assert!(read(&text).is_err());
        }
        for text in ["a: &a [*a]", "*x", "[1,2", "{\"a\": ", "? [1]\n: 2", "a: b: c", "{a"] {
            assert!(read(text).is_err(), "{text}");
        }
        for text in ["", "~", "5", "- a", "\u{0}", "a", "\"x\"", "[]"] {
            let _ = read(text);
        }
        assert!(read("a:\n  - b\n c: d").unwrap_err().contains("line "));
    }
}
