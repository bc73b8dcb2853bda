//! Whether a schema is one, in gojsonschema's words, and what its references and patterns stand for.

use std::collections::{HashMap, HashSet};

use regex::Regex;
use regorus::Value;
use regorus::value::Object;

use super::super::regex::sized;
use super::number::decimal;
use super::validate::items;

/// Levels of a schema, through references too.
const MAX_DEPTH: usize = 128;
/// Patterns of one schema.
const MAX_PATTERNS: usize = 128;

const TYPES: [&str; 7] = ["array", "boolean", "integer", "number", "null", "object", "string"];

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Draft {
    Four,
    Six,
    Seven,
    /// Without `$schema`: what any of them has.
    Hybrid,
}

type Checked = Result<(), String>;

/// A checked schema.
pub struct Schemas {
    pub root: Value,
    pub draft: Draft,
    /// That the patterns may take.
    pub pattern_bytes: usize,
    patterns: HashMap<String, Regex>,
    ids: HashMap<String, Value>,
    base: String,
    /// What references lead to; those that are checked, or on the way.
    targets: HashMap<String, Value>,
    depth: usize,
}

pub fn get<'a>(schema: &'a Object, key: &str) -> Option<&'a Value> {
    schema.get(&Value::from(key))
}

fn invalid_type(expected: &str, given: &str) -> String {
    format!("Invalid type. Expected: {expected}, given: {given}")
}

fn is_schema(value: &Value) -> bool {
    matches!(value, Value::Object(_) | Value::Bool(_))
}

impl Schemas {
    /// # Errors
    /// What is wrong with the schema first.
    pub fn of(root: &Value) -> Result<Self, String> {
        let mut draft = Draft::Hybrid;
        let mut base = String::new();
        match root {
            Value::Bool(_) => {}
            Value::Object(members) => {
                draft = match get(members, "$schema") {
                    None => Draft::Hybrid,
                    Some(Value::String(url)) => match url.trim_end_matches('#') {
                        "http://json-schema.org/draft-04/schema" => Draft::Four,
                        "http://json-schema.org/draft-06/schema" => Draft::Six,
                        "http://json-schema.org/draft-07/schema" => Draft::Seven,
                        _ => Draft::Hybrid,
                    },
                    Some(_) => return Err("$schema must be of type string".to_owned()),
                };
                if let Some(Value::String(id)) = get(members, "$id").or_else(|| get(members, "id")) {
                    id.trim_end_matches('#').clone_into(&mut base);
                }
            }
            _ => return Err("schema is invalid".to_owned()),
        }
        let mut schemas = Self {
            root: root.clone(),
            draft,
            pattern_bytes: 0,
            patterns: HashMap::new(),
            ids: HashMap::new(),
            base,
            targets: HashMap::new(),
            depth: 0,
        };
        schemas.collect_ids(root, 0)?;
        schemas.schema(root)?;
        Ok(schemas)
    }

    fn collect_ids(&mut self, value: &Value, depth: usize) -> Checked {
        if depth > MAX_DEPTH {
            return Err(format!("the schema is nested deeper than {MAX_DEPTH} levels"));
        }
        match value {
            Value::Object(members) => {
                if let Some(Value::String(id)) = get(members, "$id").or_else(|| get(members, "id")) {
                    let id = id.trim_end_matches('#');
                    self.ids.entry(self.absolute(id)).or_insert_with(|| value.clone());
                    self.ids.entry(id.to_owned()).or_insert_with(|| value.clone());
                }
                members.iter().try_for_each(|(_, member)| self.collect_ids(member, depth + 1))
            }
            Value::Array(items) => items.iter().try_for_each(|item| self.collect_ids(item, depth + 1)),
            _ => Ok(()),
        }
    }

    /// Beside the document's own address.
    fn absolute(&self, id: &str) -> String {
        let beside = self.base.rfind('/').and_then(|at| self.base.get(..=at)).unwrap_or_default();
        if id.starts_with('#') { format!("{}{id}", self.base) } else { format!("{beside}{id}") }
    }

    /// What a reference of this schema leads to.
    pub fn target(&self, reference: &str) -> Option<&Value> {
        self.targets.get(reference)
    }

    /// An error if it leads out of the document, or to nothing.
    fn resolve(&self, reference: &str) -> Result<&Value, String> {
        let (address, fragment) = reference.split_once('#').unwrap_or((reference, ""));
        let found =
            [reference.trim_end_matches('#').to_owned(), self.absolute(reference.trim_end_matches('#'))]
                .iter()
                .find_map(|id| self.ids.get(id));
        if let Some(found) = found.filter(|_| !fragment.starts_with('/')) {
            return Ok(found);
        }
        let start = if address.is_empty() || address == self.base {
            Some(&self.root)
        } else {
            self.ids.get(address).or_else(|| self.ids.get(&self.absolute(address)))
        };
        let start = start.ok_or_else(|| format!("remote reference loading disabled: {reference}"))?;
        pointer(start, fragment)
    }

    pub fn pattern(&self, pattern: &str) -> Option<&Regex> {
        self.patterns.get(pattern)
    }

    fn add_pattern(&mut self, pattern: &str) -> bool {
        if self.patterns.contains_key(pattern) {
            return true;
        }
        if self.patterns.len() >= MAX_PATTERNS {
            return false;
        }
        let Ok((compiled, bytes)) = sized(pattern) else { return false };
        self.patterns.insert(pattern.to_owned(), compiled);
        self.pattern_bytes += bytes;
        true
    }

    fn schema(&mut self, value: &Value) -> Checked {
        self.depth += 1;
        if self.depth > MAX_DEPTH {
            return Err(format!("the schema is nested deeper than {MAX_DEPTH} levels"));
        }
        match value {
            Value::Bool(_) if self.draft >= Draft::Six => {}
            Value::Object(members) => self.members(members)?,
            _ => return Err("Expected: valid schema, given: Invalid JSON".to_owned()),
        }
        self.depth -= 1;
        Ok(())
    }

    fn members(&mut self, schema: &Object) -> Checked {
        let id = match self.draft {
            Draft::Four => "id",
            Draft::Hybrid if get(schema, "id").is_some() => "id",
            _ => "$id",
        };
        let not_text = |key: &str| get(schema, key).is_some_and(|value| !matches!(value, Value::String(_)));
        if not_text(id) {
            return Err(invalid_type("string", id));
        }
        if let Some(definitions) = get(schema, "definitions") {
            let error = || invalid_type("array of schemas", "definitions");
            let definitions = definitions.as_object().map_err(|_| error())?;
            for (_, definition) in definitions.iter_sorted() {
                if !is_schema(definition) {
                    return Err(error());
                }
                self.schema(definition)?;
            }
        }
        for key in ["title", "description", "$ref"] {
            if not_text(key) {
                return Err(invalid_type("string", key));
            }
        }
        if let Some(Value::String(reference)) = get(schema, "$ref") {
            if !self.targets.contains_key(&**reference) {
                let target = self.resolve(reference)?.clone();
                self.targets.insert(reference.to_string(), target.clone());
                if !is_schema(&target) {
                    return Err("valid schema must be of type object".to_owned());
                }
                self.schema(&target)?;
            }
            // A reference stands for itself alone.
            return Ok(());
        }
        if let Some(value) = get(schema, "type") {
            types(value)?;
        }
        self.of_objects(schema)?;
        self.of_arrays(schema)?;
        numbers(schema, self.draft)?;
        self.texts_and_counts(schema)?;
        self.choices(schema)
    }

    fn of_objects(&mut self, schema: &Object) -> Checked {
        if let Some(properties) = get(schema, "properties") {
            let properties =
                properties.as_object().map_err(|_| "properties must be of type object".to_owned())?;
            properties.iter_sorted().try_for_each(|(_, property)| self.schema(property))?;
        }
        self.boolean_or_schema(schema, "additionalProperties")?;
        if let Some(patterns) = get(schema, "patternProperties") {
            let patterns =
                patterns.as_object().map_err(|_| invalid_type("valid schema", "patternProperties"))?;
            for (pattern, property) in patterns.iter_sorted() {
                let pattern = pattern.as_string().map_err(|error| error.to_string())?;
                if !self.add_pattern(pattern) {
                    return Err(format!("Invalid regex pattern '{pattern}'"));
                }
                self.schema(property)?;
            }
        }
        if let Some(names) = get(schema, "propertyNames").filter(|_| self.draft >= Draft::Six) {
            if !is_schema(names) {
                return Err(invalid_type("valid schema", "patternProperties"));
            }
            self.schema(names)?;
        }
        let Some(dependencies) = get(schema, "dependencies") else { return Ok(()) };
        let dependencies =
            dependencies.as_object().map_err(|_| "dependencies must be of type object".to_owned())?;
        for (_, dependency) in dependencies.iter_sorted() {
            match (dependency, items(dependency)) {
                (Value::Object(_) | Value::Bool(_), _) => self.schema(dependency)?,
                (_, Some(names)) if names.iter().all(|name| matches!(name, Value::String(_))) => {}
                _ => return Err("dependency must be of type schema or array of strings".to_owned()),
            }
        }
        Ok(())
    }

    fn boolean_or_schema(&mut self, schema: &Object, key: &str) -> Checked {
        match get(schema, key) {
            None | Some(Value::Bool(_)) => Ok(()),
            Some(value @ Value::Object(_)) => self.schema(value),
            Some(_) => Err(invalid_type("boolean/valid schema", key)),
        }
    }

    fn of_arrays(&mut self, schema: &Object) -> Checked {
        let error = || invalid_type("valid schema/array of schemas", "items");
        match get(schema, "items") {
            None => {}
            Some(value @ (Value::Object(_) | Value::Bool(_))) => self.schema(value)?,
            Some(list) => {
                for item in items(list).ok_or_else(error)? {
                    if !is_schema(item) {
                        return Err(error());
                    }
                    self.schema(item)?;
                }
            }
        }
        self.boolean_or_schema(schema, "additionalItems")
    }

    fn texts_and_counts(&mut self, schema: &Object) -> Checked {
        if let (Some(least), Some(most)) = (count(schema, "minLength")?, count(schema, "maxLength")?)
            && least > most
        {
            return Err("minLength cannot be greater than maxLength".to_owned());
        }
        match get(schema, "pattern") {
            None => {}
            Some(Value::String(pattern)) if self.add_pattern(pattern) => {}
            Some(Value::String(_)) => return Err("pattern must be a valid regex".to_owned()),
            Some(_) => return Err("pattern must be of a string".to_owned()),
        }
        if get(schema, "format").is_some_and(|format| !matches!(format, Value::String(_))) {
            return Err("format must be of type string".to_owned());
        }
        if let (Some(least), Some(most)) = (count(schema, "minProperties")?, count(schema, "maxProperties")?)
            && least > most
        {
            return Err("minProperties cannot be greater than maxProperties".to_owned());
        }
        if let Some(required) = get(schema, "required") {
            let mut seen = HashSet::new();
            for name in items(required).ok_or("required must be of an array")? {
                let Value::String(name) = name else {
                    return Err("required items must be string".to_owned());
                };
                if !seen.insert(name) {
                    return Err("required items must be unique".to_owned());
                }
            }
        }
        count(schema, "minItems")?;
        count(schema, "maxItems")?;
        if get(schema, "uniqueItems").is_some_and(|unique| !matches!(unique, Value::Bool(_))) {
            return Err("uniqueItems must be of a boolean".to_owned());
        }
        Ok(())
    }

    fn choices(&mut self, schema: &Object) -> Checked {
        if let Some(contains) = get(schema, "contains").filter(|_| self.draft >= Draft::Six) {
            self.schema(contains)?;
        }
        if let Some(values) = get(schema, "enum") {
            let values = items(values).ok_or("enum must be of an array")?;
            let mut seen = std::collections::BTreeSet::new();
            if !values.into_iter().all(|value| seen.insert(value)) {
                return Err("enum items must be unique".to_owned());
            }
        }
        // The last name is OPA's, for that keyword too.
        for (key, shown) in [("oneOf", "oneOf"), ("anyOf", "anyOf"), ("allOf", "anyOf")] {
            let Some(list) = get(schema, key) else { continue };
            let list = items(list).ok_or_else(|| format!("{shown} must be of an array"))?;
            list.into_iter().try_for_each(|item| self.schema(item))?;
        }
        let conditions: &[&str] =
            if self.draft >= Draft::Seven { &["not", "if", "then", "else"] } else { &["not"] };
        for key in conditions {
            match get(schema, key) {
                None => {}
                Some(value) if is_schema(value) => self.schema(value)?,
                Some(_) => return Err(format!("{key} must be of an object")),
            }
        }
        Ok(())
    }
}

fn types(value: &Value) -> Checked {
    let mut seen = HashSet::new();
    let list = match value {
        Value::String(_) => vec![value],
        other => items(other).ok_or_else(|| invalid_type("string/array of strings", "type"))?,
    };
    for name in list {
        let Value::String(name) = name else { return Err(invalid_type("string/array of strings", "type")) };
        if !TYPES.contains(&&**name) {
            return Err(format!(
                "has a primitive type that is NOT VALID -- given: /{name}/ Expected valid values are:[array boolean \
                 integer number null object string]"
            ));
        }
        if !seen.insert(name) {
            return Err(format!("{name} type is duplicated"));
        }
    }
    Ok(())
}

fn numbers(schema: &Object, draft: Draft) -> Checked {
    let is_number = |value: &Value| matches!(value, Value::Number(_));
    if let Some(multiple) = get(schema, "multipleOf") {
        if !is_number(multiple) {
            return Err(invalid_type("number", "multipleOf"));
        }
        if *multiple <= Value::from(0u64) {
            return Err("multipleOf must be strictly greater than 0".to_owned());
        }
        if decimal(multiple).is_none() {
            return Err("multipleOf is out of range".to_owned());
        }
    }
    for (bound, exclusive) in [("minimum", "exclusiveMinimum"), ("maximum", "exclusiveMaximum")] {
        if get(schema, bound).is_some_and(|value| !is_number(value)) {
            return Err(format!("{bound} must be of a number"));
        }
        let (takes_flag, takes_number, expected) = match draft {
            Draft::Four => (true, false, "boolean"),
            Draft::Hybrid => (true, true, "boolean/number"),
            Draft::Six | Draft::Seven => (false, true, "number"),
        };
        match get(schema, exclusive) {
            None => {}
            Some(Value::Number(_)) if takes_number => {}
            Some(Value::Bool(_)) if takes_flag && get(schema, bound).is_some() => {}
            Some(Value::Bool(_)) if takes_flag => {
                return Err(format!("{exclusive} cannot be used without {bound}"));
            }
            Some(_) => return Err(invalid_type(expected, exclusive)),
        }
    }
    Ok(())
}

fn count(schema: &Object, key: &str) -> Result<Option<i64>, String> {
    match get(schema, key) {
        None => Ok(None),
        Some(value) => match value.as_i64() {
            Ok(count) if count < 0 => Err(format!("{key} must be greater than or equal to 0")),
            Ok(count) => Ok(Some(count)),
            Err(_) => Err(format!("{key} must be of an integer")),
        },
    }
}

/// RFC 6901 in a fragment.
fn pointer<'a>(start: &'a Value, fragment: &str) -> Result<&'a Value, String> {
    if fragment.is_empty() {
        return Ok(start);
    }
    let path = fragment.strip_prefix('/').ok_or_else(|| format!("Object has no key '{fragment}'"))?;
    let mut found = start;
    for token in path.split('/') {
        let key = unescaped(token).replace("~1", "/").replace("~0", "~");
        let next = match found {
            Value::Object(members) => get(members, &key),
            Value::Array(items) => key.parse::<usize>().ok().and_then(|index| items.get(index)),
            _ => None,
        };
        found = next.ok_or_else(|| format!("Object has no key '{key}'"))?;
    }
    Ok(found)
}

/// `%25` and the like; what is none stays.
fn unescaped(text: &str) -> String {
    let (mut bytes, mut rest) = (Vec::with_capacity(text.len()), text.as_bytes());
    while let [first, after @ ..] = rest {
        rest = after;
        let digits =
            after.get(..2).filter(|_| *first == b'%').and_then(|digits| std::str::from_utf8(digits).ok());
        match digits.and_then(|digits| u8::from_str_radix(digits, 16).ok()) {
            Some(byte) => {
                bytes.push(byte);
                rest = after.get(2..).unwrap_or_default();
            }
            None => bytes.push(*first),
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}
