//! A document held against a checked schema: gojsonschema's order, words and choice of what to report of alternatives.

use std::collections::BTreeMap;

use regorus::Value;
use regorus::value::Object;

use super::check::{Draft, Schemas, get};
use super::format::is_format;
use super::number::{is_multiple, shown};

/// Schemas held against values, and members looked at.
const MAX_STEPS: usize = 200_000;
/// Bytes of all descriptions: those of `const` and `enum` repeat the schema.
const MAX_BYTES: usize = 8 << 20;
/// Bytes of a text that are worth a step.
const BYTES_A_STEP: usize = 256;
/// Steps that compiling a pattern of the document counts for.
const STEPS_A_PATTERN: usize = 1000;
/// Schemas inside each other, through references too.
const MAX_DEPTH: usize = 512;

pub struct Failure {
    pub kind: &'static str,
    pub field: String,
    pub description: String,
}

/// Failures, and how near the value came: of alternatives the nearest is reported.
#[derive(Default)]
struct Found {
    failures: Vec<Failure>,
    score: i64,
}

impl Found {
    fn is_valid(&self) -> bool {
        self.failures.is_empty()
    }

    fn merge(&mut self, other: Self) {
        self.failures.extend(other.failures);
        self.score += other.score;
    }
}

type Validated<T> = Result<T, String>;

/// # Errors
/// It takes more steps or levels than it may.
pub fn validate(schemas: &Schemas, document: &Value) -> Validated<Vec<Failure>> {
    let mut run = Run { schemas, path: Vec::new(), steps: 0, bytes: 0, depth: 0 };
    Ok(run.on(&schemas.root, document)?.failures)
}

/// Items of an array, or of a set, which is one in JSON.
pub fn items(value: &Value) -> Option<Vec<&Value>> {
    match value {
        Value::Array(items) => Some(items.iter().collect()),
        Value::Set(items) => Some(items.iter_sorted().collect()),
        _ => None,
    }
}

fn compact(value: &Value) -> String {
    serde_json::to_string(value).unwrap_or_default()
}

struct Run<'s> {
    schemas: &'s Schemas,
    path: Vec<String>,
    steps: usize,
    bytes: usize,
    depth: usize,
}

impl Run<'_> {
    fn field(&self) -> String {
        if self.path.is_empty() { "(root)".to_owned() } else { self.path.join(".") }
    }

    fn fail(&mut self, found: &mut Found, kind: &'static str, description: impl Into<String>) {
        let failure = Failure { kind, field: self.field(), description: description.into() };
        self.bytes += failure.field.len() + failure.description.len();
        found.failures.push(failure);
        found.score -= 2;
    }

    fn step(&mut self) -> Validated<()> {
        self.steps += 1;
        if self.steps > MAX_STEPS || self.bytes > MAX_BYTES {
            return Err(format!("validation takes more than {MAX_STEPS} steps or {MAX_BYTES} bytes"));
        }
        Ok(())
    }

    /// A list of the schema; it is made anew for every value, so its length counts.
    fn list<'v>(&mut self, schema: &'v Object, key: &str) -> Option<Vec<&'v Value>> {
        let list = get(schema, key).and_then(items)?;
        self.steps += list.len();
        Some(list)
    }

    fn at(&mut self, key: impl Into<String>, schema: &Value, value: &Value) -> Validated<Found> {
        let key = key.into();
        self.steps += key.len() / BYTES_A_STEP;
        self.path.push(key);
        let found = self.on(schema, value)?;
        self.path.pop();
        Ok(found)
    }

    fn on(&mut self, schema: &Value, value: &Value) -> Validated<Found> {
        self.step()?;
        self.depth += 1;
        if self.depth > MAX_DEPTH {
            return Err(format!("schemas refer to each other over more than {MAX_DEPTH} levels"));
        }
        let mut found = Found::default();
        match schema {
            Value::Bool(false) => self.fail(&mut found, "false", "False always fails validation"),
            Value::Object(members) => match get(members, "$ref") {
                Some(Value::String(reference)) => {
                    let target = self.schemas.target(reference);
                    let target = target.ok_or_else(|| format!("reference {reference} is not checked"))?;
                    found = self.on(target, value)?;
                }
                _ => self.members(&mut found, members, value)?,
            },
            _ => {}
        }
        self.depth -= 1;
        Ok(found)
    }

    fn members(&mut self, found: &mut Found, schema: &Object, value: &Value) -> Validated<()> {
        if let Some((expected, given)) = wrong_type(schema, value) {
            let description = format!("Invalid type. Expected: {expected}, given: {given}");
            self.fail(found, "invalid_type", description);
            return Ok(());
        }
        self.combined(found, schema, value)?;
        match value {
            Value::Number(_) => {
                self.number(found, schema, value);
                self.common(found, schema, value);
            }
            Value::Object(members) => {
                self.object(found, schema, members)?;
                self.common(found, schema, value);
                if let Some(Value::Object(properties)) = get(schema, "properties") {
                    for (name, property) in properties.iter_sorted() {
                        if let (Some(member), Value::String(name)) = (members.get(name), name) {
                            let inner = self.at(&**name, property, member)?;
                            found.merge(inner);
                        }
                    }
                }
            }
            Value::String(text) => {
                self.common(found, schema, value);
                self.text(found, schema, text);
            }
            other => {
                if let Some(items) = items(other) {
                    self.array(found, schema, &items)?;
                }
                self.common(found, schema, value);
            }
        }
        found.score += 1;
        Ok(())
    }

    fn combined(&mut self, found: &mut Found, schema: &Object, value: &Value) -> Validated<()> {
        if let Some(list) = self.list(schema, "anyOf").filter(|list| !list.is_empty()) {
            let (matches, nearest) = self.alternatives(&list, value, true)?;
            if matches == 0 {
                self.fail(found, "number_any_of", "Must validate at least one schema (anyOf)");
                found.merge(nearest.unwrap_or_default());
            }
        }
        if let Some(list) = self.list(schema, "oneOf").filter(|list| !list.is_empty()) {
            let (matches, nearest) = self.alternatives(&list, value, false)?;
            if matches != 1 {
                self.fail(found, "number_one_of", "Must validate one and only one schema (oneOf)");
                if matches == 0 {
                    found.merge(nearest.unwrap_or_default());
                }
            }
        }
        if let Some(list) = self.list(schema, "allOf") {
            let mut is_valid = true;
            for schema in list {
                let inner = self.on(schema, value)?;
                is_valid &= inner.is_valid();
                found.merge(inner);
            }
            if !is_valid {
                self.fail(found, "number_all_of", "Must validate all the schemas (allOf)");
            }
        }
        if let Some(not) = get(schema, "not")
            && self.on(not, value)?.is_valid()
        {
            self.fail(found, "number_not", "Must not validate the schema (not)");
        }
        self.dependencies(found, schema, value)?;
        if let Some(condition) = get(schema, "if").filter(|_| self.schemas.draft >= Draft::Seven) {
            let holds = self.on(condition, value)?.is_valid();
            let (key, kind, description) = if holds {
                ("then", "condition_then", "Must validate \"then\" as \"if\" was valid")
            } else {
                ("else", "condition_else", "Must validate \"else\" as \"if\" was not valid")
            };
            if let Some(branch) = get(schema, key) {
                let inner = self.on(branch, value)?;
                if !inner.is_valid() {
                    self.fail(found, kind, description);
                    found.merge(inner);
                }
            }
        }
        found.score += 1;
        Ok(())
    }

    /// How many match, and what the nearest of the others found.
    fn alternatives(
        &mut self,
        list: &[&Value],
        value: &Value,
        is_first_enough: bool,
    ) -> Validated<(usize, Option<Found>)> {
        let (mut matches, mut nearest): (usize, Option<Found>) = (0, None);
        for schema in list {
            let inner = self.on(schema, value)?;
            if inner.is_valid() {
                matches += 1;
                if is_first_enough {
                    break;
                }
            } else if nearest.as_ref().is_none_or(|nearest| inner.score > nearest.score) {
                nearest = Some(inner);
            }
        }
        Ok((matches, nearest))
    }

    fn dependencies(&mut self, found: &mut Found, schema: &Object, value: &Value) -> Validated<()> {
        let (Some(Value::Object(dependencies)), Value::Object(members)) =
            (get(schema, "dependencies"), value)
        else {
            return Ok(());
        };
        for (name, dependency) in dependencies.iter_sorted() {
            if members.get(name).is_none() {
                continue;
            }
            let Some(names) = items(dependency) else {
                let inner = self.on(dependency, value)?;
                found.merge(inner);
                continue;
            };
            for needed in names {
                self.step()?;
                if members.get(needed).is_none() {
                    let needed = needed.as_string().map(ToString::to_string).unwrap_or_default();
                    self.fail(found, "missing_dependency", format!("Has a dependency on {needed}"));
                }
            }
        }
        Ok(())
    }

    fn common(&mut self, found: &mut Found, schema: &Object, value: &Value) {
        let field = self.field();
        if let Some(wanted) = get(schema, "const").filter(|_| self.schemas.draft >= Draft::Six)
            && wanted != value
        {
            self.fail(found, "const", format!("{field} does not match: {}", compact(wanted)));
        }
        if let Some(values) = self.list(schema, "enum")
            && !values.is_empty()
            && !values.contains(&value)
        {
            let allowed: Vec<String> = values.into_iter().map(compact).collect();
            let allowed = allowed.join(", ");
            self.fail(found, "enum", format!("{field} must be one of the following: {allowed}"));
        }
        if let (Some(Value::String(format)), Value::String(text)) = (get(schema, "format"), value) {
            self.steps += if **format == *"regex" { STEPS_A_PATTERN } else { 0 };
            if !is_format(format, text) {
                self.fail(found, "format", format!("Does not match format '{format}'"));
            }
        }
        found.score += 1;
    }

    fn number(&mut self, found: &mut Found, schema: &Object, value: &Value) {
        if let Some(of) = get(schema, "multipleOf")
            && !is_multiple(value, of)
        {
            self.fail(found, "multiple_of", format!("Must be a multiple of {}", shown(of)));
        }
        // In draft 4 a flag makes the bound itself exclusive.
        let bound = |key: &str, exclusive: &str| match (get(schema, key), get(schema, exclusive)) {
            (Some(bound), Some(Value::Bool(true))) => (None, Some(bound)),
            (bound, Some(exclusive @ Value::Number(_))) => (bound, Some(exclusive)),
            (bound, _) => (bound, None),
        };
        let (most, below) = bound("maximum", "exclusiveMaximum");
        if let Some(most) = most.filter(|most| value > most) {
            self.fail(found, "number_lte", format!("Must be less than or equal to {}", shown(most)));
        }
        if let Some(below) = below.filter(|below| value >= below) {
            self.fail(found, "number_lt", format!("Must be less than {}", shown(below)));
        }
        let (least, above) = bound("minimum", "exclusiveMinimum");
        if let Some(least) = least.filter(|least| value < least) {
            self.fail(found, "number_gte", format!("Must be greater than or equal to {}", shown(least)));
        }
        if let Some(above) = above.filter(|above| value <= above) {
            self.fail(found, "number_gt", format!("Must be greater than {}", shown(above)));
        }
        found.score += 1;
    }

    fn text(&mut self, found: &mut Found, schema: &Object, text: &str) {
        self.steps += text.len() / BYTES_A_STEP;
        let length = text.chars().count();
        if let Some(least) = count(schema, "minLength").filter(|least| length < *least) {
            let description = format!("String length must be greater than or equal to {least}");
            self.fail(found, "string_gte", description);
        }
        if let Some(most) = count(schema, "maxLength").filter(|most| length > *most) {
            let description = format!("String length must be less than or equal to {most}");
            self.fail(found, "string_lte", description);
        }
        if let Some(Value::String(pattern)) = get(schema, "pattern")
            && self.schemas.pattern(pattern).is_none_or(|compiled| !compiled.is_match(text))
        {
            self.fail(found, "pattern", format!("Does not match pattern '{pattern}'"));
        }
        found.score += 1;
    }

    fn array(&mut self, found: &mut Found, schema: &Object, values: &[&Value]) -> Validated<()> {
        match get(schema, "items") {
            None => {}
            Some(single @ (Value::Object(_) | Value::Bool(_))) => {
                for (index, value) in values.iter().enumerate() {
                    let inner = self.at(index.to_string(), single, value)?;
                    found.merge(inner);
                }
            }
            Some(_) => {
                let list = self.list(schema, "items").unwrap_or_default();
                let rest = get(schema, "additionalItems").filter(|_| !list.is_empty());
                let has_more = values.len() > list.len();
                for (index, value) in values.iter().enumerate() {
                    let schema =
                        list.get(index).copied().or(rest.filter(|rest| matches!(rest, Value::Object(_))));
                    let Some(schema) = schema else { break };
                    let inner = self.at(index.to_string(), schema, value)?;
                    found.merge(inner);
                }
                if has_more && rest == Some(&Value::Bool(false)) {
                    self.fail(found, "array_no_additional_items", "No additional items allowed on array");
                }
            }
        }
        if let Some(least) = count(schema, "minItems").filter(|least| values.len() < *least) {
            self.fail(found, "array_min_items", format!("Array must have at least {least} items"));
        }
        if let Some(most) = count(schema, "maxItems").filter(|most| values.len() > *most) {
            self.fail(found, "array_max_items", format!("Array must have at most {most} items"));
        }
        if get(schema, "uniqueItems") == Some(&Value::Bool(true)) {
            let mut seen: BTreeMap<&Value, usize> = BTreeMap::new();
            for (j, value) in values.iter().enumerate() {
                self.step()?;
                if let Some(i) = seen.insert(value, j) {
                    self.fail(found, "unique", format!("array items[{i},{j}] must be unique"));
                }
            }
        }
        self.contains(found, schema, values)?;
        found.score += 1;
        Ok(())
    }

    fn contains(&mut self, found: &mut Found, schema: &Object, values: &[&Value]) -> Validated<()> {
        let Some(contains) = get(schema, "contains").filter(|_| self.schemas.draft >= Draft::Six) else {
            return Ok(());
        };
        let mut nearest: Option<Found> = None;
        for (index, value) in values.iter().enumerate() {
            let inner = self.at(index.to_string(), contains, value)?;
            if inner.is_valid() {
                return Ok(());
            }
            if nearest.as_ref().is_none_or(|nearest| inner.score > nearest.score) {
                nearest = Some(inner);
            }
        }
        self.fail(found, "contains", "At least one of the items must match");
        found.merge(nearest.unwrap_or_default());
        Ok(())
    }

    fn object(&mut self, found: &mut Found, schema: &Object, members: &Object) -> Validated<()> {
        if let Some(least) = count(schema, "minProperties").filter(|least| members.len() < *least) {
            self.fail(found, "array_min_properties", format!("Must have at least {least} properties"));
        }
        if let Some(most) = count(schema, "maxProperties").filter(|most| members.len() > *most) {
            self.fail(found, "array_max_properties", format!("Must have at most {most} properties"));
        }
        for name in self.list(schema, "required").unwrap_or_default() {
            self.step()?;
            if members.get(name).is_some() {
                found.score += 1;
            } else {
                let name = name.as_string().map(ToString::to_string).unwrap_or_default();
                self.fail(found, "required", format!("{name} is required"));
            }
        }
        let member_of = |key: &str| match get(schema, key) {
            Some(Value::Object(members)) => Some(members),
            _ => None,
        };
        let (properties, patterns) = (member_of("properties"), member_of("patternProperties"));
        for (key, value) in members.iter_sorted() {
            self.step()?;
            let Value::String(name) = key else { continue };
            let mut is_known = properties.is_some_and(|properties| properties.get(key).is_some());
            for (pattern, inner) in patterns.iter().flat_map(|patterns| patterns.iter_sorted()) {
                self.step()?;
                let compiled = pattern.as_string().ok().and_then(|pattern| self.schemas.pattern(pattern));
                if compiled.is_some_and(|compiled| compiled.is_match(name)) {
                    is_known = true;
                    let inner = self.at(&**name, inner, value)?;
                    found.merge(inner);
                }
            }
            match get(schema, "additionalProperties").filter(|_| !is_known) {
                Some(Value::Bool(false)) => {
                    let description = format!("Additional property {name} is not allowed");
                    self.fail(found, "additional_property_not_allowed", description);
                }
                Some(additional @ Value::Object(_)) => {
                    let inner = self.at(&**name, additional, value)?;
                    found.merge(inner);
                }
                _ => {}
            }
        }
        if let Some(names) = get(schema, "propertyNames").filter(|_| self.schemas.draft >= Draft::Six) {
            for (key, _) in members.iter_sorted() {
                let inner = self.on(names, key)?;
                if !inner.is_valid() {
                    let name = key.as_string().map(ToString::to_string).unwrap_or_default();
                    let description = format!("Property name of \"{name}\" does not match");
                    self.fail(found, "invalid_property_name", description);
                    found.merge(inner);
                }
            }
        }
        found.score += 1;
        Ok(())
    }
}

fn count(schema: &Object, key: &str) -> Option<usize> {
    get(schema, key).and_then(|count| count.as_i64().ok()).and_then(|count| usize::try_from(count).ok())
}

/// What was expected and what is there, if that is not it.
fn wrong_type(schema: &Object, value: &Value) -> Option<(String, &'static str)> {
    let wanted = get(schema, "type")?;
    let names: Vec<String> = match wanted {
        Value::String(name) => vec![name.to_string()],
        other => {
            items(other)?.into_iter().filter_map(|name| Some(name.as_string().ok()?.to_string())).collect()
        }
    };
    let given = match value {
        Value::Null => "null",
        Value::Bool(_) => "boolean",
        Value::Number(number) if number.is_integer() => "integer",
        Value::Number(_) => "number",
        Value::String(_) => "string",
        Value::Array(_) | Value::Set(_) => "array",
        Value::Object(_) | Value::Undefined => "object",
    };
    let is_right = |name: &String| name == given || (name == "number" && given == "integer");
    (!names.is_empty() && !names.iter().any(is_right)).then(|| (names.join(","), given))
}
