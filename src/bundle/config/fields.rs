//! Reads JSON objects member by member and gathers mistakes instead of stopping at the first. Never repeats a value:
//! some are secrets.

use std::cell::RefCell;

use serde_json::{Map, Value as Json};

use super::Problem;

pub type Problems = RefCell<Vec<Problem>>;

/// An object, and which of its members were asked for.
pub struct Fields<'a> {
    pub path: String,
    members: &'a Map<String, Json>,
    known: Vec<&'static str>,
    problems: &'a Problems,
}

impl<'a> Fields<'a> {
    pub fn of(path: String, value: &'a Json, problems: &'a Problems) -> Option<Self> {
        if let Json::Object(members) = value {
            return Some(Self { path, members, known: Vec::new(), problems });
        }
        let problem = Problem { place: path, message: "must be a mapping of names to values".to_owned() };
        problems.borrow_mut().push(problem);
        None
    }

    /// About the member `key`, or about the whole where it is empty.
    pub fn complain(&self, key: &str, message: impl Into<String>) {
        let place = if key.is_empty() { self.path.clone() } else { format!("{}.{key}", self.path) };
        self.problems.borrow_mut().push(Problem { place, message: message.into() });
    }

    /// Null is the same as nothing, as in OPA.
    pub fn value(&mut self, key: &'static str) -> Option<&'a Json> {
        self.known.push(key);
        self.members.get(key).filter(|value| !value.is_null())
    }

    fn get<T>(
        &mut self,
        key: &'static str,
        kind: &str,
        read: impl FnOnce(&'a Json) -> Option<T>,
    ) -> Option<T> {
        let value = self.value(key)?;
        let found = read(value);
        if found.is_none() {
            self.complain(key, format!("must be {kind}"));
        }
        found
    }

    /// Empty is the same as nothing, as in OPA.
    pub fn text(&mut self, key: &'static str) -> Option<String> {
        self.get(key, "text", |value| value.as_str().map(str::to_owned)).filter(|text| !text.is_empty())
    }

    pub fn flag(&mut self, key: &'static str) -> bool {
        self.get(key, "true or false", Json::as_bool).unwrap_or(false)
    }

    pub fn whole(&mut self, key: &'static str) -> Option<u64> {
        self.get(key, "a whole number, 0 or more", Json::as_u64)
    }

    pub fn texts(&mut self, key: &'static str) -> Vec<String> {
        let all = |value: &Json| {
            value.as_array()?.iter().map(|item| item.as_str().map(str::to_owned)).collect::<Option<Vec<_>>>()
        };
        self.get(key, "a list of text", all).unwrap_or_default()
    }

    pub fn object(&mut self, key: &'static str) -> Option<Self> {
        let value = self.value(key)?;
        Self::of(format!("{}.{key}", self.path), value, self.problems)
    }

    /// Something of OPA's that is not supported here.
    pub fn refuse(&mut self, key: &'static str, why: &str) {
        if self.value(key).is_some() {
            self.complain(key, why);
        }
    }

    /// Complains of every member that nobody asked for.
    pub fn finish(self) {
        for name in self.members.keys() {
            if !self.known.contains(&name.as_str()) {
                let mut known = self.known.clone();
                known.sort_unstable();
                known.dedup();
                self.complain(name, format!("is not known; known here: {}", known.join(", ")));
            }
        }
    }
}

/// The members of a mapping whose names are the user's.
pub fn named<'a>(path: &str, value: &'a Json, problems: &'a Problems) -> Vec<(&'a str, Fields<'a>)> {
    let Some(fields) = Fields::of(path.to_owned(), value, problems) else { return Vec::new() };
    let member = |(name, value): (&'a String, &'a Json)| {
        Fields::of(format!("{path}.{name}"), value, problems).map(|fields| (name.as_str(), fields))
    };
    fields.members.iter().filter_map(member).collect()
}
