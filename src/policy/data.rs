//! The base document: what a policy reads below `data`, in the engine's own values from the first byte on, which nobody
//! outside gets to see. Two of its parts must never overwrite each other.

use regorus::value::Object;
use regorus::{Rc, Value};
use thiserror::Error;

use super::builtins::yaml;
use super::document::{BadJson, Document};
use super::json::{self, JsonError};

/// Values of all data files that come together. One takes about 50 bytes on top of its text, and 50 MB of common JSON
/// have half as many.
pub const MAX_VALUES: usize = 8 << 20;

/// What is wrong with a data file. Line and column count from 1.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("line {line}, column {column}: {message}")]
pub struct BadData {
    pub line: u32,
    pub column: u32,
    pub message: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum Misplaced {
    #[error("data at the root must be an object")]
    NotAnObject,
    /// With the place.
    #[error("{0} is set by another file already")]
    Taken(String),
}

#[derive(Debug, Clone, Default, PartialEq)]
pub struct Data(Rc<Object>);

impl Data {
    /// # Errors
    /// The text is not a JSON object.
    pub fn from_json(text: &str) -> Result<Self, BadJson> {
        let document = Document::from_json(text)?;
        Self::from_document(document).ok_or_else(|| BadJson("not an object".to_owned()))
    }

    /// None if it is no object.
    #[must_use]
    pub fn from_document(document: Document) -> Option<Self> {
        if let Value::Object(members) = document.0 { Some(Self(members)) } else { None }
    }

    #[must_use]
    pub fn into_document(self) -> Document {
        Document(Value::Object(self.0))
    }

    pub(in crate::policy) fn value(&self) -> Value {
        Value::Object(Rc::clone(&self.0))
    }

    /// Puts `document` below these names, beside what is there.
    ///
    /// # Errors
    /// Something else is there.
    pub fn insert<S: AsRef<str>>(&mut self, directory: &[S], document: Document) -> Result<(), Misplaced> {
        let rooted = directory.iter().rev().fold(document.0, |inner, name| {
            Object::from_iter([(Value::from(name.as_ref()), inner)]).into_value()
        });
        let Value::Object(members) = rooted else { return Err(Misplaced::NotAnObject) };
        self.merge(Self(members)).map_err(Misplaced::Taken)
    }

    /// Adds all of another one.
    ///
    /// # Errors
    /// The place that both set.
    pub fn merge(&mut self, other: Self) -> Result<(), String> {
        merge(&mut self.0, other.0, &mut vec!["data".to_owned()])
    }

    /// Puts `document` below these names in the place of what is there. What is no object stays what it is.
    pub fn set<S: AsRef<str>>(&mut self, path: &[S], document: Document) {
        set(Rc::make_mut(&mut self.0), path, document.0, true);
    }

    /// The same, unless something is there.
    pub fn set_default<S: AsRef<str>>(&mut self, path: &[S], document: Document) {
        set(Rc::make_mut(&mut self.0), path, document.0, false);
    }

    #[must_use]
    pub fn get(&self, name: &str) -> Option<Document> {
        self.0.get(&Value::from(name)).cloned().map(Document)
    }

    #[must_use]
    pub fn root(&self) -> Branch<'_> {
        Branch(&self.0)
    }

    /// As text, for people and tests.
    ///
    /// # Errors
    /// Never, for what was made of JSON or YAML.
    pub fn to_json(&self) -> Result<String, BadJson> {
        Document(self.value()).to_json()
    }
}

/// An object within, to look around in.
#[derive(Debug, Clone, Copy)]
pub struct Branch<'a>(&'a Object);

impl<'a> Branch<'a> {
    /// Names, and what is below them where that is an object.
    pub fn members(self) -> impl Iterator<Item = (&'a str, Option<Self>)> {
        self.0.iter_sorted().map(|(name, value)| {
            let name = if let Value::String(name) = name { name.as_ref() } else { "" };
            (name, if let Value::Object(members) = value { Some(Self(members)) } else { None })
        })
    }
}

/// Depth is bounded by what was read.
fn merge(into: &mut Rc<Object>, from: Rc<Object>, place: &mut Vec<String>) -> Result<(), String> {
    if into.is_empty() {
        *into = from;
        return Ok(());
    }
    let into = Rc::make_mut(into);
    for (name, value) in Rc::unwrap_or_clone(from) {
        place.push(name.as_string().map_or_else(|_| name.to_string(), ToString::to_string));
        match (into.get_mut(&name), value) {
            (None, value) => {
                into.insert(name, value);
            }
            (Some(Value::Object(existing)), Value::Object(members)) => merge(existing, members, place)?,
            (Some(_), _) => return Err(place.join(".")),
        }
        place.pop();
    }
    Ok(())
}

fn set<S: AsRef<str>>(into: &mut Object, path: &[S], value: Value, overwrites: bool) {
    let Some((name, rest)) = path.split_first() else { return };
    let name = Value::from(name.as_ref());
    if rest.is_empty() {
        if overwrites || !into.contains_key(&name) {
            into.insert(name, value);
        }
        return;
    }
    if !into.contains_key(&name) {
        into.insert(name.clone(), Value::new_object());
    }
    if let Some(Value::Object(members)) = into.get_mut(&name) {
        set(Rc::make_mut(members), rest, value, overwrites);
    }
}

/// Values in a text, if it is JSON, and a little more than that. Takes no memory.
#[must_use]
pub fn count_json_values(text: &[u8]) -> usize {
    json::count(text)
}

/// A data file of JSON.
///
/// # Errors
/// It is something else, nests too deep, or has a number out of range.
pub fn read_json(bytes: &[u8]) -> Result<Document, BadData> {
    let text = text(bytes)?;
    json::parse_data(text).map(Document).map_err(|(error, at)| {
        let at = match error {
            JsonError::Unexpected(at) | JsonError::Trailing(at) | JsonError::Number(at) => at,
            JsonError::End => text.len(),
            JsonError::TooDeep => at,
        };
        let (line, column) = position(text.as_bytes(), at);
        BadData { line, column, message: error.to_string() }
    })
}

/// A data file of YAML, and how many values it has.
///
/// # Errors
/// It is something else, has no form in JSON, or has too many values.
pub fn read_yaml(bytes: &[u8], max_values: usize) -> Result<(Document, usize), BadData> {
    let found = yaml::read::read_within(text(bytes)?, max_values);
    found.map(|(value, count)| (Document(value), count)).map_err(|wrong| BadData {
        line: u32::try_from(wrong.line).unwrap_or(0),
        column: u32::try_from(wrong.column).unwrap_or(0),
        message: wrong.message,
    })
}

fn text(bytes: &[u8]) -> Result<&str, BadData> {
    let bytes = bytes.strip_prefix(b"\xef\xbb\xbf").unwrap_or(bytes);
    std::str::from_utf8(bytes).map_err(|error| {
        let (line, column) = position(bytes, error.valid_up_to());
        BadData { line, column, message: "not UTF-8".to_owned() }
    })
}

fn position(text: &[u8], at: usize) -> (u32, u32) {
    let before = text.get(..at).unwrap_or(text);
    let lines = || before.split(|byte| *byte == b'\n');
    let (line, column) = (lines().count(), lines().next_back().map_or(0, <[u8]>::len) + 1);
    (u32::try_from(line).unwrap_or(0), u32::try_from(column).unwrap_or(0))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn document(text: &str) -> Document {
        read_json(text.as_bytes()).unwrap()
    }

    #[test]
    fn files_meet_in_one_tree_and_do_not_overwrite_each_other() {
        let mut data = Data::default();
        data.insert::<&str>(&[], document(r#"{"a": {"x": 1}}"#)).unwrap();
        data.insert(&["a", "b"], document("[1]")).unwrap();
        data.insert(&["c"], document("\"text\"")).unwrap();
        assert_eq!(Ok(data.clone()), Data::from_json(r#"{"a": {"x": 1, "b": [1]}, "c": "text"}"#));
        let before = data.clone();
        let mut refusal =
            |directory: &[&str], text: &str| data.insert(directory, document(text)).unwrap_err().to_string();
        assert_eq!(refusal(&["a"], r#"{"x": 1}"#), "data.a.x is set by another file already");
        assert_eq!(refusal(&["c"], "{}"), "data.c is set by another file already");
        assert_eq!(refusal(&[], "[]"), "data at the root must be an object");
        assert_eq!(data.merge(before), Err("data.a.b".to_owned()));
    }

    #[test]
    fn what_is_set_and_what_is_there_already() {
        let mut data = Data::from_json(r#"{"a": {"x": 1}, "n": 1}"#).unwrap();
        data.set(&["a", "x"], Document::integer(2));
        data.set_default(&["a", "x"], Document::integer(3));
        data.set_default(&["a", "y", "z"], Document::integer(3));
        data.set(&["n", "x"], Document::integer(3));
        assert_eq!(Ok(data), Data::from_json(r#"{"a": {"x": 2, "y": {"z": 3}}, "n": 1}"#));
    }

    #[test]
    fn files_say_where_they_are_wrong() {
        let wrong = |bytes: &[u8]| read_json(bytes).unwrap_err();
        assert_eq!((wrong(b"{\n  x}").line, wrong(b"{\n  x}").column), (2, 3));
        assert_eq!((wrong(b"{\n").line, wrong(b"{\n").column), (2, 1));
        assert_eq!(wrong(b"[1,\n\xff]").to_string(), "line 2, column 1: not UTF-8");
        assert_eq!(wrong("[".repeat(100_000).as_bytes()).line, 1);
        assert_eq!(read_json(b"\xef\xbb\xbf7"), Ok(Document::integer(7)));
        assert_eq!(read_yaml(b"a: 1\nb: [}\n", 10).unwrap_err().line, 2);
        assert_eq!(read_yaml(b"[1, 2, 3]", 4).unwrap().1, 4);
        let message = read_yaml(b"[1, 2, 3]", 3).unwrap_err().message;
        assert_eq!(message, "more than 3 values");
    }

    #[test]
    fn what_aliases_repeat_is_paid_for() {
        let text = "A".repeat(1 << 20);
        let file = format!("a: &x \"{text}\"\nb:\n{}", "- *x\n".repeat(20_000));
        let error = read_yaml(file.as_bytes(), MAX_VALUES).unwrap_err();
        assert!(error.message.contains("excessive aliasing"), "{error}");
        let nested = "&a [ ".repeat(100);
        let file = format!("{nested}\"{text}\"{}", "]".repeat(100));
        assert!(read_yaml(file.as_bytes(), MAX_VALUES).is_ok(), "anchors share what they name");
    }
}
