//! An object's fields, taken one by one: what has the wrong type, and what nobody asked for, is a mistake with its place.

use std::cell::RefCell;

use serde_json::{Map, Value};

use super::{Mistake, Step};

/// Mistakes that are told. Whoever made so many reads no more of them.
const MAX_MISTAKES: usize = 100;

/// All that were found so far.
#[derive(Debug, Default)]
pub struct Mistakes(RefCell<Vec<Mistake>>);

impl Mistakes {
    pub fn add(&self, path: Vec<Step>, message: impl Into<String>) {
        let mut all = self.0.borrow_mut();
        if all.len() < MAX_MISTAKES {
            all.push(Mistake { path, message: message.into() });
        }
    }

    pub fn into_vec(self) -> Vec<Mistake> {
        self.0.into_inner()
    }
}

pub struct Fields<'a> {
    path: Vec<Step>,
    members: &'a Map<String, Value>,
    asked: Vec<&'static str>,
    mistakes: &'a Mistakes,
}

impl<'a> Fields<'a> {
    /// None, with a mistake, if it is no object.
    pub fn of(value: &'a Value, path: Vec<Step>, mistakes: &'a Mistakes) -> Option<Self> {
        let Value::Object(members) = value else {
            mistakes.add(path, format!("must be an object, not {}", kind(value)));
            return None;
        };
        Some(Self { path, members, asked: Vec::new(), mistakes })
    }

    pub fn wrong(&self, name: &str, message: impl Into<String>) {
        self.mistakes.add(self.at(name), message);
    }

    /// Of the whole.
    pub fn wrong_altogether(&self, message: impl Into<String>) {
        self.mistakes.add(self.path.clone(), message);
    }

    pub fn has(&self, name: &str) -> bool {
        self.members.contains_key(name)
    }

    pub fn is_empty_list(&self, name: &str) -> bool {
        self.members.get(name).and_then(Value::as_array).is_some_and(Vec::is_empty)
    }

    pub fn at(&self, name: &str) -> Vec<Step> {
        let mut path = self.path.clone();
        path.push(Step::Name(name.to_owned()));
        path
    }

    fn at_index(&self, name: &str, index: usize) -> Vec<Step> {
        let mut path = self.at(name);
        path.push(Step::Index(index));
        path
    }

    pub fn take(&mut self, name: &'static str) -> Option<&'a Value> {
        self.asked.push(name);
        self.members.get(name)
    }

    fn typed<T>(
        &mut self,
        name: &'static str,
        wanted: &str,
        read: impl FnOnce(&'a Value) -> Option<T>,
    ) -> Option<T> {
        let value = self.take(name)?;
        let found = read(value);
        if found.is_none() {
            self.wrong(name, format!("must be {wanted}, not {}", kind(value)));
        }
        found
    }

    pub fn bool(&mut self, name: &'static str) -> Option<bool> {
        self.typed(name, "true or false", Value::as_bool)
    }

    /// A whole number within the range.
    pub fn number(&mut self, name: &'static str, range: std::ops::RangeInclusive<u64>) -> Option<u64> {
        let wanted = format!("a whole number from {} to {}", range.start(), range.end());
        self.typed(name, &wanted, |value| value.as_u64().filter(|number| range.contains(number)))
    }

    pub fn text(&mut self, name: &'static str) -> Option<&'a str> {
        self.typed(name, "text", Value::as_str)
    }

    pub fn object(&mut self, name: &'static str) -> Option<&'a Map<String, Value>> {
        self.typed(name, "an object", Value::as_object)
    }

    /// Text of a certain form.
    pub fn parsed<T>(
        &mut self,
        name: &'static str,
        parse: impl FnOnce(&str) -> Result<T, String>,
    ) -> Option<T> {
        match parse(self.text(name)?) {
            Ok(value) => Some(value),
            Err(message) => {
                self.wrong(name, message);
                None
            }
        }
    }

    /// A list of at most `max` texts of a certain form; those that have another one are left out.
    pub fn list<T>(
        &mut self,
        name: &'static str,
        max: usize,
        mut parse: impl FnMut(&str) -> Result<T, String>,
    ) -> Option<Vec<T>> {
        let items = self.typed(name, "a list", Value::as_array)?;
        if items.len() > max {
            self.wrong(name, format!("has {} entries; at most {max} are allowed", items.len()));
            return None;
        }
        let mut list = Vec::new();
        for (index, item) in items.iter().enumerate() {
            let parsed = match item.as_str() {
                Some(text) => parse(text),
                None => Err(format!("must be text, not {}", kind(item))),
            };
            match parsed {
                Ok(value) => list.push(value),
                Err(message) => self.mistakes.add(self.at_index(name, index), message),
            }
        }
        Some(list)
    }

    pub fn section(&mut self, name: &'static str) -> Option<Fields<'a>> {
        let value = self.take(name)?;
        Fields::of(value, self.at(name), self.mistakes)
    }

    /// The objects of a list of at most `max`.
    pub fn sections(&mut self, name: &'static str, max: usize) -> Vec<Fields<'a>> {
        let Some(items) = self.typed(name, "a list", Value::as_array) else { return Vec::new() };
        if items.len() > max {
            self.wrong(name, format!("has {} entries; at most {max} are allowed", items.len()));
            return Vec::new();
        }
        let section = |(index, item)| Fields::of(item, self.at_index(name, index), self.mistakes);
        items.iter().enumerate().filter_map(section).collect()
    }

    /// Every member, for objects whose names are free.
    pub fn members(&self) -> impl Iterator<Item = (&'a String, &'a Value)> + use<'a> {
        self.members.iter()
    }

    /// What nobody asked for is a mistake: it was meant to say something.
    pub fn finish(self) {
        for name in self.members.keys() {
            if !self.asked.contains(&name.as_str()) {
                self.wrong(name, format!("unknown field; there are {}", self.asked.join(", ")));
            }
        }
    }
}

fn kind(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "a boolean",
        Value::Number(_) => "this number",
        Value::String(_) => "text",
        Value::Array(_) => "a list",
        Value::Object(_) => "an object",
    }
}
