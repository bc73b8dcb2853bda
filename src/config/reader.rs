//! Reads a YAML mapping key by key, remembers where each was, and gathers mistakes instead of stopping at the first.

use std::cell::RefCell;
use std::collections::HashSet;

use saphyr::{MarkedYaml, Scalar, YamlData};
use serde_json::Value as Json;

use super::Problem;

type Node<'a> = MarkedYaml<'a>;

/// What all sections of one file share.
pub struct Source<'e> {
    pub file: String,
    pub env: &'e dyn Fn(&str) -> Option<String>,
    pub problems: RefCell<Vec<Problem>>,
}

impl Source<'_> {
    fn problem(&self, node: &Node<'_>, message: String) {
        let place = format!("{}:{}", self.file, node.span.start.line());
        self.problems.borrow_mut().push(Problem { place, message });
    }

    /// `${NAME}` becomes the variable's value.
    fn interpolated(&self, text: &str) -> Result<String, String> {
        let mut result = String::new();
        let mut rest = text;
        while let Some((before, after)) = rest.split_once("${") {
            let (name, behind) = after.split_once('}').ok_or("`${` has no `}`")?;
            result.push_str(before);
            result.push_str(&(self.env)(name).ok_or_else(|| format!("the environment has no {name}"))?);
            rest = behind;
        }
        result.push_str(rest);
        Ok(result)
    }
}

/// A mapping, and which of its keys were asked for.
pub struct Section<'a, 's> {
    source: &'s Source<'s>,
    path: String,
    node: &'a Node<'a>,
    known: HashSet<&'static str>,
}

impl<'a, 's> Section<'a, 's> {
    pub fn root(source: &'s Source<'s>, node: &'a Node<'a>) -> Option<Self> {
        Self::of(source, String::new(), node)
    }

    fn of(source: &'s Source<'s>, path: String, node: &'a Node<'a>) -> Option<Self> {
        if matches!(node.data, YamlData::Mapping(_)) {
            return Some(Self { source, path, node, known: HashSet::new() });
        }
        let name = if path.is_empty() { "the file" } else { path.as_str() };
        source.problem(node, format!("{name} must be a mapping of names to values"));
        None
    }

    fn name_of(&self, key: &str) -> String {
        if self.path.is_empty() { key.to_owned() } else { format!("{}.{key}", self.path) }
    }

    fn node(&mut self, key: &'static str) -> Option<&'a Node<'a>> {
        self.known.insert(key);
        let YamlData::Mapping(members) = &self.node.data else { return None };
        members.iter().find(|(name, _)| text_of(name).as_deref() == Some(key)).map(|(_, value)| value)
    }

    /// A scalar, parsed.
    pub fn get<T>(&mut self, key: &'static str, parse: impl Fn(&str) -> Result<T, String>) -> Option<T> {
        let node = self.node(key)?;
        self.parse(&self.name_of(key), node, parse)
    }

    /// A scalar, or a list of them.
    pub fn list<T>(
        &mut self,
        key: &'static str,
        parse: impl Fn(&str) -> Result<T, String>,
    ) -> Option<Vec<T>> {
        let node = self.node(key)?;
        let name = self.name_of(key);
        let parsed = match &node.data {
            YamlData::Sequence(items) => {
                items.iter().filter_map(|item| self.parse(&name, item, &parse)).collect()
            }
            _ => self.parse(&name, node, parse).into_iter().collect(),
        };
        Some(parsed)
    }

    fn parse<T>(&self, name: &str, node: &Node<'_>, parse: impl Fn(&str) -> Result<T, String>) -> Option<T> {
        let parsed = text_of(node)
            .ok_or_else(|| "must be a single value".to_owned())
            .and_then(|text| self.source.interpolated(&text))
            .and_then(|text| parse(&text));
        parsed.map_err(|message| self.source.problem(node, format!("{name}: {message}"))).ok()
    }

    /// Whatever is there, as JSON.
    pub fn json(&mut self, key: &'static str) -> Option<Json> {
        let node = self.node(key)?;
        self.json_of(&self.name_of(key), node)
    }

    fn json_of(&self, name: &str, node: &Node<'_>) -> Option<Json> {
        match &node.data {
            YamlData::Value(Scalar::Null) => Some(Json::Null),
            YamlData::Value(Scalar::Boolean(value)) => Some(Json::Bool(*value)),
            YamlData::Value(Scalar::Integer(value)) => Some(Json::from(*value)),
            YamlData::Value(Scalar::FloatingPoint(value)) => Some(Json::from(value.into_inner())),
            YamlData::Value(Scalar::String(_)) => {
                self.parse(name, node, |text| Ok(text.to_owned())).map(Json::String)
            }
            YamlData::Sequence(items) => items.iter().map(|item| self.json_of(name, item)).collect(),
            YamlData::Mapping(members) => members
                .iter()
                .map(|(key, value)| {
                    let key = text_of(key)?;
                    let name = format!("{name}.{key}");
                    Some((key, self.json_of(&name, value)?))
                })
                .collect::<Option<serde_json::Map<_, _>>>()
                .map(Json::Object),
            _ => {
                self.source.problem(node, format!("{name}: this kind of YAML is not understood here"));
                None
            }
        }
    }

    /// Reads a mapping inside this one.
    pub fn section<T>(
        &mut self,
        key: &'static str,
        read: impl FnOnce(&mut Section<'a, 's>) -> T,
    ) -> Option<T> {
        let node = self.node(key)?;
        let mut section = Section::of(self.source, self.name_of(key), node)?;
        let result = read(&mut section);
        section.finish();
        Some(result)
    }

    /// Reads a list of mappings.
    pub fn sections<T>(
        &mut self,
        key: &'static str,
        read: impl Fn(&mut Section<'a, 's>) -> Option<T>,
    ) -> Option<Vec<T>> {
        let node = self.node(key)?;
        let name = self.name_of(key);
        let YamlData::Sequence(items) = &node.data else {
            self.source.problem(node, format!("{name} must be a list"));
            return None;
        };
        let mut results = Vec::new();
        for (index, item) in items.iter().enumerate() {
            if let Some(mut section) = Section::of(self.source, format!("{name}[{index}]"), item) {
                results.extend(read(&mut section));
                section.finish();
            }
        }
        Some(results)
    }

    pub fn complain(&self, message: &str) {
        self.source.problem(self.node, format!("{}: {message}", self.path));
    }

    /// Complains of every key that nobody asked for.
    pub fn finish(self) {
        let YamlData::Mapping(members) = &self.node.data else { return };
        for (name, _) in members {
            let text = text_of(name).unwrap_or_default();
            if !self.known.contains(text.as_str()) {
                let mut known: Vec<_> = self.known.iter().copied().collect();
                known.sort_unstable();
                let message =
                    format!("unknown key `{}`; known here: {}", self.name_of(&text), known.join(", "));
                self.source.problem(name, message);
            }
        }
    }
}

fn text_of(node: &Node<'_>) -> Option<String> {
    match &node.data {
        YamlData::Value(Scalar::String(text)) => Some(text.to_string()),
        YamlData::Value(Scalar::Integer(value)) => Some(value.to_string()),
        YamlData::Value(Scalar::Boolean(value)) => Some(value.to_string()),
        YamlData::Value(Scalar::FloatingPoint(value)) => Some(value.to_string()),
        _ => None,
    }
}
