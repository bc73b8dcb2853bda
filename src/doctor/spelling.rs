//! Fields that are written twice, in both spellings. Envoy takes one of them, and a reader may take the other.

use std::collections::BTreeMap;

use super::codes::Code;
use super::node::Node;
use super::report::{Place, Report};

pub fn examine(node: &Node, report: &mut Report) {
    let members = node.members();
    let is_camel = |name: &str| name.contains(|letter: char| letter.is_ascii_uppercase());
    if members.iter().any(|(name, _)| is_camel(name)) {
        let mut seen: BTreeMap<String, &str> = BTreeMap::new();
        for (name, value) in members {
            let other = seen.insert(camel(name), name);
            if let Some(other) = other.filter(|other| other != name) {
                let place = Place::default().at(value.line().or(node.line()));
                report.add(Code::AmbiguousField, &place, format!("{other} and {name}"));
            }
        }
    }
    members.iter().map(|(_, node)| node).chain(node.items()).for_each(|node| examine(node, report));
}

fn camel(name: &str) -> String {
    let mut camel = String::with_capacity(name.len());
    let mut is_next = false;
    for letter in name.chars() {
        if letter == '_' {
            is_next = true;
        } else {
            camel.push(if is_next { letter.to_ascii_uppercase() } else { letter });
            is_next = false;
        }
    }
    camel
}
