//! A configuration as a tree, with the line each part stood on. Knows protobuf's JSON mapping and no single message:
//! what is missing reads as nothing, and what has the wrong type too, so that no input can make a reader fail.

use std::sync::Arc;
use std::time::Duration;

#[derive(Debug, Clone)]
pub struct Node {
    kind: Kind,
    /// Counted from 1; 0 where it is not known.
    line: usize,
}

/// Shared below: a YAML alias may name a large part many times.
#[derive(Debug, Clone)]
pub enum Kind {
    Null,
    Bool(bool),
    Number(f64),
    Text(Arc<str>),
    List(Arc<[Node]>),
    Map(Arc<[(String, Node)]>),
}

/// What is not there.
pub static NOTHING: Node = Node { kind: Kind::Null, line: 0 };

/// Message types that carry another message's type and fields as a plain tree.
const TYPED_STRUCTS: [&str; 3] =
    ["xds.type.v3.TypedStruct", "udpa.type.v1.TypedStruct", "envoy.type.v3.TypedStruct"];

impl Node {
    pub fn new(kind: Kind, line: usize) -> Self {
        Self { kind, line }
    }

    pub fn line(&self) -> Option<usize> {
        (self.line > 0).then_some(self.line)
    }

    /// Whether it says anything: an empty message does, as `http2_protocol_options: {}`.
    pub fn is_set(&self) -> bool {
        !matches!(self.kind, Kind::Null)
    }

    /// The field by its name in the proto, or by its lowerCamelCase name.
    pub fn get(&self, name: &str) -> &Node {
        self.field(name).map_or(&NOTHING, |(_, node)| node)
    }

    fn field(&self, name: &str) -> Option<&(String, Node)> {
        self.members().iter().find(|(key, _)| is_name(key, name))
    }

    /// A field below a field.
    pub fn at(&self, path: &[&str]) -> &Node {
        path.iter().fold(self, |node, name| node.get(name))
    }

    /// The member of a map whose keys are data, not names of fields.
    pub fn entry(&self, key: &str) -> Option<&Node> {
        self.members().iter().find(|(name, _)| name == key).map(|(_, node)| node)
    }

    pub fn members(&self) -> &[(String, Node)] {
        if let Kind::Map(members) = &self.kind { members } else { &[] }
    }

    pub fn items(&self) -> &[Node] {
        if let Kind::List(items) = &self.kind { items } else { &[] }
    }

    pub fn text(&self) -> &str {
        if let Kind::Text(text) = &self.kind { text } else { "" }
    }

    /// A bool, a `BoolValue` written as a message, or a word that Envoy's YAML reader takes for one.
    pub fn flag(&self) -> Option<bool> {
        match &self.kind {
            Kind::Bool(flag) => Some(*flag),
            Kind::Text(text) => text.parse().ok(),
            Kind::Map(_) => self.entry("value").and_then(|value| match value.kind {
                Kind::Bool(flag) => Some(flag),
                _ => None,
            }),
            _ => None,
        }
    }

    pub fn is_true(&self) -> bool {
        self.flag() == Some(true)
    }

    /// A number, a 64-bit one written as text, or a wrapper written as a message.
    pub fn number(&self) -> Option<f64> {
        match &self.kind {
            Kind::Number(number) => Some(*number),
            Kind::Text(text) => text.parse().ok().filter(|number: &f64| number.is_finite()),
            Kind::Map(_) => self.entry("value").and_then(|value| match value.kind {
                Kind::Number(number) => Some(number),
                _ => None,
            }),
            _ => None,
        }
    }

    /// `0.25s`, or a Duration written as a message. A negative one is none.
    pub fn duration(&self) -> Option<Duration> {
        let seconds = match &self.kind {
            Kind::Text(text) => text.strip_suffix('s')?.parse().ok()?,
            Kind::Map(_) => {
                let (whole, nanos) = (self.get("seconds"), self.get("nanos"));
                if !whole.is_set() && !nanos.is_set() {
                    return None;
                }
                whole.number().unwrap_or(0.0) + nanos.number().unwrap_or(0.0) / 1e9
            }
            _ => return None,
        };
        Duration::try_from_secs_f64(seconds).ok()
    }

    /// Whether the enum has this value, by name or by number. Unset is the one that is 0.
    #[allow(clippy::float_cmp, reason = "numbers of enums are small whole numbers")]
    pub fn is_value(&self, name: &str, number: u32) -> bool {
        match &self.kind {
            Kind::Text(text) => text.eq_ignore_ascii_case(name),
            Kind::Number(found) => *found == f64::from(number),
            Kind::Null => number == 0,
            _ => false,
        }
    }

    /// The message within an Any: its type without the host, and its fields. A typed struct is taken apart.
    pub fn any(&self) -> Typed<'_> {
        let name = self.entry("@type").map_or("", Node::text);
        let name = type_name(name);
        if !TYPED_STRUCTS.contains(&name) {
            return Typed { name, fields: self };
        }
        let value = self.get("value");
        // An Any around a message with a JSON form of its own has it below `value`.
        let inner = if self.get("type_url").is_set() { self } else { value };
        Typed { name: type_name(inner.get("type_url").text()), fields: inner.get("value") }
    }

    /// The `typed_config` of an extension.
    pub fn typed_config(&self) -> Typed<'_> {
        self.get("typed_config").any()
    }

    /// Every text below, for those who look for a name wherever it may stand.
    pub fn any_text(&self, is_it: &dyn Fn(&str) -> bool) -> bool {
        match &self.kind {
            Kind::Text(text) => is_it(text),
            Kind::List(items) => items.iter().any(|item| item.any_text(is_it)),
            Kind::Map(members) => members.iter().any(|(_, node)| node.any_text(is_it)),
            _ => false,
        }
    }

    /// Whether a field of this name is true, wherever it stands below.
    pub fn any_flag(&self, name: &str) -> bool {
        match &self.kind {
            Kind::List(items) => items.iter().any(|item| item.any_flag(name)),
            Kind::Map(members) => {
                self.get(name).is_true() || members.iter().any(|(_, node)| node.any_flag(name))
            }
            _ => false,
        }
    }

    /// Every message that says its type, here and below.
    pub fn each_message<'a>(&'a self, see: &mut dyn FnMut(Typed<'a>)) {
        match &self.kind {
            Kind::List(items) => items.iter().for_each(|item| item.each_message(see)),
            Kind::Map(members) => {
                let typed = self.any();
                if !typed.name.is_empty() {
                    see(typed);
                }
                members.iter().for_each(|(_, node)| node.each_message(see));
            }
            _ => {}
        }
    }

    /// The messages of a type, wherever they stand below.
    pub fn any_message(&self, is_it: &dyn Fn(&str) -> bool) -> bool {
        match &self.kind {
            Kind::List(items) => items.iter().any(|item| item.any_message(is_it)),
            Kind::Map(members) => {
                is_it(self.any().name) || members.iter().any(|(_, node)| node.any_message(is_it))
            }
            _ => false,
        }
    }
}

/// A message and what kind it is.
#[derive(Debug, Clone, Copy)]
pub struct Typed<'a> {
    pub name: &'a str,
    pub fields: &'a Node,
}

fn type_name(url: &str) -> &str {
    url.rsplit('/').next().unwrap_or_default()
}

/// `filter_chains` is also written `filterChains`.
fn is_name(key: &str, name: &str) -> bool {
    if key == name {
        return true;
    }
    let mut letters = key.chars();
    let mut upper = false;
    for c in name.chars() {
        if c == '_' {
            upper = true;
            continue;
        }
        let wanted = if upper { c.to_ascii_uppercase() } else { c };
        upper = false;
        if letters.next() != Some(wanted) {
            return false;
        }
    }
    letters.next().is_none()
}

#[cfg(test)]
mod tests {
    use super::super::read;
    use super::*;

    #[test]
    fn fields_have_two_names_and_values_two_forms() {
        let text = r#"
a: { max_requests: 5, maxPending: "6", wrapped: { value: 7 }, on: true, boxed: { value: true }, word: "true" }
d: [0.25s, 3600s, { seconds: 2, nanos: 500000000 }, -1s, 1e999s, 5]
e: [REJECT_REQUEST, 2]
t: { "@type": type.googleapis.com/xds.type.v3.TypedStruct, type_url: type.googleapis.com/a.b.C, value: { x: 1 } }
u: { "@type": type.googleapis.com/udpa.type.v1.TypedStruct, value: { typeUrl: a.b.C, value: { x: 1 } } }
"#;
        let node = read::read(text).unwrap();
        let a = node.get("a");
        assert_eq!(a.get("max_requests").number(), Some(5.0));
        assert_eq!(a.get("max_pending").number(), Some(6.0));
        assert_eq!(a.get("wrapped").number(), Some(7.0));
        assert!(a.get("on").is_true() && a.get("boxed").is_true() && a.get("word").is_true());
        let durations: Vec<_> = node.get("d").items().iter().map(Node::duration).collect();
        let wanted = [Some(250), Some(3_600_000), Some(2500), None, None, None];
        assert_eq!(durations, wanted.map(|ms| ms.map(Duration::from_millis)));
        assert!(node.get("e").items().iter().all(|item| item.is_value("REJECT_REQUEST", 2)));
        assert!(node.get("none").is_value("DEFAULT", 0));
        for name in ["t", "u"] {
            let typed = node.get(name).any();
            assert_eq!((typed.name, typed.fields.get("x").number()), ("a.b.C", Some(1.0)), "{name}");
        }
        assert_eq!(a.line(), Some(2));
    }
}
